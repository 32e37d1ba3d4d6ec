package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// space is the network namespace of a round. All processes in it were started
// by that round. It is held open: its number would be used again otherwise.
type space struct{ file *os.File }

func openSpace(pid int) (*space, error) {
	f, err := os.Open(spaceOf(pid))
	if err != nil {
		return nil, fmt.Errorf("open the round's namespace: %w", err)
	}
	return &space{f}, nil
}

func (s *space) close() { s.file.Close() }

func spaceOf(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

const clearTime = 5 * time.Second

// clear ends whoever is still in the namespace. A proxy dies with the round
// that started it, but what the proxy started, as the workers of nginx, goes on
// when the proxy is killed.
func (s *space) clear() error {
	mine, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("read the round's namespace: %w", err)
	}
	for limit := time.Now().Add(clearTime); ; {
		left, err := killIn(mine)
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%d processes of a round do not end", left)
		}
		wait := time.NewTimer(time.Millisecond)
		<-wait.C
	}
}

// killIn kills every process of a namespace and returns how many there were.
func killIn(namespace os.FileInfo) (count int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// The handle first: should the process end and its id go to another, the
		// kill reaches nobody.
		p, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		info, err := os.Stat(spaceOf(pid))
		if err == nil && os.SameFile(info, namespace) {
			count++
			if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return count, errors.Join(fmt.Errorf("end process %d: %w", pid, err), p.Release())
			}
		}
		_ = p.Release() // fails only for one that was waited for
	}
	return count, nil
}
