//! Descriptors: the inherited ones taken over, moved or closed; those that start-up opens.

use core::ffi::CStr;
use core::mem::ManuallyDrop;

use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::mount::OpenTreeFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::detached;
use crate::limits::{DEBUG_LOG_FD, FIRST_FREE_FD, LOG_FD, PROC_FD, SPARE_LOG_FD, STDERR_LOG_FD};
use crate::sys::arena::List;
use crate::sys::fd::{inherit, place};
use crate::sys::memory::Region;
use crate::sys::raw::close_range;

/// Something open that holds a number and gives nothing: the read end of a pipe without a writer.
fn placeholder() -> Result<OwnedFd, Errno> {
    pipe_with(PipeFlags::CLOEXEC).map(|(read, _write)| read)
}

/// Makes sure that 0, 1 and 2 are open, so that no file of ours lands there. Errors: pipe2(2)'s.
pub fn fill_standard() -> Result<(), Errno> {
    loop {
        let fd = placeholder()?;
        if fd.as_raw_fd() > 2 {
            return Ok(());
        }
        let number = fd.as_raw_fd();
        place(fd, number)?;
    }
}

/// Looks at the descriptors that the command line names, before any is moved: from then on such a number
/// may be one of ours; -1 is none. The first that is not as it must be, and why.
///
/// Errors: `EBADF` not open, or named twice; `ENOTSOCK` an io-fd that is no socket.
pub fn check_named(sockets: &[RawFd], logs: &[RawFd]) -> Result<(), (RawFd, Errno)> {
    let all = || sockets.iter().chain(logs);
    for (at, &number) in all().enumerate().filter(|(_, number)| **number >= 0) {
        if all().take(at).any(|&before| before == number) {
            return Err((number, Errno::BADF));
        }
        let fd = inherit(number).ok_or((number, Errno::BADF))?;
        let kind = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        core::mem::forget(fd); // only looked at
        match kind {
            Ok(FileType::Socket) => {}
            Ok(_) if at >= sockets.len() => {}
            Ok(_) => return Err((number, Errno::NOTSOCK)),
            Err(errno) => return Err((number, errno)),
        }
    }
    Ok(())
}

/// Takes over the descriptor that the command line calls `number`, and moves it clear of the fixed
/// ones; [`check_named`] has looked at it. Errors: `EBADF` not open; fcntl(2)'s.
pub fn adopt(number: RawFd) -> Result<OwnedFd, Errno> {
    let fd = inherit(number).ok_or(Errno::BADF)?;
    fcntl_dupfd_cloexec(&fd, FIRST_FREE_FD)
}

/// Moves a descriptor to a number from `least` on, if it is below. Errors: fcntl(2)'s.
pub fn move_up(fd: OwnedFd, least: RawFd) -> Result<OwnedFd, Errno> {
    match fd.as_raw_fd() >= least {
        true => Ok(fd),
        false => fcntl_dupfd_cloexec(&fd, least),
    }
}

/// A copy of the inherited descriptor `number`, at a number from `least` on; what was copied stays until
/// [`close_others`] closes it, or for ever below 3. Errors: `EBADF` not open; fcntl(2)'s.
pub fn copy(number: RawFd, least: RawFd) -> Result<OwnedFd, Errno> {
    let fd = ManuallyDrop::new(inherit(number).ok_or(Errno::BADF)?);
    fcntl_dupfd_cloexec(&*fd, least)
}

/// The fixed numbers from 3 on.
const FIXED: [RawFd; 5] = [PROC_FD, LOG_FD, DEBUG_LOG_FD, STDERR_LOG_FD, SPARE_LOG_FD];

/// Puts `placed` at their numbers and placeholders at the fixed numbers that are left. What is inherited there is
/// closed. Errors: pipe2(2)'s, dup3(2)'s.
pub fn place_fixed(mut placed: List<(OwnedFd, RawFd)>) -> Result<(), Errno> {
    for number in FIXED
        .into_iter()
        .filter(|number| placed.iter().all(|(_, taken)| taken != number))
    {
        place(move_up(placeholder()?, FIRST_FREE_FD)?, number)?;
    }
    while let Some((fd, number)) = placed.pop() {
        place(fd, number)?;
    }
    Ok(())
}

/// Closes every descriptor but 0 to 2, the fixed ones, and `kept`. Errors: close_range(2)'s.
pub fn close_others(kept: &[&OwnedFd]) -> Result<(), Errno> {
    let mut numbers = List::of(kept.iter().map(|fd| fd.as_raw_fd()));
    numbers.extend(FIXED);
    let mut from = 3;
    // In ascending order, without the two kilobytes that sorting takes.
    while let Some(&number) = numbers.iter().filter(|&&number| number >= from).min() {
        if number > from {
            close_range(from, number - 1)?;
        }
        from = number + 1;
    }
    close_range(from, RawFd::MAX)
}

/// Takes a detached clone of /proc/self/fd, and of nothing else, to [`PROC_FD`] (open_tree(2)): through
/// it a held file can be opened again after the chroot, and `..` leads nowhere. Needs CAP_SYS_ADMIN.
///
/// Errors: openat(2)'s, open_tree(2)'s; the placeholder stays.
pub fn clone_proc() -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fds = openat(CWD, c"/proc/self/fd", flags, Mode::empty())?;
    let clone = detached::clone(&fds, OpenTreeFlags::empty())?;
    // A procfs mounted with other options, or another file system at /proc, may not lead to our files.
    let probe = move_up(placeholder()?, FIRST_FREE_FD)?;
    let mut buffer = [0; 11];
    let name = crate::decimal::c_digits(probe.as_raw_fd().unsigned_abs(), &mut buffer);
    let again = openat(&clone, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (one, other) = (rustix::fs::fstat(&probe)?, rustix::fs::fstat(&again)?);
    if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino) {
        return Err(Errno::STALE);
    }
    place(clone, PROC_FD)
}

/// Sets the limit of descriptors, soft and hard; without `limit`, the soft one is raised to the hard one.
/// What the process may have then. Errors: setrlimit(2)'s.
pub fn limit_descriptors(limit: Option<u64>) -> Result<u64, Errno> {
    let limit = limit.or_else(|| getrlimit(Resource::Nofile).maximum);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )?;
    Ok(limit.unwrap_or(u64::MAX))
}

/// Reads a file whole, into memory of its own. Errors: openat(2)'s, those of [`read_all`].
pub fn read_file(path: &CStr) -> Result<Region<u8>, Errno> {
    let file = openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )?;
    read_all(&file)
}

/// Reads an open file whole, from its start. Errors: fstat(2)'s, pread(2)'s.
pub fn read_all(file: &OwnedFd) -> Result<Region<u8>, Errno> {
    let size = rustix::fs::fstat(file.as_fd())?.st_size;
    let mut region = Region::reserve(usize::try_from(size).map_err(|_| Errno::FBIG)?);
    let mut filled = 0;
    while filled < region.len() {
        match rustix::io::retry_on_intr(|| {
            let room = region.get_mut(filled..).unwrap_or_default();
            rustix::io::pread(file, room, filled as u64)
        })? {
            0 => break,
            count => filled += count,
        }
    }
    region.truncate(filled);
    Ok(region)
}
