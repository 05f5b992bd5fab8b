/* Whatever a configuration file of the command line says, it is read or a message names a line. */
#include <stdlib.h>

#include "client/cli/node_info.h"
#include "client/cli/settings.h"
#include "client/cli/units.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct settings settings = {.origins = {FROM_NOWHERE}};
    struct error error = {0};
    if (settings_parse(&settings, "fuzz.conf", slice_make(data, size), &error) != ERROR_NONE &&
        memcmp(error.message, "fuzz.conf:", 10) != 0) {
        abort();
    }
    settings_free(&settings);
    static struct node_info node;
    node_info_parse(&node, slice_make(data, size));
    char text[64] = "";
    int64_t ms;
    uint64_t bytes;
    if (size > 0) {
        memcpy(text, data, size < sizeof text - 1 ? size : sizeof text - 1);
    }
    if (units_parse_duration(text, &ms) && (ms <= 0 || ms > UNITS_DURATION_MAX_MS)) {
        abort();
    }
    (void)units_parse_size(text, &bytes);
    return 0;
}
