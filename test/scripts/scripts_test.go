// Package scripts runs the scenarios in testdata, which are also the
// documentation of the command line: every command against a real process and
// real small servers. Run one with: go test ./test/scripts -run TestScripts/swap
package scripts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"legate/internal/cli"
	"legate/internal/control"
)

// nobody runs the commands when the tests run as root: what works without root
// works with it, and /run/legate of this machine is out of reach.
const nobody = 65534

// patience is longer than anything here takes.
const patience = 20 * time.Second

// The test binary is also every command of the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"legate":    runLegate,
		"image-env": runEnv,
		"serve":     serve,
		"ask":       ask,
		"talk":      talk,
		"curl":      curl,
		"squat":     squat,
		"mute":      mute,
		"closer":    closer,
		"mode":      mode,
	})
}

func runLegate() { runAs(typed()) }

// typed is the path by which this process was started; testscript leaves only
// its last part in os.Args.
func typed() string {
	line, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		return os.Args[0]
	}
	first, _, _ := strings.Cut(string(line), "\x00")
	return first
}

// runEnv is legate under the name that it also has in the image.
func runEnv() { runAs("/bin/env") }

func runAs(name string) {
	if err := dropRoot(); err != nil {
		fail(err)
	}
	args := append([]string{name}, os.Args[1:]...)
	os.Exit(cli.Main(cli.Process{Args: args, Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}))
}

func dropRoot() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":    await,
			"exits":    exits,
			"term":     term,
			"listed":   listed,
			"accepted": accepted,
			"refused":  refused,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// setup gives a script directories that the commands may write, and ports.
func setup(env *testscript.Env) error {
	run := filepath.Join(env.WorkDir, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		return err
	}
	env.Setenv("XDG_RUNTIME_DIR", run)
	// A program under the race detector waits for a second at its end.
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	env.Setenv("S", filepath.Join(run, "legate"))
	for i := range 6 {
		env.Setenv("P"+strconv.Itoa(i), strconv.Itoa(freePort()))
	}
	if os.Geteuid() != 0 {
		return nil
	}
	return openUp(env.WorkDir)
}

// openUp gives the directory to nobody, and lets nobody get there.
func openUp(dir string) error {
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	for up := filepath.Dir(dir); err == nil && up != filepath.Clean(os.TempDir()) && up != "/"; up = filepath.Dir(up) {
		err = os.Chmod(up, 0o755)
	}
	return err
}

var nextPort atomic.Int32

// freePort returns a port below those that the kernel gives to clients, each
// once: scripts run at the same time.
func freePort() int {
	for {
		port := 18000 + (os.Getpid()*61+int(nextPort.Add(1)))%14000
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
}

// await REGEXP COMMAND...: runs the command until its output matches.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await REGEXP COMMAND...")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	until(ts, "no output of "+strings.Join(args[1:], " ")+" matched "+args[0], func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && want.MatchString(ts.ReadFile("stdout"))
	})
}

// listed REGEXP COMMAND...: runs the command, which fails, until its error
// matches.
func listed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: listed REGEXP COMMAND...")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	until(ts, "no error of "+strings.Join(args[1:], " ")+" matched "+args[0], func() bool {
		return ts.Exec(args[1], args[2:]...) != nil && want.MatchString(ts.ReadFile("stderr"))
	})
}

// accepted ADDRESS: waits until somebody listens there.
func accepted(ts *testscript.TestScript, _ bool, args []string) {
	until(ts, "nobody listens on "+args[0], func() bool { return connects(args[0]) })
}

// refused ADDRESS: waits until nobody listens there.
func refused(ts *testscript.TestScript, _ bool, args []string) {
	until(ts, "somebody listens on "+args[0], func() bool { return !connects(args[0]) })
}

func connects(address string) bool {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func until(ts *testscript.TestScript, otherwise string, cond func() bool) {
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			ts.Fatalf("%s", otherwise)
		}
		<-time.After(5 * time.Millisecond) // the machine has other things to do
	}
}

// exits CODE COMMAND...: runs the command, which must exit with this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s\n%s", code, args[0], ts.ReadFile("stderr"))
	}
}

// term SIGNAL [NAME]: sends SIGTERM or SIGINT to the legate of that name.
func term(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT}
	if neg || len(args) < 1 || len(args) > 2 || signals[args[0]] == 0 {
		ts.Fatalf("usage: term SIGTERM|SIGINT [NAME]")
	}
	where := control.DefaultName
	if len(args) == 2 {
		where = args[1]
	}
	c := control.NewClient(filepath.Join(ts.Getenv("S"), where+".sock"))
	s, err := c.Snapshot(context.Background())
	ts.Check(err)
	ts.Check(syscall.Kill(s.PID, signals[args[0]]))
}
