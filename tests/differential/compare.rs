//! Two trees, or what the server says of a file and what the kernel says of its twin.

use crate::p9::{Attr, VALID};
use nix::sys::stat::{FileStat, lstat};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A time set by a step, as opposed to one that the kernel took from its clock.
fn explicit(seconds: i64) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    (now.as_secs().cast_signed() - seconds).abs() > 86_400
}

/// Times are equal where one of them was set.
fn time(what: &str, one: (i64, i64), other: (i64, i64)) -> Result<(), String> {
    if one == other || !explicit(one.0) && !explicit(other.0) {
        return Ok(());
    }
    Err(format!("{what} {one:?}, twin {other:?}"))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, one: T, other: T) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    Err(format!("{what} {one:?}, twin {other:?}"))
}

/// Two files by their attributes, but for what one file system may choose: inode, a directory's size,
/// blocks, and times that nobody set.
fn stats(one: &FileStat, other: &FileStat) -> Result<(), String> {
    same(
        "mode",
        format!("{:o}", one.st_mode),
        format!("{:o}", other.st_mode),
    )?;
    same("uid", one.st_uid, other.st_uid)?;
    same("gid", one.st_gid, other.st_gid)?;
    same("links", one.st_nlink, other.st_nlink)?;
    same("rdev", one.st_rdev, other.st_rdev)?;
    same("block size", one.st_blksize, other.st_blksize)?;
    if one.st_mode & 0o170_000 != 0o040_000 {
        same("size", one.st_size, other.st_size)?;
    }
    time(
        "mtime",
        (one.st_mtime, one.st_mtime_nsec),
        (other.st_mtime, other.st_mtime_nsec),
    )?;
    time(
        "atime",
        (one.st_atime, one.st_atime_nsec),
        (other.st_atime, other.st_atime_nsec),
    )
}

/// Attributes on the wire against the twin's.
pub fn attributes(valid: u64, attr: &Attr, twin: &FileStat) -> Result<(), String> {
    same("valid", valid, VALID)?;
    let zero = [
        attr.btime,
        attr.btime_ns,
        attr.generation,
        attr.data_version,
    ];
    same("what is not valid", zero, [0; 4])?;
    let mut stat = *twin;
    stat.st_mode = attr.mode;
    stat.st_uid = attr.uid;
    stat.st_gid = attr.gid;
    stat.st_nlink = attr.nlink as _;
    stat.st_rdev = attr.rdev;
    stat.st_size = attr.size.cast_signed();
    stat.st_blksize = attr.blksize as _;
    stat.st_atime = attr.atime.cast_signed();
    stat.st_atime_nsec = attr.atime_ns as _;
    stat.st_mtime = attr.mtime.cast_signed();
    stat.st_mtime_nsec = attr.mtime_ns as _;
    stats(&stat, twin)
}

/// Pairs of trees whole: names, attributes, contents, and which names are links of one file.
pub fn trees(pairs: &[(&Path, &Path)]) -> Result<usize, String> {
    let mut links = BTreeMap::new();
    let mut count = 0;
    for (one, other) in pairs {
        count += directory(one, other, &mut links)?;
    }
    let twins: std::collections::BTreeSet<_> = links.values().collect();
    same("files", links.len(), twins.len())?;
    Ok(count)
}

fn directory(one: &Path, other: &Path, links: &mut BTreeMap<u64, u64>) -> Result<usize, String> {
    let names = |path: &Path| -> Result<Vec<_>, String> {
        let entries = fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        Ok(names)
    };
    let of = |what: &str| format!("{} {what}", one.display());
    let all = names(one)?;
    same(&of("holds"), &all, &names(other)?)?;
    let mut count = all.len();
    for name in all {
        let (one, other) = (one.join(&name), other.join(&name));
        let at = |why: String| format!("{}: {why}", one.display());
        let stat = lstat(&one).map_err(|errno| at(errno.to_string()))?;
        let twin = lstat(&other).map_err(|errno| at(errno.to_string()))?;
        stats(&stat, &twin).map_err(at)?;
        let known = *links.entry(stat.st_ino).or_insert(twin.st_ino);
        same("linked file", twin.st_ino, known).map_err(at)?;
        match stat.st_mode & 0o170_000 {
            0o040_000 => count += directory(&one, &other, links)?,
            0o120_000 => same(
                "target",
                fs::read_link(&one).ok(),
                fs::read_link(&other).ok(),
            )
            .map_err(at)?,
            0o100_000 if fs::read(&one).ok() != fs::read(&other).ok() => {
                return Err(at("content".into()));
            }
            _ => {}
        }
    }
    Ok(count)
}
