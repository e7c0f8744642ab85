//! The tests of the protocol: a client of its own against the built program, on files in a
//! temporary directory, one module a family of messages.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

use kit::{channel, harness, p9};
mod append;
mod attach;
mod attr;
mod channels;
mod command;
mod confinement;
mod connections;
mod create;
mod data;
mod deleted;
mod detached;
mod dir;
mod entries;
mod faults;
mod frames;
mod hostile;
mod later;
mod launch;
mod linux;
mod locks;
mod logs;
mod mended;
mod misc;
mod open;
mod open_parents;
#[allow(dead_code, unreachable_pub)] // the hostile clients'
#[path = "../hostile/request.rs"]
mod request;
mod setattr;
mod special;
mod start;
mod tree;
mod version;
mod walk;
mod xattr;
