package pump

import "time"

// DropCounter is implemented by the Acceptor of a UDP listener.
type DropCounter interface {
	// DroppedUDP counts the datagrams, either way, that were received and not
	// passed on: no endpoint, the cap, a suspended listener, a shortage on our
	// side, one too long for the way. Late answers of an endpoint that the
	// session has left are not among them.
	DroppedUDP() int64
}

// defaultUDPIdle is when a session ends that carried nothing. QUIC keeps idle
// connections for 30 s and more and would find its session gone with less.
const defaultUDPIdle = 60 * time.Second
