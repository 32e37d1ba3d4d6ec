package peers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Peer is one way from client to server.
type Peer struct {
	Name string
	// Command makes the proxy's; nil where there is no proxy.
	Command func(Ask) (*exec.Cmd, error)
	Config  string // the file that Command writes, with places for what Ask says
	// Version asks the installed proxy.
	Version func() (string, error)
	Path    func() (string, error) // of its program
	UDP     bool                   // carries datagrams, too
	Seldom  bool                   // takes part in every other round, for it is slow or no peer
	// Ours tells Legate's rows, which never are the best peer.
	Ours bool
}

// Ask is what a proxy shall do.
type Ask struct {
	Listen string // address
	Server string // address
	Dir    string // for its files
	UDP    bool   // datagrams instead of connections
}

// The peers that others refer to by name.
const (
	Direct     = "direct"
	Legate     = "legate"
	Net        = "legate-net" // with the engine of the standard library
	Socat      = "socat"
	HAProxy    = "haproxy"
	Tuned      = "haproxy-tuned"
	Nginx      = "nginx"
	Go         = "go"
	TunedNginx = "nginx-tuned"
)

// RoleRelay is the argument that makes this program the Go peer.
const RoleRelay = "relay"

// Config says what the list of peers is to be.
type Config struct {
	Self   string // this program, which is the Go peer as well
	Binary string // Legate's
	// Other is a second Legate to compare with, "" for none, and OtherName what
	// it is called.
	Other     string
	OtherName string
}

// List returns every peer, the direct connection first.
func List(c Config) []Peer {
	list := []Peer{
		{Name: Direct},
		legate(Legate, c.Binary),
		legate(Net, c.Binary, "LEGATE_ENGINE=net"),
		haproxy(HAProxy, haproxyConfig),
		haproxy(Tuned, tunedConfig),
		nginx(Nginx, ""),
		nginx(TunedNginx, largerBuffers),
		golang(c.Self),
		socat(),
	}
	list[2].UDP, list[2].Seldom = false, true
	list[6].UDP = false // its buffers are of connections
	if c.Other != "" {
		list = append(list, legate(c.OtherName, c.Other))
	}
	return list
}

func legate(name, binary string, env ...string) Peer {
	p := Peer{Name: name, UDP: true, Ours: true}
	p.Path = func() (string, error) {
		if _, err := os.Stat(binary); err != nil {
			return "", errors.New("not built (make build)")
		}
		return binary, nil
	}
	p.Version = versionOf(p.Path, "version")
	p.Command = func(a Ask) (*exec.Cmd, error) {
		path, err := p.Path()
		if err != nil {
			return nil, err
		}
		link := a.Listen + "=" + a.Server
		if a.UDP {
			link = a.Listen + "/udp=" + a.Server + "/udp"
		}
		cmd := exec.Command(path, "run", "--control", "off", "--log-level", "error", "--drain", "0s", link)
		cmd.Env = append(os.Environ(), env...)
		return cmd, nil
	}
	return p
}

// golang is what most proxies in Go are: net and io.Copy per direction.
func golang(self string) Peer {
	return Peer{
		Name:    Go,
		Path:    func() (string, error) { return self, nil },
		Version: versionOf(func() (string, error) { return "go", nil }, "version"),
		Command: func(a Ask) (*exec.Cmd, error) { return exec.Command(self, RoleRelay, a.Listen, a.Server), nil },
	}
}

// socat forks per connection. Without -t it would end half a second after a
// half-close; its blocks are 8 KiB by default.
func socat() Peer {
	p := Peer{Name: Socat, Seldom: true, Path: find("socat")}
	p.Version = func() (string, error) {
		path, err := p.Path()
		if err != nil {
			return "", err
		}
		out, err := exec.Command(path, "-V").Output()
		if err != nil {
			return "", fmt.Errorf("%s -V: %w", path, err)
		}
		for line := range strings.Lines(string(out)) {
			if version, ok := strings.CutPrefix(line, "socat version "); ok {
				version, _, _ = strings.Cut(version, " on ")
				return "socat " + strings.TrimSpace(version), nil
			}
		}
		return "", errors.New("socat -V tells no version")
	}
	p.Command = func(a Ask) (*exec.Cmd, error) {
		path, err := p.Path()
		if err != nil {
			return nil, err
		}
		host, port, _ := strings.Cut(a.Listen, ":")
		return exec.Command(path, "-t", "3600", "-b", "65536",
			"TCP4-LISTEN:"+port+",bind="+host+",fork,reuseaddr,nodelay,backlog=4096",
			"TCP4:"+a.Server+",nodelay"), nil
	}
	return p
}

// find looks where Debian puts what only root's PATH has, too.
func find(name string) func() (string, error) {
	return func() (string, error) {
		for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/"} {
			if path, err := exec.LookPath(dir + name); err == nil {
				return path, nil
			}
		}
		return "", fmt.Errorf("not installed (as root: apt-get install %s)", name)
	}
}

// versionOf takes the first line of what the program says.
func versionOf(path func() (string, error), args ...string) func() (string, error) {
	return func() (string, error) {
		name, err := path()
		if err != nil {
			return "", err
		}
		// nginx tells it on its standard error.
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		return strings.TrimSpace(line), nil
	}
}
