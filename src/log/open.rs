//! The logs that a command line names, opened by the rules of the runtime that calls (docs/launch.md 1.3 to 1.6).

use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fstat, mkdirat, openat};
use rustix::io::Errno;

use super::{Format, Level, Log, Target};
use crate::cli::{Contract, Options};
use crate::clock::{Civil, Offset};
use crate::limits::{DEBUG_LOG_FD, FIRST_FREE_FD, LOG_FD, STDERR_LOG_FD};
use crate::sandbox::descriptors::{copy, move_up};
use crate::sandbox::newroot::fd_path;
use crate::sys::arena::{List, c_path};
use crate::sys::fd::inherit;
use crate::sys::raw::wall_clock;
use crate::text;
use crate::text::Arg::{Of, Padded, Quoted, Raw, Signed};
use crate::text::{Say, Sink, Told};

/// Descriptors of the logs, each with the fixed number that it is to be moved to.
pub type Placed = List<(OwnedFd, RawFd)>;

/// What a command line can name for a log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    LogFd,
    Log,
    DebugLogFd,
    DebugLog,
}

/// Opens the logs, makes them targets of `log`, and adds their descriptors to `placed`. A descriptor goes before
/// a path.
///
/// Error: what the original says of the first log that cannot be opened; [`report`] writes it to the others.
pub fn open(options: &Options<'_>, log: &mut Log, placed: &mut Placed) -> Result<(), Told> {
    log.debug = options.is_debug();
    let is_later = options.contract() == Contract::L;
    let debug_fd = options.number("debug-log-fd");
    if debug_fd >= 0 {
        if !is_later {
            return Err(
                b"flag --debug-log-fd should only be passed to 'boot' command, \
                         but was passed to \"gofer\"",
            );
        }
        // Whether it is open, before that number may be a copy of ours.
        inherited(options, debug_fd, FIRST_FREE_FD)?;
    }
    for (first, second, number) in [
        (Named::LogFd, Named::Log, LOG_FD),
        (Named::DebugLogFd, Named::DebugLog, DEBUG_LOG_FD),
    ] {
        if first == Named::DebugLogFd && debug_fd >= 0 {
            // What else is written to standard error goes there too.
            placed.push((inherited(options, debug_fd, FIRST_FREE_FD)?, 2));
        }
        let named = match open_named(first, options, log.offset, FIRST_FREE_FD) {
            None => open_named(second, options, log.offset, FIRST_FREE_FD),
            named => named,
        };
        let fd = match named {
            Some(fd) => fd,
            None if is_later || number != LOG_FD => continue,
            None => standard_error(),
        };
        add(log, placed, number, fd?, form(first, options))?;
    }
    if is_later && options.flag("alsologtostderr") {
        let form = form(Named::DebugLog, options);
        add(log, placed, STDERR_LOG_FD, standard_error()?, form)?;
    }
    Ok(())
}

/// Writes why the start is refused to every log that the command line names, as far as each can be opened; as
/// text where its format is wrong.
#[inline(never)]
pub fn report(options: &Options<'_>, pid: u64, offset: Offset, why: Told) {
    leave_standard_error(options);
    let all = [Named::LogFd, Named::Log, Named::DebugLogFd, Named::DebugLog];
    for named in all {
        // At any number: nothing is moved to a fixed one any more.
        if let Some(Ok(fd)) = open_named(named, options, offset, 0) {
            let (format, least) = form(named, options);
            let (_fd, target) = target(fd, format.unwrap_or_default(), least);
            let mut log = Log::new(pid, offset);
            log.targets = [Some(target), None, None];
            log.fatal(text!("%", Raw(why)));
        }
    }
}

/// Closes standard error if it is named for something else, a client's socket for one: no line is to go there.
pub fn leave_standard_error(options: &Options<'_>) {
    if options.names_descriptor(2) {
        drop(inherit(2));
    }
}

/// Opens a log, if it is named, at a number from `least` on. Error: what the original says.
#[inline(never)]
fn open_named(
    named: Named,
    options: &Options<'_>,
    offset: Offset,
    least: RawFd,
) -> Option<Result<OwnedFd, Told>> {
    match named {
        Named::LogFd | Named::DebugLogFd => {
            let number = match named {
                Named::LogFd => options.number("log-fd"),
                _ => options.number("debug-log-fd"),
            };
            (number >= 0).then(|| inherited(options, number, least))
        }
        Named::Log => {
            let path = options.text("log");
            let open = || append(path, 0o644, least).map_err(|errno| cannot(path, errno));
            (!path.is_empty()).then(open)
        }
        Named::DebugLog => {
            let pattern = options.debug_log();
            let is_later = options.contract() == Contract::L;
            let open =
                || open_debug_log(&pattern, offset, if is_later { ".txt" } else { "" }, least);
            (!pattern.is_empty()).then(open)
        }
    }
}

/// How lines look in a log, and the least level that goes there. Error: what the original says of an unknown format.
fn form(named: Named, options: &Options<'_>) -> (Result<Format, Told>, Level) {
    let name = match named {
        // What a later runtime reads: why it failed, as one JSON object, and nothing else.
        Named::LogFd | Named::Log if options.contract() == Contract::L => {
            return (Ok(Format::Json), Level::Fatal);
        }
        Named::LogFd | Named::Log => "log-format",
        Named::DebugLogFd | Named::DebugLog => "debug-log-format",
    };
    (format_of(options.text(name)), Level::Debug)
}

fn add(
    log: &mut Log,
    placed: &mut Placed,
    number: RawFd,
    fd: OwnedFd,
    (format, least): (Result<Format, Told>, Level),
) -> Result<(), Told> {
    let (fd, target) = target(fd, format?, least);
    if let Some(place) = log.targets.iter_mut().find(|place| place.is_none()) {
        *place = Some(Target {
            fd: number,
            ..target
        });
        placed.push((fd, number));
    }
    Ok(())
}

/// A descriptor as a target, opened again if it could block.
fn target(fd: OwnedFd, format: Format, least: Level) -> (OwnedFd, Target) {
    let kind = kind_of(&fd);
    let can_block = matches!(kind, FileType::Fifo | FileType::CharacterDevice);
    let again = if can_block { unblocked(&fd) } else { None };
    let may_block = can_block && again.is_none();
    let fd = again.unwrap_or(fd);
    let target = Target {
        fd: fd.as_raw_fd(),
        format,
        least,
        is_socket: kind == FileType::Socket,
        may_block,
    };
    (fd, target)
}

fn kind_of(fd: &OwnedFd) -> FileType {
    fstat(fd).map_or(FileType::Unknown, |stat| {
        FileType::from_raw_mode(stat.st_mode)
    })
}

/// The same pipe or terminal, opened again, so that not to block is a matter of ours alone.
fn unblocked(fd: &OwnedFd) -> Option<OwnedFd> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    move_up(
        openat(CWD, fd_path(fd), flags, Mode::empty()).ok()?,
        FIRST_FREE_FD,
    )
    .ok()
}

fn cannot(name: &[u8], errno: Errno) -> Told {
    text!("error opening log file \"%\": %", Quoted(name), Of(errno)).told()
}

fn format_of(name: &[u8]) -> Result<Format, Told> {
    Format::parse(name).ok_or_else(|| {
        text!(
            "invalid log format \"%\", must be 'text', 'json', or 'json-k8s'",
            Quoted(name)
        )
        .told()
    })
}

fn standard_error() -> Result<OwnedFd, Told> {
    copy(2, FIRST_FREE_FD).map_err(|errno| cannot(b"standard error", errno))
}

/// A copy of the descriptor that a flag names.
///
/// Errors: `EBADF` not open, not for writing, or named for something else too; `EINVAL` nothing that takes lines,
/// an eventfd(2) for one, which may block for ever; fcntl(2)'s.
#[inline(never)]
fn inherited(options: &Options<'_>, number: i64, least: RawFd) -> Result<OwnedFd, Told> {
    let copied = || {
        let raw = RawFd::try_from(number).map_err(|_| Errno::BADF)?;
        if options.names_descriptor(raw) {
            return Err(Errno::BADF);
        }
        let fd = copy(raw, least)?;
        // One of O_PATH has no access mode: O_RDONLY.
        if (fcntl_getfl(&fd)? & OFlags::ACCMODE) == OFlags::RDONLY {
            return Err(Errno::BADF);
        }
        match kind_of(&fd) {
            FileType::Unknown => Err(Errno::INVAL),
            _ => Ok(fd),
        }
    };
    copied().map_err(|errno| text!("error opening log: FD %: %", Signed(number), Of(errno)).told())
}

fn append(path: &[u8], mode: u32, least: RawFd) -> Result<OwnedFd, Errno> {
    let path = c_path(path)?;
    let flags =
        OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let open = |access| openat(CWD, path, flags | access, Mode::from_raw_mode(mode));
    let fd = match open(OFlags::WRONLY) {
        // A pipe that nobody reads yet, which is not waited for.
        Err(Errno::NXIO) => open(OFlags::RDWR)?,
        opened => opened?,
    };
    move_up(fd, least)
}

fn open_debug_log(
    pattern: &[u8],
    offset: Offset,
    suffix: &str,
    least: RawFd,
) -> Result<OwnedFd, Told> {
    let path = debug_log_path(pattern, Civil::of(wall_clock(), offset), suffix);
    make_parents(&path)
        .and_then(|()| append(&path, 0o664, least))
        .map_err(|errno| {
            text!(
                "error opening debug log file in \"%\": %",
                Quoted(pattern),
                Of(errno)
            )
            .told()
        })
}

/// The pattern with its placeholders replaced; one that ends in `/` is a directory.
fn debug_log_path(pattern: &[u8], now: Civil, suffix: &str) -> List<u8> {
    let mut whole = List::new();
    whole.put(pattern);
    if pattern.ends_with(b"/") {
        whole.put(b"runsc.log.%TIMESTAMP%.%COMMAND%");
        whole.put(suffix.as_bytes());
    }
    let mut stamp = List::new();
    Padded(4, now.year.unsigned_abs()).say(&mut stamp);
    now.stamp("-", "", &mut stamp);
    let pattern = replaced(&whole, b"%TIMESTAMP%", &stamp);
    replaced(&pattern, b"%COMMAND%", b"gofer")
}

fn replaced(text: &[u8], what: &[u8], with: &[u8]) -> List<u8> {
    let mut whole = List::new();
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        match rest.strip_prefix(what) {
            Some(after) => {
                whole.put(with);
                rest = after;
            }
            None => {
                whole.push(*first);
                rest = behind;
            }
        }
    }
    whole
}

fn make_parents(path: &[u8]) -> Result<(), Errno> {
    for at in path
        .iter()
        .enumerate()
        .filter(|&(at, &byte)| byte == b'/' && at > 0)
        .map(|(at, _)| at)
    {
        let parent = c_path(path.get(..at).unwrap_or_default())?;
        match mkdirat(CWD, parent, Mode::from_raw_mode(0o775)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(pattern: &str, suffix: &str) -> String {
        let now = Civil::of((1_543_399_200, 5_000), crate::clock::Offset(3_600));
        String::from_utf8(debug_log_path(pattern.as_bytes(), now, suffix).to_vec()).unwrap()
    }

    #[test]
    fn debug_log_patterns_are_filled_in() {
        assert_eq!(path("/l/", ""), "/l/runsc.log.20181128-110000.000005.gofer");
        assert_eq!(
            path("/l/", ".txt"),
            "/l/runsc.log.20181128-110000.000005.gofer.txt"
        );
        assert_eq!(path("/l/%COMMAND%.%COMMAND%%", ".txt"), "/l/gofer.gofer%");
        assert_eq!(path("plain", ".txt"), "plain");
    }
}
