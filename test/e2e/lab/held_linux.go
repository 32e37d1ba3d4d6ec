package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Held is what a process keeps alive.
type Held struct {
	// Descriptors is how many it has open.
	Descriptors int
	// Networks are the namespaces other than its own that would outlive their containers, each with what
	// keeps it: a descriptor, a socket that was born there, a thread or a mount.
	Networks []string
}

// HeldBy looks at a process of this machine, in whatever container. Needs root.
func HeldBy(pid int) (Held, error) {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return Held{}, fmt.Errorf("read namespace of process: %w", err)
	}
	descriptors, networks, err := byDescriptor(pid)
	if err != nil {
		return Held{}, err
	}
	for _, more := range []func(int) (map[string]string, error){byThread, byMount} {
		kept, err := more(pid)
		if err != nil {
			return Held{}, err
		}
		for network, by := range kept {
			networks[network] = by
		}
	}
	h := Held{Descriptors: descriptors}
	for network, by := range networks {
		if network != own {
			h.Networks = append(h.Networks, network+" by "+by)
		}
	}
	slices.Sort(h.Networks)
	return h, nil
}

// Without returns the namespaces that are kept now and were not before.
func (h Held) Without(before Held) (networks []string) {
	for _, network := range h.Networks {
		if !slices.Contains(before.Networks, network) {
			networks = append(networks, network)
		}
	}
	return networks
}

func networkName(inode uint64) string { return fmt.Sprintf("net:[%d]", inode) }

// byDescriptor counts the descriptors of a process, and finds the namespaces that they are or that sockets
// behind them were born in. One that is closed meanwhile is left out.
func byDescriptor(pid int) (count int, networks map[string]string, err error) {
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(handle)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, nil, fmt.Errorf("list descriptors: %w", err)
	}
	networks = map[string]string{}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		what, err := os.Readlink(path)
		if err != nil {
			continue
		}
		count++
		if strings.HasPrefix(what, "socket:") {
			if network, err := bornIn(handle, entry.Name()); err == nil {
				networks[network] = what
			}
			continue
		}
		var system unix.Statfs_t
		var file unix.Stat_t
		if unix.Statfs(path, &system) == nil && system.Type == unix.NSFS_MAGIC && unix.Stat(path, &file) == nil {
			networks[networkName(file.Ino)] = "descriptor " + entry.Name()
		}
	}
	return count, networks, nil
}

// bornIn is the namespace of a socket of another process.
func bornIn(process int, descriptor string) (network string, err error) {
	number, err := strconv.Atoi(descriptor)
	if err != nil {
		return "", err
	}
	socket, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(socket)
	space, err := unix.IoctlRetInt(socket, unix.SIOCGSKNS)
	if err != nil {
		return "", err
	}
	defer unix.Close(space)
	var file unix.Stat_t
	if err := unix.Fstat(space, &file); err != nil {
		return "", err
	}
	return networkName(file.Ino), nil
}

func byThread(pid int) (map[string]string, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", err)
	}
	networks := map[string]string{}
	for _, thread := range threads {
		network, err := os.Readlink(thread)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read namespace of thread: %w", err)
		}
		networks[network] = "thread"
	}
	return networks, nil
}

// byMount reads man 5 proc_pid_mountinfo: the fourth word is what of the file system is mounted, and the
// file system's name comes after a hyphen.
func byMount(pid int) (map[string]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	networks := map[string]string{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if strings.Contains(line, " - nsfs ") && strings.HasPrefix(words[3], "net:") {
			networks[words[3]] = "mount " + words[4]
		}
	}
	return networks, nil
}
