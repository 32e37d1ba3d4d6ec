package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestDoctor_SaysWhoHasAnAddress(t *testing.T) {
	for _, c := range []struct{ network, at, ask string }{
		{"tcp", "127.0.0.1:0", "127.0.0.1:%d"},
		{"tcp", "127.0.0.1:0", "%d"},
		{"tcp", "127.0.0.1:0", "localhost:%d"},
		{"tcp", "0.0.0.0:0", "127.0.0.1:%d"},
		{"tcp6", "[::1]:0", "[::1]:%d"},
	} {
		if strings.Contains(c.at, "::") {
			testnet.NeedIPv6(t)
		}
		l, err := net.Listen(c.network, c.at)
		if err != nil {
			t.Fatal(err)
		}
		link := doctorLinks(t, fmt.Sprintf(c.ask, l.Addr().(*net.TCPAddr).Port)+"=10.0.0.1:80")[0]
		f := lookListening(link, nil)
		if !errors.Is(f.err, syscall.EADDRINUSE) || f.has.pid != os.Getpid() {
			t.Errorf("%s listens, %s is asked: %+v, want process %d", l.Addr(), link.Listen, f, os.Getpid())
		}
		l.Close()
		if f := lookListening(link, nil); f.err != nil {
			t.Errorf("%s is free: %v", link.Listen, f.err)
		}
	}
}

func TestDoctor_SaysWhoHasAUDPAddress(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	link := doctorLinks(t, strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port)+"/udp=10.0.0.1:80")[0]
	if f := lookListening(link, nil); f.has.pid != os.Getpid() {
		t.Errorf("found %+v, want process %d", f, os.Getpid())
	}
}

// A running legate of ours is no hindrance; one that serves another link there
// is named.
func TestDoctor_KnowsTheRunningLegate(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	running := []spec.Snapshot{{Instance: "legate", PID: os.Getpid(), Links: []spec.LinkStatus{{Name: "db", Listen: strconv.Itoa(port)}}}}
	same := lookListening(doctorLinks(t, fmt.Sprintf("%d=10.0.0.1:80", port))[0], running)
	if same.ours != "legate" {
		t.Errorf("its own address: %+v", same)
	}
	other := lookListening(doctorLinks(t, fmt.Sprintf("127.0.0.1:%d=10.0.0.1:80", port))[0], running)
	if other.has.link != "db" || other.has.instance != "legate" {
		t.Errorf("another link there: %+v", other)
	}
	running[0].Links[0].State = spec.StateError // somebody else has it
	failed := lookListening(doctorLinks(t, fmt.Sprintf("%d=10.0.0.1:80", port))[0], running)
	if failed.ours != "" || failed.has.link != "" {
		t.Errorf("an address that it did not get: %+v", failed)
	}
}

// A client's end of a connection has a port of this host, too, and is nobody
// who listens there.
func TestDoctor_OnlyListenersHaveAnAddress(t *testing.T) {
	table := []byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 101 1
   1: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1
   2: 0101010A:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1
   3: 00000000:18EC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 104 1
`)
	for host, want := range map[string]string{"127.0.0.1": "102", "": "102 103", "10.1.1.1": "103", "10.1.1.2": ""} {
		got := strings.Join(bound(table, spec.Listen{Protocol: spec.TCP, Host: host, Port: 6379}), " ")
		if got != want {
			t.Errorf("%q is kept by %q, want %q", host, got, want)
		}
	}
}

func TestDoctor_LooksAtSocketPaths(t *testing.T) {
	path := testnet.SocketPath(t)
	link := doctorLinks(t, "unix:"+path+"=10.0.0.1:80")[0]
	there := func(want string) {
		t.Helper()
		if f := lookSocket(link); f.there != want || f.dir.err != nil {
			t.Errorf("found %+v, want %q", f, want)
		}
	}
	there("")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	there("live")
	l.SetUnlinkOnClose(false)
	l.Close()
	there("stale")
	if err := errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	there("other")
}

func TestDoctor_LooksAtDirectories(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if d := lookDirectory(filepath.Join(dir, "a", "b")); d.err != nil {
		t.Errorf("one that can be made: %v", d.err)
	}
	if d := lookExisting(filepath.Join(dir, "a")); !errors.Is(d.err, os.ErrNotExist) {
		t.Errorf("one that must be there: %v", d.err)
	}
	for _, path := range []string{file, filepath.Join(file, "a")} {
		if d := lookDirectory(path); d.err == nil {
			t.Errorf("%s can be a directory of ours", path)
		}
	}
}

func TestDoctor_KnowsAContainersOwnLayer(t *testing.T) {
	mounts := []byte(`1 0 0:50 / / rw,relatime - overlay overlay rw
2 1 0:51 / /proc rw - proc proc rw
3 1 8:1 /var/lib/docker/volumes/s/_data /var/lib/legate rw - ext4 /dev/sda1 rw
`)
	for path, want := range map[string]bool{"/var/lib/legate": false, "/var/lib/legate/x": false, "/var/lib/legate2": true, "/data": true} {
		if got := ownLayer(mounts, path); got != want {
			t.Errorf("%s is in the container's layer: %v, want %v", path, got, want)
		}
	}
}
