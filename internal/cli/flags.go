package cli

import (
	"strings"
	"time"

	"legate/internal/control"
	"legate/internal/spec"
)

// choice is a flag that takes one of a few words.
type choice struct {
	name  string
	value *string
	words []string
}

// String gives the value; with Type and Set it implements pflag.Value.
func (c choice) String() string {
	if c.value == nil {
		return ""
	}
	return *c.value
}

// Type is what help shows as the flag's value.
func (c choice) Type() string { return strings.Join(c.words, "|") }

// Set takes one of the words.
func (c choice) Set(s string) error {
	for _, w := range c.words {
		if s == w {
			*c.value = s
			return nil
		}
	}
	return spec.Errorf("write one of "+strings.Join(c.words, ", "), "option %s: %q is not one of its values", c.name, s)
}

// duration is a flag that takes a time of zero or more.
type duration struct {
	name  string
	value *time.Duration
}

func (d duration) String() string {
	if d.value == nil || *d.value == 0 {
		return ""
	}
	return d.value.String()
}

// Type is what help shows as the flag's value.
func (d duration) Type() string { return "DURATION" }

// Set takes what time.ParseDuration takes, but nothing negative.
func (d duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return spec.Errorf("durations are written like 500ms, 10s or 2m", "option %s: %q is not a duration", d.name, s)
	}
	*d.value = v
	return nil
}

// place is a flag that says where a control socket is.
type place struct{ where *string }

func (p place) String() string {
	if p.where == nil {
		return ""
	}
	return *p.where
}

// Type is what help shows as the flag's value.
func (p place) Type() string { return "NAME|PATH" }

// Set takes a name, a path or off.
func (p place) Set(s string) error {
	if err := control.CheckWhere(s); err != nil {
		return err
	}
	*p.where = s
	return nil
}
