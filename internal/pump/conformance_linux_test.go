package pump_test

import (
	"testing"

	"legate/internal/pump"
	"legate/internal/pump/pumptest"
)

func newEpoll(t testing.TB, timing pumptest.Timing) pump.Engine {
	e, err := pump.NewEpoll(pump.Config{Loops: 2, VanishAfter: timing.VanishAfter, SweepEvery: timing.SweepEvery})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformance(t *testing.T) { pumptest.Conformance(t, newEpoll) }

func TestEngine(t *testing.T) { pumptest.Engine(t, newEpoll) }

func TestMoving(t *testing.T) { pumptest.Moving(t, newEpoll) }
