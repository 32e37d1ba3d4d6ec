package docker

import (
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"legate/internal/testnet"
)

// TestTable_OverTLS follows a real engine that wants a certificate, over TCP.
func TestTable_OverTLS(t *testing.T) {
	for label, dockerd := range testnet.DockerEngines(t) {
		t.Run(label, func(t *testing.T) {
			authority := testnet.NewCA(t)
			cert, key := authority.Server(t, "127.0.0.1")
			certificates := t.TempDir()
			mine, myKey := authority.Client(t, "legate")
			copyFile(t, authority.File, certificates+"/ca.pem")
			copyFile(t, mine, certificates+"/cert.pem")
			copyFile(t, myKey, certificates+"/key.pem")
			address := "tcp://127.0.0.1:" + strconv.Itoa(testnet.FreePort(t))
			e := testnet.StartDockerd(t, testnet.DockerdConfig{Program: dockerd, Here: true, Args: []string{
				"--host=" + address, "--tlsverify", "--tlscacert=" + authority.File, "--tlscert=" + cert, "--tlskey=" + key}})
			e.Import(t, "server")
			e.Docker(t, "create", "--name", "first", "server")

			testnet.CheckLeaks(t)
			good := Config{Host: address, TLS: true, Certificates: certificates}
			table := NewTable(good)
			s := table.Subscribe("second")
			defer s.Close()
			if err := s.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			if all := table.All(); len(all) != 1 || all[0].Name != "first" {
				t.Fatalf("containers %+v", all)
			}
			e.Docker(t, "create", "--name", "second", "server")
			if err := s.Next(t.Context()); err != nil || len(table.Named("second")) != 1 {
				t.Errorf("after an event: %v, %+v", err, table.All())
			}

			stranger := good
			stranger.Certificates = t.TempDir()
			copyFile(t, testnet.NewCA(t).File, stranger.Certificates+"/ca.pem")
			fails(t, stranger, "is not trusted")
			anonymous := good
			anonymous.Certificates = t.TempDir()
			copyFile(t, authority.File, anonymous.Certificates+"/ca.pem")
			fails(t, anonymous, "refuses our certificate")
			fails(t, Config{Host: address}, "wants TLS")
			trusting := good
			trusting.Insecure = true
			if err := next(t, trusting); err != nil {
				t.Errorf("without verifying: %v", err)
			}
		})
	}
}

func next(t *testing.T, c Config) error {
	t.Helper()
	s := NewTable(c).Subscribe("x")
	defer s.Close()
	return s.Next(t.Context())
}

func fails(t *testing.T, c Config, what string) {
	t.Helper()
	wantUserError(t, next(t, c), what)
}

func TestClient_NoPermission(t *testing.T) {
	testnet.NeedRoot(t)
	path := testnet.SocketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and who it is with it
		if err := unix.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		done <- c.explain(t.Context(), nil)
	}()
	wantUserError(t, <-done, "no permission to use the Docker socket")
}
