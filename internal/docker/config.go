package docker

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/client"

	"legate/internal/spec"
)

// Config says where the engine is. It is comparable.
type Config struct {
	// Host is written as DOCKER_HOST: unix:///path or tcp://address:port;
	// "": DefaultHost.
	Host string
	// TLS makes a client of tcp:// speak TLS, and Insecure has it believe
	// whatever certificate the engine shows. A unix socket needs neither.
	TLS, Insecure bool
	// Certificates is the directory of ca.pem, which the engine's certificate
	// is verified with, and of cert.pem and key.pem, which may be missing
	// together; "": the system's authorities, and no certificate of our own.
	Certificates string
}

// The ports of an engine where DOCKER_HOST names none.
const (
	plainPort = "2375"
	tlsPort   = "2376"
)

// FromEnvironment reads DOCKER_HOST, DOCKER_TLS, DOCKER_TLS_VERIFY and
// DOCKER_CERT_PATH with get, and means by them what the docker command does.
func FromEnvironment(get func(name string) string) Config {
	c := Config{Host: get("DOCKER_HOST"), Certificates: get("DOCKER_CERT_PATH")}
	verify := get("DOCKER_TLS_VERIFY") != ""
	c.TLS = verify || get("DOCKER_TLS") != ""
	c.Insecure = c.TLS && !verify
	if c.TLS && c.Host == "" {
		c.Host = "tcp://localhost:" + tlsPort
	}
	if c.TLS && c.Certificates == "" {
		c.Certificates = get("DOCKER_CONFIG")
		if home := get("HOME"); c.Certificates == "" && home != "" {
			c.Certificates = filepath.Join(home, ".docker")
		}
	}
	return c
}

// address is what to dial.
func (c Config) address() (network, address string, err error) {
	host := c.Host
	if host == "" {
		host = DefaultHost
	}
	network, address, ok := strings.Cut(host, "://")
	host = withoutUser(host)
	switch {
	case network == "tcp" && strings.Contains(address, "@"):
		return "", "", spec.Errorf("write DOCKER_HOST=tcp://ADDRESS:PORT; who asks is told by the certificate in DOCKER_CERT_PATH",
			"DOCKER_HOST %q has a user before the address", host)
	case network == "ssh":
		return "", "", spec.Errorf("forward the socket, ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST, and write DOCKER_HOST=unix:///tmp/docker.sock",
			"DOCKER_HOST %q: Legate does not speak ssh", host)
	case !ok || network != "unix" && network != "tcp" || address == "":
		return "", "", spec.Errorf("write DOCKER_HOST=unix:///var/run/docker.sock or DOCKER_HOST=tcp://127.0.0.1:2375",
			"DOCKER_HOST %q is neither unix:// nor tcp://", host)
	}
	if network == "unix" {
		return network, address, nil
	}
	address, path, _ := strings.Cut(address, "/")
	if path != "" {
		return "", "", spec.Errorf("write DOCKER_HOST=tcp://"+address, "DOCKER_HOST %q has a path", host)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		port := plainPort
		if c.TLS {
			port = tlsPort
		}
		address = net.JoinHostPort(strings.Trim(address, "[]"), port)
	}
	return network, address, nil
}

// withoutUser is a host for messages: there may be a password before the @.
func withoutUser(host string) string {
	at := strings.LastIndexByte(host, '@')
	if at < 0 {
		return host
	}
	if scheme, _, found := strings.Cut(host, "://"); found {
		return scheme + "://***" + host[at:]
	}
	return "***" + host[at:]
}

// NewClient is New for an engine that may want TLS. It does not connect. The
// error is a *spec.UserError. The caller ends the client with Close.
func NewClient(c Config) (*Client, error) {
	network, address, err := c.address()
	if err != nil {
		return nil, err
	}
	transport, scheme := &http.Transport{}, "http"
	if c.TLS && network == "tcp" {
		scheme = "https"
		if transport.TLSClientConfig, err = c.withTLS(); err != nil {
			return nil, err
		}
	}
	// No time limit for the whole of a question: it would end the stream of
	// events.
	over := &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
	api, err := client.New(client.WithHTTPClient(over), client.WithHost(network+"://"+address), client.WithScheme(scheme))
	if err != nil {
		return nil, spec.Errorf("check DOCKER_HOST", "DOCKER_HOST %q: %v", c.Host, err)
	}
	return &Client{network: network, address: address, tls: scheme == "https", api: api}, nil
}

// withTLS reads the certificates, and leaves out what may be missing.
func (c Config) withTLS() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.Insecure}
	if c.Certificates == "" {
		return conf, nil
	}
	ca, cert, key := c.file("ca.pem"), c.file("cert.pem"), c.file("key.pem")
	if !c.Insecure {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, spec.Errorf("name the directory of the certificates: DOCKER_CERT_PATH=DIRECTORY",
				"read the authority of the Docker engine's certificate: %v", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(text) {
			return nil, spec.Errorf("put the authority's certificate there, in PEM", "%s has no certificate in it", ca)
		}
	}
	if !exist(cert) && !exist(key) {
		return conf, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, spec.Errorf("see "+cert+" and "+key, "read the certificate for the Docker engine: %v", err)
	}
	conf.Certificates = []tls.Certificate{pair}
	return conf, nil
}

func (c Config) file(name string) string { return filepath.Join(c.Certificates, name) }

func exist(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// plain is an error's text for people: without the ephemeral ports that make
// the same failure look new each time, without control characters, and short
// whatever a server that is none sends.
func plain(err error) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, cause(err).Error())
	text = strings.Join(strings.Fields(text), " ")
	const most = 200
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + fmt.Sprintf(" (and %d more)", len(text)-most)
	}
	return text
}
