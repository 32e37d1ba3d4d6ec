package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// row is one way from client to server.
type row struct {
	Name string
	// command makes the proxy's, listening on listen and leading to server,
	// with dir for its files. Nil where there is no proxy.
	command func(listen, server, dir string) (*exec.Cmd, error)
	config  string // of the proxy, with places for the two addresses
	// version asks the installed proxy.
	version func() (string, error)
}

// The rows by name; base is what the others are compared with.
const (
	direct = "direct"
	base   = "haproxy"
	ours   = "legate"
)

func rows() []row {
	return []row{
		{Name: direct},
		{Name: base, command: haproxy, config: haproxyConfig, version: haproxyVersion},
		{Name: ours, command: legate, version: legateVersion},
	}
}

func rowNames() (names []string) {
	for _, r := range rows() {
		names = append(names, r.Name)
	}
	return names
}

// haproxyConfig is TCP mode as it comes, with the two threads that Legate has,
// too, and without logs; the time-outs are those it insists on.
const haproxyConfig = `global
  nbthread 2
  maxconn 4096
defaults
  mode tcp
  timeout connect 3s
  timeout client 1h
  timeout server 1h
listen bench
  bind %s
  server one %s
`

func haproxy(listen, server, dir string) (*exec.Cmd, error) {
	path, err := findHAProxy()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, haproxyConfig, listen, server), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return exec.Command(path, "-db", "-f", file), nil
}

// findHAProxy looks where Debian puts it, too, which is in root's PATH only.
func findHAProxy() (string, error) {
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy", "/usr/local/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("not installed (as root: apt-get install haproxy)")
}

func haproxyVersion() (string, error) {
	path, err := findHAProxy()
	if err != nil {
		return "", err
	}
	return firstLine(path, "-v")
}

// legateBinary is where make build puts it.
const legateBinary = "bin/legate"

func legate(listen, server, _ string) (*exec.Cmd, error) {
	if _, err := os.Stat(legateBinary); err != nil {
		return nil, errors.New("not built (make build)")
	}
	return exec.Command(legateBinary, "run", "--control", "off", "--log-level", "error", "--drain", "0s", listen+"="+server), nil
}

func legateVersion() (string, error) { return firstLine(legateBinary, "version") }

func firstLine(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), nil
}

// freeAddr is a loopback address on which nobody listens. Every proxy gets a
// new one, as every server does: the connections that earlier ones left in
// TIME_WAIT then take no port from it.
func freeAddr() (string, error) {
	l, err := listen()
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).String(), nil
}
