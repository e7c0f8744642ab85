//! Faults that the host makes: full, failing and read-only file systems, results of system calls that no
//! test can bring about otherwise, signals, and the end of either side at any point.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

#[path = "../filter/table.rs"]
#[allow(dead_code)] // of it, which row a call meets
mod table;

mod disk;
#[cfg(target_arch = "x86_64")] // reads and writes x86-64 registers
mod killed;
mod peer;
#[cfg(target_arch = "x86_64")]
mod results;
mod signals;
#[cfg(target_arch = "x86_64")]
mod tracer;
mod work;

use kit::{channel, harness, p9};
use std::io::Write;

/// Prints past the test harness, which would keep it for itself.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("write to standard error");
}
