package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"legate/internal/daemon"
	"legate/internal/spec"
)

// omniFlags are those of ambassadord's omni mode.
type omniFlags struct {
	mode    bool
	setUp   bool
	cleanUp bool
}

// asOld are the command lines of ambassadord that had no command.
func asOld() []string { return []string{"--omnimode", "--setup-iptables"} }

// asAgent gives ambassadord's command lines the command that they are for.
func asAgent(args []string) []string {
	if len(args) > 0 && slices.Contains(asOld(), args[0]) {
		return append([]string{"agent"}, args...)
	}
	return args
}

func (o *omniFlags) add(f *pflag.FlagSet) {
	addToggle(f, toggle{"omnimode", &o.mode}, "also serve clients of ambassadord: those that connect to this container, at any port for which they have a variable BACKEND_PORT=TARGET")
	addToggle(f, toggle{"setup-iptables", &o.setUp}, "start nothing: redirect every port of this network for --omnimode, which does so itself where it may")
	addToggle(f, toggle{"clean-up", &o.cleanUp}, "start nothing: remove the redirect of --omnimode that a crash left behind")
	_ = f.MarkHidden("setup-iptables") // it is there
}

// once does what is done without an agent; done says that there is no more to
// do.
func (o *omniFlags) once(c *cobra.Command, p Process) (done bool, err error) {
	count := 0
	for _, on := range []bool{o.mode, o.setUp, o.cleanUp} {
		if on {
			count++
		}
	}
	switch {
	case count > 1:
		return true, usagef("use one of them", "--omnimode, --setup-iptables and --clean-up are different things to do")
	case o.setUp:
		if err = daemon.SetUpOmni(); err == nil {
			fmt.Fprintf(p.Stdout, "every TCP port of this network now leads to %d; %s --clean-up takes that back\n", spec.OmniPort, c.CommandPath())
		}
		return true, err
	case o.cleanUp:
		if err = daemon.CleanUpOmni(); err == nil {
			fmt.Fprintln(p.Stdout, "no port of this network is redirected by Legate")
		}
		return true, err
	}
	return false, nil
}
