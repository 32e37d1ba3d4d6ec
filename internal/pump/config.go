package pump

import (
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"time"
)

// Config sets up an engine. The zero value is useful.
type Config struct {
	// Loops of the engine on epoll; 0 means one per usable core.
	Loops int
	// Log hears about accepting that had to pause; nil discards.
	Log *slog.Logger
	// VanishAfter is how long a side may be silent about data that waits for
	// its acknowledgement. 0 means two minutes.
	VanishAfter time.Duration
	// SweepEvery is how often sides are asked. 0 means 15 s.
	SweepEvery time.Duration
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.VanishAfter == 0 {
		c.VanishAfter = 2 * time.Minute
	}
	if c.SweepEvery == 0 {
		c.SweepEvery = 15 * time.Second
	}
	if c.Loops <= 0 {
		c.Loops = runtime.GOMAXPROCS(0)
	}
	return c
}

// EngineName names a way of moving bytes.
type EngineName string

// The engines.
const (
	EngineEpoll EngineName = "epoll" // NewEpoll, the default
	EngineNet   EngineName = "net"   // NewNet
)

// New returns the engine of that name; "" is the default.
func New(name EngineName, cfg Config) (Engine, error) {
	switch name {
	case "", EngineEpoll:
		return NewEpoll(cfg)
	case EngineNet:
		return NewNet(cfg)
	}
	return nil, fmt.Errorf("no engine %q", name)
}

// UnixOptions are the access rights of a unix listening socket.
type UnixOptions struct {
	Mode fs.FileMode // permission bits
	GID  int         // owning group; negative leaves it unchanged
}
