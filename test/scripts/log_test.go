package scripts

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Go ends a program that writes to a broken pipe on stderr; an ambassador must
// outlive whoever reads its log.
func TestRun_OutlivesTheReaderOfItsLog(t *testing.T) {
	path := filepath.Join(openDir(t), "s")
	legate := command("--control", "off", "--log-connections", "--hold", "0", fmt.Sprintf("unix:%s=127.0.0.1:%d", path, freePort()))
	log, err := legate.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, legate)
	if _, err := bufio.NewReader(log).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	log.Close()
	for range 3 { // each is a line in the log
		meet(t, path)
	}
	stop(t, legate)
}

// Docker's log driver may block: nothing that is written under a lock, or on
// the way to the end, may then be waited for.
func TestRun_ServesWhileNobodyReadsItsLog(t *testing.T) {
	dir := openDir(t)
	path, socket := filepath.Join(dir, "s"), filepath.Join(dir, "legate.sock")
	legate := command("--control", socket, "--log-connections", "unix:"+path+"="+greeter(t))
	legate.Stderr = fullPipe(t)
	start(t, legate)
	for i := range 20 {
		greeted(t, path, i)
	}
	status := command("status", "--control", socket)
	start(t, status)
	if err := status.Wait(); err != nil {
		t.Errorf("status: %v", err)
	}
	stop(t, legate)
}

func TestRun_EndsThoughNobodyReadsWhyItFails(t *testing.T) {
	legate := command("--control", "off", "--state-dir", "/dev/null", "127.0.0.1:18000="+greeter(t))
	legate.Stderr = fullPipe(t)
	start(t, legate)
	if err := legate.Wait(); err == nil || legate.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit code 1", err)
	}
}

func TestRun_LogsToTheLastLine(t *testing.T) {
	path := filepath.Join(openDir(t), "s")
	legate := command("--control", "off", "--log-connections", "--drain", "0", "unix:"+path+"="+greeter(t))
	var log bytes.Buffer
	legate.Stderr = &log
	start(t, legate)
	const clients = 200
	for i := range clients {
		greeted(t, path, i)
	}
	live := greet(t, path)
	defer live.Close()
	stop(t, legate)
	for i := range clients {
		if n := strings.Count(log.String(), fmt.Sprintf(" in=%d out=6 ", i)); n < 1 || n > 1 && i > 0 {
			t.Errorf("client %d is in the log %d times", i, n)
		}
	}
	lines := strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, "connection ended") || !strings.Contains(last, "cause=cut") {
		t.Errorf("the last line is %q, want the end of the client that was cut", last)
	}
	// A client may be served, and gone, before it is said that the link is open.
	listening, ready, stopping := strings.Index(log.String(), "msg=listening"), strings.Index(log.String(), "msg=ready"), strings.Index(log.String(), "msg=stopping")
	if listening < 0 || ready < listening || stopping < ready {
		t.Errorf("out of order:\n%s", log.String())
	}
}

// command is a legate that ends when the tests' patience does.
func command(args ...string) *exec.Cmd {
	c := exec.Command("legate", args...)
	c.Env = demoEnv()
	return c
}

func start(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	t.Cleanup(func() {
		kill.Stop()
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
}

func stop(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// openDir is a directory for sockets, with a short path, in which the commands
// may write.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "legate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() == 0 {
		if err := openUp(dir); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fullPipe is the writing end of a pipe that nobody reads and that takes no
// more.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Write(func(fd uintptr) bool {
		for err = nil; err == nil; {
			_, err = syscall.Write(int(fd), make([]byte, 4096))
		}
		return true
	})
	if !errors.Is(err, syscall.EAGAIN) && err != nil {
		t.Fatal(err)
	}
	return w
}

// greeter says hello to everybody and waits for their end.
func greeter(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				defer c.Close()
				fmt.Fprintln(c, "hello")
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		clients.Wait()
	})
	return l.Addr().String()
}

// greet connects, again until somebody listens, and returns after the hello.
func greet(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			hello := make([]byte, 6)
			_ = c.SetReadDeadline(deadline) // the read fails then, too
			if _, err := io.ReadFull(c, hello); err != nil || string(hello) != "hello\n" {
				t.Fatalf("read %q: %v", hello, err)
			}
			return c
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// greeted is a client that sends n bytes after the hello, and ends.
func greeted(t *testing.T, path string, n int) {
	t.Helper()
	c := greet(t, path)
	defer c.Close()
	if _, err := c.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Fatalf("after the hello: %q %v", rest, err)
	}
}

// meet connects and waits for the end of the connection.
func meet(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		c, err := net.Dial("unix", path)
		if err == nil {
			_, _ = io.ReadAll(c) // it is refused, one way or the other
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
}
