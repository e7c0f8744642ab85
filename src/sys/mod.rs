//! The few things rustix lacks and what must be `unsafe`, behind safe signatures. The one room with `unsafe`.

pub mod arena;
pub mod args;
pub mod bell;
pub mod fd;
pub mod image;
pub mod inside;
pub mod memory;
pub mod raw;
pub mod window;
