//! Extended attributes: the messages of gVisor (28, 34, 36, 38) and those of Linux (30, 32); docs/protocol.md 3.13.

use crate::entries::start;
use crate::harness::{
    Launch, Mount, Namespace, ROOT, Session, Tree, chmod, serve, serve_mounts, serve_read_only,
    session_of, spec, write_spec,
};
use crate::p9::{Data, MSIZE, NOID, O_RDONLY, O_RDWR, O_WRONLY, refused};
use gofer::limits::XATTRS;
use nix::errno::Errno;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const CREATE: u32 = 1;
const REPLACE: u32 = 2;

/// Names that say something to the host, and are not served.
const OTHERS: [&[u8]; 6] = [
    b"security.capability",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"trusted.a",
    b"user",
    b"USER.a",
];

/// An attribute as the host has it.
fn on_host(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 8192];
    match getxattr(path.as_os_str().as_bytes(), name, &mut value[..]) {
        Ok(len) => Some(value[..len].to_vec()),
        Err(rustix::io::Errno::NODATA) => None,
        Err(errno) => panic!("getxattr {name}: {errno}"),
    }
}

fn set_on_host(path: &Path, name: &str, value: &[u8]) {
    setxattr(
        path.as_os_str().as_bytes(),
        name,
        value,
        XattrFlags::empty(),
    )
    .unwrap();
}

/// A file `f`, fid 2, and a directory `d`, fid 3; in both ways to open again.
fn on_files_and_directories(test: impl Fn(&mut Session, u32, &Path)) {
    for namespace in [None, Some(Namespace::User)] {
        let tree = Tree::new();
        tree.file("f", b"text");
        tree.dir("d");
        let mut s = start(&tree, namespace);
        for (fid, name) in [(2, "f"), (3, "d")] {
            s.walk_to(ROOT, fid, name).unwrap();
            test(&mut s, fid, &tree.path(name));
        }
    }
}

// ---- gVisor's ----

#[test]
fn setxattr_getxattr_and_removexattr_of_user_names_are_the_hosts() {
    on_files_and_directories(|s, fid, path| {
        s.setxattr(fid, b"user.a", b"value", 0).unwrap();
        assert_eq!(on_host(path, "user.a").unwrap(), b"value");
        set_on_host(path, "user.a", b"\0other\xff");
        assert_eq!(
            s.getxattr(fid, b"user.a", 64).unwrap().value,
            b"\0other\xff"
        );
        s.setxattr(fid, b"user.empty", b"", 0).unwrap();
        assert_eq!(s.getxattr(fid, b"user.empty", 1).unwrap().value, b"");
        s.removexattr(fid, b"user.a").unwrap();
        assert_eq!(on_host(path, "user.a"), None);
        refused(s.getxattr(fid, b"user.a", 64), Errno::ENODATA);
        refused(s.removexattr(fid, b"user.a"), Errno::ENODATA);
    });
}

#[test]
fn setxattr_flags_are_the_hosts_and_others_are_einval() {
    on_files_and_directories(|s, fid, path| {
        refused(s.setxattr(fid, b"user.a", b"1", REPLACE), Errno::ENODATA);
        s.setxattr(fid, b"user.a", b"1", CREATE).unwrap();
        refused(s.setxattr(fid, b"user.a", b"2", CREATE), Errno::EEXIST);
        for flags in [4, 8, 1 << 31, u32::MAX] {
            refused(s.setxattr(fid, b"user.a", b"2", flags), Errno::EINVAL);
        }
        s.setxattr(fid, b"user.a", b"3", REPLACE).unwrap();
        assert_eq!(on_host(path, "user.a").unwrap(), b"3");
    });
}

/// Size 0 asks for all there is.
#[test]
fn getxattr_of_a_value_longer_than_size_is_erange() {
    on_files_and_directories(|s, fid, path| {
        set_on_host(path, "user.a", &[7; 3000]);
        for size in [1, 2999] {
            refused(s.getxattr(fid, b"user.a", size), Errno::ERANGE);
        }
        for size in [0, 3000, 3001, 65_535, 65_536, u64::MAX] {
            assert_eq!(s.getxattr(fid, b"user.a", size).unwrap().value, [7; 3000]);
        }
    });
}

#[test]
fn xattr_names_other_than_user_are_eopnotsupp_and_nothing_is_changed() {
    on_files_and_directories(|s, fid, path| {
        for name in OTHERS {
            refused(s.getxattr(fid, name, 64), Errno::EOPNOTSUPP);
            refused(s.setxattr(fid, name, b"value", 0), Errno::EOPNOTSUPP);
            refused(s.removexattr(fid, name), Errno::EOPNOTSUPP);
            refused(s.xattrcreate(fid, name, 5, 0), Errno::EOPNOTSUPP);
        }
        let mut list = [0; 256];
        let len = rustix::fs::listxattr(path.as_os_str().as_bytes(), &mut list[..]).unwrap();
        assert!(!list[..len].windows(5).any(|bytes| bytes == b"trust"));
    });
}

#[test]
fn xattr_names_too_long_are_erange_and_with_a_nul_einval() {
    on_files_and_directories(|s, fid, path| {
        let longest = [b"user.".as_slice(), &[b'x'; 250]].concat();
        let long = [longest.as_slice(), b"x"].concat();
        s.setxattr(fid, &longest, b"value", 0).unwrap();
        let name = std::str::from_utf8(&longest).unwrap();
        assert_eq!(on_host(path, name).unwrap(), b"value");
        refused(s.setxattr(fid, &long, b"value", 0), Errno::ERANGE);
        refused(s.getxattr(fid, &long, 64), Errno::ERANGE);
        refused(s.getxattr(fid, b"user.a\0b", 64), Errno::EINVAL);
        refused(s.xattrcreate(fid, &long, 5, 0), Errno::ERANGE);
        refused(s.xattrwalk(fid, 9, &long), Errno::ENODATA);
    });
}

/// The host's own, such as labels, are not for the client.
#[test]
fn listxattr_gives_user_names_alone() {
    let tree = Tree::new();
    tree.file("f", b"");
    tree.file("none", b"");
    for name in ["trusted.hidden", "user.a", "security.hidden", "user.bc"] {
        set_on_host(&tree.path("f"), name, b"value");
    }
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    for size in [0, 15, 16, u64::MAX] {
        let mut names = s.listxattr(2, size).unwrap().names;
        names.sort();
        assert_eq!(names, [b"user.a".as_slice(), b"user.bc"], "size {size}");
    }
    refused(s.listxattr(2, 14), Errno::ERANGE); // a NUL behind each counts
    s.walk_to(ROOT, 2, "none").unwrap();
    assert!(s.listxattr(2, 0).unwrap().names.is_empty());
}

#[test]
fn xattr_messages_are_ebadf_then_einval_when_deleted() {
    let tree = Tree::new();
    tree.file("gone", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "gone").unwrap();
    s.unlinkat(ROOT, b"gone", 0).unwrap();
    for (fid, errno) in [(99, Errno::EBADF), (2, Errno::EINVAL)] {
        refused(s.getxattr(fid, b"user.a", 64), errno);
        refused(s.setxattr(fid, b"user.a", b"value", 0), errno);
        refused(s.listxattr(fid, 64), errno);
        refused(s.removexattr(fid, b"user.a"), errno);
    }
}

#[test]
fn xattrs_of_a_symlink_are_none_and_never_its_targets() {
    let tree = Tree::new();
    tree.file("f", b"");
    tree.link("l", "f");
    set_on_host(&tree.path("f"), "user.a", b"value");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "l").unwrap();
    refused(s.getxattr(2, b"user.a", 64), Errno::EOPNOTSUPP);
    refused(s.setxattr(2, b"user.a", b"other", 0), Errno::EOPNOTSUPP);
    refused(s.removexattr(2, b"user.a"), Errno::EOPNOTSUPP);
    refused(s.xattrwalk(2, 9, b"user.a"), Errno::EOPNOTSUPP);
    assert!(s.listxattr(2, 64).unwrap().names.is_empty());
    assert_eq!(s.xattrwalk(2, 9, b"").unwrap().size, 0);
    assert_eq!(on_host(&tree.path("f"), "user.a").unwrap(), b"value");
}

/// The descriptor that a walk takes cannot be asked, and the file is opened again for it.
#[test]
fn xattrs_of_files_that_nobody_may_read_and_of_open_ones_are_served() {
    for namespace in [None, Some(Namespace::User)] {
        let tree = Tree::new();
        tree.file("f", b"");
        chmod(&tree.path("f"), 0);
        let mut s = start(&tree, namespace);
        let before = s.gofer.descriptor_count();
        s.walk_to(ROOT, 2, "f").unwrap();
        s.setxattr(2, b"user.a", b"value", 0).unwrap();
        for (fid, flags) in [(3, O_RDONLY), (4, O_WRONLY), (5, O_RDWR)] {
            s.open(ROOT, fid, "f", flags).unwrap();
            assert_eq!(s.getxattr(fid, b"user.a", 64).unwrap().value, b"value");
            s.setxattr(fid, b"user.a", b"value", 0).unwrap();
        }
        for fid in 2..6 {
            s.clunk(fid).unwrap();
        }
        s.expect_descriptors(before);
    }
}

#[test]
fn xattr_of_a_file_replaced_by_the_host_is_that_of_the_one_walked_to() {
    let tree = Tree::new();
    tree.file("f", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    fs::rename(tree.path("f"), tree.path("old")).unwrap();
    fs::write(tree.outside("secret"), b"").unwrap();
    tree.link("f", tree.outside("secret"));
    s.setxattr(2, b"user.a", b"value", 0).unwrap();
    assert_eq!(on_host(&tree.path("old"), "user.a").unwrap(), b"value");
    assert_eq!(on_host(&tree.outside("secret"), "user.a"), None);
}

#[test]
fn xattr_changes_on_a_read_only_attach_point_are_erofs() {
    let tree = Tree::new();
    tree.file("f", b"");
    set_on_host(&tree.path("f"), "user.a", b"value");
    let mut s = serve_read_only(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    for name in [b"user.a".as_slice(), b"security.capability"] {
        refused(s.setxattr(2, name, b"other", 0), Errno::EROFS);
        refused(s.removexattr(2, name), Errno::EROFS);
        refused(s.xattrcreate(2, name, 5, 0), Errno::EROFS);
    }
    assert_eq!(s.getxattr(2, b"user.a", 64).unwrap().value, b"value");
    assert_eq!(s.xattrwalk(2, 3, b"user.a").unwrap().size, 5);
}

#[test]
fn xattr_replies_that_the_msize_cannot_hold_are_emsgsize() {
    let tree = Tree::new();
    tree.file("f", b"");
    set_on_host(&tree.path("f"), "user.a", &[7; 100]);
    for name in 0..20 {
        set_on_host(&tree.path("f"), &format!("user.{name}"), b"");
    }
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    s.version(108, b"9P2000.L.Google.13").unwrap();
    for size in [0, 100, 65_536] {
        refused(s.getxattr(2, b"user.a", size), Errno::EMSGSIZE);
    }
    refused(s.getxattr(2, b"user.a", 99), Errno::ERANGE);
    refused(s.listxattr(2, 0), Errno::EMSGSIZE);
    s.version(109, b"9P2000.L.Google.13").unwrap();
    assert_eq!(s.getxattr(2, b"user.a", 0).unwrap().value, [7; 100]);
}

/// XATTR_SIZE_MAX: one byte more than a string of the wire may have. How much a file system takes is the host's.
#[test]
fn setxattr_of_the_longest_string_is_taken_or_the_hosts_errno() {
    let tree = Tree::new();
    tree.file("f", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    let value = vec![7; 65_535];
    let path = tree.path("f");
    let path = path.as_os_str().as_bytes();
    let host = setxattr(path, "user.h", &value, XattrFlags::empty());
    match host {
        Ok(()) => {
            s.setxattr(2, b"user.a", &value, 0).unwrap();
            assert_eq!(s.getxattr(2, b"user.a", 0).unwrap().value, value);
        }
        Err(errno) => refused(
            s.setxattr(2, b"user.a", &value, 0),
            Errno::from_raw(errno.raw_os_error()),
        ),
    }
}

// ---- Linux's: read ----

#[test]
fn xattrwalk_gives_a_fid_that_reads_as_the_value_in_pieces() {
    on_files_and_directories(|s, fid, path| {
        let value: Vec<u8> = (0..3000u32).map(|at| (at / 7) as u8).collect();
        set_on_host(path, "user.a", &value);
        assert_eq!(s.xattrwalk(fid, 9, b"user.a").unwrap().size, 3000);
        // Not torn by what the host does meanwhile.
        set_on_host(path, "user.a", b"other");
        let mut read = Vec::new();
        while read.len() < 3000 {
            let piece = s.read(9, read.len() as u64, 700).unwrap().data.0;
            assert!(!piece.is_empty());
            read.extend(piece);
        }
        assert_eq!(read, value);
        for offset in [3000, 3001, u64::MAX] {
            assert_eq!(s.read(9, offset, 10).unwrap().data.0, b"");
        }
        assert_eq!(s.read(9, 2999, 10).unwrap().data.0, value[2999..]);
        s.clunk(9).unwrap();
        assert_eq!(on_host(path, "user.a").unwrap(), b"other");
    });
}

#[test]
fn xattrwalk_without_a_name_reads_as_the_user_names() {
    on_files_and_directories(|s, fid, path| {
        assert_eq!(s.xattrwalk(fid, 9, b"").unwrap().size, 0);
        assert_eq!(s.read(9, 0, 10).unwrap().data.0, b"");
        set_on_host(path, "trusted.hidden", b"");
        set_on_host(path, "user.a", b"");
        set_on_host(path, "user.bc", b"");
        let size = s.xattrwalk(fid, 9, b"").unwrap().size;
        let list = s.read(9, 0, 100).unwrap().data.0;
        assert_eq!(size, list.len() as u64);
        let mut names: Vec<_> = list.split_inclusive(|&byte| byte == 0).collect();
        names.sort();
        assert_eq!(names, [b"user.a\0".as_slice(), b"user.bc\0"]);
    });
}

/// Linux asks for the first at each write, for the others when it makes an inode: "none there" is the
/// answer that lets all of it go on.
#[test]
fn xattrwalk_to_other_names_or_none_is_enodata_and_makes_no_fid() {
    let tree = Tree::new();
    tree.file("f", b"");
    set_on_host(&tree.path("f"), "trusted.a", b"value");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "f", O_RDONLY).unwrap();
    for name in OTHERS
        .into_iter()
        .chain([b"user.none".as_slice(), b"/", b"user.a\0"])
    {
        refused(s.xattrwalk(99, 9, name), Errno::EBADF);
        for fid in [ROOT, 2] {
            refused(s.xattrwalk(fid, 9, name), Errno::ENODATA);
        }
    }
    refused(s.xattrwalk(99, 9, b""), Errno::EBADF);
    refused(s.getattr(9, 0), Errno::EBADF);
}

#[test]
fn xattrwalk_of_a_deleted_file_is_served_and_newfid_may_be_in_use() {
    let tree = Tree::new();
    tree.file("f", b"");
    set_on_host(&tree.path("f"), "user.a", b"value");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "f", O_RDONLY).unwrap();
    s.unlinkat(ROOT, b"f", 0).unwrap();
    s.walk_to(ROOT, 9, "").unwrap();
    for _ in 0..2 {
        s.xattrwalk(2, 9, b"user.a").unwrap();
        assert_eq!(s.read_all(9).unwrap(), b"value");
    }
    s.xattrwalk(2, 2, b"user.a").unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"value");
}

#[test]
fn fids_that_hold_a_value_are_good_for_that_alone() {
    on_files_and_directories(|s, fid, path| {
        set_on_host(path, "user.a", b"value");
        s.xattrwalk(fid, 9, b"user.a").unwrap();
        refused(s.write(9, 0, Data(b"x")), Errno::EPERM);
        refused(s.lopen(9, O_RDONLY), Errno::EINVAL);
        refused(s.walk(9, 10, &[]), Errno::EBUSY);
        refused(s.fsync(9, 0), Errno::EINVAL);
        refused(s.xattrcreate(9, b"user.a", 1, 0), Errno::EINVAL);
        refused(s.allocate(9, 0, 0, 1), Errno::EINVAL);
        refused(s.read(9, 0, MSIZE + 1), Errno::ENOBUFS);
        s.getattr(9, 0).unwrap();
        s.clunk(9).unwrap();
        refused(s.read(9, 0, 1), Errno::EBADF);
        assert_eq!(on_host(path, "user.a").unwrap(), b"value");
    });
}

// ---- Linux's: written ----

#[test]
fn xattrcreate_sets_what_is_written_at_the_clunk() {
    on_files_and_directories(|s, fid, path| {
        let value: Vec<u8> = (0..3000u32).map(|at| (at / 7) as u8).collect();
        s.walk(fid, 9, &[]).unwrap();
        s.xattrcreate(9, b"user.a", 3000, 0).unwrap();
        for (at, piece) in (0..).step_by(700).zip(value.chunks(700)) {
            let written = s.write(9, at, Data(piece)).unwrap().count;
            assert_eq!(written as usize, piece.len());
        }
        assert_eq!(on_host(path, "user.a"), None);
        s.clunk(9).unwrap();
        assert_eq!(on_host(path, "user.a").unwrap(), value);
        refused(s.clunk(9), Errno::EBADF);
    });
}

#[test]
fn xattrcreate_takes_no_more_less_or_elsewhere_than_it_announced() {
    on_files_and_directories(|s, fid, path| {
        s.walk(fid, 9, &[]).unwrap();
        s.xattrcreate(9, b"user.a", 4, 0).unwrap();
        refused(s.write(9, 1, Data(b"x")), Errno::EINVAL);
        refused(s.write(9, u64::MAX, Data(b"x")), Errno::EINVAL);
        refused(s.write(9, 0, Data(b"12345")), Errno::ENOSPC);
        assert_eq!(s.write(9, 0, Data(b"123")).unwrap().count, 3);
        refused(s.write(9, 3, Data(b"45")), Errno::ENOSPC);
        refused(s.write(9, 0, Data(b"1")), Errno::EINVAL);
        refused(s.read(9, 0, 1), Errno::EPERM);
        refused(s.clunk(9), Errno::EINVAL); // a byte is missing
        refused(s.clunk(9), Errno::EBADF);
        assert_eq!(on_host(path, "user.a"), None);
    });
}

#[test]
fn clunk_tells_the_hosts_errno_and_frees_the_fid() {
    on_files_and_directories(|s, fid, path| {
        set_on_host(path, "user.a", b"value");
        for (name, flags, errno) in [
            (b"user.a".as_slice(), CREATE, Errno::EEXIST),
            (b"user.b", REPLACE, Errno::ENODATA),
            (b"user.a", 4, Errno::EINVAL),
        ] {
            s.walk(fid, 9, &[]).unwrap();
            s.xattrcreate(9, name, 1, flags).unwrap();
            s.write(9, 0, Data(b"x")).unwrap();
            refused(s.clunk(9), errno);
            refused(s.getattr(9, 0), Errno::EBADF);
        }
        assert_eq!(on_host(path, "user.a").unwrap(), b"value");
    });
}

/// Linux removes by writing nothing with XATTR_REPLACE.
#[test]
fn xattrcreate_of_no_bytes_removes_with_replace_and_else_sets_an_empty_value() {
    on_files_and_directories(|s, fid, path| {
        let mut create = |flags| {
            s.walk(fid, 9, &[]).unwrap();
            s.xattrcreate(9, b"user.a", 0, flags).unwrap();
            s.clunk(9)
        };
        create(0).unwrap();
        assert_eq!(on_host(path, "user.a").unwrap(), b"");
        create(REPLACE).unwrap();
        assert_eq!(on_host(path, "user.a"), None);
        refused(create(REPLACE), Errno::ENODATA);
        create(CREATE).unwrap();
        assert_eq!(on_host(path, "user.a").unwrap(), b"");
    });
}

#[test]
fn value_written_and_not_clunked_is_never_set() {
    let tree = Tree::new();
    tree.file("f", b"");
    tree.file("removed", b"");
    {
        let mut s = serve(&tree);
        for (fid, name) in [(2, "f"), (3, "f"), (4, "f"), (5, "removed")] {
            s.walk_to(ROOT, fid, name).unwrap();
            s.xattrcreate(fid, b"user.a", 5, 0).unwrap();
            s.write(fid, 0, Data(b"value")).unwrap();
        }
        s.walk_to(ROOT, 2, "f").unwrap(); // replaced
        s.setattrclunk(3, 0, &crate::p9::SetAttr::default())
            .unwrap();
        s.remove(5).unwrap();
    } // and the connection ends
    assert_eq!(on_host(&tree.path("f"), "user.a"), None);
}

#[test]
fn xattrcreate_is_ebadf_then_einval_then_e2big_and_leaves_the_fid() {
    let tree = Tree::new();
    tree.file("f", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    refused(s.xattrcreate(99, b"", 4, 0), Errno::EBADF);
    refused(s.xattrcreate(2, b"", 4, 0), Errno::EOPNOTSUPP);
    for size in [65_537, 1 << 32, u64::MAX] {
        refused(s.xattrcreate(2, b"user.a", size, 0), Errno::E2BIG);
    }
    s.lopen(2, O_RDONLY).unwrap();
    refused(s.xattrcreate(2, b"user.a", 4, 0), Errno::EINVAL);
}

/// Whether it is read or written.
#[test]
fn fids_that_hold_a_value_are_no_directories_and_not_opened() {
    let tree = Tree::new();
    tree.dir("d");
    set_on_host(&tree.path("d"), "user.a", b"value");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    s.walk_to(ROOT, 3, "d").unwrap();
    s.xattrwalk(2, 2, b"user.a").unwrap();
    s.xattrcreate(3, b"user.b", 1, 0).unwrap();
    for fid in [2, 3] {
        refused(s.walk(fid, 9, &[]), Errno::EBUSY);
        refused(s.walk(fid, fid, &[b"x"]), Errno::EBUSY);
        refused(s.lopen(fid, O_RDONLY), Errno::EINVAL);
        refused(s.xattrcreate(fid, b"user.c", 1, 0), Errno::EINVAL);
        refused(s.readdir(fid, 0, 4096), Errno::EINVAL);
        refused(s.fsync(fid, 0), Errno::EINVAL);
        refused(s.allocate(fid, 0, 0, 1), Errno::EINVAL);
        refused(s.lcreate(fid, b"x", O_RDWR, 0o600, NOID), Errno::EINVAL);
        refused(s.mkdir(fid, b"x", 0o700, NOID), Errno::EINVAL);
        refused(s.unlinkat(fid, b"x", 0), Errno::EINVAL);
    }
    s.version(MSIZE, b"9P2000.L").unwrap();
    for fid in [2, 3] {
        refused(s.walk(fid, 9, &[]), Errno::EBUSY);
        refused(s.lock(fid, 1, 0, 0, 0, 7, b"h"), Errno::EINVAL);
    }
    assert!(fs::read_dir(tree.path("d")).unwrap().next().is_none());
}

#[test]
fn values_outlive_a_version_and_a_rename() {
    on_files_and_directories(|s, fid, path| {
        set_on_host(path, "user.a", &[7; 3000]);
        s.xattrwalk(fid, 9, b"user.a").unwrap();
        s.walk(fid, 10, &[]).unwrap();
        s.xattrcreate(10, b"user.b", 5, 0).unwrap();
        s.write(10, 0, Data(b"va")).unwrap();
        s.version(100, b"9P2000.L").unwrap();
        assert_eq!(s.read(9, 0, 3000).unwrap().data.0, [7; 100 - 11]);
        s.version(MSIZE, b"9P2000.L.Google.13").unwrap();
        s.rename(fid, ROOT, b"moved").unwrap();
        s.write(10, 2, Data(b"lue")).unwrap();
        s.clunk(10).unwrap();
        let moved = path.with_file_name("moved");
        assert_eq!(on_host(&moved, "user.b").unwrap(), b"value");
        fs::rename(&moved, path).unwrap();
        assert_eq!(s.read_all(9).unwrap(), [7; 3000]);
    });
}

// ---- capacity ----

#[test]
fn values_held_are_256_then_enomem_until_one_is_given_up() {
    let tree = Tree::new();
    tree.file("f", b"");
    tree.dir("m");
    set_on_host(&tree.path("f"), "user.a", b"value");
    let (_gofer, mut clients) = serve_mounts(&tree, false, &[Mount::bind("/m", &[])]);
    let mut other = clients.pop().unwrap();
    let mut c = clients.pop().unwrap();
    c.walk_to(ROOT, 2, "f").unwrap();
    let last = 1000 + XATTRS as u32 - 1;
    for fid in 1000..last {
        c.xattrwalk(2, fid, b"user.a").unwrap();
    }
    c.walk_to(ROOT, last, "f").unwrap();
    c.xattrcreate(last, b"user.b", 1, 0).unwrap();
    refused(c.xattrwalk(2, 5, b"user.a"), Errno::ENOMEM);
    refused(c.xattrwalk(2, 5, b"user.none"), Errno::ENOMEM);
    refused(c.listxattr(2, 0), Errno::ENOMEM);
    refused(other.xattrwalk(ROOT, 5, b""), Errno::ENOMEM);
    refused(c.xattrwalk(2, 5, b"security.capability"), Errno::ENODATA); // takes none
    assert_eq!(c.getxattr(2, b"user.a", 0).unwrap().value, b"value"); // nor this
    refused(c.clunk(last), Errno::EINVAL);
    c.xattrwalk(2, 5, b"user.a").unwrap();
    refused(other.xattrwalk(ROOT, 5, b""), Errno::ENOMEM);
    // What failed or was replaced holds none, and an ended connection neither.
    c.clunk(1000).unwrap();
    for _ in 0..1000 {
        c.xattrwalk(2, 5, b"user.a").unwrap();
        refused(c.xattrwalk(2, 5, b"user.none"), Errno::ENODATA);
    }
    drop(c);
    let mut tries = 0;
    while let Err(fault) = other.xattrwalk(ROOT, 5, b"") {
        assert!(matches!(fault, crate::p9::Fault::Errno(Errno::ENOMEM)));
        tries += 1;
        assert!(
            tries < 10_000,
            "the ended connection's values are not freed"
        );
    }
    for fid in 0..XATTRS as u32 - 1 {
        let mut done = other.xattrwalk(ROOT, 1000 + fid, b"");
        while done.is_err() && tries < 10_000 {
            tries += 1;
            done = other.xattrwalk(ROOT, 1000 + fid, b"");
        }
        done.unwrap();
    }
}

#[test]
fn values_given_up_give_their_memory_back() {
    let tree = Tree::new();
    tree.file("f", b"");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1));
    let resident_kb = |s: &Session| -> u64 {
        let text = s.gofer.status("VmRSS");
        text.trim_end_matches(" kB").parse().unwrap()
    };
    let value = vec![7; 65_536];
    let before = resident_kb(&s);
    for fid in 1000..1100 {
        s.walk_to(ROOT, fid, "f").unwrap();
        s.xattrcreate(fid, b"user.a", 65_536, CREATE | REPLACE)
            .unwrap();
        s.write(fid, 0, Data(&value)).unwrap();
    }
    let held = resident_kb(&s);
    assert!(held > before + 6_000, "{before} kB, then {held} kB");
    for fid in 1000..1100 {
        s.clunk(fid).expect_err("no file system takes both flags");
    }
    let after = resident_kb(&s);
    assert!(after < before + 2_000, "{before} kB, then {after} kB");
}
