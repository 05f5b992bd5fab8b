/* backup: fetches each shard's database from a node that has it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/backup.h"
#include "base/crc32c.h"
#include "base/json.h"
#include "base/mem.h"
#include "client/cli/commands.h"
#include "client/cli/members.h"
#include "client/cli/progress.h"

enum {
    ATTEMPTS = 6,      /* of each shard */
    COPY_MS = 3600000, /* how long a node may take to copy a shard */
    PIECE_MS = 60000   /* and to read a piece */
};

struct backing_up {
    struct cli *cli;
    const char *dir;
    struct backup_manifest manifest;
    struct progress progress;
    struct progress_state state;
    char failure[400]; /* of the newest attempt */
};

static void pause_ms(long ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* --- one shard from one node ------------------------------------------------------------------ */

struct fetching {
    struct backing_up *all;
    const char *address;
    unsigned shard;
    char ticket[24];
    int file;
    uint32_t crc;
};

static bool fails(struct fetching *fetching, const char *what, const char *why) {
    snprintf(fetching->all->failure, sizeof fetching->all->failure, "shard %u from %s: %s: %s",
             fetching->shard, fetching->address, what, why);
    return false;
}

static bool ask(struct fetching *fetching, const char *verb, const char *argument,
                const char *offset, ikv_reply **reply) {
    ikv_bytes words[] = {ikv_text("CLUSTER"), ikv_text("BACKUP"), ikv_text(verb),
                         ikv_text(argument), ikv_text(offset != NULL ? offset : "")};
    *reply = NULL;
    int error = ikv_node_command(fetching->all->cli->client, fetching->address,
                                 offset != NULL ? 5 : 4, words, 0, reply);
    if (error == IKV_OK) {
        return true;
    }
    const char *said = *reply != NULL ? ikv_reply_message(*reply) : "";
    (void)fails(fetching, verb, said[0] != '\0' ? said : ikv_strerror(error));
    ikv_reply_free(*reply);
    *reply = NULL;
    return false;
}

static bool begin(struct fetching *fetching) {
    char number[16];
    ikv_reply *reply;
    int64_t ticket = 0;
    snprintf(number, sizeof number, "%u", fetching->shard);
    if (!ask(fetching, "BEGIN", number, NULL, &reply)) {
        return false;
    }
    bool good = cli_number(ikv_reply_value(reply), &ticket);
    ikv_reply_free(reply);
    snprintf(fetching->ticket, sizeof fetching->ticket, "%" PRId64, ticket);
    return good || fails(fetching, "BEGIN", "it answered nonsense");
}

static void take_text(const ikv_value *map, const char *name, char *to, size_t size) {
    const ikv_value *value = cli_field(map, name);
    bool is_text = value != NULL && value->type == IKV_STRING && value->size < size;
    snprintf(to, size, "%.*s", is_text ? (int)value->size : 0, is_text ? value->data : "");
}

/* Waits until the node has made its copy. */
static bool wait_copied(struct fetching *fetching, struct backup_shard *shard, uint32_t *crc) {
    for (long waited_ms = 0; waited_ms < COPY_MS && !cli_interrupted; waited_ms += 50) {
        ikv_reply *reply;
        char state[16];
        if (!ask(fetching, "STATE", fetching->ticket, NULL, &reply)) {
            return false;
        }
        const ikv_value *map = ikv_reply_value(reply);
        take_text(map, "state", state, sizeof state);
        take_text(map, "digest", shard->digest, sizeof shard->digest);
        shard->size = cli_field_number(map, "size");
        shard->index = cli_field_number(map, "index");
        shard->term = cli_field_number(map, "term");
        shard->clock_ms = cli_field_number(map, "clock_ms");
        shard->keys = cli_field_number(map, "keys");
        shard->used_bytes = cli_field_number(map, "used_bytes");
        *crc = (uint32_t)cli_field_number(map, "crc32c");
        ikv_reply_free(reply);
        if (strcmp(state, "ready") == 0) {
            return shard->size > 0 || fails(fetching, "STATE", "an empty database");
        }
        pause_ms(50);
    }
    return fails(fetching, "STATE", "the node's copy takes too long");
}

static bool store(struct fetching *fetching, const ikv_value *piece) {
    size_t done = 0;
    while (done < piece->size) {
        ssize_t n = write(fetching->file, piece->data + done, piece->size - done);
        if (n < 0 && errno != EINTR) {
            return fails(fetching, "writing", strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    fetching->crc = crc32c(fetching->crc, piece->data, piece->size);
    return true;
}

/* nil: the piece is not there yet. */
static bool read_piece(struct fetching *fetching, uint64_t offset, uint64_t *size) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, offset);
    for (long waited_ms = 0; waited_ms < PIECE_MS && !cli_interrupted; waited_ms += 2) {
        ikv_reply *reply;
        if (!ask(fetching, "READ", fetching->ticket, text, &reply)) {
            return false;
        }
        const ikv_value *piece = ikv_reply_value(reply);
        bool here = piece->type == IKV_STRING && piece->size > 0;
        bool good = !here || store(fetching, piece);
        *size = here ? piece->size : 0;
        ikv_reply_free(reply);
        if (here || !good) {
            return good;
        }
        pause_ms(2);
    }
    return fails(fetching, "READ", cli_interrupted ? "interrupted" : "no answer");
}

static bool read_all(struct fetching *fetching, const struct backup_shard *shard, uint32_t crc) {
    struct backing_up *all = fetching->all;
    uint64_t before = all->state.bytes;
    uint64_t offset = 0;
    while (offset < shard->size) {
        uint64_t size;
        if (!read_piece(fetching, offset, &size)) {
            all->state.bytes = before;
            return false;
        }
        offset += size;
        all->state.bytes = before + offset;
        progress_tell(&all->progress, &all->state);
    }
    if (offset != shard->size || fetching->crc != crc) {
        all->state.bytes = before;
        return fails(fetching, "READ", "what came is not what was sent");
    }
    return true;
}

static bool fetch_from(struct backing_up *all, unsigned number, const char *address) {
    struct backup_shard *shard = &all->manifest.shards[number];
    struct fetching fetching = {.all = all, .address = address, .shard = number, .file = -1};
    char path[PATH_MAX];
    uint32_t crc = 0;
    ikv_reply *reply;
    backup_file_name(number, shard->file);
    snprintf(path, sizeof path, "%s/%s", all->dir, shard->file);
    if (!begin(&fetching)) {
        return false;
    }
    fetching.file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good = fetching.file >= 0 || fails(&fetching, "creating the file", strerror(errno));
    good = good && wait_copied(&fetching, shard, &crc) && read_all(&fetching, shard, crc);
    if (good && fsync(fetching.file) != 0) {
        good = fails(&fetching, "fsync", strerror(errno));
    }
    if (fetching.file >= 0) {
        close(fetching.file);
    }
    char kept[sizeof all->failure];
    memcpy(kept, all->failure, sizeof kept); /* what matters is what went wrong before this */
    if (ask(&fetching, "END", fetching.ticket, NULL, &reply)) {
        ikv_reply_free(reply);
    }
    memcpy(all->failure, kept, sizeof kept);
    return good;
}

/* Attempt by attempt another node: those that follow and are connected first, then the leader. */
static const char *choose(const struct members *members, unsigned shard, unsigned attempt) {
    const struct members_node *leader = members_leader(members, shard);
    const char *candidates[MEMBERS_NODES];
    unsigned n = 0;
    for (unsigned i = 0; i < members->n_nodes; i++) {
        const struct members_node *node = &members->nodes[i];
        enum membership state;
        bool votes = members_state(members, shard, node->id, &state) && state == MEMBERSHIP_VOTER;
        if (node != leader && node->map != NULL && votes) {
            candidates[n++] = node->address;
        }
    }
    if (leader != NULL) {
        candidates[n++] = leader->address;
    }
    return n > 0 ? candidates[(shard + attempt) % n] : NULL;
}

static int fetch_shard(struct backing_up *all, unsigned number) {
    for (unsigned attempt = 0; attempt < ATTEMPTS && !cli_interrupted; attempt++) {
        struct members members;
        int code = members_ask(all->cli, &members);
        const char *address = code == EXIT_OK ? choose(&members, number, attempt) : NULL;
        bool good = address != NULL && fetch_from(all, number, address);
        members_free(&members);
        if (good || code != EXIT_OK) {
            return code;
        }
        if (address == NULL) {
            snprintf(all->failure, sizeof all->failure, "shard %u has no leader", number);
        }
        cli_note(all->cli, "invoke-kv: %s; trying again", all->failure);
        pause_ms(500);
    }
    return cli_interrupted ? cli_fail(all->cli, EXIT_INTERRUPTED, "interrupted")
                           : cli_fail(all->cli, EXIT_UNREACHABLE, "%s", all->failure);
}

/* --- the whole -------------------------------------------------------------------------------- */

static int make_dir(struct cli *cli, const char *dir) {
    char path[PATH_MAX];
    struct stat there;
    snprintf(path, sizeof path, "%s/%s", dir, BACKUP_MANIFEST);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        return cli_fail(cli, EXIT_LOCAL, "cannot make %s: %s", dir, strerror(errno));
    }
    return stat(path, &there) != 0
               ? EXIT_OK
               : cli_fail(cli, EXIT_LOCAL, "%s holds a backup already: name another directory",
                          dir);
}

static int describe(struct backing_up *all) {
    struct members members;
    uint64_t id = 0;
    time_t now = time(NULL);
    struct tm parts;
    int code = members_ask(all->cli, &members);
    if (code == EXIT_OK && members.n_shards == 0) {
        code = cli_fail(all->cli, EXIT_UNREACHABLE, "no node tells of any shard");
    }
    for (unsigned i = 0; i < members.n_nodes && code == EXIT_OK; i++) {
        const ikv_value *map = members.nodes[i].map;
        if (map != NULL && cli_field_number(map, "started") != 0) {
            take_text(map, "cluster", all->manifest.cluster, sizeof all->manifest.cluster);
            take_text(map, "cluster_id", all->manifest.cluster_id, sizeof all->manifest.cluster_id);
        }
    }
    all->manifest.n_shards = members.n_shards;
    members_free(&members);
    if (getrandom(&id, sizeof id, 0) != (ssize_t)sizeof id) {
        return cli_fail(all->cli, EXIT_LOCAL, "cannot get random bytes from the system");
    }
    snprintf(all->manifest.id, sizeof all->manifest.id, "%016" PRIx64, id);
    snprintf(all->manifest.release, sizeof all->manifest.release, "%s", IKV_VERSION);
    if (gmtime_r(&now, &parts) != NULL) {
        strftime(all->manifest.created, sizeof all->manifest.created, "%Y-%m-%dT%H:%M:%SZ", &parts);
    }
    return code;
}

static int sync_dir(struct backing_up *all) {
    int file = open(all->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = file >= 0 && fsync(file) == 0;
    if (file >= 0) {
        close(file);
    }
    return good ? EXIT_OK
                : cli_fail(all->cli, EXIT_LOCAL, "cannot sync %s: %s", all->dir, strerror(errno));
}

/* Last, so that a directory with a manifest is a whole backup. */
static int write_manifest(struct backing_up *all) {
    char unfinished[PATH_MAX];
    char path[PATH_MAX];
    struct buffer text = {0};
    snprintf(path, sizeof path, "%s/%s", all->dir, BACKUP_MANIFEST);
    snprintf(unfinished, sizeof unfinished, "%s/%s.tmp", all->dir, BACKUP_MANIFEST);
    backup_write_manifest(&all->manifest, &text);
    int file = open(unfinished, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good =
        file >= 0 && write(file, text.data, text.size) == (ssize_t)text.size && fsync(file) == 0;
    if (file >= 0) {
        close(file);
    }
    good = good && rename(unfinished, path) == 0;
    buffer_free(&text);
    return good ? sync_dir(all)
                : cli_fail(all->cli, EXIT_LOCAL, "cannot write %s: %s", path, strerror(errno));
}

/* Reads the files back. */
static int hash_shards(struct backing_up *all) {
    for (unsigned i = 0; i < all->manifest.n_shards; i++) {
        struct backup_shard *shard = &all->manifest.shards[i];
        char path[PATH_MAX];
        uint64_t size;
        struct error error;
        snprintf(path, sizeof path, "%s/%s", all->dir, shard->file);
        if (backup_hash_file(path, shard->sha256, &size, &error) != ERROR_NONE) {
            return cli_fail(all->cli, EXIT_LOCAL, "%s", error.message);
        }
        if (size != shard->size) {
            return cli_fail(all->cli, EXIT_LOCAL, "%s does not hold what was written", path);
        }
    }
    return EXIT_OK;
}

static int back_up(struct backing_up *all) {
    int code = make_dir(all->cli, all->dir);
    code = code == EXIT_OK ? describe(all) : code;
    all->state.total = all->manifest.n_shards;
    for (unsigned i = 0; i < all->manifest.n_shards && code == EXIT_OK; i++) {
        code = fetch_shard(all, i);
        all->state.done = i + 1;
        all->state.count = i + 1;
        progress_tell(&all->progress, &all->state);
    }
    code = code == EXIT_OK ? hash_shards(all) : code;
    code = code == EXIT_OK ? sync_dir(all) : code;
    return code == EXIT_OK ? write_manifest(all) : code;
}

static void report(struct cli *cli, const struct backup_manifest *manifest, const char *what) {
    uint64_t keys = 0;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < manifest->n_shards; i++) {
        keys += manifest->shards[i].keys;
        bytes += manifest->shards[i].size;
    }
    if (cli->json) {
        cli_json_open(cli);
        cli_json_text(&cli->out, "backup", what);
        cli_json_text(&cli->out, "cluster", manifest->cluster);
        cli_json_text(&cli->out, "created", manifest->created);
        cli_json_unsigned(&cli->out, "shards", manifest->n_shards);
        cli_json_unsigned(&cli->out, "keys", keys);
        cli_json_unsigned(&cli->out, "bytes", bytes);
        cli_json_close(cli);
    } else {
        cli_print(cli, "%s: cluster %s at %s, %u shards, %" PRIu64 " keys, %" PRIu64 " bytes\n",
                  what, manifest->cluster, manifest->created, manifest->n_shards, keys, bytes);
    }
}

static int verify(struct cli *cli, const char *dir) {
    struct backup_manifest *manifest = mem_zalloc(1, sizeof *manifest);
    struct error error = {0};
    enum error_code code = backup_read_manifest(dir, manifest, &error);
    for (unsigned i = 0; i < manifest->n_shards && code == ERROR_NONE; i++) {
        code = backup_check_file(dir, &manifest->shards[i], &error);
    }
    if (code == ERROR_NONE) {
        report(cli, manifest, "good");
    }
    mem_free(manifest);
    return code == ERROR_NONE ? EXIT_OK : cli_fail(cli, EXIT_LOCAL, "%s", error.message);
}

int run_backup(struct cli *cli, const struct arguments *arguments) {
    const char *dir = arguments->words[0];
    if (argument_option(arguments, "verify") != NULL) {
        return verify(cli, dir);
    }
    struct backing_up *all = mem_zalloc(1, sizeof *all);
    all->cli = cli;
    all->dir = dir;
    int code = progress_start(&all->progress, cli, argument_option(arguments, "progress"),
                              "backed up", "shards");
    if (code == EXIT_OK) {
        cli_catch_signals();
        code = back_up(all);
        progress_end(&all->progress, &all->state, code != EXIT_OK);
    }
    if (code == EXIT_OK) {
        report(cli, &all->manifest, "complete");
    }
    mem_free(all);
    return code;
}
