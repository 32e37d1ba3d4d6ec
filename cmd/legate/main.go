// Command legate forwards TCP, UDP and unix links to wherever their services
// are now.
package main

import (
	"os"

	"legate/internal/cli"
)

func main() {
	os.Exit(cli.Main(cli.Process{Args: os.Args, Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}))
}
