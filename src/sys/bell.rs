//! The one wait for windows and sockets together: futex_waitv(2) over the windows' words and a count of ours, to
//! which a signal adds when a socket has something. Before it sleeps it looks for a while, where that pays.
#![allow(unsafe_code)]

use core::hint::spin_loop;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general::{CLOCK_MONOTONIC, FUTEX_32, FUTEX_PRIVATE_FLAG, futex_waitv};
use rustix::io::Errno;
use rustix::thread::sched_yield;

use super::memory::Region;
use super::raw::{self, clock, handle_sigio, mask_sigio};
use super::window::Window;
use crate::limits::{CHANNELS, TRIM_AFTER_MS};

/// Signals that came.
static RUNG: AtomicU32 = AtomicU32::new(0);

/// Counts, and nothing else: the program may be anywhere in the wait.
unsafe extern "C" fn ring(_signal: i32) {
    RUNG.fetch_add(1, Ordering::Relaxed);
}

/// How often a socket has had something, as far as signals were let through. What comes while they are held back,
/// behind a number read here, ends the next wait that is given this number.
pub fn rung() -> u32 {
    RUNG.load(Ordering::Relaxed)
}

// SAFETY: integers.
unsafe impl super::memory::Zeroed for futex_waitv {}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// With something, so soon that no signal was let through: what sockets have is not known.
    Soon,
    /// With something, or a signal.
    Late,
    /// With nothing.
    Not,
}

/// Looks between two yields: where the client is on the same processor, it gets its turn.
const LOOKS: u32 = 64;

/// Of the gaps between a reply and what comes next, each counts for so much in their mean: an eighth.
const GAP_SHIFT: u32 = 3;

#[allow(clippy::cast_possible_truncation)] // a usize it was
fn address(entry: &futex_waitv) -> usize {
    entry.uaddr as usize
}

/// Windows that are waited for.
pub struct Bell {
    /// The count's word, and one for each window.
    words: Region<futex_waitv>,
    count: usize,
    /// Longest look, in microseconds and in ticks of [`now`]; no ticks before the first window.
    spin_us: u64,
    spin: u64,
    /// Mean of the last gaps, in ticks.
    gap: u64,
    /// When the timed waits have lasted long enough, all together.
    until: Option<(i64, i64)>,
}

impl Bell {
    /// Takes SIGIO over, and holds it back. Errors: `ENOSYS` no futex_waitv(2), before Linux 5.16;
    /// rt_sigaction(2)'s.
    pub fn new(spin_us: u64) -> Result<Self, Errno> {
        // SAFETY: no words.
        if unsafe { raw::futex_wait(&[], None) } != Err(Errno::INVAL) {
            return Err(Errno::NOSYS);
        }
        handle_sigio(ring)?;
        Ok(Self {
            words: Region::reserve(CHANNELS + 1),
            count: 0,
            spin_us,
            spin: 0,
            gap: u64::MAX,
            until: None,
        })
    }

    /// Waits for `windows` from here on.
    pub fn hear(&mut self, windows: impl Iterator<Item = Window>) {
        let count = (
            core::ptr::from_ref(&RUNG).expose_provenance(),
            FUTEX_32 | FUTEX_PRIVATE_FLAG,
        );
        let words = windows.map(|window| (window.address(), FUTEX_32));
        self.count = 0;
        for (entry, (address, flags)) in self
            .words
            .iter_mut()
            .zip(core::iter::once(count).chain(words))
        {
            entry.uaddr = address as u64;
            entry.flags = flags;
            self.count += 1;
        }
        if self.spin == 0 && self.spin_us > 0 {
            self.spin = self.spin_us * ticks_of(16) / 16;
        }
    }

    /// Whether nobody has anything.
    fn is_quiet(&self, heard: u32) -> bool {
        let windows = self.words.get(1..self.count).unwrap_or_default();
        let is_client = |entry: &futex_waitv| {
            // SAFETY: a window's word, which is mapped for the life of the process.
            let word = unsafe { &*with_exposed_provenance::<AtomicU32>(address(entry)) };
            word.load(Ordering::Relaxed) == 0
        };
        rung() == heard && windows.iter().all(is_client)
    }

    /// Waits until a window is not the client's, or a socket has something that came behind `heard`. Waits with `most_ms`
    /// end once so long has gone by since the first of them, however often something came in between; one with less than
    /// [`TRIM_AFTER_MS`] counts from its own start.
    pub fn wait(&mut self, heard: u32, most_ms: Option<i32>) -> Woken {
        let begun = now();
        let hopes = self.gap < self.spin;
        let woken = if hopes && self.glance(heard) {
            Woken::Soon
        } else {
            let _cannot_fail = mask_sigio(false);
            let has_come = hopes && self.look(begun, heard) || self.sleep(heard, most_ms);
            let _cannot_fail = mask_sigio(true);
            if has_come { Woken::Late } else { Woken::Not }
        };
        // A long gap counts for a little more than what is worth looking for.
        let most = 4 * self.spin;
        let (was, gap) = (self.gap.min(most), now().wrapping_sub(begun).min(most));
        self.gap = was - (was >> GAP_SHIFT) + (gap >> GAP_SHIFT);
        woken
    }

    /// Whether something comes within some looks.
    fn glance(&self, heard: u32) -> bool {
        (0..LOOKS).any(|_| {
            spin_loop();
            !self.is_quiet(heard)
        })
    }

    /// Whether something comes within [`Bell::spin`].
    fn look(&self, begun: u64, heard: u32) -> bool {
        while now().wrapping_sub(begun) < self.spin {
            sched_yield();
            if self.glance(heard) {
                return true;
            }
        }
        false
    }

    fn sleep(&mut self, heard: u32, most_ms: Option<i32>) -> bool {
        if let Some(count) = self.words.first_mut() {
            count.val = heard.into();
        }
        let words = self.words.get(..self.count).unwrap_or_default();
        if let Some(ms) = most_ms
            && (self.until.is_none() || ms < TRIM_AFTER_MS)
        {
            let (seconds, nanoseconds) = clock(CLOCK_MONOTONIC);
            let later = nanoseconds + i64::from(ms) * 1_000_000;
            self.until = Some((seconds + later / 1_000_000_000, later % 1_000_000_000));
        }
        let until = self.until.filter(|_| most_ms.is_some());
        // SAFETY: the words are the count's and those of windows.
        let woken = unsafe { raw::futex_wait(words, until) };
        if woken == Err(Errno::TIMEDOUT) {
            self.until = None;
            return false;
        }
        true
    }
}

/// The processor's clock, in ticks of its own.
fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every such processor has the instruction.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: Linux lets programs read this register.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        ticks
    }
}

/// Ticks in so many microseconds: waits that long. Whatever comes between two looks makes them fewer.
fn ticks_of(micros: i64) -> u64 {
    let (_, begun) = clock(CLOCK_MONOTONIC);
    let first = now();
    loop {
        let ticks = now().wrapping_sub(first);
        let (_, nanoseconds) = clock(CLOCK_MONOTONIC);
        let gone = (nanoseconds - begun).rem_euclid(1_000_000_000);
        if gone >= micros * 1_000 {
            return ticks * (micros.unsigned_abs() * 1_000) / gone.unsigned_abs();
        }
    }
}
