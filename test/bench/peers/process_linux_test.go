package peers

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"legate/internal/testnet"
	"legate/test/bench/load"
)

func TestProcess_StopEndsIt(t *testing.T) {
	for name, script := range map[string]string{"willing": "echo up; read x", "deaf": "trap '' TERM; echo up; read x"} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", script)
			if _, err := cmd.StdinPipe(); err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			p, err := Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			_, err = bufio.NewReader(stdout).ReadString('\n')
			p.Stop()
			if err != nil || p.cmd.ProcessState == nil {
				t.Errorf("it is %v, after %v", p.cmd.ProcessState, err)
			}
		})
	}
}

// socat's children go on when it ends.
func TestProcess_StopEndsItsChildren(t *testing.T) {
	cmd := exec.Command("sh", "-c", `sh -c 'trap "" TERM; echo $$; while :; do read x </dev/zero; done' & wait`)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	p.Stop()
	if err != nil {
		t.Fatal(err)
	}
	child := "/proc/" + strings.TrimSpace(line) + "/stat"
	for deadline := time.Now().Add(5 * time.Second); ; {
		text, err := os.ReadFile(child)
		if err != nil || strings.Contains(string(text), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the child lives: %s", text)
		}
		<-time.After(time.Millisecond)
	}
}

func TestProcess_AwaitSaysWhyItEnded(t *testing.T) {
	p, err := Start(exec.Command("sh", "-c", "echo no such option >&2; exit 2"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	addr, err := FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Await(t.Context(), addr, false); err == nil || err.Error() != p.cmd.Path+" ended: no such option" {
		t.Errorf("error %v", err)
	}
}

func TestBound(t *testing.T) {
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.LocalAddr().String()
	if !bound(addr) {
		t.Error("a bound port is not seen")
	}
	l.Close()
	if bound(addr) {
		t.Error("a free port is seen as bound")
	}
}

// The Go peer does what the gate asks of the others.
func TestRelay_PassesTheGate(t *testing.T) {
	s, err := load.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Relay(l, s.Addr) }()
	if resets, err := s.Gate(l.Addr().String()); err != nil || resets != "FIN/FIN" {
		t.Errorf("%q, %v", resets, err)
	}
	l.Close()
	if err := <-done; err == nil {
		t.Error("it ends without the reason")
	}
}

// A configuration is for one start only: two nginx must not share a pid file.
func TestConfigs_AreFilledIn(t *testing.T) {
	dir := t.TempDir()
	files := map[string]bool{}
	for _, p := range List(Config{}) {
		if p.Config == "" {
			continue
		}
		if _, err := p.Path(); err != nil {
			testnet.Skip(t, p.Name+": "+err.Error())
		}
		for range 2 {
			cmd, err := p.Command(Ask{Listen: "127.0.0.1:1234", Server: "127.0.0.1:5678", Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			file := cmd.Args[len(cmd.Args)-1]
			if p.Name == Nginx || p.Name == TunedNginx {
				file = cmd.Args[2]
			}
			text, err := os.ReadFile(file)
			if err != nil || files[file] {
				t.Errorf("%s: %v, used before: %v", file, err, files[file])
			}
			files[file] = true
			if !strings.Contains(string(text), "127.0.0.1:1234") || strings.Contains(string(text), "LISTEN") || strings.Contains(string(text), "SERVER") {
				t.Errorf("%s", text)
			}
		}
	}
	if len(files) != 8 {
		t.Errorf("%d files", len(files))
	}
}

func TestPeer_NotInstalled(t *testing.T) {
	if _, err := find("no-such-proxy")(); err == nil || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("error %v", err)
	}
	gone := legate(Legate, filepath.Join(t.TempDir(), "legate"))
	if _, err := gone.Command(Ask{}); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("error %v", err)
	}
}

// The processes of a test end with it.
func TestStart_KillsWithUs(t *testing.T) {
	p, err := Start(exec.Command("true"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if p.cmd.SysProcAttr.Pdeathsig != syscall.SIGKILL {
		t.Error("it would outlive a benchmark that was killed")
	}
}
