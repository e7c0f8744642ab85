//! What the host says of a file, and how the wire says it.

use core::ffi::CStr;

use linux_raw_sys::general::stat;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, chmodat, chownat,
    fchmod, ftruncate, openat, utimensat,
};
use rustix::io::Errno;

use super::file::{Reopen, number};
use super::name::{Name, NameBuffer};
use super::{Fs, NodeId, OpenId};
use crate::limits::PROC_FD;
use crate::p9::attr::{Attr, StatFs};
use crate::p9::qid::QidType;
use crate::p9::wire::{Gid, Uid};
use crate::sys::fd::fixed;
use crate::sys::raw::{no_status, status};

/// Type byte of a qid.
pub fn qid_type(kind: FileType) -> QidType {
    match kind {
        FileType::Directory => QidType::DIRECTORY,
        FileType::Symlink => QidType::SYMLINK,
        FileType::Socket | FileType::Fifo | FileType::CharacterDevice => QidType::APPEND,
        _ => QidType::REGULAR,
    }
}

/// A type as readdir(3) has it.
#[allow(clippy::cast_possible_truncation)] // four bits
pub fn dirent_type(kind: FileType) -> u8 {
    match kind {
        FileType::Unknown => 0,
        kind => (kind.as_raw_mode() >> 12) as u8,
    }
}

/// Types that gVisor's client is served only if the command line says so.
#[derive(Clone, Copy, Default, Debug)]
pub struct Special {
    /// Sockets may be walked and connected to.
    pub sockets: bool,
    /// FIFOs may be walked to and opened.
    pub fifos: bool,
}

impl Special {
    /// Nothing, if files of a type are served. Error: `EPERM` devices, and what is not said to be.
    pub(super) fn admit(self, kind: FileType) -> Result<(), Errno> {
        let served = match kind {
            FileType::RegularFile | FileType::Directory | FileType::Symlink => true,
            FileType::Socket => self.sockets,
            FileType::Fifo => self.fifos,
            _ => false,
        };
        if served { Ok(()) } else { Err(Errno::PERM) }
    }
}

/// A stat(2) result. Its 144 bytes are not moved where it counts: who wants one makes room, and has it filled.
pub struct Meta(stat);

impl Meta {
    /// Of no file yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(no_status())
    }

    /// Of an open descriptor, `O_PATH` or not. Errors: fstatat(2)'s.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        Self::of_name(fd, c"")
    }

    /// Of a name in a directory; see [`Meta::ask_name`].
    #[inline(never)]
    pub fn of_name(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        let mut meta = Self::new();
        meta.ask_name(dir, name)?;
        Ok(meta)
    }

    /// Becomes that of an open descriptor, `O_PATH` or not. Errors: fstatat(2)'s.
    pub fn ask(&mut self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.ask_name(fd, c"")
    }

    /// Becomes that of a name in a directory; a symlink's own. Of the directory itself, or whatever else the
    /// descriptor is of, where the name is empty: one call for both, and as fast as fstat(2). Errors: fstatat(2)'s.
    pub fn ask_name(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        status(dir, name, &mut self.0)
    }

    /// The type, served or not.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.0.st_mode)
    }

    /// Hard links.
    pub fn links(&self) -> u64 {
        widen(self.0.st_nlink)
    }

    /// A number that is another one when the change time or the size is, and never 0: 32 bits of their hash.
    #[allow(clippy::cast_possible_truncation)] // the upper half is what counts
    pub fn version(&self) -> u32 {
        let s = &self.0;
        let changed = s.st_ctime.wrapping_mul(1_000_000_000);
        let state =
            changed.wrapping_add(s.st_ctime_nsec) ^ s.st_size.cast_unsigned().rotate_left(32);
        let hash = state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (hash as u32).max(1)
    }

    /// Device number of the file system that the file lies on.
    pub fn device(&self) -> u64 {
        self.0.st_dev
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.st_size.cast_unsigned()
    }

    /// Inode number.
    pub fn inode(&self) -> u64 {
        self.0.st_ino
    }

    /// Whether another one is of the same file.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device(), self.inode()) == (other.device(), other.inode())
    }

    /// Owner and group.
    pub fn owner(&self) -> (Uid, Gid) {
        (Uid(self.0.st_uid), Gid(self.0.st_gid))
    }

    /// As the wire has it: the mode whole, birth time, generation and data version not given.
    #[inline(never)] // three users
    pub fn attr(&self) -> Attr {
        let s = &self.0;
        // The wire's times are unsigned; one before 1970 wraps, as the original's does.
        Attr {
            mode: s.st_mode,
            uid: Uid(s.st_uid),
            gid: Gid(s.st_gid),
            nlink: widen(s.st_nlink),
            rdev: s.st_rdev,
            size: s.st_size.cast_unsigned(),
            blksize: s.st_blksize.cast_unsigned(),
            blocks: s.st_blocks.cast_unsigned(),
            atime_sec: s.st_atime,
            atime_nsec: s.st_atime_nsec,
            mtime_sec: s.st_mtime,
            mtime_nsec: s.st_mtime_nsec,
            ctime_sec: s.st_ctime,
            ctime_nsec: s.st_ctime_nsec,
            btime_sec: 0,
            btime_nsec: 0,
            generation: 0,
            data_version: 0,
        }
    }
}

/// 32 bits on some architectures, 64 on others.
fn widen(count: impl Into<u64>) -> u64 {
    count.into()
}

impl Fs {
    /// Whether files of a type are opened: of sockets, FIFOs and devices the FIFOs alone, where they are served,
    /// and not for Linux, which opens them itself.
    pub fn opens(&self, kind: FileType, linux: bool) -> bool {
        match kind {
            FileType::RegularFile | FileType::Directory => true,
            FileType::Fifo => self.special.fifos && !linux,
            _ => false,
        }
    }

    /// Attributes of a node's file, through `open` where the node has no descriptor of its own, into `meta`.
    /// Errors: fstat(2)'s.
    pub fn meta(&self, node: NodeId, open: OpenId, meta: &mut Meta) -> Result<(), Errno> {
        meta.ask(self.descriptor(node, open)?)
    }

    /// Attributes of what stands at `name` in the directory `below`, or in the node where that is none, into
    /// `meta`; without a name those of the node itself. Its device's number. The file found is the next `below`.
    ///
    /// Errors: `ENAMETOOLONG`; openat(2)'s; fstat(2)'s; `EREMOTEIO` too many devices.
    pub fn look(
        &mut self,
        node: NodeId,
        open: OpenId,
        below: &mut Option<OwnedFd>,
        name: Option<Name<'_>>,
        meta: &mut Meta,
    ) -> Result<u8, Errno> {
        let attach = self.node(node)?.attach();
        if let Some(name) = name {
            let mut buffer = NameBuffer::new();
            let name = name.for_host(&mut buffer)?;
            let dir = match &*below {
                Some(fd) => fd.as_fd(),
                None => self.descriptor(node, open)?,
            };
            *below = Some(hold(dir, name, meta)?);
        } else {
            self.meta(node, open, meta)?;
        }
        self.devices.index(attach, meta.device())
    }

    /// Figures of the file system that a node's file lies on; type and block size cut to 32 bits,
    /// fsid 0. Errors: fstatfs(2)'s.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn statfs(&self, node: NodeId, open: OpenId) -> Result<StatFs, Errno> {
        let s = rustix::fs::fstatfs(self.descriptor(node, open)?)?;
        Ok(StatFs {
            kind: s.f_type as u32,
            bsize: s.f_bsize as u32,
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            fsid: 0,
            namelen: s.f_namelen as u32,
        })
    }
}

/// Opens the path `name` in a directory, nothing else, without following: its descriptor, and its attributes into `meta`.
///
/// Errors: openat(2)'s, fstat(2)'s.
#[inline(never)] // three users
pub(super) fn hold(dir: BorrowedFd<'_>, name: &CStr, meta: &mut Meta) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(dir, name, flags, Mode::empty())?;
    meta.ask(fd.as_fd())?;
    Ok(fd)
}

/// What a Tsetattr changes.
pub struct Change {
    /// Permission bits.
    pub perm: Option<u32>,
    /// Length, bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
    /// Owner and group; NOUID and NOGID leave them.
    pub owner: (Uid, Gid),
    /// The change time becomes the host's present, even if nothing else changes.
    pub touch: bool,
}

/// Whom a new file is given to; NOUID and NOGID leave what the host chose.
#[derive(Clone, Copy)]
pub struct Owner {
    /// Owner.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
    /// A process that may not give files away keeps this one, and the owner's set-id bits survive the giving.
    pub lenient: bool,
}

/// What becomes of a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Time {
    /// It stays.
    Keep,
    /// It becomes the host's present.
    Now,
    /// It becomes this: seconds and nanoseconds, as they came.
    At(u64, u64),
}

impl Owner {
    /// A new file's mode, and the set-id bits of it that wait until it has its owner: so that none is ever
    /// another's.
    pub(super) fn hold_back(self, perm: u32) -> (Mode, u32) {
        let set_ids = if self.lenient { perm & 0o6000 } else { 0 };
        (Mode::from_raw_mode(perm & !set_ids), set_ids)
    }
}

impl Time {
    fn host(self) -> Timespec {
        match self {
            Self::Keep => Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            Self::Now => Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            },
            // Out of range is the host's to refuse.
            Self::At(sec, nsec) => Timespec {
                tv_sec: sec.cast_signed(),
                tv_nsec: nsec.cast_signed(),
            },
        }
    }
}

impl Fs {
    /// Changes attributes of a node's file, deleted or not, in the order mode, length, times, owner. Each
    /// is tried even if one before it failed; the last failure is told. Only the length takes a
    /// descriptor for writing: `open`'s if it has one, or a new one.
    ///
    /// Errors: mode, `EBADF` a symlink, fchmod(2)'s; length, `EINVAL` neither a regular file nor
    /// a symlink, or 2^63 and more, `EBADF` a symlink, openat(2)'s, ftruncate(2)'s; times, utimensat(2)'s; owner, fchownat(2)'s.
    #[inline(never)]
    pub fn change(&mut self, node: NodeId, open: OpenId, change: &Change) -> Result<(), Errno> {
        let mut last = Ok(());
        let mut note = |done: Result<(), Errno>| {
            if done.is_err() {
                last = done;
            }
        };
        if let Some(perm) = change.perm {
            note(self.set_mode(node, open, perm));
        }
        if let Some(size) = change.size {
            note(self.set_size(node, open, size));
        }
        let times = Timestamps {
            last_access: change.atime.host(),
            last_modification: change.mtime.host(),
        };
        if change.atime != Time::Keep || change.mtime != Time::Keep {
            let fd = self.descriptor(node, open)?;
            note(utimensat(fd, c"", &times, AtFlags::EMPTY_PATH));
        }
        if change.touch || change.owner != (Uid::NONE, Gid::NONE) {
            note(chown(self.descriptor(node, open)?, change.owner));
        }
        last
    }

    fn set_mode(&self, node: NodeId, open: OpenId, perm: u32) -> Result<(), Errno> {
        if self.kind(node)? == FileType::Symlink {
            return Err(Errno::BADF);
        }
        if self.reopen == Reopen::ProcFd {
            return self.set_mode_of(self.descriptor(node, open)?, perm);
        }
        match self.open_descriptor(open) {
            Ok(fd) => self.set_mode_of(fd, perm),
            // Opening it would do something.
            Err(_) if !self.opens(self.kind(node)?, true) => Err(Errno::PERM),
            Err(_) => self.set_mode_of(self.open_again(node, open, OFlags::RDONLY)?.as_fd(), perm),
        }
    }

    /// Gives a file just made to its owner, where that is given and differs, and then the bits `set_ids` that
    /// [`Owner::hold_back`] gave. `meta` is its, and becomes what it has afterwards.
    ///
    /// Errors: fstat(2)'s, fchownat(2)'s.
    pub(super) fn own(
        &self,
        fd: BorrowedFd<'_>,
        owner: Owner,
        set_ids: u32,
        meta: &mut Meta,
    ) -> Result<(), Errno> {
        let Owner { uid, gid, lenient } = owner;
        let (has_uid, has_gid) = meta.owner();
        let is_owned = (uid == Uid::NONE || uid == has_uid) && (gid == Gid::NONE || gid == has_gid);
        if is_owned && set_ids == 0 {
            return Ok(());
        }
        match chown(fd, (uid, gid)) {
            // Or ids that are not mapped here. It is not that user's, and has no set-id bits of theirs.
            Err(Errno::PERM | Errno::INVAL) if lenient => return Ok(()),
            done => done?,
        }
        let perm = meta.0.st_mode | set_ids;
        if lenient && perm & 0o6000 != 0 {
            let _kept = self.set_mode_of(fd, perm);
        }
        meta.ask(fd)
    }

    /// Of a descriptor: without the clone of /proc/self/fd, of one that is open for data.
    fn set_mode_of(&self, fd: BorrowedFd<'_>, perm: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(perm);
        match self.reopen {
            Reopen::ProcFd => chmodat(
                fixed(PROC_FD),
                number(fd, &mut [0; 11]),
                mode,
                AtFlags::empty(),
            ),
            Reopen::Parent => fchmod(fd, mode),
        }
    }

    /// Takes the set-id bits from an open file that someone without privileges writes to.
    ///
    /// Errors: fstat(2)'s, fchmodat(2)'s.
    pub fn drop_set_ids(&self, node: NodeId, open: OpenId) -> Result<(), Errno> {
        let mode = Meta::of(self.descriptor(node, open)?)?.0.st_mode & 0o7777;
        // Set-group-id without execution by the group is another thing (inode(7)).
        let dropped = if mode & 0o2010 == 0o2010 {
            0o6000
        } else {
            0o4000
        };
        if mode & dropped == 0 {
            return Ok(());
        }
        self.set_mode(node, open, mode & !dropped)
    }

    fn set_size(&self, node: NodeId, open: OpenId, size: u64) -> Result<(), Errno> {
        match self.kind(node)? {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(Errno::BADF),
            _ => return Err(Errno::INVAL),
        }
        if i64::try_from(size).is_err() {
            return Err(Errno::INVAL);
        }
        match self.access(open) {
            Ok(access) if access.writes() => ftruncate(self.open_descriptor(open)?, size),
            _ => ftruncate(self.open_again(node, open, OFlags::WRONLY)?, size),
        }
    }
}

/// fchownat(2) of a descriptor; NOUID and NOGID leave owner and group. Errors: its own.
fn chown(fd: BorrowedFd<'_>, (uid, gid): (Uid, Gid)) -> Result<(), Errno> {
    let uid = (uid != Uid::NONE).then(|| rustix::fs::Uid::from_raw(uid.0));
    let gid = (gid != Gid::NONE).then(|| rustix::fs::Gid::from_raw(gid.0));
    chownat(
        fd,
        c"",
        uid,
        gid,
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
    )
}
