#include "client/cli/walk.h"

enum { PORTION = 1000 };

static int tell(struct cli *cli, struct walk *walk, const ikv_value *keys,
                int (*each)(void *data, struct slice key), void *data) {
    struct slice before = slice_make(NULL, 0);
    for (size_t i = 0; i < keys->size; i++) {
        struct slice key = cli_slice(&keys->elements[i]);
        if (i > 0 && slice_compare(before, key) >= 0) {
            /* Skipping would lose keys if they came in another order. */
            return cli_fail(cli, EXIT_UNREACHABLE, "the server's SCAN answers keys out of order");
        }
        before = key;
        if (walk->has_last && slice_compare(key, buffer_slice(&walk->last)) <= 0) {
            continue;
        }
        int code = each(data, key);
        if (code != EXIT_OK) {
            return code;
        }
        walk->has_last = true;
        walk->last.size = 0;
        buffer_append_slice(&walk->last, key);
    }
    return EXIT_OK;
}

int walk_next(struct cli *cli, struct walk *walk, int (*each)(void *data, struct slice key),
              void *data) {
    ikv_reply *reply = NULL;
    uint64_t next = 0;
    int error = ikv_list(cli->project, ikv_bytes_of(walk->prefix.data, walk->prefix.size),
                         walk->cursor, PORTION, 0, &next, &reply);
    if (error != IKV_OK) {
        int code = cli_fail_reply(cli, error, reply, NULL);
        ikv_reply_free(reply);
        return code;
    }
    int code = tell(cli, walk, ikv_reply_value(reply), each, data);
    ikv_reply_free(reply);
    walk->cursor = next;
    walk->is_done = next == 0;
    return code;
}

void walk_free(struct walk *walk) {
    buffer_free(&walk->last);
}
