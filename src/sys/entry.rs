//! What a program without std must bring: the entry point, the panic handler, the heap.
//!
//! Part of the program, not of the library: tests link std, which has its own.
#![allow(unsafe_code)]

use core::ffi::{c_char, c_int};
use core::panic::PanicInfo;

use gofer::limits::LOG_FD;
use gofer::log::Line;
use gofer::sys::arena::Arena;
use gofer::sys::args::Args;
use gofer::sys::fd::fixed;
use gofer::sys::raw::exit;
use gofer::text;
use gofer::text::Arg::{Number, Str};
use gofer::text::Say;

#[cfg(target_env = "musl")]
#[link(name = "c")]
unsafe extern "C" {}

#[global_allocator]
pub(crate) static ARENA: Arena = Arena::new();

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

/// Tells where, and ends. Nothing unwinds. The place alone: the text would cost 12 kB.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut line = Line::new();
    let (file, number) = info
        .location()
        .map_or(("?", 0), |at| (at.file(), at.line()));
    text!("gofer: panic at %:%", Str(file), Number(number.into())).say(&mut line);
    // Before serving the log is not in its place; behind the filter standard error is out of reach.
    let fd = if ARENA.is_sealed() { LOG_FD } else { 2 };
    let _lost = rustix::io::write(fixed(fd), line.finish());
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
