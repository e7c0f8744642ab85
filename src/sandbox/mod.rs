//! Confinement, in this order; each step has a file of its own.
//!
//! 1. `descriptors`: inherited ones are taken over or closed, the clone of /proc/self/fd is taken;
//!    before that, in the later contract, `newroot`: the host's tree leaves the mount namespace;
//! 2. `caps`: six capabilities are left, one of them for the next steps alone, and CAP_SYS_ADMIN for them;
//! 3. `root`: umask 0, chroot, chdir;
//! 4. `detached`: clones of what is served are taken, and the root becomes an empty directory; then `caps`: five
//!    are left;
//! 5. `landlock`: no file but below what is served;
//! 6. `seccomp`: the system calls of one table are left.

pub mod caps;
pub mod descriptors;
pub mod detached;
pub mod landlock;
pub mod newroot;
pub mod root;
pub mod seccomp;
