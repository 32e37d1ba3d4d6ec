package cli

import (
	"context"
	"os"
	"slices"
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
	found := []finding{judgeDocker(version, err, agent || a.none != nil)}
	if err == nil && (agent || a.names(spec.SourceDocker)) {
		found = append(found, judgeImages(client.MayAskImages(ctx), agent))
	}
	return found
}

// names tells whether a link has a target in that source.
func (a asked) names(source string) bool {
	return slices.ContainsFunc(a.links, func(l spec.Link) bool {
		return slices.ContainsFunc(l.Targets, func(t spec.Target) bool { return t.Source == source })
	})
}

// judgeImages: an agent gives no links to a container whose own labels it
// cannot tell from those of its image.
func judgeImages(err error, agent bool) finding {
	const about = "images"
	switch {
	case err != nil && agent:
		return missing(about, spec.HintOf(err), "containers with labels get no links: %v", err)
	case err != nil:
		return weak(about, spec.HintOf(err), "labels that name services are believed though an image may have them: %v", err)
	}
	return fine(about, "the engine tells which labels are of an image")
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
