package intercept

// Redirect leads whoever connects to any TCP port of this network namespace's
// own addresses to one port, at which the listener learns by pump's
// Flow.Original what was wanted. Connections over loopback, and to that port
// itself, are left alone, and so are those that are there already. It is the
// nftables table "legate", which is nobody else's.
type Redirect struct {
	Port uint16
}
