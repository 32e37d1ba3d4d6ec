package daemon

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"legate/internal/forward"
	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/systemd"
)

// sockets has the listening sockets of links outlive this process: it opens
// them as forward does, but takes those that the service manager kept, and has
// it keep the others. Those of unix links are made anew: they go with their
// files.
type sockets struct {
	manager *systemd.Manager

	mu    sync.Mutex // guards the following
	taken []string   // names of what the link that is being opened took
	held  map[spec.Listen]held
}

// held is a link whose sockets the manager keeps.
type held struct {
	link  spec.Link
	names []string
}

func newSockets(m *systemd.Manager) *sockets {
	return &sockets{manager: m, held: map[spec.Listen]held{}}
}

// bind is forward.Bind. In a container's namespace it is called there.
func (s *sockets) bind(l spec.Link) ([]pump.Listener, error) {
	return forward.BindOr(l, func(p spec.Protocol, a netip.AddrPort) (int, bool) {
		fd, ok := s.manager.Take(systemd.Socket{Protocol: p, Address: a})
		if ok {
			name := s.manager.Store(fd) // once more: it may come from a socket unit
			s.mu.Lock()
			s.taken = append(s.taken, name)
			s.mu.Unlock()
		}
		return fd, ok
	})
}

// open keeps what inner opens. Links are opened one after the other.
func (s *sockets) open(l spec.Link, inner func(spec.Link) ([]pump.Listener, error)) ([]pump.Listener, error) {
	s.release(true, func(h held) bool { return h.link.Listen == l.Listen }) // it was opened before, and could not be served
	s.mu.Lock()
	s.taken = nil
	s.mu.Unlock()
	ls, err := inner(l)
	if err != nil {
		s.mu.Lock()
		taken := s.taken
		s.mu.Unlock()
		s.manager.Remove(true, taken...)
		return nil, err
	}
	s.hold(l, ls)
	return ls, nil
}

func (s *sockets) hold(l spec.Link, ls []pump.Listener) {
	h := held{link: l}
	for _, one := range ls {
		if one.Network == pump.Unix {
			continue
		}
		if name := s.manager.Store(one.FD); name != "" {
			h.names = append(h.names, name)
		}
	}
	if len(h.names) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[l.Listen] = h
}

// keep lets go the sockets of all links but these, before they are closed:
// whoever connects to a socket that only the manager has would wait for
// nothing. Nobody can connect where a container has ended, so that is not
// waited for.
func (s *sockets) keep(links []spec.Link) {
	wanted := make(map[spec.Listen]spec.Link, len(links))
	for _, l := range links {
		wanted[l.Listen] = l
	}
	s.release(false, func(h held) bool {
		_, again := wanted[h.link.Listen]
		return !again && h.link.Listen.Namespace != ""
	})
	s.release(true, func(h held) bool {
		l, again := wanted[h.link.Listen]
		return !again || !forward.SameSocket(h.link, l)
	})
}

// patience is how long kept sockets wait for links that origins are yet to
// name. Each of a container that has ended keeps its namespace for as long.
const patience = 10 * time.Second

// settle lets go the kept sockets that no link took.
func (s *sockets) settle(ctx context.Context, more bool) {
	if more {
		late := time.NewTimer(patience)
		defer late.Stop()
		select {
		case <-late.C:
		case <-ctx.Done():
			return // it may be restarted, and have time for it then
		}
	}
	s.manager.DropRest()
}

func (s *sockets) release(wait bool, which func(held) bool) {
	s.mu.Lock()
	var names []string
	for on, h := range s.held {
		if which(h) {
			delete(s.held, on)
			names = append(names, h.names...)
		}
	}
	s.mu.Unlock()
	s.manager.Remove(wait, names...)
}
