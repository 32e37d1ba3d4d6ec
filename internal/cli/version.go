package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker; see the Makefile.
var version string

func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}

func system() string { return runtime.GOOS + "/" + runtime.GOARCH }

func describeVersion() string {
	return fmt.Sprintf("legate %s (%s, %s)", versionText(), runtime.Version(), system())
}

func newVersion(p Process) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Long:    "Prints the version of this program. That of a running legate is in legate status.",
		Example: "  legate version",
		Args:    exactly(),

		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return json.NewEncoder(p.Stdout).Encode(map[string]string{"version": versionText(), "go": runtime.Version(), "system": system()})
			}
			_, err := fmt.Fprintln(p.Stdout, describeVersion())
			return err
		},
	}
	addToggle(c.Flags(), toggle{"json", &asJSON}, "print JSON")
	return c
}
