//! Requests made of a fuzzer's bytes, by the message table's own text: most are well formed and name fids and
//! files that there may be.

use super::input::Input;
use gofer::p9::messages::LAYOUTS;
use std::sync::LazyLock;

/// A request: its number, its name, and the names and types of its fields.
pub(crate) struct Layout {
    pub(crate) kind: u8,
    pub(crate) name: &'static str,
    fields: Vec<(&'static str, &'static str)>,
}

pub(crate) static REQUESTS: LazyLock<Vec<Layout>> = LazyLock::new(|| {
    let layout = |line: &'static str| {
        let mut words = line.split('\t');
        let kind = words.next().and_then(|word| word.parse().ok());
        Layout {
            kind: kind.expect("a number"),
            name: words.next().expect("a name"),
            fields: words.filter_map(|word| word.split_once(':')).collect(),
        }
    };
    LAYOUTS.lines().map(layout).collect()
});

/// What names in the tree are, and what none is.
const NAMES: &[&[u8]] = &[
    b"f",
    b"d",
    b"e",
    b"g",
    b"k",
    b"s",
    b"m",
    b"n1",
    b"n2",
    b"h",
    b"up",
    b"out",
    b"p",
    b"q",
    b"z",
    b"far",
    b"d",
    b"n1",
    b"..",
    b".",
    b"",
    b"d/e",
    b"f\0",
    b"outside",
    b"secret",
    &[b'l'; 255],
    &[b'l'; 256],
    b"\xff\x01",
];
const XATTRS: &[&[u8]] = &[
    b"user.a",
    b"user.b",
    b"user.c",
    b"",
    b"user.",
    b"trusted.a",
    b"security.capability",
    b"system.posix_acl_access",
    b"user.a\0",
    &[b'u'; 255],
    b"user.d",
];
const TARGETS: &[&[u8]] = &[
    b"f",
    b"../outside/secret",
    b"/",
    b"",
    b"d/e",
    b"\0",
    &[b't'; 4095],
    &[b't'; 4096],
];
const VERSIONS: &[&[u8]] = &[
    b"9P2000.L.Google.13",
    b"9P2000.L",
    b"9P2000.L.Google.0",
    b"9P2000.L.Google.7",
    b"9P2000.L.Google.99",
    b"9P2000.L.Google.",
    b"9P2000.u",
    b"",
    b"9P2000.L.Google.4294967296",
    b"9P2000.L.Google.0013",
];
const PATHS: &[&[u8]] = &[
    b"",
    b"/",
    b"d",
    b"/d/k",
    b"d/k/m",
    b"f",
    b"s",
    b"out/secret",
    b"../outside",
    b"d//k",
    b"/d/.",
];
const FIDS: [u64; 4] = [0xffff_ffff, 0x7fff_ffff, 0x8000_0000, 1000];
const USERS: [u64; 5] = [0xffff_ffff, 0, 1000, 65534, 0xffff_fffe];
const PERMS: [u64; 8] = [0o644, 0o755, 0, 0o777, 0o4755, 0o2770, 0o1777, 0o400];
/// O_*, AT_REMOVEDIR, XATTR_CREATE and XATTR_REPLACE, kinds of locks.
const FLAGS: [u64; 16] = [
    0,
    1,
    2,
    3,
    0o1000,
    0o1001,
    0o1002,
    0o200,
    0o301,
    0o2002,
    0o4000,
    0o200_000,
    0x200,
    0x100,
    0x0040_0000,
    0xffff_ffff,
];
/// Types with permissions.
const MODES: [u64; 8] = [
    0o100_644, 0o010_644, 0o140_755, 0o020_666, 0o060_600, 0o040_755, 0o120_777, 0,
];
const COUNTS: [u64; 12] = [
    4096,
    100,
    24,
    0,
    1,
    300,
    8192,
    65536,
    1 << 20,
    0xffff_ffff,
    7,
    60,
];
const OFFSETS: [u64; 14] = [
    0,
    1,
    5,
    40,
    4095,
    4096,
    65536,
    1 << 20,
    1 << 31,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX,
    u64::MAX - 4095,
];
const SIZES: [u64; 8] = [0, 1, 7, 40, 300, 4097, 20_000, 65_536];

fn string(input: &mut Input<'_>, choices: &[&[u8]], out: &mut Vec<u8>) {
    let text = match usize::from(input.byte()) {
        byte if byte < 0xe0 => choices[byte % choices.len()],
        byte => input.bytes(byte & 0x1f),
    };
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text);
}

fn put(out: &mut Vec<u8>, bytes: usize, value: u64) {
    out.extend(&value.to_le_bytes()[..bytes]);
}

fn fid(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        byte if byte < 0xe8 => u64::from(byte % 9),
        byte => FIDS[usize::from(byte) % FIDS.len()],
    }
}

fn field(input: &mut Input<'_>, message: &str, name: &str, kind: &str, out: &mut Vec<u8>) {
    let kind = kind.split('<').next().unwrap_or_default().trim();
    match (kind, name) {
        ("Fid", "afid") if message == "Tattach" => {
            put(out, 4, FIDS[usize::from(input.byte() > 0xf0)])
        }
        ("Fid", _) => put(out, 4, fid(input)),
        ("Tag", _) => put(out, 2, input.number(2)),
        ("Uid" | "Gid", _) => put(out, 4, input.one_of(&USERS, 4)),
        ("Perm", _) => put(out, 4, input.one_of(&PERMS, 4)),
        ("GetMask", _) => put(out, 8, input.one_of(&[0x3fff, 0x7ff, 0], 8)),
        ("SetMask", _) => put(out, 4, input.number(2)),
        ("SetAttr", _) => {
            put(out, 4, input.one_of(&PERMS, 4));
            put(out, 4, input.one_of(&USERS, 4));
            put(out, 4, input.one_of(&USERS, 4));
            put(out, 8, input.one_of(&OFFSETS, 8));
            for _ in 0..4 {
                put(
                    out,
                    8,
                    input.one_of(
                        &[
                            0,
                            1,
                            999_999_999,
                            1_000_000_000,
                            u64::MAX,
                            0x3fff_ffff,
                            0x3fff_fffe,
                        ],
                        8,
                    ),
                );
            }
        }
        ("Str", "version") => string(input, VERSIONS, out),
        ("Str", "aname") => string(input, PATHS, out),
        ("Str", "target") => string(input, TARGETS, out),
        ("Str", "value") => value(input, 2, out),
        ("Str", _) if message.contains("xattr") => string(input, XATTRS, out),
        ("Str", _) => string(input, NAMES, out),
        ("List", _) => {
            let count = match input.byte() {
                byte if byte < 0xf8 => usize::from(byte % 5),
                byte => 254 + usize::from(byte % 4), // around WALK_NAMES
            };
            put(out, 2, count as u64);
            for _ in 0..count {
                match count {
                    0..=5 => string(input, NAMES, out),
                    _ => out.extend(b"\x01\0f"),
                }
            }
        }
        ("Data", _) => value(input, 4, out),
        ("u8", _) => put(out, 1, u64::from(input.byte() % 5)),
        ("u32", "flags") => put(out, 4, input.one_of(&FLAGS, 4)),
        ("u32", "mode") => put(out, 4, input.one_of(&MODES, 4)),
        ("u32", "socktype") => put(out, 4, u64::from(input.byte() % 4)),
        ("u32", _) => put(out, 4, input.one_of(&COUNTS, 4)),
        ("u64", "size") => put(out, 8, input.one_of(&SIZES, 8)),
        ("u64", _) => put(out, 8, input.one_of(&OFFSETS, 8)),
        (kind, _) => panic!("a field of {message} is of type {kind}: say here how to make one"),
    }
}

/// File data or an attribute's value, behind a count of so many bytes.
fn value(input: &mut Input<'_>, count_bytes: usize, out: &mut Vec<u8>) {
    let most = if count_bytes == 2 { 0xffff } else { 70_000 };
    let size = input.one_of(&SIZES, 2).min(most);
    put(out, count_bytes, size);
    let filler = input.byte();
    out.extend(std::iter::repeat_n(filler, size as usize));
}

/// One request's bytes, header included; `choice` says which.
pub(crate) fn request(input: &mut Input<'_>, choice: usize, tag: u16) -> Vec<u8> {
    let layout = &REQUESTS[choice % REQUESTS.len()];
    let mut frame = vec![0, 0, 0, 0, layout.kind];
    frame.extend(tag.to_le_bytes());
    for (name, kind) in &layout.fields {
        field(input, layout.name, name, kind, &mut frame);
    }
    let size = (frame.len() as u32).to_le_bytes();
    frame[..4].copy_from_slice(&size);
    frame
}
