//! Byte-range locks, of Linux's clients alone (protocol.md 7). None is waited for: Linux asks again.

use rustix::io::Errno;

use crate::fs::locks::{Found, LockKind, Span};
use crate::p9::messages::{Rgetlock, Rlock, Tgetlock, Tlock};
use crate::p9::wire::{Fid, Str};
use crate::server::dispatch::Session;

/// Tlock -> Rlock. Takes a lock or gives it back; status 0 is done, 1 another's is in the way.
///
/// The owner is `client_id` with `proc_id`, not the fid: a forked child that closes a shared file gives its
/// own locks back through its parent's fid. A lock ends with the fid that it was taken through. Flags
/// (wait, reclaim) are not looked at.
///
/// Errors, in this order: `EINVAL` no such kind; `EBADF` no such fid; `EINVAL` not open, or not a range; then those
/// of [`crate::fs::Fs::lock`].
pub fn lock(s: &mut Session<'_>, t: Tlock<'_>) -> Result<Rlock, Errno> {
    let kind = LockKind::new(t.kind)?;
    let found = meet(
        s,
        t.fid,
        false,
        kind,
        (t.start, t.length),
        (t.proc_id, t.client_id),
    )?;
    Ok(Rlock {
        status: u8::from(found.is_some()),
    })
}

fn meet(
    s: &mut Session<'_>,
    fid: Fid,
    ask: bool,
    kind: LockKind,
    (start, length): (u64, u64),
    (proc_id, client_id): (u32, Str<'_>),
) -> Result<Option<Found>, Errno> {
    let state = s.get(fid)?;
    let file = (state.node(), state.opened()?);
    let span = Span::new(start, length)?;
    let owner = s.fs.locker(s.link.id, proc_id, client_id.0);
    s.fs.lock(file, owner, ask, kind, span)
}

/// Tgetlock -> Rgetlock. A lock that is in the way, or the question with kind 2, none.
///
/// Linux asks with kind 2 whatever its process asked for; that is answered as for an exclusive lock.
/// The name of the other's client is not kept, nor of interest to Linux. Errors: as for [`lock`].
pub fn getlock<'a>(s: &mut Session<'_>, t: Tgetlock<'a>) -> Result<Rgetlock<'a>, Errno> {
    let kind = match LockKind::new(t.kind)? {
        LockKind::NONE => LockKind::WRITE,
        kind => kind,
    };
    let found = meet(
        s,
        t.fid,
        true,
        kind,
        (t.start, t.length),
        (t.proc_id, t.client_id),
    )?;
    let mut reply = Rgetlock {
        kind: LockKind::NONE.byte(),
        start: t.start,
        length: t.length,
        proc_id: t.proc_id,
        client_id: t.client_id,
    };
    if let Some(found) = found {
        reply.kind = found.kind.byte();
        reply.start = found.span.start();
        reply.length = found.span.length();
        reply.proc_id = found.proc_id;
        reply.client_id = Str::default();
    }
    Ok(reply)
}
