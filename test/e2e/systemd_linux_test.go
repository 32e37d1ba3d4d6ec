package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/systemd/systemdtest"
	"legate/internal/testnet"
)

// service is an agent that systemd, played, runs outside of every container.
type service struct {
	host
	manager *systemdtest.Played
	program string
	agent   *exec.Cmd
	log     testnet.Transcript
}

func (h host) asService() *service {
	h.t.Helper()
	s := &service{host: h, manager: systemdtest.Play(h.t), program: filepath.Join(h.program(), "legate")}
	h.t.Cleanup(func() {
		s.end(syscall.SIGKILL)
		if h.t.Failed() {
			h.t.Logf("the agent said:\n%s", s.log.String())
		}
	})
	s.begin()
	return s
}

// program is a folder with legate in it.
func (h host) program() string {
	h.t.Helper()
	dir := h.t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, "legate/cmd/legate").CombinedOutput(); err != nil {
		h.t.Fatalf("build: %v\n%s", err, out)
	}
	return dir
}

func (s *service) begin() {
	s.t.Helper()
	before := s.manager.Said("READY=1")
	s.agent = s.Inside(s.program, "agent", "--control", "off", "--netns", s.Namespaces())
	s.agent.Stdout, s.agent.Stderr = &s.log, &s.log
	s.manager.Start(s.t, s.agent)
	testnet.Await(s.t, "READY=1", func() bool { return s.manager.Said("READY=1") > before })
}

// end returns when the agent has ended.
func (s *service) end(how syscall.Signal) {
	if s.agent.ProcessState == nil {
		_ = s.agent.Process.Signal(how)
		_ = s.agent.Wait()
	}
}

// pingers are the application in a container: a thousand connects a second to its own localhost, each with a question.
type pingers struct {
	refused, lost, answered atomic.Int64
	asking                  sync.WaitGroup
}

// ping asks until end is closed. It returns at once.
func (h host) ping(container string, end <-chan struct{}) *pingers {
	h.t.Helper()
	pid := h.run("docker inspect --format {{.State.Pid}} " + container)
	ns, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		h.t.Fatal(err)
	}
	p, entered := &pingers{}, make(chan error, 1)
	p.asking.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its foreign namespace
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		_ = ns.Close()
		entered <- err
		if err != nil {
			return
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.connect()
			case <-end:
				return
			}
		}
	})
	if err := <-entered; err != nil {
		h.t.Fatal(err)
	}
	return p
}

// await waits for so many more answers.
func (p *pingers) await(t *testing.T, n int64) {
	t.Helper()
	want := p.answered.Load() + n
	testnet.Await(t, "answers", func() bool { return p.answered.Load() >= want })
}

func (p *pingers) connect() {
	c, err := net.DialTimeout("tcp", "127.0.0.1:6379", testnet.Patience)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		p.refused.Add(1)
		return
	case err != nil:
		p.lost.Add(1)
		return
	}
	p.asking.Go(func() {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(testnet.Patience)) // what it bounds fails then, too
		answer := make([]byte, 7)
		_, err := c.Write([]byte("PING\r\n"))
		if err == nil {
			_, err = c.Read(answer)
		}
		if err != nil || string(answer) != "+PONG\r\n" {
			p.lost.Add(1)
			return
		}
		p.answered.Add(1)
	})
}

// An agent that systemd restarts, or that was killed, refuses no container a connect: its sockets in the containers'
// namespaces are kept meanwhile. They are not kept for containers that have ended.
func TestAgentUnderSystemd(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.run("docker network create backend")
		a.redisBorn("redis", "--network", "backend")
		s := a.asService()
		client := func(name string) {
			a.run("docker run -d --name " + name + " --network backend --label connect.6379=redis legate-e2e/tools sleep 600")
			eventually(t, 20*time.Second, func() (bool, string) {
				out, err := a.try("docker exec " + name + " redis-cli -h localhost ping")
				return err == nil && out == "PONG", out + errText(err)
			})
		}
		client("web")
		one := s.manager.Kept()
		if one == 0 {
			t.Fatalf("no socket is kept: %q", s.manager.All())
		}

		end := make(chan struct{})
		p := a.ping("web", end)
		more := func() { p.await(t, 500) }
		more()
		for range 3 {
			s.end(syscall.SIGTERM)
			s.begin()
			more()
		}
		if n := p.lost.Load(); n > 0 {
			t.Errorf("%d connections were lost to a restart", n)
		}
		s.end(syscall.SIGKILL)
		s.begin()
		more()
		close(end)
		p.asking.Wait()
		t.Logf("answered %d, refused %d, lost %d", p.answered.Load(), p.refused.Load(), p.lost.Load())
		if n := p.refused.Load(); n > 0 {
			t.Errorf("%d connects were refused", n)
		}

		client("other")
		kept := func(n int) func() (bool, string) {
			return func() (bool, string) {
				return s.manager.Kept() == n, fmt.Sprintf("%d sockets are kept, want %d", s.manager.Kept(), n)
			}
		}
		a.run("docker rm -f other")
		eventually(t, 5*time.Second, kept(one))
		s.end(syscall.SIGTERM)
		a.run("docker rm -f web")
		s.begin()
		eventually(t, 20*time.Second, kept(0))
		eventually(t, 5*time.Second, func() (bool, string) { // it says so once the manager was told
			out := s.log.String()
			return strings.Contains(out, "wanted no more"), "the agent does not say that it let sockets go:\n" + out
		})
	})
}
