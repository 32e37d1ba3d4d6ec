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

// optionPassword is the one option whose value is never shown.
const optionPassword = "check-password"

// option ties the description of an option to its place in Options.
type option struct {
	OptionInfo
	set func(o *Options, value string) error
	get func(o Options) string
	// of are the checks that have a use for the option; none: it belongs to
	// no check in particular.
	of []CheckKind
}

// optionTable is a function, because its functions have no other state than
// what they are given.
func optionTable() []option {
	return slices.Concat(downOptions(), orderOptions(), checkOptions(), contentOptions(), fateOptions(), limitOptions(), proxyOptions(), socketOptions())
}

func downOptions() []option {
	return []option{
		{
			OptionInfo{Name: "connect-timeout", Kind: "DURATION", Only: "stream", Help: "how long one attempt to connect may take"},
			func(o *Options, v string) error {
				return setDuration(&o.ConnectTimeout, v, time.Millisecond, 5*time.Minute)
			},
			func(o Options) string { return shortDuration(o.ConnectTimeout) }, nil,
		},
		{
			OptionInfo{Name: "hold", Kind: "DURATION", Only: "stream", Help: "how long connections wait while no endpoint works; 0: not at all"},
			func(o *Options, v string) error { return setDuration(&o.Hold, v, 0, 24*time.Hour) },
			func(o Options) string { return shortDuration(o.Hold) }, nil,
		},
		{
			OptionInfo{Name: "when-down", Kind: "hold|refuse", Only: "stream", Help: "what new clients meet while no endpoint works: they wait, or are refused"},
			func(o *Options, v string) error { return setWord(&o.WhenDown, v, WhenDownHold, WhenDownRefuse) },
			func(o Options) string { return string(o.WhenDown) }, nil,
		},
		{
			OptionInfo{Name: "settle", Kind: "DURATION", Only: "stream", Help: "delay of the first client bytes, for targets that accept before their server is up"},
			func(o *Options, v string) error { return setDuration(&o.Settle, v, 0, time.Minute) },
			func(o Options) string { return shortDuration(o.Settle) }, nil,
		},
	}
}

func limitOptions() []option {
	return []option{
		{
			OptionInfo{Name: "max-connections", Kind: "NUMBER", Help: "connections of a link at once, others wait in the listen queue; 0: no limit"},
			func(o *Options, v string) error { return setLimit(&o.MaxConnections, v) },
			func(o Options) string { return strconv.Itoa(o.MaxConnections) }, nil,
		},
		{
			OptionInfo{Name: "endpoint-connections", Kind: "NUMBER", Only: "stream", Help: "connections at one endpoint at once, of all links, others wait; 0: no limit"},
			func(o *Options, v string) error { return setLimit(&o.EndpointConnections, v) },
			func(o Options) string { return strconv.Itoa(o.EndpointConnections) }, nil,
		},
		{
			OptionInfo{Name: "caller-connections", Kind: "NUMBER", Only: "stream", Help: "connections of one caller at once, others are reset; 0: no limit"},
			func(o *Options, v string) error { return setLimit(&o.CallerConnections, v) },
			func(o Options) string { return strconv.Itoa(o.CallerConnections) }, nil,
		},
		{
			OptionInfo{Name: "caller-rate", Kind: "NUMBER", Only: "stream", Help: "new connections of one caller per second, others are reset; 0: no limit"},
			func(o *Options, v string) error { return setLimit(&o.CallerRate, v) },
			func(o Options) string { return strconv.Itoa(o.CallerRate) }, nil,
		},
	}
}

func socketOptions() []option {
	return []option{
		{
			OptionInfo{Name: "socket-mode", Kind: "MODE", Only: "unix", Help: "permission bits of a unix listening socket, octal"},
			setSocketMode,
			func(o Options) string { return "0" + strconv.FormatUint(uint64(o.SocketMode), 8) }, nil,
		},
		{
			OptionInfo{Name: "socket-group", Kind: "GROUP", Only: "unix", Help: "group of a unix listening socket, a name or a number"},
			setSocketGroup,
			func(o Options) string { return o.SocketGroup }, nil,
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
// that does not exist. A password that is set is "***", which SetOption does
// not take.
func OptionValue(o Options, key string) string {
	for _, opt := range optionTable() {
		if opt.Name == key {
			return opt.shown(o)
		}
	}
	return ""
}

// shown is the option as it may stand in messages and help.
func (opt option) shown(o Options) string {
	if opt.Name == optionPassword {
		return o.Check.Password.String()
	}
	return opt.get(o)
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

// linkOptions reads the part of a LINK behind its first semicolon. set are
// the options that it names.
func linkOptions(text string, base Options, on *listening) (name string, o Options, set map[string]bool, err error) {
	set = map[string]bool{}
	if text == "" {
		return "", base, set, nil
	}
	o = withoutForeignCheck(base, text)
	for _, setting := range strings.Split(text, ";") {
		key, value, found := strings.Cut(setting, "=")
		switch {
		case set[optionPassword] && !isOption(key):
			// It may be the rest of the password.
			err = Errorf("a password with a semicolon is for --check-password or for a file", "what follows option check-password is not an option with a value")
		case !found:
			err = Errorf("options are ;option=value, for example ;hold=5s", "%q is not an option with a value", setting)
		case set[key]:
			err = Errorf("write it once", "option %s is set twice", key)
		case key == optionName:
			name = value
			err = checkOptionName(value)
		default:
			if err = SetOption(&o, key, value); err == nil {
				err = checkUse(key, o, on)
			}
		}
		if err != nil {
			return "", base, nil, err
		}
		set[key] = true
	}
	return name, o, set, nil
}

func isOption(key string) bool {
	return slices.ContainsFunc(OptionHelp(), func(i OptionInfo) bool { return i.Name == key })
}

// checkUse refuses an option that the listener can make no use of: it would
// look as if it had an effect.
func checkUse(key string, o Options, on *listening) error {
	if key == optionAccept && on.path != "" && o.AcceptProxy != "" && o.AcceptProxy != everybody {
		return Errorf("write accept-proxy=*", "option %s: a client of a unix socket has no address", key)
	}
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

// setWord sets a value that is one of at least two words.
func setWord[W ~string](w *W, value string, words ...W) error {
	if slices.Contains(words, W(value)) {
		*w = W(value)
		return nil
	}
	list := make([]string, len(words))
	for i, word := range words {
		list[i] = string(word)
	}
	return CheckWord(value, list...)
}

// setLimit sets a number of connections, 0 for no limit.
func setLimit(limit *int, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || !isDigits(value) || n > math.MaxInt32 {
		return Errorf("write a number, or 0 for no limit", "%q is not a number of connections", value)
	}
	*limit = n
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
