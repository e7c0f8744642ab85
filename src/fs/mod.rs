//! Host files below the attach points, and the tree of path nodes. Knows no socket, tag or fid.
//!
//! A *node* is a path that a client walked to: its parent, its name, and one descriptor (`O_PATH`)
//! that all fids on it share. An *open* is a file opened for data. Files are reached by a descriptor
//! and one name, never by a path; symlinks are never followed.

pub mod append;
pub mod attach;
pub mod attr;
pub mod dir;
pub mod entries;
pub mod file;
pub mod locks;
pub mod name;
pub mod tree;
pub mod waiters;
pub mod xattr;

use self::append::Marks;
use self::attach::{Attach, Devices};
use self::attr::Special;
use self::file::{Open, Reopen};
use self::locks::Locks;
use self::tree::Node;
use self::waiters::Waiters;
use crate::limits::{DESCRIPTORS_FOR_OPENS, NODES, OPENS};
use crate::sys::arena::List;
use crate::tables::{Id, Index, Key, Names, Slab};

/// Number of a path node.
pub type NodeId = Id;
/// Number of an open file.
pub type OpenId = Id;

/// All that is known of the host's files.
pub struct Fs {
    attaches: List<Attach>,
    nodes: Slab<Node>,
    index: Index,
    names: Names,
    key: Key,
    opens: Slab<Open>,
    marks: Marks,
    devices: Devices,
    locks: Locks,
    waiters: Waiters,
    /// Nodes that nobody refers to, to be closed; chained by `link`.
    released: NodeId,
    /// Descriptors held by nodes and opens.
    held: u64,
    /// Descriptors that they may hold.
    limit: u64,
    reopen: Reopen,
    special: Special,
    /// Directories that were deleted, by their paths; starts at 1, so that no new node counts as looked at.
    deletions: u64,
    /// Work done beyond what the caller can count, in units of a turn.
    units: usize,
}

impl Fs {
    /// Reserves the tables. `limit`: descriptors that files may take, of those the process may have.
    /// `special`: what is served beyond files, directories and symlinks. `key`: a secret for the hashes.
    pub fn new(
        attaches: List<Attach>,
        limit: u64,
        reopen: Reopen,
        special: Special,
        key: Key,
    ) -> Self {
        // Each node holds a descriptor (but for one just created), so more nodes cannot be.
        let held = attaches.iter().map(Attach::descriptors).sum();
        let capacity = usize::try_from(limit).unwrap_or(NODES).clamp(64, NODES);
        Self {
            nodes: Slab::reserve(capacity),
            index: Index::reserve(capacity),
            names: Names::reserve(capacity),
            key,
            opens: Slab::reserve(capacity.min(OPENS)),
            marks: Marks::reserve(attaches.len(), key),
            devices: Devices::reserve(attaches.len()),
            locks: Locks::reserve(),
            waiters: Waiters::reserve(attaches.len()),
            attaches,
            released: Id::NONE,
            held,
            limit,
            reopen,
            special,
            deletions: 1,
            units: 0,
        }
    }

    /// Whether walks must leave the descriptors that are left to opens.
    fn is_short_of_descriptors(&self) -> bool {
        self.held.saturating_add(DESCRIPTORS_FOR_OPENS) >= self.limit
    }

    /// Descriptors that can still be had.
    pub fn spare_descriptors(&self) -> u64 {
        self.limit.saturating_sub(self.held)
    }

    /// Work done since the last call beyond what the caller can count, in units of a turn.
    pub fn take_units(&mut self) -> usize {
        core::mem::take(&mut self.units)
    }

    /// Whether [`Fs::trim`] has something to do.
    pub fn wants_trim(&self) -> bool {
        self.nodes.wants_trim()
            || self.opens.wants_trim()
            || self.marks.wants_trim()
            || self.names.wants_trim()
            || self.index.wants_trim()
            || self.locks.wants_trim() && self.waiters.is_empty()
            || self.waiters.wants_trim()
    }

    /// Gives memory back that holds no record, looking at `bytes` of each table.
    pub fn trim(&mut self, bytes: usize) {
        self.nodes.trim(bytes);
        self.opens.trim(bytes);
        self.marks.trim(bytes);
        self.names.trim(bytes);
        self.index.trim();
        if self.waiters.is_empty() {
            self.locks.trim(); // no process has asked for one either
        }
        self.waiters.trim();
    }
}
