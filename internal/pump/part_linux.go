package pump

import (
	"io"
	"sync"
	"sync/atomic"
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

// finishParting delivers what had reached us, says FIN to both sides and reads
// them to their ends; those that have not come to it by then are reset.
func (r *relay) finishParting(until time.Time) {
	var other sync.WaitGroup
	var ended [2]bool
	other.Go(func() { ended[endpoint] = r.partFrom(r.endpoint, &r.f.out, until) })
	ended[client] = r.partFrom(r.client, &r.f.in, until)
	other.Wait()
	for i, s := range []*side{r.client, r.endpoint} {
		if ended[i] && s.shut.Load() && r.f.hard.Load() == nil {
			s.drain(until)
			_ = s.conn.Close()
		} else {
			abort(s.conn)
		}
	}
}

// partFrom delivers what is owed of one side to the other, says FIN there, and
// reads on to the side's end; false when that does not come.
func (r *relay) partFrom(src *side, n *atomic.Uint64, until time.Time) bool {
	dst := r.other(src)
	_ = src.conn.SetDeadline(until)
	if r.f.hard.Load() != nil {
		r.interrupt() // it came before the new deadline
	}
	if r.deliverOwed(dst, src, n) && !dst.shut.Load() {
		_ = dst.closeWrite() // fails when the other side is gone, which its own direction finds out
	}
	_, err := io.Copy(io.Discard, onlyReader{src.conn})
	return !isDeadline(err)
}

// deliverOwed writes what src had sent by now; false when dst does not take it.
func (r *relay) deliverOwed(dst, src *side, n *atomic.Uint64) bool {
	if dst.lacks.Load() {
		return false
	}
	owed := len(src.ahead)
	src.check(func(fd uintptr) bool {
		unread, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		owed += max(unread, 0)
		return err == nil
	})
	c := &copier{buffers: &r.f.e.buffers}
	c.takeBuffer()
	defer c.putBuffer()
	for owed > 0 {
		got, err := src.read(c.buf[:min(owed, bufferSize)])
		if got > 0 {
			m, werr := dst.conn.Write(c.buf[:got])
			n.Add(uint64(m))
			if werr != nil {
				return false
			}
		}
		if err != nil {
			return true // all that there is; its reset or end is read again
		}
		owed -= got
	}
	return true
}
