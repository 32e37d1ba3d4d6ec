package spec

import (
	"strconv"
	"strings"
	"time"
)

func orderOptions() []option {
	return []option{
		{
			OptionInfo{Name: "balance", Kind: "ORDER", Help: "[near:]round-robin, least-connections, random, first or hash (by caller)"},
			setBalance,
			formatBalance, nil,
		},
		{
			OptionInfo{Name: "slow-start", Kind: "DURATION", Help: "how long a new or recovered endpoint takes to get its full share; 0: none"},
			func(o *Options, v string) error { return setDuration(&o.SlowStart, v, 0, time.Hour) },
			func(o Options) string { return shortDuration(o.SlowStart) }, nil,
		},
	}
}

// nearPrefix stands before an order; alone it is the default order.
const nearPrefix = "near"

func setBalance(o *Options, value string) error {
	order, near := value, false
	if rest, ok := strings.CutPrefix(value, nearPrefix); ok && rest == "" {
		order, near = string(BalanceRoundRobin), true
	} else if ok && rest[0] == ':' {
		order, near = rest[1:], true
	}
	err := setWord(&o.Balance, order, BalanceRoundRobin, BalanceLeast, BalanceRandom, BalanceFirst, BalanceHash)
	if err == nil {
		o.Near = near
	}
	return err
}

func formatBalance(o Options) string {
	if o.Near {
		return nearPrefix + ":" + string(o.Balance)
	}
	return string(o.Balance)
}

// checkKinds are all that make a check, in the order of their documentation.
func checkKinds() []CheckKind {
	return []CheckKind{CheckTCP, CheckHTTP, CheckRedis, CheckPostgres, CheckMySQL, CheckAMQP, CheckExpect}
}

// checkOptions say how and how often endpoints are asked.
func checkOptions() []option {
	any := checkKinds()
	return []option{
		{
			OptionInfo{Name: "check", Kind: "KIND", Only: "stream", Help: "ask endpoints for their health: off, tcp, http, redis, postgres, mysql, amqp or expect"},
			func(o *Options, v string) error {
				return setWord(&o.Check.Kind, v, append([]CheckKind{CheckNone}, any...)...)
			},
			func(o Options) string { return string(o.Check.Kind) }, nil,
		},
		{
			OptionInfo{Name: "check-interval", Kind: "DURATION", Only: "stream", Help: "time between two checks of an endpoint, varied a little"},
			func(o *Options, v string) error {
				return setDuration(&o.Check.Interval, v, 100*time.Millisecond, time.Hour)
			},
			func(o Options) string { return shortDuration(o.Check.Interval) }, any,
		},
		{
			OptionInfo{Name: "check-timeout", Kind: "DURATION", Only: "stream", Help: "how long one check may take"},
			func(o *Options, v string) error {
				return setDuration(&o.Check.Timeout, v, 10*time.Millisecond, 5*time.Minute)
			},
			func(o Options) string { return shortDuration(o.Check.Timeout) }, any,
		},
		{
			OptionInfo{Name: "check-rise", Kind: "NUMBER", Only: "stream", Help: "so many good checks in a row make an endpoint healthy"},
			func(o *Options, v string) error { return setTimes(&o.Check.Rise, v) },
			func(o Options) string { return strconv.Itoa(o.Check.Rise) }, any,
		},
		{
			OptionInfo{Name: "check-fall", Kind: "NUMBER", Only: "stream", Help: "so many failed checks in a row make an endpoint unhealthy"},
			func(o *Options, v string) error { return setTimes(&o.Check.Fall, v) },
			func(o Options) string { return strconv.Itoa(o.Check.Fall) }, any,
		},
	}
}

// fateOptions say what health does to connections.
func fateOptions() []option {
	return []option{
		{
			OptionInfo{Name: "all-unhealthy", Kind: "auto|try|hold", Only: "stream", Help: "with no healthy endpoint, try them all the same or hold; auto: try when the check is tcp"},
			func(o *Options, v string) error {
				return setWord(&o.AllUnhealthy, v, AllUnhealthyAuto, AllUnhealthyTry, AllUnhealthyHold)
			},
			func(o Options) string { return string(o.AllUnhealthy) }, nil,
		},
		{
			OptionInfo{Name: "on-removed", Kind: "FATE", Only: "stream", Help: "of connections whose endpoint left its source: keep, drain[:30s] or cut"},
			func(o *Options, v string) error { return setFate(&o.OnRemoved, v) },
			func(o Options) string { return o.OnRemoved.String() }, nil,
		},
		{
			OptionInfo{Name: "on-unhealthy", Kind: "FATE", Only: "stream", Help: "of connections whose endpoint turned unhealthy: keep, drain[:30s] or cut"},
			func(o *Options, v string) error { return setFate(&o.OnUnhealthy, v) },
			func(o Options) string { return o.OnUnhealthy.String() }, nil,
		},
		{
			OptionInfo{Name: "rebalance", Kind: "DURATION", Only: "stream", Help: "connections older than this end after an endpoint was added; 0: none do"},
			setRebalance,
			func(o Options) string { return shortDuration(o.Rebalance) }, nil,
		},
	}
}

// defaultDrain is how long connections may take to end when no time is given.
const defaultDrain = 30 * time.Second

func setFate(f *Fate, value string) error {
	word, within, timed := strings.Cut(value, ":")
	if FateKind(word) != FateDrain || !timed {
		kind := FateKeep
		if err := setWord(&kind, value, FateKeep, FateDrain, FateCut); err != nil {
			return Errorf("write keep, drain, drain:10s or cut", "%q is not one of its values", value)
		}
		*f = Fate{Kind: kind}
		if kind == FateDrain {
			f.Within = defaultDrain
		}
		return nil
	}
	d, err := ParseDuration(within, 100*time.Millisecond, 24*time.Hour)
	if err == nil {
		*f = Fate{Kind: FateDrain, Within: d}
	}
	return err
}

// String gives the fate as the options take it.
func (f Fate) String() string {
	switch f.Kind {
	case "":
		return string(FateKeep)
	case FateDrain:
		return string(FateDrain) + ":" + shortDuration(f.Within)
	}
	return string(f.Kind)
}

func setRebalance(o *Options, value string) error {
	if d, err := ParseDuration(value, 0, 24*time.Hour); err == nil && d == 0 {
		o.Rebalance = 0
		return nil
	}
	return setDuration(&o.Rebalance, value, time.Second, 24*time.Hour)
}

// setTimes sets a number of checks.
func setTimes(n *int, value string) error {
	v, err := strconv.Atoi(value)
	if err != nil || !isDigits(value) || v < 1 || v > 100 {
		return Errorf("write a number from 1 to 100", "%q is not a number of checks", value)
	}
	*n = v
	return nil
}
