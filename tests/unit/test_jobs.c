/* Jobs of the state machine threads, run by hand against a real machine. */
#include "node/jobs.h"
#include "tests/unit/machine_fixture.h"

enum { SELF = 2, OTHER = 3 };
#define BOOT UINT64_C(77)
#define START_MS UINT64_C(1000)

static struct fixture *make(void) {
    struct fixture *f = mem_zalloc(1, sizeof *f);
    fixture_make(f);
    return f;
}

static int setup(void **state) {
    *state = make();
    return 0;
}

static int teardown(void **state) {
    fixture_destroy(*state);
    mem_free(*state);
    return 0;
}

static struct payload *batch_of(uint64_t time_ms, uint32_t node, uint64_t boot, uint64_t sequence,
                                const char *key, const char *value) {
    struct buffer encoded = {0};
    struct buffer batch = {0};
    struct command command = {.kind = COMMAND_SET, .project = slice_of("p")};
    struct slice args[2] = {slice_of(key), slice_of(value)};
    struct command_origin origin = {.node = node, .boot = boot, .sequence = sequence};
    command_encode(&encoded, &command, args, 2);
    command_batch_begin(&batch, time_ms, FIXTURE_QUOTA);
    command_batch_add(&batch, origin, buffer_slice(&encoded));
    struct payload *payload = payload_copy(buffer_slice(&batch));
    buffer_free(&encoded);
    buffer_free(&batch);
    return payload;
}

static void never_done(struct job *job) {
    (void)job;
}

static struct job *apply_job(unsigned capacity, uint64_t answer_term) {
    struct job *job = job_new(JOB_APPLY, 0, never_done, NULL);
    job->entries = mem_zalloc(capacity, sizeof *job->entries);
    job->self = SELF;
    job->boot = BOOT;
    job->answer_term = answer_term;
    return job;
}

/* Takes over the payload. */
static void add(struct job *job, uint64_t index, uint64_t term, struct payload *payload) {
    job->entries[job->n_entries++] = (struct job_entry){
        .index = index, .term = term, .kind = MACHINE_COMMANDS, .payload = payload};
}

static void run(struct fixture *f, struct job *job) {
    job_run(job, &f->machine, &f->options);
}

/* Results are kept for commands of this node and boot, and for others' in the term asked for. */
static void test_results_that_somebody_waits_for(void **state) {
    struct fixture *f = *state;
    struct job *job = apply_job(8, 5);
    add(job, 1, 4, batch_of(START_MS, SELF, BOOT, 10, "a", "v"));
    add(job, 2, 4, batch_of(START_MS, SELF, BOOT - 1, 11, "b", "v")); /* an earlier boot */
    add(job, 3, 4, batch_of(START_MS, OTHER, 1, 12, "c", "v"));       /* an earlier term */
    add(job, 4, 5, batch_of(START_MS, OTHER, 1, 13, "d", "v"));
    add(job, 5, 5, batch_of(START_MS, 0, 0, 0, "e", "v")); /* nobody's */
    add(job, 6, 5, batch_of(START_MS + 7, SELF, BOOT, 14, "f", "v"));
    run(f, job);
    assert_int_equal(job->code, ERROR_NONE);
    assert_int_equal(job->state.applied_index, 6);
    assert_int_equal(job->state.applied_term, 5);
    assert_int_equal(job->state.keys, 6);
    assert_int_equal(job->batch_time_ms, START_MS + 7);
    assert_int_equal(job->n_results, 3);
    const uint64_t sequences[] = {10, 13, 14};
    const uint64_t terms[] = {4, 5, 5};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(job->results[i].origin.sequence, sequences[i]);
        assert_int_equal(job->results[i].term, terms[i]);
        assert_int_equal(job->results[i].result.kind, RESULT_OK);
    }
    job_free(job);
}

/* A digest is taken at the same indexes however the entries are cut into jobs. */
static void test_digests_do_not_depend_on_the_jobs(void **state) {
    struct fixture *f = *state;
    struct fixture *g = make();
    struct job_digest one = {0};
    struct job_digest two = {0};
    const uint64_t n = JOB_DIGEST_EVERY + 100;
    struct job *whole = apply_job((unsigned)n, 0);
    for (uint64_t index = 1; index <= n; index++) {
        char key[16];
        snprintf(key, sizeof key, "key-%u", (unsigned)(index % 50));
        add(whole, index, 1, batch_of(START_MS, OTHER, 1, index, key, "v"));
        struct job *single = apply_job(1, 0);
        add(single, index, 1, batch_of(START_MS, OTHER, 1, index, key, "v"));
        run(g, single);
        assert_int_equal(single->code, ERROR_NONE);
        two = single->digest.index > 0 ? single->digest : two;
        job_free(single);
    }
    run(f, whole);
    one = whole->digest;
    assert_int_equal(whole->state.applied_index, n);
    assert_int_equal(one.index, JOB_DIGEST_EVERY);
    assert_int_equal(two.index, JOB_DIGEST_EVERY);
    assert_int_equal(one.digest, two.digest);
    assert_int_not_equal(one.digest, 0);
    job_free(whole);
    fixture_destroy(g);
    mem_free(g);
}

/* A job behind one that failed is not applied out of turn. */
static void test_entries_out_of_turn_wait(void **state) {
    struct fixture *f = *state;
    struct job *job = apply_job(1, 0);
    add(job, 2, 1, batch_of(START_MS, SELF, BOOT, 1, "a", "v"));
    run(f, job);
    assert_int_equal(job->code, ERROR_NOSPACE);
    assert_int_equal(job->n_results, 0);
    assert_int_equal(job->state.applied_index, 0);
    job_free(job);
}

static struct buffer get_command(const char *key) {
    struct buffer out = {0};
    struct command command = {.kind = COMMAND_GET, .project = slice_of("p")};
    struct slice args[1] = {slice_of(key)};
    command_encode(&out, &command, args, 1);
    return out;
}

static void apply_one(struct fixture *f, uint64_t index, const char *key, const char *value) {
    struct job *job = apply_job(1, 0);
    add(job, index, 1, batch_of(START_MS, 0, 0, 0, key, value));
    run(f, job);
    assert_int_equal(job->code, ERROR_NONE);
    job_free(job);
}

static void test_reads(void **state) {
    struct fixture *f = *state;
    apply_one(f, 1, "key", "value");
    enum { READS = 40 };
    struct buffer commands[READS];
    struct job *job = job_new(JOB_READ, 0, never_done, NULL);
    for (unsigned i = 0; i < READS; i++) {
        commands[i] = get_command(i % 2 == 0 ? "key" : "missing");
        job_add_read(job, buffer_slice(&commands[i]), i % 2, &commands[i]);
    }
    assert_int_equal(job->read_index, 1);
    job_read_abandon(&job->reads[0], &commands[0]);
    assert_int_equal(commands[0].size, 0);
    run(f, job);
    assert_false(job->behind);
    assert_null(job->reads[0].data);
    for (unsigned i = 0; i < READS; i++) {
        assert_int_equal(job->reads[i].result.kind, i % 2 == 0 ? RESULT_BULK : RESULT_NIL);
        buffer_free(&commands[i]);
    }
    job_free(job);
}

/* A machine that is behind what a read must see reads nothing. */
static void test_reads_ahead_of_the_machine(void **state) {
    struct fixture *f = *state;
    apply_one(f, 1, "key", "value");
    struct buffer command = get_command("key");
    struct job *job = job_new(JOB_READ, 0, never_done, NULL);
    job_add_read(job, buffer_slice(&command), 2, &command);
    run(f, job);
    assert_true(job->behind);
    assert_int_equal(job->reads[0].result.data.size, 0);
    job_free(job);
    buffer_free(&command);
}

static void apply_config(struct fixture *f, uint64_t index, const char *config) {
    struct job *job = apply_job(1, 0);
    job->entries[job->n_entries++] = (struct job_entry){.index = index,
                                                        .term = 1,
                                                        .kind = MACHINE_CONFIG,
                                                        .payload = payload_copy(slice_of(config))};
    run(f, job);
    assert_int_equal(job->code, ERROR_NONE);
    job_free(job);
}

static struct job *run_simple(struct fixture *f, enum job_kind kind) {
    struct job *job = job_new(kind, 0, never_done, NULL);
    run(f, job);
    assert_int_equal(job->code, ERROR_NONE);
    return job;
}

/* While a snapshot is held the file stays at an older index, whose configuration is not at hand: a
 * checkpoint then reports nothing. */
static void test_checkpoint_and_hold(void **state) {
    struct fixture *f = *state;
    apply_config(f, 1, "servers");
    apply_one(f, 2, "key", "value");
    struct job *checkpoint = run_simple(f, JOB_CHECKPOINT);
    assert_int_equal(checkpoint->durable_index, 2);
    assert_int_equal(checkpoint->durable_config_index, 1);
    assert_true(slice_equal(buffer_slice(&checkpoint->config), slice_of("servers")));
    job_free(checkpoint);

    struct job *hold = run_simple(f, JOB_HOLD);
    assert_int_equal(hold->durable_index, 2);
    assert_int_equal(hold->snapshot.index, 2);
    assert_true(hold->snapshot.size > 0);
    job_free(hold);
    apply_config(f, 3, "other servers");
    checkpoint = run_simple(f, JOB_CHECKPOINT);
    assert_int_equal(checkpoint->durable_index, 0);
    assert_int_equal(checkpoint->config.size, 0);
    job_free(checkpoint);
    job_free(run_simple(f, JOB_RELEASE));
    checkpoint = run_simple(f, JOB_CHECKPOINT);
    assert_int_equal(checkpoint->durable_index, 3);
    assert_true(slice_equal(buffer_slice(&checkpoint->config), slice_of("other servers")));
    job_free(checkpoint);
}

static void copy_file(const char *from, const char *to) {
    char command[3 * FIXTURE_PATH_SIZE];
    snprintf(command, sizeof command, "cp %s %s", from, to);
    assert_int_equal(system(command), 0);
}

static void test_verify_and_install(void **state) {
    struct fixture *f = *state;
    struct fixture *g = make();
    char staged[FIXTURE_PATH_SIZE + 16];
    snprintf(staged, sizeof staged, "%s.incoming", g->path);
    apply_config(f, 1, "servers");
    apply_one(f, 2, "key", "value");
    job_free(run_simple(f, JOB_CHECKPOINT));
    copy_file(f->path, staged);

    struct job *verify = job_new(JOB_VERIFY, 0, never_done, NULL);
    verify->path = mem_strdup(staged);
    run(g, verify);
    assert_int_equal(verify->code, ERROR_NONE);
    assert_int_equal(verify->state.applied_index, 2);
    assert_int_equal(machine_state(g->machine).applied_index, 0);
    job_free(verify);

    struct job *install = job_new(JOB_INSTALL, 0, never_done, NULL);
    install->path = mem_strdup(staged);
    run(g, install);
    assert_int_equal(install->code, ERROR_NONE);
    assert_int_equal(install->state.applied_index, 2);
    assert_int_equal(machine_state(g->machine).digest, machine_state(f->machine).digest);
    job_free(install);
    apply_one(g, 3, "more", "value");
    fixture_destroy(g);
    mem_free(g);
}

static void test_verify_rejects_damage(void **state) {
    struct fixture *f = *state;
    char staged[FIXTURE_PATH_SIZE + 16];
    snprintf(staged, sizeof staged, "%s.incoming", f->path);
    FILE *file = fopen(staged, "wb");
    assert_non_null(file);
    fputs("this is not a database, although it is long enough to be taken for one", file);
    fclose(file);
    struct job *verify = job_new(JOB_VERIFY, 0, never_done, NULL);
    verify->path = mem_strdup(staged);
    run(f, verify);
    assert_int_not_equal(verify->code, ERROR_NONE);
    job_free(verify);
    unlink(staged);
    apply_one(f, 1, "key", "value"); /* the shard's own machine is as it was */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_results_that_somebody_waits_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_digests_do_not_depend_on_the_jobs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_entries_out_of_turn_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reads_ahead_of_the_machine, setup, teardown),
        cmocka_unit_test_setup_teardown(test_checkpoint_and_hold, setup, teardown),
        cmocka_unit_test_setup_teardown(test_verify_and_install, setup, teardown),
        cmocka_unit_test_setup_teardown(test_verify_rejects_damage, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
