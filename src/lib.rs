//! `gofer`: opens a host's files for a sandboxed kernel and answers over 9P2000.L on inherited sockets.
//!
//! The rooms, and which may know which:
//!
//! ```text
//! main -> cli, spec, log, sandbox, server     server -> p9, fs, tables     fs -> sys, tables, p9::{qid, attr, wire}
//! sandbox -> sys, mounts                      p9 -> core only             log -> sandbox, sys, clock
//! spec -> json     mounts -> spec             anyone -> limits, packed, text, errno, decimal, sys::arena
//! ```
//!
//! `cli`, `spec` and `mounts` turn bytes into what start-up needs and make no system call. `sandbox` confines
//! the process. `server` is the poll loop, the channels and the protocol's rules; `fs` is the host's files below the
//! attach points; `p9` is the wire. `tables` are the fixed tables of both. Everything `unsafe` is in `sys`.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )
)]

pub mod cli;
pub mod clock;
pub mod decimal;
pub mod errno;
pub mod fs;
pub mod json;
pub mod limits;
pub mod log;
pub mod mounts;
pub mod p9;
pub mod packed;
pub mod sandbox;
pub mod server;
pub mod spec;
pub mod sys;
pub mod tables;
pub mod text;
