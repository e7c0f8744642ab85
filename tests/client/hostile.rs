//! Names that climb, files that are none, swaps of the tree, floods.

use crate::harness::{
    Launch, Mount, ROOT, Tree, expect_descriptors, serve, serve_mounts, session_of, spec,
    write_spec,
};
use crate::p9::{Data, Fault, NOID, O_RDONLY, O_RDWR, QT_SPECIAL, frame, refused, t};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

const OWNER: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

#[test]
fn name_with_a_nul_is_einval() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    for name in [b"\0".as_slice(), b"a\0", b"a\0b", b"\0a"] {
        refused(s.walk(ROOT, 2, &[name]), Errno::EINVAL);
        refused(s.walkgetattr(ROOT, 2, &[name]), Errno::EINVAL);
    }
}

#[test]
fn name_of_65535_bytes_is_enametoolong() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let name = [b'n'; 65535];
    refused(s.walk(ROOT, 2, &[&name]), Errno::ENAMETOOLONG);
    refused(s.walkgetattr(ROOT, 2, &[&name]), Errno::ENAMETOOLONG);
    refused(
        s.lcreate(ROOT, &name, O_RDWR, 0o600, NOID),
        Errno::ENAMETOOLONG,
    );
    s.getattr(ROOT, 0).unwrap();
}

/// The safe-name rule is about parts, not about dots.
#[test]
fn names_that_only_look_odd_are_served() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    for name in [
        "...", ".a", "a.", " ", "\\", "a\\b", "%2e%2e", "~", "-", "*", "\n",
    ] {
        s.walk_to(ROOT, 2, "").unwrap();
        s.lcreate(2, name.as_bytes(), O_RDWR, 0o600, NOID).unwrap();
        s.walk(ROOT, 3, &[name.as_bytes()]).unwrap();
        assert!(tree.path(name).exists());
    }
}

// ---- files that are none ----

#[test]
fn special_files_are_eperm_and_nothing_happens_to_them() {
    let tree = Tree::new();
    nix::unistd::mkfifo(&tree.path("fifo"), OWNER).unwrap();
    mknod(&tree.path("char"), SFlag::S_IFCHR, OWNER, makedev(1, 3)).unwrap();
    mknod(&tree.path("tty"), SFlag::S_IFCHR, OWNER, makedev(5, 0)).unwrap();
    mknod(&tree.path("block"), SFlag::S_IFBLK, OWNER, makedev(7, 0)).unwrap();
    let listener = UnixListener::bind(tree.path("socket")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut s = serve(&tree);
    let before = s.gofer.descriptor_count();
    for name in ["fifo", "char", "tty", "block", "socket"] {
        refused(s.walk_to(ROOT, 2, name), Errno::EPERM);
        refused(s.walkgetattr(ROOT, 2, &[name.as_bytes()]), Errno::EPERM);
        refused(s.walk_to(ROOT, 2, &format!("{name}/below")), Errno::EPERM);
        refused(s.getattr(2, 0), Errno::EBADF);
    }
    // Nobody has the FIFO open for reading, and nobody has connected.
    let writer = open(
        &tree.path("fifo"),
        OFlag::O_WRONLY | OFlag::O_NONBLOCK,
        Mode::empty(),
    );
    assert_eq!(writer.unwrap_err(), Errno::ENXIO);
    assert!(listener.accept().is_err());
    s.expect_descriptors(before);
}

#[test]
fn special_files_are_listed() {
    let tree = Tree::new();
    nix::unistd::mkfifo(&tree.path("fifo"), OWNER).unwrap();
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(s.list(2, 4096).unwrap()[0].kind, QT_SPECIAL);
}

/// The file walked to is opened, not what now has its name.
#[test]
fn file_replaced_by_a_fifo_before_its_open_does_not_block() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    fs::rename(tree.path("a"), tree.path("b")).unwrap();
    nix::unistd::mkfifo(&tree.path("a"), OWNER).unwrap();
    s.lopen(2, O_RDWR).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"text");
}

// ---- swaps ----

#[test]
fn symlinks_lead_nowhere() {
    let tree = Tree::new();
    fs::create_dir(tree.outside("secrets")).unwrap();
    fs::write(tree.outside("secrets/file"), b"outside").unwrap();
    tree.link("absolute", tree.outside("secrets"));
    tree.link("relative", "../secrets");
    tree.link("root", "/");
    tree.link("up", "..");
    tree.link("file", tree.outside("secrets/file"));
    let mut s = serve(&tree);
    for name in ["absolute", "relative", "root", "up", "file"] {
        refused(s.walk_to(ROOT, 2, &format!("{name}/file")), Errno::EINVAL);
        s.walk_to(ROOT, 2, name).unwrap();
        refused(s.walk_to(2, 3, "file"), Errno::EINVAL);
        refused(s.lopen(2, O_RDWR), Errno::EINVAL);
        refused(s.lcreate(2, b"new", O_RDWR, 0o600, NOID), Errno::EINVAL);
    }
    assert_eq!(fs::read_dir(tree.outside("secrets")).unwrap().count(), 1);
}

#[test]
fn directory_replaced_by_a_symlink_is_still_the_directory() {
    let tree = Tree::new();
    fs::create_dir(tree.outside("secrets")).unwrap();
    fs::write(tree.outside("secrets/file"), b"outside").unwrap();
    tree.dir("d");
    tree.file("d/file", b"inside");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    s.walk_to(ROOT, 5, "d/file").unwrap();
    fs::rename(tree.path("d"), tree.path("moved")).unwrap();
    tree.link("d", tree.outside("secrets"));

    s.open(2, 3, "file", O_RDONLY).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"inside");
    s.lopen(5, O_RDONLY).unwrap();
    assert_eq!(s.read_all(5).unwrap(), b"inside");
    refused(s.walk_to(ROOT, 4, "d/file"), Errno::EINVAL);
    s.lcreate(2, b"new", O_RDWR, 0o600, NOID).unwrap();
    assert!(tree.path("moved/new").exists());
    assert!(!tree.outside("secrets/new").exists());
}

#[test]
fn directory_swapped_all_the_time_never_leads_outside() {
    let tree = Tree::new();
    fs::create_dir(tree.outside("secrets")).unwrap();
    fs::write(tree.outside("secrets/file"), b"outside").unwrap();
    tree.dir("x");
    tree.file("x/file", b"inside");
    tree.link("y", "../secrets");
    let mut s = serve(&tree);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (x, y) = (tree.path("x"), tree.path("y"));
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &x, AT_FDCWD, &y, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        let mut inside = 0;
        for round in 0..3000 {
            match s.walk_to(ROOT, 2, "x/file") {
                Ok(_) => {
                    inside += 1;
                    s.lopen(2, O_RDONLY).unwrap();
                    assert_eq!(s.read_all(2).unwrap(), b"inside");
                }
                other => refused(other, Errno::EINVAL),
            }
            match s.walk_to(ROOT, 3, "x") {
                Ok(_) if s.getattr(3, 0).unwrap().qid.kind == crate::p9::QT_DIR => {
                    s.lcreate(3, format!("new{round}").as_bytes(), O_RDWR, 0o600, NOID)
                        .unwrap();
                }
                other => drop(other.unwrap()),
            }
        }
        stop.store(true, Ordering::Relaxed);
        println!("{inside} of 3000 walks met the directory");
    });
    assert_eq!(fs::read_dir(tree.outside("secrets")).unwrap().count(), 1);
    assert_eq!(fs::read(tree.outside("secrets/file")).unwrap(), b"outside");
}

// ---- descriptors and fids ----

#[test]
fn descriptors_sent_with_requests_are_closed() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    s.send(&t::getattr(1, ROOT, 0)).unwrap();
    s.recv().unwrap();
    let before = s.gofer.descriptors().unwrap();
    let file = File::open("/etc/passwd").unwrap();
    for count in [1, 2, 3, 16, 253] {
        for _ in 0..20 {
            s.send_with(&t::getattr(1, ROOT, 0), &vec![file.as_raw_fd(); count])
                .unwrap();
            assert_eq!(s.recv().unwrap().kind, 25);
        }
    }
    // With a part of a frame, and with many frames at once.
    let request = t::getattr(2, ROOT, 0);
    s.send_with(&request[..3], &[file.as_raw_fd(); 5]).unwrap();
    s.send_with(&request[3..], &[file.as_raw_fd(); 5]).unwrap();
    assert_eq!(s.recv().unwrap().kind, 25);
    s.send_with(&request.repeat(100), &[file.as_raw_fd(); 5])
        .unwrap();
    for _ in 0..100 {
        assert_eq!(s.recv().unwrap().kind, 25);
    }
    s.expect_descriptors(before.len());
    assert_eq!(s.gofer.descriptors().unwrap(), before);
}

#[test]
fn fids_of_an_ended_connection_are_freed() {
    let tree = Tree::new();
    tree.dir("m");
    for number in 0..4000 {
        tree.file(&format!("m/f{number}"), b"");
    }
    let (gofer, mut clients) = serve_mounts(&tree, false, &[Mount::bind("/m", &[])]);
    let start = gofer.descriptor_count();
    let mut flooding = clients.remove(0);
    for number in 0..4000u32 {
        let fid = 10 + 3 * number;
        flooding
            .walk_to(ROOT, fid, &format!("m/f{number}"))
            .unwrap();
        flooding.walk_to(fid, fid + 1, "").unwrap();
        if number % 4 == 0 {
            flooding.lopen(fid + 1, O_RDWR).unwrap();
        }
    }
    assert!(gofer.descriptor_count() > start + 4000);
    drop(flooding);
    expect_descriptors(&gofer, &mut clients[0], start - 1); // without the socket, at least
}

#[test]
fn fid_number_reused_for_thousands_of_files_holds_one() {
    let tree = Tree::new();
    for number in 0..3000 {
        tree.file(&format!("f{number}"), b"");
    }
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f0").unwrap();
    let before = s.gofer.descriptor_count();
    for number in 0..3000 {
        s.walk_to(ROOT, 2, &format!("f{number}")).unwrap();
    }
    s.expect_descriptors(before);
}

/// A clone costs a fid and nothing else.
#[test]
fn fids_up_to_a_million_are_held_then_enomem() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let descriptors = s.gofer.descriptor_count();
    let (mut held, mut next) = (1u32, 2u32); // the root's
    'flood: loop {
        let batch: Vec<u8> = (next..next + 10_000)
            .flat_map(|fid| t::walk(1, ROOT, fid, &[]))
            .collect();
        s.send(&batch).unwrap();
        for fid in next..next + 10_000 {
            let reply = s.recv().unwrap();
            if reply.kind == 111 {
                held += 1;
                continue;
            }
            assert_eq!(reply.errno(), Errno::ENOMEM);
            for _ in fid + 1..next + 10_000 {
                assert_eq!(s.recv().unwrap().errno(), Errno::ENOMEM);
            }
            break 'flood;
        }
        next += 10_000;
        assert!(next < 1_100_000);
    }
    assert_eq!(held, 1_000_000);
    refused(s.walk_to(ROOT, 5_000_000, ""), Errno::ENOMEM);
    s.walk_to(ROOT, 5, "").unwrap(); // a replacement takes no place
    s.clunk(5).unwrap();
    s.walk_to(ROOT, 5_000_000, "").unwrap();
    s.expect_descriptors(descriptors);
}

#[test]
fn descriptor_limit_is_emfile_and_known_files_still_open() {
    let tree = Tree::new();
    for number in 0..300 {
        tree.file(&format!("f{number}"), b"text");
    }
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).nofile(200, 200));
    let mut held = 0;
    let refusal = loop {
        match s.walk_to(ROOT, 10 + held, &format!("f{held}")) {
            Ok(_) => held += 1,
            Err(fault) => break fault,
        }
        assert!(held < 200);
    };
    assert!(
        matches!(refusal, Fault::Errno(Errno::EMFILE)),
        "{refusal:?}"
    );
    assert!(held > 100, "{held}");
    for fid in 10..30 {
        s.lopen(fid, O_RDWR).unwrap();
        assert_eq!(s.read_all(fid).unwrap(), b"text");
    }
    for fid in 10..10 + held {
        s.clunk(fid).unwrap();
    }
    s.open(ROOT, 2, "f299", O_RDONLY).unwrap();
}

#[test]
fn descriptor_limit_at_opens_is_emfile_and_nothing_is_lost() {
    let tree = Tree::new();
    tree.file("a", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).nofile(200, 200));
    let mut fid = 10;
    loop {
        s.walk_to(ROOT, fid, "a").unwrap(); // shares the descriptor of the file
        match s.lopen(fid, O_RDWR) {
            Ok(_) => fid += 1,
            Err(Fault::Errno(Errno::EMFILE)) => break,
            Err(other) => panic!("{other}"),
        }
        assert!(fid < 300);
    }
    s.clunk(10).unwrap();
    s.lopen(fid, O_RDWR).unwrap();
    s.write(fid, 0, Data(b"T")).unwrap();
    assert_eq!(tree.read("a"), b"Text");
}

/// A walk that runs out half way gives back what it had.
#[test]
fn descriptor_limit_in_a_long_walk_leaves_nothing_behind() {
    let tree = Tree::new();
    tree.dir(&["d"; 250].join("/"));
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).nofile(200, 200));
    let before = s.gofer.descriptor_count();
    let names = vec![b"d".as_slice(); 250];
    for _ in 0..10 {
        refused(s.walk(ROOT, 2, &names), Errno::EMFILE);
    }
    s.expect_descriptors(before);
    s.walk(ROOT, 2, &names[..100]).unwrap();
}

/// The kernel cannot place them then; the frame they came with is a frame like any other.
#[test]
fn descriptors_sent_when_the_table_is_full_do_no_harm() {
    let tree = Tree::new();
    tree.file("a", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).nofile(100, 100));
    let mut fid = 10;
    while s.walk_to(ROOT, fid, "a").is_ok() && s.lopen(fid, O_RDONLY).is_ok() {
        fid += 1;
        assert!(fid < 200);
    }
    let file = File::open("/etc/passwd").unwrap();
    for _ in 0..50 {
        s.send_with(&t::getattr(1, ROOT, 0), &[file.as_raw_fd(); 7])
            .unwrap();
        assert_eq!(s.recv().unwrap().kind, 25);
    }
    s.clunk(10).unwrap();
    s.lopen(fid, O_RDONLY).unwrap();
    assert_eq!(s.read_all(fid).unwrap(), b"text");
}

// ---- noise ----

/// One answer on its own tag for each frame, whatever is in it.
#[test]
fn random_bodies_of_every_type_are_answered() {
    let tree = Tree::new();
    tree.dir("d/e");
    tree.file("a", vec![5; 100_000]);
    tree.file("d/b", b"text");
    tree.link("l", "d");
    let names: [&[u8]; 9] = [b"a", b"d", b"b", b"l", b"e", b"..", b"", b"new", b"x/y"];
    for seed in 1..=8u64 {
        println!("seed {seed}");
        let mut state = seed * 0x9e37_79b9_7f4a_7c15;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % below
        };
        let s = serve(&tree);
        for _ in 0..4000 {
            let tag = random(65536) as u16;
            let fid = random(6) as u32;
            let other = random(6) as u32;
            let name = names[random(9) as usize];
            let request = match random(14) {
                0 => t::walk(tag, fid, other, &[name]),
                1 => t::walk(tag, fid, other, &[name, names[random(9) as usize]]),
                2 => t::walk(tag, 1, other, &[]),
                3 => t::walkgetattr(tag, fid, other, &[name]),
                4 => t::lopen(tag, fid, random(1 << 20) as u32),
                5 => t::lcreate(tag, fid, name, random(8) as u32, 0o600, NOID),
                6 => t::read(tag, fid, random(200_000), random(300_000) as u32),
                7 => t::write(tag, fid, random(100), Data(b"written")),
                8 => t::readdir(tag, fid, random(3), random(70_000) as u32),
                9 => t::clunk(tag, 2 + other),
                10 => t::readlink(tag, fid),
                11 => {
                    let body: Vec<u8> = (0..random(40)).map(|_| random(256) as u8).collect();
                    let kind = random(256) as u8;
                    frame(if kind == 100 { 108 } else { kind }, tag, &body)
                }
                12 => {
                    // A sound frame with one byte of its body changed; sizes stay.
                    let mut bytes = t::walk(tag, fid, other, &[name, b"d", b"e"]);
                    let at = 7 + random(bytes.len() as u64 - 7) as usize;
                    bytes[at] = random(256) as u8;
                    bytes
                }
                _ => t::getattr(tag, fid, u64::MAX),
            };
            s.send(&request).unwrap();
            let reply = s.recv().unwrap();
            assert_eq!(reply.tag, tag, "request {request:02x?}");
            assert!(
                reply.kind == 7 || reply.kind == request[4] + 1,
                "request {request:02x?}"
            );
        }
    }
}
