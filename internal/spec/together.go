package spec

import (
	"slices"
	"strings"
)

// EffectiveCheck is how the endpoints of the link are asked for their health,
// the zero Check when they are not. on-unhealthy asks by itself: without a
// check nothing would turn unhealthy.
func (o Options) EffectiveCheck() Check {
	c := o.Check
	if !c.Active() {
		if o.OnUnhealthy.Kind == "" || o.OnUnhealthy.Kind == FateKeep {
			return Check{}
		}
		c.Kind = CheckTCP
	}
	c.SendProxy = o.SendProxy
	if c.SendProxy == "" {
		c.SendProxy = ProxyOff
	}
	return c
}

// withoutForeignCheck takes out of the defaults of a link what they say about
// a check of another kind than its own: a password for one server is not sent
// to another.
func withoutForeignCheck(base Options, settings string) Options {
	var own Options
	for _, setting := range strings.Split(settings, ";") {
		if value, ok := strings.CutPrefix(setting, "check="); ok {
			own.Check.Kind = CheckKind(value)
		}
	}
	if !own.Check.Active() || !base.Check.Active() || own.Check.Kind == base.Check.Kind {
		return base
	}
	for _, opt := range contentOptions() {
		base = opt.reset(base)
	}
	return base
}

func (opt option) reset(o Options) Options {
	if err := opt.set(&o, opt.get(DefaultOptions())); err != nil {
		panic("spec: option " + opt.Name + " does not take its default: " + err.Error())
	}
	return o
}

// idle tells an option that the link's check has no use for.
func (opt option) idle(o Options) bool {
	return len(opt.of) > 0 && !slices.Contains(opt.of, o.EffectiveCheck().Kind)
}

// fitCheck takes out what flags and variables say and the link's check has no
// use for: they hold for all links, and other links may well have one.
func fitCheck(o Options, own map[string]bool) Options {
	for _, opt := range optionTable() {
		if !own[opt.Name] && opt.idle(o) {
			o = opt.reset(o)
		}
	}
	return o
}

// fitListen does the same for options that the listener has no use for.
func fitListen(o Options, p Protocol) Options {
	for _, opt := range optionTable() {
		if p == UDP && opt.Only != "" || p == TCP && opt.Only == "unix" {
			o = opt.reset(o)
		}
	}
	// No address can be that of a unix client.
	if p == Unix && o.AcceptProxy != everybody {
		o.AcceptProxy = ""
	}
	return o
}

// checkUnused refuses defaults about a check that none of the links makes:
// they were given for one that was forgotten, and without it a standby gets
// connections that were meant for the primary alone.
func checkUnused(links []Link, o Options) error {
	set := changed(o)
	for _, opt := range optionTable() {
		if !set[opt.Name] || len(opt.of) == 0 || slices.ContainsFunc(links, func(l Link) bool { return !opt.idle(l.Options) }) {
			continue
		}
		if opt.anyCheck() {
			return InOption(opt.Name, Errorf("add --check=tcp, or another check", "no link has a check"))
		}
		return InOption(opt.Name, Errorf("add "+opt.checks("--check="), "no link has a check with a use for it"))
	}
	return nil
}

// WarnUnused names the first of the options of checks that none of the links
// has a use for, though it was given for all of them: in the environment what is
// wrong with one variable does not keep links from being opened. Without links
// there is nothing to say yet.
func WarnUnused(links []Link, o Options) []string {
	if err := checkUnused(links, o); err != nil && len(links) > 0 {
		return []string{explain(err)}
	}
	return nil
}

// anyCheck tells an option that every check has a use for.
func (opt option) anyCheck() bool { return len(opt.of) == len(checkKinds()) }

// checks lists what has a use for the option.
func (opt option) checks(prefix string) string {
	kinds := make([]string, len(opt.of))
	for i, k := range opt.of {
		kinds[i] = prefix + string(k)
	}
	return strings.Join(kinds, " or ")
}

// changed names the options that are not at their default.
func changed(o Options) map[string]bool {
	set := map[string]bool{}
	for _, opt := range optionTable() {
		set[opt.Name] = opt.get(o) != opt.get(DefaultOptions())
	}
	return set
}

// checkNeeded refuses options of a check that is not made: they would look as
// if they had an effect.
func checkNeeded(o Options, set map[string]bool) error {
	for _, opt := range optionTable() {
		if !set[opt.Name] || !opt.idle(o) {
			continue
		}
		if opt.anyCheck() {
			return InOption(opt.Name, Errorf("add check=tcp, or another check", "the link has no check"))
		}
		what := "the link has no check"
		if c := o.EffectiveCheck(); c.Active() {
			what = "a check of " + string(c.Kind) + " has no use for it"
		}
		return InOption(opt.Name, Errorf("remove it, or write "+opt.checks("check="), "%s", what))
	}
	return nil
}

// validateTogether holds the rules between options.
func validateTogether(o Options, p Protocol) error {
	if fitListen(o, p) != o {
		return Errorf("", "options %+v have no effect on %s", o, p)
	}
	c := o.Check
	switch {
	case c.Password != "" && c.PasswordFile != "":
		return Errorf("remove one of them", "option check-password-file: there is a check-password as well")
	case c.Kind == CheckExpect && c.Send == "" && c.Expect == "":
		return Errorf(`add check-send=PING\r\n, check-expect=PONG or both`, "option check: a check of expect needs something to send or to expect")
	case c.Kind == CheckRedis:
		return checkRole(c, RoleMaster, RoleReplica)
	case c.Kind == CheckPostgres:
		return checkPostgres(c)
	}
	return nil
}

func checkRole(c Check, roles ...string) error {
	if c.Role == "" || slices.Contains(roles, c.Role) {
		return nil
	}
	return InOption("check-role", Errorf("write "+strings.Join(roles, " or "), "a check of %s knows no role %q", c.Kind, c.Role))
}

func checkPostgres(c Check) error {
	if err := checkRole(c, RolePrimary, RoleStandby); err != nil || c.User != "" {
		return err
	}
	const hint = "add check-user=NAME, and how it logs in: check-password-file=/PATH"
	switch {
	case c.Role != "":
		return Errorf(hint, "option check-role: PostgreSQL tells its role only to a user")
	case c.Password != "" || c.PasswordFile != "":
		return Errorf(hint, "option check-password: it has no user to log in as")
	case c.Database != "":
		return Errorf(hint, "option check-database: it has no user to log in as")
	}
	return nil
}

// redact hides passwords in the text of a link: what follows check-password,
// up to the next option, and what looks as if it was meant for it.
func redact(text string) string {
	parts := strings.Split(text, ";")
	kept := []string{hideUsers(parts[0])}
	secret := false
	for _, part := range parts[1:] {
		key, value, found := strings.Cut(part, "=")
		if secret && !isOption(key) {
			continue
		}
		secret = found && value != "" && (key == optionPassword || !isOption(key) && likePassword(key))
		if secret {
			part = key + "=" + hidden
		}
		kept = append(kept, part)
	}
	return strings.Join(kept, ";")
}

// hideUsers hides what stands before the @ of an address: a password may be in
// it.
func hideUsers(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return text
	}
	end := strings.IndexAny(rest, "/,")
	if end < 0 {
		end = len(rest)
	}
	if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
		rest = hidden + rest[at:]
	}
	return scheme + "://" + hideUsers(rest)
}

// likePassword tells a misspelt check-password.
func likePassword(key string) bool {
	key = strings.ToLower(key)
	return strings.Contains(key, "pas") || strings.Contains(key, "secret") || Suggest(key, []string{optionPassword}) != ""
}
