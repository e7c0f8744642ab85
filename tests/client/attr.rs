//! Tgetattr: docs/protocol.md 3.10.

use crate::harness::{ROOT, Tree, chmod, serve, serve_read_only};
use crate::p9::{Attr, O_RDONLY, QT_DIR, QT_FILE, QT_LINK, VALID, refused};
use nix::errno::Errno;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

/// What the host says, in the shape of the wire.
fn of_host(stat: &Metadata) -> Attr {
    let nanoseconds = |value: i64| u64::try_from(value).unwrap();
    Attr {
        mode: stat.mode(),
        uid: stat.uid(),
        gid: stat.gid(),
        nlink: stat.nlink(),
        rdev: stat.rdev(),
        size: stat.size(),
        blksize: stat.blksize(),
        blocks: stat.blocks(),
        atime: stat.atime() as u64,
        atime_ns: nanoseconds(stat.atime_nsec()),
        mtime: stat.mtime() as u64,
        mtime_ns: nanoseconds(stat.mtime_nsec()),
        ctime: stat.ctime() as u64,
        ctime_ns: nanoseconds(stat.ctime_nsec()),
        ..Attr::default()
    }
}

#[test]
fn getattr_is_what_the_host_says() {
    let tree = Tree::new();
    tree.dir("dir/sub");
    tree.file("file", vec![b'x'; 10_000]);
    tree.link("link", "some/where");
    fs::hard_link(tree.path("file"), tree.path("other")).unwrap();
    std::os::unix::fs::chown(tree.path("file"), Some(1234), Some(5678)).unwrap();
    std::os::unix::fs::lchown(tree.path("link"), Some(12), Some(34)).unwrap();
    chmod(&tree.path("file"), 0o6751);
    chmod(&tree.path("dir"), 0o1777);
    let mut s = serve(&tree);
    for (name, kind) in [
        ("dir", QT_DIR),
        ("file", QT_FILE),
        ("link", QT_LINK),
        ("other", QT_FILE),
    ] {
        s.walk_to(ROOT, 2, name).unwrap();
        let reply = s.getattr(2, VALID).unwrap();
        let stat = tree.stat(name);
        assert_eq!(reply.attr, of_host(&stat), "{name}");
        assert_eq!(reply.valid, VALID);
        assert_eq!((reply.qid.kind, reply.qid.version), (kind, 0));
        assert_eq!(reply.qid.path, stat.ino() & 0x00ff_ffff_ffff_ffff);
    }
}

#[test]
fn getattr_of_the_root_is_the_roots() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    assert_eq!(
        s.getattr(ROOT, VALID).unwrap().attr,
        of_host(&tree.stat(""))
    );
}

#[test]
fn getattr_ignores_the_mask() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    let full = s.getattr(2, 0x3fff).unwrap();
    for mask in [0, 1, 0x7ff, 0x800, 1 << 63, u64::MAX] {
        let reply = s.getattr(2, mask).unwrap();
        assert_eq!((reply.valid, &reply.attr), (VALID, &full.attr));
    }
}

#[test]
fn getattr_of_an_unknown_fid_is_ebadf() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.getattr(99, VALID), Errno::EBADF);
}

#[test]
fn getattr_sees_changes_of_the_host() {
    let tree = Tree::new();
    tree.file("a", b"1");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    assert_eq!(s.getattr(2, VALID).unwrap().attr.size, 1);
    tree.file("a", b"12345");
    chmod(&tree.path("a"), 0o4711);
    assert_eq!(s.getattr(2, VALID).unwrap().attr, of_host(&tree.stat("a")));
}

#[test]
fn getattr_of_an_opened_fid_is_served() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    assert_eq!(s.getattr(2, VALID).unwrap().attr.size, 4);
}

#[test]
fn getattr_of_a_file_unlinked_by_the_host_is_served() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    let qid = s.walk_to(ROOT, 2, "a").unwrap()[0].clone();
    fs::remove_file(tree.path("a")).unwrap();
    let reply = s.getattr(2, VALID).unwrap();
    assert_eq!((reply.attr.nlink, reply.attr.size, reply.qid), (0, 4, qid));
}

#[test]
fn getattr_on_a_read_only_attach_point_is_served() {
    let tree = Tree::new();
    let mut s = serve_read_only(&tree);
    s.getattr(ROOT, VALID).unwrap();
}
