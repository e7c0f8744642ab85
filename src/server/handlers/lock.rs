//! Byte-range locks, of Linux's clients alone (docs/protocol.md 7).

use rustix::io::Errno;

use crate::fs::locks::{LockKind, Locker, Span};
use crate::fs::{NodeId, OpenId};
use crate::p9::messages::{Rgetlock, Rlock, Tgetlock, Tlock};
use crate::p9::wire::{Fid, Str};
use crate::server::dispatch::Session;

/// Tlock -> Rlock. Takes a lock or gives it back; status 0 is done, 1 another's is in the way.
///
/// With P9_LOCK_FLAGS_BLOCK a lock that is in the way is waited for ([`crate::fs::waiters`]), and the reply comes later;
/// where no more may wait, and on a channel, which has one request at a time, status 1 tells it. Without it the answer is
/// the same whoever waits. The other flag (reclaim) is not looked at.
///
/// The owner is `client_id` with `proc_id`, not the fid: a forked child that closes a shared file gives its
/// own locks back through its parent's fid. A lock ends with the fid that it was taken through.
///
/// Errors, in this order: `EINVAL` no such kind; `EBADF` no such fid; `EINVAL` not open, or not a range; then those
/// of [`crate::fs::Fs::lock`]; later `EINTR` the fid was given up.
pub fn lock(s: &mut Session<'_>, t: Tlock<'_>) -> Result<Rlock, Errno> {
    let kind = LockKind::new(t.kind)?;
    let (file, owner, span) = asked(s, t.fid, (t.start, t.length), (t.proc_id, t.client_id))?;
    let tag = s
        .tag
        .filter(|_| t.flags & LOCK_FLAGS_BLOCK != 0 && kind != LockKind::NONE);
    let done = match tag {
        Some(tag) => s.fs.lock_or_wait(file, owner, kind, span, tag.0)?,
        None => Some(s.fs.lock(file, owner, false, kind, span)?.is_none()),
    };
    s.is_unanswered = done.is_none();
    Ok(Rlock {
        status: u8::from(done != Some(true)),
    })
}

/// Linux waits (P9_LOCK_FLAGS_BLOCK).
const LOCK_FLAGS_BLOCK: u32 = 1;

/// What a request is about: the open file, the owner, and the range. Errors: see [`lock`].
fn asked(
    s: &Session<'_>,
    fid: Fid,
    (start, length): (u64, u64),
    (proc_id, client_id): (u32, Str<'_>),
) -> Result<((NodeId, OpenId), Locker, Span), Errno> {
    let state = s.get(fid)?;
    let file = (state.node(), state.opened()?);
    let span = Span::new(start, length)?;
    Ok((file, s.fs.locker(s.link.id, proc_id, client_id.0), span))
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
    let (file, owner, span) = asked(s, t.fid, (t.start, t.length), (t.proc_id, t.client_id))?;
    let found = s.fs.lock(file, owner, true, kind, span)?;
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
