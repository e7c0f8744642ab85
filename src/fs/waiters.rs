//! Locks that are waited for: a bounded table of Tlocks with BLOCK that are not answered yet.
//!
//! **Where they are.** One table of [`LOCK_WAITERS`]. Half of it is divided evenly among the connections, the other half
//! is for who comes first. A request that finds no room there is answered as one without BLOCK. A waiter ends with the
//! open file that it was asked through (`EINTR`), with its connection, with its Tflush, and with the next Tversion of its
//! connection. An unlock does not end what its owner waits for, nor does a second request of the same tag.
//!
//! **What one waits for.** First for locks of other owners. Then for waiters of other owners that came earlier and ask for
//! what conflicts, so that a writer gets its turn among readers. Never for one that itself waits for a lock of the
//! asker: who asks for more of what it has (an upgrade) would wait for those that wait for it. Last for locks of the
//! host's processes.
//!
//! A circle may also go through others: the asker's lock is waited for by an owner whose lock the earlier waiter waits
//! for. That chain is not followed. Where the asker has a lock that somebody waits for, and the earlier waiter waits for an
//! owner that itself waits, or for another waiter, the asker passes, too. So no wait for a waiter is part of a circle. If
//! one were, either its asker has a lock that somebody waits for: then the waiter waits for an owner that waits for
//! nothing, which is in no circle. Or it has none: then whoever waits for the asker waits for its request, which came
//! earlier, and so on around; but nobody comes earlier than oneself. For this, what each waits for is noted when it is
//! looked at, and a note that changes has all looked at again.
//!
//! **How they are woken.** Whatever may let one go (a lock given back, changed or taken, a waiter gone) has all of them
//! looked at, one after the other, round and round, a turn's worth ([`TURN_COST`]) between two looks at the peers. No
//! timer runs. A look costs one pass over the locks, three over the waiters, and at most [`OWN_CHECKS`] more over both:
//! some 100,000 short steps where every table is full.
//!
//! **Locks of the host's processes.** Nothing tells when they go. A waiter for one keeps its open file description and
//! asks again every [`HOST_LOCK_MS`], all of them together, by the one timer of the loop's wait.
//!
//! **Answers.** Who serves the connections asks for the next waiter that can be answered ([`Fs::next_waiter`]), and takes
//! the answer ([`Fs::answer_waiter`]). A connection begins no request without room for its reply and for those of all its
//! waiters, so nothing is locked whose answer has no room.
//!
//! **Deadlocks of clients** are not looked for, there is no `EDEADLK`: Linux's client looks among its own processes before
//! it asks (fcntl(2)), and a process that is killed ends its wait (Tflush). A server would be wrong: locks of open file
//! descriptions and of flock(2) come with the number of their process, of which another thread may run.

use rustix::io::Errno;

use super::locks::{LockKind, Locker, Span};
use super::tree::STEPS_PER_UNIT;
use super::{Fs, NodeId, OpenId};
use crate::limits::{CONNECTIONS, HOST_LOCK_MS, LOCK_WAITERS, TURN_COST};
use crate::sys::memory::Region;
use crate::sys::raw::wall_clock;

crate::zeroed_record! {
    /// What a waiter waits for, as far as it was looked at last.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct State {
        number: u8,
    }
}

impl State {
    /// There is no waiter.
    const GONE: Self = Self { number: 0 };
    /// Nothing: it has just come, or is about to be answered.
    const NEW: Self = Self { number: 1 };
    /// A lock of another owner, which does not wait itself.
    const LOCK: Self = Self { number: 2 };
    /// A lock of another owner, which waits.
    const LOCK_OF_WAITER: Self = Self { number: 3 };
    /// An earlier waiter.
    const WAITER: Self = Self { number: 4 };
    /// A lock of a process of the host.
    const HOST: Self = Self { number: 5 };
    /// The same, and it is to be asked for now.
    const HOST_AGAIN: Self = Self { number: 6 };
    /// Nothing more: its open file is gone.
    const ENDED: Self = Self { number: 7 };

    fn is_host(self) -> bool {
        self == Self::HOST || self == Self::HOST_AGAIN
    }

    fn waits(self) -> bool {
        self != Self::GONE && self != Self::ENDED
    }
}

/// Earlier waiters of which is looked whether they wait for a lock of the asker; it passes those behind them.
const OWN_CHECKS: usize = 16;

/// Units of a turn that a lock taken and its answer cost: its file opened, the lock, the send.
const ANSWER_COST: usize = 3;

crate::zeroed_record! {
    /// A request that is not answered, or nothing.
    #[derive(Clone, Copy)]
    struct Waiter {
        owner: Locker,
        span: Span,
        device: u64,
        inode: u64,
        /// The order of arrival.
        since: u64,
        /// The owner of the lock that it waits for.
        holder: u64,
        node: NodeId,
        open: OpenId,
        /// How its client tells it from its others.
        number: u16,
        kind: LockKind,
        state: State,
        /// It has asked the host: its owner's open file description stays.
        has_asked: u8,
        spare: [u8; 3],
    }
}

impl Waiter {
    fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether a request comes behind this one of another owner, and cannot be granted beside it.
    fn is_before(&self, other: &Self) -> bool {
        self.state.waits()
            && self.since < other.since
            && self.owner.hash != other.owner.hash
            && self.file() == other.file()
            && self.kind.conflicts(other.kind)
            && self.span.meets(other.span)
    }
}

/// Which waiters of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those of this number.
    Numbered(u16),
    /// Those whose open file is gone.
    Ended,
}

/// All of them.
pub(super) struct Waiters {
    all: Region<Waiter>,
    /// They were only ever among so many, since there was none.
    used: usize,
    live: usize,
    /// How many have ever come.
    arrivals: u64,
    /// How many each connection has.
    counts: Region<u16>,
    /// How many each connection has in any case.
    floor: usize,
    /// How many there are beyond that.
    shared: usize,
    /// How many are still to be looked at, and the next of them.
    unsettled: usize,
    next: usize,
    /// How many wait for locks of the host's processes, and when these were asked for last, milliseconds.
    on_host: usize,
    asked_at: u64,
    /// How many are [`State::ENDED`].
    ended: usize,
}

impl Waiters {
    pub(super) fn reserve(connections: usize) -> Self {
        Self {
            all: Region::reserve(LOCK_WAITERS),
            used: 0,
            live: 0,
            arrivals: 0,
            counts: Region::reserve(CONNECTIONS),
            floor: LOCK_WAITERS / 2 / connections.max(1),
            shared: 0,
            unsettled: 0,
            next: 0,
            on_host: 0,
            asked_at: 0,
            ended: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.all.iter().take(self.used)
    }

    fn count(&self, attach: u16) -> usize {
        let count = self.counts.get(usize::from(attach));
        count.copied().unwrap_or_default().into()
    }

    /// A free place for one of a connection. None: no room.
    fn place(&self, attach: u16) -> Option<usize> {
        if self.count(attach) >= self.floor && self.shared >= LOCK_WAITERS / 2 {
            return None;
        }
        let mut places = self.all.iter();
        places.position(|place| place.state == State::GONE)
    }

    /// Puts one there.
    fn put(&mut self, at: usize, waiter: Waiter) {
        if let (Some(place), Some(count)) = (
            self.all.get_mut(at),
            self.counts.get_mut(usize::from(waiter.owner.attach())),
        ) {
            *place = waiter;
            self.shared += usize::from(usize::from(*count) >= self.floor);
            *count += 1;
            self.live += 1;
            self.used = self.used.max(at + 1);
        }
    }

    /// All are to be looked at, once each.
    pub(super) fn look_again(&mut self) {
        self.unsettled = self.used;
    }

    /// Notes what one waits for.
    #[inline(never)]
    fn note(&mut self, at: usize, state: State, holder: u64) {
        let Some(waiter) = self.all.get_mut(at) else {
            return;
        };
        let was = (waiter.state, waiter.holder);
        (waiter.state, waiter.holder) = (state, holder);
        self.on_host += usize::from(state.is_host());
        self.on_host -= usize::from(was.0.is_host());
        self.ended += usize::from(state == State::ENDED);
        self.ended -= usize::from(was.0 == State::ENDED);
        if state == State::GONE
            && let Some(count) = self.counts.get_mut(usize::from(waiter.owner.attach()))
        {
            self.shared -= usize::from(usize::from(*count) > self.floor);
            *count -= 1;
            self.live -= 1;
        }
        // One that has just come stands in nobody's way yet.
        if was != (state, holder) && was.0 != State::NEW {
            self.look_again();
        }
    }

    /// Whether a process keeps its open file description of a file for a waiter of its.
    pub(super) fn has_asked(&self, file: (u64, u64), owner: u64) -> bool {
        self.iter().any(|waiter| {
            waiter.has_asked > 0
                && waiter.state != State::GONE
                && waiter.owner.hash == owner
                && waiter.file() == file
        })
    }

    /// An open file is gone: those that asked through it get no lock.
    pub(super) fn end(&mut self, open: OpenId) {
        for at in 0..self.used {
            let mut it = self.all.get(at).into_iter();
            if it.any(|waiter| waiter.open == open && waiter.state.waits()) {
                self.note(at, State::ENDED, 0);
            }
        }
    }

    pub(super) fn wants_trim(&self) -> bool {
        self.live == 0 && self.used > 0
    }

    pub(super) fn trim(&mut self) {
        if self.wants_trim() {
            self.all.discard(0..LOCK_WAITERS);
            self.used = 0;
            self.unsettled = 0;
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
        let Some(at) = self.waiters.place(owner.attach()) else {
            let found = self.lock((node, open), owner, false, kind, span)?;
            return Ok(Some(found.is_none()));
        };
        self.waiters.arrivals += 1;
        let waiter = Waiter {
            owner,
            span,
            device,
            inode,
            since: self.waiters.arrivals,
            holder: 0,
            node,
            open,
            number,
            kind,
            state: State::NEW,
            has_asked: 0,
            spare: [0; 3],
        };
        self.waiters.put(at, waiter);
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

    /// What a request waits for, and whose lock; [`State::NEW`]: nothing that our clients have.
    fn look_at(&self, asker: &Waiter) -> (State, u64) {
        let (file, owner) = (asker.file(), asker.owner.hash);
        let others = self
            .locks
            .first_in_the_way(file, (owner, false), asker.kind, asker.span);
        if let Some((holder, _)) = others {
            let is_it = |it: &Waiter| it.owner.hash == holder && it.state.waits();
            let state = match self.waiters.iter().any(is_it) {
                true => State::LOCK_OF_WAITER,
                false => State::LOCK,
            };
            return (state, holder);
        }
        let earlier = self.waiters.iter().filter(|it| it.is_before(asker));
        for earlier in earlier.take(OWN_CHECKS) {
            let waits_for_another =
                earlier.state == State::LOCK_OF_WAITER || earlier.state == State::WAITER;
            let is_passed = self
                .locks
                .first_in_the_way(file, (owner, true), earlier.kind, earlier.span)
                .is_some()
                || waits_for_another && self.waiters.iter().any(|it| it.holder == owner);
            if !is_passed {
                return (State::WAITER, 0);
            }
        }
        (State::NEW, 0)
    }

    /// Whether [`Fs::answer_waiter`] may have an answer. Notes what the waiter waits for.
    #[inline(never)]
    fn can_answer(&mut self, at: usize) -> bool {
        let Some(waiter) = self.waiters.all.get(at).copied() else {
            return false;
        };
        if !waiter.state.waits() {
            return waiter.state == State::ENDED;
        }
        self.units += 1 + (self.locks.len() + 3 * self.waiters.used) / STEPS_PER_UNIT;
        let (state, holder) = self.look_at(&waiter);
        if state == State::NEW && waiter.state.is_host() {
            return waiter.state == State::HOST_AGAIN;
        }
        self.waiters.note(at, state, holder);
        state == State::NEW
    }

    /// Takes the answer of the waiter at `at` if there is one, and with it the waiter out of the table. None: a lock of
    /// a process of the host is in the way. Errors: `EINTR` its open file is gone; those of [`Fs::lock`].
    pub fn answer_waiter(&mut self, at: usize) -> Option<Result<(), Errno>> {
        let waiter = self.waiters.all.get_mut(at)?;
        waiter.has_asked = 1;
        let waiter = *waiter;
        let done = if waiter.state == State::ENDED {
            Err(Errno::INTR)
        } else {
            self.units += ANSWER_COST;
            let file = (waiter.node, waiter.open);
            self.lock(file, waiter.owner, false, waiter.kind, waiter.span)
        };
        if let Ok(Some(_)) = done {
            self.waiters.note(at, State::HOST, 0);
            return None;
        }
        self.forget_waiter(at);
        Some(done.map(|_| ()))
    }

    /// A waiter that can be answered: its place, its connection, and how that tells it from its others. None: there is
    /// none, or a turn's worth was done ([`Fs::is_unsettled`]).
    pub fn next_waiter(&mut self) -> Option<(usize, u16, u16)> {
        while self.waiters.unsettled > 0 && self.units < TURN_COST {
            self.waiters.unsettled -= 1;
            let next = self.waiters.next;
            let at = if next < self.waiters.used { next } else { 0 };
            self.waiters.next = at + 1;
            if self.can_answer(at) {
                let waiter = self.waiters.all.get(at)?;
                return Some((at, waiter.owner.attach(), waiter.number));
            }
        }
        None
    }

    /// Whether waiters are still to be looked at.
    pub fn is_unsettled(&self) -> bool {
        self.waiters.unsettled > 0
    }

    /// How many requests of a connection wait.
    pub fn waiter_count(&self, attach: u16) -> usize {
        self.waiters.count(attach)
    }

    /// Takes some waiters of a connection out, and tells the number of each.
    #[inline(never)]
    pub fn forget_waiters(&mut self, attach: u16, which: Which, each: &mut dyn FnMut(u16)) {
        if self.waiter_count(attach) == 0 || which == Which::Ended && self.waiters.ended == 0 {
            return;
        }
        for at in 0..self.waiters.used {
            let Some(waiter) = self.waiters.all.get(at) else {
                return;
            };
            let is_it = match which {
                Which::All => true,
                Which::Numbered(number) => waiter.number == number,
                Which::Ended => waiter.state == State::ENDED,
            };
            if is_it && waiter.owner.attach() == attach && waiter.state != State::GONE {
                each(waiter.number);
                self.forget_waiter(at);
            }
        }
    }

    /// Takes one out, and gives up what it has.
    fn forget_waiter(&mut self, at: usize) {
        self.waiters.note(at, State::GONE, 0);
        if let Some(waiter) = self.waiters.all.get(at)
            && waiter.has_asked > 0
        {
            self.close_unless_used(waiter.file(), waiter.owner.hash);
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
        for waiter in self.waiters.all.iter_mut().take(self.waiters.used) {
            if waiter.state == State::HOST {
                waiter.state = State::HOST_AGAIN;
            }
        }
        self.waiters.look_again();
        Some(0)
    }
}
