package lab

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// run executes a command and returns what it printed; its error names the command and its complaint.
func run(ctx context.Context, argv ...string) (string, error) {
	return output(exec.CommandContext(ctx, argv[0], argv[1:]...))
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Poll calls done every 20 ms until it is true; when ctx ends first, it returns the reason that done
// gave last.
func Poll(ctx context.Context, done func() (bool, string)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, why := done()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", why, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
