//! Opening and creating (protocol.md 3.7).

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::SocketType;

use crate::fs::OpenId;
use crate::fs::attr::Kind;
use crate::fs::file::Access;
use crate::fs::name::Name;
use crate::p9::messages::{Rlcreate, Rlopen, Rucreate, Tlconnect, Tlcreate, Tlopen, Tucreate};
use crate::p9::qid::Qid;
use crate::p9::wire::{Fid, Gid, Uid};
use crate::server::dispatch::{Donating, Session};
use crate::server::fids::State;

/// Tlopen -> Rlopen. Opens the file of a walked fid, once; the descriptor of a regular file or a FIFO is
/// donated. A FIFO is not waited for: `ENXIO` for writing without a reader.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted, already open, a symlink or a socket;
/// `EISDIR` a directory for writing or to truncate; `EROFS` writing or truncating on a read-only attach
/// point; then those of [`crate::fs::Fs::open`]. Flags but the access mode and O_TRUNC are ignored.
/// Source: protocol.md 3.7, state of 2022; open(2).
pub fn lopen(s: &mut Session<'_>, t: Tlopen) -> Result<Donating<Rlopen>, Errno> {
    let state = s.get(t.fid)?;
    let node = state.node();
    if s.fs.is_deleted(node) {
        return Err(Errno::INVAL);
    }
    state.not_opened(Errno::INVAL)?;
    let kind = s.fs.kind(node)?;
    if matches!(kind, Kind::Symlink | Kind::Socket) {
        return Err(Errno::INVAL);
    }
    let access = Access::of_flags(t.flags);
    let truncate = t.flags & OFlags::TRUNC.bits() != 0;
    if kind == Kind::Directory && (!access.is_read_only() || truncate) {
        return Err(Errno::ISDIR);
    }
    if (access.writes() || truncate) && s.fs.is_read_only(s.link.id) {
        return Err(Errno::ROFS);
    }
    let qid = s.fs.qid(node)?;
    let open = s.fs.open(node, access, truncate)?;
    let donated = (kind != Kind::Directory).then(|| {
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

/// Tlcreate -> Rlcreate. Creates a file, always exclusively, and opens it; the directory's fid becomes
/// the file's. The owner stays the server's. The descriptor is donated.
///
/// Errors, in this order: `EINVAL` not a name; `EBADF` no such fid; `EINVAL` deleted, not a directory,
/// or open; `EROFS` a read-only attach point; then those of [`crate::fs::Fs::create`].
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
    flags: u32,
    perm: u32,
    owner: (Uid, Gid),
) -> Result<Donating<Qid>, Errno> {
    let name = Name::new(name)?;
    let parent = s.writable_directory(fid)?;
    let (node, open) = s.fs.create(parent, name, flags, perm, owner)?;
    s.fs.hold_open(open);
    let qid = s.fs.qid(node)?;
    s.bind(fid, State::Open { node, open });
    Ok(Donating {
        reply: qid,
        donated: Some(open),
    })
}

/// Tlconnect -> Rlconnect. A socket connected to the host's socket that was walked to; it is donated, and
/// not the fid's: the reference is the reply's.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted or not a socket; `ENXIO` a type other than
/// stream, datagram and seqpacket; then those of [`crate::fs::Fs::connect`].
#[inline(never)] // its locals would widen dispatch's frame: 1 kB for all such
pub fn lconnect(s: &mut Session<'_>, t: Tlconnect) -> Result<OpenId, Errno> {
    let node = s.get(t.fid)?.node();
    if s.fs.is_deleted(node) || s.fs.kind(node)? != Kind::Socket {
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
