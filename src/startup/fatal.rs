//! Why start-up ends, and how that is told.

use gofer::log;
use gofer::sys::arena::List;
use gofer::sys::fd::fixed;
use gofer::text;
use gofer::text::Arg::{Of, Str};
use gofer::text::{Say, Sink, Text, Told};
use rustix::fd::RawFd;
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
    let mut rest = &*line;
    while !rest.is_empty() {
        match rustix::io::write(fixed(fd), rest) {
            Ok(count) if count > 0 => rest = rest.get(count..).unwrap_or_default(),
            _ => return,
        }
    }
}
