//! The poll loop: one thread, all connections, turn by turn.
//!
//! A turn serves requests that are already in a connection's buffer, until they are used up, the
//! peer must read first, or the turn has cost [`TURN_COST`] units. So one connection delays another by
//! at most one turn and one request of each that has work. Replies of a turn are sent together. One that
//! is the only one has longer turns ([`TURN_COST_ALONE`]).
//!
//! Where one connection alone is talking, it alone is looked at ([`Server::stay`]), for as long as a turn may
//! cost: the others, all of which only listen, are asked about by one descriptor for all of them, or not at all
//! where there are none.

pub mod channels;
pub mod connection;
pub mod dispatch;
pub mod fids;
pub mod handlers;
pub mod values;

use linux_raw_sys::general::pollfd;
use rustix::event::epoll;
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;

use self::channels::{Channels, Copied};
use self::connection::{Connection, ERR, Events, HUP, IN, Link, NVAL, Next, OUT, Sent};
use self::dispatch::{Policy, Session, answer_lock, dispatch};
use self::fids::Fids;
use self::values::Values;
use crate::fs::Fs;
use crate::fs::waiters::Which;
use crate::limits::{
    FIDS_PER_TURN, RELEASES_PER_TURN, TRIM_AFTER_MS, TRIM_EVERY_WAKEUPS, TRIM_STEP_BYTES,
    TURN_COST, TURN_COST_ALONE,
};
use crate::log::Log;
use crate::p9::messages::{Message, Rlerror};
use crate::p9::wire::Tag;
use crate::sys::arena::List;
use crate::sys::raw::ppoll;
use crate::tables::Key;
use crate::text;
use crate::text::Arg::{Raw, Signed};
use crate::text::Told;

/// A place for a connection.
#[allow(clippy::large_enum_variant)] // nothing is boxed: the list is made once
enum Place {
    /// It is served.
    Live(Connection),
    /// It has ended; its fids are being given up.
    Ending(RawFd),
    /// Nothing of it is left.
    Ended,
}

/// The server.
pub struct Server<'a> {
    places: List<Place>,
    /// What ppoll(2) reads and writes, place for place.
    polled: List<pollfd>,
    common: Common<'a>,
    copied: Copied,
    wakeups: u32,
    /// Ready when any socket is (epoll(7)). None: there is one socket, or one has ended.
    any: Option<OwnedFd>,
    /// The place that was heard last.
    last: usize,
    /// Places that are live, as of the last turns, if all of them have nothing to do but to listen; else 0.
    listening: usize,
}

/// What all connections share.
struct Common<'a> {
    fids: Fids,
    values: Values,
    fs: Fs,
    policy: Policy,
    log: &'a Log,
    channels: Channels,
    /// A connection ended because its client speaks LISAFS.
    met_lisafs: bool,
}

impl Common<'_> {
    /// What the handler of a request on `link` works on; `data`: of a Twrite, where they are not in its body. No `tag`: it
    /// came through a channel.
    fn session<'s>(
        &'s mut self,
        link: &'s mut Link,
        tag: Option<Tag>,
        data: Option<&'s [u8]>,
    ) -> Session<'s> {
        Session {
            link,
            fids: &mut self.fids,
            values: &mut self.values,
            fs: &mut self.fs,
            policy: &self.policy,
            log: self.log,
            channels: &mut self.channels,
            tag,
            is_unanswered: false,
            data,
            cost: 0,
        }
    }
}

/// What is left to do before the next wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// All connections have ended and nothing is held.
    Nothing,
    /// Wait for the peers.
    Idle,
    /// Look at the peers and go on at once.
    Work,
}

impl<'a> Server<'a> {
    /// Reserves the buffers of each socket; the numbers are those of the command line. Socket k serves
    /// attach point k. `key`: a secret for the hashes.
    pub fn new(
        sockets: List<(OwnedFd, RawFd)>,
        (fs, channels): (Fs, Channels),
        key: Key,
        policy: Policy,
        log: &'a Log,
    ) -> Self {
        let (mut places, mut polled) = (List::new(), List::new());
        let any = watch(&sockets).ok();
        for (id, (socket, name)) in (0u16..).zip(sockets.drain()) {
            polled.push(pollfd {
                fd: socket.as_raw_fd(),
                events: 0,
                revents: 0,
            });
            places.push(Place::Live(Connection::new(id, socket, name)));
        }
        let common = Common {
            fids: Fids::new(key),
            values: Values::new(),
            fs,
            policy,
            log,
            channels,
            met_lisafs: false,
        };
        Self {
            copied: Copied::new(&common.channels),
            places,
            polled,
            common,
            wakeups: 0,
            any,
            last: 0,
            listening: 0,
        }
    }

    /// Serves until every connection has ended. Errors: ppoll(2)'s, which has no reason to fail;
    /// `EPROTONOSUPPORT` a client spoke LISAFS, which was told.
    pub fn serve(&mut self) -> Result<(), Errno> {
        loop {
            let left = self.take_turns();
            if left == Left::Nothing {
                return match self.common.met_lisafs {
                    true => Err(Errno::PROTONOSUPPORT),
                    false => Ok(()),
                };
            }
            // What is sent when signals are turned on or off may leave a request that can be served now.
            let left = if self.common.channels.has_changed() {
                Left::Work
            } else {
                left
            };
            if self.attune() {
                self.serve_channels(left)?;
            } else if left == Left::Work || !self.stay() {
                self.wait(left == Left::Work)?;
            }
        }
    }

    /// One round of [`Server::serve`] that does not wait, for who drives both ends of the sockets from one
    /// thread, as fuzz/wire.rs does. False: all connections have ended. Errors: ppoll(2)'s.
    pub fn serve_once(&mut self) -> Result<bool, Errno> {
        let is_left = self.take_turns() != Left::Nothing;
        if is_left {
            self.wait(true)?;
            if self.attune() {
                self.pass();
            }
        }
        Ok(is_left)
    }

    /// One turn for each connection that has work.
    fn take_turns(&mut self) -> Left {
        let mut left = Left::Nothing;
        let (mut live, mut all_listen) = (0, true);
        for at in 0..self.places.len() {
            let now = self.take_turn(at);
            if let Some(Place::Live(connection)) = self.places.get(at) {
                live += 1;
                all_listen &= connection.interest() == IN;
            }
            left = match (left, now) {
                (Left::Work, _) | (_, Left::Work) => Left::Work,
                (Left::Nothing, Left::Nothing) => Left::Nothing,
                _ => Left::Idle,
            };
        }
        self.listening = if all_listen { live } else { 0 };
        self.settle();
        if self.common.fs.reap(RELEASES_PER_TURN) || self.common.fs.is_unsettled() {
            Left::Work
        } else {
            left
        }
    }

    /// Answers requests that have waited for locks, as far as a turn's worth goes ([`crate::fs::waiters`]).
    fn settle(&mut self) {
        self.common.fs.take_units();
        while let Some((at, id, tag)) = self.common.fs.next_waiter() {
            let (common, id) = (&mut self.common, usize::from(id));
            let Some(Place::Live(connection)) = self.places.get_mut(id) else {
                return; // cannot be: its waiters end with a connection
            };
            let Some(done) = common.fs.answer_waiter(at) else {
                continue;
            };
            let (_, room, link) = connection.parts(0..0);
            let reply = answer_lock(common.log, link, tag, done, room);
            connection.answer(0, reply, None);
            match connection.flush(&mut common.fs) {
                Sent::All => {}
                Sent::Blocked => self.listening = 0,
                Sent::Lost => self.end(id),
            }
        }
        self.common.fs.take_units(); // no request's
    }

    /// Waits for the connection that was heard last, and serves it again and again, as long as nobody else has
    /// anything, no lock of a process of the host is waited for, and it has not had a turn's worth. False: look at
    /// all of them.
    fn stay(&mut self) -> bool {
        let mut cost = 0;
        while cost < TURN_COST {
            let Some(Place::Live(connection)) = self.places.get_mut(self.last) else {
                return false;
            };
            if self.listening == 0 || !connection.wants_trim() || self.common.fs.waits_for_host() {
                return false; // somebody has more to do than to listen, or it was quiet
            }
            let is_alone = self.listening == 1;
            let is_quiet = if is_alone {
                false
            } else {
                let Some(any) = &self.any else {
                    return false;
                };
                let mut polled = [pollfd {
                    fd: any.as_raw_fd(),
                    events: IN,
                    revents: 0,
                }];
                ppoll(&mut polled, TRIM_AFTER_MS) == Ok(0)
            };
            if is_quiet || !connection.receive(is_alone) {
                if is_quiet || is_alone {
                    self.trim();
                }
                return is_alone;
            }
            let most = if is_alone { TURN_COST_ALONE } else { TURN_COST };
            match turn(connection, &mut self.common, most) {
                Some(spent) => cost += 1 + spent,
                None => {
                    self.end(self.last);
                    return true;
                }
            }
            if connection.interest() != IN
                || self.common.fs.reap(RELEASES_PER_TURN)
                || self.common.fs.is_unsettled()
                || self.common.channels.has_changed()
            {
                return true;
            }
            self.wakeups = self.wakeups.wrapping_add(1);
            if self.wakeups.is_multiple_of(TRIM_EVERY_WAKEUPS) {
                self.trim();
            }
        }
        self.listening == 1 // else the others' turn
    }

    fn take_turn(&mut self, at: usize) -> Left {
        let Some(place) = self.places.get_mut(at) else {
            return Left::Nothing;
        };
        match place {
            Place::Live(connection) => {
                if connection.has_work() && turn(connection, &mut self.common, TURN_COST).is_none()
                    || connection.is_done()
                {
                    self.end(at);
                    return Left::Work;
                }
                if connection.has_work() {
                    Left::Work
                } else {
                    Left::Idle
                }
            }
            Place::Ending(name) => {
                let name = Signed(i64::from(*name));
                let id = u16::try_from(at).unwrap_or(u16::MAX);
                for _ in 0..FIDS_PER_TURN {
                    let Some(state) = self.common.fids.remove_any(id) else {
                        self.common.fs.detach(id);
                        self.common
                            .log
                            .info(text!("Connection on FD % ended", name));
                        *place = Place::Ended;
                        break;
                    };
                    self.common.values.release(state.value());
                    self.common.fs.release_open(state.open());
                    self.common.fs.release(state.node());
                }
                Left::Work
            }
            Place::Ended => Left::Nothing,
        }
    }

    /// Closes a connection's socket; what its fids hold is given up turn by turn.
    fn end(&mut self, at: usize) {
        let Some(place) = self.places.get_mut(at) else {
            return;
        };
        if let Place::Live(connection) = place {
            self.common
                .fs
                .forget_waiters(connection.link.id, Which::All, &mut |_| {});
            self.common
                .channels
                .end(Some(connection.link.id), &mut self.common.fs);
            connection.abandon(&mut self.common.fs);
            connection.forget_input();
            connection.trim();
            let name = connection.link.name;
            *place = Place::Ending(name);
            // Where somebody else holds the socket too, it would stay ready for ever.
            self.any = None;
        }
    }

    /// Whether [`Server::trim`] has something to do.
    fn wants_trim(&self) -> bool {
        self.common.fids.wants_trim()
            || self.common.fs.wants_trim()
            || self.copied.wants_trim()
            || self
                .places
                .iter()
                .any(|place| matches!(place, Place::Live(connection) if connection.wants_trim()))
    }

    /// Waits until a peer has something, or looks only; receives and sends what can be. How many had something.
    fn wait(&mut self, only_look: bool) -> Result<usize, Errno> {
        for (polled, place) in self.polled.iter_mut().zip(self.places.iter()) {
            match place {
                Place::Live(connection) => polled.events = connection.interest(),
                _ => polled.fd = -1,
            }
        }
        let host_ms = self.common.fs.host_locks_due();
        let untrimmed = self.wants_trim();
        let timeout_ms = if only_look {
            0
        } else if let Some(ms) = host_ms {
            ms
        } else if untrimmed {
            TRIM_AFTER_MS
        } else {
            -1
        };
        let ready = match ppoll(&mut self.polled, timeout_ms) {
            Ok(ready) => ready,
            Err(Errno::INTR) => return Ok(0),
            Err(errno) => return Err(errno),
        };
        if ready > 0 {
            for at in 0..self.polled.len() {
                let events = self.polled.get(at).map_or(0, |polled| polled.revents);
                if events != 0 {
                    self.meet(at, events);
                }
            }
        }
        self.wakeups = self.wakeups.wrapping_add(1);
        let was_quiet = ready == 0 && !only_look && host_ms.is_none();
        if untrimmed && (was_quiet || self.wakeups.is_multiple_of(TRIM_EVERY_WAKEUPS)) {
            self.trim();
        }
        Ok(ready)
    }

    /// Receives from and sends to a peer that poll says is ready. A hang-up or an error shows in both.
    fn meet(&mut self, at: usize, events: Events) {
        let Some(Place::Live(connection)) = self.places.get_mut(at) else {
            return;
        };
        if events & NVAL != 0 {
            self.end(at); // poll would say so for ever
            return;
        }
        let interest = connection.interest();
        if interest & OUT != 0
            && events & (OUT | ERR | HUP) != 0
            && connection.flush(&mut self.common.fs) == Sent::Lost
        {
            self.end(at);
            return;
        }
        if interest & IN != 0 && events & (IN | ERR | HUP) != 0 {
            connection.receive(false);
            self.last = at;
        }
    }

    fn trim(&mut self) {
        self.common.fids.trim(TRIM_STEP_BYTES);
        self.common.fs.trim(TRIM_STEP_BYTES);
        if self.copied.wants_trim() {
            self.copied.trim();
            self.common.channels.trim();
        }
        for place in self.places.iter_mut() {
            if let Place::Live(connection) = place {
                connection.trim();
            }
        }
    }
}

/// What a runtime is told that would not speak 9P.
pub const SPEAKS_9P: Told = b"this gofer speaks 9P; start the runtime with --lisafs=false";

/// One descriptor for all `sockets`, which is ready when one of them is. Errors: `EINVAL` there is one alone;
/// epoll_create1(2)'s, epoll_ctl(2)'s.
fn watch(sockets: &[(OwnedFd, RawFd)]) -> Result<OwnedFd, Errno> {
    if sockets.len() < 2 {
        return Err(Errno::INVAL);
    }
    let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (socket, _) in sockets {
        let data = epoll::EventData::new_u64(0);
        epoll::add(&any, socket, data, epoll::EventFlags::IN)?;
    }
    Ok(any)
}

/// Answers those that wait for locks through a fid which the request just handled has given up, before its own reply of
/// `reply` bytes.
fn interrupt(connection: &mut Connection, common: &mut Common<'_>, reply: usize) {
    let (_, room, link) = connection.parts(0..0);
    let (link, log, mut end) = (&*link, common.log, reply);
    common.fs.forget_waiters(link.id, Which::Ended, &mut |tag| {
        let rest = room.get_mut(end..).unwrap_or_default();
        end += answer_lock(log, link, tag, Err(Errno::INTR), rest);
    });
    if end > reply
        && let Some(written) = room.get_mut(..end)
    {
        let (own, late) = written.split_at_mut(reply.min(end));
        own.reverse();
        late.reverse();
        written.reverse();
        connection.answer(0, end - reply, None);
    }
}

/// Serves requests that are there, until that has cost `most`; what it cost. None: the connection is over.
fn turn(connection: &mut Connection, common: &mut Common<'_>, most: usize) -> Option<usize> {
    if common.policy.may_be_lisafs && connection.begins_with_lisafs() {
        common.log.fatal(text!("%", Raw(SPEAKS_9P)));
        common.met_lisafs = true;
        return None;
    }
    let mut cost = 0;
    while cost < most {
        let (header, body) = match connection.next() {
            Next::Frame(header, body) => (header, body),
            Next::Incomplete => break,
            Next::Bad => {
                // What was asked before is answered, as far as the peer takes it at once.
                connection.flush(&mut common.fs);
                return None;
            }
        };
        if connection.is_pointless(header) {
            connection.answer(header.size, 0, None);
            cost += 1;
            continue;
        }
        // Those that wait for locks keep room for their replies.
        let late = common.fs.waiter_count(connection.link.id) * Rlerror::LEAST;
        let bound = connection.reply_bound(header, &body) + late;
        if !connection.has_room(bound) {
            match connection.flush(&mut common.fs) {
                Sent::All => {}
                Sent::Blocked => break,
                Sent::Lost => return None,
            }
        }
        let (body, room, link) = connection.parts(body);
        let mut session = common.session(link, Some(header.tag), None);
        let answered = dispatch(&mut session, header, body, room);
        interrupt(connection, common, answered.reply);
        connection.answer(header.size, answered.reply, answered.donated);
        cost += answered.cost;
        common.fs.reap(RELEASES_PER_TURN);
    }
    (connection.flush(&mut common.fs) != Sent::Lost).then_some(cost)
}
