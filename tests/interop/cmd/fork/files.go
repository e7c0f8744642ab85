package main

import (
	"fmt"
	"syscall"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"
)

// Host files below a folder, by descriptor: an O_PATH one from the walk, another when it is opened.
// The package's own local files can't unlink, chown or chmod; what the suite asks of these is only
// what the protocol layer above them makes of it.
type file struct {
	readOnly bool
	held     int
	opened   int
}

type attacher struct {
	root     string
	readOnly bool
}

func (a attacher) Attach() (p9.File, error) {
	held, err := unix.Open(a.root, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return &file{a.readOnly, held, -1}, errno(err)
}

func errno(err error) error {
	if host, is := err.(syscall.Errno); is {
		return linux.Errno(host)
	}
	return err
}

func (f *file) stat() (unix.Stat_t, p9.QID, error) {
	var stat unix.Stat_t
	err := unix.Fstat(f.held, &stat)
	return stat, p9.QID{Type: p9.FileMode(stat.Mode).QIDType(), Path: stat.Ino}, errno(err)
}

func (f *file) step(name string) (*file, error) {
	held, err := unix.Openat(f.held, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return &file{f.readOnly, held, -1}, errno(err)
}

func (f *file) Walk(names []string) ([]p9.QID, p9.File, error) {
	if len(names) == 0 {
		held, err := unix.FcntlInt(uintptr(f.held), unix.F_DUPFD_CLOEXEC, 0)
		return nil, &file{f.readOnly, held, -1}, errno(err)
	}
	var qids []p9.QID
	at := f
	for _, name := range names {
		next, err := at.step(name)
		if at != f {
			at.Close()
		}
		if err != nil {
			return nil, nil, err
		}
		at = next
		stat, qid, err := at.stat()
		if kind := stat.Mode & unix.S_IFMT; err == nil && kind != unix.S_IFREG && kind != unix.S_IFDIR && kind != unix.S_IFLNK {
			err = linux.EPERM
		}
		if err != nil {
			at.Close()
			return nil, nil, err
		}
		qids = append(qids, qid)
	}
	return qids, at, nil
}

var valid = p9.AttrMask{Mode: true, NLink: true, UID: true, GID: true, RDev: true, ATime: true, MTime: true, CTime: true, Size: true, Blocks: true}

func (f *file) WalkGetAttr(names []string) ([]p9.QID, p9.File, p9.AttrMask, p9.Attr, error) {
	qids, to, err := f.Walk(names)
	if err != nil {
		return nil, nil, p9.AttrMask{}, p9.Attr{}, err
	}
	_, mask, attr, err := to.GetAttr(valid)
	return qids, to, mask, attr, err
}

func (f *file) GetAttr(p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	s, qid, err := f.stat()
	return qid, valid, p9.Attr{
		Mode: p9.FileMode(s.Mode), UID: p9.UID(s.Uid), GID: p9.GID(s.Gid), NLink: p9.NLink(s.Nlink), RDev: p9.Dev(s.Rdev),
		Size: uint64(s.Size), BlockSize: uint64(s.Blksize), Blocks: uint64(s.Blocks),
		ATimeSeconds: uint64(s.Atim.Sec), ATimeNanoSeconds: uint64(s.Atim.Nsec), MTimeSeconds: uint64(s.Mtim.Sec),
		MTimeNanoSeconds: uint64(s.Mtim.Nsec), CTimeSeconds: uint64(s.Ctim.Sec), CTimeNanoSeconds: uint64(s.Ctim.Nsec),
	}, err
}

func (f *file) StatFS() (p9.FSStat, error) {
	var s unix.Statfs_t
	err := unix.Fstatfs(f.held, &s)
	return p9.FSStat{Type: uint32(s.Type), BlockSize: uint32(s.Bsize), Blocks: s.Blocks, BlocksFree: s.Bfree,
		BlocksAvailable: s.Bavail, Files: s.Files, FilesFree: s.Ffree, NameLength: uint32(s.Namelen)}, errno(err)
}

func (f *file) Close() error {
	if f.opened >= 0 && f.opened != f.held {
		unix.Close(f.opened)
	}
	return errno(unix.Close(f.held))
}

// The held file itself, opened again in another mode.
func (f *file) reopen(flags int) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.held), flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	return fd, errno(err)
}

func (f *file) Open(flags p9.OpenFlags) (p9.QID, uint32, error) {
	_, qid, err := f.stat()
	if err != nil {
		return qid, 0, err
	}
	if f.readOnly && flags&3 != 0 {
		return qid, 0, linux.EROFS
	}
	f.opened, err = f.reopen(int(flags & 3))
	return qid, 0, err
}

func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	for done := 0; ; {
		n, err := unix.Pread(f.opened, p[done:], offset+int64(done))
		if done += n; err != nil || n == 0 || done == len(p) {
			if n < 0 {
				done = 0
			}
			return done, errno(err)
		}
	}
}

func (f *file) WriteAt(p []byte, offset int64) (int, error) {
	n, err := unix.Pwrite(f.opened, p, offset)
	if n < 0 {
		n = 0
	}
	return n, errno(err)
}

func (f *file) FSync() error { return errno(unix.Fsync(f.opened)) }

func (f *file) SetAttr(mask p9.SetAttrMask, attr p9.SetAttr) error {
	if f.readOnly {
		return linux.EROFS
	}
	if mask.CTime {
		return linux.EPERM
	}
	stat, _, err := f.stat()
	if err != nil {
		return err
	}
	var last error
	note := func(err error) {
		if err != nil {
			last = errno(err)
		}
	}
	fd := f.held
	if stat.Mode&unix.S_IFMT != unix.S_IFLNK && (mask.Permissions || mask.Size) {
		flags := unix.O_RDONLY
		if mask.Size && stat.Mode&unix.S_IFMT == unix.S_IFREG {
			flags = unix.O_WRONLY
		}
		if fd, err = f.reopen(flags); err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	if mask.Permissions {
		note(unix.Fchmod(fd, uint32(attr.Permissions)))
	}
	if mask.Size {
		note(unix.Ftruncate(fd, int64(attr.Size)))
	}
	if mask.ATime || mask.MTime {
		times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		if mask.ATime {
			times[0] = unix.Timespec{Nsec: unix.UTIME_NOW}
			if mask.ATimeNotSystemTime {
				times[0] = unix.Timespec{Sec: int64(attr.ATimeSeconds), Nsec: int64(attr.ATimeNanoSeconds)}
			}
		}
		if mask.MTime {
			times[1] = unix.Timespec{Nsec: unix.UTIME_NOW}
			if mask.MTimeNotSystemTime {
				times[1] = unix.Timespec{Sec: int64(attr.MTimeSeconds), Nsec: int64(attr.MTimeNanoSeconds)}
			}
		}
		note(unix.UtimesNanoAt(f.held, "", times[:], unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW))
	}
	if mask.UID || mask.GID {
		uid, gid := -1, -1
		if mask.UID {
			uid = int(attr.UID)
		}
		if mask.GID {
			gid = int(attr.GID)
		}
		note(unix.Fchownat(f.held, "", uid, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW))
	}
	return last
}

// What was made is given its owner, and looked at.
func (f *file) made(name string, uid p9.UID, gid p9.GID, err error) (p9.QID, error) {
	if err != nil {
		return p9.QID{}, errno(err)
	}
	new, err := f.step(name)
	if err != nil {
		return p9.QID{}, err
	}
	defer new.Close()
	return new.owned(uid, gid)
}

func (f *file) owned(uid p9.UID, gid p9.GID) (p9.QID, error) {
	if err := unix.Fchownat(f.held, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return p9.QID{}, errno(err)
	}
	_, qid, err := f.stat()
	return qid, err
}

func (f *file) Create(name string, flags p9.OpenFlags, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.File, p9.QID, uint32, error) {
	if f.readOnly {
		return nil, p9.QID{}, 0, linux.EROFS
	}
	opened, err := unix.Openat(f.held, name, int(flags&3)|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(perm))
	if err != nil {
		return nil, p9.QID{}, 0, errno(err)
	}
	held, err := unix.FcntlInt(uintptr(opened), unix.F_DUPFD_CLOEXEC, 0)
	new := &file{false, held, opened}
	if err != nil {
		return nil, p9.QID{}, 0, errno(err)
	}
	qid, err := new.owned(uid, gid)
	return new, qid, 0, err
}

func (f *file) Mkdir(name string, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.QID, error) {
	if f.readOnly {
		return p9.QID{}, linux.EROFS
	}
	return f.made(name, uid, gid, unix.Mkdirat(f.held, name, uint32(perm)))
}

func (f *file) Symlink(target, name string, uid p9.UID, gid p9.GID) (p9.QID, error) {
	if f.readOnly {
		return p9.QID{}, linux.EROFS
	}
	return f.made(name, uid, gid, unix.Symlinkat(target, f.held, name))
}

func (f *file) Mknod(name string, mode p9.FileMode, _, _ uint32, uid p9.UID, gid p9.GID) (p9.QID, error) {
	if f.readOnly {
		return p9.QID{}, linux.EROFS
	}
	if mode.FileType() != p9.ModeRegular {
		return p9.QID{}, linux.EPERM
	}
	return f.made(name, uid, gid, unix.Mknodat(f.held, name, uint32(mode), 0))
}

func (f *file) Link(target p9.File, name string) error {
	if f.readOnly {
		return linux.EROFS
	}
	return errno(unix.Linkat(target.(*file).held, "", f.held, name, unix.AT_EMPTY_PATH))
}

func (f *file) RenameAt(name string, to p9.File, newName string) error {
	if f.readOnly {
		return linux.EROFS
	}
	return errno(unix.Renameat(f.held, name, to.(*file).held, newName))
}

func (f *file) UnlinkAt(name string, flags uint32) error {
	if f.readOnly {
		return linux.EROFS
	}
	return errno(unix.Unlinkat(f.held, name, int(flags)))
}

func (f *file) Readdir(offset uint64, count uint32) (p9.Dirents, error) {
	if _, err := unix.Seek(f.opened, 0, 0); err != nil {
		return nil, errno(err)
	}
	var names []string
	for buffer := make([]byte, 65536); ; {
		n, err := unix.ReadDirent(f.opened, buffer)
		if err != nil {
			return nil, errno(err)
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
	var entries p9.Dirents
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
		return "", errno(err)
	}
	return string(buffer[:n]), nil
}

func (f *file) Rename(p9.File, string) error                 { return linux.ENOSYS }
func (f *file) Renamed(p9.File, string)                      {}
func (f *file) SetXattr(string, []byte, p9.XattrFlags) error { return linux.ENOSYS }
func (f *file) GetXattr(string) ([]byte, error)              { return nil, linux.ENOSYS }
func (f *file) ListXattrs() ([]string, error)                { return nil, linux.ENOSYS }
func (f *file) RemoveXattr(string) error                     { return linux.ENOSYS }
func (f *file) Lock(int, p9.LockType, p9.LockFlags, uint64, uint64, string) (p9.LockStatus, error) {
	return p9.LockStatusError, linux.ENOSYS
}
