#include "node/machine/tokens.h"

#include <openssl/sha.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "node/machine/digest.h"
#include "node/machine/machine_internal.h"

enum {
    COLUMN_PROJECT,
    COLUMN_ID,
    COLUMN_ACCESS,
    COLUMN_CREATED,
    COLUMN_EXPIRES_AT,
    COLUMN_SALT,
    COLUMN_HASH
};

static_assert(COMMAND_HASH_SIZE == SHA256_DIGEST_LENGTH, "hashes are SHA-256");

void tokens_free(struct tokens *tokens) {
    mem_free(tokens->heap);
    *tokens = (struct tokens){0};
}

void token_hash(const uint8_t salt[COMMAND_SALT_SIZE], struct slice secret_digest,
                uint8_t hash[COMMAND_HASH_SIZE]) {
    uint8_t bytes[COMMAND_SALT_SIZE + COMMAND_HASH_SIZE];
    ASSERT(secret_digest.size == COMMAND_HASH_SIZE);
    memcpy(bytes, salt, COMMAND_SALT_SIZE);
    memcpy(bytes + COMMAND_SALT_SIZE, secret_digest.data, COMMAND_HASH_SIZE);
    (void)SHA256(bytes, sizeof bytes, hash);
}

uint64_t token_digest(uint64_t seed, const struct token *token) {
    struct buffer bytes = {0};
    buffer_put_u64(&bytes, token->id);
    buffer_put_u64(&bytes, token->created_ms);
    buffer_put_u64(&bytes, token->expires_at_ms);
    buffer_put_u8(&bytes, token->access);
    buffer_append(&bytes, token->salt, sizeof token->salt);
    buffer_append(&bytes, token->hash, sizeof token->hash);
    uint64_t digest = digest_mix(digest_bytes(seed, buffer_slice(&bytes)));
    buffer_free(&bytes);
    return digest;
}

/* --- the tokens of a project, in order of their numbers ----------------------------------------
 */

/* Place of the token, or where it would be. */
static size_t place_of(const struct project *project, uint64_t id) {
    size_t low = 0, high = project->n_tokens;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (project->tokens[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

const struct token *token_find(const struct project *project, uint64_t id) {
    if (project == NULL) {
        return NULL;
    }
    size_t at = place_of(project, id);
    return at < project->n_tokens && project->tokens[at].id == id ? &project->tokens[at] : NULL;
}

/* --- when tokens expire ------------------------------------------------------------------------
 */

static bool is_earlier(const struct token_expiry *a, const struct token_expiry *b) {
    if (a->at_ms != b->at_ms) {
        return a->at_ms < b->at_ms;
    }
    return a->project != b->project ? a->project < b->project : a->token < b->token;
}

static void heap_push(struct tokens *tokens, struct token_expiry expiry) {
    if (tokens->heap_count == tokens->heap_capacity) {
        tokens->heap_capacity = tokens->heap_capacity == 0 ? 16 : 2 * tokens->heap_capacity;
        tokens->heap = mem_realloc(tokens->heap, tokens->heap_capacity * sizeof tokens->heap[0]);
    }
    size_t at = tokens->heap_count++;
    for (; at > 0 && is_earlier(&expiry, &tokens->heap[(at - 1) / 2]); at = (at - 1) / 2) {
        tokens->heap[at] = tokens->heap[(at - 1) / 2];
    }
    tokens->heap[at] = expiry;
}

static void heap_pop(struct tokens *tokens) {
    struct token_expiry last = tokens->heap[--tokens->heap_count];
    size_t at = 0;
    for (size_t child = 1; child < tokens->heap_count; child = 2 * at + 1) {
        if (child + 1 < tokens->heap_count &&
            is_earlier(&tokens->heap[child + 1], &tokens->heap[child])) {
            child++;
        }
        if (!is_earlier(&tokens->heap[child], &last)) {
            break;
        }
        tokens->heap[at] = tokens->heap[child];
        at = child;
    }
    if (tokens->heap_count > 0) {
        tokens->heap[at] = last;
    }
}

static void note_expiry(struct machine *machine, const struct project *project,
                        const struct token *token) {
    heap_push(&machine->tokens,
              (struct token_expiry){token->expires_at_ms, project->id, token->id});
}

/* Tokens that were revoked leave their place in the heap behind: it is made anew before those are
 * most of it. */
static void limit_heap(struct machine *machine) {
    enum { SPARE = 64 };
    struct tokens *tokens = &machine->tokens;
    if (tokens->heap_count <= 2 * tokens->n_expiring + SPARE) {
        return;
    }
    tokens->heap_count = 0;
    for (size_t i = 0; i < machine->projects.count; i++) {
        const struct project *project = machine->projects.by_id[i];
        for (unsigned j = 0; j < project->n_tokens; j++) {
            if (project->tokens[j].expires_at_ms != 0) {
                note_expiry(machine, project, &project->tokens[j]);
            }
        }
    }
}

/* The first token to expire that is still there, NULL when there is none. */
static const struct token_expiry *first_expiring(struct machine *machine) {
    struct tokens *tokens = &machine->tokens;
    while (tokens->heap_count > 0) {
        const struct token_expiry *first = &tokens->heap[0];
        const struct project *project = projects_by_id(&machine->projects, first->project);
        const struct token *token = token_find(project, first->token);
        if (token != NULL && token->expires_at_ms == first->at_ms) {
            return first;
        }
        heap_pop(tokens);
    }
    return NULL;
}

uint64_t tokens_next_expiry(struct machine *machine) {
    const struct token_expiry *first = first_expiring(machine);
    return first != NULL ? first->at_ms : 0;
}

/* --- adding and removing -----------------------------------------------------------------------
 */

static void insert(struct machine *machine, struct project *project, const struct token *token) {
    ASSERT(project->n_tokens < LIMIT_PROJECT_TOKENS && token_find(project, token->id) == NULL);
    size_t at = place_of(project, token->id);
    project->tokens =
        mem_realloc(project->tokens, (project->n_tokens + 1) * sizeof project->tokens[0]);
    memmove(&project->tokens[at + 1], &project->tokens[at],
            (project->n_tokens - at) * sizeof project->tokens[0]);
    project->tokens[at] = *token;
    project->n_tokens++;
    machine->tokens.digest += token_digest(project->seed, token);
    if (token->expires_at_ms != 0) {
        machine->tokens.n_expiring++;
        note_expiry(machine, project, token);
    }
}

static void take_out(struct machine *machine, struct project *project, size_t at) {
    struct token *token = &project->tokens[at];
    uint64_t digest = token_digest(project->seed, token);
    machine->tokens.digest -= digest;
    machine->state.digest -= digest;
    machine->tokens.n_expiring -= token->expires_at_ms != 0;
    project->n_tokens--;
    memmove(token, token + 1, (project->n_tokens - at) * sizeof *token);
    limit_heap(machine);
}

enum error_code token_add(struct machine *machine, struct project *project,
                          const struct token *token, struct error *error) {
    struct database *database = &machine->database;
    const enum statement add = STATEMENT_TOKEN_ADD;
    database_bind_u64(database, add, 1 + COLUMN_PROJECT, project->id);
    database_bind_u64(database, add, 1 + COLUMN_ID, token->id);
    database_bind_u64(database, add, 1 + COLUMN_ACCESS, token->access);
    database_bind_u64(database, add, 1 + COLUMN_CREATED, token->created_ms);
    database_bind_u64(database, add, 1 + COLUMN_EXPIRES_AT, token->expires_at_ms);
    database_bind_bytes(database, add, 1 + COLUMN_SALT,
                        slice_make(token->salt, sizeof token->salt));
    database_bind_bytes(database, add, 1 + COLUMN_HASH,
                        slice_make(token->hash, sizeof token->hash));
    enum error_code code = database_run(database, add, error);
    if (code == ERROR_NONE) {
        insert(machine, project, token);
        machine->state.digest += token_digest(project->seed, token);
    }
    return code;
}

enum error_code token_remove(struct machine *machine, struct project *project, uint64_t id,
                             struct error *error) {
    ASSERT(token_find(project, id) != NULL);
    struct database *database = &machine->database;
    database_bind_u64(database, STATEMENT_TOKEN_REMOVE, 1, project->id);
    database_bind_u64(database, STATEMENT_TOKEN_REMOVE, 2, id);
    enum error_code code = database_run(database, STATEMENT_TOKEN_REMOVE, error);
    if (code == ERROR_NONE) {
        take_out(machine, project, place_of(project, id));
        uint8_t number[sizeof id];
        bytes_put_u64(number, id);
        machine_event_record(machine->events, project, MACHINE_EVENT_REVOKED,
                             slice_make(number, sizeof number));
    }
    return code;
}

enum error_code token_remove_all(struct machine *machine, struct project *project,
                                 struct error *error) {
    while (project->n_tokens > 0) {
        uint64_t last = project->tokens[project->n_tokens - 1].id;
        enum error_code code = token_remove(machine, project, last, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
    return ERROR_NONE;
}

enum error_code tokens_purge(struct machine *machine, uint64_t now_ms, uint64_t *left_ms,
                             struct error *error) {
    *left_ms = 0;
    for (unsigned n = 0;; n++) {
        const struct token_expiry *first = first_expiring(machine);
        if (first == NULL || first->at_ms > now_ms) {
            return ERROR_NONE;
        }
        if (n == MACHINE_PURGE_STEP) {
            *left_ms = first->at_ms;
            return ERROR_NONE;
        }
        struct project *project = projects_by_id(&machine->projects, first->project);
        enum error_code code = token_remove(machine, project, first->token, error);
        if (code != ERROR_NONE) {
            return code;
        }
    }
}

/* --- reading the table -------------------------------------------------------------------------
 */

static enum error_code damaged(const struct machine *machine, struct error *error) {
    return error_set(error, ERROR_CORRUPT,
                     "%s is damaged: its tokens do not match its projects; rebuild it from its "
                     "peers",
                     machine->database.path);
}

/* The current row of STATEMENT_TOKEN_ALL; false when it cannot be one. */
static bool read_row(const struct machine *machine, struct token *token) {
    const struct database *database = &machine->database;
    const enum statement all = STATEMENT_TOKEN_ALL;
    struct slice salt = database_bytes(database, all, COLUMN_SALT);
    struct slice hash = database_bytes(database, all, COLUMN_HASH);
    uint64_t access = database_u64(database, all, COLUMN_ACCESS);
    if (salt.size != sizeof token->salt || hash.size != sizeof token->hash ||
        (access != COMMAND_ACCESS_READONLY && access != COMMAND_ACCESS_READWRITE)) {
        return false;
    }
    *token = (struct token){
        .id = database_u64(database, all, COLUMN_ID),
        .created_ms = database_u64(database, all, COLUMN_CREATED),
        .expires_at_ms = database_u64(database, all, COLUMN_EXPIRES_AT),
        .access = (uint8_t)access,
    };
    memcpy(token->salt, salt.data, salt.size);
    memcpy(token->hash, hash.data, hash.size);
    return true;
}

typedef bool (*row_visitor)(struct machine *machine, struct project *project,
                            const struct token *token, void *data);

/* Visits every row of the table; one that the visitor does not accept is damage. */
static enum error_code walk_table(struct machine *machine, row_visitor visit, void *data,
                                  struct error *error) {
    struct database *database = &machine->database;
    const enum statement all = STATEMENT_TOKEN_ALL;
    for (;;) {
        bool found = false;
        enum error_code code = database_step(database, all, &found, error);
        if (code != ERROR_NONE || !found) {
            return code;
        }
        struct token token;
        struct project *project =
            projects_by_id(&machine->projects, database_u64(database, all, COLUMN_PROJECT));
        if (project == NULL || !read_row(machine, &token) ||
            !visit(machine, project, &token, data)) {
            database_reset(database, all);
            return damaged(machine, error);
        }
    }
}

static bool load_row(struct machine *machine, struct project *project, const struct token *token,
                     void *data) {
    (void)data;
    if (project->n_tokens == LIMIT_PROJECT_TOKENS || token_find(project, token->id) != NULL) {
        return false;
    }
    insert(machine, project, token);
    return true;
}

enum error_code tokens_load(struct machine *machine, struct error *error) {
    tokens_free(&machine->tokens);
    return walk_table(machine, load_row, NULL, error);
}

struct count {
    size_t rows;
    uint64_t digest;
    uint64_t next_expiry_ms;
};

static bool count_row(struct machine *machine, struct project *project, const struct token *token,
                      void *data) {
    struct count *count = data;
    count->rows++;
    count->digest += token_digest(project->seed, token);
    if (token->expires_at_ms != 0 &&
        (count->next_expiry_ms == 0 || token->expires_at_ms < count->next_expiry_ms)) {
        count->next_expiry_ms = token->expires_at_ms;
    }
    bool outlived = token->expires_at_ms != 0 && token->expires_at_ms <= machine->state.clock_ms;
    return token_find(project, token->id) != NULL && !outlived;
}

enum error_code tokens_recount(struct machine *machine, uint64_t *next_expiry_ms,
                               struct error *error) {
    struct count count = {0};
    size_t kept = 0;
    enum error_code code = walk_table(machine, count_row, &count, error);
    if (code != ERROR_NONE) {
        return code;
    }
    for (size_t i = 0; i < machine->projects.count; i++) {
        kept += machine->projects.by_id[i]->n_tokens;
    }
    *next_expiry_ms = count.next_expiry_ms;
    return count.rows == kept && count.digest == machine->tokens.digest ? ERROR_NONE
                                                                        : damaged(machine, error);
}
