package pump

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// errVanished is the end of a flow whose peer stopped acknowledging.
var errVanished = errors.New("peer vanished: its host acknowledges nothing")

// sweep looks for peers whose host fell silent while data waits for them.
// Keepalive probes are not sent then, the kernel retransmits for a quarter of
// an hour, and TCP_USER_TIMEOUT would cut living peers that merely do not
// read: it counts a zero window as silence (tcp(7)).
func (e *netEngine) sweep() {
	t := time.NewTicker(e.cfg.SweepEvery)
	defer t.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-t.C:
		}
		for _, f := range e.live() {
			if r := f.relay.Load(); r != nil {
				e.checkSilent(r, r.client)
				e.checkSilent(r, r.endpoint)
			}
		}
	}
}

func (e *netEngine) checkSilent(r *relay, s *side) {
	if !s.tcp || s.broken.Load() != nil {
		return
	}
	if s.check(func(fd uintptr) bool { return isSilent(fd, e.cfg.VanishAfter) }) {
		r.vanish(s)
	}
}

// vanish breaks a side that will never say so itself.
func (r *relay) vanish(s *side) {
	if !s.breakWith(errVanished, true) {
		return
	}
	r.first.CompareAndSwap(nil, s)
	r.interrupt()
}

// isSilent tells whether data or a window probe is unanswered and nothing at
// all was heard for the given time (struct tcp_info, linux/tcp.h). Two
// unanswered tries are asked for because the pause between probes grows to two
// minutes, and a living peer has not answered the newest one yet.
func isSilent(fd uintptr, after time.Duration) bool {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false
	}
	heard := time.Duration(min(info.Last_ack_recv, info.Last_data_recv)) * time.Millisecond
	return heard >= after && info.Retransmits+info.Probes >= 2
}
