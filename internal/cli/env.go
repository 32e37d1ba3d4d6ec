package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"legate/internal/spec"
)

const (
	envPrefix = "LEGATE_"
	envLinks  = "LEGATE_LINKS"
)

func (p Process) getenv(name string) string {
	for _, v := range slices.Backward(p.Environ) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// variable is where a flag can also be set. --links has none: LEGATE_LINKS
// holds links. LEGATE_VERSION is what people call the tag of an image. What makes
// a command another one is for who types it.
func variable(flag string) string {
	if slices.Contains([]string{"help", "links", "version", "audit", "json"}, flag) {
		return ""
	}
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applyEnv sets the named flags from the environment, where the command line
// does not. An empty variable counts as none: Compose passes those on.
func applyEnv(c *cobra.Command, p Process, names []string) error {
	for _, name := range names {
		f := c.Flags().Lookup(name)
		value := p.getenv(variable(name))
		if f.Changed || value == "" {
			continue
		}
		if err := f.Value.Set(value); err != nil {
			hint := "see legate run --help"
			if u, ok := errors.AsType[*spec.UserError](err); ok {
				hint = u.Hint
			}
			return usagef(hint, "variable %s=%s: %v", variable(name), value, err)
		}
	}
	return nil
}

// flagNames lists the flags of a command that have a variable.
func flagNames(flags *pflag.FlagSet) []string {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if variable(f.Name) != "" {
			names = append(names, f.Name)
		}
	})
	return names
}

// unknownVariables warns of variables that look like options and are none: a
// misspelt one would go unnoticed otherwise.
func unknownVariables(p Process, flags *pflag.FlagSet) []string {
	known := []string{envLinks}
	for _, name := range flagNames(flags) {
		known = append(known, variable(name))
	}
	var warnings []string
	for _, v := range p.Environ {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(known, name) || ofLink(name) {
			continue
		}
		w := fmt.Sprintf("variable %s is not one of legate's", name)
		if near := spec.Suggest(name, known); near != "" {
			w += ": did you mean " + near + "?"
		}
		warnings = append(warnings, w)
	}
	return warnings
}

// passedOver warns of links in the environment, which are not read where links
// are given: somebody may wait for both.
func passedOver(p Process) []string {
	names := spec.LinkVariables(p.Environ)
	if p.getenv(envLinks) != "" {
		names = append([]string{envLinks}, names...)
	}
	if len(names) == 0 {
		return nil
	}
	return []string{"links are given as arguments, so those in the environment are not read: " + strings.Join(names, ", ")}
}

// ofLink tells the variables that Docker sets for a container that was linked
// as "legate".
func ofLink(name string) bool {
	rest := strings.TrimPrefix(name, envPrefix)
	return rest == "NAME" || rest == "PORT" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "ENV_")
}
