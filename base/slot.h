/* Which slot a project lives in: CRC16 (XMODEM: polynomial 0x1021, start 0) modulo 16384, the same
 * hash as in the Redis Cluster specification. */
#ifndef BASE_SLOT_H
#define BASE_SLOT_H

#include "base/bytes.h"

enum { SLOT_COUNT = 16384 };

uint16_t slot_crc16(struct slice bytes);
unsigned slot_of(struct slice project);

/* Shards own equal, contiguous slot ranges: shard i of n owns [slot_first(i), slot_first(i+1)). */
unsigned slot_shard(unsigned slot, unsigned n_shards);
unsigned slot_first(unsigned shard, unsigned n_shards);

#endif
