#include "node/cluster_time.h"

#include <stdlib.h>

#include "base/assert.h"

void cluster_time_init(struct cluster_time *clock, uint64_t clock_ms, uint64_t now_ms) {
    *clock = (struct cluster_time){.base_ms = clock_ms, .base_mono = now_ms, .floor_ms = clock_ms};
}

uint64_t cluster_time_estimate(const struct cluster_time *clock, uint64_t now_ms) {
    uint64_t passed_ms = now_ms > clock->base_mono ? now_ms - clock->base_mono : 0;
    return clock->base_ms + passed_ms;
}

uint64_t cluster_time_by_wall(uint64_t wall_ms, int64_t offset_ms) {
    if (offset_ms > CLUSTER_TIME_OFFSET_MAX_MS || offset_ms < -CLUSTER_TIME_OFFSET_MAX_MS) {
        return wall_ms;
    }
    if (offset_ms < 0) {
        uint64_t behind_ms = (uint64_t)-offset_ms;
        return wall_ms > behind_ms ? wall_ms - behind_ms : 0;
    }
    uint64_t ahead_ms = (uint64_t)offset_ms;
    return wall_ms < UINT64_MAX - ahead_ms ? wall_ms + ahead_ms : UINT64_MAX;
}

static void advance_to(struct cluster_time *clock, uint64_t time_ms, uint64_t now_ms) {
    if (time_ms >= cluster_time_estimate(clock, now_ms)) {
        clock->base_ms = time_ms;
        clock->base_mono = now_ms;
    }
}

void cluster_time_observe(struct cluster_time *clock, uint64_t time_ms, uint64_t now_ms) {
    clock->floor_ms = time_ms > clock->floor_ms ? time_ms : clock->floor_ms;
    advance_to(clock, time_ms, now_ms);
}

static void fall_to(struct cluster_time *clock, uint64_t time_ms, uint64_t now_ms) {
    clock->base_ms = time_ms > clock->floor_ms ? time_ms : clock->floor_ms;
    clock->base_mono = now_ms;
}

/* Only whole milliseconds, so that none are lost however often the leader tells the time. */
static void leak(struct cluster_time *clock, uint64_t now_ms) {
    uint64_t passed_ms = now_ms > clock->base_mono ? now_ms - clock->base_mono : 0;
    uint64_t counted_ms = passed_ms < CLUSTER_TIME_SILENCE_MS ? passed_ms : CLUSTER_TIME_SILENCE_MS;
    if (counted_ms >= CLUSTER_TIME_LEAK) {
        uint64_t leaked_ms = counted_ms / CLUSTER_TIME_LEAK;
        fall_to(clock, cluster_time_estimate(clock, now_ms) - leaked_ms, now_ms);
    }
}

void cluster_time_follow(struct cluster_time *clock, uint64_t time_ms, uint64_t age_max_ms,
                         uint64_t now_ms) {
    leak(clock, now_ms);
    uint64_t latest_ms = age_max_ms < UINT64_MAX - time_ms ? time_ms + age_max_ms : UINT64_MAX;
    if (cluster_time_estimate(clock, now_ms) > latest_ms) {
        fall_to(clock, latest_ms, now_ms);
    }
    advance_to(clock, time_ms, now_ms);
    clock->anchored = true;
}

void cluster_time_open(struct cluster_time *clock, uint64_t now_ms) {
    clock->opening = true;
    clock->opening_since_ms = now_ms;
    clock->n_samples = 0;
}

void cluster_time_abandon(struct cluster_time *clock) {
    clock->opening = false;
    clock->n_samples = 0;
}

void cluster_time_sample(struct cluster_time *clock, const struct cluster_time_sample *sample) {
    if (!clock->opening) {
        return;
    }
    for (unsigned i = 0; i < clock->n_samples; i++) {
        if (clock->samples[i].node == sample->node) {
            clock->samples[i] = *sample;
            return;
        }
    }
    if (clock->n_samples < LIMIT_NODES) {
        clock->samples[clock->n_samples++] = *sample;
    }
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Lower median: with two answers that differ, the smaller, so that one clock that is ahead cannot
 * kill keys. */
static uint64_t median_wall(const struct cluster_time *clock) {
    uint64_t walls[LIMIT_NODES] = {0};
    ASSERT(clock->n_samples > 0);
    for (unsigned i = 0; i < clock->n_samples; i++) {
        walls[i] = clock->samples[i].wall_ms;
    }
    qsort(walls, clock->n_samples, sizeof walls[0], compare_u64);
    return walls[(clock->n_samples - 1) / 2];
}

bool cluster_time_settle(struct cluster_time *clock, unsigned n_voters, uint64_t now_ms) {
    if (!clock->opening) {
        return true;
    }
    /* This replica may have followed a leader, or applied its entries, since its own sample. */
    bool anchored = clock->anchored;
    uint64_t largest_ms = 0;
    for (unsigned i = 0; i < clock->n_samples; i++) {
        const struct cluster_time_sample *sample = &clock->samples[i];
        anchored = anchored || sample->anchored;
        if (sample->time_ms > largest_ms) {
            largest_ms = sample->time_ms;
        }
    }
    if (clock->n_samples <= n_voters / 2) {
        return false;
    }
    bool all = clock->n_samples >= n_voters;
    bool waited = now_ms >= clock->opening_since_ms + CLUSTER_TIME_WAIT_MS;
    if (!anchored && !all && !waited) {
        return false;
    }
    advance_to(clock, largest_ms, now_ms);
    if (!anchored) {
        advance_to(clock, median_wall(clock), now_ms);
    }
    clock->anchored = true;
    clock->opening = false;
    return true;
}
