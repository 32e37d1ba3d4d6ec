package cli

import (
	"context"
	"os"
	"strings"
	"time"

	"legate/internal/docker"
	"legate/internal/spec"
)

const dockerPatience = 3 * time.Second

// lookDocker tells whether the engine answers, where somebody wanted it to: a
// link's own words need no engine.
func lookDocker(ctx context.Context, p Process, h host, a asked, agent bool) []finding {
	engine := docker.FromEnvironment(p.getenv)
	if engine.Host == "" {
		if _, err := os.Stat(strings.TrimPrefix(docker.DefaultHost, "unix://")); !agent && (err != nil || !h.container) {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dockerPatience)
	defer cancel()
	client, err := docker.NewClient(engine)
	version := ""
	if err == nil {
		defer client.Close()
		version, err = client.APIVersion(ctx)
	}
	return []finding{judgeDocker(version, err, agent || a.none != nil)}
}

// judgeDocker: without any other link the engine is where they would come from.
func judgeDocker(version string, err error, needed bool) finding {
	const about = "docker"
	switch {
	case err != nil && needed:
		return missing(about, spec.HintOf(err), "%v", err)
	case err != nil:
		return weak(about, spec.HintOf(err), "%v; no link needs it", err)
	}
	return fine(about, "the engine answers, API %s", version)
}
