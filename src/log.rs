//! Log lines in the runtime's text format, assembled in a fixed buffer and written with one call.
//!
//! A line that cannot be written at once is dropped and counted, never waited for.

use core::cell::Cell;
use core::fmt::{self, Write};

use linux_raw_sys::general::{POLLOUT, pollfd};
use rustix::io::Errno;

use crate::limits::{LOG_FD, LOG_LINE_BYTES};
use crate::sys::fd::fixed;
use crate::sys::raw::{ppoll, wall_clock};

/// Where lines go: descriptor [`LOG_FD`].
pub struct Log {
    pid: u32,
    dropped: Cell<u32>,
}

impl Log {
    /// A log for the process `pid`, which every line names.
    pub fn new(pid: u32) -> Self {
        Self {
            pid,
            dropped: Cell::new(0),
        }
    }

    /// A line of level info.
    pub fn info(&self, text: fmt::Arguments<'_>) {
        self.line('I', text);
    }

    /// A line of level warning.
    pub fn warning(&self, text: fmt::Arguments<'_>) {
        self.line('W', text);
    }

    fn line(&self, level: char, text: fmt::Arguments<'_>) {
        let dropped = self.dropped.get();
        if dropped > 0 {
            self.dropped.set(0);
            self.put('W', format_args!("*** Dropped {dropped} log messages ***"));
        }
        self.put(level, text);
    }

    fn put(&self, level: char, text: fmt::Arguments<'_>) {
        let mut line = Line::new();
        let (seconds, nanoseconds) = wall_clock();
        let now = Civil::of(seconds);
        let micros = nanoseconds / 1_000;
        let Civil {
            month,
            day,
            hour,
            minute,
            second,
        } = now;
        let pid = self.pid;
        // Cut, not lost, where it is longer than the buffer.
        let _cut = write!(
            line,
            "{level}{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} {pid:7} x:0] {text}"
        );
        if write_whole(line.finish()).is_err() {
            self.dropped.set(self.dropped.get().saturating_add(1));
        }
    }
}

/// Writes the line if that cannot block: a pipe has room for it, or it is a file. The descriptor may be
/// shared with other processes, so it is asked, not made non-blocking.
fn write_whole(line: &[u8]) -> Result<(), Errno> {
    let events = i16::try_from(POLLOUT).unwrap_or(0);
    let mut polled = [pollfd {
        fd: LOG_FD,
        events,
        revents: 0,
    }];
    let ready = ppoll(&mut polled, 0)?;
    if ready == 0 {
        return Err(Errno::AGAIN);
    }
    match rustix::io::write(fixed(LOG_FD), line) {
        Ok(count) if count == line.len() => Ok(()),
        Ok(_) => Err(Errno::AGAIN),
        Err(errno) => Err(errno),
    }
}

/// A line under assembly; what does not fit is cut.
pub struct Line {
    bytes: [u8; LOG_LINE_BYTES],
    len: usize,
}

impl Line {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            bytes: [0; LOG_LINE_BYTES],
            len: 0,
        }
    }

    /// The line with its newline. Line breaks and other control characters in it have become `?`.
    pub fn finish(&mut self) -> &[u8] {
        for byte in self.bytes.get_mut(..self.len).unwrap_or_default() {
            if byte.is_ascii_control() {
                *byte = b'?';
            }
        }
        if let Some(end) = self.bytes.get_mut(self.len) {
            *end = b'\n';
        }
        self.bytes.get(..=self.len).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = (LOG_LINE_BYTES - 1).saturating_sub(self.len);
        let count = text.len().min(room);
        if let (Some(to), Some(from)) = (
            self.bytes.get_mut(self.len..self.len + count),
            text.as_bytes().get(..count),
        ) {
            to.copy_from_slice(from);
            self.len += count;
        }
        if count < text.len() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

/// Month to second of a point in time, UTC.
#[derive(PartialEq, Eq, Debug)]
struct Civil {
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// Of `seconds` since 1970; earlier ones count as 1970.
    fn of(seconds: i64) -> Self {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Days since 0000-03-01, in years that begin in March and cycles of 400 of them.
        let days = days + 719_468;
        let of_cycle = days % 146_097;
        let year = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
        let of_year = of_cycle - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        Self {
            month,
            day,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_time_is_right_at_leap_days_and_year_ends() {
        let civil = |month, day, hour, minute, second| Civil {
            month,
            day,
            hour,
            minute,
            second,
        };
        assert_eq!(Civil::of(0), civil(1, 1, 0, 0, 0));
        assert_eq!(Civil::of(951_782_399), civil(2, 28, 23, 59, 59));
        assert_eq!(Civil::of(951_782_400), civil(2, 29, 0, 0, 0));
        assert_eq!(Civil::of(4_107_542_399), civil(2, 28, 23, 59, 59)); // 2100 is no leap year
        assert_eq!(Civil::of(4_107_542_400), civil(3, 1, 0, 0, 0));
        assert_eq!(Civil::of(1_543_622_399), civil(11, 30, 23, 59, 59));
    }

    #[test]
    fn a_line_is_one_line_and_cut_where_it_is_too_long() {
        let mut line = Line::new();
        write!(line, "a\nb\x1b").unwrap();
        assert_eq!(line.finish(), b"a?b?\n");
        let mut line = Line::new();
        assert!(write!(line, "{}", "x".repeat(5_000)).is_err());
        assert_eq!(line.finish().len(), LOG_LINE_BYTES);
    }
}
