package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"legate/internal/daemon"
	"legate/internal/spec"
)

// runCommand is `legate run`, and `legate` with links.
type runCommand struct {
	process Process
	command *cobra.Command

	links     linkFlags
	fromLinks bool
	serving   servingFlags
}

func newRun(p Process) *runCommand {
	r := &runCommand{process: p, links: newLinkFlags()}
	r.command = &cobra.Command{
		Use:   "run [LINK...]",
		Short: "Forward links in the foreground",
		Long: `Forwards links until it is told to stop (SIGTERM or Ctrl-C): it then accepts the
clients that are queued, stops listening, gives live connections the time of
--drain to end, and exits. A second signal ends it at once.

A link is [LISTEN=]TARGET[,TARGET...][;option=value...]:

  6379=192.168.1.52:6379              on every address, to another host
  127.0.0.1:6379=redis:6379           on loopback, to a name; followed when it moves
  192.168.1.52:6379                   the same port on both sides
  5432=db1:5432,db2:5432              the next one when one fails
  8000-8010=web:8000-8010             a range
  6379=srv:_redis._tcp.example.org    hosts and ports from DNS (SRV records)
  6379=consul:redis                   instances that are registered in Consul
  6379=etcd:///services/redis         values in etcd
  6379=docker:redis                   containers on this host
  6379=file:endpoints.json            a list in a file
  53/udp=10.0.0.2:53                  UDP; 53/tcp+udp for both
  unix:/run/redis.sock=redis:6379     a unix socket, on either side
  '6379=redis:6379;hold=30s;name=db'  options for one link
  172.17.0.4 80                       host and port, as dokku/ambassador took them

With no LINK the environment says what to forward: LEGATE_LINKS (links separated
by spaces); else variables like REDIS_PORT_6379_TCP=tcp://192.168.1.52:6379; else
this container's --links, from a mounted Docker socket or from /etc/hosts. With that
socket, no --link and an agent's rights it is legate agent, as connectable was.

Every flag but --links is also a variable: --hold is LEGATE_HOLD. Consul, etcd and
Docker are found by the variables of their own tools: CONSUL_HTTP_ADDR,
CONSUL_HTTP_TOKEN, ETCDCTL_ENDPOINTS, ETCDCTL_USER, DOCKER_HOST and so on.`,
		Example: `  legate run 6379=192.168.1.52:6379
  legate run --hold 30s --state-dir /var/lib/legate 127.0.0.1:5432=db.example.org:5432
  docker run -d --link redis:redis -p 6379:6379 legate`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	r.command.RunE = func(c *cobra.Command, args []string) error { return r.start(c, args) }
	r.links.add(r.command)
	f := r.command.Flags()
	addToggle(f, toggle{"links", &r.fromLinks}, "forward what --link gave this container, and pass over LEGATE_LINKS")
	r.serving.add(f)
	return r
}

// start is the command: it reads what is wanted, and forwards.
func (r *runCommand) start(c *cobra.Command, args []string) error {
	if err := applyEnv(c, r.process, flagNames(c.Flags())); err != nil {
		return err
	}
	// A log whose reader is gone must not end every connection.
	signal.Ignore(syscall.SIGPIPE)
	err := untilSignals(c.Context(), func(first, second context.Context) error {
		return r.forward(first, second, c, args)
	})
	if errors.Is(err, daemon.ErrUnlinked) {
		return asConnectable(r.process, c, err)
	}
	return err
}

// forward serves until first ends, and then drains until second ends.
func (r *runCommand) forward(first, second context.Context, c *cobra.Command, args []string) error {
	wanted, err := r.wanted(first, c, args)
	if first.Err() != nil {
		return nil // it was told to stop while it still asked around
	}
	if err != nil {
		return err
	}
	return r.serving.serve(first, second, serve{
		process: r.process, flags: c.Flags(), notes: wanted.notes,
		config: daemon.Config{Links: wanted.links, Origins: wanted.origins, Sources: r.links.sources(r.process)},
	})
}

// wanted is what the command line and the environment ask for.
type wanted struct {
	links   []spec.Link
	origins []daemon.Origin
	notes   []string // to be logged once
}

func (r *runCommand) wanted(ctx context.Context, c *cobra.Command, args []string) (w wanted, err error) {
	if len(args) == 0 {
		return r.fromEnvironment(ctx)
	}
	if r.fromLinks {
		return w, usagef("leave out one of them", "--links asks for those of this container, and links are given")
	}
	if w.links, err = r.links.parse(c, args); err != nil {
		return w, err
	}
	if !inContainer(r.process) {
		w.notes = openToAll(w.links)
	}
	w.notes = append(w.notes, passedOver(r.process)...)
	if len(args) == 2 && len(w.links) == 1 {
		w.notes = append(w.notes, misspelt(c.Root(), args)...)
	}
	return w, nil
}

// fromEnvironment is what to forward when no LINK is given.
func (r *runCommand) fromEnvironment(ctx context.Context) (w wanted, err error) {
	o, err := daemon.ChooseOrigin(ctx, daemon.OriginConfig{
		Environ:   r.process.Environ,
		Parse:     r.links.config(),
		OnlyLinks: r.fromLinks,
	})
	if err != nil {
		return w, usage(err)
	}
	if s, ok := o.(daemon.Static); ok && !inContainer(r.process) {
		w.notes = openToAll(s.Links)
	}
	w.origins = []daemon.Origin{o}
	return w, nil
}

// misspelt warns of two arguments that are host and port, as dokku/ambassador
// took them, and look like a command.
func misspelt(root *cobra.Command, args []string) []string {
	near := spec.Suggest(args[0], namesOf(root))
	if near == "" {
		return nil
	}
	return []string{fmt.Sprintf("%[1]s %[2]s forwards port %[2]s to the host %[1]s; if a command was meant: legate %[3]s %[2]s", args[0], args[1], near)}
}

// untilSignals calls run with two contexts: the first ends at SIGTERM or
// Ctrl-C, the second at the second of them.
func untilSignals(ctx context.Context, run func(first, second context.Context) error) error {
	first, stop := context.WithCancel(ctx)
	second, now := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for _, end := range []func(){stop, now} {
			select {
			case <-signals:
				end()
			case <-done:
			}
		}
	})
	err := run(first, second)
	signal.Stop(signals)
	close(done)
	watching.Wait()
	stop()
	now()
	return err
}

// openToAll warns once where links listen on every address of a machine: what
// is right inside a container opens a service to the network outside of one.
func openToAll(links []spec.Link) []string {
	var texts, loopback []string
	seen := map[string]bool{}
	for _, l := range links {
		if l.Listen.Protocol == spec.Unix || l.Listen.Host != "" || seen[l.Text] || strings.HasPrefix(l.Text, "*:") {
			continue
		}
		seen[l.Text] = true
		texts = append(texts, l.Text)
		loopback = append(loopback, onLoopback(l))
	}
	if len(texts) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s listens on every address of this machine; for this machine only: legate %s (or --bind 127.0.0.1)",
		strings.Join(texts, " "), strings.Join(loopback, " "))}
}

// onLoopback writes the link with an address to listen on.
func onLoopback(l spec.Link) string {
	port := strconv.Itoa(int(l.Listen.Port))
	if strings.HasPrefix(l.Text, port) && strings.Contains(l.Text, "=") {
		return quote("127.0.0.1:" + l.Text)
	}
	l.Listen.Host = "127.0.0.1"
	return quote(l.String())
}

// quote keeps the semicolons of a link from the shell, and what else it takes
// for its own.
func quote(link string) string {
	if strings.ContainsAny(link, "; &?*$") {
		return "'" + link + "'"
	}
	return link
}

// inContainer tells whether an address is a container's own.
func inContainer(p Process) bool {
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(mark); err == nil {
			return true
		}
	}
	return p.getenv("container") != ""
}

// asUsage makes an error of links one of usage, and suggests a command for a
// bare word.
func asUsage(root *cobra.Command, err error) error {
	if e, ok := errors.AsType[*spec.CommandError](err); ok {
		return unknownCommand(root, e)
	}
	return usage(err)
}
