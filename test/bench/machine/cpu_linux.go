package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPUTime returns the CPU time that a process and its children have used, user
// and system: the living in nanoseconds, of children that it waited for what
// stat says. Not utime and stime of stat for all of them, which some kernels
// sample (man 5 proc_pid_stat), nor the sum over task/*/schedstat, which
// forgets threads that ended.
func CPUTime(pid int) (time.Duration, error) {
	// A child that is reaped between the two readings would be in neither or in
	// both: then once more, as long as a process that keeps forking allows.
	for tries := 0; ; tries++ {
		before, err := reaped(pid)
		if err != nil {
			return 0, err
		}
		total, err := livingTime(pid)
		if err != nil {
			return 0, err
		}
		after, err := reaped(pid)
		if err != nil {
			return 0, err
		}
		if after == before || tries == 10 {
			return total + after, nil
		}
	}
}

// livingTime is that of the process itself and of the children that it has.
func livingTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(cpuClock(pid), &ts); err != nil {
		return 0, fmt.Errorf("read CPU clock of process %d: %w", pid, err)
	}
	total := time.Duration(ts.Nano())
	for _, child := range Children(pid) {
		used, err := CPUTime(child)
		if err != nil {
			continue // it ended meanwhile
		}
		total += used
	}
	return total, nil
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
	return parseReaped(string(text))
}

func parseReaped(stat string) (time.Duration, error) {
	// The name in brackets may hold spaces; cutime and cstime are fields 16
	// and 17, and the first after the bracket is 3.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	var ticks int64
	for _, i := range []int{16 - 3, 17 - 3} {
		if i >= len(fields) {
			return 0, fmt.Errorf("read CPU time: %q has too few fields", stat)
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// tick is 1/USER_HZ, the same on every Linux.
const tick = 10 * time.Millisecond

// Children returns the ids of the processes that pid has started, as far as
// they live; see man 5 proc_pid_task for how reliable that is.
func Children(pid int) (pids []int) {
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

// Family is pid and all that descend from it.
func Family(pid int) []int {
	list := []int{pid}
	for _, child := range Children(pid) {
		list = append(list, Family(child)...)
	}
	return list
}
