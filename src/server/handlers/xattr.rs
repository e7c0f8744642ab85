//! Extended attributes, by the messages of gVisor and by the walks of Linux: `user.*` alone (docs/linux.md,
//! "Differences").

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::fs::name::NameBuffer;
use crate::fs::xattr::UserName;
use crate::limits::XATTR_BYTES;
use crate::p9::messages::{
    Rxattrwalk, Tgetxattr, Tlistxattr, Tremovexattr, Tsetxattr, Txattrcreate, Txattrwalk,
};
use crate::p9::wire::{Fid, Field, Str, Writer};
use crate::server::dispatch::Session;
use crate::server::fids::State;

/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted.
fn file(s: &mut Session<'_>, fid: Fid) -> Result<State, Errno> {
    let state = s.get(fid)?;
    if s.fs.is_deleted(state.node()) {
        return Err(Errno::INVAL);
    }
    Ok(state)
}

/// Tgetxattr -> Rgetxattr. The value goes straight into the reply; size 0 takes one of any length.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted; those of [`UserName::new`];
/// `ERANGE` longer than size; `EMSGSIZE` the reply has no room; then those of [`crate::fs::Fs::get_xattr`].
pub fn getxattr(s: &mut Session<'_>, t: Tgetxattr<'_>, out: &mut Writer<'_>) -> Result<(), Errno> {
    let state = file(s, t.fid)?;
    let mut buffer = NameBuffer::new();
    let name = UserName::new(t.name.0, &mut buffer)?;
    let len_at = out.len();
    0u16.write(out);
    let room = out.room();
    let ours = room.len().min(usize::from(u16::MAX));
    let limit = match usize::try_from(t.size) {
        Ok(size) if size > 0 => size.min(ours),
        _ => ours,
    };
    let room = room.get_mut(..limit).filter(|room| !room.is_empty());
    let room = room.ok_or(Errno::MSGSIZE)?;
    let len = match s.fs.get_xattr(state.node(), state.open(), name, room) {
        Err(Errno::RANGE) if limit as u64 != t.size => return Err(Errno::MSGSIZE),
        done => done?,
    };
    out.advance(len);
    out.patch(len_at, &u16::try_from(len).unwrap_or(0).to_le_bytes());
    Ok(())
}

/// Tlistxattr -> Rlistxattr. Size 0 takes a list of any length; it counts a NUL for each name.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted; `ENOMEM` no room to sort the names; those
/// of [`crate::fs::Fs::list_xattrs`]; `ERANGE` longer than size; `EMSGSIZE` the reply has no room.
pub fn listxattr(s: &mut Session<'_>, t: Tlistxattr, out: &mut Writer<'_>) -> Result<(), Errno> {
    let state = file(s, t.fid)?;
    let value = s.values.take()?;
    let room = s.values.room(value);
    let done = s.fs.list_xattrs(state.node(), state.open(), room);
    let done = done.and_then(|len| {
        if t.size != 0 && len as u64 > t.size {
            return Err(Errno::RANGE);
        }
        let count_at = out.len();
        0u16.write(out);
        let mut count = 0u16;
        for name in room.get(..len).unwrap_or_default().split(|&byte| byte == 0) {
            if !name.is_empty() {
                Str(name).write(out);
                count += 1;
            }
        }
        out.patch(count_at, &count.to_le_bytes());
        Ok(())
    });
    s.values.release(value);
    done
}

/// Tsetxattr -> Rsetxattr. Flags are setxattr(2)'s.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted; `EROFS` a read-only attach point; those of
/// [`UserName::new`]; then those of [`crate::fs::Fs::set_xattr`].
pub fn setxattr(s: &mut Session<'_>, t: Tsetxattr<'_>) -> Result<(), Errno> {
    change(s, t.fid, t.name, Some((t.value.0, t.flags)))
}

/// Tremovexattr -> Rremovexattr. Errors: as those of [`setxattr`].
pub fn removexattr(s: &mut Session<'_>, t: Tremovexattr<'_>) -> Result<(), Errno> {
    change(s, t.fid, t.name, None)
}

fn change(
    s: &mut Session<'_>,
    fid: Fid,
    name: Str<'_>,
    value: Option<(&[u8], u32)>,
) -> Result<(), Errno> {
    let state = file(s, fid)?;
    s.writable()?;
    let mut buffer = NameBuffer::new();
    let name = UserName::new(name.0, &mut buffer)?;
    s.fs.set_xattr(state.node(), state.open(), name.text(), value)
}

/// Txattrwalk -> Rxattrwalk. A fid that holds the value as it now is, for Tread; with no name the names, each
/// with a NUL behind. Also of a deleted file.
///
/// Errors, in this order: `EBADF` no such fid; `ENODATA` a name that is not served, which is what Linux takes
/// for "none there"; `ENOMEM` no room for newfid, or too many values are held; then those of
/// [`crate::fs::Fs::get_xattr`] or [`crate::fs::Fs::list_xattrs`].
pub fn xattrwalk(s: &mut Session<'_>, t: Txattrwalk<'_>) -> Result<Rxattrwalk, Errno> {
    let state = s.get(t.fid)?;
    let mut buffer = NameBuffer::new();
    let name = match t.name.0 {
        b"" => None,
        name => Some(UserName::new(name, &mut buffer).map_err(|_| Errno::NODATA)?),
    };
    s.fids.reserve(s.link.id, t.newfid)?;
    let (node, open) = (state.node(), state.open());
    let value = s.values.take()?;
    let room = s.values.room(value);
    let read = match name {
        Some(name) => s.fs.get_xattr(node, open, name, room),
        None => s.fs.list_xattrs(node, open, room),
    };
    let size = read.inspect_err(|_| s.values.release(value))?;
    s.values.is_read(value, size);
    s.fs.hold(node);
    s.bind(t.newfid, State::Value { node, value });
    Ok(Rxattrwalk { size: size as u64 })
}

/// Txattrcreate -> Rxattrcreate. The fid becomes the place where an attribute's value is written, in order;
/// Tclunk sets it. Flags are setxattr(2)'s; size 0 with XATTR_REPLACE removes the attribute, which is how
/// Linux does it.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` open, or holding a value; `EROFS` a read-only attach
/// point; those of [`UserName::new`]; `E2BIG` above [`XATTR_BYTES`]; `ENOMEM` too many values are held.
pub fn xattrcreate(s: &mut Session<'_>, t: Txattrcreate<'_>) -> Result<(), Errno> {
    let state = s.get(t.fid)?;
    state.not_opened(Errno::INVAL)?;
    s.writable()?;
    let mut buffer = NameBuffer::new();
    let name = UserName::new(t.name.0, &mut buffer)?;
    if t.size > XATTR_BYTES as u64 {
        return Err(Errno::TOOBIG);
    }
    let value = s.values.take()?;
    s.values.will_be_written(value, name, t.size, t.flags);
    // The fid's reference to the node passes from its old state to the new one.
    let node = state.node();
    s.fids.set(s.link.id, t.fid, State::Value { node, value });
    Ok(())
}

/// Sets the value that a fid's Tclunk completes. Errors, in this order: `EINVAL` fewer bytes than announced,
/// nothing is set; then those of [`crate::fs::Fs::set_xattr`].
pub fn commit(s: &mut Session<'_>, state: State) -> Result<(), Errno> {
    let Some(whole) = s.values.whole(state.value())? else {
        return Ok(());
    };
    let removes = whole.bytes.is_empty() && whole.flags == XattrFlags::REPLACE.bits();
    let value = (!removes).then_some((whole.bytes, whole.flags));
    s.fs.set_xattr(state.node(), state.open(), whole.name, value)
}
