package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"
)

// runtimeName is what the program is called where an engine takes only a path.
const runtimeName = "legate-runc"

// runtimeArgs returns the arguments for the OCI runtime, if this is a call of
// it. They are runc's own, --help too, and nothing here may read them.
func runtimeArgs(args []string) ([]string, bool) {
	switch {
	case filepath.Base(args[0]) == runtimeName:
		return args[1:], true
	case len(args) < 2 || args[1] != "runc":
		return nil, false
	case len(args) == 3 && (args[2] == "--help" || args[2] == "-h"):
		return nil, false // somebody asks what this is
	}
	return args[2:], true
}

// newRunc is only the explanation: Main has sent calls elsewhere.
func newRunc() *cobra.Command {
	return &cobra.Command{
		Use:   "runc [OPTION...] ARGUMENT...",
		Short: "Be the container runtime, and start containers when their links are open",
		Long: `Stands where Docker expects runc, and passes everything on to it unchanged. Before
a container that asks for links is started, it waits until the agent has opened
them, so that its first connect finds them however busy the host is. Containers
without links never wait, nor do any where no agent runs.

Link it as legate-runc beside legate, and register it with the engine:

  ln -s legate /usr/local/bin/legate-runc
  dockerd --add-runtime legate=/usr/local/bin/legate-runc

or in daemon.json, with options, followed by systemctl reload docker:

  {"runtimes": {"legate": {"path": "/usr/local/bin/legate-runc",
                           "runtimeArgs": ["--legate-closed"]}}}

Then docker run --runtime legate, or "default-runtime": "legate" for all. An agent
in a container needs -v /run/legate:/run/legate, so that it can be asked.

Options come before those of runc; the variables are for the engine's environment:

  --legate-wait 2s          for how long a container waits at most (LEGATE_RUNC_WAIT)
  --legate-closed           if the agent does not answer in time, or there is none, a
                            container with links fails to start; otherwise it starts
                            all the same (LEGATE_RUNC_CLOSED=true)
  --legate-control PATH     the agent's control socket (LEGATE_RUNC_CONTROL; default
                            /run/legate/legate.sock)
  --legate-runc PATH        the real runc (LEGATE_RUNC; default: the first in PATH)`,
		Example: `  docker run --runtime legate --label connect.6379=redis IMAGE
  legate runc --version`,
		DisableFlagParsing: true,
		ValidArgsFunction:  cobra.NoFileCompletions,
		RunE:               func(c *cobra.Command, _ []string) error { return c.Help() },
	}
}
