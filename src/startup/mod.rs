//! Parts of the program's start that `main.rs` names; of the program, not of the library.

pub(crate) mod banner;
pub(crate) mod fatal;
pub(crate) mod later;
pub(crate) mod paths;
pub(crate) mod reading;
