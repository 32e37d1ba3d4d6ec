package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/spec"
)

// opened is a link that an agent opened in a container, or could not.
type opened struct {
	spec.Place
	Link   string         `json:"link"`
	Listen string         `json:"listen"`
	State  spec.LinkState `json:"state"`
}

// audit is what the running agent has done to containers.
type audit struct {
	Instance string            `json:"instance"`
	PID      int               `json:"pid"`
	Agent    *spec.AgentStatus `json:"agent"`
	Opened   []opened          `json:"opened"`
}

func auditOf(s spec.Snapshot) audit {
	a := audit{Instance: s.Instance, PID: s.PID, Agent: s.Agent, Opened: []opened{}}
	for _, l := range s.Links {
		if l.Place != nil {
			a.Opened = append(a.Opened, opened{*l.Place, l.Name, l.Listen, l.State})
		}
	}
	return a
}

// tellOpened asks the running agent, and prints.
func (a *agentCommand) tellOpened(c *cobra.Command) error {
	if err := applyEnv(c, a.process, []string{"control"}); err != nil {
		return err
	}
	s, err := snapshot(c, a.process, a.serving.control)
	switch {
	case err != nil:
		return err
	case s.Agent == nil:
		return spec.Errorf("name the agent: legate agent --audit --control NAME", "legate %s is no agent", s.Instance)
	case a.json:
		return a.process.printJSON(auditOf(s))
	}
	return auditOf(s).print(a.process.Stdout, time.Now())
}

func (a audit) print(w io.Writer, now time.Time) error {
	containers, live := map[string]bool{}, 0
	rows := [][]string{{"CONTAINER", "NAMESPACE", "LINK", "LISTENS ON", "OPENED", "LABELS"}}
	for _, o := range a.Opened {
		since := "not open: " + string(o.State)
		if o.Opened != nil {
			since = age(now.Sub(*o.Opened)) + " ago"
			containers[o.Container] = true
			live++
		}
		who := fmt.Sprintf("%s (%.12s)", o.Name, o.Container)
		rows = append(rows, []string{who, o.Namespace, o.Link, o.Listen, since, o.Labels})
	}
	fmt.Fprintf(w, "%s, pid %d: %s open in %s, and nothing else in any\n", a.Instance, a.PID,
		things(live, "link is", "links are"), things(len(containers), "container", "containers"))
	if a.Agent.Late != "" {
		fmt.Fprintf(w, "links are opened only after a container has started: %s\n", a.Agent.Late)
	} else {
		fmt.Fprintf(w, "links are open before a container's first instruction, by the namespaces in %s\n", a.Agent.Namespaces)
	}
	if n := a.Agent.Runtime; n > 0 {
		fmt.Fprintf(w, "%s waited for links by legate runc\n", things(int(n), "start", "starts"))
	}
	if len(a.Opened) == 0 {
		return nil
	}
	lines, err := layOut(rows)
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, line := range lines {
		fmt.Fprintln(w, line)
	}
	return nil
}
