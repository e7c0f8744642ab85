//! Fids of names that were unlinked through the same connection: docs/protocol.md 3.2.

use crate::harness::{ROOT, Session, Tree, serve};
use crate::p9::{Data, NOID, O_RDONLY, O_RDWR, VALID, refused};
use nix::errno::Errno;

const AT_REMOVEDIR: u32 = 0x200;

/// Fid 2 on a directory, 3 on a file, 4 on a symlink, all three removed; 5 on the file, opened
/// before.
fn removed() -> (Tree, Session) {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("f", b"text");
    tree.link("l", "f");
    let mut s = serve(&tree);
    for (fid, name) in [(2, "d"), (3, "f"), (4, "l"), (5, "f")] {
        s.walk_to(ROOT, fid, name).unwrap();
    }
    s.lopen(5, O_RDWR).unwrap();
    s.unlinkat(ROOT, b"d", AT_REMOVEDIR).unwrap();
    s.unlinkat(ROOT, b"f", 0).unwrap();
    s.unlinkat(ROOT, b"l", 0).unwrap();
    assert_eq!(std::fs::read_dir(tree.root()).unwrap().count(), 0);
    (tree, s)
}

#[test]
fn deleted_fids_cannot_be_opened_or_read_as_links() {
    let (_tree, mut s) = removed();
    for fid in [2, 3, 4] {
        refused(s.lopen(fid, O_RDONLY), Errno::EINVAL);
        refused(s.readlink(fid), Errno::EINVAL);
    }
}

#[test]
fn deleted_directory_cannot_be_used() {
    let (_tree, mut s) = removed();
    refused(s.walk_to(2, 9, "a"), Errno::ENOENT);
    refused(s.walkgetattr(2, 9, &[b"a"]), Errno::ENOENT);
    refused(s.readdir(2, 0, 4096), Errno::EINVAL);
    s.version(1 << 20, b"9P2000.L.Google.13").unwrap();
    refused(s.lcreate(2, b"a", O_RDWR, 0o600, NOID), Errno::EINVAL);
    refused(s.ucreate(2, b"a", O_RDWR, 0o600, NOID, NOID), Errno::EINVAL);
}

/// The original of 2019-06, whose version is 7, answers as the host does.
#[test]
fn creating_in_a_deleted_directory_is_enoent_to_version_7_alone() {
    let (_tree, mut s) = removed();
    for number in 0..=13 {
        let version = format!("9P2000.L.Google.{number}");
        s.version(1 << 20, version.as_bytes()).unwrap();
        let errno = if number == 7 {
            Errno::ENOENT
        } else {
            Errno::EINVAL
        };
        refused(s.lcreate(2, b"a", O_RDWR, 0o600, NOID), errno);
        refused(s.ucreate(2, b"a", O_RDWR, 0o600, NOID, NOID), errno);
        refused(s.mkdir(2, b"a", 0o700, NOID), Errno::EINVAL);
        refused(s.lcreate(3, b"a", O_RDWR, 0o600, NOID), Errno::EINVAL);
        refused(s.lcreate(77, b"a", O_RDWR, 0o600, NOID), Errno::EBADF);
        refused(s.lcreate(2, b"a/b", O_RDWR, 0o600, NOID), Errno::EINVAL);
    }
}

#[test]
fn deleted_fids_still_have_attributes_and_clones() {
    let (_tree, mut s) = removed();
    for fid in [2, 3, 4] {
        assert!(s.getattr(fid, VALID).unwrap().attr.nlink <= 1);
        s.statfs(fid).unwrap();
        s.flushf(fid).unwrap();
        assert_eq!(s.walk_to(fid, 9, "").unwrap(), []);
        refused(s.lopen(9, O_RDONLY), Errno::EINVAL); // the clone is deleted, too
        s.clunk(9).unwrap();
        s.clunk(fid).unwrap();
    }
}

#[test]
fn deleted_file_opened_before_is_read_and_written() {
    let (_tree, mut s) = removed();
    s.write(5, 0, Data(b"T")).unwrap();
    assert_eq!(s.read_all(5).unwrap(), b"Text");
    s.fsync(5, 0).unwrap();
    assert_eq!(s.getattr(5, VALID).unwrap().attr.nlink, 0);
}

/// The mark is on the path as it was, not on the name.
#[test]
fn deleted_fids_stay_so_when_the_name_is_made_again() {
    let (tree, mut s) = removed();
    s.walk_to(ROOT, 9, "").unwrap();
    s.lcreate(9, b"f", O_RDWR, 0o600, NOID).unwrap();
    s.write(9, 0, Data(b"another")).unwrap();
    refused(s.lopen(3, O_RDONLY), Errno::EINVAL);
    assert_eq!(s.getattr(3, VALID).unwrap().attr.size, 4);
    s.open(ROOT, 10, "f", O_RDONLY).unwrap();
    assert_eq!(s.read_all(10).unwrap(), b"another");
    tree.dir("d");
    refused(s.walk_to(2, 11, "a"), Errno::ENOENT);
    s.walk_to(ROOT, 11, "d").unwrap();
}

#[test]
fn deleted_by_one_name_is_not_deleted_by_another() {
    let tree = Tree::new();
    tree.file("f", b"text");
    std::fs::hard_link(tree.path("f"), tree.path("g")).unwrap();
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    s.walk_to(ROOT, 3, "g").unwrap();
    s.unlinkat(ROOT, b"f", 0).unwrap();
    refused(s.lopen(2, O_RDONLY), Errno::EINVAL);
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"text");
}

#[test]
fn deleted_by_a_rename_onto_it() {
    let tree = Tree::new();
    tree.file("old", b"old");
    tree.file("new", b"newer");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "old").unwrap();
    s.walk_to(ROOT, 3, "new").unwrap();
    s.renameat(ROOT, b"new", ROOT, b"old").unwrap();
    refused(s.lopen(2, O_RDONLY), Errno::EINVAL);
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"newer");
}
