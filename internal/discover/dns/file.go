package dns

import (
	"os"
	"sync"
	"time"
)

// grain is the coarsest step of modification times among the file systems that
// people have (FAT: 2 s). A file that was written again within one step looks
// unchanged, so one that is younger than that is read at every look.
const grain = 2 * time.Second

// file is what a text file says, read again when the file was written.
type file[T any] struct {
	path  string
	parse func(text string) T

	mu    sync.Mutex // guards the following
	info  os.FileInfo
	at    time.Time // when it was read
	known bool      // value is that of text
	text  string
	value T
}

// get returns what the file says now. One that is missing, cannot be read or
// is no regular file says what an empty one does: an empty image has none.
func (f *file[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil || !info.Mode().IsRegular() {
		f.info = nil
		return f.take("")
	}
	if f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) &&
		f.info.Size() == info.Size() && f.at.Sub(info.ModTime()) > grain {
		return f.value
	}
	at := time.Now()
	text, err := os.ReadFile(f.path)
	if err != nil {
		f.info = nil
		return f.take("")
	}
	f.info, f.at = info, at
	return f.take(string(text))
}

// take parses a text that is news.
func (f *file[T]) take(text string) T {
	if !f.known || f.text != text {
		f.known, f.text, f.value = true, text, f.parse(text)
	}
	return f.value
}
