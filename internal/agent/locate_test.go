package agent

import (
	"errors"
	"testing"
	"time"

	"legate/internal/docker"
	"legate/internal/spec"
)

// What a container lacks at its start comes soon; what the agent lacks never does.
func TestUnfound_IsAskedForMoreAndMoreSeldom(t *testing.T) {
	for tries, want := range []time.Duration{10 * time.Millisecond, 40 * time.Millisecond, 160 * time.Millisecond, 640 * time.Millisecond, time.Second, time.Second} {
		got := unfound{tries: tries}.pause()
		if got != want {
			t.Errorf("after %d tries it waits %v, want %v", tries, got, want)
		}
	}
	if late := (unfound{tries: 1 << 40}).pause(); late != longestPause {
		t.Errorf("after very many tries it waits %v", late)
	}
}

func TestAsk_TellsWhatToDoAboutAContainerThatIsNotFound(t *testing.T) {
	missing := unfound{surelyUnfound, spec.Errorf("run the agent with --pid host", "its process 7 is not seen here")}
	w := &watch{Agent: New(Config{}), asked: map[string]bool{"id": true}, unfound: map[string]unfound{"id": missing}}
	var wish spec.Wish
	w.ask(&docker.Container{ID: "id", Name: "landlord"}, "web", true, &wish)
	const want = "container web has no links: its network namespace was not found: its process 7 is not seen here (run the agent with --pid host)"
	if len(wish.Warnings) != 1 || wish.Warnings[0] != want {
		t.Errorf("it warns %q, want %q", wish.Warnings, want)
	}
	wish, w.unfound["id"] = spec.Wish{}, unfound{tries: 1, err: errNotRunning}
	if w.ask(&docker.Container{ID: "id"}, "web", true, &wish); wish.Warnings != nil {
		t.Errorf("of one that just starts it warns %q", wish.Warnings)
	}
}

func TestStatus_SaysHowSoonLinksAreOpen(t *testing.T) {
	a := New(Config{Namespaces: "/n"})
	w := &watch{Agent: a}
	w.note(spec.Errorf("mount it", "/n does not exist"))
	if s := a.Status(); s.Late != "/n does not exist" || s.LateHint != "mount it" || s.Namespaces != "/n" {
		t.Errorf("late: %+v", s)
	}
	w.note(errors.New("it broke"))
	if s := a.Status(); s.Late != "it broke" || s.LateHint != "" {
		t.Errorf("late without a hint: %+v", s)
	}
	w.note(nil)
	if s := a.Status(); s.Late != "" {
		t.Errorf("early: %+v", s)
	}
}
