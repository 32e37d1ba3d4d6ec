package endpoints

import "legate/internal/spec"

// news is what somebody has to be told of a target.
type news uint8

const (
	newsSuspect news = 1 << iota
	newsChanged
	newsRoom
)

type told struct {
	spec.Target
	news news
}

// note has the teller tell of the target. That is not done by who found out:
// a thousand endpoints that fail at once are to make links look at their lists
// once, and a connection's loop is not to do it at all.
func (p *Pool) note(tg *target, n news) {
	if tg.news == 0 {
		p.news = append(p.news, tg)
	}
	tg.news |= n
	poke(p.said)
}

// tell tells until the pool is closed.
func (p *Pool) tell() {
	var batch []told
	for {
		select {
		case <-p.said:
		case <-p.ctx.Done():
			return
		}
		p.mu.Lock()
		batch = batch[:0]
		for i, tg := range p.news {
			batch = append(batch, told{tg.Target, tg.news})
			tg.news, p.news[i] = 0, nil
		}
		p.news = p.news[:0]
		p.mu.Unlock()
		for i := range batch {
			p.tellOf(&batch[i])
		}
	}
}

func (p *Pool) tellOf(t *told) {
	if t.news&newsSuspect != 0 {
		p.cfg.Suspect(t.Target)
	}
	if t.news&newsChanged != 0 {
		p.cfg.Changed(t.Target)
	}
	if t.news&newsRoom != 0 {
		p.cfg.Room(t.Target)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
