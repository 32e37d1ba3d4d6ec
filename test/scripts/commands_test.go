package scripts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// serve NAME ADDRESS is a server that greets each line with its name until it
// is interrupted.
func serve() {
	if err := dropRoot(); err != nil {
		fail(err)
	}
	l, err := listen(os.Args[2])
	if err != nil {
		fail(err)
	}
	go endWhenAsked()
	for {
		c, err := l.Accept()
		if err != nil {
			fail(err)
		}
		go func() {
			defer c.Close()
			for s := bufio.NewScanner(c); s.Scan(); {
				fmt.Fprintf(c, "%s: %s\n", os.Args[1], s.Text())
			}
		}()
	}
}

// endWhenAsked ends a server with success, which is what testscript wants of
// those that it interrupts.
func endWhenAsked() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
	os.Exit(0)
}

// closer ADDRESS accepts connections and closes them at once, as a published
// port does whose server is not up.
func closer() {
	l, err := listen(os.Args[1])
	if err != nil {
		fail(err)
	}
	go endWhenAsked()
	for {
		c, err := l.Accept()
		if err != nil {
			fail(err)
		}
		c.Close()
	}
}

func listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return net.Listen("unix", path)
	}
	return net.Listen("tcp", address)
}

func dial(address string) (net.Conn, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return net.Dial("unix", path)
	}
	return net.Dial("tcp", address)
}

// ask ADDRESS LINE prints the answer to one line.
func ask() {
	c, err := dial(os.Args[1])
	if err != nil {
		fail(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		fail(err)
	}
	fmt.Fprintf(c, "%s\n", os.Args[2])
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		fail(err)
	}
	fmt.Print(answer)
}

// talk ADDRESS FILE asks once, then keeps the connection until the file exists
// or the other side ends it, asks again, and prints both answers and the end.
func talk() {
	c, err := dial(os.Args[1])
	if err != nil {
		fail(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for _, line := range []string{"first", "last"} {
		fmt.Fprintf(c, "%s\n", line)
		answer, err := r.ReadString('\n')
		if err != nil {
			report(err)
			return
		}
		fmt.Print(answer)
		if line == "last" {
			return
		}
		if err := waitForFile(c, r, os.Args[2]); err != nil {
			report(err)
			return
		}
	}
}

// waitForFile looks for the file and watches the connection in turns; the
// error is how the connection ended.
func waitForFile(c net.Conn, r *bufio.Reader, path string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := os.Stat(path); err == nil {
			return c.SetReadDeadline(time.Time{})
		}
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			return err
		}
		if _, err := r.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return errors.New("the file did not come")
}

func report(err error) {
	switch {
	case errors.Is(err, io.EOF):
		fmt.Println("ended: end of file")
	case errors.Is(err, syscall.ECONNRESET):
		fmt.Println("ended: reset")
	default:
		fmt.Println("ended:", err)
	}
}

// curl ADDRESS prints what a web server answers, so that no test depends on
// the real one.
func curl() {
	r, err := http.Get(os.Args[1])
	if err != nil {
		fail(err)
	}
	defer r.Body.Close()
	if _, err := io.Copy(os.Stdout, r.Body); err != nil {
		fail(err)
	}
}

// squat PATH leaves a socket behind that nobody listens on, as a killed
// process does.
func squat() {
	if err := dropRoot(); err != nil {
		fail(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: os.Args[1], Net: "unix"})
	if err != nil {
		fail(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

// mute PATH holds a socket and never answers, as a process that is stopped.
func mute() {
	if err := dropRoot(); err != nil {
		fail(err)
	}
	if _, err := net.Listen("unix", os.Args[1]); err != nil {
		fail(err)
	}
	endWhenAsked()
}

// mode PATH prints the type and the permissions of a file.
func mode() {
	fi, err := os.Lstat(os.Args[1])
	if err != nil {
		fail(err)
	}
	fmt.Println(strings.Replace(fi.Mode().String(), "S", "s", 1))
}
