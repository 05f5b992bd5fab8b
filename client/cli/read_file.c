#include "client/cli/read_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 64 * 1024 };

static bool is_stdin(const char *path) {
    return path == NULL || strcmp(path, "-") == 0;
}

int file_open(const struct cli *cli, const char *path, int *file, uint64_t *size) {
    struct stat status;
    *size = 0;
    *file = is_stdin(path) ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (*file < 0) {
        return cli_fail(cli, EXIT_LOCAL, "cannot read %s: %s", path, strerror(errno));
    }
    if (fstat(*file, &status) == 0) {
        if (S_ISDIR(status.st_mode)) {
            return cli_fail(cli, EXIT_LOCAL, "%s is a directory", is_stdin(path) ? "-" : path);
        }
        *size = S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
    }
    return EXIT_OK;
}

ssize_t file_read(int file, void *data, size_t size) {
    ssize_t n;
    do {
        n = read(file, data, size);
    } while (n < 0 && errno == EINTR && !cli_interrupted);
    return n;
}

int file_read_all(const struct cli *cli, const char *path, size_t max, struct buffer *out) {
    int file;
    uint64_t size;
    int code = file_open(cli, path, &file, &size);
    const char *name = is_stdin(path) ? "standard input" : path;
    ssize_t n = 1;
    while (code == EXIT_OK && n > 0) {
        buffer_reserve(out, PIECE);
        n = file_read(file, out->data + out->size, PIECE);
        if (n < 0) {
            code = cli_fail(cli, EXIT_LOCAL, "cannot read %s: %s", name, strerror(errno));
        }
        out->size += n > 0 ? (size_t)n : 0;
        if (out->size > max) {
            code = cli_fail(cli, EXIT_LOCAL,
                            "%s is larger than %zu bytes, the most that a value "
                            "can have",
                            name, max);
        }
    }
    if (file > STDIN_FILENO) {
        close(file);
    }
    return code;
}
