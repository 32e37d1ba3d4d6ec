package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLongRuns(t *testing.T) {
	none, err := longRuns("", "")
	if err != nil || len(none) != 0 {
		t.Errorf("asked for none: %v, %v", none, err)
	}
	both, err := longRuns("1h", "30m")
	if err != nil || len(both) != 2 {
		t.Fatalf("asked for both: %v, %v", both, err)
	}
	if both[0].variable != "LEGATE_SIM" || both[0].duration != time.Hour {
		t.Errorf("the simulation is %+v", both[0])
	}
	if both[1].variable != "LEGATE_SOAK" || both[1].duration != 30*time.Minute {
		t.Errorf("the soak is %+v", both[1])
	}
}

func TestLongRuns_SayWhatIsWrong(t *testing.T) {
	for _, tt := range []struct{ sim, soak, want string }{
		{"banana", "", `SIM="banana" is not a duration`},
		{"", "30", `SOAK="30" is not a duration`},
		{"-1s", "", `SIM="-1s" is not a duration`},
		{"1h", "0s", `SOAK="0s" is not a duration`},
	} {
		if _, err := longRuns(tt.sim, tt.soak); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "\nhint: make test S") {
			t.Errorf("SIM=%s SOAK=%s: error %v", tt.sim, tt.soak, err)
		}
	}
}

func TestStages(t *testing.T) {
	rest, alone := stagesOf([]string{"legate/internal/agent", "legate/internal/pump", "legate/test/e2e", "legate/test/e2e/lab", "legate/test/soak", "legate/test/run"})
	if want := []string{"legate/internal/pump", "legate/test/soak", "legate/internal/agent", "legate/test/run"}; !slices.Equal(rest, want) {
		t.Errorf("first %v, want %v", rest, want)
	}
	if want := []string{"legate/test/e2e", "legate/test/e2e/lab"}; !slices.Equal(alone, want) {
		t.Errorf("then %v, want %v", alone, want)
	}
}
