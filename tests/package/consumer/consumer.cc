// SPDX-License-Identifier: MIT
// A C++ program that uses Freehold: consumer <who serves malloc: libc or freehold> <version>.
// Exits with 0 if every block comes from where it should, and operator new throws when it must.
#include <freehold.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>

namespace
{

bool wrong = false;

void expect(bool holds, const char *what)
{
    if (!holds)
        std::fprintf(stderr, "consumer: wrong: %s\n", what);
    wrong |= !holds;
}

struct alignas(128) Wide {
    char bytes[128];
};

bool new_throws()
{
    volatile std::size_t too_much = PTRDIFF_MAX;
    try {
        ::operator delete(::operator new(too_much));
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    const bool ours = std::strcmp(argv[1], "freehold") == 0;

    void *raw = fh_raw_malloc(100);
    int *number = new int(1);
    Wide *wide = new Wide;
    std::string text(1000, 'x');
    void *elsewhere = nullptr;
    std::thread([&] { elsewhere = new char[100]; }).join();
    expect(raw != nullptr && fh_owns(raw), "fh_raw_malloc is Freehold's");
    expect(bool(fh_owns(number)) == ours, "new");
    expect(bool(fh_owns(wide)) == ours, "new of an over-aligned type");
    expect(reinterpret_cast<std::uintptr_t>(wide) % alignof(Wide) == 0, "its alignment");
    expect(bool(fh_owns(text.data())) == ours, "std::string");
    expect(bool(fh_owns(elsewhere)) == ours, "new in another thread");
    expect(new_throws(), "new throws bad_alloc");
    expect(std::strcmp(fh_version(), argv[2]) == 0, "fh_version is the package's");

    delete[] static_cast<char *>(elsewhere);
    delete wide;
    delete number;
    fh_raw_free(raw);
    return wrong;
}
