//! Values of extended attributes that fids of Linux's client hold: read at Txattrwalk, or written piece by
//! piece until Tclunk.

use core::ffi::CStr;

use rustix::io::Errno;

use crate::fs::xattr::UserName;
use crate::limits::{NAME_BYTES, XATTR_BYTES, XATTRS};
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
        /// Of a value being written, with a NUL behind.
        name: [u8; NAME_BYTES + 1],
        /// Bytes of the whole value.
        size: u32,
        /// Of a value being written, bytes that are there.
        done: u32,
        /// Of a value being written, setxattr(2)'s.
        flags: u32,
        state: u32,
    }
}

const FREE: u32 = 0;
const READ: u32 = 1;
const WRITTEN: u32 = 2;

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
            bytes: Region::reserve(XATTRS * XATTR_BYTES),
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
            let start = id.slot() * XATTR_BYTES;
            self.bytes.discard(start..start + XATTR_BYTES);
        }
    }

    /// The place's [`XATTR_BYTES`].
    pub fn room(&mut self, id: ValueId) -> &mut [u8] {
        let start = id.slot().saturating_mul(XATTR_BYTES);
        self.bytes
            .get_mut(start..start.saturating_add(XATTR_BYTES))
            .unwrap_or_default()
    }

    /// The value has `size` bytes, which its room has by now.
    pub fn is_read(&mut self, id: ValueId, size: usize) {
        if let Some(slot) = self.slots.get_mut(id.slot()) {
            slot.size = u32::try_from(size).unwrap_or(0);
        }
    }

    /// The value is to be written: `size` bytes, for `name`.
    pub fn will_be_written(&mut self, id: ValueId, name: UserName<'_>, size: u32, flags: u32) {
        if let Some(slot) = self.slots.get_mut(id.slot()) {
            let name = name.text().to_bytes_with_nul();
            if let Some(place) = slot.name.get_mut(..name.len()) {
                place.copy_from_slice(name);
            }
            (slot.size, slot.flags) = (size, flags);
            (slot.done, slot.state) = (0, WRITTEN);
        }
    }

    fn slot(&mut self, id: ValueId, state: u32) -> Result<&mut Slot, Errno> {
        self.slots
            .get_mut(id.slot())
            .filter(|slot| slot.state == state)
            .ok_or(Errno::PERM)
    }

    /// Copies bytes from `offset` on; how many. Error: `EPERM` it is being written.
    pub fn read(&mut self, id: ValueId, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let size = self.slot(id, READ)?.size as usize;
        let from = usize::try_from(offset).unwrap_or(size).min(size);
        let rest = self.room(id).get(from..size).unwrap_or_default();
        let count = rest.len().min(to.len());
        for (to, from) in to.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(count)
    }

    /// Puts `data` behind what is there. Errors, in this order: `EPERM` it is being read; `EINVAL` an offset
    /// elsewhere; `ENOSPC` more than was announced.
    pub fn write(&mut self, id: ValueId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let slot = self.slot(id, WRITTEN)?;
        let start = slot.done as usize;
        if offset != start as u64 {
            return Err(Errno::INVAL);
        }
        let end = start + data.len();
        if end > slot.size as usize {
            return Err(Errno::NOSPC);
        }
        slot.done = u32::try_from(end).unwrap_or(0);
        if let Some(place) = self.room(id).get_mut(start..end) {
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
        let start = id.slot() * XATTR_BYTES;
        let bytes = self.bytes.get(start..start + slot.size as usize);
        Ok(Some(Whole {
            name: CStr::from_bytes_until_nul(&slot.name).map_err(|_| Errno::INVAL)?,
            bytes: bytes.unwrap_or_default(),
            flags: slot.flags,
        }))
    }
}
