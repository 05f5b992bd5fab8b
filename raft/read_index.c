#include "raft/read_index.h"

#include "base/assert.h"

void read_index_reset(struct read_index *reads) {
    /* The number of a round that was waited for but not confirmed is never used again. */
    reads->started = reads->wanted > reads->started ? reads->wanted : reads->started;
    reads->wanted = reads->started;
    reads->under_way = false;
    reads->n_acks = 0;
}

uint64_t read_index_join(struct read_index *reads) {
    /* Always a round that has not been sent yet: an answer to one under way may have left its voter
     * before this read arrived. */
    reads->wanted = reads->started + 1;
    return reads->wanted;
}

bool read_index_start(struct read_index *reads) {
    if (reads->wanted <= reads->started || reads->under_way) {
        return false;
    }
    reads->started++;
    reads->under_way = true;
    ASSERT(reads->wanted == reads->started);
    return true;
}

bool read_index_is_waiting(const struct read_index *reads) {
    return reads->under_way;
}

static uint64_t acked_round(const struct read_index *reads, uint64_t node) {
    for (unsigned i = 0; i < reads->n_acks; i++) {
        if (reads->acks[i].node == node) {
            return reads->acks[i].round;
        }
    }
    return 0;
}

static void note_ack(struct read_index *reads, uint64_t node, uint64_t round) {
    for (unsigned i = 0; i < reads->n_acks; i++) {
        if (reads->acks[i].node == node) {
            if (reads->acks[i].round < round) {
                reads->acks[i].round = round;
            }
            return;
        }
    }
    if (reads->n_acks < LIMIT_NODES) {
        reads->acks[reads->n_acks].node = node;
        reads->acks[reads->n_acks].round = round;
        reads->n_acks++;
    }
}

bool read_index_check(struct read_index *reads, const uint64_t *voters, unsigned n_voters,
                      uint64_t self) {
    if (!read_index_is_waiting(reads)) {
        return false;
    }
    unsigned answered = 0;
    for (unsigned i = 0; i < n_voters; i++) {
        if (voters[i] == self || acked_round(reads, voters[i]) >= reads->started) {
            answered++;
        }
    }
    if (answered <= n_voters / 2) {
        return false;
    }
    reads->confirmed = reads->started;
    reads->under_way = false;
    return true;
}

bool read_index_ack(struct read_index *reads, uint64_t node, uint64_t round, const uint64_t *voters,
                    unsigned n_voters, uint64_t self) {
    if (round > reads->started) {
        return false; /* never asked */
    }
    note_ack(reads, node, round);
    return read_index_check(reads, voters, n_voters, self);
}
