//! How the tool prints.

use super::Entry;
use super::p9::{Dirent, QT_DIR, QT_LINK, QT_SPECIAL, Rgetattr};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write};

pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFDIR: u32 = 0o040_000;
pub(crate) const S_IFLNK: u32 = 0o120_000;
pub(crate) const S_IFREG: u32 = 0o100_000;

/// How many lines may still be printed.
pub(crate) struct Budget {
    pub(crate) lines: usize,
    /// Of one directory.
    pub(crate) each: usize,
}

/// Bytes of a name as text that cannot disturb a terminal.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() {
                text.extend(char.escape_default());
            } else {
                text.push(char);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// `-rwxr-xr-x`
pub(crate) fn mode(mode: u32) -> String {
    let kind = match mode & S_IFMT {
        S_IFDIR => 'd',
        S_IFLNK => 'l',
        S_IFREG => '-',
        _ => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, letters) in [(6, 0o4000, "sS"), (3, 0o2000, "sS"), (0, 0o1000, "tT")] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letters.chars().next().unwrap_or('-'),
            (true, false) => letters.chars().nth(1).unwrap_or('-'),
        });
    }
    text
}

/// `2018-10-31 12:34:56` in UTC.
pub(crate) fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days from a year that starts in March, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let part = (5 * day + 2) / 153;
    let month = if part < 10 { part + 3 } else { part - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let day = day - (153 * part + 2) / 5 + 1;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The columns of a line of `ls`.
pub(crate) type Row = [String; 7];

pub(crate) fn row(entry: &Entry) -> Row {
    let attr = &entry.attr;
    let name = printable(&entry.name);
    [
        mode(attr.mode),
        attr.nlink.to_string(),
        attr.uid.to_string(),
        attr.gid.to_string(),
        attr.size.to_string(),
        time(attr.mtime),
        match &entry.target {
            Some(target) => format!("{name} -> {}", printable(target)),
            None => name,
        },
    ]
}

/// For what can be listed and not walked to.
pub(crate) fn row_unknown(entry: &Dirent) -> Row {
    let kind = match entry.kind {
        QT_DIR => "d",
        QT_LINK => "l",
        QT_SPECIAL => "s",
        _ => "?",
    };
    let unknown = || "?".to_owned();
    let mode = format!("{kind}?????????");
    [
        mode,
        unknown(),
        unknown(),
        unknown(),
        unknown(),
        unknown(),
        printable(&entry.name),
    ]
}

pub(crate) fn table(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let width = |column: usize| {
        let widths = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        widths.max().unwrap_or_default()
    };
    let (links, uid, gid, size, date) = (width(1), width(2), width(3), width(4), width(5));
    for [mode, n, u, g, s, d, name] in rows {
        writeln!(
            out,
            "{mode} {n:>links$} {u:>uid$} {g:>gid$} {s:>size$} {d:<date$} {name}"
        )?;
    }
    Ok(())
}

pub(crate) fn stat(
    path: &OsStr,
    reply: &Rgetattr,
    target: Option<&[u8]>,
    out: &mut impl Write,
) -> io::Result<()> {
    let (attr, qid) = (&reply.attr, &reply.qid);
    let kind = match attr.mode & S_IFMT {
        S_IFDIR => "directory",
        S_IFLNK => "symbolic link",
        S_IFREG => "regular file",
        _ => "other",
    };
    let arrow = target
        .map(|target| format!(" -> {}", printable(target)))
        .unwrap_or_default();
    writeln!(out, "path    {}{arrow}", printable(path.as_encoded_bytes()))?;
    writeln!(
        out,
        "type    {kind}, qid type {:#04x} path {:#x}",
        qid.kind, qid.path
    )?;
    writeln!(
        out,
        "mode    {:04o} {}",
        attr.mode & 0o7777,
        mode(attr.mode)
    )?;
    writeln!(
        out,
        "owner   {}:{}, {} link{}",
        attr.uid,
        attr.gid,
        attr.nlink,
        if attr.nlink == 1 { "" } else { "s" }
    )?;
    writeln!(
        out,
        "size    {} bytes, {} blocks of 512",
        attr.size, attr.blocks
    )?;
    for (name, seconds, nanoseconds) in [
        ("atime", attr.atime, attr.atime_ns),
        ("mtime", attr.mtime, attr.mtime_ns),
        ("ctime", attr.ctime, attr.ctime_ns),
    ] {
        writeln!(out, "{name}   {}.{nanoseconds:09} UTC", time(seconds))?;
    }
    Ok(())
}

/// `76543` as `76,543`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The names of a set of capabilities, as capabilities(7) has them.
pub(crate) fn capabilities(hex: &str) -> String {
    const NAMES: [&str; 41] = [
        "chown",
        "dac_override",
        "dac_read_search",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "linux_immutable",
        "net_bind_service",
        "net_broadcast",
        "net_admin",
        "net_raw",
        "ipc_lock",
        "ipc_owner",
        "sys_module",
        "sys_rawio",
        "sys_chroot",
        "sys_ptrace",
        "sys_pacct",
        "sys_admin",
        "sys_boot",
        "sys_nice",
        "sys_resource",
        "sys_time",
        "sys_tty_config",
        "mknod",
        "lease",
        "audit_write",
        "audit_control",
        "setfcap",
        "mac_override",
        "mac_admin",
        "syslog",
        "wake_alarm",
        "block_suspend",
        "audit_read",
        "perfmon",
        "bpf",
        "checkpoint_restore",
    ];
    let Ok(set) = u64::from_str_radix(hex, 16) else {
        return hex.to_owned();
    };
    let mut text = String::new();
    for number in (0..64).filter(|number| set >> number & 1 == 1) {
        if !text.is_empty() {
            text.push(' ');
        }
        match NAMES.get(number) {
            Some(name) => text.push_str(name),
            None => text.push_str(&number.to_string()),
        }
    }
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}
