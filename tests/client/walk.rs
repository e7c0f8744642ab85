//! Twalk and Twalkgetattr: docs/protocol.md 3.4 and 3.6.

use crate::harness::{ROOT, Tree, serve};
use crate::p9::{O_RDONLY, QT_DIR, QT_FILE, QT_LINK, VALID, refused};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

fn ino(tree: &Tree, name: &str) -> u64 {
    tree.stat(name).ino() & 0x00ff_ffff_ffff_ffff
}

#[test]
fn walk_gives_a_qid_for_each_name() {
    let tree = Tree::new();
    tree.dir("a/b");
    tree.file("a/b/c", b"");
    let mut s = serve(&tree);
    let qids = s.walk_to(ROOT, 2, "a/b/c").unwrap();
    let kinds: Vec<u8> = qids.iter().map(|qid| qid.kind).collect();
    let paths: Vec<u64> = qids.iter().map(|qid| qid.path).collect();
    assert_eq!(kinds, [QT_DIR, QT_DIR, QT_FILE]);
    assert_eq!(
        paths,
        [ino(&tree, "a"), ino(&tree, "a/b"), ino(&tree, "a/b/c")]
    );
    assert!(qids.iter().all(|qid| qid.version == 0));
}

#[test]
fn walk_without_names_clones_and_gives_no_qid() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    assert_eq!(s.walk_to(2, 3, "").unwrap(), []);
    s.clunk(2).unwrap();
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"text");
}

#[test]
fn walk_clone_of_each_kind_keeps_the_kind() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("f", b"");
    tree.link("l", "f");
    let mut s = serve(&tree);
    for name in ["d", "f", "l"] {
        let qid = s.walk_to(ROOT, 2, name).unwrap()[0].clone();
        s.walk_to(2, 3, "").unwrap();
        assert_eq!(s.getattr(3, 0).unwrap().qid, qid);
    }
}

#[test]
fn walk_onto_its_own_fid_moves_it() {
    let tree = Tree::new();
    tree.dir("a/b");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    s.walk_to(2, 2, "b").unwrap();
    assert_eq!(s.getattr(2, 0).unwrap().qid.path, ino(&tree, "a/b"));
    assert_eq!(s.walk_to(2, 2, "").unwrap(), []);
    assert_eq!(s.getattr(2, 0).unwrap().qid.path, ino(&tree, "a/b"));
}

#[test]
fn walk_onto_a_fid_in_use_replaces_it() {
    let tree = Tree::new();
    tree.file("a", b"old");
    tree.file("b", b"new");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    s.walk_to(ROOT, 2, "b").unwrap();
    refused(s.read(2, 0, 10), Errno::EINVAL); // the new object is not opened
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"new");
}

#[test]
fn walk_that_fails_leaves_newfid_as_it_was() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    refused(s.walk_to(ROOT, 2, "d/missing"), Errno::ENOENT);
    refused(s.walk(ROOT, 2, &[b".."]), Errno::EINVAL);
    assert_eq!(s.read_all(2).unwrap(), b"text");
    refused(s.walk_to(ROOT, 3, "missing"), Errno::ENOENT);
    refused(s.getattr(3, 0), Errno::EBADF);
}

/// No partial walks: an Rlerror, not fewer qids.
#[test]
fn walk_that_fails_at_the_second_name_is_an_error() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = serve(&tree);
    refused(s.walk_to(ROOT, 2, "d/missing"), Errno::ENOENT);
    refused(s.walk_to(ROOT, 2, "missing/d"), Errno::ENOENT);
    refused(s.getattr(2, 0), Errno::EBADF);
}

#[test]
fn walk_from_an_unknown_fid_is_ebadf_before_names_are_looked_at() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.walk(99, 2, &[b".."]), Errno::EBADF);
    refused(s.walkgetattr(99, 2, &[b"a/b"]), Errno::EBADF);
    refused(s.walk(99, 2, &[]), Errno::EBADF);
}

#[test]
fn walk_with_an_unsafe_name_is_einval() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = serve(&tree);
    for name in [
        b"".as_slice(),
        b".",
        b"..",
        b"/",
        b"d/",
        b"/d",
        b"a/b",
        b"../d",
    ] {
        refused(s.walk(ROOT, 2, &[name]), Errno::EINVAL);
        refused(s.walk(ROOT, 2, &[b"d", name]), Errno::EINVAL);
        refused(s.walkgetattr(ROOT, 2, &[name]), Errno::EINVAL);
    }
}

#[test]
fn walk_checks_all_names_before_it_walks() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.walk(ROOT, 2, &[b"missing", b".."]), Errno::EINVAL);
}

#[test]
fn walk_from_an_opened_fid_is_ebusy() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("a", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    refused(s.walk_to(2, 3, "d"), Errno::EBUSY);
    refused(s.walk_to(2, 3, ""), Errno::EBUSY);
    refused(s.walkgetattr(2, 3, &[]), Errno::EBUSY);
    s.open(ROOT, 4, "a", O_RDONLY).unwrap();
    refused(s.walk_to(4, 5, ""), Errno::EBUSY);
}

#[test]
fn walk_with_an_unsafe_name_from_an_opened_fid_is_einval() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    refused(s.walk(2, 3, &[b".."]), Errno::EINVAL);
}

#[test]
fn walk_below_a_file_is_einval() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    refused(s.walk_to(ROOT, 2, "a/b"), Errno::EINVAL);
    s.walk_to(ROOT, 2, "a").unwrap();
    refused(s.walk_to(2, 3, "b"), Errno::EINVAL);
}

#[test]
fn walk_to_a_symlink_stops_at_the_link() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"");
    tree.link("l", "d");
    let mut s = serve(&tree);
    let qids = s.walk_to(ROOT, 2, "l").unwrap();
    assert_eq!((qids[0].kind, qids[0].path), (QT_LINK, ino(&tree, "l")));
    refused(s.walk_to(2, 3, "f"), Errno::EINVAL);
    refused(s.walk_to(ROOT, 3, "l/f"), Errno::EINVAL);
}

#[test]
fn walk_to_a_name_too_long_is_enametoolong() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.walk(ROOT, 2, &[&[b'n'; 255]]), Errno::ENOENT);
    refused(s.walk(ROOT, 2, &[&[b'n'; 256]]), Errno::ENAMETOOLONG);
}

#[test]
fn walk_to_a_name_of_255_bytes_of_any_kind_is_served() {
    let tree = Tree::new();
    let name: Vec<u8> = (1..=255)
        .map(|byte| if byte == b'/' { b'.' } else { byte })
        .collect();
    fs::write(tree.root().join(OsStr::from_bytes(&name)), b"odd").unwrap();
    let mut s = serve(&tree);
    s.walk(ROOT, 2, &[&name]).unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"odd");
}

/// The original walks 65535 names; ours bounds what one request may cost.
#[test]
fn walk_of_256_names_is_served_and_257_are_e2big() {
    let tree = Tree::new();
    tree.dir(&["d"; 257].join("/"));
    let mut s = serve(&tree);
    let names = vec![b"d".as_slice(); 257];
    assert_eq!(s.walk(ROOT, 2, &names[..256]).unwrap().qids.len(), 256);
    refused(s.walk(ROOT, 3, &names), Errno::E2BIG);
    refused(s.walkgetattr(ROOT, 3, &names), Errno::E2BIG);
    s.walk_to(2, 2, "d").unwrap();
}

#[test]
fn walk_to_one_file_by_two_names_gives_one_qid() {
    let tree = Tree::new();
    tree.file("a", b"");
    fs::hard_link(tree.path("a"), tree.path("b")).unwrap();
    let mut s = serve(&tree);
    assert_eq!(
        s.walk_to(ROOT, 2, "a").unwrap(),
        s.walk_to(ROOT, 3, "b").unwrap()
    );
    assert_eq!(
        s.walk_to(ROOT, 4, "a").unwrap(),
        s.walk_to(ROOT, 3, "b").unwrap()
    );
}

#[test]
fn walk_again_sees_what_the_host_has_put_there() {
    let tree = Tree::new();
    tree.file("a", b"first");
    let mut s = serve(&tree);
    let first = s.walk_to(ROOT, 2, "a").unwrap();
    tree.file("b", b"second");
    fs::rename(tree.path("b"), tree.path("a")).unwrap();
    let second = s.walk_to(ROOT, 3, "a").unwrap();
    assert_ne!(first, second);
    assert_eq!(second[0].path, ino(&tree, "a"));
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"second");
    // The older fid still names the older file.
    assert_eq!(s.getattr(2, 0).unwrap().attr.nlink, 0);
}

#[test]
fn walk_again_after_the_host_made_it_a_directory_sees_the_directory() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    fs::remove_file(tree.path("a")).unwrap();
    tree.dir("a/b");
    let qids = s.walk_to(ROOT, 3, "a/b").unwrap();
    assert_eq!(qids.len(), 2);
    refused(s.walk_to(2, 4, "b"), Errno::EINVAL);
}

#[test]
fn walk_from_a_directory_moved_by_the_host_goes_on_from_the_directory() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"here");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    fs::rename(tree.path("d"), tree.path("e")).unwrap();
    s.open(2, 3, "f", O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"here");
}

#[test]
fn walk_in_a_directory_removed_by_the_host_is_enoent() {
    let tree = Tree::new();
    tree.dir("d");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    fs::remove_dir(tree.path("d")).unwrap();
    refused(s.walk_to(2, 3, "f"), Errno::ENOENT);
}

/// A name that went away and came back is a name like any other.
#[test]
fn walk_to_a_name_that_was_missing_before_is_served() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.walk_to(ROOT, 2, "a"), Errno::ENOENT);
    tree.file("a", b"");
    s.walk_to(ROOT, 2, "a").unwrap();
    fs::remove_file(tree.path("a")).unwrap();
    refused(s.walk_to(ROOT, 3, "a"), Errno::ENOENT);
}

/// The capabilities kept are those for this.
#[test]
fn walk_through_what_nobody_may_search_is_served() {
    let tree = Tree::new();
    tree.dir("d/e");
    tree.file("d/e/f", b"closed");
    for name in ["d/e/f", "d/e", "d"] {
        std::os::unix::fs::chown(tree.path(name), Some(65534), Some(65534)).unwrap();
        crate::harness::chmod(&tree.path(name), 0);
    }
    let mut s = serve(&tree);
    s.open(ROOT, 2, "d/e/f", O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"closed");
    s.open(ROOT, 3, "d/e", O_RDONLY).unwrap();
    assert_eq!(s.list(3, 4096).unwrap().len(), 1);
}

#[test]
fn walkgetattr_gives_qids_and_the_last_ones_attributes() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"12345");
    let mut s = serve(&tree);
    let reply = s.walkgetattr(ROOT, 2, &[b"d", b"f"]).unwrap();
    assert_eq!(reply.valid, VALID);
    assert_eq!(reply.attr.size, 5);
    assert_eq!(reply.attr.mode, tree.stat("d/f").mode());
    let paths: Vec<u64> = reply.qids.iter().map(|qid| qid.path).collect();
    assert_eq!(paths, [ino(&tree, "d"), ino(&tree, "d/f")]);
    assert_eq!(s.getattr(2, 0).unwrap().attr, reply.attr);
}

#[test]
fn walkgetattr_without_names_gives_attributes_and_no_qid() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let reply = s.walkgetattr(ROOT, 2, &[]).unwrap();
    assert_eq!((reply.valid, reply.qids.len()), (VALID, 0));
    assert_eq!(reply.attr.mode, tree.stat("").mode());
    s.walk_to(2, 3, "").unwrap();
}

/// Attributes are of now, also where the file is shared with an older fid.
#[test]
fn walkgetattr_to_a_file_held_already_gives_fresh_attributes() {
    let tree = Tree::new();
    tree.file("a", b"1");
    let mut s = serve(&tree);
    assert_eq!(s.walkgetattr(ROOT, 2, &[b"a"]).unwrap().attr.size, 1);
    tree.file("a", b"12345");
    assert_eq!(s.walkgetattr(ROOT, 3, &[b"a"]).unwrap().attr.size, 5);
    assert_eq!(s.walkgetattr(2, 4, &[]).unwrap().attr.size, 5);
}

#[test]
fn walkgetattr_errors_are_those_of_walk() {
    let tree = Tree::new();
    tree.file("a", b"");
    tree.link("l", "a");
    let mut s = serve(&tree);
    refused(s.walkgetattr(ROOT, 2, &[b"missing"]), Errno::ENOENT);
    refused(s.walkgetattr(ROOT, 2, &[b"a", b"b"]), Errno::EINVAL);
    refused(s.walkgetattr(ROOT, 2, &[b"l", b"b"]), Errno::EINVAL);
    refused(s.getattr(2, 0), Errno::EBADF);
}

/// A parent's fid may go first.
#[test]
fn walk_result_outlives_the_fids_it_came_from() {
    let tree = Tree::new();
    tree.dir("a/b");
    tree.file("a/b/c", b"deep");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a/b").unwrap();
    s.walk_to(2, 3, "c").unwrap();
    s.clunk(2).unwrap();
    s.clunk(ROOT).unwrap();
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"deep");
}
