//! The words of the command line, as the kernel left them on the stack.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char};

/// Overwrites the environment with zeros: the program has no use for it, whoever takes the process over might, and
/// /proc/PID/environ shows it.
///
/// # Safety
/// `envp` is what the kernel left at the program's entry: pointers to NUL-terminated strings on the stack, then
/// NULL. No reference to any of the strings exists.
pub unsafe fn forget_environment(mut envp: *const *mut u8) {
    loop {
        // SAFETY: NULL ends the pointers, and it was not reached yet.
        let mut byte = unsafe { envp.read() };
        if byte.is_null() {
            return;
        }
        // SAFETY: the NUL ends the string, and it was not reached yet.
        while unsafe { byte.read() } != 0 {
            // SAFETY: a byte of the string, on the stack, which can be written.
            unsafe { byte.write_volatile(0) };
            byte = byte.wrapping_add(1);
        }
        envp = envp.wrapping_add(1);
    }
}

/// argv: arbitrary bytes, no UTF-8 assumed.
#[derive(Clone, Copy)]
pub struct Args {
    argv: &'static [*const c_char],
}

impl Args {
    /// Takes what the kernel left at the program's entry.
    ///
    /// # Safety
    /// `argv` points to `argc` pointers to NUL-terminated strings, all of which live and stay
    /// unchanged as long as the process.
    pub unsafe fn from_stack(argc: usize, argv: *const *const c_char) -> Self {
        // SAFETY: the caller vouches for `argc` pointers that live as long as the process.
        let argv = unsafe { core::slice::from_raw_parts(argv, argc) };
        Self { argv }
    }

    /// Word `index`, without its NUL; word 0 is the program's name.
    pub fn get(&self, index: usize) -> Option<&'static [u8]> {
        let word = *self.argv.get(index)?;
        // SAFETY: `from_stack`'s caller vouches for a NUL-terminated string that lives as long as the process.
        Some(unsafe { CStr::from_ptr(word) }.to_bytes())
    }
}
