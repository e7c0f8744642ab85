//! Values of extended attributes that fids of Linux's client hold: read at Txattrwalk, or written piece by
//! piece until Tclunk.

use core::ffi::CStr;
use core::ops::Range;

use rustix::io::Errno;

use crate::fs::xattr::UserName;
use crate::limits::{PAGE_BYTES, XATTR_BYTES, XATTRS};
use crate::sys::memory::Region;

crate::zeroed_record! {
    /// Number of a value; 0 is none.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct ValueId {
        number: u16,
    }
}

impl ValueId {
    /// No value.
    pub const NONE: Self = Self { number: 0 };

    /// Whether it is one.
    pub fn is_some(self) -> bool {
        self.number != 0
    }

    fn slot(self) -> usize {
        usize::from(self.number).wrapping_sub(1)
    }
}

crate::zeroed_record! {
    struct Slot {
        /// Bytes of the whole value.
        size: u64,
        /// Of a value being written, bytes that are there.
        done: u64,
        /// Of a value being written, setxattr(2)'s.
        flags: u32,
        state: u16,
        /// Of a value being written, bytes of its name with a NUL behind.
        name_len: u16,
    }
}

/// Bytes of a place: the value's, and a page for the name that it is written for, so that both go back with it.
const PLACE_BYTES: usize = XATTR_BYTES + PAGE_BYTES;

const FREE: u16 = 0;
const READ: u16 = 1;
const WRITTEN: u16 = 2;

/// A range of bytes, all of which lie in memory.
fn range(start: u64, end: u64) -> Range<usize> {
    let address = |at| usize::try_from(at).unwrap_or(usize::MAX);
    address(start)..address(end)
}

/// The table.
pub struct Values {
    slots: Region<Slot>,
    bytes: Region<u8>,
}

/// A value that is complete, to be set.
pub struct Whole<'a> {
    /// Its name.
    pub name: &'a CStr,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// setxattr(2)'s.
    pub flags: u32,
}

impl Values {
    /// Reserves the table.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            slots: Region::reserve(XATTRS),
            bytes: Region::reserve(XATTRS * PLACE_BYTES),
        }
    }

    /// A place for a value, empty and to be read. Error: `ENOMEM` table full.
    pub fn take(&mut self) -> Result<ValueId, Errno> {
        for (number, slot) in (1..).zip(self.slots.iter_mut()) {
            if slot.state == FREE {
                slot.state = READ;
                slot.size = 0;
                return Ok(ValueId { number });
            }
        }
        Err(Errno::NOMEM)
    }

    /// Frees a place, and gives its memory back.
    pub fn release(&mut self, id: ValueId) {
        if let Some(slot) = self.slots.get_mut(id.slot()) {
            slot.state = FREE;
            let start = id.slot() * PLACE_BYTES;
            self.bytes.discard(start..start + PLACE_BYTES);
        }
    }

    /// The place's [`XATTR_BYTES`].
    pub fn room(&mut self, id: ValueId) -> &mut [u8] {
        let start = id.slot().saturating_mul(PLACE_BYTES);
        self.bytes
            .get_mut(start..start.saturating_add(XATTR_BYTES))
            .unwrap_or_default()
    }

    /// The value has `size` bytes, which its room has by now.
    pub fn is_read(&mut self, id: ValueId, size: usize) {
        if let Some(slot) = self.slots.get_mut(id.slot()) {
            slot.size = size as u64;
        }
    }

    /// The value is to be written: `size` bytes, for `name`.
    pub fn will_be_written(&mut self, id: ValueId, name: UserName<'_>, size: u64, flags: u32) {
        if let Some(slot) = self.slots.get_mut(id.slot()) {
            let name = name.text().to_bytes_with_nul();
            let start = id.slot() * PLACE_BYTES + XATTR_BYTES;
            if let Some(place) = self.bytes.get_mut(start..start + name.len()) {
                place.copy_from_slice(name);
            }
            slot.name_len = u16::try_from(name.len()).unwrap_or(0);
            (slot.size, slot.flags) = (size, flags);
            (slot.done, slot.state) = (0, WRITTEN);
        }
    }

    fn slot(&mut self, id: ValueId, state: u16) -> Result<&mut Slot, Errno> {
        self.slots
            .get_mut(id.slot())
            .filter(|slot| slot.state == state)
            .ok_or(Errno::PERM)
    }

    /// Copies bytes from `offset` on; how many. Error: `EPERM` it is being written.
    pub fn read(&mut self, id: ValueId, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let size = self.slot(id, READ)?.size;
        let rest = self.room(id).get(range(offset.min(size), size));
        let rest = rest.unwrap_or_default();
        let count = rest.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    /// Puts `data` behind what is there. Errors, in this order: `EPERM` it is being read; `EINVAL` an offset
    /// elsewhere; `ENOSPC` more than was announced.
    pub fn write(&mut self, id: ValueId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let slot = self.slot(id, WRITTEN)?;
        let start = slot.done;
        if offset != start {
            return Err(Errno::INVAL);
        }
        let end = start + data.len() as u64;
        if end > slot.size {
            return Err(Errno::NOSPC);
        }
        slot.done = end;
        if let Some(place) = self.room(id).get_mut(range(start, end)) {
            place.copy_from_slice(data);
        }
        Ok(data.len())
    }

    /// What a value being written came to; `None`: it is being read. Error: `EINVAL` not all bytes that were
    /// announced.
    pub fn whole(&self, id: ValueId) -> Result<Option<Whole<'_>>, Errno> {
        let Some(slot) = self
            .slots
            .get(id.slot())
            .filter(|slot| slot.state == WRITTEN)
        else {
            return Ok(None);
        };
        if slot.done != slot.size {
            return Err(Errno::INVAL);
        }
        let start = (id.slot() * PLACE_BYTES) as u64;
        let bytes = self.bytes.get(range(start, start + slot.size));
        let start = id.slot() * PLACE_BYTES + XATTR_BYTES;
        let name = self.bytes.get(start..start + usize::from(slot.name_len));
        let name = name.unwrap_or_default();
        Ok(Some(Whole {
            name: CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?,
            bytes: bytes.unwrap_or_default(),
            flags: slot.flags,
        }))
    }
}
