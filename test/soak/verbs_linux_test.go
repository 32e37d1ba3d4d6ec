package soak

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// A target that serves nobody is found out before anybody is sent there.
func TestOperations_SwapToABadTarget(t *testing.T) {
	arrange(t)
	backends(t, 1)
	link := fmt.Sprint(inFront)
	l := forwarding(t, link+"="+backend(1))
	r := shiftOf(t).operate(t, "swap to where nobody listens", func() {
		_, err := l.verb("swap", link, backend(9), "--timeout", "1s")
		if err == nil || !strings.Contains(err.Error(), backend(9)) {
			t.Errorf("swap to a bad target said %v", err)
		}
	})
	r.mustServeAll(t)
	if now := l.status(0); now.Target != backend(1) || now.Override != nil {
		t.Errorf("the link goes to %s, overridden by %+v", now.Target, now.Override)
	}
}

// Those who come during a pause wait, and are served in the order in which they came.
func TestOperations_PauseAndResume(t *testing.T) {
	arrange(t)
	backends(t, 1)
	link := fmt.Sprint(inFront)
	l := forwarding(t, link+"="+backend(1))
	waiting, pause := 500, time.Second
	if _, long := asked(t); long {
		pause = 5 * time.Second
	}
	shift := shiftOf(t)
	var q queued
	r := shift.operateOn(t, "pause and resume", rating{Addrs: entrances(inFront), Rate: 50}, func() {
		l.do("pause", link)
		paused := time.Now()
		p := startPeer(t, "queue", queueing{Addr: fmt.Sprintf("127.0.0.1:%d", inFront), Conns: waiting})
		var said string
		p.hear(&said)
		testnet.Await(t, "all of them to wait", func() bool { return l.status(0).Counters.Held >= int64(waiting) })
		if s := l.status(0).State; s != spec.StatePaused {
			t.Errorf("the link is %s", s)
		}
		<-time.After(time.Until(paused.Add(pause)))
		l.do("resume", link)
		p.hear(&q)
		p.wait()
	})
	r.mustServeAll(t)
	if len(q.Failures) > 0 {
		t.Errorf("%d of %d who waited failed: %v", len(q.Failures), waiting, q.Failures[:min(5, len(q.Failures))])
	}
	if far := overtaken(q.Places); far > 0 {
		t.Errorf("somebody was overtaken by one who came %d places later", far)
	}
}

// overtaken is the most by which somebody was served before one who had come earlier.
func overtaken(places []int) (far int) {
	for late := range places {
		for early := range late {
			if places[early] > places[late] {
				far = max(far, late-early)
			}
		}
	}
	return far
}
