// Command bench compares what proxies cost: CPU time of the proxy and of the
// whole machine, latencies, memory, for Legate, for the best there is and for
// no proxy at all, under the same load at the same rate.
//
// It starts everything itself. Every round is this program again, in a network
// namespace of its own, with all proxies side by side in front of one server of
// ours; each row of the table puts the same load on each of them in turn,
// backwards in every other round. Server and load are our own, because requests,
// transfers and short connections are to be measured by the same two ends at a
// fixed rate, and because they can check what arrived: a proxy that loses bytes
// or half-closes is not compared at all.
package main
