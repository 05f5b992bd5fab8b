#include "raft/identity.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "raft/storage.h"

static_assert(LIMIT_SHARDS <= 64, "identity.arrived has a bit per shard");

enum { VERSION = 1, MAGIC_SIZE = 8, FILE_SIZE_MAX = 64 * 1024, PEERS_MAX = LIMIT_NODES * 4 };

static const char identity_magic[] = "IKVIDENT";
static const char boot_magic[] = "IKVBOOT\n";
static const char peers_magic[] = "IKVPEERS";

static enum error_code path_of(char *out, const char *dir, const char *name, struct error *error) {
    int size = snprintf(out, PATH_MAX, "%s/%s", dir, name);
    if (size < 0 || size >= PATH_MAX) {
        return error_set(error, ERROR_INVALID, "path too long: %s/%s", dir, name);
    }
    return ERROR_NONE;
}

static void file_start(struct buffer *out, const char *magic) {
    buffer_append(out, magic, MAGIC_SIZE);
    buffer_put_u32(out, VERSION);
}

/* Closes `bytes` with its checksum and puts it into the place of `name` as a whole, durably. */
static enum error_code file_replace(const char *dir, const char *name, struct buffer *bytes,
                                    struct error *error) {
    const struct storage *storage = storage_posix();
    char path[PATH_MAX];
    char unfinished[PATH_MAX];
    char unfinished_name[32];
    snprintf(unfinished_name, sizeof unfinished_name, "%s.tmp", name);
    enum error_code code = path_of(path, dir, name, error);
    if (code == ERROR_NONE) {
        code = path_of(unfinished, dir, unfinished_name, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    buffer_put_u32(bytes, crc32c(0, bytes->data, bytes->size));
    int file = storage->open(storage->context, unfinished, STORAGE_CREATE);
    if (file < 0) {
        return error_set_errno(error, -file, "cannot create %s", unfinished);
    }
    int result = storage_write(storage, file, bytes->data, bytes->size, 0);
    if (result == 0) {
        result = storage->sync(storage->context, file);
    }
    storage->close(storage->context, file);
    if (result == 0) {
        result = storage->rename(storage->context, unfinished, path);
    }
    if (result == 0) {
        result = storage->sync_dir(storage->context, dir);
    } else {
        storage->unlink(storage->context, unfinished);
    }
    return result == 0 ? ERROR_NONE : error_set_errno(error, -result, "cannot write %s", path);
}

/* Reads a file of ours and checks magic, checksum and version; `body` is what lies between the
 * version and the checksum, within `bytes`. *found is false when there is no such file. */
static enum error_code file_load(const char *dir, const char *name, const char *magic,
                                 struct buffer *bytes, struct reader *body, bool *found,
                                 struct error *error) {
    const struct storage *storage = storage_posix();
    char path[PATH_MAX];
    *found = false;
    enum error_code code = path_of(path, dir, name, error);
    if (code != ERROR_NONE) {
        return code;
    }
    int file = storage->open(storage->context, path, STORAGE_OPEN);
    if (file == -ENOENT) {
        return ERROR_NONE;
    }
    if (file < 0) {
        return error_set_errno(error, -file, "cannot open %s", path);
    }
    buffer_reserve(bytes, FILE_SIZE_MAX);
    ssize_t size = storage_read(storage, file, bytes->data, FILE_SIZE_MAX, 0);
    storage->close(storage->context, file);
    if (size < 0) {
        return error_set_errno(error, (int)-size, "cannot read %s", path);
    }
    bytes->size = (size_t)size;
    *found = true;
    struct slice all = buffer_slice(bytes);
    if (all.size < MAGIC_SIZE + 8 || memcmp(all.data, magic, MAGIC_SIZE) != 0 ||
        bytes_get_u32(all.data + all.size - 4) != crc32c(0, all.data, all.size - 4)) {
        return error_set(error, ERROR_CORRUPT,
                         "%s is damaged: rebuild this node from its peers (replace the node)",
                         path);
    }
    *body = reader_make(slice_make(all.data + MAGIC_SIZE, all.size - MAGIC_SIZE - 4));
    uint32_t version = reader_u32(body);
    if (version != VERSION) {
        return error_set(error, ERROR_VERSION,
                         "%s has format version %" PRIu32
                         ", this program knows version %d: run the newer program again",
                         path, version, VERSION);
    }
    return ERROR_NONE;
}

static enum error_code file_malformed(const char *dir, const char *name, struct error *error) {
    return error_set(error, ERROR_CORRUPT,
                     "%s/%s is damaged: rebuild this node from its peers (replace the node)", dir,
                     name);
}

/* Creates the directory, durably. */
static enum error_code make_dir(const char *dir, struct error *error) {
    const struct storage *storage = storage_posix();
    int result = storage->make_dir(storage->context, dir);
    if (result == 0) {
        result = storage_sync_parent(storage, dir);
    }
    return result == 0 ? ERROR_NONE
                       : error_set_errno(error, -result, "cannot create data directory %s", dir);
}

static enum error_code lock_refused(int file, const char *dir, struct error *error) {
    char holder[32] = {0};
    ssize_t size = pread(file, holder, sizeof holder - 1, 0);
    long pid = size > 0 ? strtol(holder, NULL, 10) : 0;
    return error_set(error, ERROR_LOCKED,
                     "data directory %s is in use by the process with pid %ld: stop it, or give "
                     "this node a directory of its own",
                     dir, pid);
}

/* For whoever is refused later: who holds the lock. */
static enum error_code write_pid(int file, const char *path, struct error *error) {
    char text[32];
    int size = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(file, 0) != 0) {
        return error_set_errno(error, errno, "cannot empty %s", path);
    }
    ssize_t written = pwrite(file, text, (size_t)size, 0);
    if (written < 0) {
        return error_set_errno(error, errno, "cannot write %s", path);
    }
    /* Only part of it: a limit was met on the way, and errno says nothing. */
    return written == size ? ERROR_NONE
                           : error_set(error, ERROR_IO,
                                       "cannot write %s: only %zd of %d bytes were taken: is the "
                                       "disk full, or a quota or limit of file sizes reached?",
                                       path, written, size);
}

enum error_code identity_lock(const char *dir, int *fd, struct error *error) {
    char path[PATH_MAX];
    *fd = -1;
    enum error_code code = path_of(path, dir, "lock", error);
    if (code == ERROR_NONE) {
        code = make_dir(dir, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
        return error_set_errno(error, errno, "cannot open %s", path);
    }
    int failed;
    do {
        failed = flock(file, LOCK_EX | LOCK_NB);
    } while (failed != 0 && errno == EINTR);
    if (failed != 0) {
        code = errno == EWOULDBLOCK ? lock_refused(file, dir, error)
                                    : error_set_errno(error, errno, "cannot lock %s", path);
        close(file);
        return code;
    }
    code = write_pid(file, path, error);
    if (code != ERROR_NONE) {
        close(file);
        return code;
    }
    *fd = file;
    return ERROR_NONE;
}

/* A name in the directory that only a node with an identity writes. */
struct data_search {
    char name[NAME_MAX + 1];
};

static bool name_ends(const char *name, const char *end) {
    size_t size = strlen(name);
    return size >= strlen(end) && strcmp(name + size - strlen(end), end) == 0;
}

static void search_data(void *context, const char *name) {
    struct data_search *search = context;
    if (strcmp(name, "log") == 0 || strcmp(name, "peers") == 0 || strcmp(name, "boot") == 0 ||
        name_ends(name, ".db") || name_ends(name, ".db-wal")) {
        snprintf(search->name, sizeof search->name, "%s", name);
    }
}

static enum error_code random_incarnation(uint64_t *incarnation, struct error *error) {
    do {
        ssize_t size = getrandom(incarnation, sizeof *incarnation, 0);
        if (size < 0 && errno != EINTR) {
            return error_set_errno(error, errno, "cannot get random bytes");
        }
        if (size != sizeof *incarnation) {
            *incarnation = 0;
        }
    } while (*incarnation == 0);
    return ERROR_NONE;
}

static enum error_code identity_write(const char *dir, const struct identity *identity,
                                      struct error *error) {
    struct buffer bytes = {.data = NULL};
    file_start(&bytes, identity_magic);
    buffer_put_u32(&bytes, identity->n_shards);
    buffer_put_u64(&bytes, identity->node_id);
    buffer_put_u64(&bytes, identity->incarnation);
    buffer_put_bytes(&bytes, slice_of(identity->cluster));
    buffer_put_u64(&bytes, identity->cluster_id);
    buffer_put_u8(&bytes, (uint8_t)identity->standing);
    if (identity->standing == IDENTITY_NEWCOMER) {
        buffer_put_u64(&bytes, identity->arrived);
    }
    enum error_code code = file_replace(dir, "identity", &bytes, error);
    buffer_free(&bytes);
    return code;
}

static enum error_code identity_create(const char *dir, const char *cluster, uint64_t node_id,
                                       unsigned n_shards, struct identity *identity,
                                       struct error *error) {
    const struct storage *storage = storage_posix();
    struct data_search search = {.name = ""};
    int result = storage->list(storage->context, dir, search_data, &search);
    if (result != 0) {
        return error_set_errno(error, -result, "cannot read data directory %s", dir);
    }
    if (search.name[0] != '\0') {
        return error_set(error, ERROR_CORRUPT,
                         "data directory %s holds %s but no identity file: put the file back, or "
                         "rebuild this node from its peers (replace the node)",
                         dir, search.name);
    }
    snprintf(identity->cluster, sizeof identity->cluster, "%s", cluster);
    identity->node_id = node_id;
    identity->n_shards = n_shards;
    enum error_code code = random_incarnation(&identity->incarnation, error);
    return code == ERROR_NONE ? identity_write(dir, identity, error) : code;
}

static enum error_code identity_parse(const char *dir, struct reader *body,
                                      struct identity *identity, struct error *error) {
    identity->n_shards = reader_u32(body);
    identity->node_id = reader_u64(body);
    identity->incarnation = reader_u64(body);
    struct slice cluster = reader_bytes(body);
    identity->cluster_id = reader_u64(body);
    uint8_t standing = reader_u8(body);
    identity->standing = (enum identity_standing)standing;
    identity->arrived = standing == IDENTITY_NEWCOMER ? reader_u64(body) : 0;
    if (!reader_done(body) || standing > IDENTITY_NEWCOMER || cluster.size > IDENTITY_CLUSTER_MAX ||
        identity->incarnation == 0) {
        return file_malformed(dir, "identity", error);
    }
    memcpy(identity->cluster, cluster.data, cluster.size);
    identity->cluster[cluster.size] = '\0';
    return ERROR_NONE;
}

static enum error_code identity_check(const char *dir, const char *cluster, uint64_t node_id,
                                      unsigned n_shards, const struct identity *identity,
                                      struct error *error) {
    if (strcmp(identity->cluster, cluster) != 0) {
        return error_set(error, ERROR_MISMATCH,
                         "data directory %s belongs to cluster \"%s\", but this node is configured "
                         "for cluster \"%s\": correct the configuration or use another directory",
                         dir, identity->cluster, cluster);
    }
    if (identity->node_id != node_id) {
        return error_set(error, ERROR_MISMATCH,
                         "data directory %s belongs to node %" PRIu64
                         ", but this node is configured as node %" PRIu64
                         ": correct the configuration or use another directory",
                         dir, identity->node_id, node_id);
    }
    if (identity->n_shards != n_shards) {
        return error_set(error, ERROR_MISMATCH,
                         "data directory %s has %u shards, but %u are configured: the number is "
                         "fixed when a cluster is created, set it back to %u",
                         dir, identity->n_shards, n_shards, identity->n_shards);
    }
    return ERROR_NONE;
}

static enum error_code boot_load(const char *dir, struct identity *identity, struct error *error) {
    struct buffer bytes = {.data = NULL};
    struct reader body;
    bool found;
    enum error_code code = file_load(dir, "boot", boot_magic, &bytes, &body, &found, error);
    identity->boot = 0;
    if (code == ERROR_NONE && found) {
        uint64_t incarnation = reader_u64(&body);
        identity->boot = reader_u64(&body);
        if (!reader_done(&body)) {
            code = file_malformed(dir, "boot", error);
        } else if (incarnation != identity->incarnation) {
            code = error_set(error, ERROR_MISMATCH,
                             "%s/boot was copied from another data directory: remove this data "
                             "directory and rebuild the node from its peers (replace the node)",
                             dir);
        }
    }
    buffer_free(&bytes);
    return code;
}

enum error_code identity_open(const char *dir, const char *cluster, uint64_t node_id,
                              unsigned n_shards, struct identity *identity, struct error *error) {
    *identity = (struct identity){.node_id = 0};
    if (cluster[0] == '\0' || strlen(cluster) > IDENTITY_CLUSTER_MAX) {
        return error_set(error, ERROR_INVALID, "a cluster name has 1 to %d bytes, not %zu",
                         IDENTITY_CLUSTER_MAX, strlen(cluster));
    }
    enum error_code code = make_dir(dir, error);
    if (code != ERROR_NONE) {
        return code;
    }
    struct buffer bytes = {.data = NULL};
    struct reader body;
    bool found;
    code = file_load(dir, "identity", identity_magic, &bytes, &body, &found, error);
    if (code == ERROR_NONE && !found) {
        code = identity_create(dir, cluster, node_id, n_shards, identity, error);
    } else if (code == ERROR_NONE) {
        code = identity_parse(dir, &body, identity, error);
        if (code == ERROR_NONE) {
            code = identity_check(dir, cluster, node_id, n_shards, identity, error);
        }
        if (code == ERROR_NONE) {
            code = boot_load(dir, identity, error);
        }
    }
    buffer_free(&bytes);
    return code;
}

enum error_code identity_read(const char *dir, struct identity *identity, struct error *error) {
    struct buffer bytes = {.data = NULL};
    struct reader body;
    bool found = false;
    *identity = (struct identity){.node_id = 0};
    enum error_code code = file_load(dir, "identity", identity_magic, &bytes, &body, &found, error);
    if (code == ERROR_NONE && !found) {
        code = error_set(error, ERROR_INVALID, "%s is no data directory: it has no identity file",
                         dir);
    }
    code = code == ERROR_NONE ? identity_parse(dir, &body, identity, error) : code;
    code = code == ERROR_NONE ? boot_load(dir, identity, error) : code;
    buffer_free(&bytes);
    return code;
}

enum error_code identity_join(const char *dir, struct identity *identity, uint64_t cluster_id,
                              enum identity_standing standing, struct error *error) {
    struct identity changed = *identity;
    changed.cluster_id = cluster_id;
    changed.standing = standing;
    changed.arrived = 0;
    enum error_code code = identity_write(dir, &changed, error);
    if (code == ERROR_NONE) {
        *identity = changed;
    }
    return code;
}

enum error_code identity_arrive(const char *dir, struct identity *identity, uint64_t shards,
                                struct error *error) {
    struct identity changed = *identity;
    uint64_t all = identity->n_shards == 64 ? UINT64_MAX : ((uint64_t)1 << identity->n_shards) - 1;
    changed.arrived |= shards;
    if (changed.arrived == all) {
        changed.standing = IDENTITY_MEMBER;
        changed.arrived = 0;
    }
    enum error_code code = identity_write(dir, &changed, error);
    if (code == ERROR_NONE) {
        *identity = changed;
    }
    return code;
}

enum error_code identity_boot(const char *dir, struct identity *identity, struct error *error) {
    struct buffer bytes = {.data = NULL};
    file_start(&bytes, boot_magic);
    buffer_put_u64(&bytes, identity->incarnation);
    buffer_put_u64(&bytes, identity->boot + 1);
    enum error_code code = file_replace(dir, "boot", &bytes, error);
    buffer_free(&bytes);
    if (code == ERROR_NONE) {
        identity->boot++;
    }
    return code;
}

static enum error_code peers_parse(struct known_peers *peers, struct reader *body,
                                   struct error *error) {
    uint64_t incarnation = reader_u64(body);
    uint32_t n = reader_u32(body);
    if (n > PEERS_MAX) {
        return file_malformed(peers->dir, "peers", error);
    }
    for (uint32_t k = 0; k < n; k++) {
        peers->known[k].node_id = reader_u64(body);
        peers->known[k].incarnation = reader_u64(body);
    }
    if (!reader_done(body)) {
        return file_malformed(peers->dir, "peers", error);
    }
    if (incarnation != peers->incarnation) {
        return error_set(error, ERROR_MISMATCH,
                         "%s/peers was copied from another data directory: remove this data "
                         "directory and rebuild the node from its peers (replace the node)",
                         peers->dir);
    }
    peers->n = n;
    return ERROR_NONE;
}

enum error_code known_peers_load(const char *dir, const struct identity *identity,
                                 struct known_peers *peers, struct error *error) {
    *peers = (struct known_peers){.incarnation = identity->incarnation};
    peers->dir = mem_strdup(dir);
    struct buffer bytes = {.data = NULL};
    struct reader body;
    bool found;
    enum error_code code = file_load(dir, "peers", peers_magic, &bytes, &body, &found, error);
    if (code == ERROR_NONE && found) {
        code = peers_parse(peers, &body, error);
    }
    buffer_free(&bytes);
    if (code != ERROR_NONE) {
        known_peers_free(peers);
    }
    return code;
}

void known_peers_free(struct known_peers *peers) {
    mem_free(peers->dir);
    *peers = (struct known_peers){.dir = NULL};
}

static unsigned peers_find(const struct known_peers *peers, uint64_t node_id) {
    unsigned k = 0;
    while (k < peers->n && peers->known[k].node_id != node_id) {
        k++;
    }
    return k;
}

bool known_peers_get(const struct known_peers *peers, uint64_t node_id, uint64_t *incarnation) {
    unsigned k = peers_find(peers, node_id);
    if (k == peers->n) {
        return false;
    }
    *incarnation = peers->known[k].incarnation;
    return true;
}

static enum error_code peers_store(const struct known_peers *peers, struct error *error) {
    struct buffer bytes = {.data = NULL};
    file_start(&bytes, peers_magic);
    buffer_put_u64(&bytes, peers->incarnation);
    buffer_put_u32(&bytes, peers->n);
    for (unsigned k = 0; k < peers->n; k++) {
        buffer_put_u64(&bytes, peers->known[k].node_id);
        buffer_put_u64(&bytes, peers->known[k].incarnation);
    }
    enum error_code code = file_replace(peers->dir, "peers", &bytes, error);
    buffer_free(&bytes);
    return code;
}

enum error_code known_peers_set(struct known_peers *peers, uint64_t node_id, uint64_t incarnation,
                                struct error *error) {
    struct known_peers changed = *peers;
    unsigned k = peers_find(peers, node_id);
    if (k == PEERS_MAX) {
        return error_set(error, ERROR_TOOBIG,
                         "cannot remember node %" PRIu64 ": %d nodes are known already, forget "
                         "those that were removed from the cluster",
                         node_id, PEERS_MAX);
    }
    changed.known[k].node_id = node_id;
    changed.known[k].incarnation = incarnation;
    changed.n = k == peers->n ? peers->n + 1 : peers->n;
    enum error_code code = peers_store(&changed, error);
    if (code == ERROR_NONE) {
        *peers = changed;
    }
    return code;
}

enum error_code known_peers_forget_all(struct known_peers *peers, struct error *error) {
    struct known_peers changed = *peers;
    changed.n = 0;
    enum error_code code = peers_store(&changed, error);
    if (code == ERROR_NONE) {
        *peers = changed;
    }
    return code;
}

enum error_code known_peers_forget(struct known_peers *peers, uint64_t node_id,
                                   struct error *error) {
    struct known_peers changed = *peers;
    unsigned k = peers_find(peers, node_id);
    if (k == peers->n) {
        return ERROR_NONE;
    }
    changed.known[k] = changed.known[--changed.n];
    enum error_code code = peers_store(&changed, error);
    if (code == ERROR_NONE) {
        *peers = changed;
    }
    return code;
}
