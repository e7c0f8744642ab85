package gvisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/p9"
)

func check(t *testing.T, what string, got, want interface{}) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, not %v", what, got, want)
	}
}

func checkErrno(t *testing.T, what string, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, not %v", what, err, want)
	}
}

func noise(size int, seed byte) []byte {
	bytes := make([]byte, size)
	for i := range bytes {
		bytes[i] = byte(i*7+i>>8*13) ^ seed
	}
	return bytes
}

func stat(t *testing.T, path string) syscall.Stat_t {
	t.Helper()
	var stat syscall.Stat_t
	must(t, syscall.Lstat(path, &stat))
	return stat
}

// What the protocol says of a file is what the host says.
func checkAttr(t *testing.T, what string, qid p9.QID, attr p9.Attr, path string) {
	t.Helper()
	host := stat(t, path)
	check(t, what+": kind", qid.Type, p9.FileMode(host.Mode).QIDType())
	check(t, what+": mode", uint32(attr.Mode), host.Mode)
	check(t, what+": owner", [2]uint32{uint32(attr.UID), uint32(attr.GID)}, [2]uint32{host.Uid, host.Gid})
	check(t, what+": links", attr.NLink, uint64(host.Nlink))
	check(t, what+": size", attr.Size, uint64(host.Size))
	check(t, what+": blocks", attr.Blocks, uint64(host.Blocks))
	check(t, what+": mtime", [2]uint64{attr.MTimeSeconds, attr.MTimeNanoSeconds}, [2]uint64{uint64(host.Mtim.Sec), uint64(host.Mtim.Nsec)})
	check(t, what+": ctime", [2]uint64{attr.CTimeSeconds, attr.CTimeNanoSeconds}, [2]uint64{uint64(host.Ctim.Sec), uint64(host.Ctim.Nsec)})
}

// The descriptor that came with a reply is the host's file, open in that mode, and no copy of the path.
func checkDonated(t *testing.T, given *fd.FD, path string, mode int) {
	t.Helper()
	if given == nil {
		t.Errorf("no descriptor came with the reply for %s", path)
		return
	}
	defer given.Close()
	var got syscall.Stat_t
	must(t, syscall.Fstat(given.FD(), &got))
	host := stat(t, path)
	check(t, "donated", [2]uint64{got.Dev, got.Ino}, [2]uint64{host.Dev, host.Ino})
	flags, err := unix.FcntlInt(uintptr(given.FD()), unix.F_GETFL, 0)
	must(t, err)
	check(t, "mode of the donated descriptor", flags&unix.O_ACCMODE, mode)
}

func TestAttributesAreThoseOfTheHost(t *testing.T) {
	p := start(t)
	must(t, os.MkdirAll(p.host("a", "b"), 0o751))
	must(t, os.WriteFile(p.host("a", "b", "file"), noise(12345, 1), 0o640))
	must(t, os.Chown(p.host("a", "b", "file"), 1234, 4321))
	must(t, os.Symlink("b/file", p.host("a", "link")))
	for _, names := range [][]string{{}, {"a"}, {"a", "b"}, {"a", "b", "file"}, {"a", "link"}} {
		what := strings.Join(append([]string{"root"}, names...), "/")
		file := p.walk(t, names...)
		qid, valid, attr, err := file.GetAttr(p9.AttrMaskAll())
		must(t, err)
		check(t, what+": mask", valid.Mode && valid.Size && valid.UID && valid.NLink, true)
		checkAttr(t, what, qid, attr, p.host(names...))
		must(t, file.Close())

		qids, file, _, attr, err := p.root.WalkGetAttr(names)
		must(t, err)
		if len(names) > 0 {
			checkAttr(t, what+" by Twalkgetattr", qids[len(names)-1], attr, p.host(names...))
		}
		must(t, file.Close())
	}
	all, err := p.root.MultiGetAttr([]string{"", "a", "b", "file"})
	must(t, err)
	check(t, "stats of Tmultigetattr", len(all), 4)
	for i, names := range [][]string{{}, {"a"}, {"a", "b"}, {"a", "b", "file"}} {
		if i < len(all) {
			checkAttr(t, "Tmultigetattr", all[i].QID, all[i].Attr, p.host(names...))
		}
	}
	link := p.walk(t, "a", "link")
	target, err := link.Readlink()
	must(t, err)
	check(t, "target", target, "b/file")
	must(t, link.Close())
	space, err := p.root.StatFS()
	must(t, err)
	var host unix.Statfs_t
	must(t, unix.Statfs(p.dir, &host))
	check(t, "statfs", []uint64{uint64(space.Type), uint64(space.BlockSize), space.Blocks, space.Files, uint64(space.NameLength)},
		[]uint64{uint64(host.Type), uint64(host.Bsize), host.Blocks, host.Files, uint64(host.Namelen)})
}

func TestErrorsAreThoseOfTheHost(t *testing.T) {
	p := start(t)
	must(t, os.WriteFile(p.host("file"), nil, 0o644))
	must(t, os.MkdirAll(p.host("full", "inner"), 0o755))
	_, _, err := p.root.Walk([]string{"none"})
	checkErrno(t, "walk to nothing", err, unix.ENOENT)
	_, _, _, _, err = p.root.WalkGetAttr([]string{"none"})
	checkErrno(t, "walkgetattr to nothing", err, unix.ENOENT)
	_, err = p.root.Mkdir("file", 0o755, 0, 0)
	checkErrno(t, "mkdir over a file", err, unix.EEXIST)
	_, _, err = p.create("file", 0o644, 0, 0)
	checkErrno(t, "create over a file", err, unix.EEXIST)
	checkErrno(t, "unlink of a full folder", p.root.UnlinkAt("full", unix.AT_REMOVEDIR), unix.ENOTEMPTY)
	checkErrno(t, "unlink of nothing", p.root.UnlinkAt("none", 0), unix.ENOENT)
	checkErrno(t, "rename of nothing", p.root.RenameAt("none", p.root, "other"), unix.ENOENT)
	file := p.walk(t, "file")
	_, err = file.ReadAt(make([]byte, 10), 0)
	checkErrno(t, "read of what is not open", err, unix.EINVAL)
	_, err = file.GetXattr("user.none", 100)
	checkErrno(t, "no such attribute", err, unix.ENODATA)
	must(t, file.Close())
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	for _, size := range []int{1, 4 << 10, 64 << 10, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			p := start(t)
			given, file, err := p.create("file", 0o640, 77, 88)
			must(t, err)
			checkDonated(t, given, p.host("file"), unix.O_RDWR)
			made := stat(t, p.host("file"))
			check(t, "made", []uint32{made.Mode & 0o7777, made.Uid, made.Gid}, []uint32{0o640, 77, 88})
			sent := noise(size, 3)
			n, err := file.WriteAt(sent, 0)
			must(t, err)
			check(t, "written", n, size)
			must(t, file.FSync())
			held, err := os.ReadFile(p.host("file"))
			must(t, err)
			if !bytes.Equal(held, sent) {
				t.Errorf("the host's file has %d other bytes than were written", len(held))
			}
			got := make([]byte, size)
			n, err = file.ReadAt(got, 0)
			must(t, err)
			check(t, "read", n, size)
			if !bytes.Equal(got, sent) {
				t.Errorf("other bytes are read than were written")
			}
			_, err = file.ReadAt(got[:1], uint64(size))
			check(t, "read at the end", err, io.EOF)
			must(t, file.Close())

			file = p.walk(t, "file")
			given, _, _, err = file.Open(p9.ReadOnly)
			must(t, err)
			checkDonated(t, given, p.host("file"), unix.O_RDONLY)
			again := make([]byte, size+10)
			n, err = file.ReadAt(again, 0)
			must(t, err)
			if !bytes.Equal(again[:n], sent) {
				t.Errorf("other bytes are read when it is opened again: %d", n)
			}
			_, err = file.WriteAt([]byte("x"), 0)
			checkErrno(t, "write to what is open for reading", err, unix.EPERM) // the protocol's, not write(2)'s
			must(t, file.Close())
		})
	}
}

func TestTruncatedAndExtended(t *testing.T) {
	p := start(t)
	must(t, os.WriteFile(p.host("file"), noise(10000, 4), 0o644))
	file := p.walk(t, "file")
	must(t, file.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{Size: 100}))
	check(t, "size", stat(t, p.host("file")).Size, int64(100))
	must(t, file.SetAttr(p9.SetAttrMask{Permissions: true, MTime: true, MTimeNotSystemTime: true},
		p9.SetAttr{Permissions: 0o600, MTimeSeconds: 1234567, MTimeNanoSeconds: 89}))
	host := stat(t, p.host("file"))
	check(t, "mode, mtime", []int64{int64(host.Mode & 0o7777), host.Mtim.Sec, host.Mtim.Nsec}, []int64{0o600, 1234567, 89})
	given, _, _, err := file.Open(p9.ReadWrite)
	must(t, err)
	checkDonated(t, given, p.host("file"), unix.O_RDWR)
	must(t, file.Allocate(p9.AllocateMode{}, 0, 5000))
	check(t, "size", stat(t, p.host("file")).Size, int64(5000))
	must(t, file.SetAttrClose(p9.SetAttrMask{MTime: true, MTimeNotSystemTime: true}, p9.SetAttr{MTimeSeconds: 7654321}))
	check(t, "mtime", stat(t, p.host("file")).Mtim.Sec, int64(7654321))
	file = p.walk(t, "file")
	given, _, _, err = file.Open(p9.WriteOnly | p9.OpenTruncate)
	must(t, err)
	checkDonated(t, given, p.host("file"), unix.O_WRONLY)
	check(t, "size", stat(t, p.host("file")).Size, int64(0))
	must(t, file.Close())
}

func TestNamesAreMadeMovedAndRemoved(t *testing.T) {
	p := start(t)
	for _, name := range []string{"from", "to"} {
		_, err := p.root.Mkdir(name, 0o750, 5, 6)
		must(t, err)
		made := stat(t, p.host(name))
		check(t, "folder", []uint32{made.Mode, made.Uid, made.Gid}, []uint32{unix.S_IFDIR | 0o750, 5, 6})
	}
	from, to := p.walk(t, "from"), p.walk(t, "to")
	_, err := from.Symlink("over/there", "link", 7, 8)
	must(t, err)
	target, err := os.Readlink(p.host("from", "link"))
	must(t, err)
	check(t, "target", target, "over/there")
	must(t, os.WriteFile(p.host("from", "file"), []byte("content"), 0o644))
	file := p.walk(t, "from", "file")
	must(t, to.Link(file, "second"))
	check(t, "links", uint64(stat(t, p.host("to", "second")).Nlink), uint64(2))
	must(t, from.RenameAt("file", to, "moved"))
	must(t, file.Rename(from, "back"))
	_, _, attr, err := file.GetAttr(p9.AttrMaskAll())
	must(t, err)
	check(t, "size after two renames", attr.Size, uint64(7))
	must(t, from.UnlinkAt("back", 0))
	must(t, from.UnlinkAt("link", 0))
	must(t, to.UnlinkAt("second", 0))
	must(t, file.Close())
	must(t, from.Close())
	must(t, to.Close())
	must(t, p.root.UnlinkAt("from", unix.AT_REMOVEDIR))
	left, err := os.ReadDir(p.dir)
	must(t, err)
	if len(left) != 1 || left[0].Name() != "to" {
		t.Errorf("left: %v, not the one folder", left)
	}
}

func TestEntriesOfAFolderAreRead(t *testing.T) {
	p := start(t)
	var want []string
	for i := 0; i < 500; i++ {
		name := fmt.Sprintf("name-%03d-%s", i, strings.Repeat("x", i%200))
		want = append(want, name)
		if i%2 == 0 {
			must(t, os.Mkdir(p.host(name), 0o755))
		} else {
			must(t, os.WriteFile(p.host(name), nil, 0o644))
		}
	}
	dir := p.walk(t)
	given, _, _, err := dir.Open(p9.ReadOnly)
	must(t, err)
	check(t, "descriptor of a folder", given == nil, true)
	var got []string
	for offset, times := uint64(0), 0; ; times++ {
		entries, err := dir.Readdir(offset, 4096)
		must(t, err)
		if len(entries) == 0 {
			check(t, "it takes several", times > 5, true)
			break
		}
		for _, entry := range entries {
			offset = entry.Offset
			if entry.Name == "." || entry.Name == ".." {
				continue
			}
			got = append(got, entry.Name)
			check(t, entry.Name, entry.Type, p9.FileMode(stat(t, p.host(entry.Name)).Mode).QIDType())
		}
	}
	sort.Strings(got)
	check(t, "names", got, want)
	must(t, dir.Close())
}

func TestExtendedAttributesAreThoseOfTheHost(t *testing.T) {
	p := start(t)
	must(t, os.WriteFile(p.host("file"), nil, 0o644))
	file := p.walk(t, "file")
	value := "some\x00value"
	if err := unix.Setxattr(p.host("file"), "user.host", []byte("h"), 0); err != nil {
		t.Skipf("the temporary folder keeps no attributes: %v", err)
	}
	must(t, file.SetXattr("user.ours", value, 0))
	held := make([]byte, 100)
	n, err := unix.Getxattr(p.host("file"), "user.ours", held)
	must(t, err)
	check(t, "on the host", string(held[:n]), value)
	got, err := file.GetXattr("user.ours", 100)
	must(t, err)
	check(t, "value", got, value)
	names, err := file.ListXattr(1000)
	must(t, err)
	for _, name := range []string{"user.host", "user.ours"} {
		if _, is := names[name]; !is {
			t.Errorf("%s is not in the list %v", name, names)
		}
	}
	must(t, file.RemoveXattr("user.ours"))
	_, err = unix.Getxattr(p.host("file"), "user.ours", held)
	checkErrno(t, "removed", err, unix.ENODATA)
	must(t, file.Close())
}

// More callers than there are channels: each sees its own file only.
func TestCallersAtOnceDoNotMeet(t *testing.T) {
	p := start(t)
	var all sync.WaitGroup
	for caller := 0; caller < 8; caller++ {
		all.Add(1)
		go func(caller int) {
			defer all.Done()
			if err := work(p, caller); err != nil {
				t.Errorf("caller %d: %v", caller, err)
			}
		}(caller)
	}
	all.Wait()
	left, err := os.ReadDir(p.dir)
	must(t, err)
	check(t, "files left", len(left), 0)
}

func work(p *peer, caller int) error {
	for i := 0; i < 30; i++ {
		name := fmt.Sprintf("caller-%d-%d", caller, i)
		given, file, err := p.create(name, 0o644, 0, 0)
		if err != nil {
			return err
		}
		if given == nil {
			return fmt.Errorf("no descriptor came for %s", name)
		}
		var one, other unix.Stat_t
		err1, err2 := unix.Fstat(given.FD(), &one), unix.Lstat(p.host(name), &other)
		given.Close()
		if err1 != nil || err2 != nil || one.Ino != other.Ino {
			return fmt.Errorf("another file's descriptor came for %s: %v, %v", name, err1, err2)
		}
		sent := noise(1+(caller*30+i)*4001, byte(caller*31+i))
		if _, err := file.WriteAt(sent, 0); err != nil {
			return err
		}
		got := make([]byte, len(sent)+1)
		n, err := file.ReadAt(got, 0)
		if err != nil || !bytes.Equal(got[:n], sent) {
			return fmt.Errorf("%d bytes are read of %d, and they differ: %v", n, len(sent), err)
		}
		_, _, attr, err := file.GetAttr(p9.AttrMaskAll())
		if err != nil || attr.Size != uint64(len(sent)) {
			return fmt.Errorf("size %d, not %d: %v", attr.Size, len(sent), err)
		}
		if err := p.root.UnlinkAt(name, 0); err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}
