/* docs/acl.md has the whole table of who may give which command, and no other. That the node keeps
 * to it is tested by tests/integration/test_acl.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "node/acl.h"
#include "node/resp_commands.h"

static void read_page(struct buffer *page) {
    FILE *file = fopen(SOURCE_DIR "/docs/acl.md", "r");
    char piece[4096];
    size_t size;
    assert_non_null(file);
    while ((size = fread(piece, 1, sizeof piece, file)) > 0) {
        buffer_append(page, piece, size);
    }
    fclose(file);
    buffer_put_u8(page, '\0');
}

static void test_the_page_has_this_table(void **state) {
    (void)state;
    struct buffer page = {0};
    struct buffer table = {0};
    read_page(&page);
    buffer_append_slice(&table, slice_of("|---|---|---|---|---|---|---|\n"));
    acl_describe(&table);
    buffer_append_slice(&table, slice_of("\n"));
    buffer_put_u8(&table, '\0');
    if (strstr((const char *)page.data, (const char *)table.data) == NULL) {
        printf("The rows of docs/acl.md must be:\n%s", (const char *)table.data);
        fail_msg("docs/acl.md has other rows than those printed above, or no empty line behind "
                 "them; tests/integration/test_acl.py needs an example of each new command");
    }
    buffer_free(&page);
    buffer_free(&table);
}

/* What no change of a flag may bring about. */
static void check(const struct verb *verb) {
    assert_int_equal(acl_permission(ACL_OPEN, verb), PERMISSION_GIVEN);
    assert_int_equal(acl_permission(ACL_ADMIN, verb), PERMISSION_GIVEN);
    assert_int_not_equal(acl_permission(ACL_NONE, verb), PERMISSION_NOPERM);
    /* Who shows more may do more. */
    for (unsigned role = ACL_READER; role < ACL_ADMIN; role++) {
        assert_int_not_equal(acl_permission((enum acl_role)role, verb), PERMISSION_NOAUTH);
        if (acl_permission((enum acl_role)role, verb) == PERMISSION_GIVEN) {
            assert_int_equal(acl_permission((enum acl_role)(role + 1), verb), PERMISSION_GIVEN);
        }
    }
}

static void test_roles_build_on_each_other(void **state) {
    (void)state;
    unsigned count;
    const struct verb *verbs = verb_table(&count);
    for (unsigned i = 0; i < count; i++) {
        check(&verbs[i]);
        for (unsigned j = 0; j < verbs[i].n_subcommands; j++) {
            check(&verbs[i].subcommands[j]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_page_has_this_table),
        cmocka_unit_test(test_roles_build_on_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
