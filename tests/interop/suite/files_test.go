package suite

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"os"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"
)

func TestWalk(t *testing.T) {
	server, root, _ := serve(t)
	must(t, os.MkdirAll(server.Host("d/e"), 0o755))
	write(t, server.Host("d/e/f"), "text")
	must(t, os.Symlink("e", server.Host("d/link")))

	qids, file, err := root.Walk([]string{"d", "e", "f"})
	check(t, "walk/three names", err, nil)
	check(t, "walk/qids", len(qids), 3)
	if err == nil {
		check(t, "walk/types", say(qids[0].Type, qids[1].Type, qids[2].Type), say(p9.TypeDir, p9.TypeDir, p9.TypeRegular))
		check(t, "walk/inode", qids[2].Path&(1<<56-1), stat(t, server.Host("d/e/f")).Ino)
		check(t, "walk/close", file.Close(), nil)
	}
	qids, clone, err := root.Walk(nil)
	check(t, "walk/clone", err, nil)
	check(t, "walk/clone has no qids", len(qids), 0)
	if err == nil {
		_, _, err = clone.Walk([]string{"d"})
		check(t, "walk/from a clone", err, nil)
	}
	qids, link, err := root.Walk([]string{"d", "link"})
	check(t, "walk/symlink itself", err, nil)
	if err == nil {
		check(t, "walk/symlink type", qids[1].Type, p9.TypeSymlink)
		link.Close()
	}
	for name, names := range map[string][]string{
		"missing": {"none"}, "missing in the middle": {"d", "none", "f"}, "below a file": {"d", "e", "f", "g"}, "through a symlink": {"d", "link", "f"},
		"dot dot": {"d", ".."}, "dot": {"."}, "empty": {""}, "slash": {"d/e"}, "nul": {"a\x00b"}, "long": {strings.Repeat("n", 256)},
	} {
		_, file, err := root.Walk(names)
		want := map[string]syscall.Errno{"missing": syscall.ENOENT, "missing in the middle": syscall.ENOENT, "long": syscall.ENAMETOOLONG}[name]
		if want == 0 {
			want = syscall.EINVAL
		}
		check(t, "walk/"+name, err, want)
		if err == nil {
			file.Close()
		}
	}
	closed := walk(t, root, "d")
	must(t, closed.Close())
	_, _, err = closed.Walk([]string{"e"})
	check(t, "walk/closed file (by the client)", err, syscall.EBADF)
	opened := open(t, root, p9.ReadOnly, "d")
	_, _, err = opened.Walk([]string{"e"})
	check(t, "walk/opened directory", err, syscall.EBUSY)
	_, _, err = opened.Walk(nil)
	check(t, "walk/clone of an opened directory", err, syscall.EBUSY)
}

func attributes(attr p9.Attr) string {
	return fmt.Sprintf("mode=%o uid=%d gid=%d nlink=%d rdev=%d size=%d blksize=%d blocks=%d mtime=%d.%d ctime=%d.%d", attr.Mode, attr.UID, attr.GID,
		attr.NLink, attr.RDev, attr.Size, attr.BlockSize, attr.Blocks, attr.MTimeSeconds, attr.MTimeNanoSeconds, attr.CTimeSeconds, attr.CTimeNanoSeconds)
}

func hostAttributes(t *testing.T, path string) string {
	s := stat(t, path)
	return fmt.Sprintf("mode=%o uid=%d gid=%d nlink=%d rdev=%d size=%d blksize=%d blocks=%d mtime=%d.%d ctime=%d.%d", s.Mode, s.Uid, s.Gid,
		s.Nlink, s.Rdev, s.Size, s.Blksize, s.Blocks, s.Mtim.Sec, s.Mtim.Nsec, s.Ctim.Sec, s.Ctim.Nsec)
}

func TestGetAttrAndWalkGetAttr(t *testing.T) {
	server, root, _ := serve(t)
	must(t, os.Mkdir(server.Host("d"), 0o1777))
	write(t, server.Host("f"), "12345")
	must(t, os.Chmod(server.Host("f"), os.ModeSetuid|os.ModeSetgid|0o751))
	must(t, os.Lchown(server.Host("f"), 12, 34))
	must(t, os.Link(server.Host("f"), server.Host("hard")))
	must(t, os.Symlink("f", server.Host("l")))
	var lastMask p9.AttrMask
	for _, name := range []string{"d", "f", "hard", "l"} {
		qids, file, mask, attr, err := root.WalkGetAttr([]string{name})
		if !check(t, "walkgetattr/"+name, err, nil) || err != nil {
			continue
		}
		check(t, "walkgetattr/attributes of "+name, attributes(attr), hostAttributes(t, server.Host(name)))
		check(t, "walkgetattr/qids of "+name, len(qids), 1)
		qid, again, attr, err := file.GetAttr(p9.AttrMaskAll)
		check(t, "getattr/"+name, err, nil)
		check(t, "getattr/attributes of "+name, attributes(attr), hostAttributes(t, server.Host(name)))
		check(t, "getattr/qid of "+name, qid, qids[0])
		check(t, "getattr/mask like walkgetattr's "+name, again, mask)
		lastMask = mask
		file.Close()
	}
	check(t, "getattr/valid mask", lastMask, p9.AttrMask{Mode: true, NLink: true, UID: true, GID: true, RDev: true, ATime: true, MTime: true, CTime: true, Size: true, Blocks: true})
	_, clone, _, attr, err := root.WalkGetAttr(nil)
	check(t, "walkgetattr/clone", err, nil)
	if err == nil {
		check(t, "walkgetattr/attributes of the clone", attributes(attr), hostAttributes(t, server.Dir))
		clone.Close()
	}
	_, _, _, _, err = root.WalkGetAttr([]string{"none"})
	check(t, "walkgetattr/missing", err, syscall.ENOENT)
}

func TestStatFS(t *testing.T) {
	server, root, _ := serve(t)
	write(t, server.Host("f"), "")
	must(t, os.Symlink("f", server.Host("l")))
	var host syscall.Statfs_t
	must(t, syscall.Statfs(server.Dir, &host))
	for _, names := range [][]string{nil, {"f"}, {"l"}} {
		file := walk(t, root, names...)
		got, err := file.StatFS()
		check(t, fmt.Sprintf("statfs/of %q", names), err, nil)
		check(t, fmt.Sprintf("statfs/of %q values", names), say(got.Type, got.BlockSize, got.Blocks, got.Files, got.NameLength, got.FSID),
			say(uint32(host.Type), host.Bsize, host.Blocks, host.Files, host.Namelen, 0))
	}
}

func TestOpenAndDescriptors(t *testing.T) {
	server, root, wire := serve(t)
	write(t, server.Host("f"), "0123456789")
	must(t, os.Mkdir(server.Host("d"), 0o755))
	must(t, os.Symlink("f", server.Host("l")))
	must(t, syscall.Mkfifo(server.Host("fifo"), 0o600))
	must(t, syscall.Mknod(server.Host("null"), syscall.S_IFCHR|0o666, 1<<8|3))

	for _, mode := range []p9.OpenFlags{p9.ReadOnly, p9.WriteOnly, p9.ReadWrite} {
		file := walk(t, root, "f")
		qid, unit, err := file.Open(mode)
		name := []string{"read", "write", "both"}[mode]
		check(t, "open/"+name, err, nil)
		check(t, "open/iounit "+name, unit, 0)
		check(t, "open/qid "+name, qid.Path&(1<<56-1), stat(t, server.Host("f")).Ino)
		donated := wire.Donated(file)
		check(t, "open/descriptor "+name, donated != nil, true)
		if donated != nil {
			flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, donated.Fd(), syscall.F_GETFL, 0)
			check(t, "open/descriptor's mode "+name, flags&3, int(mode))
			var theirs, host = syscall.Stat_t{}, stat(t, server.Host("f"))
			must(t, syscall.Fstat(int(donated.Fd()), &theirs))
			check(t, "open/descriptor's file "+name, theirs.Ino, host.Ino)
			if mode != p9.WriteOnly {
				buffer := make([]byte, 4)
				_, err := syscall.Pread(int(donated.Fd()), buffer, 3)
				check(t, "open/pread "+name, say(string(buffer), err), "3456 <nil>")
			}
			if mode != p9.ReadOnly {
				_, err := syscall.Pwrite(int(donated.Fd()), []byte("x"), 0)
				check(t, "open/pwrite "+name, err, nil)
			}
			donated.Close()
		}
		_, _, err = file.Open(mode)
		check(t, "open/twice "+name, err, syscall.EINVAL)
		_, _, _, err = walk(t, root).Create("f", mode, 0o600, p9.NoUID, p9.NoGID)
		check(t, "open/create over it "+name, err, syscall.EEXIST)
		file.Close()
	}
	dir := walk(t, root, "d")
	_, _, err := dir.Open(p9.ReadOnly)
	check(t, "open/directory", err, nil)
	check(t, "open/directory has no descriptor", wire.Donated(dir) == nil, true)
	for _, mode := range []p9.OpenFlags{p9.WriteOnly, p9.ReadWrite} {
		_, _, err = walk(t, root, "d").Open(mode)
		check(t, fmt.Sprintf("open/directory in mode %d", mode), err, syscall.EISDIR)
	}
	_, _, err = walk(t, root, "l").Open(p9.ReadOnly)
	check(t, "open/symlink", err, syscall.EINVAL)
	// What is neither file, directory nor symlink can't be walked to; and doing so blocks nobody.
	for _, name := range []string{"fifo", "null"} {
		_, file, err := root.Walk([]string{name})
		check(t, "walk/"+name, err, syscall.EPERM)
		if err == nil {
			file.Close()
		}
	}
	shut := walk(t, root, "f")
	must(t, shut.Close())
	_, _, err = shut.Open(p9.ReadOnly)
	check(t, "open/closed (by the client)", err, syscall.EBADF)
	check(t, "close/twice (by the client)", shut.Close(), syscall.EBADF)
}

func TestReadWriteFSync(t *testing.T) {
	server, root, _ := serve(t)
	write(t, server.Host("f"), "0123456789")
	file := open(t, root, p9.ReadWrite, "f")
	buffer := make([]byte, 4)
	n, err := file.ReadAt(buffer, 8)
	check(t, "read/short at the end", say(n, string(buffer[:n]), err), "2 89 <nil>")
	_, err = file.ReadAt(buffer, 10)
	check(t, "read/at the end", err, io.EOF)
	_, err = file.ReadAt(buffer, 1<<40)
	check(t, "read/far beyond", err, io.EOF)
	_, err = file.ReadAt(buffer, -1)
	check(t, "read/offset above 2^63", err, syscall.EINVAL)
	n, err = file.WriteAt([]byte("ab"), 9)
	check(t, "write/across the end", say(n, err), "2 <nil>")
	check(t, "write/on the host", read(t, server.Host("f")), "012345678ab")
	n, err = file.WriteAt([]byte("z"), 20)
	check(t, "write/beyond the end", say(n, err), "1 <nil>")
	check(t, "write/hole on the host", read(t, server.Host("f")), "012345678ab"+strings.Repeat("\x00", 9)+"z")
	n, err = file.WriteAt(nil, 0)
	check(t, "write/nothing", say(n, err), "0 <nil>")
	_, err = file.WriteAt([]byte("z"), -1)
	check(t, "write/offset above 2^63", err, syscall.EINVAL)
	check(t, "fsync/file", file.FSync(), nil)

	reader, writer, walked := open(t, root, p9.ReadOnly, "f"), open(t, root, p9.WriteOnly, "f"), walk(t, root, "f")
	_, err = reader.WriteAt([]byte("x"), 0)
	check(t, "write/opened for reading", err, syscall.EPERM)
	_, err = writer.ReadAt(buffer, 0)
	check(t, "read/opened for writing", err, syscall.EPERM)
	_, err = walked.ReadAt(buffer, 0)
	check(t, "read/not opened", err, syscall.EINVAL)
	_, err = walked.WriteAt(buffer, 0)
	check(t, "write/not opened", err, syscall.EINVAL)
	check(t, "fsync/not opened", walked.FSync(), syscall.EINVAL)
	dir := open(t, root, p9.ReadOnly)
	_, err = dir.ReadAt(buffer, 0)
	check(t, "read/directory", err, syscall.EISDIR)
	check(t, "fsync/directory", dir.FSync(), nil)

	big := make([]byte, 5<<20+12345) // several messages of the client's size
	rand.New(rand.NewSource(1)).Read(big)
	made, err := create(t, root, "big", p9.ReadWrite, 0o644, p9.NoUID, p9.NoGID)
	must(t, err)
	n, err = made.WriteAt(big, 3)
	check(t, "write/5 MiB", say(n, err), say(len(big), "<nil>"))
	host, _ := os.ReadFile(server.Host("big"))
	check(t, "write/5 MiB on the host", bytes.Equal(host, append([]byte{0, 0, 0}, big...)), true)
	back := make([]byte, len(big))
	n, err = made.ReadAt(back, 3)
	check(t, "read/5 MiB", say(n, err, bytes.Equal(back, big)), say(len(big), "<nil> true"))
}

func TestSetAttr(t *testing.T) {
	server, root, _ := serve(t)
	write(t, server.Host("f"), "0123456789")
	must(t, os.Mkdir(server.Host("d"), 0o755))
	must(t, os.Symlink("f", server.Host("l")))
	file, dir, link := walk(t, root, "f"), walk(t, root, "d"), walk(t, root, "l")

	check(t, "setattr/mode", file.SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o1640}), nil)
	check(t, "setattr/mode on the host", fmt.Sprintf("%o", stat(t, server.Host("f")).Mode), "101640")
	check(t, "setattr/owner", file.SetAttr(p9.SetAttrMask{UID: true, GID: true}, p9.SetAttr{UID: 7, GID: 8}), nil)
	check(t, "setattr/owner on the host", say(stat(t, server.Host("f")).Uid, stat(t, server.Host("f")).Gid), "7 8")
	check(t, "setattr/group alone", file.SetAttr(p9.SetAttrMask{GID: true}, p9.SetAttr{UID: 99, GID: 9}), nil)
	check(t, "setattr/group on the host", say(stat(t, server.Host("f")).Uid, stat(t, server.Host("f")).Gid), "7 9")
	check(t, "setattr/shorter", file.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{Size: 4}), nil)
	check(t, "setattr/shorter on the host", read(t, server.Host("f")), "0123")
	check(t, "setattr/longer", file.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{Size: 1 << 32}), nil)
	check(t, "setattr/longer on the host", stat(t, server.Host("f")).Size, 1<<32)
	check(t, "setattr/size above 2^63", file.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{Size: 1 << 63}), syscall.EINVAL)
	times := p9.SetAttrMask{ATime: true, ATimeNotSystemTime: true, MTime: true, MTimeNotSystemTime: true}
	given := p9.SetAttr{ATimeSeconds: 11, ATimeNanoSeconds: 12, MTimeSeconds: 13, MTimeNanoSeconds: 14}
	for name, one := range map[string]p9.File{"f": file, "d": dir, "l": link} {
		check(t, "setattr/times of "+name, one.SetAttr(times, given), nil)
		s := stat(t, server.Host(name))
		check(t, "setattr/times on the host "+name, say(s.Atim.Sec, s.Atim.Nsec, s.Mtim.Sec, s.Mtim.Nsec), "11 12 13 14")
	}
	check(t, "setattr/now", file.SetAttr(p9.SetAttrMask{MTime: true}, p9.SetAttr{MTimeSeconds: 5}), nil)
	s := stat(t, server.Host("f"))
	check(t, "setattr/now on the host", say(s.Atim.Sec, time.Since(time.Unix(s.Mtim.Sec, 0)) < time.Minute), "11 true")
	check(t, "setattr/nothing", file.SetAttr(p9.SetAttrMask{}, p9.SetAttr{Size: 1}), nil)
	check(t, "setattr/nothing on the host", stat(t, server.Host("f")).Size, 1<<32)
	check(t, "setattr/ctime", file.SetAttr(p9.SetAttrMask{CTime: true, Permissions: true}, p9.SetAttr{Permissions: 0o777}), syscall.EPERM)
	check(t, "setattr/ctime did nothing", fmt.Sprintf("%o", stat(t, server.Host("f")).Mode&0o777), "640")
	check(t, "setattr/mode of a directory", dir.SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o1770}), nil)
	check(t, "setattr/mode of a directory on the host", fmt.Sprintf("%o", stat(t, server.Host("d")).Mode), "41770")
	check(t, "setattr/size of a directory", dir.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{}), syscall.EINVAL)
	check(t, "setattr/owner of a symlink", link.SetAttr(p9.SetAttrMask{UID: true, GID: true}, p9.SetAttr{UID: 3, GID: 4}), nil)
	check(t, "setattr/owner of a symlink on the host", say(stat(t, server.Host("l")).Uid, stat(t, server.Host("f")).Uid), "3 7")
	check(t, "setattr/mode of a symlink", link.SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o600}), syscall.EBADF)
	check(t, "setattr/size of a symlink", link.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{}), syscall.EBADF)
	opened := open(t, root, p9.WriteOnly, "f")
	check(t, "setattr/opened for writing", opened.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{Size: 2}), nil)
	check(t, "setattr/opened for writing on the host", read(t, server.Host("f")), "01")
}

func TestCreate(t *testing.T) {
	server, root, wire := serve(t)
	for _, mode := range []p9.OpenFlags{p9.ReadOnly, p9.WriteOnly, p9.ReadWrite} {
		name := []string{"read", "write", "both"}[mode]
		clone := walk(t, root)
		file, qid, unit, err := clone.Create(name, mode, 0o754, 21, 22)
		if !check(t, "create/"+name, err, nil) || err != nil {
			continue
		}
		s := stat(t, server.Host(name))
		check(t, "create/iounit "+name, unit, 0)
		check(t, "create/qid "+name, qid.Path&(1<<56-1), s.Ino)
		check(t, "create/on the host "+name, fmt.Sprintf("%o %d %d", s.Mode, s.Uid, s.Gid), "100754 21 22")
		donated := wire.Donated(file)
		check(t, "create/descriptor "+name, donated != nil, true)
		if donated != nil {
			donated.Close()
		}
		_, err = file.WriteAt([]byte("w"), 0)
		if mode == p9.ReadOnly {
			check(t, "create/write "+name, err, syscall.EPERM)
		} else {
			check(t, "create/write "+name, err, nil)
		}
		_, attrMask, attr, err := file.GetAttr(p9.AttrMaskAll)
		check(t, "create/getattr "+name, fmt.Sprintf("%v %o %v", attrMask.Mode, attr.Mode, err), "true 100754 <nil>")
		check(t, "create/close "+name, file.Close(), nil)
	}
	_, err := create(t, root, "read", p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
	check(t, "create/exists", err, syscall.EEXIST)
	must(t, os.Symlink("target", server.Host("dangling")))
	_, err = create(t, root, "dangling", p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
	check(t, "create/over a dangling symlink", err, syscall.EEXIST)
	check(t, "create/symlink's target not made", exists(server.Host("target")), false)
	for name, bad := range map[string]string{"empty": "", "dot": ".", "dot dot": "..", "slash": "a/b", "nul": "a\x00b"} {
		_, err = create(t, root, bad, p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
		check(t, "create/name "+name, err, syscall.EINVAL)
	}
	_, err = create(t, root, strings.Repeat("n", 256), p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
	check(t, "create/name of 256", err, syscall.ENAMETOOLONG)
	longest := strings.Repeat("n", 255)
	_, err = create(t, root, longest, p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
	check(t, "create/name of 255", err, nil)
	_, err = create(t, root, "bytes\xff\xfe\n", p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
	check(t, "create/name of any bytes", err, nil)
	check(t, "create/name of any bytes on the host", exists(server.Host("bytes\xff\xfe\n")), true)
	file := walk(t, root, "read")
	_, _, _, err = file.Create("x", p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
	check(t, "create/in a file", err, syscall.EINVAL)
	opened := open(t, root, p9.ReadOnly)
	_, _, _, err = opened.Create("x", p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
	check(t, "create/in an opened directory", err, syscall.EINVAL)
}

func TestMkdirSymlinkLinkMknodReadlink(t *testing.T) {
	server, root, _ := serve(t)
	write(t, server.Host("f"), "text")

	qid, err := root.Mkdir("d", 0o1757, 31, 32)
	check(t, "mkdir/new", err, nil)
	s := stat(t, server.Host("d"))
	check(t, "mkdir/on the host", fmt.Sprintf("%o %d %d", s.Mode, s.Uid, s.Gid), "41757 31 32")
	check(t, "mkdir/qid", say(qid.Type, qid.Path&(1<<56-1)), say(p9.TypeDir, s.Ino))
	_, err = root.Mkdir("d", 0o755, 0, 0)
	check(t, "mkdir/exists", err, syscall.EEXIST)
	_, err = root.Mkdir("..", 0o755, 0, 0)
	check(t, "mkdir/dot dot", err, syscall.EINVAL)
	_, err = walk(t, root, "f").Mkdir("x", 0o755, 0, 0)
	check(t, "mkdir/in a file", err, syscall.EINVAL)

	qid, err = root.Symlink("../any where", "l", 41, 42)
	check(t, "symlink/new", err, nil)
	s = stat(t, server.Host("l"))
	check(t, "symlink/owner", say(s.Uid, s.Gid), "41 42")
	check(t, "symlink/qid", say(qid.Type, qid.Path&(1<<56-1)), say(p9.TypeSymlink, s.Ino))
	target, err := os.Readlink(server.Host("l"))
	check(t, "symlink/on the host", say(target, err), "../any where <nil>")
	target, err = walk(t, root, "l").Readlink()
	check(t, "readlink/new", say(target, err), "../any where <nil>")
	_, err = root.Symlink("x", "l", 0, 0)
	check(t, "symlink/exists", err, syscall.EEXIST)
	_, err = root.Symlink("", "empty", 0, 0)
	check(t, "symlink/empty target", err, syscall.ENOENT)
	longest := strings.Repeat("t", 4095)
	_, err = root.Symlink(longest, "longest", 0, 0)
	check(t, "symlink/target of 4095", err, nil)
	if exists(server.Host("longest")) {
		target, err = walk(t, root, "longest").Readlink()
		check(t, "readlink/target of 4095", say(target == longest, err), "true <nil>")
	}
	_, err = root.Symlink(longest+"t", "longer", 0, 0)
	check(t, "symlink/target of 4096", err, syscall.ENAMETOOLONG)
	_, err = walk(t, root, "f").Readlink()
	check(t, "readlink/file", err, syscall.EINVAL)
	_, err = root.Readlink()
	check(t, "readlink/directory", err, syscall.EINVAL)

	file := walk(t, root, "f")
	check(t, "link/new", root.Link(file, "hard"), nil)
	check(t, "link/on the host", stat(t, server.Host("hard")).Ino, stat(t, server.Host("f")).Ino)
	check(t, "link/exists", root.Link(file, "hard"), syscall.EEXIST)
	check(t, "link/of a directory", root.Link(walk(t, root, "d"), "hard2"), syscall.EPERM)
	check(t, "link/of a symlink", root.Link(walk(t, root, "l"), "hardlink"), nil)
	check(t, "link/of a symlink on the host", stat(t, server.Host("hardlink")).Mode&syscall.S_IFMT, syscall.S_IFLNK)
	check(t, "link/in a file", file.Link(file, "x"), syscall.EINVAL)
	check(t, "link/name", root.Link(file, "a/b"), syscall.EINVAL)

	for name, mode := range map[string]p9.FileMode{"regular": p9.ModeRegular | 0o640, "fifo": p9.ModeNamedPipe | 0o640, "device": p9.ModeCharacterDevice | 0o640, "no type": 0o640} {
		_, err = root.Mknod(name, mode, 1, 3, 51, 52)
		want := error(syscall.EPERM)
		if name == "regular" {
			want = nil
		}
		check(t, "mknod/"+name, err, want)
		check(t, "mknod/on the host "+name, exists(server.Host(name)), name == "regular")
	}
	if exists(server.Host("regular")) {
		s = stat(t, server.Host("regular"))
		check(t, "mknod/owner and mode", fmt.Sprintf("%o %d %d", s.Mode, s.Uid, s.Gid), "100640 51 52")
	}
}

func TestRenameUnlink(t *testing.T) {
	server, root, _ := serve(t)
	for _, dir := range []string{"a/sub", "b"} {
		must(t, os.MkdirAll(server.Host(dir), 0o755))
	}
	for _, file := range []string{"a/f", "a/sub/g", "b/old", "top"} {
		write(t, server.Host(file), file)
	}
	a, b, deep, file := walk(t, root, "a"), walk(t, root, "b"), walk(t, root, "a", "sub", "g"), walk(t, root, "a", "f")

	check(t, "renameat/same place", a.RenameAt("f", a, "f"), nil)
	check(t, "renameat/within", a.RenameAt("f", a, "f2"), nil)
	check(t, "renameat/within on the host", say(exists(server.Host("a/f")), read(t, server.Host("a/f2"))), "false a/f")
	check(t, "renameat/over another", a.RenameAt("f2", b, "old"), nil)
	check(t, "renameat/over another on the host", read(t, server.Host("b/old")), "a/f")
	check(t, "renameat/missing", a.RenameAt("none", b, "x"), syscall.ENOENT)
	check(t, "renameat/name", a.RenameAt("..", b, "x"), syscall.EINVAL)
	check(t, "renameat/to a name", a.RenameAt("sub", b, "x/y"), syscall.EINVAL)
	check(t, "renameat/directory over a file", a.RenameAt("sub", b, "old"), syscall.ENOTDIR)
	check(t, "renameat/from a file", walk(t, root, "top").RenameAt("x", b, "y"), syscall.EINVAL)
	_, _, _, err := file.GetAttr(p9.AttrMaskAll)
	check(t, "renameat/fid follows twice", err, nil)
	if _, _, err := file.Open(p9.ReadWrite); check(t, "renameat/fid opens under its new name", err, nil) && err == nil {
		_, err = file.WriteAt([]byte("W"), 0)
		check(t, "renameat/fid writes", err, nil)
	}
	check(t, "renameat/written on the host", read(t, server.Host("b/old")), "W/f")

	sub := walk(t, root, "a", "sub")
	check(t, "rename/directory", sub.Rename(b, "moved"), nil)
	check(t, "rename/on the host", read(t, server.Host("b/moved/g")), "a/sub/g")
	_, err = sub.Mkdir("in it", 0o755, 0, 0)
	check(t, "rename/fid follows", err, nil)
	check(t, "rename/fid follows on the host", exists(server.Host("b/moved/in it")), true)
	_, _, err = deep.Open(p9.ReadWrite)
	check(t, "rename/what is below opens", err, nil)
	check(t, "rename/into itself", b.Rename(sub, "x"), syscall.EINVAL)
	check(t, "rename/root", root.Rename(b, "x"), syscall.EINVAL)
	check(t, "rename/to a file", sub.Rename(walk(t, root, "top"), "x"), syscall.EINVAL)
	opened := open(t, root, p9.ReadOnly, "a")
	check(t, "renameat/from an opened directory", opened.RenameAt("x", b, "y"), syscall.EINVAL)

	check(t, "unlinkat/file", root.UnlinkAt("top", 0), nil)
	check(t, "unlinkat/on the host", exists(server.Host("top")), false)
	check(t, "unlinkat/missing", root.UnlinkAt("top", 0), syscall.ENOENT)
	check(t, "unlinkat/directory without the flag", root.UnlinkAt("a", 0), syscall.EISDIR)
	check(t, "unlinkat/full directory", root.UnlinkAt("b", 0x200), syscall.ENOTEMPTY)
	check(t, "unlinkat/file with the flag", b.UnlinkAt("old", 0x200), syscall.ENOTDIR)
	check(t, "unlinkat/directory", root.UnlinkAt("a", 0x200), nil)
	check(t, "unlinkat/directory on the host", exists(server.Host("a")), false)
	check(t, "unlinkat/dot dot", b.UnlinkAt("..", 0x200), syscall.EINVAL)
	check(t, "unlinkat/another flag", b.UnlinkAt("old", 0x1000), syscall.EINVAL)
	write(t, server.Host("r"), "")
	removed := walk(t, root, "r")
	check(t, "remove/file", removed.(interface{ Remove() error }).Remove(), nil)
	check(t, "remove/on the host", exists(server.Host("r")), false)
	check(t, "remove/root", walk(t, root).(interface{ Remove() error }).Remove(), syscall.EINVAL)
}

func TestReaddir(t *testing.T) {
	server, root, _ := serve(t)
	var want []string
	for i := 0; i < 3000; i++ {
		name := fmt.Sprintf("%04d-%s", i, strings.Repeat("n", i%200))
		want = append(want, name)
		switch i % 3 {
		case 0:
			write(t, server.Host(name), "")
		case 1:
			must(t, os.Mkdir(server.Host(name), 0o755))
		case 2:
			must(t, os.Symlink("x", server.Host(name)))
		}
	}
	var names []string
	right, offsets, last := true, true, uint64(0)
	for _, entry := range list(t, root) {
		names = append(names, entry.Name)
		s := stat(t, server.Host(entry.Name))
		kind := map[uint32]p9.QIDType{syscall.S_IFREG: p9.TypeRegular, syscall.S_IFDIR: p9.TypeDir, syscall.S_IFLNK: p9.TypeSymlink}[s.Mode&syscall.S_IFMT]
		right = right && entry.Type == kind && entry.QID.Type == kind && entry.QID.Path&(1<<56-1) == s.Ino
		offsets = offsets && entry.Offset > last
		last = entry.Offset
	}
	sort.Strings(names)
	check(t, "readdir/names", say(len(names), strings.Join(names, "/") == strings.Join(want, "/")), "3000 true")
	check(t, "readdir/types and inodes", right, true)
	check(t, "readdir/offsets rise", offsets, true)

	dir := open(t, root, p9.ReadOnly)
	first, err := dir.Readdir(0, 1000)
	check(t, "readdir/part", say(len(first) > 1 && len(first) < 60, err), "true <nil>")
	if len(first) > 1 {
		second, err := dir.Readdir(first[0].Offset, 1000)
		check(t, "readdir/from the middle", say(len(second) > 0 && second[0].Name == first[1].Name, err), "true <nil>")
		again, err := dir.Readdir(0, 1000)
		check(t, "readdir/from the start again", say(len(again) > 0 && again[0].Name == first[0].Name, err), "true <nil>")
	}
	end, err := dir.Readdir(last, 1000)
	check(t, "readdir/at the end", say(len(end), err), "0 <nil>")
	_, err = walk(t, root).Readdir(0, 1000)
	check(t, "readdir/not opened", err, syscall.EINVAL)
	write(t, server.Host("f"), "")
	_, err = open(t, root, p9.ReadOnly, "f").Readdir(0, 1000)
	check(t, "readdir/file", err, syscall.EINVAL)
	empty, err := root.Mkdir("empty", 0o755, p9.NoUID, p9.NoGID)
	must(t, err)
	_ = empty
	check(t, "readdir/empty", len(list(t, walk(t, root, "empty"))), 0)
}
