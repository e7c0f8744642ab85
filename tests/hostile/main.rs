//! Hostile clients: what each does, the server survives, and nobody else notices.
//!
//! An *item* is one attack. While it lasts, a quiet connection asks once a millisecond, and its longest wait is
//! printed. Once the attackers are gone, the server has the memory and the descriptors that it had before, and
//! nothing outside their attach points has changed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    unreachable_pub
)]

mod channels;
mod descriptors;
mod fields;
mod frames;
mod names;
mod pace;
mod request;
mod states;
mod tables;
mod world;

use kit::{channel, harness, p9};
use std::io::Write;

/// Prints past the test harness, which would keep it for itself.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("write to standard error");
}
