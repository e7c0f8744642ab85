//! The program's own image: relocated at its entry, then what that wrote is made read-only (RELRO).
//!
//! A static PIE has nobody else who would do either: no dynamic loader, and no start files of a C library.
#![allow(unsafe_code)]

use core::ffi::c_void;

use linux_raw_sys::elf::{DT_NULL, Elf_Dyn, Elf_Ehdr, Elf_Phdr, PT_GNU_RELRO};
use rustix::io::Errno;
use rustix::mm::{MprotectFlags, mprotect};

use crate::limits::PAGE_BYTES;

unsafe extern "C" {
    /// Put by the linker at the start of the program's image.
    static __ehdr_start: Elf_Ehdr;
}

/// Table of the places that hold an address, packed (generic ELF ABI, "Relative Relocation Table").
const DT_RELR: usize = 36;
/// Its bytes.
const DT_RELRSZ: usize = 35;

/// Adds the address of the image to each word that the linker lists. It lists nothing else: a test looks.
/// Called once, before anything that needs an address from memory.
///
/// # Safety
/// `base` and `dynamic` are the start of the image and its `_DYNAMIC`, and nothing was relocated yet.
#[inline(always)]
pub unsafe fn relocate(base: *mut u8, mut dynamic: *const Elf_Dyn) {
    let (mut table, mut len) = (base.cast::<usize>().cast_const(), 0);
    loop {
        // SAFETY: the linker ends the entries with a DT_NULL.
        let Elf_Dyn { d_tag, d_un } = unsafe { *dynamic };
        // SAFETY: both members are words.
        let value = unsafe { d_un.d_ptr };
        match d_tag {
            DT_NULL => break,
            DT_RELR => table = base.wrapping_add(value).cast(),
            DT_RELRSZ => len = value / size_of::<usize>(),
            _ => {}
        }
        dynamic = dynamic.wrapping_add(1);
    }
    let mut place = base.cast::<usize>();
    // No slice and no range: a debug build would call their functions by pointers that are not relocated yet.
    let end = table.wrapping_add(len);
    while table != end {
        // SAFETY: `len` words stand there.
        let word = unsafe { *table };
        table = table.wrapping_add(1);
        if word & 1 == 0 {
            place = base.wrapping_add(word).cast();
            // SAFETY: an even word is a place's distance, all of which lie in the image, aligned, writable until
            // [`protect`], and nobody else's.
            let there = unsafe { &mut *place };
            *there = there.wrapping_add(base.addr());
            place = place.wrapping_add(1);
            continue;
        }
        let mut bit = 0;
        while bit < usize::BITS as usize - 1 {
            if word >> (bit + 1) & 1 == 1 {
                let at = place.wrapping_add(bit);
                // SAFETY: an odd word is a mask of the places that follow; as above.
                let there = unsafe { &mut *at };
                *there = there.wrapping_add(base.addr());
            }
            bit += 1;
        }
        place = place.wrapping_add(usize::BITS as usize - 1);
    }
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
