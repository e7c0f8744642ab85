//! Tversion: protocol.md 3.5 and 5; what differs from the original is said at the test.

use crate::harness::{ROOT, Session, Tree, serve};
use crate::p9::{MSIZE, NOTAG, O_RDONLY, refused, t};
use nix::errno::Errno;

fn empty_session() -> (Tree, Session) {
    let tree = Tree::new();
    let session = serve(&tree);
    (tree, session)
}

#[test]
fn version_up_to_13_is_echoed() {
    let (_tree, mut s) = empty_session();
    for number in 0..=13 {
        let version = format!("9P2000.L.Google.{number}");
        let reply = s.version(MSIZE, version.as_bytes()).unwrap();
        assert_eq!((reply.msize, reply.version), (MSIZE, version.into_bytes()));
    }
}

#[test]
fn version_number_is_echoed_as_spelt() {
    let (_tree, mut s) = empty_session();
    let reply = s.version(8192, b"9P2000.L.Google.007").unwrap();
    assert_eq!(reply.version, b"9P2000.L.Google.007");
    assert_eq!(reply.msize, 8192);
}

/// The original says EAGAIN; the sandbox's client takes a lower version at once.
#[test]
fn version_above_13_is_answered_with_13() {
    let (_tree, mut s) = empty_session();
    for version in [
        "9P2000.L.Google.14",
        "9P2000.L.Google.100",
        "9P2000.L.Google.4294967295",
    ] {
        let reply = s.version(MSIZE, version.as_bytes()).unwrap();
        assert_eq!(reply.version, b"9P2000.L.Google.13", "{version}");
        assert_eq!(reply.msize, MSIZE);
    }
}

#[test]
fn version_base_is_accepted() {
    let (_tree, mut s) = empty_session();
    let reply = s.version(8192, b"9P2000.L").unwrap();
    assert_eq!(
        (reply.msize, reply.version.as_slice()),
        (8192, b"9P2000.L".as_slice())
    );
}

#[test]
fn version_msize_of_1_mib_is_accepted_by_both_kinds() {
    let (_tree, mut s) = empty_session();
    assert_eq!(s.version(MSIZE, b"9P2000.L").unwrap().msize, MSIZE);
    assert_eq!(s.version(MSIZE, b"9P2000.L.Google.7").unwrap().msize, MSIZE);
}

#[test]
fn version_msize_0_is_einval() {
    let (_tree, mut s) = empty_session();
    refused(s.version(0, b"9P2000.L"), Errno::EINVAL);
    refused(s.version(0, b"9P2000.L.Google.7"), Errno::EINVAL);
    refused(s.version(0, b"9P2000.L.Google.13"), Errno::EINVAL);
}

#[test]
fn version_google_msize_above_1_mib_is_einval() {
    let (_tree, mut s) = empty_session();
    for msize in [MSIZE + 1, 4 << 20, u32::MAX] {
        refused(s.version(msize, b"9P2000.L.Google.7"), Errno::EINVAL);
        refused(s.version(msize, b"9P2000.L.Google.13"), Errno::EINVAL);
    }
}

/// Linux takes the smaller msize of both; the original refuses and the mount fails.
#[test]
fn version_base_msize_above_1_mib_is_lowered() {
    let (_tree, mut s) = empty_session();
    for msize in [MSIZE + 1, 4 << 20, u32::MAX] {
        assert_eq!(s.version(msize, b"9P2000.L").unwrap().msize, MSIZE);
    }
}

#[test]
fn version_unparsable_is_einval() {
    let (_tree, mut s) = empty_session();
    let long = [b'9'; 60_000];
    let many_digits = [b"9P2000.L.Google.".as_slice(), &[b'0'; 70], b"x"].concat();
    let bad: &[&[u8]] = &[
        b"",
        b"9P2000",
        b"9P2000.u",
        b"9p2000.L",
        b"9P2000.l",
        b"9P2000.L ",
        b" 9P2000.L",
        b"9P2000.L\0",
        b"9P2000.L.",
        b"9P2000.L.Google",
        b"9P2000.L.Google.",
        b"9P2000.L.google.7",
        b"9P2000.L.Google.x",
        b"9P2000.L.Google.+7",
        b"9P2000.L.Google.-7",
        b"9P2000.L.Google. 7",
        b"9P2000.L.Google.7 ",
        b"9P2000.L.Google.7.",
        b"9P2000.L.Google.7.1",
        b"9P2000.L.Google.0x7",
        b"9P2000.L.Google.4294967296",
        b"9P2000.L.Google.99999999999999999999",
        b"9P2000.L.Linux.7",
        b"unknown",
        b"\xff\xfe",
        &long,
        &many_digits,
    ];
    for version in bad {
        refused(s.version(MSIZE, version), Errno::EINVAL);
    }
}

#[test]
fn version_in_mid_session_keeps_the_fids() {
    let tree = Tree::new();
    tree.file("a", b"hello");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    s.version(8192, b"9P2000.L.Google.3").unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"hello");
}

/// The negotiated version is not checked.
#[test]
fn version_does_not_limit_the_messages() {
    let (_tree, mut s) = empty_session();
    s.version(8192, b"9P2000.L").unwrap();
    s.walkgetattr(ROOT, 2, &[]).unwrap();
    s.flushf(2).unwrap();
}

#[test]
fn version_sets_the_receive_limit() {
    let (_tree, s) = empty_session();
    let mut s = s;
    s.version(100, b"9P2000.L.Google.7").unwrap();
    s.walk(ROOT, 2, &[&[b'x'; 81]])
        .expect_err("a frame of 100 bytes is answered");
    s.send(&t::walk(9, ROOT, 2, &[&[b'x'; 82]])).unwrap();
    s.expect_closed();
}

/// As in the original, the msize is in force even if the version is then refused.
#[test]
fn version_refused_for_its_text_still_sets_the_msize() {
    let (_tree, mut s) = empty_session();
    refused(s.version(64, b"nonsense"), Errno::EINVAL);
    s.send(&t::walk(9, ROOT, 2, &[&[b'x'; 100]])).unwrap();
    s.expect_closed();
}

/// There is no lower bound; payloads shrink to fit.
#[test]
fn version_with_a_tiny_msize_is_accepted() {
    let tree = Tree::new();
    tree.file("a", b"0123456789abcdef");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    s.walk_to(ROOT, 3, "").unwrap();
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.version(23, b"9P2000.L").unwrap().msize, 23);
    assert_eq!(s.read(2, 0, 100).unwrap().data.0, b"0123456789ab");
    assert_eq!(s.read(2, 15, 100).unwrap().data.0, b"f");
    refused(s.readdir(3, 0, 100), Errno::EINVAL);
    s.clunk(2).unwrap();
    s.send(&t::version(1, 1, b"9P2000.L")).unwrap(); // 21 bytes
    assert_eq!(s.recv().unwrap().kind, 101);
    s.send(&t::clunk(1, 3)).unwrap();
    s.expect_closed();
}

#[test]
fn version_with_notag_is_answered_on_notag() {
    let (_tree, s) = empty_session();
    // The literal frames of Linux and of the reply.
    s.send(&hex("1500000064ffff0020000008003950323030302e4c"))
        .unwrap();
    let reply = s.recv().unwrap();
    assert_eq!((reply.kind, reply.tag), (101, NOTAG));
    assert_eq!(
        reply.body,
        &hex("1500000065ffff0020000008003950323030302e4c")[7..]
    );
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
