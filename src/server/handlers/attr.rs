//! Attributes and what else is asked of a file without opening it (docs/protocol.md 3.8, 3.10).

use linux_raw_sys::general::V9FS_MAGIC;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::fs::append::Size;
use crate::fs::attr::{Change, Meta, Time, qid_type};
use crate::fs::name::Name;
use crate::fs::tree::qid_path;
use crate::limits::{LINK_BYTES, WALK_NAMES};
use crate::p9::attr::{FullStat, GetMask, SetMask};
use crate::p9::messages::{
    Message, Rgetattr, Rstatfs, Tgetattr, Tmultigetattr, Treadlink, Tsetattr, Tstatfs,
};
use crate::p9::qid::Qid;
use crate::p9::wire::{Field, Gid, Uid, Writer};
use crate::server::dispatch::Session;

/// Tgetattr -> Rgetattr. All attributes whatever was asked, also of a deleted file.
///
/// Errors, in this order: `EBADF` no such fid; then fstat(2)'s.
pub fn getattr(s: &mut Session<'_>, t: Tgetattr, out: &mut Writer<'_>) -> Result<(), Errno> {
    let state = s.get(t.fid)?;
    let mut meta = Meta::new();
    s.fs.meta(state.node(), state.open(), &mut meta)?;
    let valid = if s.link.linux {
        GetMask(GetMask::GIVEN.0 | GetMask::INO.0) // all basic ones, else it looks at each
    } else {
        GetMask::GIVEN
    };
    let attr = meta.attr();
    if s.link.linux && meta.file_type() == FileType::RegularFile {
        s.fs.note_size(state.node(), Size::Seen(attr.size));
    }
    let qid = s.shown(s.fs.qid(state.node())?, meta.version());
    Rgetattr { valid, qid, attr }.encode(out);
    Ok(())
}

/// Tstatfs -> Rstatfs. Linux hands the type on to programs, which must not take this for the host's file system.
///
/// Errors, in this order: `EBADF` no such fid; then fstatfs(2)'s.
pub fn statfs(s: &mut Session<'_>, t: Tstatfs) -> Result<Rstatfs, Errno> {
    let state = s.get(t.fid)?;
    let mut statfs = s.fs.statfs(state.node(), state.open())?;
    if s.link.linux {
        statfs.kind = V9FS_MAGIC;
    }
    Ok(Rstatfs { statfs })
}

/// Treadlink -> Rreadlink.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted (not to Linux) or not a symlink; `ENAMETOOLONG`
/// no room, or longer than [`LINK_BYTES`]; then readlinkat(2)'s.
#[inline(never)] // its buffer has no place in the frame of all handlers
pub fn readlink(s: &mut Session<'_>, t: Treadlink, out: &mut Writer<'_>) -> Result<(), Errno> {
    let node = s.get(t.fid)?.node();
    if !s.link.linux && s.fs.is_deleted(node) || s.fs.kind(node)? != FileType::Symlink {
        return Err(Errno::INVAL);
    }
    let mut target = [0; LINK_BYTES];
    let len = s.fs.readlink(node, &mut target)?;
    u16::try_from(len)
        .map_err(|_| Errno::NAMETOOLONG)?
        .write(out);
    out.bytes(target.get(..len).unwrap_or_default());
    Ok(())
}

/// Tsetattr -> Rsetattr. Also of a deleted file.
///
/// Errors, in this order: `EBADF` no such fid; `EROFS` a read-only attach point, even with nothing to
/// change; `EPERM` the change time among the bits, nothing is done, but Linux sends it with everything;
/// `EOPNOTSUPP` Linux, the mode of a symlink; then those of [`crate::fs::Fs::change`].
pub fn setattr(s: &mut Session<'_>, t: Tsetattr) -> Result<(), Errno> {
    let state = s.get(t.fid)?;
    s.writable()?;
    let has = |bit| t.valid.has(bit);
    let touch = has(SetMask::CTIME);
    if touch && !s.link.linux {
        return Err(Errno::PERM);
    }
    if s.link.linux && has(SetMask::MODE) && s.fs.kind(state.node())? == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    let a = t.attr;
    let time = |set, given, sec, nsec| match (has(set), has(given)) {
        (false, _) => Time::Keep,
        (true, false) => Time::Now,
        (true, true) => Time::At(sec, nsec),
    };
    let change = Change {
        perm: has(SetMask::MODE).then_some(a.perm.0),
        size: has(SetMask::SIZE).then_some(a.size),
        atime: time(
            SetMask::ATIME,
            SetMask::ATIME_GIVEN,
            a.atime_sec,
            a.atime_nsec,
        ),
        mtime: time(
            SetMask::MTIME,
            SetMask::MTIME_GIVEN,
            a.mtime_sec,
            a.mtime_nsec,
        ),
        owner: (
            if has(SetMask::UID) { a.uid } else { Uid::NONE },
            if has(SetMask::GID) { a.gid } else { Gid::NONE },
        ),
        touch: t.valid == SetMask::CTIME, // what else changes touches it by itself
    };
    let done = s.fs.change(state.node(), state.open(), &change);
    if let Some(size) = change.size
        && done.is_ok()
    {
        s.fs.note_size(state.node(), Size::Set(size));
    }
    done
}

/// Tmultigetattr -> Rmultigetattr. Attributes of a chain of names, each below the one before it, up to the
/// first that is missing or no directory; a first name that is empty is the fid's file itself. No fid is made,
/// and nothing is opened but paths.
///
/// Errors, in this order: `EINVAL` a name that is none; `EBADF` no such fid; `E2BIG` more than [`WALK_NAMES`]
/// names; `EMSGSIZE` no room for so many replies; then those of [`crate::fs::Fs::look`], but ENOENT.
/// Source: docs/protocol.md 3.15.
pub fn multigetattr(
    s: &mut Session<'_>,
    t: Tmultigetattr<'_>,
    out: &mut Writer<'_>,
) -> Result<(), Errno> {
    for (at, name) in t.names.iter().enumerate() {
        below_or_own(at, name.0)?;
    }
    let state = s.get(t.fid)?;
    let count_at = out.len();
    0u16.write(out);
    if t.names.len() > WALK_NAMES {
        return Err(Errno::TOOBIG);
    }
    if out.room().len() < t.names.len() * <FullStat as Field>::LEAST {
        return Err(Errno::MSGSIZE);
    }
    s.cost += 3 * t.names.len();
    let (node, open) = (state.node(), state.open());
    let mut below = None;
    let mut meta = Meta::new();
    let mut count = 0u16;
    for (at, name) in t.names.iter().enumerate() {
        let name = below_or_own(at, name.0)?;
        let device = match s.fs.look(node, open, &mut below, name, &mut meta) {
            Err(Errno::NOENT) if name.is_some() => break,
            looked => looked?,
        };
        let kind = meta.file_type();
        // A FullStat, piece by piece.
        Qid {
            kind: qid_type(kind),
            version: 0,
            path: qid_path(device, meta.inode()),
        }
        .write(out);
        GetMask::GIVEN.write(out);
        meta.attr().write(out);
        count += 1;
        if name.is_some() && kind != FileType::Directory {
            break;
        }
    }
    out.patch(count_at, &count.to_le_bytes());
    Ok(())
}

/// A name of Tmultigetattr; none stands for the fid's own file. Error: `EINVAL` it is none.
fn below_or_own(at: usize, name: &[u8]) -> Result<Option<Name<'_>>, Errno> {
    if at == 0 && name.is_empty() {
        return Ok(None);
    }
    Name::new(name).map(Some)
}
