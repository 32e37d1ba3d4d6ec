package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"legate/test/bench/peers"
)

// pageMarks are the lines between which the page is ours; the rest of it is
// written by hand and stays.
func pageMarks(part string) (begin, end string) {
	if part != "" {
		part = "ONLY=" + part + " "
	}
	mark := "<!-- written by make bench " + part + "WRITE=1: "
	return mark + "begin -->", mark + "end -->"
}

// pageFrame is the page of the first time.
func pageFrame(part string) string {
	begin, end := pageMarks(part)
	return "# Benchmarks\n\n" + begin + "\n" + end + "\n\n## Where a target is missed\n\n"
}

func (r *result) writePage(file string) error {
	old, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = []byte(pageFrame(r.Part)), nil
	}
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	page, err := replacePart(string(old), r.Part, r.page())
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.WriteFile(file, []byte(page), 0o644)
}

// replacePart keeps what people wrote around the part.
func replacePart(page, part, text string) (string, error) {
	begin, end := pageMarks(part)
	before, rest, found := strings.Cut(page, begin+"\n")
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return "", fmt.Errorf("the lines %q and %q are not there", begin, end)
	}
	return before + begin + "\n" + text + end + after, nil
}

// page is the generated part: how it was measured, the targets, every row.
func (r *result) page() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, commit %s, `%s`.\n\n", r.Date.Format("2006-01-02 15:04 MST"), r.Commit, r.Command)
	fmt.Fprintf(&b, "Machine: %s, %d cores, %s, %s, Linux %s, %s.\n\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.System, r.Machine.Kernel, r.Machine.Go)
	if r.Part == "" {
		b.WriteString(method)
	} else {
		fmt.Fprintf(&b, bridgeMethod, r.Machine.Engine)
	}
	if len(r.Rows) > 0 {
		b.WriteString("![ratios](" + r.docsName() + ".svg)\n\n")
		r.targetTable().markdown(&b)
	}
	for _, t := range r.tables() {
		t.markdown(&b)
	}
	for _, p := range r.Peers {
		if p.Peer != peers.Direct && p.Note == "" {
			fmt.Fprintf(&b, "%s: `%s`\n\n", p.Peer, p.Command)
		}
		if p.Config != "" && p.Note == "" {
			fmt.Fprintf(&b, "```\n%s```\n\n", p.Config)
		}
	}
	return b.String()
}

// method says what the numbers are, for those who did not run it.
const method = "Client, proxy and server share one machine and its loopback; every round is a network namespace of its own.\n" +
	"Rows go round robin over the proxies, backwards in every other round. Every proxy has two threads, and first passes a gate:\n" +
	"half-close, FIN at the end, a reset that ends the other side, checksums. The load is an open loop at one rate per row, a share\n" +
	"of the most that the slowest proxy does; a latency counts from when a request was due. *own CPU* is that of all threads and\n" +
	"children of the proxy; *machine* is what all CPUs did, less what they do for the same load without a proxy; both in seconds per\n" +
	"unit of the row, medians. Ratios are paired by round: to the best peer, to the better of two configurations of HAProxy and of nginx.\n" +
	"A round during which more than 1 % of the time was stolen, a fixed piece of work took 5 % longer than on the idle machine, or\n" +
	"other processes used a tenth of it, does not count and is repeated. *user* is anonymous memory of the proxy, *kernel* what slab, stacks, page tables and socket\n" +
	"buffers of the whole machine grew by, less what they grow by without a proxy; pipes are in it, and counted apart. The\n" +
	"samples of every round are in " + docsName + ".json.\n\n"

// bridgeMethod is that of containers.
const bridgeMethod = "Client, server and HAProxy are containers on one user-defined bridge (Docker %s), the agent is one as the README\n" +
	"runs it; all share one machine. One connection sends a byte and waits for one, as fast as that goes; 64 connections do so at one\n" +
	"rate, half of the most that the slowest way does. *direct* is the server's own address, *legate* a link on the client's localhost.\n" +
	"CPU in seconds per million round trips is in microseconds per round trip, of all threads of the proxy; *machine* is what all CPUs\n" +
	"did, less what they do for the same load without a proxy. Order, ratios and which rounds count are as in the other rows.\n\n"

// neutral takes the folders and ports of this one run out of a command.
func neutral(command, peer string) string {
	words := strings.Fields(command)
	for i, word := range words {
		switch {
		case peer == peers.Go && i == 0:
			words[i] = "bench"
		case strings.HasSuffix(word, ".cfg") || strings.HasSuffix(word, ".conf"):
			words[i] = "FILE"
		case strings.HasPrefix(word, os.TempDir()+"/"):
			words[i] = "DIR"
		case i == 0:
			words[i] = word[strings.LastIndexByte(word, '/')+1:]
		}
	}
	return strings.Join(words, " ")
}

func (t table) markdown(b *strings.Builder) {
	if len(t.lines)+len(t.notes) == 0 {
		return
	}
	if len(t.lines) > 0 || t.title != "" {
		fmt.Fprintf(b, "**%s**\n\n", t.title)
	}
	if len(t.lines) > 0 {
		fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
		for _, line := range t.lines {
			fmt.Fprintf(b, "| %s |\n", strings.Join(line, " | "))
		}
		b.WriteString("\n")
	}
	for _, note := range t.notes {
		fmt.Fprintf(b, "%s\n\n", note)
	}
}
