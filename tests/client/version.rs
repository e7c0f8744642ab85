//! Tversion: docs/protocol.md 3.5 and 5; what differs from the original is said at the test.

use crate::harness::{Gofer, Launch, Mount, ROOT, Session, Tree, serve, spec, write_spec};
use crate::p9::{Client, MSIZE, NOFID, NOID, NOTAG, O_RDONLY, refused, t};
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

/// Calls `case` with each text that is no version.
fn each_unparsable(mut case: impl FnMut(&[u8])) {
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
    bad.iter().for_each(|version| case(version));
}

/// A program that serves an empty tree, and a connection on which nothing was said yet.
fn fresh_connection() -> (Tree, Gofer, Client) {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let client = gofer.client(0);
    (tree, gofer, client)
}

/// The original says EINVAL to all. Linux's client takes Rlerror of another version's exchange for "Bad address".
#[test]
fn version_unparsable_is_unknown_where_it_does_not_begin_as_ours_and_einval_where_it_does() {
    let (_tree, _gofer, mut c) = fresh_connection();
    let mut unknown = 0;
    each_unparsable(|version| {
        if version.starts_with(b"9P2000.L") {
            return refused(c.version(MSIZE, version), Errno::EINVAL);
        }
        let reply = c.version(MSIZE, version).unwrap();
        assert_eq!(
            (reply.msize, reply.version.as_slice()),
            (MSIZE, b"unknown".as_slice()),
            "{}",
            version.escape_ascii()
        );
        unknown += 1;
    });
    assert_eq!(unknown, 9);
    // Nothing was agreed on by that, and a version can be still.
    assert_eq!(c.version(MSIZE, b"9P2000.L").unwrap().msize, MSIZE);
    c.attach_root(ROOT).unwrap();
}

/// Who has agreed on a version is no other protocol's client.
#[test]
fn version_unparsable_is_einval_once_one_was_agreed_on() {
    for agreed in [b"9P2000.L".as_slice(), b"9P2000.L.Google.7"] {
        let (_tree, gofer, mut c) = fresh_connection();
        c.version(MSIZE, agreed).unwrap();
        each_unparsable(|version| refused(c.version(MSIZE, version), Errno::EINVAL));
        c.attach_root(ROOT).unwrap();
        assert!(!gofer.stderr().contains("refused"), "{}", gofer.stderr());
    }
}

/// Its message size is lowered, where for a version of gVisor's it would be refused; 0 is none.
#[test]
fn version_unknown_has_the_message_size_that_would_be_granted() {
    let (_tree, _gofer, mut c) = fresh_connection();
    for (msize, granted) in [(MSIZE + 1, MSIZE), (u32::MAX, MSIZE), (MSIZE, MSIZE)] {
        let reply = c.version(msize, b"9P2000.u").unwrap();
        assert_eq!((reply.msize, &*reply.version), (granted, &b"unknown"[..]));
    }
    refused(c.version(0, b"9P2000.u"), Errno::EINVAL);
    refused(c.version(MSIZE + 1, b"9P2000.L.Google.x"), Errno::EINVAL);
    // In force, as of a version that was granted.
    c.version(64, b"9P2000").unwrap();
    c.send(&t::walk(9, ROOT, 2, &[&[b'x'; 100]])).unwrap();
    c.expect_closed();
}

fn lines_with(gofer: &Gofer, text: &str) -> Vec<String> {
    let log = gofer.stderr();
    let lines = log.lines().filter(|line| line.contains(text));
    lines.map(String::from).collect()
}

#[test]
fn version_unknown_is_a_line_that_names_what_was_asked_for() {
    let (_tree, gofer, mut c) = fresh_connection();
    c.version(MSIZE, b"9P2000.u").unwrap();
    c.version(MSIZE, b"a \"b\"\n\xff").unwrap();
    c.version(MSIZE, &[b'9'; 60_000]).unwrap();
    refused(c.version(MSIZE, b"9P2000.L.Google.x"), Errno::EINVAL);
    let lines = lines_with(&gofer, "Tversion");
    let text = "FD 3: Tversion refused (only 9P2000.L is served): \"";
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with('W'), "a warning: {}", lines[0]);
    assert!(lines[0].ends_with(&format!("x:0] {text}9P2000.u\"")));
    assert!(lines[1].ends_with(&format!("x:0] {text}a \\\"b\\\"\\n\\xff\"")));
    assert!(lines[2].contains(text) && lines[2].ends_with("9999"));
}

/// A client may try as often as it likes, and each time it is answered.
#[test]
fn refusals_of_one_connection_are_sixteen_lines_at_most() {
    let tree = Tree::new();
    let mount = Mount::bind("/missing", &[]);
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[mount]));
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    let (mut first, mut second) = (gofer.client(0), gofer.client(1));
    for _ in 0..10 {
        first.version(MSIZE, b"9P2000.u").unwrap();
    }
    first.version(MSIZE, b"9P2000.L").unwrap();
    for _ in 0..100 {
        refused(
            first.attach(ROOT, NOFID, b"", b"/none", NOID),
            Errno::ENOENT,
        );
    }
    assert_eq!(lines_with(&gofer, "FD 3: Tversion refused").len(), 10);
    assert_eq!(lines_with(&gofer, "FD 3: Tattach refused").len(), 6);
    // Each connection has its own.
    for _ in 0..100 {
        refused(second.attach_root(ROOT), Errno::EIO);
    }
    assert_eq!(lines_with(&gofer, "FD 4: Tattach refused").len(), 16);
    first.attach_root(ROOT).unwrap();
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
