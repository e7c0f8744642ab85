//! Treaddir (docs/protocol.md 3.9).

use rustix::io::Errno;

use crate::fs::attr::{dirent_type, qid_type};
use crate::fs::tree::qid_path;
use crate::limits::COST_BYTES;
use crate::p9::messages::Treaddir;
use crate::p9::qid::Qid;
use crate::p9::wire::{Field, Fixed, Writer};
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
        let bytes = HEAD_BYTES + entry.name.len();
        if out.len() - start + bytes > room {
            return false;
        }
        // All of its room at once, which the stores below need not ask for.
        let Some((head, name)) = out
            .take(bytes)
            .and_then(|place| place.split_first_chunk_mut::<HEAD_BYTES>())
        else {
            return false;
        };
        let kind = qid_type(entry.kind);
        let path = match top {
            Some(top) if entry.name == b".." => top.path,
            _ => qid_path(device, entry.inode),
        };
        let qid = Qid {
            kind,
            version: 0,
            path,
        };
        let shown = if linux {
            dirent_type(entry.kind)
        } else {
            kind.0
        };
        let [qid_at @ .., a, b, c, d, e, f, g, h, kind_at, low, high] = head;
        qid.put(qid_at);
        [*a, *b, *c, *d, *e, *f, *g, *h] = entry.next.to_le_bytes();
        *kind_at = shown;
        let len = u16::try_from(entry.name.len()).unwrap_or(u16::MAX);
        [*low, *high] = len.to_le_bytes();
        name.copy_from_slice(entry.name);
        true
    })?;
    let bytes = u32::try_from(out.len() - start).unwrap_or(0);
    out.patch(count_at, &bytes.to_le_bytes());
    Ok(())
}

/// An entry without its name: qid[13] offset[8] type[1] and the name's length.
const HEAD_BYTES: usize = <Qid as Field>::LEAST + 8 + 1 + 2;
