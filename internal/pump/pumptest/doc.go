// Package pumptest is the suite that every engine of package pump passes, on
// real sockets, against the peers of package testnet.
//
// Conformance compares: each schedule of client and endpoint steps runs
// without a proxy and then through the engine, and what each side sees must be
// the same. Engine holds what has no direct equal: attempts, parking, limits,
// accounting. Moving is for engines that freeze flows and take them up again.
// docs/semantics.md maps what users are promised to these tests.
//
// Only tests import it.
package pumptest
