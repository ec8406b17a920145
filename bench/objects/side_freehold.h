/* SPDX-License-Identifier: MIT */
/* The object library's side. Modes: gil (default memory, the built-in lock), gil-heap (a gil-assert
 * heap), free. */
#ifndef SIDE_H
#define SIDE_H

#include <freehold/gil.h>
#include <freehold/object.h>

typedef fh_object object;

#define make_int(value)           fh_int_new(value)
#define make_string(text, bytes)  fh_string_new((text), (bytes))
#define make_list()               fh_list_new(0)
#define list_append(list, item)   fh_list_append((list), (item))
#define make_dict()               fh_dict_new()
#define dict_set(dict, key, item) fh_dict_set((dict), (key), (item))
#define dict_get(dict, key)       fh_dict_get((dict), (key))
#define dict_delete(dict, key)    fh_dict_delete((dict), (key))
#define drop(object)              fh_decref(object)
#define safe_point()              fh_safe_point()

struct node {
    fh_object base;
    fh_object *parent, *children[2];
};

static int node_traverse(fh_object *self, fh_visit visit, void *context)
{
    struct node *node = (struct node *)self;
    fh_object *all[] = {node->parent, node->children[0], node->children[1]};
    int result = 0;
    for (unsigned i = 0; i < 3 && result == 0; i++)
        if (all[i] != NULL)
            result = visit(all[i], context);
    return result;
}

static void node_clear(fh_object *self)
{
    struct node *node = (struct node *)self;
    fh_clear(node->parent);
    fh_clear(node->children[0]);
    fh_clear(node->children[1]);
}

static fh_type node_type = {
    .name = "node",
    .basic_bytes = sizeof(struct node),
    .flags = FH_TYPE_GC,
    .dealloc = node_clear,
    .traverse = node_traverse,
    .clear = node_clear,
};

static object *make_node(object *parent)
{
    struct node *node = (struct node *)fh_object_new(&node_type);
    if (node == NULL)
        return NULL;
    if (parent != NULL)
        node->parent = fh_new_ref(parent);
    fh_gc_track(&node->base);
    return &node->base;
}

static void node_set_child(object *node, unsigned side, object *child) /* steals child */
{
    ((struct node *)node)->children[side] = child;
}

/* ---- */

static fh_space *space;
static fh_heap *heap;

static bool side_open(const char *mode)
{
    fh_space_config config = {.struct_bytes = sizeof(config)};
    if (strcmp(mode, "gil") == 0) {
        config.gil = fh_gil_builtin();
    } else if (strcmp(mode, "gil-heap") == 0) {
        fh_heap_config heap_config = {.struct_bytes = sizeof(heap_config),
                                      .mode = FH_OBJ_GIL_ASSERT};
        config.heap = heap = fh_heap_create(&heap_config);
        if (heap == NULL)
            return false;
    } else if (strcmp(mode, "free") != 0) {
        return false;
    }
    space = fh_space_create(&config);
    return space != NULL;
}

static void side_attach(void)
{
    if (fh_space_attach(space) != 0)
        abort();
}

static void side_wait(pthread_barrier_t *barrier)
{
    fh_space_park();
    pthread_barrier_wait(barrier);
    fh_space_unpark();
}

static void side_detach(void)
{
    fh_space_detach();
}

/* False if anything is left alive. */
static bool side_close(void)
{
    return fh_space_destroy(space) == 0;
}

#endif
