package check

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"legate/internal/spec"
)

// expectLimit is how far an answer is searched.
const expectLimit = 16 << 10

// expect sends what it was given and reads until the answer has the expected
// text in it. Where none is expected, any answer will do.
func (s *session) expect() error {
	send, err := spec.Unescape(s.check.Send)
	if err != nil {
		return fmt.Errorf("read check-send: %w", err)
	}
	want, err := spec.Unescape(s.check.Expect)
	if err != nil {
		return fmt.Errorf("read check-expect: %w", err)
	}
	if err := s.send(send); err != nil {
		return err
	}
	var got []byte
	for buf := make([]byte, 4096); ; {
		n, err := s.Read(buf)
		seen := max(0, len(got)-len(want)) // the text may straddle two reads
		got = append(got, buf[:n]...)
		switch {
		case n > 0 && bytes.Contains(got[seen:], want):
			return nil
		case err != nil && len(got) > 0 && !errors.Is(err, io.EOF):
			return &failure{fmt.Sprintf("no %q in its answer %q, and then %s", s.said(string(want)), s.said(string(got)), s.ending(err)), err}
		case err != nil && len(got) == 0:
			return err
		case err != nil || len(got) >= expectLimit:
			return fmt.Errorf("no %q in its answer %q", s.said(string(want)), s.said(string(got)))
		}
	}
}
