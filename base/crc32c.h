/* CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected), as in RFC 3720 section B.4. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Checksum of `size` bytes, continuing from `crc` (0 to start). Uses the CPU's instruction where
 * there is one. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

/* The same by table, for tests of the fast path and for CPUs without the instruction. */
uint32_t crc32c_table(uint32_t crc, const void *data, size_t size);

#endif
