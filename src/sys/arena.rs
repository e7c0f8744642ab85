//! The heap: a region mapped before the first allocation, handed out from its start.
//!
//! Only start-up allocates (the spec's JSON, the list of connections). What is freed in the order
//! it came is used again; the rest is not missed. [`Arena::seal`] ends it before serving.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;

use crate::sys::memory::Region;

struct State {
    /// Start and length of the region blocks come from. The region itself is given up to the arena:
    /// only blocks refer to its bytes.
    base: *mut u8,
    len: usize,
    used: usize,
    sealed: bool,
}

/// A bump allocator for a process with one thread.
pub struct Arena(UnsafeCell<State>);

// SAFETY: the program has one thread, before and behind the filter, which allows no clone.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena with no memory yet: every allocation fails.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        let state = State {
            base: ptr::null_mut(),
            len: 0,
            used: 0,
            sealed: false,
        };
        Self(UnsafeCell::new(state))
    }

    #[allow(clippy::mut_from_ref)]
    fn state(&self) -> &mut State {
        // SAFETY: one thread, no signal handlers, and no caller in this file keeps the borrow.
        unsafe { &mut *self.0.get() }
    }

    /// Gives the arena memory for what comes. Blocks in an earlier region stay where they are.
    pub fn provide(&self, mut region: Region<u8>) {
        let state = self.state();
        state.len = region.len();
        state.base = region.as_mut_ptr(); // mapped for good: a region is never unmapped
        state.used = 0;
    }

    /// From here on every allocation fails.
    pub fn seal(&self) {
        self.state().sealed = true;
    }

    /// Whether it is sealed: serving has begun.
    pub fn is_sealed(&self) -> bool {
        self.state().sealed
    }

    /// Bytes handed out and not reclaimed.
    pub fn used_bytes(&self) -> usize {
        self.state().used
    }
}

// SAFETY: blocks lie in one region, do not overlap (`used` only moves back over the last block),
// and are aligned as asked.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let state = self.state();
        if state.sealed || layout.align() > crate::limits::PAGE_BYTES {
            return ptr::null_mut();
        }
        let start = state.used.next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if end <= state.len => {
                state.used = end;
                // SAFETY: `start` is at most `len`, which is what is mapped at `base`.
                unsafe { state.base.add(start) }
            }
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let state = self.state();
        if let Some(start) = state.start_of_last(block, layout) {
            state.used = start;
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let state = self.state();
        if let Some(start) = state.start_of_last(block, layout)
            && !state.sealed
        {
            return match start.checked_add(new_size) {
                Some(end) if end <= state.len => {
                    state.used = end;
                    block
                }
                _ => ptr::null_mut(),
            };
        }
        if new_size <= layout.size() {
            return block;
        }
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return ptr::null_mut();
        };
        // SAFETY: `new_size` is not zero, as the caller of realloc promises.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both blocks are handed out, do not overlap, and hold at least the old size.
            unsafe { ptr::copy_nonoverlapping(block, new, layout.size()) };
        }
        new
    }
}

impl State {
    /// Where `block` starts, if it is the last one handed out of this region.
    fn start_of_last(&self, block: *mut u8, layout: Layout) -> Option<usize> {
        let start = block
            .addr()
            .checked_sub(self.base.addr())
            .filter(|&start| start <= self.used)?;
        (start + layout.size() == self.used).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_freed_in_order_are_used_again_and_a_sealed_arena_gives_none() {
        let arena = Arena::new();
        let layout = Layout::from_size_align(24, 8).unwrap();
        // SAFETY: the layout's size is not zero.
        assert!(unsafe { arena.alloc(layout) }.is_null());
        arena.provide(Region::reserve(4096));
        // SAFETY: as above.
        let first = unsafe { arena.alloc(layout) };
        // SAFETY: allocated just above with this layout.
        let grown = unsafe { arena.realloc(first, layout, 100) };
        assert_eq!(first, grown);
        // SAFETY: its layout since it grew.
        unsafe { arena.dealloc(grown, Layout::from_size_align(100, 8).unwrap()) };
        assert_eq!(arena.used_bytes(), 0);
        // SAFETY: as above.
        assert!(unsafe { arena.alloc(Layout::from_size_align(5000, 1).unwrap()) }.is_null());
        arena.seal();
        // SAFETY: as above.
        assert!(unsafe { arena.alloc(layout) }.is_null());
    }
}
