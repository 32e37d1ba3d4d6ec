//go:build !linux

package control

import (
	"errors"
	"net"
)

func abstractPrefixes(int) (own, search string) { return "", "" }

func peerUID(net.Conn) (int, error) {
	return 0, errors.New("abstract sockets need Linux")
}

func peerPID(net.Conn) int { return 0 }

func listAbstract(string) []string { return nil }
