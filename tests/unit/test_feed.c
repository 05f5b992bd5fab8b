/* The change feed: readers at the end and behind, the bound of the history, gaps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/prng.h"
#include "node/feed.h"
#include "node/machine/projects.h"

enum { HISTORY = 256 * 1024, TEXT = 64 * 1024 };

/* A reader that writes down what it is told. */
struct witness {
    struct feed_reader reader;
    unsigned patience; /* events that it takes until it refuses */
    uint64_t settled;
    unsigned lost;
    enum feed_loss loss;
    uint64_t lost_at;
    size_t size;
    char text[TEXT];
};

static struct {
    struct feed *feed;
    struct projects projects;
    struct machine_events events;
    uint64_t index;
} t;

static bool on_event(void *data, const struct machine_event *event) {
    struct witness *witness = data;
    if (witness->patience == 0) {
        return false;
    }
    witness->patience--;
    witness->size += (size_t)snprintf(witness->text + witness->size, TEXT - witness->size,
                                      "%llu:%.*s ", (unsigned long long)event->index,
                                      (int)event->key.size, (const char *)event->key.data);
    assert_true(witness->size < TEXT);
    return true;
}

static void on_settled(void *data, uint64_t index) {
    struct witness *witness = data;
    witness->settled = index;
}

static void on_lost(void *data, enum feed_loss loss, uint64_t index) {
    struct witness *witness = data;
    witness->lost++;
    witness->loss = loss;
    witness->lost_at = index;
}

static const struct feed_listener listener = {on_event, on_settled, on_lost};

static int setup(void **state) {
    (void)state;
    memset(&t, 0, sizeof t);
    t.feed = feed_new(2, HISTORY);
    t.events.limit_bytes = HISTORY;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    feed_free(t.feed);
    machine_events_free(&t.events);
    projects_free(&t.projects);
    return 0;
}

static struct witness *witness_new(void) {
    struct witness *witness = mem_zalloc(1, sizeof *witness);
    witness->reader.listener = &listener;
    witness->reader.data = witness;
    witness->patience = UINT32_MAX;
    return witness;
}

static void witness_free(struct witness *witness) {
    feed_reader_close(&witness->reader);
    mem_free(witness);
}

static void expect(struct witness *witness, const char *text) {
    assert_string_equal(witness->text, text);
    witness->text[0] = '\0';
    witness->size = 0;
}

static void record(const char *project, const char *key) {
    struct project *found = projects_find(&t.projects, slice_of(project));
    if (found == NULL) {
        found = projects_add(&t.projects, slice_of(project), t.projects.count + 1);
    }
    machine_event_record(&t.events, found, MACHINE_EVENT_SET, slice_of(key));
}

static void hand_over(void) {
    feed_applied(t.feed, 0, &t.events, t.index);
    machine_events_free(&t.events);
    t.events = (struct machine_events){.limit_bytes = HISTORY};
}

/* An entry of its own. */
static void happen(const char *project, const char *key) {
    t.events.index = ++t.index;
    record(project, key);
    hand_over();
}

/* Fills the history with entries of about 1 KiB until `bytes` have come. */
static void happen_much(size_t bytes) {
    static char key[1000];
    memset(key, 'x', sizeof key - 1);
    for (size_t sum = 0; sum < bytes; sum += sizeof key) {
        happen("noise", key);
    }
}

static void test_at_the_end(void **state) {
    (void)state;
    struct witness *w = witness_new();
    struct witness *other = witness_new();
    happen("p", "before");
    assert_int_equal(feed_reader_open(t.feed, &w->reader, 0, slice_of("p")), 1);
    assert_int_equal(feed_reader_open(t.feed, &other->reader, 0, slice_of("q")), 1);
    assert_true(slice_equal(feed_reader_project(&w->reader), slice_of("p")));
    happen("p", "a");
    expect(w, "2:a ");
    assert_int_equal(w->settled, 2);
    assert_int_equal(other->settled, 0);
    happen("q", "b");
    t.events.index = ++t.index;
    record("p", "c");
    record("q", "d");
    record("p", "e");
    t.events.index = ++t.index;
    record("p", "f");
    hand_over();
    expect(w, "4:c 4:e 5:f ");
    expect(other, "3:b 4:d ");
    assert_int_equal(w->settled, 5);
    assert_int_equal(other->settled, 5);
    /* An entry without events moves the index on. */
    feed_applied(t.feed, 0, &t.events, ++t.index);
    assert_int_equal(feed_index(t.feed, 0), 6);
    assert_int_equal(feed_index(t.feed, 1), 0);
    feed_reader_close(&w->reader);
    feed_reader_close(&w->reader);
    happen("p", "g");
    expect(w, "");
    witness_free(w);
    witness_free(other);
}

static void test_from_the_history(void **state) {
    (void)state;
    struct witness *w = witness_new();
    feed_restart(t.feed, 0, 10);
    t.index = 10;
    happen("p", "a");
    happen("q", "b");
    t.events.index = ++t.index;
    record("p", "c");
    record("p", "d");
    hand_over();
    assert_false(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 9));
    assert_false(feed_reader_is_open(&w->reader));
    assert_int_equal(feed_oldest(t.feed, 0), 10);

    assert_true(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 10));
    assert_true(feed_reader_is_behind(&w->reader));
    happen("p", "e"); /* not yet, since it is behind */
    expect(w, "");
    feed_reader_run(&w->reader);
    assert_false(feed_reader_is_behind(&w->reader));
    expect(w, "11:a 13:c 13:d 14:e ");
    assert_int_equal(w->settled, 14);
    happen("p", "f");
    expect(w, "15:f ");
    feed_reader_close(&w->reader);

    assert_true(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 12));
    feed_reader_run(&w->reader);
    expect(w, "13:c 13:d 14:e 15:f ");
    feed_reader_close(&w->reader);

    assert_true(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 15));
    assert_false(feed_reader_is_behind(&w->reader));
    witness_free(w);
}

/* A client that comes from a replica which was further ahead. */
static void test_from_ahead(void **state) {
    (void)state;
    struct witness *w = witness_new();
    happen("p", "a");
    assert_true(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 3));
    happen("p", "b");
    happen("p", "c");
    expect(w, "");
    happen("p", "d");
    expect(w, "4:d ");
    feed_reader_close(&w->reader);
    /* A snapshot up to where it is has nothing that it has not seen ... */
    assert_true(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 20));
    feed_restart(t.feed, 0, 20);
    assert_int_equal(w->lost, 0);
    t.index = 20;
    happen("p", "e");
    expect(w, "21:e ");
    feed_reader_close(&w->reader);
    /* ... one that goes further has. */
    assert_true(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 30));
    feed_restart(t.feed, 0, 31);
    assert_int_equal(w->lost, 1);
    assert_int_equal(w->loss, FEED_UNKNOWN);
    assert_int_equal(w->lost_at, 31);
    assert_false(feed_reader_is_open(&w->reader));
    witness_free(w);
}

static void test_refusals(void **state) {
    (void)state;
    struct witness *w = witness_new();
    struct witness *quick = witness_new();
    feed_reader_open(t.feed, &w->reader, 0, slice_of("p"));
    feed_reader_open(t.feed, &quick->reader, 0, slice_of("p"));
    w->patience = 1;
    t.events.index = ++t.index;
    record("p", "a");
    record("q", "x");
    record("p", "b");
    record("p", "c");
    hand_over();
    expect(w, "1:a ");
    assert_int_equal(w->settled, 0);
    assert_true(feed_reader_is_behind(&w->reader));
    happen("p", "d");
    expect(quick, "1:a 1:b 1:c 2:d ");
    w->patience = 2;
    feed_reader_run(&w->reader);
    expect(w, "1:b 1:c ");
    assert_int_equal(w->settled, 0);
    feed_reader_run(&w->reader);
    expect(w, "");
    w->patience = 9;
    feed_reader_run(&w->reader);
    expect(w, "2:d ");
    assert_int_equal(w->settled, 2);
    assert_false(feed_reader_is_behind(&w->reader));
    witness_free(w);
    witness_free(quick);
}

static void test_the_history_is_bounded(void **state) {
    (void)state;
    struct witness *slow = witness_new();
    struct witness *skipping = witness_new();
    struct witness *live = witness_new();
    skipping->reader.may_skip = true;
    struct witness *both[] = {slow, skipping};
    for (unsigned i = 0; i < 2; i++) {
        feed_reader_open(t.feed, &both[i]->reader, 0, slice_of("p"));
        both[i]->patience = 0;
    }
    feed_reader_open(t.feed, &live->reader, 0, slice_of("p"));
    happen("p", "a");
    happen_much(HISTORY / 2);
    assert_int_equal(slow->lost, 0);
    happen_much(3 * HISTORY);
    assert_true(feed_bytes(t.feed) <= HISTORY);
    assert_true(feed_bytes(t.feed) > HISTORY / 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(both[i]->lost, 1);
        assert_int_equal(both[i]->loss, FEED_TOO_SLOW);
        assert_false(feed_reader_is_open(&both[i]->reader));
    }
    uint64_t oldest = feed_oldest(t.feed, 0);
    assert_true(oldest >= slow->lost_at && oldest < t.index);
    expect(live, "1:a ");
    assert_int_equal(live->lost, 0);
    /* What is there is whole. */
    assert_false(feed_reader_open_from(t.feed, &slow->reader, 0, slice_of("p"), oldest - 1));
    assert_true(feed_reader_open_from(t.feed, &slow->reader, 0, slice_of("noise"), oldest));
    slow->patience = 1;
    feed_reader_run(&slow->reader);
    assert_int_equal(strtoull(slow->text, NULL, 10), oldest + 1);
    witness_free(slow);
    witness_free(skipping);
    witness_free(live);
}

/* A snapshot, or more events at once than a job may hold. */
static void test_gaps(void **state) {
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct witness *strict = witness_new();
        struct witness *behind = witness_new();
        struct witness *skipping = witness_new();
        struct witness *elsewhere = witness_new();
        skipping->reader.may_skip = true;
        behind->reader.may_skip = true;
        behind->patience = 0;
        feed_reader_open(t.feed, &strict->reader, 0, slice_of("p"));
        feed_reader_open(t.feed, &behind->reader, 0, slice_of("p"));
        feed_reader_open(t.feed, &skipping->reader, 0, slice_of("p"));
        feed_reader_open(t.feed, &elsewhere->reader, 1, slice_of("other"));
        happen("p", "a");
        t.index += 100;
        if (i == 0) {
            feed_restart(t.feed, 0, t.index);
        } else {
            t.events.lost = true;
            hand_over();
        }
        assert_int_equal(strict->lost, 1);
        assert_int_equal(strict->loss, FEED_UNKNOWN);
        assert_int_equal(strict->lost_at, t.index);
        assert_false(feed_reader_is_open(&strict->reader));
        assert_int_equal(skipping->lost, 1);
        assert_int_equal(elsewhere->lost, 0);
        assert_int_equal(feed_oldest(t.feed, 0), t.index);
        assert_int_equal(feed_bytes(t.feed), 0);
        behind->patience = 9;
        skipping->size = 0;
        happen("p", "b");
        char expected[32];
        snprintf(expected, sizeof expected, "%llu:b ", (unsigned long long)t.index);
        expect(behind, expected);
        expect(skipping, expected);
        witness_free(strict);
        witness_free(behind);
        witness_free(skipping);
        witness_free(elsewhere);
    }
}

/* A replica whose state fell back and got a snapshot of something it had told already. */
static void test_no_gap(void **state) {
    (void)state;
    struct witness *w = witness_new();
    happen("p", "a");
    happen("p", "b");
    assert_true(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 0));
    feed_reader_run(&w->reader);
    feed_restart(t.feed, 0, 1);
    feed_restart(t.feed, 0, 2);
    assert_int_equal(w->lost, 0);
    assert_int_equal(feed_oldest(t.feed, 0), 0);
    assert_int_equal(feed_index(t.feed, 0), 2);
    happen("p", "c");
    expect(w, "1:a 2:b 3:c ");
    witness_free(w);
}

/* A long catch-up is done in steps. */
static void test_runs_are_bounded(void **state) {
    (void)state;
    feed_free(t.feed);
    t.feed = feed_new(1, 8 * FEED_RUN_BYTES);
    struct witness *w = witness_new();
    happen_much(4 * FEED_RUN_BYTES);
    happen("p", "a");
    assert_true(feed_reader_open_from(t.feed, &w->reader, 0, slice_of("p"), 0));
    unsigned runs = 0;
    while (feed_reader_is_behind(&w->reader)) {
        feed_reader_run(&w->reader);
        runs++;
    }
    assert_in_range(runs, 4, 6);
    assert_non_null(strstr(w->text, ":a "));
    witness_free(w);
}

static void test_off(void **state) {
    (void)state;
    struct feed *off = feed_new(1, 0);
    assert_false(feed_is_on(off));
    assert_false(feed_is_on(NULL));
    feed_restart(off, 0, 5);
    t.events.index = 6;
    record("p", "a");
    feed_applied(off, 0, &t.events, 6);
    assert_int_equal(feed_bytes(off), 0);
    feed_free(off);
}

/* Random portions, readers that come, refuse, go on and resume: each sees every event of its
 * project behind its index once and in order, until it is told of a loss. */

enum { MODEL_EVENTS = 20000, MODEL_READERS = 8, MODEL_PROJECTS = 3 };

struct model_reader {
    struct feed_reader reader;
    unsigned project;
    unsigned next; /* place in the list of all events that it has to see next */
    unsigned patience;
    bool lost;
};

static struct {
    uint64_t indexes[MODEL_EVENTS];
    unsigned projects[MODEL_EVENTS];
    unsigned n;
    struct model_reader readers[MODEL_READERS];
} model;

static const char *const model_names[MODEL_PROJECTS] = {"a", "b", "ab"};

/* The next event of the reader's project at or behind `from`. */
static unsigned model_next(unsigned project, unsigned from) {
    while (from < model.n && model.projects[from] != project) {
        from++;
    }
    return from;
}

static bool model_on_event(void *data, const struct machine_event *event) {
    struct model_reader *reader = data;
    if (reader->patience == 0) {
        return false;
    }
    reader->patience--;
    reader->next = model_next(reader->project, reader->next);
    assert_true(reader->next < model.n);
    assert_int_equal(event->index, model.indexes[reader->next]);
    assert_int_equal(bytes_get_u32(event->key.data), reader->next);
    reader->next++;
    return true;
}

static void model_on_settled(void *data, uint64_t index) {
    struct model_reader *reader = data;
    reader->next = model_next(reader->project, reader->next);
    assert_true(reader->next == model.n || model.indexes[reader->next] > index);
}

static void model_on_lost(void *data, enum feed_loss loss, uint64_t index) {
    struct model_reader *reader = data;
    (void)loss;
    reader->next = model_next(reader->project, reader->next);
    assert_true(reader->next < model.n && model.indexes[reader->next] <= index);
    reader->lost = true;
}

static const struct feed_listener model_listener = {model_on_event, model_on_settled,
                                                    model_on_lost};

static void model_portion(struct prng *prng) {
    static uint8_t key[3000];
    unsigned n = 1 + (unsigned)prng_below(prng, prng_below(prng, 20) == 0 ? 60 : 5);
    t.events.index = ++t.index;
    for (unsigned i = 0; i < n && model.n < MODEL_EVENTS; i++) {
        unsigned project = (unsigned)prng_below(prng, MODEL_PROJECTS);
        struct slice name = slice_of(model_names[project]);
        struct project *found = projects_find(&t.projects, name);
        found = found != NULL ? found : projects_add(&t.projects, name, t.projects.count + 1);
        bytes_put_u32(key, model.n);
        size_t size = 4 + prng_below(prng, prng_below(prng, 10) == 0 ? sizeof key - 4 : 30);
        if (prng_below(prng, 4) == 0) {
            t.events.index = ++t.index;
        }
        model.projects[model.n] = project;
        model.indexes[model.n++] = t.index;
        machine_event_record(&t.events, found, MACHINE_EVENT_SET, slice_make(key, size));
    }
    hand_over();
}

static void model_open(struct prng *prng, struct model_reader *reader) {
    uint64_t oldest = feed_oldest(t.feed, 0);
    *reader = (struct model_reader){.project = (unsigned)prng_below(prng, MODEL_PROJECTS)};
    reader->reader.listener = &model_listener;
    reader->reader.data = reader;
    struct slice name = slice_of(model_names[reader->project]);
    uint64_t index = oldest + prng_below(prng, t.index - oldest + 3);
    if (prng_below(prng, 3) == 0) {
        index = feed_reader_open(t.feed, &reader->reader, 0, name);
        assert_int_equal(index, t.index);
    } else {
        assert_true(feed_reader_open_from(t.feed, &reader->reader, 0, name, index));
    }
    while (reader->next < model.n && model.indexes[reader->next] <= index) {
        reader->next++;
    }
    /* One from ahead sees nothing up to its index, whatever comes. */
    if (index > t.index) {
        feed_reader_close(&reader->reader);
    }
}

static void test_random_readers(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct prng prng;
        teardown(NULL);
        setup(NULL);
        memset(&model, 0, sizeof model);
        prng_seed(&prng, seed);
        for (unsigned step = 0; step < 3000; step++) {
            struct model_reader *reader = &model.readers[prng_below(&prng, MODEL_READERS)];
            switch (prng_below(&prng, 5)) {
            case 0:
            case 1:
                model_portion(&prng);
                break;
            case 2:
                if (!feed_reader_is_open(&reader->reader)) {
                    model_open(&prng, reader);
                } else if (prng_below(&prng, 10) == 0) {
                    feed_reader_close(&reader->reader);
                }
                break;
            case 3:
                reader->patience = (unsigned)prng_below(&prng, 30);
                break;
            default:
                reader->patience += (unsigned)prng_below(&prng, 100);
                feed_reader_run(&reader->reader);
                break;
            }
            assert_true(feed_bytes(t.feed) <= HISTORY);
        }
        for (unsigned i = 0; i < MODEL_READERS; i++) {
            struct model_reader *reader = &model.readers[i];
            reader->patience = UINT32_MAX;
            while (feed_reader_is_behind(&reader->reader)) {
                feed_reader_run(&reader->reader);
            }
            if (feed_reader_is_open(&reader->reader)) {
                assert_int_equal(model_next(reader->project, reader->next), model.n);
            }
            feed_reader_close(&reader->reader);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_at_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_from_the_history, setup, teardown),
        cmocka_unit_test_setup_teardown(test_from_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_history_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gaps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_runs_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_readers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
