package harness

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// Raw is a connection on which frames are written and read by hand, one at a time.
type Raw struct {
	conn     *net.UnixConn
	tag      uint16
	server   *Server
	channel  *Channel // what goes out from here on goes over it
	answered []Reply  // what came back over it and was not received yet
}

// UseChannel sends over channel 0 from here on, if that is the transport of this run.
func (r *Raw) UseChannel() error {
	if Transport() != "channels" {
		return nil
	}
	channel, err := AskChannel(r, 0)
	if err == nil {
		r.channel = channel
		r.server.keep(channel)
	}
	return err
}

// Plain is the same connection without the channel.
func (r *Raw) Plain() *Raw { return &Raw{conn: r.conn, tag: r.tag + 10000, server: r.server} }

// Reply is what came back.
type Reply struct {
	Type uint8
	Tag  uint16
	Body *Reader
	File *os.File // nil where no descriptor came with the first bytes
	Err  error    // the errno of an Rlerror
}

// Frame is size, type, tag and body.
func Frame(message uint8, tag uint16, body []byte) []byte {
	frame := make([]byte, headSize, headSize+len(body))
	binary.LittleEndian.PutUint32(frame, uint32(headSize+len(body)))
	frame[4] = message
	binary.LittleEndian.PutUint16(frame[5:], tag)
	return append(frame, body...)
}

// Body puts fields together: uint8, uint16, uint32, uint64, string (with its length) and []byte (as it is).
func Body(fields ...interface{}) []byte {
	var body []byte
	for _, field := range fields {
		switch value := field.(type) {
		case uint8:
			body = append(body, value)
		case uint16:
			body = append(body, byte(value), byte(value>>8))
		case uint32:
			body = append(body, byte(value), byte(value>>8), byte(value>>16), byte(value>>24))
		case uint64:
			var number [8]byte
			binary.LittleEndian.PutUint64(number[:], value)
			body = append(body, number[:]...)
		case string:
			body = append(append(body, byte(len(value)), byte(len(value)>>8)), value...)
		case []byte:
			body = append(body, value...)
		case []string:
			body = append(body, byte(len(value)), byte(len(value)>>8))
			for _, name := range value {
				body = append(body, Body(name)...)
			}
		default:
			panic(fmt.Sprintf("no wire form for %T", field))
		}
	}
	return body
}

// Send writes a request and returns its tag.
func (r *Raw) Send(message uint8, fields ...interface{}) (uint16, error) {
	r.tag++
	frame := Frame(message, r.tag, Body(fields...))
	if r.channel != nil {
		message, body, fd, err := r.channel.Exchange(frame)
		if err != nil {
			return r.tag, err
		}
		sentOverChannels.Add(1)
		reply := newReply(message, r.tag, append([]byte{}, body...))
		if fd >= 0 {
			reply.File = os.NewFile(uintptr(fd), "donated")
		}
		r.answered = append(r.answered, reply)
		return r.tag, nil
	}
	sentOverSockets.Add(1)
	_, err := r.conn.Write(frame)
	return r.tag, err
}

func newReply(message uint8, tag uint16, body []byte) Reply {
	reply := Reply{Type: message, Tag: tag, Body: &Reader{bytes: body}}
	if reply.Type == rlError {
		reply.Err = syscall.Errno(reply.Body.U32())
	}
	return reply
}

// Receive reads one frame.
func (r *Raw) Receive() (Reply, error) {
	if len(r.answered) > 0 {
		reply := r.answered[0]
		r.answered = r.answered[1:]
		return reply, nil
	}
	head, control := make([]byte, headSize), make([]byte, 64)
	n, controls, _, _, err := r.conn.ReadMsgUnix(head, control)
	if err != nil {
		return Reply{}, err
	}
	if n == 0 {
		return Reply{}, io.EOF
	}
	if _, err := io.ReadFull(r.conn, head[n:]); err != nil {
		return Reply{}, err
	}
	size := binary.LittleEndian.Uint32(head)
	if size < headSize || size > 1<<20 {
		return Reply{}, fmt.Errorf("a frame of %d bytes", size)
	}
	body := make([]byte, size-headSize)
	if _, err := io.ReadFull(r.conn, body); err != nil {
		return Reply{}, err
	}
	reply := newReply(head[4], binary.LittleEndian.Uint16(head[5:]), body)
	if files := descriptors(control[:controls]); len(files) > 0 {
		reply.File = files[0]
	}
	return reply, nil
}

// Call sends a request and waits for its reply. The error is that of the connection or the wrong
// kind of reply; an Rlerror stands in the reply.
func (r *Raw) Call(message uint8, fields ...interface{}) (Reply, error) {
	tag, err := r.Send(message, fields...)
	if err != nil {
		return Reply{}, err
	}
	reply, err := r.Receive()
	if err == nil && (reply.Tag != tag || reply.Type != message+1 && reply.Type != rlError) {
		err = fmt.Errorf("message %d tag %d answered by %d tag %d", message, tag, reply.Type, reply.Tag)
	}
	return reply, err
}

// Write sends bytes as they are.
func (r *Raw) Write(bytes []byte) error {
	_, err := r.conn.Write(bytes)
	return err
}

// Close ends the connection.
func (r *Raw) Close() error { return r.conn.Close() }

// Version negotiates a version and a message size.
func (r *Raw) Version(msize uint32, version string) (Reply, error) {
	return r.Call(tVersion, msize, version)
}

// Highest negotiates the highest version that is answered, from 13 down, as gVisor's client does.
func (r *Raw) Highest(msize uint32) (int, error) {
	for version := 13; version >= 0; version-- {
		reply, err := r.Version(msize, VersionName(version))
		if err != nil {
			return 0, err
		}
		if reply.Err == nil {
			_ = reply.Body.U32()
			var answered int
			if name := reply.Body.Str(); name != VersionName(0) {
				if _, err := fmt.Sscanf(name, "9P2000.L.Google.%d", &answered); err != nil {
					return 0, fmt.Errorf("the version answered is %q", name)
				}
			}
			return answered, nil
		}
		if reply.Err != syscall.EAGAIN {
			return 0, reply.Err
		}
	}
	return 0, fmt.Errorf("no version is spoken")
}

// Reader takes fields off a body; Short says that one was not there.
type Reader struct {
	bytes []byte
	Short bool
}

func (r *Reader) take(n int) []byte {
	if n > len(r.bytes) {
		r.Short = true
		return make([]byte, n)
	}
	taken := r.bytes[:n]
	r.bytes = r.bytes[n:]
	return taken
}

// U8 to Str are the wire's types; Left is what has not been taken.
func (r *Reader) U8() uint8   { return r.take(1)[0] }
func (r *Reader) U16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *Reader) U32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *Reader) U64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *Reader) Str() string { return string(r.take(int(r.U16()))) }
func (r *Reader) Left() int   { return len(r.bytes) }
