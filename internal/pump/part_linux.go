package pump

import (
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// part ends the flow in an orderly way: nothing is read any more, what was read
// has a second to be written.
func (r *relay) part() {
	until := time.Now().Add(lingerTime)
	if !r.parting.CompareAndSwap(nil, &until) {
		return
	}
	for _, s := range []*side{r.client, r.endpoint} {
		_ = s.conn.SetReadDeadline(aLongTimeAgo)
		_ = s.conn.SetWriteDeadline(until)
	}
}

// partFrom goes on where a direction was stopped: it delivers what is owed, says
// FIN, and reads on to the source's end.
func (r *relay) partFrom(c *copier, until time.Time) {
	_ = c.src.conn.SetDeadline(until)
	if r.f.hard.Load() != nil {
		r.interrupt() // it came before the new deadline
	}
	if !c.writing && c.deliverOwed() && !c.dst.shut.Load() {
		_ = c.dst.closeWrite() // fails when the other side is gone, which its own direction finds out
	}
	if !c.src.ended.Load() {
		_, err := io.Copy(io.Discard, onlyReader{c.src.conn})
		c.src.ended.Store(!isDeadline(err))
	}
}

// deliverOwed writes what src had sent by now; false when dst does not take it.
func (c *copier) deliverOwed() bool {
	owed := len(c.src.ahead)
	c.src.check(func(fd uintptr) bool {
		unread, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		owed += max(unread, 0)
		return err == nil
	})
	c.takeBuffer()
	defer c.putBuffer()
	for owed > 0 {
		got, err := c.src.read(c.buf[:min(owed, bufferSize)])
		if err != nil {
			break // all that there is; its reset or end is read again
		}
		n, err := c.dst.conn.Write(c.buf[:got])
		c.n.Add(uint64(n))
		if err != nil {
			return false
		}
		owed -= got
	}
	return true
}

// closeParted closes the sides that have finished in time, and resets the
// others.
func (r *relay) closeParted(until time.Time) {
	for _, s := range []*side{r.client, r.endpoint} {
		if s.ended.Load() && s.shut.Load() && r.f.hard.Load() == nil {
			s.drain(until)
			_ = s.conn.Close()
		} else {
			abort(s.conn)
		}
	}
}
