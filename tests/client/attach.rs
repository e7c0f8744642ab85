//! Tattach: docs/protocol.md 3.5.

use crate::harness::{Launch, Mount, ROOT, Tree, serve_mounts, session_of, spec, write_spec};
use crate::p9::{Client, MSIZE, NOFID, NOID, O_RDONLY, QT_DIR, QT_FILE, refused};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use std::os::unix::fs::MetadataExt;

/// A started server with a version agreed, not attached.
fn unattached(tree: &Tree) -> (crate::harness::Gofer, Client) {
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let mut client = gofer.client(0);
    client.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    (gofer, client)
}

fn attach(client: &mut Client, aname: &[u8]) -> crate::p9::Answer<crate::p9::Qid> {
    Ok(client.attach(ROOT, NOFID, b"", aname, NOID)?.qid)
}

#[test]
fn attach_gives_the_qid_of_the_root() {
    let tree = Tree::new();
    let (_gofer, mut c) = unattached(&tree);
    let qid = attach(&mut c, b"/").unwrap();
    assert_eq!((qid.kind, qid.version), (QT_DIR, 0));
    assert_eq!(
        qid.path,
        tree.stat("").ino() & 0x00ff_ffff_ffff_ffff,
        "the first device has index 0"
    );
}

#[test]
fn attach_with_an_empty_aname_is_the_root() {
    let tree = Tree::new();
    tree.file("a", b"");
    let (_gofer, mut c) = unattached(&tree);
    attach(&mut c, b"").unwrap();
    c.walk_to(ROOT, 2, "a").unwrap();
}

#[test]
fn attach_with_an_afid_is_einval() {
    let tree = Tree::new();
    let (_gofer, mut c) = unattached(&tree);
    refused(c.attach(ROOT, 0, b"", b"/", NOID), Errno::EINVAL);
    refused(c.attach(ROOT, ROOT, b"", b"/", NOID), Errno::EINVAL);
    c.attach_root(ROOT).unwrap(); // and has not used the attach point up
}

#[test]
fn attach_twice_is_eio() {
    let tree = Tree::new();
    let (_gofer, mut c) = unattached(&tree);
    c.attach_root(ROOT).unwrap();
    refused(c.attach_root(2), Errno::EIO);
    refused(c.attach_root(ROOT), Errno::EIO);
    refused(c.getattr(2, 0), Errno::EBADF);
    c.getattr(ROOT, 0).unwrap();
}

#[test]
fn attach_after_the_root_was_clunked_is_eio() {
    let tree = Tree::new();
    let (_gofer, mut c) = unattached(&tree);
    c.attach_root(ROOT).unwrap();
    c.clunk(ROOT).unwrap();
    refused(c.attach_root(ROOT), Errno::EIO);
}

/// The qid is the root's even then.
#[test]
fn attach_with_a_deeper_aname_names_what_is_there() {
    for aname in ["/d/e", "d/e"] {
        let tree = Tree::new();
        tree.dir("d/e");
        tree.file("d/e/f", b"deep");
        let (_gofer, mut c) = unattached(&tree);
        let qid = attach(&mut c, aname.as_bytes()).unwrap();
        assert_eq!(qid.path, tree.stat("").ino() & 0x00ff_ffff_ffff_ffff);
        assert_eq!(
            c.getattr(ROOT, 0).unwrap().qid.path,
            tree.stat("d/e").ino() & 0x00ff_ffff_ffff_ffff
        );
        c.open(ROOT, 2, "f", O_RDONLY).unwrap();
        assert_eq!(c.read_all(2).unwrap(), b"deep");
    }
}

#[test]
fn attach_with_an_unsafe_aname_is_einval() {
    for aname in ["//", "/d/", "/.", "/..", "..", "/d//e", "/d/../d", "/d/./e"] {
        let tree = Tree::new();
        tree.dir("d/e");
        let (_gofer, mut c) = unattached(&tree);
        refused(attach(&mut c, aname.as_bytes()), Errno::EINVAL);
        refused(c.getattr(ROOT, 0), Errno::EBADF);
    }
}

#[test]
fn attach_with_a_missing_aname_is_enoent() {
    let tree = Tree::new();
    let (_gofer, mut c) = unattached(&tree);
    refused(attach(&mut c, b"/missing"), Errno::ENOENT);
    refused(c.getattr(ROOT, 0), Errno::EBADF);
}

#[test]
fn attach_through_a_symlink_is_einval() {
    let tree = Tree::new();
    tree.dir("d/e");
    tree.link("l", "d");
    let (_gofer, mut c) = unattached(&tree);
    refused(attach(&mut c, b"/l/e"), Errno::EINVAL);
}

#[test]
fn attach_ignores_uname_and_n_uname() {
    let tree = Tree::new();
    let (_gofer, mut c) = unattached(&tree);
    c.attach(ROOT, NOFID, b"nobody\0\xff", b"/", 1000).unwrap();
}

/// NOFID is special as afid only.
#[test]
fn attach_may_use_the_fid_number_nofid() {
    let tree = Tree::new();
    tree.file("a", b"");
    let (_gofer, mut c) = unattached(&tree);
    c.attach_root(NOFID).unwrap();
    c.walk_to(NOFID, 0, "a").unwrap();
    c.clunk(NOFID).unwrap();
}

#[test]
fn attach_before_tversion_is_served() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let mut c = gofer.client(0);
    refused(c.getattr(ROOT, 0), Errno::EBADF);
    c.attach_root(ROOT).unwrap();
    c.getattr(ROOT, 0).unwrap();
}

#[test]
fn attach_of_a_mount_is_its_destination() {
    let tree = Tree::new();
    tree.dir("mnt/m");
    tree.file("mnt/m/f", b"in the mount");
    let (_gofer, mut c) = serve_mounts(&tree, false, &[Mount::bind("/mnt/m", &["rw"])]);
    c[1].open(ROOT, 2, "f", O_RDONLY).unwrap();
    assert_eq!(c[1].read_all(2).unwrap(), b"in the mount");
    refused(c[1].walk_to(ROOT, 3, "mnt"), Errno::ENOENT);
}

#[test]
fn attach_of_a_file_mount_is_the_file() {
    let tree = Tree::new();
    tree.file("hosts", b"127.0.0.1\n");
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/hosts", &[])]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    let mut c = gofer.client(1);
    let qid = c.hello(ROOT).unwrap();
    assert_eq!(qid.kind, QT_FILE);
    refused(c.walk_to(ROOT, 2, "a"), Errno::EINVAL);
    c.walk_to(ROOT, 2, "").unwrap();
    c.lopen(2, O_RDONLY).unwrap();
    assert_eq!(c.read_all(2).unwrap(), b"127.0.0.1\n");
}

#[test]
fn attach_of_a_missing_destination_is_eio_each_time() {
    let tree = Tree::new();
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/missing", &[])]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    let mut lost = gofer.client(1);
    lost.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    refused(lost.attach_root(ROOT), Errno::EIO);
    refused(lost.attach_root(ROOT), Errno::EIO);
    refused(lost.getattr(ROOT, 0), Errno::EBADF);
    gofer.connect(0).getattr(ROOT, 0).unwrap();
}

#[test]
fn attach_of_a_fifo_is_eio_and_does_not_block() {
    let tree = Tree::new();
    nix::unistd::mkfifo(&tree.path("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/pipe", &[])]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    let mut c = gofer.client(1);
    c.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    refused(c.attach_root(ROOT), Errno::EIO);
    gofer.connect(0).getattr(ROOT, 0).unwrap();
}

/// Its user sees a mount that fails, and the reason stands in the log.
#[test]
fn attach_that_is_refused_is_a_line_with_the_name_and_the_reason() {
    let tree = Tree::new();
    tree.file("f", b"");
    for (version, aname, line) in [
        (
            "9P2000.L",
            &b"/missing"[..],
            "Tattach refused (no such file or directory): \"/missing\"",
        ),
        (
            "9P2000.L",
            b"/f/x",
            "Tattach refused (not a directory): \"/f/x\"",
        ),
        (
            "9P2000.L.Google.7",
            b"/f/x",
            "Tattach refused (invalid argument): \"/f/x\"",
        ),
        (
            "9P2000.L",
            b"a\n\"\xff",
            "Tattach refused (no such file or directory): \"a\\n\\\"\\xff\"",
        ),
        (
            "9P2000.L",
            b"..",
            "Tattach refused (invalid argument): \"..\"",
        ),
    ] {
        let (gofer, mut c) = unattached(&tree);
        c.version(MSIZE, version.as_bytes()).unwrap();
        attach(&mut c, aname).expect_err("a refusal");
        let log = gofer.stderr();
        let refusals: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("refused"))
            .collect();
        assert_eq!(refusals.len(), 1, "{log}");
        assert!(refusals[0].starts_with('W'), "a warning: {log}");
        let wanted = format!("x:0] FD 3: {line}");
        assert!(refusals[0].ends_with(&wanted), "{wanted} in {log}");
    }
    // One that is too long for a line is cut behind the reason.
    let (gofer, mut c) = unattached(&tree);
    refused(attach(&mut c, &[b'x'; 60_000]), Errno::ENAMETOOLONG);
    let log = gofer.stderr();
    assert!(
        log.contains("Tattach refused (file name too long): \"xxx"),
        "{log}"
    );
    let (gofer, mut c) = unattached(&tree);
    attach(&mut c, b"/").unwrap();
    assert!(!gofer.stderr().contains("refused"));
}

/// Each connection has fids of its own.
#[test]
fn attach_on_one_connection_gives_no_fid_on_another() {
    let tree = Tree::new();
    tree.dir("m");
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/m", &[])]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    gofer.connect(0).getattr(ROOT, 0).unwrap();
    let mut other = gofer.client(1);
    refused(other.getattr(ROOT, 0), Errno::EBADF);
}

/// Indices are handed out in the order in which devices are seen.
#[test]
fn attach_point_numbers_its_devices_from_0() {
    let tree = Tree::new();
    tree.dir("tmp");
    tree.file("a", b"");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).tmpfs(&tree.path("tmp"), c"size=64k"));
    let other = s.walk_to(ROOT, 2, "tmp").unwrap();
    assert_eq!(other[0].path >> 56, 1);
    let same = s.walk_to(ROOT, 3, "a").unwrap();
    assert_eq!(same[0].path, tree.stat("a").ino() & 0x00ff_ffff_ffff_ffff);
}
