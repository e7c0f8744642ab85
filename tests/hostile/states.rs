//! Every message to a fid in every state, right or wrong: the errno is the one that docs/protocol.md 3 says, its
//! checks in its order, with what docs/differences.md lists as different; all else is served.

use crate::harness::ROOT;
use crate::p9::{Client, MSIZE, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, t};
use crate::request::{
    BASE, DIR, FILE, INSIDE, LINK, LIST, NEW, OPEN, Request, Value, ask, batch, furnish, stage,
};
use crate::world::{Setting, World, item};
use nix::errno::Errno::{self, *};

/// The fid whose state it is.
const SUBJECT: u32 = BASE + 7;
/// The host's fid on the directory of a case.
const PLACE: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Directory,
    File,
    Link,
    Fifo,
}
use Kind::*;

/// What a fid may hold instead of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// The names of the file's extended attributes.
    Read,
    /// Nothing yet of four bytes.
    Written,
}

/// What became of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    /// Removed by this connection.
    Deleted,
    /// Removed by another process.
    Gone,
}
use Fate::*;

#[derive(Debug, Clone, Copy)]
struct State {
    kind: Kind,
    open: Option<u32>,
    held: Option<Held>,
    fate: Fate,
    is_root: bool,
}

impl State {
    fn all() -> Vec<State> {
        let plain = |kind| State {
            kind,
            open: None,
            held: None,
            fate: Kept,
            is_root: false,
        };
        let mut all = vec![plain(Unknown), plain(Fifo)];
        for kind in [Directory, File, Link] {
            for fate in [Kept, Deleted, Gone] {
                let walked = State {
                    fate,
                    ..plain(kind)
                };
                all.push(walked);
                let held = [Held::Read, Held::Written];
                all.extend(held.map(|held| State {
                    held: Some(held),
                    ..walked
                }));
                let modes: &[u32] = match kind {
                    Directory => &[O_RDONLY],
                    File => &[O_RDONLY, O_WRONLY, O_RDWR, 3],
                    _ => &[],
                };
                all.extend(modes.iter().map(|&mode| State {
                    open: Some(mode),
                    ..walked
                }));
            }
        }
        let root = State {
            is_root: true,
            ..plain(Directory)
        };
        all.extend([
            root,
            State {
                open: Some(O_RDONLY),
                ..root
            },
        ]);
        all
    }

    /// Whether it can be had on a read-only attach point.
    fn only_reads(&self) -> bool {
        let written =
            self.held == Some(Held::Written) || matches!(self.open, Some(O_WRONLY | O_RDWR));
        self.fate == Kept && self.kind != Fifo && !written
    }

    fn is_used(&self) -> bool {
        self.open.is_some() || self.held.is_some()
    }
}

/// Who asks, and where.
#[derive(Debug, Clone, Copy)]
struct Asker {
    linux: bool,
    read_only: bool,
}

/// The answer to a good request of which the fid in `slot` is in state `s`: each check in its order.
fn expected(message: &str, slot: &str, s: &State, asker: Asker) -> Result<(), Errno> {
    let Asker { linux, read_only } = asker;
    let refuse = |when: bool, errno| if when { Err(errno) } else { Ok(()) };
    let local = |here, errno| if linux { here } else { errno };
    let (deleted, gone, used) = (s.fate == Deleted, s.fate == Gone, s.is_used());
    // Linux walks from what it has open, and changes names there: its kernels of 5.11 to 5.16 send no other fid.
    let no_parent = if linux { s.held.is_some() } else { used };
    let unknown = refuse(s.kind == Unknown, EBADF);
    let no_directory = || {
        refuse(deleted, local(ENOENT, EINVAL))?;
        refuse(s.kind != Directory, local(ENOTDIR, EINVAL))
    };
    let writable = refuse(read_only, EROFS);
    let no_file = |errno| refuse(!matches!(s.kind, File | Directory), errno);
    let plain = s.open.filter(|_| s.held.is_none());
    let opened = || plain.ok_or(EINVAL);

    match (message, slot) {
        ("version" | "flush", _) => Ok(()),
        ("auth", _) => Err(ENOSYS),
        ("channel", _) => refuse(linux, ENOSYS),
        ("lock" | "getlock", _) if !linux => Err(EIO),
        ("attach", "afid") => Err(EINVAL),
        ("attach", _) => refuse(!linux, EIO),
        ("bind", "newfid") => Err(EPERM),
        (_, "newfid") => Ok(()),
        ("statfs" | "getattr" | "flushf", _) => unknown,
        ("lopen", _) => {
            unknown?;
            refuse(deleted && !linux || used, EINVAL)?;
            no_file(EINVAL)
        }
        ("lcreate" | "ucreate", _) => {
            unknown?;
            no_directory()?;
            refuse(used, EINVAL)?;
            writable?;
            refuse(gone, ENOENT)
        }
        ("symlink" | "usymlink" | "mkdir" | "umkdir" | "mknod" | "umknod" | "unlinkat", _)
        | ("link", "dfid")
        | ("renameat", "olddirfid") => {
            unknown?;
            no_directory()?;
            refuse(no_parent, EINVAL)?;
            writable?;
            refuse(gone, ENOENT)
        }
        ("link", _) => {
            unknown?;
            writable?;
            refuse(s.kind == Directory, EPERM)?;
            refuse(deleted || gone, ENOENT)
        }
        ("rename", "fid") => {
            unknown?;
            refuse(s.is_root, EINVAL)?;
            refuse(deleted, local(ENOENT, EINVAL))?;
            writable?;
            refuse(gone, ENOENT)
        }
        ("rename", _) | ("renameat", "newdirfid") => {
            unknown?;
            no_directory()?;
            writable?;
            refuse(gone, ENOENT)
        }
        ("lopen for writing" | "lopen to truncate", _) => {
            unknown?;
            refuse(deleted && !linux || used, EINVAL)?;
            no_file(EINVAL)?;
            refuse(s.kind == Directory, EISDIR)?;
            writable
        }
        ("walk without names" | "walkgetattr without names", _) => {
            unknown?;
            refuse(no_parent, EBUSY)
        }
        ("multigetattr of itself", _) => unknown,
        ("readlink", _) => {
            unknown?;
            refuse(deleted && !linux || s.kind != Link, EINVAL)
        }
        ("setattr" | "setattrclunk", _) => {
            unknown?;
            writable?;
            refuse(s.kind == Link, local(EOPNOTSUPP, EBADF))
        }
        ("listxattr", _) => {
            unknown?;
            refuse(deleted, EINVAL)
        }
        ("getxattr" | "removexattr" | "setxattr", _) => {
            unknown?;
            refuse(deleted, EINVAL)?;
            if message != "getxattr" {
                writable?;
            }
            no_file(EOPNOTSUPP)?;
            refuse(message != "setxattr", ENODATA)
        }
        ("xattrwalk", _) => unknown,
        ("xattrcreate", _) => {
            unknown?;
            refuse(used, EINVAL)?;
            writable
        }
        ("readdir", _) => {
            unknown?;
            no_directory()?;
            opened()?;
            refuse(gone, ENOENT)
        }
        ("fsync", _) => {
            unknown?;
            opened().map(drop)
        }
        ("lock" | "getlock", _) => {
            unknown?;
            opened().map(drop)
        }
        ("walk" | "walkgetattr", _) => {
            unknown?;
            refuse(no_parent, EBUSY)?;
            refuse(s.kind != Directory, local(ENOTDIR, EINVAL))?;
            refuse(deleted || gone, ENOENT)
        }
        ("multigetattr", _) => {
            unknown?;
            refuse(s.kind != Directory, ENOTDIR)
        }
        ("read", _) => {
            unknown?;
            refuse(s.held == Some(Held::Written), EPERM)?;
            if s.held.is_some() {
                return Ok(());
            }
            let mode = opened()?;
            refuse(mode == O_WRONLY, EPERM)?;
            refuse(s.kind == Directory, EISDIR)?;
            refuse(mode == 3, EBADF)
        }
        ("write", _) => {
            unknown?;
            refuse(s.held == Some(Held::Read), EPERM)?;
            if s.held.is_some() {
                return Ok(());
            }
            let mode = opened()?;
            refuse(mode == O_RDONLY, EPERM)?;
            refuse(mode == 3, EBADF)
        }
        ("allocate", _) => {
            unknown?;
            let mode = opened()?;
            refuse(matches!(mode, O_RDONLY | 3), EBADF)
        }
        ("clunk", _) => {
            unknown?;
            refuse(s.held == Some(Held::Written), EINVAL)
        }
        ("remove", _) => {
            unknown?;
            refuse(s.is_root, EINVAL)?;
            refuse(deleted, local(ENOENT, EINVAL))?;
            writable?;
            refuse(gone, ENOENT)?;
            refuse(s.kind == Directory, local(ENOTEMPTY, EISDIR))
        }
        ("lconnect", _) => {
            unknown?;
            Err(EINVAL)
        }
        ("bind", _) => {
            unknown?;
            no_directory()?;
            refuse(no_parent, EINVAL)?;
            Err(EPERM)
        }
        other => panic!("no rule for {other:?}"),
    }
}

const GOOGLE: &[u8] = b"9P2000.L.Google.13";
const LINUX: &[u8] = b"9P2000.L";

fn speak(client: &mut Client, version: &[u8]) {
    client.version(MSIZE, version).unwrap();
}

/// Makes a fid of that state in the directory that `PLACE` and `BASE` stand for.
fn make(world: &mut World, s: &State) {
    let World { foes, host, .. } = world;
    let foe = &mut foes[0];
    let make = match s.kind {
        _ if s.is_root => t::statfs(1, BASE),
        Unknown => t::walk(1, BASE, SUBJECT, &[]),
        Directory => t::mkdir(1, BASE, b"s", 0o755, NOID),
        File => t::mknod(1, BASE, b"s", 0o100_644, 0, 0, NOID),
        Link => t::symlink(1, BASE, b"s", b"../../secrets", NOID),
        Fifo => {
            speak(foe, LINUX);
            t::mknod(1, BASE, b"s", 0o010_644, 0, 0, NOID)
        }
    };
    let walk = match s.kind {
        _ if s.is_root => t::walk(1, ROOT, SUBJECT, &[]),
        Unknown => t::clunk(1, SUBJECT),
        _ => t::walk(1, BASE, SUBJECT, &[b"s"]),
    };
    let mut steps = vec![make, walk];
    if s.is_root {
        // As a directory just made.
        let walk = t::walk(1, ROOT, 3, &[b"m"]);
        let unlink = [0, 0x200].map(|flags| t::unlinkat(1, 3, b"new", flags));
        let make = t::mknod(1, 3, INSIDE, 0o100_644, 0, 0, NOID);
        let bare = t::removexattr(1, 3, b"user.a");
        batch(host, &[&[walk], &unlink[..], &[make, bare]].concat());
    }
    if s.kind == Directory && !s.is_root {
        steps.push(t::walk(1, SUBJECT, NEW, &[]));
        steps.push(t::mknod(1, NEW, INSIDE, 0o100_644, 0, 0, NOID));
        steps.push(t::clunk(1, NEW));
    }
    steps.extend(s.open.map(|mode| t::lopen(1, SUBJECT, mode)));
    match s.held {
        Some(Held::Read) => steps.push(t::xattrwalk(1, SUBJECT, SUBJECT, b"")),
        Some(Held::Written) => steps.push(t::xattrcreate(1, SUBJECT, b"user.b", 4, 0)),
        None => {}
    }
    assert!(batch(foe, &steps).iter().all(Result::is_ok), "{s:?}");
    let flags = if s.kind == Directory { 0x200 } else { 0 };
    let empty = [t::walk(1, PLACE, 3, &[b"s"]), t::unlinkat(1, 3, INSIDE, 0)];
    let unlink = t::unlinkat(1, PLACE, b"s", flags);
    if s.fate != Kept && s.kind == Directory {
        assert_eq!(batch(host, &empty), [Ok(()); 2]);
    }
    match s.fate {
        Kept => {}
        Gone => assert_eq!(batch(host, &[unlink]), [Ok(())]),
        Deleted => assert_eq!(batch(foe, &[t::unlinkat(1, BASE, b"s", flags)]), [Ok(())]),
    }
}

/// Every message, and some of them as another rule has them.
fn requests() -> Vec<(&'static str, Request)> {
    let good = Request::good();
    let variant = |name, message: &str, field, value| {
        let request = good.iter().find(|request| request.message == message);
        (name, request.expect("a message").with(field, value))
    };
    let (none, own) = (Value::List(vec![]), Value::List(vec![vec![]]));
    let variants = [
        variant("lopen for writing", "lopen", "flags", Value::U32(O_RDWR)),
        variant("lopen to truncate", "lopen", "flags", Value::U32(O_TRUNC)),
        variant("walk without names", "walk", "names", none.clone()),
        variant("walkgetattr without names", "walkgetattr", "names", none),
        variant("multigetattr of itself", "multigetattr", "names", own),
    ];
    let plain = good
        .iter()
        .map(|request| (request.message, request.clone()));
    plain.chain(variants).collect()
}

/// The fields that are fids.
fn slots(request: &Request) -> Vec<&'static str> {
    let fids = request.fields.iter().map(|(field, _)| *field);
    let fids: Vec<&str> = fids.filter(|field| field.ends_with("fid")).collect();
    if fids.is_empty() { vec![""] } else { fids }
}

/// One case: the answer, and that the connection goes on.
fn play(
    client: &mut Client,
    (rule, request): (&str, &Request),
    slot: &str,
    s: &State,
    asker: Asker,
) {
    let request = match slot {
        "" => request.clone(),
        slot => request.with(slot, Value::U32(SUBJECT)),
    };
    let told = || format!("{} with {slot} {s:?} of {asker:?}", request.told());
    let answer = ask(client, &request).unwrap_or_else(|fault| panic!("{}: {fault}", told()));
    assert_eq!(answer, expected(rule, slot, s, asker), "{}", told());
    client
        .statfs(ROOT)
        .unwrap_or_else(|fault| panic!("after {}: {fault}", told()));
}

#[test]
fn every_message_in_every_state_is_answered_as_the_protocol_says() {
    item("every message in every state", Setting::foes(1), |world| {
        let mut cases = 0;
        // The version in force when the state was made, and when the request comes.
        for (before, now) in [
            (GOOGLE, GOOGLE),
            (LINUX, LINUX),
            (GOOGLE, LINUX),
            (LINUX, GOOGLE),
        ] {
            let asker = Asker {
                linux: now == LINUX,
                read_only: false,
            };
            for (rule, request) in &requests() {
                for slot in slots(request) {
                    for s in &State::all() {
                        cases += 1;
                        prepare(world, before, cases);
                        make(world, s);
                        let foe = &mut world.foes[0];
                        speak(foe, now);
                        let request = match request.message {
                            "version" => request.with("version", Value::Text(now.to_vec())),
                            _ => request.clone(),
                        };
                        play(foe, (rule, &request), slot, s, asker);
                        give_up(foe);
                    }
                }
            }
        }
        format!("{cases} cases")
    });
}

/// A directory of its own for a case, as `BASE` and the host's `PLACE`.
fn prepare(world: &mut World, version: &[u8], case: u32) {
    let World { foes, host, .. } = world;
    let name = format!("c{case}").into_bytes();
    let foe = &mut foes[0];
    speak(foe, version);
    let begin = [
        t::mkdir(1, ROOT, &name, 0o755, NOID),
        t::walk(1, ROOT, BASE, &[&name]),
    ];
    let steps = [&begin[..], &furnish(BASE), &stage(BASE, O_RDWR)].concat();
    assert!(batch(foe, &steps).iter().all(Result::is_ok));
    let place = [t::walk(1, ROOT, PLACE, &[b"m", &name])];
    assert_eq!(batch(host, &place), [Ok(())]);
}

fn give_up(client: &mut Client) {
    let fids = [DIR, FILE, OPEN, LIST, LINK, SUBJECT, NEW];
    batch(client, &fids.map(|fid| t::clunk(1, fid)));
}

#[test]
fn every_message_in_every_state_of_a_read_only_attach_point_is_erofs_in_its_place() {
    item(
        "every message in every state, read-only",
        Setting::foes(0),
        |world| {
            let mut cases = 0;
            let reader = &mut world.reader;
            for version in [GOOGLE, LINUX] {
                speak(reader, version);
                let asker = Asker {
                    linux: version == LINUX,
                    read_only: true,
                };
                for (rule, request) in &requests() {
                    for slot in slots(request) {
                        for s in State::all().iter().filter(|s| s.only_reads()) {
                            cases += 1;
                            batch(reader, &stage(ROOT, O_RDONLY));
                            take(reader, s);
                            play(reader, (rule, request), slot, s, asker);
                            give_up(reader);
                            speak(reader, version);
                        }
                    }
                }
            }
            format!("{cases} cases")
        },
    );
}

/// Makes a fid of that state of what is there.
fn take(reader: &mut Client, s: &State) {
    let name: &[&[u8]] = match s.kind {
        _ if s.is_root => &[],
        Directory | Unknown => &[b"d"],
        File => &[b"d", INSIDE],
        _ => &[b"l"],
    };
    let mut steps = vec![t::walk(1, ROOT, SUBJECT, name)];
    steps.extend((s.kind == Unknown).then(|| t::clunk(1, SUBJECT)));
    steps.extend(s.open.map(|mode| t::lopen(1, SUBJECT, mode)));
    steps.extend(s.held.map(|_| t::xattrwalk(1, SUBJECT, SUBJECT, b"")));
    assert!(batch(reader, &steps).iter().all(Result::is_ok), "{s:?}");
}

/// Nothing is agreed on and nothing attached: every fid is unknown, and all else is as ever.
#[test]
fn every_message_before_tversion_and_before_tattach_is_answered() {
    let setting = Setting {
        strangers: 2,
        ..Setting::foes(0)
    };
    item(
        "every message before Tversion and Tattach",
        setting,
        |world| {
            let unknown = State::all()[0];
            let mut cases = 0;
            for (stranger, version) in world.strangers.iter_mut().zip([None, Some(LINUX)]) {
                if let Some(version) = version {
                    speak(stranger, version);
                }
                let asker = Asker {
                    linux: version.is_some(),
                    read_only: false,
                };
                for request in Request::good() {
                    if matches!(request.message, "version" | "attach") {
                        continue; // for these two nothing is wrong
                    }
                    for slot in slots(&request) {
                        // The other fids are unknown too.
                        let told = request.told();
                        let answer = ask(stranger, &request)
                            .unwrap_or_else(|fault| panic!("{told}: {fault}"));
                        let wanted = match request.message {
                            "flush" => Ok(()),
                            "channel" => Err(ENOSYS), // no version that has any
                            _ if slot == "newfid" || slot == "afid" => continue,
                            message => expected(message, slot, &unknown, asker),
                        };
                        assert_eq!(answer, wanted, "{told}");
                        cases += 1;
                    }
                }
            }
            format!("{cases} cases")
        },
    );
}
