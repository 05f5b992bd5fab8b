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
#include "node/machine/once.h"
#include "node/machine/tokens.h"
#include "tests/unit/transaction_builder.h"

enum {
    PROJECTS = 4,
    BULK = PROJECTS - 1, /* this one has keys enough for more than one purge step */
    SMALL_KEYS = 60,
    BULK_KEYS = 9000,
    COUNTERS = 3, /* first keys of a project, which are incremented */
    OPERATIONS = 250000,
    MAX_PENDING = 12, /* entries applied in one transaction, at most */
    RECOUNT_EVERY = 400,
    SESSIONS = 6,
    SEQUENCES = 500, /* that a session remembers, at most */
    TOKENS = 6       /* numbers of tokens, from 1 on, that come into question for each project */
};

struct model_row {
    bool exists;
    uint64_t expires_at_ms;
    uint64_t version;
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
    struct token tokens[TOKENS + 1]; /* by number; access 0: not there */
};

/* A session of exactly-once writes. */
struct model_session {
    bool exists;
    uint64_t ttl_ms;
    uint64_t expires_at_ms;
    uint64_t low;
    uint64_t next; /* above all that were used */
    struct {
        bool exists;
        uint64_t sequence;
        struct result result;
    } kept[SEQUENCES]; /* by sequence % SEQUENCES */
};

struct model {
    uint64_t clock_ms;
    uint64_t n_projects;
    struct model_project projects[PROJECTS];
    struct model_session sessions[SESSIONS];
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
static uint64_t batch_index; /* of the entry that is being made */
static uint64_t operations;
/* How often the run came to what it is for. */
static uint64_t purged_rows;
static uint64_t partial_purges;
static uint64_t quota_refusals;
static uint64_t clears;
static uint64_t increments;
static uint64_t conditions_held;
static uint64_t transactions_done;
static uint64_t transactions_refused;
static bool in_transaction;
static unsigned transaction_project;
static uint64_t retries;
static uint64_t sessions_expired;
static uint64_t project_deletions;
static uint64_t token_uses;
static uint64_t token_refusals;
static uint64_t expired_tokens;

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

static void forget(struct model_session *session, unsigned at) {
    result_free(&session->kept[at].result);
    session->kept[at].exists = false;
}

static void forget_below(struct model_session *session, uint64_t low) {
    for (unsigned i = 0; i < SEQUENCES; i++) {
        if (session->kept[i].exists && session->kept[i].sequence < low) {
            forget(session, i);
        }
    }
    session->low = low;
}

static void forget_session(struct model_session *session) {
    forget_below(session, UINT64_MAX);
    session->exists = false;
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

static void model_expire_tokens(uint64_t now_ms) {
    for (unsigned p = 0; p < PROJECTS; p++) {
        for (unsigned i = 1; i <= TOKENS; i++) {
            struct token *token = &model.projects[p].tokens[i];
            if (token->expires_at_ms != 0 && token->expires_at_ms <= now_ms) {
                *token = (struct token){0};
                expired_tokens++;
            }
        }
    }
}

static uint64_t earlier(uint64_t a_ms, uint64_t b_ms) {
    return b_ms == 0 || (a_ms != 0 && a_ms < b_ms) ? a_ms : b_ms;
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
    for (unsigned s = 0; s < SESSIONS; s++) {
        if (model.sessions[s].exists && model.sessions[s].expires_at_ms <= now_ms) {
            forget_session(&model.sessions[s]);
            sessions_expired++;
        }
    }
    qsort(due, n, sizeof(due[0]), compare_due);
    model_expire_tokens(now_ms);
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
    for (unsigned s = 0; s < SESSIONS; s++) {
        uint64_t expires_at_ms = model.sessions[s].expires_at_ms;
        if (model.sessions[s].exists && (next_ms == 0 || expires_at_ms < next_ms)) {
            next_ms = expires_at_ms;
        }
    }
    for (unsigned p = 0; p < PROJECTS; p++) {
        for (unsigned k = 0; k < model.projects[p].n_keys; k++) {
            next_ms = earlier(next_ms, model.projects[p].rows[k].expires_at_ms);
        }
        for (unsigned i = 1; i <= TOKENS; i++) {
            next_ms = earlier(next_ms, model.projects[p].tokens[i].expires_at_ms);
        }
    }
    return next_ms;
}

static struct slice session_id(unsigned session) {
    static uint8_t id[COMMAND_SESSION_SIZE];
    id[3] = (uint8_t)(session + 1);
    return slice_make(id, sizeof(id));
}

/* Puts what the model remembers into a table of its own, which knows the hashes. */
static uint64_t sessions_digest(void) {
    struct once once;
    struct buffer encoded = {0};
    once_init(&once);
    for (unsigned s = 0; s < SESSIONS; s++) {
        const struct model_session *session = &model.sessions[s];
        if (!session->exists) {
            continue;
        }
        struct once_session *copy =
            once_add(&once, session_id(s), session->ttl_ms, session->expires_at_ms, session->low);
        for (unsigned i = 0; i < SEQUENCES; i++) {
            uint64_t sequence = session->kept[i].sequence;
            if (!session->kept[i].exists) {
                continue;
            }
            encoded.size = 0;
            result_encode(&encoded, &session->kept[i].result);
            struct slice bytes = buffer_slice(&encoded);
            once_put(&once, copy, once_make_chunk(&once, copy, sequence / ONCE_CHUNK),
                     (unsigned)(sequence % ONCE_CHUNK), once_hash(copy, sequence, bytes), bytes, 1);
        }
    }
    uint64_t digest = once.digest;
    once_free(&once);
    buffer_free(&encoded);
    return digest;
}

static uint64_t model_digest(void) {
    uint64_t digest = sessions_digest();
    for (unsigned p = 0; p < PROJECTS; p++) {
        const struct model_project *project = &model.projects[p];
        uint64_t seed = digest_seed(slice_of(project_names[p]));
        if (project->exists) {
            digest += digest_project(seed, project->quota);
        }
        for (unsigned i = 1; i <= TOKENS; i++) {
            digest += project->tokens[i].access != 0 ? token_digest(seed, &project->tokens[i]) : 0;
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
    *row = (struct model_row){true, expires_at_ms, batch_index, set->size, set->value};
    project->keys++;
    project->used_bytes += new_bytes;
    return result;
}

static void empty_project(struct model_project *project) {
    for (unsigned k = 0; k < project->n_keys && project->keys > 0; k++) {
        if (project->rows[k].exists) {
            model_drop(project, k);
        }
    }
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

/* Whether the machine lets a command with this token write; what it answers when it does not. */
static bool model_allows(unsigned p, uint64_t id, bool writes, struct result *refusal) {
    const struct model_project *project = &model.projects[p];
    if (id == COMMAND_TOKEN_SERVICE) {
        if (!project->exists) {
            result_set_error(refusal, ERROR_NOPROJECT, "there is no project '%s'",
                             project_names[p]);
        }
        return project->exists;
    }
    if (project->tokens[id].access == 0) {
        result_set_error(refusal, ERROR_NOAUTH,
                         "the token was revoked or has expired, or its project was deleted");
        return false;
    }
    if (writes && project->tokens[id].access == COMMAND_ACCESS_READONLY) {
        result_set_error(refusal, ERROR_NOPERM, "this token of project '%s' is read-only",
                         project_names[p]);
        return false;
    }
    return true;
}

static uint64_t random_token(void) {
    return below(8) == 0 ? COMMAND_TOKEN_SERVICE : 1 + below(TOKENS);
}

static void set_with_token(struct buffer *batch, uint64_t now_ms, uint64_t quota) {
    struct set set = {.project = (unsigned)below(PROJECTS)};
    struct result refusal = {0};
    set.key = (unsigned)below(model.projects[set.project].n_keys);
    set.value = random_value(&set.size);
    struct command command = {.kind = COMMAND_SET,
                              .token = random_token(),
                              .project = slice_of(project_names[set.project])};
    struct slice args[] = {key_name(set.key), slice_make(set.value, set.size)};
    batch_add(batch, &command, args, 2);
    if (model_allows(set.project, command.token, true, &refusal)) {
        token_uses++;
        expect(model_set(&set, now_ms, quota));
    } else {
        token_refusals++;
        mem_free(set.value);
        expect(refusal);
    }
}

/* The project that the next operation is about: any, but within a transaction always the same. */
static unsigned random_project(void) {
    return in_transaction ? transaction_project : (unsigned)below(PROJECTS);
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
    struct set set = {.project = random_project()};
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
    unsigned p = random_project();
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
    empty_project(project);
    batch_plain(batch, COMMAND_CLEAR, project_names[p]);
    expect((struct result){.kind = RESULT_OK});
}

/* Projects and tokens. */

static void create(struct buffer *batch, unsigned p, uint64_t wanted, uint64_t quota) {
    struct model_project *project = &model.projects[p];
    uint8_t bytes[8];
    bytes_put_u64(bytes, wanted);
    struct slice arg = slice_make(bytes, 8);
    struct command command = {.kind = COMMAND_PROJECT_CREATE,
                              .project = slice_of(project_names[p])};
    struct result result = {.kind = RESULT_OK};
    batch_add(batch, &command, &arg, 1);
    if (project->exists) {
        result_set_error(&result, ERROR_GENERIC, "project '%s' exists already", project_names[p]);
    } else {
        project->exists = true;
        project->id = ++model.n_projects;
        project->quota = wanted == COMMAND_QUOTA_DEFAULT ? quota : wanted;
    }
    expect(result);
}

static void random_create(struct buffer *batch, uint64_t quota) {
    uint64_t wanted = below(2) == 0 ? COMMAND_QUOTA_DEFAULT : below(9000);
    create(batch, (unsigned)below(BULK), wanted, quota);
}

static void random_project_delete(struct buffer *batch) {
    unsigned p = (unsigned)below(below(8) == 0 ? PROJECTS : BULK);
    struct model_project *project = &model.projects[p];
    batch_plain(batch, COMMAND_PROJECT_DELETE, project_names[p]);
    expect((struct result){.kind = RESULT_INTEGER, .integer = project->exists});
    project_deletions += project->exists && project->keys > 0;
    empty_project(project);
    project->exists = false;
    project->quota = 0;
    memset(project->tokens, 0, sizeof project->tokens);
    if (p == BULK) {
        create(batch, p, UINT64_C(1) << 30, 0);
    }
}

static void random_quota(struct buffer *batch) {
    unsigned p = (unsigned)below(BULK);
    struct model_project *project = &model.projects[p];
    uint8_t bytes[8];
    uint64_t quota = below(4) == 0 ? below(1000) : below(20000);
    bytes_put_u64(bytes, quota);
    struct slice arg = slice_make(bytes, 8);
    struct command command = {.kind = COMMAND_PROJECT_SET_QUOTA,
                              .project = slice_of(project_names[p])};
    struct result result = {.kind = RESULT_OK};
    batch_add(batch, &command, &arg, 1);
    if (project->exists) {
        project->quota = quota;
    } else {
        result_set_error(&result, ERROR_NOPROJECT, "there is no project '%s'", project_names[p]);
    }
    expect(result);
}

static void random_token_add(struct buffer *batch, uint64_t now_ms) {
    unsigned p = (unsigned)below(PROJECTS);
    struct model_project *project = &model.projects[p];
    struct token token = {.id = 1 + below(TOKENS),
                          .created_ms = now_ms,
                          .access =
                              below(3) == 0 ? COMMAND_ACCESS_READONLY : COMMAND_ACCESS_READWRITE};
    memset(token.salt, (int)below(256), sizeof token.salt);
    memset(token.hash, (int)below(256), sizeof token.hash);
    struct command command = {.kind = COMMAND_TOKEN_ADD, .project = slice_of(project_names[p])};
    if (below(2) == 0) {
        command.expiry_mode = COMMAND_EXPIRY_AFTER;
        command.expiry_ms = 1 + below(4000);
        token.expires_at_ms = now_ms + command.expiry_ms;
    }
    uint8_t id[8], access[8];
    bytes_put_u64(id, token.id);
    bytes_put_u64(access, token.access);
    struct slice args[] = {slice_make(id, 8), slice_make(access, 8),
                           slice_make(token.salt, sizeof token.salt),
                           slice_make(token.hash, sizeof token.hash)};
    struct result result = {.kind = RESULT_OK};
    batch_add(batch, &command, args, 4);
    if (!project->exists) {
        result_set_error(&result, ERROR_NOPROJECT, "there is no project '%s'", project_names[p]);
    } else if (project->tokens[token.id].access != 0) {
        result_set_error(&result, ERROR_GENERIC, "a token of this number exists; try again");
    } else {
        project->tokens[token.id] = token;
    }
    expect(result);
}

static void random_token_revoke(struct buffer *batch) {
    unsigned p = (unsigned)below(PROJECTS);
    struct token *token = &model.projects[p].tokens[1 + below(TOKENS)];
    uint8_t bytes[8];
    bytes_put_u64(bytes, token->id != 0 ? token->id : 1 + below(TOKENS));
    uint64_t id = bytes_get_u64(bytes);
    struct slice arg = slice_make(bytes, 8);
    struct command command = {.kind = COMMAND_TOKEN_REVOKE, .project = slice_of(project_names[p])};
    batch_add(batch, &command, &arg, 1);
    token = &model.projects[p].tokens[id];
    expect((struct result){.kind = RESULT_INTEGER, .integer = token->access != 0});
    *token = (struct token){0};
}

static void random_administration(struct buffer *batch, uint64_t now_ms, uint64_t quota) {
    uint64_t pick = below(100);
    if (pick < 15) {
        random_create(batch, quota);
    } else if (pick < 25) {
        random_project_delete(batch);
    } else if (pick < 45) {
        random_quota(batch);
    } else if (pick < 85) {
        random_token_add(batch, now_ms);
    } else {
        random_token_revoke(batch);
    }
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

/* Commands that change a value: the model stores the new one through model_set(), which knows of
 * quotas, and then puts the command's own answer in the place of SET's. */

struct change {
    struct command command;
    struct slice args[4];
    uint32_t n_args;
    unsigned project;
    unsigned key;
    uint64_t now_ms;
    uint64_t quota;
    uint8_t limit[8];
};

static struct model_row *row_of(const struct change *change) {
    return &model.projects[change->project].rows[change->key];
}

static void add_number(struct change *change, uint8_t bytes[8], uint64_t number) {
    bytes_put_u64(bytes, number);
    change->args[change->n_args++] = slice_make(bytes, 8);
}

static void send_change(struct buffer *batch, const struct change *change) {
    batch_add(batch, &change->command, change->args, change->n_args);
}

/* Stores a new value under the old expiry and answers `good`, unless the limit or quota refuses. */
static void model_change(const struct change *change, struct slice value, struct result good) {
    uint64_t limit = bytes_get_u64(change->limit);
    struct result result = {0};
    if (value.size > limit) {
        result_set_error(&result, ERROR_TOOBIG,
                         "value of %zu bytes exceeds the limit of %" PRIu64 " bytes (max_value)",
                         value.size, limit);
        result_free(&good);
        expect(result);
        return;
    }
    struct set set = {.project = change->project,
                      .key = change->key,
                      .value = mem_dup(value.data, value.size),
                      .size = value.size,
                      .flags = COMMAND_FLAG_KEEPTTL};
    result = model_set(&set, change->now_ms, change->quota);
    if (result.kind == RESULT_ERROR) {
        result_free(&good);
        expect(result);
        return;
    }
    result_free(&result);
    expect(good);
}

static void random_append(struct buffer *batch, struct change *change) {
    struct model_row *row = row_of(change);
    struct buffer value = {0};
    size_t size;
    uint8_t *added = random_value(&size);
    if (row->exists) {
        buffer_append(&value, row->value, row->size);
    }
    buffer_append(&value, added, size);
    change->command.kind = COMMAND_APPEND;
    change->args[change->n_args++] = slice_make(added, size);
    add_number(change, change->limit, below(8) == 0 ? 100 : 1 << 20);
    send_change(batch, change);
    model_change(change, buffer_slice(&value),
                 (struct result){.kind = RESULT_INTEGER, .integer = (int64_t)value.size});
    mem_free(added);
    buffer_free(&value);
}

static void random_setrange(struct buffer *batch, struct change *change) {
    struct model_row *row = row_of(change);
    size_t size;
    uint8_t offset_bytes[8];
    uint64_t offset = below(300);
    uint8_t *patch = random_value(&size);
    size_t old_size = row->exists ? row->size : 0;
    size_t total = offset + size > old_size ? offset + size : old_size;
    uint8_t *value = mem_zalloc(total + 1, 1);
    if (old_size > 0) {
        memcpy(value, row->value, old_size);
    }
    memcpy(value + offset, patch, size);
    change->command.kind = COMMAND_SETRANGE;
    add_number(change, offset_bytes, offset);
    change->args[change->n_args++] = slice_make(patch, size);
    add_number(change, change->limit, below(8) == 0 ? 100 : 1 << 20);
    send_change(batch, change);
    if (size == 0) {
        expect((struct result){.kind = RESULT_INTEGER, .integer = (int64_t)old_size});
    } else {
        model_change(change, slice_make(value, total),
                     (struct result){.kind = RESULT_INTEGER, .integer = (int64_t)total});
    }
    mem_free(patch);
    mem_free(value);
}

/* Half of the counters hold no number, since other commands write to the same keys. */
static void random_increment(struct buffer *batch, struct change *change) {
    struct model_row *row = row_of(change);
    uint8_t delta_bytes[8];
    int64_t delta = below(20) == 0 ? INT64_MAX : (int64_t)below(1000) - 500;
    char text[32] = "0";
    char *end = text;
    int64_t sum = 0;
    if (row->exists && row->size < sizeof text) {
        memcpy(text, row->value, row->size);
        text[row->size] = '\0';
    }
    bool is_number = !row->exists || (row->size > 0 && row->size < 20);
    int64_t old = is_number ? strtoll(text, &end, 10) : 0;
    char again[32];
    snprintf(again, sizeof again, "%" PRId64, old);
    is_number =
        is_number && strcmp(text, again) == 0 && (!row->exists || strlen(text) == row->size);
    change->command.kind = COMMAND_INCREMENT;
    add_number(change, delta_bytes, (uint64_t)delta);
    add_number(change, change->limit, 1 << 20);
    send_change(batch, change);
    struct result result = {0};
    if (!is_number) {
        result_set_error(&result, ERROR_INVALID, "value is not an integer or out of range");
        expect(result);
        return;
    }
    if (__builtin_add_overflow(old, delta, &sum)) {
        result_set_error(&result, ERROR_INVALID, "increment or decrement would overflow");
        expect(result);
        return;
    }
    snprintf(text, sizeof text, "%" PRId64, sum);
    increments++;
    model_change(change, slice_of(text), (struct result){.kind = RESULT_INTEGER, .integer = sum});
}

static void random_getdel(struct buffer *batch, struct change *change) {
    struct model_row *row = row_of(change);
    struct result result = {.kind = row->exists ? RESULT_BULK : RESULT_NIL};
    change->command.kind = COMMAND_GETDEL;
    send_change(batch, change);
    if (row->exists) {
        buffer_append(&result.data, row->value, row->size);
        model_drop(&model.projects[change->project], change->key);
    }
    expect(result);
}

/* Gives an existing row another expiry, 0 for none; one that has passed deletes it. */
static void model_expire(const struct change *change, uint64_t expires_at_ms) {
    struct model_row *row = row_of(change);
    if (expires_at_ms != 0 && expires_at_ms <= change->now_ms) {
        model_drop(&model.projects[change->project], change->key);
    } else if (expires_at_ms != row->expires_at_ms) {
        row->expires_at_ms = expires_at_ms;
        row->version = batch_index;
    }
}

static uint64_t random_expiry(struct change *change) {
    bool is_relative = below(2) == 0;
    uint64_t at_ms = change->now_ms + below(4000) - (is_relative ? 0 : 200);
    change->command.expiry_mode = is_relative ? COMMAND_EXPIRY_AFTER : COMMAND_EXPIRY_AT;
    change->command.expiry_ms = is_relative ? at_ms - change->now_ms : at_ms;
    return at_ms;
}

static void random_expire(struct buffer *batch, struct change *change) {
    static const unsigned flags[] = {0,
                                     COMMAND_FLAG_NX,
                                     COMMAND_FLAG_XX,
                                     COMMAND_FLAG_GT,
                                     COMMAND_FLAG_LT,
                                     COMMAND_FLAG_XX | COMMAND_FLAG_GT};
    const struct model_row *row = row_of(change);
    unsigned flag = flags[below(sizeof(flags) / sizeof(flags[0]))];
    change->command.kind = COMMAND_EXPIRE;
    change->command.flags = (uint8_t)flag;
    uint64_t at_ms = random_expiry(change);
    uint64_t old_ms = row->expires_at_ms;
    send_change(batch, change);
    bool refused = !row->exists || ((flag & COMMAND_FLAG_NX) && old_ms != 0) ||
                   ((flag & COMMAND_FLAG_XX) && old_ms == 0) ||
                   ((flag & COMMAND_FLAG_GT) && (old_ms == 0 || at_ms <= old_ms)) ||
                   ((flag & COMMAND_FLAG_LT) && old_ms != 0 && at_ms >= old_ms);
    if (!refused) {
        model_expire(change, at_ms);
    }
    expect((struct result){.kind = RESULT_INTEGER, .integer = !refused});
}

static void random_persist(struct buffer *batch, struct change *change) {
    const struct model_row *row = row_of(change);
    bool had_expiry = row->exists && row->expires_at_ms != 0;
    change->command.kind = COMMAND_PERSIST;
    send_change(batch, change);
    if (had_expiry) {
        model_expire(change, 0);
    }
    expect((struct result){.kind = RESULT_INTEGER, .integer = had_expiry});
}

static void random_getex(struct buffer *batch, struct change *change) {
    const struct model_row *row = row_of(change);
    uint64_t at_ms = 0;
    change->command.kind = COMMAND_GETEX;
    if (below(3) == 0) {
        change->command.flags = COMMAND_FLAG_PERSIST;
    } else {
        at_ms = random_expiry(change);
    }
    send_change(batch, change);
    struct result result = {.kind = row->exists ? RESULT_BULK : RESULT_NIL};
    if (row->exists) {
        buffer_append(&result.data, row->value, row->size);
        model_expire(change, at_ms);
    }
    expect(result);
}

/* RENAME and COPY, whose second key is another one or the same. */
static void random_copy(struct buffer *batch, struct change *change) {
    bool renames = below(2) == 0;
    bool flagged = below(2) == 0;
    struct model_project *project = &model.projects[change->project];
    unsigned target = below(10) == 0 ? change->key : (unsigned)below(project->n_keys);
    struct model_row *from = &project->rows[change->key];
    struct model_row *to = &project->rows[target];
    change->command.kind = renames ? COMMAND_RENAME : COMMAND_COPY;
    change->command.flags = (uint8_t)(!flagged  ? 0
                                      : renames ? COMMAND_FLAG_NX
                                                : COMMAND_FLAG_REPLACE);
    change->args[change->n_args++] = key_name(target);
    send_change(batch, change);
    bool overwrites = renames ? !flagged : flagged;
    bool moves = from->exists && from != to && (overwrites || !to->exists);
    struct result result = {.kind = RESULT_INTEGER, .integer = moves};
    if (renames && !from->exists) {
        result_set_error(&result, ERROR_GENERIC, "no such key");
    } else if (renames && !flagged) {
        result = (struct result){.kind = RESULT_OK};
    }
    if (moves) {
        uint64_t bytes = key_name(target).size + from->size;
        uint64_t removed =
            (renames ? bytes : 0) + (to->exists ? key_name(target).size + to->size : 0);
        uint64_t wanted = project->used_bytes - removed + bytes;
        if (bytes > removed && wanted > project->quota) {
            quota_refusals++;
            result_set_error(&result, ERROR_QUOTA, "project %s: %" PRIu64 " of %" PRIu64 " bytes",
                             project_names[change->project], wanted, project->quota);
        } else {
            struct model_row copy = *from;
            copy.value = mem_dup(from->value, from->size);
            copy.version = batch_index;
            if (to->exists) {
                model_drop(project, target);
            }
            *to = copy;
            project->keys++;
            project->used_bytes += bytes;
            if (renames) {
                model_drop(project, change->key);
            }
        }
    }
    expect(result);
}

/* A few keys of which some may be the same; all are stored or none. */
static void random_set_many(struct buffer *batch, struct change *change) {
    enum { PAIRS = 3 };
    struct model_project *project = &model.projects[change->project];
    struct slice args[2 * PAIRS];
    unsigned keys[PAIRS];
    size_t sizes[PAIRS];
    uint8_t *values[PAIRS];
    bool only_new = below(2) == 0;
    bool some_exist = false;
    uint64_t added = 0, removed = 0;
    for (unsigned i = 0; i < PAIRS; i++) {
        keys[i] = below(4) == 0 ? change->key : (unsigned)below(project->n_keys);
        values[i] = random_value(&sizes[i]);
        args[2 * i] = key_name(keys[i]);
        args[2 * i + 1] = slice_make(values[i], sizes[i]);
        some_exist = some_exist || project->rows[keys[i]].exists;
    }
    for (unsigned i = 0; i < PAIRS; i++) {
        bool is_last = true;
        for (unsigned j = i + 1; j < PAIRS; j++) {
            is_last = is_last && keys[j] != keys[i];
        }
        const struct model_row *row = &project->rows[keys[i]];
        if (is_last) {
            added += args[2 * i].size + sizes[i];
            removed += row->exists ? args[2 * i].size + row->size : 0;
        }
    }
    change->command.kind = COMMAND_SET_MANY;
    change->command.flags = only_new ? COMMAND_FLAG_NX : 0;
    batch_add(batch, &change->command, args, 2 * PAIRS);
    uint64_t quota = project->exists ? project->quota : change->quota;
    uint64_t wanted = project->used_bytes - removed + added;
    struct result result = {.kind = only_new ? RESULT_INTEGER : RESULT_OK};
    bool blocked = only_new && some_exist;
    bool refused = !blocked && added > removed && wanted > quota;
    result.integer = only_new && !blocked;
    if (refused) {
        quota_refusals++;
        result_set_error(&result, ERROR_QUOTA, "project %s: %" PRIu64 " of %" PRIu64 " bytes",
                         project_names[change->project], wanted, quota);
    }
    for (unsigned i = 0; i < PAIRS; i++) {
        struct set set = {
            .project = change->project, .key = keys[i], .value = values[i], .size = sizes[i]};
        if (blocked || refused) {
            mem_free(values[i]);
            continue;
        }
        /* The quota was checked for all together; one by one it may be passed on the way. */
        uint64_t kept = project->quota;
        bool existed = project->exists;
        project->quota = UINT64_MAX;
        struct result each = model_set(&set, change->now_ms, UINT64_MAX);
        project->quota = existed ? kept : change->quota;
        result_free(&each);
    }
    expect(result);
}

/* SET and DELEX on the condition of a value or a version, which half of the time holds. */
static void random_conditional(struct buffer *batch, struct change *change) {
    struct model_project *project = &model.projects[change->project];
    struct model_row *row = row_of(change);
    bool deletes = below(2) == 0;
    bool by_version = below(2) == 0;
    bool holds = below(2) == 0;
    uint8_t version[8];
    uint8_t *value = mem_dup("changed", 7);
    struct slice wrong = slice_of("no value is like this one");
    if (!deletes) {
        change->args[change->n_args++] = slice_make(value, 7);
    }
    change->command.kind = deletes ? COMMAND_DELETE_MATCHING : COMMAND_SET;
    if (by_version) {
        change->command.flags = COMMAND_FLAG_IFVER;
        add_number(change, version, holds ? (row->exists ? row->version : 0) : UINT64_MAX);
    } else {
        holds = holds && row->exists;
        change->command.flags = COMMAND_FLAG_IFEQ;
        change->args[change->n_args++] = holds ? slice_make(row->value, row->size) : wrong;
    }
    send_change(batch, change);
    conditions_held += holds;
    if (deletes) {
        holds = holds && row->exists;
        if (holds) {
            model_drop(project, change->key);
        }
        expect((struct result){.kind = RESULT_INTEGER, .integer = holds});
    } else if (holds) {
        struct set set = {
            .project = change->project, .key = change->key, .value = value, .size = 7};
        expect(model_set(&set, change->now_ms, change->quota));
        return;
    } else {
        expect((struct result){.kind = RESULT_NIL});
    }
    mem_free(value);
}

static void random_change(struct buffer *batch, uint64_t now_ms, uint64_t quota) {
    static void (*const changes[])(struct buffer * batch, struct change * change) = {
        random_append, random_setrange, random_increment,  random_increment,
        random_getdel, random_expire,   random_persist,    random_getex,
        random_copy,   random_set_many, random_conditional};
    struct change change = {.project = random_project(), .now_ms = now_ms, .quota = quota};
    size_t which = (size_t)below(sizeof(changes) / sizeof(changes[0]));
    bool counts = changes[which] == random_increment;
    change.key = (unsigned)below(counts ? COUNTERS : model.projects[change.project].n_keys);
    change.command.project = slice_of(project_names[change.project]);
    change.args[change.n_args++] = key_name(change.key);
    changes[which](batch, &change);
}

/* Transactions. */

/* The only command of a batch. */
static struct slice only_command(const struct buffer *batch) {
    enum { HEADER_SIZE = COMMAND_BATCH_HEADER_SIZE + COMMAND_FRAME_SIZE };
    assert_int_equal(bytes_get_u16(batch->data + COMMAND_BATCH_HEADER_SIZE - 2), 1);
    return slice_make(batch->data + HEADER_SIZE, batch->size - HEADER_SIZE);
}

static void read_in_transaction(struct buffer *batch) {
    unsigned p = random_project();
    unsigned key = (unsigned)below(model.projects[p].n_keys);
    const struct model_row *row = &model.projects[p].rows[key];
    struct command command = {.kind = COMMAND_GET, .project = slice_of(project_names[p])};
    struct slice arg = key_name(key);
    struct result result = {.kind = row->exists ? RESULT_BULK : RESULT_NIL};
    if (row->exists) {
        buffer_append(&result.data, row->value, row->size);
    }
    batch_add(batch, &command, &arg, 1);
    expect(result);
}

/* Some operation as it is, taken out of a batch of its own. */
static void random_step(struct transaction_builder *builder, uint64_t now_ms, uint64_t quota) {
    struct buffer alone = {0};
    batch_begin(&alone, now_ms, quota);
    switch (below(4)) {
    case 0:
        random_set(&alone, now_ms, quota);
        break;
    case 1:
        random_delete(&alone);
        break;
    case 2:
        read_in_transaction(&alone);
        break;
    default:
        random_change(&alone, now_ms, quota);
        break;
    }
    buffer_put_bytes(&builder->nested, only_command(&alone));
    builder->n_nested++;
    buffer_free(&alone);
}

/* Puts one result in the place of those from `first` on. */
static void gather_expected(size_t first) {
    struct result all = {0};
    result_begin_results(&all, (uint32_t)(n_expected - first));
    for (size_t i = first; i < n_expected; i++) {
        result_add_result(&all, &expected[i]);
        result_free(&expected[i]);
    }
    n_expected = first;
    expect(all);
}

/* Watches a few keys of the project, with their versions or others. */
static bool random_watches(struct transaction_builder *builder, unsigned p) {
    bool hold = true;
    for (uint64_t n = below(4); n > 0; n--) {
        unsigned key = (unsigned)below(model.projects[p].n_keys);
        const struct model_row *row = &model.projects[p].rows[key];
        bool holds = below(6) > 0;
        uint64_t version = row->exists ? row->version : 0;
        builder_watch(builder, key_name(key), holds ? version : version + 1);
        hold = hold && holds;
    }
    return hold;
}

static void random_transaction(struct buffer *batch, uint64_t now_ms, uint64_t quota) {
    struct transaction_builder builder = {0};
    unsigned p = (unsigned)below(PROJECTS);
    struct command command = {.kind = COMMAND_TRANSACTION, .project = slice_of(project_names[p])};
    if (random_watches(&builder, p)) {
        size_t first = n_expected;
        in_transaction = true;
        transaction_project = p;
        for (uint64_t n = 1 + below(5); n > 0; n--) {
            random_step(&builder, now_ms, quota);
        }
        in_transaction = false;
        gather_expected(first);
        transactions_done++;
    } else {
        /* It must not run, and would show. */
        struct command clear = {.kind = COMMAND_CLEAR, .project = command.project};
        builder_add(&builder, &clear, NULL, 0);
        expect((struct result){.kind = RESULT_NIL});
        transactions_refused++;
    }
    struct buffer bytes = builder_encode(&builder, &command);
    struct command_origin origin = {1, 2, bytes_get_u16(batch->data + 17)};
    command_batch_add(batch, origin, buffer_slice(&bytes));
    buffer_free(&bytes);
}

/* Exactly-once writes. Where the nested command must not run it is a CLEAR, which would show. */

/* An error of this code, with any text. */
static void expect_error(enum error_code code) {
    expect((struct result){.kind = RESULT_ERROR, .code = code});
}

static void send_once(struct buffer *batch, unsigned session, uint64_t sequence, uint64_t low,
                      struct slice project, struct slice nested) {
    uint8_t numbers[2][8];
    bytes_put_u64(numbers[0], sequence);
    bytes_put_u64(numbers[1], low);
    struct slice args[] = {session_id(session), slice_make(numbers[0], 8),
                           slice_make(numbers[1], 8), nested};
    struct command command = {.kind = COMMAND_ONCE, .project = project};
    batch_add(batch, &command, args, 4);
}

static void send_without_effect(struct buffer *batch, unsigned session, uint64_t sequence,
                                uint64_t low) {
    struct command clear = {.kind = COMMAND_CLEAR,
                            .project = slice_of(project_names[below(PROJECTS)])};
    struct buffer nested = {0};
    command_encode(&nested, &clear, NULL, 0);
    send_once(batch, session, sequence, low, clear.project, buffer_slice(&nested));
    buffer_free(&nested);
}

/* Some other operation as it is, taken out of a batch of its own. */
static void send_first_attempt(struct buffer *batch, unsigned s, uint64_t sequence, uint64_t low,
                               uint64_t now_ms, uint64_t quota) {
    struct buffer alone = {0};
    batch_begin(&alone, now_ms, quota);
    switch (below(4)) {
    case 0:
        random_set(&alone, now_ms, quota);
        break;
    case 1:
        random_delete(&alone);
        break;
    case 2:
        random_transaction(&alone, now_ms, quota);
        break;
    default:
        random_change(&alone, now_ms, quota);
        break;
    }
    struct slice nested = only_command(&alone);
    struct command command;
    assert_int_equal(command_decode(nested, &command, NULL), ERROR_NONE);
    send_once(batch, s, sequence, low, command.project, nested);
    struct model_session *session = &model.sessions[s];
    const struct result *result = &expected[n_expected - 1];
    unsigned at = (unsigned)(sequence % SEQUENCES);
    assert_false(session->kept[at].exists);
    session->kept[at].exists = true;
    session->kept[at].sequence = sequence;
    session->kept[at].result = *result;
    session->kept[at].result.data = (struct buffer){0};
    buffer_append_slice(&session->kept[at].result.data, buffer_slice(&result->data));
    buffer_free(&alone);
}

static void random_once_write(struct buffer *batch, unsigned s, uint64_t now_ms, uint64_t quota) {
    struct model_session *session = &model.sessions[s];
    uint64_t since_low = session->next - session->low;
    uint64_t sequence = session->low + below(since_low + 10);
    uint64_t low = below(12) == 0 ? session->low + below(since_low + 1) : 0;
    sequence = below(20) == 0 && sequence > 20 ? sequence - 20 : sequence;
    if (since_low + 20 > SEQUENCES) {
        low = sequence = session->next;
    }
    if (!session->exists || low > sequence) {
        send_without_effect(batch, s, sequence, low);
        expect_error(session->exists ? ERROR_INVALID : ERROR_NOSESSION);
        return;
    }
    /* After a purge that left rows over, batches may be earlier than one before them. */
    uint64_t expires_at_ms = now_ms + session->ttl_ms;
    if (expires_at_ms > session->expires_at_ms + session->ttl_ms / 2) {
        session->expires_at_ms = expires_at_ms;
    }
    if (low > session->low) {
        forget_below(session, low);
    }
    unsigned at = (unsigned)(sequence % SEQUENCES);
    if (session->kept[at].exists && session->kept[at].sequence == sequence) {
        struct result result = session->kept[at].result;
        result.data = (struct buffer){0};
        buffer_append_slice(&result.data, buffer_slice(&session->kept[at].result.data));
        send_without_effect(batch, s, sequence, low);
        expect(result);
        retries++;
    } else if (sequence < session->low) {
        send_without_effect(batch, s, sequence, low);
        expect_error(ERROR_FORGOTTEN);
    } else {
        session->next = sequence >= session->next ? sequence + 1 : session->next;
        send_first_attempt(batch, s, sequence, low, now_ms, quota);
    }
}

static void random_once(struct buffer *batch, uint64_t now_ms, uint64_t quota) {
    unsigned s = (unsigned)below(SESSIONS);
    struct model_session *session = &model.sessions[s];
    struct slice args[] = {session_id(s), {0}};
    struct command command = {.project = slice_of(project_names[0])};
    if (!session->exists && below(4) > 0) {
        uint8_t ttl[8];
        session->exists = true;
        session->ttl_ms = 1000 + below(8000);
        session->expires_at_ms = now_ms + session->ttl_ms;
        session->low = session->next = 1;
        bytes_put_u64(ttl, session->ttl_ms);
        args[1] = slice_make(ttl, sizeof(ttl));
        command.kind = COMMAND_ONCE_OPEN;
        batch_add(batch, &command, args, 2);
        struct result id = {.kind = RESULT_BULK};
        for (size_t i = 0; i < args[0].size; i++) {
            char digits[3];
            snprintf(digits, sizeof(digits), "%02x", args[0].data[i]);
            buffer_append(&id.data, digits, 2);
        }
        expect(id);
    } else if (below(200) == 0) {
        command.kind = COMMAND_ONCE_CLOSE;
        batch_add(batch, &command, args, 1);
        expect((struct result){.kind = RESULT_INTEGER, .integer = session->exists});
        forget_session(session);
    } else {
        random_once_write(batch, s, now_ms, quota);
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
        if (pick < 280) {
            random_set(batch, now_ms, quota);
        } else if (pick < 330) {
            set_with_token(batch, now_ms, quota);
        } else if (pick < 350) {
            random_administration(batch, now_ms, quota);
        } else if (pick < 500) {
            random_once(batch, now_ms, quota);
        } else if (pick < 570) {
            random_transaction(batch, now_ms, quota);
        } else if (pick < 850) {
            random_change(batch, now_ms, quota);
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
    bool any_text = wanted->kind == RESULT_ERROR && wanted->data.size == 0;
    if (actual->kind != wanted->kind || actual->code != wanted->code ||
        actual->integer != wanted->integer ||
        (!any_text && !slice_equal(buffer_slice(&actual->data), buffer_slice(&wanted->data)))) {
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
        if (!at_once && below(4) == 0 &&
            machine_commit(fixture->machine, &fixture->error) != ERROR_NONE) {
            fail_msg("commit: %s", fixture->error.message);
        }
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

static void compare_tokens(struct fixture *fixture, unsigned p) {
    const struct model_project *project = &model.projects[p];
    struct result result = fixture_read(fixture, COMMAND_TOKEN_LIST, 0, project_names[p], NULL, 0);
    struct result wanted = {.kind = project->exists ? RESULT_INTEGERS : RESULT_NIL};
    for (unsigned i = 1; i <= TOKENS; i++) {
        const struct token *token = &project->tokens[i];
        if (token->access != 0) {
            buffer_put_u64(&wanted.data, token->id);
            buffer_put_u64(&wanted.data, token->access);
            buffer_put_u64(&wanted.data, token->created_ms);
            buffer_put_u64(&wanted.data, token->expires_at_ms);
        }
    }
    assert_same_result(&result, &wanted, p);
    result_free(&wanted);
    result_free(&result);
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
        result = fixture_read(fixture, COMMAND_GET_VERSION, 0, project_names[p], &key, 1);
        if (row->exists) {
            struct result wanted = {0};
            result_begin_array(&wanted, 2);
            result_add_bulk(&wanted, slice_make(row->value, row->size));
            result_add_integer(&wanted, (int64_t)row->version);
            assert_same_result(&result, &wanted, 0);
            result_free(&wanted);
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
        compare_tokens(fixture, p);
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
        batch_index = ++*index;
        random_batch(&pending[i]);
        entries[i] = (struct machine_entry){.index = batch_index,
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
                  " refusals by quota, %" PRIu64 " clears, %" PRIu64 " retries, %" PRIu64
                  " sessions expired, %" PRIu64 " projects deleted, %" PRIu64
                  " writes by token, %" PRIu64 " refused, %" PRIu64 " tokens expired, %" PRIu64
                  " transactions, %" PRIu64 " refused\n",
                  operations, index, purged_rows, partial_purges, quota_refusals, clears, retries,
                  sessions_expired, project_deletions, token_uses, token_refusals, expired_tokens,
                  transactions_done, transactions_refused);
    assert_true(purged_rows > 0 && partial_purges > 0 && quota_refusals > 0 && clears > 0);
    assert_true(increments > 0 && conditions_held > 0);
    assert_true(retries > 0 && sessions_expired > 0);
    assert_true(project_deletions > 0 && token_uses > 0 && token_refusals > 0);
    assert_true(expired_tokens > 0 && transactions_done > 0 && transactions_refused > 0);
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
    for (unsigned s = 0; s < SESSIONS; s++) {
        forget_session(&model.sessions[s]);
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
