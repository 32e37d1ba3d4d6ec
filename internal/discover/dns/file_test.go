package dns

import (
	"os"
	"testing"
	"time"
)

// A file that was written twice within one step of its clock has the same time
// and, here, the same size.
func TestFile_WrittenTwiceWithinOneStepOfTheClock(t *testing.T) {
	f := &file[string]{path: text(t, "one"), parse: func(s string) string { return s }}
	step := time.Now().Truncate(time.Second)
	for _, want := range []string{"one", "two"} {
		rewrite(t, f.path, want)
		if err := os.Chtimes(f.path, step, step); err != nil {
			t.Fatal(err)
		}
		if got := f.get(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
