//! The tree of path nodes: what clients walked to, by parent and name.
//!
//! The flag "deleted" belongs to the path, not to the inode (docs/protocol.md 3.2): unlinking a name or
//! renaming over it sets it for that node, and a node below a deleted one counts as deleted. A file
//! that the host puts in another's place is another node; the old one keeps the path and is deleted
//! and renamed with it, up to `FILES_OF_A_PATH` nodes a path: the oldest then forgets its path.

use core::cell::Cell;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::append::Size;
use super::attr::{Meta, dirent_type, hold, qid_type};
use super::name::{Name, NameBuffer};
use super::{Fs, NodeId, OpenId};
use crate::limits::FILES_OF_A_PATH;
use crate::p9::qid::Qid;
use crate::sys::fd::TableFd;
use crate::tables::{Id, Linked, NameRef};

crate::zeroed_record! {
    /// A path that a client knows.
    pub(super) struct Node {
        device: u64,
        inode: u64,
        /// The count of deleted directories when the path up to the root was last seen to have none.
        alive_at: u64,
        parent: NodeId,
        /// Chain of the hash bucket.
        next: NodeId,
        /// Of released nodes, the list of them.
        link: NodeId,
        name: Id,
        /// Fids on it, nodes below it, and the attach point's own on a root.
        refs: u32,
        /// `O_PATH`. None only on a file just created, whose one fid has it open.
        pub(super) fd: TableFd,
        attach: u16,
        name_len: u8,
        kind: u8,
        device_index: u8,
        flags: u8,
        /// One more than the file's size that the client knows, and 0 if it knows none.
        seen: [u8; 6],
        /// What it was put into the index by, as far as buckets tell hashes apart.
        hash: u32,
    }
}

const _: () = assert!(size_of::<Node>() == 64);

/// The name is gone: unlinked, or renamed over.
const DELETED: u8 = 1;
/// Found in the index by its parent and name.
const INDEXED: u8 = 2;
/// Root of an attach point.
const ROOT: u8 = 4;
/// Another file has come to its name; the path is the same.
const STALE: u8 = 8;

/// Where in the index a path is: its hash, and the node of the file that it last was.
pub(super) struct Spot {
    hash: u64,
    current: Option<NodeId>,
}

impl Linked for Node {
    fn next(&self) -> Id {
        self.next
    }
    fn set_next(&mut self, next: Id) {
        self.next = next;
    }
}

impl Node {
    /// A node with one reference. Error: `EPERM` not a kind that is served.
    pub(super) fn new(
        attach: u16,
        parent: NodeId,
        name: NameRef,
        fd: TableFd,
        meta: &Meta,
        device_index: u8,
    ) -> Result<Self, Errno> {
        Ok(Self {
            device: meta.device(),
            inode: meta.inode(),
            alive_at: 0,
            parent,
            next: Id::NONE,
            link: Id::NONE,
            name: name.block,
            refs: 1,
            fd,
            attach,
            name_len: name.len,
            kind: dirent_type(meta.file_type()),
            device_index,
            flags: 0,
            seen: [0; 6],
            hash: 0,
        })
    }

    pub(super) fn set_root(&mut self) {
        self.set(ROOT);
    }

    fn set(&mut self, flag: u8) {
        self.flags |= flag;
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(u32::from(self.kind) << 12)
    }

    pub(super) fn attach(&self) -> u16 {
        self.attach
    }

    pub(super) fn parent(&self) -> NodeId {
        self.parent
    }

    /// Device and inode number.
    pub(super) fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// The size that the client knows, if it is below 2^48.
    pub(super) fn seen(&self) -> Option<u64> {
        let [a, b, c, d, e, f] = self.seen;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0]).checked_sub(1)
    }

    /// The client comes to know something of the size.
    pub(super) fn note(&mut self, size: Size) {
        let size = match (size, self.seen()) {
            (Size::Reached(end), Some(seen)) => seen.max(end),
            (Size::Reached(_), None) => return,
            (Size::Seen(size) | Size::Set(size), _) => size,
        };
        let [a, b, c, d, e, f, high @ ..] = size.saturating_add(1).to_le_bytes();
        self.seen = if high == [0; 2] {
            [a, b, c, d, e, f]
        } else {
            [0; 6]
        };
    }

    pub(super) fn name(&self) -> NameRef {
        NameRef {
            block: self.name,
            len: self.name_len,
        }
    }

    /// Whether `meta` is of the very file that the node was made for.
    pub(super) fn is_file(&self, meta: &Meta) -> bool {
        self.device == meta.device()
            && self.inode == meta.inode()
            && meta.file_type() == self.kind()
    }
}

impl Fs {
    pub(super) fn node(&self, id: NodeId) -> Result<&Node, Errno> {
        self.nodes.get(id).ok_or(Errno::BADF)
    }

    /// Kind of a node's file, as it was at the walk.
    pub fn kind(&self, id: NodeId) -> Result<FileType, Errno> {
        Ok(self.node(id)?.kind())
    }

    /// Whether a node is the root of its attach point.
    pub fn is_root(&self, id: NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.has(ROOT))
    }

    /// Whether a node, or one that it lies below, was deleted. Looks at the nodes up to the root, as far
    /// as that was not done since a directory was deleted last; a long way is charged ([`Fs::take_units`]).
    pub fn is_deleted(&mut self, id: NodeId) -> bool {
        let mut steps = 0;
        let mut at = id;
        let deleted = loop {
            let Some(node) = self.nodes.get(at) else {
                break false;
            };
            if node.has(DELETED) {
                break true;
            }
            if node.alive_at == self.deletions {
                break false;
            }
            at = node.parent;
            steps += 1;
        };
        self.units += steps / STEPS_PER_UNIT;
        if !deleted {
            let (mut to, now) = (id, self.deletions);
            while to != at
                && let Some(node) = self.nodes.get_mut(to)
            {
                node.alive_at = now;
                to = node.parent;
            }
        }
        deleted
    }

    /// Whether a node belongs to attach point `attach`: a second look at what the tables promise.
    pub fn is_of(&self, id: NodeId, attach: u16) -> bool {
        self.nodes.get(id).is_some_and(|node| node.attach == attach)
    }

    /// A node's qid, as it was at the walk.
    pub fn qid(&self, id: NodeId) -> Result<Qid, Errno> {
        let node = self.node(id)?;
        Ok(Qid {
            kind: qid_type(node.kind()),
            version: 0,
            path: qid_path(node.device_index, node.inode),
        })
    }

    /// Number of the device that a node's file lies on, for [`qid_path`].
    pub fn device_index(&self, id: NodeId) -> Result<u8, Errno> {
        Ok(self.node(id)?.device_index)
    }

    /// A node's descriptor; `open`'s where it has none of its own.
    pub(super) fn descriptor(&self, id: NodeId, open: OpenId) -> Result<BorrowedFd<'_>, Errno> {
        match self.node(id)?.fd.get() {
            Some(fd) => Ok(fd),
            None => self.open_descriptor(open),
        }
    }

    /// Gives a node a descriptor of its own, if only `open` has its file yet: it was created, and nobody has
    /// walked to it since. Nothing to do without `open`.
    ///
    /// Errors: `EMFILE` descriptors kept back for opens; those of opening it again.
    pub fn hold_opened(&mut self, id: NodeId, open: OpenId) -> Result<(), Errno> {
        if !open.is_some() || self.node(id)?.fd.is_some() {
            return Ok(());
        }
        if self.is_short_of_descriptors() {
            return Err(Errno::MFILE);
        }
        let fd = self.open_again(id, open, OFlags::PATH)?;
        if let Some(node) = self.nodes.get_mut(id) {
            node.fd = TableFd::new(fd);
            self.held += 1;
        }
        Ok(())
    }

    /// A directory node's descriptor. Error: `EBADF` it has none.
    pub(super) fn directory(&self, id: NodeId) -> Result<BorrowedFd<'_>, Errno> {
        self.node(id)?.fd.get().ok_or(Errno::BADF)
    }

    /// The directory that a node lies in. Error: `ESTALE` unknown: a root, or cut off.
    pub(super) fn above(&self, node: &Node) -> Result<BorrowedFd<'_>, Errno> {
        self.directory(node.parent).or(Err(Errno::STALE))
    }

    fn hash(&self, parent: NodeId, name: &[u8]) -> u64 {
        self.key.hash(u64::from(parent.number()), name)
    }

    /// A node of `name` in `parent` that `wanted` says yes to.
    fn find(&self, parent: NodeId, name: &[u8], wanted: impl Fn(&Node) -> bool) -> Option<NodeId> {
        let hash = self.hash(parent, name);
        self.index.find(&self.nodes, hash, |_, node| {
            node.parent == parent && wanted(node) && self.names.get(node.name()) == name
        })
    }

    /// The node of the file that `name` in `parent` last was.
    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.find(parent, name, |node| !node.has(STALE))
    }

    /// What [`Fs::add`] must know of the path `name` in `parent`, and whether one of its nodes has a descriptor.
    #[inline(never)]
    fn look_up(&self, parent: NodeId, name: &[u8]) -> (Spot, bool) {
        let hash = self.hash(parent, name);
        let (current, held) = (Cell::new(None), Cell::new(false));
        let _none = self.index.find(&self.nodes, hash, |id, node| {
            if node.parent == parent && self.names.get(node.name()) == name {
                if !node.has(STALE) && current.get().is_none() {
                    current.set(Some(id));
                }
                held.set(held.get() || node.fd.is_some());
            }
            false
        });
        let current = current.get();
        (Spot { hash, current }, held.get())
    }

    /// The same, for who knows that a new node is to be added.
    pub(super) fn spot(&self, parent: NodeId, name: Name<'_>) -> Spot {
        self.look_up(parent, name.bytes()).0
    }

    /// Any node of the path `name` in `parent`, whatever file it was made for.
    pub(super) fn any_child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.find(parent, name, |_| true)
    }

    /// Cuts the oldest of a path's nodes off, if there are more than [`FILES_OF_A_PATH`].
    fn forget_oldest(&mut self, parent: NodeId, name: &[u8]) {
        let (count, oldest) = (Cell::new(0), Cell::new(Id::NONE));
        let hash = self.hash(parent, name);
        let _none = self.index.find(&self.nodes, hash, |id, node| {
            if node.parent == parent && node.has(STALE) && self.names.get(node.name()) == name {
                count.set(count.get() + 1);
                oldest.set(id); // a bucket has its newest first
            }
            false
        });
        if count.get() >= FILES_OF_A_PATH {
            self.cut(oldest.get());
        }
    }

    /// Makes `id` the node of the file that its path now is; `before` no longer is.
    fn make_current(&mut self, before: Option<NodeId>, id: NodeId) {
        if let Some(node) = before.and_then(|before| self.nodes.get_mut(before)) {
            node.set(STALE);
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.flags &= !STALE;
        }
    }

    pub(super) fn take_out_of_index(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id).filter(|node| node.has(INDEXED)) else {
            return;
        };
        let hash = u64::from(node.hash);
        self.index.remove(&mut self.nodes, hash, id);
        if let Some(node) = self.nodes.get_mut(id) {
            node.flags &= !INDEXED;
            node.next = Id::NONE;
        }
    }

    /// One step of a walk: the node of `name` in directory `parent`, with one reference for the
    /// caller, and its attributes into `meta`. At most two system calls: a known file costs one
    /// fstatat(2), another one an openat(2) that opens nothing but the path, and an fstat(2).
    ///
    /// Errors: `ENAMETOOLONG`; `EMFILE` descriptors kept back for opens; openat(2)'s; `EPERM` a type that
    /// is not served, but to Linux, which walks to all; `EREMOTEIO` too many devices; `ENOMEM` tables full.
    pub fn walk(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        linux: bool,
        meta: &mut Meta,
    ) -> Result<NodeId, Errno> {
        let mut buffer = NameBuffer::new();
        let host_name = name.for_host(&mut buffer)?;
        let special = self.special;
        let admit = |meta: &Meta| {
            if linux {
                Ok(())
            } else {
                special.admit(meta.file_type())
            }
        };
        let (spot, is_held) = self.look_up(parent, name.bytes());
        let known = spot.current;
        if is_held {
            meta.ask_name(self.directory(parent)?, host_name)?;
            admit(meta)?;
            // As a rule the file that it last was; or one that it was before.
            let is_it = |node: &Node| node.fd.is_some() && node.is_file(meta);
            let is_current = known.and_then(|id| self.nodes.get(id)).is_some_and(is_it);
            let found = if is_current {
                known
            } else {
                self.find(parent, name.bytes(), is_it)
            };
            if let Some(id) = found {
                if found != known {
                    self.make_current(known, id);
                }
                self.hold(id);
                return Ok(id);
            }
        }
        if self.is_short_of_descriptors() {
            return Err(Errno::MFILE);
        }
        let fd = hold(self.directory(parent)?, host_name, meta)?;
        admit(meta)?;
        if let Some(id) = known
            && let Some(node) = self.nodes.get_mut(id)
            && !node.fd.is_some()
            && node.is_file(meta)
        {
            node.fd = TableFd::new(fd);
            node.refs += 1;
            self.held += 1;
            return Ok(id);
        }
        self.add(parent, name, spot, Some(fd), meta)
    }

    /// A new node for the file that `name` in `parent`, found at `spot`, now is, with one reference for the caller.
    /// A node that had the name before keeps its path: deleting or renaming that is its matter too.
    ///
    /// Errors: `EREMOTEIO` too many devices; `ENOMEM` tables full.
    pub(super) fn add(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        spot: Spot,
        fd: Option<OwnedFd>,
        meta: &Meta,
    ) -> Result<NodeId, Errno> {
        let attach = self.node(parent)?.attach;
        let device_index = self.devices.index(attach, meta.device())?;
        let kept = self.names.insert(name.bytes()).ok_or(Errno::NOMEM)?;
        let fd = fd.map(TableFd::new).unwrap_or_default();
        let node = Node::new(attach, parent, kept, fd, meta, device_index)?;
        let id = self
            .insert_node(node)
            .inspect_err(|_| self.names.remove(kept))?;
        if spot.current.is_some() {
            self.make_current(spot.current, id);
            self.forget_oldest(parent, name.bytes());
        }
        self.hold(parent);
        self.put_into_index(id, spot.hash);
        Ok(id)
    }

    /// Stores a node, whose descriptor is closed if there is no room. Error: `ENOMEM` table full.
    pub(super) fn insert_node(&mut self, mut node: Node) -> Result<NodeId, Errno> {
        if self.nodes.is_full() {
            node.fd.close();
            return Err(Errno::NOMEM);
        }
        self.held += u64::from(node.fd.is_some());
        self.nodes.insert(node).ok_or(Errno::NOMEM)
    }

    #[allow(clippy::cast_possible_truncation)] // there are fewer buckets: see `NODES`
    fn put_into_index(&mut self, id: NodeId, hash: u64) {
        self.index.insert(&mut self.nodes, hash, id);
        if let Some(node) = self.nodes.get_mut(id) {
            node.hash = hash as u32;
            node.flags |= INDEXED;
        }
    }

    /// A qid for a file just made in `parent`, which has no node. Error: `EREMOTEIO`.
    pub(super) fn new_qid(&mut self, parent: NodeId, meta: &Meta) -> Result<Qid, Errno> {
        let attach = self.node(parent)?.attach;
        let device_index = self.devices.index(attach, meta.device())?;
        Ok(Qid {
            kind: qid_type(meta.file_type()),
            version: meta.version(),
            path: qid_path(device_index, meta.inode()),
        })
    }

    /// The node's name is gone: it is no longer found by it, and counts as deleted with all below it.
    pub(super) fn mark_deleted(&mut self, id: NodeId) {
        self.take_out_of_index(id);
        if let Some(node) = self.nodes.get_mut(id) {
            node.set(DELETED);
            self.deletions += u64::from(node.kind() == FileType::Directory);
        }
    }

    /// The path `name` in `parent` is gone, for every node that it has.
    pub(super) fn delete_path(&mut self, parent: NodeId, name: &[u8]) {
        while let Some(id) = self.any_child(parent, name) {
            self.mark_deleted(id);
            self.units += 1;
        }
    }

    /// The node's parent is unknown from here on: the host put it elsewhere.
    pub(super) fn cut(&mut self, id: NodeId) {
        self.take_out_of_index(id);
        if let Some(node) = self.nodes.get_mut(id) {
            let parent = core::mem::replace(&mut node.parent, Id::NONE);
            self.release(parent);
        }
    }

    /// The node lies in `parent` from here on, under the name kept at `name`.
    pub(super) fn move_node(&mut self, id: NodeId, parent: NodeId, name: NameRef) {
        self.take_out_of_index(id);
        self.hold(parent);
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let (old_parent, old_name) = (node.parent, node.name());
        node.parent = parent;
        node.name = name.block;
        node.name_len = name.len;
        self.names.remove(old_name);
        let hash = self.hash(parent, self.names.get(name));
        self.put_into_index(id, hash);
        self.release(old_parent);
    }

    /// One more reference to a node.
    pub fn hold(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.refs += 1;
        }
    }

    /// One reference less. The last one takes the node out of the tree; [`Fs::reap`] closes it.
    pub fn release(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        node.refs -= 1;
        if node.refs > 0 {
            return;
        }
        self.take_out_of_index(id);
        let head = core::mem::replace(&mut self.released, id);
        if let Some(node) = self.nodes.get_mut(id) {
            node.link = head;
        }
    }

    /// Closes at most `count` released nodes, and their parents where they were the last below them.
    /// Whether some are left.
    pub fn reap(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let id = self.released;
            let Some(node) = self.nodes.get_mut(id) else {
                return false;
            };
            self.released = node.link;
            self.held -= u64::from(node.fd.is_some());
            node.fd.close();
            let (parent, name) = (node.parent, node.name());
            self.names.remove(name);
            self.nodes.remove(id);
            self.release(parent);
        }
        self.released.is_some()
    }
}

/// Nodes looked at that cost about as much as a system call.
pub(super) const STEPS_PER_UNIT: usize = 64;

/// The qid.path of inode number `inode` on a device.
pub fn qid_path(device_index: u8, inode: u64) -> u64 {
    u64::from(device_index) << 56 | inode & (u64::MAX >> 8)
}
