package harness

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
)

// Caller sends requests as gVisor's client does: over a channel that is idle, and over the socket where none is; who
// waits there for an answer receives for the others too. It has little between caller and server, for who measures.
type Caller struct {
	conn    *net.UnixConn
	idle    chan *Channel // nil: none
	sending sync.Mutex
	waiting sync.Map      // tag: answered
	turn    chan struct{} // who has put something in receives
}

type answered struct {
	done chan received
	data []byte // room for a body
}

type received struct {
	message uint8
	bytes   int
	fd      int
	err     error
}

// Caller is one on connection i, which has agreed on a version and attached fid 1; up to so many channels are asked for.
func (s *Server) Caller(conn int, channels int) (*Caller, error) {
	raw := &Raw{conn: s.conns[conn], server: s}
	version, err := raw.Highest(1 << 20)
	if err != nil {
		return nil, err
	}
	c := &Caller{conn: s.conns[conn], turn: make(chan struct{}, 1)}
	if channels > 0 && version >= 8 {
		given, err := AskChannels(raw, channels)
		if err != nil {
			return nil, err
		}
		if len(given) == 0 {
			return nil, fmt.Errorf("no channel")
		}
		c.idle = make(chan *Channel, len(given))
		for _, channel := range given {
			s.keep(channel)
			c.idle <- channel
		}
	}
	reply, err := raw.Call(104, uint32(1), uint32(0xffffffff), "", "/", uint32(0xffffffff))
	if err == nil {
		err = reply.Err
	}
	return c, err
}

// Call sends a frame, whose tag is the caller's own, and waits. The answer's body is put into data, as much as that
// holds; its length, and the descriptor that came with it, or -1. An Rlerror is an error.
func (c *Caller) Call(frame, data []byte) (bytes, fd int, err error) {
	var got received
	select {
	case channel := <-c.idle: // never from none
		message, body, fd, err := channel.Exchange(frame)
		got = received{message, copy(data, body), fd, err}
		c.idle <- channel
	default:
		got = c.overSocket(frame, data)
	}
	switch {
	case got.err != nil:
		return 0, -1, got.err
	case got.message == rlError:
		return 0, -1, syscall.Errno(binary.LittleEndian.Uint32(data))
	case got.message != frame[4]+1:
		return 0, -1, fmt.Errorf("message %d answered by %d", frame[4], got.message)
	}
	return got.bytes, got.fd, nil
}

func (c *Caller) overSocket(frame, data []byte) received {
	mine := answered{make(chan received, 1), data}
	c.waiting.Store(binary.LittleEndian.Uint16(frame[5:]), mine)
	c.sending.Lock()
	_, err := c.conn.Write(frame)
	c.sending.Unlock()
	if err != nil {
		return received{err: err}
	}
	for {
		select {
		case got := <-mine.done:
			return got
		case c.turn <- struct{}{}:
			select {
			case got := <-mine.done:
				<-c.turn
				return got
			default:
			}
			err := c.receive()
			<-c.turn
			if err != nil {
				return received{err: err}
			}
		}
	}
}

// Receives one answer, for whoever waits for it.
func (c *Caller) receive() error {
	var head [headSize]byte
	var control [64]byte
	for at := 0; at < headSize; {
		n, controls, _, _, err := c.conn.ReadMsgUnix(head[at:], control[:])
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return err
		}
		at += n
		if at < headSize {
			continue
		}
		waiting, known := c.waiting.LoadAndDelete(binary.LittleEndian.Uint16(head[5:]))
		bytes := int(binary.LittleEndian.Uint32(head[:])) - headSize
		to, _ := waiting.(answered)
		if !known || bytes < 0 || bytes > len(to.data) {
			return fmt.Errorf("an answer of %d bytes to nothing that was asked", bytes)
		}
		got := received{message: head[4], bytes: bytes, fd: -1}
		if controls > 0 {
			for _, fd := range rights(control[:controls]) {
				got.fd = fd
			}
		}
		for at := 0; err == nil && at < bytes; at += n {
			n, err = c.conn.Read(to.data[at:bytes])
		}
		got.err = err
		to.done <- got
	}
	return nil
}
