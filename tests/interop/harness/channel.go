package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Transport is what requests go over: "socket", or "channels" where the version has them and one is idle.
func Transport() string {
	if name := os.Getenv("TRANSPORT"); name != "" {
		return name
	}
	return "socket"
}

// Cores is how many this machine has, whichever of them we may use.
func Cores() int {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 1
	}
	return strings.Count("\n"+string(text), "\nprocessor")
}

// WantedChannels is how many gVisor's client asks for: one for each processor, but 2 to 4.
func WantedChannels() int {
	wanted := Cores()
	if wanted < 2 {
		wanted = 2
	}
	if wanted > 4 {
		wanted = 4
	}
	return wanted
}

// A window: the word that says whose turn it is, the length of the datagram, eight bytes of nobody's, the datagram.
const (
	lengthAt   = 4
	datagramAt = 16
)

const (
	turnClient = 0
	turnServer = 1
)

const greeting = "{}\n"

// Channel is a window of memory that is shared with a server, and the socket that descriptors come over. It is used as
// gVisor's client does: it hands over by a compare-and-swap and a wake-up, looks once, and sleeps.
type Channel struct {
	window  []byte
	socket  int
	busy    sync.Mutex // while an exchange is under way
	greeted bool
	misses  int
}

// AskChannel asks for both halves of a channel, on a socket on which nothing else is under way.
func AskChannel(raw *Raw, number uint32) (*Channel, error) {
	var halves [2]*os.File
	var offset, length uint64
	for control := range halves {
		reply, err := raw.Call(tChannel, number, uint32(control))
		if err != nil {
			return nil, err
		}
		if reply.Err != nil {
			return nil, reply.Err
		}
		if reply.File == nil {
			return nil, fmt.Errorf("channel %d: no descriptor", number)
		}
		defer reply.File.Close()
		halves[control] = reply.File
		offset, length = reply.Body.U64(), reply.Body.U64()
	}
	window, err := unix.Mmap(int(halves[0].Fd()), int64(offset), int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("channel %d: mapping %d bytes at %d: %w", number, length, offset, err)
	}
	socket, err := unix.FcntlInt(halves[1].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Channel{window: window, socket: socket}, nil
}

// AskChannels asks for one after the other as gVisor's client does: up to so many, or until one is refused.
func AskChannels(raw *Raw, most int) ([]*Channel, error) {
	var channels []*Channel
	for len(channels) < most {
		channel, err := AskChannel(raw, uint32(len(channels)))
		var errno syscall.Errno
		if errors.As(err, &errno) {
			break
		}
		if err != nil {
			return nil, err
		}
		channels = append(channels, channel)
	}
	return channels, nil
}

// Used says whether anything has gone over it.
func (c *Channel) Used() bool { return c.greeted }

// Close gives the memory and the socket up, unless an exchange still waits there.
func (c *Channel) Close() {
	if !c.busy.TryLock() {
		return
	}
	_ = unix.Munmap(c.window)
	_ = unix.Close(c.socket)
}

// Hands the window with a datagram of that length over, and waits for the server's; its length.
func (c *Channel) swap(length int) (int, error) {
	turn := (*uint32)(unsafe.Pointer(&c.window[0]))
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&c.window[lengthAt])), uint32(length))
	if !atomic.CompareAndSwapUint32(turn, turnClient, turnServer) {
		return 0, fmt.Errorf("channel: its state is %d where it is the client's turn", atomic.LoadUint32(turn))
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(turn)), 1 /* FUTEX_WAKE */, 1, 0, 0, 0)
	for {
		switch state := atomic.LoadUint32(turn); state {
		case turnClient:
			length := binary.LittleEndian.Uint32(c.window[lengthAt:])
			if int(length) > len(c.window)-datagramAt {
				return 0, fmt.Errorf("channel: a datagram of %d bytes", length)
			}
			return int(length), nil
		case turnServer:
			patience := syscall.Timespec{Sec: 20}
			_, _, errno := syscall.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(turn)), 0 /* FUTEX_WAIT */, turnServer, uintptr(unsafe.Pointer(&patience)), 0, 0)
			if errno == syscall.ETIMEDOUT {
				return 0, fmt.Errorf("channel: no answer in 20 s")
			}
		default:
			return 0, fmt.Errorf("channel: its state is %d", state)
		}
	}
}

// Exchange sends a frame as a datagram, which has neither size nor tag, and waits for the answer: its type, its
// body, which stands in the window until the next exchange, and the descriptor that came with it, or -1.
func (c *Channel) Exchange(frame []byte) (message uint8, body []byte, fd int, err error) {
	c.busy.Lock()
	defer c.busy.Unlock()
	if !c.greeted {
		copy(c.window[datagramAt:], greeting)
		length, err := c.swap(len(greeting))
		if err != nil {
			return 0, nil, -1, err
		}
		if answer := string(c.window[datagramAt : datagramAt+length]); answer != greeting {
			return 0, nil, -1, fmt.Errorf("channel: greeted by %q", answer)
		}
		c.greeted = true
	}
	datagram := c.window[datagramAt:]
	datagram[0], datagram[1] = frame[4], 0
	length, err := c.swap(2 + copy(datagram[2:], frame[headSize:]))
	if err != nil {
		return 0, nil, -1, err
	}
	if length < 2 || datagram[1] > 1 {
		return 0, nil, -1, fmt.Errorf("channel: a datagram of %d bytes, %x", length, datagram[:2])
	}
	fd = -1
	if datagram[1] == 1 {
		if fd = c.descriptor(); fd < 0 {
			c.misses++
		}
	}
	return datagram[0], datagram[2:length], fd, nil
}

// The descriptor that was sent ahead of a hand-over, or -1.
func (c *Channel) descriptor() int {
	var control [24]byte // one number
	var byte1 byte
	part := syscall.Iovec{Base: &byte1, Len: 1}
	message := syscall.Msghdr{Iov: &part, Iovlen: 1, Control: &control[0], Controllen: uint64(len(control))}
	_, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, uintptr(c.socket), uintptr(unsafe.Pointer(&message)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if errno != 0 || message.Controllen < unix.SizeofCmsghdr+4 {
		return -1
	}
	return int(binary.LittleEndian.Uint32(control[unix.SizeofCmsghdr:]))
}

// Counts the descriptors that were announced and not there, and those that lie there and were not announced.
func (c *Channel) misplaced() (misses, surplus int) {
	for {
		fd := c.descriptor()
		if fd < 0 {
			return c.misses, surplus
		}
		_ = unix.Close(fd)
		surplus++
	}
}
