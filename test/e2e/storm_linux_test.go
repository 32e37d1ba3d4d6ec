package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"legate/test/e2e/lab"
)

// spare descriptors are connections to the engine, which the agent keeps for a while.
const spare = 4

// storm is who is yet to come and who is there.
type storm struct {
	host

	mu     sync.Mutex
	coming []string // guarded by mu, as is the following
	there  []string
	most   int // that were there at once

	late atomic.Int64 // whose links were
}

// Containers come and go in any order, while those that are there talk on each of their links. None loses
// one, and when all are gone the agent holds what it held before: no descriptor more, and no namespace.
func TestAgentStorm(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a, n := w.a, asked(t, "LEGATE_STORM", "8")
		a.run("docker network create backend")
		a.redisBorn("redis", "--network", "backend")
		a.startAgent()
		before := a.heldBy("agent")

		s := &storm{host: a}
		for i := range n {
			s.coming = append(s.coming, fmt.Sprintf("guest%d", i))
		}
		rand.Shuffle(n, func(i, j int) { s.coming[i], s.coming[j] = s.coming[j], s.coming[i] })
		var all sync.WaitGroup
		for range 4 {
			all.Go(s.blow)
		}
		all.Wait()

		var now lab.Held
		eventually(t, time.Minute, func() (bool, string) {
			status := a.run("docker exec agent legate status")
			now = a.heldBy("agent")
			return strings.Contains(status, "no links") && now.Descriptors <= before.Descriptors+spare && len(now.Without(before)) == 0,
				fmt.Sprintf("it holds %+v, before %+v\n%s", now, before, status)
		})
		t.Logf("%d containers, up to %d at once, %d late for their first instruction; the agent holds %+v, before %+v", n, s.most, s.late.Load(), now, before)
	})
}

// blow has containers come and go until all are gone.
func (s *storm) blow() {
	for {
		guest, comes := s.next()
		switch {
		case guest == "":
			return
		case comes:
			s.enter(guest)
		default:
			s.leave(guest)
		}
	}
}

// next is whose turn it is, and for what. As long as there are more to come they come more often than they
// go, so that many are there at once.
func (s *storm) next() (guest string, comes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.coming) - 1; last >= 0 && (len(s.there) == 0 || rand.IntN(3) > 0) {
		guest, s.coming = s.coming[last], s.coming[:last]
		return guest, true
	}
	if len(s.there) == 0 {
		return "", false
	}
	i := rand.IntN(len(s.there))
	guest = s.there[i]
	s.there = slices.Delete(s.there, i, i+1)
	return guest, false
}

// late is what a guest says when a link was not open before its first instruction: eight starts at a time may
// keep a machine busier than that can be had without the runtime. It must come all the same, and stay.
const late = "late"

// enter starts a guest that talks on each of its links from its first instruction on, five times a second,
// and prints the port for every answer.
func (s *storm) enter(guest string) {
	const talk = `talk() {
		until redis-cli -h localhost -p $1 ping >/dev/null 2>&1; do echo ` + late + `; sleep 0.05; done
		redis-cli -h localhost -p $1 -r -1 -i 0.2 echo $1 2>&1
	}
	for p in 6379 6380 6381; do talk $p & done; wait`
	out, err := s.tryDocker("run", "-d", "--name", guest, "--network", "backend", "--label", "connect.6379=redis",
		"--label", "connect.6380=docker:redis:6379", "--label", "legate.connect.6381=docker:redis:6379", "legate-e2e/tools", "sh", "-c", talk)
	if err != nil {
		s.t.Errorf("start %s: %s%s", guest, out, errText(err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.there = append(s.there, guest)
	s.most = max(s.most, len(s.there))
}

// leave removes a guest in the midst of its talk, when it has had an answer on each link.
func (s *storm) leave(guest string) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	wasLate := false
	err := lab.Poll(ctx, func() (bool, string) {
		log, _ := s.tryCombined("docker logs " + guest)
		said := map[string]bool{}
		for line := range strings.Lines(log) {
			said[strings.TrimSpace(line)] = true
		}
		wasLate = said[late]
		delete(said, late)
		return len(said) == 3 && said["6379"] && said["6380"] && said["6381"], "it says:\n" + log
	})
	if err != nil {
		s.t.Errorf("%s: %v", guest, err)
	}
	if wasLate {
		s.late.Add(1)
	}
	if out, err := s.try("docker rm -f " + guest); err != nil {
		s.t.Errorf("remove %s: %s%s", guest, out, errText(err))
	}
}

// heldBy is what the first process of a container keeps alive.
func (h host) heldBy(container string) lab.Held {
	h.t.Helper()
	pid, err := strconv.Atoi(h.run("docker inspect -f {{.State.Pid}} " + container))
	if err != nil {
		h.t.Fatal(err)
	}
	held, err := lab.HeldBy(pid)
	if err != nil {
		h.t.Fatal(err)
	}
	return held
}
