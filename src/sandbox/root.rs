//! The process's own limits, and its root directory.

use core::ffi::CStr;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, chroot, fchdir, set_dumpable_behavior, setrlimit,
    umask,
};

use crate::limits::PROC_FD;
use crate::sys::fd::fixed;

/// No core file, no tracing by equals. Errors: setrlimit(2)'s, prctl(2)'s.
pub fn seal_process() -> Result<(), Errno> {
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// The clone of /proc/self/fd becomes the working directory, for connect(2): it takes no descriptor. Nothing
/// else goes by the working directory. Errors: fchdir(2)'s.
pub fn work_in_proc_fd() -> Result<(), Errno> {
    fchdir(fixed(PROC_FD))
}

/// Why the root could not be changed: the step, and its errno.
pub enum RootFault {
    /// chroot(2).
    Chroot(Errno),
    /// chdir(2).
    Chdir(Errno),
}

/// umask 0, then `root` becomes the root and the working directory.
pub fn enter(root: &CStr) -> Result<(), RootFault> {
    umask(Mode::empty());
    chroot(root).map_err(RootFault::Chroot)?;
    chdir(c"/").map_err(RootFault::Chdir)
}
