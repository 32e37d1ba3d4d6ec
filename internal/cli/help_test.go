package cli

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		walk(sub, visit)
	}
}

func tree() *cobra.Command {
	root := Root(Process{Args: []string{"legate"}, Stdout: io.Discard, Stderr: io.Discard})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("help")
	return root
}

func TestHelp_EveryCommandAndFlagIsExplained(t *testing.T) {
	walk(tree(), func(c *cobra.Command) {
		if c.Short == "" || c.Long == "" && c.Example == "" {
			t.Errorf("%s has no Short, or neither Long nor Example", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no help", c.CommandPath(), f.Name)
			}
		})
	})
}

func TestHelp_TextFitsATerminal(t *testing.T) {
	walk(tree(), func(c *cobra.Command) {
		if c.CommandPath() == "legate completion" || strings.HasPrefix(c.CommandPath(), "legate completion ") {
			return // cobra's own words
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len(line) > 90 {
				t.Errorf("%s has a line of %d characters: %s", c.CommandPath(), len(line), line)
			}
		}
	})
}

// A flag of run that did not work on the root would break `legate LINK`.
func TestRoot_TakesTheFlagsOfRun(t *testing.T) {
	root := tree()
	run, _, err := root.Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	run.Flags().VisitAll(func(f *pflag.Flag) {
		if root.Flags().Lookup(f.Name) == nil {
			t.Errorf("the root has no --%s", f.Name)
		}
	})
}
