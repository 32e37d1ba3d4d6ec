package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"legate/internal/control"
	"legate/internal/spec"
)

// completeFlags offers the values that flags take, and never files where none
// can stand.
func completeFlags(c *cobra.Command, p Process) {
	for _, sub := range c.Commands() {
		completeFlags(sub, p)
	}
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if _, known := c.GetFlagCompletionFunc(f.Name); known || f.Value.Type() == "bool" {
			return
		}
		// It fails for a flag that is known, and that was just asked.
		_ = c.RegisterFlagCompletionFunc(f.Name, valuesOf(f, p))
	})
}

func valuesOf(f *pflag.Flag, p Process) cobra.CompletionFunc {
	switch kind := f.Value.Type(); {
	case f.Name == "state-dir":
		return cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
	case f.Name == "control":
		return completeInstances(p)
	case strings.Contains(kind, "|"):
		return cobra.FixedCompletions(strings.Split(kind, "|"), cobra.ShellCompDirectiveNoFileComp)
	}
	return cobra.NoFileCompletions
}

// completeInstances offers the names of those that run; a path is for the
// shell to complete.
func completeInstances(p Process) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if strings.Contains(typed, "/") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return control.Names(c.Context(), control.DefaultPlaces(p.getenv)), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeLinks offers the names of the running links for the argument at that
// place.
func completeLinks(p Process, where *string, at int) cobra.CompletionFunc {
	return completeRunning(p, where, at, func(s spec.Snapshot) (names []cobra.Completion) {
		for _, l := range s.Links {
			names = append(names, cobra.CompletionWithDesc(l.Name, "to "+l.Target))
		}
		return names
	})
}

// completeNames offers links and endpoints.
func completeNames(p Process, where *string) cobra.CompletionFunc {
	return completeRunning(p, where, 0, func(s spec.Snapshot) (names []cobra.Completion) {
		for _, l := range s.Links {
			names = append(names, cobra.CompletionWithDesc(l.Name, "link to "+l.Target))
		}
		seen := map[string]bool{}
		for _, l := range s.Links {
			for _, e := range l.Endpoints {
				if !seen[e.Address] {
					seen[e.Address] = true
					names = append(names, cobra.CompletionWithDesc(e.Address, "endpoint of "+l.Name))
				}
			}
		}
		return names
	})
}

// completeCaller offers the one caller that has a name, and then links.
func completeCaller(p Process, where *string) cobra.CompletionFunc {
	links := completeLinks(p, where, 1)
	return func(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return []cobra.Completion{spec.UnixCaller}, cobra.ShellCompDirectiveNoFileComp
		}
		return links(c, args, typed)
	}
}

// keypress is how long a shell may stand still for a completion.
const keypress = time.Second

// completeRunning asks the running legate; where it cannot, there is nothing to
// offer.
func completeRunning(p Process, where *string, at int, offers func(spec.Snapshot) []cobra.Completion) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) != at || applyEnv(c, p, []string{"control"}) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), keypress)
		defer cancel()
		c.SetContext(ctx)
		s, err := snapshot(c, p, *where)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return offers(s), cobra.ShellCompDirectiveNoFileComp
	}
}

// addCompletion adds cobra's own command, which prints its help and succeeds
// for a shell that it does not know.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		for _, shell := range c.Commands() {
			shell.Args = exactly()
		}
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return usagef("write one of: "+strings.Join(namesOf(c), ", "), "there is no completion for %s", args[0])
		}
	}
}

func namesOf(c *cobra.Command) []string {
	var names []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			names = append(names, sub.Name())
		}
	}
	return names
}
