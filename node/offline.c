#include "node/offline.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#include "base/assert.h"
#include "base/backup.h"
#include "base/mem.h"
#include "base/prng.h"
#include "node/machine/files.h"
#include "node/machine/machine.h"
#include "node/server_internal.h"
#include "raft/log_recover.h"
#include "raft/rescue.h"

enum { PATH_SIZE = CONFIG_PATH_SIZE + 64, DONE = 0, NOT_DONE = 1, DAMAGED = 2, CACHE = 16 << 20 };

static int refuse(const struct error *error) {
    fprintf(stderr, "invoke-kvd: %s\n", error->message);
    return NOT_DONE;
}

static void path_of(char path[PATH_SIZE], const char *dir, const char *name) {
    snprintf(path, PATH_SIZE, "%s/%s", dir, name);
}

static void shard_path(char path[PATH_SIZE], const char *dir, unsigned shard) {
    snprintf(path, PATH_SIZE, "%s/shard-%u.db", dir, shard);
}

/* --- the log, without a node ------------------------------------------------------------------ */

struct log_tool {
    uv_loop_t loop;
    struct log *log;
    struct log_request request;
    bool durable;
    bool closed;
};

static void is_durable(struct log_request *request) {
    ((struct log_tool *)request->data)->durable = true;
}

static void is_closed(void *data) {
    ((struct log_tool *)data)->closed = true;
}

static enum error_code tool_open(struct log_tool *tool, const struct config *config,
                                 const struct identity *identity, struct error *error) {
    char dir[PATH_SIZE];
    path_of(dir, config->data_dir, "log");
    memset(tool, 0, sizeof *tool);
    uv_loop_init(&tool->loop);
    tool->request.done = is_durable;
    tool->request.data = tool;
    struct log_options options = {.dir = dir,
                                  .n_groups = config->shards,
                                  .segment_size = config->segment_size,
                                  .cache_size = config->log_cache,
                                  .identity = identity->incarnation,
                                  .must_exist = identity->boot > 0};
    return log_open(&tool->log, &tool->loop, &options, error);
}

/* Waits until what was asked for is on disk, and closes the log. */
static void tool_finish(struct log_tool *tool) {
    log_kick(tool->log);
    while (!tool->durable) {
        uv_run(&tool->loop, UV_RUN_ONCE);
        log_kick(tool->log);
    }
    log_close(tool->log, is_closed, tool);
    while (!tool->closed) {
        uv_run(&tool->loop, UV_RUN_ONCE);
    }
    (void)uv_run(&tool->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&tool->loop);
}

/* --- restore ---------------------------------------------------------------------------------- */

static enum error_code check_shard(const char *backup_dir, const struct backup_manifest *manifest,
                                   unsigned shard, struct error *error) {
    const struct backup_shard *described = &manifest->shards[shard];
    char path[PATH_SIZE];
    char digest[17];
    struct machine_state state;
    path_of(path, backup_dir, described->file);
    struct machine_options options = {
        .path = path, .cluster = manifest->cluster, .shard = shard, .cache_bytes = CACHE};
    enum error_code code = backup_check_file(backup_dir, described, error);
    code = code == ERROR_NONE ? machine_verify(&options, true, &state, error) : code;
    if (code != ERROR_NONE) {
        return code;
    }
    snprintf(digest, sizeof digest, "%016" PRIx64, state.digest);
    bool fits = state.applied_index == described->index && state.applied_term == described->term &&
                strcmp(digest, described->digest) == 0;
    return fits ? ERROR_NONE
                : error_set(error, ERROR_CORRUPT, "%s is not what the manifest describes", path);
}

static enum error_code check_backup(const char *backup_dir, const struct config *config,
                                    struct backup_manifest *manifest, struct error *error) {
    enum error_code code = backup_read_manifest(backup_dir, manifest, error);
    if (code == ERROR_NONE && manifest->n_shards != config->shards) {
        code = error_set(error, ERROR_MISMATCH,
                         "the backup has %u shards, the configuration %u: the number cannot change",
                         manifest->n_shards, config->shards);
    }
    for (unsigned i = 0; i < manifest->n_shards && code == ERROR_NONE; i++) {
        code = check_shard(backup_dir, manifest, i, error);
    }
    return code;
}

static enum error_code copy_file(const char *from, const char *to, struct error *error) {
    enum { PIECE = 1 << 20 };
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint8_t *piece = mem_alloc(PIECE);
    ssize_t n = in < 0 || out < 0 ? -1 : 1;
    while (n > 0 && (n = read(in, piece, PIECE)) > 0) {
        n = write(out, piece, (size_t)n) == n ? n : -1;
    }
    enum error_code code =
        n < 0 ? error_set_errno(error, errno, "cannot copy %s to %s", from, to) : ERROR_NONE;
    mem_free(piece);
    if (in >= 0) {
        close(in);
    }
    if (out >= 0) {
        close(out);
    }
    return code;
}

/* Each shard begins with the configuration of the new cluster, as of its last entry. */
static enum error_code place_shard(const char *backup_dir, const struct config *config,
                                   const struct backup_shard *described, unsigned shard,
                                   struct slice members, struct error *error) {
    char from[PATH_SIZE];
    char unfinished[PATH_SIZE];
    char path[PATH_SIZE];
    path_of(from, backup_dir, described->file);
    shard_path(path, config->data_dir, shard);
    int length = snprintf(unfinished, sizeof unfinished, "%s.restored", path);
    ASSERT(length > 0 && (size_t)length < sizeof unfinished);
    struct machine_options options = {
        .path = unfinished, .cluster = config->cluster, .shard = shard, .cache_bytes = CACHE};
    enum error_code code = copy_file(from, unfinished, error);
    code = code == ERROR_NONE ? machine_adopt(&options, members, error) : code;
    code = code == ERROR_NONE ? files_rename(unfinished, path, error) : code;
    return code == ERROR_NONE ? files_sync_directory_of(path, error) : code;
}

/* The same on all nodes of the new cluster, and another one than before. */
static uint64_t restored_id(const struct backup_manifest *manifest, struct slice members) {
    struct prng prng;
    uint64_t id = 1;
    for (const char *at = manifest->id; *at != '\0'; at++) {
        prng_seed(&prng, id ^ (uint8_t)*at);
        id = prng_next(&prng);
    }
    for (size_t i = 0; i < members.size; i++) {
        prng_seed(&prng, id ^ members.data[i]);
        id = prng_next(&prng);
    }
    return id != 0 ? id : 1;
}

static enum error_code begin_logs(const struct config *config,
                                  const struct backup_manifest *manifest, struct identity *identity,
                                  struct error *error) {
    struct log_tool tool;
    enum error_code code = tool_open(&tool, config, identity, error);
    if (code != ERROR_NONE) {
        return code;
    }
    for (unsigned i = 0; i < manifest->n_shards; i++) {
        rescue_reconcile(tool.log, i, manifest->shards[i].index, manifest->shards[i].term);
    }
    struct log_group_state state = log_state(tool.log, 0);
    log_set_vote(tool.log, 0, state.term, state.voted_for, &tool.request);
    tool_finish(&tool);
    return ERROR_NONE;
}

/* Takes the directory, which must not be anybody's yet. */
static enum error_code take_empty(const struct config *config, struct identity *identity, int *lock,
                                  struct error *error) {
    struct error none = {0};
    enum error_code code = config_check_data_dir(config, error);
    code = code == ERROR_NONE ? identity_lock(config->data_dir, lock, error) : code;
    if (code != ERROR_NONE) {
        return code;
    }
    if (identity_read(config->data_dir, identity, &none) == ERROR_NONE) {
        return error_set(error, ERROR_INVALID,
                         "%s belongs to node %" PRIu64 " of cluster %s: a backup is restored into "
                         "an empty directory; move this one away",
                         config->data_dir, identity->node_id, identity->cluster);
    }
    return identity_open(config->data_dir, config->cluster, config->node_id, config->shards,
                         identity, error);
}

static enum error_code restore(const char *backup_dir, const struct config *config,
                               const struct backup_manifest *manifest, struct slice members,
                               struct error *error) {
    struct identity identity;
    int lock = -1;
    enum error_code code = take_empty(config, &identity, &lock, error);
    for (unsigned i = 0; i < manifest->n_shards && code == ERROR_NONE; i++) {
        code = place_shard(backup_dir, config, &manifest->shards[i], i, members, error);
        if (code == ERROR_NONE) {
            printf("shard %u: %" PRIu64 " keys as of entry %" PRIu64 "\n", i,
                   manifest->shards[i].keys, manifest->shards[i].index);
        }
    }
    code = code == ERROR_NONE ? begin_logs(config, manifest, &identity, error) : code;
    code = code == ERROR_NONE
               ? identity_join(config->data_dir, &identity, restored_id(manifest, members),
                               IDENTITY_MEMBER, error)
               : code;
    code = code == ERROR_NONE ? identity_boot(config->data_dir, &identity, error) : code;
    if (lock >= 0) {
        close(lock);
    }
    return code;
}

int offline_restore(const char *backup_dir, const struct config *config) {
    struct backup_manifest *manifest = mem_zalloc(1, sizeof *manifest);
    struct error error = {0};
    enum error_code code = check_backup(backup_dir, config, manifest, &error);
    if (code == ERROR_NONE) {
        struct payload *members = server_initial_config(config);
        code = restore(backup_dir, config, manifest, payload_slice(members), &error);
        payload_unref(members);
    }
    if (code == ERROR_NONE) {
        printf("restored node %u of cluster %s from the backup of %s: restore the other %u nodes "
               "from the same backup, then start all\n",
               config->node_id, config->cluster, manifest->created, config->n_nodes - 1);
    }
    mem_free(manifest);
    return code == ERROR_NONE ? DONE : refuse(&error);
}

/* --- recover ---------------------------------------------------------------------------------- */

static enum error_code recover_shard(struct log_tool *tool, const struct config *config,
                                     unsigned shard, struct payload *alone,
                                     struct log_request *request, struct error *error) {
    char path[PATH_SIZE];
    struct machine *machine = NULL;
    shard_path(path, config->data_dir, shard);
    struct machine_options options = {
        .path = path, .cluster = config->cluster, .shard = shard, .cache_bytes = CACHE};
    enum error_code code = machine_open(&machine, &options, error);
    if (code != ERROR_NONE) {
        return code;
    }
    uint64_t durable_index;
    struct machine_state state = machine_state(machine);
    code = machine_checkpoint(machine, &durable_index, error); /* the log may be reset behind it */
    machine_close(machine);
    if (code != ERROR_NONE) {
        return code;
    }
    rescue_reconcile(tool->log, shard, state.applied_index, state.applied_term);
    struct log_group_state log = log_state(tool->log, shard);
    if (log.last == 0 || log.first > state.applied_index + 1) {
        return error_set(error, ERROR_CORRUPT,
                         "shard %u is not whole on this node (state at entry %" PRIu64
                         ", log from %" PRIu64 " to %" PRIu64 "): recover from another one",
                         shard, state.applied_index, log.first, log.last);
    }
    rescue_take_over(tool->log, shard, config->node_id, alone, request);
    printf("shard %u: up to entry %" PRIu64 " of term %" PRIu64 "\n", shard, log.last, log.term);
    return ERROR_NONE;
}

static enum error_code recover_log(const struct config *config, const struct identity *identity,
                                   struct error *error) {
    struct log_tool tool;
    char address[CONFIG_HOST_SIZE + 8];
    enum error_code code = tool_open(&tool, config, identity, error);
    if (code != ERROR_NONE) {
        return code;
    }
    const struct config_node *self = config_find_node(config, config->node_id);
    config_format_address(&self->peer, address, sizeof address);
    struct group_server server = {.id = config->node_id, .address = address, .voter = true};
    struct payload *alone = group_encode_config(&server, 1);
    for (unsigned i = 0; i < config->shards && code == ERROR_NONE; i++) {
        bool last = i + 1 == config->shards;
        code = recover_shard(&tool, config, i, alone, last ? &tool.request : NULL, error);
    }
    payload_unref(alone);
    if (code == ERROR_NONE) {
        tool_finish(&tool);
    }
    return code; /* on failure nothing was handed to the disk, and the process ends */
}

static enum error_code recover(const struct config *config, struct error *error) {
    struct identity identity;
    struct known_peers peers = {.dir = NULL};
    uint64_t cluster_id = 0;
    int lock = -1;
    enum error_code code = identity_read(config->data_dir, &identity, error);
    code = code == ERROR_NONE ? identity_lock(config->data_dir, &lock, error) : code;
    code = code == ERROR_NONE ? identity_open(config->data_dir, config->cluster, config->node_id,
                                              config->shards, &identity, error)
                              : code;
    code = code == ERROR_NONE ? known_peers_load(config->data_dir, &identity, &peers, error) : code;
    code = code == ERROR_NONE ? recover_log(config, &identity, error) : code;
    if (code == ERROR_NONE && getrandom(&cluster_id, sizeof cluster_id, 0) != sizeof cluster_id) {
        code = error_set_errno(error, errno, "cannot get random bytes");
    }
    code = code == ERROR_NONE
               ? identity_join(config->data_dir, &identity, cluster_id | 1, IDENTITY_MEMBER, error)
               : code;
    code = code == ERROR_NONE ? known_peers_forget_all(&peers, error) : code;
    known_peers_free(&peers);
    if (lock >= 0) {
        close(lock);
    }
    return code;
}

int offline_recover(const struct config *config) {
    struct error error = {0};
    if (recover(config, &error) != ERROR_NONE) {
        return refuse(&error);
    }
    printf("node %u is a cluster of its own now: start it, then add other nodes with empty data "
           "directories (invoke-kv cluster add)\n",
           config->node_id);
    return DONE;
}

/* --- verify ----------------------------------------------------------------------------------- */

/* A disk that can be read: what is written to it is forgotten. */
static int dry_open(void *context, const char *path, enum storage_mode mode) {
    (void)context;
    int file = open(mode == STORAGE_OPEN ? path : "/dev/null",
                    (mode == STORAGE_OPEN ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
    return file >= 0 ? file : -errno;
}

static ssize_t dry_write(void *context, int file, const struct iovec *pieces, int n,
                         uint64_t offset) {
    ssize_t size = 0;
    (void)context;
    (void)file;
    (void)offset;
    for (int i = 0; i < n; i++) {
        size += (ssize_t)pieces[i].iov_len;
    }
    return size;
}

static int dry_file(void *context, int file) {
    (void)context;
    (void)file;
    return 0;
}

static int dry_allocate(void *context, int file, uint64_t size) {
    (void)context;
    (void)file;
    (void)size;
    return 0;
}

static int dry_rename(void *context, const char *from, const char *to) {
    (void)context;
    (void)from;
    (void)to;
    return 0;
}

static int dry_path(void *context, const char *path) {
    (void)context;
    (void)path;
    return 0;
}

static bool verify_log(const char *dir, const struct identity *identity, struct log_index *index) {
    char path[PATH_SIZE];
    struct storage dry = *storage_posix();
    struct log_recovery recovery;
    struct error error = {0};
    path_of(path, dir, "log");
    dry.open = dry_open;
    dry.pwritev = dry_write;
    dry.sync = dry_file;
    dry.allocate = dry_allocate;
    dry.rename = dry_rename;
    dry.unlink = dry_path;
    dry.make_dir = dry_path;
    dry.sync_dir = dry_path;
    struct log_files files = {.storage = &dry,
                              .dir = path,
                              .identity = identity->incarnation,
                              .segment_size = LIMIT_SEGMENT_SIZE_DEFAULT,
                              .n_groups = identity->n_shards};
    if (log_recover(&files, identity->boot > 0, index, &recovery, &error) != ERROR_NONE) {
        printf("log: DAMAGED: %s\n", error.message);
        return false;
    }
    printf("log: %u segments: sound\n", recovery.n_segments);
    log_recovery_free(&recovery, &dry);
    return true;
}

/* Terms must not fall, and none is larger than the current one. */
static bool verify_terms(const struct log_index *index, unsigned shard,
                         const struct log_group_state *state) {
    uint64_t before = 0;
    for (uint64_t i = state->first; i <= state->last; i++) {
        const struct log_index_entry *entry = log_index_get(index, shard, i);
        if (entry == NULL || entry->term < before || entry->term > state->term) {
            printf("shard %u: DAMAGED: entry %" PRIu64 " of the log is missing, or its term is out "
                   "of order\n",
                   shard, i);
            return false;
        }
        before = entry->term;
    }
    return true;
}

static bool verify_shard(const char *dir, const struct identity *identity, unsigned shard,
                         const struct log_index *index) {
    char path[PATH_SIZE];
    struct machine *machine = NULL;
    struct error error = {0};
    struct machine_state state = {0};
    shard_path(path, dir, shard);
    struct machine_options options = {
        .path = path, .cluster = identity->cluster, .shard = shard, .cache_bytes = CACHE};
    if (!files_exists(path, "")) {
        error_set(&error, ERROR_CORRUPT, "%s is missing", path);
    } else if (machine_open(&machine, &options, &error) == ERROR_NONE &&
               machine_check(machine, &error) == ERROR_NONE) {
        state = machine_state(machine);
    }
    machine_close(machine);
    if (error.code != ERROR_NONE) {
        printf("shard %u: DAMAGED: %s\n", shard, error.message);
        return false;
    }
    struct log_group_state log = log_index_state(index, shard);
    if (log.first > state.applied_index + 1) {
        printf("shard %u: DAMAGED: the database ends at entry %" PRIu64
               ", the log starts at %" PRIu64 "\n",
               shard, state.applied_index, log.first);
        return false;
    }
    printf("shard %u: term %" PRIu64 ", log up to entry %" PRIu64 ", state at %" PRIu64 ", %" PRIu64
           " keys, %" PRIu64 " bytes, digest %016" PRIx64 ": sound\n",
           shard, log.term, log.last, state.applied_index, state.keys, state.used_bytes,
           state.digest);
    return verify_terms(index, shard, &log);
}

static int verify_taken(const char *dir, const struct identity *identity) {
    struct log_index *index = log_index_new(identity->n_shards, 0);
    bool sound = verify_log(dir, identity, index);
    for (unsigned i = 0; i < identity->n_shards && sound; i++) {
        sound = verify_shard(dir, identity, i, index) && sound;
    }
    log_index_free(index);
    puts(sound ? "everything is sound"
               : "this node must not serve: rebuild it from its peers (invoke-kv cluster replace)");
    return sound ? DONE : DAMAGED;
}

int offline_verify(const char *dir) {
    struct identity identity;
    struct error error = {0};
    int lock = -1;
    enum error_code code = identity_read(dir, &identity, &error);
    if (code == ERROR_CORRUPT) {
        printf("identity: DAMAGED: %s\n", error.message);
        return DAMAGED;
    }
    code = code == ERROR_NONE ? identity_lock(dir, &lock, &error) : code;
    if (code != ERROR_NONE) {
        return refuse(&error);
    }
    printf(
        "identity: cluster %s (%016" PRIx64 "), node %" PRIu64 ", %u shards, %" PRIu64 " starts\n",
        identity.cluster, identity.cluster_id, identity.node_id, identity.n_shards, identity.boot);
    int status = verify_taken(dir, &identity);
    close(lock);
    return status;
}
