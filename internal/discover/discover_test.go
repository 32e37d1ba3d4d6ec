package discover

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/spec"
)

func TestFixed_KnownWhenApplyReturns(t *testing.T) {
	tests := map[string]struct {
		target spec.Target
		want   spec.Endpoint
	}{
		"v4": {
			spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "192.0.2.1", Port: 80},
			spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort("192.0.2.1:80")},
		},
		"v6 and UDP": {
			spec.Target{Source: spec.SourceFixed, Protocol: spec.UDP, Host: "fd00::2", Port: 53},
			spec.Endpoint{Protocol: spec.UDP, Addr: netip.MustParseAddrPort("[fd00::2]:53")},
		},
		"mapped v4": {
			spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "::ffff:192.0.2.1", Port: 80},
			spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort("192.0.2.1:80")},
		},
		"unix": {
			spec.Target{Source: spec.SourceFixed, Protocol: spec.Unix, Path: "/run/redis.sock"},
			spec.Endpoint{Protocol: spec.Unix, Path: "/run/redis.sock"},
		},
	}
	for label, test := range tests {
		t.Run(label, func(t *testing.T) {
			n := &notebook{}
			d := New(Config{Set: n.set})
			defer d.Close()
			d.Apply([]spec.Target{test.target})
			a, _ := n.last(test.target)
			if !slices.Equal(a.Endpoints, spec.Members(test.want)) || a.Err != nil || a.At.IsZero() {
				t.Errorf("answer %+v, want %v", a, test.want)
			}
		})
	}
}

func TestApply_UnusableTargetSaysWhy(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		odd := spec.Target{Source: "carrier pigeon", Host: "db"}
		bad := spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "db"}
		b.watch(odd, bad)
		for _, target := range []spec.Target{odd, bad} {
			if a, ok := b.last(target); !ok || a.Err == nil || len(a.Endpoints) != 0 {
				t.Errorf("%v: answer %+v, want an error", target, a)
			}
		}
	})
}

func TestTargets_OfOneQuestionShareTheWatch(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.names.say("db", Result{Places: []Place{{Host: "192.0.2.1", Weight: 1}}})
		var targets []spec.Target
		for port := range uint16(100) {
			targets = append(targets, spec.Target{Source: spec.SourceDNS, Protocol: spec.TCP, Host: "db", Port: 8000 + port})
		}
		b.watch(targets...)
		udp := spec.Target{Source: spec.SourceDNS, Protocol: spec.UDP, Host: "db", Port: 53}
		b.watch(append(targets, udp)...) // is told what is known already
		pass(time.Second)
		if n := len(b.names.watches()); n != 1 || b.Work().Watches != 1 {
			t.Errorf("%d watches began and %d are there, want one", n, b.Work().Watches)
		}
		b.want(targets[7], "192.0.2.1:8007")
		a, _ := b.last(udp)
		if len(a.Endpoints) != 1 || a.Endpoints[0].Protocol != spec.UDP {
			t.Errorf("UDP: %+v", a.Endpoints)
		}
		b.names.say("db", Result{Places: []Place{{Host: "192.0.2.2", Weight: 1}}})
		pass(quiet)
		b.want(targets[99], "192.0.2.2:8099")
		b.watch()
		if n := b.Work().Watches; n != 0 {
			t.Errorf("%d watches are left without targets", n)
		}
	})
}

func TestApply_LeavesOthersAlone(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1"))
		b.services.say("web", at("192.0.2.3"))
		b.watch(service("db"), service("web"))
		b.watch(service("web"))
		b.services.say("db", at("192.0.2.2"))
		b.services.say("web", at("192.0.2.4"))
		pass(quiet)
		if n := len(b.all(service("db"))); n != 1 {
			t.Errorf("a dropped target was told %d answers, want 1", n)
		}
		b.want(service("web"), "192.0.2.4:80")
		if n := len(b.services.watches()); n != 2 {
			t.Errorf("%d watches began, want 2", n)
		}
		b.watch(service("db"))
		b.want(service("db"), "192.0.2.2:80")
	})
}

func TestChange_OfOneQuestionTellsItsTargetsAlone(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		var targets []spec.Target
		for i := range 200 {
			name := fmt.Sprintf("s%d", i)
			b.services.say(name, at("192.0.2.1"))
			targets = append(targets, service(name))
		}
		b.watch(targets...)
		before := b.Work()
		b.services.say("s7", at("192.0.2.2"))
		pass(quiet)
		if n := b.Work().Told - before.Told; n != 1 {
			t.Errorf("%d targets were told of a change of one", n)
		}
	})
}

func TestBurst_IsToldAtOnceAndThenTogether(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1"))
		b.watch(service("db"))
		pass(time.Second)
		start := time.Now()
		for i := range 50 {
			b.services.say("db", at("192.0.2.1", fmt.Sprintf("192.0.2.%d", 100+i)))
			if i == 0 {
				b.want(service("db"), "192.0.2.1:80", "192.0.2.100:80")
			}
		}
		if took := time.Since(start); took != 0 {
			t.Fatalf("the burst took %v, this tests nothing", took)
		}
		pass(quiet)
		b.want(service("db"), "192.0.2.1:80", "192.0.2.149:80")
		if n := len(b.all(service("db"))); n != 3 {
			t.Errorf("told %d times, want the start, the first and the last of the burst", n)
		}
	})
}

func TestSame_IsNoNews(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1"))
		b.watch(service("db"))
		pass(time.Minute)
		b.services.say("db", at("192.0.2.1"))
		pass(time.Minute)
		if n := len(b.all(service("db"))); n != 1 {
			t.Errorf("told %d times of the same", n)
		}
		s, _ := b.Report(service("db"))
		if got := time.Since(*s.Learned); got != 2*time.Minute {
			t.Errorf("learned %v ago, want when it became so", got)
		}
		if got := time.Since(*s.Answered); got != time.Minute {
			t.Errorf("answered %v ago, want when it was said again", got)
		}
	})
}

func TestFailure_KeepsTheLastGoodAnswer(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1"))
		b.watch(service("db"))
		b.services.fail(errDown)
		pass(24 * time.Hour)
		a, _ := b.last(service("db"))
		b.want(service("db"), "192.0.2.1:80")
		if !errors.Is(a.Err, errDown) {
			t.Errorf("error %v, want that of the source", a.Err)
		}
		if age := time.Since(a.At); age != 24*time.Hour {
			t.Errorf("age %v, want that of the endpoints", age)
		}
		if n := len(b.all(service("db"))); n != 2 {
			t.Errorf("told %d times, want the answer and the error once each", n)
		}
		s, _ := b.Report(service("db"))
		if !s.Held || s.Until != nil || s.Error != errDown.Error() || time.Since(*s.Failed) != 24*time.Hour {
			t.Errorf("report %+v, want endpoints that are held for as long as it fails", s)
		}

		w := b.services.watches()
		if last := w[len(w)-1].Sub(w[len(w)-2]); last < backoff*9/10 || last > backoff {
			t.Errorf("last pause %v, want about %v", last, backoff)
		}
		if first := w[1].Sub(w[0]); first > Floor {
			t.Errorf("first pause %v, want at most %v", first, Floor)
		}
		b.services.change(func() { b.services.down = nil; b.services.says["db"] = at("192.0.2.2") })
		pass(backoff)
		b.want(service("db"), "192.0.2.2:80")
		if a, _ := b.last(service("db")); a.Err != nil {
			t.Errorf("error %v after a good answer", a.Err)
		}
	})
}

func TestSuspect_AsksAFailingSourceAtOnceButOnceASecond(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1"))
		b.watch(service("db"))
		b.services.fail(errDown)
		pass(time.Hour) // the pauses have reached their longest
		before := len(b.services.watches())
		for range 1000 {
			b.Suspect(service("db"))
			pass(10 * time.Millisecond)
		}
		if asked := len(b.services.watches()) - before; asked < 9 || asked > 11 {
			t.Errorf("asked %d times in 10 s of suspicion, want once a second", asked)
		}
		b.Suspect(service("nobody watches this")) // and nothing happens
	})
}

func TestSuspect_ReachesTheNamesToo(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("db.example"))
		b.names.say("db.example", Result{Places: []Place{{Host: "192.0.2.1", Weight: 1}}})
		b.watch(service("db"))
		b.Suspect(service("db"))
		synctest.Wait()
		if b.services.doubts != 1 || b.names.doubts != 1 {
			t.Errorf("%d and %d doubts, want one of the service and one of its name", b.services.doubts, b.names.doubts)
		}
	})
}

func TestWeak_AbsenceIsBelievedAfter30Seconds(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1", "192.0.2.2"))
		b.watch(service("db"))
		pass(time.Second)
		b.services.say("db", Result{Err: errNone, Weak: true})
		b.want(service("db"), "192.0.2.1:80?", "192.0.2.2:80?")
		pass(10 * time.Second)
		b.services.say("db", weakly(at("192.0.2.2"))) // registered anew
		b.want(service("db"), "192.0.2.2:80", "192.0.2.1:80?")
		if a, _ := b.last(service("db")); a.Err != nil {
			t.Errorf("error %v beside an answer", a.Err)
		}
		s, _ := b.Report(service("db"))
		if s.Weak != 1 || s.Until == nil || time.Until(*s.Until) != 20*time.Second {
			t.Errorf("report %+v, want one in doubt, for 20 s more", s)
		}
		pass(20*time.Second - time.Millisecond)
		b.want(service("db"), "192.0.2.2:80", "192.0.2.1:80?")
		pass(time.Millisecond)
		b.want(service("db"), "192.0.2.2:80")
	})
}

func TestWeak_AllOfItIsGivenUpToo(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1"))
		b.watch(service("db"))
		b.services.say("db", Result{Err: errNone, Weak: true})
		pass(weakFor + quiet)
		a, _ := b.last(service("db"))
		if len(a.Endpoints) != 0 || !errors.Is(a.Err, errNone) {
			t.Errorf("answer %+v, want none and why", a)
		}
		b.services.say("db", at("192.0.2.1"))
		pass(quiet)
		if a, _ := b.last(service("db")); len(a.Endpoints) != 1 || a.Err != nil || a.Endpoints[0].Weak {
			t.Errorf("answer %+v after it came back", a)
		}
	})
}

// A registry that lost its data says "none", then has its services registered
// one by one. Each is news; that the others are missing proves nothing, though
// the later answers count as proof of what they say.
func TestWeak_OutlivesStrongAnswersWhileServicesComeBack(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1", "192.0.2.2", "192.0.2.3"))
		b.watch(service("db"))
		pass(time.Second)
		b.services.say("db", Result{Err: errNone, Weak: true})
		pass(5 * time.Second)
		b.services.say("db", at("192.0.2.2"))
		b.want(service("db"), "192.0.2.2:80", "192.0.2.1:80?", "192.0.2.3:80?")
		pass(5 * time.Second)
		b.services.say("db", at("192.0.2.2", "192.0.2.3"))
		b.want(service("db"), "192.0.2.2:80", "192.0.2.3:80", "192.0.2.1:80?")
		pass(time.Second)
		b.services.say("db", at("192.0.2.3")) // the second was removed, seen live
		b.want(service("db"), "192.0.2.3:80", "192.0.2.1:80?")
		pass(weakFor)
		b.want(service("db"), "192.0.2.3:80")
	})
}

// What was in doubt while the source knew nothing is gone once it says that it
// knows all: the address may be another's by now.
func TestWeak_EndsWithAWholeAnswer(t *testing.T) {
	k := &known{}
	now := time.Now()
	db := func(host string) []Place { return []Place{{Host: host}} }
	k.learn(Result{Places: db("192.0.2.1"), Whole: true}, now)
	k.learn(Result{Err: errors.New("no such name"), Weak: true}, now)
	if len(k.places) != 1 || !k.places[0].weak {
		t.Fatalf("in doubt are %+v", k.places)
	}
	k.learn(Result{Places: db("192.0.2.2"), Whole: true}, now)
	if len(k.places) != 1 || k.places[0].Host != "192.0.2.2" {
		t.Errorf("there still are %+v", k.places)
	}
}

func TestWeak_SourceThatFailsMeanwhileProvesNothing(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1"))
		b.watch(service("db"))
		b.services.say("db", Result{Err: errNone, Weak: true})
		pass(10 * time.Second)
		b.services.fail(errDown)
		pass(time.Hour)
		b.want(service("db"), "192.0.2.1:80?")
	})
}

// Nobody vouches for it: it must not get its share of the connections because
// the registry went away after it had stopped to name it.
func TestWeak_WhatIsInDoubtStaysSoWhileItsSourceFails(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1"))
		b.watch(service("db"))
		b.services.say("db", weakly(at("192.0.2.2")))
		pass(10 * time.Second)
		b.services.fail(errDown)
		pass(time.Hour)
		b.want(service("db"), "192.0.2.2:80", "192.0.2.1:80?")
		if s, _ := b.Report(service("db")); s.Weak != 1 || s.Until != nil || !s.Held {
			t.Errorf("report %+v, want one endpoint in doubt without an end", s)
		}
		b.services.fail(nil)
		pass(backoff)
		b.want(service("db"), "192.0.2.2:80", "192.0.2.1:80?")
		pass(weakFor)
		b.want(service("db"), "192.0.2.2:80")
		b.services.say("db", at("192.0.2.1"))
		pass(quiet)
		b.want(service("db"), "192.0.2.1:80")
	})
}

// Who reads the log at night need not compare lists of addresses.
func TestLog_TellsARecoveryFromAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRegistry()
		d := New(Config{Set: func(spec.Target, spec.Answer) {}, Sources: map[string]Source{spec.SourceConsul: r}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer d.Close()
		r.say("db", at("192.0.2.1"))
		d.Apply([]spec.Target{service("db")})
		pass(time.Second)
		for _, hosts := range [][]string{{"192.0.2.1"}, {"192.0.2.2"}} {
			r.fail(errDown)
			pass(time.Minute)
			r.say("db", at(hosts...))
			r.fail(nil)
			pass(time.Minute)
		}
		var messages []string
		for line := range strings.Lines(log.String()) {
			_, message, _ := strings.Cut(line, "msg=")
			message, _, _ = strings.Cut(message, " target=")
			messages = append(messages, message)
		}
		if want := []string{`"no good answer"`, `"good answers again"`, `"no good answer"`, `"endpoints changed"`}; !slices.Equal(messages, want) {
			t.Errorf("%q, want %q", messages, want)
		}
	})
}

func TestStrong_AbsenceIsBelievedAtOnce(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1", "192.0.2.2"))
		b.watch(service("db"))
		pass(time.Second)
		b.services.say("db", at("192.0.2.2"))
		b.want(service("db"), "192.0.2.2:80")
		pass(time.Second)
		b.services.say("db", Result{})
		b.want(service("db"))
		if a, _ := b.last(service("db")); a.Err != nil || a.At.IsZero() {
			t.Errorf("answer %+v, want a good one without endpoints", a)
		}
	})
}

// That the others are missing is no proof; that this one runs no more is.
func TestDead_IsGoneThoughTheAnswerIsWeak(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		both := at("192.0.2.1", "192.0.2.2")
		both.Places[0].Container, both.Places[1].Container = "aa", "bb"
		b.services.say("db", both)
		b.watch(service("db"))
		pass(time.Second)
		b.services.say("db", Result{Weak: true, Dead: []string{"aa"}})
		b.want(service("db"), "192.0.2.2:80?")
		if a, _ := b.last(service("db")); !slices.Equal(a.Dead, []string{"aa"}) {
			t.Errorf("dead %v, want aa", a.Dead)
		}
	})
}

// A container that is started again has the same id, and may have the same
// address. Between its two lives it was not there.
func TestDead_IsToldBetweenTwoLives(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		one := at("192.0.2.1")
		one.Places[0].Container = "aa"
		b.services.say("db", one)
		b.watch(service("db"))
		before := len(b.all(service("db")))
		d := b.Discovery
		d.mu.Lock()
		topic := d.topics[service("db").Question()]
		d.mu.Unlock()
		d.learn(topic, Result{Dead: []string{"aa"}})
		one.Dead = []string{"aa"}
		d.learn(topic, one)
		pass(quiet)
		all := b.all(service("db"))[before:]
		if len(all) != 2 || len(all[0].Endpoints) != 0 || len(all[1].Endpoints) != 1 {
			t.Errorf("told %+v, want that it was gone and that it is back", all)
		}
	})
}

func TestNames_AmongPlacesAreLookedUp(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		r := at("db1.example", "192.0.2.9", "db2.example")
		r.Places[0].Weight, r.Places[0].Priority, r.Places[0].On = 7, 3, "host-a"
		b.services.say("db", r)
		b.names.say("db1.example", Result{Places: []Place{{Host: "192.0.2.1"}, {Host: "2001:db8::1"}}})
		b.watch(service("db"))
		if _, ok := b.last(service("db")); ok {
			t.Error("told before its names were looked up")
		}
		b.names.say("db2.example", Result{Err: errNone, Weak: true})
		b.want(service("db"), "192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.9:80")
		a, _ := b.last(service("db"))
		if m := a.Endpoints[0]; m.Weight != 7 || m.Priority != 3 || m.Host != "host-a" || m.Name != "db1.example" {
			t.Errorf("%+v has not what its name has", m)
		}
		if !errors.Is(a.Err, errNone) {
			t.Errorf("error %v, want why one name was not found", a.Err)
		}
		pass(time.Second)
		b.names.say("db2.example", Result{Places: []Place{{Host: "192.0.2.2"}}})
		b.want(service("db"), "192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.9:80", "192.0.2.2:80")

		// Names that are not there any more are no longer asked for.
		pass(time.Second)
		b.services.say("db", at("192.0.2.9"))
		b.want(service("db"), "192.0.2.9:80")
		if n := b.Work().Watches; n != 1 {
			t.Errorf("%d questions are watched, want one", n)
		}
	})
}

// One name takes the place of another: nobody said that there is nothing
// meanwhile.
func TestNames_FormerOnesServeUntilTheNewIsFound(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("old.example"))
		b.names.say("old.example", Result{Places: []Place{{Host: "192.0.2.1"}}})
		b.watch(service("db"))
		pass(time.Second)
		b.services.say("db", at("new.example"))
		pass(3 * time.Second)
		b.want(service("db"), "192.0.2.1:80")
		b.names.say("new.example", Result{Places: []Place{{Host: "192.0.2.2"}}})
		b.want(service("db"), "192.0.2.2:80")
	})
}

// A name server that says nothing holds up nothing but the name itself.
func TestNames_ThatNobodyAnswersForHoldNothingElseUp(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1", "silent.example", "192.0.2.2"))
		b.watch(service("db"))
		pass(nameTime)
		b.want(service("db"), "192.0.2.1:80", "192.0.2.2:80")
		b.services.say("db", at("silent.example", "192.0.2.2"))
		pass(nameTime)
		b.want(service("db"), "192.0.2.2:80")
		b.names.say("silent.example", at("192.0.2.3"))
		pass(quiet)
		b.want(service("db"), "192.0.2.3:80", "192.0.2.2:80")
	})
}

// What is wrong with a name says nothing about the source that named it.
func TestReport_OfNamesThatAreWrong(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.say("db", at("192.0.2.1", "db.example"))
		b.names.say("db.example", Result{Err: errDown})
		b.watch(service("db"))
		began := time.Now()
		pass(time.Minute)
		b.services.say("db", at("192.0.2.2", "db.example"))
		s, _ := b.Report(service("db"))
		if s.Held || s.Endpoints != 1 || s.Failed == nil || !s.Failed.Equal(began) {
			t.Errorf("of a name that was never found, and fails for a minute: %+v", s)
		}
		b.names.say("db.example", at("192.0.2.3"))
		b.names.say("db.example", Result{Err: errNone, Weak: true})
		pass(10 * time.Second)
		s, _ = b.Report(service("db"))
		if !s.Held || s.Weak != 1 || s.Until == nil || time.Until(*s.Until) != weakFor-10*time.Second {
			t.Errorf("of a name that is not there any more: %+v", s)
		}
	})
}

func TestPlaces_ThatCannotBeUsedAreSaid(t *testing.T) {
	udp := spec.Target{Source: spec.SourceConsul, Protocol: spec.UDP, Host: "db"}
	each(t, map[string]struct {
		target spec.Target
		place  Place
		want   string
	}{
		"no port":           {service("db"), Place{Host: "192.0.2.7"}, "find endpoints of consul:db: its source names 192.0.2.7 without a port"},
		"a socket for udp":  {udp, Place{Path: "/run/db.sock"}, "find endpoints of consul:db: its source names the unix socket /run/db.sock, which carries no datagrams"},
		"port 0 of a name":  {service("db"), Place{Host: "db.example"}, "find endpoints of consul:db: its source names db.example without a port"},
		"unresolvable name": {service("db"), Place{Host: "no.example", Port: 1}, "ask the registry: there is no such service"},
	}, func(t *testing.T, b *bench, c struct {
		target spec.Target
		place  Place
		want   string
	}) {
		for _, name := range []string{"db.example", "no.example"} {
			b.names.say(name, Result{Err: errNone, Weak: true})
		}
		r := at("192.0.2.1")
		r.Places = append(r.Places, c.place)
		b.services.say("db", r)
		b.watch(c.target)
		b.want(c.target, "192.0.2.1:80")
		if a, _ := b.last(c.target); a.Err == nil || a.Err.Error() != c.want {
			t.Errorf("error %v, want %s", a.Err, c.want)
		}
	})
}

// Not in a bubble, whose clock stands still while a goroutine waits for a mutex.
func TestApply_WaitsForASetUnderWay(t *testing.T) {
	var d *Discovery
	entered, release := make(chan struct{}), make(chan struct{})
	var over atomic.Bool
	set := func(target spec.Target, _ spec.Answer) {
		close(entered)
		<-release
		d.Suspect(target) // as a pool does that tries the endpoints at once
		over.Store(true)
	}
	services := newRegistry()
	services.says["db"] = at("192.0.2.1")
	d = New(Config{Set: set, Sources: map[string]Source{spec.SourceConsul: services}})
	d.Apply([]spec.Target{service("db")})
	<-entered
	dropped := make(chan bool)
	go func() {
		d.Apply(nil)
		dropped <- over.Load()
	}()
	for range 1000 {
		runtime.Gosched() // lets an Apply that does not wait return too early
	}
	close(release)
	if !<-dropped {
		t.Error("Apply returned while the target that it dropped was still being set")
	}
	d.Close()
}

func TestClose_LeavesNothingBehind(t *testing.T) {
	// synctest.Test fails when a goroutine of the bubble is still there.
	in(t, func(t *testing.T, b *bench) {
		b.services.say("a", at("db.example"))
		b.watch(service("a"), service("b"), spec.Target{Source: spec.SourceFixed, Protocol: spec.Unix, Path: "/s"})
		b.Close()
		b.watch(service("c"))
		if n := len(b.services.watches()); n != 2 {
			t.Errorf("%d watches began, one of them after Close", n)
		}
	})
}

// Somebody waits for the source: it is asked often for as long as a client is
// held, and not only once more.
func TestSuspect_ShortensThePausesAgain(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.services.fail(errDown)
		b.watch(service("db"))
		pass(time.Hour)
		before := len(b.services.watches())
		b.Suspect(service("db"))
		pass(8 * time.Second)
		if asked := len(b.services.watches()) - before; asked < 4 {
			t.Errorf("asked %d times in the 8 s after a suspicion, want at 0, 1, 3 and 7 s", asked)
		}
	})
}
