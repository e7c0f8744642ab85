//! Paths that the kernel resolves without leaving a directory (openat2(2)).

use core::ffi::CStr;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// Tries to resolve a path with `..` while something is renamed on the host.
const TRIES: usize = 64;

/// A path descriptor of `path`, with `dir` as the root of all that is on the way: of absolute paths, of
/// symlinks, of `..`. Magic links are not followed.
///
/// Errors: openat2(2)'s; `EAGAIN` renamed under us each time; `ENOSYS` before Linux 5.6.
pub fn open_inside(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        if !matches!(opened, Err(Errno::AGAIN)) {
            break;
        }
        opened = openat2(dir, path, flags, Mode::empty(), resolve);
    }
    opened
}
