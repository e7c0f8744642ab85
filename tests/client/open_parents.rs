//! Messages that name a file or directory by the fid of an *open* one. Linux's client of 5.11 to 5.16 looks for open
//! fids of a directory first, and sends Tmkdir, Tunlinkat and the like with one, without a clone. No kernel of those
//! was to be had: messages alone test it.

use crate::harness::{
    Launch, Namespace, ROOT, Session, Tree, chmod, serve, session_of, spec, write_spec,
};
use crate::linux::{linux, speak};
use crate::p9::{Answer, Fault, MSIZE, NOFID, NOID, O_RDONLY, O_RDWR, O_WRONLY, SetAttr, refused};
use nix::errno::Errno;
use nix::fcntl::renameat;
use nix::libc;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

const DIRECTORY: u32 = libc::O_DIRECTORY.cast_unsigned();
const REMOVEDIR: u32 = libc::AT_REMOVEDIR.cast_unsigned();
/// The subject of a case.
const SUBJECT: u32 = 10;

/// Serves a tree to Linux: files are opened again by the clone of /proc/self/fd, or by parent and name.
fn both_ways(case: impl Fn(&Tree, &mut Session)) {
    for namespace in [None, Some(Namespace::User)] {
        let tree = Tree::new();
        write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
        let launch = Launch::new(&tree.bundle(), 1);
        let mut s = session_of(match namespace {
            None => launch,
            Some(namespace) => launch.namespace(namespace),
        });
        speak(&mut s);
        case(&tree, &mut s);
    }
}

/// A fid on a path: walked to, or open too.
fn fid_on(s: &mut Session, fid: u32, path: &str, open: Option<u32>) {
    s.walk_to(ROOT, fid, path).unwrap();
    if let Some(flags) = open {
        s.lopen(fid, flags).unwrap();
    }
}

/// A walked directory, and an open one.
const WALKED_AND_OPEN: [Option<u32>; 2] = [None, Some(DIRECTORY)];

/// The errno of an answer, as nix has it of the host's call.
fn done<T: std::fmt::Debug>(answer: Answer<T>) -> nix::Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(Fault::Errno(errno)) => Err(errno),
        Err(other) => panic!("{other}"),
    }
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    let entries = fs::read_dir(tree.path(path)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn open_directory_is_the_parent_of_each_change() {
    both_ways(|tree, s| {
        tree.dir("d/sub");
        tree.file("d/file", b"text");
        tree.file("d/other", b"");
        fid_on(s, 2, "d", Some(DIRECTORY));
        s.walk_to(ROOT, 3, "d/file").unwrap();
        s.mkdir(2, b"new", 0o755, 0).unwrap();
        s.symlink(2, b"symlink", b"x", 0).unwrap();
        s.mknod(2, b"pipe", libc::S_IFIFO | 0o644, 0, 0, 0).unwrap();
        s.link(2, 3, b"hard").unwrap();
        s.renameat(2, b"file", 2, b"moved").unwrap();
        s.unlinkat(2, b"moved", 0).unwrap();
        s.unlinkat(2, b"other", 0).unwrap();
        s.unlinkat(2, b"sub", REMOVEDIR).unwrap();
        assert_eq!(names(tree, "d"), ["hard", "new", "pipe", "symlink"]);
        assert_eq!(tree.read("d/hard"), b"text");
        // The messages with an owner make the same.
        s.umkdir(2, b"new2", 0o755, 0, 0).unwrap();
        s.usymlink(2, b"symlink2", b"x", 0, 0).unwrap();
        s.umknod(2, b"file2", libc::S_IFREG | 0o644, 0, 0, 0, 0)
            .unwrap();
        refused(s.bind(2, 0, b"socket", 0, 0, 9), Errno::EPERM);
        assert_eq!(names(tree, "d").len(), 7);
    });
}

/// As rm(1) does it on those kernels: each directory is open while it is emptied, and removed through the open one above.
#[test]
fn tree_is_listed_and_removed_through_open_directories_alone() {
    fn empty(s: &mut Session, fid: u32) {
        let (kept_fid, mut offset) = (fid + 1, 0);
        loop {
            let entries = s.readdir(fid, offset, 200).unwrap().entries.list;
            let Some(last) = entries.last() else {
                break;
            };
            offset = last.offset;
            for entry in entries {
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                let is_directory = entry.kind == libc::DT_DIR;
                if is_directory {
                    s.walk(fid, kept_fid, &[&entry.name]).unwrap();
                    s.lopen(kept_fid, DIRECTORY).unwrap();
                    empty(s, kept_fid);
                    s.clunk(kept_fid).unwrap();
                }
                let flags = if is_directory { REMOVEDIR } else { 0 };
                s.unlinkat(fid, &entry.name, flags).unwrap();
            }
        }
    }
    both_ways(|tree, s| {
        for directory in ["top/a/b/c", "top/d/e"] {
            tree.dir(directory);
            for number in 0..30 {
                tree.file(&format!("{directory}/file {number}"), b"text");
            }
        }
        fid_on(s, 2, "top", Some(DIRECTORY));
        empty(s, 2);
        assert!(names(tree, "top").is_empty());
        fid_on(s, 3, "", Some(DIRECTORY));
        s.unlinkat(3, b"top", REMOVEDIR).unwrap();
        assert!(names(tree, "").is_empty());
    });
}

/// What a file's fid may be: walked, opened in each way, or open since it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Walked,
    Opened(u32),
    Created,
}

const WAYS: [Way; 5] = [
    Way::Walked,
    Way::Opened(O_RDONLY),
    Way::Opened(O_WRONLY),
    Way::Opened(O_RDWR),
    Way::Created,
];

/// Makes `name` in the directory `from` and [`SUBJECT`] a fid on it.
fn file_by(tree: &Tree, s: &mut Session, name: &str, way: Way) {
    let path = format!("from/{name}");
    if way == Way::Created {
        s.walk_to(ROOT, SUBJECT, "from").unwrap();
        s.lcreate(SUBJECT, name.as_bytes(), O_RDWR, 0o644, 0)
            .unwrap();
    }
    tree.file(&path, b"text");
    match way {
        Way::Walked => fid_on(s, SUBJECT, &path, None),
        Way::Opened(flags) => fid_on(s, SUBJECT, &path, Some(flags)),
        Way::Created => {}
    }
}

#[test]
fn link_takes_each_mix_of_open_and_walked_fids() {
    both_ways(|tree, s| {
        tree.dir("from");
        tree.dir("to");
        for (at, way) in WAYS.into_iter().enumerate() {
            for (to, how) in WALKED_AND_OPEN.into_iter().enumerate() {
                let name = format!("{at}{to}");
                file_by(tree, s, &name, way);
                fid_on(s, 2, "to", how);
                s.link(2, SUBJECT, name.as_bytes())
                    .unwrap_or_else(|fault| panic!("{way:?} {how:?}: {fault}"));
                let file = tree.stat(&format!("to/{name}"));
                assert_eq!(file.ino(), tree.stat(&format!("from/{name}")).ino());
                refused(s.link(2, SUBJECT, name.as_bytes()), Errno::EEXIST);
            }
        }
        assert_eq!(names(tree, "to").len(), WAYS.len() * 2);
    });
}

#[test]
fn rename_takes_each_mix_of_open_and_walked_fids() {
    both_ways(|tree, s| {
        tree.dir("from");
        tree.dir("to");
        for (at, way) in WAYS.into_iter().enumerate() {
            for (to, how) in WALKED_AND_OPEN.into_iter().enumerate() {
                let (name, case) = (format!("{at}{to}"), format!("{way:?} {how:?}"));
                file_by(tree, s, &name, way);
                let number = tree.stat(&format!("from/{name}")).ino();
                fid_on(s, 2, "to", how);
                s.rename(SUBJECT, 2, name.as_bytes())
                    .unwrap_or_else(|fault| panic!("{case}: {fault}"));
                assert_eq!(tree.stat(&format!("to/{name}")).ino(), number, "{case}");
                // The fid has gone along, and the file with it.
                s.rename(SUBJECT, 2, b"again").unwrap();
                s.unlinkat(2, b"again", 0).unwrap();
                assert_eq!(s.getattr(SUBJECT, 0).unwrap().attr.nlink, 0, "{case}");
            }
        }
        for source in WALKED_AND_OPEN {
            for target in WALKED_AND_OPEN {
                tree.dir("from/directory");
                fid_on(s, SUBJECT, "from/directory", source);
                fid_on(s, 2, "to", target);
                s.rename(SUBJECT, 2, b"directory").unwrap();
                s.mkdir(SUBJECT, b"inside", 0o755, 0).unwrap();
                assert_eq!(names(tree, "to/directory"), ["inside"]);
                refused(s.rename(2, SUBJECT, b"below itself"), Errno::EINVAL);
                fs::remove_dir_all(tree.path("to/directory")).unwrap();
            }
        }
        assert!(names(tree, "from").is_empty() && names(tree, "to").is_empty());
    });
}

#[test]
fn renameat_takes_each_mix_of_open_and_walked_fids() {
    both_ways(|tree, s| {
        tree.dir("from");
        tree.dir("to");
        for (old, from) in WALKED_AND_OPEN.into_iter().enumerate() {
            for (new, to) in WALKED_AND_OPEN.into_iter().enumerate() {
                let name = format!("{old}{new}");
                let path = format!("to/{name}");
                tree.file(&format!("from/{name}"), b"new");
                tree.file(&path, b"old");
                fid_on(s, 2, "from", from);
                fid_on(s, 3, "to", to);
                s.walk_to(ROOT, 4, &path).unwrap();
                s.renameat(2, name.as_bytes(), 3, name.as_bytes()).unwrap();
                assert_eq!(tree.read(&path), b"new");
                assert_eq!(s.getattr(4, 0).unwrap().attr.nlink, 0, "what was there");
                // In one directory, by two fids, and by one.
                fid_on(s, 2, "to", from);
                s.renameat(2, name.as_bytes(), 3, b"once").unwrap();
                s.renameat(3, b"once", 2, b"twice").unwrap();
                s.renameat(2, b"twice", 2, name.as_bytes()).unwrap();
                assert_eq!(tree.read(&path), b"new");
            }
        }
        assert!(names(tree, "from").is_empty());
        assert_eq!(names(tree, "to"), ["00", "01", "10", "11"]);
    });
}

/// A directory to fail in.
fn furnish(tree: &Tree) {
    tree.dir("d/full/x");
    tree.dir("d/empty");
    tree.file("d/file", b"");
    tree.link("d/link", "file");
}

/// Each failure is that of the host's own call, through a walked and through an open directory alike.
#[test]
fn errnos_through_an_open_directory_are_those_of_the_hosts_calls() {
    let long = [b'x'; 256];
    let texts: [&[u8]; 7] = [
        b"full", b"empty", b"file", b"link", b"missing", b"free", &long,
    ];
    both_ways(|tree, s| {
        let host = Tree::new();
        for open in WALKED_AND_OPEN {
            for (name, other) in texts
                .iter()
                .flat_map(|name| texts.iter().map(move |other| (*name, *other)))
            {
                for tree in [tree, &host] {
                    drop(fs::remove_dir_all(tree.path("d")));
                    furnish(tree);
                }
                let dir = File::open(host.path("d")).unwrap();
                fid_on(s, 2, "d", open);
                let mode = Mode::from_bits_truncate(0o755);
                let case = [name, other].map(|name| name.escape_ascii().to_string());
                let same = |got, wanted, what| assert_eq!(got, wanted, "{what} {case:?} {open:?}");
                same(
                    done(s.mkdir(2, name, 0o755, 0)),
                    mkdirat(&dir, name, mode),
                    "mkdir",
                );
                same(
                    done(s.symlink(2, other, b"x", 0)),
                    symlinkat(c"x", &dir, other),
                    "symlink",
                );
                if s.walk(2, 3, &[name]).is_ok() {
                    same(
                        done(s.link(2, 3, other)),
                        linkat(&dir, name, &dir, other, LinkatFlags::empty()),
                        "link",
                    );
                }
                same(
                    done(s.renameat(2, name, 2, other)),
                    renameat(&dir, name, &dir, other),
                    "renameat",
                );
                for (flags, host_flags) in [
                    (0, UnlinkatFlags::NoRemoveDir),
                    (REMOVEDIR, UnlinkatFlags::RemoveDir),
                ] {
                    same(
                        done(s.unlinkat(2, name, flags)),
                        unlinkat(&dir, name, host_flags),
                        "unlinkat",
                    );
                }
                assert_eq!(names(tree, "d"), names(&host, "d"), "{name:?} {other:?}");
            }
        }
    });
}

#[test]
fn open_file_as_a_parent_is_enotdir_and_an_open_directory_that_is_gone_enoent() {
    both_ways(|tree, s| {
        tree.file("file", b"");
        tree.file("other", b"");
        tree.dir("removed");
        tree.dir("taken");
        s.walk_to(ROOT, 3, "other").unwrap();
        for (path, open, errno) in [
            ("file", O_RDWR, Errno::ENOTDIR),
            ("removed", DIRECTORY, Errno::ENOENT),
            ("taken", DIRECTORY, Errno::ENOENT),
        ] {
            fid_on(s, 2, path, Some(open));
            match path {
                "removed" => s.unlinkat(ROOT, b"removed", REMOVEDIR).map(drop).unwrap(),
                "taken" => fs::remove_dir(tree.path("taken")).unwrap(), // by the host
                _ => {}
            }
            refused(s.mkdir(2, b"x", 0o755, 0), errno);
            refused(s.symlink(2, b"x", b"y", 0), errno);
            refused(s.mknod(2, b"x", libc::S_IFREG | 0o644, 0, 0, 0), errno);
            refused(s.link(2, 3, b"x"), errno);
            refused(s.rename(3, 2, b"x"), errno);
            refused(s.renameat(2, b"x", ROOT, b"y"), errno);
            refused(s.renameat(ROOT, b"other", 2, b"y"), errno);
            for flags in [0, REMOVEDIR] {
                refused(s.unlinkat(2, b"x", flags), errno);
            }
        }
    });
}

#[test]
fn open_directory_of_a_read_only_attach_point_is_erofs() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/file", b"");
    let mut s = crate::harness::serve_read_only(&tree);
    speak(&mut s);
    for open in WALKED_AND_OPEN {
        fid_on(&mut s, 2, "d", open);
        s.walk_to(ROOT, 3, "d/file").unwrap();
        refused(s.mkdir(2, b"x", 0o755, 0), Errno::EROFS);
        refused(s.symlink(2, b"x", b"y", 0), Errno::EROFS);
        refused(
            s.mknod(2, b"x", libc::S_IFREG | 0o644, 0, 0, 0),
            Errno::EROFS,
        );
        refused(s.link(2, 3, b"x"), Errno::EROFS);
        refused(s.rename(3, 2, b"x"), Errno::EROFS);
        refused(s.renameat(2, b"file", 2, b"x"), Errno::EROFS);
        refused(s.unlinkat(2, b"file", 0), Errno::EROFS);
    }
}

/// What is made belongs to the user whom the fid was attached for, open or not.
#[test]
fn what_is_made_in_an_open_directory_is_its_users() {
    let tree = Tree::new();
    tree.dir("d");
    chmod(&tree.path("d"), 0o777);
    let mut s = linux(&tree);
    s.attach(20, NOFID, b"", b"", 1000).unwrap();
    s.walk_to(20, 2, "d").unwrap();
    s.lopen(2, DIRECTORY).unwrap();
    s.mkdir(2, b"dir", 0o755, 1001).unwrap();
    s.symlink(2, b"link", b"x", 1001).unwrap();
    s.mknod(2, b"file", libc::S_IFREG | 0o644, 0, 0, 1001)
        .unwrap();
    for name in ["dir", "link", "file"] {
        let made = tree.stat(&format!("d/{name}"));
        assert_eq!((made.uid(), made.gid()), (1000, 1001), "{name}");
    }
}

/// These turn the fid itself into something else, so that what it had open would be lost; Linux clones it first.
#[test]
fn messages_that_change_the_fid_itself_are_einval_on_an_open_one() {
    both_ways(|tree, s| {
        tree.dir("d");
        tree.file("file", b"text");
        fid_on(s, 2, "d", Some(DIRECTORY));
        fid_on(s, 3, "file", Some(O_RDWR));
        refused(s.lcreate(2, b"x", O_RDWR, 0o644, 0), Errno::EINVAL);
        refused(s.ucreate(2, b"x", O_RDWR, 0o644, 0, 0), Errno::EINVAL);
        for fid in [2, 3] {
            refused(s.lopen(fid, O_RDONLY), Errno::EINVAL);
            refused(s.xattrcreate(fid, b"user.a", 1, 0), Errno::EINVAL);
            refused(s.walk_to(fid, fid, ""), Errno::EBUSY);
        }
        assert!(names(tree, "d").is_empty());
        assert_eq!(s.read_all(3).unwrap(), b"text");
        s.readdir(2, 0, 4096).unwrap();
    });
}

/// A value of an extended attribute is no directory, whatever file it is of.
#[test]
fn fid_that_holds_a_value_is_no_parent() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/file", b"");
    let mut s = linux(&tree);
    fid_on(&mut s, 2, "d", Some(DIRECTORY));
    s.xattrwalk(2, 3, b"").unwrap(); // from the open one
    refused(s.mkdir(3, b"x", 0o755, 0), Errno::EINVAL);
    refused(s.unlinkat(3, b"file", 0), Errno::EINVAL);
    refused(s.renameat(3, b"file", 2, b"x"), Errno::EINVAL);
    assert_eq!(names(&tree, "d"), ["file"]);
}

/// All that needs no data of the file answers the same on a walked fid, an opened one and one since the creation.
#[test]
fn messages_that_ask_or_change_a_file_answer_the_same_on_open_fids() {
    both_ways(|tree, s| {
        tree.dir("from");
        for way in WAYS {
            file_by(tree, s, "file", way);
            let path = "from/file";
            let case = format!("{way:?}");
            let attr = s.getattr(SUBJECT, 0x3fff).unwrap();
            assert_eq!((attr.attr.size, attr.qid.path), (4, tree.stat(path).ino()));
            assert_eq!(s.statfs(SUBJECT).unwrap().namelen, 255, "{case}");
            refused(s.readlink(SUBJECT), Errno::EINVAL);
            // Without access to the file's data it is cut all the same: truncate(2) asks by any fid.
            let change = SetAttr {
                mode: 0o640,
                size: 2,
                uid: NOID,
                gid: NOID,
                ..SetAttr::default()
            };
            s.setattr(SUBJECT, 0x1 | 0x8 | 0x40, &change).unwrap();
            let now = tree.stat(path);
            assert_eq!((now.mode() & 0o7777, now.len()), (0o640, 2), "{case}");
            refused(s.xattrwalk(SUBJECT, 3, b"user.none"), Errno::ENODATA);
            s.setxattr(SUBJECT, b"user.some", b"value", 0).unwrap();
            assert_eq!(s.xattrwalk(SUBJECT, 3, b"user.some").unwrap().size, 5);
            s.clunk(3).unwrap();
            // A clone is a walked fid: it opens, and takes an attribute's value.
            assert!(s.walk_to(SUBJECT, 3, "").unwrap().is_empty(), "{case}");
            assert_eq!(s.walkgetattr(SUBJECT, 4, &[]).unwrap().attr.size, 2);
            s.lopen(3, O_RDWR).unwrap();
            assert_eq!(s.read_all(3).unwrap(), b"te", "{case}");
            s.xattrcreate(4, b"user.other", 0, 0).unwrap();
            s.clunk(4).unwrap();
            refused(s.walk_to(SUBJECT, 4, "x"), Errno::ENOTDIR);
            s.remove(SUBJECT).unwrap();
            refused(s.getattr(SUBJECT, 0), Errno::EBADF);
            assert_eq!(s.getattr(3, 0).unwrap().attr.nlink, 0, "{case}");
        }
        for open in WALKED_AND_OPEN {
            tree.dir("from/d/e");
            fid_on(s, SUBJECT, "from/d", open);
            assert_eq!(s.statfs(SUBJECT).unwrap().namelen, 255);
            assert_eq!(s.xattrwalk(SUBJECT, 3, b"").unwrap().size, 0);
            assert_eq!(s.walk_to(SUBJECT, 3, "e").unwrap().len(), 1);
            s.walk_to(SUBJECT, 3, "").unwrap();
            s.lopen(3, DIRECTORY).unwrap();
            refused(s.remove(SUBJECT), Errno::ENOTEMPTY); // the fid is gone all the same
            fid_on(s, SUBJECT, "from/d/e", open);
            s.remove(SUBJECT).unwrap();
            assert!(names(tree, "from/d").is_empty());
        }
    });
}

/// The one name that the file had: the fid that created it is all that leads to it.
#[test]
fn file_created_and_removed_is_cloned_from_its_open_fid() {
    let tree = Tree::new();
    let mut s = linux(&tree);
    let before = s.gofer.descriptor_count();
    s.walk_to(ROOT, 2, "").unwrap();
    s.lcreate(2, b"file", O_RDWR, 0o644, 0).unwrap();
    s.unlinkat(ROOT, b"file", 0).unwrap();
    tree.file("file", b"another");
    s.write(2, 0, crate::p9::Data(b"text")).unwrap();
    s.walk_to(2, 3, "").unwrap();
    s.clunk(2).unwrap();
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"text");
    s.clunk(3).unwrap();
    s.expect_descriptors(before);
}

#[test]
fn open_directories_are_einval_to_gvisor() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/file", b"");
    let mut s = serve(&tree);
    speak(&mut s);
    fid_on(&mut s, 2, "d", Some(DIRECTORY));
    s.walk_to(ROOT, 3, "d/file").unwrap();
    s.version(MSIZE, b"9P2000.L.Google.13").unwrap();
    refused(s.mkdir(2, b"x", 0o755, NOID), Errno::EINVAL);
    refused(s.umkdir(2, b"x", 0o755, NOID, NOID), Errno::EINVAL);
    refused(s.symlink(2, b"x", b"y", NOID), Errno::EINVAL);
    refused(
        s.mknod(2, b"x", libc::S_IFREG | 0o644, 0, 0, NOID),
        Errno::EINVAL,
    );
    refused(s.link(2, 3, b"x"), Errno::EINVAL);
    refused(s.renameat(2, b"file", ROOT, b"x"), Errno::EINVAL);
    refused(s.unlinkat(2, b"file", 0), Errno::EINVAL);
    refused(s.bind(2, 0, b"x", NOID, NOID, 9), Errno::EINVAL);
    refused(s.walk_to(2, 4, ""), Errno::EBUSY);
    assert_eq!(names(&tree, "d"), ["file"]);
    // As the original: a rename takes an open directory to go to.
    s.renameat(ROOT, b"d", 2, b"below itself")
        .map(drop)
        .unwrap_err();
    s.rename(3, 2, b"moved").unwrap();
    assert_eq!(names(&tree, "d"), ["moved"]);
}
