// Package etcd asks etcd, by its v3 protocol, for what is below a key, and
// watches it.
//
// Keys are read as ambassadord read them: the values of the children of a key
// (PATH/NAME), else the value at the key itself. In etcd v2 keys were paths
// that began with a slash; in v3 they are plain strings, and tools differ in
// whether they write one in front. Both spellings are one question here:
// /PATH and PATH are both read and watched, and what exists is used.
//
// It speaks gRPC with etcd's own messages, and not through etcd's client: that
// one resumes a lost watch by itself, from the revision where it was. A server
// that came back without its data has not reached this revision, and such a
// watch waits for it without a word while everything below the key is new
// (https://etcd.io/docs/v3.5/learning/api/#watch-streams). Here every break
// ends the watch, and the next one begins by reading everything anew.
package etcd

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"legate/internal/discover"
	"legate/internal/spec"
)

// Config says where etcd is and who asks it.
type Config struct {
	// Getenv gives the variables of etcdctl; nil: those of the process.
	// ETCDCTL_ENDPOINTS (commas between them; unset: 127.0.0.1:2379) is for
	// targets that name no server. For all targets are ETCDCTL_USER
	// (USER:PASSWORD, or USER with ETCDCTL_PASSWORD), ETCDCTL_CACERT,
	// ETCDCTL_CERT, ETCDCTL_KEY, ETCDCTL_INSECURE_SKIP_TLS_VERIFY and
	// ETCDCTL_DIAL_TIMEOUT (unset: 2s). They and the files that they name are
	// read at each new connection.
	Getenv func(string) string
}

// Source is etcd as a [discover.Source] for targets of [spec.SourceEtcd]. All
// questions for one server share one connection, which is closed when the last
// of their watches ends.
type Source struct {
	getenv func(string) string
	reread time.Duration // how often nothing is looked for anew where the user may not read all

	mu      sync.Mutex
	clients map[string]*client // by the Host of targets; guarded by mu
}

// New returns a source. It connects to nothing before the first Watch.
func New(c Config) *Source {
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	return &Source{getenv: c.Getenv, reread: discover.Ceiling, clients: make(map[string]*client)}
}

// Watch implements [discover.Source]. What it reads at its start is weak
// evidence of absence: the server may have lost its data. So is what only
// adds: that one service registers again says nothing of the others. A key
// that is deleted, runs out with its lease or gets another value under the
// eyes of the watch is strong.
func (s *Source) Watch(ctx context.Context, q discover.Query, set func(discover.Result)) error {
	path := strings.Trim(q.Target.Path, "/")
	if path == "" {
		return spec.Errorf("name the key: etcd://HOST:PORT/KEY", "an etcd target needs a key")
	}
	for {
		began := time.Now()
		overtaken, err := s.follow(ctx, q.Target.Host, path, set)
		// A compaction overtook a watch that was slow, or the user may read more
		// by now: reading anew mends it.
		// One that is overtaken again at once is the core's to pause.
		if !overtaken || time.Since(began) < discover.Floor {
			return err
		}
	}
}

// follow is one life of a watch on one connection; overtaken: it ended since
// what it had not read yet was compacted, or may be readable by now.
func (s *Source) follow(ctx context.Context, host, path string, set func(discover.Result)) (overtaken bool, err error) {
	c, err := s.acquire(host)
	if err != nil {
		return false, err
	}
	w := &watch{client: c, path: path, set: set, reread: s.reread, values: make(map[string]string)}
	err = w.run(ctx)
	s.release(c, c.broken(err))
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return errors.Is(err, errCompacted) || errors.Is(err, errMayRead), c.explain(ctx, path, err)
}

// acquire gives the connection for a target's Host, which is to be released.
// It does not wait for the network.
func (s *Source) acquire(host string) (*client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[host]
	if c == nil {
		settings, err := readSettings(host, s.getenv)
		if err != nil {
			return nil, err
		}
		if c, err = dial(settings); err != nil {
			return nil, err
		}
		c.host = host
		s.clients[host] = c
	}
	c.users++
	return c, nil
}

// release gives a connection back. A broken one is for nobody new: gRPC would
// pause for up to two minutes before it connects again, and the core has a
// pause of its own.
func (s *Source) release(c *client, broken bool) {
	s.mu.Lock()
	c.users--
	last := c.users == 0
	if (last || broken) && s.clients[c.host] == c {
		delete(s.clients, c.host)
	}
	s.mu.Unlock()
	if last {
		_ = c.conn.Close()
	}
}
