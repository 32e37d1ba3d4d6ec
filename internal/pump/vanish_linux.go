package pump

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// errVanished is the end of a flow whose peer stopped acknowledging.
var errVanished = errors.New("peer vanished: its host acknowledges nothing")

// resetEvery is how often sides are asked for a reset that nobody waits for.
const resetEvery = time.Second

// sweep looks for peers whose host fell silent while data waits for them.
// Keepalive probes are not sent then, the kernel retransmits for a quarter of
// an hour, and TCP_USER_TIMEOUT would cut living peers that merely do not
// read: it counts a zero window as silence (tcp(7)). It also finds resets of
// one side while the other does not read.
func (e *netEngine) sweep() {
	silent, reset := time.NewTicker(e.cfg.SweepEvery), time.NewTicker(resetEvery)
	defer silent.Stop()
	defer reset.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-silent.C:
			e.eachSide(e.checkSilent)
		case <-reset.C:
			e.eachSide(checkReset)
		}
	}
}

func (e *netEngine) eachSide(check func(*relay, *side)) {
	for _, f := range e.live() {
		if r := f.relay.Load(); r != nil {
			check(r, r.client)
			check(r, r.endpoint)
		}
	}
}

func checkReset(r *relay, s *side) {
	if s.onward.Load() && s.broken.Load() == nil && s.check(hasError) {
		r.broke(s, s.takeError())
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
