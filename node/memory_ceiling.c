#include "node/memory_ceiling.h"

/* Sixteenths of the ceiling. */
enum { WRITES_BEGIN = 11, WRITES_END = 12, READS_BEGIN = 13, READS_END = 14, PARTS = 16 };

void memory_ceiling_init(struct memory_ceiling *ceiling, uint64_t max) {
    *ceiling = (struct memory_ceiling){.max = max, .level = MEMORY_ENOUGH};
}

uint64_t memory_ceiling_used(const struct memory_ceiling *ceiling, uint64_t counted) {
    /* What was freed since may still be resident: it counts from the next measurement on. */
    uint64_t more = counted > ceiling->counted ? counted - ceiling->counted : 0;
    return ceiling->resident + more;
}

void memory_ceiling_measure(struct memory_ceiling *ceiling, uint64_t resident, uint64_t counted,
                            uint64_t expected) {
    ceiling->resident = resident;
    ceiling->counted = counted;
    (void)memory_ceiling_level(ceiling, counted, expected);
}

static bool is_over(const struct memory_ceiling *ceiling, uint64_t used, unsigned begins,
                    unsigned ends, bool was_over) {
    return used >= ceiling->max / PARTS * (was_over ? begins : ends);
}

enum memory_level memory_ceiling_level(struct memory_ceiling *ceiling, uint64_t counted,
                                       uint64_t expected) {
    if (ceiling->max == 0) {
        return MEMORY_ENOUGH;
    }
    uint64_t used = memory_ceiling_used(ceiling, counted) + expected;
    if (is_over(ceiling, used, READS_BEGIN, READS_END, ceiling->level >= MEMORY_NO_DATA)) {
        ceiling->level = MEMORY_NO_DATA;
    } else if (is_over(ceiling, used, WRITES_BEGIN, WRITES_END,
                       ceiling->level >= MEMORY_NO_WRITES)) {
        ceiling->level = MEMORY_NO_WRITES;
    } else {
        ceiling->level = MEMORY_ENOUGH;
    }
    return ceiling->level;
}
