/* Random operations on two machines and on a plain model of what they should do. The machines get
 * the same entries in different transactions, reopen and checkpoint at different times, and one
 * reclaims cleared rows while the other keeps them; results, counts and digest must stay equal.
 *
 * Run it with a seed as its argument to repeat a failure. */
#include "tests/unit/machine_fixture.h"

#include <inttypes.h>
#include <time.h>

#include "base/prng.h"
#include "node/machine/digest.h"

enum {
    PROJECTS = 4,
    BULK = PROJECTS - 1, /* this one has keys enough for more than one purge step */
    SMALL_KEYS = 60,
    BULK_KEYS = 9000,
    OPERATIONS = 250000,
    MAX_PENDING = 12, /* entries applied in one transaction, at most */
    RECOUNT_EVERY = 400
};

struct model_row {
    bool exists;
    uint64_t expires_at_ms;
    size_t size;
    uint8_t *value;
};

struct model_project {
    bool exists;
    uint64_t id;
    uint64_t quota;
    uint64_t keys;
    uint64_t used_bytes;
    unsigned n_keys;
    struct model_row *rows;
};

struct model {
    uint64_t clock_ms;
    uint64_t n_projects;
    struct model_project projects[PROJECTS];
};

static const char *const project_names[PROJECTS] = {"alpha", "beta", "gamma", "bulk"};

static struct prng prng;
static struct model model;
static struct fixture left;
static struct fixture right;
/* What the model expects of the entries that wait for their transaction. */
static struct result *expected;
static size_t n_expected;
static size_t expected_capacity;
static struct buffer pending[MAX_PENDING];
static struct machine_entry entries[MAX_PENDING];
static unsigned n_pending;
static uint64_t operations;
/* How often the run came to what it is for. */
static uint64_t purged_rows;
static uint64_t partial_purges;
static uint64_t quota_refusals;
static uint64_t clears;

static uint64_t below(uint64_t bound) {
    return prng_below(&prng, bound);
}

static struct slice key_name(unsigned number) {
    static char names[8][24];
    static unsigned next;
    char *name = names[next++ % 8];
    int size = snprintf(name, sizeof(names[0]), "key-%05u", number);
    return slice_make(name, (size_t)size);
}

/* The model. */

static void model_drop(struct model_project *project, unsigned key) {
    struct model_row *row = &project->rows[key];
    project->keys--;
    project->used_bytes -= key_name(key).size + row->size;
    mem_free(row->value);
    *row = (struct model_row){0};
}

struct due_row {
    uint64_t expires_at_ms;
    uint64_t project_id;
    struct model_project *project;
    unsigned key;
};

static int compare_due(const void *a, const void *b) {
    const struct due_row *x = a;
    const struct due_row *y = b;
    if (x->expires_at_ms != y->expires_at_ms) {
        return x->expires_at_ms < y->expires_at_ms ? -1 : 1;
    }
    if (x->project_id != y->project_id) {
        return x->project_id < y->project_id ? -1 : 1;
    }
    return x->key < y->key ? -1 : 1;
}

static void model_advance(uint64_t now_ms) {
    static struct due_row due[BULK_KEYS + PROJECTS * SMALL_KEYS];
    size_t n = 0;
    for (unsigned p = 0; p < PROJECTS; p++) {
        struct model_project *project = &model.projects[p];
        for (unsigned k = 0; k < project->n_keys; k++) {
            const struct model_row *row = &project->rows[k];
            if (row->exists && row->expires_at_ms != 0 && row->expires_at_ms <= now_ms) {
                due[n++] = (struct due_row){row->expires_at_ms, project->id, project, k};
            }
        }
    }
    qsort(due, n, sizeof(due[0]), compare_due);
    size_t removed = n < MACHINE_PURGE_STEP ? n : MACHINE_PURGE_STEP;
    for (size_t i = 0; i < removed; i++) {
        model_drop(due[i].project, due[i].key);
    }
    purged_rows += removed;
    partial_purges += removed < n;
    model.clock_ms = removed < n ? due[removed].expires_at_ms - 1 : now_ms;
}

static uint64_t model_next_expiry(void) {
    uint64_t next_ms = 0;
    for (unsigned p = 0; p < PROJECTS; p++) {
        for (unsigned k = 0; k < model.projects[p].n_keys; k++) {
            uint64_t expires_at_ms = model.projects[p].rows[k].expires_at_ms;
            if (expires_at_ms != 0 && (next_ms == 0 || expires_at_ms < next_ms)) {
                next_ms = expires_at_ms;
            }
        }
    }
    return next_ms;
}

static uint64_t model_digest(void) {
    uint64_t digest = 0;
    for (unsigned p = 0; p < PROJECTS; p++) {
        const struct model_project *project = &model.projects[p];
        uint64_t seed = digest_seed(slice_of(project_names[p]));
        if (project->exists) {
            digest += digest_project(seed, project->quota);
        }
        for (unsigned k = 0; k < project->n_keys; k++) {
            const struct model_row *row = &project->rows[k];
            if (row->exists) {
                digest += digest_row(seed, key_name(k), slice_make(row->value, row->size),
                                     row->expires_at_ms);
            }
        }
    }
    return digest;
}

static void expect(struct result result) {
    if (n_expected == expected_capacity) {
        expected_capacity = 2 * expected_capacity + 64;
        expected = mem_realloc(expected, expected_capacity * sizeof(expected[0]));
    }
    expected[n_expected++] = result;
}

struct set {
    unsigned project;
    unsigned key;
    uint8_t *value; /* the model takes it */
    size_t size;
    unsigned flags;
    enum command_expiry mode;
    uint64_t expiry_ms;
};

/* What SET answers when nothing goes wrong. */
static struct result set_answer(const struct set *set, const struct model_row *row, bool blocked) {
    struct result result = {.kind = blocked ? RESULT_NIL : RESULT_OK};
    if (set->flags & COMMAND_FLAG_GET) {
        result.kind = row->exists ? RESULT_BULK : RESULT_NIL;
        if (row->exists) {
            buffer_append(&result.data, row->value, row->size);
        }
    }
    return result;
}

static struct result model_set(const struct set *set, uint64_t now_ms, uint64_t default_quota) {
    struct model_project *project = &model.projects[set->project];
    struct model_row *row = &project->rows[set->key];
    bool blocked = ((set->flags & COMMAND_FLAG_NX) && row->exists) ||
                   ((set->flags & COMMAND_FLAG_XX) && !row->exists);
    struct result result = set_answer(set, row, blocked);
    uint64_t expires_at_ms = 0;
    if (set->mode == COMMAND_EXPIRY_AFTER) {
        expires_at_ms = now_ms + set->expiry_ms;
    } else if (set->mode == COMMAND_EXPIRY_AT) {
        expires_at_ms = set->expiry_ms;
    } else if (set->flags & COMMAND_FLAG_KEEPTTL) {
        expires_at_ms = row->expires_at_ms;
    }
    bool in_past = set->mode != COMMAND_EXPIRY_NONE && expires_at_ms <= now_ms;
    if (blocked || in_past) {
        if (!blocked && row->exists) {
            model_drop(project, set->key);
        }
        mem_free(set->value);
        return result;
    }
    size_t key_size = key_name(set->key).size;
    uint64_t old_bytes = row->exists ? key_size + row->size : 0;
    uint64_t new_bytes = key_size + set->size;
    uint64_t quota = project->exists ? project->quota : default_quota;
    uint64_t wanted = project->used_bytes - old_bytes + new_bytes;
    if (new_bytes > old_bytes && wanted > quota) {
        mem_free(set->value);
        quota_refusals++;
        result_set_error(&result, ERROR_QUOTA, "project %s: %" PRIu64 " of %" PRIu64 " bytes",
                         project_names[set->project], wanted, quota);
        return result;
    }
    if (!project->exists) {
        project->exists = true;
        project->id = ++model.n_projects;
        project->quota = default_quota;
    }
    if (row->exists) {
        model_drop(project, set->key);
    }
    *row = (struct model_row){true, expires_at_ms, set->size, set->value};
    project->keys++;
    project->used_bytes += new_bytes;
    return result;
}

/* Random operations: each goes into the batch and through the model. */

static uint8_t *random_value(size_t *size) {
    static const size_t most[] = {20, 200, 900, 6000};
    uint64_t pick = below(100);
    *size = (size_t)below(most[pick < 60 ? 0 : pick < 85 ? 1 : pick < 97 ? 2 : 3] + 1);
    uint8_t *value = mem_alloc(*size);
    for (size_t i = 0; i < *size; i++) {
        value[i] = (uint8_t)prng_next(&prng);
    }
    return value;
}

static void put_set(struct buffer *batch, const struct set *set, uint64_t now_ms, uint64_t quota) {
    batch_set(batch, project_names[set->project], key_name(set->key),
              slice_make(set->value, set->size), set->flags, set->mode, set->expiry_ms);
    expect(model_set(set, now_ms, quota));
}

static void random_set(struct buffer *batch, uint64_t now_ms, uint64_t quota) {
    static const unsigned flags[] = {0,
                                     0,
                                     0,
                                     COMMAND_FLAG_NX,
                                     COMMAND_FLAG_XX,
                                     COMMAND_FLAG_GET,
                                     COMMAND_FLAG_KEEPTTL,
                                     COMMAND_FLAG_NX | COMMAND_FLAG_GET,
                                     COMMAND_FLAG_XX | COMMAND_FLAG_GET | COMMAND_FLAG_KEEPTTL};
    struct set set = {.project = (unsigned)below(PROJECTS)};
    set.key = (unsigned)below(model.projects[set.project].n_keys);
    set.value = random_value(&set.size);
    set.flags = flags[below(sizeof(flags) / sizeof(flags[0]))];
    if (!(set.flags & COMMAND_FLAG_KEEPTTL)) {
        set.mode = (enum command_expiry)(below(2) * below(3));
    }
    if (set.mode == COMMAND_EXPIRY_AFTER) {
        set.expiry_ms = below(4000);
    } else if (set.mode == COMMAND_EXPIRY_AT) {
        set.expiry_ms = now_ms + below(4000) - 200;
    }
    put_set(batch, &set, now_ms, quota);
}

static void random_delete(struct buffer *batch) {
    unsigned p = (unsigned)below(PROJECTS);
    struct model_project *project = &model.projects[p];
    struct slice keys[4];
    uint32_t n = 1 + (uint32_t)below(4);
    struct result result = {.kind = RESULT_INTEGER};
    for (uint32_t i = 0; i < n; i++) {
        unsigned key = (unsigned)below(project->n_keys);
        keys[i] = key_name(key);
        if (project->rows[key].exists) {
            model_drop(project, key);
            result.integer++;
        }
    }
    batch_delete(batch, project_names[p], keys, n);
    expect(result);
}

static void random_clear(struct buffer *batch) {
    unsigned p = (unsigned)below(below(8) == 0 ? PROJECTS : BULK);
    struct model_project *project = &model.projects[p];
    clears += project->keys > 0;
    for (unsigned k = 0; k < project->n_keys && project->keys > 0; k++) {
        if (project->rows[k].exists) {
            model_drop(project, k);
        }
    }
    batch_plain(batch, COMMAND_CLEAR, project_names[p]);
    expect((struct result){.kind = RESULT_OK});
}

/* A thousand keys that expire together, so that more fall due than one step removes. */
static void bulk_sets(struct buffer *batch, uint64_t now_ms, uint64_t quota) {
    static unsigned rounds;
    unsigned first = rounds++ % (BULK_KEYS / 1000) * 1000;
    uint64_t at_ms = (now_ms / 50000 + 1) * 50000;
    for (unsigned i = 0; i < 1000; i++) {
        struct set set = {.project = BULK,
                          .key = first + i,
                          .value = mem_dup("bulk", 4),
                          .size = 4,
                          .mode = COMMAND_EXPIRY_AT,
                          .expiry_ms = at_ms + i % 3};
        put_set(batch, &set, now_ms, quota);
    }
}

static void random_batch(struct buffer *batch) {
    static uint64_t time_ms = 1000;
    time_ms += below(10) == 0 ? below(3000) : below(20);
    uint64_t sent_ms = below(50) == 0 ? time_ms - below(900) : time_ms;
    bool is_bulk = operations == 0 || below(40) == 0;
    uint64_t quota = is_bulk ? UINT64_C(1) << 30 : 3000 + below(9000);
    batch_begin(batch, sent_ms, quota);
    uint64_t now_ms = sent_ms > model.clock_ms ? sent_ms : model.clock_ms;
    model_advance(now_ms);
    if (is_bulk) {
        bulk_sets(batch, now_ms, quota);
        operations += 1000;
        return;
    }
    uint64_t n = below(20);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t pick = below(1000);
        if (pick < 700) {
            random_set(batch, now_ms, quota);
        } else if (pick < 990) {
            random_delete(batch);
        } else if (pick < 995) {
            batch_plain(batch, COMMAND_FENCE, "");
            expect((struct result){.kind = RESULT_OK});
        } else {
            random_clear(batch);
        }
    }
    operations += n + 1;
}

/* Running and comparing. */

static void assert_same_result(const struct result *actual, const struct result *wanted,
                               size_t at) {
    if (actual->kind != wanted->kind || actual->code != wanted->code ||
        actual->integer != wanted->integer ||
        !slice_equal(buffer_slice(&actual->data), buffer_slice(&wanted->data))) {
        fail_msg("result %zu: kind %d, integer %" PRId64 ", %zu bytes instead of kind %d, integer "
                 "%" PRId64 ", %zu bytes",
                 at, (int)actual->kind, actual->integer, actual->data.size, (int)wanted->kind,
                 wanted->integer, wanted->data.size);
    }
}

/* Applies what is pending in transactions of random size, or in one. */
static void apply_to(struct fixture *fixture, bool at_once) {
    fixture_drop_results(fixture);
    for (unsigned i = 0; i < n_pending;) {
        unsigned n = at_once ? n_pending : 1 + (unsigned)below(n_pending - i);
        if (machine_apply(fixture->machine, entries + i, n, fixture_collect, fixture,
                          &fixture->error) != ERROR_NONE) {
            fail_msg("apply: %s", fixture->error.message);
        }
        i += n;
    }
    assert_int_equal(fixture->n_results, n_expected);
    for (size_t i = 0; i < n_expected; i++) {
        assert_same_result(&fixture->results[i], &expected[i], i);
    }
}

static void compare_state(struct fixture *fixture, uint64_t index) {
    struct machine_state state = machine_state(fixture->machine);
    uint64_t keys = 0;
    uint64_t used_bytes = 0;
    for (unsigned p = 0; p < PROJECTS; p++) {
        keys += model.projects[p].keys;
        used_bytes += model.projects[p].used_bytes;
    }
    assert_int_equal(state.applied_index, index);
    assert_int_equal(state.clock_ms, model.clock_ms);
    assert_int_equal(state.keys, keys);
    assert_int_equal(state.used_bytes, used_bytes);
    assert_int_equal(state.next_expiry_ms, model_next_expiry());
}

static void compare_reads(struct fixture *fixture) {
    for (unsigned i = 0; i < 20; i++) {
        unsigned p = (unsigned)below(PROJECTS);
        unsigned k = (unsigned)below(model.projects[p].n_keys);
        const struct model_row *row = &model.projects[p].rows[k];
        struct slice key = key_name(k);
        struct result result = fixture_read(fixture, COMMAND_GET, 0, project_names[p], &key, 1);
        if (row->exists) {
            result_assert_bulk(&result, slice_make(row->value, row->size));
        } else {
            assert_int_equal(result.kind, RESULT_NIL);
        }
        result_free(&result);
        result = fixture_read(fixture, COMMAND_PTTL, 0, project_names[p], &key, 1);
        int64_t left_ms =
            row->expires_at_ms != 0 ? (int64_t)(row->expires_at_ms - model.clock_ms) : -1;
        assert_int_equal(result.integer, row->exists ? left_ms : -2);
    }
    for (unsigned p = 0; p < PROJECTS; p++) {
        struct result usage = fixture_read(fixture, COMMAND_USAGE, 0, project_names[p], NULL, 0);
        assert_int_equal(bytes_get_u64(usage.data.data), model.projects[p].keys);
        assert_int_equal(bytes_get_u64(usage.data.data + 8), model.projects[p].used_bytes);
        assert_int_equal(bytes_get_u64(usage.data.data + 16), model.projects[p].quota);
        result_free(&usage);
    }
}

/* What a node does besides applying. */
static void housekeeping(struct fixture *fixture, bool reclaims) {
    uint64_t pick = below(40);
    if (pick == 0) {
        fixture_reopen(fixture);
    } else if (pick < 4) {
        uint64_t durable_index = 0;
        assert_int_equal(machine_checkpoint(fixture->machine, &durable_index, &fixture->error),
                         ERROR_NONE);
        assert_int_equal(durable_index, machine_state(fixture->machine).applied_index);
    } else if (pick < 12 && reclaims) {
        bool more;
        assert_int_equal(
            machine_reclaim(fixture->machine, 1 + (unsigned)below(700), &more, &fixture->error),
            ERROR_NONE);
    }
}

static void run_transaction(uint64_t *index) {
    n_pending = 1 + (unsigned)below(MAX_PENDING);
    for (unsigned i = 0; i < n_pending; i++) {
        random_batch(&pending[i]);
        entries[i] = (struct machine_entry){.index = ++*index,
                                            .term = 1,
                                            .kind = MACHINE_COMMANDS,
                                            .payload = buffer_slice(&pending[i])};
    }
    apply_to(&left, true);
    apply_to(&right, false);
    for (size_t i = 0; i < n_expected; i++) {
        result_free(&expected[i]);
    }
    n_expected = 0;
    compare_state(&left, *index);
    compare_state(&right, *index);
    assert_true(machine_state(left.machine).digest == machine_state(right.machine).digest);
}

static void compare_everything(void) {
    uint64_t digest = model_digest();
    struct fixture *fixtures[] = {&left, &right};
    for (int i = 0; i < 2; i++) {
        assert_true(machine_state(fixtures[i]->machine).digest == digest);
        compare_reads(fixtures[i]);
        fixture_recount(fixtures[i]);
    }
}

static void test_machine_follows_the_model(void **state) {
    (void)state;
    uint64_t index = 0;
    for (unsigned round = 1; operations < OPERATIONS; round++) {
        run_transaction(&index);
        housekeeping(&left, true);
        housekeeping(&right, false);
        if (round % (RECOUNT_EVERY / MAX_PENDING) == 0) {
            compare_everything();
        }
    }
    compare_everything();
    print_message("%" PRIu64 " operations in %" PRIu64 " entries; %" PRIu64
                  " rows expired, %" PRIu64 " purges left rows over, %" PRIu64
                  " refusals by quota, %" PRIu64 " clears\n",
                  operations, index, purged_rows, partial_purges, quota_refusals, clears);
    assert_true(purged_rows > 0 && partial_purges > 0 && quota_refusals > 0 && clears > 0);
}

static int setup(void **state) {
    (void)state;
    for (unsigned p = 0; p < PROJECTS; p++) {
        unsigned n_keys = p == BULK ? BULK_KEYS : SMALL_KEYS;
        model.projects[p].n_keys = n_keys;
        model.projects[p].rows = mem_zalloc(n_keys, sizeof(struct model_row));
    }
    fixture_make(&left);
    fixture_make(&right);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_destroy(&left);
    fixture_destroy(&right);
    for (unsigned p = 0; p < PROJECTS; p++) {
        for (unsigned k = 0; k < model.projects[p].n_keys; k++) {
            mem_free(model.projects[p].rows[k].value);
        }
        mem_free(model.projects[p].rows);
    }
    for (unsigned i = 0; i < MAX_PENDING; i++) {
        buffer_free(&pending[i]);
    }
    mem_free(expected);
    return 0;
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
    print_message("seed %" PRIu64 "\n", seed);
    prng_seed(&prng, seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_machine_follows_the_model, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
