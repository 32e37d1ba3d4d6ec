package machine

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a process, a child that it waited for and a living child used is counted,
// each once. All three rest while they are read: what the kernel charges when
// they have ended would leave out a child that its shell did not wait for.
func TestCPUTime_CountsChildren(t *testing.T) {
	const burn = `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; `
	// Of its own, a background child would read /dev/null and be gone at once.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `exec 3<&0; `+burn+`sh -c '`+burn+`:'; sh -c '`+burn+`echo $$; read go' <&3 & wait`)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	child, _ := strconv.Atoi(strings.TrimSpace(line)) // 0 has no stat
	got, err := CPUTime(cmd.Process.Pid)
	own, waited, ownErr := statTimes(cmd.Process.Pid)
	living, _, livingErr := statTimes(child)
	stdin.Close()
	_ = cmd.Wait() // the child's read fails at the end of its input
	if readErr != nil || err != nil || ownErr != nil || livingErr != nil {
		t.Fatal(readErr, err, ownErr, livingErr)
	}
	parts := []time.Duration{own, waited, living}
	sum := own + waited + living
	for _, part := range parts {
		if part < sum/10 {
			t.Fatalf("a part did not burn: %v", parts)
		}
	}
	// Each part is cut off to ticks of 10 ms, twice, and the child may still be
	// on its way to rest.
	if got < sum-10*time.Millisecond || got > sum+7*tick+sum/20 {
		t.Errorf("counted %v of %v", got, parts)
	}
}

// statTimes are utime and stime, and those of children that were waited for
// (man 5 proc_pid_stat, fields 14 to 17).
func statTimes(pid int) (own, waited time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var at [4]time.Duration
	for i := range at {
		n, err := strconv.ParseInt(fields[14-3+i], 10, 64)
		if err != nil {
			return 0, 0, err
		}
		at[i] = time.Duration(n) * tick
	}
	return at[0] + at[1], at[2] + at[3], nil
}
