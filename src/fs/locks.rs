//! Byte-range locks of Linux's clients. Nothing here waits: [`super::waiters`] does.
//!
//! Clients' processes meet in a table of ranges. Each of them that has locks on a file (a *holder*) also
//! has an open file description of its own on it, on which the host keeps the same locks (fcntl(2),
//! F_OFD_SETLK): so the host's processes meet them too.

use linux_raw_sys::general::flock;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::tree::STEPS_PER_UNIT;
use super::{Fs, NodeId, OpenId};
use crate::limits::{LOCK_HOLDERS, LOCKS};
use crate::sys::fd::TableFd;
use crate::sys::memory::Region;
use crate::sys::raw::ofd_lock;

crate::zeroed_record! {
    /// What becomes of a range; the numbers are those of the wire and of fcntl(2) alike.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct LockKind {
        byte: u8,
    }
}

impl LockKind {
    /// Shared.
    pub const READ: Self = Self { byte: 0 };
    /// Exclusive.
    pub const WRITE: Self = Self { byte: 1 };
    /// None.
    pub const NONE: Self = Self { byte: 2 };

    /// From the wire. Error: `EINVAL` no such kind.
    pub fn new(byte: u8) -> Result<Self, Errno> {
        if byte > Self::NONE.byte {
            Err(Errno::INVAL)
        } else {
            Ok(Self { byte })
        }
    }

    /// The wire's number.
    pub fn byte(self) -> u8 {
        self.byte
    }

    /// Whether one cannot stand beside the other.
    pub(super) fn conflicts(self, other: Self) -> bool {
        self == Self::WRITE || other == Self::WRITE
    }
}

crate::zeroed_record! {
    /// Bytes of a file, both ends included.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Span {
        start: u64,
        end: u64,
    }
}

/// The last byte that a file may have.
const LAST: u64 = i64::MAX.cast_unsigned();

impl Span {
    /// `length` bytes from `start` on; 0: all that follow. Error: `EINVAL` beyond what a file may have.
    pub fn new(start: u64, length: u64) -> Result<Self, Errno> {
        let end = match length {
            0 => LAST,
            length => start.checked_add(length - 1).ok_or(Errno::INVAL)?,
        };
        if start > end || end > LAST {
            return Err(Errno::INVAL);
        }
        Ok(Self { start, end })
    }

    /// Its first byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// How many bytes; 0: all that follow.
    pub fn length(self) -> u64 {
        if self.end == LAST {
            0
        } else {
            self.end - self.start + 1
        }
    }

    pub(super) fn meets(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

crate::zeroed_record! {
    /// A process of a client: two fids of it are one owner, and two processes with one fid are two.
    #[derive(Clone, Copy)]
    pub struct Locker {
        /// Tells it from all others.
        pub(super) hash: u64,
        proc_id: u32,
        attach: u16,
        spare: u16,
    }
}

impl Locker {
    /// Its connection.
    pub(super) fn attach(self) -> u16 {
        self.attach
    }
}

/// A lock that is in the way.
pub struct Found {
    /// Shared or exclusive.
    pub kind: LockKind,
    /// Where.
    pub span: Span,
    /// The client's number of its owner; 0 for a process of the host, which is no client's business.
    pub proc_id: u32,
}

crate::zeroed_record! {
    /// A file and a process that has locks on it, or has asked for one that it waits for.
    struct Holder {
        owner: u64,
        device: u64,
        inode: u64,
        /// Its own open file description. None: no holder.
        fd: TableFd,
        proc_id: u32,
    }
}

crate::zeroed_record! {
    /// A lock. Those of one holder do not overlap; of one kind, they do not even touch.
    #[derive(Clone, Copy)]
    struct Range {
        start: u64,
        end: u64,
        holder: u32,
        /// What it was taken through; it ends with it.
        open: OpenId,
        kind: LockKind,
        spare: [u8; 7],
    }
}

impl Range {
    fn span(&self) -> Span {
        Span {
            start: self.start,
            end: self.end,
        }
    }
}

/// All locks.
pub(super) struct Locks {
    holders: Region<Holder>,
    /// Holders were only ever among so many.
    used: usize,
    ranges: Region<Range>,
    /// The first so many are there.
    live: usize,
}

impl Locks {
    pub(super) fn reserve() -> Self {
        Self {
            holders: Region::reserve(LOCK_HOLDERS),
            used: 0,
            ranges: Region::reserve(LOCKS),
            live: 0,
        }
    }

    fn holder(&self, at: u32) -> Option<&Holder> {
        self.holders.get(at as usize)
    }

    /// The place of a holder, or else a free one.
    fn find(&self, file: (u64, u64), owner: u64) -> (Option<u32>, Option<u32>) {
        let mut free = None;
        for (at, holder) in (0u32..).zip(self.holders.iter().take(self.used + 1)) {
            if !holder.fd.is_some() {
                free = free.or(Some(at));
            } else if holder.owner == owner && (holder.device, holder.inode) == file {
                return (Some(at), None);
            }
        }
        (None, free)
    }

    /// Whether an owner has locks, on whatever file.
    pub(super) fn is_holder(&self, owner: u64) -> bool {
        let mut holders = self.holders.iter().take(self.used);
        holders.any(|holder| holder.fd.is_some() && holder.owner == owner)
    }

    /// Ranges and holders to be looked through.
    pub(super) fn len(&self) -> usize {
        self.live + self.used
    }

    /// A lock that one of `kind` cannot stand beside, and its owner, who is `owner` or, without `is_own`, another one.
    #[inline(never)]
    pub(super) fn first_in_the_way(
        &self,
        file: (u64, u64),
        (owner, is_own): (u64, bool),
        kind: LockKind,
        span: Span,
    ) -> Option<(u64, Found)> {
        self.ranges.iter().take(self.live).find_map(|range| {
            let holder = self.holder(range.holder)?;
            let is = (holder.device, holder.inode) == file
                && (holder.owner == owner) == is_own
                && kind.conflicts(range.kind)
                && range.span().meets(span);
            let found = || Found {
                kind: range.kind,
                span: range.span(),
                proc_id: holder.proc_id,
            };
            is.then(|| (holder.owner, found()))
        })
    }

    /// Whether a lock of a holder reaches beyond both ends of `span`; for a full table.
    fn splits(&self, holder: Option<u32>, span: Span) -> bool {
        self.ranges
            .iter()
            .any(|old| Some(old.holder) == holder && old.start < span.start && old.end > span.end)
    }

    /// The last one takes its place.
    fn take_out(&mut self, at: usize) {
        self.live -= 1;
        let last = self.ranges.get(self.live).copied();
        if let (Some(last), Some(place)) = (last, self.ranges.get_mut(at)) {
            *place = last;
        }
    }

    fn push(&mut self, range: Range) {
        if let Some(place) = self.ranges.get_mut(self.live) {
            *place = range;
            self.live += 1;
        }
    }

    /// Makes `span` of a holder be of `kind`: what it had there is cut, split or joined. Takes two more
    /// ranges at the most.
    fn put(&mut self, holder: u32, open: OpenId, kind: LockKind, span: Span) {
        let Span { mut start, mut end } = span;
        let mut at = 0;
        while let Some(range) = self.ranges.get(at).filter(|_| at < self.live) {
            let old = *range;
            // Of its own kind it joins what it touches, of the other it cuts what it overlaps. What is left
            // of that comes last, and is not met again.
            let reach = u64::from(old.kind == kind);
            if old.holder != holder || old.start > end + reach || start > old.end + reach {
                at += 1;
                continue;
            }
            self.take_out(at);
            if old.kind == kind {
                start = start.min(old.start);
                end = end.max(old.end);
                continue;
            }
            if old.start < start {
                self.push(Range {
                    end: start - 1,
                    ..old
                });
            }
            if old.end > end {
                self.push(Range {
                    start: end + 1,
                    ..old
                });
            }
        }
        if kind != LockKind::NONE {
            self.push(Range {
                start,
                end,
                holder,
                open,
                kind,
                spare: [0; 7],
            });
        }
    }

    pub(super) fn wants_trim(&self) -> bool {
        self.live == 0 && self.used > 0
    }

    pub(super) fn trim(&mut self) {
        if self.wants_trim() {
            self.holders.discard(0..LOCK_HOLDERS);
            self.ranges.discard(0..LOCKS);
            self.used = 0;
        }
    }
}

impl Fs {
    /// Process `proc_id` of a client that calls itself `client_id`, on connection `attach`.
    pub fn locker(&self, attach: u16, proc_id: u32, client_id: &[u8]) -> Locker {
        let number = u64::from(attach) << 32 | u64::from(proc_id);
        Locker {
            hash: self.key.hash(number, client_id),
            proc_id,
            attach,
            spare: 0,
        }
    }

    /// Takes a lock on an open file, changes it, or gives it back; or, with `ask`, does nothing. A lock of
    /// another that is in the way, of a client or of a process of the host: then nothing is done.
    ///
    /// An exclusive lock on a file that cannot be opened for writing is a shared one to the host's
    /// processes. Errors, in this order: `ENOLCK` tables full, or descriptors kept back for opens;
    /// openat(2)'s; fcntl(2)'s.
    pub fn lock(
        &mut self,
        (node, open): (NodeId, OpenId),
        owner: Locker,
        ask: bool,
        kind: LockKind,
        span: Span,
    ) -> Result<Option<Found>, Errno> {
        // Looking through the table is work, if it is long.
        self.units += self.locks.len() / STEPS_PER_UNIT;
        let file = self.node(node)?.file();
        let (known, free) = self.locks.find(file, owner.hash);
        if kind == LockKind::NONE {
            if known.is_none() {
                return Ok(None);
            }
        } else {
            let others = (owner.hash, false);
            if let Some((_, found)) = self.locks.first_in_the_way(file, others, kind, span) {
                return Ok(Some(found));
            }
        }
        // To give back takes room only where it leaves something on both sides.
        let room = LOCKS - self.locks.live;
        if room < 2
            && !ask
            && (kind != LockKind::NONE || room == 0 && self.locks.splits(known, span))
        {
            return Err(Errno::NOLCK);
        }
        let at = match known {
            None if !ask => {
                let free = free.ok_or(Errno::NOLCK)?;
                self.add_holder(free, node, open, owner, kind)?;
                Some(free)
            }
            known => known,
        };
        let fd = match at.and_then(|at| self.locks.holder(at)) {
            Some(holder) => holder.fd.get().ok_or(Errno::BADF)?,
            None => self.open_descriptor(open)?,
        };
        let mut lock = flock {
            l_type: kind.byte.into(),
            l_whence: 0,
            l_start: span.start.cast_signed(),
            l_len: span.length().cast_signed(),
            l_pid: 0,
        };
        let mut done = ofd_lock(fd, ask, &mut lock);
        if done == Err(Errno::BADF) && kind == LockKind::WRITE {
            lock.l_type = LockKind::READ.byte.into();
            done = ofd_lock(fd, ask, &mut lock);
        }
        if let Some(at) = at
            && !ask
        {
            if done.is_ok() {
                lock.l_type = LockKind::NONE.byte.into();
                self.locks.put(at, open, kind, span);
                self.waiters.look_again();
            }
            self.close_unless_used(file, owner.hash);
        }
        match done {
            Ok(()) | Err(Errno::AGAIN | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
        let kind = LockKind::new(u8::try_from(lock.l_type).unwrap_or(u8::MAX))?;
        if kind == LockKind::NONE {
            return Ok(None);
        }
        Ok(Some(Found {
            kind,
            span: Span::new(lock.l_start.cast_unsigned(), lock.l_len.cast_unsigned())?,
            proc_id: 0,
        }))
    }

    fn add_holder(
        &mut self,
        at: u32,
        node: NodeId,
        open: OpenId,
        owner: Locker,
        kind: LockKind,
    ) -> Result<(), Errno> {
        if self.is_short_of_descriptors() {
            return Err(Errno::NOLCK);
        }
        let (device, inode) = self.node(node)?.file();
        // Not for writing without need: that may copy the file, and keep it from being executed.
        let writes = kind == LockKind::WRITE || self.access(open)?.writes();
        let mut opened = Err(Errno::ROFS);
        if writes && !self.is_read_only(owner.attach) {
            opened = self.open_again(node, open, OFlags::RDWR);
        }
        if opened.is_err() {
            opened = self.open_again(node, open, OFlags::RDONLY);
        }
        let fd = opened?;
        if let Some(place) = self.locks.holders.get_mut(at as usize) {
            *place = Holder {
                owner: owner.hash,
                device,
                inode,
                fd: TableFd::new(fd),
                proc_id: owner.proc_id,
            };
            self.held += 1;
        }
        self.locks.used = self.locks.used.max(at as usize + 1);
        Ok(())
    }

    /// Closes the description of a process that has no locks on a file and waits for none of the host's.
    #[inline(never)]
    pub(super) fn close_unless_used(&mut self, file: (u64, u64), owner: u64) {
        if let (Some(at), _) = self.locks.find(file, owner) {
            let mut ranges = self.locks.ranges.iter().take(self.locks.live);
            if !ranges.any(|range| range.holder == at) && !self.waiters.has_asked(file, owner) {
                self.close_holder(at);
            }
        }
    }

    /// Closing the description gives back whatever the host kept for it.
    fn close_holder(&mut self, at: u32) {
        if let Some(holder) = self.locks.holders.get_mut(at as usize)
            && holder.fd.is_some()
        {
            holder.fd.close();
            self.held -= 1;
            self.units += 1;
        }
    }

    /// Gives back all locks on the file of every process that took one through `open`: as when a process
    /// closes any of its descriptors of a file. What waits to be taken through it is not granted.
    pub(super) fn end_locks(&mut self, open: OpenId) {
        self.waiters.end(open);
        for at in 0..self.locks.live {
            if let Some(range) = self.locks.ranges.get(at)
                && range.open == open
            {
                let holder = range.holder;
                self.close_holder(holder);
            }
        }
        let mut at = 0;
        while at < self.locks.live {
            let range = self.locks.ranges.get(at);
            let holder = range.and_then(|range| self.locks.holder(range.holder));
            if holder.is_some_and(|holder| holder.fd.is_some()) {
                at += 1;
            } else {
                self.locks.take_out(at);
                self.waiters.look_again();
            }
        }
    }
}
