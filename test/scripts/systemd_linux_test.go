package scripts

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"legate/internal/systemd/systemdtest"
	"legate/internal/testnet"
)

// served starts legate under a played systemd, and returns when it is ready.
func served(t *testing.T, manager *systemdtest.Played, env []string, args ...string) (*exec.Cmd, *testnet.Transcript) {
	t.Helper()
	before := manager.Said("READY=1")
	legate, log := command(append([]string{"run", "--control", "off"}, args...)...), &testnet.Transcript{}
	legate.Stderr = log
	manager.Start(t, legate, env...)
	kill := time.AfterFunc(patience, func() { _ = legate.Process.Kill() })
	t.Cleanup(func() {
		kill.Stop()
		if legate.ProcessState == nil {
			_ = legate.Process.Kill()
			_ = legate.Wait()
		}
		if t.Failed() {
			t.Logf("legate %s said:\n%s", strings.Join(args, " "), log)
		}
	})
	testnet.Await(t, "READY=1", func() bool { return manager.Said("READY=1") > before })
	return legate, log
}

// callers are a thousand clients a second that want to hear the hello.
type callers struct {
	refused, failed, greeted atomic.Int64
	end                      chan struct{}
	running                  sync.WaitGroup
}

func call(address string) *callers {
	c := &callers{end: make(chan struct{})}
	c.running.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.running.Go(func() { c.one(address) })
			case <-c.end:
				return
			}
		}
	})
	return c
}

func (c *callers) one(address string) {
	conn, err := net.DialTimeout("tcp", address, patience)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		c.refused.Add(1)
		return
	case err != nil:
		c.failed.Add(1)
		return
	}
	defer conn.Close()
	hello := make([]byte, 6)
	_ = conn.SetReadDeadline(time.Now().Add(patience)) // the read fails then, too
	if _, err := io.ReadFull(conn, hello); err != nil {
		c.failed.Add(1)
		return
	}
	c.greeted.Add(1)
}

// A restart refuses nobody: the manager keeps the listening sockets.
func TestSystemd_RestartsWithoutARefusedConnect(t *testing.T) {
	manager := systemdtest.Play(t)
	port, target := freePort(), greeter(t)
	link := fmt.Sprintf("127.0.0.1:%d=%s", port, target)
	legate, _ := served(t, manager, nil, link)
	c := call(fmt.Sprintf("127.0.0.1:%d", port))
	enough := func(more int64) {
		t.Helper()
		want := c.greeted.Load() + more
		testnet.Await(t, "clients that are greeted", func() bool { return c.greeted.Load() >= want })
	}
	enough(500)
	for range 3 {
		stop(t, legate)
		legate, _ = served(t, manager, nil, link)
		enough(500)
	}
	if n := c.failed.Load(); n > 0 {
		t.Errorf("%d clients lost their connection to a restart", n)
	}
	_ = legate.Process.Kill() // which resets those that it has accepted
	_ = legate.Wait()
	legate, _ = served(t, manager, nil, link)
	enough(500)
	close(c.end)
	c.running.Wait()
	t.Logf("greeted %d, failed %d, refused %d", c.greeted.Load(), c.failed.Load(), c.refused.Load())
	if n := c.refused.Load(); n > 0 {
		t.Errorf("%d connects were refused", n)
	}
	stop(t, legate)
	if manager.Said("STOPPING=1") != 4 {
		t.Errorf("it did not say that it stops: %q", manager.All())
	}
}

// A socket that no link wants any more is let go, wherever it came from, and
// one that stands in the way of another makes room.
func TestSystemd_KeepsWhatLinksWantAlone(t *testing.T) {
	manager := systemdtest.Play(t)
	gone, other, same := freePort(), freePort(), freePort()
	target := greeter(t)
	links := func(texts ...string) (all []string) {
		for _, text := range texts {
			all = append(all, text+"="+target)
		}
		return all
	}
	legate, _ := served(t, manager, nil, links(fmt.Sprintf("127.0.0.1:%d", gone), fmt.Sprintf("*:%d", other), fmt.Sprintf("127.0.0.1:%d/udp", same))...)
	if manager.Kept() != 3 {
		t.Fatalf("%d sockets are kept, want 3: %q", manager.Kept(), manager.All())
	}
	stop(t, legate)
	if !connects(fmt.Sprintf("127.0.0.1:%d", gone)) {
		t.Fatal("the socket was not kept")
	}
	legate, _ = served(t, manager, nil, links(fmt.Sprintf("127.0.0.1:%d", other), fmt.Sprintf("127.0.0.1:%d/udp", same))...)
	testnet.Await(t, "the end of sockets that no link wants", func() bool { return manager.Kept() == 2 })
	if connects(fmt.Sprintf("127.0.0.1:%d", gone)) {
		t.Error("somebody listens for the link that is gone")
	}
	if !connects(fmt.Sprintf("127.0.0.1:%d", other)) {
		t.Error("nobody listens for the link with another address")
	}
	stop(t, legate)
}

// Sockets of a socket unit are served like kept ones.
func TestSystemd_ServesASocketUnit(t *testing.T) {
	manager := systemdtest.Play(t)
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // as systemd's are
	l, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	manager.Keep(t, "web.socket", int(file.Fd()))
	file.Close()
	address := l.Addr().String()
	l.Close()
	legate, _ := served(t, manager, nil, address+"="+greeter(t))
	c := call(address)
	testnet.Await(t, "a client that is greeted", func() bool { return c.greeted.Load() > 0 })
	close(c.end)
	c.running.Wait()
	stop(t, legate)
}

func TestSystemd_PingsTheWatchdogWhileItAnswers(t *testing.T) {
	manager := systemdtest.Play(t)
	legate, _ := served(t, manager, []string{"WATCHDOG_USEC=100000"}, fmt.Sprintf("127.0.0.1:%d=%s", freePort(), greeter(t)))
	more := func() func() bool {
		n := manager.Said("WATCHDOG=1") + 3
		return func() bool { return manager.Said("WATCHDOG=1") >= n }
	}
	testnet.Await(t, "pings", more())
	testnet.FreezePID(legate.Process.Pid)
	before := manager.Said("WATCHDOG=1")
	<-time.After(300 * time.Millisecond)
	if n := manager.Said("WATCHDOG=1"); n > before+1 {
		t.Errorf("%d pings of a process that does nothing", n-before)
	}
	if err := legate.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testnet.Await(t, "pings again", more())
	stop(t, legate)
}

// What no manager writes is an error, not a guess.
func TestSystemd_RefusesVariablesThatNoManagerSets(t *testing.T) {
	for _, variable := range []string{"LISTEN_FDS=x", "WATCHDOG_USEC=-1", "NOTIFY_SOCKET=here"} {
		legate, log := command("run", "--control", "off", fmt.Sprintf("127.0.0.1:%d=%s", freePort(), greeter(t))), &testnet.Transcript{}
		legate.Env = append(legate.Env, variable)
		legate.Stderr = log
		start(t, legate)
		name, _, _ := strings.Cut(variable, "=")
		if err := legate.Wait(); err == nil || !strings.Contains(log.String(), name) {
			t.Errorf("%s: it ended with %v and said %q", variable, err, log.String())
		}
	}
}
