/* CLUSTER BACKUP: a shard's database for `invoke-kv backup`. The snapshot is copied beside the
 * database first, so that however slowly it is fetched, checkpoints go on and nobody waits. The
 * copy is read ahead, one piece, on libuv's pool: a piece that is not there yet is answered nil,
 * and asked for again. One backup of one shard at a time; a copy that nobody asks for goes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "base/resp.h"
#include "node/logging.h"
#include "node/server_internal.h"

enum { PIECE = 1 << 20, IDLE_MS = 30000 };

enum backup_state { BACKUP_HOLDING, BACKUP_COPYING, BACKUP_READY, BACKUP_FAILED };

struct backup {
    uv_work_t work;
    struct server *server; /* NULL: the node stops, or nobody wants it any more */
    struct shard *held;    /* whose snapshot it is, NULL: the node stops */
    enum backup_state state;
    uint64_t ticket;
    unsigned shard;
    bool working; /* `work` is under way */
    uint64_t asked_ms;
    char *from;
    char *path;
    int fd;
    struct machine_snapshot snapshot;
    struct machine_state machine;
    uint32_t crc; /* CRC-32C of the whole file */
    struct error error;

    uint8_t *piece; /* PIECE bytes */
    uint64_t piece_offset;
    size_t piece_size; /* 0: nothing is read */
};

static void backup_free(struct backup *backup) {
    if (backup->fd >= 0) {
        close(backup->fd);
    }
    (void)unlink(backup->path);
    mem_free(backup->from);
    mem_free(backup->path);
    mem_free(backup->piece);
    mem_free(backup);
}

/* `stops`: the shard is not there any more when the work comes back. */
static void drop(struct server *server, bool stops) {
    struct backup *backup = server->backup;
    server->backup = NULL;
    if (backup == NULL) {
        return;
    }
    if (backup->state == BACKUP_HOLDING || backup->working) {
        backup->server = NULL; /* whoever comes back frees it */
        backup->held = stops ? NULL : backup->held;
    } else {
        backup_free(backup);
    }
}

void server_end_backup(struct server *server) {
    drop(server, true);
}

void server_tend_backup(struct server *server, uint64_t now_ms) {
    if (server->backup != NULL && now_ms >= server->backup->asked_ms + IDLE_MS) {
        say_warn("a backup that nobody fetches is dropped", "shard=%u", server->backup->shard);
        drop(server, false);
    }
}

/* --- on libuv's pool -------------------------------------------------------------------------- */

static void fail(struct backup *backup, const char *what) {
    (void)error_set_errno(&backup->error, errno, "%s %s", what, backup->path);
}

static void copy_work(uv_work_t *work) {
    struct backup *backup = work->data;
    int from = open(backup->from, O_RDONLY | O_CLOEXEC);
    backup->fd = open(backup->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint64_t offset = 0;
    if (from < 0 || backup->fd < 0) {
        fail(backup, "cannot copy to");
    }
    while (offset < backup->snapshot.size && backup->error.code == ERROR_NONE) {
        uint64_t left = backup->snapshot.size - offset;
        ssize_t n = pread(from, backup->piece, left < PIECE ? (size_t)left : PIECE, (off_t)offset);
        if (n <= 0 || pwrite(backup->fd, backup->piece, (size_t)n, (off_t)offset) != n) {
            errno = n == 0 ? EIO : errno;
            fail(backup, "cannot copy to");
            break;
        }
        backup->crc = crc32c(backup->crc, backup->piece, (size_t)n);
        offset += (uint64_t)n;
    }
    if (from >= 0) {
        close(from);
    }
}

static void read_work(uv_work_t *work) {
    struct backup *backup = work->data;
    ssize_t n = pread(backup->fd, backup->piece, PIECE, (off_t)backup->piece_offset);
    if (n <= 0) {
        errno = n == 0 ? EIO : errno;
        fail(backup, "cannot read");
        n = 0;
    }
    backup->piece_size = (size_t)n;
}

static void release(const struct backup *backup) {
    if (backup->held != NULL) {
        shard_release_backup(backup->held);
    }
}

/* --- on the loop ------------------------------------------------------------------------------ */

/* False when nobody wants the backup any more; it is gone then. */
static bool come_back(struct backup *backup) {
    backup->working = false;
    if (backup->server == NULL) {
        backup_free(backup);
        return false;
    }
    if (backup->error.code != ERROR_NONE) {
        backup->state = BACKUP_FAILED;
        say_error("a backup failed", "shard=%u reason=%s", backup->shard, backup->error.message);
    }
    return true;
}

static void start_work(struct backup *backup, uv_loop_t *loop, uv_work_cb work,
                       uv_after_work_cb after) {
    backup->working = true;
    backup->work.data = backup;
    (void)uv_queue_work(loop, &backup->work, work, after);
}

static void was_read(uv_work_t *work, int status) {
    (void)status;
    (void)come_back(work->data);
}

static void read_piece(struct backup *backup, uint64_t offset) {
    backup->piece_offset = offset;
    backup->piece_size = 0;
    start_work(backup, backup->server->loop, read_work, was_read);
}

static void was_copied(uv_work_t *work, int status) {
    struct backup *backup = work->data;
    (void)status;
    release(backup);
    if (come_back(backup) && backup->state == BACKUP_COPYING) {
        backup->state = BACKUP_READY;
        read_piece(backup, 0);
    }
}

static void was_held(void *data, const struct job *job) {
    struct backup *backup = data;
    backup->state = BACKUP_COPYING;
    if (job->code != ERROR_NONE) {
        (void)error_set(&backup->error, job->code, "%s", job->error.message);
        (void)come_back(backup);
        return;
    }
    if (backup->server == NULL) {
        release(backup);
        backup_free(backup);
        return;
    }
    backup->snapshot = job->snapshot;
    backup->machine = job->state;
    struct server *server = backup->server;
    if (server->disk_free < job->snapshot.size + server->config->min_free_disk) {
        release(backup);
        (void)error_set(&backup->error, ERROR_NOSPACE,
                        "no room for a copy of shard %u: %llu bytes, %llu are free", backup->shard,
                        (unsigned long long)job->snapshot.size,
                        (unsigned long long)server->disk_free);
        (void)come_back(backup);
        return;
    }
    start_work(backup, server->loop, copy_work, was_copied);
}

/* --- commands --------------------------------------------------------------------------------- */

static enum error_code begin(struct server *server, unsigned shard, struct buffer *out,
                             struct error *error) {
    if (!server->started || server->stopping || shard >= server->config->shards) {
        return error_set(error, ERROR_INVALID, "this node holds no shard %u now", shard);
    }
    if (server->backup != NULL && server->backup->state != BACKUP_FAILED) {
        return error_set(error, ERROR_BUSY, "another backup is under way at this node");
    }
    drop(server, false);
    struct backup *backup = mem_zalloc(1, sizeof *backup);
    size_t size = strlen(server->db_paths[shard]) + sizeof ".backup";
    backup->server = server;
    backup->held = &server->shards[shard];
    backup->shard = shard;
    backup->fd = -1;
    backup->ticket = server_now(server) | 1;
    backup->asked_ms = server_now(server);
    backup->from = mem_strdup(server->db_paths[shard]);
    backup->path = mem_alloc(size);
    snprintf(backup->path, size, "%s.backup", server->db_paths[shard]);
    backup->piece = mem_alloc(PIECE);
    if (!shard_hold_backup(&server->shards[shard], was_held, backup)) {
        backup_free(backup);
        return error_set(error, ERROR_BUSY, "shard %u cannot hold a snapshot now; try again",
                         shard);
    }
    server->backup = backup;
    resp_write_integer(out, (int64_t)backup->ticket);
    return ERROR_NONE;
}

static void put_number(struct buffer *out, const char *name, uint64_t number) {
    resp_write_bulk(out, slice_of(name));
    resp_write_integer(out, (int64_t)number);
}

static void write_state(const struct backup *backup, struct buffer *out, int version) {
    static const char *const words[] = {"copying", "copying", "ready", "failed"};
    char digest[17];
    resp_write_map(out, 9, version);
    resp_write_bulk(out, slice_of("state"));
    resp_write_bulk(out, slice_of(words[backup->state]));
    put_number(out, "size", backup->snapshot.size);
    put_number(out, "index", backup->snapshot.index);
    put_number(out, "term", backup->snapshot.term);
    put_number(out, "clock_ms", backup->machine.clock_ms);
    put_number(out, "keys", backup->machine.keys);
    put_number(out, "used_bytes", backup->machine.used_bytes);
    put_number(out, "crc32c", backup->crc);
    resp_write_bulk(out, slice_of("digest"));
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)backup->machine.digest);
    resp_write_bulk(out, slice_of(digest));
}

static void write_piece(struct backup *backup, uint64_t offset, struct buffer *out, int version) {
    bool here = !backup->working && backup->piece_size > 0 && backup->piece_offset == offset;
    uint64_t next = offset;
    if (here) {
        resp_write_bulk(out, slice_make(backup->piece, backup->piece_size));
        next = offset + backup->piece_size;
    } else {
        resp_write_null(out, version);
    }
    if (!backup->working && next < backup->snapshot.size) {
        read_piece(backup, next);
    }
}

enum error_code server_backup(void *data, const struct backup_request *request, struct buffer *out,
                              int version, struct error *error) {
    struct server *server = data;
    struct backup *backup = server->backup;
    if (request->kind == BACKUP_BEGIN) {
        return begin(server, request->shard, out, error);
    }
    if (backup == NULL || backup->ticket != request->ticket) {
        return error_set(error, ERROR_INVALID, "this backup is not under way here (any more)");
    }
    backup->asked_ms = server_now(server);
    if (backup->state == BACKUP_FAILED) {
        (void)error_set(error, backup->error.code, "%s", backup->error.message);
        drop(server, false);
        return error->code;
    }
    if (request->kind == BACKUP_STATE) {
        write_state(backup, out, version);
    } else if (request->kind == BACKUP_END) {
        drop(server, false);
        resp_write_simple(out, "OK");
    } else if (backup->state != BACKUP_READY || request->offset >= backup->snapshot.size) {
        return error_set(error, ERROR_INVALID, "there is nothing to read at %llu",
                         (unsigned long long)request->offset);
    } else {
        write_piece(backup, request->offset, out, version);
    }
    return ERROR_NONE;
}
