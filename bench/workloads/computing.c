/* SPDX-License-Identifier: MIT */
/* Programs that compute something with linked data, and check what comes out.
 *
 *   arithmetic  (3a + 5b + 7c + 11d)^n, multiplied out step by step. Terms and coefficients are
 *               blocks that never change: each sum is a new one, and its parts are freed
 *   logic       all ways to place n queens, row by row. A position is a list of queens that shares
 *               its end with those it came from
 *   tree        one tree that stays, and many that are built, counted and dropped
 */
#include "workloads.h"

#include <assert.h>
#include <string.h>

/* ---- arithmetic: numbers ---- */

/* The most significant limb, which is the last one, is not 0. */
struct number {
    uint32_t count;
    uint32_t limbs[];
};

static struct number *number_new(struct worker *self, uint32_t count)
{
    struct number *number = take(self, sizeof(*number) + count * sizeof(uint32_t));
    number->count = count;
    return number;
}

static struct number *number_small(struct worker *self, uint32_t value)
{
    struct number *number = number_new(self, 1);
    number->limbs[0] = value;
    return number;
}

/* limbs[0..count] are the digits of the result, of which the last one may be 0. */
static struct number *number_of_limbs(struct worker *self, const uint32_t *limbs, uint32_t count)
{
    if (limbs[count - 1] == 0)
        count--;
    struct number *number = number_new(self, count);
    memcpy(number->limbs, limbs, count * sizeof(uint32_t));
    return number;
}

enum { LIMBS_MAX = 32 };

static struct number *number_sum(struct worker *self, const struct number *a,
                                 const struct number *b)
{
    const uint32_t count = a->count > b->count ? a->count : b->count;
    uint32_t limbs[LIMBS_MAX + 1];
    uint64_t carry = 0;
    for (uint32_t i = 0; i < count; i++) {
        carry += i < a->count ? a->limbs[i] : 0;
        carry += i < b->count ? b->limbs[i] : 0;
        limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    limbs[count] = (uint32_t)carry;
    return number_of_limbs(self, limbs, count + 1);
}

static struct number *number_multiple(struct worker *self, const struct number *number,
                                      uint32_t factor)
{
    uint32_t limbs[LIMBS_MAX + 1];
    uint64_t carry = 0;
    for (uint32_t i = 0; i < number->count; i++) {
        carry += (uint64_t)number->limbs[i] * factor;
        limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    limbs[number->count] = (uint32_t)carry;
    return number_of_limbs(self, limbs, number->count + 1);
}

static bool number_equal(const struct number *a, const struct number *b)
{
    return a->count == b->count && memcmp(a->limbs, b->limbs, a->count * sizeof(uint32_t)) == 0;
}

/* ---- arithmetic: polynomials ---- */

enum { VARIABLES = 4, EXPONENT_BITS = 8, DEGREE = 32, ARITHMETIC_RUNS = 136 };

static const uint32_t factors[VARIABLES] = {3, 5, 7, 11};

static_assert(DEGREE < 1 << EXPONENT_BITS, "an exponent has its bits of the key");
static_assert(DEGREE * 5 < LIMBS_MAX * 32, "26^n has less than 5n bits");

/* A polynomial is a list of terms with falling keys. */
struct term {
    struct term *next;
    struct number *coefficient;
    uint32_t key; /* the exponents */
};

static struct term *term_new(struct worker *self, struct number *coefficient, uint32_t key)
{
    struct term *term = take(self, sizeof(*term));
    *term = (struct term){NULL, coefficient, key};
    return term;
}

static struct term *term_free(struct term *term)
{
    struct term *next = term->next;
    free(term->coefficient);
    free(term);
    return next;
}

static struct term *times_variable(struct worker *self, const struct term *of, int variable)
{
    struct term *product = NULL, **end = &product;
    for (; of != NULL; of = of->next) {
        struct number *coefficient = number_multiple(self, of->coefficient, factors[variable]);
        *end = term_new(self, coefficient, of->key + (UINT32_C(1) << EXPONENT_BITS * variable));
        end = &(*end)->next;
    }
    return product;
}

/* a's coefficient becomes the sum; b's term is freed. Returns what follows it. */
static struct term *absorb(struct worker *self, struct term *a, struct term *b)
{
    struct number *sum = number_sum(self, a->coefficient, b->coefficient);
    free(a->coefficient);
    a->coefficient = sum;
    return term_free(b);
}

/* Consumes both. */
static struct term *polynomial_sum(struct worker *self, struct term *a, struct term *b)
{
    struct term *sum = NULL, **end = &sum;
    while (a != NULL && b != NULL) {
        if (a->key == b->key)
            b = absorb(self, a, b);
        struct term **larger = b == NULL || a->key >= b->key ? &a : &b;
        *end = *larger;
        end = &(*end)->next;
        *larger = *end;
    }
    *end = a != NULL ? a : b;
    return sum;
}

/* Consumes it. */
static struct term *times_sum_of_variables(struct worker *self, struct term *of)
{
    struct term *product = NULL;
    for (int variable = 0; variable < VARIABLES; variable++)
        product = polynomial_sum(self, product, times_variable(self, of, variable));
    while (of != NULL)
        of = term_free(of);
    return product;
}

/* With each variable 1, the polynomial is (3 + 5 + 7 + 11)^n. Consumes it. */
static void check_polynomial(struct worker *self, struct term *polynomial)
{
    struct number *sum = number_small(self, 0), *expected = number_small(self, 1);
    for (; polynomial != NULL; polynomial = term_free(polynomial)) {
        struct number *next = number_sum(self, sum, polynomial->coefficient);
        free(sum);
        sum = next;
    }
    for (int i = 0; i < DEGREE; i++) {
        struct number *next = number_multiple(self, expected, 3 + 5 + 7 + 11);
        free(expected);
        expected = next;
    }
    if (!number_equal(sum, expected))
        fail("the coefficients are wrong");
    free(sum);
    free(expected);
}

static void do_arithmetic(struct worker *self)
{
    for (size_t left = share_of(ARITHMETIC_RUNS); left > 0; left--) {
        struct term *power = term_new(self, number_small(self, 1), 0);
        for (int i = 0; i < DEGREE; i++)
            power = times_sum_of_variables(self, power);
        check_polynomial(self, power);
    }
}

void run_arithmetic(void)
{
    run_team(do_arithmetic, NULL);
}

/* ---- logic ---- */

enum { QUEENS = 10, QUEENS_WAYS = 724, LOGIC_RUNS = 420 };

/* A queen, and those in the rows before it. */
struct queen {
    struct queen *before;
    uint32_t references;
    int column;
};

/* One of the positions of a row, in a list of them all. */
struct position {
    struct position *next;
    struct queen *last;
};

static bool is_attacked(const struct queen *queen, int column)
{
    for (int distance = 1; queen != NULL; queen = queen->before, distance++) {
        const int aside = queen->column - column;
        if (aside == 0 || aside == distance || aside == -distance)
            return true;
    }
    return false;
}

static void release(struct queen *queen)
{
    while (queen != NULL && --queen->references == 0) {
        struct queen *before = queen->before;
        free(queen);
        queen = before;
    }
}

static struct position *add_queen(struct worker *self, struct queen *before, int column,
                                  struct position *next)
{
    struct queen *queen = take(self, sizeof(*queen));
    *queen = (struct queen){before, 1, column};
    if (before != NULL)
        before->references++;
    struct position *position = take(self, sizeof(*position));
    *position = (struct position){next, queen};
    return position;
}

/* Frees the position, and returns the one after it. */
static struct position *drop_position(struct position *position)
{
    struct position *next = position->next;
    release(position->last);
    free(position);
    return next;
}

/* Consumes the positions of a row; returns those of the next row. */
static struct position *next_row(struct worker *self, struct position *positions)
{
    struct position *row = NULL;
    for (; positions != NULL; positions = drop_position(positions))
        for (int column = 0; column < QUEENS; column++)
            if (!is_attacked(positions->last, column))
                row = add_queen(self, positions->last, column, row);
    return row;
}

static void do_logic(struct worker *self)
{
    for (size_t left = share_of(LOGIC_RUNS); left > 0; left--) {
        struct position *positions = take(self, sizeof(*positions));
        *positions = (struct position){NULL, NULL};
        for (int row = 0; row < QUEENS; row++)
            positions = next_row(self, positions);
        int ways = 0;
        for (; positions != NULL; positions = drop_position(positions))
            ways++;
        if (ways != QUEENS_WAYS)
            fail("the queens are wrong");
    }
}

void run_logic(void)
{
    run_team(do_logic, NULL);
}

/* ---- tree ---- */

enum { STAYING_DEPTH = 16, DEPTH_MIN = 4, DEPTH_MAX = 16, TREE_RUNS = 152 };

struct node {
    struct node *left, *right;
};

static struct node *build(struct worker *self, int depth)
{
    struct node *node = take(self, sizeof(*node));
    node->left = depth > 0 ? build(self, depth - 1) : NULL;
    node->right = depth > 0 ? build(self, depth - 1) : NULL;
    return node;
}

static size_t count_nodes(const struct node *node)
{
    return node == NULL ? 0 : 1 + count_nodes(node->left) + count_nodes(node->right);
}

static void drop(struct node *node)
{
    if (node == NULL)
        return;
    drop(node->left);
    drop(node->right);
    free(node);
}

static void drop_counted(struct node *node, int depth)
{
    if (count_nodes(node) != ((size_t)2 << depth) - 1)
        fail("a tree has lost nodes");
    drop(node);
}

/* As many nodes of each depth. */
static void build_and_drop(struct worker *self)
{
    for (int depth = DEPTH_MIN; depth <= DEPTH_MAX; depth += 2)
        for (int trees = 1 << (DEPTH_MAX - depth); trees > 0; trees--)
            drop_counted(build(self, depth), depth);
}

static void do_tree(struct worker *self)
{
    struct node *staying = build(self, STAYING_DEPTH);
    for (size_t left = share_of(TREE_RUNS); left > 0; left--)
        build_and_drop(self);
    drop_counted(staying, STAYING_DEPTH);
}

void run_tree(void)
{
    run_team(do_tree, NULL);
}
