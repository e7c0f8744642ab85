//! Locks that are waited for: a bounded table of Tlocks with BLOCK that are not answered yet.
//!
//! **Where they are.** One table of [`LOCK_WAITERS`], in the order of arrival. Half of it is divided evenly among the
//! connections, the other half is for who comes first. A request that finds no room there is answered as one without
//! BLOCK. A waiter ends with the open file that it was asked through (`EINTR`), with its connection, with its Tflush, and
//! with the next Tversion of its connection.
//!
//! **What one waits for.** First for locks of other owners. Then for waiters of other owners that came earlier and ask for
//! what conflicts, so that a writer gets its turn among readers. Never for one that itself waits for a lock of the
//! asker: who asks for more of what it has (an upgrade) would wait for those that wait for it. The same may come about
//! through others: the asker keeps somebody waiting, and the earlier waiter waits for an owner that itself waits.
//! That chain is not followed, the asker passes. So a wait for another waiter is never part of a circle: what it leads
//! to is an owner that runs, a process of the host, or an earlier waiter; and nobody waits for a lock of who waits so.
//! What each waiter waits for is noted when it is looked at, and a note that changes has all looked at again. Last for
//! locks of the host's processes.
//!
//! **How they are woken.** Whatever may let one go (a lock given back, changed or taken, a waiter gone, room in a send
//! buffer) has all of them looked at, one after the other, round and round, a turn's worth ([`TURN_COST`]) between two
//! looks at the peers. No timer runs. A look costs one pass over the locks, three over the waiters, and at most
//! [`OWN_CHECKS`] more over the locks: 80,000 short steps where every table is full.
//!
//! **Locks of the host's processes.** Nothing tells when they go. A waiter for one keeps its open file description and
//! asks again every [`HOST_LOCK_MS`], all of them together, by the one timer of the loop's wait.
//!
//! **Answers.** Who serves the connections asks for the next waiter that can be answered ([`Fs::next_waiter`]) and takes
//! the answer ([`Fs::answer_waiter`]) only where it has room for it: until then nothing is locked.
//!
//! **Deadlocks of clients** are not looked for, there is no `EDEADLK`: Linux's client looks among its own processes before
//! it asks (fcntl(2)), and ends a wait by a signal (Tflush). A server would be wrong: locks of open file descriptions and
//! of flock(2) come with the number of their process, of which another thread may run.

use rustix::io::Errno;

use super::locks::{LockKind, Locker, Span};
use super::tree::STEPS_PER_UNIT;
use super::{Fs, NodeId, OpenId};
use crate::limits::{CONNECTIONS, HOST_LOCK_MS, LOCK_WAITERS, TURN_COST};
use crate::sys::memory::Region;
use crate::sys::raw::wall_clock;

/// What a waiter waits for, as far as it was looked at last.
mod state {
    /// Nothing: it was not looked at, or its answer has no room.
    pub(super) const NEW: u8 = 0;
    /// A lock of another owner, which does not wait itself.
    pub(super) const LOCK: u8 = 1;
    /// A lock of another owner, which waits.
    pub(super) const LOCK_OF_WAITER: u8 = 2;
    /// An earlier waiter.
    pub(super) const WAITER: u8 = 3;
    /// A lock of a process of the host.
    pub(super) const HOST: u8 = 4;
    /// Its open file is gone.
    pub(super) const ENDED: u8 = 5;
    /// It is to be taken out.
    pub(super) const GONE: u8 = 6;
}

/// Whether a waiter has asked the host. If it has, its owner's open file description stays.
mod asked {
    pub(super) const ONCE: u8 = 1;
    /// And is to ask again.
    pub(super) const AGAIN: u8 = 2;
}

/// Earlier waiters of which is looked whether they wait for a lock of the asker; it passes those behind them.
const OWN_CHECKS: usize = 16;

/// Units of a turn that a lock taken and its answer cost: its file opened, the lock, the send.
const ANSWER_COST: usize = 3;

crate::zeroed_record! {
    /// A request that is not answered.
    #[derive(Clone, Copy)]
    pub(super) struct Waiter {
        owner: u64,
        device: u64,
        inode: u64,
        start: u64,
        length: u64,
        /// The owner of the lock that it waits for.
        holder: u64,
        node: NodeId,
        open: OpenId,
        proc_id: u32,
        attach: u16,
        /// How its client tells it from its others.
        number: u16,
        kind: LockKind,
        state: u8,
        asked: u8,
        spare: [u8; 5],
    }
}

impl Waiter {
    fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    fn span(&self) -> Result<Span, Errno> {
        Span::new(self.start, self.length)
    }

    fn locker(&self) -> Locker {
        Locker {
            hash: self.owner,
            proc_id: self.proc_id,
            attach: self.attach,
        }
    }

    /// Whether another owner's request cannot be granted beside this one.
    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.file() == other.file()
            && self.kind.conflicts(other.kind)
            && matches!((self.span(), other.span()), (Ok(one), Ok(other)) if one.meets(other))
    }
}

/// All of them.
pub(super) struct Waiters {
    all: Region<Waiter>,
    /// The first so many are there.
    live: usize,
    /// How many each connection has.
    counts: Region<u16>,
    /// How many each connection has in any case.
    floor: usize,
    /// How many are there beyond that.
    shared: usize,
    /// How many are still to be looked at, and the next of them.
    unsettled: usize,
    next: usize,
    /// How many wait for locks of the host's processes, and when these were asked for last, milliseconds.
    on_host: usize,
    asked_at: u64,
    /// How many are [`state::ENDED`].
    ended: usize,
    is_touched: bool,
}

impl Waiters {
    pub(super) fn reserve(connections: usize) -> Self {
        Self {
            all: Region::reserve(LOCK_WAITERS),
            live: 0,
            counts: Region::reserve(CONNECTIONS),
            floor: LOCK_WAITERS / 2 / connections.max(1),
            shared: 0,
            unsettled: 0,
            next: 0,
            on_host: 0,
            asked_at: 0,
            ended: 0,
            is_touched: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.all.iter().take(self.live)
    }

    fn count(&self, attach: u16) -> usize {
        let count = self.counts.get(usize::from(attach));
        count.copied().unwrap_or_default().into()
    }

    /// Puts one at the end. False: no room for its connection.
    fn push(&mut self, waiter: Waiter) -> bool {
        let is_shared = self.count(waiter.attach) >= self.floor;
        if is_shared && self.shared >= LOCK_WAITERS / 2 {
            return false;
        }
        let (Some(place), Some(count)) = (
            self.all.get_mut(self.live),
            self.counts.get_mut(usize::from(waiter.attach)),
        ) else {
            return false;
        };
        *place = waiter;
        *count += 1;
        self.shared += usize::from(is_shared);
        self.live += 1;
        self.is_touched = true;
        true
    }

    /// All are to be looked at, once each.
    pub(super) fn look_again(&mut self) {
        self.unsettled = self.live;
    }

    /// Notes what one waits for.
    fn note(&mut self, at: usize, state: u8, holder: u64) {
        let Some(waiter) = self.all.get_mut(at) else {
            return;
        };
        let was = core::mem::replace(&mut waiter.state, state);
        let had = core::mem::replace(&mut waiter.holder, holder);
        self.on_host += usize::from(state == state::HOST);
        self.on_host -= usize::from(was == state::HOST);
        self.ended += usize::from(state == state::ENDED);
        self.ended -= usize::from(was == state::ENDED);
        if (was, had) != (state, holder) {
            self.look_again();
        }
    }

    /// Takes out those that are gone.
    fn close_ranks(&mut self) {
        let mut kept = 0;
        for at in 0..self.live {
            let Some(waiter) = self.all.get(at).copied() else {
                break;
            };
            if waiter.state != state::GONE {
                if let Some(place) = self.all.get_mut(kept) {
                    *place = waiter;
                }
                kept += 1;
            } else if let Some(count) = self.counts.get_mut(usize::from(waiter.attach)) {
                self.shared -= usize::from(usize::from(*count) > self.floor);
                *count -= 1;
            }
        }
        self.live = kept;
        self.look_again();
    }

    /// Whether a process keeps its open file description of a file for a waiter of its.
    pub(super) fn has_asked(&self, file: (u64, u64), owner: u64) -> bool {
        self.iter().any(|waiter| {
            waiter.asked > 0
                && waiter.state != state::GONE
                && waiter.owner == owner
                && waiter.file() == file
        })
    }

    /// An open file is gone: those that asked through it get no lock.
    pub(super) fn end(&mut self, open: OpenId) {
        for at in 0..self.live {
            if self.all.get(at).is_some_and(|waiter| waiter.open == open) {
                self.note(at, state::ENDED, 0);
            }
        }
    }

    pub(super) fn wants_trim(&self) -> bool {
        self.live == 0 && self.is_touched
    }

    pub(super) fn trim(&mut self) {
        if self.wants_trim() {
            self.all.discard(0..LOCK_WAITERS);
            self.is_touched = false;
        }
    }
}

impl Fs {
    /// [`Fs::lock`], which waits if it must; `number`: how the client tells it from its other requests.
    /// True: done; false: there is no room for one more that waits; none: it waits. Errors: those of [`Fs::lock`].
    pub fn lock_or_wait(
        &mut self,
        (node, open): (NodeId, OpenId),
        owner: Locker,
        kind: LockKind,
        span: Span,
        number: u16,
    ) -> Result<Option<bool>, Errno> {
        let (device, inode) = self.node(node)?.file();
        let has_room = self.waiters.push(Waiter {
            owner: owner.hash,
            device,
            inode,
            start: span.start(),
            length: span.length(),
            holder: 0,
            node,
            open,
            proc_id: owner.proc_id,
            attach: owner.attach,
            number,
            kind,
            state: state::NEW,
            asked: 0,
            spare: [0; 5],
        });
        if !has_room {
            let found = self.lock((node, open), owner, false, kind, span)?;
            return Ok(Some(found.is_none()));
        }
        let at = self.waiters.live - 1;
        if self.can_answer(at)
            && let Some(done) = self.answer_waiter(at)
        {
            return done.map(|()| Some(true));
        }
        // Others may wait for a lock of who waits from now on.
        if self.locks.is_holder(owner.hash) {
            self.waiters.look_again();
        }
        Ok(None)
    }

    /// What the one at `at` waits for, and whose lock; [`state::NEW`]: nothing that our clients have.
    fn look_at(&self, at: usize, asker: &Waiter) -> Result<(u8, u64), Errno> {
        let (file, kind, span) = (asker.file(), asker.kind, asker.span()?);
        if let Some(holder) = self
            .locks
            .first_in_the_way(file, kind, span, |owner| owner != asker.owner)
        {
            let waits = self
                .waiters
                .iter()
                .any(|other| other.owner == holder.owner && other.state != state::ENDED);
            let state = if waits {
                state::LOCK_OF_WAITER
            } else {
                state::LOCK
            };
            return Ok((state, holder.owner));
        }
        let (mut checks, mut is_waited_for) = (0, None);
        for earlier in self.waiters.iter().take(at) {
            if earlier.state == state::ENDED || !earlier.conflicts(asker) {
                continue;
            }
            checks += 1;
            if checks > OWN_CHECKS {
                break;
            }
            let span = earlier.span()?;
            let is_own = |owner| owner == asker.owner;
            if self
                .locks
                .first_in_the_way(file, earlier.kind, span, is_own)
                .is_some()
            {
                continue;
            }
            let is_indirect = matches!(earlier.state, state::LOCK_OF_WAITER | state::WAITER);
            if is_indirect
                && *is_waited_for
                    .get_or_insert_with(|| self.waiters.iter().any(|it| it.holder == asker.owner))
            {
                continue;
            }
            return Ok((state::WAITER, 0));
        }
        Ok((state::NEW, 0))
    }

    /// Whether [`Fs::answer_waiter`] may have an answer. Notes what the waiter waits for.
    fn can_answer(&mut self, at: usize) -> bool {
        let Some(waiter) = self.waiters.all.get(at).copied() else {
            return false;
        };
        if waiter.state == state::ENDED {
            return true;
        }
        self.units += 1 + (self.locks.len() + 3 * self.waiters.live) / STEPS_PER_UNIT;
        let (state, holder) = self.look_at(at, &waiter).unwrap_or_default();
        if state != state::NEW || waiter.state != state::HOST {
            self.waiters.note(at, state, holder);
            return state == state::NEW;
        }
        waiter.asked == asked::AGAIN
    }

    /// Takes the answer of the waiter at `at` if there is one, and with it the waiter out of the table. None: a lock of
    /// a process of the host is in the way. Errors: `EINTR` its open file is gone; those of [`Fs::lock`].
    pub fn answer_waiter(&mut self, at: usize) -> Option<Result<(), Errno>> {
        let waiter = self.waiters.all.get_mut(at)?;
        waiter.asked = asked::ONCE;
        let waiter = *waiter;
        let done = if waiter.state == state::ENDED {
            Err(Errno::INTR)
        } else {
            self.units += ANSWER_COST;
            let file = (waiter.node, waiter.open);
            let done = waiter
                .span()
                .and_then(|span| self.lock(file, waiter.locker(), false, waiter.kind, span));
            match done {
                Ok(Some(_)) => {
                    self.waiters.note(at, state::HOST, 0);
                    return None;
                }
                done => done.map(|_| ()),
            }
        };
        self.forget_waiter(at);
        self.waiters.close_ranks();
        Some(done)
    }

    /// A waiter that can be answered: its place, its connection, and how that tells it from its others. None: there is
    /// none, or a turn's worth was done ([`Fs::is_unsettled`]).
    pub fn next_waiter(&mut self) -> Option<(usize, u16, u16)> {
        while self.waiters.unsettled > 0 && self.units < TURN_COST {
            self.waiters.unsettled -= 1;
            let at = match self.waiters.next {
                next if next < self.waiters.live => next,
                _ => 0,
            };
            self.waiters.next = at + 1;
            if self.can_answer(at) {
                let waiter = self.waiters.all.get(at)?;
                return Some((at, waiter.attach, waiter.number));
            }
        }
        None
    }

    /// Whether waiters are still to be looked at.
    pub fn is_unsettled(&self) -> bool {
        self.waiters.unsettled > 0
    }

    /// They are, once more: there is room for answers.
    pub fn look_again(&mut self) {
        self.waiters.look_again();
    }

    /// How many requests of a connection wait.
    pub fn waiter_count(&self, attach: u16) -> usize {
        self.waiters.count(attach)
    }

    /// Takes those of a connection out whose open file is gone, and names each.
    pub fn take_ended(&mut self, attach: u16, mut each: impl FnMut(u16)) {
        if self.waiters.ended > 0 {
            self.forget(|waiter| {
                let is_it = waiter.attach == attach && waiter.state == state::ENDED;
                if is_it {
                    each(waiter.number);
                }
                is_it
            });
        }
    }

    /// A connection's requests are not waited for any more; with a number, those of that number.
    pub fn forget_waiters(&mut self, attach: u16, number: Option<u16>) {
        if self.waiter_count(attach) > 0 {
            self.forget(|waiter| {
                waiter.attach == attach && number.is_none_or(|number| waiter.number == number)
            });
        }
    }

    fn forget(&mut self, mut which: impl FnMut(&Waiter) -> bool) {
        for at in 0..self.waiters.live {
            if self.waiters.all.get(at).is_some_and(&mut which) {
                self.forget_waiter(at);
            }
        }
        self.waiters.close_ranks();
    }

    /// Gives up what a waiter has.
    fn forget_waiter(&mut self, at: usize) {
        let Some(waiter) = self.waiters.all.get(at).copied() else {
            return;
        };
        self.waiters.note(at, state::GONE, 0);
        if waiter.asked > 0 {
            self.close_unless_used(waiter.file(), waiter.owner);
        }
    }

    /// Whether a lock of a process of the host is waited for.
    pub fn waits_for_host(&self) -> bool {
        self.waiters.on_host > 0
    }

    /// Milliseconds until the locks of the host's processes are asked for again; 0: now. None: none is waited for.
    pub fn host_locks_due(&mut self) -> Option<i32> {
        if !self.waits_for_host() {
            return None;
        }
        let (seconds, nanoseconds) = wall_clock();
        let now = (seconds * 1_000 + nanoseconds / 1_000_000).cast_unsigned();
        // A clock that is set makes it at once.
        let gone = i32::try_from(now.wrapping_sub(self.waiters.asked_at)).unwrap_or(HOST_LOCK_MS);
        if gone < HOST_LOCK_MS {
            return Some(HOST_LOCK_MS - gone);
        }
        self.waiters.asked_at = now;
        for waiter in self.waiters.all.iter_mut().take(self.waiters.live) {
            if waiter.state == state::HOST {
                waiter.asked = asked::AGAIN;
            }
        }
        self.waiters.look_again();
        Some(0)
    }
}
