//! What the launch of 2019 to 2022 asks for beyond that of 2018 (docs/launch.md 2.1, 3).

use gofer::cli::{Contract, Options};
use gofer::log::Log;
use gofer::mounts::{self, Flags};
use gofer::sandbox::descriptors;
use gofer::sandbox::newroot::Place;
use gofer::spec::Spec;
use gofer::sys::arena::List;
use gofer::text;
use gofer::text::Arg::Raw;
use gofer::text::Told;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_uid};

use super::fatal::{Fatal, fatal, step, write_all};
use super::paths::{c_string, join};

/// What the later contract makes of a spec: its annotations override flags, and other mounts are served.
pub(crate) fn adapt(
    options: &mut Options<'static>,
    spec: &mut Spec,
    mounts: usize,
    log: &mut Log,
) -> Result<(), Fatal> {
    for &(name, value) in spec.overrides.iter() {
        options.override_by(name, value).map_err(refused)?;
    }
    log.debug = options.is_debug();
    spec.serve_by_later_rules(mounts);
    Ok(())
}

/// What lies below an overlay that the sandbox makes, so that the sandbox writes nothing there.
#[derive(Clone, Copy)]
pub(crate) struct Overlay {
    root: bool,
    mounts: bool,
}

/// What `--overlay` and `--overlay2` say; the launch of 2018 has its overlay in the sandbox alone.
pub(crate) fn overlay(options: &Options<'_>) -> Overlay {
    let is_l = options.contract() == Contract::L;
    let overlay = options.text("overlay2");
    let mounts = is_l && (options.flag("overlay") || overlay.starts_with(b"all:"));
    Overlay {
        root: mounts || is_l && overlay.starts_with(b"root:"),
        mounts,
    }
}

pub(crate) fn refused(why: Told) -> Fatal {
    fatal(text!("error reading spec: %", Raw(why)))
}

/// Waits until whoever makes our user namespace has mapped its ids, and becomes its root.
pub(crate) fn become_root(userns: &OwnedFd) -> Result<(), Fatal> {
    let mut ignored = [0; 64];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(userns, &mut ignored)) {
            Ok(0) => break,
            Ok(_) => {}
            Err(errno) => return Err(step("waiting for the user namespace")(errno)),
        }
    }
    set_thread_uid(Uid::ROOT).map_err(step("becoming the user namespace's root: setuid"))?;
    set_thread_gid(Gid::ROOT).map_err(step("becoming the user namespace's root: setgid"))
}

/// `--fdlimit`, as far as the process may set it, or else as many as it may have.
pub(crate) fn limit_descriptors(options: &Options<'_>, log: &Log) -> Result<u64, Fatal> {
    let wanted = u64::try_from(options.number("fdlimit")).ok();
    let limited = match descriptors::limit_descriptors(wanted) {
        Err(Errno::PERM) => {
            log.warning(text!("--fdlimit is more than the process may have"));
            descriptors::limit_descriptors(None)
        }
        limited => limited,
    };
    limited.map_err(step("raising the limit of descriptors"))
}

/// What is served: the root, and the mounts in their order.
pub(crate) fn places(
    spec: &Spec,
    bundle: &[u8],
    overlay: Overlay,
    is_l: bool,
) -> Result<&'static mut [Place], Fatal> {
    let mut places = List::new();
    let mut add = |name: Told, source: Told, flags: Result<Flags, _>, (ro, below): (bool, bool)| {
        let mut place = Place {
            name,
            source: c"",
            path: name,
            flags: Flags::default(),
            is_below_overlay: below && !ro,
            tree: Err(Errno::BADF),
        };
        if is_l {
            place.source = c_string(&join(bundle, source))?;
            place.path = join(b"/", name.get(1..).unwrap_or_default()).leak();
        }
        match flags {
            Ok(flags) => place.flags = flags,
            Err(text) if is_l => return Err(refused(text)),
            Err(_) => {}
        }
        place.flags.attributes |= u32::from(ro || below); // MS_RDONLY
        places.push(place);
        Ok(())
    };
    let flags = mounts::root_flags(spec.propagation);
    let read_only = (spec.root_read_only, overlay.root);
    add(b"/", spec.root_path, flags, read_only)?;
    for mount in spec.served() {
        let flags = mounts::flags(mount.options);
        let read_only = (mount.read_only, overlay.mounts);
        add(mount.destination, mount.source, flags, read_only)?;
    }
    Ok(places.leak()) // held, or given up with the process
}

/// Hands the sandbox the mount list, to its end.
pub(crate) fn write_list(
    spec: &Spec,
    bundle: &[u8],
    places: &[Place],
    fd: &OwnedFd,
) -> Result<(), Fatal> {
    let mut served = places.iter().skip(1);
    let mut list = List::new();
    for mount in spec.mounts.iter() {
        let place = if mount.served { served.next() } else { None };
        let source = match mount.source {
            b"" => List::new(),
            source => join(bundle, source),
        };
        let path = place.map_or(mount.destination, |place| place.path);
        mounts::entry(
            &mut list,
            mount,
            path,
            &source,
            place.is_some_and(Place::is_on_overlay),
        );
    }
    if list.is_empty() {
        list.push(b'[');
    }
    list.push(b']');
    write_all(fd, &list).map_err(step("writing the mounts to --mounts-fd"))
}
