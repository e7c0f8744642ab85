//! The words of the command line, as the kernel left them on the stack.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_int};

/// argv: arbitrary bytes, no UTF-8 assumed.
#[derive(Clone, Copy)]
pub struct Args {
    argv: &'static [*const c_char],
}

impl Args {
    /// Takes what the C start-up code hands to `main`.
    ///
    /// # Safety
    /// `argv` points to `argc` pointers to NUL-terminated strings, all of which live and stay
    /// unchanged as long as the process.
    pub unsafe fn from_main(argc: c_int, argv: *const *const c_char) -> Self {
        let count = usize::try_from(argc).unwrap_or(0);
        if argv.is_null() || count == 0 {
            return Self { argv: &[] };
        }
        // SAFETY: the caller vouches for `count` pointers that live as long as the process.
        let argv = unsafe { core::slice::from_raw_parts(argv, count) };
        Self { argv }
    }

    /// Word `index`, without its NUL; word 0 is the program's name.
    pub fn get(&self, index: usize) -> Option<&'static [u8]> {
        let word = *self.argv.get(index)?;
        // SAFETY: `from_main`'s caller vouches for a NUL-terminated string that lives as long as the process.
        Some(unsafe { CStr::from_ptr(word) }.to_bytes())
    }
}
