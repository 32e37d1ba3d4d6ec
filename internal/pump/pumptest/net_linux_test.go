package pumptest_test

import (
	"testing"

	"legate/internal/pump"
	"legate/internal/pump/pumptest"
)

func newNet(t testing.TB, timing pumptest.Timing) pump.Engine {
	e, err := pump.NewNet(pump.Config{VanishAfter: timing.VanishAfter, SweepEvery: timing.SweepEvery})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The engine on epoll runs the suite in package pump.
func TestConformance(t *testing.T) { pumptest.Conformance(t, newNet) }

func TestEngine(t *testing.T) { pumptest.Engine(t, newNet) }
