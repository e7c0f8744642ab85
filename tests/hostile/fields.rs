//! Every field of every message at its edges, alone and in pairs; every length and count against the bytes that
//! follow. An answer of the right type on the right tag, or an errno; where docs/protocol.md says which, that one.

use crate::harness::ROOT;
use crate::p9::{Client, Fault, MSIZE, O_RDWR, refused, t};
use crate::request::{
    BASE, DIR, FILE, LINK, LIST, OPEN, Request, Value, ask, batch, furnish, heard, stage,
};
use crate::world::{Setting, item};
use nix::errno::Errno::{self, *};

const VERSIONS: [&[u8]; 2] = [b"9P2000.L.Google.13", b"9P2000.L"];

/// 0, 1, the limits of the type, of its signed twin and of the narrower ones with their neighbours, and each bit.
fn edges(bits: u32) -> Vec<u64> {
    let max = u64::MAX >> (64 - bits);
    let mut all = vec![0, 1, 2, 3];
    for width in [8, 16, 32, 64].into_iter().filter(|&width| width <= bits) {
        for top in [1 << (width - 1), u64::MAX >> (64 - width)] {
            all.extend([top - 1, top, top.wrapping_add(1) & max]);
        }
    }
    all.extend((0..bits).map(|bit| 1 << bit));
    // Limits of ours: a frame, a value, and one more.
    all.extend([1 << 16, (1 << 16) + 1, 1 << 20, (1 << 20) + 1].map(|limit: u64| limit & max));
    all.sort_unstable();
    all.dedup();
    all
}

/// Few of them, for pairs.
fn corners(bits: u32) -> Vec<u64> {
    let (max, sign) = (u64::MAX >> (64 - bits), 1 << (bits - 1));
    let mut all = vec![0, 1, 2, 4095, 4096, sign - 1, sign, sign + 1, max - 1, max];
    all.extend([(1 << 31) - 1, 1 << 31, u64::from(u32::MAX), 1 << 32].map(|edge: u64| edge & max));
    all.sort_unstable();
    all.dedup();
    all
}

/// A number's bits; `None` for what is no number.
fn width(value: &Value) -> Option<u32> {
    match value {
        Value::U8(_) => Some(8),
        Value::U16(_) => Some(16),
        Value::U32(_) => Some(32),
        Value::U64(_) => Some(64),
        Value::Text(_) | Value::List(_) | Value::Data(_) => None,
    }
}

fn number(like: &Value, number: u64) -> Value {
    match like {
        Value::U8(_) => Value::U8(number as u8),
        Value::U16(_) => Value::U16(number as u16),
        Value::U32(_) => Value::U32(number as u32),
        _ => Value::U64(number),
    }
}

const SIGN: u64 = 1 << 63;

/// What docs/protocol.md, or docs/differences.md where it differs, says of a value. `None`: nothing, it depends on the file.
fn said(message: &str, field: &str, value: u64, linux: bool) -> Option<Result<(), Errno>> {
    let fid = matches!(field, "fid" | "dfid" | "olddirfid" | "newdirfid");
    let refuse = |when: bool, errno| when.then_some(Err(errno));
    match (message, field) {
        ("auth", _) => Some(Err(ENOSYS)),
        ("channel", _) if linux => Some(Err(ENOSYS)),
        // Two are offered, with two halves each.
        ("channel", "id") => Some(if value < 2 { Ok(()) } else { Err(ENOSYS) }),
        ("channel", _) => Some(if value < 2 { Ok(()) } else { Err(EINVAL) }),
        ("lock" | "getlock", _) if !linux => Some(Err(EIO)),
        ("attach", "afid") => refuse(value != u64::from(u32::MAX), EINVAL),
        ("attach", _) => Some(if linux { Ok(()) } else { Err(EIO) }),
        _ if fid => refuse(!KNOWN.contains(&(value as u32)), EBADF),
        ("flush", _) | ("getattr", "mask") | ("fsync", "datasync") => Some(Ok(())),
        // Between the two the end lies behind 2^63.
        ("read", "offset") if value >= SIGN => Some(Err(EINVAL)),
        ("read", "offset") => (value < SIGN - 4096).then_some(Ok(())),
        ("read", "count") => Some(if value <= 1 << 20 {
            Ok(())
        } else {
            Err(ENOBUFS)
        }),
        ("write", "offset") => refuse(value >= SIGN, EINVAL),
        ("readdir", "offset") => refuse(value >= SIGN, EINVAL),
        ("readdir", "count") => refuse(value < 25, EINVAL),
        ("allocate", "mode") => refuse(value != 0, EOPNOTSUPP),
        ("allocate", "offset") => refuse(value >= SIGN, EINVAL),
        ("allocate", "length") => refuse(value >= SIGN || value == 0, EINVAL),
        ("lock" | "getlock", "kind") => Some(if value <= 2 { Ok(()) } else { Err(EINVAL) }),
        ("lock" | "getlock", "start") => Some(if value < SIGN { Ok(()) } else { Err(EINVAL) }),
        ("lock" | "getlock", "length") => Some(if value <= SIGN { Ok(()) } else { Err(EINVAL) }),
        ("lock" | "getlock", _) => Some(Ok(())),
        ("setattr" | "setattrclunk", "valid") => {
            let known = value & 0x1ff;
            if known & 0x40 != 0 && !linux {
                Some(Err(EPERM))
            } else {
                // The size is 0, the ids are those of the first user, the times those of 1970.
                Some(Ok(()))
            }
        }
        ("setattr" | "setattrclunk", "size") => refuse(value >= SIGN, EINVAL),
        ("unlinkat", "flags") => match value {
            0 => Some(Ok(())),
            0x200 => Some(Err(ENOTDIR)),
            _ => Some(Err(EINVAL)),
        },
        ("mknod" | "umknod", "mode") if !linux => Some(if value & 0o170_000 == 0o100_000 {
            Ok(())
        } else {
            Err(EPERM)
        }),
        ("lconnect", _) => Some(Err(EINVAL)),
        ("bind", _) => Some(Err(EPERM)),
        ("setxattr", "flags") => match value {
            0 | 1 => Some(Ok(())),
            2 => Some(Err(ENODATA)),
            3 => None,
            _ => Some(Err(EINVAL)),
        },
        ("xattrcreate", "attr_size") => Some(if value <= 1 << 16 { Ok(()) } else { Err(E2BIG) }),
        ("getxattr", "bufsize") => Some(Err(ENODATA)),
        ("listxattr", "bufsize") => Some(Ok(())),
        ("lopen", "flags") => None,
        _ => None,
    }
}

/// The fids that there are.
const KNOWN: [u32; 7] = [ROOT, BASE, DIR, FILE, OPEN, LIST, LINK];

/// The setattr bits that make a field count.
fn heeded(request: &Request, field: &str) -> Request {
    let valid = match field {
        "mode" => 1,
        "uid" => 2,
        "gid" => 4,
        "size" => 8,
        "atime" | "atime_ns" => 0x90,
        _ => 0x120,
    };
    match request.message {
        "setattr" | "setattrclunk" if !matches!(field, "fid" | "valid") => {
            request.with("valid", Value::U32(valid))
        }
        _ => request.clone(),
    }
}

/// A connection on which everything can be used up: it is made anew for each request.
struct Field<'a> {
    foe: &'a mut Client,
    /// Removes what was made, and makes what was removed.
    host: &'a mut Client,
    linux: bool,
    dirty: bool,
    cases: u32,
}

impl Field<'_> {
    fn renew(&mut self) {
        if std::mem::take(&mut self.dirty) {
            let unlink = |fid, name, flags| t::unlinkat(1, fid, name, flags);
            let remove = [
                t::walk(1, ROOT, 2, &[b"m"]),
                t::walk(1, ROOT, 3, &[b"m", b"d"]),
                unlink(3, b"in", 0),
                unlink(3, b"new", 0),
                unlink(3, b"new", 0x200),
                unlink(2, b"new", 0),
                unlink(2, b"new", 0x200),
                unlink(2, b"l", 0),
            ];
            batch(self.host, &remove);
            batch(self.foe, &furnish(SAFE));
        }
        // The root's fid is one number among others: it may be gone or be something else by now.
        let clones = [ROOT, BASE].map(|fid| t::walk(1, SAFE, fid, &[]));
        let staged = batch(self.foe, &[&clones[..], &stage(SAFE, O_RDWR)].concat());
        assert_eq!(staged, [Ok(()); 9]);
    }

    /// Gives a new fid up, unless it is one of those that are made anew.
    fn forget(&mut self, request: &Request) {
        for (name, value) in &request.fields {
            if let Value::U32(fid) = *value
                && matches!((request.message, *name), (_, "newfid") | ("attach", "fid"))
                && !KNOWN.contains(&fid)
            {
                self.foe.clunk(fid).unwrap();
            }
        }
    }

    fn play(&mut self, request: &Request, wanted: Option<Result<(), Errno>>) {
        self.renew();
        self.cases += 1;
        let told = request.told();
        let linux = self.linux;
        let answer = ask(self.foe, request).unwrap_or_else(|fault| panic!("{told}: {fault}"));
        if let Some(wanted) = wanted {
            assert_eq!(answer, wanted, "{told}, Linux: {linux}");
        }
        if answer.is_ok() {
            self.dirty = true;
            self.forget(request);
        }
        self.foe
            .statfs(SAFE)
            .unwrap_or_else(|fault| panic!("after {told}: {fault}"));
    }

    /// Bytes, which are no request by now: what comes is on their tag.
    fn play_bytes(&mut self, request: &Request, bytes: &[u8], wanted: Option<Errno>) {
        self.renew();
        self.cases += 1;
        let told = format!("{} as {bytes:02x?}", request.told());
        self.foe.send(bytes).unwrap();
        let tag = u16::from_le_bytes([bytes[5], bytes[6]]);
        let answer = heard(self.foe, request.kind, tag);
        let answer = answer.unwrap_or_else(|fault| panic!("{told}: {fault}"));
        if let Some(wanted) = wanted {
            assert_eq!(answer, Err(wanted), "{told}");
        }
        self.dirty = answer.is_ok();
        self.foe
            .statfs(SAFE)
            .unwrap_or_else(|fault| panic!("after {told}: {fault}"));
    }
}

/// The attach root's fid that no request names.
const SAFE: u32 = 0x7654_3210;

/// Plays requests under both kinds of versions; all but Tversion, which changes the connection itself.
fn on_both_kinds(name: &str, test: impl Fn(&mut Field, &Request)) {
    item(name, Setting::foes(1), |world| {
        let mut cases = 0;
        for version in VERSIONS {
            let foe = &mut world.foes[0];
            foe.version(MSIZE, version).unwrap();
            if cases == 0 {
                foe.walk_to(ROOT, SAFE, "").unwrap();
            }
            let mut field = Field {
                foe,
                host: &mut world.host,
                linux: version == VERSIONS[1],
                dirty: true,
                cases,
            };
            for request in Request::good() {
                if request.message != "version" {
                    test(&mut field, &request);
                }
            }
            cases = field.cases;
        }
        format!("{cases} requests")
    });
}

#[test]
fn every_number_of_every_message_at_its_edges_is_answered() {
    on_both_kinds("every number at its edges", |field, request| {
        for (name, like) in &request.fields {
            for value in width(like).map(edges).unwrap_or_default() {
                let changed = heeded(request, name).with(name, number(like, value));
                field.play(&changed, said(request.message, name, value, field.linux));
            }
        }
    });
}

#[test]
fn every_two_numbers_of_a_message_at_their_corners_are_answered() {
    on_both_kinds("every two numbers at their corners", |field, request| {
        let numbers: Vec<_> = request
            .fields
            .iter()
            .filter(|(name, like)| !name.ends_with("fid") && width(like).is_some())
            .collect();
        // Neighbours: offset and length, seconds and parts of them.
        for (first, second) in numbers.iter().zip(numbers.iter().skip(1)) {
            let corners = |like| width(like).map(corners).unwrap_or_default();
            for value in corners(&first.1) {
                for other in corners(&second.1) {
                    let changed = heeded(request, second.0)
                        .with(first.0, number(&first.1, value))
                        .with(second.0, number(&second.1, other));
                    field.play(&changed, None);
                }
            }
        }
    });
}

/// A length or count above what follows is EIO; below, what follows is read as the next field.
#[test]
fn every_length_and_count_that_is_not_that_of_its_bytes_is_answered() {
    on_both_kinds("every length against its bytes", |field, request| {
        let wanted = match request.message {
            "auth" => ENOSYS,
            _ => EIO,
        };
        for (name, value) in &request.fields {
            let (places, bytes) = match value {
                Value::Text(_) => (vec![0], 2),
                Value::List(_) => (vec![0, 2], 2), // the count, and the first name's length
                Value::Data(_) => (vec![0], 4),
                _ => continue,
            };
            for place in places {
                let at = request.at(name) + place;
                let mut frame = request.frame(7);
                let mut right = [0; 8];
                right[..bytes].copy_from_slice(&frame[at..at + bytes]);
                let right = u64::from_le_bytes(right);
                let mut lengths = edges(8 * bytes as u32);
                lengths.extend([right.wrapping_sub(1), right + 1, right + 2]);
                for length in lengths.into_iter().filter(|&length| length != right) {
                    frame[at..at + bytes].copy_from_slice(&length.to_le_bytes()[..bytes]);
                    let is_data = matches!(value, Value::Data(_));
                    let cannot_be = is_data || length & (u64::MAX >> (64 - 8 * bytes)) > right;
                    field.play_bytes(request, &frame, cannot_be.then_some(wanted));
                }
            }
        }
        // The frame cut anywhere, its size with it.
        let whole = request.frame(8);
        for length in 7..whole.len() {
            let mut cut = whole[..length].to_vec();
            cut[..4].copy_from_slice(&(length as u32).to_le_bytes());
            // Linux's Tfsync is longer than gVisor's, and served without the rest.
            let served = request.message == "fsync" && length >= 11;
            field.play_bytes(request, &cut, (!served).then_some(wanted));
        }
        // And longer than it needs to be.
        let mut long = [whole, vec![0xff; 1000]].concat();
        let size = long.len() as u32;
        long[..4].copy_from_slice(&size.to_le_bytes());
        let wanted = matches!(request.message, "write").then_some(EIO); // its data end the frame
        field.play_bytes(request, &long, wanted);
    });
}

/// A message size is in force at once: requests and replies that it does not hold are answered so, or end
/// the connection.
#[test]
fn every_message_size_at_its_edges_is_granted_refused_or_lowered() {
    let sizes = edges(32);
    let setting = Setting::foes(2 * sizes.len());
    item("every message size at its edges", setting, |world| {
        let mut foes = world.foes.drain(..);
        for &size in &sizes {
            for version in VERSIONS {
                let mut foe = foes.next().unwrap();
                let (msize, linux) = (size as u32, version == VERSIONS[1]);
                let answer = foe.version(msize, version);
                let in_force = match (msize, linux) {
                    (0, _) => {
                        refused(answer, EINVAL);
                        MSIZE
                    }
                    (MSIZE.., false) if msize > MSIZE => {
                        refused(answer, EINVAL);
                        MSIZE
                    }
                    // Rversion itself needs room, of which it has as much as Rlerror at least.
                    _ => {
                        let needed = 13 + version.len() as u32;
                        match answer {
                            Ok(reply) => assert_eq!(reply.msize, msize.min(MSIZE)),
                            Err(Fault::Errno(EMSGSIZE)) => assert!(msize < needed, "{msize}"),
                            Err(fault) => panic!("{fault} for {msize}"),
                        }
                        msize.min(MSIZE)
                    }
                };
                match foe.getattr(ROOT, 0) {
                    Ok(_) => assert!(in_force >= 160, "{in_force}"),
                    Err(Fault::Errno(EMSGSIZE)) => assert!((19..160).contains(&in_force)),
                    Err(Fault::Closed) => assert!(in_force < 19, "{in_force}"),
                    Err(fault) => panic!("{fault} with {in_force}"),
                }
            }
        }
        format!("{} sizes under two versions", sizes.len())
    });
}
