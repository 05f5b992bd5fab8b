/* Whatever a file says, parsing ends with a valid configuration or a message that names a line. */
#include <stdlib.h>

#include "node/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct config config;
    struct error error = {0};
    config_init(&config);
    if (config_parse(&config, "fuzz.conf", slice_make(data, size), &error) != ERROR_NONE) {
        if (memcmp(error.message, "fuzz.conf:", 10) != 0) {
            abort();
        }
        return 0;
    }
    if (config_finish(&config, &error) != ERROR_NONE) {
        return 0;
    }
    if (config.n_nodes < 1 || config.n_nodes > LIMIT_NODES || config.shards < 1 ||
        config.shards > LIMIT_SHARDS || config.max_value > LIMIT_VALUE_SIZE_MAX ||
        config.listen.port == 0 || config_find_node(&config, config.node_id) == NULL) {
        abort();
    }
    return 0;
}
