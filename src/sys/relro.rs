//! RELRO in force: what the relocation of a static PIE has written is made read-only.
//!
//! The linker marks the range (`PT_GNU_RELRO`); a dynamic loader would protect it, and musl's
//! start-up code for static-pie does not.
#![allow(unsafe_code)]

use core::ffi::c_void;

use linux_raw_sys::elf::{Elf_Ehdr, Elf_Phdr, PT_GNU_RELRO};
use rustix::io::Errno;
use rustix::mm::{MprotectFlags, mprotect};

use crate::limits::PAGE_BYTES;

unsafe extern "C" {
    /// Put by the linker at the start of the program's image.
    static __ehdr_start: Elf_Ehdr;
}

/// Makes the range of `PT_GNU_RELRO` read-only. Errors: mprotect(2)'s; `ENOEXEC` no such range.
pub fn protect() -> Result<(), Errno> {
    // SAFETY: the linker defines the symbol at the ELF header, mapped read-only for ever.
    let header = unsafe { &__ehdr_start };
    let base = core::ptr::from_ref(header).cast::<u8>();
    for index in 0..usize::from(header.e_phnum) {
        // SAFETY: the program headers lie in the first mapped page of the image, behind its header.
        let at = unsafe { base.add(header.e_phoff + index * size_of::<Elf_Phdr>()) };
        // SAFETY: e_phnum headers stand there; the linker aligns them.
        let segment = unsafe { &*at.cast::<Elf_Phdr>() };
        if segment.p_type != PT_GNU_RELRO {
            continue;
        }
        let start = base.addr() + segment.p_vaddr;
        let end = (start + segment.p_memsz) / PAGE_BYTES * PAGE_BYTES;
        let start = start / PAGE_BYTES * PAGE_BYTES;
        // SAFETY: the linker promises that nothing in the range is written after relocation.
        return unsafe {
            mprotect(
                base.with_addr(start).cast_mut().cast::<c_void>(),
                end - start,
                MprotectFlags::READ,
            )
        };
    }
    Err(Errno::NOEXEC)
}
