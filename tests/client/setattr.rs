//! Tsetattr, Tallocate, and what is refused whatever it says: docs/protocol.md 1.4, 3.8, 3.11, 3.13.

use crate::entries::{AT_REMOVEDIR, both_ways, start};
use crate::harness::{
    Launch, Namespace, ROOT, Session, Tree, chmod, copy_binary, serve, serve_read_only, session_of,
    spec, write_spec,
};
use crate::p9::{
    Answer, Data, Empty, MSIZE, NOFID, NOID, O_RDONLY, O_RDWR, O_WRONLY, SetAttr, VALID, refused, t,
};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const MODE: u32 = 1;
const UID: u32 = 2;
const GID: u32 = 4;
const SIZE: u32 = 8;
const ATIME: u32 = 0x10;
const MTIME: u32 = 0x20;
const CTIME: u32 = 0x40;
const ATIME_GIVEN: u32 = 0x80;
const MTIME_GIVEN: u32 = 0x100;

fn none() -> SetAttr {
    SetAttr::default()
}

fn mode(mode: u32) -> SetAttr {
    SetAttr { mode, ..none() }
}

fn size(size: u64) -> SetAttr {
    SetAttr { size, ..none() }
}

fn owner(uid: u32, gid: u32) -> SetAttr {
    SetAttr { uid, gid, ..none() }
}

fn times(atime: u64, mtime: u64) -> SetAttr {
    SetAttr {
        atime,
        atime_ns: 1,
        mtime,
        mtime_ns: 2,
        ..none()
    }
}

const BOTH_TIMES: u32 = ATIME | MTIME | ATIME_GIVEN | MTIME_GIVEN;

// ---- every combination of bits ----

/// What a Tsetattr may change.
#[derive(Debug, Clone, PartialEq)]
struct State {
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    atime: (i64, i64),
    mtime: (i64, i64),
}

fn state(tree: &Tree, name: &str) -> State {
    let stat = tree.stat(name);
    State {
        mode: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
        size: stat.size(),
        atime: (stat.atime(), stat.atime_nsec()),
        mtime: (stat.mtime(), stat.mtime_nsec()),
    }
}

fn set_times(path: &Path, atime: (i64, i64), mtime: (i64, i64)) {
    let (atime, mtime) = (
        TimeSpec::new(atime.0, atime.1),
        TimeSpec::new(mtime.0, mtime.1),
    );
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(AT_FDCWD, path, &atime, &mtime, flags).unwrap();
}

/// A time that the host's clock gave.
const NOW: (i64, i64) = (i64::MAX, 0);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    File,
    Dir,
    Link,
}

/// What becomes of a state, and the answer: docs/protocol.md 3.11.
fn model(kind: Kind, was: &State, valid: u32, attr: &SetAttr) -> (State, Option<Errno>) {
    let has = |bit| valid & bit != 0;
    let (mut new, mut last) = (was.clone(), None);
    if has(CTIME) {
        return (new, Some(Errno::EPERM));
    }
    if has(MODE) {
        match kind {
            Kind::Link => last = Some(Errno::EBADF),
            Kind::File | Kind::Dir => new.mode = attr.mode & 0o7777,
        }
    }
    if has(SIZE) {
        match kind {
            Kind::Dir => last = Some(Errno::EINVAL),
            Kind::Link => last = Some(Errno::EBADF),
            Kind::File => {
                new.size = attr.size;
                new.mtime = NOW;
            }
        }
    }
    let given = |sec: u64, nsec: u64| (sec.cast_signed(), nsec.cast_signed());
    if has(ATIME) {
        new.atime = if has(ATIME_GIVEN) {
            given(attr.atime, attr.atime_ns)
        } else {
            NOW
        };
    }
    if has(MTIME) {
        new.mtime = if has(MTIME_GIVEN) {
            given(attr.mtime, attr.mtime_ns)
        } else {
            NOW
        };
    }
    if has(UID) {
        new.uid = attr.uid;
    }
    if has(GID) {
        new.gid = attr.gid;
    }
    if (has(UID) || has(GID)) && kind == Kind::File {
        new.mode &= 0o1777; // chown(2) clears them, and comes last
    }
    (new, last)
}

/// Combinations of all bits, the change time and two unknown bits among them. The fields of bits that
/// are not set hold the same values, which must not matter.
fn try_every_combination(namespace: Option<Namespace>, kind: Kind, ids: (u32, u32)) {
    let tree = Tree::new();
    match kind {
        Kind::File => tree.file("x", b"0123456789"),
        Kind::Dir => tree.dir("x"),
        Kind::Link => tree.link("x", "target"),
    }
    let path = tree.path("x");
    let mut s = start(&tree, namespace);
    s.walk_to(ROOT, 2, "x").unwrap();
    let attr = SetAttr {
        mode: 0o170_000 | 0o6751,
        uid: ids.0,
        gid: ids.1,
        size: 3,
        atime: 111_111,
        atime_ns: 11,
        mtime: 222_222,
        mtime_ns: 22,
    };
    for valid in (0..0x200).flat_map(|valid| [valid, valid | 0x200, valid | 0x8000_0000]) {
        std::os::unix::fs::lchown(&path, Some(0), Some(0)).unwrap();
        match kind {
            Kind::File => {
                fs::write(&path, b"0123456789").unwrap();
                chmod(&path, 0o640);
            }
            Kind::Dir => chmod(&path, 0o750),
            Kind::Link => {}
        }
        set_times(&path, (1000, 100), (2000, 200));
        let was = state(&tree, "x");
        let (mut wanted, errno) = model(kind, &was, valid, &attr);
        if namespace.is_some() && kind == Kind::File && wanted.size == attr.size {
            wanted.mode &= 0o1777;
        }
        let answer = s.setattr(2, valid, &attr);
        let mut got = state(&tree, "x");
        for (time, wanted) in [
            (&mut got.atime, wanted.atime),
            (&mut got.mtime, wanted.mtime),
        ] {
            if wanted == NOW && time.0 > 1_000_000_000 {
                *time = NOW;
            }
        }
        assert_eq!(got, wanted, "{kind:?}, bits {valid:#x}: {answer:?}");
        match errno {
            None => drop(answer.unwrap_or_else(|fault| panic!("bits {valid:#x}: {fault}"))),
            Some(errno) => refused(answer, errno),
        }
    }
}

#[test]
fn setattr_every_combination_on_a_file() {
    try_every_combination(None, Kind::File, (1234, 5678));
}

#[test]
fn setattr_every_combination_on_a_directory() {
    try_every_combination(None, Kind::Dir, (1234, 5678));
}

#[test]
fn setattr_every_combination_on_a_symlink() {
    try_every_combination(None, Kind::Link, (1234, 5678));
}

/// With the only ids that are mapped. Without `CAP_FSETID` on the host ftruncate(2) clears set-id bits.
#[test]
fn fallback_setattr_every_combination_on_each_kind() {
    for kind in [Kind::File, Kind::Dir, Kind::Link] {
        try_every_combination(Some(Namespace::User), kind, (0, 0));
    }
}

// ---- order of checks and of steps ----

#[test]
fn setattr_of_an_unknown_fid_is_ebadf() {
    let tree = Tree::new();
    for mut s in [serve(&tree), serve_read_only(&tree)] {
        for valid in [0, MODE, CTIME, u32::MAX] {
            refused(s.setattr(99, valid, &none()), Errno::EBADF);
        }
    }
}

#[test]
fn setattr_on_a_read_only_attach_point_is_erofs_even_for_nothing() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("f", b"text");
    tree.link("l", "f");
    let mut s = serve_read_only(&tree);
    for name in ["", "d", "f", "l"] {
        let before = state(&tree, name);
        s.walk_to(ROOT, 2, name).unwrap();
        for valid in [0, 0x200, MODE, SIZE, BOTH_TIMES, UID | GID, CTIME, u32::MAX] {
            refused(s.setattr(2, valid, &none()), Errno::EROFS);
        }
        assert_eq!(state(&tree, name), before, "{name}");
    }
}

/// The last failure is the answer, a later success does not hide it, and all other steps are done.
#[test]
fn setattr_tries_every_step_and_tells_the_last_failure() {
    let tree = Tree::new();
    tree.link("l", "target");
    tree.dir("d");
    copy_binary(&tree.path("program"));
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).binary(&tree.path("program")));
    for (fid, name) in [(2, "l"), (3, "d"), (4, "program")] {
        s.walk_to(ROOT, fid, name).unwrap();
    }
    let bad_times = SetAttr {
        mode: 0o700,
        uid: 7,
        gid: 8,
        atime_ns: 2_000_000_000,
        ..none()
    };
    let all = MODE | UID | GID | SIZE | BOTH_TIMES;
    // Mode and length fail, then the times.
    refused(s.setattr(2, all, &bad_times), Errno::EINVAL);
    assert_eq!((tree.stat("l").uid(), tree.stat("l").gid()), (7, 8));
    // Without the times, a step that fails and one that succeeds.
    refused(s.setattr(2, MODE | UID, &owner(9, 0)), Errno::EBADF);
    assert_eq!(tree.stat("l").uid(), 9);
    refused(s.setattr(3, MODE | SIZE | UID, &bad_times), Errno::EINVAL);
    assert_eq!(
        (tree.stat("d").mode(), tree.stat("d").uid()),
        (0o040_700, 7)
    );
    // The program runs: its length cannot be set, all else can.
    let attr = SetAttr {
        mode: 0o4711,
        ..times(1, 2)
    };
    let valid = MODE | SIZE | BOTH_TIMES;
    refused(s.setattr(4, valid, &attr), Errno::ETXTBSY);
    let stat = tree.stat("program");
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o4711, 2));
    assert!(stat.len() > 0);
    refused(
        s.setattr(4, SIZE | BOTH_TIMES, &bad_times), // the later one
        Errno::EINVAL,
    );
}

#[test]
fn setattr_mode_and_times_of_a_running_program_are_served_and_size_is_etxtbsy() {
    let tree = Tree::new();
    copy_binary(&tree.path("program"));
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    for namespace in [None, Some(Namespace::User)] {
        let mut launch = Launch::new(&tree.bundle(), 1).binary(&tree.path("program"));
        if let Some(namespace) = namespace {
            launch = launch.namespace(namespace);
        }
        let mut s = session_of(launch);
        s.walk_to(ROOT, 2, "program").unwrap();
        s.setattr(2, MODE, &mode(0o711)).unwrap();
        s.setattr(2, BOTH_TIMES, &times(5, 6)).unwrap();
        s.setattr(2, UID | GID, &owner(0, 0)).unwrap();
        refused(s.setattr(2, SIZE, &size(0)), Errno::ETXTBSY);
        let stat = tree.stat("program");
        assert_eq!((stat.mode() & 0o777, stat.mtime()), (0o711, 6));
        chmod(&tree.path("program"), 0o755);
    }
}

// ---- mode and owner ----

/// Only the length takes a descriptor for writing, and nobody's permission is asked.
#[test]
fn setattr_of_a_file_without_permission_bits_is_served() {
    let tree = Tree::new();
    tree.file("f", b"text");
    chown(tree.path("f"), Some(1234), Some(1234)).unwrap();
    chmod(&tree.path("f"), 0);
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    s.setattr(2, BOTH_TIMES, &times(1, 2)).unwrap();
    s.setattr(2, SIZE, &size(2)).unwrap();
    s.setattr(2, MODE, &mode(0o4755)).unwrap();
    assert_eq!(tree.stat("f").mode() & 0o7777, 0o4755);
    assert_eq!(tree.read("f"), b"te");
}

#[test]
fn fallback_setattr_of_a_file_without_permission_bits_is_served() {
    let tree = Tree::new();
    tree.file("f", b"text");
    tree.dir("d");
    chmod(&tree.path("f"), 0);
    chmod(&tree.path("d"), 0);
    let mut s = start(&tree, Some(Namespace::User));
    for (fid, name) in [(2, "f"), (3, "d")] {
        s.walk_to(ROOT, fid, name).unwrap();
        s.setattr(fid, BOTH_TIMES, &times(1, 2)).unwrap();
        s.setattr(fid, MODE, &mode(0o1750)).unwrap();
        assert_eq!(tree.stat(name).mode() & 0o7777, 0o1750);
    }
    chmod(&tree.path("f"), 0);
    s.setattr(2, SIZE, &size(2)).unwrap();
    assert_eq!(tree.stat("f").len(), 2);
}

#[test]
fn setattr_of_the_root_and_of_a_clone_are_those_of_the_directory() {
    both_ways(|tree, s| {
        tree.dir("d");
        s.setattr(ROOT, MODE, &mode(0o1777)).unwrap();
        assert_eq!(tree.stat("").mode(), 0o041_777);
        s.walk_to(ROOT, 2, "d").unwrap();
        s.walk_to(2, 3, "").unwrap();
        s.setattr(
            3,
            MODE | MTIME | MTIME_GIVEN,
            &SetAttr {
                mode: 0o2755,
                ..times(0, 77)
            },
        )
        .unwrap();
        let stat = tree.stat("d");
        assert_eq!((stat.mode(), stat.mtime()), (0o042_755, 77));
        refused(s.setattr(3, SIZE, &size(0)), Errno::EINVAL);
    });
}

#[test]
fn setattr_owner_nouid_and_nogid_leave_it() {
    let tree = Tree::new();
    tree.file("f", b"");
    chown(tree.path("f"), Some(1), Some(2)).unwrap();
    chmod(&tree.path("f"), 0o4755);
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    let ids = || (tree.stat("f").uid(), tree.stat("f").gid());
    s.setattr(2, UID | GID, &owner(NOID, NOID)).unwrap();
    assert_eq!((ids(), tree.stat("f").mode()), ((1, 2), 0o104_755));
    s.setattr(2, UID | GID, &owner(NOID, 5)).unwrap();
    assert_eq!(ids(), (1, 5));
    s.setattr(2, UID | GID, &owner(6, NOID)).unwrap();
    assert_eq!(ids(), (6, 5));
}

#[test]
fn fallback_setattr_owner_that_is_not_mapped_is_einval() {
    let tree = Tree::new();
    tree.file("f", b"text");
    let mut s = start(&tree, Some(Namespace::User));
    s.walk_to(ROOT, 2, "f").unwrap();
    let attr = SetAttr {
        mode: 0o600,
        size: 1,
        uid: 1234,
        ..none()
    };
    refused(s.setattr(2, MODE | SIZE | UID, &attr), Errno::EINVAL);
    let stat = tree.stat("f");
    assert_eq!((stat.mode(), stat.len(), stat.uid()), (0o100_600, 1, 0));
}

// ---- size ----

#[test]
fn setattr_size_cuts_and_extends_with_zeros() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        s.walk_to(ROOT, 2, "f").unwrap();
        for (length, wanted) in [
            (2, b"te".as_slice()),
            (5, b"te\0\0\0"),
            (5, b"te\0\0\0"),
            (0, b""),
        ] {
            s.setattr(2, SIZE, &size(length)).unwrap();
            assert_eq!(tree.read("f"), wanted);
        }
        s.setattr(2, SIZE, &size(1 << 40)).unwrap();
        assert_eq!(s.getattr(2, VALID).unwrap().attr.size, 1 << 40);
    });
}

#[test]
fn setattr_size_of_2_to_the_63_and_more_is_einval() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        s.walk_to(ROOT, 2, "f").unwrap();
        s.open(ROOT, 3, "f", O_RDWR).unwrap();
        for fid in [2, 3] {
            for length in [1 << 63, u64::MAX] {
                refused(s.setattr(fid, SIZE, &size(length)), Errno::EINVAL);
            }
        }
        assert_eq!(tree.read("f"), b"text");
    });
}

#[test]
fn setattr_of_opened_fids_is_served_whatever_the_access() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        for flags in [O_RDONLY, O_WRONLY, O_RDWR, 3] {
            tree.file("f", b"text");
            s.open(ROOT, 2, "f", flags).unwrap();
            s.setattr(2, SIZE, &size(2)).unwrap();
            assert_eq!(tree.read("f"), b"te", "flags {flags}");
            s.setattr(2, MODE, &mode(0o600 + flags)).unwrap();
            assert_eq!(tree.stat("f").mode() & 0o777, 0o600 + flags);
            s.setattr(2, BOTH_TIMES, &times(1, 2)).unwrap();
            assert_eq!(tree.stat("f").mtime(), 2);
        }
        tree.dir("d");
        s.open(ROOT, 3, "d", O_RDONLY).unwrap();
        s.setattr(3, MODE, &mode(0o700)).unwrap();
        refused(s.setattr(3, SIZE, &size(0)), Errno::EINVAL);
        assert_eq!(tree.stat("d").mode(), 0o040_700);
    });
}

#[test]
fn setattr_of_a_file_just_created_is_served() {
    both_ways(|tree, s| {
        for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
            let name = format!("f{flags}");
            s.walk_to(ROOT, 2, "").unwrap();
            s.lcreate(2, name.as_bytes(), flags, 0o600, NOID).unwrap();
            s.setattr(2, MODE, &mode(0o640)).unwrap();
            s.setattr(2, BOTH_TIMES, &times(1, 2)).unwrap();
            s.setattr(2, UID | GID, &owner(0, 0)).unwrap();
            let stat = tree.stat(&name);
            assert_eq!((stat.mode() & 0o777, stat.mtime()), (0o640, 2), "{name}");
        }
    });
}

/// Its descriptor does not write, and nobody has walked to it.
#[test]
fn setattr_size_of_a_file_just_created_is_served_whatever_the_access() {
    both_ways(|tree, s| {
        for flags in [O_WRONLY, O_RDWR, O_RDONLY] {
            let name = format!("f{flags}");
            s.walk_to(ROOT, 2, "").unwrap();
            s.lcreate(2, name.as_bytes(), flags, 0o600, NOID).unwrap();
            s.setattr(2, SIZE, &size(3)).unwrap();
            assert_eq!(tree.read(&name), b"\0\0\0", "{name}");
        }
    });
}

// ---- times ----

fn now() -> i64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(time.as_secs()).unwrap()
}

#[test]
fn setattr_times_are_now_given_or_left() {
    both_ways(|tree, s| {
        tree.file("f", b"");
        tree.dir("d");
        tree.link("l", "f");
        for name in ["f", "d", "l"] {
            s.walk_to(ROOT, 2, name).unwrap();
            let both = || {
                let stat = tree.stat(name);
                (
                    (stat.atime(), stat.atime_nsec()),
                    (stat.mtime(), stat.mtime_nsec()),
                )
            };
            set_times(&tree.path(name), (1000, 100), (2000, 200));
            s.setattr(2, ATIME | ATIME_GIVEN, &times(3000, 3000))
                .unwrap();
            assert_eq!(both(), ((3000, 1), (2000, 200)), "{name}");
            s.setattr(2, MTIME | MTIME_GIVEN, &times(4000, 4000))
                .unwrap();
            assert_eq!(both(), ((3000, 1), (4000, 2)), "{name}");
            let before = now();
            s.setattr(2, ATIME, &times(5000, 5000)).unwrap();
            let (atime, mtime) = both();
            assert!((before - 1..=now()).contains(&atime.0), "{name}: {atime:?}");
            assert_eq!(mtime, (4000, 2), "{name}");
            s.setattr(2, MTIME | ATIME | ATIME_GIVEN, &times(6000, 6000))
                .unwrap();
            let (atime, mtime) = both();
            assert!((before - 1..=now()).contains(&mtime.0), "{name}: {mtime:?}");
            assert_eq!(atime, (6000, 1), "{name}");
            s.setattr(2, ATIME_GIVEN | MTIME_GIVEN, &times(1, 1))
                .unwrap();
            assert_eq!(both(), (atime, mtime), "{name}");
        }
    });
}

/// As the wire has them: unsigned, and the host's are signed.
#[test]
fn setattr_times_far_away_come_back_as_they_were_set() {
    both_ways(|tree, s| {
        tree.file("f", b"");
        s.walk_to(ROOT, 2, "f").unwrap();
        for seconds in [0, 1, u64::from(u32::MAX), 1 << 33, (-1i64).cast_unsigned()] {
            let attr = SetAttr {
                atime_ns: 999_999_999,
                ..times(seconds, seconds)
            };
            s.setattr(2, BOTH_TIMES, &attr).unwrap();
            let got = s.getattr(2, VALID).unwrap().attr;
            assert_eq!((got.atime, got.mtime), (seconds, seconds));
            assert_eq!((got.atime_ns, got.mtime_ns), (999_999_999, 2));
        }
        for nanoseconds in [1_000_000_000, u64::MAX] {
            let attr = SetAttr {
                mtime_ns: nanoseconds,
                ..times(5, 5)
            };
            refused(s.setattr(2, BOTH_TIMES, &attr), Errno::EINVAL);
        }
        assert_ne!(tree.stat("f").atime(), 5);
    });
}

// ---- symlinks ----

/// By the descriptor: the link itself, whatever its name leads to by now.
#[test]
fn setattr_of_a_symlink_changes_the_link_and_not_its_target() {
    let tree = Tree::new();
    fs::write(tree.outside("target"), b"text").unwrap();
    tree.link("l", tree.outside("target"));
    tree.dir("d");
    tree.link("d/l", tree.outside("target"));
    let host = || {
        let stat = fs::metadata(tree.outside("target")).unwrap();
        (stat.mtime(), stat.uid(), stat.mode(), stat.len())
    };
    let before = host();
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "l").unwrap();
    s.walk_to(ROOT, 3, "d/l").unwrap();
    fs::rename(tree.path("d"), tree.path("moved")).unwrap();
    tree.link("d", tree.outside(""));
    for (fid, name) in [(2, "l"), (3, "moved/l")] {
        let attr = SetAttr {
            uid: 12,
            gid: 34,
            ..times(1, 2)
        };
        s.setattr(fid, BOTH_TIMES | UID | GID, &attr).unwrap();
        let stat = tree.stat(name);
        assert_eq!(
            (stat.atime(), stat.mtime(), stat.uid(), stat.gid()),
            (1, 2, 12, 34)
        );
        refused(s.setattr(fid, MODE, &mode(0o600)), Errno::EBADF);
        refused(s.setattr(fid, SIZE, &size(0)), Errno::EBADF);
    }
    assert_eq!(host(), before);
}

// ---- files that are gone, and others in their place ----

/// Unlinked through the connection or by the host; by the fid walked to, and by one opened before.
#[test]
fn setattr_of_a_deleted_file_is_served() {
    for by_client in [true, false] {
        let tree = Tree::new();
        tree.file("f", b"text");
        tree.dir("d");
        tree.link("l", "f");
        let mut s = serve(&tree);
        for (fid, name) in [(2, "f"), (3, "d"), (4, "l"), (5, "f")] {
            s.walk_to(ROOT, fid, name).unwrap();
        }
        s.lopen(5, O_RDONLY).unwrap();
        if by_client {
            for (name, flags) in [(b"f", 0), (b"d", AT_REMOVEDIR), (b"l", 0)] {
                s.unlinkat(ROOT, name, flags).unwrap();
            }
        } else {
            fs::remove_file(tree.path("f")).unwrap();
            fs::remove_dir(tree.path("d")).unwrap();
            fs::remove_file(tree.path("l")).unwrap();
        }
        tree.file("f", b"another");
        for fid in [2, 3, 5] {
            s.setattr(
                fid,
                MODE | BOTH_TIMES,
                &SetAttr {
                    mode: 0o611 + fid,
                    ..times(1, 2)
                },
            )
            .unwrap();
            let attr = s.getattr(fid, VALID).unwrap().attr;
            assert_eq!((attr.mode & 0o7777, attr.mtime), (0o611 + fid, 2));
        }
        for (fid, length) in [(2, 2), (5, 1)] {
            s.setattr(fid, SIZE, &size(length)).unwrap();
            assert_eq!(s.getattr(fid, VALID).unwrap().attr.size, length);
        }
        s.setattr(4, UID | BOTH_TIMES, &owner(7, 0)).unwrap();
        assert_eq!(s.getattr(4, VALID).unwrap().attr.uid, 7);
        assert_eq!(s.read_all(5).unwrap(), b"t");
        assert_eq!(tree.read("f"), b"another");
    }
}

/// Without /proc a deleted file's mode and length can be set only where it is open already.
#[test]
fn fallback_setattr_of_a_deleted_file_is_served_as_far_as_descriptors_reach() {
    for by_client in [true, false] {
        let tree = Tree::new();
        tree.file("f", b"text");
        let mut s = start(&tree, Some(Namespace::User));
        s.walk_to(ROOT, 2, "f").unwrap();
        s.open(ROOT, 3, "f", O_RDWR).unwrap();
        if by_client {
            s.unlinkat(ROOT, b"f", 0).unwrap();
        } else {
            fs::remove_file(tree.path("f")).unwrap();
        }
        for fid in [2, 3] {
            s.setattr(fid, BOTH_TIMES | UID | GID, &times(1, 2))
                .unwrap();
            assert_eq!(s.getattr(fid, VALID).unwrap().attr.mtime, 2);
        }
        refused(s.setattr(2, MODE, &mode(0o600)), Errno::ENOENT);
        refused(s.setattr(2, SIZE, &size(1)), Errno::ENOENT);
        tree.file("f", b"another");
        chmod(&tree.path("f"), 0o644);
        refused(s.setattr(2, MODE, &mode(0o600)), Errno::ESTALE);
        refused(s.setattr(2, SIZE, &size(1)), Errno::ESTALE);
        s.setattr(
            3,
            MODE | SIZE,
            &SetAttr {
                size: 1,
                ..mode(0o600)
            },
        )
        .unwrap();
        assert_eq!(s.getattr(3, VALID).unwrap().attr.size, 1);
        let other = tree.stat("f");
        assert_eq!((other.len(), other.mode()), (7, 0o100_644));
    }
}

/// A path would lead to the other file, or outside.
#[test]
fn setattr_of_a_file_replaced_by_the_host_changes_the_one_walked_to() {
    let tree = Tree::new();
    fs::write(tree.outside("secret"), b"secret").unwrap();
    tree.dir("d");
    tree.file("d/f", b"walked to");
    tree.file("g", b"walked to");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d/f").unwrap();
    s.walk_to(ROOT, 3, "g").unwrap();
    fs::rename(tree.path("d"), tree.path("kept")).unwrap();
    fs::rename(tree.path("g"), tree.path("kept/g")).unwrap();
    tree.dir("d");
    tree.file("d/f", b"another");
    tree.link("g", tree.outside("secret"));
    for (fid, place) in [(2, "kept/f"), (3, "kept/g")] {
        let attr = SetAttr {
            mode: 0o604,
            size: 3,
            uid: 77,
            ..times(1, 2)
        };
        s.setattr(fid, MODE | SIZE | UID | BOTH_TIMES, &attr)
            .unwrap();
        let stat = tree.stat(place);
        assert_eq!(
            (stat.mode() & 0o777, stat.len(), stat.uid(), stat.mtime()),
            (0o604, 3, 77, 2)
        );
    }
    assert_eq!(tree.read("d/f"), b"another");
    assert_ne!(tree.stat("d/f").mtime(), 2);
    let secret = fs::metadata(tree.outside("secret")).unwrap();
    assert_eq!((secret.len(), secret.uid()), (6, 0));
}

// ---- Tallocate ----

#[test]
fn allocate_extends_and_keeps_what_is_there() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        for flags in [O_WRONLY, O_RDWR] {
            s.open(ROOT, 2, "f", flags).unwrap();
            s.allocate(2, 0, 0, 2).unwrap();
            assert_eq!(tree.read("f"), b"text");
        }
        s.allocate(2, 0, 4, 4).unwrap();
        assert_eq!(tree.read("f"), b"text\0\0\0\0");
        s.allocate(2, 0, 1 << 20, 4096).unwrap();
        assert_eq!(tree.stat("f").len(), (1 << 20) + 4096);
        assert!(tree.stat("f").blocks() * 512 >= 4096);
    });
}

#[test]
fn allocate_of_a_deleted_and_of_a_created_file_is_served() {
    both_ways(|tree, s| {
        tree.file("f", b"");
        s.open(ROOT, 2, "f", O_RDWR).unwrap();
        s.unlinkat(ROOT, b"f", 0).unwrap();
        s.walk_to(ROOT, 3, "").unwrap();
        s.lcreate(3, b"new", O_WRONLY, 0o600, NOID).unwrap();
        for fid in [2, 3] {
            s.allocate(fid, 0, 0, 100).unwrap();
            assert_eq!(s.getattr(fid, VALID).unwrap().attr.size, 100);
        }
    });
}

#[test]
fn allocate_checks_fid_then_opened_then_access_then_mode() {
    let tree = Tree::new();
    tree.file("f", b"text");
    tree.dir("d");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    s.open(ROOT, 3, "f", O_RDONLY).unwrap();
    s.open(ROOT, 4, "d", O_RDONLY).unwrap();
    s.open(ROOT, 5, "f", O_RDWR).unwrap();
    for mode in [0, 1] {
        refused(s.allocate(99, mode, 0, 0), Errno::EBADF);
        refused(s.allocate(ROOT, mode, 0, 0), Errno::EINVAL);
        refused(s.allocate(2, mode, 0, 0), Errno::EINVAL);
        refused(s.allocate(3, mode, 0, 0), Errno::EBADF);
        refused(s.allocate(4, mode, 0, 0), Errno::EBADF);
    }
    refused(s.allocate(5, 1, 0, 0), Errno::EOPNOTSUPP);
    assert_eq!(tree.read("f"), b"text");
}

#[test]
fn allocate_of_nothing_or_of_an_impossible_range_is_the_hosts_error() {
    let tree = Tree::new();
    tree.file("f", b"text");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "f", O_RDWR).unwrap();
    refused(s.allocate(2, 0, 0, 0), Errno::EINVAL);
    refused(s.allocate(2, 0, 1 << 63, 1), Errno::EINVAL);
    refused(s.allocate(2, 0, 0, u64::MAX), Errno::EINVAL);
    refused(s.allocate(2, 0, i64::MAX as u64, 1), Errno::EFBIG);
    assert_eq!(tree.read("f"), b"text");
}

/// The original is killed by its own filter.
#[test]
fn allocate_with_a_mode_is_eopnotsupp_and_the_program_lives() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        s.open(ROOT, 2, "f", O_RDWR).unwrap();
        for bit in 0..32 {
            refused(s.allocate(2, 1 << bit, 0, 2), Errno::EOPNOTSUPP);
        }
        refused(s.allocate(2, 3, 0, 2), Errno::EOPNOTSUPP);
        assert_eq!(tree.read("f"), b"text");
    });
}

// ---- what is refused ----

#[test]
fn auth_is_enosys_whatever_it_says() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    for fid in [ROOT, 99, NOFID] {
        refused(s.auth(fid, b"", b"/", NOID), Errno::ENOSYS);
        refused(s.auth(fid, b"user", b"//", 0), Errno::ENOSYS);
    }
    refused(s.getattr(99, 0), Errno::EBADF); // no fid was made
}

/// Without `--host-uds` sockets cannot be walked to, so nothing is one.
#[test]
fn lconnect_is_ebadf_then_einval_and_gives_no_descriptor() {
    let tree = Tree::new();
    tree.file("f", b"");
    tree.link("l", "f");
    let mut s = serve(&tree);
    for (fid, name) in [(2, "f"), (3, "l")] {
        s.walk_to(ROOT, fid, name).unwrap();
    }
    for kind in [0, 1, 2, 3, u32::MAX] {
        refused(s.lconnect(99, kind), Errno::EBADF);
        for fid in [ROOT, 2, 3] {
            refused(s.lconnect(fid, kind), Errno::EINVAL);
        }
    }
}

/// All requests.
const REQUESTS: [u8; 42] = [
    8, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 50, 70, 72, 74, 76, 100, 102,
    104, 108, 110, 116, 118, 120, 122, 124, 126, 128, 130, 132, 134, 136, 138, 140, 142, 144, 250,
];

/// A reply of each type, as short as it can be: the number and its body's length.
const REPLIES: [(u8, usize); 43] = [
    (7, 4),
    (9, 60),
    (13, 17),
    (15, 17),
    (17, 13),
    (19, 13),
    (21, 0),
    (23, 2),
    (25, 153),
    (27, 0),
    (29, 2),
    (31, 8),
    (33, 0),
    (35, 2),
    (37, 0),
    (39, 0),
    (41, 4),
    (51, 0),
    (71, 0),
    (73, 13),
    (75, 0),
    (77, 0),
    (101, 6),
    (103, 13),
    (105, 13),
    (109, 0),
    (111, 2),
    (117, 4),
    (119, 4),
    (121, 0),
    (123, 0),
    (125, 0),
    (127, 142),
    (129, 17),
    (131, 13),
    (133, 13),
    (135, 13),
    (137, 0),
    (139, 0),
    (141, 0),
    (143, 2),
    (145, 153),
    (251, 16),
];

#[test]
fn every_reply_type_sent_as_a_request_is_enosys() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    for (kind, length) in REPLIES {
        let errno = s.raw(kind, &vec![0; length]).unwrap().errno();
        assert_eq!(errno, Errno::ENOSYS, "type {kind}");
    }
    s.getattr(ROOT, 0).unwrap();
}

/// Among them 255.
#[test]
fn every_other_type_is_eio_and_the_connection_goes_on() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let mut unknown = 0;
    for kind in 0..=255 {
        if REQUESTS.contains(&kind) || REPLIES.iter().any(|(reply, _)| *reply == kind) {
            continue;
        }
        unknown += 1;
        for length in [0, 4, 1000] {
            let errno = s.raw(kind, &vec![0; length]).unwrap().errno();
            assert_eq!(errno, Errno::EIO, "type {kind}, {length} bytes");
        }
    }
    assert_eq!(unknown, 256 - REQUESTS.len() - REPLIES.len());
    s.getattr(ROOT, 0).unwrap();
}

type Request = (
    &'static str,
    fn(&mut crate::p9::Client) -> Answer<()>,
    Errno,
);

/// No session is needed, so each says what it says of fids that do not exist.
#[test]
fn requests_before_tversion_are_handled() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let mut c = gofer.client(0);
    let requests: [Request; 20] = [
        ("auth", |c| c.auth(1, b"", b"", 0).map(drop), Errno::ENOSYS),
        ("clunk", |c| c.clunk(1).map(drop), Errno::EBADF),
        ("remove", |c| c.remove(1).map(drop), Errno::EBADF),
        ("walk", |c| c.walk(1, 2, &[]).map(drop), Errno::EBADF),
        ("lopen", |c| c.lopen(1, 0).map(drop), Errno::EBADF),
        ("read", |c| c.read(1, 0, 1).map(drop), Errno::EBADF),
        (
            "write",
            |c| c.write(1, 0, Data(b"x")).map(drop),
            Errno::EBADF,
        ),
        ("getattr", |c| c.getattr(1, 0).map(drop), Errno::EBADF),
        (
            "setattr",
            |c| c.setattr(1, 0, &none()).map(drop),
            Errno::EBADF,
        ),
        ("mkdir", |c| c.mkdir(1, b"d", 0, 0).map(drop), Errno::EBADF),
        (
            "symlink",
            |c| c.symlink(1, b"l", b"t", 0).map(drop),
            Errno::EBADF,
        ),
        (
            "mknod",
            |c| c.mknod(1, b"n", 0, 0, 0, 0).map(drop),
            Errno::EBADF,
        ),
        ("link", |c| c.link(1, 1, b"l").map(drop), Errno::EBADF),
        ("rename", |c| c.rename(1, 1, b"r").map(drop), Errno::EBADF),
        (
            "renameat",
            |c| c.renameat(1, b"a", 1, b"b").map(drop),
            Errno::EBADF,
        ),
        (
            "unlinkat",
            |c| c.unlinkat(1, b"u", 0).map(drop),
            Errno::EBADF,
        ),
        ("readdir", |c| c.readdir(1, 0, 9).map(drop), Errno::EBADF),
        (
            "allocate",
            |c| c.allocate(1, 0, 0, 1).map(drop),
            Errno::EBADF,
        ),
        ("lconnect", |c| c.lconnect(1, 0).map(drop), Errno::EBADF),
        (
            "xattrwalk",
            |c| c.xattrwalk(1, 2, b"x").map(drop),
            Errno::EBADF,
        ),
    ];
    for (what, request, errno) in requests {
        println!("{what}");
        refused(request(&mut c), errno);
    }
    c.flush(5).unwrap();
    c.send(&t::getattr(0, 1, 0)).unwrap();
    assert_eq!(c.recv().unwrap().errno(), Errno::EBADF);
    // And then it begins.
    c.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    refused(c.mkdir(1, b"d", 0o755, NOID), Errno::EBADF);
    c.attach_root(1).unwrap();
    c.mkdir(1, b"d", 0o755, NOID).unwrap();
}

/// Nor is a version: the attach itself and all that follows.
#[test]
fn changes_without_any_tversion_are_served() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let mut c = gofer.client(0);
    c.attach_root(1).unwrap();
    c.mkdir(1, b"d", 0o755, NOID).unwrap();
    c.walk_to(1, 2, "d").unwrap();
    let changed: Answer<Empty> = c.setattr(2, MODE, &mode(0o700));
    changed.unwrap();
    assert_eq!(tree.stat("d").mode(), 0o040_700);
}

/// Also requests that the agreed version does not have yet.
#[test]
fn requests_of_a_higher_version_than_agreed_are_served() {
    let tree = Tree::new();
    tree.file("f", b"");
    let mut s: Session = serve(&tree);
    s.version(MSIZE, b"9P2000.L").unwrap();
    s.umkdir(ROOT, b"d", 0o755, NOID, 0).unwrap();
    s.open(ROOT, 2, "f", O_RDWR).unwrap();
    s.allocate(2, 0, 0, 10).unwrap();
    s.flushf(2).unwrap();
    assert_eq!(tree.stat("f").len(), 10);
}
