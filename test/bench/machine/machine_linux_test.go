package machine

import (
	"os"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const text = "cpu  100 2 50 1000 20 3 4 7 0 0\ncpu0 50 1 25 500 10 1 2 3 0 0\ncpu1 50 1 25 500 10 2 2 4 0 0\nintr 12\n"
	b, err := parseStat(text)
	if err != nil || b.CPUs != 2 || b.Idle != 10200*time.Millisecond || b.Steal != 70*time.Millisecond {
		t.Errorf("%+v, %v", b, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3 x 5 6 7 8\ncpu0 1 2 3 4 5 6 7 8\n"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestParseTimerList(t *testing.T) {
	const text = `Timer List Version: v0.10
now at 11995084798501 nsecs

cpu: 0
 clock 0:
  .idle_entrytime : 12184616112416 nsecs
  .idle_sleeptime : 6407560529095 nsecs
  .iowait_sleeptime: 5 nsecs

cpu: 1
  .idle_sleeptime : 100 nsecs
`
	if idle, cpus := parseTimerList(text); idle != 6407560529200 || cpus != 2 {
		t.Errorf("%d, %d", idle, cpus)
	}
	if idle, cpus := parseTimerList("cpu: 0\n .idle_sleeptime : x nsecs\n"); idle != 0 || cpus != 0 {
		t.Errorf("%d, %d", idle, cpus)
	}
}

func TestBusy_Since(t *testing.T) {
	now := time.Now()
	before := Busy{At: now, Idle: time.Second, CPUs: 2}
	after := Busy{At: now.Add(time.Second), Idle: 1500 * time.Millisecond, Steal: 20 * time.Millisecond, CPUs: 2}
	if used, stolen := after.Since(before); used != 1480*time.Millisecond || stolen != .01 {
		t.Errorf("%v, %v", used, stolen)
	}
	if share := after.Foreign(before, 1080*time.Millisecond); share != .2 {
		t.Errorf("of others %v", share)
	}
}

// A process that burns a CPU is in what the machine did.
func TestReadBusy_SeesWork(t *testing.T) {
	before, err := ReadBusy()
	if err != nil {
		t.Fatal(err)
	}
	own, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	x := uint64(1)
	work(&x, 50_000_000)
	spent, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	after, err := ReadBusy()
	if err != nil {
		t.Fatal(err)
	}
	if used, _ := after.Since(before); used < (spent-own)*9/10 || used > after.At.Sub(before.At)*time.Duration(after.CPUs) {
		t.Errorf("the machine did %v, this process alone %v", used, spent-own)
	}
}

func TestParseReaped(t *testing.T) {
	got, err := parseReaped("7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 11 12 13 14 20 0")
	if err != nil || got != 270*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"7 (a) S 1 2", "7 (a) S 1 7 7 0 -1 4194304 1 2 3 4 11 12 x 14"} {
		if _, err := parseReaped(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestMemory(t *testing.T) {
	const info = "MemTotal: 24684092 kB\nSlab:             504828 kB\nKernelStack:        1384 kB\n"
	if got := kilobytes(info, "Slab"); got != 504828<<10 {
		t.Errorf("%d", got)
	}
	if got := kilobytes(info, "PageTables"); got != 0 {
		t.Errorf("%d", got)
	}
	if got := socketPages("sockets: used 14\nTCP: inuse 1 orphan 0 tw 1 alloc 1 mem 364\nUDP: inuse 0 mem 172\n"); got != 536 {
		t.Errorf("%d", got)
	}
}

func TestReadMemory(t *testing.T) {
	before, err := ReadMemory(os.Getpid())
	if err != nil || before.User == 0 || before.Kernel == 0 {
		t.Fatalf("%+v, %v", before, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	held := make([]byte, 64<<20)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	after, err := ReadMemory(os.Getpid())
	if err != nil || after.Pipes != before.Pipes+1 || after.User-before.User < int64(len(held))*9/10 {
		t.Errorf("%+v, then %+v with %d bytes, %v", before, after, len(held), err)
	}
}

func TestNoise_Quiet(t *testing.T) {
	n := Noise{Reference: 100}
	for _, c := range []struct {
		before, after time.Duration
		stolen        float64
		foreign       float64
		want          bool
	}{{100, 105, .01, .1, true}, {106, 100, 0, 0, false}, {100, 106, 0, 0, false}, {100, 100, .02, 0, false}, {100, 100, 0, .11, false}} {
		if got := n.Quiet(c.before, c.after, c.stolen, c.foreign); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if Spin() <= 0 {
		t.Error("work takes no time")
	}
}
