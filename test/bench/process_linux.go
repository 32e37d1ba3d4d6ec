package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownGroup keeps the terminal's Ctrl-C from a child, so that it is stopped in
// order, and ends it with us should we be killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// cpuTime returns the CPU time that a process and its children have used, user
// and system: the living in nanoseconds, of children that it waited for what
// stat says. Not utime and stime of stat for all of them, which some kernels
// sample (man 5 proc_pid_stat), nor the sum over task/*/schedstat, which
// forgets threads that ended.
func cpuTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(cpuClock(pid), &ts); err != nil {
		return 0, fmt.Errorf("read CPU clock of process %d: %w", pid, err)
	}
	total := time.Duration(ts.Nano())
	gone, err := reaped(pid)
	if err != nil {
		return 0, err
	}
	for _, child := range children(pid) {
		used, err := cpuTime(child)
		if err != nil {
			continue // it ended meanwhile
		}
		total += used
	}
	return total + gone, nil
}

// cpuClock is the clock id of a process, as clock_getcpuclockid(3) makes it.
func cpuClock(pid int) int32 {
	const sched = 2 // CPUCLOCK_SCHED, linux/posix-timers.h
	return int32(^pid<<3 | sched)
}

// reaped is the CPU time of children that ended and were waited for.
func reaped(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The name in brackets may hold spaces; cutime and cstime are fields 16
	// and 17, and the first after the bracket is 3.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, i := range []int{16 - 3, 17 - 3} {
		if i >= len(fields) {
			return 0, fmt.Errorf("read CPU time: %q has too few fields", text)
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ, the same on every Linux
	return time.Duration(ticks) * time.Second / perSecond, nil
}

func children(pid int) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is well-formed
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(field); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}
