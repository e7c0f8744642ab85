//! Tables of a fixed capacity over memory mapped at start: records, their hash index, and names.
//!
//! Safe code over [`crate::sys::memory::Region`]; knows nothing of files or protocol.

mod index;
mod names;
mod places;
mod slab;

pub use index::{Index, Key, Linked};
pub use names::{NameRef, Names};
pub use places::Id;
pub use slab::Slab;
