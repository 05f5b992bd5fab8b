#include "raft/log_recover.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "raft/log_newest.h"

struct replay {
    struct log_index *index;
    unsigned n_groups;
    const struct log_segment_header *header;
    struct slice segment;
    uint32_t seed;
    bool oldest;
    struct error *error;
};

static enum error_code replay_contradiction(const struct replay *replay, uint64_t offset,
                                            const char *what) {
    return error_set(replay->error, ERROR_CORRUPT, "at offset %" PRIu64 ": %s; " LOG_REBUILD,
                     offset, what);
}

static bool states_equal(const struct log_group_state *a, const struct log_group_state *b) {
    return a->term == b->term && a->voted_for == b->voted_for && a->first == b->first &&
           a->last == b->last && a->base_term == b->base_term;
}

static enum error_code replay_state(const struct replay *replay, uint64_t offset,
                                    struct slice payload) {
    struct log_group_state states[LIMIT_SHARDS];
    if (offset != LOG_BLOCK || !log_state_decode(payload, states, replay->n_groups)) {
        return replay_contradiction(replay, offset, "unexpected record of the groups' states");
    }
    for (unsigned g = 0; g < replay->n_groups; g++) {
        if (replay->oldest) {
            if (!log_index_restore(replay->index, g, &states[g])) {
                return replay_contradiction(replay, offset, "a group has impossible bounds");
            }
            continue;
        }
        struct log_group_state now = log_index_state(replay->index, g);
        if (!states_equal(&now, &states[g])) {
            return replay_contradiction(replay, offset,
                                        "a group's state differs from what the records before say");
        }
    }
    return ERROR_NONE;
}

static enum error_code replay_group_record(const struct replay *replay, uint64_t offset,
                                           const struct log_record *record) {
    const struct log_location location = {.segment = (uint32_t)replay->header->number,
                                          .unit = (uint32_t)(offset / 8)};
    bool fine = true;
    switch (record->type) {
    case LOG_RECORD_ENTRY:
        fine = log_index_place(replay->index, record->group, record->index, record->term,
                               record->kind, record->size, location);
        break;
    case LOG_RECORD_RELOCATED:
        fine = log_index_replace(replay->index, record->group, record->index, record->term,
                                 record->kind, record->size, location);
        break;
    case LOG_RECORD_VOTE:
        log_index_set_vote(replay->index, record->group, record->term, record->index);
        break;
    case LOG_RECORD_RESET:
        fine = record->index <= LOG_INDEX_MAX;
        if (fine) {
            log_index_reset(replay->index, record->group, record->index, record->term);
        }
        break;
    case LOG_RECORD_CUT:
        fine = log_index_replay_cut(replay->index, record->group, record->index, record->term);
        break;
    case LOG_RECORD_STATE:
    case LOG_RECORD_PAD:
    case LOG_RECORD_SEAL:
        ASSERT(false);
    }
    if (!fine) {
        return replay_contradiction(replay, offset, "a record lies outside its group's log");
    }
    if ((record->type == LOG_RECORD_ENTRY || record->type == LOG_RECORD_RELOCATED) &&
        record->kind == LOG_ENTRY_CHANGE) {
        log_index_keep(replay->index, record->group, record->index,
                       log_record_payload(replay->segment, offset, record));
    }
    return ERROR_NONE;
}

static enum error_code replay_record(const struct replay *replay, uint64_t offset,
                                     const struct log_record *record) {
    if ((offset == LOG_BLOCK) != (record->type == LOG_RECORD_STATE)) {
        return replay_contradiction(replay, offset,
                                    "the segment does not start with the groups' states");
    }
    if (record->type == LOG_RECORD_STATE) {
        return replay_state(replay, offset, log_record_payload(replay->segment, offset, record));
    }
    if (record->type == LOG_RECORD_PAD || record->type == LOG_RECORD_SEAL) {
        return ERROR_NONE;
    }
    if (record->group >= replay->n_groups) {
        return replay_contradiction(replay, offset, "a record belongs to an unknown group");
    }
    return replay_group_record(replay, offset, record);
}

/* Replays the whole, intact batch in [from, to). */
static enum error_code replay_batch(const struct replay *replay, uint64_t from, uint64_t to,
                                    bool *sealed) {
    struct log_record record;
    for (uint64_t offset = from; offset < to; offset += log_record_size(record.size)) {
        bool readable = log_record_decode(replay->segment, offset, replay->seed, &record);
        ASSERT(readable);
        enum error_code code = replay_record(replay, offset, &record);
        if (code != ERROR_NONE) {
            return code;
        }
        *sealed = record.type == LOG_RECORD_SEAL;
    }
    return ERROR_NONE;
}

enum error_code log_replay_segment(struct log_index *index, unsigned n_groups,
                                   const struct log_segment_header *header, struct slice segment,
                                   bool oldest, struct log_replay_end *end, struct error *error) {
    const struct replay replay = {
        .index = index,
        .n_groups = n_groups,
        .header = header,
        .segment = segment,
        .seed = log_record_seed(header->identity, header->number),
        .oldest = oldest,
        .error = error,
    };
    *end = (struct log_replay_end){
        .offset = LOG_BLOCK, .sequence = header->base_sequence, .sealed = true};
    uint64_t batch_end;
    while (log_batch_find(segment, end->offset, replay.seed, end->sequence, &batch_end)) {
        enum error_code code = replay_batch(&replay, end->offset, batch_end, &end->sealed);
        if (code != ERROR_NONE) {
            return code;
        }
        end->offset = batch_end;
        end->sequence++;
    }
    return ERROR_NONE;
}

/* What the directory holds. */
struct listing {
    uint64_t *numbers;
    unsigned n_numbers;
    unsigned capacity;
    char (*others)[LOG_SPARE_NAME + 4]; /* spares and unfinished files */
    unsigned n_others;
};

static bool name_is_ours(const char *name) {
    return strlen(name) < LOG_SPARE_NAME + 4 &&
           (strncmp(name, "spare-", 6) == 0 || strncmp(name, "next-", 5) == 0);
}

static void listing_add(void *data, const char *name) {
    struct listing *listing = data;
    uint64_t number;
    if (log_segment_name_parse(name, &number)) {
        if (listing->n_numbers == listing->capacity) {
            listing->capacity = listing->capacity == 0 ? 64 : listing->capacity * 2;
            listing->numbers =
                mem_realloc(listing->numbers, listing->capacity * sizeof *listing->numbers);
        }
        listing->numbers[listing->n_numbers++] = number;
    } else if (name_is_ours(name)) {
        listing->others =
            mem_realloc(listing->others, (listing->n_others + 1) * sizeof *listing->others);
        snprintf(listing->others[listing->n_others++], sizeof *listing->others, "%s", name);
    }
}

static int compare_numbers(const void *left, const void *right) {
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void listing_free(struct listing *listing) {
    mem_free(listing->numbers);
    mem_free(listing->others);
}

/* Keeps spares of the right size, removes what a crash left unfinished. */
static enum error_code recover_spares(const struct log_files *files, const struct listing *listing,
                                      struct log_recovery *recovery, struct error *error) {
    const struct storage *storage = files->storage;
    for (unsigned k = 0; k < listing->n_others; k++) {
        const char *name = listing->others[k];
        char path[PATH_MAX];
        if (!log_path(path, files->dir, name)) {
            return error_set(error, ERROR_INVALID, "path too long: %s/%s", files->dir, name);
        }
        uint32_t number;
        uint64_t size = 0;
        if (log_spare_name_parse(name, &number) && number < UINT32_MAX &&
            recovery->n_spares < LOG_SPARES_MAX) {
            int file = storage->open(storage->context, path, STORAGE_OPEN);
            if (file >= 0 && storage->size(storage->context, file, &size) == 0 &&
                size == files->segment_size) {
                struct log_spare *spare = &recovery->spares[recovery->n_spares++];
                spare->file = file;
                snprintf(spare->name, sizeof spare->name, "%.*s", LOG_SPARE_NAME - 1, name);
                if (number >= recovery->next_spare) {
                    recovery->next_spare = number + 1;
                }
                continue;
            }
            if (file >= 0) {
                storage->close(storage->context, file);
            }
        }
        int result = storage->unlink(storage->context, path);
        if (result != 0 && result != -ENOENT) {
            return error_set_errno(error, -result, "cannot remove %s", path);
        }
    }
    return ERROR_NONE;
}

static enum error_code check_header(const struct log_files *files, uint64_t number,
                                    const struct log_segment_header *header, uint64_t file_size,
                                    struct error *error) {
    if (header->identity != files->identity) {
        return error_set(error, ERROR_MISMATCH,
                         "belongs to the data directory with incarnation %016" PRIx64
                         ", not to this one (%016" PRIx64 "): put back the right log directory",
                         header->identity, files->identity);
    }
    if (header->n_groups != files->n_groups) {
        return error_set(error, ERROR_MISMATCH,
                         "written for %u groups, but %u are configured: the number of shards is "
                         "fixed when a cluster is created, set it back",
                         header->n_groups, files->n_groups);
    }
    if (header->number != number) {
        return error_set(error, ERROR_CORRUPT,
                         "the header says segment %" PRIu64 ", the file was renamed",
                         header->number);
    }
    if (header->size > file_size || header->size < 2 * LOG_BLOCK || header->size % LOG_BLOCK != 0) {
        return error_set(error, ERROR_CORRUPT,
                         "the file has %" PRIu64 " bytes, its header says %" PRIu64
                         "; " LOG_REBUILD,
                         file_size, header->size);
    }
    return ERROR_NONE;
}

/* Work in progress of log_recover(). */
struct recover {
    const struct log_files *files;
    struct log_index *index;
    struct log_recovery *recovery;
    struct error *error;
    struct buffer bytes; /* of the segment at hand */
    struct log_replay_end end;
    uint64_t recorded; /* as the newest segment */
};

static enum error_code read_segment(struct recover *recover, uint64_t number, const char *path,
                                    struct log_segment_header *header) {
    const struct storage *storage = recover->files->storage;
    struct error *error = recover->error;
    int file = storage->open(storage->context, path, STORAGE_OPEN);
    if (file < 0) {
        return error_set_errno(error, -file, "cannot open");
    }
    struct log_segment_file *entry = &recover->recovery->segments[recover->recovery->n_segments++];
    *entry = (struct log_segment_file){.number = (uint32_t)number, .file = file};

    uint64_t file_size;
    int result = storage->size(storage->context, file, &file_size);
    if (result != 0) {
        return error_set_errno(error, -result, "cannot find out the size");
    }
    uint8_t block[LOG_BLOCK];
    ssize_t done = storage_read(storage, file, block, sizeof block, 0);
    if (done < 0) {
        return error_set_errno(error, (int)-done, "cannot read");
    }
    enum error_code code =
        log_segment_header_decode(slice_make(block, (size_t)done), header, error);
    if (code == ERROR_NONE) {
        code = check_header(recover->files, number, header, file_size, error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    entry->size = header->size;
    recover->bytes.size = 0;
    buffer_reserve(&recover->bytes, (size_t)header->size);
    done = storage_read(storage, file, recover->bytes.data, (size_t)header->size, 0);
    if (done < 0) {
        return error_set_errno(error, (int)-done, "cannot read");
    }
    if ((uint64_t)done != header->size) {
        return error_set(error, ERROR_CORRUPT, "the file ends early; " LOG_REBUILD);
    }
    recover->bytes.size = (size_t)done;
    return ERROR_NONE;
}

/* A segment exists, so everything before it was synced: nothing before may be missing. */
static enum error_code check_continues(struct recover *recover,
                                       const struct log_segment_header *header) {
    const struct log_replay_end *before = &recover->end;
    if (header->base_sequence == before->sequence) {
        return ERROR_NONE;
    }
    char name[LOG_SEGMENT_NAME];
    log_segment_name(header->number - 1, name);
    return error_set(recover->error, ERROR_CORRUPT,
                     "starts with batch %" PRIu64 ", but segment %s is damaged at offset %" PRIu64
                     ", where batch %" PRIu64 " should be; " LOG_REBUILD,
                     header->base_sequence, name, before->offset, before->sequence);
}

static enum error_code recover_segment(struct recover *recover, uint64_t number, bool oldest) {
    char name[LOG_SEGMENT_NAME];
    char path[PATH_MAX];
    log_segment_name(number, name);
    if (!log_path(path, recover->files->dir, name)) {
        return error_set(recover->error, ERROR_INVALID, "path too long: %s/%s", recover->files->dir,
                         name);
    }
    struct log_segment_header header = {0};
    enum error_code code = read_segment(recover, number, path, &header);
    if (code == ERROR_NONE && !oldest) {
        code = check_continues(recover, &header);
    }
    if (code == ERROR_NONE) {
        log_index_segment_add(recover->index, (uint32_t)number);
        code = log_replay_segment(recover->index, recover->files->n_groups, &header,
                                  buffer_slice(&recover->bytes), oldest, &recover->end,
                                  recover->error);
    }
    if (code != ERROR_NONE) {
        return error_wrap(recover->error, "log segment %s", path);
    }
    return ERROR_NONE;
}

/* The newest segment: decides whether what follows its last whole batch is a torn tail or damage,
 * wipes a torn tail, and makes sure that what was found is on disk and not only in memory. */
static enum error_code recover_tail(struct recover *recover) {
    const struct log_files *files = recover->files;
    const struct storage *storage = files->storage;
    struct log_recovery *recovery = recover->recovery;
    const struct log_segment_file *newest = &recovery->segments[recovery->n_segments - 1];
    const struct log_replay_end *end = &recover->end;
    struct log_remains remains =
        log_remains_find(buffer_slice(&recover->bytes), end->offset,
                         log_record_seed(files->identity, newest->number), end->sequence);
    char name[LOG_SEGMENT_NAME];
    log_segment_name(newest->number, name);
    if (remains.later) {
        return error_set(recover->error, ERROR_CORRUPT,
                         "log segment %s/%s is damaged at offset %" PRIu64 ": batch %" PRIu64
                         " is not readable, but a later one at offset %" PRIu64 " is; " LOG_REBUILD,
                         files->dir, name, end->offset, end->sequence, remains.later_offset);
    }
    if (recovery->n_segments == 1 && end->offset == LOG_BLOCK && end->sequence != 1) {
        return error_set(recover->error, ERROR_CORRUPT,
                         "log segment %s/%s should start with batch %" PRIu64
                         " and the groups' states, but holds nothing; " LOG_REBUILD,
                         files->dir, name, end->sequence);
    }
    int result = 0;
    if (remains.same) {
        uint64_t to = log_round_up(remains.same_end);
        result = storage_zero(storage, newest->file, end->offset, to - end->offset, 0);
    }
    if (result == 0) {
        result = storage->sync(storage->context, newest->file);
    }
    if (result == 0) {
        result = storage->sync_dir(storage->context, files->dir);
    }
    if (result == 0) {
        /* Only now, as its name is durable. */
        result = recover->recorded == newest->number ? log_newest_sync(files)
                                                     : log_newest_store(files, newest->number);
    }
    if (result != 0) {
        return error_set_errno(recover->error, -result, "cannot repair the tail of %s/%s",
                               files->dir, name);
    }
    recovery->tail = (struct log_tail){
        .number = newest->number,
        .file = newest->file,
        .size = newest->size,
        .offset = end->offset,
        .sequence = end->sequence,
        .sealed = end->sealed,
    };
    return ERROR_NONE;
}

static enum error_code check_complete(const struct recover *recover) {
    for (unsigned g = 0; g < recover->files->n_groups; g++) {
        uint64_t missing = log_index_unplaced(recover->index, g);
        if (missing != 0) {
            return error_set(recover->error, ERROR_CORRUPT,
                             "entry %" PRIu64 " of group %u is in none of the log segments in %s, "
                             "the oldest of which may have been removed; " LOG_REBUILD,
                             missing, g, recover->files->dir);
        }
    }
    return ERROR_NONE;
}

static enum error_code check_newest(const struct recover *recover, const struct listing *listing) {
    unsigned n = listing->n_numbers;
    if ((n > 0 ? listing->numbers[n - 1] : 0) >= recover->recorded) {
        return ERROR_NONE;
    }
    char name[LOG_SEGMENT_NAME];
    log_segment_name(recover->recorded, name);
    return error_set(recover->error, ERROR_CORRUPT,
                     "log segment %s/%s is missing, and it was the newest one; " LOG_REBUILD,
                     recover->files->dir, name);
}

static enum error_code recover_existing(struct recover *recover, const struct listing *listing) {
    const uint64_t *numbers = listing->numbers;
    unsigned n = listing->n_numbers;
    if (numbers[0] == 0 || numbers[n - 1] >= UINT32_MAX) {
        return error_set(recover->error, ERROR_CORRUPT,
                         "a log segment in %s has an impossible number", recover->files->dir);
    }
    recover->recovery->segments = mem_zalloc(n, sizeof *recover->recovery->segments);
    for (unsigned k = 0; k < n; k++) {
        if (numbers[k] != numbers[0] + k) {
            char name[LOG_SEGMENT_NAME];
            log_segment_name(numbers[0] + k, name);
            return error_set(recover->error, ERROR_CORRUPT,
                             "log segment %s/%s is missing, later ones are there; " LOG_REBUILD,
                             recover->files->dir, name);
        }
        enum error_code code = recover_segment(recover, numbers[k], k == 0);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    enum error_code code = check_complete(recover);
    return code == ERROR_NONE ? recover_tail(recover) : code;
}

static enum error_code create_log(struct recover *recover) {
    const struct log_files *files = recover->files;
    const struct storage *storage = files->storage;
    struct log_recovery *recovery = recover->recovery;
    struct log_spare spare;
    if (recovery->n_spares > 0) {
        spare = recovery->spares[--recovery->n_spares];
    } else {
        snprintf(spare.name, sizeof spare.name, "next-1");
        spare.file = log_file_prepare(storage, files->dir, spare.name, files->segment_size, true);
        if (spare.file < 0) {
            return error_set_errno(recover->error, -spare.file, "cannot create a log segment in %s",
                                   files->dir);
        }
    }
    recovery->segments = mem_zalloc(1, sizeof *recovery->segments);
    recovery->segments[0] =
        (struct log_segment_file){.number = 1, .file = spare.file, .size = files->segment_size};
    recovery->n_segments = 1;
    int result = log_file_activate(files, &spare, 1, 1, files->segment_size);
    if (result != 0) {
        return error_set_errno(recover->error, -result, "cannot create a log segment in %s",
                               files->dir);
    }
    log_index_segment_add(recover->index, 1);
    recovery->tail = (struct log_tail){
        .number = 1,
        .file = spare.file,
        .size = files->segment_size,
        .offset = LOG_BLOCK,
        .sequence = 1,
        .sealed = true,
    };
    return ERROR_NONE;
}

static enum error_code recover_directory(struct recover *recover, bool must_exist,
                                         struct listing *listing) {
    const struct log_files *files = recover->files;
    const struct storage *storage = files->storage;
    int result = storage->make_dir(storage->context, files->dir);
    if (result == 0) {
        result = storage_sync_parent(storage, files->dir);
    }
    if (result == 0) {
        result = storage->list(storage->context, files->dir, listing_add, listing);
    }
    if (result != 0) {
        return error_set_errno(recover->error, -result, "cannot open log directory %s", files->dir);
    }
    if (listing->n_numbers > 0) {
        qsort(listing->numbers, listing->n_numbers, sizeof *listing->numbers, compare_numbers);
    }
    if (listing->n_numbers == 0 && must_exist) {
        return error_set(recover->error, ERROR_CORRUPT,
                         "log directory %s holds no log, but this node has had one; " LOG_REBUILD,
                         files->dir);
    }
    enum error_code code = log_newest_load(files, must_exist, &recover->recorded, recover->error);
    if (code == ERROR_NONE) {
        code = check_newest(recover, listing);
    }
    if (code == ERROR_NONE) {
        code = recover_spares(files, listing, recover->recovery, recover->error);
    }
    if (code != ERROR_NONE) {
        return code;
    }
    if (listing->n_numbers == 0) {
        return create_log(recover);
    }
    return recover_existing(recover, listing);
}

enum error_code log_recover(const struct log_files *files, bool must_exist, struct log_index *index,
                            struct log_recovery *recovery, struct error *error) {
    ASSERT(files->segment_size % LOG_BLOCK == 0 && files->segment_size >= 2 * LOG_BLOCK);
    struct error unheard;
    if (error == NULL) {
        error = &unheard;
    }
    *recovery = (struct log_recovery){.n_segments = 0};
    struct recover recover = {.files = files, .index = index, .recovery = recovery, .error = error};
    struct listing listing = {.numbers = NULL};
    enum error_code code = recover_directory(&recover, must_exist, &listing);
    buffer_free(&recover.bytes);
    listing_free(&listing);
    if (code != ERROR_NONE) {
        log_recovery_free(recovery, files->storage);
    }
    return code;
}

void log_recovery_free(struct log_recovery *recovery, const struct storage *storage) {
    if (storage != NULL) {
        for (unsigned k = 0; k < recovery->n_segments; k++) {
            storage->close(storage->context, recovery->segments[k].file);
        }
        for (unsigned k = 0; k < recovery->n_spares; k++) {
            storage->close(storage->context, recovery->spares[k].file);
        }
    }
    mem_free(recovery->segments);
    recovery->segments = NULL;
    recovery->n_segments = 0;
    recovery->n_spares = 0;
}
