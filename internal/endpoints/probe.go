package endpoints

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"legate/internal/spec"
)

const (
	// probeHeld is how long Lasts holds a connection open to notice a server
	// that closes at once, as one behind a published port does that is not up.
	probeHeld = 250 * time.Millisecond
	// maxProbing endpoints are asked at once by one Probe.
	maxProbing = 64
	// provenFor is how long what Probe found out is kept for a link that is
	// about to want it.
	provenFor = 10 * time.Second
)

// Probe asks every endpoint of the view now whether it serves: with the view's
// check, or by a connection that it must not close at once. It returns nil as
// soon as one does, else an error that says of each why not. UDP endpoints are
// taken at their source's word. No link has to have the targets.
func (p *Pool) Probe(ctx context.Context, v View) error {
	es, err := p.probed(&v)
	if err != nil || len(es) == 0 || es[0].Protocol == spec.UDP {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	why := make([]error, len(es))
	good := make(chan struct{})
	var once sync.Once
	var asking sync.WaitGroup
	free := make(chan struct{}, maxProbing)
	for i, e := range es {
		asking.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			if why[i] = p.probeOne(ctx, e, &v); why[i] == nil {
				once.Do(func() { close(good); cancel() })
			}
		})
	}
	asking.Wait()
	select {
	case <-good:
		return nil
	default:
	}
	return notServing(es, why)
}

// probed returns the endpoints of the view that may be tried.
func (p *Pool) probed(v *View) ([]spec.Endpoint, error) {
	l := p.List(v, nil)
	var es []spec.Endpoint
	for i := range l.All {
		if h := l.All[i].Health; h != spec.HealthDrained && h != spec.HealthDenied {
			es = append(es, l.All[i].Endpoint)
		}
	}
	switch {
	case len(es) > 0:
		return es, nil
	case len(l.All) > 0:
		return nil, barred(l.All)
	}
	for _, t := range v.Targets {
		if a := p.Answer(t); a.Err != nil {
			return nil, fmt.Errorf("%s has no endpoint: %w", t, a.Err)
		}
	}
	return nil, errors.New("the target has no endpoint")
}

// Denied says why the view's callers may go to none of its endpoints, and in its
// hint what is to be done; nil where there is none, or one that they may go to.
func (p *Pool) Denied(v View) error {
	all := p.List(&v, nil).All
	if len(all) == 0 || slices.ContainsFunc(all, func(c Candidate) bool { return !c.IsDenied() }) {
		return nil
	}
	return barred(all)
}

// barred says why none of these may be tried. What is to be done about one that
// is denied, its error tells.
func barred(all []Candidate) error {
	hint := ""
	why := make([]string, len(all))
	for i := range all {
		c := &all[i]
		if c.Health != spec.HealthDenied {
			why[i] = fmt.Sprintf("%s is drained", c.Endpoint)
			continue
		}
		why[i] = fmt.Sprintf("%s: %v", c.Endpoint, c.LastErr)
		hint = cmp.Or(hint, spec.HintOf(c.LastErr))
	}
	return spec.Errorf(hint, "%s", strings.Join(why, "; "))
}

func notServing(es []spec.Endpoint, why []error) error {
	text := make([]string, len(es))
	for i, e := range es {
		text[i] = fmt.Sprintf("%s: %v", e, why[i])
	}
	return errors.New(strings.Join(text, "; "))
}

// probeOne asks one endpoint, and has the pool know the outcome.
func (p *Pool) probeOne(ctx context.Context, e spec.Endpoint, v *View) error {
	if p.cfg.Check != nil && v.Check.Active() {
		limit, cancel := context.WithTimeout(ctx, v.Check.Timeout)
		defer cancel()
		err := p.cfg.Check(limit, e, v.Check)
		if !CutShort(ctx) {
			p.prove(e, v.Check, err)
		}
		return err
	}
	err := p.reach(ctx, e)
	if !CutShort(ctx) && !errors.Is(err, errClosedEarly) {
		p.Report(e, err)
	}
	return err
}

// CutShort tells whether ctx is over, and what came of a question under it may
// be ours: the deadline of a socket is met a moment before ctx says so.
func CutShort(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && !time.Now().Before(deadline)
}

var errClosedEarly = errors.New("accepts connections and closes them at once")

// reach connects, and sees whether the connection lasts.
func (p *Pool) reach(ctx context.Context, e spec.Endpoint) error {
	if p.cfg.Connect == nil {
		return p.cfg.Dial(ctx, e, probeTimeout)
	}
	limit, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := p.cfg.Connect(limit, e)
	if err != nil {
		return err
	}
	defer c.Close()
	return Lasts(ctx, c)
}

// Lasts tells whether a connection that was just made is closed at once. It
// waits a moment for that, or until ctx ends.
func Lasts(ctx context.Context, c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(probeHeld)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errClosedEarly, err)
	}
	return nil
}

// prove keeps what a check found out.
func (p *Pool) prove(id spec.Endpoint, c spec.Check, err error) {
	p.with(id, func(e *Live) {
		check := p.intern(c)
		a := e.askedWith(check)
		if a == nil {
			a = newAsked(e, check)
			e.asked = append(e.asked, a)
		} else if !e.wants(check) {
			a.verdict, a.row, a.at = unasked, 0, 0 // what was so at another Probe is long over
		}
		check.proven = p.now() + provenFor
		p.judge(a, err)
	})
}
