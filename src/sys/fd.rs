//! Descriptors in tables, and descriptors at fixed numbers.
#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use rustix::io::{DupFlags, Errno, dup3};

/// A descriptor owned by a table record. Zero bytes own none.
///
/// Nothing closes it but [`TableFd::close`]: records in mapped memory are never dropped.
#[derive(Default)]
#[repr(transparent)]
pub struct TableFd(u32);

// SAFETY: zero is the value that owns nothing; no drop glue.
unsafe impl crate::sys::memory::Zeroed for TableFd {}

impl TableFd {
    /// Takes the descriptor over.
    pub fn new(fd: OwnedFd) -> Self {
        Self(u32::try_from(fd.into_raw_fd()).map_or(0, |number| number + 1))
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.0 != 0
    }

    /// Lends the descriptor.
    pub fn get(&self) -> Option<BorrowedFd<'_>> {
        let raw = RawFd::try_from(self.0).ok()?.checked_sub(1)?;
        if raw < 0 {
            return None;
        }
        // SAFETY: `new` took an owned descriptor, and it stays open until `close` takes it out.
        Some(unsafe { BorrowedFd::borrow_raw(raw) })
    }

    /// Closes the descriptor, if there is one.
    pub fn close(&mut self) {
        if let Some(fd) = self.get() {
            let raw = fd.as_raw_fd();
            self.0 = 0;
            // SAFETY: the record owned it and has just forgotten it.
            drop(unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
}

/// Takes over descriptor `raw`, inherited from the process that started us.
///
/// Only for numbers named on the command line, before anything else owns them. `None`: not open.
pub fn inherit(raw: RawFd) -> Option<OwnedFd> {
    if raw < 0 {
        return None;
    }
    // SAFETY: a non-negative number; whether it is open is asked next, by a call that only looks.
    let fd = unsafe { BorrowedFd::borrow_raw(raw) };
    rustix::io::fcntl_getfd(fd).ok()?;
    // SAFETY: open, inherited, and named by the caller as ours.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Moves `fd` to the number `to`, close-on-exec; what was open there is closed.
///
/// Only for numbers below [`crate::limits::FIRST_FREE_FD`] that no owner in the program holds.
/// Errors: dup3(2)'s.
pub fn place(fd: OwnedFd, to: RawFd) -> Result<(), Errno> {
    if fd.as_raw_fd() == to {
        let _placed = fd.into_raw_fd();
        return Ok(());
    }
    // SAFETY: dup3 closes or opens `to` by number; the only owner of that number is forgotten below.
    let mut target = unsafe { OwnedFd::from_raw_fd(to) };
    let done = dup3(&fd, &mut target, DupFlags::CLOEXEC);
    let _placed = target.into_raw_fd();
    done
}

/// Lends a descriptor that start-up has put at a fixed number for the life of the process.
pub fn fixed(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: `place` put a descriptor there (a real one or a placeholder); nothing closes it.
    unsafe { BorrowedFd::borrow_raw(number) }
}
