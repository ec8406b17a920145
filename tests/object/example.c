/* SPDX-License-Identifier: MIT */
/* The example of docs/objects.md: two threads, one list of strings, a weak reference. */
#include <pthread.h>
#include <stdio.h>

#include <freehold/object.h>

static fh_space *space;

/* Owns one reference to the list, which it is given. */
static void *count_items(void *list)
{
    fh_space_attach(space);
    printf("%zu items\n", fh_list_count(list));
    fh_decref(list);
    fh_space_detach();
    return NULL;
}

int main(void)
{
    pthread_t thread;
    space = fh_space_create(NULL);
    if (space == NULL || fh_space_attach(space) != 0)
        return 1;
    fh_object *list = fh_list_new(0);
    fh_object *text = fh_string_new("held by nobody", 14);
    if (list == NULL || text == NULL || fh_list_append(list, text) != 0)
        return 1;
    fh_decref(text); /* the list has one */
    if (pthread_create(&thread, NULL, count_items, fh_new_ref(list)) != 0)
        return 1;
    fh_decref(list);
    fh_space_park(); /* others need not wait for this thread, nor for its objects */
    pthread_join(thread, NULL);
    fh_space_unpark();
    size_t live = fh_space_live_objects();
    fh_space_detach();
    return live == 0 && fh_space_destroy(space) == 0 ? 0 : 1;
}
