//! Messages of versions 8 to 13 other than those of extended attributes: Tsetattrclunk, Tmultigetattr, Tbind,
//! Tchannel; docs/protocol.md 3.11, 3.14 to 3.16.

use crate::entries::names;
use crate::harness::{
    Launch, Mount, ROOT, Session, Tree, meanwhile, serve, serve_read_only, session_of, spec,
    write_spec,
};
use crate::p9::{
    MSIZE, O_RDONLY, QT_DIR, QT_FILE, QT_LINK, QT_SPECIAL, Rfullstat, SetAttr, VALID, refused,
};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use std::os::unix::fs::MetadataExt;

fn mode(mode: u32) -> SetAttr {
    SetAttr {
        mode,
        ..SetAttr::default()
    }
}

#[test]
fn setattrclunk_changes_and_gives_the_fid_up() {
    let tree = Tree::new();
    tree.file("f", b"text");
    let mut s = serve(&tree);
    let before = s.gofer.descriptor_count();
    s.walk_to(ROOT, 2, "f").unwrap();
    s.setattrclunk(2, 1, &mode(0o640)).unwrap();
    assert_eq!(tree.stat("f").mode(), 0o100_640);
    refused(s.getattr(2, 0), Errno::EBADF);
    // Also with nothing to change, and of an open file.
    s.open(ROOT, 2, "f", O_RDONLY).unwrap();
    s.setattrclunk(2, 0, &mode(0)).unwrap();
    refused(s.getattr(2, 0), Errno::EBADF);
    s.expect_descriptors(before);
}

#[test]
fn setattrclunk_that_fails_gives_the_fid_up_too() {
    const CTIME: u32 = 0x40;
    let tree = Tree::new();
    tree.file("f", b"text");
    let mut s = serve(&tree);
    refused(s.setattrclunk(99, 1, &mode(0o640)), Errno::EBADF);
    s.walk_to(ROOT, 2, "f").unwrap();
    refused(s.setattrclunk(2, 1 | CTIME, &mode(0o640)), Errno::EPERM);
    refused(s.getattr(2, 0), Errno::EBADF);
    let mut s = serve_read_only(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    refused(s.setattrclunk(2, 1, &mode(0o640)), Errno::EROFS);
    refused(s.getattr(2, 0), Errno::EBADF);
    assert_eq!(tree.stat("f").mode() & 0o777, 0o644);
}

/// Inode, kind and size of each.
fn told(stats: &[Rfullstat]) -> Vec<(u64, u8, u64)> {
    let told = |stat: &Rfullstat| {
        assert_eq!((stat.valid, stat.qid.version), (VALID, 0));
        (stat.qid.path, stat.qid.kind, stat.attr.size)
    };
    stats.iter().map(told).collect()
}

fn on_host(tree: &Tree, name: &str, kind: u8) -> (u64, u8, u64) {
    let stat = tree.stat(name);
    (stat.ino(), kind, stat.len())
}

#[test]
fn multigetattr_goes_down_the_names_and_an_empty_first_one_is_the_fid() {
    let tree = Tree::new();
    tree.dir("d/e");
    tree.file("d/e/f", b"text");
    let mut s = serve(&tree);
    let before = s.gofer.descriptor_count();
    let below = [
        on_host(&tree, "d", QT_DIR),
        on_host(&tree, "d/e", QT_DIR),
        on_host(&tree, "d/e/f", QT_FILE),
    ];
    let stats = s.multigetattr(ROOT, &[b"d", b"e", b"f"]).unwrap().stats;
    assert_eq!(told(&stats), below);
    let stats = s
        .multigetattr(ROOT, &[b"", b"d", b"e", b"f"])
        .unwrap()
        .stats;
    assert_eq!(told(&stats[..1]), [on_host(&tree, "", QT_DIR)]);
    assert_eq!(told(&stats[1..]), below);
    assert_eq!(s.multigetattr(ROOT, &[b""]).unwrap().stats.len(), 1);
    assert_eq!(s.multigetattr(ROOT, &[]).unwrap().stats.len(), 0);
    assert_eq!(s.gofer.descriptor_count(), before);
}

#[test]
fn multigetattr_ends_at_what_is_missing_or_no_directory() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"text");
    tree.link("l", "d");
    nix::unistd::mkfifo(&tree.path("p"), Mode::from_bits_truncate(0o600)).unwrap();
    let mut s = serve(&tree);
    let mut get = |names: &[&[u8]]| told(&s.multigetattr(ROOT, names).unwrap().stats);
    assert_eq!(get(&[b"missing", b"f"]), []);
    assert_eq!(
        get(&[b"d", b"missing", b"f"]),
        [on_host(&tree, "d", QT_DIR)]
    );
    let file = [on_host(&tree, "d", QT_DIR), on_host(&tree, "d/f", QT_FILE)];
    assert_eq!(get(&[b"d", b"f", b"below", b"it"]), file);
    assert_eq!(get(&[b"l", b"f"]), [on_host(&tree, "l", QT_LINK)]);
    assert_eq!(get(&[b"p", b"f"]), [on_host(&tree, "p", QT_SPECIAL)]);
}

#[test]
fn multigetattr_errors_are_einval_for_names_then_ebadf_then_the_hosts() {
    let tree = Tree::new();
    tree.file("f", b"text");
    tree.dir("d");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    let long = [b'x'; 256];
    for names in [
        [b"d".as_slice(), b""],
        [b"", b""],
        [b"..", b"d"],
        [b"d", b"."],
        [b"a/b", b"d"],
        [b"d", b"a\0"],
    ] {
        refused(s.multigetattr(99, &names), Errno::EINVAL);
    }
    refused(s.multigetattr(99, &[b"d"]), Errno::EBADF);
    refused(s.multigetattr(2, &[b"x"]), Errno::ENOTDIR);
    refused(s.multigetattr(2, &[b"", b"x"]), Errno::ENOTDIR);
    let before = s.gofer.descriptor_count();
    for _ in 0..100 {
        refused(s.multigetattr(ROOT, &[b"d", &long]), Errno::ENAMETOOLONG);
    }
    assert_eq!(s.gofer.descriptor_count(), before);
}

/// 2022-01-20: a directory and a symlink to one outside, exchanged all the time.
#[test]
fn multigetattr_of_names_that_are_swapped_stays_inside() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"text");
    std::fs::create_dir(tree.outside("secrets")).unwrap();
    std::fs::write(tree.outside("secrets/f"), b"a long secret").unwrap();
    tree.link("swap", tree.outside("secrets"));
    let mut s = serve(&tree);
    meanwhile(
        || tree.swap("d", "swap").unwrap(),
        || {
            for _ in 0..20_000 {
                let stats = s.multigetattr(ROOT, &[b"d", b"f"]).unwrap().stats;
                if stats.len() == 2 {
                    assert_eq!(stats[1].attr.size, 4);
                } else {
                    assert_eq!((stats.len(), stats[0].qid.kind), (1, QT_LINK));
                }
            }
        },
    );
}

/// As the others of the original that look at files: deleted, open, or neither.
#[test]
fn multigetattr_of_deleted_and_open_fids_is_served() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("f", b"text");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "f", O_RDONLY).unwrap();
    s.open(ROOT, 3, "d", O_RDONLY).unwrap();
    s.unlinkat(ROOT, b"f", 0).unwrap();
    s.unlinkat(ROOT, b"d", 0x200).unwrap();
    assert_eq!(s.multigetattr(2, &[b""]).unwrap().stats[0].attr.nlink, 0);
    assert_eq!(s.multigetattr(3, &[b"", b"x"]).unwrap().stats.len(), 1);
}

#[test]
fn multigetattr_of_256_names_is_served_and_257_are_e2big() {
    let tree = Tree::new();
    let path = ["d"; 256].join("/");
    tree.dir(&path);
    let mut s = serve(&tree);
    let before = s.gofer.descriptor_count();
    let names = [b"d".as_slice(); 257];
    let stats = s.multigetattr(ROOT, &names[..256]).unwrap().stats;
    assert_eq!(stats.len(), 256);
    assert_eq!(told(&stats[255..]), [on_host(&tree, &path, QT_DIR)]);
    refused(s.multigetattr(ROOT, &names), Errno::E2BIG);
    assert_eq!(s.gofer.descriptor_count(), before);
    // As many replies as the message size holds; a shorter list would mean that the rest is missing.
    s.version(9 + 153 * 10, b"9P2000.L.Google.13").unwrap();
    assert_eq!(s.multigetattr(ROOT, &names[..10]).unwrap().stats.len(), 10);
    refused(s.multigetattr(ROOT, &names[..11]), Errno::EMSGSIZE);
}

/// Many in one write, so that each reply has to find its room.
#[test]
fn large_replies_one_behind_the_other_all_arrive() {
    let tree = Tree::new();
    tree.dir(&["d"; 256].join("/"));
    let s: Session = serve(&tree);
    let names = [b"d".as_slice(); 256];
    let requests: Vec<u8> = (0..60)
        .flat_map(|tag| crate::p9::t::multigetattr(tag, ROOT, &names))
        .collect();
    s.send(&requests).unwrap();
    for tag in 0..60 {
        let reply = s.recv().unwrap();
        assert_eq!((reply.kind, reply.tag), (143, tag));
        assert_eq!(reply.body.len(), 2 + 153 * 256);
    }
}

#[test]
fn bind_is_eperm_behind_its_checks_and_makes_nothing() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("f", b"");
    let mut s = serve(&tree);
    for name in [b"".as_slice(), b"..", b"a/b", b"a\0"] {
        refused(s.bind(99, 1, name, 0, 0, 9), Errno::EINVAL);
    }
    refused(s.bind(99, 1, b"s", 0, 0, 9), Errno::EBADF);
    s.walk_to(ROOT, 2, "f").unwrap();
    refused(s.bind(2, 1, b"s", 0, 0, 9), Errno::EINVAL);
    s.open(ROOT, 3, "d", O_RDONLY).unwrap();
    refused(s.bind(3, 1, b"s", 0, 0, 9), Errno::EINVAL);
    refused(s.bind(ROOT, 1, b"s", 0, 0, 9), Errno::EPERM);
    refused(s.getattr(9, 0), Errno::EBADF);
    assert_eq!(names(&tree, ""), ["d", "f"]);
}

/// Any errno keeps gVisor's client on the socket.
#[test]
fn channel_is_enosys_below_version_8_and_to_linux_and_where_there_are_none() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    for (version, channels) in [
        (&b"9P2000.L.Google.7"[..], "--channels=2"),
        (b"9P2000.L", "--channels=2"),
        (b"9P2000.L.Google.13", "--channels=0"),
    ] {
        let mut s = session_of(Launch::new(&tree.bundle(), 1).with(&[channels]));
        s.version(MSIZE, version).unwrap();
        let before = s.gofer.descriptor_count();
        for (id, control) in [(0, 0), (0, 1), (0, 2), (3, 0), (u32::MAX, u32::MAX)] {
            refused(s.channel(id, control), Errno::ENOSYS);
        }
        assert_eq!(s.gofer.descriptor_count(), before);
    }
}

/// Each connection's memory is one file, and each channel has a pair of sockets.
#[test]
fn channels_take_a_descriptor_for_each_connection_and_two_each() {
    let tree = Tree::new();
    tree.dir("m");
    let mounts = [Mount::bind("/m", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let count = |channels: &str| {
        let launch = Launch::new(&tree.bundle(), 2).with(&["--channels", channels]);
        let mut gofer = launch.start();
        let _served = gofer.connect(0);
        gofer.descriptor_count()
    };
    let none = count("0");
    assert_eq!(count("1"), none + 2 * (1 + 2));
    assert_eq!(count("5"), none + 2 * (1 + 10));
    // 127 in all, of which the second connection gets what is left.
    assert_eq!(count("100"), none + 2 + 2 * 127);
}

/// A limit that leaves few descriptors to files leaves fewer to channels.
#[test]
fn channels_are_fewer_where_descriptors_are_few() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let launch = Launch::new(&tree.bundle(), 1).with(&["--channels=127"]);
    let mut s = session_of(launch.nofile(256, 256));
    s.version(MSIZE, b"9P2000.L.Google.13").unwrap();
    let served = (0..127).take_while(|&id| s.channel(id, 0).is_ok()).count();
    assert!((10..30).contains(&served), "{served}");
    assert!(s.gofer.descriptor_count() < 80);
}
