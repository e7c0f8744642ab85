//! The logs that a command line names, opened by the rules of the runtime that calls (gofer.md 1.3 to 1.6).

use rustix::fd::{OwnedFd, RawFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;

use super::{Format, Level, Log, Target};
use crate::cli::{Contract, Options};
use crate::clock::Civil;
use crate::limits::{DEBUG_LOG_FD, LOG_FD, STDERR_LOG_FD};
use crate::sandbox::descriptors::{copy, move_up};
use crate::sandbox::newroot::fd_path;
use crate::sys::arena::{List, c_path};
use crate::sys::raw::wall_clock;
use crate::text;
use crate::text::Arg::{Of, Padded, Quoted, Signed};
use crate::text::{Say, Sink, Told};

/// Descriptors of the logs, each with the fixed number that it is to be moved to.
pub type Placed = List<(OwnedFd, RawFd)>;

/// Opens the logs, tells `log` of them, and adds their descriptors to `placed`. Of a command line that is
/// `refused`, all that it names.
///
/// Error: why it is refused, or else what the original says of the first log that cannot be opened or is not
/// to be had. The others are opened all the same: the error is for them.
pub fn open(
    options: &Options<'_>,
    refused: Option<Told>,
    log: &mut Log,
    placed: &mut Placed,
) -> Result<(), Told> {
    log.debug = options.is_debug();
    let first = refused.map_or(Ok(()), Err);
    let mut logs = Logs { log, placed, first };
    let debug_fd = options.number("debug-log-fd");
    let is_later = options.contract() == Contract::L;
    match named_log(options) {
        // What the runtime reads: why it failed, as one JSON object, and nothing else.
        Some(fd) if is_later => logs.add(fd, LOG_FD, Ok(Format::Json), Level::Fatal),
        Some(fd) => logs.add_whole(fd, LOG_FD, options, "log-format"),
        None if is_later || refused.is_some() => {}
        None => logs.add_whole(standard_error(), LOG_FD, options, "log-format"),
    }
    if debug_fd >= 0 {
        if !is_later {
            logs.fail(
                b"flag --debug-log-fd should only be passed to 'boot' command, \
                  but was passed to \"gofer\"",
            );
        }
        logs.add_whole(copy_log(debug_fd), DEBUG_LOG_FD, options, DEBUG_FORMAT);
        // What else is written to standard error goes there too.
        match copy_log(debug_fd) {
            Ok(fd) if is_later => logs.placed.push((fd, 2)),
            _ => {}
        }
    } else if !options.debug_log().is_empty() {
        let suffix = if is_later { ".txt" } else { "" };
        let fd = open_debug_log(&options.debug_log(), logs.log.offset, suffix);
        logs.add_whole(fd, DEBUG_LOG_FD, options, DEBUG_FORMAT);
    }
    if is_later && options.flag("alsologtostderr") {
        logs.add_whole(standard_error(), STDERR_LOG_FD, options, DEBUG_FORMAT);
    }
    logs.first
}

const DEBUG_FORMAT: &str = "debug-log-format";

/// The logs, while they are opened.
struct Logs<'a> {
    log: &'a mut Log,
    placed: &'a mut Placed,
    /// What went wrong first.
    first: Result<(), Told>,
}

impl Logs<'_> {
    fn fail(&mut self, why: Told) {
        self.first = self.first.and(Err(why));
    }

    /// A log of lines of every level that is made, in the format that flag `format` names.
    fn add_whole(
        &mut self,
        fd: Result<OwnedFd, Told>,
        number: RawFd,
        options: &Options<'_>,
        format: &str,
    ) {
        self.add(fd, number, format_of(options.text(format)), Level::Debug);
    }

    /// One log more, if it can be opened, as text where its format is wrong.
    fn add(
        &mut self,
        fd: Result<OwnedFd, Told>,
        number: RawFd,
        format: Result<Format, Told>,
        least: Level,
    ) {
        match fd {
            Ok(fd) => add(
                self.log,
                self.placed,
                fd,
                number,
                format.unwrap_or_default(),
                least,
            ),
            Err(why) => self.fail(why),
        }
        if let Err(why) = format {
            self.fail(why);
        }
    }
}

fn add(
    log: &mut Log,
    placed: &mut Placed,
    fd: OwnedFd,
    number: RawFd,
    format: Format,
    least: Level,
) {
    let kind = fstat(&fd).map_or(FileType::Unknown, |stat| {
        FileType::from_raw_mode(stat.st_mode)
    });
    let again = match kind {
        FileType::Fifo | FileType::CharacterDevice => unblocked(&fd),
        _ => None,
    };
    let may_block = again.is_none() && matches!(kind, FileType::Fifo | FileType::CharacterDevice);
    let fd = again.unwrap_or(fd);
    let is_socket = kind == FileType::Socket;
    if let Some(place) = log.targets.iter_mut().find(|place| place.is_none()) {
        *place = Some(Target {
            fd: number,
            format,
            least,
            is_socket,
            may_block,
        });
        placed.push((fd, number));
    }
}

/// The same pipe or terminal, opened again, so that not to block is a matter of ours alone.
fn unblocked(fd: &OwnedFd) -> Option<OwnedFd> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    move_up(openat(CWD, fd_path(fd), flags, Mode::empty()).ok()?).ok()
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

/// `--log-fd`, or else `--log`, if one is named.
fn named_log(options: &Options<'_>) -> Option<Result<OwnedFd, Told>> {
    let (number, path) = (options.number("log-fd"), options.text("log"));
    match path {
        _ if number >= 0 => Some(copy_log(number)),
        b"" => None,
        path => Some(append(path, 0o644).map_err(|errno| cannot(path, errno))),
    }
}

fn standard_error() -> Result<OwnedFd, Told> {
    copy(2).map_err(|errno| cannot(b"standard error", errno))
}

fn copy_log(number: i64) -> Result<OwnedFd, Told> {
    let fd = RawFd::try_from(number)
        .map_err(|_| Errno::BADF)
        .and_then(copy);
    fd.map_err(|errno| text!("error opening log: FD %: %", Signed(number), Of(errno)).told())
}

fn append(path: &[u8], mode: u32) -> Result<OwnedFd, Errno> {
    let path = c_path(path)?;
    let flags =
        OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let open = |access| openat(CWD, path, flags | access, Mode::from_raw_mode(mode));
    move_up(match open(OFlags::WRONLY) {
        // A pipe that nobody reads yet, which is not waited for.
        Err(Errno::NXIO) => open(OFlags::RDWR)?,
        opened => opened?,
    })
}

fn open_debug_log(
    pattern: &[u8],
    offset: crate::clock::Offset,
    suffix: &str,
) -> Result<OwnedFd, Told> {
    let path = debug_log_path(pattern, Civil::of(wall_clock(), offset), suffix);
    make_parents(&path)
        .and_then(|()| append(&path, 0o664))
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
