#include "node/release.h"

bool release_is_neighbour(uint32_t level, uint32_t other) {
    return level >= other ? level - other <= 1 : other - level <= 1;
}
