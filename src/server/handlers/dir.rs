//! Treaddir (protocol.md 3.9).

use rustix::io::Errno;

use crate::fs::attr::{dirent_type, qid_type};
use crate::fs::tree::qid_path;
use crate::limits::COST_BYTES;
use crate::p9::messages::Treaddir;
use crate::p9::qid::Qid;
use crate::p9::wire::{Field, Str, Writer};
use crate::server::dispatch::Session;

/// Treaddir -> Rreaddir. Whole entries, from the one that `offset` leads to on; offsets are the host's own
/// cookies, 0 is the start. No entry: the end. Linux hands types on as they come, so it gets DT_* numbers
/// (readdir(3)), and `.` and `..`, which are left out for gVisor. Qids have version 0: files are not looked at.
///
/// Errors, in this order: `EBADF` no such fid; `EINVAL` deleted (Linux: `ENOENT`), not a directory, or not open;
/// `EINVAL` count holds not even the next entry; then lseek(2)'s and getdents64(2)'s.
#[inline(never)] // its buffer has no place in the frame of all handlers
pub fn readdir(s: &mut Session<'_>, t: Treaddir, out: &mut Writer<'_>) -> Result<(), Errno> {
    let (node, state) = s.directory(t.fid)?;
    let open = state.opened()?;
    let count_at = out.len();
    0u32.write(out);
    let start = out.len();
    let room = out.room().len().min(t.count as usize);
    // An entry's wire form is at most 7/6 of its host form, so that what this reads has room.
    let host_bytes = room / 7 * 6;
    s.cost += room / COST_BYTES;
    // Entries are taken to lie on their directory's device.
    let device = s.fs.device_index(node)?;
    let linux = s.link.linux;
    // Above the attach point there is nothing for a client to know.
    let top = if s.fs.is_root(node) {
        s.fs.qid(node).ok()
    } else {
        None
    };
    s.fs.read_dir(open, t.offset, host_bytes, linux, |entry| {
        let bytes = <Qid as Field>::LEAST + 8 + 1 + 2 + entry.name.len();
        if out.len() - start + bytes > room {
            return false;
        }
        let kind = qid_type(entry.kind);
        let path = match top {
            Some(top) if entry.name == b".." => top.path,
            _ => qid_path(device, entry.inode),
        };
        Qid {
            kind,
            version: 0,
            path,
        }
        .write(out);
        entry.next.write(out);
        let kind = if linux {
            dirent_type(entry.kind)
        } else {
            kind.0
        };
        kind.write(out);
        Str(entry.name).write(out);
        true
    })?;
    let bytes = u32::try_from(out.len() - start).unwrap_or(0);
    out.patch(count_at, &bytes.to_le_bytes());
    Ok(())
}
