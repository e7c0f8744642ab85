//! Memory mapped once, at start: address space that costs nothing until it is touched.
#![allow(unsafe_code)]

use core::ops::{Deref, DerefMut, Range};
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::limits::PAGE_BYTES;

/// Types for which memory full of zeros is a value, and dropping one does nothing.
///
/// # Safety
/// All-zero bytes are a valid value of the type, and the type has no drop glue.
pub unsafe trait Zeroed {}

// SAFETY: zero is an integer, and integers have no drop glue.
unsafe impl Zeroed for u8 {}
// SAFETY: as above.
unsafe impl Zeroed for u16 {}
// SAFETY: as above.
unsafe impl Zeroed for u32 {}
// SAFETY: as above.
unsafe impl Zeroed for u64 {}
// SAFETY: an array of zero bytes is an array of values that are all zero bytes.
unsafe impl<T: Zeroed, const N: usize> Zeroed for [T; N] {}

/// Declares a record that may live in a [`Region`]: every field is [`Zeroed`], so the record is.
#[macro_export]
macro_rules! zeroed_record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $( $(#[$fmeta:meta])* $fvis:vis $field:ident : $type:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        $vis struct $name { $( $(#[$fmeta])* $fvis $field: $type ),* }
        const _: () = {
            const fn is_zeroed<T: $crate::sys::memory::Zeroed>() {}
            $( is_zeroed::<$type>(); )*
            assert!(!core::mem::needs_drop::<$name>());
        };
        #[allow(unsafe_code)]
        // SAFETY: each field is Zeroed and nothing is dropped, both checked just above.
        unsafe impl $crate::sys::memory::Zeroed for $name {}
    };
}

/// `len` values of zeros, mapped privately; a page takes memory from its first write on.
///
/// Mapped for the life of the process: nothing unmaps it, the filter allows no munmap(2).
pub struct Region<T: Zeroed> {
    base: NonNull<T>,
    len: usize,
}

impl<T: Zeroed> Region<T> {
    /// Reserves address space for `len` values. A failure gives no values and is latched: start-up asks
    /// once, by [`failure`], before anything is served.
    pub fn reserve(len: usize) -> Self {
        match map(len.saturating_mul(size_of::<T>())) {
            Some(base) => Self {
                base: base.cast(),
                len,
            },
            None => Self {
                base: NonNull::dangling(),
                len: 0,
            },
        }
    }

    /// Forgets the values from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Gives the whole pages inside `range` back to the kernel. What they held reads as zeros
    /// afterwards; the rest of the range is unchanged.
    pub fn discard(&mut self, range: Range<usize>) {
        self.discard_bytes(range.start * size_of::<T>()..range.end * size_of::<T>());
    }

    /// [`Region::discard`], with the range in bytes from the start.
    pub fn discard_bytes(&mut self, range: Range<usize>) {
        let bytes = self.len * size_of::<T>();
        let whole = range.end >= bytes;
        let range = range.start.min(bytes)..range.end.min(bytes);
        // Behind the last value there is nothing but the tail of the mapping's last page.
        let end = if whole {
            range.end.next_multiple_of(PAGE_BYTES)
        } else {
            range.end
        };
        // SAFETY: the pages between are ours alone (`&mut self`), and zeros are values of `T`.
        unsafe { discard(self.base.cast(), range.start, end) };
    }
}

/// Fuzzing makes one server after the other in one process; the program never unmaps.
#[cfg(fuzzing)]
impl<T: Zeroed> Drop for Region<T> {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<T>();
        if bytes > 0 {
            // SAFETY: the mapping is ours, and whoever borrowed from it borrowed from `self`.
            let _done = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), bytes) };
        }
    }
}

/// The first failure of mmap(2), as a raw errno; 0 is none.
static FAILURE: AtomicI32 = AtomicI32::new(0);

/// Why memory could not be reserved, if that ever happened: mmap(2)'s errors.
pub fn failure() -> Option<Errno> {
    match FAILURE.load(Ordering::Relaxed) {
        0 => None,
        errno => Some(Errno::from_raw_os_error(errno)),
    }
}

#[inline(never)]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    if bytes == 0 {
        return Some(NonNull::<u64>::dangling().cast());
    }
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: no address is asked for, so the new mapping cannot replace another one.
    match unsafe { mmap_anonymous(core::ptr::null_mut(), bytes, prot, flags) } {
        Ok(base) => NonNull::new(base.cast()),
        Err(errno) => {
            FAILURE.store(errno.raw_os_error(), Ordering::Relaxed);
            None
        }
    }
}

/// Discards the whole pages between bytes `start` and `end` of a mapping.
///
/// # Safety
/// Those pages belong to the mapping at `base`, nobody borrows from them, and zeros may stand there.
#[inline(never)]
unsafe fn discard(base: NonNull<u8>, start: usize, end: usize) {
    let start = start.next_multiple_of(PAGE_BYTES);
    let end = end / PAGE_BYTES * PAGE_BYTES;
    if start >= end {
        return;
    }
    // SAFETY: `start` lies inside the mapping, as the caller vouches.
    let at = unsafe { base.as_ptr().add(start) };
    // SAFETY: the caller vouches for the pages.
    let done = unsafe { madvise(at.cast(), end - start, Advice::LinuxDontNeed) };
    debug_assert!(done.is_ok());
}

impl<T: Zeroed> Deref for Region<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` values are mapped, readable, and valid from the start (`Zeroed`).
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T: Zeroed> DerefMut for Region<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_pages_read_as_zeros_and_partial_ones_are_kept() {
        let mut region = Region::<u32>::reserve(PAGE_BYTES);
        region.fill(7);
        region.discard(1..PAGE_BYTES / 2);
        let per_page = PAGE_BYTES / 4;
        assert!(region[..per_page].iter().all(|&word| word == 7));
        assert!(
            region[per_page..PAGE_BYTES / 2]
                .iter()
                .all(|&word| word == 0)
        );
        assert!(region[PAGE_BYTES / 2..].iter().all(|&word| word == 7));
    }

    #[test]
    fn the_tail_of_an_odd_region_is_discarded_too() {
        let mut region = Region::<u8>::reserve(PAGE_BYTES + 10);
        region.fill(1);
        region.discard(0..PAGE_BYTES + 10);
        assert!(region.iter().all(|&byte| byte == 0));
    }
}
