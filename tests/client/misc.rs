//! Tflush, Tclunk, Tflushf, Tstatfs, Treadlink, and requests that are none: docs/protocol.md 1.4, 3.

use crate::harness::{ROOT, Tree, serve};
use crate::p9::{Data, NOFID, NOID, NOTAG, O_RDONLY, RLERROR, frame, refused, t};
use nix::errno::Errno;
use nix::sys::statfs::statfs;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn clunk_frees_the_fid() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    s.clunk(2).unwrap();
    refused(s.getattr(2, 0), Errno::EBADF);
    refused(s.clunk(2), Errno::EBADF);
    s.walk_to(ROOT, 2, "a").unwrap();
}

#[test]
fn clunk_of_an_unknown_fid_is_ebadf() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.clunk(99), Errno::EBADF);
    refused(s.clunk(NOFID), Errno::EBADF);
}

#[test]
fn clunk_of_the_root_leaves_what_was_walked_to() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    s.clunk(ROOT).unwrap();
    s.walk_to(2, 3, "f").unwrap();
}

#[test]
fn clunk_closes_descriptors() {
    let tree = Tree::new();
    tree.dir("a/b");
    tree.file("a/b/c", b"");
    let mut s = serve(&tree);
    let before = s.gofer.descriptor_count();
    s.open(ROOT, 2, "a/b/c", O_RDONLY).unwrap();
    assert!(s.gofer.descriptor_count() > before);
    s.clunk(2).unwrap();
    s.expect_descriptors(before);
}

#[test]
fn flush_of_a_finished_or_unknown_tag_is_answered() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    s.flush(1).unwrap();
    s.flush(4711).unwrap();
    s.flush(NOTAG).unwrap();
}

/// The original never answers this one.
#[test]
fn flush_of_its_own_tag_is_answered() {
    let tree = Tree::new();
    let s = serve(&tree);
    s.send(&t::flush(9, 9)).unwrap();
    let reply = s.recv().unwrap();
    assert_eq!((reply.kind, reply.tag), (109, 9));
}

/// The flushed request is answered first.
#[test]
fn flush_behind_its_request_in_one_write_comes_second() {
    let tree = Tree::new();
    let s = serve(&tree);
    let both = [t::getattr(5, ROOT, 0), t::flush(6, 5)].concat();
    s.send(&both).unwrap();
    let (first, second) = (s.recv().unwrap(), s.recv().unwrap());
    assert_eq!(
        (first.kind, first.tag, second.kind, second.tag),
        (25, 5, 109, 6)
    );
}

#[test]
fn flushf_of_any_fid_is_served_and_of_an_unknown_one_ebadf() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    s.flushf(ROOT).unwrap();
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    s.flushf(2).unwrap();
    refused(s.flushf(99), Errno::EBADF);
}

#[test]
fn statfs_is_what_the_host_says_and_fsid_0() {
    let tree = Tree::new();
    tree.file("a", b"");
    tree.link("l", "a");
    let mut s = serve(&tree);
    for name in ["", "a", "l"] {
        s.walk_to(ROOT, 2, name).unwrap();
        let reply = s.statfs(2).unwrap();
        let host = statfs(&tree.root()).unwrap();
        assert_eq!(
            i64::from(reply.kind),
            host.filesystem_type().0 & 0xffff_ffff
        );
        assert_eq!(i64::from(reply.bsize), host.block_size());
        assert_eq!((reply.blocks, reply.files), (host.blocks(), host.files()));
        assert!(reply.bfree >= reply.bavail && reply.bavail > 0);
        assert_eq!((reply.fsid, reply.namelen), (0, 255));
    }
}

#[test]
fn statfs_of_an_unknown_fid_is_ebadf() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    refused(s.statfs(99), Errno::EBADF);
}

#[test]
fn readlink_gives_the_target_as_it_is() {
    let tree = Tree::new();
    let long = "x/".repeat(2047) + "y"; // 4095 bytes, the longest the host takes
    let odd = OsStr::from_bytes(b"\xff/../\n//.");
    let mut s = serve(&tree);
    for (name, target) in [
        ("a", OsStr::new("b")),
        ("abs", "/etc/passwd".as_ref()),
        ("long", long.as_ref()),
        ("odd", odd),
    ] {
        tree.link(name, target);
        s.walk_to(ROOT, 2, name).unwrap();
        assert_eq!(s.readlink(2).unwrap().target, target.as_bytes());
    }
}

#[test]
fn readlink_of_something_else_is_einval_and_of_an_unknown_fid_ebadf() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    refused(s.readlink(ROOT), Errno::EINVAL);
    s.walk_to(ROOT, 2, "a").unwrap();
    refused(s.readlink(2), Errno::EINVAL);
    refused(s.readlink(99), Errno::EBADF);
}

#[test]
fn readlink_of_a_symlink_removed_by_the_host_is_served() {
    let tree = Tree::new();
    tree.link("l", "target");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "l").unwrap();
    std::fs::remove_file(tree.path("l")).unwrap();
    assert_eq!(s.readlink(2).unwrap().target, b"target");
}

// ---- bad requests ----

#[test]
fn unknown_type_is_eio_and_the_connection_goes_on() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    for kind in [
        0u8, 1, 6, 10, 60, 98, 106, 112, 114, 146, 200, 248, 254, 255,
    ] {
        for body in [&[][..], &[0; 4], &[0xff; 1000]] {
            let reply = s.raw(kind, body).unwrap();
            assert_eq!(reply.errno(), Errno::EIO, "type {kind}");
        }
    }
    s.getattr(ROOT, 0).unwrap();
}

#[test]
fn reply_type_as_a_request_is_enosys() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let replies: [(u8, usize); 12] = [
        (7, 4),
        (9, 60),
        (13, 17),
        (25, 153),
        (51, 0),
        (101, 6),
        (105, 13),
        (109, 0),
        (111, 2),
        (117, 4),
        (119, 4),
        (121, 0),
    ];
    let mut wrong = Vec::new();
    for (kind, length) in replies {
        let errno = s.raw(kind, &vec![0; length]).unwrap().errno();
        if errno != Errno::ENOSYS {
            wrong.push((kind, errno));
        }
    }
    assert_eq!(wrong, []);
    s.getattr(ROOT, 0).unwrap();
}

/// One well-formed request of each type, on fids that do not exist.
fn each_request(tag: u16) -> Vec<Vec<u8>> {
    let fid = 4242;
    vec![
        t::statfs(tag, fid),
        t::lopen(tag, fid, 0),
        t::lcreate(tag, fid, b"name", 2, 0o644, NOID),
        t::readlink(tag, fid),
        t::getattr(tag, fid, 0),
        t::readdir(tag, fid, 0, 100),
        t::version(tag, 1 << 20, b"9P2000.L.Google.7"),
        t::attach(tag, fid, NOFID, b"", b"/", NOID),
        t::flush(tag, 1),
        t::walk(tag, fid, 5, &[b"a", b"bc"]),
        t::read(tag, fid, 0, 10),
        t::write(tag, fid, 0, Data(b"data")),
        t::clunk(tag, fid),
        t::flushf(tag, fid),
        t::walkgetattr(tag, fid, 5, &[b"a", b"bc"]),
        t::ucreate(tag, fid, b"name", 2, 0o644, NOID, NOID),
        frame(50, tag, &fid.to_le_bytes()), // Tfsync without its optional field
    ]
}

/// The original answers on tag 65535, which fails every request in flight.
#[test]
fn request_cut_short_is_eio_on_its_own_tag() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    for request in each_request(321) {
        let kind = request[4];
        for length in 0..request.len() - 7 {
            s.send(&frame(kind, 321, &request[7..7 + length])).unwrap();
            let reply = s.recv().unwrap();
            assert_eq!(
                (reply.kind, reply.tag),
                (RLERROR, 321),
                "type {kind}, {length} bytes"
            );
            assert_eq!(reply.errno(), Errno::EIO, "type {kind}, {length} bytes");
        }
    }
    s.getattr(ROOT, 0).unwrap();
}

#[test]
fn request_with_bytes_too_many_is_served() {
    let tree = Tree::new();
    tree.file("a", b"");
    let s = serve(&tree);
    for request in each_request(321) {
        let kind = request[4];
        if kind == 118 {
            continue; // a payload ends the frame
        }
        s.send(&frame(kind, 321, &[&request[7..], b"more"].concat()))
            .unwrap();
        let reply = s.recv().unwrap();
        match kind {
            100 | 108 => assert_eq!(reply.kind, kind + 1),
            104 => assert_eq!(reply.errno(), Errno::EIO), // attached before
            _ => assert_eq!(reply.errno(), Errno::EBADF, "type {kind}"),
        }
    }
}

#[test]
fn walk_with_fewer_names_than_it_says_is_eio() {
    let tree = Tree::new();
    tree.dir("a");
    let mut s = serve(&tree);
    for count in [2u16, 3, 256, 257, 65535] {
        let mut request = t::walk(33, ROOT, 2, &[b"a"]);
        request[15..17].copy_from_slice(&count.to_le_bytes());
        s.send(&request).unwrap();
        let reply = s.recv().unwrap();
        assert_eq!(reply.tag, 33);
        // More than 256 names may be refused before they are looked for.
        let errno = reply.errno();
        assert!(
            errno == Errno::EIO || (count > 256 && errno == Errno::E2BIG),
            "{count}: {errno:?}"
        );
    }
    refused(s.getattr(2, 0), Errno::EBADF);
}

#[test]
fn string_longer_than_its_frame_is_eio() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let mut request = t::lcreate(34, ROOT, b"name", 2, 0o644, NOID);
    request[11..13].copy_from_slice(&65535u16.to_le_bytes());
    s.send(&request).unwrap();
    assert_eq!(s.recv().unwrap().errno(), Errno::EIO);
    s.getattr(ROOT, 0).unwrap();
    assert_eq!(std::fs::read_dir(tree.root()).unwrap().count(), 0);
}

#[test]
fn tags_0_and_65535_are_ordinary() {
    let tree = Tree::new();
    let s = serve(&tree);
    for tag in [0, NOTAG] {
        s.send(&t::getattr(tag, ROOT, 0)).unwrap();
        let reply = s.recv().unwrap();
        assert_eq!((reply.kind, reply.tag), (25, tag));
        s.send(&t::getattr(tag, 99, 0)).unwrap();
        let reply = s.recv().unwrap();
        assert_eq!((reply.kind, reply.tag), (RLERROR, tag));
    }
}

/// A serial server has answered the first before it takes the second.
#[test]
fn tag_used_again_in_one_write_is_answered_twice() {
    let tree = Tree::new();
    let s = serve(&tree);
    s.send(&[t::getattr(7, ROOT, 0), t::getattr(7, 99, 0)].concat())
        .unwrap();
    assert_eq!(s.recv().unwrap().kind, 25);
    assert_eq!(s.recv().unwrap().errno(), Errno::EBADF);
}

#[test]
fn fid_nofid_is_ordinary() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.open(ROOT, NOFID, "a", O_RDONLY).unwrap();
    assert_eq!(s.read_all(NOFID).unwrap(), b"text");
    s.clunk(NOFID).unwrap();
}
