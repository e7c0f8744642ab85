package harness

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hugelgupf/p9/p9"
)

// Message types that the harness itself has to tell apart.
const (
	tVersion = 100
	tLopen   = 12
	tLcreate = 14
	tUcreate = 128
	tConnect = 136
	tChannel = 250
	rlError  = 7
	headSize = 7
)

// Requests sent by either way, Tversion and Tchannel among them.
var sentOverChannels, sentOverSockets atomic.Int64

// Wire is the client's end of a connection. It looks at the frames that pass: descriptors are taken
// from the receive that returns a frame's first bytes, as gVisor's client does; one that
// arrives anywhere else would be lost to that client, and is counted as Late.
type Wire struct {
	conn *net.UnixConn

	mu      sync.Mutex
	out     []byte            // bytes of a frame not yet whole
	head    []byte            // header bytes of the frame being received
	body    int               // bytes of it still to come
	opening map[uint16]uint32 // tag of a request whose reply may carry a descriptor: its fid
	files   map[uint32]*os.File
	sent    map[uint8]int
	late    int
	surplus int
	version int // asked for in Tversion in place of the client's own; below 0: the client's

	idle     chan *Channel // nil: frames go over the socket
	incoming chan incoming // whole frames of either way, once there are channels
	in       []byte        // what is left of one
	closed   chan struct{}
}

type incoming struct {
	frame []byte
	err   error
}

// NewWire is a wire on a connection. Version: what is asked for in place of the client's own; below 0: the client's.
func NewWire(conn *net.UnixConn, version int) *Wire {
	return &Wire{conn: conn, opening: map[uint16]uint32{}, files: map[uint32]*os.File{}, sent: map[uint8]int{}, version: version,
		closed: make(chan struct{})}
}

// UseChannels asks for channels, up to so many, when the version is agreed on and nothing is under way. From here on a
// frame goes over one that is idle, and over the socket where none is. They are the caller's to close.
func (w *Wire) UseChannels(most int) ([]*Channel, error) {
	channels, err := AskChannels(&Raw{conn: w.conn}, most)
	if err != nil || len(channels) == 0 {
		return nil, err
	}
	w.incoming = make(chan incoming)
	w.idle = make(chan *Channel, len(channels))
	for _, channel := range channels {
		w.idle <- channel
	}
	go func() {
		for {
			frame, err := w.receive()
			if !w.deliver(frame, err) || err != nil {
				return
			}
		}
	}()
	return channels, nil
}

// Sends a frame over a channel; its answer is read as one of the same tag.
func (w *Wire) exchange(channel *Channel, frame []byte) {
	tag := binary.LittleEndian.Uint16(frame[5:])
	message, body, fd, err := channel.Exchange(frame)
	if err != nil {
		w.deliver(nil, err)
		return
	}
	answer := Frame(message, tag, body)
	w.idle <- channel
	if fd >= 0 {
		w.mu.Lock()
		w.donated(tag, os.NewFile(uintptr(fd), "donated"))
		w.mu.Unlock()
	}
	w.deliver(answer, nil)
}

func (w *Wire) deliver(frame []byte, err error) bool {
	select {
	case w.incoming <- incoming{frame, err}:
		return true
	case <-w.closed:
		return false
	}
}

// A whole frame of the socket.
func (w *Wire) receive() ([]byte, error) {
	frame := make([]byte, headSize)
	for at := 0; at < len(frame); {
		n, err := w.readSocket(frame[at:])
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return nil, err
		}
		if at += n; at == headSize {
			size := binary.LittleEndian.Uint32(frame)
			if size < headSize || size > 1<<20 {
				return nil, fmt.Errorf("a frame of %d bytes", size)
			}
			frame = append(frame, make([]byte, size-headSize)...)
		}
	}
	return frame, nil
}

// VersionName is the wire form of a version.
func VersionName(version int) string {
	if version == 0 {
		return "9P2000.L"
	}
	return fmt.Sprintf("9P2000.L.Google.%d", version)
}

// Write takes any part of a frame and sends whole frames.
func (w *Wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = append(w.out, p...)
	for len(w.out) >= headSize {
		size := int(binary.LittleEndian.Uint32(w.out))
		if len(w.out) < size {
			break
		}
		frame := w.out[:size]
		w.note(frame)
		if frame[4] == tVersion && w.version >= 0 {
			name := VersionName(w.version)
			msize := frame[headSize : headSize+4]
			body := append(append([]byte{}, msize...), byte(len(name)), 0)
			frame = Frame(tVersion, binary.LittleEndian.Uint16(frame[5:]), append(body, name...))
		}
		w.out = append([]byte{}, w.out[size:]...)
		select {
		case channel := <-w.idle: // never from none
			sentOverChannels.Add(1)
			go w.exchange(channel, frame)
			continue
		default:
		}
		sentOverSockets.Add(1)
		if _, err := w.conn.Write(frame); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Remembers which fid a reply's descriptor will belong to.
func (w *Wire) note(frame []byte) {
	w.sent[frame[4]]++
	switch frame[4] {
	case tLopen, tLcreate, tUcreate, tConnect:
		fid := binary.LittleEndian.Uint32(frame[headSize:])
		w.opening[binary.LittleEndian.Uint16(frame[5:])] = fid
		if old := w.files[fid]; old != nil {
			old.Close()
			delete(w.files, fid)
		}
	}
}

// Read returns bytes of one frame at most.
func (w *Wire) Read(p []byte) (int, error) {
	if w.incoming == nil {
		return w.readSocket(p)
	}
	if len(w.in) == 0 {
		select {
		case next := <-w.incoming:
			if next.err != nil {
				return 0, next.err
			}
			w.in = next.frame
		case <-w.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, w.in)
	w.in = w.in[n:]
	return n, nil
}

func (w *Wire) readSocket(p []byte) (int, error) {
	want, first := headSize-len(w.head), len(w.head) == 0
	if w.body > 0 {
		want, first = w.body, false
	}
	if want > len(p) {
		want = len(p)
	}
	control := make([]byte, 256)
	n, controls, _, _, err := w.conn.ReadMsgUnix(p[:want], control)
	if err != nil {
		return n, err
	}
	received := descriptors(control[:controls])
	w.mu.Lock()
	defer w.mu.Unlock()
	if !first {
		w.late += len(received)
		for _, file := range received {
			file.Close()
		}
		received = nil
	}
	if w.body > 0 {
		w.body -= n
		if w.body == 0 {
			w.head = w.head[:0]
		}
		return n, nil
	}
	w.head = append(w.head, p[:n]...)
	if len(received) > 0 {
		if len(w.head) < headSize { // not seen on a local socket: the server sends frames whole
			return n, fmt.Errorf("a header of %d bytes with a descriptor", len(w.head))
		}
		w.donated(binary.LittleEndian.Uint16(w.head[5:]), received...)
	}
	if len(w.head) == headSize {
		w.body = int(binary.LittleEndian.Uint32(w.head)) - headSize
		if w.body == 0 {
			w.head = w.head[:0]
		}
	}
	return n, nil
}

// Keeps the descriptor that came with the reply of a tag.
func (w *Wire) donated(tag uint16, received ...*os.File) {
	fid, known := w.opening[tag]
	for i, file := range received {
		if i == 0 && known {
			w.files[fid] = file
		} else {
			w.surplus++
			file.Close()
		}
	}
}

// The numbers of the descriptors that came with a receive.
func rights(control []byte) []int {
	var all []int
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, message := range messages {
		if numbers, err := syscall.ParseUnixRights(&message); err == nil {
			all = append(all, numbers...)
		}
	}
	return all
}

func descriptors(control []byte) []*os.File {
	var files []*os.File
	for _, fd := range rights(control) {
		syscall.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "donated"))
	}
	return files
}

// Close ends the connection.
func (w *Wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, file := range w.files {
		file.Close()
	}
	w.files = map[uint32]*os.File{}
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	return w.conn.Close()
}

// Donated is the descriptor that came with the reply that opened or created this file, or nil.
// It is the caller's from then on.
func (w *Wire) Donated(file p9.File) *os.File {
	w.mu.Lock()
	defer w.mu.Unlock()
	fid := Fid(file)
	donated := w.files[fid]
	delete(w.files, fid)
	return donated
}

// Fid is the number behind a file of the client package, which has no way to say it.
func Fid(file p9.File) uint32 {
	return uint32(reflect.ValueOf(file).Elem().FieldByName("fid").Uint())
}

// Sent is how many requests of a type have gone out.
func (w *Wire) Sent(message uint8) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[message]
}

// Misplaced counts descriptors that gVisor's client would have lost or closed.
func (w *Wire) Misplaced() (late, surplus int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.late, w.surplus
}
