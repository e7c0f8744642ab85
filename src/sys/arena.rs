//! Memory for what start-up makes: handed out from mapped address space, never given back.
//!
//! It lives as long as the process, as does what lies in it: nothing is freed, nothing dropped. Serving
//! takes none: every push is start-up's.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::limits::HEAP_BYTES;
use crate::sys::memory::Region;
use crate::sys::raw::exit;

/// What is left of the region that memory comes from: its first free address, and the one behind it.
static FREE: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
/// Held while these two are looked at. The program has one thread; tests have more.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Memory for `size` bytes more at `last`, if that is what was handed out last, or else `whole` bytes
/// elsewhere, aligned to 16. Without memory the process ends.
#[inline(never)]
fn take(last: usize, size: usize, whole: usize) -> NonNull<u8> {
    while BUSY.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let (free, end) = (FREE.load(Ordering::Relaxed), END.load(Ordering::Relaxed));
    let aligned = free.next_multiple_of(16);
    let (start, behind) = if last == free && last != 0 && size <= end - free {
        (free, free + size)
    } else if aligned < end && whole <= end - aligned {
        (aligned, aligned + whole)
    } else {
        // Address space alone: what is not touched costs nothing.
        let mut region = ManuallyDrop::new(Region::<u8>::reserve(HEAP_BYTES.max(whole)));
        let base = region.as_mut_ptr().expose_provenance();
        if region.len() < whole {
            exit(128); // mmap(2) has said why; there is no room to tell it
        }
        END.store(base + region.len(), Ordering::Relaxed);
        (base, base + whole)
    };
    FREE.store(behind, Ordering::Relaxed);
    BUSY.store(false, Ordering::Release);
    NonNull::new(core::ptr::with_exposed_provenance_mut(start)).unwrap_or(NonNull::dangling())
}

/// Takes back all that was handed out: fuzzing starts again and again in one process.
///
/// # Safety
/// Nobody looks at any of it again.
#[cfg(fuzzing)]
pub unsafe fn take_back() {
    let end = END.load(Ordering::Relaxed);
    // The last region; it has HEAP_BYTES at least.
    FREE.store(end.saturating_sub(HEAP_BYTES), Ordering::Relaxed);
}

/// Where a list's items are, whatever they are: one copy of what grows them.
struct Raw {
    items: NonNull<u8>,
    len: usize,
    room: usize,
}

impl Raw {
    /// A place for one item more of `size` bytes, which counts from here on.
    #[inline(never)]
    fn place(&mut self, size: usize) -> NonNull<u8> {
        if self.len == self.room {
            let (old, whole) = (self.room * size, (self.room * 2).max(8) * size);
            let end = match self.room {
                0 => 0,
                _ => self.items.as_ptr().expose_provenance() + old,
            };
            let at = take(end, whole - old, whole);
            if at.as_ptr().addr() != end {
                // SAFETY: both hold `old` bytes at least, and memory is handed out once, so they do not overlap.
                unsafe { at.copy_from_nonoverlapping(self.items, old) };
                self.items = at;
            }
            self.room = (self.room * 2).max(8);
        }
        // SAFETY: below `room` items.
        let place = unsafe { self.items.add(self.len * size) };
        self.len += 1;
        place
    }
}

/// A list that start-up fills. What it held before it grew, and what it holds at its end, stays for good.
pub struct List<T> {
    raw: Raw,
    of: PhantomData<T>,
}

impl<T> List<T> {
    /// An empty one, without memory yet.
    pub const fn new() -> Self {
        const { assert!(align_of::<T>() <= 16) };
        let raw = Raw {
            items: NonNull::<u128>::dangling().cast(),
            len: 0,
            room: 0,
        };
        Self {
            raw,
            of: PhantomData,
        }
    }

    /// One with the items of `iter`.
    pub fn of(iter: impl IntoIterator<Item = T>) -> Self {
        let mut list = Self::new();
        list.extend(iter);
        list
    }

    /// Adds an item at the end.
    pub fn push(&mut self, item: T) {
        let place = self.raw.place(size_of::<T>()).cast();
        // SAFETY: memory of ours with room for a `T`, aligned, which nobody else refers to.
        unsafe { place.write(item) };
    }

    /// Adds items at the end.
    pub fn extend(&mut self, iter: impl IntoIterator<Item = T>) {
        for item in iter {
            self.push(item);
        }
    }

    fn items(&self) -> NonNull<T> {
        self.raw.items.cast()
    }

    /// Takes the last item out.
    pub fn pop(&mut self) -> Option<T> {
        self.raw.len = self.raw.len.checked_sub(1)?;
        // SAFETY: the list held an item there.
        let place = unsafe { self.items().add(self.raw.len) };
        // SAFETY: it was written, and from here on the list no longer counts it.
        Some(unsafe { place.read() })
    }

    /// Forgets the items from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.raw.len = self.raw.len.min(len);
    }

    /// The items, for as long as the process lives.
    pub fn leak(self) -> &'static mut [T] {
        // SAFETY: as for `deref_mut`; the memory is never handed out again, and the list is gone.
        unsafe { slice::from_raw_parts_mut(self.items().as_ptr(), self.raw.len) }
    }

    /// The items one after the other, by value.
    pub fn drain(self) -> impl Iterator<Item = T>
    where
        T: 'static,
    {
        // SAFETY: each item is written, is passed once, and no list counts it any more.
        self.leak()
            .iter()
            .map(|item| unsafe { core::ptr::read(item) })
    }
}

/// A path for the kernel, in memory that is never freed. Error: `EINVAL` it holds a NUL.
pub fn c_path(path: &[u8]) -> Result<&'static CStr, Errno> {
    let bytes = List::of(path.iter().copied().chain([0])).leak();
    CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::INVAL)
}

impl List<u8> {
    /// One with these bytes.
    #[inline(never)]
    pub fn copy(bytes: &[u8]) -> Self {
        Self::of(bytes.iter().copied())
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` items are written, and `&self` lends them.
        unsafe { slice::from_raw_parts(self.items().as_ptr(), self.raw.len) }
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.items().as_ptr(), self.raw.len) }
    }
}

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq for List<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for List<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_side_by_side_and_keep_what_they_hold() {
        let (mut one, mut other) = (List::new(), List::new());
        for n in 0..10_000u32 {
            one.push(n);
            other.push(u64::from(n) << 32);
        }
        assert!(one.iter().copied().eq(0..10_000));
        assert!(other.iter().copied().eq((0..10_000).map(|n| n << 32)));
        assert_eq!((one.pop(), one.len()), (Some(9_999), 9_999));
        one.truncate(2);
        assert_eq!(
            (one.leak(), List::<u8>::new().pop()),
            (&mut [0, 1][..], None)
        );
    }

    #[test]
    fn the_last_list_grows_where_it_is_and_a_large_one_gets_a_region_of_its_own() {
        let large = List::of((0..HEAP_BYTES).map(|n| n.to_le_bytes()[0]));
        assert!(large.len() == HEAP_BYTES && large[HEAP_BYTES - 1] == 0xff);
    }
}
