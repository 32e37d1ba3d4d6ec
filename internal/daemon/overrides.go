package daemon

import (
	"fmt"
	"maps"

	"legate/internal/spec"
)

// overrides are what operators asked for beside the links: at most one of each
// kind per link or endpoint, so that a link that was swapped can be paused.
type overrides struct {
	Swaps     map[string]spec.Override `json:"swaps"`     // by the name of the link
	Modes     map[string]spec.Override `json:"modes"`     // pauses and drains, by the name of the link
	Endpoints map[string]spec.Override `json:"endpoints"` // drains, by the endpoint's address
}

func noOverrides() overrides {
	return overrides{
		Swaps:     map[string]spec.Override{},
		Modes:     map[string]spec.Override{},
		Endpoints: map[string]spec.Override{},
	}
}

func (o overrides) clone() overrides {
	n := noOverrides()
	maps.Copy(n.Swaps, o.Swaps)
	maps.Copy(n.Modes, o.Modes)
	maps.Copy(n.Endpoints, o.Endpoints)
	return n
}

// check refuses what no verb can have written: it would be obeyed in silence.
func (o overrides) check() error {
	for _, part := range []struct {
		of    map[string]spec.Override
		kinds []spec.OverrideKind
	}{
		{o.Swaps, []spec.OverrideKind{spec.OverrideSwap}},
		{o.Modes, []spec.OverrideKind{spec.OverridePause, spec.OverrideDrain}},
		{o.Endpoints, []spec.OverrideKind{spec.OverrideDrain}},
	} {
		for name, v := range part.of {
			if err := checkKind(v.Kind, part.kinds); err != nil {
				return fmt.Errorf("override of %s: %w", name, err)
			}
		}
	}
	return nil
}

func checkKind(k spec.OverrideKind, kinds []spec.OverrideKind) error {
	for _, want := range kinds {
		if k == want {
			return nil
		}
	}
	return fmt.Errorf("kind %q cannot stand there", k)
}

// set puts o under the name, or removes what is there when o is nil.
func set(m map[string]spec.Override, name string, o *spec.Override) {
	if o == nil {
		delete(m, name)
		return
	}
	m[name] = *o
}

// get is nil where there is none.
func get(m map[string]spec.Override, name string) *spec.Override {
	if o, ok := m[name]; ok {
		return &o
	}
	return nil
}

// modeOf is the mode that an override puts a link in.
func modeOf(o *spec.Override) spec.Mode {
	switch {
	case o == nil:
		return spec.ModeServe
	case o.Kind == spec.OverridePause:
		return spec.ModePause
	}
	return spec.ModeDrain
}

// did is what was done to a link, as messages say it.
func did(k spec.OverrideKind) string {
	switch k {
	case spec.OverridePause:
		return "paused"
	case spec.OverrideDrain:
		return "drained"
	}
	return "swapped"
}
