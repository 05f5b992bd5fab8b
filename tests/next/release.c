/* Takes the place of node/release.c in a server that passes for the next release, for the tests of
 * upgrades. */
#include "node/release.h"

#ifndef RELEASE_LEVEL
#define RELEASE_LEVEL 2
#endif

const char *release_name(void) {
    return "99.0.0"; /* and so does CMakeLists.txt */
}

uint32_t release_level(void) {
    return RELEASE_LEVEL;
}
