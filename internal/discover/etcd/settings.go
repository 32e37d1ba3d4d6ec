package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"legate/internal/spec"
)

// settings are what the variables of etcdctl say.
type settings struct {
	server      string   // as people know it
	addresses   []string // HOST:PORT of each endpoint
	tls         *tls.Config
	user        string // "": none
	password    string
	dialTimeout time.Duration
}

const (
	defaultEndpoint    = "127.0.0.1:2379"
	defaultPort        = "2379"
	defaultDialTimeout = 2 * time.Second
)

// readSettings reads them for a target's Host.
func readSettings(host string, getenv func(string) string) (settings, error) {
	s := settings{dialTimeout: defaultDialTimeout}
	secure, err := s.endpoints(host, getenv("ETCDCTL_ENDPOINTS"))
	if err != nil {
		return s, err
	}
	if err := s.login(getenv("ETCDCTL_USER"), getenv("ETCDCTL_PASSWORD")); err != nil {
		return s, err
	}
	if text := getenv("ETCDCTL_DIAL_TIMEOUT"); text != "" {
		s.dialTimeout, err = time.ParseDuration(text)
		if err != nil || s.dialTimeout <= 0 {
			return s, spec.Errorf("write it like 2s", "ETCDCTL_DIAL_TIMEOUT=%s is no time", text)
		}
	}
	return s, s.secure(secure, getenv)
}

// endpoints reads where the server is, and whether it is to speak TLS.
func (s *settings) endpoints(host, env string) (secure bool, err error) {
	list := host
	if list == "" {
		list = env
	}
	if list == "" {
		list = defaultEndpoint
	}
	plain := false
	var names []string
	for _, endpoint := range strings.Split(list, ",") {
		scheme, address, found := strings.Cut(strings.TrimSpace(endpoint), "://")
		if !found {
			scheme, address = "", scheme
		}
		if strings.Contains(address, "@") { // there may be a password before it
			return false, spec.Errorf("set ETCDCTL_USER=USER:PASSWORD", "ETCDCTL_ENDPOINTS has a user before a server")
		}
		if address, err = withPort(address); err != nil {
			return false, spec.Errorf("write it like http://HOST:PORT", "ETCDCTL_ENDPOINTS: %q is no address", endpoint)
		}
		switch scheme {
		case "https":
			secure = true
		case "http":
			plain = true
		case "":
		default:
			return false, spec.Errorf("write it like http://HOST:PORT", "ETCDCTL_ENDPOINTS: %q is not supported", scheme+"://")
		}
		s.addresses, names = append(s.addresses, address), append(names, strings.TrimSpace(endpoint))
	}
	if secure && plain {
		return false, spec.Errorf("use one scheme for all", "ETCDCTL_ENDPOINTS mixes http:// and https://")
	}
	s.server = strings.Join(names, ",")
	return secure, nil
}

func withPort(address string) (string, error) {
	address = strings.TrimRight(address, "/")
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port, err = net.SplitHostPort(address + ":" + defaultPort)
	}
	if err != nil {
		return "", err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" {
		return "", spec.Errorf("", "%q is no address", address)
	}
	return net.JoinHostPort(host, port), nil
}

func (s *settings) login(user, password string) error {
	name, rest, found := strings.Cut(user, ":")
	if found {
		password = rest
	}
	if name != "" && password == "" {
		return spec.Errorf("write ETCDCTL_USER=USER:PASSWORD, or set ETCDCTL_PASSWORD",
			"ETCDCTL_USER=%s has no password", name)
	}
	s.user, s.password = name, password
	return nil
}

// secure reads what TLS needs. As with etcdctl, naming a file means TLS for
// addresses without a scheme, too.
func (s *settings) secure(wanted bool, getenv func(string) string) error {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if text := getenv("ETCDCTL_INSECURE_SKIP_TLS_VERIFY"); text != "" {
		skip, err := strconv.ParseBool(text)
		if err != nil {
			return spec.Errorf("write true or false", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY=%s is neither true nor false", text)
		}
		c.InsecureSkipVerify = skip
	}
	if file := getenv("ETCDCTL_CACERT"); file != "" {
		wanted = true
		pem, err := os.ReadFile(file)
		if err != nil {
			return spec.Errorf("let ETCDCTL_CACERT name a file in PEM form", "read ETCDCTL_CACERT: %v", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return spec.Errorf("let ETCDCTL_CACERT name a file in PEM form", "ETCDCTL_CACERT: no certificate is in %s", file)
		}
	}
	cert, key := getenv("ETCDCTL_CERT"), getenv("ETCDCTL_KEY")
	if cert != "" || key != "" {
		wanted = true
		if cert == "" || key == "" {
			return spec.Errorf("set both", "of ETCDCTL_CERT and ETCDCTL_KEY only one is set")
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return spec.Errorf("let them name a certificate and its key in PEM form", "read ETCDCTL_CERT and ETCDCTL_KEY: %v", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if wanted || c.InsecureSkipVerify {
		s.tls = c
	}
	return nil
}
