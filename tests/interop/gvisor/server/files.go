package main

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/p9"
)

type attacher string

func (a attacher) Attach() (p9.File, error) {
	held, err := unix.Open(string(a), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &file{held: held, opened: -1}, nil
}

func (attacher) ServerOptions() p9.AttacherOptions { return p9.AttacherOptions{} }

// A host file by descriptor: an O_PATH one from the walk, another when it is opened.
type file struct {
	p9.DisallowClientCalls
	held   int
	opened int
}

func (f *file) stat() (syscall.Stat_t, p9.QID, error) {
	var stat syscall.Stat_t
	err := syscall.Fstat(f.held, &stat)
	return stat, p9.QID{Type: p9.FileMode(stat.Mode).QIDType(), Path: stat.Ino}, err
}

func (f *file) step(name string) (*file, error) {
	held, err := unix.Openat(f.held, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &file{held: held, opened: -1}, nil
}

// The library asks for one name at a time.
func (f *file) walk(names []string) ([]p9.QID, *file, syscall.Stat_t, error) {
	if len(names) == 0 {
		names = []string{""}
	}
	if len(names) > 1 {
		return nil, nil, syscall.Stat_t{}, unix.EINVAL
	}
	var to *file
	var err error
	if names[0] == "" {
		to = &file{opened: -1}
		to.held, err = unix.FcntlInt(uintptr(f.held), unix.F_DUPFD_CLOEXEC, 0)
	} else {
		to, err = f.step(names[0])
	}
	if err != nil {
		return nil, nil, syscall.Stat_t{}, err
	}
	stat, qid, err := to.stat()
	if err != nil {
		to.Close()
		return nil, nil, stat, err
	}
	return []p9.QID{qid}, to, stat, nil
}

func (f *file) Walk(names []string) ([]p9.QID, p9.File, error) {
	qids, to, _, err := f.walk(names)
	if err != nil {
		return nil, nil, err
	}
	return qids, to, nil
}

func (f *file) WalkGetAttr(names []string) ([]p9.QID, p9.File, p9.AttrMask, p9.Attr, error) {
	qids, to, stat, err := f.walk(names)
	if err != nil {
		return nil, nil, p9.AttrMask{}, p9.Attr{}, err
	}
	attr, mask := p9.StatToAttr(&stat, p9.AttrMaskAll())
	return qids, to, mask, attr, nil
}

func (f *file) GetAttr(asked p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	stat, qid, err := f.stat()
	attr, mask := p9.StatToAttr(&stat, asked)
	return qid, mask, attr, err
}

func (f *file) StatFS() (p9.FSStat, error) {
	var s unix.Statfs_t
	err := unix.Fstatfs(f.held, &s)
	return p9.FSStat{Type: uint32(s.Type), BlockSize: uint32(s.Bsize), Blocks: s.Blocks, BlocksFree: s.Bfree,
		BlocksAvailable: s.Bavail, Files: s.Files, FilesFree: s.Ffree, NameLength: uint32(s.Namelen)}, err
}

func (f *file) Close() error {
	if f.opened >= 0 {
		unix.Close(f.opened)
	}
	return unix.Close(f.held)
}

// The held file itself, by a name that calls take which want one.
func (f *file) name() string { return fmt.Sprintf("/proc/self/fd/%d", f.held) }

// A regular file's descriptor goes to the client too.
func (f *file) donated() (*fd.FD, error) {
	stat, _, err := f.stat()
	if err != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, err
	}
	given, err := unix.FcntlInt(uintptr(f.opened), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return fd.New(given), nil
}

func (f *file) Open(flags p9.OpenFlags) (*fd.FD, p9.QID, uint32, error) {
	_, qid, err := f.stat()
	if err != nil {
		return nil, qid, 0, err
	}
	kept := int(flags & (p9.OpenFlagsModeMask | p9.OpenTruncate))
	f.opened, err = unix.Open(f.name(), kept|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, qid, 0, err
	}
	given, err := f.donated()
	return given, qid, 0, err
}

func (f *file) ReadAt(p []byte, offset uint64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.opened, p[done:], int64(offset)+int64(done))
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

func (f *file) WriteAt(p []byte, offset uint64) (int, error) {
	n, err := unix.Pwrite(f.opened, p, int64(offset))
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (f *file) FSync() error { return unix.Fsync(f.opened) }

func (f *file) SetAttr(mask p9.SetAttrMask, attr p9.SetAttr) error {
	if mask.Permissions {
		if err := unix.Chmod(f.name(), uint32(attr.Permissions)); err != nil {
			return err
		}
	}
	if mask.Size {
		if err := unix.Truncate(f.name(), int64(attr.Size)); err != nil {
			return err
		}
	}
	if mask.ATime || mask.MTime {
		times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		if mask.ATime {
			times[0] = moment(mask.ATimeNotSystemTime, attr.ATimeSeconds, attr.ATimeNanoSeconds)
		}
		if mask.MTime {
			times[1] = moment(mask.MTimeNotSystemTime, attr.MTimeSeconds, attr.MTimeNanoSeconds)
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, f.name(), times[:], 0)
	}
	return nil
}

func moment(given bool, seconds, nanoseconds uint64) unix.Timespec {
	if !given {
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(seconds), Nsec: int64(nanoseconds)}
}

func (f *file) Allocate(_ p9.AllocateMode, offset, length uint64) error {
	return unix.Fallocate(f.opened, 0, int64(offset), int64(length))
}

// What was made is given its owner, and looked at.
func (f *file) made(name string, uid p9.UID, gid p9.GID, err error) (p9.QID, error) {
	if err != nil {
		return p9.QID{}, err
	}
	made, err := f.step(name)
	if err != nil {
		return p9.QID{}, err
	}
	defer made.Close()
	return made.owned(uid, gid)
}

func (f *file) owned(uid p9.UID, gid p9.GID) (p9.QID, error) {
	if err := unix.Fchownat(f.held, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return p9.QID{}, err
	}
	_, qid, err := f.stat()
	return qid, err
}

func (f *file) Create(name string, flags p9.OpenFlags, mode p9.FileMode, uid p9.UID, gid p9.GID) (*fd.FD, p9.File, p9.QID, uint32, error) {
	kept := int(flags & p9.OpenFlagsModeMask)
	opened, err := unix.Openat(f.held, name, kept|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode))
	if err != nil {
		return nil, nil, p9.QID{}, 0, err
	}
	made, err := f.step(name)
	if err != nil {
		return nil, nil, p9.QID{}, 0, err
	}
	made.opened = opened
	qid, err := made.owned(uid, gid)
	if err != nil {
		return nil, nil, p9.QID{}, 0, err
	}
	given, err := made.donated()
	return given, made, qid, 0, err
}

func (f *file) Mkdir(name string, mode p9.FileMode, uid p9.UID, gid p9.GID) (p9.QID, error) {
	return f.made(name, uid, gid, unix.Mkdirat(f.held, name, uint32(mode)))
}

func (f *file) Symlink(target, name string, uid p9.UID, gid p9.GID) (p9.QID, error) {
	return f.made(name, uid, gid, unix.Symlinkat(target, f.held, name))
}

func (f *file) Link(target p9.File, name string) error {
	return unix.Linkat(unix.AT_FDCWD, target.(*file).name(), f.held, name, unix.AT_SYMLINK_FOLLOW)
}

func (f *file) RenameAt(name string, to p9.File, newName string) error {
	return unix.Renameat(f.held, name, to.(*file).held, newName)
}

func (f *file) UnlinkAt(name string, flags uint32) error {
	return unix.Unlinkat(f.held, name, int(flags))
}

func (f *file) Readdir(offset uint64, count uint32) ([]p9.Dirent, error) {
	if _, err := unix.Seek(f.opened, 0, 0); err != nil {
		return nil, err
	}
	var names []string
	for buffer := make([]byte, 65536); ; {
		n, err := unix.ReadDirent(f.opened, buffer)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
	var entries []p9.Dirent
	room := int(count)
	for i := int(offset); i < len(names); i++ {
		if room -= 24 + len(names[i]); room < 0 {
			break
		}
		entry, err := f.step(names[i])
		if err != nil {
			continue
		}
		_, qid, err := entry.stat()
		entry.Close()
		if err == nil {
			entries = append(entries, p9.Dirent{QID: qid, Type: qid.Type, Offset: uint64(i + 1), Name: names[i]})
		}
	}
	return entries, nil
}

func (f *file) Readlink() (string, error) {
	buffer := make([]byte, 4096)
	n, err := unix.Readlinkat(f.held, "", buffer)
	if err != nil {
		return "", err
	}
	return string(buffer[:n]), nil
}

func (f *file) GetXattr(name string, size uint64) (string, error) {
	buffer := make([]byte, 65536)
	n, err := unix.Getxattr(f.name(), name, buffer)
	if err != nil {
		return "", err
	}
	if size > 0 && uint64(n) > size {
		return "", unix.ERANGE
	}
	return string(buffer[:n]), nil
}

func (f *file) SetXattr(name, value string, flags uint32) error {
	return unix.Setxattr(f.name(), name, []byte(value), int(flags))
}

func (f *file) ListXattr(uint64) (map[string]struct{}, error) {
	buffer := make([]byte, 65536)
	n, err := unix.Listxattr(f.name(), buffer)
	if err != nil {
		return nil, err
	}
	names := map[string]struct{}{}
	for _, name := range strings.FieldsFunc(string(buffer[:n]), func(c rune) bool { return c == 0 }) {
		names[name] = struct{}{}
	}
	return names, nil
}

func (f *file) RemoveXattr(name string) error { return unix.Removexattr(f.name(), name) }

func (f *file) Flush() error            { return nil }
func (f *file) Renamed(p9.File, string) {}

func (f *file) MultiGetAttr([]string) ([]p9.FullStat, error) { return nil, unix.ENOSYS }
func (f *file) Rename(p9.File, string) error                 { return unix.ENOSYS }
func (f *file) Connect(p9.SocketType) (*fd.FD, error)        { return nil, unix.ENOSYS }
func (f *file) Mknod(string, p9.FileMode, uint32, uint32, p9.UID, p9.GID) (p9.QID, error) {
	return p9.QID{}, unix.ENOSYS
}
func (f *file) Bind(uint32, string, p9.UID, p9.GID) (p9.File, p9.QID, p9.AttrMask, p9.Attr, error) {
	return nil, p9.QID{}, p9.AttrMask{}, p9.Attr{}, unix.ENOSYS
}
