#include "chaos/workload/record.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"

struct record {
    pthread_mutex_t lock;
    FILE *file;
    const char *path;
};

uint64_t clock_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

struct record *record_open(const char *path) {
    struct record *record = mem_zalloc(1, sizeof *record);
    record->path = path;
    record->file = fopen(path, "wbe");
    if (record->file == NULL) {
        fprintf(stderr, "chaos-workload: cannot write %s: %s\n", path, strerror(errno));
        mem_free(record);
        return NULL;
    }
    (void)setvbuf(record->file, NULL, _IOFBF, 1 << 20);
    (void)pthread_mutex_init(&record->lock, NULL);
    return record;
}

static _Noreturn void give_up(const struct record *record) {
    fprintf(stderr, "chaos-workload: cannot write %s: %s\n", record->path, strerror(errno));
    _Exit(2);
}

bool record_close(struct record *record) {
    bool good = fclose(record->file) == 0;
    (void)pthread_mutex_destroy(&record->lock);
    mem_free(record);
    return good;
}

void record_flush(struct record *record) {
    (void)pthread_mutex_lock(&record->lock);
    if (fflush(record->file) != 0) {
        give_up(record);
    }
    (void)pthread_mutex_unlock(&record->lock);
}

void record_write(struct record *record, struct slice line) {
    (void)pthread_mutex_lock(&record->lock);
    if (fwrite(line.data, 1, line.size, record->file) != line.size ||
        fputc('\n', record->file) == EOF) {
        give_up(record);
    }
    (void)pthread_mutex_unlock(&record->lock);
}
