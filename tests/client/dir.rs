//! Treaddir: docs/protocol.md 3.9; offsets are cookies of the host here.

use crate::harness::{ROOT, Session, Tree, serve, serve_read_only};
use crate::p9::{Dirent, MSIZE, O_RDONLY, QT_DIR, QT_FILE, QT_LINK, QT_SPECIAL, refused};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;

/// Fid 2, opened on the root.
fn open_root(tree: &Tree) -> Session {
    let mut s = serve(tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    s
}

fn names(entries: &[Dirent]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
        .collect()
}

fn sorted(entries: &[Dirent]) -> Vec<String> {
    let mut all = names(entries);
    all.sort();
    all
}

#[test]
fn readdir_gives_every_entry_but_the_dots() {
    let tree = Tree::new();
    tree.dir("dir");
    tree.file("file", b"");
    tree.link("link", "nowhere");
    let mut s = open_root(&tree);
    let entries = s.list(2, 65536).unwrap();
    assert_eq!(sorted(&entries), ["dir", "file", "link"]);
}

#[test]
fn readdir_types_are_qid_types() {
    let tree = Tree::new();
    tree.dir("dir");
    tree.file("file", b"");
    tree.link("link", "dir");
    let mode = Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&tree.path("fifo"), mode).unwrap();
    mknod(&tree.path("char"), SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
    mknod(&tree.path("block"), SFlag::S_IFBLK, mode, makedev(7, 0)).unwrap();
    let _listener = UnixListener::bind(tree.path("socket")).unwrap();
    let mut s = open_root(&tree);
    let kinds: BTreeMap<String, u8> = s
        .list(2, 65536)
        .unwrap()
        .into_iter()
        .map(|entry| {
            assert_eq!(entry.kind, entry.qid.kind);
            assert_eq!(entry.qid.version, 0);
            (String::from_utf8(entry.name).unwrap(), entry.kind)
        })
        .collect();
    let wanted = [
        ("block", QT_FILE),
        ("char", QT_SPECIAL),
        ("dir", QT_DIR),
        ("fifo", QT_SPECIAL),
        ("file", QT_FILE),
        ("link", QT_LINK),
        ("socket", QT_SPECIAL),
    ];
    assert_eq!(
        kinds,
        wanted.map(|(name, kind)| (name.to_owned(), kind)).into()
    );
}

#[test]
fn readdir_qids_are_those_of_walks() {
    let tree = Tree::new();
    tree.dir("dir");
    tree.file("file", b"");
    tree.link("link", "dir");
    let mut s = open_root(&tree);
    for entry in s.list(2, 65536).unwrap() {
        let qids = s.walk(ROOT, 3, &[&entry.name]).unwrap().qids;
        assert_eq!(qids, [entry.qid]);
    }
}

#[test]
fn readdir_of_an_empty_directory_is_empty_at_once() {
    let tree = Tree::new();
    let mut s = open_root(&tree);
    let reply = s.readdir(2, 0, 65536).unwrap();
    assert_eq!((reply.entries.list.len(), reply.entries.bytes), (0, 0));
    assert_eq!(s.readdir(2, 0, 0).unwrap().entries.bytes, 0);
}

#[test]
fn readdir_behind_the_end_stays_empty() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = open_root(&tree);
    let last = s.list(2, 65536).unwrap().pop().unwrap().offset;
    for _ in 0..3 {
        assert_eq!(s.readdir(2, last, 65536).unwrap().entries.list, []);
    }
}

#[test]
fn readdir_of_an_unknown_fid_is_ebadf() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.readdir(99, 0, 65536), Errno::EBADF);
}

#[test]
fn readdir_of_an_unopened_fid_is_einval() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    refused(s.readdir(ROOT, 0, 65536), Errno::EINVAL);
    s.walk_to(ROOT, 2, "a").unwrap();
    refused(s.readdir(2, 0, 65536), Errno::EINVAL);
}

#[test]
fn readdir_of_an_opened_file_is_einval() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    refused(s.readdir(2, 0, 65536), Errno::EINVAL);
}

#[test]
fn readdir_on_a_read_only_attach_point_is_served() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve_read_only(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(names(&s.list(2, 65536).unwrap()), ["a"]);
}

#[test]
fn readdir_resumes_behind_any_entry() {
    let tree = Tree::new();
    for number in 0..50 {
        tree.file(&format!("file-{number}"), b"");
    }
    let mut s = open_root(&tree);
    let all = s.list(2, 65536).unwrap();
    for (at, entry) in all.iter().enumerate().rev() {
        let rest = s.readdir(2, entry.offset, 65536).unwrap().entries.list;
        assert_eq!(names(&rest), names(&all[at + 1..]));
    }
}

#[test]
fn readdir_at_0_starts_again_and_sees_what_is_new() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = open_root(&tree);
    assert_eq!(names(&s.list(2, 65536).unwrap()), ["a"]);
    tree.file("b", b"");
    assert_eq!(sorted(&s.list(2, 65536).unwrap()), ["a", "b"]);
    fs::remove_file(tree.path("a")).unwrap();
    assert_eq!(names(&s.list(2, 65536).unwrap()), ["b"]);
}

#[test]
fn readdir_sends_whole_entries_only() {
    let tree = Tree::new();
    for name in ["aaaa", "bbbb", "cccc"] {
        tree.file(name, b"");
    }
    let mut s = open_root(&tree);
    let size = 24 + 4; // each
    for count in size..3 * size + 10 {
        let reply = s.readdir(2, 0, count).unwrap();
        let whole = (count / size).min(3) as usize;
        assert_eq!(
            (reply.entries.list.len(), reply.entries.bytes),
            (whole, whole * 28),
            "count {count}"
        );
    }
}

/// An empty reply would mean the end; the original gives one.
#[test]
fn readdir_with_a_count_too_small_for_the_next_entry_is_einval() {
    let tree = Tree::new();
    let name = "n".repeat(255);
    tree.file(&name, b"");
    let mut s = open_root(&tree);
    for count in [0, 1, 10, 24, 25, 278] {
        refused(s.readdir(2, 0, count), Errno::EINVAL);
    }
    let reply = s.readdir(2, 0, 279).unwrap();
    assert_eq!(names(&reply.entries.list), [name]);
    let end = reply.entries.list[0].offset;
    assert_eq!(s.readdir(2, end, 0).unwrap().entries.list, []);
}

#[test]
fn readdir_of_many_entries_in_small_pieces_gives_each_once() {
    let tree = Tree::new();
    for number in 0..3000 {
        tree.file(&format!("{number:04}{}", "x".repeat(number % 97)), b"");
    }
    let mut s = open_root(&tree);
    for count in [24 + 4 + 96, 4072, 65536, MSIZE, u32::MAX] {
        let entries = s.list(2, count).unwrap();
        assert_eq!(entries.len(), 3000, "count {count}");
        let distinct: BTreeSet<&[u8]> = entries.iter().map(|entry| entry.name.as_slice()).collect();
        assert_eq!(distinct.len(), 3000, "count {count}");
    }
}

#[test]
fn readdir_reply_fits_count_and_msize() {
    let tree = Tree::new();
    for number in 0..1000 {
        tree.file(&format!("{number:0100}"), b"");
    }
    let mut s = open_root(&tree);
    assert!(s.readdir(2, 0, 10_000).unwrap().entries.bytes <= 10_000);
    s.version(4096, b"9P2000.L.Google.7").unwrap();
    for count in [4085, 65536, MSIZE, MSIZE + 1, 0x8000_0000, u32::MAX] {
        let bytes = s.readdir(2, 0, count).unwrap().entries.bytes;
        assert!(bytes > 0 && bytes <= 4085, "{bytes}");
    }
    assert_eq!(s.list(2, 65536).unwrap().len(), 1000);
}

#[test]
fn readdir_of_two_fids_on_one_directory_are_independent() {
    let tree = Tree::new();
    for number in 0..20 {
        tree.file(&format!("{number:02}"), b"");
    }
    let mut s = open_root(&tree);
    s.walk_to(ROOT, 3, "").unwrap();
    s.lopen(3, O_RDONLY).unwrap();
    let all = names(&s.list(3, 65536).unwrap());
    let (mut offset, mut seen) = (0, Vec::new());
    loop {
        let entries = s.readdir(2, offset, 26).unwrap().entries.list;
        let Some(last) = entries.last() else { break };
        offset = last.offset;
        seen.extend(names(&entries));
        assert_eq!(names(&s.list(3, 65536).unwrap()), all);
    }
    assert_eq!(seen, all);
}

#[test]
fn readdir_while_the_host_removes_gives_the_others_once() {
    let tree = Tree::new();
    for number in 0..2000 {
        tree.file(&format!("{number:04}"), b"");
    }
    let mut s = open_root(&tree);
    let (mut offset, mut seen) = (0, Vec::new());
    loop {
        let entries = s.readdir(2, offset, 1000).unwrap().entries.list;
        let Some(last) = entries.last() else { break };
        offset = last.offset;
        for entry in &entries {
            fs::remove_file(tree.root().join(OsStr::from_bytes(&entry.name))).unwrap();
        }
        seen.extend(names(&entries));
    }
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (2000, 2000));
    assert_eq!(s.list(2, 65536).unwrap(), []);
}

#[test]
fn readdir_names_are_bytes() {
    let tree = Tree::new();
    let name = b"\xff\xfe\n\x01 \"";
    fs::write(tree.root().join(OsStr::from_bytes(name)), b"").unwrap();
    let mut s = open_root(&tree);
    assert_eq!(s.list(2, 65536).unwrap()[0].name, name);
}

#[test]
fn readdir_of_a_directory_moved_by_the_host_is_served() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "d", O_RDONLY).unwrap();
    fs::rename(tree.path("d"), tree.path("e")).unwrap();
    let entries = s.list(2, 65536).unwrap();
    assert_eq!(
        entries[0].qid.path,
        tree.stat("e/f").ino() & 0x00ff_ffff_ffff_ffff
    );
}
