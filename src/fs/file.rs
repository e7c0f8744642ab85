//! Open files: opening a held file again, creating, reading and writing.

use core::ffi::CStr;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, ftruncate, openat, unlinkat};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::attr::{Meta, Owner};
use super::name::{Name, NameBuffer};
use super::{Fs, NodeId, OpenId};
use crate::limits::{LINK_BYTES, PROC_FD};
use crate::sys::fd::{TableFd, fixed};
use crate::sys::raw::connect_to_name;
use crate::tables::Id;

/// How a file that is held by an `O_PATH` descriptor is opened again, without any path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reopen {
    /// Through the detached clone of /proc/self/fd at [`PROC_FD`].
    ProcFd,
    /// By its parent's descriptor and its name, without following; then device and inode are compared.
    Parent,
}

crate::zeroed_record! {
    /// A file opened for data, by one fid; a reply that donates it refers to it too until it is sent.
    pub(super) struct Open {
        /// Where a directory's next entries are read from, or [`UNKNOWN`].
        pub(super) at: u64,
        pub(super) fd: TableFd,
        refs: u32,
        /// O_RDONLY, O_WRONLY, O_RDWR or 3, as the client asked.
        mode: u32,
        /// Of a file that is opened for appending without O_APPEND.
        pub(super) mark: Id,
        spare: [u8; 8],
    }
}

const _: () = assert!(size_of::<Open>() == 32);

/// A directory offset that no entry has: the next reading must seek.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// Access that an open file was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access(u32);

impl Access {
    const MASK: u32 = 3;

    /// From Linux's open flags.
    pub fn of_flags(flags: u32) -> Self {
        Self(flags & Self::MASK)
    }

    /// Whether it is O_RDONLY.
    pub fn is_read_only(self) -> bool {
        self.0 == OFlags::RDONLY.bits()
    }

    /// Whether it is O_WRONLY.
    pub fn is_write_only(self) -> bool {
        self.0 == OFlags::WRONLY.bits()
    }

    /// Whether it asks for writing: O_WRONLY or O_RDWR.
    pub fn writes(self) -> bool {
        self.0 == OFlags::WRONLY.bits() || self.0 == OFlags::RDWR.bits()
    }

    fn flags(self) -> OFlags {
        OFlags::from_bits_retain(self.0)
    }
}

/// A file that the server opens never blocks it, takes no terminal, and is not inherited.
const ALWAYS: OFlags = OFlags::CLOEXEC
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

impl Fs {
    pub(super) fn open_descriptor(&self, open: OpenId) -> Result<BorrowedFd<'_>, Errno> {
        self.opens
            .get(open)
            .and_then(|open| open.fd.get())
            .ok_or(Errno::BADF)
    }

    /// Opens a node's file for data, with the flags in `more`; one reference for the caller.
    ///
    /// Errors: openat(2)'s; `ESTALE` the name is another file by now (only without /proc); `ENOMEM` table full.
    pub fn open(&mut self, node: NodeId, access: Access, more: OFlags) -> Result<OpenId, Errno> {
        let fd = self.open_again(node, Id::NONE, access.flags() | more)?;
        self.keep_open(fd, access)
    }

    /// A new socket of type `kind`, connected to the socket that the node holds; non-blocking, so that one whose
    /// queue is full is `EAGAIN`. One reference for the caller.
    ///
    /// The address is one name in the working directory, which is the clone of /proc/self/fd: it leads to the
    /// very file that was walked to, whatever has its name by now, and is as short as any.
    ///
    /// Errors: `ECONNREFUSED` sockets are not served, or there is no clone; socket(2)'s; connect(2)'s;
    /// `ENOMEM` table full.
    pub fn connect(&mut self, node: NodeId, kind: SocketType) -> Result<OpenId, Errno> {
        if !self.special.sockets || self.reopen != Reopen::ProcFd {
            return Err(Errno::CONNREFUSED);
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        let mut buffer = [0; 11];
        let name = number(self.descriptor(node, Id::NONE)?, &mut buffer);
        connect_to_name(socket.as_fd(), name)?;
        self.keep(socket)
    }

    /// Keeps a descriptor that the program has made, so that replies can donate it. One reference for the caller.
    /// Error: `ENOMEM` table full.
    pub fn keep(&mut self, fd: OwnedFd) -> Result<OpenId, Errno> {
        self.keep_open(fd, Access(OFlags::RDWR.bits()))
    }

    fn keep_open(&mut self, fd: OwnedFd, access: Access) -> Result<OpenId, Errno> {
        if self.opens.is_full() {
            return Err(Errno::NOMEM);
        }
        let open = Open {
            at: 0,
            fd: TableFd::new(fd),
            refs: 1,
            mode: access.0,
            mark: Id::NONE,
            spare: [0; 8],
        };
        let id = self.opens.insert(open).ok_or(Errno::NOMEM)?;
        self.held += 1;
        Ok(id)
    }

    /// Opens a node's file again; `open` is what has it open, where the node has no descriptor of its
    /// own. Errors: openat(2)'s, `ESTALE`.
    pub(super) fn open_again(
        &self,
        id: NodeId,
        open: OpenId,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let node = self.node(id)?;
        let flags = flags | ALWAYS;
        match self.reopen {
            Reopen::ProcFd => {
                let mut buffer = [0; 11];
                let name = number(self.descriptor(id, open)?, &mut buffer);
                // The entry is itself a link to the file, and the only one followed: a symlink's
                // descriptor leads to the symlink.
                openat(fixed(PROC_FD), name, flags, Mode::empty())
            }
            Reopen::Parent if node.kind() == FileType::Directory => {
                let dir = node.fd.get().ok_or(Errno::BADF)?;
                openat(dir, c".", flags | OFlags::NOFOLLOW, Mode::empty())
            }
            Reopen::Parent => {
                let mut buffer = NameBuffer::new();
                let name = buffer.fill(self.names.get(node.name()))?;
                let parent = self.above(node)?;
                // Nothing is truncated before it is known to be the right file.
                let fd = openat(
                    parent,
                    name,
                    (flags - OFlags::TRUNC) | OFlags::NOFOLLOW,
                    Mode::empty(),
                )?;
                if !node.is_file(&Meta::of(fd.as_fd())?) {
                    return Err(Errno::STALE);
                }
                if flags.contains(OFlags::TRUNC) {
                    ftruncate(self.open_again(id, open, OFlags::WRONLY)?, 0)?;
                }
                Ok(fd)
            }
        }
    }

    /// Creates `name` in directory `parent` and opens it, with the flags in `more`; the name must be free.
    /// O_WRONLY is widened to O_RDWR.
    /// References to the node and to the open file are the caller's. Owner and group are set where
    /// they are given and differ; what was made is removed again if a step behind its making fails.
    ///
    /// Errors: `ENAMETOOLONG`; openat(2)'s, `EEXIST` among them; fstat(2)'s; fchownat(2)'s; `ENOMEM` tables full.
    pub fn create(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        (access, more): (Access, OFlags),
        perm: u32,
        owner: Owner,
    ) -> Result<(NodeId, OpenId), Errno> {
        let mut buffer = NameBuffer::new();
        let host_name = name.for_host(&mut buffer)?;
        let host_access = if access.is_write_only() {
            OFlags::RDWR
        } else {
            access.flags()
        };
        let host_flags =
            host_access | more | ALWAYS | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let dir = self.directory(parent)?;
        let (mode, set_ids) = owner.hold_back(perm);
        let fd = openat(dir, host_name, host_flags, mode)?;
        let mut meta = Meta::new();
        let owned = meta
            .ask(fd.as_fd())
            .and_then(|()| self.own(fd.as_fd(), owner, set_ids, &mut meta));
        let made = owned.and_then(|()| {
            let open = self.keep_open(fd, access)?;
            let spot = self.spot(parent, name);
            match self.add(parent, name, spot, None, &meta) {
                Ok(node) => Ok((node, open)),
                Err(errno) => {
                    self.release_open(open);
                    Err(errno)
                }
            }
        });
        if made.is_err() {
            let _errno = unlinkat(self.directory(parent)?, host_name, AtFlags::empty());
        }
        made
    }

    /// One more reference to an open file: of a reply that donates it.
    pub fn hold_open(&mut self, open: OpenId) {
        if let Some(open) = self.opens.get_mut(open) {
            open.refs += 1;
        }
    }

    /// One reference less; the last one closes the file.
    pub fn release_open(&mut self, id: OpenId) {
        let Some(open) = self.opens.get_mut(id) else {
            return;
        };
        open.refs -= 1;
        if open.refs == 0 {
            open.fd.close();
            let mark = open.mark;
            self.marks.release(mark);
            self.opens.remove(id);
            self.held -= 1;
            self.end_locks(id);
        }
    }

    /// Access that an open file was asked for. Error: `EBADF` not open.
    pub fn access(&self, open: OpenId) -> Result<Access, Errno> {
        self.opens
            .get(open)
            .map(|open| Access(open.mode))
            .ok_or(Errno::BADF)
    }

    /// The descriptor to donate.
    pub fn donated(&self, open: OpenId) -> Option<BorrowedFd<'_>> {
        self.open_descriptor(open).ok()
    }

    /// One pread(2) into `buffer`; a regular file gives less only at its end. Errors: pread(2)'s.
    pub fn read(&self, open: OpenId, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let fd = self.open_descriptor(open)?;
        retry_on_intr(|| pread(fd, &mut *buffer, offset))
    }

    /// pwrite(2) until all is written or it fails, at most [`WRITES`] times; what was written before
    /// a failure counts. Errors: pwrite(2)'s, with nothing written.
    pub fn write(&self, open: OpenId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        match self.write_until(open, offset, data) {
            (0, Err(errno)) => Err(errno),
            (done, _) => Ok(done),
        }
    }

    /// The same: how much was written, and how it ended.
    pub(super) fn write_until(
        &self,
        open: OpenId,
        offset: u64,
        data: &[u8],
    ) -> (usize, Result<(), Errno>) {
        let mut done = 0;
        for _ in 0..WRITES {
            let rest = data.get(done..).unwrap_or_default();
            let write = |fd| retry_on_intr(|| pwrite(fd, rest, offset.wrapping_add(done as u64)));
            match self.open_descriptor(open).and_then(write) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(errno) => return (done, Err(errno)),
            }
            if done == data.len() {
                break;
            }
        }
        (done, Ok(()))
    }

    /// fallocate(2), mode 0. Errors: its own; `EINVAL` an offset or a length of 2^63 or more.
    pub fn allocate(&self, open: OpenId, offset: u64, length: u64) -> Result<(), Errno> {
        let fd = self.open_descriptor(open)?;
        retry_on_intr(|| rustix::fs::fallocate(fd, FallocateFlags::empty(), offset, length))
    }

    /// fsync(2). Errors: its own.
    pub fn sync(&self, open: OpenId) -> Result<(), Errno> {
        rustix::fs::fsync(self.open_descriptor(open)?)
    }

    /// Target of a symlink, into `buffer`. Errors: `ENAMETOOLONG` longer than [`LINK_BYTES`]; readlinkat(2)'s.
    pub fn readlink(&self, node: NodeId, buffer: &mut [u8]) -> Result<usize, Errno> {
        let fd = self.node(node)?.fd.get().ok_or(Errno::BADF)?;
        let room = buffer.get_mut(..LINK_BYTES).ok_or(Errno::NAMETOOLONG)?;
        let len = rustix::fs::readlinkat_raw(fd, c"", room)?;
        if len == LINK_BYTES {
            Err(Errno::NAMETOOLONG)
        } else {
            Ok(len)
        }
    }
}

/// A descriptor's name in /proc/self/fd.
pub(super) fn number<'b>(fd: BorrowedFd<'_>, buffer: &'b mut [u8; 11]) -> &'b CStr {
    crate::decimal::c_digits(fd.as_raw_fd().unsigned_abs(), buffer)
}

/// pwrite(2) calls for one Twrite; a regular file takes one.
const WRITES: usize = 16;
