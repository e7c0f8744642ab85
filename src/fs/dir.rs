//! Reading directories.

use core::mem::MaybeUninit;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use super::attr::Meta;
use super::file::UNKNOWN;
use super::{Fs, OpenId};
use crate::limits::DIRENT_BYTES;

/// One entry of a directory, as getdents64(2) has it.
pub struct Entry<'a> {
    /// The name's bytes.
    pub name: &'a [u8],
    /// Inode number that the directory holds; a mount point's is that of what lies below it.
    pub inode: u64,
    /// Type; asked for where the file system does not keep it here, unknown if that fails.
    pub kind: FileType,
    /// Where reading goes on behind this entry: the host's own cookie.
    pub next: u64,
}

impl Fs {
    /// Hands entries of an open directory to `take`, from the one at `offset` on (0: the first), until
    /// it wants no more or one getdents64(2) of at most `bytes` is used up; `.` and `..` only with `dots`. `take` says whether it took
    /// the entry; one that it did not is the first of the next call. None taken: the end.
    ///
    /// Errors: `EINVAL` an offset of 2^63 or more, or `take` refused even the first entry; lseek(2)'s;
    /// getdents64(2)'s.
    pub fn read_dir(
        &mut self,
        id: OpenId,
        offset: u64,
        bytes: usize,
        dots: bool,
        mut take: impl FnMut(&Entry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let open = self.opens.get_mut(id).ok_or(Errno::BADF)?;
        let fd = open.fd.get().ok_or(Errno::BADF)?;
        if i64::try_from(offset).is_err() {
            return Err(Errno::INVAL);
        }
        // Should this fail half-way, the next reading seeks.
        let at_before = core::mem::replace(&mut open.at, UNKNOWN);
        if at_before != offset {
            seek(fd, SeekFrom::Start(offset))?;
        }
        let mut at = UNKNOWN; // an empty reply means the end; reading on from there must see what is new
        let mut taken = false;
        let mut refused = false;
        let mut buffer = [const { MaybeUninit::<u8>::uninit() }; DIRENT_BYTES];
        let room = buffer
            .get_mut(..bytes.clamp(LEAST_BYTES, DIRENT_BYTES))
            .unwrap_or_default();
        let mut entries = RawDir::new(fd, room);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if dots || name != b"." && name != b".." {
                let kind = match entry.file_type() {
                    FileType::Unknown => {
                        self.units += 1;
                        Meta::of_name(fd, entry.file_name())
                            .map_or(FileType::Unknown, |meta| meta.file_type())
                    }
                    known => known,
                };
                let entry = Entry {
                    name,
                    inode: entry.ino(),
                    kind,
                    next: entry.next_entry_cookie(),
                };
                if !take(&entry) {
                    refused = true;
                    break;
                }
                taken = true;
            }
            at = entry.next_entry_cookie();
            if taken && entries.is_buffer_empty() {
                break;
            }
        }
        open.at = if taken && !refused { at } else { UNKNOWN };
        if refused && !taken {
            Err(Errno::INVAL)
        } else {
            Ok(())
        }
    }
}

/// An entry with the longest name, and room for aligning.
const LEAST_BYTES: usize = 512;
