/* list. */
#include "base/json.h"
#include "client/cli/keys.h"
#include "client/cli/units.h"
#include "client/cli/walk.h"

struct listing {
    struct cli *cli;
    int64_t left;
    bool with_nul;
};

/* Not an error: ends the walk. */
enum { STOP = -1 };

static int print_key(void *data, struct slice key) {
    struct listing *listing = data;
    struct cli *cli = listing->cli;
    if (listing->left == 0 || cli->out_failed) {
        return STOP;
    }
    listing->left--;
    if (cli->json) {
        cli_json_open(cli);
        cli_json_bytes(&cli->out, "key", key);
        cli_json_close(cli);
    } else if (listing->with_nul) {
        cli_put(cli, key.data, key.size);
        cli_put(cli, "", 1);
    } else {
        cli_put_readable(cli, key);
        cli_put(cli, "\n", 1);
    }
    return EXIT_OK;
}

int run_list(struct cli *cli, const struct arguments *arguments) {
    const char *limit = argument_option(arguments, "limit");
    struct listing listing = {
        .cli = cli, .left = INT64_MAX, .with_nul = argument_option(arguments, "null") != NULL};
    struct buffer prefix = {0};
    int code = EXIT_OK;
    if (limit != NULL && !units_parse_number(limit, 1, INT64_MAX, &listing.left)) {
        return cli_fail(cli, EXIT_USAGE, "--limit: '%s' is no positive number", limit);
    }
    if (arguments->n_words > 0) {
        code = key_read(cli, arguments, arguments->words[0], true, &prefix);
    }
    struct walk walk = {.prefix = buffer_slice(&prefix)};
    while (code == EXIT_OK && !walk.is_done && listing.left > 0) {
        code = walk_next(cli, &walk, print_key, &listing);
    }
    walk_free(&walk);
    buffer_free(&prefix);
    return code == STOP ? EXIT_OK : code;
}
