package docker

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestLinks_OfRealEngines(t *testing.T) {
	for label, dockerd := range testnet.DockerEngines(t) {
		t.Run(label, func(t *testing.T) {
			testnet.CheckLeaks(t)
			e := testnet.StartDockerd(t, testnet.DockerdConfig{Program: dockerd})
			e.Import(t, "server", "EXPOSE 6379", "EXPOSE 53/udp")
			e.Docker(t, "create", "--name", "redis", "-p", "127.0.0.1::9000", "--expose", "7/sctp", "server")
			e.Docker(t, "create", "--name", "plain", "--expose", "80", "server")
			id := e.Docker(t, "create", "--name", "ambassador", "--link", "redis:cache", "--link", "redis:store", "--link", "plain", "server")
			alone := e.Docker(t, "create", "--name", "alone", "server")

			c, err := New(e.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.Links(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			image := []Port{{spec.UDP, 53}, {spec.TCP, 6379}}
			want := []Linked{
				{Name: "plain", Aliases: []string{"plain"}, Ports: []Port{image[0], {spec.TCP, 80}, image[1]}},
				{Name: "redis", Aliases: []string{"cache", "store"}, Ports: append(slices.Clone(image), Port{spec.TCP, 9000})},
			}
			if !equal(got, want) {
				t.Errorf("links %+v, want %+v", got, want)
			}
			if got, err := c.Links(t.Context(), id[:12]); err != nil || !equal(got, want) {
				t.Errorf("by the short id: %+v %v", got, err)
			}
			if got, err := c.Links(t.Context(), alone); err != nil || len(got) != 0 {
				t.Errorf("a container without links has %+v %v", got, err)
			}
			_, err = c.Links(t.Context(), idA)
			wantUserError(t, err, "does not know this container")
		})
	}
}

// equal compares everything but the ids, of which it wants 64 digits.
func equal(got, want []Linked) bool {
	return slices.EqualFunc(got, want, func(a, b Linked) bool {
		return a.Name == b.Name && len(a.ID) == 64 && slices.Equal(a.Aliases, b.Aliases) && slices.Equal(a.Ports, b.Ports)
	})
}

func TestLinks_OfUserDefinedNetworks(t *testing.T) {
	for label, dockerd := range testnet.DockerEngines(t) {
		t.Run(label, func(t *testing.T) {
			e := testnet.StartDockerd(t, testnet.DockerdConfig{Program: dockerd})
			e.Import(t, "server", "EXPOSE 6379")
			e.Docker(t, "network", "create", "net")
			e.Docker(t, "create", "--name", "redis", "--network", "net", "server")
			id := e.Docker(t, "create", "--name", "ambassador", "--network", "net", "--link", "redis:cache", "--link", "later", "server")
			c, err := New(e.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.Links(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 2 || got[0].Name != "later" || got[0].ID != "" || len(got[0].Ports) != 0 ||
				got[1].Name != "redis" || !slices.Equal(got[1].Aliases, []string{"cache"}) || !slices.Equal(got[1].Ports, []Port{{spec.TCP, 6379}}) {
				t.Errorf("links %+v", got)
			}
		})
	}
}

func TestNew_HostsThatAreNone(t *testing.T) {
	for _, host := range []string{"ssh://me@host", "/var/run/docker.sock", "unix://", "tcp://", "npipe:////./pipe/docker_engine"} {
		_, err := New(host)
		wantUserError(t, err, "DOCKER_HOST")
	}
}

func TestLinks_EngineThatCannotBeAsked(t *testing.T) {
	dir := t.TempDir()
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/dead.sock"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tests := map[string]string{
		"unix://" + dir + "/none.sock":    "there is no Docker socket",
		"unix://" + dir + "/dead.sock":    "nothing answers",
		"tcp://" + closed.Addr().String(): "nothing answers",
	}
	for host, what := range tests {
		c, err := New(host)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Links(t.Context(), idA)
		wantUserError(t, err, what)
		c.Close()
	}
}

func TestLinks_EndsWithItsContext(t *testing.T) {
	testnet.CheckLeaks(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c, err := New("tcp://" + silent.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Links(ctx, idA)
		done <- err
	}()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}
