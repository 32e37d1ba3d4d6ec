package consul

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"legate/internal/spec"
)

// The variables that say how Consul is reached.
// https://developer.hashicorp.com/consul/commands#environment-variables
const (
	envAddr       = "CONSUL_HTTP_ADDR"
	envToken      = "CONSUL_HTTP_TOKEN"
	envTokenFile  = "CONSUL_HTTP_TOKEN_FILE"
	envAuth       = "CONSUL_HTTP_AUTH"
	envSSL        = "CONSUL_HTTP_SSL"
	envVerify     = "CONSUL_HTTP_SSL_VERIFY"
	envCACert     = "CONSUL_CACERT"
	envCAPath     = "CONSUL_CAPATH"
	envCert       = "CONSUL_CLIENT_CERT"
	envKey        = "CONSUL_CLIENT_KEY"
	envServerName = "CONSUL_TLS_SERVER_NAME"
	envNamespace  = "CONSUL_NAMESPACE"
	envPartition  = "CONSUL_PARTITION"
)

const defaultAddr = "127.0.0.1:8500"

// server is where Consul is.
type server struct {
	base url.URL // scheme, host and, behind a proxy, a path
	unix string  // the path of a unix socket; "": none
}

// name is how messages name it.
func (s server) name() string {
	if s.unix != "" {
		return "unix://" + s.unix
	}
	return s.base.Host + s.base.Path
}

// where finds the server: the one that the target names, else the one of the
// environment. That one is reached over TLS says nothing about the address
// that a target names, unless CONSUL_HTTP_SSL says it of both.
func where(getenv func(string) string, host string) (server, error) {
	ssl, err := boolean(getenv, envSSL, false)
	if err != nil {
		return server{}, err
	}
	text := host
	if text == "" {
		text = getenv(envAddr)
	}
	if text == "" {
		text = defaultAddr
	}
	if path, found := strings.CutPrefix(text, "unix://"); found {
		return server{base: url.URL{Scheme: "http", Host: "localhost"}, unix: path}, nil
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return server{}, spec.Errorf("set "+envAddr+" to HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:///PATH",
			"%q is no address of a Consul server", readable(text[strings.LastIndexByte(text, '@')+1:]))
	}
	if u.User != nil {
		return server{}, spec.Errorf("set "+envAuth+" to USER:PASSWORD", "the address of the Consul server %s has a user in it", u.Host)
	}
	if ssl {
		u.Scheme = "https"
	}
	return server{base: url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}}, nil
}

func boolean(getenv func(string) string, name string, otherwise bool) (bool, error) {
	text := getenv(name)
	if text == "" {
		return otherwise, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, spec.Errorf("set "+name+" to true or false", "%s is %q", name, readable(text))
	}
	return on, nil
}

// secret is the token of one question. A file is read each time, since agents
// that hand out tokens replace it while we run.
func secret(getenv func(string) string) (string, error) {
	name := getenv(envTokenFile)
	if name == "" {
		return getenv(envToken), nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return "", unread(envTokenFile, name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

var errNoPEM = errors.New("no certificate as PEM is in it")

func unread(variable, name string, err error) error {
	return spec.Errorf("set "+variable+" to what can be read", "read %s: %s", name, explain(err))
}

// secure makes the TLS side of a client.
func secure(getenv func(string) string) (*tls.Config, error) {
	verify, err := boolean(getenv, envVerify, true)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{InsecureSkipVerify: !verify, ServerName: getenv(envServerName), MinVersion: tls.VersionTLS12}
	if c.RootCAs, err = authorities(getenv); err != nil {
		return nil, err
	}
	cert, key := getenv(envCert), getenv(envKey)
	if cert == "" && key == "" {
		return c, nil
	}
	if cert == "" || key == "" {
		return nil, spec.Errorf("set both "+envCert+" and "+envKey, "a certificate and its key are needed, and only one is set")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, spec.Errorf("set "+envCert+" and "+envKey+" to a certificate and its key as PEM",
			"read the certificate %s and its key %s: %s", cert, key, explain(err))
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// authorities are those that the environment names; nil: the system's.
func authorities(getenv func(string) string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if name := getenv(envCACert); name != "" {
		b, err := os.ReadFile(name)
		if err == nil && !pool.AppendCertsFromPEM(b) {
			err = errNoPEM
		}
		if err != nil {
			return nil, unread(envCACert, name, err)
		}
		return pool, nil
	}
	dir := getenv(envCAPath)
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, unread(envCAPath, dir, err)
	}
	found := false
	for _, e := range entries {
		// What else is there, such as keys and folders, is not what is looked for.
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil && pool.AppendCertsFromPEM(b) {
			found = true
		}
	}
	if !found {
		return nil, unread(envCAPath, dir, errNoPEM)
	}
	return pool, nil
}
