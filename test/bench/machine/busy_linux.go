package machine

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Busy is what all CPUs together had done and missed up to a moment.
type Busy struct {
	At    time.Time
	Idle  time.Duration // of all CPUs, waiting for disks included
	Steal time.Duration // taken by the hypervisor for other guests
	CPUs  int
}

// ReadBusy reads the machine's clocks.
//
// Time is counted as what was not idle, for the kernel measures idle time and
// samples the rest in ticks. /proc/timer_list has it in nanoseconds, root only;
// /proc/stat in hundredths of a second.
func ReadBusy() (Busy, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Busy{}, fmt.Errorf("read idle time: %w", err)
	}
	b, err := parseStat(string(stat))
	if err != nil {
		return Busy{}, err
	}
	if err := touchEveryCPU(); err != nil {
		return Busy{}, err
	}
	list, err := os.ReadFile("/proc/timer_list")
	b.At = time.Now()
	if err == nil {
		if idle, cpus := parseTimerList(string(list)); cpus == b.CPUs {
			b.Idle = idle
		}
	}
	return b, nil
}

// Since returns the CPU time that the machine used since an earlier moment, and
// the share of the time that was stolen from it.
func (b Busy) Since(earlier Busy) (used time.Duration, stolen float64) {
	all := b.At.Sub(earlier.At) * time.Duration(b.CPUs)
	steal := b.Steal - earlier.Steal
	if all <= 0 {
		return 0, 0
	}
	return all - (b.Idle - earlier.Idle) - steal, float64(steal) / float64(all)
}

// Foreign is the share of the machine that was used by others than who used
// ours.
func (b Busy) Foreign(earlier Busy, ours time.Duration) float64 {
	used, _ := b.Since(earlier)
	return float64(used-ours) / float64(b.At.Sub(earlier.At)*time.Duration(b.CPUs))
}

// touchEveryCPU runs on each CPU for a moment. The idle time of timer_list ends
// with the last time that a CPU woke: without this, that of the CPUs that sleep
// right now would be missing.
func touchEveryCPU() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("read CPU affinity: %w", err)
	}
	for cpu := range len(all) * 64 {
		if !all.IsSet(cpu) {
			continue
		}
		if err := pin(cpu); err != nil {
			return err
		}
	}
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		return fmt.Errorf("set CPU affinity: %w", err)
	}
	return nil
}

// pin binds the calling thread to one CPU.
func pin(cpu int) error {
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("set CPU affinity: %w", err)
	}
	return nil
}

// parseStat reads man 5 proc_stat: user, nice, system, idle, iowait, irq,
// softirq, steal.
func parseStat(text string) (b Busy, err error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 9 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		if fields[0] != "cpu" {
			b.CPUs++
			continue
		}
		var at [3]int64
		for i, field := range []int{4, 5, 8} {
			if at[i], err = strconv.ParseInt(fields[field], 10, 64); err != nil {
				return Busy{}, fmt.Errorf("read idle time: %w", err)
			}
		}
		b.Idle, b.Steal = time.Duration(at[0]+at[1])*tick, time.Duration(at[2])*tick
	}
	if b.CPUs == 0 {
		return Busy{}, fmt.Errorf("read idle time: no CPU in %q", text)
	}
	return b, nil
}

func parseTimerList(text string) (idle time.Duration, cpus int) {
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		switch strings.TrimSpace(name) {
		case "cpu":
			cpus++
		case ".idle_sleeptime", ".iowait_sleeptime":
			ns, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " nsecs"), 10, 64)
			if err != nil {
				return 0, 0
			}
			idle += time.Duration(ns)
		}
	}
	return idle, cpus
}
