//! Log lines in the runtime's formats, assembled in a fixed buffer and written with one call (docs/launch.md 1.5).
//!
//! A line that cannot be written at once is dropped and counted, never waited for.

pub mod open;

use core::cell::Cell;

use linux_raw_sys::general::{POLLOUT, pollfd};
use rustix::fd::RawFd;

use crate::clock::{Civil, Offset};
use crate::decimal::digits;
use crate::limits::LOG_LINE_BYTES;
use crate::sys::fd::fixed;
use crate::sys::raw::{ppoll, send, wall_clock};
use crate::text;
use crate::text::Arg::{Number, Said, Str};
use crate::text::{Say, Sink, Text, number_to};

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
    /// Whether it is a socket, which is told call by call not to block.
    pub is_socket: bool,
    /// Whether it is asked first if it takes anything: a pipe or a terminal that could not be opened again
    /// without blocking. Files do not block.
    pub may_block: bool,
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
    /// At each target, lines lost since that was last told, and whether the end of one is missing there.
    lost: [(Cell<u64>, Cell<bool>); 3],
}

impl Log {
    /// A log that goes nowhere yet.
    pub fn new(pid: u64, offset: Offset) -> Self {
        Self {
            pid,
            offset,
            targets: [None; 3],
            debug: false,
            lost: [const { (Cell::new(0), Cell::new(false)) }; 3],
        }
    }

    /// A line of level debug, if these are made.
    pub fn debug(&self, text: Text<'_>) {
        if self.debug {
            self.line(Level::Debug, text);
        }
    }

    /// A line of level info.
    pub fn info(&self, text: Text<'_>) {
        self.line(Level::Info, text);
    }

    /// A line of level warning.
    pub fn warning(&self, text: Text<'_>) {
        self.line(Level::Warning, text);
    }

    /// Why start-up ends.
    pub fn fatal(&self, text: Text<'_>) {
        self.line(Level::Fatal, text);
    }

    /// A line of level info of any length: what the buffer does not hold is written in pieces, which
    /// may tear where a pipe is full. For start-up alone.
    pub fn long(&self, text: Text<'_>) {
        self.send(Level::Info, text, true);
    }

    fn line(&self, level: Level, text: Text<'_>) {
        self.send(level, text, false);
    }

    fn send(&self, level: Level, text: Text<'_>, long: bool) {
        let now = Civil::of(wall_clock(), self.offset);
        for (target, (lost, torn)) in self.targets.iter().zip(&self.lost) {
            let Some(target) = target.filter(|target| level >= target.least) else {
                continue;
            };
            let told = || {
                if torn.get() {
                    write_whole(target, b"\n")?;
                    torn.set(false);
                }
                if lost.get() > 0 {
                    let notice = [Number(lost.get())];
                    let notice = Text::new("*** Dropped % log messages ***", &notice);
                    self.put(target, Level::Warning, now, notice, false)?;
                    lost.set(0);
                }
                self.put(target, level, now, text, long)
            };
            if let Err(Lost { is_torn }) = told() {
                lost.set(lost.get() + 1);
                torn.set(torn.get() || is_torn);
            }
        }
    }

    /// What stands before the message in a text line.
    #[inline(never)]
    fn head(&self, line: &mut Line, level: Level, now: Civil) {
        line.put(match level {
            Level::Debug => b"D",
            Level::Info => b"I",
            Level::Warning | Level::Fatal => b"W",
        });
        now.stamp(" ", ":", line);
        let mut buffer = [0; 22];
        let pid = digits(self.pid, 10, &mut buffer);
        for _ in pid.len()..8 {
            line.put(b" ");
        }
        line.put(pid);
        line.put(b" x:0] ");
    }

    fn put(
        &self,
        target: Target,
        level: Level,
        now: Civil,
        text: Text<'_>,
        long: bool,
    ) -> Result<(), Lost> {
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
                line.put(fatal.as_bytes());
                text.say(&mut line);
                return line.end(target);
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
        text!("{\"%\":\"", Str(key)).say(&mut line);
        line.keep_back(JSON_TAIL_BYTES);
        line.put(fatal.as_bytes());
        text.say(&mut Escaped(&mut line));
        line.keep_back(0);
        text!("\",\"level\":\"%\",\"time\":\"%\"}", Str(name), Said(&now)).say(&mut line);
        line.end(target)
    }
}

/// Room for the level and the time behind a message.
const JSON_TAIL_BYTES: usize = 96;

/// Writes the line if that can be done at once. A pipe or a terminal that could not be opened again
/// without blocking, for want of /proc, is at least asked first. Its descriptor is shared with other
/// processes, so it is not made non-blocking. The others are not asked: a pipe that has room for a line, but
/// no page to spare, would say no.
fn write_whole(target: Target, line: &[u8]) -> Result<(), Lost> {
    let events = i16::try_from(POLLOUT).unwrap_or(0);
    let mut polled = [pollfd {
        fd: target.fd,
        events,
        revents: 0,
    }];
    let may_write = !target.may_block || ppoll(&mut polled, 0).is_ok_and(|ready| ready > 0);
    let written = match may_write {
        false => 0,
        true if target.is_socket => send(fixed(target.fd), line, None).unwrap_or(0),
        true => rustix::io::write(fixed(target.fd), line).unwrap_or(0),
    };
    match written == line.len() {
        true => Ok(()),
        false => Err(Lost {
            is_torn: written > 0,
        }),
    }
}

/// A line for standard error, if that takes it at once: it may be a log too.
pub fn complain(text: &[u8]) {
    let mut line = Line::new();
    line.put(text);
    let _lost = line.end(Target {
        fd: 2,
        format: Format::Text,
        least: Level::Fatal,
        is_socket: false,
        may_block: true,
    });
}

/// A line could not be written.
struct Lost {
    /// Whether its beginning could.
    is_torn: bool,
}

/// A line under assembly; what does not fit is cut.
pub struct Line {
    bytes: [u8; LOG_LINE_BYTES],
    len: usize,
    kept_back: usize,
    /// Whether something did not fit: what comes behind it is left out too.
    is_cut: bool,
    /// Whether control characters are to be replaced; in JSON they are escaped already.
    is_text: bool,
    /// Where a full buffer is written to, to go on with an empty one.
    spills_to: Option<Target>,
    /// Whether that was done: the line's beginning is written.
    is_spilled: bool,
}

impl Line {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            bytes: [0; LOG_LINE_BYTES],
            len: 0,
            kept_back: 0,
            is_cut: false,
            is_text: true,
            spills_to: None,
            is_spilled: false,
        }
    }

    /// Keeps `bytes` at the end free from what is written next, which begins uncut.
    fn keep_back(&mut self, bytes: usize) {
        (self.kept_back, self.is_cut) = (bytes, false);
    }

    /// Writes what is not written yet, with the newline.
    fn end(&mut self, target: Target) -> Result<(), Lost> {
        let is_torn = self.is_spilled;
        write_whole(target, self.finish()).map_err(|lost| Lost {
            is_torn: is_torn || lost.is_torn,
        })
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

    /// Makes room: writes a full buffer out, if that is asked for. Otherwise the line ends here.
    fn spill(&mut self) {
        self.clean();
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        match self.spills_to.map(|target| write_whole(target, bytes)) {
            Some(Ok(())) => (self.len, self.is_spilled) = (0, true),
            Some(Err(lost)) => {
                (self.is_cut, self.is_spilled) = (true, self.is_spilled || lost.is_torn)
            }
            None => self.is_cut = true,
        }
    }

    fn room(&self) -> usize {
        (LOG_LINE_BYTES - 1).saturating_sub(self.len + self.kept_back)
    }
}

impl Sink for Line {
    fn put(&mut self, text: &[u8]) {
        let mut rest = text;
        while !self.is_cut {
            let mut count = rest.len().min(self.room());
            // Not inside a character.
            while count > 0 && rest.get(count).is_some_and(|byte| byte & 0xc0 == 0x80) {
                count -= 1;
            }
            let (fits, behind) = rest.split_at_checked(count).unwrap_or_default();
            for (to, from) in self.bytes.iter_mut().skip(self.len).zip(fits) {
                *to = *from;
            }
            self.len += fits.len();
            if behind.is_empty() {
                return;
            }
            self.spill();
            rest = behind;
        }
    }
}

/// Writes text into a JSON string as Go does: `<`, `>` and `&` are escaped too, and the two line separators
/// beyond ASCII.
struct Escaped<'a>(&'a mut Line);

impl Sink for Escaped<'_> {
    fn put(&mut self, text: &[u8]) {
        let mut rest = text;
        while !self.0.is_cut
            && let [byte, behind @ ..] = rest
        {
            if self.0.room() < 6 {
                self.0.spill(); // an escape is whole or not there
                continue;
            }
            let mut len = 1;
            let code = match byte {
                b'"' | b'\\' => Err(*byte),
                b'\n' => Err(b'n'),
                b'\r' => Err(b'r'),
                b'\t' => Err(b't'),
                b'<' | b'>' | b'&' | 0..0x20 => Ok(u64::from(*byte)),
                0xe2 if matches!(behind, [0x80, 0xa8 | 0xa9, ..]) => {
                    len = 3;
                    Ok(if behind.get(1) == Some(&0xa8) {
                        0x2028
                    } else {
                        0x2029
                    })
                }
                _ => {
                    // A whole character.
                    len += behind
                        .iter()
                        .take_while(|&byte| byte & 0xc0 == 0x80)
                        .count();
                    self.0.put(rest.get(..len).unwrap_or_default());
                    rest = rest.get(len..).unwrap_or_default();
                    continue;
                }
            };
            match code {
                Err(letter) => self.0.put(&[b'\\', letter]),
                Ok(code) => {
                    self.0.put(b"\\u");
                    number_to(code, 16, 4, self.0);
                }
            }
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_cut_where_it_is_too_long() {
        let mut line = Line::new();
        line.put(b"a\nb\x1b");
        assert_eq!(line.finish(), b"a?b?\n");
        let mut line = Line::new();
        line.put("\u{e9}".repeat(5_000).as_bytes());
        assert!(line.is_cut);
        let whole = line.finish().to_vec();
        assert!(whole.len() >= LOG_LINE_BYTES - 1 && core::str::from_utf8(&whole).is_ok());
    }

    #[test]
    fn json_text_is_escaped_as_go_does_and_cut_between_escapes() {
        let mut line = Line::new();
        Escaped(&mut line).put("a\"\\\n<\x01\u{2028}\u{e9}".as_bytes());
        assert_eq!(
            line.finish(),
            "a\\\"\\\\\\n\\u003c\\u0001\\u2028\u{e9}\n".as_bytes()
        );
        let mut line = Line::new();
        line.keep_back(JSON_TAIL_BYTES);
        Escaped(&mut line).put("<".repeat(5_000).as_bytes());
        assert!(line.is_cut);
        assert!(line.finish().ends_with(b"\\u003c\n"));
    }
}
