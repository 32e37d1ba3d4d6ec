package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is what a process and the kernel hold at a moment, in bytes.
type Memory struct {
	// User is the anonymous memory of a process and its descendants, shared
	// pages counted in proportion. Code is left out: it does not grow.
	User int64
	// Kernel is the machine's: slab, kernel stacks, page tables and socket
	// buffers.
	Kernel int64
	// Pipes are the pipes that the process and its descendants have open.
	Pipes int
}

// ReadMemory reads the memory of a process with its descendants and of the
// kernel; without a process, for pid 0, of the kernel alone.
func ReadMemory(pid int) (m Memory, err error) {
	if m.Kernel, err = kernelMemory(); err != nil || pid == 0 {
		return m, err
	}
	pipes := map[string]bool{}
	for _, p := range Family(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if err != nil {
			continue // it ended meanwhile
		}
		m.User += kilobytes(string(text), "Pss_Anon")
		addPipes(pipes, p)
	}
	m.Pipes = len(pipes)
	return m, nil
}

func addPipes(seen map[string]bool, pid int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is well-formed
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil && strings.HasPrefix(target, "pipe:") {
			seen[target] = true
		}
	}
}

func kernelMemory() (int64, error) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read kernel memory: %w", err)
	}
	sockets, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return 0, fmt.Errorf("read socket memory: %w", err)
	}
	sum := socketPages(string(sockets)) * int64(os.Getpagesize())
	for _, key := range []string{"Slab", "KernelStack", "PageTables"} {
		sum += kilobytes(string(info), key)
	}
	return sum, nil
}

// kilobytes finds "key: 12 kB" and returns bytes; 0 where there is none.
func kilobytes(text, key string) int64 {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		if name != key {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0
		}
		return n << 10
	}
	return 0
}

// socketPages adds up "mem N" of all lines: the buffers of TCP and UDP sockets
// of the whole machine, whichever namespace asks.
func socketPages(text string) (pages int64) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		for i := range len(fields) - 1 {
			if fields[i] != "mem" {
				continue
			}
			if n, err := strconv.ParseInt(fields[i+1], 10, 64); err == nil {
				pages += n
			}
		}
	}
	return pages
}
