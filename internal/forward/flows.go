package forward

// A link keeps memory for so many connections, a quarter of a megabyte in all:
// enough that its ups and downs allocate nothing. What a greater burst took
// goes back to the collector when that is over.
const (
	spareFlows  = 1024
	sparePasses = 256
)

// flows are those of one link. Behind the live ones, in what the slice has room
// for, stand spare ones: at a steady load no connection allocates.
type flows struct {
	live []*flow
}

func (s *flows) add() *flow {
	n := len(s.live)
	if n < cap(s.live) {
		s.live = s.live[:n+1]
	} else {
		s.live = append(s.live, nil)
	}
	f := s.live[n]
	if f == nil {
		f = &flow{}
		s.live[n] = f
	}
	f.place = n
	return f
}

// remove forgets all that f was.
func (s *flows) remove(f *flow) {
	n := len(s.live) - 1
	last := s.live[n]
	s.live[f.place], last.place = last, f.place
	*f = flow{}
	s.live[n] = f
	s.live = s.live[:n]
	if room := cap(s.live); room > spareFlows && n < room/4 {
		s.live = append(make([]*flow, 0, room/2), s.live[:room/2]...)[:n]
	}
}

// ticket names one connection for as long as anybody cares, while the memory of
// its flow may be another's.
type ticket struct {
	f       *flow
	arrival uint64
}

func (f *flow) ticket() ticket { return ticket{f, f.arrival} }

// isLive needs the link's mutex, and so does whoever uses the flow then.
func (t ticket) isLive() bool { return t.f.arrival == t.arrival }

// passes are the spare ones.
type passes []*pass

func (s *passes) take() *pass {
	n := len(*s) - 1
	if n < 0 {
		return &pass{}
	}
	ps := (*s)[n]
	*s = (*s)[:n]
	return ps
}

func (s *passes) give(ps *pass) {
	if len(*s) < sparePasses {
		clear(ps.legs[:cap(ps.legs)]) // errors, and what they hold
		// Candidates hold their whole list, which may be megabytes.
		clear(ps.candidates[:cap(ps.candidates)])
		ps.list = nil
		*s = append(*s, ps)
	}
}

// headers are the spare ones.
type headers []*proxyHeader

func (s *headers) take() *proxyHeader {
	n := len(*s) - 1
	if n < 0 {
		return &proxyHeader{}
	}
	h := (*s)[n]
	*s = (*s)[:n]
	return h
}

func (s *headers) give(h *proxyHeader) {
	if h != nil && len(*s) < spareFlows {
		*s = append(*s, h)
	}
}
