//! One socket: its buffers, its message size, the frames in and the replies out.

use core::ops::Range;

use linux_raw_sys::general::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT};
use rustix::fd::{AsFd, OwnedFd, RawFd};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, recv};

use crate::fs::append::Habit;
use crate::fs::{Fs, OpenId};
use crate::limits::{
    DONATIONS, FRAME_BYTES, INPUT_BYTES, LARGE_REPLY_BYTES, OUTPUT_BYTES, PAGE_BYTES,
    SMALL_REPLY_BYTES, TRIM_AFTER_MS,
};
use crate::p9::messages::{
    Message, Rread, Tgetattr, Tgetxattr, Tlistxattr, Tmultigetattr, Tread, Treaddir, Treadlink,
    Tstatfs,
};
use crate::p9::wire::{HEADER_BYTES, Header};
use crate::sys::memory::Region;
use crate::sys::raw::{refuse_descriptors, send, set_receive_timeout, signal_input};
use crate::tables::Id;

/// Events of ppoll(2), as its entries have them.
pub type Events = i16;
/// Something to read.
pub const IN: Events = event(POLLIN);
/// Room to write.
pub const OUT: Events = event(POLLOUT);
/// An error.
pub const ERR: Events = event(POLLERR);
/// The peer is gone.
pub const HUP: Events = event(POLLHUP);
/// Not a descriptor.
pub const NVAL: Events = event(POLLNVAL);

#[allow(clippy::cast_possible_truncation)] // the bits are below 15
const fn event(bit: u32) -> Events {
    bit as Events
}

/// What a handler may know of its connection.
pub struct Link {
    /// Number of the connection, and of its attach point.
    pub id: u16,
    /// The socket's number on the command line.
    pub name: RawFd,
    /// Largest frame either way, bytes: [`FRAME_BYTES`] until a Tversion lowers it.
    pub msize: usize,
    /// Linux's v9fs is at the other end: plain 9P2000.L was agreed on, which gVisor's client does not ask
    /// for. Whatever differs between the two asks this.
    pub linux: bool,
    /// A version was agreed on that has channels.
    pub knows_channels: bool,
    /// Version 7 was agreed on, that of runtimes from 2019-05-09 to 2019-09-12.
    pub is_of_2019: bool,
    /// A version was agreed on.
    pub has_version: bool,
    /// Lines in the log about what was refused, at most [`crate::limits::REFUSALS_LOGGED`].
    pub refusals_logged: u8,
    /// How Linux's client writes.
    pub habit: Habit,
}

/// The next frame in the receive buffer.
pub enum Next {
    /// Not all there yet.
    Incomplete,
    /// Its header, and where its body lies.
    Frame(Header, Range<usize>),
    /// A size that no frame can have: the connection ends.
    Bad,
}

/// How a send went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Nothing is left to send.
    All,
    /// The peer does not read; something is left.
    Blocked,
    /// Replies could not be sent for want of memory, or it is no socket: nothing more can be right.
    Lost,
}

#[derive(Clone, Copy)]
struct Donation {
    /// Where its reply starts in the send buffer.
    at: usize,
    open: OpenId,
}

/// Makes a socket one that [`Connection::receive`] may wait for, at most [`TRIM_AFTER_MS`].
/// Errors: ioctl(2)'s, setsockopt(2)'s.
pub fn listen(socket: &OwnedFd) -> Result<(), Errno> {
    ioctl_fionbio(socket, false)?;
    let _where_it_can = refuse_descriptors(socket.as_fd());
    set_receive_timeout(socket.as_fd(), TRIM_AFTER_MS.unsigned_abs())
}

/// What a number may write at once, beyond its reply.
const NUMBER_BYTES: usize = 8;

/// A connection that has not ended.
pub struct Connection {
    socket: OwnedFd,
    /// The part that handlers see.
    pub link: Link,
    input: Region<u8>,
    received: Range<usize>,
    input_touched: usize,
    output: Region<u8>,
    replies: Range<usize>,
    output_touched: usize,
    /// In the order of their replies; the first `donation_count` count.
    donations: [Donation; DONATIONS],
    donation_count: usize,
    /// The peer sends no more.
    at_end: bool,
    /// The peer hears nothing any more.
    is_deaf: bool,
    /// A request waits for room in the send buffer.
    waits_for_room: bool,
    /// A request was handled.
    is_begun: bool,
}

impl Connection {
    /// Takes the socket over.
    pub fn new(id: u16, socket: OwnedFd, name: RawFd) -> Self {
        Self {
            socket,
            link: Link {
                id,
                name,
                msize: FRAME_BYTES,
                linux: false,
                knows_channels: false,
                is_of_2019: false,
                has_version: false,
                refusals_logged: 0,
                habit: Habit::default(),
            },
            input: Region::reserve(INPUT_BYTES),
            received: 0..0,
            input_touched: 0,
            output: Region::reserve(OUTPUT_BYTES),
            replies: 0..0,
            output_touched: 0,
            donations: [Donation {
                at: 0,
                open: Id::NONE,
            }; DONATIONS],
            donation_count: 0,
            at_end: false,
            is_deaf: false,
            waits_for_room: false,
            is_begun: false,
        }
    }

    /// Whether the socket is to signal what it has. Errors: [`signal_input`]'s.
    pub fn signal(&self, on: bool) -> Result<(), Errno> {
        signal_input(self.socket.as_fd(), on)
    }

    /// What to poll for: input, unless a whole request waits already; room, if replies wait.
    pub fn interest(&self) -> Events {
        let mut interest = 0;
        if !self.at_end && matches!(self.next(), Next::Incomplete) {
            interest |= IN;
        }
        if !self.replies.is_empty() {
            interest |= OUT;
        }
        interest
    }

    /// Takes what the peer has sent, as far as the buffer holds it. Descriptors sent along are not
    /// accepted: there is no room for them in the call, and the kernel drops them. An error, like the
    /// end, means that nothing more will come; what came before is still served.
    ///
    /// With `wait` it waits, as long as quiet may last ([`listen`]). False: nothing came.
    pub fn receive(&mut self, wait: bool) -> bool {
        self.make_room_for_input();
        let room = self.input.get_mut(self.received.end..).unwrap_or_default();
        if room.is_empty() {
            return false; // cannot be: a frame that fills the buffer is whole, and then nothing is received
        }
        let flags = match wait {
            true => RecvFlags::empty(),
            false => RecvFlags::DONTWAIT,
        };
        match recv(&self.socket, room, flags) {
            Ok((0, _)) => self.at_end = true,
            Ok((count, _)) => {
                self.received.end += count;
                self.input_touched = self.input_touched.max(self.received.end);
            }
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(_) => self.at_end = true,
        }
        true
    }

    /// The next frame that is there. A size below a header's or above the message size is bad.
    pub fn next(&self) -> Next {
        let bytes = self.input.get(self.received.clone()).unwrap_or_default();
        let Some(header) = Header::decode(bytes) else {
            return Next::Incomplete;
        };
        let size = header.size as usize;
        if size < HEADER_BYTES || size > self.link.msize.min(FRAME_BYTES) {
            return Next::Bad;
        }
        if bytes.len() < size {
            return Next::Incomplete;
        }
        Next::Frame(
            header,
            self.received.start + HEADER_BYTES..self.received.start + size,
        )
    }

    /// Whether the first that the peer sends is LISAFS's Mount, and so no 9P: `payload[4] 1[2] 0[2]`,
    /// which as a 9P header has a type that is none, and tag 0.
    pub fn begins_with_lisafs(&self) -> bool {
        const MOUNT: u8 = 1;
        let bytes = self.input.get(self.received.clone()).unwrap_or_default();
        !self.is_begun
            && Header::decode(bytes).is_some_and(|first| first.kind == MOUNT && first.tag.0 == 0)
    }

    /// Whether a turn can get something done: a frame is there, bad or good, and room for its reply.
    pub fn has_work(&self) -> bool {
        !self.waits_for_room && !matches!(self.next(), Next::Incomplete)
    }

    /// Whether all is received, answered and sent.
    pub fn is_done(&self) -> bool {
        self.at_end && self.replies.is_empty() && matches!(self.next(), Next::Incomplete)
    }

    /// Bytes to keep free for the reply to a request.
    pub fn reply_bound(&self, header: Header, body: &Range<usize>) -> usize {
        match header.kind {
            Tread::KIND | Treaddir::KIND => {}
            Tgetxattr::KIND | Tlistxattr::KIND | Tmultigetattr::KIND => return LARGE_REPLY_BYTES,
            _ => return SMALL_REPLY_BYTES,
        }
        let body = self.input.get(body.clone()).unwrap_or_default();
        let count = Tread::decode(body).map_or(0, |t| t.count as usize);
        Rread::LEAST + count.min(self.link.msize)
    }

    /// Whether a request is only to be dropped: nobody hears what was read, and nothing else would be done.
    pub fn is_pointless(&self, header: Header) -> bool {
        const READING: [u8; 8] = [
            Tread::KIND,
            Treaddir::KIND,
            Treadlink::KIND,
            Tgetattr::KIND,
            Tstatfs::KIND,
            Tgetxattr::KIND,
            Tlistxattr::KIND,
            Tmultigetattr::KIND,
        ];
        self.is_deaf && READING.contains(&header.kind)
    }

    /// Whether a reply of `bytes` has room, and the donation that may go with it.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        let has = self.output.len() - self.replies.end >= bytes && self.donation_count < DONATIONS;
        self.waits_for_room = !has;
        // A request that fails may have written all of it, and a number writes eight bytes.
        self.output_touched = self
            .output_touched
            .max(self.replies.end + bytes + NUMBER_BYTES);
        has
    }

    /// The request at `body`, the room for its reply, and the rest that its handler may see.
    pub fn parts(&mut self, body: Range<usize>) -> (&[u8], &mut [u8], &mut Link) {
        let body = self.input.get(body).unwrap_or_default();
        let room = self.output.get_mut(self.replies.end..).unwrap_or_default();
        (body, room, &mut self.link)
    }

    /// Drops the request just handled, of `size` bytes, and appends its reply, of `reply` bytes; no bytes: of no
    /// request, or without one. A reference to `donated` passes to the connection until the descriptor is sent.
    pub fn answer(&mut self, size: u32, reply: usize, donated: Option<OpenId>) {
        self.is_begun = true;
        self.received.start += size as usize;
        if self.received.is_empty() {
            self.received = 0..0;
        }
        if let (Some(open), Some(place)) = (donated, self.donations.get_mut(self.donation_count)) {
            *place = Donation {
                at: self.replies.end,
                open,
            };
            self.donation_count += 1;
        }
        self.replies.end += reply;
        self.output_touched = self.output_touched.max(self.replies.end + NUMBER_BYTES);
    }

    /// Moves a frame that the buffer's end cuts to its start; once for each frame at the most.
    fn make_room_for_input(&mut self) {
        let start = self.received.start;
        let size = match Header::decode(self.input.get(self.received.clone()).unwrap_or_default()) {
            Some(header) => (header.size as usize).min(FRAME_BYTES),
            None => HEADER_BYTES,
        };
        if start > 0 && start + size > self.input.len() {
            self.input.copy_within(self.received.clone(), 0);
            self.received = 0..self.received.end - start;
        }
    }

    /// Sends what waits, as much as the peer takes. A donated descriptor goes with the first byte of
    /// its reply, and what stands before that byte is sent by itself.
    pub fn flush(&mut self, fs: &mut Fs) -> Sent {
        while !self.replies.is_empty() {
            let start = self.replies.start;
            let first = self
                .donations
                .first()
                .filter(|_| self.donation_count > 0)
                .copied();
            let donated = first.filter(|donation| donation.at == start);
            let next = if donated.is_some() { 1 } else { 0 };
            let waiting = self
                .donations
                .get(next..self.donation_count)
                .unwrap_or_default();
            let end = waiting
                .first()
                .map_or(self.replies.end, |donation| donation.at);
            let bytes = self.output.get(start..end).unwrap_or_default();
            let fd = donated.and_then(|donation| fs.donated(donation.open));
            match send(self.socket.as_fd(), bytes, fd) {
                Ok(count) => {
                    self.replies.start += count;
                    if donated.is_some() && count > 0 {
                        self.drop_first_donation(fs);
                    }
                }
                Err(Errno::AGAIN) => return Sent::Blocked,
                Err(Errno::INTR) => {}
                // Too many descriptors under way: a reply without its own is legal (docs/protocol.md 1.5).
                Err(Errno::TOOMANYREFS) if donated.is_some() => self.drop_first_donation(fs),
                // The peer is gone. Only the receiving side ends a connection (docs/launch.md 3): what it
                // asked before is still done.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.is_deaf = true;
                    self.abandon(fs);
                }
                Err(_) => return Sent::Lost,
            }
        }
        self.replies = 0..0;
        self.waits_for_room = false;
        Sent::All
    }

    fn drop_first_donation(&mut self, fs: &mut Fs) {
        let [first, ..] = self.donations;
        fs.release_open(first.open);
        self.donations.rotate_left(1);
        self.donation_count -= 1;
    }

    /// Drops replies that are not sent, and gives up the open files that they donate.
    pub fn abandon(&mut self, fs: &mut Fs) {
        while self.donation_count > 0 {
            self.drop_first_donation(fs);
        }
        self.replies = 0..0;
    }

    /// Drops what was received and not served.
    pub fn forget_input(&mut self) {
        self.received = 0..0;
    }

    /// Whether [`Connection::trim`] has something to give back.
    pub fn wants_trim(&self) -> bool {
        (self.received.is_empty() && self.input_touched > 0)
            || (self.replies.is_empty() && self.output_touched > 0)
    }

    /// Gives the memory of empty buffers back.
    pub fn trim(&mut self) {
        if self.received.is_empty() {
            give_back(&mut self.input, &mut self.input_touched);
        }
        if self.replies.is_empty() {
            give_back(&mut self.output, &mut self.output_touched);
        }
    }
}

/// Gives back the first `touched` bytes of an empty buffer, of which nothing is touched then.
fn give_back(buffer: &mut Region<u8>, touched: &mut usize) {
    buffer.discard(0..touched.next_multiple_of(PAGE_BYTES));
    *touched = 0;
}
