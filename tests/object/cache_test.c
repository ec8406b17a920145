/* SPDX-License-Identifier: MIT */
/* Free lists and slabs. */
#include <stdio.h>
#include <string.h>

#include "cache.h"
#include "space.h"
#include "spaces.h"

/* ---- Free lists -------------------------------------------------------------------------------
 */

static fh_free_list three = {.name = "Threes", .object_bytes = 32, .cap = 3};

static void give_three(void *memory[3])
{
    for (int i = 0; i < 3; i++) {
        memory[i] = fh_obj_malloc(32);
        CHECK(memory[i] != NULL && fh_free_list_give(&three, memory[i]) == 1);
    }
}

static void last_first(void)
{
    void *memory[3];
    CHECK(fh_free_list_take(&three) == NULL);
    give_three(memory);
    for (int i = 2; i >= 0; i--) {
        CHECK(fh_free_list_length(&three) == (size_t)i + 1);
        CHECK(fh_free_list_take(&three) == memory[i]);
        fh_obj_free(memory[i]);
    }
    CHECK(fh_free_list_take(&three) == NULL);
}

TEST(what_a_free_list_was_given_last_is_taken_first)
{
    in_each_mode(last_first);
}

static void at_the_cap(void)
{
    void *memory[3], *one_more = fh_obj_malloc(32);
    give_three(memory);
    CHECK(fh_free_list_give(&three, one_more) == 0 && fh_free_list_length(&three) == 3);
    fh_obj_free(one_more);
    CHECK(fh_free_list_clear(&three) == 3);
    CHECK(fh_free_list_length(&three) == 0 && fh_free_list_take(&three) == NULL);
}

TEST(a_full_free_list_leaves_the_memory_to_the_caller_and_clearing_empties_it)
{
    in_each_mode(at_the_cap);
}

static void keep_contents(void)
{
    uint64_t *memory = fh_obj_malloc(32);
    for (unsigned i = 0; i < 4; i++)
        memory[i] = i + 100;
    CHECK(fh_free_list_give(&three, memory) == 1 && fh_free_list_take(&three) == memory);
    CHECK(memory[0] == 100 && memory[2] == 102 && memory[3] == 103); /* all but the link */
    fh_obj_free(memory);
}

TEST(the_second_word_alone_is_the_link)
{
    in_each_mode(keep_contents);
}

static void see_nothing(void *argument)
{
    (void)argument;
    CHECK(fh_free_list_length(&three) == 0 && fh_free_list_take(&three) == NULL);
}

static void see_three(void *argument)
{
    (void)argument;
    CHECK(fh_free_list_length(&three) == 3);
}

TEST(each_thread_of_a_free_space_has_a_free_list_of_its_own)
{
    void *memory[3];
    fh_space *space = enter_free();
    give_three(memory);
    attached_elsewhere(see_nothing, NULL);
    see_three(NULL);
    leave(space); /* gives back what is kept */
}

TEST(the_threads_of_a_gil_space_share_a_free_list)
{
    void *memory[3];
    fh_space *space = enter_gil();
    give_three(memory);
    attached_elsewhere(see_three, NULL);
    leave(space);
}

TEST(a_slot_keeps_its_free_lists_for_who_takes_it_next)
{
    void *memory[3];
    fh_space *space = enter_free();
    give_three(memory);
    fh_space_detach();
    struct visit next = {space, see_three, NULL};
    elsewhere(visit, &next);
    CHECK(fh_space_destroy(space) == 0);
}

TEST(a_space_gives_back_what_its_free_lists_keep)
{
    void *memory[3];
    fh_heap *heap = fh_heap_create(NULL);
    fh_space_config config = {.struct_bytes = sizeof config, .heap = heap};
    fh_space *space = enter(&config);
    give_three(memory);
    leave(space);
    CHECK(fh_heap_destroy(heap, 0) == 0); /* EBUSY with a live block */
}

TEST(free_lists_beyond_the_most_keep_nothing)
{
    static fh_free_list many[FH_OBJECT_LISTS_MAX + 8];
    fh_space *space = enter_free();
    unsigned kept = 0;
    for (unsigned i = 0; i < FH_OBJECT_LISTS_MAX + 8; i++) {
        many[i] = (fh_free_list){.name = "Many", .object_bytes = 16, .cap = 1};
        void *memory = fh_obj_malloc(16);
        if (fh_free_list_give(&many[i], memory) == 1) {
            kept++;
            CHECK(fh_free_list_take(&many[i]) == memory);
        } else {
            CHECK(fh_free_list_take(&many[i]) == NULL && fh_free_list_clear(&many[i]) == 0);
        }
        fh_obj_free(memory);
    }
    CHECK(kept == FH_OBJECT_LISTS_MAX - FH_LISTS_OWN_END); /* the library has its own first */
    leave(space);
}

static fh_free_list contended[8];

static void register_all(unsigned number, void *space)
{
    CHECK(fh_space_attach(space) == 0);
    for (unsigned i = 0; i < 8; i++)
        CHECK(fh_free_list_take(&contended[(i + number) % 8]) == NULL);
    fh_space_detach();
}

TEST(threads_that_use_a_list_first_at_once_give_it_one_index)
{
    for (unsigned i = 0; i < 8; i++)
        contended[i] = (fh_free_list){.name = "Contended", .object_bytes = 16, .cap = 1};
    fh_space *space = fh_space_create(NULL);
    together(4, register_all, space);
    for (unsigned i = 0; i < 8; i++) {
        CHECK(contended[i].index >= FH_LISTS_OWN_END && contended[i].index < FH_LISTS_OWN_END + 8);
        CHECK(fh_free_list_at(contended[i].index) == &contended[i]);
    }
    CHECK(fh_space_destroy(space) == 0);
}

/* ---- Slabs ------------------------------------------------------------------------------------
 */

static fh_slab of_24 = {.name = "Of24", .object_bytes = 24, .block_bytes = 1000, .header_bytes = 8};
static fh_slab of_12 = {.name = "Of12", .object_bytes = 12};

TEST(a_block_of_1000_bytes_holds_41_objects_of_24_or_82_of_12)
{
    CHECK(fh_slab_capacity(&of_24) == 41);
    CHECK(fh_slab_capacity(&of_12) == 82); /* with what zeros mean */
}

static void rear_to_front(void)
{
    char *last = fh_slab_take(&of_24), *objects[41] = {last};
    for (int i = 1; i < 41; i++) {
        objects[i] = fh_slab_take(&of_24);
        CHECK(objects[i] == last - 24 * i);
    }
    char *next_block = fh_slab_take(&of_24);
    CHECK(next_block >= last + 24 || next_block + 24 <= objects[40]);
    for (int i = 0; i < 41; i++)
        fh_slab_give(&of_24, objects[i]);
    fh_slab_give(&of_24, next_block);
}

TEST(a_block_is_handed_out_from_its_rear_to_its_front)
{
    in_each_mode(rear_to_front);
}

static void freed_last(void)
{
    void *one = fh_slab_take(&of_24), *other = fh_slab_take(&of_24);
    fh_slab_give(&of_24, one);
    fh_slab_give(&of_24, other);
    CHECK(fh_slab_take(&of_24) == other && fh_slab_take(&of_24) == one);
    fh_slab_give(&of_24, one);
    fh_slab_give(&of_24, other);
}

TEST(what_a_slab_was_given_last_is_taken_first)
{
    in_each_mode(freed_last);
}

enum { MANY = 1000 };

static void fill(void *objects[MANY])
{
    for (unsigned i = 0; i < MANY; i++) {
        objects[i] = fh_slab_take(&of_12);
        CHECK(objects[i] != NULL);
        memset(objects[i], (int)(i % 251), 12);
    }
}

static void check_and_give(void *objects[MANY])
{
    for (unsigned i = 0; i < MANY; i++) {
        unsigned char expected[12];
        memset(expected, (int)(i % 251), 12);
        CHECK(memcmp(objects[i], expected, 12) == 0);
        fh_slab_give(&of_12, objects[i]);
    }
}

static void keep_12_bytes(void)
{
    void *objects[MANY];
    for (int round = 0; round < 3; round++) {
        fill(objects);
        check_and_give(objects);
    }
    CHECK(fh_slab_count_all(fh_space_current(), of_12.index).blocks == (MANY + 81) / 82);
}

TEST(objects_of_12_bytes_do_not_touch_each_other_and_are_taken_again)
{
    in_each_mode(keep_12_bytes);
}

static void give_one(void *object)
{
    fh_slab_give(&of_24, object);
    CHECK(fh_slab_take(&of_24) == object);
    fh_slab_give(&of_24, object);
}

TEST(a_thread_may_give_what_another_took_and_take_it_again)
{
    fh_space *space = enter_free();
    void *object = fh_slab_take(&of_24);
    attached_elsewhere(give_one, object);
    leave(space);
}

/* ---- Giving blocks back -----------------------------------------------------------------------
 */

static void clear_around_a_live_one(void)
{
    void *objects[3 * 41];
    for (unsigned i = 0; i < 3 * 41; i++)
        objects[i] = fh_slab_take(&of_24);
    CHECK(fh_slab_clear(&of_24) == 0); /* all live */
    for (unsigned i = 0; i < 3 * 41; i++)
        if (i != 50)
            fh_slab_give(&of_24, objects[i]);
    CHECK(fh_slab_clear(&of_24) == 2 * 1000);
    struct fh_slab_counts counts = fh_slab_count_all(fh_space_current(), of_24.index);
    CHECK(counts.blocks == 1 && counts.kept == 40);
    fh_slab_give(&of_24, objects[50]);
    CHECK(fh_slab_clear(&of_24) == 1000);
    CHECK(fh_slab_clear(&of_24) == 0);
}

TEST(clearing_gives_back_the_blocks_of_which_nothing_lives)
{
    in_each_mode(clear_around_a_live_one);
}

static void take_what_was_kept(void)
{
    void *objects[2 * 41], *again[40];
    for (unsigned i = 0; i < 2 * 41; i++)
        objects[i] = fh_slab_take(&of_24);
    for (unsigned i = 1; i < 2 * 41; i++)
        fh_slab_give(&of_24, objects[i]);
    CHECK(fh_slab_clear(&of_24) == 1000);
    for (unsigned i = 0; i < 40; i++) {
        again[i] = fh_slab_take(&of_24);
        CHECK(again[i] != objects[0]);
        for (unsigned j = 0; j < i; j++)
            CHECK(again[j] != again[i]);
    }
    CHECK(fh_slab_count_all(fh_space_current(), of_24.index).blocks == 1);
    for (unsigned i = 0; i < 40; i++)
        fh_slab_give(&of_24, again[i]);
    fh_slab_give(&of_24, objects[0]);
}

TEST(what_clearing_leaves_is_taken_once_each)
{
    in_each_mode(take_what_was_kept);
}

static void give_all(void *argument)
{
    void **objects = argument;
    for (unsigned i = 0; i < 41; i++)
        fh_slab_give(&of_24, objects[i]);
}

TEST(clearing_finds_what_other_slots_keep)
{
    fh_space *space = enter_free();
    void *objects[41];
    for (unsigned i = 0; i < 41; i++)
        objects[i] = fh_slab_take(&of_24);
    attached_elsewhere(give_all, objects);
    CHECK(fh_slab_clear(&of_24) == 1000);
    leave(space);
}

/* ---- One makes, another drops -----------------------------------------------------------------
 */

enum { ROOM = 256, PASSED = 200000 };

struct mailbox {
    fh_space *space;
    void *places[ROOM]; /* atomic */
};

static void produce(struct mailbox *box)
{
    for (struct bound bound = at_most(PASSED); more(&bound);) {
        void **place = &box->places[bound.step % ROOM];
        if (at_load_relaxed(place) == NULL)
            at_store_release(place, fh_slab_take(&of_24)); /* to consume() */
    }
    at_store_release(&box->places[0], (void *)box); /* the end */
}

static void consume(struct mailbox *box)
{
    for (size_t i = 0;; i++) {
        void *object = at_load_acquire(&box->places[i % ROOM]);
        if (object == box)
            return;
        if (object != NULL) {
            at_store_release(&box->places[i % ROOM], NULL);
            fh_slab_give(&of_24, object);
        }
    }
}

static void produce_or_consume(unsigned number, void *shared)
{
    struct mailbox *box = shared;
    CHECK(fh_space_attach(box->space) == 0);
    if (number == 0)
        produce(box);
    else
        consume(box);
    fh_space_detach();
}

TEST(what_one_thread_gives_another_takes_so_that_blocks_do_not_add_up)
{
    static struct mailbox box;
    box.space = fh_space_create(NULL);
    together(2, produce_or_consume, &box);
    CHECK(fh_space_attach(box.space) == 0);
    struct fh_slab_counts counts = fh_slab_count_all(box.space, of_24.index);
    printf("%zu blocks\n", counts.blocks);
    CHECK(counts.blocks <= (ROOM + FH_SLAB_BATCH_COUNT * (FH_SLAB_BATCHES + 2)) / 41);
    leave(box.space);
}

TEST(slabs_beyond_the_most_use_single_blocks)
{
    static fh_slab many[FH_OBJECT_SLABS_MAX + 8];
    fh_space *space = enter_free();
    for (unsigned i = 0; i < FH_OBJECT_SLABS_MAX + 8; i++) {
        many[i] = (fh_slab){.name = "Many", .object_bytes = 16};
        void *one = fh_slab_take(&many[i]), *other = fh_slab_take(&many[i]);
        CHECK(one != NULL && other != NULL && one != other);
        fh_slab_give(&many[i], one);
        fh_slab_give(&many[i], other);
        CHECK(fh_slab_clear(&many[i]) == (i < FH_OBJECT_SLABS_MAX - 1 ? 1000u : 0));
    }
    leave(space);
}
