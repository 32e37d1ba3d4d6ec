package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Bounds of what waits for a slow reader of the log.
const (
	logLines = 4096
	logBytes = 1 << 20
	// logPatience is for what is still to be said when the process ends: a
	// reader that is there needs milliseconds, one that is not must not keep
	// the process alive.
	logPatience = time.Second
)

// logQueue is a writer that never waits for its reader. Log lines are written
// under locks of the data path: while nobody reads stderr (Docker's blocking
// log driver, a stopped terminal), a direct write would stop every client,
// status, and the way to the end of the process.
//
// Each Write is one record, as slog's handlers do it. What does not fit is
// dropped, and so is all that follows until the queue is empty: the gap is one,
// and the notice stands in its place.
type logQueue struct {
	out    io.Writer
	notice slog.Handler // writes to out
	done   chan struct{}

	mu      sync.Mutex // guards the following, and sends on records
	records chan []byte
	bytes   int // of records, and of the one that is being written
	dropped int
	closed  bool
}

// startLog returns a logger in front of out, whose records have the form of the
// handler that form makes. The returned function writes out what waits, for at
// most logPatience; nothing is written after it.
func startLog(out io.Writer, form func(io.Writer) slog.Handler) (*slog.Logger, func()) {
	q := &logQueue{out: out, notice: form(out), done: make(chan struct{}), records: make(chan []byte, logLines)}
	go q.run()
	return slog.New(form(q)), q.close
}

// Write takes over a copy of one record. It never fails.
func (q *logQueue) Write(record []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	full := len(q.records) == logLines || (q.bytes > 0 && q.bytes+len(record) > logBytes)
	switch {
	case q.closed:
	case full || q.dropped > 0:
		q.dropped++
	default:
		q.records <- bytes.Clone(record)
		q.bytes += len(record)
	}
	return len(record), nil
}

// run writes until close. Errors of out are passed over, as slog does: there is
// nobody left to tell.
func (q *logQueue) run() {
	defer close(q.done)
	for record := range q.records {
		_, _ = q.out.Write(record)
		if n := q.wrote(record); n > 0 {
			text := fmt.Sprintf("%d log lines were dropped: their reader was too slow", n)
			// Straight to the handler: a level would keep it back.
			_ = q.notice.Handle(context.Background(), slog.NewRecord(time.Now(), slog.LevelWarn, text, 0))
		}
	}
}

// wrote returns how many records are missing behind this one.
func (q *logQueue) wrote(record []byte) (missing int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= len(record)
	if len(q.records) == 0 {
		missing, q.dropped = q.dropped, 0
	}
	return missing
}

func (q *logQueue) close() {
	q.mu.Lock()
	q.closed = true
	close(q.records)
	q.mu.Unlock()
	awaitWriter(q.done)
}

// awaitWriter waits for what writes to stderr, for at most logPatience. A
// write to a full pipe cannot be called off: its goroutine ends with the
// process.
func awaitWriter(done <-chan struct{}) {
	late := time.NewTimer(logPatience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
}

// printFailure says why the process ends. It was serving, or about to; a reader
// that is gone must not keep it from ending either.
func printFailure(w io.Writer, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		printError(w, err)
	}()
	awaitWriter(done)
}
