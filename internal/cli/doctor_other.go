//go:build !linux

package cli

import (
	"errors"

	"legate/internal/spec"
)

// Where nothing is forwarded, nothing of this is looked at: doctor says so and
// asks a running legate only.
func lookSystem([]spec.Link) grants       { return grants{} }
func onHostNetwork() bool                 { return false }
func listenRules() (int, bool)            { return 0, false }
func tryBind(spec.Listen) error           { return errors.ErrUnsupported }
func holderOf(spec.Listen) holder         { return holder{} }
func lookDirectory(path string) directory { return directory{path: path, err: errors.ErrUnsupported} }
func lookExisting(path string) directory  { return lookDirectory(path) }

func lookRights(host) rights { return rights{} }
