package discovertest

import (
	"testing"

	"legate/internal/discover"
	"legate/internal/spec"
)

// Bench is a real server that a test started, and what asks it. It ends with
// the test.
type Bench interface {
	// Target is what all cases ask for. Its endpoints have port 6379.
	Target() spec.Target
	// Sources makes new sources, by name, that ask the server at an address in
	// place of its own; "": at its own.
	Sources(t testing.TB, at string) map[string]discover.Source
	// Set has the server name exactly these IP addresses. What is named
	// already stays untouched, and what is new comes before what leaves.
	Set(t testing.TB, addresses ...string)
}

// Mortal is a Bench whose server can be ended at once and started again, with
// the data that it keeps.
type Mortal interface {
	Kill(testing.TB)
	Restart(testing.TB)
}

// Pausable is a Bench whose server can be stopped as SIGSTOP does.
type Pausable interface {
	Freeze()
	Thaw()
}

// Forgetful is a Bench whose server, after Kill, can lose all its data.
type Forgetful interface{ Lose(testing.TB) }

// Placed is a Bench whose server is at an address: of "tcp", "udp" or "unix",
// or the path of a "file".
type Placed interface {
	Address() (network, address string)
}

// Lock is a server that does not let in what asks it, yet.
type Lock struct {
	Bench // with sources that have the wrong key
	// Says is a part of the error.
	Says string
	// Unlock gives the sources the right key.
	Unlock func(testing.TB)
}

// Adapter is a source to be tested.
type Adapter struct {
	// Start starts its server. Required.
	Start func(testing.TB) Bench
	// Credentials makes the server ask for a secret that our sources do not
	// have, and Certificates has them trust another authority than the
	// server's. They may start another server. nil: the case is in Lacks.
	Credentials, Certificates func(testing.TB, Bench) Lock
	// Down and Paused are parts of the errors where the server does not run, and
	// where it does not answer.
	Down, Paused string
	// Doubts is why it cannot prove that the last endpoint left; "": it can.
	Doubts string
	// Takes is why the endpoints die with the server; "": they live on.
	Takes string
	// Lacks are the cases that it cannot be tested with, each with the reason.
	Lacks map[string]string
}
