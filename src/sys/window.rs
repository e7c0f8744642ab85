//! Memory shared with a client, and the waits and wake-ups that belong to it (docs/protocol.md 9, futex(2)).
#![allow(unsafe_code)]

use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};

use super::raw::futex_wake;
use crate::limits::{PAGE_BYTES, WINDOW_BYTES};
use crate::p9::wire::HEADER_BYTES;

/// Where a window's datagram begins: behind the state, the length and eight bytes that nobody uses.
const DATAGRAM_AT: usize = 16;
/// Bytes of a datagram, at the most.
pub const DATAGRAM_BYTES: usize = WINDOW_BYTES - DATAGRAM_AT;
/// Bytes of a datagram's header: the message's number, and whether a descriptor goes with it.
pub const DATAGRAM_HEADER_BYTES: usize = 2;

/// Who may write to a window: its first word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The client.
    Client,
    /// The server.
    Server,
    /// Nobody's any more; or a client's that does not keep to the rules.
    Nobody,
}

const CLIENT: u32 = 0;
const SERVER: u32 = 1;
const NOBODY: u32 = 2;

/// One window of the memory that a connection shares with its client, who may write to any of it at any time.
///
/// So nothing is read twice, nothing that was written is read again, and no decision is taken by what stands
/// there but in a copy.
#[derive(Clone, Copy)]
pub struct Window(NonNull<u8>);

impl Window {
    /// Where byte `at` of it is.
    fn place(&self, at: usize) -> NonNull<u8> {
        debug_assert!(at < WINDOW_BYTES);
        // SAFETY: inside the window; all callers are here.
        unsafe { self.0.add(at) }
    }

    /// One of the words before the datagram: 0 is the state, which the client waits on, 1 the length of its
    /// datagram; the others are nobody's.
    fn word(&self, number: usize) -> &AtomicU32 {
        let word = self.place(number * size_of::<u32>()).cast();
        // SAFETY: mapped for the life of the process, and aligned; all that is done with it is atomic.
        unsafe { word.as_ref() }
    }

    /// Where the state is, for futex_waitv(2).
    pub fn address(&self) -> usize {
        self.0.addr().get()
    }

    /// Whose turn it is.
    pub fn turn(&self) -> Turn {
        match self.word(0).load(Ordering::Acquire) {
            CLIENT => Turn::Client,
            SERVER => Turn::Server,
            _ => Turn::Nobody,
        }
    }

    /// Bytes of the client's datagram, as it says.
    pub fn length(&self) -> usize {
        self.word(1).load(Ordering::Relaxed) as usize
    }

    /// Copies the start of the datagram, as much as `to` holds.
    pub fn copy(&self, to: &mut [u8]) {
        let (bytes, from) = (
            to.len().min(DATAGRAM_BYTES),
            self.place(DATAGRAM_AT).as_ptr(),
        );
        // SAFETY: inside the window; `to` is memory of ours. What the client writes meanwhile is copied or is not.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(from, bytes) };
    }

    /// The datagram from `start` to `end`, for a system call that takes it from there.
    pub fn data(&self, start: usize, end: usize) -> &[u8] {
        let bytes = end.min(DATAGRAM_BYTES).saturating_sub(start);
        let from = self
            .place(DATAGRAM_AT + start.min(DATAGRAM_BYTES - 1))
            .as_ptr();
        // SAFETY: inside the window. The client may change it, and no code of ours decides by it: a system call
        // or one copy takes it.
        unsafe { slice::from_raw_parts(from, bytes) }
    }

    /// Room for a reply with the header of a frame, whose last bytes lie where the datagram's header will.
    pub fn room(&mut self) -> &mut [u8] {
        const START: usize = DATAGRAM_AT + DATAGRAM_HEADER_BYTES - HEADER_BYTES;
        let from = self.place(START).as_ptr();
        // SAFETY: inside the window, clear of the state and the length. It is written to and not read.
        unsafe { slice::from_raw_parts_mut(from, WINDOW_BYTES - START) }
    }

    /// Makes what stands in the window a datagram of `length` bytes that starts with `start`, and the client's.
    /// False: the client has meddled with the state.
    pub fn give(&mut self, start: &[u8], length: usize) -> bool {
        let (to, bytes) = (
            self.place(DATAGRAM_AT).as_ptr(),
            start.len().min(DATAGRAM_BYTES),
        );
        // SAFETY: inside the window; `start` is memory of ours.
        unsafe { to.copy_from_nonoverlapping(start.as_ptr(), bytes) };
        self.word(1)
            .store(u32::try_from(length).unwrap_or(0), Ordering::Relaxed);
        // Where a frame's header began.
        self.word(2).store(0, Ordering::Relaxed);
        self.word(3).store(0, Ordering::Relaxed);
        let state = self.word(0);
        let given = state.compare_exchange(SERVER, CLIENT, Ordering::Release, Ordering::Relaxed);
        futex_wake(state, 1);
        given.is_ok()
    }

    /// Ends the use of the window: whoever waits is told.
    pub fn shut(&self) {
        self.word(0).store(NOBODY, Ordering::Release);
        futex_wake(self.word(0), u32::MAX >> 1);
    }

    /// Forgets where the window's memory is until it is used again, while it is in use but for the first page, which
    /// is always looked at: what stands there stays. It is given back with the last mapping of the file: to punch it
    /// out of the file would wait for whoever writes to that.
    pub fn forget(&self, in_use: bool) {
        let start = if in_use { PAGE_BYTES } else { 0 };
        let from = self.place(start).as_ptr().cast();
        // SAFETY: the window's pages, of which nothing of ours is borrowed; all that is mapped shared stays so.
        let _done = unsafe { madvise(from, WINDOW_BYTES - start, Advice::LinuxDontNeed) };
    }

    /// Takes the window's addresses back. It is not used any more.
    #[cfg(fuzzing)]
    pub fn unmap(self) {
        // SAFETY: the whole of the window, of which nothing is borrowed.
        let _done = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), WINDOW_BYTES) };
    }
}

/// `count` windows in one memory file of a size that nobody changes any more, and that file.
/// Errors: memfd_create(2)'s, ftruncate(2)'s, fcntl(2)'s, mmap(2)'s.
pub fn make(count: usize) -> Result<(OwnedFd, impl Iterator<Item = Window>), Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create(c"channels", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create(c"channels", flags))?; // before Linux 6.3
    let bytes = count * WINDOW_BYTES;
    ftruncate(&memory, bytes as u64)?;
    fcntl_add_seals(
        memory.as_fd(),
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: no address is asked for, so the new mapping cannot replace another one.
    let base = unsafe {
        mmap(
            core::ptr::null_mut(),
            bytes,
            prot,
            MapFlags::SHARED,
            &memory,
            0,
        )
    }?;
    let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
    // SAFETY: each start lies inside the mapping.
    let windows = (0..count).map(move |at| Window(unsafe { base.add(at * WINDOW_BYTES) }));
    Ok((memory, windows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> (OwnedFd, Window) {
        let (memory, mut windows) = make(2).expect("windows");
        let _other = windows.next();
        (memory, windows.next().expect("a second window"))
    }

    #[test]
    fn a_window_goes_back_to_the_client_as_a_datagram_with_nothing_before_it() {
        let (_memory, mut window) = one();
        assert_eq!(window.turn(), Turn::Client);
        window.word(0).store(SERVER, Ordering::Relaxed);
        window.room()[..9].copy_from_slice(b"FRAMEhdBO");
        assert!(window.give(&[25, 1], 4));
        assert_eq!((window.turn(), window.length()), (Turn::Client, 4));
        assert_eq!(window.data(0, 4), [25, 1, b'B', b'O']);
        assert_eq!(
            [2, 3].map(|at| window.word(at).load(Ordering::Relaxed)),
            [0; 2]
        );
    }

    #[test]
    fn a_state_that_the_client_has_changed_is_not_given_back() {
        let (_memory, mut window) = one();
        assert!(!window.give(&[25, 0], 2), "it was the client's");
        window.word(0).store(7, Ordering::Relaxed);
        assert_eq!(window.turn(), Turn::Nobody);
        assert!(!window.give(&[25, 0], 2));
    }

    #[test]
    fn lengths_beyond_the_window_are_cut() {
        let (_memory, window) = one();
        assert_eq!(window.data(18, usize::MAX).len(), DATAGRAM_BYTES - 18);
        assert_eq!(window.data(18, 18), []);
        assert_eq!(window.data(usize::MAX, 5), []);
        window.copy(&mut std::vec![0; 2 * WINDOW_BYTES]);
    }

    #[test]
    fn forgotten_pages_keep_what_the_client_wrote() {
        let (_memory, mut window) = one();
        window.room().fill(7);
        window.forget(true);
        window.forget(false);
        assert_eq!(window.data(PAGE_BYTES, PAGE_BYTES + 1), [7]);
        window.shut();
        assert_eq!(window.turn(), Turn::Nobody);
    }

    #[test]
    fn the_memory_file_has_its_size_for_good() {
        let (memory, _window) = one();
        assert_eq!(
            rustix::fs::fstat(&memory).expect("stat").st_size,
            2 * i64::try_from(WINDOW_BYTES).expect("small")
        );
        for bytes in [0, WINDOW_BYTES, 3 * WINDOW_BYTES] {
            assert_eq!(ftruncate(&memory, bytes as u64), Err(Errno::PERM));
        }
        assert_eq!(fcntl_add_seals(&memory, SealFlags::WRITE), Err(Errno::PERM));
    }
}
