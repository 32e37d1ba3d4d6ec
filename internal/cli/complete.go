package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"legate/internal/control"
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

// completeLinks offers the names of the running links for the first argument.
func completeLinks(p Process, where *string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 || applyEnv(c, p, []string{"control"}) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, err := client(c, p, *where)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := found.Snapshot(c.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		for _, l := range s.Links {
			names = append(names, cobra.CompletionWithDesc(l.Name, "to "+l.Target))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
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
