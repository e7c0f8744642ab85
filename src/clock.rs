//! Wall-clock time in the host's zone, for the log. Makes no system call.

use crate::text;
use crate::text::{Arg, Say, Sink};

/// Offset of a zone from UTC, seconds; east is positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offset(pub i64);

/// A point in time, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Civil {
    /// Of the common era.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// 0 to 23.
    pub hour: i64,
    /// 0 to 59.
    pub minute: i64,
    /// 0 to 59.
    pub second: i64,
    /// 0 to 999,999,999.
    pub nanosecond: i64,
    /// The zone it is told in.
    pub offset: Offset,
}

impl Civil {
    /// Of seconds and nanoseconds since 1970, told in the zone of `offset`.
    pub fn of((seconds, nanosecond): (i64, i64), offset: Offset) -> Self {
        let local = seconds.saturating_add(offset.0);
        let (days, rest) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        // Days since 0000-03-01, in years that begin in March and cycles of 400 of them.
        let days = days + 719_468;
        let (cycle, of_cycle) = (days.div_euclid(146_097), days.rem_euclid(146_097));
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
            year: cycle * 400 + year + i64::from(month <= 2),
            month,
            day,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
            nanosecond,
            offset,
        }
    }
}

/// `number` with `width` digits at least; what is told here is never negative.
fn padded(width: usize, number: i64) -> Arg<'static> {
    Arg::Padded(width, number.unsigned_abs())
}

impl Civil {
    /// Month and day, then `between`, then the time of day to the microsecond with `colon` in it.
    pub fn stamp(&self, between: &str, colon: &str, to: &mut dyn Sink) {
        let parts = [
            (self.month, ""),
            (self.day, between),
            (self.hour, colon),
            (self.minute, colon),
            (self.second, "."),
        ];
        for (part, behind) in parts {
            padded(2, part).say(to);
            to.put(behind.as_bytes());
        }
        padded(6, self.nanosecond / 1_000).say(to);
    }
}

/// As RFC 3339 with nanoseconds, zeros at their end left out: what Go calls RFC3339Nano.
impl Say for Civil {
    fn say(&self, to: &mut dyn Sink) {
        text!(
            "%-%-%T%:%:%",
            padded(4, self.year),
            padded(2, self.month),
            padded(2, self.day),
            padded(2, self.hour),
            padded(2, self.minute),
            padded(2, self.second)
        )
        .say(to);
        if self.nanosecond > 0 {
            let (mut digits, mut width) = (self.nanosecond, 9);
            while digits % 10 == 0 {
                digits /= 10;
                width -= 1;
            }
            to.put(b".");
            padded(width, digits).say(to);
        }
        match self.offset.0 / 60 {
            0 => to.put(b"Z"),
            minutes => {
                to.put(if minutes < 0 { b"-" } else { b"+" });
                let minutes = minutes.abs();
                text!("%:%", padded(2, minutes / 60), padded(2, minutes % 60)).say(to);
            }
        }
    }
}

/// Days from 1970-01-01 to a date.
fn days_to(year: i64, month: i64, day: i64) -> i64 {
    let (year, from_march) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (cycle, of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    cycle * 146_097 + of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year - 719_468
}

/// The offset in force at `now` (seconds since 1970) by a zone file (/etc/localtime; RFC 8536). `None`: not one.
#[inline(never)]
pub fn offset_at(zone: &[u8], now: i64) -> Option<Offset> {
    let first = Header::read(zone)?;
    if first.version < b'2' {
        return first.offset(zone.get(HEADER..)?, 4, now);
    }
    // The first block is for readers of 32 bits; the second says the same in 64.
    let second = zone.get(HEADER + first.data_bytes(4)..)?;
    let header = Header::read(second)?;
    let data = second.get(HEADER..)?;
    let footer = data.get(header.data_bytes(8)..)?;
    let rule = footer
        .strip_prefix(b"\n")?
        .split(|&byte| byte == b'\n')
        .next()?;
    if now >= header.last_transition(data).unwrap_or(i64::MIN)
        && let Some(offset) = Rule::read(rule).map(|rule| rule.offset_at(now))
    {
        return Some(offset);
    }
    header.offset(data, 8, now)
}

const HEADER: usize = 44;

/// The counts at the head of a block.
struct Header {
    version: u8,
    is_ut: usize,
    is_std: usize,
    leaps: usize,
    times: usize,
    types: usize,
    chars: usize,
}

impl Header {
    fn read(block: &[u8]) -> Option<Self> {
        let version = *block.strip_prefix(b"TZif")?.first()?;
        let count = |at: usize| {
            let bytes = block.get(20 + 4 * at..24 + 4 * at)?;
            usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?))
                .ok()
                .filter(|&count| count < 1 << 20)
        };
        let (is_ut, is_std, leaps) = (count(0)?, count(1)?, count(2)?);
        Some(Self {
            version,
            is_ut,
            is_std,
            leaps,
            times: count(3)?,
            types: count(4)?,
            chars: count(5)?,
        })
    }

    #[inline(never)]
    fn data_bytes(&self, time_bytes: usize) -> usize {
        self.times * (time_bytes + 1)
            + self.types * 6
            + self.chars
            + self.leaps * (time_bytes + 4)
            + self.is_std
            + self.is_ut
    }

    fn last_transition(&self, data: &[u8]) -> Option<i64> {
        number(data, self.times.checked_sub(1)?, 8)
    }

    fn offset(&self, data: &[u8], time_bytes: usize, now: i64) -> Option<Offset> {
        let passed = (0..self.times)
            .take_while(|&at| number(data, at, time_bytes).is_some_and(|time| time <= now))
            .count();
        let kinds = data.get(self.times * time_bytes..)?;
        let kind = match passed.checked_sub(1) {
            Some(last) => usize::from(*kinds.get(last)?),
            None => 0,
        };
        let record = kinds.get(self.times + kind * 6..)?.get(..4)?;
        Some(Offset(i64::from(i32::from_be_bytes(
            record.try_into().ok()?,
        ))))
    }
}

fn number(data: &[u8], at: usize, bytes: usize) -> Option<i64> {
    let text = data.get(at * bytes..(at + 1) * bytes)?;
    match bytes {
        4 => Some(i64::from(i32::from_be_bytes(text.try_into().ok()?))),
        _ => Some(i64::from_be_bytes(text.try_into().ok()?)),
    }
}

/// What holds behind the last transition of a zone file: a POSIX TZ text such as `CET-1CEST,M3.5.0,M10.5.0/3`.
struct Rule {
    standard: i64,
    summer: Option<(i64, Change, Change)>,
}

/// When clocks change: month, week (5: the last), weekday, and the second of that day.
struct Change {
    month: i64,
    week: i64,
    weekday: i64,
    second: i64,
}

impl Rule {
    fn read(text: &[u8]) -> Option<Self> {
        let mut rest = text;
        skip_name(&mut rest)?;
        let standard = -take_time(&mut rest)?;
        if rest.is_empty() {
            return Some(Self {
                standard,
                summer: None,
            });
        }
        skip_name(&mut rest)?;
        let summer = match rest.first()? {
            b',' => standard + 3_600,
            _ => -take_time(&mut rest)?,
        };
        let begin = Change::take(&mut rest)?;
        let end = Change::take(&mut rest)?;
        rest.is_empty().then_some(Self {
            standard,
            summer: Some((summer, begin, end)),
        })
    }

    fn offset_at(&self, now: i64) -> Offset {
        let Some((summer, begin, end)) = &self.summer else {
            return Offset(self.standard);
        };
        let year = Civil::of((now, 0), Offset(self.standard)).year;
        let begin = begin.in_year(year) - self.standard;
        let end = end.in_year(year) - summer;
        let is_summer = if begin < end {
            begin <= now && now < end
        } else {
            now < end || begin <= now
        };
        Offset(if is_summer { *summer } else { self.standard })
    }
}

impl Change {
    fn take(rest: &mut &[u8]) -> Option<Self> {
        *rest = rest.strip_prefix(b",M")?;
        let month = take_number(rest)?;
        *rest = rest.strip_prefix(b".")?;
        let week = take_number(rest)?;
        *rest = rest.strip_prefix(b".")?;
        let weekday = take_number(rest)?;
        let second = match rest.strip_prefix(b"/") {
            None => 7_200,
            Some(time) => {
                *rest = time;
                take_time(rest)?
            }
        };
        Some(Self {
            month,
            week,
            weekday,
            second,
        })
    }

    /// Seconds since 1970 on the clock that is in force until then.
    fn in_year(&self, year: i64) -> i64 {
        let first = days_to(year, self.month, 1);
        let weekday = (first + 4).rem_euclid(7); // 1970-01-01 was a Thursday
        let mut day = (self.weekday - weekday).rem_euclid(7) + (self.week - 1) * 7;
        let (next_year, next_month) = if self.month == 12 {
            (year + 1, 1)
        } else {
            (year, self.month + 1)
        };
        while day >= days_to(next_year, next_month, 1) - first {
            day -= 7;
        }
        (first + day) * 86_400 + self.second
    }
}

fn skip_name(rest: &mut &[u8]) -> Option<()> {
    let len = match rest.first()? {
        b'<' => rest.iter().position(|&byte| byte == b'>')? + 1,
        _ => rest
            .iter()
            .position(|byte| !byte.is_ascii_alphabetic())
            .unwrap_or(rest.len()),
    };
    *rest = rest.get(len..)?;
    (len > 0).then_some(())
}

fn take_number(rest: &mut &[u8]) -> Option<i64> {
    let len = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    if digits.is_empty() || digits.len() > 4 {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0, |value, digit| value * 10 + i64::from(digit - b'0')),
    )
}

/// `[+-]hh[:mm[:ss]]`, seconds.
fn take_time(rest: &mut &[u8]) -> Option<i64> {
    let negative = rest.first() == Some(&b'-');
    if matches!(rest.first(), Some(b'+' | b'-')) {
        *rest = rest.get(1..)?;
    }
    let mut seconds = take_number(rest)? * 3_600;
    for unit in [60, 1] {
        if let Some(behind) = rest.strip_prefix(b":") {
            *rest = behind;
            seconds += take_number(rest)? * unit;
        }
    }
    Some(if negative { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::said;

    fn date(text: &str) -> i64 {
        let part = |range: core::ops::Range<usize>| text[range].parse::<i64>().unwrap();
        days_to(part(0..4), part(5..7), part(8..10)) * 86_400
            + part(11..13) * 3_600
            + part(14..16) * 60
    }

    #[test]
    fn civil_time_is_right_at_leap_days_and_year_ends() {
        let told = |seconds| said(&Civil::of((seconds, 0), Offset(0)));
        assert_eq!(told(0), "1970-01-01T00:00:00Z");
        assert_eq!(told(-1), "1969-12-31T23:59:59Z");
        assert_eq!(told(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(told(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(told(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(told(1_543_622_399), "2018-11-30T23:59:59Z");
    }

    #[test]
    fn nanoseconds_lose_their_zeros_and_zones_are_told() {
        let told = |nanosecond, offset| said(&Civil::of((0, nanosecond), Offset(offset)));
        assert_eq!(told(120_000_000, 3_600), "1970-01-01T01:00:00.12+01:00");
        assert_eq!(told(1, -12_600), "1969-12-31T20:30:00.000000001-03:30");
    }

    #[test]
    fn rules_of_both_hemispheres_say_when_summer_is() {
        let offset =
            |rule: &str, now| Rule::read(rule.as_bytes()).unwrap().offset_at(date(now)).0 / 60;
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        assert_eq!(offset(berlin, "2026-03-29T00:59"), 60);
        assert_eq!(offset(berlin, "2026-03-29T01:00"), 120);
        assert_eq!(offset(berlin, "2026-10-25T00:59"), 120);
        assert_eq!(offset(berlin, "2026-10-25T01:00"), 60);
        let sydney = "AEST-10AEDT,M10.1.0,M4.1.0/3";
        assert_eq!(offset(sydney, "2026-01-01T00:00"), 660);
        assert_eq!(offset(sydney, "2026-07-01T00:00"), 600);
        assert_eq!(offset("<+0545>-5:45", "2026-07-01T00:00"), 345);
        assert_eq!(offset("EST5EDT,M3.2.0,M11.1.0", "2026-07-01T00:00"), -240);
        assert!(
            Rule::read(b"").is_none()
                && Rule::read(b"X").is_none()
                && Rule::read(b"X1Y,J1").is_none()
        );
    }

    fn zone_file(version: u8, transitions: &[(i64, u8)], offsets: &[i32], rule: &str) -> Vec<u8> {
        let mut file = Vec::new();
        for bytes in if version < b'2' { vec![4] } else { vec![4, 8] } {
            file.extend(b"TZif");
            file.push(version);
            file.extend([0; 15]);
            for count in [0, 0, 0, transitions.len(), offsets.len(), 4] {
                file.extend(u32::try_from(count).unwrap().to_be_bytes());
            }
            for (time, _) in transitions {
                file.extend(&time.to_be_bytes()[8 - bytes..]);
            }
            file.extend(transitions.iter().map(|(_, kind)| kind));
            for offset in offsets {
                file.extend(offset.to_be_bytes());
                file.extend([0, 0]);
            }
            file.extend(b"ABC\0");
        }
        if version >= b'2' {
            file.extend(format!("\n{rule}\n").bytes());
        }
        file
    }

    #[test]
    fn zone_files_are_read_by_transitions_and_then_by_their_rule() {
        let transitions = [(1_000, 1), (2_000, 0)];
        for version in [0, b'2', b'3'] {
            let file = zone_file(version, &transitions, &[3_600, 7_200], "X-5");
            assert_eq!(offset_at(&file, 999), Some(Offset(3_600)));
            assert_eq!(offset_at(&file, 1_000), Some(Offset(7_200)));
            let behind = if version == 0 { 3_600 } else { 18_000 };
            assert_eq!(offset_at(&file, 3_000), Some(Offset(behind)));
            for len in 0..file.len() {
                let _no_panic = offset_at(&file[..len], 1_500);
            }
        }
        assert_eq!(offset_at(b"not a zone", 0), None);
    }
}
