//! From a request's number to its handler, and from what that says to a reply.

use rustix::io::Errno;

use super::connection::Link;
use super::fids::Fids;
use super::handlers::{attach, attr, data, dir, entries, open, walk, xattr};
use crate::fs::{Fs, OpenId};
use crate::limits::COST_BYTES;
use crate::log::Log;
use crate::p9::messages::{Message, Request, Rlerror, Undecodable};
use crate::p9::wire::{HEADER_BYTES, Header, Writer};

/// What a handler works on.
pub struct Session<'a> {
    /// Its connection.
    pub link: &'a mut Link,
    /// All fids.
    pub fids: &'a mut Fids,
    /// All files.
    pub fs: &'a mut Fs,
    /// What the command line says.
    pub policy: &'a Policy,
    /// The log.
    pub log: &'a Log,
}

/// What the command line says of serving.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// `--panic-on-write`.
    pub panic_on_write: bool,
}

/// What became of a request.
pub struct Answered {
    /// Bytes of the reply at the start of the room given.
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
/// (protocol.md 1.4, but on the request's own tag); `ENOSYS` the number of a reply.
/// `EMSGSIZE` the reply has no room in the agreed message size.
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
    let mut cost = 1;
    let done = match Request::decode(header.kind, body) {
        Ok(request) => {
            cost = cost_of(&request);
            handle(session, &request, &mut out, &mut donated)
        }
        Err(Undecodable::Malformed | Undecodable::Unknown) => Err(Errno::IO),
        Err(Undecodable::Reply) => Err(Errno::NOSYS),
    };
    let done = done.and_then(|()| out.written().map_err(|_| Errno::MSGSIZE));
    let (kind, reply) = match done {
        Ok(bytes) => (header.kind.wrapping_add(1), bytes),
        Err(errno) => {
            if let Some(open) = donated.take() {
                session.fs.release_open(open);
            }
            out = Writer::new(room);
            out.bytes(&[0; HEADER_BYTES]);
            Rlerror {
                ecode: errno.raw_os_error().cast_unsigned(),
            }
            .encode(&mut out);
            (Rlerror::KIND, out.len())
        }
    };
    let size = u32::try_from(reply).unwrap_or(u32::MAX);
    out.patch(
        0,
        &Header {
            size,
            kind,
            tag: header.tag,
        }
        .encode(),
    );
    Answered {
        reply,
        donated,
        cost,
    }
}

fn cost_of(request: &Request<'_>) -> usize {
    match request {
        Request::Twalk(t) => 2 + 2 * t.names.len(),
        Request::Twalkgetattr(t) => 2 + 2 * t.names.len(),
        Request::Tread(t) => 2 + t.count as usize / COST_BYTES,
        Request::Treaddir(t) => 2 + t.count as usize / COST_BYTES,
        Request::Twrite(t) => 2 + t.data.0.len() / COST_BYTES,
        Request::Tversion(_) | Request::Tflush(_) | Request::Tflushf(_) | Request::Tauth(_) => 1,
        _ => 4,
    }
}

fn handle(
    session: &mut Session<'_>,
    request: &Request<'_>,
    out: &mut Writer<'_>,
    donated: &mut Option<OpenId>,
) -> Result<(), Errno> {
    let s = session;
    match *request {
        Request::Tversion(t) => attach::version(s, t, out),
        Request::Tauth(_) => Err(Errno::NOSYS),
        Request::Tattach(t) => put(out, attach::attach(s, t)),
        Request::Tflush(t) => put(out, attach::flush(t)),
        Request::Tclunk(t) => put(out, attach::clunk(s, t)),
        Request::Twalk(t) => walk::walk(s, t, out),
        Request::Twalkgetattr(t) => walk::walkgetattr(s, t, out),
        Request::Tlopen(t) => put_donating(out, donated, open::lopen(s, t)),
        Request::Tlcreate(t) => put_donating(out, donated, open::lcreate(s, t)),
        Request::Tucreate(t) => put_donating(out, donated, open::ucreate(s, t)),
        Request::Tread(t) => data::read(s, t, out),
        Request::Twrite(t) => put(out, data::write(s, t)),
        Request::Tfsync(t) => put(out, data::fsync(s, t)),
        Request::Tflushf(t) => put(out, data::flushf(s, t)),
        Request::Treadlink(t) => attr::readlink(s, t, out),
        Request::Tgetattr(t) => put(out, attr::getattr(s, t)),
        Request::Tstatfs(t) => put(out, attr::statfs(s, t)),
        Request::Treaddir(t) => dir::readdir(s, t, out),
        Request::Tsymlink(t) => put(out, entries::symlink(s, t)),
        Request::Tusymlink(t) => put(out, entries::usymlink(s, t)),
        Request::Tmkdir(t) => put(out, entries::mkdir(s, t)),
        Request::Tumkdir(t) => put(out, entries::umkdir(s, t)),
        Request::Tmknod(t) => put(out, entries::mknod(s, t)),
        Request::Tumknod(t) => put(out, entries::umknod(s, t)),
        Request::Tlink(t) => put(out, entries::link(s, t)),
        Request::Trename(t) => put(out, entries::rename(s, t)),
        Request::Trenameat(t) => put(out, entries::renameat(s, t)),
        Request::Tunlinkat(t) => put(out, entries::unlinkat(s, t)),
        Request::Tremove(t) => put(out, entries::remove(s, t)),
        Request::Tsetattr(t) => put(out, attr::setattr(s, t)),
        Request::Tallocate(t) => put(out, data::allocate(s, t)),
        Request::Tlconnect(t) => put(out, open::lconnect(s, t)),
        Request::Txattrwalk(t) => put(out, xattr::xattrwalk(s, t)),
        Request::Txattrcreate(t) => put(out, xattr::xattrcreate(s, t)),
        // Numbers of versions above ours: not decoded.
        Request::Tgetxattr(_)
        | Request::Tsetxattr(_)
        | Request::Tlistxattr(_)
        | Request::Tremovexattr(_)
        | Request::Tsetattrclunk(_)
        | Request::Tmultigetattr(_)
        | Request::Tbind(_)
        | Request::Tchannel(_) => Err(Errno::IO),
    }
}

fn put<'a, R: Message<'a>>(out: &mut Writer<'_>, reply: Result<R, Errno>) -> Result<(), Errno> {
    reply.map(|reply| reply.encode(out))
}

fn put_donating<'a, R: Message<'a>>(
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
