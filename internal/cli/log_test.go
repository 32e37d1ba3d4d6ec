package cli

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// forms are those of --log, at a level that keeps the notice's own back.
var forms = map[string]func(io.Writer) slog.Handler{
	"text": func(w io.Writer) slog.Handler {
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelError})
	},
	"json": func(w io.Writer) slog.Handler {
		return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelError})
	},
}

// notices finds the line about a gap in either form.
var notices = map[string]*regexp.Regexp{
	"text": regexp.MustCompile(`^time=\S+ level=WARN msg="(\d+) log lines were dropped: their reader was too slow"$`),
	"json": regexp.MustCompile(`^{"time":"[^"]+","level":"WARN","msg":"(\d+) log lines were dropped: their reader was too slow"}$`),
}

// number returns the n of a line that say wrote.
func number(t *testing.T, line string) int {
	t.Helper()
	_, rest, _ := strings.Cut(line, "line-")
	n, err := strconv.Atoi(rest[:strings.IndexFunc(rest+" ", func(r rune) bool { return r < '0' || r > '9' })])
	if err != nil {
		t.Fatalf("no number in %q", line)
	}
	return n
}

func say(log *slog.Logger, from, to int, filler string) {
	for i := from; i < to; i++ {
		log.Error(fmt.Sprintf("line-%d", i), "filler", filler)
	}
}

func TestLog_DropsAndSaysSoWhereNobodyReads(t *testing.T) {
	tests := map[string]struct {
		form            string
		filler          string
		total           int
		atLeast, atMost int // that wait
	}{
		"lines":         {"text", "", logLines + 1000, logLines, logLines + 1}, // one is being written
		"lines in JSON": {"json", "", logLines + 1000, logLines, logLines + 1},
		"bytes":         {"text", strings.Repeat("x", 32<<10), 50, logBytes/(33<<10) - 1, logBytes / (32 << 10)},
		"one huge line": {"text", strings.Repeat("x", 2*logBytes), 2, 1, 1},
	}
	for label, test := range tests {
		t.Run(label, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out, in := io.Pipe()
				defer out.Close()
				log, flush := startLog(in, forms[test.form])
				defer flush()
				say(log, 0, test.total, test.filler)
				lines := bufio.NewReader(out)
				n := 0
				for ; ; n++ {
					line, err := lines.ReadString('\n')
					if err != nil {
						t.Fatal(err)
					}
					if gap := notices[test.form].FindStringSubmatch(strings.TrimSuffix(line, "\n")); gap != nil {
						if gap[1] != strconv.Itoa(test.total-n) {
							t.Errorf("%s dropped after %d of %d", gap[1], n, test.total)
						}
						break
					}
					if number(t, line) != n {
						t.Fatalf("line %d is %.200q", n, line)
					}
				}
				if n < test.atLeast || n > test.atMost {
					t.Errorf("%d lines waited, want %d to %d", n, test.atLeast, test.atMost)
				}
				say(log, test.total, test.total+3, "")
				for i := range 3 {
					if line, err := lines.ReadString('\n'); err != nil || number(t, line) != test.total+i {
						t.Errorf("after the gap: %q %v, want line %d", line, err, test.total+i)
					}
				}
			})
		})
	}
}

// Were there room for one line at a time, half of what is written would be
// notices, and nobody could tell what is missing where.
func TestLog_LeavesOneGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, in := io.Pipe()
		defer out.Close()
		log, flush := startLog(in, forms["text"])
		defer flush()
		say(log, 0, 1, "")
		synctest.Wait() // it is being written, and the queue has all its room
		say(log, 1, logLines+10, "")
		said, lines := logLines+10, bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			synctest.Wait() // the next one is being written: there is room
			if gap := notices["text"].FindStringSubmatch(lines.Text()); gap != nil {
				if gap[1] != strconv.Itoa(said-n) || n > logLines+1 {
					t.Errorf("%s lines dropped after %d of %d", gap[1], n, said)
				}
				return
			}
			if n < logLines {
				say(log, said, said+1, "")
				said++
			}
		}
	})
}

func TestLog_FlushWritesAllInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written []string
		log, flush := startLog(writerFunc(func(b []byte) {
			<-time.After(100 * time.Microsecond)
			written = append(written, string(b))
		}), forms["text"])
		say(log, 0, logLines, "")
		flush()
		log.Error("too late")
		if len(written) != logLines {
			t.Fatalf("%d lines, want %d", len(written), logLines)
		}
		for i, line := range written {
			if number(t, line) != i {
				t.Fatalf("line %d is %q", i, line)
			}
		}
	})
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

func TestLog_FlushDoesNotWaitForAReaderThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, in := io.Pipe()
		defer out.Close()
		log, flush := startLog(in, forms["text"])
		say(log, 0, 3, "")
		began := time.Now()
		flush()
		if took := time.Since(began); took != logPatience {
			t.Errorf("it took %v, want %v", took, logPatience)
		}
	})
}
