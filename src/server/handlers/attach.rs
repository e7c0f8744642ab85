//! Session messages: Tversion, Tattach, Tflush, Tclunk (docs/protocol.md 3.5).

use rustix::io::Errno;

use crate::fs::append::Habit;
use crate::fs::attr::Meta;
use crate::fs::name::Name;
use crate::fs::waiters::Which;
use crate::limits::{FRAME_BYTES, WALK_NAMES};
use crate::p9::messages::{Message, Rattach, Rflush, Rversion, Tattach, Tclunk, Tflush, Tversion};
use crate::p9::version::Version;
use crate::p9::wire::{Fid, Str, Writer};
use crate::server::dispatch::Session;
use crate::server::fids::State;
use crate::server::handlers::{walk, xattr};
use crate::tables::Id;
use crate::text;
use crate::text::Arg::{Of, Quoted, Signed};

/// Tversion -> Rversion. Agrees on message size and version; fids survive. Another protocol's version, before any was
/// agreed on, is answered with `unknown`, as version(5) of 9P2000 has it: the client says so to its user, which it
/// does not upon Rlerror. Once one was agreed on the client is known to ask by mistake.
/// Requests that wait for locks end without a reply (version(5): outstanding I/O is aborted).
///
/// Errors, in this order: `EINVAL` msize 0; for gVisor's versions `EINVAL` msize above
/// [`FRAME_BYTES`], for plain 9P2000.L and what is unknown it is lowered instead; `EINVAL` not a version. The size is in
/// force from then on even if the version is refused. A version above ours is answered with ours.
pub fn version(s: &mut Session<'_>, t: Tversion<'_>, out: &mut Writer<'_>) -> Result<(), Errno> {
    let text = t.version.0;
    let asked = Version::parse(text);
    let is_unknown = !s.link.has_version && !Version::is_of_family(text);
    let msize = match usize::try_from(t.msize).map_err(|_| Errno::INVAL)? {
        0 => return Err(Errno::INVAL),
        larger if larger > FRAME_BYTES && !is_unknown && asked != Some(Version::Plain) => {
            return Err(Errno::INVAL);
        }
        msize => msize.min(FRAME_BYTES),
    };
    s.link.msize = msize;
    let mut buffer = [0; 32];
    let text = if is_unknown {
        s.log_refusal(text!(
            "FD %: Tversion refused (only 9P2000.L is served): \"%\"",
            Signed(s.link.name.into()),
            Quoted(text)
        ));
        b"unknown"
    } else {
        let asked = asked.ok_or(Errno::INVAL)?;
        s.fs.forget_waiters(s.link.id, Which::All, &mut |_| {});
        s.link.linux = asked == Version::Plain;
        s.link.habit = Habit::default();
        s.link.knows_channels = asked >= Version::Google(8);
        s.link.is_of_2019 = asked == Version::Google(7);
        s.link.has_version = true;
        let version = asked.min(Version::HIGHEST);
        // As it was sent, leading zeros and all, where it is granted as it was asked.
        if version == asked {
            text
        } else {
            version.text(&mut buffer)
        }
    };
    let msize = u32::try_from(msize).map_err(|_| Errno::INVAL)?;
    Rversion {
        msize,
        version: Str(text),
    }
    .encode(out);
    Ok(())
}

/// Tattach -> Rattach. A fid for the attach point, or for what `aname` names below it. Linux attaches again
/// for each of its users, as often as it likes; files made through that fid and those walked to from it are the user's.
///
/// Errors, in this order: `EINVAL` afid given; `ENOMEM` no room for the fid; `EIO` the attach point
/// cannot be opened or was attached before; `EINVAL` a part of aname that is no name; `E2BIG` more than
/// [`WALK_NAMES`] parts; then those of a walk. The qid is the attach point's even if aname goes deeper (since 2019-02-15),
/// but for Linux. A refusal is a line in the log.
pub fn attach(s: &mut Session<'_>, t: Tattach<'_>) -> Result<Rattach, Errno> {
    let aname = t.aname.0;
    try_attach(s, t).inspect_err(|&errno| {
        s.log_refusal(text!(
            "FD %: Tattach refused (%): \"%\"",
            Signed(s.link.name.into()),
            Of(errno),
            Quoted(aname)
        ));
    })
}

/// [`attach`], without the line.
fn try_attach(s: &mut Session<'_>, t: Tattach<'_>) -> Result<Rattach, Errno> {
    if t.afid != Fid::NONE {
        return Err(Errno::INVAL);
    }
    s.fids.reserve(s.link.id, t.fid)?;
    let root = s.fs.attach(s.link.id, s.link.linux)?;
    let path = t.aname.0.strip_prefix(b"/").unwrap_or(t.aname.0);
    if let Err(errno) = check_path(s, path) {
        s.fs.release(root);
        return Err(errno);
    }
    let node = if path.is_empty() {
        root
    } else {
        let below = walk::descend(
            s,
            root,
            path.split(|&byte| byte == b'/'),
            &mut Meta::new(),
            |_| {},
        );
        s.fs.release(root);
        below?
    };
    s.bind(t.fid, State::Walked { node });
    s.fids.set_user(s.link.id, t.fid, t.uid);
    let told = if s.link.linux {
        node
    } else {
        s.fs.root(s.link.id)
    };
    Ok(Rattach {
        qid: s.qid(told, Id::NONE)?,
    })
}

/// Errors, in this order: `EINVAL` a part that is no name; `E2BIG` more than [`WALK_NAMES`].
fn check_path(s: &mut Session<'_>, path: &[u8]) -> Result<(), Errno> {
    let mut parts = 0;
    if !path.is_empty() {
        for part in path.split(|&byte| byte == b'/') {
            Name::new(part)?;
            parts += 1;
        }
    }
    s.cost += 2 * parts;
    if parts > WALK_NAMES {
        Err(Errno::TOOBIG)
    } else {
        Ok(())
    }
}

/// Tflush -> Rflush. Requests are served one after the other, so the old one is answered already, unless it waits for
/// a lock: then it is not, ever.
pub fn flush(s: &mut Session<'_>, t: Tflush) -> Result<Rflush, Errno> {
    s.fs.forget_waiters(s.link.id, Which::Numbered(t.oldtag.0), &mut |_| {});
    Ok(Rflush {})
}

/// What Tsetattrclunk does behind a Tsetattr, whatever came of that: gives the fid up. Error: `EBADF` no such fid.
pub fn give_up(s: &mut Session<'_>, fid: Fid) -> Result<(), Errno> {
    let state = s.fids.remove(s.link.id, fid)?;
    s.release(state);
    Ok(())
}

/// Tclunk -> Rclunk. What was written to a fid of Txattrcreate is set now; the fid is gone in every case.
///
/// Errors, in this order: `EBADF` no such fid; then those of [`xattr::commit`].
pub fn clunk(s: &mut Session<'_>, t: Tclunk) -> Result<(), Errno> {
    let state = s.fids.remove(s.link.id, t.fid)?;
    let done = xattr::commit(s, state);
    s.release(state);
    done
}
