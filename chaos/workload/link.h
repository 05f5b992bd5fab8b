/* A logical client's way to the cluster: through libinvokekv, or over a plain RESP connection to
 * one node at a time. One thread. */
#ifndef CHAOS_WORKLOAD_LINK_H
#define CHAOS_WORKLOAD_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include <invoke_kv.h>

#include "base/prng.h"
#include "chaos/workload/answer.h"

enum { LINK_WORDS = 40, LINK_COMMANDS = 20 };

struct link_nodes {
    unsigned n;
    char names[16][80]; /* HOST:PORT */
};

/* False: `text` is no list of HOST:PORT. */
bool link_nodes_parse(struct link_nodes *nodes, const char *text);

struct link;

/* Commands in words; what they point to stays the caller's. */
struct words {
    size_t n;
    ikv_bytes list[LINK_WORDS];
};

struct words words_make(size_t n, const char *const *texts);
void words_add(struct words *words, const void *data, size_t size);
void words_add_text(struct words *words, const char *text);

/* Through the library. The client belongs to the caller and must outlive the link. */
struct link *link_open_library(ikv_client *client, enum ikv_level level, uint32_t max_stale_ms,
                               uint32_t timeout_ms);
/* Over RESP, first to a node that `prng` picks. `level`: a CONSISTENCY command's arguments, or
 * NULL; kept as it is. */
struct link *link_open_resp(const struct link_nodes *nodes, struct prng *prng, const char *level,
                            uint32_t timeout_ms);
void link_free(struct link *link);
bool link_is_library(const struct link *link);
/* HOST:PORT of the node that the next command goes to; NULL with the library. */
const char *link_node(const struct link *link);
/* RESP: lets go of the connection, and goes on at another node. */
void link_move(struct link *link);
/* RESP: the same, at this node (index modulo their number). */
void link_move_to(struct link *link, unsigned node);
/* RESP: other arguments for CONSISTENCY, at the next connection. */
void link_set_level(struct link *link, const char *level);

/* Carries out a command on the project's keys. A read whose outcome is unknown has ANSWER_FAIL. */
void link_command(struct link *link, const char *project, const struct words *words, bool is_write,
                  struct answer *answer);
/* Carries all of them out in one transaction; the value is the array of their answers, or nil when
 * a watched key had changed. Over RESP keys are watched by the caller: link_command() with WATCH;
 * with the library by `versions` of `keys` (n_watched). */
void link_transaction(struct link *link, const char *project, const struct words *commands,
                      size_t n, const char *const *keys, const uint64_t *versions, size_t n_watched,
                      bool is_write, struct answer *answer);
/* A command that concerns no key, such as PROJECT CREATE. Writes are never sent twice. */
void link_admin(struct link *link, const struct words *words, bool is_write, struct answer *answer);

#endif
