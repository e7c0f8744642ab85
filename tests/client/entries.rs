//! Names made, linked, renamed and removed: docs/protocol.md 3.12, docs/launch.md 3.
//!
//! What is the same in both ways to open a file again is tried in both: through /proc/self/fd, and,
//! in a user namespace without a mount namespace of its own, by parent and name.

use crate::harness::{
    Launch, Namespace, ROOT, Session, Tree, chmod, serve, serve_read_only, session_of, spec,
    write_spec,
};
use crate::p9::{
    Answer, Data, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, QT_DIR, QT_FILE, QT_LINK, Rqid,
    SetAttr, VALID, refused,
};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown};

pub(crate) const AT_REMOVEDIR: u32 = 0x200;
const REGULAR: u32 = 0o100_000;
const SOME_MODE: u32 = 0o750;

/// Serves a tree in one of the ways in which files are opened again.
pub(crate) fn start(tree: &Tree, way: Option<Namespace>) -> Session {
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let launch = Launch::new(&tree.bundle(), 1);
    session_of(match way {
        None => launch,
        Some(namespace) => launch.namespace(namespace),
    })
}

/// Runs a test on a new tree in each way.
pub(crate) fn both_ways(test: impl Fn(&Tree, &mut Session)) {
    for way in [None, Some(Namespace::User)] {
        println!("namespace: {way:?}"); // seen if it fails
        let tree = Tree::new();
        let mut s = start(&tree, way);
        test(&tree, &mut s);
    }
}

/// Names in a directory of the tree, sorted.
pub(crate) fn names(tree: &Tree, dir: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(tree.path(dir))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Errors that tell what must be refused first.
const UNSAFE: [&[u8]; 8] = [b"", b".", b"..", b"/", b"a/b", b"a/", b"/a", b"a\0b"];

// ---- what makes something ----

/// The messages that make something and no fid.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Maker {
    Mkdir,
    Umkdir,
    Symlink,
    Usymlink,
    Mknod,
    Umknod,
}
use Maker::{Mkdir, Mknod, Symlink, Umkdir, Umknod, Usymlink};

const MAKERS: [Maker; 6] = [Mkdir, Umkdir, Symlink, Usymlink, Mknod, Umknod];

impl Maker {
    fn make(self, s: &mut Session, dfid: u32, name: &[u8], (uid, gid): (u32, u32)) -> Answer<Rqid> {
        let (mode, node) = (SOME_MODE, REGULAR | SOME_MODE);
        match self {
            Mkdir => s.mkdir(dfid, name, mode, gid),
            Umkdir => s.umkdir(dfid, name, mode, gid, uid),
            Symlink => s.symlink(dfid, name, b"target", gid),
            Usymlink => s.usymlink(dfid, name, b"target", gid, uid),
            Mknod => s.mknod(dfid, name, node, 0, 0, gid),
            Umknod => s.umknod(dfid, name, node, 0, 0, gid, uid),
        }
    }

    /// With nobody for an owner.
    fn plain(self, s: &mut Session, dfid: u32, name: &[u8]) -> Answer<Rqid> {
        self.make(s, dfid, name, (NOID, NOID))
    }

    fn takes_uid(self) -> bool {
        matches!(self, Umkdir | Usymlink | Umknod)
    }

    /// Type byte of its qid, and mode on the host.
    fn kind(self) -> (u8, u32) {
        match self {
            Mkdir | Umkdir => (QT_DIR, 0o040_000 | SOME_MODE),
            Symlink | Usymlink => (QT_LINK, 0o120_777),
            Mknod | Umknod => (QT_FILE, REGULAR | SOME_MODE),
        }
    }
}

/// Each maker makes its kind at `d/name`, with its qid, and the name can be walked to.
#[test]
fn makers_make_their_kind_and_give_its_qid() {
    both_ways(|tree, s| {
        tree.dir("d");
        s.walk_to(ROOT, 2, "d").unwrap();
        for maker in MAKERS {
            let name = format!("{maker:?}");
            let qid = maker.plain(s, 2, name.as_bytes()).unwrap().qid;
            let stat = tree.stat(&format!("d/{name}"));
            let (kind, mode) = maker.kind();
            assert_eq!((qid.kind, qid.version), (kind, 0), "{maker:?}");
            assert_eq!(qid.path, stat.ino() & 0x00ff_ffff_ffff_ffff, "{maker:?}");
            assert_eq!(stat.mode(), mode, "{maker:?}");
            assert_eq!((stat.uid(), stat.gid()), (0, 0), "{maker:?}");
            assert_eq!(s.walk_to(2, 3, &name).unwrap(), [qid]);
        }
    });
}

/// And leave `d`'s fid as it is, with no descriptor more.
#[test]
fn makers_make_no_fid_and_hold_no_descriptor() {
    both_ways(|tree, s| {
        tree.dir("d");
        s.walk_to(ROOT, 2, "d").unwrap();
        let before = s.gofer.descriptor_count();
        for maker in MAKERS {
            maker.plain(s, 2, format!("{maker:?}").as_bytes()).unwrap();
        }
        assert_eq!(s.gofer.descriptor_count(), before);
        s.walk_to(2, 3, "Mkdir").unwrap();
    });
}

/// The umask is 0, and only 07777 counts; mkdir(2) itself drops the set-id bits.
#[test]
fn mkdir_and_mknod_use_the_mode_as_sent() {
    both_ways(|tree, s| {
        for (number, mode) in [
            0, 0o666, 0o777, 0o400, 0o1777, 0o4755, 0o2755, 0o6711, 0o7777,
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("dir{number}");
            s.mkdir(ROOT, name.as_bytes(), 0o170_000 | mode, NOID)
                .unwrap();
            assert_eq!(tree.stat(&name).mode(), 0o040_000 | mode & 0o1777);
            let name = format!("udir{number}");
            s.umkdir(ROOT, name.as_bytes(), 0xffff_f000 & !0o7777 | mode, 0, 0)
                .unwrap();
            assert_eq!(tree.stat(&name).mode(), 0o040_000 | mode & 0o1777);
            let name = format!("file{number}");
            s.mknod(ROOT, name.as_bytes(), REGULAR | mode, 0, 0, NOID)
                .unwrap();
            assert_eq!(tree.stat(&name).mode(), REGULAR | mode);
        }
    });
}

#[test]
fn makers_set_owner_and_group_as_far_as_they_are_given() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    for maker in MAKERS {
        for owner in [(1234, 5678), (NOID, 5678), (1234, NOID), (NOID, NOID)] {
            let name = format!("{maker:?}-{}-{}", owner.0, owner.1);
            maker.make(&mut s, ROOT, name.as_bytes(), owner).unwrap();
            let stat = tree.stat(&name);
            let or_root = |id: u32| if id == NOID { 0 } else { id };
            let uid = if maker.takes_uid() {
                or_root(owner.0)
            } else {
                0
            };
            assert_eq!((stat.uid(), stat.gid()), (uid, or_root(owner.1)), "{name}");
        }
    }
}

/// Without a group; a directory is set-gid, too.
#[test]
fn makers_in_a_set_gid_directory_take_its_group() {
    both_ways(|tree, s| {
        tree.dir("d");
        chown(tree.path("d"), None, Some(4321)).unwrap();
        chmod(&tree.path("d"), 0o2777);
        s.walk_to(ROOT, 2, "d").unwrap();
        for maker in MAKERS {
            let name = format!("{maker:?}");
            maker.plain(s, 2, name.as_bytes()).unwrap();
            let stat = tree.stat(&format!("d/{name}"));
            assert_eq!((stat.uid(), stat.gid()), (0, 4321), "{name}");
            let set_gid = if maker.kind().0 == QT_DIR { 0o2000 } else { 0 };
            assert_eq!(stat.mode(), maker.kind().1 | set_gid, "{name}");
        }
    });
}

/// What the host gave is compared, not what the process has: here the group is the process's own.
#[test]
fn makers_in_a_set_gid_directory_still_set_the_group_that_is_given() {
    let tree = Tree::new();
    tree.dir("d");
    chown(tree.path("d"), None, Some(4321)).unwrap();
    chmod(&tree.path("d"), 0o2777);
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    for maker in MAKERS {
        let name = format!("{maker:?}");
        maker.make(&mut s, 2, name.as_bytes(), (0, 0)).unwrap();
        assert_eq!(tree.stat(&format!("d/{name}")).gid(), 0, "{name}");
    }
    s.lcreate(2, b"file", O_RDWR, 0o640, 0).unwrap();
    assert_eq!(tree.stat("d/file").gid(), 0);
}

/// chown(2) clears set-id bits; where the owner is right already there is none.
#[test]
fn mknod_keeps_set_id_bits_unless_the_owner_changes() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let mode = REGULAR | 0o6755;
    s.umknod(ROOT, b"same", mode, 0, 0, 0, 0).unwrap();
    assert_eq!(tree.stat("same").mode(), mode);
    s.umknod(ROOT, b"none", mode, 0, 0, NOID, NOID).unwrap();
    assert_eq!(tree.stat("none").mode(), mode);
    s.umknod(ROOT, b"other", mode, 0, 0, NOID, 1234).unwrap();
    assert_eq!(tree.stat("other").mode(), REGULAR | 0o755);
}

/// In a user namespace that maps one id, chown to another is EINVAL.
#[test]
fn makers_whose_chown_fails_leave_nothing_behind() {
    for namespace in [Namespace::User, Namespace::UserAndMount] {
        expect_nothing_left(namespace);
    }
}

fn expect_nothing_left(namespace: Namespace) {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = start(&tree, Some(namespace));
    s.walk_to(ROOT, 2, "d").unwrap();
    let before = s.gofer.descriptor_count();
    for maker in MAKERS {
        for owner in [(NOID, 1234), (1234, NOID), (1234, 1234)] {
            if owner.1 == NOID && !maker.takes_uid() {
                continue; // nothing to fail
            }
            refused(maker.make(&mut s, 2, b"new", owner), Errno::EINVAL);
            assert_eq!(names(&tree, "d"), [""; 0], "{maker:?} {owner:?}");
        }
    }
    for owner in [(NOID, 1234), (1234, NOID)] {
        let made = s.ucreate(2, b"new", O_RDWR, 0o644, owner.1, owner.0);
        refused(made, Errno::EINVAL);
        refused(s.lcreate(2, b"new", O_RDWR, 0o644, 1234), Errno::EINVAL);
        assert_eq!(names(&tree, "d"), [""; 0]);
    }
    s.expect_descriptors(before);
    for maker in MAKERS {
        let name = format!("{maker:?}");
        maker.make(&mut s, 2, name.as_bytes(), (0, 0)).unwrap(); // the name is free, the fid as it was
    }
}

/// The step behind the making that fails here is looking at what was made.
#[test]
fn makers_without_a_descriptor_left_are_emfile_and_leave_nothing_behind() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("f", b"");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).nofile(100, 100));
    s.walk_to(ROOT, 2, "d").unwrap();
    let mut fid = 10;
    loop {
        s.walk_to(ROOT, fid, "f").unwrap();
        match s.lopen(fid, O_RDWR) {
            Ok(_) => fid += 1,
            full => break refused(full, Errno::EMFILE),
        }
    }
    for maker in MAKERS {
        refused(maker.plain(&mut s, 2, b"new"), Errno::EMFILE);
        assert_eq!(names(&tree, "d"), [""; 0], "{maker:?}");
    }
    refused(s.lcreate(2, b"new", O_RDWR, 0o600, NOID), Errno::EMFILE);
    assert_eq!(names(&tree, "d"), [""; 0]);
    s.clunk(10).unwrap();
    for maker in MAKERS {
        maker
            .plain(&mut s, 2, format!("{maker:?}").as_bytes())
            .unwrap();
    }
}

#[test]
fn makers_check_name_then_fid_then_directory_then_opened() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.dir("gone");
        tree.file("file", b"");
        tree.link("link", "d");
        for (fid, name) in [(2, "d"), (3, "file"), (4, "link"), (5, "gone")] {
            s.walk_to(ROOT, fid, name).unwrap();
        }
        s.lopen(2, O_RDONLY).unwrap();
        s.unlinkat(ROOT, b"gone", AT_REMOVEDIR).unwrap();
        for maker in MAKERS {
            for name in UNSAFE {
                refused(maker.plain(s, 99, name), Errno::EINVAL);
                refused(maker.plain(s, ROOT, name), Errno::EINVAL);
            }
            refused(maker.plain(s, 99, b"new"), Errno::EBADF);
            for fid in [2, 3, 4, 5] {
                refused(maker.plain(s, fid, b"new"), Errno::EINVAL);
                refused(maker.plain(s, fid, &[b'n'; 256]), Errno::EINVAL);
            }
        }
        assert_eq!(names(tree, ""), ["d", "file", "link"]);
        assert_eq!(names(tree, "d"), [""; 0]);
    });
}

#[test]
fn makers_of_an_existing_name_are_eexist_and_change_nothing() {
    both_ways(|tree, s| {
        tree.file("file", b"text");
        tree.dir("dir");
        tree.link("link", tree.outside("made"));
        for maker in MAKERS {
            for name in [b"file".as_slice(), b"dir", b"link"] {
                refused(maker.plain(s, ROOT, name), Errno::EEXIST);
                refused(maker.make(s, ROOT, name, (1234, 1234)), Errno::EEXIST);
            }
        }
        assert_eq!(names(tree, ""), ["dir", "file", "link"]);
        assert_eq!(tree.read("file"), b"text");
        assert_eq!(tree.stat("file").uid(), 0);
        assert!(!tree.outside("made").exists());
    });
}

#[test]
fn makers_take_names_of_255_bytes_and_give_enametoolong_above() {
    both_ways(|tree, s| {
        for maker in MAKERS {
            for length in [256, 4095, 65_535] {
                let name = vec![b'n'; length];
                refused(maker.plain(s, ROOT, &name), Errno::ENAMETOOLONG);
            }
            maker.plain(s, ROOT, &[b'n'; 255]).unwrap();
            let kind = maker.kind().0;
            let flags = if kind == QT_DIR { AT_REMOVEDIR } else { 0 };
            s.unlinkat(ROOT, &[b'n'; 255], flags).unwrap();
            maker.plain(s, ROOT, b"\xff\xfe\n ").unwrap();
            s.unlinkat(ROOT, b"\xff\xfe\n ", flags).unwrap();
        }
        assert_eq!(names(tree, ""), [""; 0]);
    });
}

#[test]
fn makers_in_a_directory_removed_by_the_host_are_enoent() {
    both_ways(|tree, s| {
        tree.dir("d");
        s.walk_to(ROOT, 2, "d").unwrap();
        fs::remove_dir(tree.path("d")).unwrap();
        for maker in MAKERS {
            refused(maker.plain(s, 2, b"new"), Errno::ENOENT);
        }
    });
}

/// By the descriptor, not by any path.
#[test]
fn makers_in_a_directory_moved_by_the_host_make_it_there() {
    both_ways(|tree, s| {
        tree.dir("d");
        fs::create_dir(tree.outside("secrets")).unwrap();
        s.walk_to(ROOT, 2, "d").unwrap();
        fs::rename(tree.path("d"), tree.path("e")).unwrap();
        tree.link("d", tree.outside("secrets"));
        for maker in MAKERS {
            maker.plain(s, 2, format!("{maker:?}").as_bytes()).unwrap();
        }
        assert_eq!(names(tree, "e").len(), MAKERS.len());
        assert_eq!(fs::read_dir(tree.outside("secrets")).unwrap().count(), 0);
    });
}

#[test]
fn symlink_keeps_any_target_as_it_is() {
    both_ways(|tree, s| {
        let long = "x/".repeat(2047) + "y"; // 4095 bytes, the longest the host takes
        for (name, target) in [
            ("a", b"b".as_slice()),
            ("abs", b"/etc/passwd"),
            ("up", b"../../.."),
            ("odd", b"\xff//.\n"),
            ("long", long.as_bytes()),
        ] {
            s.symlink(ROOT, name.as_bytes(), target, NOID).unwrap();
            let host = fs::read_link(tree.path(name)).unwrap();
            assert_eq!(host.as_os_str(), OsStr::from_bytes(target));
            s.walk_to(ROOT, 2, name).unwrap();
            assert_eq!(s.readlink(2).unwrap().target, target);
        }
    });
}

#[test]
fn symlink_to_an_empty_target_is_enoent_a_long_one_enametoolong_one_with_a_nul_einval() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let empty = b"".as_slice();
    refused(s.symlink(ROOT, b"l", empty, NOID), Errno::ENOENT);
    refused(s.usymlink(ROOT, b"l", empty, NOID, NOID), Errno::ENOENT);
    for length in [4096, 65_535] {
        let long = vec![b'x'; length];
        refused(s.symlink(ROOT, b"l", &long, NOID), Errno::ENAMETOOLONG);
    }
    refused(s.symlink(ROOT, b"l", b"a\0b", NOID), Errno::EINVAL);
    assert_eq!(names(&tree, ""), [""; 0]);
}

/// The numbers are not looked at.
#[test]
fn mknod_of_something_else_than_a_regular_file_is_eperm() {
    both_ways(|tree, s| {
        for kind in [0, 0o010, 0o020, 0o040, 0o060, 0o120, 0o140, 0o170] {
            let mode = kind << 9 | 0o644;
            refused(s.mknod(ROOT, b"new", mode, 1, 3, NOID), Errno::EPERM);
            let umknod = s.umknod(ROOT, b"new", mode, 1, 3, NOID, NOID);
            refused(umknod, Errno::EPERM);
        }
        assert_eq!(names(tree, ""), [""; 0]);
        s.mknod(ROOT, b"new", REGULAR | 0o644, 1, u32::MAX, NOID)
            .unwrap();
        assert_eq!((tree.stat("new").rdev(), tree.stat("new").len()), (0, 0));
    });
}

/// The type is checked behind the fid, the name's length behind the type.
#[test]
fn mknod_checks_the_type_after_the_fid() {
    let tree = Tree::new();
    tree.file("file", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "file").unwrap();
    let device = 0o020_644;
    refused(s.mknod(99, b"/", device, 1, 3, NOID), Errno::EINVAL);
    refused(s.mknod(99, b"new", device, 1, 3, NOID), Errno::EBADF);
    refused(s.mknod(2, b"new", device, 1, 3, NOID), Errno::EINVAL);
    refused(s.mknod(ROOT, b"file", device, 1, 3, NOID), Errno::EPERM);
}

#[test]
fn mknod_result_can_be_opened_and_written() {
    both_ways(|tree, s| {
        s.umknod(ROOT, b"new", REGULAR | 0o600, 0, 0, 0, 0).unwrap();
        s.open(ROOT, 2, "new", O_RDWR).unwrap();
        s.write(2, 0, Data(b"text")).unwrap();
        assert_eq!(tree.read("new"), b"text");
    });
}

// ---- Tlink ----

#[test]
fn link_gives_the_file_another_name() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.file("f", b"text");
        s.walk_to(ROOT, 2, "f").unwrap();
        s.walk_to(ROOT, 3, "d").unwrap();
        s.link(3, 2, b"g").unwrap();
        assert_eq!(tree.stat("d/g").ino(), tree.stat("f").ino());
        assert_eq!(tree.stat("f").nlink(), 2);
        let qid = s.getattr(2, VALID).unwrap().qid;
        assert_eq!(s.walk_to(3, 4, "g").unwrap(), [qid]);
        s.lopen(4, O_RDONLY).unwrap();
        assert_eq!(s.read_all(4).unwrap(), b"text");
    });
}

#[test]
fn link_of_a_symlink_is_the_symlink_itself() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        tree.link("l", "f");
        s.walk_to(ROOT, 2, "l").unwrap();
        s.link(ROOT, 2, b"m").unwrap();
        assert_eq!(tree.stat("m").ino(), tree.stat("l").ino());
        assert_eq!(tree.stat("f").nlink(), 1);
    });
}

#[test]
fn link_of_an_opened_file_and_of_one_just_created_is_served() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        s.open(ROOT, 2, "f", O_RDWR).unwrap();
        s.link(ROOT, 2, b"g").unwrap();
        s.walk_to(ROOT, 3, "").unwrap();
        s.lcreate(3, b"new", O_RDWR, 0o600, NOID).unwrap();
        s.link(ROOT, 3, b"newer").unwrap();
        assert_eq!(tree.stat("newer").ino(), tree.stat("new").ino());
        assert_eq!(names(tree, ""), ["f", "g", "new", "newer"]);
    });
}

#[test]
fn link_of_a_directory_is_eperm() {
    both_ways(|tree, s| {
        tree.dir("d");
        s.walk_to(ROOT, 2, "d").unwrap();
        refused(s.link(ROOT, 2, b"e"), Errno::EPERM);
        refused(s.link(2, ROOT, b"e"), Errno::EPERM);
        assert_eq!(names(tree, ""), ["d"]);
    });
}

#[test]
fn link_over_an_existing_name_is_eexist() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        tree.file("g", b"other");
        tree.dir("d");
        s.walk_to(ROOT, 2, "f").unwrap();
        for name in [b"f".as_slice(), b"g", b"d"] {
            refused(s.link(ROOT, 2, name), Errno::EEXIST);
        }
        assert_eq!(tree.read("g"), b"other");
        refused(s.link(ROOT, 2, &[b'n'; 256]), Errno::ENAMETOOLONG);
    });
}

/// The target may be deleted: another name of it may be left. The last link cannot come back.
#[test]
fn link_of_a_deleted_file_is_enoent_unless_another_name_is_left() {
    let tree = Tree::new();
    tree.file("f", b"text");
    fs::hard_link(tree.path("f"), tree.path("other")).unwrap();
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    s.unlinkat(ROOT, b"f", 0).unwrap();
    s.link(ROOT, 2, b"again").unwrap();
    assert_eq!(tree.read("again"), b"text");
    s.unlinkat(ROOT, b"other", 0).unwrap();
    s.unlinkat(ROOT, b"again", 0).unwrap();
    refused(s.link(ROOT, 2, b"again"), Errno::ENOENT);
    refused(s.link(ROOT, 2, b"again"), Errno::ENOENT);
    assert_eq!(names(&tree, ""), [""; 0]);
}

#[test]
fn link_of_a_file_whose_last_name_is_gone_is_enoent() {
    both_ways(|tree, s| {
        tree.file("f", b"text");
        s.walk_to(ROOT, 2, "f").unwrap();
        s.unlinkat(ROOT, b"f", 0).unwrap();
        refused(s.link(ROOT, 2, b"again"), Errno::ENOENT);
        tree.file("f", b"another");
        refused(s.link(ROOT, 2, b"again"), Errno::ENOENT);
        assert_eq!(names(tree, ""), ["f"]);
        assert_eq!(tree.stat("f").nlink(), 1);
    });
}

#[test]
fn link_of_a_file_replaced_by_the_host_links_the_one_walked_to() {
    let tree = Tree::new();
    tree.file("f", b"walked to");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    fs::rename(tree.path("f"), tree.path("kept")).unwrap();
    tree.file("f", b"another");
    s.link(ROOT, 2, b"g").unwrap();
    assert_eq!(tree.read("g"), b"walked to");
}

/// An error, and no link to the other file.
#[test]
fn fallback_link_of_a_file_replaced_by_the_host_is_refused() {
    let tree = Tree::new();
    tree.file("f", b"walked to");
    let mut s = start(&tree, Some(Namespace::User));
    s.walk_to(ROOT, 2, "f").unwrap();
    fs::rename(tree.path("f"), tree.path("kept")).unwrap();
    tree.file("f", b"another");
    let linked = s.link(ROOT, 2, b"g");
    match linked {
        Ok(_) => assert_eq!(tree.read("g"), b"walked to"), // by a kernel that links descriptors
        refusal => {
            refused(refusal, Errno::ESTALE);
            assert_eq!(names(&tree, ""), ["f", "kept"]);
        }
    }
    assert_eq!(tree.stat("f").nlink(), 1);
}

#[test]
fn link_checks_name_then_both_fids_then_directory_then_opened() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.dir("gone");
        tree.file("f", b"");
        for (fid, name) in [(2, "d"), (3, "f"), (5, "gone")] {
            s.walk_to(ROOT, fid, name).unwrap();
        }
        s.lopen(2, O_RDONLY).unwrap();
        s.unlinkat(ROOT, b"gone", AT_REMOVEDIR).unwrap();
        for name in UNSAFE {
            refused(s.link(99, 98, name), Errno::EINVAL);
            refused(s.link(ROOT, 3, name), Errno::EINVAL);
        }
        refused(s.link(99, 3, b"new"), Errno::EBADF);
        for dir in [ROOT, 2, 3, 5] {
            refused(s.link(dir, 99, b"new"), Errno::EBADF);
        }
        for dir in [2, 3, 5] {
            refused(s.link(dir, 3, b"new"), Errno::EINVAL);
            refused(s.link(dir, ROOT, b"new"), Errno::EINVAL); // before EPERM
        }
        assert_eq!(names(tree, ""), ["d", "f"]);
    });
}

// ---- Trename and Trenameat ----

/// As Trename of a fid walked to for it, or as Trenameat.
fn rename_either(
    s: &mut Session,
    by_fid: bool,
    from: (u32, &[u8]),
    to: (u32, &[u8]),
) -> Answer<crate::p9::Empty> {
    if !by_fid {
        return s.renameat(from.0, from.1, to.0, to.1);
    }
    s.walk(from.0, 50, &[from.1])?;
    s.rename(50, to.0, to.1)
}

#[test]
fn rename_moves_files_directories_and_symlinks() {
    both_ways(|tree, s| {
        for by_fid in [false, true] {
            tree.dir("d");
            tree.dir("dir/below");
            tree.file("file", b"text");
            tree.link("link", "file");
            s.walk_to(ROOT, 2, "d").unwrap();
            for name in ["dir", "file", "link"] {
                let ino = tree.stat(name).ino();
                let name = name.as_bytes();
                rename_either(s, by_fid, (ROOT, name), (ROOT, b"other")).unwrap();
                rename_either(s, by_fid, (ROOT, b"other"), (2, name)).unwrap();
                let place = format!("d/{}", String::from_utf8_lossy(name));
                assert_eq!(tree.stat(&place).ino(), ino);
            }
            assert_eq!(names(tree, ""), ["d"]);
            assert_eq!(names(tree, "d"), ["dir", "file", "link"]);
            assert_eq!(names(tree, "d/dir"), ["below"]);
            fs::remove_dir_all(tree.path("d")).unwrap();
        }
    });
}

#[test]
fn rename_replaces_a_file_by_a_file_and_an_empty_directory_by_a_directory() {
    both_ways(|tree, s| {
        for by_fid in [false, true] {
            tree.file("new", b"new");
            tree.file("old", b"old");
            rename_either(s, by_fid, (ROOT, b"new"), (ROOT, b"old")).unwrap();
            assert_eq!(tree.read("old"), b"new");
            tree.dir("d/below");
            tree.dir("e");
            rename_either(s, by_fid, (ROOT, b"d"), (ROOT, b"e")).unwrap();
            assert_eq!(names(tree, ""), ["e", "old"]);
            assert_eq!(names(tree, "e"), ["below"]);
            fs::remove_dir_all(tree.path("e")).unwrap();
        }
    });
}

#[test]
fn rename_errors_are_the_hosts() {
    both_ways(|tree, s| {
        tree.dir("d/full");
        tree.dir("e/full");
        tree.file("f", b"");
        s.walk_to(ROOT, 2, "d").unwrap();
        let long = [b'n'; 256];
        for (from, to, wanted) in [
            (b"d".as_slice(), (ROOT, b"e".as_slice()), Errno::ENOTEMPTY),
            (b"d", (ROOT, b"f"), Errno::ENOTDIR),
            (b"f", (ROOT, b"d"), Errno::EISDIR),
            (b"d", (2, b"inside"), Errno::EINVAL),
            (b"f", (ROOT, &long), Errno::ENAMETOOLONG),
        ] {
            for by_fid in [false, true] {
                refused(rename_either(s, by_fid, (ROOT, from), to), wanted);
            }
        }
        refused(s.renameat(ROOT, b"none", ROOT, b"x"), Errno::ENOENT);
        let too_long = s.renameat(ROOT, &long, ROOT, b"x");
        refused(too_long, Errno::ENAMETOOLONG);
        assert_eq!(names(tree, ""), ["d", "e", "f"]);
        // And the fid is where it was.
        s.walk_to(2, 3, "full").unwrap();
        s.rename(2, ROOT, b"moved").unwrap();
        assert_eq!(names(tree, ""), ["e", "f", "moved"]);
    });
}

#[test]
fn rename_onto_itself_is_done_without_the_host() {
    let tree = Tree::new();
    tree.file("f", b"");
    for mut s in [serve(&tree), serve_read_only(&tree)] {
        s.walk_to(ROOT, 2, "f").unwrap();
        s.rename(2, ROOT, b"f").unwrap();
        s.renameat(ROOT, b"f", ROOT, b"f").unwrap();
        s.renameat(ROOT, b"none", ROOT, b"none").unwrap();
        s.renameat(ROOT, &[b'n'; 300], ROOT, &[b'n'; 300]).unwrap();
        // By another fid on the same directory.
        s.walk_to(ROOT, 3, "").unwrap();
        s.renameat(ROOT, b"none", 3, b"none").unwrap();
        s.lopen(2, O_RDONLY).unwrap();
    }
}

#[test]
fn rename_of_opened_fids_into_opened_directories_is_served() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.dir("e");
        tree.file("f", b"text");
        s.open(ROOT, 2, "d", O_RDONLY).unwrap();
        s.open(ROOT, 3, "f", O_RDWR).unwrap();
        s.open(ROOT, 4, "e", O_RDONLY).unwrap();
        s.rename(3, 2, b"g").unwrap();
        assert_eq!(s.read_all(3).unwrap(), b"text");
        s.rename(4, 2, b"e").unwrap();
        tree.file("h", b"");
        s.renameat(ROOT, b"h", 2, b"h").unwrap();
        assert_eq!(names(tree, "d"), ["e", "g", "h"]);
    });
}

#[test]
fn rename_checks_name_then_fid_then_directory_fid_then_states() {
    both_ways(|tree, s| {
        tree.dir("gone");
        tree.dir("d");
        tree.file("f", b"");
        tree.file("lost", b"");
        for (fid, name) in [(2, "d"), (3, "f"), (4, "gone"), (5, "lost")] {
            s.walk_to(ROOT, fid, name).unwrap();
        }
        s.unlinkat(ROOT, b"gone", AT_REMOVEDIR).unwrap();
        s.unlinkat(ROOT, b"lost", 0).unwrap();
        for name in UNSAFE {
            refused(s.rename(98, 99, name), Errno::EINVAL);
            refused(s.rename(3, 2, name), Errno::EINVAL);
        }
        refused(s.rename(99, 2, b"x"), Errno::EBADF);
        for fid in [ROOT, 3, 5] {
            refused(s.rename(fid, 99, b"x"), Errno::EBADF);
        }
        refused(s.rename(ROOT, 2, b"x"), Errno::EINVAL); // the root
        refused(s.rename(5, 2, b"x"), Errno::EINVAL); // deleted
        for directory in [3, 4] {
            refused(s.rename(2, directory, b"x"), Errno::EINVAL); // none, deleted
        }
        refused(s.rename(5, ROOT, b"lost"), Errno::EINVAL); // before "is there already"
        assert_eq!(names(tree, ""), ["d", "f"]);
    });
}

#[test]
fn renameat_checks_names_then_fids_then_states() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.dir("gone");
        tree.file("f", b"");
        for (fid, name) in [(2, "d"), (3, "f"), (4, "gone")] {
            s.walk_to(ROOT, fid, name).unwrap();
        }
        s.unlinkat(ROOT, b"gone", AT_REMOVEDIR).unwrap();
        s.lopen(2, O_RDONLY).unwrap();
        for name in UNSAFE {
            refused(s.renameat(99, name, 98, b"x"), Errno::EINVAL);
            refused(s.renameat(99, b"x", 98, name), Errno::EINVAL);
        }
        for old in [ROOT, 2, 3, 4] {
            refused(s.renameat(99, b"f", old, b"x"), Errno::EBADF);
            refused(s.renameat(old, b"f", 99, b"x"), Errno::EBADF);
        }
        for bad in [3, 4] {
            refused(s.renameat(bad, b"f", ROOT, b"x"), Errno::EINVAL);
            refused(s.renameat(ROOT, b"f", bad, b"x"), Errno::EINVAL);
        }
        refused(s.renameat(2, b"f", ROOT, b"x"), Errno::EINVAL); // the old one is open
        refused(s.renameat(2, b"x", 2, b"x"), Errno::EINVAL); // before "the same place"
        assert_eq!(names(tree, ""), ["d", "f"]);
    });
}

/// rename(2) does nothing with two names of one file, and so do the fids.
#[test]
fn rename_of_a_hard_link_onto_another_of_the_same_file_does_nothing() {
    both_ways(|tree, s| {
        for by_fid in [false, true] {
            tree.file("a", b"text");
            fs::hard_link(tree.path("a"), tree.path("b")).unwrap();
            s.walk_to(ROOT, 2, "a").unwrap();
            s.walk_to(ROOT, 3, "b").unwrap();
            rename_either(s, by_fid, (ROOT, b"a"), (ROOT, b"b")).unwrap();
            assert_eq!(names(tree, ""), ["a", "b"]);
            for fid in [2, 3] {
                s.walk_to(fid, 4, "").unwrap();
                s.lopen(4, O_RDONLY).unwrap();
                assert_eq!(s.read_all(4).unwrap(), b"text");
            }
            s.remove(2).unwrap();
            assert_eq!(names(tree, ""), ["b"]);
            s.remove(3).unwrap();
            assert_eq!(names(tree, ""), [""; 0]);
        }
    });
}

/// Also where nobody has walked to the second name.
#[test]
fn rename_of_a_hard_link_onto_an_unknown_one_of_the_same_file_does_nothing() {
    both_ways(|tree, s| {
        tree.file("a", b"text");
        fs::hard_link(tree.path("a"), tree.path("b")).unwrap();
        s.walk_to(ROOT, 2, "a").unwrap();
        s.renameat(ROOT, b"a", ROOT, b"b").unwrap();
        s.remove(2).unwrap();
        assert_eq!(names(tree, ""), ["b"]);
    });
}

// ---- Tunlinkat ----

#[test]
fn unlinkat_removes_files_symlinks_and_with_its_flag_empty_directories() {
    both_ways(|tree, s| {
        tree.dir("dir");
        tree.file("kept", b"text");
        tree.file("file", b"");
        tree.link("link", "kept");
        tree.link("dir-link", "dir");
        for name in [b"file".as_slice(), b"link", b"dir-link"] {
            refused(s.unlinkat(ROOT, name, AT_REMOVEDIR), Errno::ENOTDIR);
            s.unlinkat(ROOT, name, 0).unwrap();
            refused(s.unlinkat(ROOT, name, 0), Errno::ENOENT);
        }
        refused(s.unlinkat(ROOT, b"dir", 0), Errno::EISDIR);
        s.unlinkat(ROOT, b"dir", AT_REMOVEDIR).unwrap();
        refused(s.unlinkat(ROOT, b"dir", AT_REMOVEDIR), Errno::ENOENT);
        assert_eq!(names(tree, ""), ["kept"]);
    });
}

#[test]
fn unlinkat_of_a_directory_that_is_not_empty_is_enotempty() {
    both_ways(|tree, s| {
        tree.dir("d/e");
        s.walk_to(ROOT, 2, "d").unwrap();
        refused(s.unlinkat(ROOT, b"d", AT_REMOVEDIR), Errno::ENOTEMPTY);
        s.walk_to(2, 3, "e").unwrap(); // not deleted
        refused(s.unlinkat(ROOT, &[b'n'; 256], 0), Errno::ENAMETOOLONG);
    });
}

/// Also flags that unlinkat(2) would not refuse itself.
#[test]
fn unlinkat_with_other_flags_is_einval_and_removes_nothing() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.file("f", b"");
        for bit in 0..32 {
            let flags = 1 << bit;
            if flags == AT_REMOVEDIR {
                continue;
            }
            refused(s.unlinkat(ROOT, b"f", flags), Errno::EINVAL);
            let both = flags | AT_REMOVEDIR;
            refused(s.unlinkat(ROOT, b"d", both), Errno::EINVAL);
            refused(s.unlinkat(ROOT, b"none", flags), Errno::EINVAL);
        }
        refused(s.unlinkat(ROOT, b"f", u32::MAX), Errno::EINVAL);
        assert_eq!(names(tree, ""), ["d", "f"]);
    });
}

#[test]
fn unlinkat_checks_name_then_fid_then_directory_then_opened_then_flags() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.dir("gone");
        tree.file("f", b"");
        for (fid, name) in [(2, "d"), (3, "f"), (4, "gone")] {
            s.walk_to(ROOT, fid, name).unwrap();
        }
        s.unlinkat(ROOT, b"gone", AT_REMOVEDIR).unwrap();
        s.lopen(2, O_RDONLY).unwrap();
        for name in UNSAFE {
            refused(s.unlinkat(99, name, 0), Errno::EINVAL);
            refused(s.unlinkat(ROOT, name, AT_REMOVEDIR), Errno::EINVAL);
        }
        refused(s.unlinkat(99, b"f", 1), Errno::EBADF);
        for fid in [2, 3, 4] {
            refused(s.unlinkat(fid, b"f", 0), Errno::EINVAL);
        }
        assert_eq!(names(tree, ""), ["d", "f"]);
    });
}

// ---- Tremove ----

#[test]
fn remove_removes_the_name_and_the_fid() {
    both_ways(|tree, s| {
        tree.file("f", b"");
        tree.link("l", "f");
        let before = s.gofer.descriptor_count();
        for name in ["l", "f"] {
            s.walk_to(ROOT, 2, name).unwrap();
            s.remove(2).unwrap();
            refused(s.getattr(2, 0), Errno::EBADF);
        }
        tree.file("opened", b"");
        s.open(ROOT, 2, "opened", O_RDWR).unwrap();
        s.remove(2).unwrap();
        refused(s.read(2, 0, 1), Errno::EBADF);
        s.walk_to(ROOT, 3, "").unwrap();
        s.lcreate(3, b"made", O_RDWR, 0o600, NOID).unwrap();
        s.remove(3).unwrap();
        assert_eq!(names(tree, ""), [""; 0]);
        s.expect_descriptors(before);
    });
}

#[test]
fn remove_that_fails_gives_the_fid_up_too() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.file("f", b"");
        tree.file("lost", b"");
        for (fid, name) in [(2, "d"), (3, "f"), (4, "lost")] {
            s.walk_to(ROOT, fid, name).unwrap();
        }
        refused(s.remove(99), Errno::EBADF);
        refused(s.remove(2), Errno::EISDIR);
        s.unlinkat(ROOT, b"f", 0).unwrap();
        refused(s.remove(3), Errno::EINVAL); // deleted
        fs::remove_file(tree.path("lost")).unwrap();
        refused(s.remove(4), Errno::ENOENT);
        s.walk_to(ROOT, 5, "").unwrap();
        refused(s.remove(5), Errno::EINVAL); // the root, by another fid
        s.walk_to(ROOT, 6, "d").unwrap();
        refused(s.remove(ROOT), Errno::EINVAL);
        for fid in [2, 3, 4, 5, ROOT] {
            refused(s.getattr(fid, 0), Errno::EBADF);
        }
        s.getattr(6, 0).unwrap();
        assert_eq!(names(tree, ""), ["d"]);
    });
}

// ---- read-only attach points ----

/// A tree with `d/f` and `f`, served read-only; fid 2 on `d`, 3 on `f`, 4 on the opened `d`.
fn read_only(words: &[&str]) -> (Tree, Session) {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"");
    tree.file("f", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), true, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).with(words));
    s.walk_to(ROOT, 2, "d").unwrap();
    s.walk_to(ROOT, 3, "f").unwrap();
    s.open(ROOT, 4, "d", O_RDONLY).unwrap();
    (tree, s)
}

#[track_caller]
fn expect_untouched(tree: &Tree) {
    assert_eq!(names(tree, ""), ["d", "f"]);
    assert_eq!(names(tree, "d"), ["f"]);
    assert_eq!(tree.read("f"), b"text");
}

/// Behind the checks of names, fids and states; before anything that the host would say.
#[test]
fn read_only_attach_point_refuses_changes_with_erofs_after_the_states() {
    let (tree, mut s) = read_only(&[]);
    for maker in MAKERS {
        for name in [b"new".as_slice(), b"f", &[b'n'; 256]] {
            refused(maker.plain(&mut s, 2, name), Errno::EROFS);
        }
        refused(maker.plain(&mut s, 2, b"/"), Errno::EINVAL);
        refused(maker.plain(&mut s, 99, b"new"), Errno::EBADF);
        for fid in [3, 4] {
            refused(maker.plain(&mut s, fid, b"new"), Errno::EINVAL);
        }
    }
    refused(
        s.mknod(2, b"new", 0o020_644, 1, 3, NOID), // before the type
        Errno::EROFS,
    );
    refused(s.symlink(2, b"new", b"", NOID), Errno::EROFS);
    for target in [2, 3] {
        refused(s.link(ROOT, target, b"f"), Errno::EROFS);
        refused(s.link(3, target, b"f"), Errno::EINVAL);
        refused(s.link(4, target, b"f"), Errno::EINVAL);
    }
    refused(s.link(2, 99, b"f"), Errno::EBADF);
    for name in [b"new".as_slice(), b"d", &[b'n'; 256]] {
        refused(s.rename(3, ROOT, name), Errno::EROFS);
        refused(s.renameat(ROOT, b"none", ROOT, name), Errno::EROFS);
    }
    refused(s.rename(ROOT, 2, b"x"), Errno::EINVAL);
    refused(s.rename(3, 3, b"x"), Errno::EINVAL);
    refused(s.renameat(4, b"f", ROOT, b"x"), Errno::EINVAL);
    for flags in [0, AT_REMOVEDIR, 1, u32::MAX] {
        refused(s.unlinkat(ROOT, b"f", flags), Errno::EROFS);
        refused(s.unlinkat(ROOT, b"none", flags), Errno::EROFS);
        refused(s.unlinkat(3, b"f", flags), Errno::EINVAL);
    }
    expect_untouched(&tree);
    // Tremove clunks here, too.
    s.walk_to(ROOT, 5, "").unwrap();
    refused(s.remove(5), Errno::EINVAL);
    refused(s.remove(3), Errno::EROFS);
    refused(s.remove(2), Errno::EROFS); // before EISDIR
    for fid in [2, 3, 5] {
        refused(s.getattr(fid, 0), Errno::EBADF);
    }
    expect_untouched(&tree);
}

type Change = (&'static str, fn(&mut Session) -> Answer<()>);

/// Changes of every kind on `read_only`'s fids.
const CHANGES: [Change; 15] = [
    ("lcreate", |s| {
        s.lcreate(2, b"new", O_RDONLY, 0o600, NOID).map(drop)
    }),
    ("ucreate", |s| {
        s.ucreate(2, b"new", O_RDWR, 0o600, 0, 0).map(drop)
    }),
    ("mkdir", |s| Mkdir.plain(s, 2, b"new").map(drop)),
    ("umkdir", |s| Umkdir.plain(s, 2, b"new").map(drop)),
    ("symlink", |s| Symlink.plain(s, 2, b"new").map(drop)),
    ("usymlink", |s| Usymlink.plain(s, 2, b"new").map(drop)),
    ("link", |s| s.link(2, 3, b"new").map(drop)),
    ("rename", |s| s.rename(3, 2, b"new").map(drop)),
    ("renameat", |s| s.renameat(ROOT, b"f", 2, b"new").map(drop)),
    ("unlinkat", |s| s.unlinkat(ROOT, b"f", 0).map(drop)),
    ("rmdir", |s| s.unlinkat(ROOT, b"d", AT_REMOVEDIR).map(drop)),
    ("remove", |s| {
        s.walk_to(ROOT, 9, "f")?;
        s.remove(9).map(drop)
    }),
    ("chmod", |s| {
        let attr = SetAttr {
            mode: 0o600,
            ..SetAttr::default()
        };
        s.setattr(3, 1, &attr).map(drop)
    }),
    ("setattr of nothing", |s| {
        s.setattr(3, 0, &SetAttr::default()).map(drop)
    }),
    ("setattr of the change time", |s| {
        s.setattr(3, 0x40, &SetAttr::default()).map(drop)
    }),
];

#[test]
fn read_only_attach_point_refuses_every_change_and_logs_nothing() {
    let (tree, mut s) = read_only(&[]);
    let before = s.gofer.stderr();
    for (what, change) in CHANGES {
        println!("{what}");
        refused(change(&mut s), Errno::EROFS);
    }
    expect_untouched(&tree);
    assert_eq!(s.gofer.stderr(), before);
}

/// The original panics and catches it, so that only the log tells.
#[test]
fn panic_on_write_logs_each_change_and_answers_efault() {
    let (tree, mut s) = read_only(&["--panic-on-write"]);
    let lines = |s: &Session| {
        let log = s.gofer.stderr();
        log.matches("attempt to write to RO mount").count()
    };
    for (number, (what, change)) in CHANGES.into_iter().enumerate() {
        println!("{what}");
        refused(change(&mut s), Errno::EFAULT);
        assert_eq!(lines(&s), number + 1, "{what}");
    }
    expect_untouched(&tree);
    // What is checked before it stays as it is, and unlogged; so do the ones that never panicked.
    refused(s.mkdir(3, b"new", 0o755, NOID), Errno::EINVAL);
    refused(s.rename(ROOT, 2, b"new"), Errno::EINVAL);
    s.rename(3, ROOT, b"f").unwrap();
    for flags in [O_WRONLY, O_RDWR, O_TRUNC] {
        refused(s.lopen(3, flags), Errno::EROFS);
    }
    assert_eq!(lines(&s), CHANGES.len());
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"text");
}

/// Tmknod is not among those that panic.
#[test]
fn panic_on_write_leaves_mknod_erofs() {
    let (tree, mut s) = read_only(&["--panic-on-write"]);
    let before = s.gofer.stderr();
    refused(Mknod.plain(&mut s, 2, b"new"), Errno::EROFS);
    refused(Umknod.plain(&mut s, 2, b"new"), Errno::EROFS);
    expect_untouched(&tree);
    assert_eq!(s.gofer.stderr(), before);
}

#[test]
fn panic_on_write_changes_nothing_on_an_attach_point_for_writing() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).with(&["--panic-on-write"]));
    for maker in MAKERS {
        maker
            .plain(&mut s, ROOT, format!("{maker:?}").as_bytes())
            .unwrap();
    }
    assert_eq!(names(&tree, "").len(), MAKERS.len());
}
