//! Opening and creating (docs/protocol.md 3.7).

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::SocketType;

use crate::fs::append::Size;
use crate::fs::file::Access;
use crate::fs::name::Name;
use crate::fs::{NodeId, OpenId};
use crate::p9::messages::{
    Rchannel, Rlcreate, Rlopen, Rucreate, Tchannel, Tlconnect, Tlcreate, Tlopen, Tucreate,
};
use crate::p9::qid::Qid;
use crate::p9::wire::{Fid, Gid, Uid};
use crate::server::dispatch::{Donating, Session};
use crate::server::fids::State;

/// Tlopen -> Rlopen. Opens the file of a walked fid, once; the descriptor of a regular file or a FIFO is
/// donated. A FIFO is not waited for: `ENXIO` for writing without a reader.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted (not to Linux), already open, or of a kind that
/// is not opened ([`crate::fs::Fs::opens`]); `EISDIR` a directory for writing or to truncate; `ENOTDIR` Linux
/// wants a directory; `EROFS` writing or truncating on a read-only attach point; then those of
/// [`crate::fs::Fs::open`]. Of the flags the access mode and O_TRUNC count, and those of [`flags`]. No
/// descriptor is donated to Linux, which reads its socket without room for one.
/// Source: docs/protocol.md 3.7, state of 2022; open(2).
pub fn lopen(s: &mut Session<'_>, t: Tlopen) -> Result<Donating<Rlopen>, Errno> {
    let state = s.get(t.fid)?;
    let node = state.node();
    if !s.link.linux && s.fs.is_deleted(node) {
        return Err(Errno::INVAL);
    }
    state.not_opened(Errno::INVAL)?;
    let kind = s.fs.kind(node)?;
    if !s.fs.opens(kind, s.link.linux) {
        return Err(Errno::INVAL);
    }
    let access = Access::of_flags(t.flags);
    let mut more = flags(s, t.flags);
    let truncate = t.flags & OFlags::TRUNC.bits() != 0;
    more.set(OFlags::TRUNC, truncate && kind == FileType::RegularFile); // a FIFO has nothing to cut off
    if kind == FileType::Directory && (!access.is_read_only() || truncate) {
        return Err(Errno::ISDIR);
    }
    if s.link.linux && t.flags & DIRECTORY != 0 && kind != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    if (access.writes() || truncate) && s.fs.is_read_only(s.link.id) {
        return Err(Errno::ROFS);
    }
    let (open, marked) = open(s, (node, kind), access, more)?;
    let (qid, size) = s.qid_and_size(node, open)?;
    if marked {
        s.fs.mark(node, open, size);
    }
    let donated = (kind != FileType::Directory && !s.link.linux).then(|| {
        s.fs.hold_open(open);
        open
    });
    // The fid's reference to the node passes from its old state to the new one.
    s.fids.set(s.link.id, t.fid, State::Open { node, open });
    Ok(Donating {
        reply: Rlopen { qid, iounit: 0 },
        donated,
    })
}

/// Opens the file of a node; of a regular one to Linux notes what that shows of it. Whether it was opened for appending,
/// but without O_APPEND, and is to be marked. A file that takes nothing but appends (chattr(1), `+a`) is opened with it.
///
/// Errors: those of [`crate::fs::Fs::open`].
fn open(
    s: &mut Session<'_>,
    (node, kind): (NodeId, FileType),
    access: Access,
    more: OFlags,
) -> Result<(OpenId, bool), Errno> {
    if !s.link.linux || kind != FileType::RegularFile {
        return s.fs.open(node, access, more).map(|open| (open, false));
    }
    let mut marked = wants_mark(s, node, access, more);
    let flags = if marked { more - OFlags::APPEND } else { more };
    let mut opened = s.fs.open(node, access, flags);
    if marked && matches!(opened, Err(Errno::PERM)) {
        marked = false;
        opened = s.fs.open(node, access, more);
    }
    if access.writes() {
        let habit = &mut s.link.habit;
        s.fs.note_open(node, opened.is_ok(), access.is_write_only(), habit);
    }
    if opened.is_ok() && more.contains(OFlags::TRUNC) {
        s.fs.note_size(node, Size::Set(0));
    }
    opened.map(|open| (open, marked))
}

/// Whether the file of a node, or one that is created in it, is to be opened without O_APPEND, and marked.
fn wants_mark(s: &Session<'_>, node: NodeId, access: Access, more: OFlags) -> bool {
    let write_only = access.is_write_only();
    s.link.linux
        && more.contains(OFlags::APPEND)
        && access.writes()
        && s.fs.wants_mark(node, write_only, &s.link.habit)
}

/// Linux's number for O_DIRECTORY on the wire, on all architectures.
const DIRECTORY: u32 = 0o200_000;

/// Linux's further flags as the host has them: O_APPEND, O_DSYNC, O_SYNC and O_NOATIME do what they do on a
/// local file. The others are the client's own matter, or ignored (O_DIRECT: nothing is aligned here).
fn flags(s: &Session<'_>, flags: u32) -> OFlags {
    let known = OFlags::APPEND | OFlags::DSYNC | OFlags::SYNC | OFlags::NOATIME;
    if s.link.linux {
        OFlags::from_bits_retain(flags) & known
    } else {
        OFlags::empty()
    }
}

/// Tlcreate -> Rlcreate. Creates a file, always exclusively, and opens it; the directory's fid becomes
/// the file's. The owner stays the server's, or is the user that Linux attached for. The descriptor is donated.
///
/// Errors, in this order: `EINVAL` not a name; `EBADF` no such fid; `EINVAL` deleted (a
/// directory `ENOENT` to version 7, that of runtimes of 2019), not a directory, or open; `EROFS` a read-only attach point; then those of [`crate::fs::Fs::create`], with `ESTALE` in
/// place of `EEXIST` where Linux did not ask for O_EXCL: it looks again, and opens what has appeared.
pub fn lcreate(s: &mut Session<'_>, t: Tlcreate<'_>) -> Result<Donating<Rlcreate>, Errno> {
    let Donating {
        reply: qid,
        donated,
    } = create(s, t.fid, t.name.0, t.flags, t.perm.0, (Uid::NONE, t.gid))?;
    Ok(Donating {
        reply: Rlcreate { qid, iounit: 0 },
        donated,
    })
}

/// Tucreate -> Rucreate. As [`lcreate`], with an owner.
pub fn ucreate(s: &mut Session<'_>, t: Tucreate<'_>) -> Result<Donating<Rucreate>, Errno> {
    let Donating {
        reply: qid,
        donated,
    } = create(s, t.fid, t.name.0, t.flags, t.perm.0, (t.uid, t.gid))?;
    Ok(Donating {
        reply: Rucreate { qid, iounit: 0 },
        donated,
    })
}

fn create(
    s: &mut Session<'_>,
    fid: Fid,
    name: &[u8],
    wire: u32,
    perm: u32,
    (uid, gid): (Uid, Gid),
) -> Result<Donating<Qid>, Errno> {
    let name = Name::new(name)?;
    let node = s.get(fid)?.node();
    if s.link.is_of_2019 && s.fs.is_deleted(node) && s.fs.kind(node)? == FileType::Directory {
        return Err(Errno::NOENT); // as the original of those runtimes
    }
    let (parent, state) = s.directory(fid)?;
    state.not_opened(Errno::INVAL)?; // to Linux too: the fid becomes the file's
    s.writable()?;
    let (access, more) = (Access::of_flags(wire), flags(s, wire));
    let marked = wants_mark(s, parent, access, more);
    let how = (access, if marked { more - OFlags::APPEND } else { more });
    let owner = s.owner(fid, uid, gid);
    let (node, open) = match s.fs.create(parent, name, how, perm, owner) {
        Err(Errno::EXIST) if s.link.linux && wire & OFlags::EXCL.bits() == 0 => {
            return Err(Errno::STALE);
        }
        made => made?,
    };
    let qid = s.qid(node, open)?;
    if s.link.linux {
        s.fs.note_size(node, Size::Set(0));
        s.fs.note_open(node, true, access.is_write_only(), &mut s.link.habit);
    }
    if marked {
        s.fs.mark(node, open, 0);
    }
    let donated = (!s.link.linux).then(|| {
        s.fs.hold_open(open);
        open
    });
    s.bind(fid, State::Open { node, open });
    Ok(Donating {
        reply: qid,
        donated,
    })
}

/// Tlconnect -> Rlconnect. A socket connected to the host's socket that was walked to; it is donated, and
/// not the fid's: the reference is the reply's.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted or not a socket; `ENXIO` a type other than
/// stream, datagram and seqpacket; then those of [`crate::fs::Fs::connect`].
pub fn lconnect(s: &mut Session<'_>, t: Tlconnect) -> Result<OpenId, Errno> {
    let node = s.get(t.fid)?.node();
    if s.fs.is_deleted(node) || s.fs.kind(node)? != FileType::Socket {
        return Err(Errno::INVAL);
    }
    let kind = match t.socktype {
        0 => SocketType::STREAM,
        1 => SocketType::DGRAM,
        2 => SocketType::SEQPACKET,
        _ => return Err(Errno::NXIO),
    };
    s.fs.connect(node, kind)
}

/// Tchannel -> Rchannel. The memory of a channel, or the socket that its descriptors come over; it is donated.
///
/// Errors, in this order: `ENOSYS` a version below 8, or Linux's; then those of [`crate::server::channels::Channels::offer`].
pub fn channel(s: &mut Session<'_>, t: Tchannel) -> Result<Donating<Rchannel>, Errno> {
    if !s.link.knows_channels {
        return Err(Errno::NOSYS);
    }
    let (reply, open) = s.channels.offer(s.link.id, t.id, t.control, s.fs)?;
    Ok(Donating {
        reply,
        donated: Some(open),
    })
}
