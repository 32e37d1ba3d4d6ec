package cli

import (
	"context"
	"io"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/spf13/pflag"

	"legate/internal/control"
	"legate/internal/daemon"
	"legate/internal/systemd"
)

// servingFlags are those of every command that serves until it is told to stop.
type servingFlags struct {
	drain          time.Duration
	logFormat      string
	logLevel       string
	logConnections bool
	control        string
	stateDir       string
	engine         string
}

func (s *servingFlags) add(f *pflag.FlagSet) {
	s.drain = 8 * time.Second
	f.Var(duration{"drain", &s.drain, 0}, "drain", "how long live connections may take to end at SIGTERM; 0: not at all")
	s.logFormat, s.logLevel = "text", "info"
	f.Var(choice{"log", &s.logFormat, []string{"text", "json"}}, "log", "form of the log on stderr")
	f.Var(choice{"log-level", &s.logLevel, []string{"debug", "info", "warn", "error"}}, "log-level", "least level that is logged")
	addToggle(f, toggle{"log-connections", &s.logConnections}, "log one line per connection when it ends")
	f.Var(place{&s.control}, "control", "control socket: a name, a path, or off (default legate, in /run/legate)")
	s.engine = string(daemon.EngineEpoll)
	f.Var(choice{"engine", &s.engine, []string{string(daemon.EngineEpoll), string(daemon.EngineNet)}}, "engine", "how bytes are moved; net, a goroutine per direction, is for comparison")
	f.StringVar(&s.stateDir, "state-dir", "", "`DIRECTORY` to keep swaps, pauses and drains in, so that they survive a restart")
}

// serve is what is to be served.
type serve struct {
	process Process
	flags   *pflag.FlagSet
	notes   []string      // to be logged once
	config  daemon.Config // what the flags do not say
}

// serve serves until first ends, and then drains until second ends.
func (s *servingFlags) serve(first, second context.Context, what serve) error {
	log, flush := startLog(what.process.Stderr, s.logHandler)
	defer flush()
	unknown := unknownVariables(what.process, what.flags)
	for _, w := range append(what.notes, unknown...) {
		log.Warn(w)
	}
	loops, restore := tuneRuntime()
	defer restore()
	cfg := what.config
	cfg.Warnings = unknown
	cfg.Control, cfg.Places = s.control, control.DefaultPlaces(what.process.getenv)
	cfg.StateDir, cfg.Drain, cfg.LogConnections = s.stateDir, s.drain, s.logConnections
	cfg.Engine, cfg.Loops, cfg.Version, cfg.Log = daemon.EngineName(s.engine), loops, versionText(), log
	m, err := systemd.New(systemd.Config{Environ: what.process.Environ, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	for _, name := range systemd.Variables() {
		_ = os.Unsetenv(name) // they are not for what we start
	}
	cfg.Manager = m
	var d *daemon.Daemon
	telling := tell{manager: m, stop: first, drain: s.drain, alive: func() { d.Snapshot() }}
	cfg.Ready = func(address string) {
		log.Info("ready", "version", versionText(), "control", address)
		telling.ready()
	}
	d = daemon.New(cfg)
	defer telling.end()
	defer context.AfterFunc(second, d.Cut)()
	return d.Run(first)
}

// tuneRuntime returns how many loops shall carry bytes: one per usable core. The
// scheduler gets one processor more than there are loops: without an idle one
// its monitor takes a loop's away each time that it waits for events (retake in
// runtime/proc.go), and wakes every 20 us to look for that. From then on the
// number of loops is fixed: a CPU limit that changes later is not followed.
func tuneRuntime() (loops int, restore func()) {
	loops = runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(loops + 1)
	return loops, func() { runtime.GOMAXPROCS(loops) }
}

func (s *servingFlags) logHandler(w io.Writer) slog.Handler {
	var level slog.Level
	// The flag took only the names of levels.
	_ = level.UnmarshalText([]byte(s.logLevel))
	o := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}
