//! Links the program, and nothing else, against musl's `libc.a`, as a static PIE whose entry is its own.
//!
//! `core` knows no libc, so it links with Debian's `musl-dev`, of which it takes `memcpy` and its like.
//! The archive is named by its full path: rustc puts `-Bdynamic` before link arguments, and `-lc`
//! would take musl's shared library.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=.cargo/link.rs");
    println!("cargo::rerun-if-env-changed=GOFER_MUSL_DIR");
    let var = |name: &str| std::env::var(name).unwrap_or_default();

    let arch = var("CARGO_CFG_TARGET_ARCH");
    let dir = match std::env::var_os("GOFER_MUSL_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(format!("/usr/lib/{arch}-linux-musl")),
    };
    let archive = dir.join("libc.a");
    if !archive.exists() {
        println!(
            "cargo::warning=no {}: install musl-dev (./build.sh does), or set GOFER_MUSL_DIR",
            archive.display()
        );
    }
    // Panics abort and nothing walks the stack: the unwind tables that core and libc.a bring, 12 kB,
    // are left out, and the names of the compilers.
    let script = PathBuf::from(var("OUT_DIR")).join("discard.ld");
    let text = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.eh_frame_hdr) *(.gcc_except_table*) *(.comment) } } INSERT AFTER .text;\n";
    if let Err(error) = std::fs::write(&script, text) {
        println!("cargo::error=cannot write {}: {error}", script.display());
    }
    println!(
        "cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{}",
        script.display()
    );
    // Relocations are done before main, so all that they touch can be read-only from then on
    // (sys/image.rs does and asks for it). No build id: two builds give the same bytes.
    let args = [
        "-nostartfiles",
        "-nodefaultlibs",
        "-static-pie",
        &archive.display().to_string(),
        "-Wl,-z,relro,-z,now,-z,noexecstack,-z,pack-relative-relocs",
        "-Wl,--build-id=none",
        "-Wl,--gc-sections",
    ];
    for arg in args {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}
