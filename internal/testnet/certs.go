package testnet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA is a throw-away authority for the certificates of one test. Nobody else
// trusts it, and its key never leaves memory.
type CA struct {
	// File has its certificate as PEM, in a directory that ends with the test.
	File string

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{dir: t.TempDir(), key: newKey(t)}
	form := certForm(t, "Test CA")
	form.IsCA, form.BasicConstraintsValid, form.KeyUsage = true, true, x509.KeyUsageCertSign
	ca.cert = form
	der := ca.sign(t, form, ca.key)
	var err error
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatalf("read a certificate: %v", err)
	}
	ca.File = writePEM(t, filepath.Join(ca.dir, "ca.pem"), "CERTIFICATE", der)
	return ca
}

// Server makes a certificate for a server at those names and IP addresses, and
// returns the files of it and of its key. It is good for a client, too, as
// servers are to one another.
func (ca *CA) Server(t testing.TB, hosts ...string) (certFile, keyFile string) {
	t.Helper()
	form := certForm(t, "server")
	form.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			form.IPAddresses = append(form.IPAddresses, ip)
		} else {
			form.DNSNames = append(form.DNSNames, host)
		}
	}
	return ca.issue(t, form)
}

// Client makes a certificate for a client of that name, and returns the files
// of it and of its key.
func (ca *CA) Client(t testing.TB, name string) (certFile, keyFile string) {
	t.Helper()
	form := certForm(t, name)
	form.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return ca.issue(t, form)
}

func (ca *CA) issue(t testing.TB, form *x509.Certificate) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("write a key: %v", err)
	}
	name := filepath.Join(ca.dir, form.SerialNumber.String())
	return writePEM(t, name+".pem", "CERTIFICATE", ca.sign(t, form, key)),
		writePEM(t, name+".key", "PRIVATE KEY", private)
}

func (ca *CA) sign(t testing.TB, form *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, form, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatalf("sign a certificate: %v", err)
	}
	return der
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	return key
}

// KeyPair writes an ECDSA key on P-256, as one that signs tokens by ES256 wants
// it, and returns both files.
func KeyPair(t testing.TB) (private, public string) {
	t.Helper()
	key := newKey(t)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("write a key: %v", err)
	}
	open, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatalf("write a public key: %v", err)
	}
	dir := t.TempDir()
	return writePEM(t, filepath.Join(dir, "private.pem"), "PRIVATE KEY", secret), writePEM(t, filepath.Join(dir, "public.pem"), "PUBLIC KEY", open)
}

// certForm is valid from an hour ago: clocks of test machines jump.
func certForm(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		t.Fatalf("make a serial number: %v", err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func writePEM(t testing.TB, name, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatalf("write %s: %v", name, err)
	}
	return name
}
