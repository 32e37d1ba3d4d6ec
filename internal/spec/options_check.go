package spec

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// roleAny is how the option writes that the role does not matter.
const roleAny = "any"

// The roles of servers.
const (
	RoleMaster  = "master"  // redis
	RoleReplica = "replica" // redis
	RolePrimary = "primary" // postgres
	RoleStandby = "standby" // postgres
)

// contentOptions say what a check with meaning sends and wants to hear.
func contentOptions() []option {
	login, http, expect := []CheckKind{CheckRedis, CheckPostgres}, []CheckKind{CheckHTTP}, []CheckKind{CheckExpect}
	return []option{
		{
			OptionInfo{Name: "check-role", Kind: "ROLE", Only: "stream", Help: "redis: master or replica; postgres: primary or standby"},
			setRole,
			func(o Options) string { return orElse(o.Check.Role, roleAny) }, login,
		},
		{
			OptionInfo{Name: "check-user", Kind: "NAME", Only: "stream", Help: "user that a check of redis or postgres logs in as"},
			func(o *Options, v string) error { return setPlain(&o.Check.User, v) },
			func(o Options) string { return o.Check.User }, login,
		},
		{
			OptionInfo{Name: optionPassword, Kind: "PASSWORD", Only: "stream", Help: "password of that user; better in a file or in the variable"},
			setPassword,
			func(o Options) string { return string(o.Check.Password) }, login,
		},
		{
			OptionInfo{Name: "check-password-file", Kind: "PATH", Only: "stream", Help: "file with that password, read at each check"},
			setPasswordFile,
			func(o Options) string { return o.Check.PasswordFile }, login,
		},
		{
			OptionInfo{Name: "check-database", Kind: "NAME", Only: "stream", Help: "database that a check of postgres logs in to (default the user's name)"},
			func(o *Options, v string) error { return setPlain(&o.Check.Database, v) },
			func(o Options) string { return o.Check.Database }, []CheckKind{CheckPostgres},
		},
		{
			OptionInfo{Name: "check-host", Kind: "NAME", Only: "stream", Help: "header Host of a check of http (default the endpoint's address)"},
			setCheckHost,
			func(o Options) string { return o.Check.Host }, http,
		},
		{
			OptionInfo{Name: "check-path", Kind: "PATH", Only: "stream", Help: "what a check of http asks for"},
			setCheckPath,
			func(o Options) string { return o.Check.Path }, http,
		},
		{
			OptionInfo{Name: "check-status", Kind: "STATUS", Only: "stream", Help: "what it must answer, a number or a range"},
			setCheckStatus,
			func(o Options) string { return o.Check.Status }, http,
		},
		{
			OptionInfo{Name: "check-send", Kind: "TEXT", Only: "stream", Help: `what a check of expect sends, with escapes such as \r\n`},
			func(o *Options, v string) error { return setEscaped(&o.Check.Send, v) },
			func(o Options) string { return o.Check.Send }, expect,
		},
		{
			OptionInfo{Name: "check-expect", Kind: "TEXT", Only: "stream", Help: "what the answer must contain, with the same escapes"},
			func(o *Options, v string) error { return setEscaped(&o.Check.Expect, v) },
			func(o Options) string { return o.Check.Expect }, expect,
		},
	}
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func setRole(o *Options, value string) error {
	role := roleAny
	err := setWord(&role, value, RoleMaster, RoleReplica, RolePrimary, RoleStandby, roleAny)
	if err != nil {
		return err
	}
	if o.Check.Role = role; role == roleAny {
		o.Check.Role = ""
	}
	return nil
}

// plainLimit is how long a name in a check may be; PostgreSQL's have 63 bytes.
const plainLimit = 255

// setPlain sets a text that stands in a link as it is. White space and
// semicolons would end it there.
func setPlain(field *string, value string) error {
	bad := func(r rune) bool { return r == ';' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if strings.ContainsFunc(value, bad) || !utf8.ValidString(value) || len(value) > plainLimit {
		return Errorf("write it without spaces and semicolons", "%q cannot be its value", value)
	}
	*field = value
	return nil
}

// setPassword never says what it was given. It takes anything else than ***,
// so that flags and variables have no error to show it in.
func setPassword(o *Options, value string) error {
	if value == hidden {
		return Errorf("write the password itself, or use check-password-file", "%s stands for a password that is not shown", hidden)
	}
	o.Check.Password = Secret(value)
	return nil
}

// setPasswordFile wants the whole path, since a daemon's working directory
// is nobody's choice.
func setPasswordFile(o *Options, value string) error {
	if value != "" && (!strings.HasPrefix(value, "/") || strings.HasSuffix(value, "/")) {
		return Errorf("write the whole path, for example /run/secrets/password", "%q is not the path of a file", value)
	}
	return setPlain(&o.Check.PasswordFile, value)
}

func setCheckHost(o *Options, value string) error {
	allowed := func(r rune) bool { return notInName(r) && !strings.ContainsRune(".:[]", r) }
	if strings.ContainsFunc(value, allowed) || len(value) > plainLimit {
		return Errorf("write NAME or NAME:PORT", "%q cannot be the header Host", value)
	}
	o.Check.Host = value
	return nil
}

func setCheckPath(o *Options, value string) error {
	beyond := func(r rune) bool { return r <= ' ' || r > '~' }
	if !strings.HasPrefix(value, "/") || strings.ContainsFunc(value, beyond) {
		return Errorf("write it as it stands in a URL, for example /health", "%q is not a path to ask for", value)
	}
	return setPlain(&o.Check.Path, value)
}

func setCheckStatus(o *Options, value string) error {
	if _, _, err := parseStatus(value); err != nil {
		return err
	}
	o.Check.Status = value
	return nil
}

// StatusRange is the range of good HTTP statuses, both ends included; zero
// when Status is not valid.
func (c Check) StatusRange() (low, high int) {
	low, high, _ = parseStatus(c.Status)
	return low, high
}

func parseStatus(text string) (low, high int, err error) {
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	for _, s := range []string{first, last} {
		if len(s) != 3 || !isDigits(s) || s < "100" || s > "599" {
			return 0, 0, Errorf("write a status like 200, or a range like 200-399", "%q is not an HTTP status", text)
		}
	}
	if last < first {
		return 0, 0, Errorf("write "+last+"-"+first, "range %q runs backwards", text)
	}
	low, _ = strconv.Atoi(first)
	high, _ = strconv.Atoi(last)
	return low, high, nil
}

// escapedLimit is how long check-send and check-expect may be.
const escapedLimit = 1024

// setEscaped keeps the text in its one canonical form, so that equal checks
// are equal, and it can stand in a link.
func setEscaped(field *string, value string) error {
	bytes, err := Unescape(value)
	if err != nil {
		return Errorf(`write \r, \n, \t, \\ or a byte like \x00`, "%q has an escape that is none", value)
	}
	if len(bytes) > escapedLimit {
		return Errorf("write less", "it has %d bytes, and a check takes %d", len(bytes), escapedLimit)
	}
	quoted := strconv.QuoteToASCII(string(bytes))
	*field = strings.NewReplacer(`\\`, `\\`, `\"`, `"`, " ", `\x20`, ";", `\x3b`).Replace(quoted[1 : len(quoted)-1])
	return nil
}

// Unescape gives the bytes of a text with Go's escapes, as Check.Send and
// Check.Expect have them.
func Unescape(text string) ([]byte, error) {
	var bytes []byte
	for text != "" {
		r, multibyte, rest, err := strconv.UnquoteChar(text, 0)
		switch {
		case err != nil:
			return nil, err
		case multibyte && (r != utf8.RuneError || text[0] == '\\'):
			bytes = utf8.AppendRune(bytes, r)
		case text[0] != '\\': // not UTF-8, or plain
			bytes = append(bytes, text[:len(text)-len(rest)]...)
		default:
			bytes = append(bytes, byte(r))
		}
		text = rest
	}
	return bytes, nil
}
