// Package load is both ends of every measurement: a server, clients that send
// at a rate that does not depend on the answers (an open loop: what waits is
// counted from when it was due, see wrk2 on coordinated omission), and the gate
// that a proxy must pass before it is compared. Linux only.
//
// Both ends are one thread with an own epoll set, so that they cost little and
// the same in every run, and live in one process, or in two containers: what the
// proxy costs is read from the proxy and from the machine, never from here.
package load
