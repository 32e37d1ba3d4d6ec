package pump

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// IsShortage tells whether err is a lack of something on our own side, which
// says nothing about the endpoint that was tried (errno(3)).
func IsShortage(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Reason puts the error of an attempt or a flow into one word, for counters.
func Reason(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case isTimeout(err):
		return "timeout"
	case errors.Is(err, ErrSelfConnect):
		return "loop"
	case errors.Is(err, io.EOF), errors.Is(err, ErrReset), errors.Is(err, syscall.ECONNRESET):
		return "closed"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, syscall.ENOENT):
		return "missing"
	case IsShortage(err):
		return "shortage"
	}
	return "error"
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT) || (errors.As(err, &ne) && ne.Timeout())
}
