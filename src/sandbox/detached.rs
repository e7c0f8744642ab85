//! Mounts that nobody else has: what is served is a clone of its mounts in no namespace, and the process's own
//! root an empty directory there.
//!
//! From the root of such a clone `..` leads nowhere, and from a directory that was moved out of it neither;
//! what its mounts forbid is refused by the kernel, whatever the process asks for.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen,
    open_tree,
};
use rustix::process::{chroot, fchdir};

use crate::sys::raw::restrict_mounts;

/// A detached clone of what a path descriptor leads to, with `more`. Errors: open_tree(2)'s.
pub fn clone(fd: &OwnedFd, more: OpenTreeFlags) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(fd, c"", flags | more)
}

/// Puts a detached clone, with the mounts below it, in the place of the path descriptor `tree`: without set-id
/// bits and devices, and read-only if asked for. What `tree` was.
///
/// Errors: open_tree(2)'s, and nothing is changed; mount_setattr(2)'s, and the clone is as its source.
pub fn detach(tree: &mut OwnedFd, read_only: bool) -> Result<OwnedFd, Errno> {
    let clone = clone(tree, OpenTreeFlags::AT_RECURSIVE)?;
    let source = core::mem::replace(tree, clone);
    let closed = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    restrict_mounts(tree.as_fd(), closed.bits() | u32::from(read_only))?;
    Ok(source)
}

/// An empty, read-only directory of a file system of its own becomes root and working directory.
///
/// Errors: fsopen(2)'s, fsconfig(2)'s, fsmount(2)'s, fchdir(2)'s, chroot(2)'s.
pub fn enter_empty() -> Result<(), Errno> {
    let context = fsopen(c"ramfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let closed = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, closed)?;
    fchdir(&empty)?;
    chroot(c".")
}
