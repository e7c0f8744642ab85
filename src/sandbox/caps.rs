//! Capabilities: six at the most, none that can come back (docs/launch.md 2.2, capabilities(7)).

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What serving needs, and the chroot before it.
pub const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SYS_CHROOT);

/// What became of the capabilities.
pub struct Reduced {
    /// Those of [`KEPT`] that the process had, and has now.
    pub kept: CapabilitySet,
    /// Whether the bounding set was reduced too; that takes CAP_SETPCAP.
    pub bounding: bool,
}

/// Leaves those of [`KEPT`] that are permitted now: in the effective and permitted set and, where the
/// process may, in the bounding set; until [`drop_startup`] CAP_SYS_ADMIN too, but not in the bounding set.
/// The inheritable and the ambient set become empty.
///
/// Errors: capget(2)'s, capset(2)'s.
pub fn reduce() -> Result<Reduced, Errno> {
    let permitted = capabilities(None)?.permitted;
    let kept = permitted & KEPT;
    let bounding = reduce_bounding()?; // needs CAP_SETPCAP, which goes next
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {} // EINVAL: before Linux 4.3 there was none
        Err(errno) => return Err(errno),
    }
    set(kept | permitted & CapabilitySet::SYS_ADMIN)?;
    Ok(Reduced { kept, bounding })
}

/// Leaves what serving needs: chroot and mounts are done. Errors: capset(2)'s.
pub fn drop_startup(kept: CapabilitySet) -> Result<(), Errno> {
    set(kept - CapabilitySet::SYS_CHROOT)
}

fn set(kept: CapabilitySet) -> Result<(), Errno> {
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// False: the process may not.
fn reduce_bounding() -> Result<bool, Errno> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(true), // past the last one
            Err(Errno::PERM) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}
