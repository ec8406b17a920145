#!/bin/sh
# perl: hashes, sorting, regular expressions, growing strings, closures and forked children give the
# same results as without the library.
. "$(dirname "$0")/common.sh"
need perl
bound_to_library perl -e 1

cat >work.pl <<'PERL'
use strict;
use warnings;

my $state = 12345;
sub random { $state = ($state * 1664525 + 1013904223) % 4294967296; return $state >> 8 }

my (%words, @lines);
for my $i (1 .. 150000) {
    my $word = 'w' . random() % 30000;
    $words{$word}{count}++;
    push @{ $words{$word}{lines} }, $i;
    push @lines, join ' ', map { "$_=" . random() } qw(a b c);
    delete $words{ 'w' . random() % 30000 } if $i % 9 == 0;
}
my $text = '';
for my $word (sort { $words{$b}{count} <=> $words{$a}{count} || $a cmp $b } keys %words) {
    $text .= "$word: @{ $words{$word}{lines} }\n";
}
my @swapped = map { s/a=(\d+) b=(\d+)/b=$2 a=$1/r } @lines;
my %by_tail;
for (@swapped) { push @{ $by_tail{$1} }, $_ if /(\d\d)$/ }
$text .= join "\n", map { sort @{ $by_tail{$_} } } sort keys %by_tail;
(my $upper = $text) =~ s/(w\d)(\d*)/uc($1) . reverse $2/ge;

my @counters = map { my $n = $_; sub { $n += shift } } 1 .. 20000;
my $sum = 0;
$sum += $_->(random() % 100) for @counters;

my $children = 0;
for my $child (1 .. 8) {
    my $pid = open(my $pipe, '-|') // die "fork: $!";
    if ($pid == 0) {
        my %copy = map { $_ => [ $child, @{ $words{$_}{lines} } ] } keys %words;
        print scalar(keys %copy) + $child;
        exit 0;
    }
    $children += <$pipe>;
    close $pipe or die "child: $?";
}
print unpack('%32C*', $upper), ' ', length $upper, " $sum $children ", scalar(keys %words), "\n";
print $text, $upper;
PERL

perl work.pl >plain
preloaded perl work.pl >tested
cmp plain tested || fail "other output than without the library"
echo "perl: $(wc -c <tested) bytes the same: $(head -n 1 tested)"
