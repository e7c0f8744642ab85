//! What a program without std must bring: the entry point and the panic handler.
//!
//! Part of the program, not of the library: tests link std, which has its own.
#![allow(unsafe_code)]

use core::arch::naked_asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use gofer::limits::LOG_FD;
use gofer::log::Line;
use gofer::sys::args::{Args, forget_environment};
use gofer::sys::fd::fixed;
use gofer::sys::image::relocate;
use gofer::sys::raw::exit;
use gofer::text;
use gofer::text::Arg::{Number, Str};
use gofer::text::{Say, Sink};
use linux_raw_sys::elf::Elf_Dyn;

/// Whether serving has begun, so that the log is in its place.
pub(crate) static SERVING: AtomicBool = AtomicBool::new(false);

/// Where the kernel starts the program: on the stack are argc, argv and the rest (execve(2)).
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!(
        ".hidden __ehdr_start",
        ".hidden _DYNAMIC",
        "xor ebp, ebp", // the outermost frame
        "mov rdi, rsp",
        "lea rsi, [rip + __ehdr_start]",
        "lea rdx, [rip + _DYNAMIC]",
        "and rsp, -16",
        "call {begin}",
        begin = sym begin,
    );
    #[cfg(target_arch = "aarch64")]
    naked_asm!(
        ".hidden __ehdr_start",
        ".hidden _DYNAMIC",
        "mov x29, #0",
        "mov x0, sp",
        "adrp x1, __ehdr_start",
        "add x1, x1, :lo12:__ehdr_start",
        "adrp x2, _DYNAMIC",
        "add x2, x2, :lo12:_DYNAMIC",
        "and sp, x0, #-16",
        "bl {begin}",
        begin = sym begin,
    );
}

/// # Safety
/// `stack` is what the kernel left, the others are the program's image as it was mapped.
unsafe extern "C" fn begin(stack: *const usize, image: *mut u8, dynamic: *const Elf_Dyn) -> ! {
    // SAFETY: the caller's.
    unsafe { relocate(image, dynamic) };
    // SAFETY: the kernel put argc there.
    let argc = unsafe { *stack };
    // SAFETY: and behind it argv.
    let argv = unsafe { stack.add(1) };
    // SAFETY: after argv's NULL it put the environment.
    let environment = unsafe { argv.add(argc + 1) };
    // SAFETY: no reference to it exists yet.
    unsafe { forget_environment(environment.cast()) };
    // SAFETY: which nothing changes.
    let args = unsafe { Args::from_stack(argc, argv.cast()) };
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
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(128)
}
