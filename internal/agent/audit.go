package agent

import (
	"maps"
	"strings"
	"time"

	"legate/internal/spec"
)

// Status tells how links come to be opened in containers.
func (a *Agent) Status() spec.AgentStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := spec.AgentStatus{Namespaces: a.cfg.Namespaces, Runtime: a.held}
	if a.late != nil {
		s.Late = a.late.Error()
		s.LateHint = spec.HintOf(a.late)
	}
	return s
}

// Places tells where the links were opened that are in containers, by name.
// Links that others made, or that could not be opened, have no time.
func (a *Agent) Places(links []spec.Link) map[string]*spec.Place {
	a.mu.Lock()
	defer a.mu.Unlock()
	opened := map[spec.Listen]time.Time{}
	for _, s := range a.spaces {
		maps.Copy(opened, s.opened)
	}
	places := map[string]*spec.Place{}
	for _, l := range links {
		if l.For == nil || l.Listen.Namespace == "" {
			continue
		}
		p := &spec.Place{Container: l.For.ID, Name: l.For.Name, Namespace: namespaceOf(l.Listen.Namespace), Labels: l.Text}
		if at, ok := opened[l.Listen]; ok {
			p.Opened = &at
		}
		places[l.Name] = p
	}
	return places
}

// namespaceOf writes a namespace as ls -l /proc/PID/ns/net does.
func namespaceOf(id string) string {
	_, inode, _ := strings.Cut(id, ":")
	return "net:[" + inode + "]"
}
