#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "chaos/fs/faults.h"

enum { LINE_SIZE = 256 };

struct control {
    struct disk *disk;
    int listener;
    void (*end)(void);
};

static const struct faults healthy = {.capacity = UINT64_C(16) << 30};

static void answer_unplug(struct disk *disk, uint64_t seed, int survive, char *answer) {
    struct prng prng;
    struct crash_count count = {0};
    prng_seed(&prng, seed);
    tree_crash(&disk->tree, &prng, survive, &count);
    (void)snprintf(answer, LINE_SIZE,
                   "ok unsynced_sectors=%" PRIu64 " lost_sectors=%" PRIu64
                   " unsynced_names=%" PRIu64 " lost_names=%" PRIu64,
                   count.unsynced, count.lost, count.names, count.names_lost);
}

static void answer_status(const struct disk *disk, char *answer) {
    (void)snprintf(answer, LINE_SIZE,
                   "ok used=%" PRIu64 " capacity=%" PRIu64 " writes=%" PRIu64 " syncs=%" PRIu64,
                   tree_used_bytes(&disk->tree), disk->faults.capacity, disk->n_writes,
                   disk->n_syncs);
}

/* Numbers beside the command word. */
static bool carry_out_numbers(struct disk *disk, const char *line, char *answer) {
    struct faults *faults = &disk->faults;
    uint64_t first;
    unsigned write_ms;
    unsigned sync_ms;
    int survive;
    if (sscanf(line, "unplug %" SCNu64 " %d", &first, &survive) == 2 && survive >= CRASH_DRAWN &&
        survive <= CRASH_SURVIVE_ALL) {
        answer_unplug(disk, first, survive, answer);
    } else if (sscanf(line, "slow %u %u", &write_ms, &sync_ms) == 2) {
        faults->write_delay_ms = write_ms;
        faults->sync_delay_ms = sync_ms;
    } else if (sscanf(line, "full %" SCNu64, &first) == 1) {
        faults->capacity = tree_used_bytes(&disk->tree) + first;
    } else {
        return false;
    }
    return true;
}

static void carry_out(struct disk *disk, const char *line, char *answer) {
    struct faults *faults = &disk->faults;
    (void)snprintf(answer, LINE_SIZE, "ok");
    if (carry_out_numbers(disk, line, answer)) {
        return;
    }
    if (strcmp(line, "readonly") == 0) {
        faults->read_only = true;
    } else if (strcmp(line, "failsync") == 0) {
        faults->sync_fails = true;
    } else if (strcmp(line, "heal") == 0) {
        *faults = healthy;
    } else if (strcmp(line, "status") == 0) {
        answer_status(disk, answer);
    } else {
        (void)snprintf(answer, LINE_SIZE,
                       "error unknown command: unplug SEED SURVIVE | slow WRITE_MS SYNC_MS | "
                       "full LEFT_BYTES | readonly | failsync | heal | status | end");
    }
}

/* One line, one answer. */
static bool serve(struct control *control, int connection) {
    char line[LINE_SIZE];
    char answer[LINE_SIZE + 1];
    ssize_t size = recv(connection, line, sizeof line - 1, 0);
    if (size <= 0) {
        return true;
    }
    line[size] = '\0';
    line[strcspn(line, "\r\n")] = '\0';
    bool ends = strcmp(line, "end") == 0;
    if (ends) {
        (void)snprintf(answer, sizeof answer, "ok");
    } else {
        pthread_mutex_lock(&control->disk->lock);
        carry_out(control->disk, line, answer);
        pthread_mutex_unlock(&control->disk->lock);
    }
    size_t length = strlen(answer);
    answer[length] = '\n'; /* instead of the 0 */
    (void)send(connection, answer, length + 1, MSG_NOSIGNAL);
    return !ends;
}

static void *control_main(void *data) {
    struct control *control = data;
    bool goes_on = true;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL); /* signals are the first thread's business */
    while (goes_on) {
        int connection = accept(control->listener, NULL, NULL);
        if (connection < 0) {
            continue;
        }
        goes_on = serve(control, connection);
        close(connection);
    }
    control->end();
    return NULL;
}

static int listen_at(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "chaos-fs: socket path '%s' is longer than %zu bytes: use a shorter one\n",
                path, sizeof address.sun_path - 1);
        return -1;
    }
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 8) != 0) {
        perror("chaos-fs: control socket");
        if (listener >= 0) {
            close(listener);
        }
        return -1;
    }
    return listener;
}

struct control *control_start(struct disk *disk, const char *socket_path, void (*end)(void)) {
    pthread_t thread;
    int listener = listen_at(socket_path);
    if (listener < 0) {
        return NULL;
    }
    struct control *control = mem_zalloc(1, sizeof *control);
    *control = (struct control){.disk = disk, .listener = listener, .end = end};
    disk->faults = healthy;
    if (pthread_create(&thread, NULL, control_main, control) != 0) {
        fprintf(stderr, "chaos-fs: cannot start a thread\n");
        close(listener);
        mem_free(control);
        return NULL;
    }
    pthread_detach(thread);
    return control;
}
