package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/control"
	"legate/internal/daemon"
	"legate/internal/spec"
)

// demoLink is the name of the link on either ambassador.
const demoLink = "hello"

func newDemo(p Process) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show it: two ambassadors and two servers in one process",
		Long: `Starts two tiny web servers that say who they are, and two ambassadors before
them, as on two hosts: client -> demo-a -> demo-b -> server. Prints what to type
in a second terminal and what to expect, and runs until Ctrl-C. It needs neither
root nor Docker, and listens on free ports of 127.0.0.1 only.`,
		Example: "  legate demo",
		Args:    exactly(),

		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			log, flush := startLog(p.Stderr, warnings)
			defer flush()
			d := &demo{process: p, log: log}
			defer d.wait()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			return d.run(ctx)
		},
	}
}

// demo is two servers and the chain of two ambassadors before one of them.
type demo struct {
	process     Process
	log         *slog.Logger // of both ambassadors
	blue, green string       // addresses of the servers
	a, b        string       // addresses that the ambassadors listen on
	near, far   string       // names of their control sockets
	running     sync.WaitGroup
	failed      chan error
}

func (d *demo) wait() { d.running.Wait() }

// warnings is the form of the demo's log, which must not stand between the
// lines to type.
func warnings(w io.Writer) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn})
}

func (d *demo) run(ctx context.Context) (err error) {
	d.failed = make(chan error, 4)
	if d.blue, err = d.serve(ctx, "blue"); err != nil {
		return err
	}
	if d.green, err = d.serve(ctx, "green"); err != nil {
		return err
	}
	if d.b, d.far, err = d.ambassador(ctx, "demo-b", d.blue); err != nil {
		return err
	}
	if d.a, d.near, err = d.ambassador(ctx, "demo-a", d.b); err != nil {
		return err
	}
	d.explain()
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.failed:
		return err
	}
}

// serve starts a web server that says its name.
func (d *demo) serve(ctx context.Context, name string) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("start server %s: %w", name, err)
	}
	s := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "hello from %s\n", name)
		}),
	}
	d.running.Go(func() {
		<-ctx.Done()
		s.Close()
	})
	d.running.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.failed <- fmt.Errorf("server %s: %w", name, err)
		}
	})
	return l.Addr().String(), nil
}

// ambassador starts a daemon with one link and returns when it forwards.
func (d *demo) ambassador(ctx context.Context, name, target string) (listen, where string, err error) {
	listen, err = freeAddress()
	if err != nil {
		return "", "", fmt.Errorf("find a free port: %w", err)
	}
	text := fmt.Sprintf("%s=%s;name=%s", listen, target, demoLink)
	links, err := spec.ParseLink(text, spec.ParseConfig{Options: spec.DefaultOptions()})
	if err != nil {
		return "", "", err
	}
	places := control.DefaultPlaces(d.process.getenv)
	if _, err := control.Find(ctx, name, places); err == nil {
		name = fmt.Sprintf("%s-%d", name, os.Getpid()) // of another demo
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	one := daemon.New(daemon.Config{
		Links:   links,
		Control: name,
		Places:  places,
		Version: versionText(),
		Log:     d.log,
		Ready:   func(string) { close(ready) },
	})
	d.running.Go(func() { ended <- one.Run(ctx) })
	select {
	case <-ready:
		return listen, name, nil
	case err := <-ended:
		return "", "", fmt.Errorf("start ambassador %s: %w", name, err)
	}
}

// freeAddress asks the kernel for a port. Another process could take it before
// the link does; then the start fails and says so.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (d *demo) explain() {
	legate := d.process.Args[0]
	fmt.Fprintf(d.process.Stdout, `Two ambassadors, as on two hosts, and two servers, all in this process:

  client -> %[2]s (%[4]s) -> %[3]s (%[5]s) -> blue  (%[6]s)
                                                            green (%[7]s)

Type this in a second terminal:

  curl http://%[4]s
      hello from blue

  %[1]s swap --control %[3]s %[8]s %[7]s
      the far ambassador goes to green now; the near one and the client do not notice

  curl http://%[4]s
      hello from green

  %[1]s status --control %[3]s
      the link, how long ago it was swapped, and the connections so far

  %[1]s swap --control %[3]s %[8]s --undo
      back to blue

Ctrl-C ends it.
`, legate, d.near, d.far, d.a, d.b, d.blue, d.green, demoLink)
}
