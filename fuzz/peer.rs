//! A client's end: what it sends, what it is told, and whether that is right.

use super::tree::{CANARY, Tree};
use gofer::limits::FRAME_BYTES;
use gofer::p9::messages::{
    Message, Rlconnect, Rlcreate, Rlerror, Rlopen, Rucreate, Rversion, Tversion, reply_least,
};
use gofer::p9::wire::{HEADER_BYTES, Header};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, fcntl_getfl, fstat};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    Shutdown, SocketFlags, SocketType, recvmsg, send, shutdown, socketpair,
};
use std::io::BufRead;

/// Bytes that it sends in a run, at the most.
const MOST_BYTES: usize = super::SENT_BYTES;

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
        }
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
            let fds: Vec<OwnedFd> = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                    _ => None,
                })
                .flatten()
                .collect();
            assert!(fds.len() <= 1, "{} descriptors with one message", fds.len());
            for fd in &fds {
                let stat = fstat(fd).expect("fstat of what was donated");
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile | FileType::Fifo => tree.check_donated(&stat),
                    FileType::Socket => {}
                    kind => panic!("{kind:?} was donated"),
                }
                let flags = fcntl_getfl(fd).expect("F_GETFL of what was donated");
                assert!(
                    !flags.contains(rustix::fs::OFlags::PATH),
                    "a held descriptor was donated"
                );
            }
            self.donated += fds.len();
            self.told.extend(&buffer[..got.bytes]);
        }
        self.told.len() > start
    }

    /// Whether the server may have ended the connection before all was answered: there is a size that no frame has,
    /// or that may be more than was agreed on, or what begins as LISAFS does.
    fn is_cut_off(&self) -> bool {
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

    /// That what it was told answers what it has sent, one by one.
    pub(crate) fn check(&self) {
        assert!(!has_canary(&self.told), "what stands outside was told");
        let (mut asked, mut told) = (&self.sent[..self.done], &self.told[..]);
        // None: not known, since a refused Tversion may have changed it.
        let mut msize = Some(FRAME_BYTES);
        let mut may_donate = 0;
        while let Some((reply, body_of_reply)) = frame(&mut told) {
            let Some((asked, _)) = frame(&mut asked) else {
                panic!("{reply:?} answers nothing");
            };
            assert_eq!(reply.tag, asked.tag, "{reply:?} to {asked:?}");
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
                    (false, Ok(version)) => Some(version.msize as usize),
                    _ => None,
                };
            } else {
                assert!(size <= most, "{size} bytes of {most} to {asked:?}");
            }
            let donates = [
                Rlopen::KIND,
                Rlcreate::KIND,
                Rucreate::KIND,
                Rlconnect::KIND,
            ];
            may_donate += usize::from(donates.contains(&reply.kind));
        }
        if !self.is_deaf {
            let unanswered = frame(&mut asked);
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
