/* Alone in its file, so that tests can link another release: tests/next/release.c. */
#include "node/release.h"

const char *release_name(void) {
    return IKV_VERSION;
}

uint32_t release_level(void) {
    return 1;
}
