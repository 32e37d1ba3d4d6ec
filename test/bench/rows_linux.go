package main

import (
	"slices"
	"time"

	"legate/test/bench/load"
)

// row is one kind of load, and the unit in which its cost is told.
type row struct {
	Name  string  `json:"name"`
	Title string  `json:"title"`
	Unit  float64 `json:"unit"` // so many of what is counted is what a number stands for
	Kind  rowKind `json:"kind"`
	// Shape but its rate, which is Share of the most that the slowest peer
	// does; Share 0 is as fast as it goes.
	Shape load.Shape `json:"shape"`
	Share float64    `json:"share"`
	// Like names the row whose calibrated maximum counts; "" is its own.
	Like   string `json:"like,omitempty"`
	Rounds int    `json:"roundsWanted"`
}

// rowKind says what a row measures.
type rowKind string

const (
	kindLoad   rowKind = "load"
	kindUDP    rowKind = "udp"
	kindMemory rowKind = "memory"
)

const (
	manyRounds = 11
	fewRounds  = 5
	block      = 256 << 10
)

// rows are those of the table, in its order.
func rows(full, quick bool) []row {
	list := slices.Concat(streamRows(), datagramRows(), memoryRows())
	if full {
		list = withLoads(list)
	}
	if quick {
		for i := range list {
			list[i].Shape.Time /= 8
			if list[i].Kind == kindMemory {
				list[i].Shape.Conns /= 8
			}
		}
	}
	return list
}

const (
	usual = 800 * time.Millisecond
	brief = 500 * time.Millisecond
)

func streamRows() []row {
	small := load.Shape{Conns: 50, Request: 64, Response: 64, Depth: 1, Units: 1, Time: usual, Mode: load.Stream}
	with := func(s load.Shape, change func(*load.Shape)) load.Shape {
		change(&s)
		return s
	}
	short := with(small, func(s *load.Shape) { s.Time = brief })
	one := with(small, func(s *load.Shape) { s.Conns, s.Time = 1, brief })
	more := with(small, func(s *load.Shape) { s.Conns, s.Time = 64, brief })
	pipelined := with(small, func(s *load.Shape) { s.Request, s.Response, s.Units = 1024, 1024, 16 })
	download := load.Shape{Conns: 2, Request: 64, Response: block, Depth: 64, Units: block, Time: usual, Mode: load.Stream}
	upload := with(download, func(s *load.Shape) { s.Request, s.Response = block, 64 })
	churn := with(small, func(s *load.Shape) { s.Depth, s.Time, s.Mode = 0, 1200*time.Millisecond, load.Churn })
	const requests = "100k small requests, 50 connections"
	return []row{
		{"requests", requests, 1e5, kindLoad, small, .5, "", manyRounds},
		{"requests-20", requests, 1e5, kindLoad, short, .2, "requests", manyRounds},
		{"requests-80", requests, 1e5, kindLoad, short, .8, "requests", manyRounds},
		{"requests-max", requests, 1e5, kindLoad, short, 0, "requests", manyRounds},
		{"latency-1", "100k small requests, 1 connection", 1e5, kindLoad, one, .5, "", manyRounds},
		{"latency-64", "100k small requests, 64 connections", 1e5, kindLoad, more, .5, "", manyRounds},
		{"pipelined", "1M pipelined requests (16 deep)", 1e6, kindLoad, pipelined, .5, "", manyRounds},
		{"download", "1 GB to the client", 1e9, kindLoad, download, .5, "", manyRounds},
		{"upload", "1 GB from the client", 1e9, kindLoad, upload, .5, "", manyRounds},
		{"churn", "10k short connections", 1e4, kindLoad, churn, .5, "", manyRounds},
	}
}

func datagramRows() []row {
	shape := func(size int, mode load.Mode) load.Shape {
		return load.Shape{Conns: 8, Request: size, Units: 1, Time: brief, Mode: mode}
	}
	return []row{
		{"udp-64", "1M datagrams of 64 bytes", 1e6, kindUDP, shape(64, load.Plain), .5, "", fewRounds},
		{"udp-1200", "1M datagrams of 1,200 bytes", 1e6, kindUDP, shape(1200, load.Plain), .5, "", fewRounds},
		{"gso-64", "1M datagrams of 64 bytes, GSO sender", 1e6, kindUDP, shape(64, load.GSO), .5, "", fewRounds},
		{"gso-1200", "1M datagrams of 1,200 bytes, GSO sender", 1e6, kindUDP, shape(1200, load.GSO), .5, "", fewRounds},
	}
}

// The memory rows; Conns is how many connections are held. The Go peer needs six
// descriptors for each, of 20,000.
func memoryRows() []row {
	held := load.Shape{Conns: 3000, Request: 64, Response: 64, Depth: 1, Units: 1, Mode: load.Stream}
	active := held
	active.Time, active.Rate = brief, 8000 // every connection twice
	active.Conns = 2000
	stalled := load.Shape{Conns: 24, Request: 64, Response: 64 << 20, Mode: load.Stream}
	return []row{
		{"mem-idle", "idle connection", 1, kindMemory, held, 0, "", fewRounds},
		{"mem-active", "active connection", 1, kindMemory, active, 0, "", fewRounds},
		{"mem-stalled", "connection whose reader stopped", 1, kindMemory, stalled, 0, "", fewRounds},
	}
}

// withLoads gives every row with a rate the three loads that the requests have.
func withLoads(list []row) (all []row) {
	for _, r := range list {
		all = append(all, r)
		if r.Like != "" || r.Share == 0 || r.Name == "requests" {
			continue
		}
		for _, other := range []struct {
			suffix string
			share  float64
		}{{"-20", .2}, {"-80", .8}, {"-max", 0}} {
			if other.share == 0 && r.Kind == kindUDP {
				continue // as fast as it goes, datagrams are lost
			}
			more := r
			more.Name, more.Share, more.Like = r.Name+other.suffix, other.share, r.Name
			all = append(all, more)
		}
	}
	slices.SortStableFunc(all, func(a, b row) int { return kindOrder(a.Kind) - kindOrder(b.Kind) })
	return all
}

func kindOrder(k rowKind) int { return slices.Index([]rowKind{kindLoad, kindUDP, kindMemory}, k) }

func rowNames(list []row) (names []string) {
	for _, r := range list {
		names = append(names, r.Name)
	}
	return names
}

// calibrated is the row whose maximum counts for r.
func (r row) calibrated() string {
	if r.Like != "" {
		return r.Like
	}
	return r.Name
}
