#include "base/slot.h"

#include "base/assert.h"

enum { CRC16_POLYNOMIAL = 0x1021 };

/* Bit by bit: project names are short, and a connection hashes its project once. */
uint16_t slot_crc16(struct slice bytes) {
    uint32_t crc = 0;
    for (size_t i = 0; i < bytes.size; i++) {
        crc ^= (uint32_t)bytes.data[i] << 8;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc & 0x8000u) != 0 ? (crc << 1) ^ CRC16_POLYNOMIAL : crc << 1;
        }
        crc &= 0xFFFFu;
    }
    return (uint16_t)crc;
}

unsigned slot_of(struct slice project) {
    return slot_crc16(project) % SLOT_COUNT;
}

unsigned slot_shard(unsigned slot, unsigned n_shards) {
    ASSERT(slot < SLOT_COUNT);
    ASSERT(n_shards > 0 && n_shards <= SLOT_COUNT);
    return slot * n_shards / SLOT_COUNT;
}

/* The least slot that slot_shard() maps to `shard`: rounded up where it rounds down. */
unsigned slot_first(unsigned shard, unsigned n_shards) {
    ASSERT(n_shards > 0 && n_shards <= SLOT_COUNT);
    ASSERT(shard <= n_shards);
    return (shard * SLOT_COUNT + n_shards - 1) / n_shards;
}
