#!/usr/bin/perl
# A page that writes. psql connects to where PGHOST and PGUSER say: to localhost, and to nothing else.
use strict;
use warnings;
use IO::Socket::INET;

my $sql = q{
    set client_min_messages = warning;
    create table if not exists visits (at timestamptz default now());
    insert into visits default values;
    select count(*) || ' visits, the last one written by ' || current_setting('cluster_name') from visits;
};

sub answer {
    my ($browser) = @_;
    while (<$browser>) { last if /^\r?$/ }
    open(my $psql, '-|', 'sh', '-c', 'exec psql -XqtA -v ON_ERROR_STOP=1 -c "$0" 2>&1', $sql) or die "start psql: $!\n";
    my $says = join '', <$psql>;
    my $status = close($psql) ? '200 OK' : '503 Service Unavailable';
    print $browser "HTTP/1.0 $status\r\nContent-Type: text/plain\r\n\r\n$says";
}

$SIG{TERM} = sub { exit };    # for the first process of a container there is no default
my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die "listen: $@\n";
while (1) {
    my $browser = $server->accept or next;
    # A child of a child is nobody's to wait for, and a request that is held keeps no other one waiting.
    my $child = fork // die "fork: $!\n";
    if ($child == 0) {
        answer($browser) if fork == 0;
        exit;
    }
    waitpid $child, 0;
}
