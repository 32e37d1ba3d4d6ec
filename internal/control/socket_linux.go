package control

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// abstractPrefixes hold the pid namespace and the user's id: containers that
// share a network namespace (docker run --network host) share its abstract
// names, and each must neither take nor find those of the others; see
// network_namespaces(7). They are empty where the namespace is not known.
func abstractPrefixes(uid int) (own, search string) {
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "", ""
	}
	search = "@legate/" + ns + "/"
	own = search + strconv.Itoa(uid) + "/"
	if uid == 0 {
		return own, search
	}
	return own, own
}

// peerUID asks the kernel who is on the other side.
func peerUID(c net.Conn) (int, error) {
	cred, err := peer(c)
	if err != nil {
		return 0, fmt.Errorf("read peer: %w", err)
	}
	return int(cred.Uid), nil
}

// peerPID tells which process listens on the other side; 0 where it is not to
// be seen from here.
func peerPID(c net.Conn) int {
	cred, err := peer(c)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}

// peer reads SO_PEERCRED of unix(7).
func peer(c net.Conn) (*unix.Ucred, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is not a unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var got error
	err = raw.Control(func(fd uintptr) { cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(err, got)
}

// listAbstract lists the bound abstract sockets with that prefix in this
// network namespace.
func listAbstract(prefix string) []string {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil
	}
	defer f.Close()
	var found []string
	for s := bufio.NewScanner(f); s.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path; accepted
		// connections repeat the path with other flags: 00010000 listens.
		w := strings.Fields(s.Text())
		if len(w) == 8 && w[3] == "00010000" && strings.HasPrefix(w[7], prefix) {
			found = append(found, w[7])
		}
	}
	return found
}
