package cli

import (
	"errors"
	"strings"
	"testing"

	"legate/internal/spec"
)

// granted is a container that was started as the README says.
func granted() rights {
	return rights{admin: true, ptrace: true, namespaces: "/var/run/docker/netns"}
}

func TestDoctor_SaysWhichFlagGrantsWhatAnAgentNeeds(t *testing.T) {
	for _, c := range []struct {
		flags string
		lack  func(*rights)
		v     verdict
	}{
		{"--cap-add SYS_ADMIN", func(r *rights) { r.admin = false }, verdictMissing},
		{"--cap-add SYS_PTRACE", func(r *rights) { r.ptrace = false }, verdictMissing},
		{"--pid host", func(r *rights) { r.ownProcesses = true }, verdictMissing},
		{"--security-opt apparmor=unconfined", func(r *rights) { r.confined = "docker-default (enforce)" }, verdictMissing},
		{"-v /var/run/docker/netns:/var/run/docker/netns:ro,rslave", func(r *rights) { r.missing = errors.New("no such directory") }, verdictWeak},
		{"-v /var/run/docker/netns:/var/run/docker/netns:ro,rslave", func(r *rights) { r.private = true }, verdictWeak},
	} {
		r := granted()
		for _, f := range judgeRights(host{container: true}, r) {
			if f.Verdict != verdictOK {
				t.Errorf("with all that is needed it says %v", f)
			}
		}
		c.lack(&r)
		var bad []finding
		for _, f := range judgeRights(host{container: true}, r) {
			if f.Verdict != verdictOK {
				bad = append(bad, f)
			}
		}
		if len(bad) != 1 || bad[0].Verdict != c.v || !strings.Contains(bad[0].Mend, c.flags) {
			t.Errorf("without %s it says %v", c.flags, bad)
		}
	}
	if all := judgeRights(host{container: true, ownNetwork: true}, granted()); all[1].Verdict != verdictWeak || !strings.Contains(all[1].Mend, "--network host") {
		t.Errorf("in a network of its own it says %v", all)
	}
}

func TestDoctor_SaysWhichMomentIsInForce(t *testing.T) {
	s := spec.Snapshot{Instance: "agent", Agent: &spec.AgentStatus{Namespaces: "/n"}, Warnings: []string{"links are opened only after a container has started: it is not there"}}
	if f := judgeRunning(s); f[0].Verdict != verdictOK || !strings.Contains(f[0].What, "before a container's first instruction, by the namespaces in /n") || len(f) != 2 {
		t.Errorf("early: %v", f)
	}
	s.Agent.Late, s.Agent.LateHint = "it is not there", "mount it"
	if f := judgeRunning(s); len(f) != 1 || f[0].Verdict != verdictWeak || f[0].Mend != "mount it" || !strings.Contains(f[0].What, "it is not there") {
		t.Errorf("late: %v", f)
	}
	s.Agent.Late, s.Agent.Runtime, s.Warnings = "", 3, nil
	if f := judgeRunning(s); !strings.Contains(f[0].What, "3 starts waited for them by legate runc") {
		t.Errorf("by the runtime: %v", f)
	}
}

func TestFollows(t *testing.T) {
	const root = "1 0 0:1 / / rw,relatime master:9 - overlay overlay rw\n"
	for _, c := range []struct {
		mounts string
		want   bool
	}{
		{root, true},
		{root + "2 1 0:2 /docker/netns /run/docker/netns ro,relatime master:3 - tmpfs tmpfs rw\n", true},
		{root + "2 1 0:2 /docker/netns /run/docker/netns ro,relatime shared:3 master:1 - tmpfs tmpfs rw\n", true},
		{root + "2 1 0:2 /docker/netns /run/docker/netns ro,relatime - tmpfs tmpfs rw\n", false},
		{root + "2 1 0:2 /docker/netns /run/docker/netns2 ro,relatime - tmpfs tmpfs rw\n", true},
		{"", false},
	} {
		if got := follows([]byte(c.mounts), "/run/docker/netns"); got != c.want {
			t.Errorf("%v, want %v:\n%s", got, c.want, c.mounts)
		}
	}
}
