package soak

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// playEcho is a server that sends everything back, on TCP and UDP: the config is its addresses.
func playEcho(s stage) error {
	var addrs []string
	if err := json.Unmarshal(s.config, &addrs); err != nil {
		return err
	}
	for _, addr := range addrs {
		if err := echoDatagrams(addr); err != nil {
			return err
		}
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go echo(c)
			}
		}()
	}
	if err := s.out.Encode("ready"); err != nil {
		return err
	}
	<-terminated()
	return nil
}

// echo does without io.Copy, which would splice and hold two more descriptors for each connection.
func echo(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 8<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// holding is the config of playHold.
type holding struct {
	Addrs []string
	Conns int
	Every time.Duration // 0: a connection is idle between orders
	Least int           // messages of each connection that is not, however slow the machine is
}

const (
	smallMessage = 64
	bigMessage   = 64 << 10
	bigEach      = 8 // one message in so many is big
)

// held is one open connection.
type held struct {
	conn net.Conn
	id   int
	sent int
}

// playHold opens connections, reports, exchanges a message on each with the order "check", or all the
// time, and closes them with "leave". It reports after each.
func playHold(s stage) error {
	var cfg holding
	if err := json.Unmarshal(s.config, &cfg); err != nil {
		return err
	}
	conns := make([]*held, cfg.Conns)
	each := func(f func(c *held) error) error {
		var t tally
		together(len(conns), 64, func(i int) {
			began := time.Now()
			err := f(conns[i])
			t.add(time.Since(began), err)
		})
		return s.out.Encode(t.report())
	}
	for i := range conns {
		conns[i] = &held{id: i}
	}
	err := each(func(c *held) error { return c.open(cfg.Addrs[c.id%len(cfg.Addrs)]) })
	if err != nil {
		return err
	}
	if cfg.Every > 0 {
		if err := chatter(s, conns, cfg); err != nil {
			return err
		}
	} else {
		if err := s.await("check"); err != nil {
			return err
		}
		if err := each((*held).exchange); err != nil {
			return err
		}
	}
	if err := s.await("leave"); err != nil {
		return err
	}
	return each((*held).close)
}

// chatter has every connection exchange a message in each period until the order "check".
func chatter(s stage, conns []*held, cfg holding) error {
	var t tally
	var all sync.WaitGroup
	stop := make(chan struct{})
	for _, c := range conns {
		all.Go(func() { c.chat(&t, cfg, stop) })
	}
	err := s.await("check")
	close(stop)
	all.Wait()
	return errors.Join(err, s.out.Encode(t.report()))
}

func (c *held) chat(t *tally, cfg holding, stop <-chan struct{}) {
	// Spread over the period, or all would speak at once.
	next := time.NewTimer(cfg.Every * time.Duration(c.id%997) / 997)
	defer next.Stop()
	for done := 0; ; done++ {
		stop := stop
		if done < cfg.Least {
			stop = nil
		}
		select {
		case <-stop:
			return
		case <-next.C:
		}
		next.Reset(cfg.Every)
		began := time.Now()
		err := c.exchange()
		t.add(time.Since(began), err)
		if err != nil {
			return
		}
	}
}

func (c *held) open(addr string) (err error) {
	if c.conn, err = net.DialTimeout("tcp4", addr, patience); err != nil {
		return err
	}
	return c.exchange()
}

// exchange sends a message that no other connection sends, and none before, and reads it back.
func (c *held) exchange() error {
	if c.conn == nil {
		return errors.New("it never opened")
	}
	size := smallMessage
	if (c.id+c.sent)%bigEach == bigEach-1 {
		size = bigMessage
	}
	message := make([]byte, size)
	for i := 0; i < size; i += 16 {
		binary.LittleEndian.PutUint64(message[i:], uint64(c.id)<<32|uint64(c.sent))
		binary.LittleEndian.PutUint64(message[i+8:], uint64(i))
	}
	c.sent++
	c.conn.SetDeadline(time.Now().Add(patience))
	// Both at once: a message may be more than all buffers on its way hold.
	wrote := make(chan error, 1)
	if size == smallMessage {
		_, err := c.conn.Write(message)
		wrote <- err
	} else {
		go func() {
			_, err := c.conn.Write(message)
			wrote <- err
		}()
	}
	got := make([]byte, size)
	_, err := io.ReadFull(c.conn, got)
	if err = errors.Join(<-wrote, err); err != nil {
		return fmt.Errorf("message %d of connection %d: %w", c.sent, c.id, err)
	}
	if !bytes.Equal(got, message) {
		return fmt.Errorf("message %d of connection %d: %w", c.sent, c.id, errWrongBytes)
	}
	return nil
}

// close ends it in order: the server must be told, and must end it, too.
func (c *held) close() error {
	if c.conn == nil {
		return errors.New("it never opened")
	}
	defer c.conn.Close()
	c.conn.SetDeadline(time.Now().Add(patience))
	if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if n, err := c.conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("at the end of connection %d: %d bytes, %w", c.id, n, err)
	}
	return nil
}

// shorts is the config of playShort.
type shorts struct {
	Addrs  []string
	Conns  int
	AtOnce int
}

// playShort opens connections for one message each, as fast as they are served.
func playShort(s stage) error {
	var cfg shorts
	if err := json.Unmarshal(s.config, &cfg); err != nil {
		return err
	}
	var t tally
	together(cfg.Conns, cfg.AtOnce, func(i int) {
		began := time.Now()
		c := &held{id: i * bigEach} // none of the messages is big
		err := c.open(cfg.Addrs[i%len(cfg.Addrs)])
		if err == nil {
			err = c.close()
		} else if c.conn != nil {
			c.conn.Close()
		}
		t.add(time.Since(began), err)
	})
	return s.out.Encode(t.report())
}
