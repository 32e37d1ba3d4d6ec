package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

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
	if err := spec.CheckWord(s, c.words...); err != nil {
		return spec.InOption(c.name, err)
	}
	*c.value = s
	return nil
}

// duration is a flag that takes a time.
type duration struct {
	name  string
	value *time.Duration
	least time.Duration
}

func (d duration) String() string {
	if d.value == nil || *d.value == 0 {
		return ""
	}
	return d.value.String()
}

// Type is what help shows as the flag's value.
func (d duration) Type() string { return "DURATION" }

// Set takes a time up to a day, as the options of links do.
func (d duration) Set(s string) error {
	v, err := spec.ParseDuration(s, d.least, 24*time.Hour)
	if err != nil {
		return spec.InOption(d.name, err)
	}
	*d.value = v
	return nil
}

// toggle is a flag that is on or off.
type toggle struct {
	name  string
	value *bool
}

// addToggle adds a flag that is off unless it is given.
func addToggle(flags *pflag.FlagSet, t toggle, help string) {
	flags.Var(t, t.name, help)
	flags.Lookup(t.name).NoOptDefVal = "true"
}

func (t toggle) String() string { return strconv.FormatBool(t.value != nil && *t.value) }

// Type is the name by which pflag knows flags without a value in help.
func (t toggle) Type() string { return "bool" }

// Set takes true or false.
func (t toggle) Set(s string) error {
	on, err := spec.ParseSwitch(s)
	if err != nil {
		return spec.InOption(t.name, err)
	}
	*t.value = on
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
