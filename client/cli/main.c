/* invoke-kv, the command line of invoke-kv. */
#include <signal.h>
#include <stdlib.h>

#include "client/cli/commands.h"

static int read_settings(struct cli *cli, const struct invocation *invocation) {
    struct error error = {0};
    bool others_can_read = false;
    const char *path = invocation->config != NULL ? invocation->config : getenv("INVOKE_KV_CONFIG");
    settings_read_environment(&cli->settings, getenv);
    if (settings_read_file(&cli->settings, path, &others_can_read, &error) != ERROR_NONE) {
        return cli_fail(cli, EXIT_USAGE, "%s", error.message);
    }
    if (others_can_read && cli->settings.origins[SETTING_TOKEN] == FROM_FILE) {
        cli_note(cli, "invoke-kv: others can read the token in the configuration file; chmod 600");
    }
    return EXIT_OK;
}

static int run(struct cli *cli, const struct invocation *invocation) {
    if (invocation->version) {
        cli_print(cli, "invoke-kv %s\n", ikv_version());
        return EXIT_OK;
    }
    if (invocation->help) {
        help_print(cli, invocation->command);
        return EXIT_OK;
    }
    if (invocation->command->is_local) {
        return invocation->command->run(cli, &invocation->arguments);
    }
    int code = read_settings(cli, invocation);
    if (code == EXIT_OK) {
        code = cli_connect(cli);
    }
    return code == EXIT_OK ? invocation->command->run(cli, &invocation->arguments) : code;
}

int main(int argc, char **argv) {
    struct cli cli = {0};
    struct invocation invocation;
    signal(SIGPIPE, SIG_IGN);
    int code = command_line_read(&cli, argc, argv, &invocation);
    if (code == EXIT_OK) {
        code = run(&cli, &invocation);
    }
    int flushed = cli_flush(&cli);
    cli_close(&cli);
    return code != EXIT_OK ? code : flushed;
}
