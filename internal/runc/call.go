package runc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// call is what the arguments of runc say, as far as it matters here.
type call struct {
	global  []string // the arguments before the command
	root    string   // where runc keeps its states
	log     string   // the file that the engine reads when it failed; ""
	json    bool     // the form of that
	command string   // ""
	id      string   // of the container; ""
}

// defaultRoot is runc's for root.
const defaultRoot = "/run/runc"

// parse reads arguments of runc. All its global flags take a value but these.
func parse(args []string) call {
	c := call{root: defaultRoot}
	alone := []string{"debug", "systemd-cgroup", "help", "h", "version", "v"}
	i := 0
	for i < len(args) && strings.HasPrefix(args[i], "-") {
		name, value, has := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !has && !slices.Contains(alone, name) && i+1 < len(args) {
			i++
			value = args[i]
		}
		switch name {
		case "root":
			c.root = value
		case "log":
			c.log = value
		case "log-format":
			c.json = value == "json"
		}
		i++
	}
	c.global = args[:i]
	if i < len(args) {
		c.command = args[i]
	}
	if c.command == "start" && len(args) == i+2 && !strings.HasPrefix(args[i+1], "-") {
		c.id = args[i+1]
	}
	return c
}

// container is what is known of one that was created and not yet started.
type container struct {
	pid    int
	labels map[string]string
	known  bool // that these are its labels
}

type mount struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

// look finds the container. runc's own record has all, and is read in no time;
// another runtime is asked.
func (w *wrapper) look(real string) (container, error) {
	var state struct {
		PID    int `json:"init_process_pid"`
		Config struct {
			Mounts []mount `json:"mounts"`
		} `json:"config"`
	}
	text, err := os.ReadFile(filepath.Join(w.call.root, w.call.id, "state.json"))
	if err == nil && json.Unmarshal(text, &state) == nil && state.PID > 0 {
		labels, known := labelsOf(w.call.id, state.Config.Mounts)
		return container{state.PID, labels, known}, nil
	}
	return w.ask(real)
}

// ask has what every runtime must tell (the specification's "state"), and the
// bundle that it tells of.
func (w *wrapper) ask(real string) (container, error) {
	var state struct {
		PID    int    `json:"pid"`
		Bundle string `json:"bundle"`
	}
	text, err := exec.Command(real, slices.Concat(w.call.global, []string{"state", w.call.id})...).Output()
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	if err != nil {
		return container{}, fmt.Errorf("legate: ask %s for the state of the container: %w", real, err)
	}
	var config struct {
		Mounts []mount `json:"mounts"`
	}
	text, err = os.ReadFile(filepath.Join(state.Bundle, "config.json"))
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		return container{}, fmt.Errorf("legate: read the bundle of the container: %w", err)
	}
	labels, known := labelsOf(w.call.id, config.Mounts)
	return container{state.PID, labels, known}, nil
}

// labelsOf reads the labels of a container of Docker, which tells them to no
// runtime. Three files of each container come out of the directory of its
// record, or of that of the container whose network it lives in. Asking the
// engine instead would not do: it is busy with this very start.
//
// What they say only decides who need not wait; links are the agent's.
func labelsOf(id string, mounts []mount) (map[string]string, bool) {
	engineFiles := []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
	for _, m := range mounts {
		if !slices.Contains(engineFiles, m.Destination) {
			continue
		}
		var record struct {
			ID     string
			Config struct{ Labels map[string]string }
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(m.Source)), id, "config.v2.json"))
		if err == nil && json.Unmarshal(text, &record) == nil && record.ID == id {
			return record.Config.Labels, true
		}
	}
	return nil, false
}

// log writes into the file from which the engine takes the reason of a failure.
func (w *wrapper) log(level string, err error) {
	if w.call.log == "" {
		return
	}
	f, failed := os.OpenFile(w.call.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_SYNC, 0o644)
	if failed != nil {
		return // it is on standard error, too
	}
	defer f.Close()
	now := time.Now().Format(time.RFC3339)
	if !w.call.json {
		fmt.Fprintf(f, "time=%q level=%s msg=%q\n", now, level, err.Error())
		return
	}
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	_ = e.Encode(map[string]string{"level": level, "msg": err.Error(), "time": now}) // strings can be encoded
	_, _ = f.Write(line.Bytes())
}
