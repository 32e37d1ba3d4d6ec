package spec

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OptionInfo says about one option what flags, variables and help need.
type OptionInfo struct {
	Name    string // of the flag after --, and in ;name=value
	Env     string // the variable LEGATE_...; "" where there is none
	Kind    string // what the value is, for help: DURATION, NUMBER, MODE ...
	Default string // as SetOption takes it
	Help    string // one line
	PerLink bool   // only in ;name=value: it has no flag and no variable
	Only    string // "stream" or "unix": other listeners have no use for it
}

// optionName is the one option that is not in Options: a link's name.
const optionName = "name"

// option ties the description of an option to its place in Options.
type option struct {
	OptionInfo
	set func(o *Options, value string) error
	get func(o Options) string
}

// optionTable is a function, because its functions have no other state than
// what they are given.
func optionTable() []option {
	return []option{
		{
			OptionInfo{Name: "connect-timeout", Kind: "DURATION", Only: "stream", Help: "how long one attempt to connect may take"},
			func(o *Options, v string) error {
				return setDuration(&o.ConnectTimeout, v, time.Millisecond, 5*time.Minute)
			},
			func(o Options) string { return shortDuration(o.ConnectTimeout) },
		},
		{
			OptionInfo{Name: "hold", Kind: "DURATION", Only: "stream", Help: "how long connections wait while no endpoint works; 0: not at all"},
			func(o *Options, v string) error { return setDuration(&o.Hold, v, 0, 24*time.Hour) },
			func(o Options) string { return shortDuration(o.Hold) },
		},
		{
			OptionInfo{Name: "when-down", Kind: "hold|refuse", Only: "stream", Help: "what new clients meet while no endpoint works: they wait, or are refused"},
			setWhenDown,
			func(o Options) string { return string(o.WhenDown) },
		},
		{
			OptionInfo{Name: "settle", Kind: "DURATION", Only: "stream", Help: "delay of the first client bytes, for targets that accept before their server is up"},
			func(o *Options, v string) error { return setDuration(&o.Settle, v, 0, time.Minute) },
			func(o Options) string { return shortDuration(o.Settle) },
		},
		{
			OptionInfo{Name: "max-connections", Kind: "NUMBER", Help: "connections of a link at once, others wait in the listen queue; 0: no limit"},
			setMaxConnections,
			func(o Options) string { return strconv.Itoa(o.MaxConnections) },
		},
		{
			OptionInfo{Name: "socket-mode", Kind: "MODE", Only: "unix", Help: "permission bits of a unix listening socket, octal"},
			setSocketMode,
			func(o Options) string { return "0" + strconv.FormatUint(uint64(o.SocketMode), 8) },
		},
		{
			OptionInfo{Name: "socket-group", Kind: "GROUP", Only: "unix", Help: "group of a unix listening socket, a name or a number"},
			setSocketGroup,
			func(o Options) string { return o.SocketGroup },
		},
	}
}

// OptionHelp lists every option in the order of the help text.
func OptionHelp() []OptionInfo {
	var list []OptionInfo
	for _, opt := range optionTable() {
		opt.Default = opt.get(DefaultOptions())
		opt.Env = "LEGATE_" + strings.ToUpper(strings.ReplaceAll(opt.Name, "-", "_"))
		list = append(list, opt.OptionInfo)
	}
	return append(list, OptionInfo{Name: optionName, Kind: "NAME", PerLink: true, Help: "what status and swap call the link; LISTEN by default"})
}

// SetOption sets one option from its text. The error is a *UserError that
// names the option and the value; o is then unchanged.
func SetOption(o *Options, key, value string) error {
	for _, opt := range optionTable() {
		if opt.Name != key {
			continue
		}
		if err := opt.set(o, value); err != nil {
			return InOption(key, err)
		}
		return nil
	}
	return unknownOption(key)
}

// OptionValue gives an option in the form that SetOption takes, "" for one
// that does not exist.
func OptionValue(o Options, key string) string {
	for _, opt := range optionTable() {
		if opt.Name == key {
			return opt.get(o)
		}
	}
	return ""
}

// InOption says which option the error is about, and keeps its hint.
func InOption(key string, err error) error { return about("option "+key, err) }

func unknownOption(key string) error {
	if key == optionName {
		return Errorf("write LINK;name=VALUE", "option name is only for one link")
	}
	var names []string
	for _, info := range OptionHelp() {
		names = append(names, info.Name)
	}
	hint := "the options are " + strings.Join(names, ", ")
	if near := Suggest(strings.ReplaceAll(strings.ToLower(key), "_", "-"), names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return Errorf(hint, "there is no option %q", key)
}

// linkOptions reads the part of a LINK behind its first semicolon.
func linkOptions(text string, base Options, on *listening) (name string, o Options, err error) {
	if text == "" {
		return "", base, nil
	}
	seen := map[string]bool{}
	for _, setting := range strings.Split(text, ";") {
		key, value, found := strings.Cut(setting, "=")
		if !found {
			return "", base, Errorf("options are ;option=value, for example ;hold=5s", "%q is not an option with a value", setting)
		}
		if seen[key] {
			return "", base, Errorf("write it once", "option %s is set twice", key)
		}
		seen[key] = true
		if key == optionName {
			name = value
			err = checkOptionName(value)
		} else if err = SetOption(&base, key, value); err == nil {
			err = checkUse(key, on)
		}
		if err != nil {
			return "", base, err
		}
	}
	return name, base, nil
}

// checkUse refuses an option that the listener can make no use of: it would
// look as if it had an effect.
func checkUse(key string, on *listening) error {
	for _, info := range OptionHelp() {
		if info.Name != key || info.Only == "" {
			continue
		}
		for _, p := range on.protocols {
			if p == Unix || info.Only == "stream" && p == TCP {
				return nil
			}
		}
		if info.Only == "unix" {
			return Errorf("remove it, or listen on unix:/PATH", "option %s is for unix sockets, and LISTEN %q is none", key, on.text)
		}
		return Errorf("remove it", "option %s has no effect on UDP", key)
	}
	return nil
}

// checkOptionName keeps names apart from addresses, so that a verb's LINK is
// never two things.
func checkOptionName(name string) error {
	good := name != "" && len(name) <= 100 && isLetter(rune(name[0]))
	if !good || strings.ContainsFunc(name, func(r rune) bool {
		return notInName(r) && r != '.' && r != '/'
	}) {
		return Errorf("names begin with a letter and have letters, digits and . _ - /", "option name: %q cannot be a name", name)
	}
	if _, err := parseListening(name); err == nil {
		return Errorf("choose another", "option name: %q is a LISTEN", name)
	}
	return nil
}

func isLetter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

func setDuration(d *time.Duration, value string, low, high time.Duration) error {
	v, err := ParseDuration(value, low, high)
	if err == nil {
		*d = v
	}
	return err
}

// ParseDuration reads a time from low to high, as every flag and option takes
// it. The error is a *UserError.
func ParseDuration(value string, low, high time.Duration) (time.Duration, error) {
	v, err := time.ParseDuration(value)
	if err != nil {
		hint := "durations are written like 500ms, 10s or 2m"
		if isDigits(value) {
			hint = "write the unit: " + value + "s"
		}
		return 0, Errorf(hint, "%q is not a duration", value)
	}
	if v < low || v > high {
		return 0, Errorf("write a duration from "+shortDuration(low)+" to "+shortDuration(high), "%s is out of range", value)
	}
	return v, nil
}

// CheckWord refuses a value that is not one of at least two words. The error
// is a *UserError.
func CheckWord(value string, words ...string) error {
	if slices.Contains(words, value) {
		return nil
	}
	last := len(words) - 1
	return Errorf("write "+strings.Join(words[:last], ", ")+" or "+words[last], "%q is not one of its values", value)
}

// ParseSwitch reads true or false, in the forms of strconv.ParseBool. The
// error is a *UserError.
func ParseSwitch(value string) (bool, error) {
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, CheckWord(value, "true", "false")
	}
	return on, nil
}

// shortDuration writes 2m0s as 2m and 0s as 0, as people write them.
func shortDuration(d time.Duration) string {
	s := d.String()
	if d%time.Minute == 0 {
		s = strings.TrimSuffix(s, "0s")
	}
	if d%time.Hour == 0 {
		s = strings.TrimSuffix(s, "0m")
	}
	if s == "" {
		return "0"
	}
	return s
}

func setWhenDown(o *Options, value string) error {
	err := CheckWord(value, string(WhenDownHold), string(WhenDownRefuse))
	if err == nil {
		o.WhenDown = WhenDown(value)
	}
	return err
}

func setMaxConnections(o *Options, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || !isDigits(value) || n > math.MaxInt32 {
		return Errorf("write a number, or 0 for no limit", "%q is not a number of connections", value)
	}
	o.MaxConnections = n
	return nil
}

func setSocketMode(o *Options, value string) error {
	mode, err := strconv.ParseUint(value, 8, 32)
	if err != nil || mode > 0o777 {
		return Errorf("write it as chmod takes it, for example 0660", "%q is not an octal mode from 0 to 0777", value)
	}
	o.SocketMode = uint32(mode)
	return nil
}

func setSocketGroup(o *Options, value string) error {
	if strings.ContainsFunc(value, notInName) || len(value) > 32 {
		return Errorf("write the group's name or number", "%q cannot be a group", value)
	}
	o.SocketGroup = value
	return nil
}
