#include "raft/group.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "raft/group_internal.h"
#include "raft/rescue.h"

/* --- configurations --------------------------------------------------------------------------- */

struct payload *group_encode_config(const struct group_server *servers, unsigned n) {
    struct raft_configuration config;
    struct raft_buffer encoded;
    raft_configuration_init(&config);
    for (unsigned i = 0; i < n; i++) {
        int role = servers[i].voter ? RAFT_VOTER : RAFT_STANDBY;
        int rv = raft_configuration_add(&config, servers[i].id, servers[i].address, role);
        ASSERT(rv == 0);
    }
    int rv = raft_configuration_encode(&config, &encoded);
    ASSERT(rv == 0);
    struct payload *payload = payload_copy(slice_make(encoded.base, encoded.len));
    raft_free(encoded.base);
    raft_configuration_close(&config);
    return payload;
}

/* libraft's decoder trusts lengths and counts, so walk the bytes first. A configuration without a
 * voter could never have been in force. */
static bool config_is_sound(struct slice bytes) {
    enum { VERSION = 1, PADDING_MAX = 7 };
    struct reader reader = reader_make(bytes);
    bool known = reader_u8(&reader) == VERSION;
    uint64_t n = reader_u64(&reader);
    unsigned voters = 0;
    if (!known || n == 0 || n > LIMIT_NODES) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t id = reader_u64(&reader);
        const uint8_t *end = NULL;
        if (!reader.failed && reader.rest.size > 0) {
            end = memchr(reader.rest.data, 0, reader.rest.size);
        }
        if (id == 0 || end == NULL) {
            return false;
        }
        (void)reader_take(&reader, (size_t)(end - reader.rest.data) + 1);
        voters += reader_u8(&reader) == RAFT_VOTER ? 1 : 0;
    }
    return !reader.failed && voters > 0 && reader.rest.size <= PADDING_MAX;
}

/* Decodes into *config, which the caller closes or hands to libraft; empty when false. */
static bool config_decode(struct slice bytes, struct raft_configuration *config) {
    raft_configuration_init(config);
    if (!config_is_sound(bytes)) {
        return false;
    }
    struct raft_buffer buffer = {.base = (void *)(uintptr_t)bytes.data, .len = bytes.size};
    /* On failure it has released what it had made, but leaves the pointers. */
    if (raft_configuration_decode(&buffer, config) != 0) {
        raft_configuration_init(config);
        return false;
    }
    return true;
}

bool group_config_is_valid(struct slice bytes) {
    struct raft_configuration config;
    bool valid = config_decode(bytes, &config);
    raft_configuration_close(&config);
    return valid;
}

const char *group_address_of(const struct group *group, uint64_t id) {
    const struct raft_configuration *config = &group->raft.configuration;
    for (unsigned i = 0; i < config->n; i++) {
        if (config->servers[i].id == id) {
            return config->servers[i].address;
        }
    }
    return "unknown";
}

static unsigned config_voters(const struct raft_configuration *config, uint64_t ids[LIMIT_NODES]) {
    unsigned n = 0;
    for (unsigned i = 0; i < config->n && n < LIMIT_NODES; i++) {
        if (config->servers[i].role == RAFT_VOTER) {
            ids[n++] = config->servers[i].id;
        }
    }
    return n;
}

unsigned group_voters(const struct group *group, uint64_t ids[LIMIT_NODES]) {
    return config_voters(&group->raft.configuration, ids);
}

struct group_peer *group_peer_of(struct group *group, uint64_t id) {
    for (unsigned i = 0; i < group->n_peers; i++) {
        if (group->peers[i].id == id) {
            return &group->peers[i];
        }
    }
    if (group->n_peers == LIMIT_NODES || id == group->options.self) {
        return NULL;
    }
    struct group_peer *peer = &group->peers[group->n_peers++];
    peer->group = group;
    peer->id = id;
    return peer;
}

/* --- one step and its effects ----------------------------------------------------------------- */

static void vote_written(struct log_request *request) {
    struct group_vote_write *write = request->data;
    struct group *group = write->group;
    mem_free(write);
    ASSERT(group->votes_pending > 0);
    if (--group->votes_pending > 0) {
        return;
    }
    while (!list_empty(&group->held)) {
        struct group_held *held = LIST_ENTRY(list_first(&group->held), struct group_held, link);
        list_remove(&held->link);
        group_send_message(group, &held->message);
        mem_free(held);
    }
    group_settle(group);
}

static void write_vote(struct group *group, uint64_t term, uint64_t voted_for) {
    struct group_vote_write *write = mem_zalloc(1, sizeof *write);
    write->group = group;
    write->request.done = vote_written;
    write->request.data = write;
    group->votes_pending++;
    log_set_vote(group->options.log, group->options.number, term, voted_for, &write->request);
}

static void entries_written(struct log_request *request) {
    struct group_persist *persist = request->data;
    struct group *group = persist->group;
    uint64_t last = persist->last;
    list_remove(&persist->link);
    mem_free(persist);
    /* libraft asserts (in builds without assertions: assumes) that the index is new and in its log:
     * entries that were replaced, or swept away by a snapshot, are not reported. */
    if (last == 0 || group->installing || last <= group->raft.last_stored) {
        return;
    }
    struct raft_event event = {.type = RAFT_PERSISTED_ENTRIES};
    event.persisted_entries.index = last;
    group_step(group, &event);
    group_settle(group);
}

/* Writes under way for entries from `first` on no longer stand for what is in the log. */
static void clip_persists(struct group *group, uint64_t first) {
    for (struct list_node *at = group->persists.next; at != &group->persists; at = at->next) {
        struct group_persist *persist = LIST_ENTRY(at, struct group_persist, link);
        if (persist->last >= first) {
            persist->last = first - 1;
        }
    }
}

static void write_entries(struct group *group, const struct raft_update *update) {
    enum { ON_STACK = RAFT_APPEND_ENTRIES_MAX };
    struct log_entry on_stack[ON_STACK];
    const struct raft_entry *batch = update->entries.batch;
    unsigned n = update->entries.n;
    struct log_entry *entries = n <= ON_STACK ? on_stack : mem_zalloc(n, sizeof *entries);
    struct payload *own = NULL;

    if (batch == &group->raft.barrier) {
        /* The entry that libraft itself submits when it is elected. */
        own = payload_copy(slice_make(batch->buf.base, batch->buf.len));
        ASSERT(n == 1);
    }
    for (unsigned i = 0; i < n; i++) {
        entries[i].term = batch[i].term;
        entries[i].kind = (enum log_entry_kind)batch[i].type;
        entries[i].payload =
            own != NULL ? own : group->step_payloads[(batch - group->step_entries) + (long)i];
    }
    /* From here on libraft has no use for the batch's memory: see docs/consensus.md. */
    raft_free(batch[0].batch);

    uint64_t first = update->entries.index;
    clip_persists(group, first);
    struct group_persist *persist = mem_zalloc(1, sizeof *persist);
    persist->group = group;
    persist->last = first + n - 1;
    persist->request.done = entries_written;
    persist->request.data = persist;
    list_push(&group->persists, &persist->link);
    log_append(group->options.log, group->options.number, first, entries, n, &persist->request);

    payload_unref(own);
    if (entries != on_stack) {
        mem_free(entries);
    }
}

static void send_messages(struct group *group, const struct raft_update *update) {
    for (unsigned i = 0; i < update->messages.n; i++) {
        if (group->votes_pending == 0) {
            group_send_message(group, &update->messages.batch[i]);
            continue;
        }
        struct group_held *held = mem_zalloc(1, sizeof *held);
        held->message = update->messages.batch[i];
        held->message.server_address = NULL; /* may point into what is freed before it is sent */
        list_push(&group->held, &held->link);
    }
}

void group_set_fast_election(struct group *group, bool fast) {
    if (group->fast_election == fast) {
        return;
    }
    group->fast_election = fast;
    unsigned normal_ms = group->options.election_ms;
    unsigned fast_ms = normal_ms / 8 > 0 ? normal_ms / 8 : 1;
    raft_set_election_timeout(&group->raft, fast ? fast_ms : normal_ms);
}

void group_set_now(struct group *group, uint64_t now_ms) {
    if (now_ms > group->now_ms) {
        group->now_ms = now_ms;
    }
}

static void state_changed(struct group *group) {
    if (group->raft.state == RAFT_CANDIDATE) {
        group->elections++;
    }
    read_index_reset(&group->reads);
    group_forget_sends(group);
    if (group->raft.state == RAFT_LEADER) {
        group_set_fast_election(group, false);
    }
}

/* The one place where effects are carried out, in the order in which they must happen. */
static void group_execute(struct group *group, const struct raft_update *update) {
    if (update->flags & UPDATE_VOTE) {
        write_vote(group, raft_current_term(&group->raft), (uint64_t)raft_voted_for(&group->raft));
    }
    if (update->flags & UPDATE_STATE) {
        state_changed(group);
    }
    if (update->flags & UPDATE_ENTRIES) {
        write_entries(group, update);
    }
    if (update->flags & UPDATE_SNAPSHOT) {
        /* libraft's chunk is a placeholder: the snapshot was received beforehand. */
        raft_free(update->snapshot.chunk.base);
        group->install = update->snapshot.metadata;
        group->installing = true;
        clip_persists(group, 1);
    }
    if (update->flags & UPDATE_MESSAGES) {
        send_messages(group, update);
    }
    if (update->flags & (UPDATE_STATE | UPDATE_VOTE)) {
        group->due.role = true;
    }
    if (update->flags & UPDATE_COMMIT) {
        group->due.commit = true;
    }
}

/* Feeds committed configuration changes back, as libraft requires. */
static void feed_configurations(struct group *group) {
    if (group->installing) {
        return; /* what the log holds is about to be replaced */
    }
    while (group->commit_seen < raft_commit_index(&group->raft)) {
        uint64_t index = ++group->commit_seen;
        uint64_t term = 0;
        enum log_entry_kind kind = LOG_ENTRY_COMMAND;
        struct log_entry entry;
        if (!log_lookup(group->options.log, group->options.number, index, &term, &kind) ||
            kind != LOG_ENTRY_CHANGE) {
            continue;
        }
        bool cached = log_cached(group->options.log, group->options.number, index, &entry);
        ASSERT(cached); /* the log keeps configurations in memory */
        struct raft_event event = {.type = RAFT_CONFIGURATION};
        event.configuration.index = index;
        if (config_decode(payload_slice(entry.payload), &event.configuration.conf)) {
            group_step(group, &event);
        }
        payload_unref(entry.payload);
    }
}

void group_be_newcomer(struct group *group) {
    ASSERT(!group->started);
    group->newcomer = true;
}

bool group_is_newcomer(const struct group *group) {
    return group->newcomer;
}

bool group_knows_present(const struct group *group) {
    return group->newcomer && group->knows_present;
}

void group_arrive(struct group *group) {
    ASSERT(group->knows_present);
    group->newcomer = false;
}

bool group_peer_is_newcomer(const struct group *group, uint64_t node) {
    for (unsigned i = 0; i < group->n_peers; i++) {
        if (group->peers[i].id == node) {
            return group->peers[i].newcomer;
        }
    }
    return false;
}

static uint64_t term_of_commit(const struct group *group) {
    uint64_t commit = raft_commit_index(&group->raft);
    uint64_t term = 0;
    enum log_entry_kind kind;
    if (commit > 0 && commit == group->raft.trail.snapshot.index) {
        return group->raft.trail.snapshot.term;
    }
    (void)log_lookup(group->options.log, group->options.number, commit, &term, &kind);
    return term;
}

static void note_present(struct group *group) {
    uint64_t term = raft_current_term(&group->raft);
    if (group->newcomer && !group->knows_present && !group->installing &&
        group->contact_term == term && term > 0 && term_of_commit(group) == term) {
        group->knows_present = true;
    }
}

/* libraft elects who finds itself in its configuration, at the start or when time is over. */
static int step_unseen(struct raft *raft, struct raft_event *event, struct raft_update *update) {
    raft_id self = raft->id;
    raft->id = 0;
    int rv = raft_step(raft, event, update);
    raft->id = self;
    return rv;
}

void group_step(struct group *group, struct raft_event *event) {
    struct raft_update update;
    ASSERT(!group->stepping);
    group->stepping = true;
    memset(&update, 0, sizeof update);
    event->time = group->now_ms;
    event->capacity = UINT16_MAX;
    bool elects = event->type == RAFT_START || event->type == RAFT_TIMEOUT;
    int rv = group->newcomer && elects ? step_unseen(&group->raft, event, &update)
                                       : raft_step(&group->raft, event, &update);
    if (rv != 0) {
        bool refused =
            (event->type == RAFT_SUBMIT || event->type == RAFT_TRANSFER) && rv != RAFT_NOMEM;
        if (!refused) {
            assert_fatal("shard %u: consensus cannot go on: %s (event %d, %s)",
                         group->options.number, raft_errmsg(&group->raft), (int)event->type,
                         raft_strerror(rv));
        }
        if (event->type == RAFT_SUBMIT) {
            raft_free(event->submit.entries[0].batch);
        }
        group->stepping = false;
        group->due.role = true;
        return;
    }
    assert_note("raft step: shard, event", group->options.number, (uint64_t)event->type);
    group_execute(group, &update);
    if (group_leader(group) != group->leader_reported) {
        group->leader_reported = group_leader(group);
        group->due.role = true;
    }
    group->stepping = false;
    note_present(group);
    feed_configurations(group);
}

/* Runs the callbacks that are due. They may call the group again; what that makes due is run by the
 * outermost call. */
void group_settle(struct group *group) {
    struct group_port *port = &group->options.port;
    unsigned number = group->options.number;
    if (group->settling || !group->started) {
        return;
    }
    group->settling = true;
    for (;;) {
        struct group_due *due = &group->due;
        if (due->role) {
            due->role = false;
            port->on_role(port->data, number);
        } else if (due->installed) {
            due->installed = false;
            port->on_installed(port->data, number);
        } else if (due->commit) {
            due->commit = false;
            port->on_commit(port->data, number);
        } else if (due->clock) {
            due->clock = false;
            struct group_clock clock = due->clock_value;
            port->on_clock(port->data, number, due->clock_from, &clock);
        } else if (due->reads) {
            due->reads = false;
            port->on_reads(port->data, number, group->reads.confirmed);
        } else if (due->snapshot_to != 0) {
            unsigned i = (unsigned)__builtin_ctzll(due->snapshot_to);
            due->snapshot_to &= due->snapshot_to - 1;
            port->on_snapshot_needed(port->data, number, group->peers[i].id);
        } else {
            break;
        }
    }
    group->settling = false;
}

/* --- life ------------------------------------------------------------------------------------- */

struct group *group_new(const struct group_options *options) {
    struct group *group = mem_zalloc(1, sizeof *group);
    group->options = *options;
    list_init(&group->held);
    list_init(&group->persists);
    char address[32];
    snprintf(address, sizeof address, "node %llu", (unsigned long long)options->self);
    int rv = raft_init(&group->raft, NULL, NULL, options->self, address);
    ASSERT(rv == 0);
    raft_seed(&group->raft, (unsigned)options->seed);
    raft_set_heartbeat_timeout(&group->raft, options->heartbeat_ms);
    raft_set_election_timeout(&group->raft, options->election_ms);
    raft_set_pre_vote(&group->raft, true);
    raft_set_max_inflight_entries(&group->raft, GROUP_INFLIGHT_ENTRIES);
    /* Snapshots travel beside libraft; this only says how soon it asks for one again, when its
     * first request came at a bad moment. */
    raft_set_install_snapshot_timeout(&group->raft, 2 * options->election_ms);
    return group;
}

void group_free(struct group *group) {
    if (group == NULL) {
        return;
    }
    while (!list_empty(&group->held)) {
        struct group_held *held = LIST_ENTRY(list_first(&group->held), struct group_held, link);
        list_remove(&held->link);
        mem_free(held);
    }
    ASSERT(list_empty(&group->persists));
    if (group->installing) {
        raft_configuration_close(&group->install.configuration);
    }
    raft_close(&group->raft, NULL);
    mem_free(group);
}

bool group_is_blank(const struct group *group) {
    struct log_group_state state = log_state(group->options.log, group->options.number);
    /* A term of 1 without a vote is what an interrupted group_bootstrap() may leave behind:
     * elections begin with term 2. */
    return state.term <= 1 && state.voted_for == 0 && state.first == 1 && state.last == 0;
}

void group_bootstrap(struct group *group, struct payload *config, struct log_request *request) {
    ASSERT(!group->started && group_is_blank(group));
    struct log_entry entry = {.term = 1, .kind = LOG_ENTRY_CHANGE, .payload = config};
    log_set_vote(group->options.log, group->options.number, 1, 0, NULL);
    log_append(group->options.log, group->options.number, 1, &entry, 1, request);
}

bool group_log_fits(const struct log *log, unsigned number, uint64_t applied_index,
                    uint64_t applied_term) {
    uint64_t term = 0;
    enum log_entry_kind kind;
    struct log_group_state state = log_state(log, number);
    if (log_lookup(log, number, applied_index, &term, &kind)) {
        return applied_index == 0 || term == applied_term;
    }
    /* Nothing was applied, or everything before was cut. */
    return applied_index == 0 || (state.first == applied_index + 1 && state.base_term == 0);
}

/* What libraft takes for granted about a log. */
static enum error_code check_entry(const struct group *group, const struct log_group_state *state,
                                   uint64_t index, uint64_t term, enum log_entry_kind kind,
                                   uint64_t previous_term, struct error *error) {
    const char *what = NULL;
    if (index == 1 && kind != LOG_ENTRY_CHANGE) {
        what = "is not the cluster's configuration";
    } else if (term < previous_term || term > state->term) {
        what = "has a term that is out of order";
    }
    return what == NULL ? ERROR_NONE
                        : error_set(error, ERROR_CORRUPT,
                                    "shard %u: entry %llu of the log %s; rebuild this node from "
                                    "its peers",
                                    group->options.number, (unsigned long long)index, what);
}

/* Entries for RAFT_START: libraft only looks at terms, and at the contents of configurations. */
static enum error_code load_entries(struct group *group, const struct log_group_state *state,
                                    struct raft_entry *entries, struct error *error) {
    struct log *log = group->options.log;
    unsigned number = group->options.number;
    uint64_t previous_term = 0;
    void *batch = raft_malloc(1);
    ASSERT(batch != NULL);
    for (uint64_t index = state->first; index <= state->last; index++) {
        struct raft_entry *entry = &entries[index - state->first];
        uint64_t term = 0;
        enum log_entry_kind kind = LOG_ENTRY_COMMAND;
        if (!log_lookup(log, number, index, &term, &kind)) {
            raft_free(batch);
            return error_set(error, ERROR_CORRUPT, "shard %u: entry %llu is missing from the log",
                             number, (unsigned long long)index);
        }
        enum error_code code = check_entry(group, state, index, term, kind, previous_term, error);
        if (code != ERROR_NONE) {
            raft_free(batch);
            return code;
        }
        previous_term = term;
        entry->term = term;
        entry->type = (enum raft_entry_type)kind;
        entry->batch = batch;
        if (kind == LOG_ENTRY_CHANGE) {
            struct log_entry loaded;
            bool cached = log_cached(log, number, index, &loaded);
            ASSERT(cached); /* the log keeps configurations in memory */
            if (!group_config_is_valid(payload_slice(loaded.payload))) {
                payload_unref(loaded.payload);
                raft_free(batch);
                return error_set(error, ERROR_CORRUPT,
                                 "shard %u: entry %llu of the log is not a valid configuration",
                                 number, (unsigned long long)index);
            }
            entry->buf.len = loaded.payload->size;
            entry->buf.base = mem_dup(loaded.payload->data, loaded.payload->size);
            payload_unref(loaded.payload);
        }
    }
    if (state->last < state->first) {
        raft_free(batch);
    }
    return ERROR_NONE;
}

static void free_entries(struct raft_entry *entries, uint64_t n) {
    if (n > 0) {
        raft_free(entries[0].batch);
    }
    for (uint64_t i = 0; i < n; i++) {
        mem_free(entries[i].buf.base);
    }
    mem_free(entries);
}

static bool is_lone_voter(const struct group *group, struct slice config) {
    struct raft_configuration decoded;
    uint64_t voters[LIMIT_NODES];
    bool lone = config_decode(config, &decoded) && config_voters(&decoded, voters) == 1 &&
                voters[0] == group->options.self;
    raft_configuration_close(&decoded);
    return lone;
}

/* A lone voter leads at once, and libraft keeps the term. But what this node sent before a crash
 * may be gone from its own log and not from a standby's: a new term tells the two apart. */
static void open_term_of_lone_voter(struct group *group, struct log_group_state *state,
                                    struct slice config, uint64_t config_index,
                                    const struct raft_entry *entries) {
    for (uint64_t index = state->first; index <= state->last; index++) {
        const struct raft_entry *entry = &entries[index - state->first];
        if (entry->type == RAFT_CHANGE && index > config_index) {
            config = slice_make(entry->buf.base, entry->buf.len);
        }
    }
    if (!group->newcomer && is_lone_voter(group, config)) {
        state->term++;
        state->voted_for = group->options.self;
        write_vote(group, state->term, state->voted_for);
    }
}

enum error_code group_start(struct group *group, uint64_t now_ms, uint64_t applied_index,
                            uint64_t applied_term, uint64_t config_index, struct slice config,
                            struct error *error) {
    struct raft_snapshot_metadata metadata;
    ASSERT(!group->started);
    struct log_group_state state = log_state(group->options.log, group->options.number);
    if (state.first > applied_index + 1) {
        return error_set(error, ERROR_CORRUPT,
                         "shard %u: the database ends at entry %llu but the log starts at %llu; "
                         "rebuild this node from its peers",
                         group->options.number, (unsigned long long)applied_index,
                         (unsigned long long)state.first);
    }
    rescue_reconcile(group->options.log, group->options.number, applied_index, applied_term);
    state = log_state(group->options.log, group->options.number);
    struct raft_event event = {.type = RAFT_START};
    if (applied_index > 0) {
        metadata.index = applied_index;
        metadata.term = applied_term;
        metadata.configuration_index = config_index;
        if (!config_decode(config, &metadata.configuration)) {
            return error_set(error, ERROR_CORRUPT,
                             "shard %u: the database holds no valid configuration",
                             group->options.number);
        }
        event.start.metadata = &metadata;
    }
    uint64_t n = state.last + 1 - state.first;
    struct raft_entry *entries = mem_zalloc(n + 1, sizeof *entries);
    enum error_code code = load_entries(group, &state, entries, error);
    if (code != ERROR_NONE) {
        if (event.start.metadata != NULL) {
            raft_configuration_close(&metadata.configuration);
        }
        for (uint64_t i = 0; i < n; i++) {
            mem_free(entries[i].buf.base);
        }
        mem_free(entries);
        return code;
    }
    open_term_of_lone_voter(group, &state, config, config_index, entries);
    event.start.term = state.term;
    event.start.voted_for = (raft_id)state.voted_for;
    event.start.start_index = state.first;
    event.start.entries = entries;
    event.start.n_entries = (unsigned)n;
    group_set_now(group, now_ms);
    group->contact_ms = now_ms;
    group->started_ms = now_ms;
    group->started = true;
    group->commit_seen = applied_index;
    group_step(group, &event);
    free_entries(entries, n);
    group->due.role = true;
    group->due.commit = true;
    group_settle(group);
    return ERROR_NONE;
}

/* --- events ----------------------------------------------------------------------------------- */

/* A round whose probes or answers were lost is asked again after this time. */
static const uint64_t probe_retry_ms = 50;

static void send_probes(struct group *group) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = group_voters(group, voters);
    struct raft_wire wire = {.kind = PEER_MESSAGE_PROBE};
    wire.probe.round = group->reads.started;
    group->reads_sent_ms = group->now_ms;
    for (unsigned i = 0; i < n; i++) {
        if (voters[i] != group->options.self) {
            group_send_wire(group, voters[i], &wire);
        }
    }
    if (read_index_check(&group->reads, voters, n, group->options.self)) {
        group->due.reads = true;
    }
}

uint64_t group_read(struct group *group) {
    ASSERT(group->raft.state == RAFT_LEADER);
    return read_index_join(&group->reads);
}

uint64_t group_reads_confirmed(const struct group *group) {
    return group->reads.confirmed;
}

void group_flush_reads(struct group *group, uint64_t now_ms) {
    group_set_now(group, now_ms);
    if (!group->started || group->raft.state != RAFT_LEADER) {
        return;
    }
    /* A lone voter confirms at once, which lets the next round start. */
    while (read_index_start(&group->reads)) {
        send_probes(group);
    }
    group_settle(group);
}

uint64_t group_tick(struct group *group, uint64_t now_ms) {
    if (!group->started) {
        return now_ms + 1000;
    }
    group_set_now(group, now_ms);
    if (now_ms >= raft_timeout(&group->raft)) {
        struct raft_event event = {.type = RAFT_TIMEOUT};
        if (group->raft.state == RAFT_CANDIDATE) {
            /* libraft repeats a lost election without asking beforehand again: terms would grow as
             * long as this node is alone, and depose the leader when it comes back. */
            group->raft.candidate_state.in_pre_vote = true;
            group->raft.candidate_state.disrupt_leader = false;
        }
        group_step(group, &event);
    }
    uint64_t next = raft_timeout(&group->raft);
    if (group->raft.state == RAFT_LEADER) {
        group_pump(group);
        if (read_index_is_waiting(&group->reads)) {
            if (now_ms >= group->reads_sent_ms + probe_retry_ms) {
                send_probes(group);
            }
            next = next < now_ms + probe_retry_ms ? next : now_ms + probe_retry_ms;
        }
        for (unsigned i = 0; i < group->n_peers; i++) {
            if (!append_queue_is_empty(&group->peers[i].queue) && !group->peers[i].reading) {
                next = now_ms + 2; /* waits for room in the peer's queue */
            }
        }
        next = group_tell_commit(group, next);
    }
    group_settle(group);
    return next > now_ms ? next : now_ms + 1;
}

void group_link_up(struct group *group, uint64_t now_ms, uint64_t node) {
    group_set_now(group, now_ms);
    struct group_peer *peer = group_peer_of(group, node);
    if (peer != NULL) {
        /* What was on its way over the old link may be lost: let heartbeats find the gap. */
        group_forget_peer(peer);
        peer->promised = group_match(group, node);
    }
}

void group_peer_gone(struct group *group, uint64_t now_ms, uint64_t node) {
    group_set_now(group, now_ms);
    if (group->started && group->raft.state == RAFT_FOLLOWER && group_leader(group) == node) {
        group_set_fast_election(group, true);
    }
}

static bool submit(struct group *group, enum raft_entry_type type, struct payload *const *payloads,
                   unsigned n, uint64_t *first) {
    struct raft_entry *entries = mem_zalloc(n, sizeof *entries);
    struct payload **copies = mem_dup(payloads, n * sizeof *copies);
    void *batch = raft_malloc(1);
    ASSERT(batch != NULL);
    for (unsigned i = 0; i < n; i++) {
        entries[i].term = raft_current_term(&group->raft);
        entries[i].type = type;
        entries[i].buf.base = copies[i]->data;
        entries[i].buf.len = copies[i]->size;
        entries[i].batch = batch;
    }
    *first = group_last(group) + 1;
    group->step_entries = entries;
    group->step_payloads = copies;
    struct raft_event event = {.type = RAFT_SUBMIT};
    event.submit.entries = entries;
    event.submit.n = n;
    group_step(group, &event);
    bool proposed = group_last(group) == *first + n - 1;
    group->step_entries = NULL;
    group->step_payloads = NULL;
    mem_free(entries);
    mem_free(copies);
    if (proposed) {
        group_feed_idle(group, *first, n);
    }
    group_settle(group);
    return proposed;
}

/* libraft would take any voter that has the whole log, even one that is gone. */
static uint64_t best_successor(const struct group *group) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = group_voters(group, voters);
    uint64_t best = 0;
    uint64_t best_match = 0;
    for (unsigned i = 0; i < group->n_peers; i++) {
        const struct group_peer *peer = &group->peers[i];
        bool votes = false;
        for (unsigned k = 0; k < n; k++) {
            votes = votes || voters[k] == peer->id;
        }
        uint64_t match = group_match(group, peer->id);
        if (votes && peer->heard_ms > 0 &&
            group->now_ms < peer->heard_ms + group->options.election_ms && match > best_match) {
            best = peer->id;
            best_match = match;
        }
    }
    return best;
}

bool group_propose(struct group *group, uint64_t now_ms, struct payload *const *payloads,
                   unsigned n, uint64_t *first) {
    ASSERT(n > 0);
    group_set_now(group, now_ms);
    if (!group->started || group->raft.state != RAFT_LEADER || group_is_transferring(group)) {
        return false;
    }
    return submit(group, RAFT_COMMAND, payloads, n, first);
}

bool group_is_changing(const struct group *group) {
    return group->raft.configuration_uncommitted_index != 0;
}

bool group_change(struct group *group, uint64_t now_ms, struct payload *config) {
    uint64_t index;
    group_set_now(group, now_ms);
    if (!group->started || group->raft.state != RAFT_LEADER || group_is_transferring(group) ||
        group_is_changing(group) || !group_config_is_valid(payload_slice(config))) {
        return false;
    }
    return submit(group, RAFT_CHANGE, &config, 1, &index);
}

unsigned group_servers(const struct group *group, struct group_server servers[LIMIT_NODES]) {
    const struct raft_configuration *config = &group->raft.configuration;
    unsigned n = 0;
    for (unsigned i = 0; i < config->n && n < LIMIT_NODES; i++) {
        servers[n++] = (struct group_server){.id = config->servers[i].id,
                                             .address = config->servers[i].address,
                                             .voter = config->servers[i].role == RAFT_VOTER};
    }
    return n;
}

bool group_transfer(struct group *group, uint64_t now_ms, uint64_t to) {
    group_set_now(group, now_ms);
    if (!group->started || group->raft.state != RAFT_LEADER || group_is_transferring(group)) {
        return false;
    }
    if (to == 0) {
        to = best_successor(group);
    }
    if (to == 0) {
        return false;
    }
    struct raft_event event = {.type = RAFT_TRANSFER};
    event.transfer.server_id = to;
    group_step(group, &event);
    bool transferring = group_is_transferring(group);
    group_settle(group);
    return transferring;
}

void group_cut(struct group *group, uint64_t now_ms, uint64_t index, uint64_t config_index,
               struct slice config, unsigned trailing) {
    uint64_t term = 0;
    enum log_entry_kind kind;
    group_set_now(group, now_ms);
    if (!group->started || group->installing || index <= group->raft.trail.snapshot.index ||
        index > raft_commit_index(&group->raft) ||
        !log_lookup(group->options.log, group->options.number, index, &term, &kind)) {
        return;
    }
    struct raft_event event = {.type = RAFT_SNAPSHOT};
    if (!config_decode(config, &event.snapshot.metadata.configuration)) {
        assert_fatal("shard %u: the state machine holds no valid configuration at entry %llu",
                     group->options.number, (unsigned long long)index);
    }
    event.snapshot.metadata.index = index;
    event.snapshot.metadata.term = term;
    event.snapshot.metadata.configuration_index = config_index;
    event.snapshot.trailing = trailing;
    group_step(group, &event);
    if (group->raft.trail.offset > 0) {
        log_cut(group->options.log, group->options.number, group->raft.trail.offset);
    }
    group_settle(group);
}

bool group_offer_snapshot(struct group *group, uint64_t now_ms, uint64_t from,
                          const struct snapshot_info *info) {
    group_set_now(group, now_ms);
    if (!group->started || group->installing || group->raft.state == RAFT_LEADER ||
        info->leader_term < raft_current_term(&group->raft) || info->index == 0 ||
        info->term == 0 || info->term > info->leader_term || info->config_index > info->index) {
        return false;
    }
    struct raft_message message = {.type = RAFT_INSTALL_SNAPSHOT, .server_id = from};
    struct raft_install_snapshot *args = &message.install_snapshot;
    if (!config_decode(info->config, &args->conf)) {
        return false;
    }
    message.server_address = group_address_of(group, from);
    args->version = 0;
    args->term = info->leader_term;
    args->last_index = info->index;
    args->last_term = info->term;
    args->conf_index = info->config_index;
    args->data.base = raft_malloc(1);
    args->data.len = 0;
    struct raft_event event = {.type = RAFT_RECEIVE};
    event.receive.message = &message;
    group->contact_term = info->leader_term;
    group_step(group, &event);
    group_settle(group);
    return group->installing;
}

static void install_durable(struct log_request *request) {
    struct group *group = request->data;
    struct raft_event event = {.type = RAFT_PERSISTED_SNAPSHOT};
    event.persisted_snapshot.metadata = group->install;
    event.persisted_snapshot.last = true;
    group->installing = false;
    group->commit_seen = group->install.index;
    group_step(group, &event);
    group->due.installed = true;
    group->due.commit = true;
    group_settle(group);
}

void group_install(struct group *group) {
    ASSERT(group->installing);
    group->install_request.done = install_durable;
    group->install_request.data = group;
    log_reset(group->options.log, group->options.number, group->install.index, group->install.term,
              &group->install_request);
}

/* --- state ------------------------------------------------------------------------------------ */

enum group_role group_role(const struct group *group) {
    if (!group->started) {
        return GROUP_FOLLOWER;
    }
    switch (group->raft.state) {
    case RAFT_LEADER:
        return GROUP_LEADER;
    case RAFT_CANDIDATE:
        return GROUP_CANDIDATE;
    default:
        return GROUP_FOLLOWER;
    }
}

uint64_t group_leader(const struct group *group) {
    switch (group->raft.state) {
    case RAFT_LEADER:
        return group->options.self;
    case RAFT_FOLLOWER:
        /* libraft goes on naming the leader of an older term. */
        return group->contact_term == raft_current_term(&group->raft)
                   ? (uint64_t)group->raft.follower_state.current_leader.id
                   : 0;
    default:
        return 0;
    }
}

uint64_t group_term(const struct group *group) {
    return raft_current_term(&group->raft);
}

uint64_t group_commit(const struct group *group) {
    return raft_commit_index(&group->raft);
}

uint64_t group_last(const struct group *group) {
    return log_state(group->options.log, group->options.number).last;
}

bool group_is_transferring(const struct group *group) {
    return raft_transferee(&group->raft) != 0;
}

bool group_is_installing(const struct group *group) {
    return group->installing;
}

uint64_t group_match(const struct group *group, uint64_t node) {
    raft_index index = 0;
    return raft_match_index(&group->raft, node, &index) == 0 ? index : 0;
}

uint64_t group_leader_contact_ms(const struct group *group) {
    if (group->started && group->raft.state == RAFT_LEADER) {
        return group->raft.election_timer_start;
    }
    return group->contact_ms;
}

/* When a majority of voters, this leader included, was last known to follow, which is when the
 * messages were sent that they answered, not when the answers came; 0: not in this term. */
static uint64_t majority_heard_ms(const struct group *group) {
    uint64_t voters[LIMIT_NODES];
    uint64_t heard[LIMIT_NODES]; /* newest first */
    unsigned n = group_voters(group, voters);
    for (unsigned i = 0; i < n; i++) {
        uint64_t at_ms = voters[i] == group->options.self ? group->now_ms : 0;
        for (unsigned k = 0; k < group->n_peers; k++) {
            at_ms = group->peers[k].id == voters[i] ? group->peers[k].followed_ms : at_ms;
        }
        unsigned place = i;
        for (; place > 0 && heard[place - 1] < at_ms; place--) {
            heard[place] = heard[place - 1];
        }
        heard[place] = at_ms;
    }
    return n > 0 ? heard[n / 2] : 0;
}

bool group_contact(const struct group *group, struct group_contact *contact) {
    switch (group_role(group)) {
    case GROUP_LEADER:
        contact->at_ms = majority_heard_ms(group);
        contact->commit = raft_commit_index(&group->raft);
        return contact->at_ms > 0;
    case GROUP_FOLLOWER:
        *contact = group->contact;
        return contact->at_ms > 0 && group->contact_noted_term == raft_current_term(&group->raft);
    case GROUP_CANDIDATE:
        return false;
    }
    return false;
}

bool group_is_started(const struct group *group) {
    return group->started;
}

bool group_quorum_has_space(const struct group *group) {
    uint64_t voters[LIMIT_NODES];
    unsigned n = group_voters(group, voters);
    unsigned low = group->options.port.disk_low(group->options.port.data) ? 1 : 0;
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < group->n_peers; k++) {
            low += group->peers[k].id == voters[i] && group->peers[k].disk_low ? 1 : 0;
        }
    }
    return n - low > n / 2;
}

enum group_space group_peer_space(const struct group *group, uint64_t node) {
    for (unsigned i = 0; i < group->n_peers && group_role(group) == GROUP_LEADER; i++) {
        const struct group_peer *peer = &group->peers[i];
        if (peer->id == node && peer->heard_ms > 0 &&
            group->now_ms < peer->heard_ms + group->options.election_ms) {
            return peer->disk_low ? GROUP_SPACE_LOW : GROUP_SPACE_FINE;
        }
    }
    return GROUP_SPACE_UNKNOWN;
}

uint64_t group_elections(const struct group *group) {
    return group->elections;
}
