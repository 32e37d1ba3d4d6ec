package endpoints

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"legate/internal/spec"
)

var errDenied = errors.New("the container may not go there")

// denying is the view of somebody who may not go to these.
func denying(v *View, list ...spec.Endpoint) *View {
	own := *v
	own.Admit = func(m *spec.Member) error {
		for _, e := range list {
			if m.Endpoint == e {
				return errDenied
			}
		}
		return nil
	}
	return &own
}

// A check sends what its owner wrote, with the rights of this process.
func TestAdmit_ChecksGoOnlyWhereTheirOwnerMay(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		v := denying(checked(redisCheck(), one), tcp(1))
		w.pool.Watch("link", *v, Urgent)
		w.until(time.Second)
		w.set(one, tcp(1), tcp(2), tcp(3)) // at every answer, not only at the first
		w.until(5 * time.Second)
		w.wantHealth(v, tcp(1), Failing, spec.HealthDenied, true)
		w.wantHealth(v, tcp(2), Serving, spec.HealthOK, false)
		w.wantChecks(tcp(1))
		w.wantProbes(tcp(1))
	})
}

func TestAdmit_ProbesGoOnlyWhereTheirOwnerMay(t *testing.T) {
	for attention := Down; attention <= Check; attention++ {
		inWorld(t, func(w *world) {
			w.set(one, tcp(1))
			w.pool.Watch("link", *denying(view(one), tcp(1)), attention)
			w.until(3 * time.Second)
			w.wantProbes(tcp(1))
			w.fail(tcp(1)) // as a connection finds out that began when it was allowed
			w.pool.Doubt(tcp(1))
			w.until(10 * time.Second)
			w.wantProbes(tcp(1))
		})
	}
}

// What another may ask an endpoint is asked, and no more than that.
func TestAdmit_IsOfEachOwner(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		other := redisCheck()
		other.Role = "replica"
		w.pool.Watch("allowed", *checked(redisCheck(), one), Idle)
		w.pool.Watch("denied", *denying(checked(other, one), tcp(1)), Urgent)
		w.pool.Watch("denied, too", *denying(view(one), tcp(1)), Urgent)
		w.until(1500 * time.Millisecond)
		w.wantChecks(tcp(1), 0, 1000)
		w.fail(tcp(1))
		w.until(2600 * time.Millisecond)
		w.wantChecks(tcp(1), 2500) // in a probe's stead: whoever is denied needs none
		w.wantProbes(tcp(1))
	})
}

// The same view is asked again whenever its owner watches: the policy may be
// another.
func TestAdmit_FollowsThePolicy(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		v := checked(redisCheck(), one)
		w.pool.Watch("link", *denying(v, tcp(1)), Idle)
		w.until(time.Second)
		w.wantChecks(tcp(1))
		w.pool.Watch("link", *v, Idle)
		w.until(2 * time.Second)
		w.wantChecks(tcp(1), 1000, 2000)
		w.swallow(tcp(1), true)
		w.until(4100 * time.Millisecond)
		w.wantChecks(tcp(1), 4000)
		w.pool.Watch("link", *denying(v, tcp(1)), Idle) // while a check is under way
		w.until(10 * time.Second)
		w.wantChecks(tcp(1))
	})
}

func TestAdmit_ProbeAsksNobodyWhoIsDenied(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.pool.Drain(map[string]time.Time{tcp(2).String(): w.start})
		for _, v := range []*View{view(one), checked(redisCheck(), one)} {
			w.wantProbed(denying(v, tcp(1)), "10.0.0.1:80: the container may not go there", "10.0.0.2:80 is drained")
		}
		w.wantChecks(tcp(1))
		w.wantProbes(tcp(1))
		w.pool.Drain(nil)
		w.wantProbed(denying(view(one), tcp(1)))
		w.wantProbes(tcp(1))
	})
}

// What is to be done about it is the policy's to say.
func TestAdmit_ProbeKeepsTheHint(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		v := view(one)
		v.Admit = func(*spec.Member) error { return spec.Errorf("start the agent with --allow-target", "no") }
		if err := w.pool.Probe(context.Background(), *v); spec.HintOf(err) != "start the agent with --allow-target" {
			t.Errorf("%v, with the hint %q", err, spec.HintOf(err))
		}
	})
}

// What is not decided yet is not asked, and may be waited for.
func TestAdmit_WhatIsUndecidedIsNotDenied(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		v := *view(one)
		for err, denied := range map[error]bool{errors.New("never"): true, fmt.Errorf("it is %w", spec.ErrUndecided): false} {
			v.Admit = func(*spec.Member) error { return err }
			if got := w.pool.Denied(v) != nil; got != denied {
				t.Errorf("%v: denied %t", err, got)
			}
			if c := w.pool.List(&v, nil).All[0]; !c.Barred || c.IsDenied() != denied {
				t.Errorf("%v: it is %+v", err, c)
			}
		}
	})
}
