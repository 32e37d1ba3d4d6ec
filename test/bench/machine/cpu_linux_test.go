package machine

import (
	"bufio"
	"os/exec"
	"testing"
	"time"
)

// What a process, a child that it waited for and a living child used up to a
// moment is what the kernel charges in the end, when nothing runs after it.
func TestCPUTime_CountsChildren(t *testing.T) {
	const burn = `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; `
	// Of its own, a background child would read /dev/null and be gone at once.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `exec 3<&0; `+burn+`sh -c '`+burn+`:'; sh -c '`+burn+`echo burnt; read go' <&3 & wait`)
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
	_, readErr := bufio.NewReader(stdout).ReadString('\n')
	got, err := CPUTime(cmd.Process.Pid)
	stdin.Close()
	_ = cmd.Wait() // the child's read fails at the end of its input
	if readErr != nil || err != nil {
		t.Fatal(readErr, err)
	}
	// Of three equal parts, none may be missing; ticks are 10 ms.
	if want := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); got < want*4/5 || got > want+20*time.Millisecond {
		t.Errorf("counted %v, and the kernel charged %v", got, want)
	}
}
