//! What the tests share: a client of 9P and of channels that shares no code with the server, and what starts the program under
//! test and looks at it from outside.

#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::new_without_default,
    clippy::panic,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc
)]

pub mod channel;
pub mod harness;
pub mod p9;
