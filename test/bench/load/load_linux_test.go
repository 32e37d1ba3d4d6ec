package load

import (
	"errors"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

func serveHere(t *testing.T) *Server {
	t.Helper()
	s, err := NewServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestClients_DoWhatTheShapeSays(t *testing.T) {
	s := serveHere(t)
	const long = 200 * time.Millisecond
	for name, c := range map[string]struct {
		shape Shape
		units float64 // 0: any number
	}{
		"requests":   {Shape{Conns: 3, Request: 64, Response: 64, Depth: 1, Units: 1, Rate: 500, Time: long, Mode: Stream}, 100},
		"pipelined":  {Shape{Conns: 3, Request: 1024, Response: 1024, Depth: 1, Units: 16, Rate: 500, Time: long, Mode: Stream}, 1600},
		"download":   {Shape{Conns: 2, Request: 64, Response: 256 << 10, Depth: 64, Units: 256 << 10, Rate: 100, Time: long, Mode: Stream}, 20 * 256 << 10},
		"upload":     {Shape{Conns: 2, Request: 256 << 10, Response: 64, Depth: 64, Units: 256 << 10, Rate: 100, Time: long, Mode: Stream}, 20 * 256 << 10},
		"saturated":  {Shape{Conns: 3, Request: 64, Response: 64, Depth: 1, Units: 1, Time: long / 4, Mode: Stream}, 0},
		"churn":      {Shape{Conns: 5, Request: 64, Response: 64, Units: 1, Rate: 500, Time: long, Mode: Churn}, 100},
		"churn fast": {Shape{Conns: 5, Request: 64, Response: 64, Units: 1, Time: long / 4, Mode: Churn}, 0},
		"plain":      {Shape{Conns: 2, Request: 64, Units: 1, Rate: 50, Time: long, Mode: Plain}, 320},
		"gso":        {Shape{Conns: 2, Request: 1200, Units: 1, Rate: 50, Time: long, Mode: GSO}, 320},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Open(s.Addr, c.shape, s)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for range 2 {
				r, err := l.Run()
				if err != nil {
					t.Fatal(err)
				}
				if c.units != 0 && r.Units != c.units || r.Units == 0 || r.Lost != 0 {
					t.Errorf("%+v, want %v units", r, c.units)
				}
				if r.P50 <= 0 || r.P99 < r.P50 || r.P999 < r.P99 || r.P999 > r.Wall+time.Second {
					t.Errorf("latencies %+v", r)
				}
			}
		})
	}
}

// What waits because the server was slow is counted from when it was due: a
// closed loop would see one slow answer, and an open loop sees many.
func TestStreams_CountWhatWaited(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const pause = 100 * time.Millisecond
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		frame := make([]byte, headerSize)
		_, _ = io.ReadFull(c, frame)
		for i := 0; ; i++ {
			if _, err := io.ReadFull(c, frame[:8]); err != nil {
				return
			}
			if i == 20 {
				<-time.After(pause)
			}
			_, _ = c.Write(frame[:8])
		}
	}()
	clients, err := Open(l.Addr().String(), Shape{Conns: 1, Request: 8, Response: 8, Depth: 1, Units: 1, Rate: 1000, Time: 140 * time.Millisecond, Mode: Stream}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := clients.Run()
	clients.Close()
	<-served
	if err != nil || r.P999 < pause*9/10 || r.P50 < pause/20 {
		t.Errorf("%+v, %v", r, err)
	}
}

// between is a proxy for the connections of a gate that handles the two
// directions as it is told.
func between(t *testing.T, server string, toServer, toClient func(dst, src *net.TCPConn)) string {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp4", server)
			if err != nil {
				return
			}
			back := make(chan struct{})
			go func() { defer close(back); toClient(c, s.(*net.TCPConn)) }()
			toServer(s.(*net.TCPConn), c)
			<-back
			c.Close()
			s.Close()
		}
	}()
	return l.Addr().String()
}

func whole(dst, src *net.TCPConn) {
	_, _ = io.Copy(dst, src)
	_ = dst.CloseWrite()
}

func TestGate(t *testing.T) {
	flip := func(dst, src *net.TCPConn) {
		b := make([]byte, 64<<10)
		for at := 0; ; {
			n, err := src.Read(b)
			if at <= 1<<20 && at+n > 1<<20 {
				b[1<<20-at] ^= 1
			}
			at += n
			_, _ = dst.Write(b[:n])
			if err != nil {
				_ = dst.CloseWrite()
				return
			}
		}
	}
	ends := func(dst, src *net.TCPConn) { // both directions at the first end
		_, _ = io.Copy(dst, src)
		dst.Close()
		src.Close()
	}
	short := func(dst, src *net.TCPConn) {
		_, _ = io.CopyN(dst, src, 1<<20)
		_ = dst.CloseWrite()
		_, _ = io.Copy(io.Discard, src)
	}
	resets := func(dst, src *net.TCPConn) {
		_, _ = io.CopyN(dst, src, sumSize+gateBytes)
		_ = dst.SetLinger(0)
		dst.Close()
	}
	for _, c := range []struct {
		name               string
		toServer, toClient func(dst, src *net.TCPConn)
		want               string // "" passes
	}{
		{"right", whole, whole, ""},
		{"no half-close", ends, whole, "answer after the client's half-close"},
		{"changed on the way there", flip, whole, "what the client sent arrived changed"},
		{"changed on the way back", whole, flip, "the answer arrived changed"},
		{"cut off", whole, short, "the answer arrived changed"},
		{"reset at the end", whole, resets, "is no FIN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serveHere(t)
			resets, err := s.Gate(between(t, s.Addr, c.toServer, c.toClient))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if c.want == "" && resets != "FIN/FIN" {
				t.Errorf("resets arrive as %s", resets)
			}
		})
	}
}

func TestGate_SeesResets(t *testing.T) {
	s := serveHere(t)
	if resets, err := s.Gate(s.Addr); err != nil || resets != "RST/RST" {
		t.Errorf("%q, %v", resets, err)
	}
}

// A connection that one proxy failed to end ends with it, and says nothing of
// the next.
func TestGate_HearsOfItsOwnConnection(t *testing.T) {
	s := serveHere(t)
	token, ended := s.await()
	c, err := gateDial(s.Addr, kindWait, token)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	if err := errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(gateTime); len(ended) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nobody says how it ended")
		}
		<-time.After(time.Millisecond)
	}
	if resets, err := s.Gate(s.Addr); err != nil || resets != "RST/RST" {
		t.Errorf("%q, %v", resets, err)
	}
	if how := <-ended; how != asEnd {
		t.Errorf("the first ended with %s", how)
	}
}

func TestSink_CountsJoinedDatagrams(t *testing.T) {
	control := segmentControl(1200) // for sending; received ones carry an int
	if got := segment(control, 5000); got != 5000 {
		t.Errorf("a message of another type was read: %d", got)
	}
	if got := segment(nil, 64); got != 64 {
		t.Errorf("size %d", got)
	}
}

// A proxy that is started after a run sleeps as one that is started before it.
func TestRun_LeavesTheTimersOfProcessesAlone(t *testing.T) {
	runtime.LockOSThread() // a process inherits from the thread that starts it
	defer runtime.UnlockOSThread()
	slack := func() string {
		out, err := exec.Command("cat", "/proc/self/timerslack_ns").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	s, before := serveHere(t), slack()
	for _, mode := range []Mode{Stream, Churn, Plain} {
		shape := Shape{Conns: 1, Request: 64, Response: 64, Depth: 1, Units: 1, Rate: 100, Time: 20 * time.Millisecond, Mode: mode}
		l, err := Open(s.Addr, shape, s)
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Run()
		l.Close()
		if after := slack(); err != nil || after != before {
			t.Errorf("%v: slack %q before and %q after, %v", mode, before, after, err)
		}
	}
}
