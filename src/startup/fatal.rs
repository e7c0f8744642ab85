//! Why start-up ends, and how that is told.

use gofer::log;
use gofer::sys::arena::List;
use gofer::sys::fd::fixed;
use gofer::text;
use gofer::text::Arg::{Of, Str};
use gofer::text::{Say, Sink, Text, Told};
use rustix::fd::{AsFd, RawFd};
use rustix::io::Errno;

/// Why start-up ends, with 128: one line that names the step, the file and the errno; empty if it was
/// told already.
pub(crate) struct Fatal(pub(crate) Told);

pub(crate) fn fatal(text: Text<'_>) -> Fatal {
    Fatal(text.told())
}

/// A step's name before its errno.
pub(crate) fn step(what: &'static str) -> impl FnOnce(Errno) -> Fatal {
    move |errno| fatal(text!("%: %", Str(what), Of(errno)))
}

/// Tells on standard error why start-up ends, if there is something to tell: one line, whatever the spec
/// or a path holds.
pub(crate) fn complain(text: Told) {
    if !text.is_empty() {
        log::complain(text);
    }
}

/// Prints a line, as far as it can be printed.
pub(crate) fn say(fd: RawFd, text: Text<'_>) {
    let mut line = List::new();
    text.say(&mut line);
    line.put(b"\n");
    let _lost = write_all(fixed(fd), &line);
}

/// Writes all of `bytes`, waiting where it must. Errors: write(2)'s; `EIO` it takes nothing.
pub(crate) fn write_all(fd: impl AsFd, bytes: &[u8]) -> Result<(), Errno> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(&fd, rest))?;
        rest = rest.get(count..).filter(|_| count > 0).ok_or(Errno::IO)?;
    }
    Ok(())
}
