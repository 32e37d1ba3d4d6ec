package testnet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Consul is a real Consul agent that is a server of its own: a [Process] that
// can be frozen, killed and started again. It keeps everything in memory, so a
// restart loses all of it. Addr speaks plain HTTP on loopback.
type Consul struct {
	*Process
	// TLS is where it speaks HTTPS; zero where ConsulConfig asked for none.
	TLS netip.AddrPort
	// Token may do everything; "" where there are no ACLs.
	Token string

	http *http.Client
}

// ConsulConfig is a Consul agent. The zero value lets everybody do everything,
// without TLS.
type ConsulConfig struct {
	// ACL lets nobody do anything without a token.
	ACL bool
	// CA makes it speak TLS as well, with a certificate of that authority for
	// Hosts; nil: not.
	CA *CA
	// Hosts of the certificate; none: 127.0.0.1 and localhost.
	Hosts []string
	// ClientCerts makes it ask TLS clients for a certificate of CA.
	ClientCerts bool
	Config      string // more of its configuration, as HCL
}

const consulToken = "5f0c7b4e-8a3d-4c55-9a0f-2f6f0f0e7a11"

// StartConsul starts an agent and waits until it leads itself.
func StartConsul(t testing.TB, config ConsulConfig) *Consul {
	t.Helper()
	server, dir, ports := Built(t, "consul"), serverDir(t, ""), FreePorts(t, 5)
	c := &Consul{http: &http.Client{Timeout: Patience, Transport: &http.Transport{DisableKeepAlives: true}}}
	at := func(port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	}
	args := []string{server, "agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "node1",
		"-http-port", strconv.Itoa(ports[0]), "-dns-port", strconv.Itoa(ports[1]), "-server-port", strconv.Itoa(ports[2]),
		"-serf-lan-port", strconv.Itoa(ports[3]), "-serf-wan-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1",
		"-disable-host-node-id", "-log-level", "warn"}
	hcl := []string{config.Config}
	if config.ACL {
		c.Token = consulToken
		hcl = append(hcl, fmt.Sprintf(`acl { enabled = true, default_policy = "deny", tokens { initial_management = %q } }`, c.Token))
	}
	if config.CA != nil {
		c.TLS = at(ports[4])
		hosts := config.Hosts
		if len(hosts) == 0 {
			hosts = []string{"127.0.0.1", "localhost"}
		}
		cert, key := config.CA.Server(t, hosts...)
		hcl = append(hcl, fmt.Sprintf(`ports { https = %d }`, ports[4]),
			fmt.Sprintf(`tls { https { ca_file = %q, cert_file = %q, key_file = %q, verify_incoming = %t } }`, config.CA.File, cert, key, config.ClientCerts))
	}
	for _, part := range hcl {
		if part != "" {
			args = append(args, "-hcl", part)
		}
	}
	c.Process = &Process{Addr: at(ports[0])} // for Ready
	c.Process = StartProcess(t, ProcessConfig{Args: args, Dir: dir, Addr: at(ports[0]), Ready: c.leads})
	return c
}

// Built is the path of a server that test/setup/servers.sh built; without it the
// test is skipped.
func Built(t testing.TB, name string) string {
	t.Helper()
	cache := os.Getenv("LEGATE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir() // XDG_CACHE_HOME, else .cache in HOME
		if err != nil {
			Skip(t, "needs "+name+", and there is no cache to find it in")
		}
		cache = filepath.Join(dir, "legate")
	}
	path := filepath.Join(cache, "servers", name)
	if _, err := os.Stat(path); err != nil {
		Skip(t, "needs "+path+", which test/setup/servers.sh builds")
	}
	return path
}

// leads tells whether it can be written to and knows its own node, which is
// the last thing that it registers by itself.
func (c *Consul) leads() bool {
	body, err := c.request(http.MethodGet, "/v1/catalog/nodes", nil)
	return err == nil && strings.Contains(body, `"node1"`)
}

func (c *Consul) request(method, path string, body io.Reader) (string, error) {
	r, err := http.NewRequest(method, "http://"+c.Addr.String()+path, body)
	if err != nil {
		return "", err
	}
	if c.Token != "" {
		r.Header.Set("X-Consul-Token", c.Token)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, said)
	}
	return string(said), err
}

// Do asks its HTTP API with the token that may do everything, and returns the
// answer. What is not a string is sent as JSON; nil sends nothing.
func (c *Consul) Do(t testing.TB, method, path string, body any) string {
	t.Helper()
	var sent []byte
	switch b := body.(type) {
	case nil:
	case string:
		sent = []byte(b)
	default:
		var err error
		if sent, err = json.Marshal(b); err != nil {
			t.Fatalf("consul: %v", err)
		}
	}
	said, err := c.request(method, path, bytes.NewReader(sent))
	if err != nil {
		t.Fatalf("consul: %s %s: %v", method, path, err)
	}
	return said
}

// ConsulService is an instance to register.
type ConsulService struct {
	ID      string `json:",omitempty"` // "": Name
	Name    string
	Address string   `json:",omitempty"` // "": that of its node
	Port    int      `json:",omitempty"`
	Tags    []string `json:",omitempty"`
	Weight  int      `json:"-"` // while it passes; 0: 1
	// Check gives it the check "service:ID", critical until SetCheck.
	Check bool `json:"-"`
}

// Register registers an instance, or registers it anew.
func (c *Consul) Register(t testing.TB, s ConsulService) {
	t.Helper()
	type check struct{ TTL, Name string }
	type weights struct{ Passing, Warning int }
	body := struct {
		ConsulService
		Check   *check   `json:",omitempty"`
		Weights *weights `json:",omitempty"`
	}{ConsulService: s}
	if s.Check {
		body.Check = &check{TTL: (24 * time.Hour).String(), Name: "alive"}
	}
	if s.Weight > 0 {
		body.Weights = &weights{s.Weight, 1}
	}
	c.Do(t, http.MethodPut, "/v1/agent/service/register", body)
}

// Deregister removes an instance by its ID.
func (c *Consul) Deregister(t testing.TB, id string) {
	t.Helper()
	c.Do(t, http.MethodPut, "/v1/agent/service/deregister/"+id, nil)
}

// SetCheck gives the check of an instance a status, passing, warning or
// critical, and its output.
func (c *Consul) SetCheck(t testing.TB, id, status, output string) {
	t.Helper()
	c.Do(t, http.MethodPut, "/v1/agent/check/update/service:"+id, struct{ Status, Output string }{status, output})
}

// Put writes a key.
func (c *Consul) Put(t testing.TB, key, value string) {
	t.Helper()
	c.Do(t, http.MethodPut, "/v1/kv/"+key, value)
}

// Delete deletes a key.
func (c *Consul) Delete(t testing.TB, key string) {
	t.Helper()
	c.Do(t, http.MethodDelete, "/v1/kv/"+key, nil)
}

// Restart starts it again after [Process.Kill], without its data, and waits
// until it leads itself.
func (c *Consul) Restart(t testing.TB) {
	t.Helper()
	c.Start(t, c.leads)
}
