package load

import (
	"slices"
	"time"
)

// Shape says what the clients do.
type Shape struct {
	Conns    int `json:"connections"` // for datagrams: sockets
	Request  int `json:"request"`     // bytes; for datagrams: of one
	Response int `json:"response"`    // bytes
	// Depth is how many requests of a connection may be under way.
	Depth int `json:"depth"`
	// Units is how many of what is counted a request stands for: of 16
	// requests in one write, 16; of a block, its bytes.
	Units float64 `json:"units"`
	// Rate is that of requests, or of bursts of datagrams, per second in all;
	// 0 is as fast as it goes.
	Rate float64       `json:"rate"`
	Time time.Duration `json:"time"`
	Mode Mode          `json:"mode"`
}

// Mode is how requests travel.
type Mode string

// The modes of a [Shape]. The zero value is none of them.
const (
	Stream Mode = "stream" // on connections that stay
	Churn  Mode = "churn"  // each on a connection of its own
	Plain  Mode = "plain"  // bursts of datagrams, sent one by one
	GSO    Mode = "gso"    // bursts of datagrams, each burst sent in one call
)

// Result is what the clients saw.
type Result struct {
	Units float64       `json:"units"` // that arrived
	Lost  float64       `json:"lost"`  // datagrams that did not
	Wall  time.Duration `json:"wall"`
	// Latencies from when a request was due to its whole answer; for datagrams
	// to their arrival. With Rate 0 from when it was sent.
	P50  time.Duration `json:"p50"`
	P99  time.Duration `json:"p99"`
	P999 time.Duration `json:"p999"`
}

// sum fills the latencies; it sorts took.
func (r *Result) sum(took []time.Duration) {
	slices.Sort(took)
	r.P50, r.P99, r.P999 = at(took, .5), at(took, .99), at(took, .999)
}

func at(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(float64(len(sorted)-1)*share)]
}

// start is the zero of clock: the runtime's monotonic clock, which costs no
// system call.
var start = time.Now()

func clock() time.Duration { return time.Since(start) }

// schedule says when the requests are due.
type schedule struct {
	begin time.Duration
	rate  float64
	total int64 // 0: as fast as it goes, until the time is over
}

func newSchedule(s Shape) schedule {
	return schedule{clock(), s.Rate, int64(s.Rate * s.Time.Seconds())}
}

// due is when request i is.
func (s schedule) due(i int64) time.Duration {
	return s.begin + time.Duration(float64(i)/s.rate*1e9)
}

// upTo is how many are due at a moment.
func (s schedule) upTo(now time.Duration) int64 {
	return min(s.total, int64((now-s.begin).Seconds()*s.rate)+1)
}

// stall is how long answers may take before a run fails instead of hanging.
const stall = 5 * time.Second
