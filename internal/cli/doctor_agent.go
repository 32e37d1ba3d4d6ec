package cli

import (
	"legate/internal/docker"
	"legate/internal/spec"
)

// rights are what an agent is granted beside what every legate needs.
type rights struct {
	admin, ptrace bool // capabilities
	// ownProcesses is true where the other processes of the host are not seen.
	ownProcesses bool
	confined     string // the AppArmor profile; "": none
	namespaces   string // the engine's directory
	missing      error  // why that cannot be read; nil: it can
	private      bool   // mounts that the engine makes there do not come through
	ownControl   bool   // the control socket is where nobody outside finds it
}

// asAgent tells whether the host is to be looked at for an agent: because that
// was asked, or because one runs right here.
func (d *doctorCommand) asAgent(h host, a asked) bool {
	if d.agent {
		return true
	}
	for _, s := range a.running {
		if s.Agent != nil && h.container {
			return true
		}
	}
	return false
}

// judgeRights says what an agent could not do, each with the flag that grants
// it. Nothing more is needed: neither --privileged nor another capability.
func judgeRights(h host, r rights) (found []finding) {
	grant := func(flags string) string {
		if h.container {
			return h.start(flags)
		}
		return h.sudo(h.program + " agent")
	}
	if !r.admin {
		found = append(found, missing("capability", grant("--cap-add SYS_ADMIN"), "without SYS_ADMIN no link can be opened in a container: its network namespace cannot be entered"))
	}
	if !r.ptrace {
		found = append(found, missing("capability", grant("--cap-add SYS_PTRACE"), "without SYS_PTRACE nobody can tell whose network namespace is whose"))
	}
	if r.admin && r.ptrace {
		found = append(found, fine("capability", "SYS_ADMIN and SYS_PTRACE are granted; no other is needed"))
	}
	if r.ownProcesses {
		found = append(found, missing("processes", grant("--pid host"), "the processes of other containers are not seen, and links are opened where those live"))
	}
	if h.ownNetwork {
		found = append(found, weak("network", grant("--network host"), "this host's addresses are not known in here, so that containers may have links to what listens on them"))
	}
	if r.confined != "" {
		found = append(found, missing("AppArmor", grant("--security-opt apparmor=unconfined"), "the profile %s forbids to look at processes of other containers", r.confined))
	}
	return append(found, judgeMoment(h, r)...)
}

// judgeMoment says how soon a container's links are open, and what there is to
// have them sooner.
func judgeMoment(h host, r rights) (found []finding) {
	const about, late = "moment", "links are opened only after a container has started, and its first connects may be refused: "
	mount := "-v " + r.namespaces + ":" + docker.DefaultNamespaces + ":ro,rslave"
	mend := "start the engine; if it has another --exec-root: legate agent --netns DIRECTORY/netns"
	if h.container {
		mend = h.start(mount) + " (with another --exec-root of the engine, the first path is DIRECTORY/netns)"
	}
	switch {
	case r.missing != nil:
		found = append(found, weak(about, mend, "%s%v", late, r.missing))
	case r.private:
		found = append(found, weak(about, h.start(mount), "%sthe mounts that the engine makes in %s do not come through", late, r.namespaces))
	default:
		found = append(found, fine(about, "links are open before a container's first instruction, unless this host is too busy; legate runc waits for them in any case (legate help runc)"))
	}
	if h.container && r.ownControl {
		found = append(found, fine("runtime", "legate runc on the host cannot ask an agent in here; it could with -v /run/legate:/run/legate"))
	}
	return found
}

// judgeAgent says which way of opening links early is in force in a running
// agent.
func judgeAgent(s spec.Snapshot) finding {
	about := "agent " + s.Instance
	if s.Agent.Late != "" {
		return weak(about, s.Agent.LateHint, "links are opened only after a container has started, and its first connects may be refused: %s; or have containers wait for them: legate help runc", s.Agent.Late)
	}
	by := "; for a guarantee see: legate help runc"
	if s.Agent.Runtime > 0 {
		by = "; " + things(int(s.Agent.Runtime), "start", "starts") + " waited for them by legate runc"
	}
	return fine(about, "links are open before a container's first instruction, by the namespaces in %s%s", s.Agent.Namespaces, by)
}
