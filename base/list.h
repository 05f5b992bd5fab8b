/* Intrusive doubly linked list. An element embeds `struct list_node`; a list is a sentinel node. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list_node {
    struct list_node *next;
    struct list_node *prev;
};

#define LIST_ENTRY(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))

static inline void list_init(struct list_node *list) {
    list->next = list;
    list->prev = list;
}
static inline bool list_empty(const struct list_node *list) {
    return list->next == list;
}
static inline void list_insert_before(struct list_node *at, struct list_node *node) {
    node->next = at;
    node->prev = at->prev;
    at->prev->next = node;
    at->prev = node;
}
/* Appends at the end of the list. */
static inline void list_push(struct list_node *list, struct list_node *node) {
    list_insert_before(list, node);
}
/* Unlinks the node; unlinking it again is harmless. */
static inline void list_remove(struct list_node *node) {
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}
/* First node, or NULL. */
static inline struct list_node *list_first(const struct list_node *list) {
    return list_empty(list) ? NULL : list->next;
}

#endif
