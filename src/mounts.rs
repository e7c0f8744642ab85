//! The spec's mounts as the later contract has them: options as flags, and the list for the sandbox
//! (docs/launch.md 1.2, 2.5). Makes no system call.

use linux_raw_sys::general::{MS_PRIVATE, MS_REC, MS_SLAVE, MS_UNBINDABLE};

use crate::decimal::split_once;
use crate::spec::Mount;
use crate::sys::arena::List;
use crate::text;
use crate::text::Arg::Raw;
use crate::text::{Sink, Told, number_to};

/// How a mount is made, in mount(2)'s bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Flags {
    /// Read-only, no set-id bits, no devices, no programs.
    pub attributes: u32,
    /// 0 leaves it; two at once are the kernel's to refuse.
    pub propagation: u32,
    /// Whether mounts below the source come along.
    pub recursive: bool,
}

/// The options of bind mounts, each with what it does, one letter: a number is an attribute's bit, 0 nothing
/// here (what undoes another one, what a bind mount cannot change, and access times, which the host's mount
/// decides); R recursive; p private, s slave, u unbindable, capitals recursively; x is not supported.
pub(crate) const OPTIONS: &[u8] = b"ro:1 nosuid:2 nodev:4 noexec:8 rbind:R private:p rprivate:P slave:s rslave:S \
    unbindable:u runbindable:U shared:x rshared:x bind:0 rw:0 suid:0 dev:0 exec:0 defaults:0 acl:0 async:0 \
    atime:0 diratime:0 dirsync:0 iversion:0 loud:0 mand:0 noacl:0 noatime:0 nodiratime:0 noiversion:0 \
    nomand:0 norelatime:0 nostrictatime:0 relatime:0 remount:0 silent:0 strictatime:0 sync:0";

fn letter(option: &[u8]) -> Option<u8> {
    let mut room = [0; OPTIONS.len()];
    let mut options = crate::packed!(OPTIONS)
        .unpack(&mut room)
        .split(|&byte| byte == b' ')
        .filter_map(|known| split_once(known, b':'));
    let (_, letter) = options.find(|(known, _)| *known == option)?;
    letter.first().copied()
}

fn propagation(letter: u8) -> u32 {
    let deep = if letter.is_ascii_uppercase() {
        MS_REC
    } else {
        0
    };
    deep | match letter | 0x20 {
        b'p' => MS_PRIVATE,
        b's' => MS_SLAVE,
        _ => MS_UNBINDABLE,
    }
}

/// What a bind mount's options ask for. A restriction stays, whatever undoes it later in the list.
/// Error: the text of what the original says of an option that is unknown or not supported.
#[inline(never)]
pub fn flags(options: &[&[u8]]) -> Result<Flags, Told> {
    let mut flags = Flags::default();
    for &option in options {
        match letter(option) {
            Some(b'R') => flags.recursive = true,
            Some(b'x') => {
                return Err(text!("mount option \"%\" is not supported", Raw(option)).told());
            }
            Some(bit @ b'0'..=b'8') => flags.attributes |= u32::from(bit - b'0'),
            Some(letter) => flags.propagation |= propagation(letter),
            None => return Err(text!("unknown mount option \"%\"", Raw(option)).told()),
        }
    }
    Ok(flags)
}

/// How the root is mounted: `linux.rootfsPropagation`, rslave without it. Error: what the original says.
pub fn root_flags(option: &[u8]) -> Result<Flags, Told> {
    let letter = letter(if option.is_empty() { b"rslave" } else { option });
    match letter {
        Some(letter @ (b'p' | b'P' | b's' | b'S')) => Ok(Flags {
            attributes: 0,
            propagation: propagation(letter),
            recursive: true,
        }),
        _ => Err(text!(
            "root mount propagation option must specify private or slave: \"%\"",
            Raw(option)
        )
        .told()),
    }
}

/// A mount's entry in the list, as JSON: what is empty is left out, as Go leaves it out. `is_stale`: a
/// file open for reading may go stale, since the mount lies on an overlay file system.
pub fn entry(out: &mut List<u8>, mount: &Mount, destination: &[u8], source: &[u8], is_stale: bool) {
    out.push(if out.is_empty() { b'[' } else { b',' });
    string(out, b"{\"destination\":", destination);
    if !mount.kind.is_empty() {
        string(out, b",\"type\":", mount.kind);
    }
    if !source.is_empty() {
        string(out, b",\"source\":", source);
    }
    let mut before: &[u8] = b",\"options\":[";
    let stale: &[&[u8]] = if is_stale {
        &[b"overlayfs_stale_read"]
    } else {
        &[]
    };
    for option in mount.options.iter().chain(stale) {
        string(out, before, option);
        before = b",";
    }
    if before.len() == 1 {
        out.push(b']');
    }
    out.push(b'}');
}

/// A JSON string, behind `before`.
fn string(out: &mut List<u8>, before: &[u8], text: &[u8]) {
    out.put(before);
    out.push(b'"');
    for &byte in text {
        match byte {
            0..0x20 => {
                out.put(b"\\u");
                number_to(byte.into(), 16, 4, out);
            }
            b'"' | b'\\' => out.put(&[b'\\', byte]),
            byte => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::{flags as flags_of, root_flags as root_flags_of, *};
    use linux_raw_sys::general::{MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY};

    fn flags(options: &[&str]) -> Result<Flags, String> {
        let options: Vec<&[u8]> = options.iter().map(|option| option.as_bytes()).collect();
        flags_of(&options).map_err(|text| String::from_utf8_lossy(text).into_owned())
    }

    fn root_flags(option: &str) -> Result<Flags, String> {
        root_flags_of(option.as_bytes()).map_err(|text| String::from_utf8_lossy(text).into_owned())
    }

    #[test]
    fn options_are_flags_and_a_restriction_stays() {
        let asked = flags(&["rbind", "ro", "rw", "nosuid", "nodev", "noexec", "rprivate"]).unwrap();
        assert_eq!(asked.attributes, 15);
        assert_eq!(asked.propagation, MS_PRIVATE | MS_REC);
        assert!(asked.recursive);
        assert_eq!(flags(&["bind", "rw", "relatime"]), Ok(Flags::default()));
        assert_eq!(flags(&[]), Ok(Flags::default()));
        assert_eq!(
            [MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC],
            ["ro", "nosuid", "nodev", "noexec"].map(|word| flags(&[word]).unwrap().attributes)
        );
    }

    #[test]
    fn options_that_are_shared_or_unknown_are_refused_in_the_originals_words() {
        for option in ["shared", "rshared"] {
            let text = format!("mount option \"{option}\" is not supported");
            assert_eq!(flags(&["ro", option]), Err(text));
        }
        assert_eq!(flags(&["rro"]), Err("unknown mount option \"rro\"".into()));
        assert_eq!(flags(&[""]), Err("unknown mount option \"\"".into()));
    }

    #[test]
    fn the_root_is_private_or_a_slave() {
        assert_eq!(root_flags("").unwrap().propagation, MS_SLAVE | MS_REC);
        assert_eq!(root_flags("private").unwrap().propagation, MS_PRIVATE);
        assert!(root_flags("slave").unwrap().recursive);
        for option in ["shared", "rshared", "unbindable", "x", "rw"] {
            let text = format!(
                "root mount propagation option must specify private or slave: \"{option}\""
            );
            assert_eq!(root_flags(option), Err(text));
        }
    }

    #[test]
    fn the_list_is_json_as_go_reads_it() {
        let mount = |kind, options: &'static [&'static [u8]]| Mount {
            destination: b"/x",
            kind,
            source: b"s",
            options,
            read_only: false,
            served: true,
        };
        let mut out = List::new();
        entry(
            &mut out,
            &mount(b"bind", &[b"rbind", b"r\"w"]),
            b"/a\n\x1b\\",
            b"/b/s",
            true,
        );
        entry(&mut out, &mount(b"", &[]), b"/c", b"", false);
        assert_eq!(
            String::from_utf8(out.to_vec()).unwrap(),
            r#"[{"destination":"/a\u000a\u001b\\","type":"bind","source":"/b/s","options":["rbind","r\"w","overlayfs_stale_read"]},{"destination":"/c"}"#
        );
    }
}
