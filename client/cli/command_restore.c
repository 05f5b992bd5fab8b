/* restore: hands a backup to the server's program, which alone knows a node's directory. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "client/cli/commands.h"

static const char program_default[] = "invoke-kvd";

int run_restore(struct cli *cli, const struct arguments *arguments) {
    const char *config = argument_option(arguments, "node-config");
    const char *program = argument_option(arguments, "program");
    if (config == NULL) {
        return cli_fail(cli, EXIT_USAGE,
                        "restore: which node's? Name its configuration with --node-config FILE");
    }
    program = program != NULL ? program : program_default;
    int code = cli_flush(cli);
    if (code != EXIT_OK) {
        return code;
    }
    char *const words[] = {(char *)program, "restore",      arguments->words[0],
                           "--config",      (char *)config, NULL};
    execvp(program, words);
    return cli_fail(
        cli, EXIT_LOCAL,
        "cannot run %s: %s; it comes with the server, on the node's host, and --program "
        "tells where it is",
        program, strerror(errno));
}
