//! The filter of system calls against its table, `gofer::sandbox::seccomp::ALLOWED`, row by row, in
//! every mode: the program by an interpreter, the program in the kernel, the binary's own call sites,
//! and what the binary calls while it serves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

#[cfg(target_arch = "x86_64")] // reads x86-64 machine code
mod audit;
mod bpf;
mod kernel;
mod listing;
mod rows;
mod table;
mod trace;

use kit::{channel, harness, p9};
use std::io::Write;

/// Prints past the test harness, which would keep it for itself.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("write to standard error");
}
