/* Project handles, and the identities that they share. */
#include <stdlib.h>
#include <string.h>

#include "base/slot.h"
#include "client/src/client.h"

static uint64_t hash_text(uint64_t hash, const char *text) {
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    }
    return hash;
}

/* Of the name alone: all identities of a name are in one chain. */
static uint64_t hash_of(const char *name) {
    uint64_t hash = hash_text(0xCBF29CE484222325u, name);
    return hash ^ (hash >> 29);
}

static bool is_same(const struct identity *identity, const char *name, const char *token) {
    if (strcmp(identity->name, name) != 0 || (identity->token == NULL) != (token == NULL)) {
        return false;
    }
    return token == NULL || strcmp(identity->token, token) == 0;
}

static struct identity **chain_of(ikv_client *client, const char *name) {
    return &client->identities[hash_of(name) & (client->identity_slots - 1)];
}

static bool grow(ikv_client *client) {
    size_t slots = client->identity_slots > 0 ? client->identity_slots * 2 : 64;
    struct identity **old = client->identities;
    size_t old_slots = client->identity_slots;
    struct identity **table = calloc(slots, sizeof(struct identity *));
    if (table == NULL) {
        return old != NULL; /* longer chains will do */
    }
    client->identities = table;
    client->identity_slots = slots;
    for (size_t i = 0; i < old_slots; i++) {
        while (old[i] != NULL) {
            struct identity *identity = old[i];
            struct identity **chain = chain_of(client, identity->name);
            old[i] = identity->next;
            identity->next = *chain;
            *chain = identity;
        }
    }
    free(old);
    return true;
}

static struct identity *make(const char *name, const char *token) {
    size_t size = strlen(name) + 1;
    struct identity *identity = calloc(1, sizeof *identity + size);
    if (identity == NULL) {
        return NULL;
    }
    memcpy(identity->name, name, size);
    identity->slot = slot_of(slice_of(identity->name));
    identity->refs = 1;
    if (token != NULL) {
        identity->token = strdup(token);
        if (identity->token == NULL) {
            free(identity);
            return NULL;
        }
    }
    return identity;
}

/* One reference, or NULL without memory. Under the mutex. */
static struct identity *intern(ikv_client *client, const char *name, const char *token) {
    if (client->n_identities >= client->identity_slots && !grow(client)) {
        return NULL;
    }
    struct identity **chain = chain_of(client, name);
    uint64_t name_id = 0;
    for (struct identity *at = *chain; at != NULL; at = at->next) {
        if (is_same(at, name, token)) {
            at->refs++;
            return at;
        }
        name_id = strcmp(at->name, name) == 0 ? at->name_id : name_id;
    }
    struct identity *identity = make(name, token);
    if (identity != NULL) {
        identity->id = client->next_identity++;
        identity->name_id = name_id != 0 ? name_id : identity->id;
        identity->next = *chain;
        *chain = identity;
        client->n_identities++;
    }
    return identity;
}

/* Under the mutex. */
static void release(ikv_client *client, struct identity *identity) {
    if (--identity->refs > 0) {
        return;
    }
    struct identity **at = chain_of(client, identity->name);
    while (*at != identity) {
        at = &(*at)->next;
    }
    *at = identity->next;
    client->n_identities--;
    free(identity->token);
    free(identity);
}

void project_ref(struct ikv_project *project) {
    atomic_fetch_add(&project->refs, 1);
}

void project_unref(struct ikv_project *project) {
    if (atomic_fetch_sub(&project->refs, 1) != 1) {
        return;
    }
    ikv_client *client = project->client;
    pthread_mutex_lock(&client->mutex);
    release(client, project->identity);
    pthread_mutex_unlock(&client->mutex);
    free(project);
    client_unref(client);
}

static int check(const char *name, const char *token, enum ikv_level level, uint32_t max_stale_ms) {
    bool level_is_known =
        level == IKV_LINEARIZABLE || level == IKV_SESSION || level == IKV_EVENTUAL;
    bool token_is_sound = token == NULL || (token[0] != '\0' && strlen(token) < URL_TOKEN_SIZE);
    bool stale_is_sound = max_stale_ms == 0 || level == IKV_EVENTUAL;
    if (!level_is_known || !token_is_sound || !stale_is_sound || max_stale_ms > INT32_MAX ||
        !url_is_project_name(name)) {
        return IKV_ERR_INVALID;
    }
    return IKV_OK;
}

int ikv_project_open(ikv_client *client, const char *name, const char *token, enum ikv_level level,
                     uint32_t max_stale_ms, ikv_project **project) {
    if (project == NULL || client == NULL) {
        return IKV_ERR_INVALID;
    }
    *project = NULL;
    if (client_is_forked(client)) {
        return IKV_ERR_FORKED;
    }
    if (name == NULL) {
        name = client->default_name != NULL ? client->default_name : "default";
        token = token != NULL ? token : client->default_token;
    }
    int error = check(name, token, level, max_stale_ms);
    if (token != NULL && client->options.secret != NULL) {
        error = IKV_ERR_INVALID; /* the node would take the credential away from the connection */
    }
    if (error != IKV_OK) {
        return error;
    }
    struct ikv_project *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return IKV_ERR_NOMEM;
    }
    pthread_mutex_lock(&client->mutex);
    made->identity = intern(client, name, token);
    pthread_mutex_unlock(&client->mutex);
    if (made->identity == NULL) {
        free(made);
        return IKV_ERR_NOMEM;
    }
    atomic_init(&made->refs, 1);
    client_ref(client);
    made->client = client;
    made->level = level;
    made->max_stale_ms = max_stale_ms;
    *project = made;
    return IKV_OK;
}

void ikv_project_close(ikv_project *project) {
    if (project != NULL && !client_is_forked(project->client)) {
        project_unref(project);
    }
}

const char *ikv_project_name(const ikv_project *project) {
    return project->identity->name;
}
