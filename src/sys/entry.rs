//! What a program without std must bring: the entry point and the panic handler.
//!
//! Part of the program, not of the library: tests link std, which has its own.
#![allow(unsafe_code)]

use core::ffi::{c_char, c_int};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use gofer::limits::LOG_FD;
use gofer::log::Line;
use gofer::sys::args::Args;
use gofer::sys::fd::fixed;
use gofer::sys::raw::exit;
use gofer::text;
use gofer::text::Arg::{Number, Str};
use gofer::text::{Say, Sink};

#[cfg(target_env = "musl")]
#[link(name = "c")]
unsafe extern "C" {}

/// Whether serving has begun, so that the log is in its place.
pub(crate) static SERVING: AtomicBool = AtomicBool::new(false);

/// Called by musl's start-up code.
///
/// # Safety
/// `argc` and `argv` are what the kernel put on the stack.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: the C start-up code passes the kernel's own vector on, and nothing changes it.
    let args = unsafe { Args::from_main(argc, argv) };
    exit(crate::start(args))
}

/// Says so, and ends. Nothing unwinds. Where it was only a debug build tells: as long as nobody reads the
/// place and the text, neither is in the program, which saves 6 kB.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut line = Line::new();
    line.put(b"gofer: panic");
    if cfg!(debug_assertions)
        && let Some(at) = info.location()
    {
        text!(" at %:%", Str(at.file()), Number(at.line().into())).say(&mut line);
    }
    // Before serving the log is not in its place; behind the filter standard error is out of reach.
    let serving = SERVING.load(Ordering::Relaxed);
    let _lost = rustix::io::write(fixed(if serving { LOG_FD } else { 2 }), line.finish());
    exit(128)
}

/// Named by core's unwind tables, called by nobody: panics abort.
#[cfg(not(target_env = "musl"))]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[cfg(not(target_env = "musl"))]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(128)
}
