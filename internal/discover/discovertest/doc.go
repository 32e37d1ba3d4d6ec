// Package discovertest is the suite that every source of endpoints passes,
// through the core of package discover, as its users meet it, and against real
// servers: what is found, what is believed, and what stays when the server is
// killed, paused, emptied, slow, replaced by something else, or will not let us
// in.
//
// Its tests run it over all adapters. A case that cannot be run with one of
// them stands in its table with the reason, so that none goes missing quietly.
package discovertest
