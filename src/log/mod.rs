//! Log lines in the runtime's formats, assembled in a fixed buffer and written with one call (gofer.md 1.5).
//!
//! A line that cannot be written at once is dropped and counted, never waited for.

pub mod open;

use core::cell::Cell;
use core::fmt::{self, Write};

use linux_raw_sys::general::{POLLOUT, pollfd};
use rustix::fd::RawFd;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::clock::{Civil, Offset};
use crate::limits::LOG_LINE_BYTES;
use crate::sys::fd::fixed;
use crate::sys::raw::{ppoll, wall_clock};

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// `I1128 10:00:00.000000     1 x:0] message`
    #[default]
    Text,
    /// `{"msg":…,"level":…,"time":…}`
    Json,
    /// `{"log":…,"level":…,"time":…}`
    JsonK8s,
}

impl Format {
    /// By its name on the command line.
    pub fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"text" => Some(Self::Text),
            b"json" => Some(Self::Json),
            b"json-k8s" => Some(Self::JsonK8s),
            _ => None,
        }
    }
}

/// How much a line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// For people who look for a fault.
    Debug,
    /// Ordinary.
    Info,
    /// Something was not as it should be.
    Warning,
    /// The end of a start-up.
    Fatal,
}

/// A descriptor that lines go to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// One of the fixed numbers of [`crate::limits`].
    pub fd: RawFd,
    /// How lines look there.
    pub format: Format,
    /// The least level that goes there.
    pub least: Level,
    /// Whether it is a socket, which is told call by call not to block. Pipes and terminals were opened
    /// again without blocking where that could be done; files do not block.
    pub is_socket: bool,
}

/// Where lines go, and what all of them carry.
pub struct Log {
    /// The process, which every text line names.
    pub pid: u64,
    /// The host's zone.
    pub offset: Offset,
    /// Where lines go.
    pub targets: [Option<Target>; 3],
    /// Whether lines of level debug are made, and every request is one.
    pub debug: bool,
    /// Lines lost at each target since it was last told.
    lost: [Cell<u64>; 3],
}

impl Log {
    /// A log that goes nowhere yet.
    pub fn new(pid: u64, offset: Offset) -> Self {
        Self {
            pid,
            offset,
            targets: [None; 3],
            debug: false,
            lost: [const { Cell::new(0) }; 3],
        }
    }

    /// A line of level debug, if these are made.
    pub fn debug(&self, text: fmt::Arguments<'_>) {
        if self.debug {
            self.line(Level::Debug, text);
        }
    }

    /// A line of level info.
    pub fn info(&self, text: fmt::Arguments<'_>) {
        self.line(Level::Info, text);
    }

    /// A line of level warning.
    pub fn warning(&self, text: fmt::Arguments<'_>) {
        self.line(Level::Warning, text);
    }

    /// Why start-up ends.
    pub fn fatal(&self, text: fmt::Arguments<'_>) {
        self.line(Level::Fatal, text);
    }

    /// A line of level info of any length: what the buffer does not hold is written in pieces, which
    /// may tear where a pipe is full. For start-up alone.
    pub fn long(&self, text: fmt::Arguments<'_>) {
        self.send(Level::Info, text, true);
    }

    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        self.send(level, text, false);
    }

    fn send(&self, level: Level, text: fmt::Arguments<'_>, long: bool) {
        let now = Civil::of(wall_clock(), self.offset);
        for (target, lost) in self.targets.iter().zip(&self.lost) {
            let Some(target) = target.filter(|target| level >= target.least) else {
                continue;
            };
            let before = lost.replace(0);
            let notice = format_args!("*** Dropped {before} log messages ***");
            if before > 0
                && self
                    .put(target, Level::Warning, now, notice, false)
                    .is_err()
            {
                lost.set(before + 1); // this line too
            } else if self.put(target, level, now, text, long).is_err() {
                lost.set(1);
            }
        }
    }

    /// What stands before the message in a text line.
    fn head(&self, line: &mut Line, level: Level, now: Civil) {
        let letter = match level {
            Level::Debug => 'D',
            Level::Info => 'I',
            Level::Warning | Level::Fatal => 'W',
        };
        let Civil {
            month,
            day,
            hour,
            minute,
            second,
            ..
        } = now;
        let (micros, pid) = (now.nanosecond / 1_000, self.pid);
        let _fits = write!(
            line,
            "{letter}{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} {pid:7} x:0] "
        );
    }

    fn put(
        &self,
        target: Target,
        level: Level,
        now: Civil,
        text: fmt::Arguments<'_>,
        long: bool,
    ) -> Result<(), Errno> {
        let mut line = Line::new();
        line.is_text = target.format == Format::Text;
        line.spills_to = long.then_some(target);
        // A log of nothing but these is read by a program, as errors; people see a warning that says so.
        let fatal = match level {
            Level::Fatal if target.least != Level::Fatal => "FATAL ERROR: ",
            _ => "",
        };
        let key = match target.format {
            Format::Text => {
                self.head(&mut line, level, now);
                // Cut, not lost, where it is longer than the buffer; here and below.
                let _cut = line.write_str(fatal);
                let _cut = line.write_fmt(text);
                return write_whole(target, line.finish());
            }
            Format::Json => "msg",
            Format::JsonK8s => "log",
        };
        let name = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Fatal if fatal.is_empty() => "error",
            Level::Warning | Level::Fatal => "warning",
        };
        let _cut = write!(line, "{{\"{key}\":\"");
        line.keep_back(JSON_TAIL_BYTES);
        let _cut = line.write_str(fatal);
        let _cut = Escaped(&mut line).write_fmt(text);
        line.keep_back(0);
        let _cut = write!(line, "\",\"level\":\"{name}\",\"time\":\"{now}\"}}");
        write_whole(target, line.finish())
    }
}

/// Room for the level and the time behind a message.
const JSON_TAIL_BYTES: usize = 96;

/// Writes the line if that can be done at once. A pipe or a terminal that could not be opened again
/// without blocking, for want of /proc, is at least asked first. Its descriptor is shared with other
/// processes, so it is not made non-blocking.
fn write_whole(target: Target, line: &[u8]) -> Result<(), Errno> {
    let events = i16::try_from(POLLOUT).unwrap_or(0);
    let mut polled = [pollfd {
        fd: target.fd,
        events,
        revents: 0,
    }];
    if ppoll(&mut polled, 0)? == 0 {
        return Err(Errno::AGAIN);
    }
    let written = if target.is_socket {
        send(
            fixed(target.fd),
            line,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
    } else {
        rustix::io::write(fixed(target.fd), line)
    };
    if written? == line.len() {
        Ok(())
    } else {
        Err(Errno::AGAIN)
    }
}

/// A line under assembly; what does not fit is cut.
pub struct Line {
    bytes: [u8; LOG_LINE_BYTES],
    len: usize,
    kept_back: usize,
    /// Whether control characters are to be replaced; in JSON they are escaped already.
    is_text: bool,
    /// Where a full buffer is written to, to go on with an empty one.
    spills_to: Option<Target>,
}

impl Line {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            bytes: [0; LOG_LINE_BYTES],
            len: 0,
            kept_back: 0,
            is_text: true,
            spills_to: None,
        }
    }

    /// Keeps `bytes` at the end free from what is written next.
    fn keep_back(&mut self, bytes: usize) {
        self.kept_back = bytes;
    }

    /// The line with its newline. Line breaks and other control characters in it have become `?`.
    pub fn finish(&mut self) -> &[u8] {
        self.clean();
        if let Some(end) = self.bytes.get_mut(self.len) {
            *end = b'\n';
        }
        self.bytes.get(..=self.len).unwrap_or_default()
    }

    /// Control characters, of ASCII and beyond it (U+0080 to U+009F), become `?`.
    fn clean(&mut self) {
        if !self.is_text {
            return;
        }
        let mut before: Option<&mut u8> = None;
        for byte in self.bytes.get_mut(..self.len).unwrap_or_default() {
            let is_second = (0x80..0xa0).contains(byte);
            match before.take() {
                Some(first) if *first == 0xc2 && is_second => (*first, *byte) = (b'?', b'?'),
                _ if byte.is_ascii_control() => *byte = b'?',
                _ => {}
            }
            before = Some(byte);
        }
    }

    /// Writes a full buffer out, if that is asked for. Error: the line ends here.
    fn spill(&mut self) -> fmt::Result {
        let target = self.spills_to.ok_or(fmt::Error)?;
        self.clean();
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        write_whole(target, bytes).map_err(|_| fmt::Error)?;
        self.len = 0;
        Ok(())
    }

    fn room(&self) -> usize {
        (LOG_LINE_BYTES - 1).saturating_sub(self.len + self.kept_back)
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        loop {
            let mut count = rest.len().min(self.room());
            while !rest.is_char_boundary(count) {
                count -= 1;
            }
            let (fits, behind) = rest.split_at_checked(count).ok_or(fmt::Error)?;
            if let Some(to) = self.bytes.get_mut(self.len..self.len + count) {
                to.copy_from_slice(fits.as_bytes());
                self.len += count;
            }
            if behind.is_empty() {
                return Ok(());
            }
            self.spill()?;
            rest = behind;
        }
    }
}

/// Writes text into a JSON string as Go does: `<`, `>` and `&` are escaped too.
struct Escaped<'a>(&'a mut Line);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.room() < 6 {
                self.0.spill()?; // an escape is whole or not there
            }
            match c {
                '"' | '\\' => write!(self.0, "\\{c}"),
                '\n' => self.0.write_str("\\n"),
                '\r' => self.0.write_str("\\r"),
                '\t' => self.0.write_str("\\t"),
                '<' | '>' | '&' | '\0'..='\x1f' | '\u{2028}' | '\u{2029}' => {
                    write!(self.0, "\\u{:04x}", u32::from(c))
                }
                c => self.0.write_char(c),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_cut_where_it_is_too_long() {
        let mut line = Line::new();
        write!(line, "a\nb\x1b").unwrap();
        assert_eq!(line.finish(), b"a?b?\n");
        let mut line = Line::new();
        assert!(write!(line, "{}", "\u{e9}".repeat(5_000)).is_err());
        let whole = line.finish().to_vec();
        assert!(whole.len() >= LOG_LINE_BYTES - 1 && core::str::from_utf8(&whole).is_ok());
    }

    #[test]
    fn json_text_is_escaped_as_go_does_and_cut_between_escapes() {
        let mut line = Line::new();
        write!(Escaped(&mut line), "a\"\\\n<\x01\u{2028}\u{e9}").unwrap();
        assert_eq!(
            line.finish(),
            "a\\\"\\\\\\n\\u003c\\u0001\\u2028\u{e9}\n".as_bytes()
        );
        let mut line = Line::new();
        line.keep_back(JSON_TAIL_BYTES);
        assert!(write!(Escaped(&mut line), "{}", "<".repeat(5_000)).is_err());
        assert!(line.finish().ends_with(b"\\u003c\n"));
    }
}
