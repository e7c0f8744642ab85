//! The tree of path nodes: what clients walked to, by parent and name.
//!
//! The flag "deleted" belongs to the path, not to the inode (protocol.md 3.2): unlinking a name or
//! renaming over it sets it for that node, and a node below a deleted one counts as deleted. A file
//! that the host puts in another's place is another node; the old one is only taken out of the index.

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::attr::{Kind, Meta};
use super::name::{Name, NameBuffer};
use super::{Fs, NodeId, OpenId};
use crate::p9::qid::Qid;
use crate::sys::fd::TableFd;
use crate::tables::{Id, Linked, NameRef};

crate::zeroed_record! {
    /// A path that a client knows.
    pub(super) struct Node {
        device: u64,
        inode: u64,
        parent: NodeId,
        /// Chain of the hash bucket; of released nodes, the list of them.
        next: NodeId,
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
        spare: [u8; 18],
    }
}

const _: () = assert!(size_of::<Node>() == 64);

/// The name is gone: unlinked, or renamed over.
const DELETED: u8 = 1;
/// Found in the index by its parent and name.
const INDEXED: u8 = 2;
/// Root of an attach point.
const ROOT: u8 = 4;
/// Its parent is unknown: the host moved it.
pub(super) const CUT: u8 = 8;

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
            parent,
            next: Id::NONE,
            name: name.block,
            refs: 1,
            fd,
            attach,
            name_len: name.len,
            kind: meta.kind()?.byte(),
            device_index,
            flags: 0,
            spare: [0; 18],
        })
    }

    pub(super) fn set_root(&mut self) {
        self.set(ROOT);
    }

    pub(super) fn set(&mut self, flag: u8) {
        self.flags |= flag;
    }

    pub(super) fn set_parent(&mut self, parent: NodeId) {
        self.parent = parent;
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn kind(&self) -> Kind {
        Kind::from_byte(self.kind)
    }

    pub(super) fn parent(&self) -> NodeId {
        self.parent
    }

    pub(super) fn name(&self) -> NameRef {
        NameRef {
            block: self.name,
            len: self.name_len,
        }
    }

    /// Whether `meta` is of the very file that the node was made for.
    pub(super) fn is_file(&self, meta: &Meta) -> bool {
        self.device == meta.device() && self.inode == meta.inode() && meta.kind() == Ok(self.kind())
    }
}

impl Fs {
    pub(super) fn node(&self, id: NodeId) -> Result<&Node, Errno> {
        self.nodes.get(id).ok_or(Errno::BADF)
    }

    /// Kind of a node's file, as it was at the walk.
    pub fn kind(&self, id: NodeId) -> Result<Kind, Errno> {
        Ok(self.node(id)?.kind())
    }

    /// Whether a node is the root of its attach point.
    pub fn is_root(&self, id: NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.has(ROOT))
    }

    /// Whether a node, or one that it lies below, was deleted. Looks at each node up to the root.
    pub fn is_deleted(&self, id: NodeId) -> bool {
        let mut at = id;
        while let Some(node) = self.nodes.get(at) {
            if node.has(DELETED) {
                return true;
            }
            at = node.parent;
        }
        false
    }

    /// A node's qid, as it was at the walk.
    pub fn qid(&self, id: NodeId) -> Result<Qid, Errno> {
        let node = self.node(id)?;
        Ok(Qid {
            kind: node.kind().qid_type(),
            version: 0,
            path: qid_path(node.device_index, node.inode),
        })
    }

    /// qid.path of an entry with inode number `inode` in directory `id`, taken to lie on its device.
    pub fn entry_qid_path(&self, id: NodeId, inode: u64) -> Result<u64, Errno> {
        Ok(qid_path(self.node(id)?.device_index, inode))
    }

    /// A node's descriptor; `open`'s where it has none of its own.
    pub(super) fn descriptor(&self, id: NodeId, open: OpenId) -> Result<BorrowedFd<'_>, Errno> {
        match self.node(id)?.fd.get() {
            Some(fd) => Ok(fd),
            None => self.open_descriptor(open),
        }
    }

    /// A directory node's descriptor. Error: `EBADF` it has none.
    pub(super) fn directory(&self, id: NodeId) -> Result<BorrowedFd<'_>, Errno> {
        self.node(id)?.fd.get().ok_or(Errno::BADF)
    }

    fn hash(&self, parent: NodeId, name: &[u8]) -> u64 {
        self.key.hash(u64::from(parent.number()), name)
    }

    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.index
            .find(&self.nodes, self.hash(parent, name), |_, node| {
                node.parent == parent && self.names.get(node.name()) == name
            })
    }

    pub(super) fn take_out_of_index(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id).filter(|node| node.has(INDEXED)) else {
            return;
        };
        let hash = self.hash(node.parent, self.names.get(node.name()));
        self.index.remove(&mut self.nodes, hash, id);
        if let Some(node) = self.nodes.get_mut(id) {
            node.flags &= !INDEXED;
            node.next = Id::NONE;
        }
    }

    /// One step of a walk: the node of `name` in directory `parent`, with one reference for the
    /// caller, and its attributes. At most two system calls: a known file costs one fstatat(2),
    /// another one an openat(2) that opens nothing but the path, and an fstat(2).
    ///
    /// Errors: `ENAMETOOLONG`; `EMFILE` descriptors kept back for opens; openat(2)'s; `EPERM` not a
    /// kind that is served; `EREMOTEIO` too many devices; `ENOMEM` tables full.
    pub fn walk(&mut self, parent: NodeId, name: Name<'_>) -> Result<(NodeId, Meta), Errno> {
        let mut buffer = NameBuffer::new();
        let host_name = name.for_host(&mut buffer)?;
        let known = self.child(parent, name.bytes());
        let known_node = known.and_then(|id| self.nodes.get(id));
        if let (Some(id), Some(node)) = (known, known_node)
            && node.fd.is_some()
        {
            let meta = Meta::of_name(self.directory(parent)?, host_name)?;
            if node.is_file(&meta) {
                self.hold(id);
                return Ok((id, meta));
            }
        }
        if self.is_short_of_descriptors() {
            return Err(Errno::MFILE);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self.directory(parent)?, host_name, flags, Mode::empty())?;
        let meta = Meta::of(rustix::fd::AsFd::as_fd(&fd))?;
        meta.kind()?;
        if let Some(id) = known
            && let Some(node) = self.nodes.get_mut(id)
            && !node.fd.is_some()
            && node.is_file(&meta)
        {
            node.fd = TableFd::new(fd);
            node.refs += 1;
            self.held += 1;
            return Ok((id, meta));
        }
        self.add(parent, name, Some(fd), &meta).map(|id| (id, meta))
    }

    /// A new node for the file that `name` in `parent` now is, with one reference for the caller.
    /// A node that had the name before is no longer found by it.
    ///
    /// Errors: `EREMOTEIO` too many devices; `ENOMEM` tables full.
    pub(super) fn add(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        fd: Option<OwnedFd>,
        meta: &Meta,
    ) -> Result<NodeId, Errno> {
        let attach = self.node(parent)?.attach;
        let device_index = self.devices.index(attach, meta.device())?;
        meta.kind()?;
        let kept = self.names.insert(name.bytes()).ok_or(Errno::NOMEM)?;
        let held = u64::from(fd.is_some());
        let node = Node::new(
            attach,
            parent,
            kept,
            fd.map(TableFd::new).unwrap_or_default(),
            meta,
            device_index,
        )?;
        let Some(id) = self.insert_node(node) else {
            self.names.remove(kept);
            return Err(Errno::NOMEM);
        };
        self.held += held;
        if let Some(old) = self.child(parent, name.bytes()) {
            self.take_out_of_index(old);
        }
        self.hold(parent);
        self.put_into_index(id);
        Ok(id)
    }

    fn insert_node(&mut self, mut node: Node) -> Option<NodeId> {
        if self.nodes.is_full() {
            node.fd.close();
            return None;
        }
        self.nodes.insert(node)
    }

    fn put_into_index(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id) else {
            return;
        };
        let hash = self.hash(node.parent, self.names.get(node.name()));
        self.index.insert(&mut self.nodes, hash, id);
        if let Some(node) = self.nodes.get_mut(id) {
            node.flags |= INDEXED;
        }
    }

    /// A qid for a file just made in `parent`, which has no node. Errors: `EPERM`, `EREMOTEIO`.
    pub(super) fn new_qid(&mut self, parent: NodeId, meta: &Meta) -> Result<Qid, Errno> {
        let attach = self.node(parent)?.attach;
        let device_index = self.devices.index(attach, meta.device())?;
        let kind = meta.kind()?.qid_type();
        Ok(Qid {
            kind,
            version: 0,
            path: qid_path(device_index, meta.inode()),
        })
    }

    /// The node's name is gone: it is no longer found by it, and counts as deleted with all below it.
    pub(super) fn mark_deleted(&mut self, id: NodeId) {
        self.take_out_of_index(id);
        if let Some(node) = self.nodes.get_mut(id) {
            node.set(DELETED);
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
        self.put_into_index(id);
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
            node.next = head;
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
            self.released = node.next;
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

fn qid_path(device_index: u8, inode: u64) -> u64 {
    u64::from(device_index) << 56 | inode & (u64::MAX >> 8)
}
