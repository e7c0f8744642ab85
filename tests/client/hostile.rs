//! Names that climb, files that are none, swaps of the tree, floods.

use crate::harness::{
    Launch, Mount, Namespace, ROOT, Tree, expect_descriptors, meanwhile, serve, serve_mounts,
    session_of, spec, write_spec,
};
use crate::p9::{
    Data, Fault, NOID, O_RDONLY, O_RDWR, O_TRUNC, QT_SPECIAL, SetAttr, frame, refused, t,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

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
    meanwhile(
        || tree.swap("x", "y").unwrap(),
        || {
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
            println!("{inside} of 3000 walks met the directory");
        },
    );
    assert_eq!(fs::read_dir(tree.outside("secrets")).unwrap().count(), 1);
    assert_eq!(fs::read(tree.outside("secrets/file")).unwrap(), b"outside");
}

// ---- descriptors and fids ----

#[test]
fn descriptors_sent_with_requests_are_refused_or_closed() {
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

/// One that lingers when it is closed would hold the server up, if it were the last to close it.
#[test]
fn descriptors_are_refused_where_the_kernel_can() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    s.getattr(ROOT, 0).unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    let file = File::open("/etc/passwd").unwrap();
    let sent = sendmsg::<()>(
        s.socket.as_raw_fd(),
        &[IoSlice::new(&t::getattr(1, ROOT, 0))],
        &[ControlMessage::ScmRights(&[file.as_raw_fd()])],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    assert_eq!(sent.err(), (version >= (6, 16)).then_some(Errno::EPERM));
}

// ---- noise ----

/// One answer on its own tag for each frame, whatever is in it and whatever came before; as root, and
/// in a user namespace, where files are re-opened by name and owners cannot be set.
#[test]
fn random_requests_of_every_type_are_answered() {
    for seed in 1..=SEEDS {
        for namespace in [None, Some(Namespace::User)] {
            println!("seed {seed}, {namespace:?}");
            play_random_requests(seed, namespace);
        }
    }
}

const SEEDS: u64 = 6;

fn play_random_requests(seed: u64, namespace: Option<Namespace>) {
    let tree = Tree::new();
    tree.dir("d/e");
    tree.file("a", vec![5; 100_000]);
    tree.file("d/b", b"text");
    tree.link("l", "d");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let launch = Launch::new(&tree.bundle(), 1);
    let mut s = session_of(match namespace {
        Some(namespace) => launch.namespace(namespace),
        None => launch,
    });
    let before = s.gofer.descriptor_count();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for _ in 0..4000 {
        let request = random.request();
        s.send(&request).unwrap();
        let reply = match s.recv() {
            Ok(reply) => reply,
            Err(fault) => panic!("{fault} after {request:02x?}: {:?}", s.gofer.exit()),
        };
        let tag = u16::from_le_bytes([request[5], request[6]]);
        assert_eq!(reply.tag, tag, "{request:02x?}");
        assert!(
            reply.kind == 7 || reply.kind == request[4] + 1,
            "{request:02x?}"
        );
    }
    for fid in 2..8 {
        let _ = s.clunk(fid); // not all are in use
    }
    s.expect_descriptors(before);
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn u32(&mut self, limit: u64) -> u32 {
        self.below(limit) as u32
    }

    /// Never the root's, which would soon be lost; now and then one that does not exist.
    fn fid(&mut self) -> u32 {
        2 + self.u32(6)
    }

    fn name(&mut self) -> &'static [u8] {
        const NAMES: [&[u8]; 12] = [
            b"a", b"b", b"c", b"d", b"e", b"l", b"new", b"a", b"d", b"..", b"", b"x/y",
        ];
        NAMES[self.below(12) as usize]
    }

    /// An id the host may take, or none.
    fn id(&mut self) -> u32 {
        if self.below(2) == 0 {
            NOID
        } else {
            self.u32(70_000)
        }
    }

    /// Small numbers, and those at the edges.
    fn number(&mut self) -> u64 {
        const EDGES: [u64; 6] = [0, 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX];
        if self.below(4) == 0 {
            EDGES[self.below(6) as usize]
        } else {
            self.below(200_000)
        }
    }

    fn request(&mut self) -> Vec<u8> {
        let tag = self.below(65536) as u16;
        let (fid, other, name) = (self.fid(), self.fid(), self.name());
        match self.below(36) {
            0 => t::walk(tag, fid, other, &[name]),
            1 => t::walk(tag, fid, other, &[name, self.name()]),
            2 | 3 => t::walk(tag, ROOT, other, &[]),
            4 | 5 => t::walk(tag, ROOT, other, &[name]),
            6 => t::walkgetattr(tag, fid, other, &[name]),
            7 | 8 => t::lopen(tag, fid, self.u32(4) | (self.u32(1 << 22) & !3 & !O_TRUNC)),
            9 => t::lopen(tag, fid, self.u32(4) | O_TRUNC),
            10 => t::lcreate(tag, fid, name, self.u32(8), self.u32(1 << 16), self.id()),
            11 => t::ucreate(
                tag,
                fid,
                name,
                self.u32(1 << 22),
                self.u32(1 << 16),
                self.id(),
                self.id(),
            ),
            12 => t::read(tag, fid, self.number(), self.u32(300_000)),
            13 => t::write(tag, fid, self.number() % 300_000, Data(b"written")),
            14 => t::readdir(tag, fid, self.below(3), self.u32(70_000)),
            15 => t::clunk(tag, other),
            16 => t::readlink(tag, fid),
            17 => t::fsync(tag, fid, 0),
            18 => t::statfs(tag, fid),
            19 => t::mkdir(tag, fid, name, self.u32(1 << 16), self.id()),
            20 => t::umkdir(tag, fid, name, self.u32(1 << 16), self.id(), self.id()),
            21 => t::symlink(tag, fid, name, self.name(), self.id()),
            22 => t::usymlink(tag, fid, name, self.name(), self.id(), self.id()),
            23 => t::mknod(tag, fid, name, self.u32(1 << 17), 0, 0, self.id()),
            24 => t::umknod(tag, fid, name, 0o100_600, 1, 3, self.id(), self.id()),
            25 => t::link(tag, fid, other, name),
            26 => t::rename(tag, fid, other, name),
            27 => t::renameat(tag, fid, name, other, self.name()),
            28 => t::unlinkat(
                tag,
                fid,
                name,
                [0, 0x200, self.u32(0x1000)][self.below(3) as usize],
            ),
            29 => t::remove(tag, fid),
            30 => t::setattr(tag, fid, self.u32(0x200), &self.attributes()),
            31 => t::allocate(
                tag,
                fid,
                self.u32(2) * self.u32(0x200),
                self.below(1 << 20),
                self.below(1 << 20),
            ),
            32 => t::xattrwalk(tag, fid, other, b"user.a"),
            33 => {
                let body: Vec<u8> = (0..self.below(60)).map(|_| self.below(256) as u8).collect();
                let kind = self.below(256) as u8;
                frame(if kind == 100 { 108 } else { kind }, tag, &body)
            }
            34 => {
                // A sound frame with one byte of its body changed; sizes stay.
                let mut bytes = t::renameat(tag, fid, name, other, b"new");
                let at = 7 + self.below(bytes.len() as u64 - 7) as usize;
                bytes[at] = self.below(256) as u8;
                bytes
            }
            _ => t::getattr(tag, fid, u64::MAX),
        }
    }

    fn attributes(&mut self) -> SetAttr {
        SetAttr {
            mode: self.u32(1 << 16),
            uid: self.id(),
            gid: self.id(),
            size: self.number() % (1 << 22),
            atime: self.number(),
            atime_ns: self.number(),
            mtime: self.number(),
            mtime_ns: self.number(),
        }
    }
}
