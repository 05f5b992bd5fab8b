/* Bytes of one file of the chaos disk: as programs see them, and as they would be after a power
 * loss.
 *
 * What was written since the last sync is kept apart by sectors of 512 bytes: on a power loss each
 * of them survives or not, and so does the file's new length. Everything is in memory; pieces that
 * were never written take none.
 *
 * No I/O, no clock; the caller serialises calls. */
#ifndef CHAOS_FS_CONTENTS_H
#define CHAOS_FS_CONTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/prng.h"

enum { SECTOR_SIZE = 512, PIECE_SECTORS = 32, PIECE_SIZE = SECTOR_SIZE * PIECE_SECTORS };

/* 16 KiB of a file. A NULL pointer stands for zeros. */
struct piece {
    uint8_t *data;
    uint8_t *durable; /* as of the last sync; its sectors count that are dirty */
    uint32_t dirty;   /* sectors written since the last sync, one bit each */
};

struct contents {
    struct piece *pieces;
    size_t n_pieces;
    uint64_t size; /* bytes */
    uint64_t durable_size;
};

/* What a power loss did. */
struct crash_count {
    uint64_t unsynced; /* sectors that were written and not synced */
    uint64_t lost;     /* of those, sectors that are as before */
    uint64_t names;    /* changes of names that were not synced */
    uint64_t names_lost;
};

/* How much of what is not synced survives, in thousandths; CRASH_DRAWN: drawn for each file anew,
 * so that one file keeps everything and another one nothing. */
enum { CRASH_SURVIVE_NONE = 0, CRASH_SURVIVE_ALL = 1000, CRASH_DRAWN = -1 };

void contents_free(struct contents *contents);
/* Writes `size` bytes at `offset`; the file grows as needed. */
void contents_write(struct contents *contents, const void *data, size_t size, uint64_t offset);
/* Reads up to `size` bytes; returns how many there are. */
size_t contents_read(const struct contents *contents, void *data, size_t size, uint64_t offset);
/* Cuts the file or lengthens it with zeros. */
void contents_resize(struct contents *contents, uint64_t size);
/* From here on a power loss keeps what the file is now. */
void contents_sync(struct contents *contents);
bool contents_is_durable(const struct contents *contents);
/* The power fails: the file becomes what the disk had. */
void contents_crash(struct contents *contents, struct prng *prng, int survive,
                    struct crash_count *count);

#endif
