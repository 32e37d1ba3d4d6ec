// Package cli is the command line: it reads arguments and variables, starts a
// daemon or talks to a running one, and says the outcome in words.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"legate/internal/control"
	"legate/internal/runc"
	"legate/internal/spec"
)

// Exit codes of every command.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Process is what a command line has from its process.
type Process struct {
	Args    []string // with the program's own path first
	Environ []string
	Stdout  io.Writer
	Stderr  io.Writer
}

// Main runs one command line and returns its exit code.
func Main(p Process) int {
	if filepath.Base(p.Args[0]) == "env" {
		return printEnv(p)
	}
	if args, is := runtimeArgs(p.Args); is {
		return runc.Main(runc.Process{Args: args, Environ: p.Environ, Stderr: p.Stderr})
	}
	out := &output{Writer: p.Stdout}
	p.Stdout = out
	root := Root(p)
	root.SetArgs(asAgent(p.Args[1:]))
	err := out.judge(root.ExecuteContext(context.Background()))
	if err == nil {
		return exitDone
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		printError(p.Stderr, err)
		return exitUsage
	}
	printFailure(p.Stderr, err)
	return exitFailed
}

// output remembers that what a command printed did not get out: a script that
// keeps it must not take a part for the whole.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// judge returns the error of a command that printed here.
func (o *output) judge(err error) error {
	if o.err == nil || err != nil && !errors.Is(err, o.err) {
		return err
	}
	return spec.Errorf("see what takes it: a full disk, perhaps, or a program that ended", "print: %v", o.err)
}

// printEnv answers `docker exec NAME env` in an image that has no shell: the
// ambassadors of old were asked that way what they are linked to.
func printEnv(p Process) int {
	if len(p.Args) > 1 {
		printError(p.Stderr, spec.Errorf("run it without arguments", "this env only prints the environment"))
		return exitUsage
	}
	for _, v := range p.Environ {
		fmt.Fprintln(p.Stdout, v)
	}
	return exitDone
}

func printError(w io.Writer, err error) {
	u, ok := errors.AsType[*spec.UserError](err)
	if !ok {
		fmt.Fprintf(w, "error: %v\n", err)
		return
	}
	fmt.Fprintf(w, "error: %s\n", u.What)
	if u.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", u.Hint)
	}
}

// usageError is an error in what was typed: exit code 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

func usagef(hint, format string, args ...any) error {
	return usage(spec.Errorf(hint, format, args...))
}

// Root returns the command tree.
func Root(p Process) *cobra.Command {
	run := newRun(p)
	root := &cobra.Command{
		Use:   "legate [LINK...]",
		Short: "Stand between clients and the service they use, wherever it is now",
		Long: `Legate is an ambassador: clients talk to an address next to them, and Legate
carries the bytes to wherever the service is now. When the service moves, the
ambassador changes and the client does not notice.

  client -> legate -> server                         on one host
  client -> legate -> network -> legate -> server    on two hosts

legate LINK... is short for legate run LINK...; see legate run --help for what a
link is. The other commands talk to a running legate.`,
		Example: `  legate 6379=192.168.1.52:6379
  legate status
  legate why 192.168.1.7 6379
  legate swap 6379 192.168.1.53:6379`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		Version:           describeVersion(), // --version, as people try it
		SilenceErrors:     true,
		SilenceUsage:      true,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.RunE = func(_ *cobra.Command, args []string) error { return run.start(root, args) }
	root.Flags().AddFlagSet(run.command.Flags())
	root.AddCommand(run.command, newAgent(p), newStatus(p), newWhy(p), newSwap(p), newPause(p), newDrain(p), newResume(p), newValidate(p), newDoctor(p), newDemo(p), newRunc(), newVersion(p))
	root.SetHelpCommand(newHelp())
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	root.SetFlagErrorFunc(flagError)
	addCompletion(root)
	completeFlags(root, p)
	return root
}

// flagError gives what cobra says about flags our form.
func flagError(c *cobra.Command, err error) error {
	help := "see " + c.CommandPath() + " --help"
	if u, ok := errors.AsType[*spec.UserError](err); ok {
		return usage(u)
	}
	if n, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := spec.Suggest(n.GetSpecifiedName(), names); near != "" {
			help = "did you mean --" + near + "?"
		}
	}
	return usagef(help, "%v", err)
}

// unknownCommand suggests the command that a bare word may have meant.
func unknownCommand(root *cobra.Command, e *spec.CommandError) error {
	if slices.Contains(namesOf(root), e.Word) {
		return usagef("write it first: legate "+e.Word, "%q is a command, and stands where links do", e.Word)
	}
	if near := spec.Suggest(e.Word, namesOf(root)); near != "" {
		return usagef("did you mean: legate "+near, "%q is neither a command nor a link", e.Word)
	}
	return usage(e)
}

// newHelp replaces cobra's own, which succeeds for a command that is not there.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Long:    "Explains a command, as its flag --help does.",
		Example: "  legate help swap",
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return namesOf(c.Root()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			found, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return noHelp(c.Root(), strings.Join(args, " "))
			}
			return found.Help()
		},
	}
}

func noHelp(root *cobra.Command, words string) error {
	hint := "the commands are " + strings.Join(namesOf(root), ", ")
	if near := spec.Suggest(words, namesOf(root)); near != "" {
		hint = "did you mean: legate help " + near
	}
	return usagef(hint, "there is no command %q", words)
}

// exactly checks the number of positional arguments and names them.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		help := "see " + c.CommandPath() + " --help"
		if len(names) == 0 {
			return usagef(help, "%s takes no argument, and %q is one", c.CommandPath(), args[0])
		}
		given := "1 argument"
		if len(args) != 1 {
			given = fmt.Sprintf("%d arguments", len(args))
		}
		return usagef(help, "%s takes %s, not %s", c.CommandPath(), strings.Join(names, " and "), given)
	}
}

// client finds the running instance that a verb is about.
func client(c *cobra.Command, p Process, where string) (*control.Client, error) {
	return control.Find(c.Context(), where, control.DefaultPlaces(p.getenv))
}

// interruptible ends a verb's asking at Ctrl-C, so that it can say what holds
// all the same.
func interruptible(c *cobra.Command) (ctx context.Context, stop func()) {
	return signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
}

// addControl adds the flag that every verb has.
func addControl(c *cobra.Command, where *string) {
	c.Flags().Var(place{where}, "control", "which legate: the name or path of its control socket")
}

// addJSON adds the flag by which a verb prints what the control socket said.
func addJSON(c *cobra.Command, on *bool) {
	addToggle(c.Flags(), toggle{"json", on}, "print JSON")
}

func (p Process) printJSON(v any) error {
	e := json.NewEncoder(p.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// command is one that can be copied as it stands.
func (p Process) command(control, verb string, words ...string) string {
	all := []string{p.Args[0], verb}
	if control != "" {
		all = append(all, "--control", control)
	}
	return strings.Join(append(all, words...), " ")
}

// tellKept says how long what an operator asked for will hold.
func tellKept(w io.Writer, file string) {
	if file == "" {
		fmt.Fprintln(w, "this ends with the process; legate run --state-dir DIRECTORY keeps it over restarts")
		return
	}
	fmt.Fprintf(w, "kept over restarts in %s\n", file)
}
