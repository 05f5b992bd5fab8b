/* The history that a run writes; format: docs/chaos.md, section "History". */
#ifndef CHAOS_WORKLOAD_RECORD_H
#define CHAOS_WORKLOAD_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

struct record;

/* Opens a new file; NULL with a message on stderr when that fails. */
struct record *record_open(const char *path);
/* Writes what is left. False when not all of the history is in the file. */
bool record_close(struct record *record);
/* Hands what was written to the system. */
void record_flush(struct record *record);
/* A line without its end; all threads. When the disk refuses it the process ends: a history with
 * holes is worth nothing. */
void record_write(struct record *record, struct slice line);

/* ns of CLOCK_MONOTONIC. */
uint64_t clock_now(void);

#endif
