//! Twalk and Twalkgetattr (docs/protocol.md 3.6).

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::fs::NodeId;
use crate::fs::attr::Meta;
use crate::fs::name::Name;
use crate::limits::WALK_NAMES;
use crate::p9::attr::GetMask;
use crate::p9::messages::{Message, Rwalk, Rwalkgetattr, Twalk, Twalkgetattr};
use crate::p9::qid::Qid;
use crate::p9::wire::{Fid, Field, List, Str, Writer};
use crate::server::dispatch::Session;
use crate::server::fids::State;

/// Twalk -> Rwalk. A fid for the file that the names lead to; without names, another one for the
/// same path. All names or none: a failure on the way leaves newfid as it was.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` a name that is none; `EBUSY` the fid is open
/// (to Linux: and newfid, or holds a value); `E2BIG` more than [`WALK_NAMES`] names; `EMSGSIZE` no room for the
/// reply; `ENOMEM` no room for newfid; those of [`crate::fs::Fs::hold_opened`]; then for each name `EINVAL` its parent is no directory, `ENOENT` its parent is deleted,
/// and those of [`crate::fs::Fs::walk`]. The reply has a qid a name.
pub fn walk(s: &mut Session<'_>, t: Twalk<'_>, out: &mut Writer<'_>) -> Result<(), Errno> {
    let from = check(s, t.fid, t.newfid, t.names, Rwalk::LEAST, out)?;
    let count = out.len();
    0u16.write(out);
    let node = go(s, from, t.names, &mut Meta::new(), out)?;
    patch_count(out, count, t.names.len());
    s.bind(t.newfid, State::Walked { node });
    s.inherit(t.fid, t.newfid);
    Ok(())
}

/// Twalkgetattr -> Rwalkgetattr. As [`walk`], with the attributes of where it ends, before the qids.
///
/// Errors: those of a walk, then fstat(2)'s of a clone.
pub fn walkgetattr(
    s: &mut Session<'_>,
    t: Twalkgetattr<'_>,
    out: &mut Writer<'_>,
) -> Result<(), Errno> {
    let from = check(s, t.fid, t.newfid, t.names, Rwalkgetattr::LEAST, out)?;
    GetMask::GIVEN.write(out);
    let attr_at = out.len();
    out.advance(<crate::p9::attr::Attr as Field>::LEAST);
    let count = out.len();
    0u16.write(out);
    let mut meta = Meta::new();
    let node = go(s, from, t.names, &mut meta, out)?;
    if t.names.is_empty() {
        s.fs.meta(node, crate::tables::Id::NONE, &mut meta)
            .inspect_err(|_| s.fs.release(node))?;
    }
    patch_count(out, count, t.names.len());
    out.put(attr_at, &meta.attr());
    s.bind(t.newfid, State::Walked { node });
    s.inherit(t.fid, t.newfid);
    Ok(())
}

fn check(
    s: &mut Session<'_>,
    fid: Fid,
    newfid: Fid,
    names: List<'_, Str<'_>>,
    reply: usize,
    out: &mut Writer<'_>,
) -> Result<NodeId, Errno> {
    let state = s.get(fid)?;
    for name in names.iter() {
        Name::new(name.0)?;
    }
    // Linux walks from files that it has open too, where it knows no other fid.
    if !s.link.linux || fid == newfid || state.value().is_some() {
        state.not_opened(Errno::BUSY)?;
    }
    if names.len() > WALK_NAMES {
        return Err(Errno::TOOBIG);
    }
    if out.room().len() + out.len() < reply + names.len() * <Qid as Field>::LEAST {
        return Err(Errno::MSGSIZE);
    }
    s.fids.reserve(s.link.id, newfid)?;
    s.fs.hold_opened(state.node(), state.open())?;
    s.cost += 2 * names.len();
    Ok(state.node())
}

fn patch_count(out: &mut Writer<'_>, at: usize, count: usize) {
    out.patch(at, &u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

/// The walk itself: where it ends, with one reference, and that file's attributes into `meta` if names led there.
fn go(
    s: &mut Session<'_>,
    from: NodeId,
    names: List<'_, Str<'_>>,
    meta: &mut Meta,
    out: &mut Writer<'_>,
) -> Result<NodeId, Errno> {
    if names.is_empty() {
        s.fs.hold(from);
        return Ok(from);
    }
    descend(s, from, names.iter().map(|name| name.0), meta, |qid| {
        qid.write(out)
    })
}

/// Walks names from `from` down; the node where they end, with one reference for the caller; its attributes
/// into `meta`. `from` itself keeps its references. Errors: see [`walk`].
pub fn descend<'n>(
    s: &mut Session<'_>,
    from: NodeId,
    names: impl Iterator<Item = &'n [u8]>,
    meta: &mut Meta,
    mut each: impl FnMut(Qid),
) -> Result<NodeId, Errno> {
    // Once for all: a name found below a directory that is not deleted is not deleted either.
    if s.fs.kind(from)? == FileType::Directory && s.fs.is_deleted(from) {
        return Err(Errno::NOENT);
    }
    s.fs.hold(from);
    let mut at = from;
    for name in names {
        let step = step(s, at, name, meta);
        s.fs.release(at); // a node below holds it from here on
        at = step?;
        let qid = s.fs.qid(at)?;
        each(s.shown(qid, meta.version()));
    }
    Ok(at)
}

fn step(s: &mut Session<'_>, at: NodeId, name: &[u8], meta: &mut Meta) -> Result<NodeId, Errno> {
    let name = Name::new(name)?;
    if s.fs.kind(at)? != FileType::Directory {
        return Err(s.wrong(Errno::NOTDIR));
    }
    s.fs.walk(at, name, s.link.linux, meta)
}
