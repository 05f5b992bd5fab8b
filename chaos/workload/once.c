#include "chaos/workload/once.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

enum { PATIENCE_S = 15 };

static bool open_session(struct client *client, struct once *once, const char *project) {
    struct words words = words_make(2, (const char *const[]){"ONCE", "OPEN"});
    if (once->id[0] != '\0') {
        return true;
    }
    /* One that was opened without our knowing expires by itself. */
    link_command(client->link, project, &words, false, &client->answer);
    if (client->answer.outcome != ANSWER_OK || client->answer.value.type != ANSWER_TEXT ||
        client->answer.value.size >= sizeof once->id) {
        client->answer.outcome = ANSWER_FAIL;
        return false;
    }
    (void)snprintf(once->id, sizeof once->id, "%s", (const char *)client->answer.value.data);
    once->number = 0;
    return true;
}

/* Answers that are about the attempt, not about the write: it is to be sent again. */
static bool is_of_attempt(const struct answer *answer) {
    static const char *const prefixes[] = {"NOLEADER", "BUSY", "NOSPACE", "cannot connect",
                                           "connection lost"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if (strncmp(answer->message, prefixes[i], strlen(prefixes[i])) == 0) {
            return true;
        }
    }
    return answer->outcome == ANSWER_UNKNOWN;
}

void once_command(struct client *client, struct once *once, const char *project,
                  const struct words *words) {
    uint64_t give_up = clock_now() + PATIENCE_S * UINT64_C(1000000000);
    char number[32];
    bool is_open = false; /* whether an attempt may have had its effect */
    if (!open_session(client, once, project)) {
        return;
    }
    (void)snprintf(number, sizeof number, "%" PRIu64, ++once->number);
    struct words numbered =
        words_make(5, (const char *const[]){"ONCE", once->id, number, "DONE", number});
    for (size_t i = 0; i < words->n; i++) {
        words_add(&numbered, words->list[i].data, words->list[i].size);
    }
    for (;;) {
        link_command(client->link, project, &numbered, true, &client->answer);
        is_open = is_open || client->answer.outcome == ANSWER_UNKNOWN;
        if (client->answer.outcome == ANSWER_OK || !is_of_attempt(&client->answer) ||
            clock_now() > give_up) {
            break;
        }
        link_move(client->link);
        (void)poll(NULL, 0, 50);
    }
    if (strncmp(client->answer.message, "NOSESSION", 9) == 0) {
        once->id[0] = '\0';
    }
    if (client->answer.outcome == ANSWER_FAIL && is_open &&
        (is_of_attempt(&client->answer) || once->id[0] == '\0')) {
        client->answer.outcome = ANSWER_UNKNOWN; /* that of an earlier attempt */
    }
}
