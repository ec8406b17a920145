#!/bin/sh
# gcc and g++: a large C file and template-heavy C++ compile to the same object files as without the
# library, and what the preloaded linker makes of them runs and prints the same.
#
# compiler.sh LIBRARY c|c++
. "$(dirname "$0")/common.sh"

# Tables, switches and loops: each function is small, the unit is not.
write_c()
{
    awk 'BEGIN {
        functions = 300
        print "#include <stdio.h>\n#include <string.h>"
        for (f = 0; f < functions; f++) {
            printf "static const unsigned table%d[] = {", f
            for (i = 0; i < 64; i++)
                printf "%d,", (f * 7919 + i * 104729) % 65536
            printf "};\nstruct s%d { unsigned a, b[%d]; double c; };\n", f, f % 7 + 1
            printf "__attribute__((noinline)) unsigned f%d(unsigned x, struct s%d *s)\n{\n", f, f
            printf "    for (unsigned i = 0; i < 64; i++)\n        switch ((x ^ table%d[i]) %% 12) {\n", f
            for (i = 0; i < 12; i++)
                printf "        case %d: x = x * %du + (x >> %d); s->b[x %% %d] += i; break;\n", \
                    i, (f * 31 + i * 17) * 2 + 1, i % 13 + 3, f % 7 + 1
            printf "        }\n    s->c += x * 0.5;\n    return x + s->b[0];\n}\n"
        }
        print "int main(void)\n{\n    unsigned x = 1;"
        for (f = 0; f < functions; f++)
            printf "    { struct s%d s; memset(&s, 0, sizeof(s)); x += f%d(x, &s); }\n", f, f
        print "    printf(\"%u\\n\", x);\n}"
    }'
}

write_cpp()
{
    cat <<'CPP'
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>
template <int N> struct value {
    std::map<std::string, std::vector<value<N - 1>>> inner;
    std::variant<int, std::string, std::tuple<double, value<N - 1> *>> any;
    std::unordered_map<int, std::function<int(const value &)>> calls;
    int run(int seed)
    {
        auto &list = inner[std::to_string(seed)];
        list.resize(2);
        calls[seed] = [seed](const value &v) { return seed + int(v.inner.size()); };
        any = std::to_string(seed * N);
        std::sort(list.begin(), list.end(),
                  [](const auto &a, const auto &b) { return a.any.index() < b.any.index(); });
        int text = int(std::visit([](const auto &v) { return sizeof(v); }, any));
        return calls[seed](*this) + text + list[0].run(seed + 1);
    }
};
template <> struct value<0> {
    std::variant<int, double> any;
    int run(int seed) { return seed; }
};
template <std::size_t... I> int all(std::index_sequence<I...>)
{
    return (std::make_unique<value<int(I)>>()->run(int(I)) + ... + 0);
}
int main()
{
    std::ostringstream out;
    out << all(std::make_index_sequence<6>());
    std::cout << std::regex_replace(out.str(), std::regex("(\\d)(\\d)"), "$2$1") << "\n";
}
CPP
}

case ${2:-} in
c) compiler=gcc source=large.c write=write_c ;;
c++) compiler=g++ source=large.cpp write=write_cpp ;;
*) fail "usage: compiler.sh LIBRARY c|c++" ;;
esac
need $compiler
mkdir plain tested
$write >$source

echo 'int main(void) { return 0; }' >small.c
bound_to_library $compiler small.c -o small

set -- -O2 -g -frandom-seed=1 -c $source
[ $compiler = gcc ] || set -- -std=c++17 "$@"
$compiler "$@" -o plain/large.o
preloaded $compiler "$@" -o tested/large.o
same "object file" "$(digest <plain/large.o)" "$(digest <tested/large.o)"
$compiler plain/large.o -o plain/large
preloaded $compiler tested/large.o -o tested/large
same "output" "$(plain/large)" "$(tested/large)"
echo "$compiler: $(wc -c <tested/large.o) bytes of object file the same, and the program runs"
