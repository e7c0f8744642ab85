package suite

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"gofer/interop/harness"
)

const noNumber = uint32(0xffffffff)

// A server, a connection by hand on which fid 1 is the root, and the version agreed on.
func byHand(t *testing.T, options harness.Options) (*harness.Server, *harness.Raw, int) {
	t.Helper()
	server := harness.Start(t, options)
	raw := server.Raw(t, 0)
	version, err := raw.Highest(1 << 20)
	must(t, err)
	if version >= 8 {
		must(t, raw.UseChannel())
	}
	reply, err := raw.Call(104, uint32(1), noNumber, "", "/", noNumber)
	must(t, err)
	if reply.Err != nil {
		t.Fatalf("Tattach: %v", reply.Err)
	}
	return server, raw, version
}

func call(t *testing.T, raw *harness.Raw, message uint8, fields ...interface{}) harness.Reply {
	t.Helper()
	reply, err := raw.Call(message, fields...)
	if err != nil {
		t.Fatalf("message %d: %v", message, err)
	}
	return reply
}

func rawWalk(t *testing.T, raw *harness.Raw, from, to uint32, names ...string) {
	t.Helper()
	if reply := call(t, raw, 110, from, to, names); reply.Err != nil {
		t.Fatalf("walk to %q: %v", names, reply.Err)
	}
}

// The client package has no method for what follows: these are sent by hand. A message that came after
// the version agreed on is not known to the server: EIO, on the request's tag.
func needs(t *testing.T, version, least int) {
	t.Helper()
	if version < least {
		t.Skipf("the server's highest version is %d, this is of %d", version, least)
	}
}

func TestMessagesAboveTheVersionAreUnknown(t *testing.T) {
	_, raw, version := byHand(t, harness.Options{})
	for message, since := range map[uint8]int{138: 7, 250: 8, 34: 10, 36: 10, 28: 11, 38: 11, 140: 12, 142: 13, 144: 13} {
		if version < since {
			check(t, fmt.Sprintf("unknown/%d", message), odd(t, raw, message, make([]byte, 60)), "EIO on its tag")
		}
	}
	for _, message := range []uint8{6, 52, 54, 98, 112, 254} {
		check(t, fmt.Sprintf("unknown/always %d", message), odd(t, raw, message, make([]byte, 20)), "EIO on its tag")
	}
}

func TestAllocate(t *testing.T) {
	server, raw, version := byHand(t, harness.Options{})
	needs(t, version, 7)
	write(t, server.Host("f"), "text")
	rawWalk(t, raw, 1, 2, "f")
	check(t, "allocate/not opened", call(t, raw, 138, uint32(2), uint32(0), uint64(0), uint64(9)).Err, syscall.EINVAL)
	must(t, errOf(call(t, raw, 12, uint32(2), uint32(2))))
	check(t, "allocate/grows", call(t, raw, 138, uint32(2), uint32(0), uint64(0), uint64(100000)).Err, nil)
	check(t, "allocate/on the host", stat(t, server.Host("f")).Size, 100000)
	check(t, "allocate/of nothing", call(t, raw, 138, uint32(2), uint32(0), uint64(0), uint64(0)).Err, syscall.EINVAL)
	check(t, "allocate/no such fid", call(t, raw, 138, uint32(99), uint32(0), uint64(0), uint64(1)).Err, syscall.EBADF)
	rawWalk(t, raw, 1, 3, "f")
	must(t, errOf(call(t, raw, 12, uint32(3), uint32(0))))
	check(t, "allocate/opened for reading", call(t, raw, 138, uint32(3), uint32(0), uint64(0), uint64(1)).Err, syscall.EBADF)
}

// Not a call of ours alone: it would kill the original.
func TestAllocateModes(t *testing.T) {
	if harness.UnderTest() == "original" {
		t.Skip("a mode kills the original by its own filter")
	}
	server, raw, version := byHand(t, harness.Options{})
	needs(t, version, 7)
	write(t, server.Host("f"), "text")
	rawWalk(t, raw, 1, 2, "f")
	must(t, errOf(call(t, raw, 12, uint32(2), uint32(2))))
	for _, mode := range []uint32{1, 2, 3, 0x10, 0x80} {
		reply := call(t, raw, 138, uint32(2), mode, uint64(0), uint64(4096))
		t.Logf("allocate in mode %#x: %v", mode, reply.Err)
	}
	check(t, "allocate/alive after modes", call(t, raw, 24, uint32(2), uint64(0x3fff)).Err, nil)
}

func errOf(reply harness.Reply) error { return reply.Err }

// O_TRUNC in Tlopen is of version 9; the clients before it set the size.
func TestOpenTruncates(t *testing.T) {
	server, raw, version := byHand(t, harness.Options{})
	needs(t, version, 9)
	write(t, server.Host("f"), "text")
	must(t, os.Mkdir(server.Host("d"), 0o755))
	rawWalk(t, raw, 1, 2, "f")
	reply := call(t, raw, 12, uint32(2), uint32(0x200|2))
	check(t, "truncate/open", reply.Err, nil)
	check(t, "truncate/descriptor", reply.File != nil, true)
	check(t, "truncate/on the host", stat(t, server.Host("f")).Size, 0)
	rawWalk(t, raw, 1, 3, "d")
	check(t, "truncate/directory", call(t, raw, 12, uint32(3), uint32(0x200)).Err, syscall.EISDIR)
}

func TestXattr(t *testing.T) {
	server, raw, version := byHand(t, harness.Options{})
	needs(t, version, 10)
	write(t, server.Host("f"), "text")
	must(t, os.Mkdir(server.Host("d"), 0o755))
	rawWalk(t, raw, 1, 2, "f")
	rawWalk(t, raw, 1, 3, "d")
	get := func(fid uint32, name string, size uint64) string {
		reply := call(t, raw, 34, fid, name, size)
		return say(reply.Err, func() string {
			if reply.Err != nil {
				return ""
			}
			return reply.Body.Str()
		}())
	}
	for name, fid := range map[string]uint32{"f": 2, "d": 3} {
		check(t, "setxattr/"+name, call(t, raw, 36, fid, "user.a", "value", uint32(0)).Err, nil)
		value := make([]byte, 64)
		n, err := syscall.Getxattr(server.Host(name), "user.a", value)
		if err != nil {
			n = 0
		}
		check(t, "setxattr/on the host "+name, string(value[:n]), "value")
		check(t, "getxattr/"+name, get(fid, "user.a", 64), "<nil> value")
		check(t, "getxattr/short buffer "+name, get(fid, "user.a", 2), say(syscall.ERANGE, ""))
		check(t, "getxattr/missing "+name, get(fid, "user.none", 64), say(syscall.ENODATA, ""))
		check(t, "setxattr/create what is there "+name, call(t, raw, 36, fid, "user.a", "value", uint32(1)).Err, syscall.EEXIST)
		check(t, "setxattr/replace what is not "+name, call(t, raw, 36, fid, "user.b", "value", uint32(2)).Err, syscall.ENODATA)
	}
	for _, name := range []string{"security.capability", "system.posix_acl_access", "trusted.x"} {
		check(t, "setxattr/"+name, call(t, raw, 36, uint32(2), name, "value", uint32(0)).Err, syscall.EOPNOTSUPP)
		check(t, "getxattr/"+name, get(2, name, 64), say(syscall.EOPNOTSUPP, ""))
	}
	if version >= 11 {
		reply := call(t, raw, 28, uint32(2), uint64(1024))
		check(t, "listxattr/file", reply.Err, nil)
		if reply.Err == nil {
			n := reply.Body.U16()
			check(t, "listxattr/names", say(n, reply.Body.Str()), "1 user.a")
		}
		check(t, "removexattr/file", call(t, raw, 38, uint32(2), "user.a").Err, nil)
		check(t, "removexattr/again", call(t, raw, 38, uint32(2), "user.a").Err, syscall.ENODATA)
		check(t, "removexattr/another kind", call(t, raw, 38, uint32(2), "security.x").Err, syscall.EOPNOTSUPP)
	}
	check(t, "xattr/no such fid", call(t, raw, 34, uint32(99), "user.a", uint64(1)).Err, syscall.EBADF)
}

func TestSetAttrClunk(t *testing.T) {
	server, raw, version := byHand(t, harness.Options{})
	needs(t, version, 12)
	write(t, server.Host("f"), "text")
	setattr := func(valid uint32, mode uint32, size uint64) []interface{} {
		return []interface{}{valid, mode, uint32(0), uint32(0), size, uint64(0), uint64(0), uint64(0), uint64(0)}
	}
	rawWalk(t, raw, 1, 2, "f")
	check(t, "setattrclunk/mode", call(t, raw, 140, append([]interface{}{uint32(2)}, setattr(1, 0o600, 0)...)...).Err, nil)
	check(t, "setattrclunk/on the host", fmt.Sprintf("%o", stat(t, server.Host("f")).Mode), "100600")
	check(t, "setattrclunk/fid is gone", call(t, raw, 24, uint32(2), uint64(0)).Err, syscall.EBADF)
	rawWalk(t, raw, 1, 2, "f")
	check(t, "setattrclunk/fails", call(t, raw, 140, append([]interface{}{uint32(2)}, setattr(0x40, 0, 0)...)...).Err, syscall.EPERM)
	check(t, "setattrclunk/fid is gone all the same", call(t, raw, 24, uint32(2), uint64(0)).Err, syscall.EBADF)
	check(t, "setattrclunk/no such fid", call(t, raw, 140, append([]interface{}{uint32(99)}, setattr(1, 0, 0)...)...).Err, syscall.EBADF)
}

func TestMultiGetAttr(t *testing.T) {
	server, raw, version := byHand(t, harness.Options{})
	needs(t, version, 13)
	must(t, os.MkdirAll(server.Host("a/b"), 0o755))
	write(t, server.Host("a/b/f"), "text")
	must(t, os.Symlink("b", server.Host("a/l")))
	multi := func(fid uint32, names ...string) string {
		reply := call(t, raw, 142, fid, names)
		if reply.Err != nil {
			return say(reply.Err)
		}
		n, inodes := int(reply.Body.U16()), ""
		for i := 0; i < n; i++ {
			_, _, path := reply.Body.U8(), reply.Body.U32(), reply.Body.U64()
			valid, mode := reply.Body.U64(), reply.Body.U32()
			inodes += fmt.Sprintf(" %d:%x:%o", path&(1<<56-1), valid, mode)
			for skipped := 0; skipped < 128; skipped += 4 {
				reply.Body.U32()
			}
		}
		return say(n, inodes, reply.Body.Short, reply.Body.Left())
	}
	host := func(names ...string) string {
		inodes := ""
		for _, name := range names {
			s := stat(t, server.Host(name))
			inodes += fmt.Sprintf(" %d:6ff:%o", s.Ino, s.Mode)
		}
		return say(len(names), inodes, false, 0)
	}
	check(t, "multigetattr/path", multi(1, "a", "b", "f"), host("a", "a/b", "a/b/f"))
	check(t, "multigetattr/itself first", multi(1, "", "a"), host("", "a"))
	check(t, "multigetattr/missing", multi(1, "a", "none", "f"), host("a"))
	check(t, "multigetattr/missing at once", multi(1, "none"), host())
	check(t, "multigetattr/stops at a symlink", multi(1, "a", "l", "f"), host("a", "a/l"))
	check(t, "multigetattr/stops at a file", multi(1, "a", "b", "f", "g"), host("a", "a/b", "a/b/f"))
	check(t, "multigetattr/dot dot", multi(1, "a", ".."), say(syscall.EINVAL))
	check(t, "multigetattr/empty later", multi(1, "a", ""), say(syscall.EINVAL))
	check(t, "multigetattr/no such fid", multi(99, "a"), say(syscall.EBADF))
	rawWalk(t, raw, 1, 2, "a", "b", "f")
	check(t, "multigetattr/from a file", multi(2, "x"), say(syscall.ENOTDIR))
}

// Which channels there are. A client of version 7 never asks.
func TestChannels(t *testing.T) {
	_, raw, version := byHand(t, harness.Options{})
	needs(t, version, 8)
	raw = raw.Plain()
	for name, control := range map[string]uint32{"memory": 0, "socket": 1} {
		reply := call(t, raw, 250, uint32(0), control)
		check(t, "channel/"+name, say(reply.Err, reply.Body.U64(), reply.Body.U64(), reply.File != nil), "<nil> 0 1052672 true")
	}
	check(t, "channel/neither", call(t, raw, 250, uint32(0), uint32(2)).Err, syscall.EINVAL)
	check(t, "channel/one too many", call(t, raw, 250, uint32(4), uint32(0)).Err, syscall.ENOSYS)
	check(t, "channel/goes on", call(t, raw, 24, uint32(1), uint64(0)).Err, nil)
}

// Without channels, and for a version that has none, everything goes over the socket as before.
func TestNoChannels(t *testing.T) {
	if harness.UnderTest() != "ours" {
		t.Skip("--channels is a flag of ours")
	}
	none := harness.Start(t, harness.Options{Flags: []string{"--channels=0"}}).Raw(t, 0)
	version, err := none.Highest(1 << 20)
	must(t, err)
	check(t, "channels/none", say(version, call(t, none, 250, uint32(0), uint32(0)).Err), say(13, syscall.ENOSYS))
	old := harness.Start(t, harness.Options{}).Raw(t, 0)
	_, err = old.Version(1<<20, harness.VersionName(7))
	must(t, err)
	check(t, "channels/version 7", call(t, old, 250, uint32(0), uint32(0)).Err, syscall.ENOSYS)
}

func TestBind(t *testing.T) {
	_, raw, version := byHand(t, harness.Options{})
	needs(t, version, 13)
	check(t, "bind/refused", call(t, raw, 144, uint32(1), uint32(1), "s", uint32(0), uint32(0), uint32(9)).Err, syscall.EPERM)
	check(t, "bind/name", call(t, raw, 144, uint32(1), uint32(1), "..", uint32(0), uint32(0), uint32(9)).Err, syscall.EINVAL)
	check(t, "bind/no such fid", call(t, raw, 144, uint32(99), uint32(1), "s", uint32(0), uint32(0), uint32(9)).Err, syscall.EBADF)
}

// Sockets and FIFOs: refused without the flags, served with them.
func TestConnect(t *testing.T) {
	server, raw, _ := byHand(t, harness.Options{})
	write(t, server.Host("f"), "")
	rawWalk(t, raw, 1, 2, "f")
	check(t, "connect/file", call(t, raw, 136, uint32(2), uint32(0)).Err, syscall.EINVAL)
	check(t, "connect/no such fid", call(t, raw, 136, uint32(99), uint32(0)).Err, syscall.EBADF)
	listener, err := net.Listen("unix", server.Host("s"))
	must(t, err)
	defer listener.Close()
	check(t, "connect/walk to a socket", call(t, raw, 110, uint32(1), uint32(3), []string{"s"}).Err, syscall.EPERM)
}

func TestHostSocketsAndFifos(t *testing.T) {
	if harness.Contract() != "L" || harness.UnderTest() == "fork" {
		t.Skip("--host-uds and --host-fifo are flags of contract L, which the fork does not know: CONTRACT=L")
	}
	server, raw, version := byHand(t, harness.Options{Global: []string{"--host-uds=open", "--host-fifo=open"}})
	needs(t, version, 5)
	listener, err := net.Listen("unix", server.Host("s"))
	must(t, err)
	defer listener.Close()
	rawWalk(t, raw, 1, 3, "s")
	reply := call(t, raw, 136, uint32(3), uint32(0))
	check(t, "connect/stream", reply.Err, nil)
	check(t, "connect/descriptor", reply.File != nil, true)
	if reply.File != nil {
		peer, err := listener.Accept()
		must(t, err)
		_, err = reply.File.Write([]byte("hello"))
		must(t, err)
		buffer := make([]byte, 5)
		_, err = peer.Read(buffer)
		check(t, "connect/talks", say(string(buffer), err), "hello <nil>")
	}
	check(t, "connect/wrong kind", call(t, raw, 136, uint32(3), uint32(1)).Err, syscall.EPROTOTYPE)
	check(t, "connect/any kind", call(t, raw, 136, uint32(3), uint32(3)).Err, syscall.ENXIO)
	must(t, syscall.Mkfifo(server.Host("p"), 0o600))
	rawWalk(t, raw, 1, 4, "p")
	reply = call(t, raw, 12, uint32(4), uint32(0))
	check(t, "fifo/open for reading without a writer", reply.Err, nil)
	check(t, "fifo/descriptor", reply.File != nil, true)
	rawWalk(t, raw, 1, 5, "p")
	check(t, "fifo/list goes on", call(t, raw, 24, uint32(1), uint64(0)).Err, nil)
}

func TestSessionMessages(t *testing.T) {
	server, raw, _ := byHand(t, harness.Options{})
	write(t, server.Host("f"), "text")
	check(t, "attach/again", call(t, raw, 104, uint32(5), noNumber, "", "/", noNumber).Err, syscall.EIO)
	check(t, "attach/afid", call(t, raw, 104, uint32(5), uint32(1), "", "/", noNumber).Err, syscall.EINVAL)
	check(t, "auth/refused", call(t, raw, 102, uint32(7), "", "/", noNumber).Err, syscall.ENOSYS)
	check(t, "flush/unknown tag", call(t, raw, 108, uint16(4242)).Err, nil)
	rawWalk(t, raw, 1, 2, "f")
	check(t, "flushf/file", call(t, raw, 124, uint32(2)).Err, nil)
	check(t, "flushf/no such fid", call(t, raw, 124, uint32(99)).Err, syscall.EBADF)
	check(t, "clunk/file", call(t, raw, 120, uint32(2)).Err, nil)
	check(t, "clunk/again", call(t, raw, 120, uint32(2)).Err, syscall.EBADF)
	check(t, "walk/newfid in use is replaced", errOf(call(t, raw, 110, uint32(1), uint32(3), []string{"f"})), nil)
	check(t, "walk/newfid in use is replaced again", errOf(call(t, raw, 110, uint32(1), uint32(3), []string{"f"})), nil)
	check(t, "xattrwalk/refused", call(t, raw, 30, uint32(3), uint32(4), "user.a").Err, syscall.ENODATA)
	check(t, "xattrcreate/refused", call(t, raw, 32, uint32(3), "user.a", uint64(1), uint32(0)).Err, syscall.ENOSYS)
	// A reply's type sent as a request, and a body that is cut short.
	check(t, "frames/reply as request", odd(t, raw, 113, uint32(0)), "EIO on its tag")
	check(t, "frames/known reply as request", odd(t, raw, 119, uint32(0)), "ENOSYS on its tag")
	check(t, "frames/short body", odd(t, raw, 110, uint32(1)), "EIO on its tag")
	check(t, "frames/goes on", call(t, raw, 24, uint32(3), uint64(0)).Err, nil)
	// A flush of a request that may still run is answered, and so is the request.
	for i := 0; i < 50; i++ {
		tag, err := raw.Send(24, uint32(3), uint64(0x3fff))
		must(t, err)
		_, err = raw.Send(108, tag)
		must(t, err)
	}
	answers := map[uint8]int{}
	for i := 0; i < 100; i++ {
		reply, err := raw.Receive()
		must(t, err)
		answers[reply.Type]++
	}
	check(t, "flush/of running requests", answers, map[uint8]int{25: 50, 109: 50})
	// Several at once: all are answered, whatever the order.
	tags := map[uint16]bool{}
	for i := 0; i < 200; i++ {
		tag, err := raw.Send(24, uint32(1+2*(i%2)), uint64(0x3fff))
		must(t, err)
		tags[tag] = true
	}
	for len(tags) > 0 {
		reply, err := raw.Receive()
		must(t, err)
		if reply.Err != nil || !tags[reply.Tag] {
			t.Fatalf("tag %d: %v", reply.Tag, reply.Err)
		}
		delete(tags, reply.Tag)
	}
}

// How a request that should not be is answered, and on which tag.
func odd(t *testing.T, raw *harness.Raw, message uint8, fields ...interface{}) string {
	t.Helper()
	if harness.UnderTest() == "original" {
		raw = raw.Plain() // what it can't decode ends its channel without an answer
	}
	tag, err := raw.Send(message, fields...)
	must(t, err)
	reply, err := raw.Receive()
	must(t, err)
	if reply.Tag == tag {
		return harness.Outcome(reply.Err) + " on its tag"
	}
	return fmt.Sprintf("%s on tag %d", harness.Outcome(reply.Err), reply.Tag)
}
