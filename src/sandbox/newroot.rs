//! A root of the process's own: the served root and the spec's bind mounts in an empty tree, the host's
//! tree gone from the mount namespace (docs/launch.md 2.1, the later contract).
//!
//! Nothing is mounted by path below the served root, where an image's symlinks lie and another container
//! may change them meanwhile. Each source is cloned, detached, while the host's tree is still in place; each
//! mount point is opened inside the root, and the clone is moved onto that descriptor; what is changed
//! afterwards is the mount that a descriptor of ours stands for.

use core::ffi::CStr;

use linux_raw_sys::general::{MS_RDONLY, MS_UNBINDABLE};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    CWD, FileType, Mode, OFlags, fstat, fstatfs, mkdirat, mknodat, openat, readlinkat_raw,
};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};

use crate::limits::LINK_BYTES;
use crate::mounts::Flags;
use crate::sys::arena::{List, c_path};
use crate::sys::inside::open_inside;
use crate::sys::raw::unshare_mounts;
use crate::text;
use crate::text::Arg::{Of, Quoted, Signed, Str};
use crate::text::{Say, Sink, Told};

/// Where the served root lies in the new root.
pub const SERVED: &CStr = c"/root";

/// What a connection serves: the root, or a bind mount below it.
pub struct Place {
    /// Its destination in the spec.
    pub name: &'static [u8],
    /// What is mounted, on the host.
    pub source: &'static CStr,
    /// Where, below the served root; without symlinks once it is made.
    pub path: &'static [u8],
    /// How.
    pub flags: Flags,
    /// Whether it is read-only only because it lies below the sandbox's overlay.
    pub is_below_overlay: bool,
    /// A path descriptor of it, or why there is none.
    pub tree: Result<OwnedFd, Errno>,
}

impl Place {
    fn tree(&self) -> Result<&OwnedFd, Errno> {
        self.tree.as_ref().map_err(|&errno| errno)
    }

    /// Whether its connection refuses changes.
    pub fn is_read_only(&self) -> bool {
        self.flags.attributes & MS_RDONLY != 0
    }

    /// Whether no clone of what lies above holds it.
    pub fn is_unbindable(&self) -> bool {
        self.flags.propagation & MS_UNBINDABLE != 0
    }

    /// Whether it lies on an overlay file system.
    pub fn is_on_overlay(&self) -> bool {
        const OVERLAYFS: i64 = 0x794c_7630;
        let stat = self.tree().and_then(fstatfs);
        stat.is_ok_and(|stat| stat.f_type == OVERLAYFS)
    }
}

/// A step of [`make`], for its error: what is done, and to which of the places, if to one.
struct Step(&'static str, usize);

const NONE: usize = usize::MAX;

/// Makes the new root and enters it, the first of `places` being the served root: that lies at [`SERVED`]
/// then, a fresh procfs at /proc, and nothing else. `cwd` is made in the served root.
///
/// Error: the step and the errno, in one line.
pub fn make(places: &mut [Place], cwd: &[u8]) -> Result<(), Told> {
    let mut step = Step("", NONE);
    build(places, cwd, &mut step).map_err(|errno| {
        let (what, why) = (Str(step.0), Of(errno));
        match places.get(step.1) {
            Some(place) => text!(
                "setting up root: % \"%\" on \"%\": %",
                what,
                Quoted(place.source.to_bytes()),
                Quoted(place.path),
                why
            )
            .told(),
            None => text!("setting up root: %: %", what, why).told(),
        }
    })
}

fn build(places: &mut [Place], cwd: &[u8], step: &mut Step) -> Result<(), Errno> {
    // Whoever started us: the mounts of others stay as they are.
    step.0 = "unsharing the mount namespace";
    unshare_mounts()?;
    step.0 = "making / rslave";
    mount_change(
        c"/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    for (number, place) in places.iter_mut().enumerate() {
        *step = Step("cloning", number);
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if place.flags.recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        place.tree = Ok(open_tree(CWD, place.source, flags)?);
    }
    let [root, ..] = &*places else {
        return Err(Errno::INVAL);
    };

    // On /proc, a directory that is always there.
    *step = Step("mounting tmpfs on /proc", NONE);
    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"tmpfs", c"/proc", c"tmpfs", closed, None)?;
    step.0 = "making directories in the tmpfs";
    for name in [c"/proc/proc", c"/proc/root"] {
        mkdirat(CWD, name, Mode::from_raw_mode(0o755))?;
    }
    step.0 = "mounting proc in the tmpfs";
    mount(
        c"proc",
        c"/proc/proc",
        c"proc",
        closed | MountFlags::RDONLY,
        None,
    )?;
    let served = root.tree()?.as_fd();
    for (number, place) in places.iter().enumerate() {
        *step = Step("making the mount point of", number);
        let tree = place.tree()?;
        let is_dir = FileType::from_raw_mode(fstat(tree)?.st_mode) == FileType::Directory;
        let target = match number {
            0 => open_host(c"/proc/root")?,
            _ => mount_point(served, place.path, is_dir)?,
        };
        step.0 = "mounting";
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, c"", &target, c"", flags)?;
    }
    *step = Step("making process.cwd", NONE);
    mount_point(served, cwd, true)?;

    step.0 = "pivoting to the tmpfs";
    chdir(c"/proc")?;
    pivot_root(c".", c".")?;
    step.0 = "detaching the old root";
    unmount(c".", UnmountFlags::DETACH)?;
    chdir(c"/")?;
    // Mount points are made by now: what is read-only may become so.
    for (number, place) in places.iter().enumerate() {
        *step = Step("changing the mount of", number);
        change(place.tree()?, place.flags)?;
    }
    for (number, place) in places.iter_mut().enumerate() {
        *step = Step("finding the mount of", number);
        place.path = place_of(place.tree()?)?;
    }
    Ok(())
}

/// Propagation and flags of a mount of ours. What its source's mount forbids stays forbidden.
fn change(tree: &OwnedFd, flags: Flags) -> Result<(), Errno> {
    let path = fd_path(tree);
    if flags.propagation != 0 {
        let propagation = MountPropagationFlags::from_bits_retain(flags.propagation);
        mount_change(path, propagation)?;
    }
    if flags.attributes != 0 {
        // The bits of statfs(2) are those of mount(2), of these four.
        let closed =
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let now = u32::try_from(fstatfs(tree)?.f_flags).unwrap_or(0) & closed.bits();
        let all = MountFlags::from_bits_retain(flags.attributes | now) | MountFlags::BIND;
        mount_remount(path, all, c"")?;
    }
    Ok(())
}

/// Names opened, names made and symlinks to what is missing followed on the way to one mount point. A path
/// has half as many names as bytes, each of which may be both.
const TRIES: usize = 2 * LINK_BYTES;

/// The mount point `path` inside `root`, symlinks resolved there; what is missing is made, the last of it
/// a directory or an empty file. Errors: openat2(2)'s, mkdirat(2)'s; `ELOOP` what is made is removed again
/// and again.
fn mount_point(root: BorrowedFd<'_>, path: &[u8], is_dir: bool) -> Result<OwnedFd, Errno> {
    // Name by name, each opened from the root, since a symlink among them may lead anywhere inside. An image's
    // symlink may be long, so the text is written over, and what is there is not looked at again.
    let (mut path, mut text) = (path, List::new());
    let (mut dir, mut end): (Option<OwnedFd>, _) = (None, 0);
    for _ in 0..TRIES {
        let (before, name) = path.split_at_checked(end + 1).unwrap_or_default();
        let upto = before.len() + name.iter().take_while(|&&byte| byte != b'/').count();
        let (upto, behind) = path.split_at_checked(upto).unwrap_or_default();
        text.truncate(0);
        text.put(upto);
        text.push(0);
        match open_inside(root, c_str(&text)?, OFlags::empty()) {
            Ok(point) if behind.is_empty() => return Ok(point),
            Ok(found) => {
                (dir, end) = (Some(found), upto.len());
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let above = dir.as_ref().map_or(root, |dir| dir.as_fd());
        let name = c_str(text.get(before.len()..).unwrap_or_default())?;
        let mode = Mode::from_raw_mode(0o777);
        let made = if is_dir || !behind.is_empty() {
            mkdirat(above, name, mode)
        } else {
            mknodat(above, name, FileType::RegularFile, mode, 0)
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let mut link = [0; LINK_BYTES];
                match read_link(above, name, &mut link) {
                    // A symlink to what is missing: that is made where the link leads.
                    Ok(link) => {
                        let mut longer = List::new();
                        longer.put(if link.starts_with(b"/") { b"" } else { before });
                        longer.put(link);
                        longer.put(behind);
                        path = longer.leak();
                        (dir, end) = (None, 0);
                    }
                    // Made by another meanwhile, or gone again.
                    Err(Errno::INVAL | Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::LOOP)
}

fn c_str(text: &[u8]) -> Result<&CStr, Errno> {
    CStr::from_bytes_with_nul(text).map_err(|_| Errno::INVAL)
}

fn open_path(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_inside(root, c_path(path)?, OFlags::empty())
}

/// A path that no image is part of.
fn open_host(path: &CStr) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn read_link<'a>(
    dir: BorrowedFd<'_>,
    name: &CStr,
    text: &'a mut [u8; LINK_BYTES],
) -> Result<&'a [u8], Errno> {
    let len = readlinkat_raw(dir, name, &mut text[..])?;
    Ok(text.get(..len).unwrap_or_default())
}

/// What a descriptor of ours is called in /proc.
pub fn fd_path(fd: &impl AsRawFd) -> &'static CStr {
    let mut path = List::new();
    text!("/proc/self/fd/%", Signed(fd.as_raw_fd().into())).say(&mut path);
    c_path(&path).unwrap_or_default()
}

/// Where a file below [`SERVED`] lies in the served root, as the kernel tells it: free of symlinks.
///
/// Errors: readlinkat(2)'s; `EXDEV` it does not lie there.
fn place_of(fd: &OwnedFd) -> Result<&'static [u8], Errno> {
    let mut text = [0; LINK_BYTES];
    let path = read_link(CWD, fd_path(fd), &mut text)?;
    match path.strip_prefix(SERVED.to_bytes()) {
        Some(b"") => Ok(b"/"),
        Some(below) if below.starts_with(b"/") => Ok(List::copy(below).leak()),
        _ => Err(Errno::XDEV),
    }
}

/// Finds the places in a root that somebody else made, as far as they are there.
pub fn find(places: &mut [Place]) {
    let root = open_host(SERVED);
    for place in places {
        let tree = root.as_ref().map_err(|&errno| errno);
        place.tree = tree.and_then(|root| open_path(root.as_fd(), place.path));
        if let Ok(path) = place.tree().and_then(place_of) {
            place.path = path;
        }
    }
}
