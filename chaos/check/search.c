#include "chaos/check/search.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/mem.h"

enum { FEW = 64 /* unknown operations whose use is compared as sets of bits */ };

/* A call or a return, in the order of time: a list that operations are taken out of and put back.
 */
struct entry {
    const struct op *op;
    struct entry *next;
    struct entry *before;
    struct entry *end; /* of a call: its return; of a return: NULL */
    uint64_t at;
    uint64_t wanted_by; /* of a call: when its value must have been in place, */
    uint64_t seen_at;   /* ... and when it still was */
    uint64_t mark[2];   /* random numbers that stand for the operation */
};

struct maybe {
    const struct op *op;
    uint64_t mark[2];
    bool used;
};

/* A pair of Lowe's: hashes of placed operations and state; which unknown ones were used. */
struct pair {
    uint64_t key[2]; /* both 0: empty */
    uint64_t used;
};

struct frame {
    struct entry *call; /* or NULL: an unknown one */
    size_t tried;       /* its place in the order of what can be tried there */
    size_t maybe;
    bool is_only_way;
    struct model_state before;
};

/* Calls that can come next, in the order in which to try them. */
struct candidate {
    struct entry *call;
    unsigned others_before;
};

/* Who wrote a value, and who read it. */
struct zone {
    uint32_t text; /* 0: empty */
    unsigned writers;
    uint64_t first_end;  /* of reads, TIME_NEVER without */
    uint64_t last_start; /* 0 without */
};

struct search {
    const struct model *model;
    const struct model_context *context;
    const struct search_limits *limits;
    struct search_result *result;
    struct entry head;
    struct entry *entries;
    struct candidate *candidates;
    size_t n_candidates;
    struct zone *zones; /* hash table */
    size_t n_zones;
    struct maybe *maybes; /* by start */
    size_t n_known;
    size_t n_maybes;
    struct frame *frames;
    size_t depth;
    size_t capacity;
    struct pair *pairs;
    size_t slots;
    size_t n_pairs;
    struct model_state state;
    uint64_t placed[2];
    uint64_t used;
    size_t n_placed; /* known ones */
    size_t best;
};

static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* --- zones ------------------------------------------------------------------------------------ */

static struct zone *zone_of(const struct search *search, uint32_t text) {
    size_t at = (size_t)mix(text) & (search->n_zones - 1);
    while (search->zones[at].text != 0 && search->zones[at].text != text) {
        at = (at + 1) & (search->n_zones - 1);
    }
    return &search->zones[at];
}

static void find_zones(struct search *search, const struct op *const *ops, size_t n) {
    search->n_zones = 16;
    while (search->n_zones < 4 * n) {
        search->n_zones *= 2;
    }
    search->zones = mem_zalloc(search->n_zones, sizeof *search->zones);
    for (size_t i = 0; i < n; i++) {
        uint32_t texts[2] = {ops[i]->in.type == VALUE_TEXT ? ops[i]->in.text : 0,
                             ops[i]->out.type == VALUE_TEXT ? ops[i]->out.text : 0};
        for (int k = 0; k < 2; k++) {
            struct zone *zone = texts[k] != 0 ? zone_of(search, texts[k]) : NULL;
            if (zone == NULL) {
                continue;
            }
            if (zone->text == 0) {
                *zone = (struct zone){.text = texts[k], .first_end = TIME_NEVER};
            }
            if (k == 0) {
                zone->writers++;
            } else if (ops[i]->outcome == OUTCOME_OK) {
                zone->first_end = ops[i]->end < zone->first_end ? ops[i]->end : zone->first_end;
                zone->last_start =
                    ops[i]->start > zone->last_start ? ops[i]->start : zone->last_start;
            }
        }
    }
}

/* When the operation must be placed: by its end, or, of unknown outcome, by the end of the first
 * that read what only it writes. */
static uint64_t end_of(const struct search *search, const struct op *op) {
    if (op->outcome != OUTCOME_UNKNOWN || op->in.type != VALUE_TEXT) {
        return op->end;
    }
    const struct zone *zone = zone_of(search, op->in.text);
    return zone->writers == 1 && zone->first_end >= op->start ? zone->first_end : op->end;
}

static void set_times(const struct search *search, struct entry *call) {
    const struct zone *zone =
        call->op->in.type == VALUE_TEXT ? zone_of(search, call->op->in.text) : NULL;
    call->wanted_by = call->end->at;
    call->seen_at = call->at;
    if (zone != NULL && zone->writers == 1) {
        call->wanted_by = zone->first_end < call->wanted_by ? zone->first_end : call->wanted_by;
        call->seen_at = zone->last_start > call->seen_at ? zone->last_start : call->seen_at;
    }
}

/* --- the list --------------------------------------------------------------------------------- */

/* A call comes before a return of the same moment: they overlap. */
static int by_time(const void *left, const void *right) {
    const struct entry *a = *(const struct entry *const *)left;
    const struct entry *b = *(const struct entry *const *)right;
    if (a->at != b->at) {
        return a->at < b->at ? -1 : 1;
    }
    if ((a->end == NULL) != (b->end == NULL)) {
        return a->end != NULL ? -1 : 1;
    }
    return a < b ? -1 : a > b ? 1 : 0;
}

static int maybe_by_start(const void *left, const void *right) {
    const struct maybe *a = left;
    const struct maybe *b = right;
    if (a->op->start != b->op->start) {
        return a->op->start < b->op->start ? -1 : 1;
    }
    return a->op->line < b->op->line ? -1 : a->op->line > b->op->line ? 1 : 0;
}

static void link_entries(struct search *search, struct entry **order, size_t n) {
    struct entry *last = &search->head;
    for (size_t i = 0; i < n; i++) {
        order[i]->before = last;
        last->next = order[i];
        last = order[i];
    }
    last->next = NULL;
}

static void prepare(struct search *search, const struct op *const *ops, size_t n) {
    find_zones(search, ops, n);
    search->entries = mem_zalloc(2 * n + 1, sizeof *search->entries);
    search->candidates = mem_zalloc(n + 1, sizeof *search->candidates);
    search->maybes = mem_zalloc(n + 1, sizeof *search->maybes);
    struct entry **order = mem_zalloc(2 * n + 1, sizeof *order);
    size_t n_entries = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t mark[2] = {mix(2 * i + 1), mix(~(2 * i))};
        uint64_t ends = end_of(search, ops[i]);
        if (ends == TIME_NEVER) {
            search->maybes[search->n_maybes++] =
                (struct maybe){.op = ops[i], .mark = {mark[0], mark[1]}};
            continue;
        }
        struct entry *call = &search->entries[n_entries];
        struct entry *end = call + 1;
        *call = (struct entry){.op = ops[i], .end = end, .at = ops[i]->start};
        *end = (struct entry){.op = ops[i], .at = ends};
        memcpy(call->mark, mark, sizeof mark);
        set_times(search, call);
        order[n_entries++] = call;
        order[n_entries++] = end;
    }
    search->n_known = n_entries / 2;
    qsort(order, n_entries, sizeof(struct entry *), by_time);
    qsort(search->maybes, search->n_maybes, sizeof *search->maybes, maybe_by_start);
    link_entries(search, order, n_entries);
    mem_free(order);
}

static void unlink_entry(struct entry *entry) {
    entry->before->next = entry->next;
    if (entry->next != NULL) {
        entry->next->before = entry->before;
    }
}

static void relink_entry(struct entry *entry) {
    entry->before->next = entry;
    if (entry->next != NULL) {
        entry->next->before = entry;
    }
}

/* --- memory of what was tried ----------------------------------------------------------------- */

static void pair_key(const uint64_t placed[2], const struct model_state *state, uint64_t key[2]) {
    key[0] = placed[0];
    key[1] = placed[1];
    for (size_t i = 0; i < MODEL_STATE / 8; i++) {
        key[0] = mix(key[0] + state->words[i] + UINT64_C(0x9e3779b97f4a7c15));
        key[1] = (key[1] ^ state->words[i]) * UINT64_C(0xd6e8feb86659fd93);
        key[1] ^= key[1] >> 32;
    }
    key[0] |= 1; /* never that of an empty place */
}

static void pairs_grow(struct search *search) {
    struct pair *old = search->pairs;
    size_t n = search->slots;
    search->slots = n == 0 ? 1024 : 2 * n;
    search->pairs = mem_zalloc(search->slots, sizeof *search->pairs);
    for (size_t i = 0; i < n; i++) {
        size_t at = (size_t)(old[i].key[0] >> 1) & (search->slots - 1);
        if (old[i].key[0] == 0) {
            continue;
        }
        while (search->pairs[at].key[0] != 0) {
            at = (at + 1) & (search->slots - 1);
        }
        search->pairs[at] = old[i];
    }
    mem_free(old);
}

/* False when this was tried before, with the same or fewer unknown operations used up. */
static bool remember(struct search *search, const uint64_t placed[2], uint64_t used,
                     const struct model_state *state) {
    uint64_t key[2];
    if (2 * search->n_pairs >= search->slots) {
        pairs_grow(search);
    }
    pair_key(placed, state, key);
    size_t at = (size_t)(key[0] >> 1) & (search->slots - 1);
    for (; search->pairs[at].key[0] != 0; at = (at + 1) & (search->slots - 1)) {
        struct pair *pair = &search->pairs[at];
        if (pair->key[0] != key[0] || pair->key[1] != key[1]) {
            continue;
        }
        if ((pair->used & ~used) == 0) {
            return false;
        }
        if ((used & ~pair->used) == 0) {
            pair->used = used; /* covers all that the older one did */
            return true;
        }
    }
    search->pairs[at] = (struct pair){.key = {key[0], key[1]}, .used = used};
    search->n_pairs++;
    return true;
}

/* --- steps ------------------------------------------------------------------------------------ */

static struct frame *push(struct search *search) {
    if (search->depth == search->capacity) {
        search->capacity = search->capacity == 0 ? 256 : 2 * search->capacity;
        search->frames = mem_realloc(search->frames, search->capacity * sizeof *search->frames);
    }
    struct frame *frame = &search->frames[search->depth++];
    memset(frame, 0, sizeof *frame);
    frame->before = search->state;
    return frame;
}

static enum step try_step(struct search *search, const struct entry *call,
                          struct model_state *next) {
    *next = search->state;
    search->result->steps++;
    return search->model->step(search->context, call->op, next);
}

static void place_known(struct search *search, struct entry *call, size_t tried, bool is_only_way,
                        const struct model_state *next) {
    struct frame *frame = push(search);
    frame->call = call;
    frame->tried = tried;
    frame->is_only_way = is_only_way;
    search->state = *next;
    search->placed[0] ^= call->mark[0];
    search->placed[1] ^= call->mark[1];
    search->n_placed++;
    unlink_entry(call->end);
    unlink_entry(call);
}

/* Places the candidate if that is possible and was not tried before. */
static bool place_candidate(struct search *search, size_t i) {
    struct entry *call = search->candidates[i].call;
    struct model_state next;
    uint64_t placed[2] = {search->placed[0] ^ call->mark[0], search->placed[1] ^ call->mark[1]};
    if (try_step(search, call, &next) == STEP_NO ||
        !remember(search, placed, search->used, &next)) {
        return false;
    }
    place_known(search, call, i, false, &next);
    return true;
}

/* Whether the values' times say that `a` comes before `b`. */
static bool comes_before(const struct entry *a, const struct entry *b) {
    return a->wanted_by < b->seen_at && !(b->wanted_by < a->seen_at);
}

static int by_promise(const void *left, const void *right) {
    const struct candidate *a = left;
    const struct candidate *b = right;
    if (a->others_before != b->others_before) {
        return a->others_before < b->others_before ? -1 : 1;
    }
    if (a->call->wanted_by != b->call->wanted_by) {
        return a->call->wanted_by < b->call->wanted_by ? -1 : 1;
    }
    return a->call < b->call ? -1 : a->call > b->call ? 1 : 0;
}

/* Fills in the calls before the first return, and answers that. */
static const struct entry *find_candidates(struct search *search) {
    struct entry *entry = search->head.next;
    search->n_candidates = 0;
    for (; entry->end != NULL; entry = entry->next) {
        search->candidates[search->n_candidates++] = (struct candidate){.call = entry};
    }
    return entry;
}

static void order_candidates(struct search *search) {
    for (size_t i = 0; i < search->n_candidates; i++) {
        for (size_t k = 0; k < search->n_candidates; k++) {
            search->candidates[i].others_before +=
                comes_before(search->candidates[k].call, search->candidates[i].call) ? 1 : 0;
        }
    }
    qsort(search->candidates, search->n_candidates, sizeof *search->candidates, by_promise);
}

/* Places an operation that fits and changes nothing, if there is one. */
static bool place_pure(struct search *search) {
    struct model_state next;
    for (size_t i = 0; i < search->n_candidates; i++) {
        if (try_step(search, search->candidates[i].call, &next) == STEP_PURE) {
            place_known(search, search->candidates[i].call, i, true, &next);
            return true;
        }
    }
    return false;
}

static bool place_maybe(struct search *search, size_t i) {
    struct maybe *maybe = &search->maybes[i];
    struct model_state next = search->state;
    search->result->steps++;
    if (search->model->step(search->context, maybe->op, &next) == STEP_NO) {
        return false;
    }
    uint64_t placed[2] = {search->placed[0], search->placed[1]};
    uint64_t used = search->used;
    if (i < FEW) {
        used |= UINT64_C(1) << i;
    } else {
        placed[0] ^= maybe->mark[0];
        placed[1] ^= maybe->mark[1];
    }
    if (!remember(search, placed, used, &next)) {
        return false;
    }
    struct frame *frame = push(search);
    frame->maybe = i;
    search->state = next;
    memcpy(search->placed, placed, sizeof placed);
    search->used = used;
    maybe->used = true;
    return true;
}

/* Takes back the last step; the frame is valid until the next push. */
static const struct frame *take_back(struct search *search) {
    const struct frame *frame = &search->frames[--search->depth];
    search->state = frame->before;
    if (frame->call != NULL) {
        relink_entry(frame->call);
        relink_entry(frame->call->end);
        search->placed[0] ^= frame->call->mark[0];
        search->placed[1] ^= frame->call->mark[1];
        search->n_placed--;
        return frame;
    }
    struct maybe *maybe = &search->maybes[frame->maybe];
    maybe->used = false;
    if (frame->maybe < FEW) {
        search->used &= ~(UINT64_C(1) << frame->maybe);
    } else {
        search->placed[0] ^= maybe->mark[0];
        search->placed[1] ^= maybe->mark[1];
    }
    return frame;
}

static bool has_like_before(const struct search *search, size_t i) {
    for (size_t k = 0; search->model->alike != NULL && k < i; k++) {
        if (!search->maybes[k].used &&
            search->model->alike(search->maybes[k].op, search->maybes[i].op)) {
            return true;
        }
    }
    return false;
}

/* Places an unknown operation from the i-th on that began before `until`. */
static bool place_any_maybe(struct search *search, size_t i, uint64_t until) {
    for (; i < search->n_maybes && search->maybes[i].op->start <= until; i++) {
        if (!search->maybes[i].used && !has_like_before(search, i) && place_maybe(search, i)) {
            return true;
        }
    }
    return false;
}

/* All ways end at this return: remembers how it looks there, if no way came further. */
static void note_dead_end(struct search *search, const struct entry *blocked) {
    struct search_result *result = search->result;
    if (search->n_placed > search->best || result->blocked == NULL) {
        search->best = search->n_placed;
        result->n_states = 0;
    }
    if (search->n_placed < search->best) {
        return;
    }
    result->blocked = blocked->op;
    for (unsigned i = 0; i < result->n_states; i++) {
        if (memcmp(&result->states[i], &search->state, sizeof search->state) == 0) {
            return;
        }
    }
    if (result->n_states < SEARCH_STATES) {
        result->states[result->n_states++] = search->state;
    }
}

/* What is next to try at a place: candidates in their order, then unknown ones. */
struct place {
    size_t tried; /* 0: nothing */
    size_t maybe;
};

/* One step forward; false when none is left at this place. */
static bool forward(struct search *search, const struct place *place) {
    const struct entry *first_return = find_candidates(search);
    if (place->tried == 0 && place->maybe == 0 && place_pure(search)) {
        return true;
    }
    order_candidates(search);
    for (size_t i = place->tried; i < search->n_candidates; i++) {
        if (place_candidate(search, i)) {
            return true;
        }
    }
    if (place_any_maybe(search, place->maybe, first_return->at)) {
        return true;
    }
    note_dead_end(search, first_return);
    return false;
}

/* Takes steps back to where there is another way. False when there is none. */
static bool backward(struct search *search, struct place *place) {
    while (search->depth > 0) {
        const struct frame *frame = take_back(search);
        if (frame->call == NULL) {
            *place = (struct place){.tried = SIZE_MAX, .maybe = frame->maybe + 1};
            return true;
        }
        if (!frame->is_only_way) {
            *place = (struct place){.tried = frame->tried + 1};
            return true;
        }
    }
    return false;
}

static bool is_over(const struct search *search) {
    return search->result->steps > search->limits->steps ||
           search->n_pairs > search->limits->states;
}

static enum verdict run(struct search *search) {
    struct place place = {0};
    while (search->head.next != NULL) {
        if (is_over(search)) {
            return VERDICT_UNDECIDED;
        }
        if (forward(search, &place)) {
            place = (struct place){0};
        } else if (!backward(search, &place)) {
            return VERDICT_VIOLATION;
        }
    }
    return VERDICT_GOOD;
}

void search_run(const struct model *model, const struct model_context *context,
                const struct op *const *ops, size_t n, const struct search_limits *limits,
                struct search_result *result) {
    struct search search = {.model = model, .context = context, .limits = limits, .result = result};
    memset(result, 0, sizeof *result);
    prepare(&search, ops, n);
    model->begin(context, &search.state);
    result->verdict = run(&search);
    result->peak_states = search.n_pairs;
    mem_free(search.entries);
    mem_free(search.candidates);
    mem_free(search.zones);
    mem_free(search.maybes);
    mem_free(search.frames);
    mem_free(search.pairs);
}
