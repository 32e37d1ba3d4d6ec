package spec

import (
	"bufio"
	"io"
	"net/netip"
	"strings"
)

// HostEntry is one name that Docker wrote into a container's /etc/hosts.
type HostEntry struct {
	Addr netip.Addr
	// Alias is what the link calls the container: the first name of the line.
	// A line with several aliases gives an entry for each.
	Alias string
	ID    string // first 12 hexadecimal digits of the container's id
	Name  string // of the linked container; Alias where the line has none
	// Own marks the container's own line, which is no link. It has only Addr
	// and ID.
	Own bool
}

// ParseHosts gives the link entries and the container's own entries of an
// /etc/hosts that Docker wrote, each once, in their order. Lines of other
// forms, such as those of --add-host, are passed over; so is what follows a
// line longer than 64 KiB.
func ParseHosts(r io.Reader) []HostEntry {
	var entries []HostEntry
	seen := map[HostEntry]bool{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		for _, e := range parseHostLine(lines.Text()) {
			if !seen[e] {
				seen[e] = true
				entries = append(entries, e)
			}
		}
	}
	return entries
}

// parseHostLine knows a link by the id, which Docker writes between the alias
// and the name; where both are the same it leaves the name out.
func parseHostLine(line string) []HostEntry {
	line, _, _ = strings.Cut(line, "#")
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return nil
	}
	addr, err := netip.ParseAddr(fields[0])
	if err != nil || addr.Zone() != "" || addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() {
		return nil
	}
	addr, names := addr.Unmap(), fields[1:]
	if len(names) == 1 {
		if !isContainerID(names[0]) {
			return nil
		}
		return []HostEntry{{Addr: addr, ID: names[0], Own: true}}
	}
	at := 1
	for at < len(names) && !isContainerID(names[at]) {
		at++
	}
	if at == len(names) {
		return nil
	}
	var entries []HostEntry
	for _, alias := range names[:at] {
		e := HostEntry{Addr: addr, Alias: alias, ID: names[at], Name: alias}
		if at+1 < len(names) {
			e.Name = names[at+1]
		}
		entries = append(entries, e)
	}
	return entries
}

func isContainerID(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789abcdef") == ""
}
