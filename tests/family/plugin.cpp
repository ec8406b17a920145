/* SPDX-License-Identifier: MIT */
/* A C++ module that plugin_test.c, a C program, loads while it runs. */
#include "family.h"

#include <cstdint>
#include <new>

extern "C" {
void plugin_fails_to_allocate(void);
void plugin_handler_is_called(void);
void *plugin_allocates(size_t bytes);
void plugin_frees(void *block);
}

namespace
{

constexpr std::size_t too_much = static_cast<std::size_t>(PTRDIFF_MAX) + 1;
int handler_calls;

void give_up_at_the_third_call()
{
    if (++handler_calls == 3)
        std::set_new_handler(nullptr);
}

bool throws_bad_alloc()
{
    try {
        ::operator delete(::operator new(too_much));
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

} // namespace

void plugin_fails_to_allocate(void)
{
    CHECK(throws_bad_alloc());
    CHECK(::operator new(too_much, std::nothrow) == nullptr);
    CHECK(::operator new (too_much, std::align_val_t{64}, std::nothrow) == nullptr);
}

void plugin_handler_is_called(void)
{
    std::set_new_handler(give_up_at_the_third_call);
    CHECK(throws_bad_alloc() && handler_calls == 3);
}

void *plugin_allocates(size_t bytes)
{
    return ::operator new(bytes);
}

void plugin_frees(void *block)
{
    ::operator delete(block);
}
