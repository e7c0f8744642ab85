//! From a request's number to its handler, and from what that says to a reply.

use rustix::io::Errno;

use super::channels::Channels;
use super::connection::Link;
use super::fids::Fids;
use super::handlers::{attach, attr, data, dir, entries, lock, open, walk, xattr};
use super::values::Values;
use crate::fs::{Fs, OpenId};
use crate::log::Log;
use crate::p9::messages::*;
use crate::p9::show::Shown;
use crate::p9::wire::{Data, Field, HEADER_BYTES, Header, Reader, Tag, Writer};
use crate::text;
use crate::text::Arg::{Number, Of, Raw, Said, Signed};

/// What a handler works on.
pub struct Session<'a> {
    /// Its connection.
    pub link: &'a mut Link,
    /// All fids.
    pub fids: &'a mut Fids,
    /// Values of extended attributes that fids hold.
    pub values: &'a mut Values,
    /// All files.
    pub fs: &'a mut Fs,
    /// What the command line says.
    pub policy: &'a Policy,
    /// The log.
    pub log: &'a Log,
    /// All channels.
    pub channels: &'a mut Channels,
    /// The tag of the request at hand. None: it came through a channel, which waits for its reply.
    pub tag: Option<Tag>,
    /// The reply to the request at hand comes later.
    pub is_unanswered: bool,
    /// The data of a Twrite, where they do not stand in its body: a client may change them, and nobody looks at
    /// them but the call that takes them.
    pub data: Option<&'a [u8]>,
    /// Units of its turn that the request at hand costs: about its system calls.
    pub cost: usize,
}

/// What the command line says of serving.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// `--qid-version`: qids have their file's version, where the client looks at it.
    pub qid_versions: bool,
    /// Whether the runtime may be one that speaks LISAFS unless it is told not to.
    pub may_be_lisafs: bool,
}

/// What became of a request.
pub struct Answered {
    /// Number of the reply.
    pub kind: u8,
    /// Bytes of the reply at the start of the room given; 0: it comes later.
    pub reply: usize,
    /// The open file whose descriptor goes with it, with a reference of its own.
    pub donated: Option<OpenId>,
    /// Work that it was, for the turn's budget: about the system calls on the host.
    pub cost: usize,
}

/// A reply that may donate a descriptor.
pub struct Donating<R> {
    /// The reply.
    pub reply: R,
    /// The open file to donate, with a reference for the reply.
    pub donated: Option<OpenId>,
}

/// Handles one request and writes its reply, or Rlerror, into `room`.
///
/// Errors that come before a handler's own: `EIO` not decodable, or a number that is not served
/// (docs/protocol.md 1.4, but on the request's own tag); `ENOSYS` the number of a reply.
/// `EMSGSIZE` the reply has no room in the agreed message size.
#[inline(never)]
pub fn dispatch(
    session: &mut Session<'_>,
    header: Header,
    body: &[u8],
    room: &mut [u8],
) -> Answered {
    let room_bytes = session.link.msize.max(Rlerror::LEAST).min(room.len());
    let room = room.get_mut(..room_bytes).unwrap_or_default();
    let mut out = Writer::new(room);
    out.bytes(&[0; HEADER_BYTES]);
    let mut donated = None;
    // Before anything is done: whatever the handler does, its reply would have no room.
    let done = if reply_least(header.kind) > room_bytes {
        Err(Errno::MSGSIZE)
    } else {
        handle(session, header.kind, body, &mut out, &mut donated)
    };
    let done = done.and_then(|()| out.written().map_err(|_| Errno::MSGSIZE));
    if session.log.debug {
        log_request(session, header, body, done);
    }
    let kind = match done {
        Ok(_) => header.kind.wrapping_add(1),
        Err(errno) => {
            if let Some(open) = donated.take() {
                session.fs.release_open(open);
            }
            out = Writer::new(room);
            refuse(&mut out, errno)
        }
    };
    let reply = if session.is_unanswered {
        0
    } else {
        finish(&mut out, kind, header.tag)
    };
    let cost = core::mem::take(&mut session.cost) + session.fs.take_units();
    Answered {
        kind,
        reply,
        donated,
        cost,
    }
}

/// Writes Rlerror behind the room for its header; its number.
fn refuse(out: &mut Writer<'_>, errno: Errno) -> u8 {
    out.bytes(&[0; HEADER_BYTES]);
    Rlerror {
        ecode: errno.raw_os_error().cast_unsigned(),
    }
    .encode(out);
    Rlerror::KIND
}

/// Writes the header of a reply; its bytes in all.
fn finish(out: &mut Writer<'_>, kind: u8, tag: Tag) -> usize {
    let reply = out.len();
    let size = u32::try_from(reply).unwrap_or(u32::MAX);
    out.patch(0, &Header { size, kind, tag }.encode());
    reply
}

/// Writes the reply to a Tlock that has waited into `room`; its bytes. `link` is its connection.
#[inline(never)]
pub fn answer_lock(
    log: &Log,
    link: &Link,
    tag: u16,
    done: Result<(), Errno>,
    room: &mut [u8],
) -> usize {
    let mut out = Writer::new(room);
    let kind = match done {
        Ok(()) => {
            out.bytes(&[0; HEADER_BYTES]);
            Rlock { status: 0 }.encode(&mut out);
            Rlock::KIND
        }
        Err(errno) => refuse(&mut out, errno),
    };
    if log.debug {
        let (name, number) = (Signed(link.name.into()), Number(tag.into()));
        let done = done.map_or_else(Of, |()| Raw(b"done"));
        log.debug(text!("FD % tag % has waited -> %", name, number, done));
    }
    finish(&mut out, kind, Tag(tag))
}

/// One readable line a request, with what became of it.
#[cold]
fn log_request(session: &Session<'_>, header: Header, body: &[u8], done: Result<usize, Errno>) {
    let (log, kind) = (session.log, header.kind);
    let (name, tag) = (
        Signed(session.link.name.into()),
        Number(header.tag.0.into()),
    );
    let shown = Shown { kind, body };
    match done {
        _ if session.is_unanswered => {
            log.debug(text!("FD % tag % % -> waits", name, tag, Said(&shown)));
        }
        Ok(bytes) => {
            let bytes = Number(bytes as u64);
            log.debug(text!(
                "FD % tag % % -> % bytes",
                name,
                tag,
                Said(&shown),
                bytes
            ));
        }
        Err(errno) => log.debug(text!(
            "FD % tag % % -> %",
            name,
            tag,
            Said(&shown),
            Of(errno)
        )),
    }
}

/// Decodes the request and gives it to its handler. Errors: see [`dispatch`].
#[inline(never)] // or its frame makes every access of dispatch and of the handlers longer: 3 kB
fn handle(
    s: &mut Session<'_>,
    kind: u8,
    body: &[u8],
    out: &mut Writer<'_>,
    donated: &mut Option<OpenId>,
) -> Result<(), Errno> {
    s.cost = COST_OF_MOST;
    match kind {
        LOCKS_FIRST..=LOCKS_LAST if !s.link.linux => Err(Errno::IO), // no numbers of gVisor's
        Tversion::KIND => read(body).and_then(|t| attach::version(s, t, out)),
        Tauth::KIND => Err(Errno::NOSYS),
        Tattach::KIND => put(out, read(body).and_then(|t| attach::attach(s, t))),
        Tflush::KIND => put(out, read(body).and_then(|t| attach::flush(s, t))),
        Tclunk::KIND => read(body).and_then(|t| attach::clunk(s, t)),
        Twalk::KIND => read(body).and_then(|t| walk::walk(s, t, out)),
        Twalkgetattr::KIND => read(body).and_then(|t| walk::walkgetattr(s, t, out)),
        Tlopen::KIND => donate(out, donated, read(body).and_then(|t| open::lopen(s, t))),
        Tlcreate::KIND => donate(out, donated, read(body).and_then(|t| open::lcreate(s, t))),
        Tucreate::KIND => donate(out, donated, read(body).and_then(|t| open::ucreate(s, t))),
        Tread::KIND => read(body).and_then(|t| data::read(s, t, out)),
        Twrite::KIND => put(
            out,
            read_write(body, s.data).and_then(|t| data::write(s, t)),
        ),
        Tfsync::KIND => put(out, read(body).and_then(|t| data::fsync(s, t))),
        Tflushf::KIND => put(out, read(body).and_then(|t| data::flushf(s, t))),
        Tallocate::KIND => put(out, read(body).and_then(|t| data::allocate(s, t))),
        Treadlink::KIND => read(body).and_then(|t| attr::readlink(s, t, out)),
        Tgetattr::KIND => read(body).and_then(|t| attr::getattr(s, t, out)),
        // One layout for both.
        Tsetattr::KIND | Tsetattrclunk::KIND => read(body).and_then(|t: Tsetattr| {
            let done = attr::setattr(s, t);
            match kind {
                Tsetattr::KIND => done,
                _ => attach::give_up(s, t.fid).and(done),
            }
        }),
        Tstatfs::KIND => put(out, read(body).and_then(|t| attr::statfs(s, t))),
        Treaddir::KIND => read(body).and_then(|t| dir::readdir(s, t, out)),
        Tsymlink::KIND => put(out, read(body).and_then(|t| entries::symlink(s, t))),
        Tusymlink::KIND => put(out, read(body).and_then(|t| entries::usymlink(s, t))),
        Tmkdir::KIND => put(out, read(body).and_then(|t| entries::mkdir(s, t))),
        Tumkdir::KIND => put(out, read(body).and_then(|t| entries::umkdir(s, t))),
        Tmknod::KIND => put(out, read(body).and_then(|t| entries::mknod(s, t))),
        Tumknod::KIND => put(out, read(body).and_then(|t| entries::umknod(s, t))),
        Tlink::KIND => put(out, read(body).and_then(|t| entries::link(s, t))),
        Trename::KIND => put(out, read(body).and_then(|t| entries::rename(s, t))),
        Trenameat::KIND => put(out, read(body).and_then(|t| entries::renameat(s, t))),
        Tunlinkat::KIND => put(out, read(body).and_then(|t| entries::unlinkat(s, t))),
        Tremove::KIND => put(out, read(body).and_then(|t| entries::remove(s, t))),
        Tlock::KIND => put(out, read(body).and_then(|t| lock::lock(s, t))),
        Tgetlock::KIND => put(out, read(body).and_then(|t| lock::getlock(s, t))),
        Tlconnect::KIND => read(body)
            .and_then(|t| open::lconnect(s, t))
            .map(|socket| *donated = Some(socket)),
        Txattrwalk::KIND => put(out, read(body).and_then(|t| xattr::xattrwalk(s, t))),
        Txattrcreate::KIND => read(body).and_then(|t| xattr::xattrcreate(s, t)),
        Tgetxattr::KIND => read(body).and_then(|t| xattr::getxattr(s, t, out)),
        Tlistxattr::KIND => read(body).and_then(|t| xattr::listxattr(s, t, out)),
        Tsetxattr::KIND => read(body).and_then(|t| xattr::setxattr(s, t)),
        Tremovexattr::KIND => read(body).and_then(|t| xattr::removexattr(s, t)),
        Tmultigetattr::KIND => read(body).and_then(|t| attr::multigetattr(s, t, out)),
        Tbind::KIND => read(body).and_then(|t| entries::bind(s, t)),
        Tchannel::KIND => donate(out, donated, read(body).and_then(|t| open::channel(s, t))),
        kind if is_reply(kind) => Err(Errno::NOSYS),
        _ => Err(Errno::IO),
    }
}

/// Numbers of the messages about locks, replies included.
const LOCKS_FIRST: u8 = Tlock::KIND;
const LOCKS_LAST: u8 = Rgetlock::KIND;

/// Units of a turn that a request costs unless its handler says more.
const COST_OF_MOST: usize = 3;

fn read<'a, T: Message<'a>>(body: &'a [u8]) -> Result<T, Errno> {
    T::decode(body).map_err(|_| Errno::IO)
}

/// Twrite, with its data elsewhere if they are.
fn read_write<'a>(body: &'a [u8], elsewhere: Option<&'a [u8]>) -> Result<Twrite<'a>, Errno> {
    let Some(data) = elsewhere else {
        return read(body);
    };
    let mut from = Reader::new(body);
    let (fid, offset, count) = (
        Field::read(&mut from),
        Field::read(&mut from),
        u32::read(&mut from),
    );
    match u64::from(count) == data.len() as u64 {
        true => Ok(Twrite {
            fid,
            offset,
            data: Data(data),
        }),
        false => Err(Errno::IO),
    }
}

fn put<'a, R: Message<'a>>(out: &mut Writer<'_>, reply: Result<R, Errno>) -> Result<(), Errno> {
    reply.map(|reply| reply.encode(out))
}

fn donate<'a, R: Message<'a>>(
    out: &mut Writer<'_>,
    donated: &mut Option<OpenId>,
    reply: Result<Donating<R>, Errno>,
) -> Result<(), Errno> {
    reply.map(
        |Donating {
             reply,
             donated: open,
         }| {
            reply.encode(out);
            *donated = open;
        },
    )
}
