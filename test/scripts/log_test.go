package scripts

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Go ends a program that writes to a broken pipe on stderr; an ambassador must
// outlive whoever reads its log.
func TestRun_OutlivesTheReaderOfItsLog(t *testing.T) {
	dir, err := os.MkdirTemp("", "legate")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if os.Geteuid() == 0 {
		if err := openUp(dir); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "s")
	legate := exec.Command("legate", "--control", "off", "--log-connections", "--hold", "0", fmt.Sprintf("unix:%s=127.0.0.1:%d", path, freePort()))
	legate.Env = demoEnv()
	log, err := legate.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := legate.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = legate.Process.Kill() })
	defer kill.Stop()
	if _, err := bufio.NewReader(log).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	log.Close()
	for range 3 { // each is a line in the log
		meet(t, path)
	}
	if err := legate.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := legate.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
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
