package testnet

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestCable(t *testing.T) {
	CheckLeaks(t)
	a, b := NewHost(t), NewHost(t)
	cable := Join(t, a, b)
	for _, ip := range []string{b.V4.String(), b.V6.String()} {
		var l net.Listener
		b.Do(t, func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(ip, "0")); return err })
		defer l.Close()
		dial := func() (c net.Conn, err error) {
			err = a.do(func() (err error) { c, err = net.DialTimeout("tcp", l.Addr().String(), time.Second); return err })
			return c, err
		}
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		cable.Cut(t)
		if _, err := dial(); !isTimeout(err) {
			t.Errorf("dial over a cut cable: %v", err)
		}
		c.Write([]byte("late"))
		server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := server.Read(make([]byte, 4)); !isTimeout(err) {
			t.Errorf("read over a cut cable: %d, %v", n, err)
		}
		cable.Restore(t)
		server.SetReadDeadline(time.Now().Add(Patience))
		if n, err := server.Read(make([]byte, 4)); n != 4 {
			t.Errorf("read over the mended cable: %d, %v", n, err)
		}
	}
}

func TestChild(t *testing.T) {
	parent := os.Getpid()
	t.Run("has its limits", func(t *testing.T) {
		Child{OwnNet: true, Files: 99}.Run(t, func() {
			var limit syscall.Rlimit
			if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur != 99 {
				t.Errorf("the limit is %d, %v", limit.Cur, err)
			}
			interfaces, err := net.Interfaces()
			if err != nil || len(interfaces) != 1 || interfaces[0].Flags&net.FlagUp == 0 {
				t.Errorf("the interfaces are %v, %v", interfaces, err)
			}
			Join(t, Self(t), NewHost(t))
		})
	})
	if os.Getpid() != parent {
		t.Error("Child.Run came back as another process")
	}
}
