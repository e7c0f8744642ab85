//! File data (docs/protocol.md 3.8).

use rustix::io::Errno;

use crate::limits::{COST_BYTES, FRAME_BYTES};
use crate::p9::messages::{
    Rallocate, Rflushf, Rfsync, Rwrite, Tallocate, Tflushf, Tfsync, Tread, Twrite,
};
use crate::p9::wire::{Field, Uid, Writer};
use crate::server::dispatch::Session;

/// Tread -> Rread. One pread(2) straight into the reply; or a piece of the value that the fid holds.
///
/// Errors, in this order: `EBADF` no such fid; `ENOBUFS` count above [`FRAME_BYTES`]; `EINVAL` not open;
/// `EPERM` open for writing alone, or a value that is written; then pread(2)'s: `EISDIR`, `EINVAL` an offset of 2^63 or more.
/// A count above what the message size holds is cut.
pub fn read(s: &mut Session<'_>, t: Tread, out: &mut Writer<'_>) -> Result<(), Errno> {
    let state = s.get(t.fid)?;
    let count = t.count as usize;
    if count > FRAME_BYTES {
        return Err(Errno::NOBUFS);
    }
    let value = state.value();
    if !value.is_some() && s.fs.access(state.opened()?)?.is_write_only() {
        return Err(Errno::PERM);
    }
    let count_at = out.len();
    0u32.write(out);
    let room = out.room();
    let count = count.min(room.len());
    s.cost += count / COST_BYTES;
    let room = room.get_mut(..count).unwrap_or_default();
    let done = if value.is_some() {
        s.values.read(value, t.offset, room)?
    } else {
        s.fs.read(state.open(), t.offset, room)?
    };
    out.advance(done);
    out.patch(count_at, &u32::try_from(done).unwrap_or(0).to_le_bytes());
    Ok(())
}

/// Twrite -> Rwrite. Straight from the request's bytes; what was written before a failure is told,
/// and the failure if it was nothing. To a fid of Txattrcreate: the value's next bytes. Linux leaves it to the
/// server that a file to which a user writes who is not root loses its set-id bits; and what is an append
/// ([`crate::fs::append`]).
///
/// Errors, in this order: `EBADF` no such fid; those of [`crate::server::values::Values::write`], or
/// `EINVAL` not open; `EPERM` open for reading alone; those of [`crate::fs::Fs::drop_set_ids`]; then pwrite(2)'s.
pub fn write(s: &mut Session<'_>, t: Twrite<'_>) -> Result<Rwrite, Errno> {
    let state = s.get(t.fid)?;
    s.cost += t.data.0.len() / COST_BYTES;
    let done = if state.value().is_some() {
        s.values.write(state.value(), t.offset, t.data.0)?
    } else {
        let open = state.opened()?;
        let access = s.fs.access(open)?;
        if access.is_read_only() {
            return Err(Errno::PERM);
        }
        // Access 3 is had on read-only attach points too, and writes nothing.
        if s.link.linux && access.writes() {
            let user = s.fids.user(s.link.id, t.fid);
            if user != Uid::NONE && user != Uid(0) {
                s.fs.drop_set_ids(state.node(), open)?;
            }
        }
        if s.link.linux {
            let writing = &mut s.link.habit.writing;
            s.fs.write_noted((state.node(), open), t.offset, t.data.0, writing)?
        } else {
            s.fs.write(open, t.offset, t.data.0)?
        }
    };
    Ok(Rwrite {
        count: u32::try_from(done).unwrap_or(0),
    })
}

/// Tfsync -> Rfsync, of data and metadata, also of a directory.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` not open; then fsync(2)'s.
pub fn fsync(s: &mut Session<'_>, t: Tfsync) -> Result<Rfsync, Errno> {
    let open = s.get(t.fid)?.opened()?;
    s.fs.sync(open)?;
    Ok(Rfsync {})
}

/// Tflushf -> Rflushf. The client closed the file; nothing is held back that would have to be written.
///
/// Error: `EBADF` no such fid.
pub fn flushf(s: &mut Session<'_>, t: Tflushf) -> Result<Rflushf, Errno> {
    s.get(t.fid)?;
    Ok(Rflushf {})
}

/// Tallocate -> Rallocate. Disk space for a range of an open file, as fallocate(2) with mode 0.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` not open; `EBADF` open for reading alone;
/// `EOPNOTSUPP` a mode (the original is killed by its own filter); then fallocate(2)'s.
pub fn allocate(s: &mut Session<'_>, t: Tallocate) -> Result<Rallocate, Errno> {
    let open = s.get(t.fid)?.opened()?;
    if s.fs.access(open)?.is_read_only() {
        return Err(Errno::BADF);
    }
    if t.mode != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    s.fs.allocate(open, t.offset, t.length)?;
    Ok(Rallocate {})
}
