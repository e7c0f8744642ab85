//! The protocol as bytes: 9P2000.L with the extensions of gVisor (docs/protocol.md). Knows no file and no socket.

pub mod attr;
pub mod messages;
pub mod qid;
pub mod show;
pub mod version;
pub mod wire;
