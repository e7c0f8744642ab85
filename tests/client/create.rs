//! Tlcreate and Tucreate: docs/protocol.md 3.7.

use crate::harness::{
    Launch, Namespace, ROOT, Session, Tree, chmod, serve, serve_read_only, session_of,
};
use crate::harness::{spec, status_flags, write_spec};
use crate::p9::{Data, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, QT_FILE, refused};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A tree with a directory `d`, and fid 2 on it.
fn at_d() -> (Tree, Session) {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    (tree, s)
}

#[test]
fn lcreate_turns_the_directory_fid_into_the_opened_file() {
    let (tree, mut s) = at_d();
    let open = s.lcreate(2, b"new", O_RDWR, 0o644, NOID).unwrap();
    assert_eq!(
        (open.qid.kind, open.qid.version, open.iounit),
        (QT_FILE, 0, 0)
    );
    assert_eq!(
        open.qid.path,
        tree.stat("d/new").ino() & 0x00ff_ffff_ffff_ffff
    );
    assert!(open.fd.is_some());
    s.write(2, 0, Data(b"content")).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"content");
    assert_eq!(tree.read("d/new"), b"content");
    assert_eq!(s.getattr(2, 0).unwrap().qid, open.qid);
    refused(s.walk_to(2, 3, "new"), Errno::EBUSY);
    refused(s.lopen(2, O_RDONLY), Errno::EINVAL);
    refused(s.lcreate(2, b"other", O_RDWR, 0o644, NOID), Errno::EINVAL);
}

#[test]
fn lcreate_result_can_be_walked_to() {
    let (_tree, mut s) = at_d();
    let open = s.lcreate(2, b"new", O_WRONLY, 0o600, NOID).unwrap();
    assert_eq!(s.walk_to(ROOT, 3, "d/new").unwrap()[1], open.qid);
    s.lopen(3, O_RDONLY).unwrap();
}

#[test]
fn ucreate_sets_owner_and_group() {
    let (tree, mut s) = at_d();
    let open = s.ucreate(2, b"new", O_RDWR, 0o640, 5678, 1234).unwrap();
    assert!(open.fd.is_some());
    let stat = tree.stat("d/new");
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode()),
        (1234, 5678, 0o100_640)
    );
    assert_eq!(s.getattr(2, 0).unwrap().attr.uid, 1234);
}

#[test]
fn ucreate_leaves_what_is_none() {
    let (tree, mut s) = at_d();
    s.ucreate(2, b"new", O_RDWR, 0o640, NOID, NOID).unwrap();
    assert_eq!((tree.stat("d/new").uid(), tree.stat("d/new").gid()), (0, 0));
    s.walk_to(ROOT, 3, "d").unwrap();
    s.ucreate(3, b"newer", O_RDWR, 0o640, NOID, 77).unwrap();
    assert_eq!(
        (tree.stat("d/newer").uid(), tree.stat("d/newer").gid()),
        (77, 0)
    );
}

#[test]
fn lcreate_sets_the_group_and_leaves_the_owner() {
    let (tree, mut s) = at_d();
    s.lcreate(2, b"new", O_RDWR, 0o640, 5678).unwrap();
    assert_eq!(
        (tree.stat("d/new").uid(), tree.stat("d/new").gid()),
        (0, 5678)
    );
}

#[test]
fn lcreate_without_a_group_in_a_set_gid_directory_takes_the_directorys() {
    let (tree, mut s) = at_d();
    std::os::unix::fs::chown(tree.path("d"), None, Some(4321)).unwrap();
    chmod(&tree.path("d"), 0o2755);
    s.lcreate(2, b"new", O_RDWR, 0o644, NOID).unwrap();
    assert_eq!(tree.stat("d/new").gid(), 4321);
}

/// The umask is 0 and only 07777 counts.
#[test]
fn lcreate_uses_the_mode_as_sent() {
    let (tree, mut s) = at_d();
    let modes = [
        (0, 0),
        (0o666, 0o666),
        (0o777, 0o777),
        (0o1777, 0o1777),
        (0o4755, 0o4755),
        (0o2755, 0o2755),
        (0o100_644, 0o644),
        (0o170_600, 0o600),
        (0xffff_f000 | 0o400, 0o400),
    ];
    for (number, (sent, wanted)) in modes.into_iter().enumerate() {
        let name = format!("f{number}");
        s.walk_to(ROOT, 3, "d").unwrap();
        s.lcreate(3, name.as_bytes(), O_RDWR, sent, NOID).unwrap();
        let mode = tree.stat(&format!("d/{name}")).mode();
        assert_eq!(mode, 0o100_000 | wanted, "sent {sent:o}, got {mode:o}");
    }
}

/// The server's own descriptor is wider than asked; what the fid may do is not.
#[test]
fn lcreate_write_only_is_widened_for_the_descriptor_alone() {
    let (_tree, mut s) = at_d();
    let open = s.lcreate(2, b"new", O_WRONLY, 0o600, NOID).unwrap();
    let status = status_flags(&open.fd.unwrap());
    assert_eq!(status & OFlag::O_ACCMODE, OFlag::O_RDWR);
    assert!(status.contains(OFlag::O_NONBLOCK));
    s.write(2, 0, Data(b"x")).unwrap();
    refused(s.read(2, 0, 1), Errno::EPERM);
}

#[test]
fn lcreate_read_only_cannot_write() {
    let (_tree, mut s) = at_d();
    let open = s.lcreate(2, b"new", O_RDONLY, 0o600, NOID).unwrap();
    assert_eq!(
        status_flags(&open.fd.unwrap()) & OFlag::O_ACCMODE,
        OFlag::O_RDONLY
    );
    refused(s.write(2, 0, Data(b"x")), Errno::EPERM);
    assert_eq!(s.read_all(2).unwrap(), b"");
}

/// As Linux sends them: `O_CREAT`, `O_EXCL`, `O_LARGEFILE` and more.
#[test]
fn lcreate_ignores_other_flags() {
    let (tree, mut s) = at_d();
    let flags =
        O_RDWR | 0o100 | 0o200 | O_TRUNC | 0o2000 | 0o4000 | 0x8000 | 0o200_000 | 0x8000_0000;
    s.lcreate(2, b"new", flags, 0o600, NOID).unwrap();
    s.write(2, 0, Data(b"0123")).unwrap();
    s.write(2, 0, Data(b"ab")).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"ab23");
    assert_eq!(tree.read("d/new"), b"ab23");
}

#[test]
fn lcreate_of_an_existing_name_is_eexist_whatever_the_flags() {
    let (tree, mut s) = at_d();
    tree.file("d/file", b"text");
    tree.dir("d/dir");
    tree.link("d/dangling", "nowhere");
    tree.link("d/outside", tree.outside("made"));
    for name in [b"file".as_slice(), b"dir", b"dangling", b"outside"] {
        for flags in [O_RDONLY, O_RDWR, O_RDWR | O_TRUNC] {
            refused(s.lcreate(2, name, flags, 0o644, NOID), Errno::EEXIST);
        }
    }
    assert_eq!(tree.read("d/file"), b"text");
    assert!(!tree.outside("made").exists());
}

#[test]
fn lcreate_that_fails_leaves_the_fid_a_directory() {
    let (tree, mut s) = at_d();
    tree.file("d/file", b"");
    refused(s.lcreate(2, b"file", O_RDWR, 0o644, NOID), Errno::EEXIST);
    s.walk_to(2, 3, "file").unwrap();
    s.lcreate(2, b"new", O_RDWR, 0o644, NOID).unwrap();
}

#[test]
fn lcreate_checks_the_name_before_the_fid() {
    let (_tree, mut s) = at_d();
    for name in [b"".as_slice(), b".", b"..", b"/", b"a/b", b"a/", b"/etc"] {
        refused(s.lcreate(99, name, O_RDWR, 0o644, NOID), Errno::EINVAL);
        refused(
            s.ucreate(99, name, O_RDWR, 0o644, NOID, NOID),
            Errno::EINVAL,
        );
        refused(s.lcreate(2, name, O_RDWR, 0o644, NOID), Errno::EINVAL);
    }
    refused(s.lcreate(99, b"new", O_RDWR, 0o644, NOID), Errno::EBADF);
    refused(
        s.ucreate(99, b"new", O_RDWR, 0o644, NOID, NOID),
        Errno::EBADF,
    );
}

#[test]
fn lcreate_with_a_nul_in_the_name_is_einval() {
    let (tree, mut s) = at_d();
    refused(s.lcreate(2, b"new\0er", O_RDWR, 0o644, NOID), Errno::EINVAL);
    refused(s.lcreate(2, b"\0", O_RDWR, 0o644, NOID), Errno::EINVAL);
    assert_eq!(fs::read_dir(tree.path("d")).unwrap().count(), 0);
}

#[test]
fn lcreate_below_something_else_than_a_directory_is_einval() {
    let tree = Tree::new();
    tree.file("f", b"");
    tree.link("l", "f");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    refused(s.lcreate(2, b"new", O_RDWR, 0o644, NOID), Errno::EINVAL);
    s.walk_to(ROOT, 3, "l").unwrap();
    refused(s.lcreate(3, b"new", O_RDWR, 0o644, NOID), Errno::EINVAL);
}

#[test]
fn lcreate_in_an_opened_directory_is_einval() {
    let (tree, mut s) = at_d();
    s.lopen(2, O_RDONLY).unwrap();
    refused(s.lcreate(2, b"new", O_RDWR, 0o644, NOID), Errno::EINVAL);
    assert!(!tree.path("d/new").exists());
}

#[test]
fn lcreate_on_a_read_only_attach_point_is_erofs() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("f", b"");
    let mut s = serve_read_only(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    refused(s.lcreate(2, b"new", O_RDONLY, 0o644, NOID), Errno::EROFS);
    refused(
        s.ucreate(2, b"new", O_RDWR, 0o644, NOID, NOID),
        Errno::EROFS,
    );
    assert!(!tree.path("d/new").exists());
    // Before it: the type, whether it is opened. After it: whether the name exists.
    s.walk_to(ROOT, 3, "f").unwrap();
    refused(s.lcreate(3, b"new", O_RDWR, 0o644, NOID), Errno::EINVAL);
    s.walk_to(ROOT, 4, "").unwrap();
    refused(s.lcreate(4, b"f", O_RDWR, 0o644, NOID), Errno::EROFS);
    s.lopen(2, O_RDONLY).unwrap();
    refused(s.lcreate(2, b"new", O_RDWR, 0o644, NOID), Errno::EINVAL);
}

#[test]
fn lcreate_names_up_to_255_bytes() {
    let (tree, mut s) = at_d();
    refused(
        s.lcreate(2, &[b'n'; 256], O_RDWR, 0o644, NOID),
        Errno::ENAMETOOLONG,
    );
    s.lcreate(2, &[b'n'; 255], O_RDWR, 0o644, NOID).unwrap();
    assert!(tree.path(&format!("d/{}", "n".repeat(255))).exists());
}

#[test]
fn lcreate_in_a_directory_removed_by_the_host_is_enoent() {
    let (tree, mut s) = at_d();
    fs::remove_dir(tree.path("d")).unwrap();
    refused(s.lcreate(2, b"new", O_RDWR, 0o644, NOID), Errno::ENOENT);
}

#[test]
fn lcreate_of_a_name_the_host_removed_is_another_file() {
    let (tree, mut s) = at_d();
    tree.file("d/a", b"old");
    s.walk_to(2, 3, "a").unwrap();
    s.walk_to(2, 4, "a").unwrap();
    s.lopen(4, O_RDONLY).unwrap();
    fs::remove_file(tree.path("d/a")).unwrap();
    let open = s.lcreate(2, b"a", O_RDWR, 0o600, NOID).unwrap();
    s.write(2, 0, Data(b"new")).unwrap();
    assert_eq!(s.read_all(4).unwrap(), b"old");
    assert_eq!(s.getattr(3, 0).unwrap().attr.nlink, 0);
    assert_eq!(s.walk_to(ROOT, 5, "d/a").unwrap()[1], open.qid);
    s.lopen(5, O_RDONLY).unwrap();
    assert_eq!(s.read_all(5).unwrap(), b"new");
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"old");
}

/// In a user namespace that maps one id, chown to another is EINVAL.
#[test]
fn ucreate_whose_chown_fails_leaves_no_file_behind() {
    let tree = Tree::new();
    tree.dir("d");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).namespace(Namespace::User));
    s.walk_to(ROOT, 2, "d").unwrap();
    let before = s.gofer.descriptor_count();
    refused(
        s.ucreate(2, b"new", O_RDWR, 0o644, NOID, 1234),
        Errno::EINVAL,
    );
    assert!(!tree.path("d/new").exists());
    s.expect_descriptors(before);
    s.ucreate(2, b"new", O_RDWR, 0o644, 0, 0).unwrap();
}

/// The directory's fid is gone, its place in the tree is not.
#[test]
fn lcreate_on_the_root_fid_leaves_no_way_to_attach_again() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    s.lcreate(ROOT, b"new", O_RDWR, 0o644, NOID).unwrap();
    s.write(ROOT, 0, Data(b"x")).unwrap();
    refused(s.attach_root(2), Errno::EIO);
    assert_eq!(tree.read("new"), b"x");
}
