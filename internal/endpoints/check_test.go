package endpoints

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/spec"
)

var errRole = errors.New("role is slave, not master")

// redisCheck is one with meaning: twice and thrice to change its mind.
func redisCheck() spec.Check {
	return spec.Check{Kind: spec.CheckRedis, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3, Role: "master"}
}

func tcpCheck() spec.Check {
	c := redisCheck()
	c.Kind, c.Role = spec.CheckTCP, ""
	return c
}

// checked is a view with that check.
func checked(c spec.Check, targets ...spec.Target) *View { return &View{Targets: targets, Check: c} }

// seen returns e as the view sees it.
func (w *world) seen(v *View, e spec.Endpoint) Candidate {
	w.t.Helper()
	for _, c := range w.pool.List(v, nil).All {
		if c.Endpoint == e {
			return c
		}
	}
	w.t.Fatalf("%v is not in the view", e)
	return Candidate{}
}

func (w *world) wantChecks(e spec.Endpoint, want ...int) {
	w.t.Helper()
	if got := w.checks(e); !slices.Equal(got, ms(want...)) {
		w.t.Errorf("%v was checked at %v, want %v", e, got, ms(want...))
	}
}

func (w *world) wantHealth(v *View, e spec.Endpoint, state State, health spec.Health, barred bool) {
	w.t.Helper()
	if c := w.seen(v, e); c.State != state || c.Health != health || c.Barred != barred {
		w.t.Errorf("%v is in state %v, %s, barred %t; want %v, %s, %t", e, c.State, c.Health, c.Barred, state, health, barred)
	}
}

func TestCheck_FirstOneDecidesAndComesAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.answers(tcp(2), errRole)
		v := checked(redisCheck(), one)
		w.wantHealth(v, tcp(1), Unknown, spec.HealthUnknown, true) // it may be no master
		w.until(time.Second)
		w.pool.Watch("link", *v, Idle)
		w.until(time.Second)
		w.wantHealth(v, tcp(1), Serving, spec.HealthOK, false)
		w.wantHealth(v, tcp(2), Failing, spec.HealthUnhealthy, true)
		if c := w.seen(v, tcp(2)); !errors.Is(c.LastErr, errRole) || !c.Checked.Equal(time.Now()) || !c.Since.Equal(time.Now()) {
			t.Errorf("the check's result is %+v", c)
		}
		w.set(one, tcp(1), tcp(2), tcp(3)) // a new one is checked at once, too
		w.until(time.Second + time.Millisecond)
		w.wantChecks(tcp(3), 1000)
		if v := w.order(0, one); len(v) != 3 {
			t.Errorf("whoever has no check sees %v", v)
		}
		l := w.pool.List(v, nil)
		if c, full := l.First(Key{}); c.Endpoint != tcp(1) || full || len(l.Rest(Key{}, c, nil)) != 1 || l.Has(Failing) {
			t.Errorf("an unhealthy one is tried: %v", turnOf(l, 0))
		}
	})
}

// The second check of each comes after a random part of the interval, so that
// those that began together spread; later ones jitter.
func TestCheck_Interval(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.rand = 0.25
		w.pool.Watch("link", *checked(redisCheck(), one), Idle)
		w.until(7 * time.Second)
		w.wantChecks(tcp(1), 0, 500, 2400, 4300, 6200)
		w.pool.Forget("link")
		w.until(time.Hour)
		w.wantChecks(tcp(1))
		w.wantProbes(tcp(1))
	})
}

func TestCheck_RiseAndFall(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *v, Idle)
		at := func(ms int, answer error, state State, health spec.Health) {
			t.Helper()
			w.until(time.Duration(ms) * time.Millisecond)
			w.wantHealth(v, tcp(1), state, health, state == Failing)
			w.answers(tcp(1), answer)
		}
		bad := errRole
		at(500, bad, Serving, spec.HealthOK) // checked at 0
		at(1500, bad, Serving, spec.HealthOK)
		at(3500, nil, Serving, spec.HealthOK) // two failures
		at(5500, bad, Serving, spec.HealthOK)
		at(7500, bad, Serving, spec.HealthOK)
		at(9500, bad, Serving, spec.HealthOK)
		at(11500, nil, Failing, spec.HealthUnhealthy) // three
		at(13500, bad, Failing, spec.HealthUnhealthy) // one success
		at(15500, nil, Failing, spec.HealthUnhealthy)
		at(17500, nil, Failing, spec.HealthUnhealthy)
		at(19500, nil, Serving, spec.HealthOK) // two
		if c := w.seen(v, tcp(1)); time.Since(c.Since) != 500*time.Millisecond {
			t.Errorf("healthy since %v", c.Since)
		}
		for _, line := range []string{
			`msg="endpoint is unhealthy" endpoint=10.0.0.1:80 check=redis error="role is slave, not master"`,
			`msg="endpoint is healthy again" endpoint=10.0.0.1:80 check=redis`,
		} {
			if strings.Count(w.log.String(), line) != 1 {
				t.Errorf("want one line with %s in\n%s", line, &w.log)
			}
		}
	})
}

func TestCheck_TellsOfTurnsOnly(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.set(two, tcp(1))
		w.calls(&w.changed)
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *v, Idle)
		w.until(20 * time.Second)
		w.wantCalls("changed", &w.changed, one, two) // who has no check learns that it can be reached
		l := w.pool.List(v, nil)
		w.until(40 * time.Second)
		if w.pool.List(v, l) != l {
			t.Error("checks that succeed make another list")
		}
		w.answers(tcp(1), errRole)
		w.until(60 * time.Second)
		w.wantCalls("changed", &w.changed, one, two)
		w.wantCalls("suspect", &w.suspect, one, two)
	})
}

func TestCheck_LinksWithEqualChecksShareThem(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.set(two, tcp(1))
		other := redisCheck()
		other.Role = "replica"
		w.pool.Watch("a", *checked(redisCheck(), one), Idle)
		w.pool.Watch("b", *checked(redisCheck(), two), Idle)
		w.until(1500 * time.Millisecond)
		w.wantChecks(tcp(1), 0, 1000)
		w.pool.Watch("c", *checked(other, two), Idle)
		w.pool.Watch("a", *checked(redisCheck(), one), Urgent) // no other view
		w.until(1900 * time.Millisecond)
		w.wantChecks(tcp(1), 1500)
		w.pool.Forget("a")
		w.pool.Forget("c")
		w.until(4 * time.Second)
		w.wantChecks(tcp(1), 3000)
		w.pool.Forget("b")
		w.until(time.Hour)
		w.wantChecks(tcp(1))
		if len(w.pool.tasks) != 0 {
			t.Errorf("left: %d tasks", len(w.pool.tasks))
		}
		for i := range 10 { // passwords that change
			other.Password = spec.Secret(rune('a' + i))
			w.pool.Watch("d", *checked(other, two), Idle)
		}
		if n := len(w.pool.checks); n > 2 {
			t.Errorf("%d checks are kept for one", n)
		}
	})
}

func TestCheck_TriedAllTheSameWhenItsMeaningIsDoubtful(t *testing.T) {
	hold := checked(tcpCheck(), one)
	hold.AllUnhealthy = spec.AllUnhealthyHold
	try := checked(redisCheck(), one)
	try.AllUnhealthy = spec.AllUnhealthyTry
	for name, c := range map[string]struct {
		view  *View
		holds bool
	}{
		"tcp": {checked(tcpCheck(), one), false}, "tcp, hold": {hold, true},
		"redis": {checked(redisCheck(), one), true}, "redis, try": {try, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.set(one, tcp(1), tcp(2))
				w.answers(tcp(1), errRefused)
				w.pool.Watch("link", *c.view, Idle)
				w.until(time.Millisecond)
				w.answers(tcp(2), errRefused)
				list := func() string { return fmt.Sprint(addresses(turnOf(w.pool.List(c.view, nil), 0))) }
				if got, want := list(), fmt.Sprint([]spec.Endpoint{tcp(2), tcp(1)}[:map[bool]int{true: 1, false: 2}[c.holds]]); got != want {
					t.Errorf("one unhealthy: %s, want %s", got, want)
				}
				w.until(10 * time.Second)
				if got, want := list(), fmt.Sprint([]spec.Endpoint{tcp(1), tcp(2)}[:map[bool]int{true: 0, false: 2}[c.holds]]); got != want {
					t.Errorf("all unhealthy: %s, want %s", got, want)
				}
				if l := w.pool.List(c.view, nil); l.Has(Failing) || l.Has(Serving) == c.holds && c.holds {
					t.Error("a link would go down, or up, by what the check says")
				}
			})
		})
	}
}

func addresses(list []Candidate) []spec.Endpoint {
	out := make([]spec.Endpoint, len(list))
	for i := range list {
		out[i] = list[i].Endpoint
	}
	return out
}

// A success of a connection is no reason to believe that it leads to the
// primary; a failure is one not to try.
func TestCheck_AndAttempts(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.answers(tcp(2), errRole)
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *v, Idle)
		w.until(time.Millisecond)
		w.pool.Report(tcp(2), nil)
		w.wantHealth(v, tcp(2), Failing, spec.HealthUnhealthy, true)
		w.pool.Report(tcp(1), errRefused)
		w.wantHealth(v, tcp(1), Failing, spec.HealthEjected, false)
		w.checks(tcp(1))
		w.until(1000 * time.Millisecond)
		w.wantChecks(tcp(1), 1000) // its turn
		w.wantHealth(v, tcp(1), Failing, spec.HealthEjected, false)
		w.until(1001 * time.Millisecond)
		w.wantChecks(tcp(1), 1001) // the end of the back-off
		w.wantHealth(v, tcp(1), Serving, spec.HealthOK, false)
		w.wantProbes(tcp(1))
	})
}

func TestCheck_StandsInForProbes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		long := redisCheck()
		long.Interval = time.Hour
		v := checked(long, one)
		w.pool.Watch("link", *v, Idle)
		w.until(10 * time.Millisecond)
		w.answers(tcp(1), errRefused)
		w.pool.Report(tcp(1), errRefused)
		w.until(8 * time.Second)
		w.wantChecks(tcp(1), 0, 1010, 3010, 7010)
		w.pool.Watch("link", *v, Urgent)
		w.until(8250 * time.Millisecond)
		w.wantChecks(tcp(1), 8000, 8100, 8200)
		w.answers(tcp(1), nil)
		w.until(9 * time.Second)
		w.wantChecks(tcp(1), 8300)
		w.wantHealth(v, tcp(1), Serving, spec.HealthOK, false) // what came extra did not make it unhealthy
		w.wantProbes(tcp(1))
		w.pool.Watch("link", *v, Idle)
		w.pool.Watch("another", *view(one), Idle) // knows of no check
		w.pool.Report(tcp(1), errRefused)
		w.until(26 * time.Second)
		w.wantProbes(tcp(1), 25000) // it had failed for 8 s a moment ago
		w.wantChecks(tcp(1))
	})
}

// Its word is taken at once: beside the new primary, every second write would
// fail.
func TestCheck_ServerThatSaysItHasAnotherRoleIsBelieved(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *v, Idle)
		w.until(500 * time.Millisecond)
		w.wantHealth(v, tcp(1), Serving, spec.HealthOK, false)
		w.answers(tcp(1), fmt.Errorf("check redis: %w", &spec.RoleError{Is: "slave", Want: "master"}))
		w.until(2500 * time.Millisecond)
		w.wantHealth(v, tcp(1), Failing, spec.HealthUnhealthy, true)
	})
}

// A former primary can be reached all the time: what is waited for is that it
// becomes one again.
func TestCheck_IsUrgentThoughTheEndpointCanBeReached(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		long := redisCheck()
		long.Interval, long.Rise, long.Fall = time.Hour, 1, 1
		v := checked(long, one)
		w.answers(tcp(1), errRefused)
		w.pool.Report(tcp(1), nil)
		w.pool.Watch("link", *v, Idle)
		w.until(8 * time.Second)
		w.wantHealth(v, tcp(1), Failing, spec.HealthUnhealthy, true)
		w.wantChecks(tcp(1), 0)
		w.pool.Watch("link", *v, Down)
		w.until(9500 * time.Millisecond)
		w.wantChecks(tcp(1), 8000, 9000)
		w.pool.Watch("link", *v, Urgent)
		w.until(9750 * time.Millisecond)
		w.wantChecks(tcp(1), 9500, 9600, 9700)
		w.answers(tcp(1), nil)
		w.until(11 * time.Second)
		w.wantChecks(tcp(1), 9800)
		w.wantHealth(v, tcp(1), Serving, spec.HealthOK, false)
	})
}

func TestCheck_OurOwnShortageIsNobodysFailure(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *v, Idle)
		w.until(10 * time.Millisecond)
		w.answers(tcp(1), errShortage)
		w.until(time.Minute)
		w.wantHealth(v, tcp(1), Serving, spec.HealthOK, false)
		if n := len(w.checks(tcp(1))); n < 28 || n > 32 {
			t.Errorf("%d checks in a minute", n)
		}
	})
}

func TestCheck_SilentEndpointsDelayNobody(t *testing.T) {
	inWorld(t, func(w *world) {
		var all []spec.Endpoint
		for i := range byte(200) {
			all = append(all, tcp(i))
			w.swallow(tcp(i), i > 0)
		}
		w.set(one, all...)
		w.pool.Watch("link", *checked(redisCheck(), one), Idle)
		w.until(5500 * time.Millisecond)
		w.wantChecks(tcp(0), 0, 1000, 3000, 5000)
	})
}

func TestCheck_NoMoreThanSoManyAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		all := many(3 * maxRunning)
		for _, e := range all {
			w.swallow(e, true)
		}
		w.set(one, all...)
		w.pool.Watch("link", *checked(redisCheck(), one), Idle)
		w.until(500 * time.Millisecond)
		begun := func() (n int) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.checked)
		}
		if n := begun(); n != maxRunning {
			t.Errorf("%d began at once, want %d", n, maxRunning)
		}
		w.until(2500 * time.Millisecond)
		if n := begun(); n != len(all) {
			t.Errorf("%d of %d were checked", n, len(all))
		}
	})
}

func TestCheck_EndsWithItsEndpointAndItsView(t *testing.T) {
	for name, end := range map[string]func(*world){
		"endpoint": func(w *world) { w.set(one) },
		"view":     func(w *world) { w.pool.Forget("link") },
		"check":    func(w *world) { w.pool.Watch("link", *view(one), Idle) },
		"target":   func(w *world) { w.pool.Keep(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.swallow(tcp(1), true)
				w.set(one, tcp(1))
				w.pool.Watch("link", *checked(redisCheck(), one), Idle)
				w.until(100 * time.Millisecond)
				w.calls(&w.suspect)
				end(w)
				w.until(time.Minute)
				w.wantChecks(tcp(1), 0)
				if n := len(w.calls(&w.suspect)); n != 0 || w.log.Len() > 0 {
					t.Errorf("blamed for an attempt that we ended:\n%s", &w.log)
				}
			})
		})
	}
}

func TestCheck_FollowsTheTargetsOfItsView(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(3))
		w.set(two, tcp(2), tcp(3))
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *v, Idle)
		w.until(time.Second - 1)
		v.Targets[0] = two // the caller's memory
		w.pool.Watch("link", *v, Idle)
		w.wantHealth(v, tcp(3), Serving, spec.HealthOK, false)
		w.until(4 * time.Second)
		w.wantChecks(tcp(1), 0)
		w.wantChecks(tcp(3), 0, 1000, 3000) // undisturbed
		if got := w.checks(tcp(2)); len(got) != 3 || got[0] != time.Second-1 {
			t.Errorf("the new one was checked at %v", got)
		}
	})
}

// While a link is down its sources are asked again at each failure: they may
// know where the endpoint is by now.
func TestCheck_SuspectsItsSourcesWhileTheLinkIsDown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.answers(tcp(1), errRole)
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *v, Idle)
		w.until(time.Millisecond)
		w.wantCalls("suspect", &w.suspect, one)
		w.until(10 * time.Second)
		w.wantCalls("suspect", &w.suspect)
		w.pool.Watch("link", *v, Down)
		w.until(20 * time.Second)
		if n := len(w.calls(&w.suspect)); n < 4 {
			t.Errorf("suspected %d times in 10 s", n)
		}
	})
}

func TestCheck_NeverOfUDP(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, udp(1))
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *v, Idle)
		w.until(time.Minute)
		w.wantChecks(udp(1))
		w.wantHealth(v, udp(1), Unknown, spec.HealthUnknown, false)
	})
}

// Waking up for each check costs more than most checks do.
func TestCheck_ThousandEndpointsTakeFewMoments(t *testing.T) {
	inWorld(t, func(w *world) {
		const n = 1000
		numbers := rand.New(rand.NewPCG(1, 2))
		w.random = numbers.Float64
		w.set(one, many(n)...)
		w.pool.Watch("link", *checked(redisCheck(), one), Idle)
		w.until(10 * time.Second)
		for _, e := range many(n) {
			w.checks(e)
		}
		w.until(20 * time.Second)
		moments, checks := map[time.Duration]int{}, 0
		for _, e := range many(n) {
			for _, at := range w.checks(e) {
				moments[at]++
				checks++
			}
		}
		if len(moments) > 110 || checks < 4500 || checks > 5600 {
			t.Errorf("%d checks at %d moments in 10 s", checks, len(moments))
		}
		for at, n := range moments {
			if n > 100 {
				t.Errorf("%d checks at %v", n, at)
			}
		}
	})
}

// A thousand endpoints that turn at once are told of together: each telling has
// a link look at all of them.
func TestCheck_BurstIsToldOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, many(200)...)
		v := checked(redisCheck(), one)
		v.Check.Fall = 1
		w.pool.Watch("link", *v, Idle)
		w.until(time.Millisecond)
		if n := len(w.calls(&w.changed)); n > 20 {
			t.Errorf("%d tellings of 200 endpoints at once", n)
		}
		synctest.Wait()
		if l := w.pool.List(v, nil); !l.Has(Serving) || l.Has(Unknown) {
			t.Error("not all are known")
		}
	})
}

// What one link asks for in vain says nothing of whether others can be served:
// an endpoint that is back is not kept from them.
func TestCheck_OfOneLinkKeepsNoEndpointFromOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		wrong := redisCheck()
		wrong.Role, wrong.Interval = "replica", 100*time.Millisecond
		w.pool.cfg.Check = func(_ context.Context, _ spec.Endpoint, c spec.Check) error {
			if c == wrong {
				return errRole
			}
			time.Sleep(5 * time.Millisecond) //nolint:forbidigo // the bubble's time is fake
			return nil
		}
		w.set(one, tcp(1))
		v := checked(redisCheck(), one)
		w.pool.Watch("other", *checked(wrong, one), Idle)
		w.pool.Watch("link", *v, Idle)
		w.until(447 * time.Millisecond)
		w.pool.Report(tcp(1), errRefused)
		w.until(1460 * time.Millisecond) // its back-off ended at 1447, and the other link's check failed at 1450
		w.wantHealth(v, tcp(1), Serving, spec.HealthOK, false)
	})
}

// Whoever waits for a check to succeed has it made as often beside a link that
// has none.
func TestCheck_IsUrgentBesideALinkWithoutOne(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		c := redisCheck()
		c.Interval = 10 * time.Second
		w.answers(tcp(1), &spec.RoleError{})
		w.pool.Watch("waits", *checked(c, one), Urgent)
		w.pool.Watch("plain", *view(one), Idle)
		w.until(9 * time.Second)
		if n := len(w.checks(tcp(1))); n < 80 {
			t.Errorf("%d checks in 9 s, want ten a second", n)
		}
	})
}
