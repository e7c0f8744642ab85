//! Attach points: the directory or file that a connection serves, opened at start.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::attr::{Meta, Special};
use super::file::Reopen;
use super::tree::Node;
use super::{Fs, NodeId};
use crate::limits::DEVICES;
use crate::sys::arena::{List, c_path};
use crate::sys::fd::TableFd;
use crate::sys::inside::open_inside;
use crate::sys::memory::Region;
use crate::tables::{Id, NameRef};

/// What an attach point makes of requests that change something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changes {
    /// They are carried out.
    Made,
    /// It is read-only: `EROFS`.
    Refused,
    /// It is read-only, and `--panic-on-write` asks for `EFAULT` and a line in the log.
    Panic,
}

/// What one connection serves.
pub struct Attach {
    /// Opened at start; taken by the root's node at Tattach. Where it could not be opened, why.
    opened: Result<Opened, Errno>,
    changes: Changes,
    /// The root's node, once attached.
    root: NodeId,
}

struct Opened {
    root: OwnedFd,
    /// Of a root that is not a directory, where that is how it is opened again: where it lies and what it is
    /// called there.
    holder: Option<(OwnedFd, &'static [u8])>,
}

impl Attach {
    /// The attach point `root`, at `path` below the process's root. A failure is kept for Tattach to tell: a
    /// mount's destination need not exist (docs/launch.md 2.1).
    pub fn new(
        root: Result<OwnedFd, Errno>,
        path: &[u8],
        changes: Changes,
        special: Special,
        reopen: Reopen,
    ) -> Self {
        Self {
            opened: root.and_then(|root| open(root, path, special, reopen)),
            changes,
            root: Id::NONE,
        }
    }

    /// Descriptors that it holds until it is attached.
    pub(super) fn descriptors(&self) -> u64 {
        self.opened
            .as_ref()
            .map_or(0, |opened| 1 + u64::from(opened.holder.is_some()))
    }

    /// Why it could not be opened.
    pub fn failure(&self) -> Option<Errno> {
        self.opened.as_ref().err().copied()
    }
}

fn open(root: OwnedFd, path: &[u8], special: Special, reopen: Reopen) -> Result<Opened, Errno> {
    let meta = Meta::of(root.as_fd())?;
    special.admit(meta.file_type())?;
    let holder = match meta.file_type() {
        FileType::Directory => None,
        _ if reopen == Reopen::ProcFd => None,
        _ => {
            let slash = path
                .iter()
                .rposition(|&byte| byte == b'/')
                .ok_or(Errno::INVAL)?;
            let (dir, name) = path.split_at_checked(slash + 1).ok_or(Errno::INVAL)?;
            let name: &[u8] = List::copy(name).leak();
            Some((open_path(dir)?, name))
        }
    };
    Ok(Opened { root, holder })
}

/// A path descriptor of `path`, absolute, below the process's root. Symlinks on the way are followed inside that
/// root; the last component is not. Errors: openat2(2)'s.
pub fn open_path(path: &[u8]) -> Result<OwnedFd, Errno> {
    let text = c_path(path)?;
    match open_inside(CWD, text, OFlags::NOFOLLOW) {
        // Without the further guards, that the chroot does not need.
        Err(Errno::AGAIN | Errno::NOSYS) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(CWD, text, flags, Mode::empty())
        }
        other => other,
    }
}

/// Host devices in the order in which each attach point met them.
pub(super) struct Devices {
    /// `st_dev + 1` by attach point and index; 0 is free.
    seen: Region<u64>,
}

impl Devices {
    pub(super) fn reserve(attaches: usize) -> Self {
        Self {
            seen: Region::reserve(attaches.max(1) * DEVICES),
        }
    }

    /// Index of `device` below attach point `attach`. Error: `EREMOTEIO` more than [`DEVICES`].
    pub(super) fn index(&mut self, attach: u16, device: u64) -> Result<u8, Errno> {
        let start = usize::from(attach) * DEVICES;
        let seen = self
            .seen
            .get_mut(start..start + DEVICES)
            .ok_or(Errno::REMOTEIO)?;
        for (index, entry) in (0..=u8::MAX).zip(seen) {
            if *entry == 0 {
                *entry = device.wrapping_add(1);
            }
            if *entry == device.wrapping_add(1) {
                return Ok(index);
            }
        }
        Err(Errno::REMOTEIO)
    }
}

impl Fs {
    /// What attach point `attach` makes of changes.
    pub fn changes(&self, attach: u16) -> Changes {
        self.attaches
            .get(usize::from(attach))
            .map_or(Changes::Refused, |attach| attach.changes)
    }

    /// Whether attach point `attach` refuses changes.
    pub fn is_read_only(&self, attach: u16) -> bool {
        self.changes(attach) != Changes::Made
    }

    /// The root's node of attach point `attach`, with one reference for the caller.
    ///
    #[inline(never)]
    /// Once in the life of the process, as in the original, unless `again`. Error: `EIO` attached before,
    /// not opened at start, or not a kind that is served.
    pub fn attach(&mut self, attach: u16, again: bool) -> Result<NodeId, Errno> {
        let root = self.root(attach);
        if again && root.is_some() {
            self.hold(root);
            return Ok(root);
        }
        let point = self
            .attaches
            .get_mut(usize::from(attach))
            .ok_or(Errno::IO)?;
        let descriptors = point.descriptors();
        let opened =
            core::mem::replace(&mut point.opened, Err(Errno::IO)).map_err(|_| Errno::IO)?;
        self.held -= descriptors; // counted again with the nodes that take them
        let id = self.make_root(attach, opened).map_err(|_| Errno::IO)?;
        self.hold(id); // the attach point's own, until the connection ends
        if let Some(point) = self.attaches.get_mut(usize::from(attach)) {
            point.root = id;
        }
        Ok(id)
    }

    fn make_root(&mut self, attach: u16, Opened { root, holder }: Opened) -> Result<NodeId, Errno> {
        let none = NameRef {
            block: Id::NONE,
            len: 0,
        };
        let meta = Meta::of(root.as_fd())?;
        let device = self.devices.index(attach, meta.device())?;
        let (parent, name) = match holder {
            None => (Id::NONE, none),
            Some((dir, name)) => {
                let name = self.names.insert(name).ok_or(Errno::NOMEM)?;
                let meta = Meta::of(dir.as_fd())?;
                let fd = TableFd::new(dir);
                (
                    self.insert_node(Node::new(attach, Id::NONE, none, fd, &meta, 0)?)?,
                    name,
                )
            }
        };
        let mut node = Node::new(attach, parent, name, TableFd::new(root), &meta, device)?;
        node.set_root();
        self.insert_node(node)
    }

    /// The root's node of attach point `attach`, once attached.
    pub fn root(&self, attach: u16) -> NodeId {
        self.attaches
            .get(usize::from(attach))
            .map_or(Id::NONE, |attach| attach.root)
    }

    /// Gives up attach point `attach`: its connection has ended.
    pub fn detach(&mut self, attach: u16) {
        if let Some(point) = self.attaches.get_mut(usize::from(attach)) {
            self.held -= point.descriptors();
            point.opened = Err(Errno::IO);
            let root = core::mem::replace(&mut point.root, Id::NONE);
            self.release(root);
        }
    }
}
