//! The fids of all connections in one table, found by connection and number.

use rustix::io::Errno;

use super::values::ValueId;
use crate::fs::{NodeId, OpenId};
use crate::limits::{CONNECTIONS, FIDS};
use crate::p9::wire::{Fid, Uid};
use crate::sys::memory::Region;
use crate::tables::{Id, Index, Key, Linked, Slab};

/// What a fid stands for. Each state holds one reference to what it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Reached by a walk.
    Walked {
        /// The path.
        node: NodeId,
    },
    /// Opened, once and for all.
    Open {
        /// The path.
        node: NodeId,
        /// The open file.
        open: OpenId,
    },
    /// Holds the value of an extended attribute of the file, being read or written.
    Value {
        /// The path.
        node: NodeId,
        /// The value.
        value: ValueId,
    },
}

impl State {
    /// The path it stands for.
    pub fn node(self) -> NodeId {
        match self {
            Self::Walked { node } | Self::Open { node, .. } | Self::Value { node, .. } => node,
        }
    }

    /// The open file, if it was opened.
    pub fn open(self) -> OpenId {
        match self {
            Self::Open { open, .. } => open,
            Self::Walked { .. } | Self::Value { .. } => Id::NONE,
        }
    }

    /// The value that it holds, if it does.
    pub fn value(self) -> ValueId {
        match self {
            Self::Value { value, .. } => value,
            Self::Walked { .. } | Self::Open { .. } => ValueId::NONE,
        }
    }

    /// The open file. Error: `EINVAL` not opened.
    pub fn opened(self) -> Result<OpenId, Errno> {
        match self {
            Self::Open { open, .. } => Ok(open),
            Self::Walked { .. } | Self::Value { .. } => Err(Errno::INVAL),
        }
    }

    /// Nothing, unless it was opened or holds a value: then `errno`.
    pub fn not_opened(self, errno: Errno) -> Result<(), Errno> {
        match self {
            Self::Walked { .. } => Ok(()),
            Self::Open { .. } | Self::Value { .. } => Err(errno),
        }
    }
}

crate::zeroed_record! {
    struct Record {
        number: u32,
        /// Chain of the hash bucket.
        next: Id,
        node: NodeId,
        open: OpenId,
        /// The connection's fids, both ways.
        before: Id,
        after: Id,
        connection: u16,
        value: ValueId,
        /// Whom files made through it belong to.
        user: u32,
    }
}

const _: () = assert!(size_of::<Record>() == 32);

impl Linked for Record {
    fn next(&self) -> Id {
        self.next
    }
    fn set_next(&mut self, next: Id) {
        self.next = next;
    }
}

impl Record {
    #[inline(never)]
    fn state(&self) -> State {
        let (node, open, value) = (self.node, self.open, self.value);
        if open.is_some() {
            State::Open { node, open }
        } else if value.is_some() {
            State::Value { node, value }
        } else {
            State::Walked { node }
        }
    }

    fn set(&mut self, state: State) {
        self.node = state.node();
        self.open = state.open();
        self.value = state.value();
    }
}

/// The table.
pub struct Fids {
    records: Slab<Record>,
    index: Index,
    key: Key,
    /// First fid of each connection.
    first: Region<Id>,
}

/// Fids next to each other in number lie next to each other in the index: clients count from 0 or 1 up.
const RUN_BITS: u32 = 9;

impl Fids {
    /// Reserves the table. `key`: a secret for the hashes.
    pub fn new(key: Key) -> Self {
        Self {
            records: Slab::reserve(FIDS),
            index: Index::reserve(FIDS),
            key,
            first: Region::reserve(CONNECTIONS),
        }
    }

    fn hash(&self, connection: u16, fid: Fid) -> u64 {
        let run = u64::from(connection) << 32 | u64::from(fid.0 >> RUN_BITS);
        self.key
            .hash(run, &[])
            .wrapping_add(u64::from(fid.0 & ((1 << RUN_BITS) - 1)))
    }

    fn find(&self, connection: u16, fid: Fid) -> Option<Id> {
        self.find_hashed(self.hash(connection, fid), connection, fid)
    }

    fn find_hashed(&self, hash: u64, connection: u16, fid: Fid) -> Option<Id> {
        self.index.find(&self.records, hash, |_, record| {
            record.number == fid.0 && record.connection == connection
        })
    }

    fn record(&mut self, connection: u16, fid: Fid) -> Option<&mut Record> {
        let id = self.find(connection, fid)?;
        self.records.get_mut(id)
    }

    /// What a fid stands for. Error: `EBADF` no such fid.
    pub fn get(&self, connection: u16, fid: Fid) -> Result<State, Errno> {
        self.find(connection, fid)
            .and_then(|id| self.records.get(id))
            .map(Record::state)
            .ok_or(Errno::BADF)
    }

    /// Whether [`Fids::set`] will find room for `fid`. Error: `ENOMEM` table full.
    pub fn reserve(&self, connection: u16, fid: Fid) -> Result<(), Errno> {
        if !self.records.is_full() || self.find(connection, fid).is_some() {
            Ok(())
        } else {
            Err(Errno::NOMEM)
        }
    }

    /// Makes `fid` stand for `state`. What it stood for before is the caller's to release.
    /// Without room, which [`Fids::reserve`] tells before, `state` itself comes back.
    pub fn set(&mut self, connection: u16, fid: Fid, state: State) -> Option<State> {
        let hash = self.hash(connection, fid);
        let known = self.find_hashed(hash, connection, fid);
        if let Some(record) = known.and_then(|id| self.records.get_mut(id)) {
            let was = record.state();
            record.set(state);
            return Some(was);
        }
        let first = self
            .first
            .get(usize::from(connection))
            .copied()
            .unwrap_or_default();
        let mut record = Record {
            number: fid.0,
            next: Id::NONE,
            node: Id::NONE,
            open: Id::NONE,
            before: Id::NONE,
            after: first,
            connection,
            value: ValueId::NONE,
            user: Uid::NONE.0,
        };
        record.set(state);
        let Some(id) = self.records.insert(record) else {
            return Some(state);
        };
        if let Some(old_first) = self.records.get_mut(first) {
            old_first.before = id;
        }
        if let Some(first) = self.first.get_mut(usize::from(connection)) {
            *first = id;
        }
        self.index.insert(&mut self.records, hash, id);
        None
    }

    /// The user that `fid` was attached for, or [`Uid::NONE`].
    pub fn user(&mut self, connection: u16, fid: Fid) -> Uid {
        self.record(connection, fid)
            .map_or(Uid::NONE, |record| Uid(record.user))
    }

    /// Sets it.
    pub fn set_user(&mut self, connection: u16, fid: Fid, user: Uid) {
        if let Some(record) = self.record(connection, fid) {
            record.user = user.0;
        }
    }

    /// Gives `fid` up. What it stood for is the caller's to release. Error: `EBADF` no such fid.
    pub fn remove(&mut self, connection: u16, fid: Fid) -> Result<State, Errno> {
        let hash = self.hash(connection, fid);
        let id = self.find_hashed(hash, connection, fid);
        id.and_then(|id| self.remove_record(id, hash))
            .ok_or(Errno::BADF)
    }

    /// Gives up some fid of a connection. `None`: it has none.
    pub fn remove_any(&mut self, connection: u16) -> Option<State> {
        let id = *self.first.get(usize::from(connection))?;
        let fid = Fid(self.records.get(id)?.number);
        self.remove_record(id, self.hash(connection, fid))
    }

    /// Takes out the record `id`, whose hash is `hash`.
    fn remove_record(&mut self, id: Id, hash: u64) -> Option<State> {
        let record = self.records.get(id)?;
        let (state, connection) = (record.state(), record.connection);
        let (before, after) = (record.before, record.after);
        if let Some(record) = self.records.get_mut(after) {
            record.before = before;
        }
        match self.records.get_mut(before) {
            Some(record) => record.after = after,
            None => {
                if let Some(first) = self.first.get_mut(usize::from(connection)) {
                    *first = after;
                }
            }
        }
        self.index.remove(&mut self.records, hash, id);
        self.records.remove(id);
        Some(state)
    }

    /// Whether [`Fids::trim`] has something to do.
    pub fn wants_trim(&self) -> bool {
        self.records.wants_trim() || self.index.wants_trim()
    }

    /// Gives memory back that holds no record, looking at `bytes` of the table.
    pub fn trim(&mut self, bytes: usize) {
        self.records.trim(bytes);
        self.index.trim();
    }
}
