//! Shared-memory channels: made at the start, offered by Tchannel, served one request at a time (docs/protocol.md 9).
//!
//! As long as one is live the loop waits for windows and sockets together ([`crate::sys::bell`]). Each channel has
//! one request served in a pass, which ends when a turn's worth is done and goes on with the next channel; the sockets
//! are looked at when they signal, and at the latest behind a turn's worth or [`CHANNEL_PASSES`] passes.

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};

use super::connection::{Link, Sent};
use super::dispatch::dispatch;
use super::{Common, Left, Place, Server};
use crate::fs::{Fs, OpenId};
use crate::limits::{
    CHANNEL_PASSES, CHANNELS, DESCRIPTORS_PER_CHANNEL, HOST_LOCK_MS, PAGE_BYTES, RELEASES_PER_TURN,
    TRIM_AFTER_MS, TRIM_EVERY_WAKEUPS, TURN_COST, WINDOW_BYTES,
};
use crate::p9::messages::{Message, Rchannel, Twrite};
use crate::p9::wire::{HEADER_BYTES, Header, Tag};
use crate::sys::arena::List;
use crate::sys::bell::{Bell, Woken, rung};
use crate::sys::memory::Region;
use crate::sys::raw::send;
use crate::sys::window::{self, DATAGRAM_BYTES, DATAGRAM_HEADER_BYTES, Turn, Window};
use crate::text;
use crate::text::Arg::{Number, Signed};

/// How far a channel has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nobody has asked for it.
    Made,
    /// Its client has been given it.
    Live,
    /// And has used it.
    Used,
    /// It is not served any more.
    Over,
}

/// A channel. Each of the three holds a reference.
#[derive(Clone, Copy)]
struct Channel {
    connection: u16,
    /// Its number on its connection.
    number: u32,
    stage: Stage,
    window: Window,
    /// The file that the window is a part of.
    memory: OpenId,
    /// The ends of the pair of sockets that descriptors go over.
    theirs: OpenId,
    ours: OpenId,
}

impl Channel {
    fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live | Stage::Used)
    }

    /// Tells the client that it is over, and gives up all that it holds.
    fn end(&mut self, fs: &mut Fs) {
        if self.is_live() {
            self.window.shut();
            self.window.forget(false);
        }
        if self.stage != Stage::Over {
            self.stage = Stage::Over;
            for open in [self.memory, self.theirs, self.ours] {
                fs.release_open(open);
            }
        }
    }
}

/// The channels of all connections.
pub struct Channels {
    all: List<Channel>,
    bell: Option<Bell>,
    /// One is live, as far as [`Server::attune`] knows.
    is_any: bool,
    /// Another set of them is live by now.
    changed: bool,
    /// The one that is looked at next.
    next: usize,
}

impl Channels {
    /// None: Tchannel is `ENOSYS`.
    pub fn none() -> Self {
        Self {
            all: List::new(),
            bell: None,
            is_any: false,
            changed: false,
            next: 0,
        }
    }

    /// Makes `each` for each of `connections`, as far as [`CHANNELS`] and descriptors go; `spin_us`: how long the
    /// next request is looked for, microseconds. What is made before a failure stays.
    ///
    /// Errors: [`Bell::new`]'s; [`window::make`]'s; socketpair(2)'s, shutdown(2)'s, setsockopt(2)'s.
    pub fn make(
        &mut self,
        connections: usize,
        each: usize,
        spin_us: u64,
        fs: &mut Fs,
    ) -> Result<(), Errno> {
        self.bell = Some(Bell::new(spin_us)?);
        let had = fs.spare_descriptors() / DESCRIPTORS_PER_CHANNEL;
        let most = usize::try_from(had).unwrap_or(CHANNELS).min(CHANNELS);
        for connection in (0..).take(connections) {
            let count = each.min(most - self.all.len());
            if count == 0 {
                break;
            }
            let (memory, windows) = window::make(count)?;
            let memory = fs.keep(memory)?;
            for (number, window) in (0..).zip(windows) {
                let (ours, theirs) = socketpair(
                    AddressFamily::UNIX,
                    SocketType::SEQPACKET,
                    SocketFlags::CLOEXEC,
                    None,
                )?;
                // Nobody reads what a client would send there: in the queue its own end of the connection would stay
                // open for as long as we wait for its end; and we would close it, which may wait.
                shutdown(&ours, Shutdown::Read)?;
                // A client takes one at a time. The least there is (socket(7)): all that are under way count for all
                // processes of the user, up to the limit of descriptors (unix(7), ETOOMANYREFS).
                set_socket_send_buffer_size(&ours, 0)?;
                let (ours, theirs) = (fs.keep(ours)?, fs.keep(theirs)?);
                if number > 0 {
                    fs.hold_open(memory);
                }
                self.all.push(Channel {
                    connection,
                    number,
                    stage: Stage::Made,
                    window,
                    memory,
                    theirs,
                    ours,
                });
            }
        }
        Ok(())
    }

    /// Gives the memory of windows back, as far as it counts as ours: it stays the client's.
    pub fn trim(&self) {
        for channel in self
            .all
            .iter()
            .filter(|channel| channel.stage == Stage::Used)
        {
            channel.window.forget(true);
        }
    }

    /// Whether others are live than [`Server::attune`] knows.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What Tchannel says of channel `number` of a connection: where its window lies, and the file that is donated,
    /// with a reference for the reply. Errors, in this order: `ENOSYS` no such channel, or it is over; `EINVAL`
    /// a control other than 0, the memory, and 1, the socket.
    pub fn offer(
        &mut self,
        connection: u16,
        number: u32,
        control: u32,
        fs: &mut Fs,
    ) -> Result<(Rchannel, OpenId), Errno> {
        let is_it = |channel: &&mut Channel| {
            channel.connection == connection
                && channel.number == number
                && channel.stage != Stage::Over
        };
        let channel = self.all.iter_mut().find(is_it).ok_or(Errno::NOSYS)?;
        let open = match control {
            0 => channel.memory,
            1 => channel.theirs,
            _ => return Err(Errno::INVAL),
        };
        fs.hold_open(open);
        if channel.stage == Stage::Made {
            channel.stage = Stage::Live;
            self.changed = true;
        }
        let (offset, length) = (u64::from(number) * WINDOW_BYTES as u64, WINDOW_BYTES as u64);
        Ok((Rchannel { offset, length }, open))
    }

    /// Ends the channels of a connection that is at its end, or, without one, all.
    pub fn end(&mut self, connection: Option<u16>, fs: &mut Fs) {
        for channel in self.all.iter_mut() {
            if connection.is_none_or(|connection| channel.connection == connection) {
                self.changed |= channel.is_live();
                channel.end(fs);
            }
        }
    }
}

/// Fuzzing makes one server after the other in one process; the program never unmaps.
#[cfg(fuzzing)]
impl Drop for Channels {
    fn drop(&mut self) {
        for channel in self.all.iter() {
            channel.window.unmap();
        }
    }
}

impl Server<'_> {
    /// Whether a channel is live; if it is another than before, sockets signal what they have, or do not.
    pub(super) fn attune(&mut self) -> bool {
        let channels = &mut self.common.channels;
        if !channels.changed {
            return channels.is_any;
        }
        let live = || channels.all.iter().filter(|channel| channel.is_live());
        let is_any = live().next().is_some();
        let was_any = core::mem::replace(&mut channels.is_any, is_any);
        channels.changed = false;
        if let Some(bell) = &mut channels.bell {
            bell.hear(live().map(|channel| channel.window));
        }
        for at in 0..self.places.len() {
            let Some(Place::Live(connection)) =
                self.places.get_mut(at).filter(|_| is_any != was_any)
            else {
                continue;
            };
            if connection.signal(is_any).is_err() {
                // They would not be heard.
                self.common.channels.end(None, &mut self.common.fs);
                return false;
            }
            // Of room a socket tells those alone that have found none since.
            if connection.flush(&mut self.common.fs) == Sent::Lost {
                self.end(at);
            }
        }
        is_any
    }

    /// Looks at the sockets; if there is nothing, serves the channels until there may be. Errors: ppoll(2)'s.
    pub(super) fn serve_channels(&mut self, left: Left) -> Result<(), Errno> {
        let heard = rung();
        if self.wait(true)? > 0 || left == Left::Work {
            self.pass();
            return Ok(());
        }
        let (mut passes, mut cost) = (0, 0);
        while passes < CHANNEL_PASSES
            && cost < TURN_COST
            && rung() == heard
            && !self.common.channels.changed
            && !self.common.fs.is_unsettled()
        {
            let spent = self.pass();
            if self.common.fs.reap(RELEASES_PER_TURN) {
                break;
            }
            passes += 1;
            cost += spent;
            if spent > 0 {
                continue;
            }
            let waits_for_host = self.common.fs.waits_for_host();
            // Also where replies wait, should a socket not tell of room.
            let most_ms = if waits_for_host {
                Some(HOST_LOCK_MS)
            } else {
                (self.wants_trim() || self.listening == 0).then_some(TRIM_AFTER_MS)
            };
            let Some(bell) = &mut self.common.channels.bell else {
                break;
            };
            let woken = bell.wait(heard, most_ms);
            if waits_for_host {
                break; // whether they are to be asked for is looked at where the sockets are
            }
            match woken {
                Woken::Soon => {}
                Woken::Late => {
                    (passes, cost) = (0, 0);
                    self.wakeups = self.wakeups.wrapping_add(1);
                    if self.wakeups.is_multiple_of(TRIM_EVERY_WAKEUPS) {
                        self.trim();
                        break;
                    }
                }
                Woken::Not => {
                    self.trim();
                    if self.listening == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Serves one request of each channel that has one, as far as a turn's worth goes; what that cost. 0: none has.
    pub(super) fn pass(&mut self) -> usize {
        let (mut cost, count) = (0, self.common.channels.all.len());
        for _ in 0..count {
            if cost >= TURN_COST {
                break;
            }
            let at = self.common.channels.next;
            self.common.channels.next = if at + 1 < count { at + 1 } else { 0 };
            cost += self.exchange(at);
        }
        cost
    }

    fn exchange(&mut self, at: usize) -> usize {
        let Some(channel) = self
            .common
            .channels
            .all
            .get_mut(at)
            .filter(|channel| channel.is_live())
        else {
            return 0;
        };
        let turn = channel.window.turn();
        if turn == Turn::Client {
            return 0;
        }
        let (is_first, it) = (channel.stage == Stage::Live, *channel);
        channel.stage = Stage::Used;
        let served = match self.places.get_mut(usize::from(it.connection)) {
            Some(Place::Live(connection)) if turn == Turn::Server => {
                if is_first {
                    let (number, name) = (
                        Number(it.number.into()),
                        Signed(connection.link.name.into()),
                    );
                    self.common
                        .log
                        .info(text!("Channel % of FD % is used", number, name));
                }
                answer(
                    &it,
                    &mut connection.link,
                    &mut self.common,
                    &mut self.copied,
                )
            }
            _ => None,
        };
        if served.is_none()
            && let Some(channel) = self.common.channels.all.get_mut(at)
        {
            channel.end(&mut self.common.fs);
            self.common.channels.changed = true;
        }
        served.unwrap_or(0) + 1
    }
}

/// What a client sends first, and is sent back.
const GREETING: &[u8] = b"{}\n";

/// Bytes of a Twrite's datagram before its data.
const WRITE_BYTES: usize = DATAGRAM_HEADER_BYTES + Twrite::LEAST - HEADER_BYTES;

/// A copy of the request at hand, which its client cannot change any more.
pub struct Copied {
    bytes: Region<u8>,
    touched: usize,
}

impl Copied {
    /// Reserves room for the longest, if there are channels.
    pub fn new(channels: &Channels) -> Self {
        let bytes = if channels.all.is_empty() {
            0
        } else {
            DATAGRAM_BYTES
        };
        Self {
            bytes: Region::reserve(bytes),
            touched: 0,
        }
    }

    /// Takes `length` bytes out of the window, but for the data of a Twrite, which stay there. None: no room.
    fn take(&mut self, window: Window, length: usize) -> Option<(&[u8], Option<usize>)> {
        let bytes = self.bytes.get_mut(..length)?;
        self.touched = self.touched.max(length);
        let head = WRITE_BYTES.min(length);
        window.copy(bytes.get_mut(..head)?);
        if length >= WRITE_BYTES && bytes.first() == Some(&Twrite::KIND) {
            return Some((bytes.get(..head)?, Some(head)));
        }
        window.copy(bytes);
        Some((bytes, None))
    }

    /// Whether [`Copied::trim`] has something to give back.
    pub fn wants_trim(&self) -> bool {
        self.touched > 0
    }

    /// Gives the memory back.
    pub fn trim(&mut self) {
        self.bytes
            .discard(0..self.touched.next_multiple_of(PAGE_BYTES));
        self.touched = 0;
    }
}

/// Serves the request that stands in a channel's window; what that cost. None: the client does not keep to the rules.
#[inline(never)]
fn answer(
    channel: &Channel,
    link: &mut Link,
    common: &mut Common<'_>,
    copied: &mut Copied,
) -> Option<usize> {
    let (mut window, shared) = (channel.window, channel.window);
    let length = window.length();
    let (request, data_at) = copied.take(window, length)?;
    if request == GREETING {
        return window.give(GREETING, GREETING.len()).then_some(0);
    }
    let [kind, _, body @ ..] = request else {
        return None;
    };
    let mut session = common.session(link, None, data_at.map(|at| shared.data(at, length)));
    let size = u32::try_from(length + HEADER_BYTES - DATAGRAM_HEADER_BYTES).unwrap_or(u32::MAX);
    let header = Header {
        size,
        kind: *kind,
        tag: NO_TAG,
    };
    let answered = dispatch(&mut session, header, body, window.room());
    let (mut has_fd, fs) = (0, &mut common.fs);
    if let Some(open) = answered.donated {
        // Without it the reply is a reply still: a client that takes none must not stop the others.
        if let (Some(socket), fd @ Some(_)) = (fs.donated(channel.ours), fs.donated(open)) {
            has_fd = u8::from(send(socket, &[], fd).is_ok());
        }
        fs.release_open(open);
    }
    fs.reap(RELEASES_PER_TURN);
    let reply = answered.reply + DATAGRAM_HEADER_BYTES - HEADER_BYTES;
    window
        .give(&[answered.kind, has_fd], reply)
        .then_some(answered.cost)
}

/// What the log says instead of a tag: datagrams have none.
const NO_TAG: Tag = Tag(u16::MAX);
