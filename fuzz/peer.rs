//! A client's end: what it sends, what it is told, and whether that is right.

use super::tree::{CANARY, Tree};
use gofer::limits::{FRAME_BYTES, WINDOW_BYTES};
use gofer::p9::messages::{
    Message, Rchannel, Rlconnect, Rlcreate, Rlerror, Rlopen, Rucreate, Rversion, Tlock, Tversion,
    reply_least,
};
use gofer::p9::wire::{HEADER_BYTES, Header};
use rustix::fd::OwnedFd;
use rustix::fs::{
    FallocateFlags, FileType, SealFlags, fallocate, fcntl_get_seals, fcntl_getfl, fstat,
};
use rustix::io::{Errno, IoSliceMut, pread, pwrite};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    Shutdown, SocketFlags, SocketType, recvmsg, send, shutdown, socketpair,
};
use std::io::BufRead;

/// Bytes that it sends in a run, at the most.
const MOST_BYTES: usize = super::SENT_BYTES;

/// Where a window's datagram stands, and how many bytes it may have (docs/protocol.md 9).
const DATAGRAM_AT: u64 = 16;
const DATAGRAM_BYTES: usize = WINDOW_BYTES - 16;

/// Replies that a descriptor may come with.
const DONATES: [u8; 5] = [
    Rlopen::KIND,
    Rlcreate::KIND,
    Rucreate::KIND,
    Rlconnect::KIND,
    Rchannel::KIND,
];

pub(crate) struct Peer {
    /// None: closed.
    socket: Option<OwnedFd>,
    /// All that it has to send, and how much of it is sent.
    sent: Vec<u8>,
    done: usize,
    /// Bytes sent in one round.
    pub(crate) burst: usize,
    told: Vec<u8>,
    donated: usize,
    pub(crate) reads: bool,
    is_deaf: bool,
    /// Sends its end behind what it has to send.
    pub(crate) ends: bool,
    has_ended: bool,
    /// The memory of its channel, once it was given it, until it is over.
    memory: Option<OwnedFd>,
    /// Sockets that it was given: one may be its channel's.
    sockets: Vec<OwnedFd>,
    /// A Tversion went through the channel: what was agreed on is not known from the socket alone.
    agrees_elsewhere: bool,
}

impl Peer {
    /// One, and the server's end.
    pub(crate) fn pair() -> (Self, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("socketpair");
        let mut peer = Self::of(&[], &[]);
        peer.socket = Some(ours);
        (peer, theirs)
    }

    /// One that has sent and was told this, and is not connected.
    pub(crate) fn of(sent: &[u8], told: &[u8]) -> Self {
        Self {
            socket: None,
            sent: sent.to_vec(),
            done: sent.len(),
            burst: usize::MAX,
            told: told.to_vec(),
            donated: 0,
            reads: true,
            is_deaf: false,
            ends: false,
            has_ended: false,
            memory: None,
            sockets: Vec::new(),
            agrees_elsewhere: false,
        }
    }

    /// One that has nothing but a channel in this memory.
    #[cfg(not(fuzzing))] // for tests/fuzz.rs
    pub(crate) fn of_channel(memory: OwnedFd) -> Self {
        let mut peer = Self::of(&[], &[]);
        peer.memory = Some(memory);
        peer
    }

    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        if self.sent.len() + bytes.len() <= MOST_BYTES && !self.ends {
            self.sent.extend(bytes);
        }
    }

    pub(crate) fn shut_reading(&mut self) {
        if let Some(socket) = &self.socket {
            let _gone = shutdown(socket, Shutdown::Read);
            self.is_deaf = true;
        }
    }

    pub(crate) fn shut_writing(&mut self) {
        self.ends = true;
    }

    pub(crate) fn close(&mut self) {
        self.socket = None;
        self.is_deaf = true;
    }

    /// Sends what the server takes. Whether it took something.
    pub(crate) fn send(&mut self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let rest = &self.sent[self.done..];
        // However few: some thousand times at the most.
        let burst = self.burst.max(rest.len() / 256);
        let rest = &rest[..rest.len().min(burst)];
        if rest.is_empty() {
            if self.ends && !self.has_ended {
                let _gone = shutdown(socket, Shutdown::Write);
                self.has_ended = true;
                return true;
            }
            return false;
        }
        match send(socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => self.done += count,
            Err(Errno::AGAIN) => return false,
            Err(Errno::PIPE | Errno::CONNRESET) => self.done = self.sent.len(), // the server has ended it
            Err(errno) => panic!("send: {errno}"),
        }
        true
    }

    /// Reads what is there, if it reads. Whether there was something.
    pub(crate) fn receive(&mut self, tree: &Tree) -> bool {
        let Some(socket) = self.socket.as_ref().filter(|_| self.reads) else {
            return false;
        };
        let start = self.told.len();
        loop {
            let mut buffer = [0; 16 << 10];
            let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let got = match recvmsg(
                socket,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut control,
                flags,
            ) {
                Ok(got) if got.bytes > 0 => got,
                Ok(_) | Err(Errno::AGAIN | Errno::CONNRESET) => break,
                Err(errno) => panic!("recvmsg: {errno}"),
            };
            assert!(
                !got.flags.contains(ReturnFlags::CTRUNC),
                "more descriptors than four"
            );
            let fds = received(&mut control);
            assert!(fds.len() <= 1, "{} descriptors with one message", fds.len());
            self.donated += fds.len();
            for fd in fds {
                match checked(&fd, tree) {
                    Donated::File => {}
                    Donated::Memory => self.memory = Some(fd),
                    Donated::Socket => self.sockets.push(fd),
                }
            }
            self.told.extend(&buffer[..got.bytes]);
        }
        self.told.len() > start
    }

    /// Whether it has a channel, which is not over.
    pub(crate) fn has_channel(&self) -> bool {
        self.memory.is_some() && self.word(0) != OVER
    }

    /// Writes to the channel's window, wherever that is inside.
    pub(crate) fn scribble(&self, at: u64, bytes: &[u8]) {
        if let Some(memory) = &self.memory {
            let room = WINDOW_BYTES.saturating_sub(at as usize);
            let bytes = &bytes[..bytes.len().min(room)];
            let _count = pwrite(memory, bytes, at).expect("write to the window");
        }
    }

    /// Makes a hole of the window.
    pub(crate) fn punch(&self, at: u64, bytes: u64) {
        if let Some(memory) = &self.memory {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(memory, mode, at, bytes).expect("a hole in the window");
        }
    }

    /// Hands over what stands in the window, as a datagram of `length` bytes, with this `state`.
    pub(crate) fn hand_over(&mut self, length: u32, state: u32) {
        self.agrees_elsewhere |= self.datagram(1) == [Tversion::KIND];
        self.scribble(4, &length.to_le_bytes());
        self.scribble(0, &state.to_le_bytes());
    }

    fn word(&self, number: u64) -> u32 {
        let mut word = [0; 4];
        let memory = self.memory.as_ref().expect("a channel");
        let _count = pread(memory, &mut word, 4 * number).expect("read the window");
        u32::from_le_bytes(word)
    }

    /// So many bytes of what stands in the window.
    pub(crate) fn datagram(&self, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        if let Some(memory) = &self.memory {
            let _count = pread(memory, &mut all[..], DATAGRAM_AT).expect("read the window");
        }
        all
    }

    /// That a datagram of that number and length, which was handed over with `state`, was answered, or the channel
    /// ended, as it must be.
    pub(crate) fn check_channel(&mut self, kind: u8, (length, state): (u32, u32), tree: &Tree) {
        let now = self.word(0);
        if now == OVER {
            // Also because its connection has ended.
            self.memory = None;
            return;
        }
        assert_eq!(now, 0, "the server has left a window in this state");
        if state == 0 {
            return; // it was not the server's turn
        }
        let fits = (2..=DATAGRAM_BYTES).contains(&(length as usize));
        assert!(
            state == 1 && fits,
            "state {state}, {length} bytes were served"
        );
        let reply_bytes = self.word(1) as usize;
        assert!(
            (2..=FRAME_BYTES - 5).contains(&reply_bytes),
            "{reply_bytes} bytes"
        );
        let reply = self.datagram(reply_bytes);
        assert!(!has_canary(&reply), "what stands outside was told");
        if reply == b"{}\n" {
            return;
        }
        let (reply_kind, has_fd) = (reply[0], reply[1]);
        if reply_kind == Rlerror::KIND {
            let errno = Rlerror::decode(&reply[2..]).expect("a whole Rlerror").ecode;
            assert!(reply.len() == 6 && (1..134).contains(&errno), "{reply:?}");
        } else {
            assert_eq!(u32::from(reply_kind), u32::from(kind) + 1);
            let least = reply_least(kind);
            assert!(
                least > 0 && reply.len() + 5 >= least,
                "{} bytes to {kind}",
                reply.len()
            );
        }
        assert!(
            has_fd == 0 || has_fd == 1 && DONATES.contains(&reply_kind),
            "{reply:?}"
        );
        if has_fd == 1 {
            self.take_descriptor(tree);
        }
    }

    /// The descriptor that went ahead of a reply is there, if the socket for it was asked for.
    fn take_descriptor(&mut self, tree: &Tree) {
        let mut all = Vec::new();
        for socket in &self.sockets {
            let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let mut byte = [0];
            let iov = &mut [IoSliceMut::new(&mut byte)];
            if recvmsg(socket, iov, &mut control, flags).is_ok() {
                all.extend(received(&mut control));
            }
        }
        for fd in all {
            match checked(&fd, tree) {
                Donated::File | Donated::Memory => {}
                Donated::Socket => self.sockets.push(fd),
            }
        }
    }

    /// Whether the server may have ended the connection before all was answered: there is a size that no frame has,
    /// or that may be more than was agreed on, or what begins as LISAFS does.
    fn is_cut_off(&self) -> bool {
        if self.agrees_elsewhere {
            return true;
        }
        let mut rest = &self.sent[..self.done];
        let mut least = FRAME_BYTES;
        let mut is_first = true;
        while let Some(header) = Header::decode(rest) {
            let size = header.size as usize;
            if size < HEADER_BYTES
                || size > least
                || is_first && header.kind == 1 && header.tag.0 == 0
            {
                return true;
            }
            is_first = false;
            let Some((_, body)) = frame(&mut rest) else {
                break;
            };
            if header.kind == Tversion::KIND
                && let Ok(version) = Tversion::decode(body)
                && version.msize > 0
            {
                least = least.min(version.msize as usize);
            }
        }
        false
    }

    /// That what it was told answers what it has sent, one by one and in order; but for locks that wait.
    pub(crate) fn check(&self) {
        assert!(!has_canary(&self.told), "what stands outside was told");
        let (mut asked, mut told) = (&self.sent[..self.done], &self.told[..]);
        // None: not known, since a refused Tversion may have changed it.
        let mut msize = Some(FRAME_BYTES).filter(|_| !self.agrees_elsewhere);
        let mut may_donate = 0;
        let mut waiting: Vec<Header> = Vec::new();
        while let Some((reply, body_of_reply)) = frame(&mut told) {
            let asked = loop {
                let mut next = asked;
                let first = frame(&mut next);
                if let Some((first, _)) = first.filter(|(first, _)| first.tag == reply.tag) {
                    if waiting.iter().any(|late| late.tag == reply.tag) {
                        return; // which of the two is meant is not to be known
                    }
                    asked = next;
                    break first;
                }
                if let Some(at) = waiting.iter().position(|late| late.tag == reply.tag) {
                    break waiting.remove(at);
                }
                match first {
                    Some((first, body)) if may_wait(first, body) => {
                        waiting.push(first);
                        asked = next;
                    }
                    _ => panic!("{reply:?} answers nothing, or not {first:?}"),
                }
            };
            let is_error = reply.kind == Rlerror::KIND;
            let size = reply.size as usize;
            if is_error {
                assert_eq!(size, Rlerror::LEAST, "{asked:?}");
                let errno = Rlerror::decode(body_of_reply)
                    .expect("a whole Rlerror")
                    .ecode;
                assert!((1..134).contains(&errno), "errno {errno} to {asked:?}");
            } else {
                assert_eq!(
                    u32::from(reply.kind),
                    u32::from(asked.kind) + 1,
                    "{asked:?}"
                );
                let least = reply_least(asked.kind);
                assert!(least > 0 && size >= least, "{size} bytes to {asked:?}");
            }
            let most = msize.unwrap_or(FRAME_BYTES).max(Rlerror::LEAST);
            if asked.kind == Tversion::KIND {
                msize = match (is_error, Rversion::decode(body_of_reply)) {
                    (false, Ok(version)) if !self.agrees_elsewhere => Some(version.msize as usize),
                    _ => None,
                };
            } else {
                assert!(size <= most, "{size} bytes of {most} to {asked:?}");
            }
            may_donate += usize::from(DONATES.contains(&reply.kind));
        }
        if !self.is_deaf {
            let mut unanswered = frame(&mut asked);
            while let Some((first, body)) = unanswered
                && may_wait(first, body)
            {
                unanswered = frame(&mut asked);
            }
            assert!(
                unanswered.is_none() || self.is_cut_off(),
                "no answer to {unanswered:?}"
            );
            assert!(
                told.is_empty() || self.is_cut_off(),
                "{} bytes behind the last answer",
                told.len()
            );
            assert!(
                self.donated <= may_donate,
                "{} descriptors for {may_donate} replies",
                self.donated
            );
        }
    }
}

/// Whether a request may be answered late, or never: a Tlock with P9_LOCK_FLAGS_BLOCK, for reading or writing.
fn may_wait(asked: Header, body: &[u8]) -> bool {
    let is_it = |t: Tlock<'_>| t.flags & 1 == 1 && t.kind < 2;
    asked.kind == Tlock::KIND && Tlock::decode(body).is_ok_and(is_it)
}

/// A channel that is over.
const OVER: u32 = 2;

/// What a descriptor leads to.
enum Donated {
    File,
    Memory,
    Socket,
}

fn received(control: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let messages = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    messages.flatten().collect()
}

/// That what was donated may be.
fn checked(fd: &OwnedFd, tree: &Tree) -> Donated {
    let flags = fcntl_getfl(fd).expect("F_GETFL of what was donated");
    assert!(
        !flags.contains(rustix::fs::OFlags::PATH),
        "a held descriptor was donated"
    );
    let stat = fstat(fd).expect("fstat of what was donated");
    let size_stays = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile
            if fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(size_stays)) =>
        {
            Donated::Memory
        }
        FileType::RegularFile | FileType::Fifo => {
            tree.check_donated(&stat);
            Donated::File
        }
        FileType::Socket => Donated::Socket,
        kind => panic!("{kind:?} was donated"),
    }
}

/// The next frame, which is taken out. None: it is not whole, or of a size that no frame has.
fn frame<'a>(bytes: &mut &'a [u8]) -> Option<(Header, &'a [u8])> {
    let header = Header::decode(bytes)?;
    let size = header.size as usize;
    if !(HEADER_BYTES..=FRAME_BYTES).contains(&size) {
        return None;
    }
    let (frame, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    Some((header, &frame[HEADER_BYTES..]))
}

/// Whether what stands outside the tree is among these bytes.
fn has_canary(mut bytes: &[u8]) -> bool {
    // By std, which the fuzzer does not watch: looking at each byte here would take most of its time.
    while bytes.skip_until(CANARY[0]).expect("bytes in memory") > 0 {
        if bytes.starts_with(&CANARY[1..]) {
            return true;
        }
    }
    false
}
