# SPDX-License-Identifier: MIT
# Work for perl: hashes, arrays, strings and regular expressions. Prints a checksum.
use strict;
use warnings;

sub words {
    my ($seed) = @_;
    my %places;
    for my $i (0 .. 60000) {
        my $word = sprintf('w%x', ($i * 31 + $seed) % 5003) . 'x' x ($i % 23);
        push @{ $places{$word} }, $i;
    }
    my $sum = 0;
    $sum += @{ $places{$_} } for grep { /^w[0-9]+x+$/ } sort keys %places;
    return $sum;
}

sub records {
    my ($seed) = @_;
    my @rows = map { { id => $_, name => 'name ' . $_ * $seed, tags => [ ('t') x ($_ % 6) ] } } 1 .. 15000;
    my $text = join "\n", map { "$_->{id};$_->{name};" . join(',', @{ $_->{tags} }) } @rows;
    $text =~ s/name (\d+)/$1 name/g;
    return length($text) + scalar(split /;/, $text);
}

sub tree {
    my ($seed) = @_;
    my $root;
    for my $i (0 .. 8000) {
        my ($key, $at) = (($i * 7919 + $seed) % 10007, \$root);
        $at = $key < $$at->[0] ? \$$at->[1] : \$$at->[2] while $$at && $$at->[0] != $key;
        $$at ||= [ $key, undef, undef, 'v' x ($key % 40) ];
    }
    my ($sum, @stack) = (0, $root);
    while (my $node = pop @stack) {
        $sum += length $node->[3];
        push @stack, grep { defined } @$node[ 1, 2 ];
    }
    return $sum;
}

my $total = 0;
for my $seed (1 .. $ARGV[0]) {
    $total = ($total * 31 + $_->($seed)) % 1_000_000_007 for \&words, \&records, \&tree;
}
print "$total\n";
