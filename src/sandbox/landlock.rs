//! Landlock (landlock(7)): no file is opened, made, renamed or removed but below an attach point, whatever else the
//! process comes to hold or the mounts let it. Takes no privilege, so that it holds where no mount could be cloned.

use linux_raw_sys::landlock::{
    LANDLOCK_ACCESS_FS_EXECUTE, LANDLOCK_ACCESS_FS_IOCTL_DEV, LANDLOCK_ACCESS_FS_READ_DIR,
    LANDLOCK_ACCESS_FS_READ_FILE, LANDLOCK_ACCESS_FS_REFER, LANDLOCK_ACCESS_FS_TRUNCATE,
    LANDLOCK_ACCESS_FS_WRITE_FILE,
};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use super::newroot::Place;
use crate::sys::raw::{landlock_abi, landlock_allow, landlock_ruleset};

/// What may be asked for of a file that is no directory.
const OF_FILES: u32 =
    LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE;

/// Rules for what is served, to be put in force by [`crate::sys::raw::landlock_restrict`]; what has none is
/// refused with EACCES.
///
/// Errors: `EOPNOTSUPP`, `ENOSYS` no Landlock, or that of Linux before 5.19, which refuses every rename from one
/// directory to another; landlock_add_rule(2)'s.
pub fn rules(places: &[Place]) -> Result<OwnedFd, Errno> {
    // Every right that the kernel knows, so that there is none without a rule.
    let known = match landlock_abi()? {
        ..2 => return Err(Errno::OPNOTSUPP),
        2 => LANDLOCK_ACCESS_FS_TRUNCATE - 1,
        3..5 => LANDLOCK_ACCESS_FS_IOCTL_DEV - 1,
        _ => 2 * LANDLOCK_ACCESS_FS_IOCTL_DEV - 1,
    };
    let rules = landlock_ruleset(known)?;
    for place in places {
        let Ok(tree) = &place.tree else {
            continue;
        };
        let mut rights = known & !(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_IOCTL_DEV);
        if place.is_read_only() {
            rights &= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
        }
        if FileType::from_raw_mode(fstat(tree)?.st_mode) != FileType::Directory {
            rights &= OF_FILES;
        }
        landlock_allow(rules.as_fd(), tree.as_fd(), rights)?;
    }
    Ok(rules)
}

const _: () = assert!(
    LANDLOCK_ACCESS_FS_REFER < LANDLOCK_ACCESS_FS_TRUNCATE
        && LANDLOCK_ACCESS_FS_TRUNCATE < LANDLOCK_ACCESS_FS_IOCTL_DEV
);
