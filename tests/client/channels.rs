//! Shared-memory channels: what Tchannel offers, requests through windows, and the ends of both; docs/protocol.md 3.16
//! and 9, docs/channels.md.

use crate::channel::{
    CLIENT, Channel, FIRST_VERSION, GREETING, LONGEST, OVER, SERVER, VERSION, WINDOW,
};
use crate::entries::names;
use crate::harness::{
    Gofer, Launch, Mount, ROOT, Session, Tree, resident_kib, session_of, settled, spec,
    status_flags, until, write_spec,
};
use crate::p9::{
    Answer, Client, Data, Empty, Fault, Frame, MSIZE, NOFID, NOID, O_RDONLY, O_RDWR, O_TRUNC,
    O_WRONLY, RLERROR, Rchannel, Rconnect, Rgetattr, Ropen, Rread, Rwalk, Rwrite, refused, t,
};
use crate::request::{BASE, Request, batch, furnish, stage};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread::{scope, sleep};
use std::time::Duration;

/// What all connections have together.
const ALL: usize = 127;
/// Memory above the idle figure that may stay, KiB.
const LEFT_KIB: u64 = 64;
/// The most that gVisor's client reads and writes at once.
const PAYLOAD: usize = 1_048_064;

/// One connection of the highest version, with further words on the command line.
#[track_caller]
fn serve(tree: &Tree, words: &[&str]) -> Session {
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).with(words));
    s.version(MSIZE, VERSION).unwrap();
    s
}

/// As [`serve`] with more connections, all of them to the same files.
#[track_caller]
fn serve_all(tree: &Tree, connections: usize, words: &[&str]) -> (Gofer, Vec<Client>) {
    let mut gofer = start(tree, connections, words);
    let clients = (0..connections).map(|index| connect(&mut gofer, index));
    let clients = clients.collect();
    (gofer, clients)
}

fn start(tree: &Tree, connections: usize, words: &[&str]) -> Gofer {
    let mounts: Vec<Mount> = (1..connections)
        .map(|number| {
            tree.dir(&format!("m{number}"));
            Mount::bind(&format!("/m{number}"), &[])
        })
        .collect();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    Launch::new(&tree.bundle(), connections).with(words).start()
}

#[track_caller]
fn connect(gofer: &mut Gofer, index: usize) -> Client {
    let mut client = gofer.connect(index);
    client.version(MSIZE, VERSION).unwrap();
    client
}

fn inode(fd: &OwnedFd) -> (u64, u64) {
    let metadata = File::from(fd.try_clone().unwrap()).metadata().unwrap();
    (metadata.dev(), metadata.ino())
}

// ---- what is offered ----

#[test]
fn tchannel_gives_memory_and_a_socket_and_again_the_same() {
    let tree = Tree::new();
    let mut s = serve(&tree, &["--channels", "3"]);
    let mut memories = Vec::new();
    let mut sockets = Vec::new();
    for id in [0, 2, 1, 2, 0] {
        let memory = s.channel(id, 0).unwrap();
        let socket = s.channel(id, 1).unwrap();
        for told in [&memory, &socket] {
            assert_eq!(told.offset, u64::from(id) * WINDOW as u64);
            assert_eq!(told.length, WINDOW as u64);
        }
        memories.push(memory.fd.expect("memory"));
        sockets.push(socket.fd.expect("a socket"));
    }
    for memory in &memories {
        assert_eq!(inode(memory), inode(&memories[0]));
    }
    let size = File::from(memories[0].try_clone().unwrap())
        .metadata()
        .unwrap()
        .len();
    assert_eq!(size, 3 * WINDOW as u64);
    let seals = fcntl(&memories[0], FcntlArg::F_GET_SEALS).unwrap();
    let seals = SealFlag::from_bits_truncate(seals); // that against executing it is of newer kernels alone
    assert_eq!(
        seals,
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
    );
    for socket in &sockets {
        assert_eq!(
            getsockopt(socket, sockopt::SockType),
            Ok(SockType::SeqPacket)
        );
    }
    let kinds: Vec<_> = sockets.iter().map(inode).collect();
    assert_eq!((kinds[1], kinds[0]), (kinds[3], kinds[4]));
    assert!(kinds[0] != kinds[1] && kinds[1] != kinds[2] && kinds[0] != kinds[2]);
    // And it starts as zeros.
    let channel = Channel::ask(&mut s, 1).unwrap();
    assert!(channel.window.get(0, WINDOW).iter().all(|&byte| byte == 0));
}

#[test]
fn tchannel_errors_are_enosys_for_version_and_number_then_einval_for_control() {
    let tree = Tree::new();
    let mut s = serve(&tree, &[]);
    let before = s.gofer.descriptor_count();
    for (id, control) in [(2, 0), (2, 1), (2, 2), (u32::MAX, 0), (u32::MAX, u32::MAX)] {
        refused(s.channel(id, control), Errno::ENOSYS);
    }
    for (id, control) in [(0, 2), (1, 2), (0, u32::MAX), (1, 1 << 31)] {
        refused(s.channel(id, control), Errno::EINVAL);
    }
    for version in [
        b"9P2000.L.Google.7".as_slice(),
        b"9P2000.L.Google.0",
        b"9P2000.L",
    ] {
        s.version(MSIZE, version).unwrap();
        for (id, control) in [(0, 0), (0, 1), (0, 2), (2, 2)] {
            refused(s.channel(id, control), Errno::ENOSYS);
        }
    }
    s.version(MSIZE, FIRST_VERSION).unwrap();
    s.channel(0, 0).unwrap();
    assert_eq!(s.gofer.descriptor_count(), before);
}

#[test]
fn before_tversion_there_are_no_channels() {
    let tree = Tree::new();
    let mut gofer = start(&tree, 1, &[]);
    let mut client = gofer.client(0);
    refused(client.channel(0, 0), Errno::ENOSYS);
    client.version(MSIZE, VERSION).unwrap();
    client.channel(0, 0).unwrap();
}

#[test]
fn channels_0_refuses_them_all_and_the_socket_serves() {
    let tree = Tree::new();
    let mut s = serve(&tree, &["--channels", "0"]);
    let quiet = serve(&tree, &[]).gofer.descriptor_count();
    for (id, control) in [(0, 0), (0, 1), (0, 2), (1, 0)] {
        refused(s.channel(id, control), Errno::ENOSYS);
    }
    s.getattr(ROOT, 0).unwrap();
    // The memory, and for each channel a pair of sockets.
    assert_eq!(s.gofer.descriptor_count() + 1 + 2 * 2, quiet);
}

/// A kernel before 5.16, as far as the program can tell.
#[test]
fn without_futex_waitv_there_are_no_channels_and_the_socket_serves() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let trace = tree.outside("trace");
    let inject = [
        "-f",
        "-o",
        trace.to_str().unwrap(),
        "-e",
        "inject=futex_waitv:error=ENOSYS",
    ];
    let mut s = session_of(Launch::new(&tree.bundle(), 1).by("strace", &inject));
    s.version(MSIZE, VERSION).unwrap();
    for (id, control) in [(0, 0), (0, 2), (1, 1)] {
        refused(s.channel(id, control), Errno::ENOSYS);
    }
    s.getattr(ROOT, 0).unwrap();
    assert_eq!(s.finish().code, Some(0));
    assert!(fs::read_to_string(trace).unwrap().contains("(INJECTED)"));
}

#[test]
fn channels_and_spin_out_of_range_are_refused() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    for (flag, value) in [
        ("--channels", "128"),
        ("--channels", "-1"),
        ("--channels", "18446744073709551616"),
        ("--channels", "two"),
        ("--channels", ""),
        ("--channel-spin", "1001"),
        ("--channel-spin", "-1"),
        ("--channel-spin", "20us"),
    ] {
        let word = format!("{flag}={value}");
        let exit = Launch::new(&tree.bundle(), 1).with(&[&word]).start().exit();
        assert_eq!(exit.code, Some(128), "{word}: {exit:?}");
        assert!(
            exit.stderr.contains(flag.trim_start_matches('-')),
            "{word}: {exit:?}"
        );
    }
    for words in [
        ["--channels=127", "--channel-spin=1000"],
        ["--channels=1", "--channel-spin=0"],
    ] {
        let mut s = serve(&tree, &words);
        Channel::open(&mut s, 0).unwrap();
    }
}

/// How many a connection is offered, each of which works.
#[track_caller]
fn offered(client: &mut Client) -> usize {
    let mut count = 0;
    loop {
        match Channel::open(client, count) {
            Ok(channel) => assert_eq!(
                channel
                    .get::<Rgetattr>(&t::getattr(1, ROOT, 0))
                    .unwrap()
                    .valid,
                0x6ff
            ),
            Err(Fault::Errno(Errno::ENOSYS)) => return count as usize,
            Err(fault) => panic!("channel {count}: {fault}"),
        }
        count += 1;
    }
}

#[test]
fn channels_go_to_connections_in_their_order_until_127_are_given() {
    for (each, connections, wanted) in [
        ("50", 4, vec![50, 50, 27, 0]),
        ("127", 2, vec![127, 0]),
        ("64", 2, vec![64, 63]),
        ("1", 3, vec![1, 1, 1]),
    ] {
        let tree = Tree::new();
        let (_gofer, mut clients) = serve_all(&tree, connections, &["--channels", each]);
        // Who asks first does not matter.
        let mut counts: Vec<_> = clients.iter_mut().rev().map(offered).collect();
        counts.reverse();
        assert_eq!(counts, wanted, "{each} each");
    }
}

#[test]
fn two_channels_for_each_of_63_connections_and_one_for_the_next() {
    let tree = Tree::new();
    let (_gofer, mut clients) = serve_all(&tree, 70, &[]);
    let counts: Vec<_> = clients.iter_mut().map(offered).collect();
    let mut wanted = vec![2; 63];
    wanted.extend([1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(counts, wanted);
}

// ---- requests ----

#[test]
fn greeting_is_answered_by_itself_at_any_time() {
    let tree = Tree::new();
    let mut s = serve(&tree, &[]);
    let channel = Channel::open(&mut s, 0).unwrap();
    channel.greet().unwrap();
    channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
    channel.greet().unwrap();
    // Not needed: a client that begins with a request is answered too.
    let other = Channel::ask(&mut s, 1).unwrap();
    other.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
    other.greet().unwrap();
    // One byte more, and it is a request: a reply's number.
    channel.put(b"{}\n\n");
    channel.hand_over().unwrap();
    assert_eq!(channel.recv(0).unwrap().errno(), Errno::ENOSYS);
}

/// A way to ask.
trait Ask {
    fn ask(&mut self, request: &[u8]) -> Answer<Frame>;
}

impl Ask for Client {
    fn ask(&mut self, request: &[u8]) -> Answer<Frame> {
        self.send(request)?;
        self.recv()
    }
}

impl Ask for Channel {
    fn ask(&mut self, request: &[u8]) -> Answer<Frame> {
        self.exchange(request)
    }
}

/// What can be said of a reply to compare it: its number, its body, and its descriptor's file and flags.
type Said = (u8, Vec<u8>, Option<((u64, u64), i32)>);

fn said(reply: Frame) -> Said {
    let fd = reply.fd.map(|fd| (inode(&fd), status_flags(&fd).bits()));
    (reply.kind, reply.body, fd)
}

/// Asks twice for the same, by the socket and through a channel; the replies must be the same bytes. They are returned.
#[track_caller]
fn same(s: &mut Session, channel: &mut Channel, requests: &[Vec<u8>]) -> Vec<Said> {
    let mut by_socket = Vec::new();
    for request in requests {
        by_socket.push(said(s.ask(request).unwrap()));
    }
    for (request, wanted) in requests.iter().zip(&by_socket) {
        let got = said(channel.ask(request).unwrap());
        let is_same = got == *wanted;
        assert!(
            is_same,
            "type {}: {} bytes, not {}",
            request[4],
            got.1.len(),
            wanted.1.len()
        );
    }
    by_socket
}

fn filled() -> Tree {
    let tree = Tree::new();
    tree.file("f", b"some text");
    tree.dir("d/e");
    tree.file("d/in", b"more");
    for number in 0..300 {
        tree.file(&format!("d/e/{number}"), b"");
    }
    tree.link("l", "d/in");
    tree
}

#[test]
fn replies_through_a_channel_have_the_bytes_of_those_by_the_socket() {
    let tree = filled();
    let mut s = serve(&tree, &[]);
    let mut channel = Channel::open(&mut s, 0).unwrap();
    let deep: Vec<&[u8]> = vec![b"d", b"e", b"299"];
    let names = |names: &[&'static [u8]]| names.to_vec();
    let looks = same(
        &mut s,
        &mut channel,
        &[
            t::walk(1, ROOT, 2, &names(&[b"f"])),
            t::walk(1, ROOT, 3, &names(&[b"l"])),
            t::walk(1, ROOT, 4, &deep),
            t::walk(1, ROOT, 5, &[]),
            t::walkgetattr(1, ROOT, 6, &deep),
            t::walkgetattr(1, ROOT, 7, &[]),
            t::getattr(1, 2, u64::MAX),
            t::getattr(1, 4, 0),
            t::readlink(1, 3),
            t::multigetattr(1, ROOT, &names(&[b"", b"d", b"e", b"missing"])),
            t::flush(1, 7),
            t::flushf(1, 2),
            t::listxattr(1, 2, 100),
            t::setattr(1, 2, 0, &crate::p9::SetAttr::default()),
            t::clunk(1, 2),
        ],
    );
    let refused: Vec<_> = looks.iter().filter(|said| said.0 == RLERROR).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let lists = same(
        &mut s,
        &mut channel,
        &[
            t::walk(1, ROOT, 2, &names(&[b"d", b"e"])),
            t::lopen(1, 2, O_RDONLY),
            t::readdir(1, 2, 0, 1 << 16),
            t::readdir(1, 2, 100, 1 << 20),
            t::readdir(1, 2, 0, 40),
            t::readdir(1, 2, 1000, 1 << 16),
            t::walk(1, ROOT, 3, &names(&[b"f"])),
            t::lopen(1, 3, O_RDWR),
            t::fsync(1, 3, 0),
            t::allocate(1, 3, 0, 0, 4),
        ],
    );
    assert_eq!(lists.iter().filter(|said| said.0 == RLERROR).count(), 0);
    assert!(lists[2].1.len() > 300 * 25);
    let errors = same(
        &mut s,
        &mut channel,
        &[
            t::getattr(1, 99, 0),
            t::walk(1, ROOT, 8, &names(&[b"missing"])),
            t::walk(1, ROOT, 8, &names(&[b".."])),
            t::walk(1, ROOT, 8, &names(&[b"f", b"below"])),
            t::mkdir(1, ROOT, b"d", 0o755, NOID),
            t::mkdir(1, ROOT, b"a/b", 0o755, NOID),
            t::mknod(1, ROOT, b"c", 0o020_600, 1, 3, NOID),
            t::unlinkat(1, ROOT, b"d", 0),
            t::read(1, ROOT, 0, 10),
            t::write(1, ROOT, 0, Data(b"data")),
            t::write(1, 99, 0, Data(&vec![7; PAYLOAD])),
            t::readlink(1, ROOT),
            t::readdir(1, ROOT, 0, 100),
            t::readdir(1, 2, 0, 0),
            t::fsync(1, 4, 0),
            t::lopen(1, 99, O_RDONLY),
            t::auth(1, 9, b"root", b"/", 0),
            t::attach(1, 9, NOFID, b"", b"/", NOID),
            t::xattrwalk(1, ROOT, 9, b"user.none"),
            t::getxattr(1, ROOT, b"user.none", 10),
            t::lock(1, ROOT, 0, 0, 0, 0, 1, b"c"),
            t::allocate(1, ROOT, 0, 0, 1),
            t::lconnect(1, ROOT, 1),
            t::bind(1, ROOT, 1, b"s", 0, 0, 9),
            t::rename(1, 99, ROOT, b"n"),
            t::channel(1, 2, 0),
            t::channel(1, 0, 2),
        ],
    );
    assert_eq!(errors.iter().filter(|said| said.0 != RLERROR).count(), 0);
}

/// Every frame of a client's in the vectors that says its own size, in their order on files of its own: what is wrong
/// with their bodies is the same too.
#[test]
fn vectors_through_a_channel_are_answered_as_by_the_socket() {
    let outcome = |by_channel: bool| {
        let tree = filled();
        let mut s = serve(&tree, &[]);
        let mut channel = Channel::open(&mut s, 0).unwrap();
        let mut told = Vec::new();
        for (name, bytes) in vectors(false) {
            let size = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            if size as usize != bytes.len() {
                continue;
            }
            let reply = match by_channel {
                true => channel.ask(&bytes),
                false => s.ask(&bytes),
            };
            let reply = reply.unwrap_or_else(|fault| panic!("{name}: {fault}"));
            let errno = (reply.kind == RLERROR).then(|| reply.body.clone());
            let (kind, length, has_fd) = (reply.kind, reply.body.len(), reply.fd.is_some());
            told.push((name, kind, length, has_fd, errno));
        }
        told.push((names(&tree, "").join(" "), 0, 0, false, None));
        told
    };
    let (wanted, got) = (outcome(false), outcome(true));
    assert_eq!(got, wanted);
    assert!(wanted.len() > 70, "{}", wanted.len());
}

/// Requests of the vectors, with their names: datagrams, or frames.
fn vectors(datagrams: bool) -> Vec<(String, Vec<u8>)> {
    let all: Vec<Value> = serde_json::from_str(include_str!("../vectors.json")).unwrap();
    let requests = all.iter().filter(|vector| {
        vector["direction"] == "T" && vector["fields"].get("transport").is_some() == datagrams
    });
    let parts = |vector: &Value| {
        let text = |field: &str| vector[field].as_str().unwrap().to_owned();
        (text("name"), hex(&text("hex")))
    };
    requests.map(parts).collect()
}

/// The datagrams of the vectors, as real clients have sent them.
#[test]
fn datagrams_of_the_vectors_are_answered() {
    let tree = Tree::new();
    let mut s = serve(&tree, &[]);
    let channel = Channel::open(&mut s, 0).unwrap();
    let datagrams = vectors(true);
    assert!(!datagrams.is_empty());
    for (name, bytes) in datagrams {
        channel.put(&bytes);
        channel.hand_over().unwrap();
        let reply = channel.recv(0).unwrap();
        assert!(
            reply.kind == RLERROR || reply.kind == bytes[0] + 1,
            "{name}: {reply:?}"
        );
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Each message of each version on files of its own: the errno, the length of the reply, whether a descriptor
/// came, and what became of the files.
#[test]
fn every_message_through_a_channel_does_what_it_does_by_the_socket() {
    let mut served = 0;
    for request in Request::good() {
        let outcome = |by_channel: bool| {
            let tree = Tree::new();
            let mut s = serve(&tree, &[]);
            let channel = Channel::open(&mut s, 0).unwrap();
            batch(&mut s, &furnish(ROOT));
            batch(&mut s, &stage(ROOT, O_RDWR));
            let frame = request.frame(9);
            let reply = match by_channel {
                true => channel.exchange(&frame),
                false => s.ask(&frame),
            };
            let reply = reply.unwrap_or_else(|fault| panic!("{}: {fault}", request.told()));
            let (kind, length, fd) = (reply.kind, reply.body.len(), reply.fd.is_some());
            assert_eq!(reply.tag, 9);
            let answer = reply.answers(request.kind, 9);
            let errno = match answer {
                Ok(()) => None,
                Err(Fault::Errno(errno)) => Some(errno),
                Err(fault) => panic!("{}: {fault}", request.told()),
            };
            // Which fids there are, and what there is on the host.
            let known: Vec<bool> = (0..8).map(|fid| s.getattr(BASE + fid, 0).is_ok()).collect();
            let mut host = names(&tree, "");
            host.extend(names(&tree, "d"));
            host.push(
                String::from_utf8_lossy(&fs::read(tree.path("d/in")).unwrap_or_default())
                    .into_owned(),
            );
            (kind, length, fd, errno, known, host)
        };
        let (wanted, got) = (outcome(false), outcome(true));
        assert_eq!(got, wanted, "{}", request.told());
        served += u32::from(wanted.3.is_none());
    }
    assert!(served > 25, "{served} served");
}

#[test]
fn fids_are_those_of_the_connection_and_of_no_other() {
    let tree = filled();
    let (_gofer, mut clients) = serve_all(&tree, 2, &[]);
    let [one, other] = &mut clients[..] else {
        panic!("two")
    };
    let first = Channel::open(one, 0).unwrap();
    let second = Channel::open(one, 1).unwrap();
    let foreign = Channel::open(other, 0).unwrap();
    one.walk_to(ROOT, 2, "f").unwrap();
    first.get::<Ropen>(&t::lopen(1, 2, O_RDONLY)).unwrap();
    assert_eq!(
        second.get::<Rread>(&t::read(1, 2, 0, 100)).unwrap().data.0,
        b"some text"
    );
    refused(foreign.get::<Rread>(&t::read(1, 2, 0, 100)), Errno::EBADF);
    second.get::<Rwalk>(&t::walk(1, ROOT, 3, &[b"d"])).unwrap();
    one.getattr(3, 0).unwrap();
    refused(other.getattr(3, 0), Errno::EBADF);
    first.get::<Empty>(&t::clunk(1, 2)).unwrap();
    refused(one.getattr(2, 0), Errno::EBADF);
}

// ---- data ----

#[test]
fn reads_of_every_size_are_those_of_the_socket() {
    let tree = Tree::new();
    let content: Vec<u8> = (0..3_000_000u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    tree.file("f", &content);
    let mut s = serve(&tree, &[]);
    let mut channel = Channel::open(&mut s, 0).unwrap();
    s.open(ROOT, 2, "f", O_RDONLY).unwrap();
    let counts = [
        0,
        1,
        2,
        4095,
        4096,
        65_536,
        PAYLOAD as u32,
        MSIZE - 12,
        MSIZE - 11,
        MSIZE - 10,
        MSIZE,
        MSIZE + 1,
        u32::MAX,
    ];
    for count in counts {
        for offset in [0, 1, 1_000_000, 2_999_999, 3_000_000, 1 << 40, 1 << 63] {
            same(&mut s, &mut channel, &[t::read(1, 2, offset, count)]);
        }
    }
    for count in [1, 4096, PAYLOAD] {
        let read = channel
            .get::<Rread>(&t::read(1, 2, 77, count as u32))
            .unwrap();
        assert!(read.data.0 == content[77..77 + count], "{count} bytes");
    }
}

#[test]
fn writes_of_every_size_are_those_of_the_socket() {
    let tree = Tree::new();
    let mut s = serve(&tree, &[]);
    let mut channel = Channel::open(&mut s, 0).unwrap();
    for (fid, name) in [(2, "socket"), (3, "channel")] {
        tree.file(name, b"");
        s.open(ROOT, fid, name, O_RDWR).unwrap();
    }
    let largest = MSIZE as usize - 23;
    for (count, number) in [0, 1, 2, 4095, 4096, 65_536, PAYLOAD, largest - 1, largest]
        .into_iter()
        .zip(1u8..)
    {
        let data: Vec<u8> = (0..count).map(|at| (at / 251) as u8 ^ number).collect();
        let offset = u64::from(number) * 100;
        let wanted = said(s.ask(&t::write(1, 2, offset, Data(&data))).unwrap());
        let got = said(channel.ask(&t::write(1, 3, offset, Data(&data))).unwrap());
        assert_eq!(got, wanted, "{count} bytes");
        assert_eq!(got.0, 119);
        assert!(tree.read("channel") == tree.read("socket"), "{count} bytes");
    }
}

#[test]
fn write_whose_count_is_not_its_datas_is_eio_and_writes_nothing() {
    let tree = Tree::new();
    tree.file("f", b"text");
    let mut s = serve(&tree, &[]);
    let mut channel = Channel::open(&mut s, 0).unwrap();
    s.open(ROOT, 2, "f", O_RDWR).unwrap();
    let whole = t::write(1, 2, 0, Data(b"01234567"));
    for count in [0, 1, 7, 9, 1 << 20, u32::MAX] {
        let mut wrong = whole.clone();
        wrong[19..23].copy_from_slice(&u32::to_le_bytes(count));
        assert_eq!(channel.ask(&wrong).unwrap().errno(), Errno::EIO, "{count}");
    }
    for length in 7..23 {
        assert_eq!(
            channel.ask(&whole[..length]).unwrap().errno(),
            Errno::EIO,
            "{length} bytes"
        );
    }
    assert_eq!(tree.read("f"), b"text");
    assert_eq!(channel.ask(&whole).unwrap().kind, 119);
    assert_eq!(tree.read("f"), b"01234567");
}

/// Its data are more than a frame holds; the next length ends the channel.
#[test]
fn longest_datagram_is_answered() {
    let tree = Tree::new();
    tree.file("f", b"");
    let mut s = serve(&tree, &[]);
    let mut channel = Channel::open(&mut s, 0).unwrap();
    s.open(ROOT, 2, "f", O_RDWR).unwrap();
    let data = vec![7; LONGEST - 18];
    let reply = channel.ask(&t::write(1, 2, 0, Data(&data))).unwrap();
    let written = reply.answer::<Rwrite>(118, 1).unwrap().count as usize;
    assert!(written >= PAYLOAD && written <= data.len(), "{written}");
    assert!(tree.read("f") == data[..written]);
    // Of any other message too: behind the last field nothing is looked at.
    let mut long = t::getattr(1, ROOT, 0);
    long.resize(LONGEST + 5, 0xff);
    assert_eq!(channel.ask(&long).unwrap().kind, 25);
}

#[test]
fn short_bodies_are_eio_unknown_numbers_eio_and_replies_enosys() {
    let tree = filled();
    let mut s = serve(&tree, &[]);
    let mut channel = Channel::open(&mut s, 0).unwrap();
    for request in Request::good() {
        let whole = request.frame(1);
        // What Linux adds to Tfsync is not needed.
        let least = if request.message == "fsync" {
            11
        } else {
            whole.len()
        };
        for length in 7..least {
            let mut short = whole[..length].to_vec();
            short[..4].copy_from_slice(&(length as u32).to_le_bytes());
            let replies = same(&mut s, &mut channel, &[short]);
            let (kind, body, _) = &replies[0];
            let wanted = if request.message == "auth" {
                Errno::ENOSYS
            } else {
                Errno::EIO
            };
            assert_eq!(
                (*kind, i32::from(body[0])),
                (RLERROR, wanted as i32),
                "{}",
                request.told()
            );
        }
    }
    let known: Vec<u8> = Request::good().iter().map(|request| request.kind).collect();
    for number in (0..=255u8).filter(|number| !known.contains(number)) {
        let frame = crate::p9::frame(number, 1, &[0; 64]);
        same(&mut s, &mut channel, &[frame]);
    }
    let reply = channel.ask(&crate::p9::frame(25, 1, &[0; 64])).unwrap();
    assert_eq!(reply.errno(), Errno::ENOSYS);
}

// ---- donated descriptors ----

#[test]
fn open_files_are_donated_over_the_channels_own_socket() {
    let tree = filled();
    let mut s = serve(&tree, &[]);
    let mut channel = Channel::open(&mut s, 0).unwrap();
    let before = s.gofer.descriptor_count();
    for flags in [O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_TRUNC] {
        let replies = same(
            &mut s,
            &mut channel,
            &[
                t::walk(1, ROOT, 2, &[b"f"]),
                t::lopen(1, 2, flags),
                t::clunk(1, 2),
            ],
        );
        let (_, _, donated) = &replies[1];
        let stat = tree.stat("f");
        assert_eq!(donated.expect("a descriptor").0, (stat.dev(), stat.ino()));
    }
    // Files made, and none for directories.
    s.walk_to(ROOT, 2, "").unwrap();
    let made = channel
        .get::<Ropen>(&t::ucreate(1, 2, b"made", O_RDWR, 0o600, 0, 0))
        .unwrap();
    let file = File::from(made.fd.expect("a descriptor"));
    std::os::unix::fs::FileExt::write_all_at(&file, b"through it", 0).unwrap();
    assert_eq!(tree.read("made"), b"through it");
    s.walk_to(ROOT, 3, "d").unwrap();
    assert!(
        channel
            .get::<Ropen>(&t::lopen(1, 3, O_RDONLY))
            .unwrap()
            .fd
            .is_none()
    );
    let nothing = channel.descriptor();
    assert!(
        matches!(&nothing, Err(Fault::Broken(why)) if why == "no descriptor"),
        "{nothing:?}"
    );
    for fid in [2, 3] {
        channel.get::<Empty>(&t::clunk(1, fid)).unwrap();
    }
    s.expect_descriptors(before);
}

#[test]
fn connected_sockets_and_halves_of_channels_are_donated_too() {
    let tree = Tree::new();
    let listener = UnixListener::bind(tree.path("s")).unwrap();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let launch = Launch::new(&tree.bundle(), 1).through("runsc", &["--host-uds=open"]);
    let mut s = session_of(launch);
    s.version(MSIZE, VERSION).unwrap();
    let channel = Channel::open(&mut s, 0).unwrap();
    s.walk_to(ROOT, 2, "s").unwrap();
    let connected = channel
        .get::<Rconnect>(&t::lconnect(1, 2, 0))
        .unwrap()
        .fd
        .unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut accepted, b"hello").unwrap();
    let mut text = [0; 5];
    std::io::Read::read_exact(
        &mut std::os::unix::net::UnixStream::from(connected),
        &mut text,
    )
    .unwrap();
    assert_eq!(&text, b"hello");
    let memory = channel.get::<Rchannel>(&t::channel(1, 1, 0)).unwrap();
    assert_eq!(
        (memory.offset, memory.length),
        (WINDOW as u64, WINDOW as u64)
    );
    assert_eq!(inode(&memory.fd.unwrap()), inode(&channel.memory));
}

/// The reply of a channel whose client has not looked for a descriptor: whether it says that there is one.
fn says_fd(channel: &Channel, request: &[u8]) -> bool {
    channel.send(request).unwrap();
    channel.wait().unwrap();
    let reply = channel.datagram().unwrap();
    assert_eq!(reply[0], request[4] + 1, "{reply:?}");
    reply[1] == 1
}

#[test]
fn client_that_takes_no_descriptors_is_told_of_none_once_its_queue_is_full() {
    let tree = filled();
    let (gofer, mut clients) = serve_all(&tree, 2, &[]);
    let [one, other] = &mut clients[..] else {
        panic!("two")
    };
    let channel = Channel::open(one, 0).unwrap();
    let before = gofer.descriptor_count();
    let open = || {
        channel.get::<Rwalk>(&t::walk(1, ROOT, 2, &[b"f"])).unwrap();
        let says = says_fd(&channel, &t::lopen(1, 2, O_RDONLY));
        channel.get::<Empty>(&t::clunk(1, 2)).unwrap();
        says
    };
    let mut queued = 0;
    while open() {
        queued += 1;
        assert!(queued < 10_000, "the queue has no end");
    }
    assert!(queued > 0);
    for _ in 0..100 {
        assert!(!open());
        other.getattr(ROOT, 0).unwrap();
    }
    // The file is served all the same.
    channel.get::<Rwalk>(&t::walk(1, ROOT, 2, &[b"f"])).unwrap();
    assert!(!says_fd(&channel, &t::lopen(1, 2, O_RDONLY)));
    assert_eq!(
        channel.get::<Rread>(&t::read(1, 2, 0, 100)).unwrap().data.0,
        b"some text"
    );
    channel.get::<Empty>(&t::clunk(1, 2)).unwrap();
    // As many are there as were told of, and with room there are more.
    for _ in 0..queued {
        channel.descriptor().unwrap();
    }
    assert!(channel.descriptor().is_err());
    assert!(open());
    channel.descriptor().unwrap();
    until("descriptors", || match gofer.descriptor_count() {
        now if now <= before => Ok(()),
        now => Err((now, before)),
    });
}

#[test]
fn client_that_closes_its_end_for_descriptors_is_served() {
    let tree = filled();
    let mut s = serve(&tree, &[]);
    let mut channel = Channel::open(&mut s, 0).unwrap();
    channel.socket = File::open("/dev/null").unwrap().into();
    let (mut told, mut opened) = (true, 0);
    while told {
        channel.get::<Rwalk>(&t::walk(1, ROOT, 2, &[b"f"])).unwrap();
        told = says_fd(&channel, &t::lopen(1, 2, O_RDONLY));
        channel.get::<Empty>(&t::clunk(1, 2)).unwrap();
        opened += 1;
        assert!(opened < 10_000, "descriptors for nobody");
    }
}

// ---- several at once ----

/// Makes, fills, reads and removes a file of its own, over and over: what is read is what was written.
fn work(through: &mut dyn Ask, number: u32, rounds: u32) {
    let fid = 100 + number;
    let name = format!("file {number}").into_bytes();
    let mut done = |request: Vec<u8>| {
        let reply = through
            .ask(&request)
            .unwrap_or_else(|fault| panic!("{number}: {fault}"));
        assert_eq!(reply.kind, request[4] + 1, "{number}: {reply:?}");
        reply
    };
    for round in 0..rounds {
        let size = [1, 100, 5000, 200_000][(round % 4) as usize];
        let data: Vec<u8> = (0..size)
            .map(|at: u32| (at ^ round ^ number) as u8)
            .collect();
        done(t::walk(1, ROOT, fid, &[]));
        let made = done(t::ucreate(1, fid, &name, O_RDWR, 0o600, NOID, NOID));
        assert!(made.fd.is_some(), "{number}: no descriptor");
        done(t::write(1, fid, 0, Data(&data)));
        let read = done(t::read(1, fid, 0, 1 << 20));
        assert!(read.body[4..] == data, "{number}: {size} bytes");
        done(t::getattr(1, fid, 0));
        done(t::clunk(1, fid));
        done(t::unlinkat(1, ROOT, &name, 0));
    }
}

#[test]
fn two_channels_and_the_socket_of_a_connection_work_at_once() {
    for (spin, ours) in [("0", 0), ("20", 0), ("20", 50), ("1000", 1000)] {
        let tree = Tree::new();
        let mut s = serve(&tree, &["--channel-spin", spin]);
        let ours = Duration::from_micros(ours);
        let mut channels: Vec<_> = (0..2)
            .map(|id| Channel::open(&mut s, id).unwrap().spinning(ours))
            .collect();
        let client: &mut Client = &mut s;
        scope(|scope| {
            for (channel, number) in channels.iter_mut().zip(1..) {
                scope.spawn(move || work(channel, number, 100));
            }
            work(client, 0, 100);
        });
        assert_eq!(names(&tree, ""), [""; 0]);
    }
}

#[test]
fn channels_and_sockets_of_several_connections_work_at_once() {
    let tree = Tree::new();
    let (_gofer, mut clients) = serve_all(&tree, 4, &[]);
    scope(|scope| {
        for client in &mut clients {
            let channels: Vec<_> = (0..2)
                .map(|id| Channel::open(client, id).unwrap())
                .collect();
            for (mut channel, number) in channels.into_iter().zip(1..) {
                scope.spawn(move || work(&mut channel, number, 40));
            }
            scope.spawn(|| work(client, 0, 40));
        }
    });
}

#[test]
fn a_hundred_and_twenty_seven_channels_work_at_once() {
    for (each, connections) in [("127", 1), ("1", 127)] {
        let tree = filled();
        let (_gofer, mut clients) = serve_all(&tree, connections, &["--channels", each]);
        let ids = if connections == 1 { 0..127 } else { 0..1 };
        let mut channels = Vec::new();
        for client in &mut clients {
            channels.extend(ids.clone().map(|id| Channel::open(client, id).unwrap()));
        }
        assert_eq!(channels.len(), ALL);
        for round in 0..50 {
            // All of them have a request at once.
            for channel in &channels {
                channel.send(&t::getattr(round, ROOT, u64::MAX)).unwrap();
            }
            for channel in &channels {
                let reply = channel.recv(round).unwrap();
                reply.answer::<Rgetattr>(24, round).unwrap();
            }
            clients[0].getattr(ROOT, 0).unwrap();
        }
    }
}

/// A channel that always has something to ask does not keep a socket, its own or another's, from being served.
#[test]
fn sockets_are_served_while_channels_are_busy() {
    let tree = filled();
    let (_gofer, mut clients) = serve_all(&tree, 2, &[]);
    let channels: Vec<_> = (0..2)
        .map(|id| Channel::open(&mut clients[0], id).unwrap())
        .collect();
    let busy = |channel: &Channel| {
        channel
            .get::<Rgetattr>(&t::getattr(1, ROOT, 0))
            .map(drop)
            .unwrap()
    };
    crate::harness::meanwhile(
        || busy(&channels[0]),
        || {
            crate::harness::meanwhile(
                || busy(&channels[1]),
                || {
                    for _ in 0..500 {
                        for client in &mut clients {
                            client.getattr(ROOT, 0).unwrap();
                        }
                    }
                },
            );
        },
    );
}

/// Confines a process, or this thread, to one processor.
fn pin(pid: Option<u32>, core: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(core.min(cores - 1));
    let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    sched_setaffinity(pid, &set).unwrap();
}

/// Counted in a trace, as times say little: requests behind which neither the sockets are looked at nor the program
/// waits, which lets their signals through.
#[test]
fn sockets_are_looked_at_behind_16_rounds_of_channels_that_never_rest() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let trace = tree.outside("trace");
    let words = [
        "-o",
        trace.to_str().unwrap(),
        "-e",
        "trace=futex,futex_waitv,ppoll",
    ];
    let mut s = session_of(Launch::new(&tree.bundle(), 1).by("strace", &words));
    s.version(MSIZE, VERSION).unwrap();
    let channels = [0, 1].map(|id| Channel::open(&mut s, id).unwrap());
    // On a processor each, or they would take turns.
    let tracer = s.gofer.pid();
    let children = s
        .gofer
        .proc_text(&format!("task/{tracer}/children"))
        .unwrap();
    pin(Some(children.trim().parse().unwrap()), 1);
    pin(Some(tracer), 1);
    pin(None, 0);
    let mut sent = 0;
    while sent < 5000 {
        for channel in &channels {
            if channel.window.state().load(Ordering::Acquire) == CLIENT {
                channel.put(GREETING);
                channel.window.state().store(SERVER, Ordering::Release);
                sent += 1;
            }
        }
        channels[0].window.wake(1);
    }
    for channel in &channels {
        channel.wait().unwrap();
    }
    assert_eq!(s.finish().code, Some(0));
    let (mut now, mut longest) = (0, 0);
    for line in fs::read_to_string(trace).unwrap().lines() {
        let is_served = line.starts_with("futex(") && line.contains("FUTEX_WAKE, 1)");
        now = if is_served { now + 1 } else { 0 };
        longest = longest.max(now);
    }
    let rounds = gofer::limits::CHANNEL_PASSES;
    assert!(longest > rounds, "{longest}: they rested");
    assert!(longest <= 2 * rounds, "{longest}");
}

// ---- ends ----

/// Waits until a thread of ours sleeps.
fn until_asleep(thread: i32) {
    let stat = Path::new("/proc/self/task")
        .join(thread.to_string())
        .join("stat");
    until("a thread asleep", || {
        let text = fs::read_to_string(&stat).unwrap_or_default();
        let state = text
            .rsplit_once(") ")
            .map(|(_, state)| state.chars().next());
        if state == Some(Some('S')) {
            Ok(())
        } else {
            Err(text)
        }
    });
}

#[test]
fn end_of_a_socket_shuts_its_channels_and_wakes_all_that_wait() {
    let tree = Tree::new();
    let (_gofer, mut clients) = serve_all(&tree, 2, &[]);
    let mut client = clients.remove(0);
    let channels: Vec<_> = (0..2)
        .map(|id| Channel::open(&mut client, id).unwrap())
        .collect();
    let other = Channel::open(&mut clients[0], 0).unwrap();
    let (sender, threads) = std::sync::mpsc::channel();
    scope(|scope| {
        for channel in &channels {
            for _ in 0..3 {
                let sender = sender.clone();
                scope.spawn(move || {
                    sender.send(rustix::thread::gettid().as_raw_pid()).unwrap();
                    let was_woken = channel.window.sleep(CLIENT, crate::p9::PATIENCE);
                    assert!(was_woken, "nobody told");
                    assert_eq!(channel.window.state().load(Ordering::Acquire), OVER);
                });
            }
        }
        for thread in threads.iter().take(6) {
            until_asleep(thread);
        }
        drop(client);
    });
    other.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
}

#[test]
fn end_of_a_socket_while_the_server_is_active_shuts_the_channel() {
    let tree = Tree::new();
    tree.file("f", b"");
    let (_gofer, clients) = serve_all(&tree, 50, &[]);
    for mut client in clients {
        let channel = Channel::open(&mut client, 0).unwrap();
        let data = vec![7; PAYLOAD];
        channel.send(&t::write(1, ROOT, 0, Data(&data))).unwrap();
        drop(client);
        // The reply may have come before.
        match channel.recv(1) {
            Err(Fault::Closed) => {}
            Ok(reply) => {
                assert_eq!(reply.kind, RLERROR);
                until("the end", || {
                    match channel.window.state().load(Ordering::Acquire) {
                        OVER => Ok(()),
                        state => Err(state),
                    }
                });
            }
            Err(fault) => panic!("{fault}"),
        }
    }
}

/// Brings a client into a state; what it holds in it.
type Begin = fn(&mut Client) -> Option<Channel>;

/// What a client may be in when it ends.
const STATES: &[(&str, Begin)] = &[
    ("nothing asked for", |_| None),
    ("memory asked for", |client| {
        client.channel(0, 0).unwrap();
        None
    }),
    ("both halves asked for", |client| {
        Channel::ask(client, 0).ok()
    }),
    ("greeted", |client| Channel::open(client, 0).ok()),
    ("used", |client| {
        let channel = Channel::open(client, 0).ok()?;
        channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        Some(channel)
    }),
    ("with 1 MiB in both windows", |client| {
        let channels = [0, 1].map(|id| Channel::open(client, id).unwrap());
        for channel in &channels {
            let data = vec![7; PAYLOAD];
            refused(
                channel.get::<Rwrite>(&t::write(1, ROOT, 0, Data(&data))),
                Errno::EINVAL,
            );
        }
        None
    }),
    ("a datagram half written", |client| {
        let channel = Channel::open(client, 0).ok()?;
        channel.window.put(17, &[0xff; 100_000]);
        Some(channel)
    }),
    ("a request handed over", |client| {
        let channel = Channel::open(client, 0).ok()?;
        channel.send(&t::getattr(1, ROOT, 0)).unwrap();
        Some(channel)
    }),
    ("a request handed over without a wake-up", |client| {
        let channel = Channel::open(client, 0).ok()?;
        channel.put(&[24, 0]);
        channel.window.state().store(SERVER, Ordering::Release);
        Some(channel)
    }),
    ("a large request handed over", |client| {
        let channel = Channel::open(client, 0).ok()?;
        channel
            .send(&t::write(1, ROOT, 0, Data(&vec![7; PAYLOAD])))
            .unwrap();
        Some(channel)
    }),
    ("shut by itself", |client| {
        let channel = Channel::open(client, 0).ok()?;
        channel.shut();
        Some(channel)
    }),
    ("shut by the server", |client| {
        let channel = Channel::open(client, 0).ok()?;
        channel.put(&[]);
        channel.hand_over().unwrap();
        assert!(matches!(channel.wait(), Err(Fault::Closed)));
        Some(channel)
    }),
    ("with descriptors on the way", |client| {
        let channel = Channel::open(client, 0).ok()?;
        for _ in 0..20 {
            client.walk(ROOT, 2, &[b"f"]).unwrap();
            says_fd(&channel, &t::lopen(1, 2, O_RDWR));
            client.clunk(2).unwrap();
        }
        Some(channel)
    }),
];

#[test]
fn client_that_ends_in_any_state_leaves_no_descriptor_and_no_memory() {
    for (state, begin) in STATES {
        let tree = filled();
        for number in 1..4 {
            tree.dir(&format!("m{number}"));
            tree.file(&format!("m{number}/f"), b"text");
        }
        let (gofer, mut clients) = serve_all(&tree, 4, &[]);
        let idle = settled(&gofer);
        let before = gofer.descriptor_count();
        let mut quiet = clients.remove(0);
        let held: Vec<_> = clients.iter_mut().map(begin).collect();
        quiet.getattr(ROOT, 0).unwrap();
        drop(clients);
        // The others' sockets and attach points, their memory, and two pairs of sockets each.
        until(state, || match gofer.descriptor_count() {
            now if now <= before - 3 * (1 + 1 + 4) => Ok(()),
            now => Err((now, before)),
        });
        // A client that still has the memory sees that it is over.
        for channel in held.iter().flatten() {
            assert_eq!(
                channel.window.state().load(Ordering::Acquire),
                OVER,
                "{state}"
            );
        }
        until(state, || match resident_kib(&gofer) {
            now if now <= idle + LEFT_KIB => Ok(()),
            now => Err((now, idle)),
        });
        quiet.getattr(ROOT, 0).unwrap();
        Channel::open(&mut quiet, 1).unwrap();
    }
}

// ---- one channel's end ----

/// A connection's two channels and another's, of which the first is ended by `end`: nothing else is.
#[track_caller]
fn ends_alone(told: &str, end: impl FnOnce(&Channel)) {
    let tree = filled();
    let (gofer, mut clients) = serve_all(&tree, 2, &[]);
    let [one, other] = &mut clients[..] else {
        panic!("two")
    };
    let first = Channel::open(one, 0).unwrap();
    let second = Channel::open(one, 1).unwrap();
    let foreign = Channel::open(other, 0).unwrap();
    one.walk_to(ROOT, 2, "f").unwrap();
    end(&first);
    assert!(matches!(first.wait(), Err(Fault::Closed)), "{told}");
    for channel in [&second, &foreign] {
        channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
    }
    one.getattr(2, 0).unwrap();
    // It stays so, whatever is done to it.
    refused(Channel::ask(one, 0).map(drop), Errno::ENOSYS);
    for state in [SERVER, CLIENT, SERVER] {
        first.put(&t::getattr(1, ROOT, 0)[4..]);
        first.window.state().store(state, Ordering::Release);
        first.window.wake(1);
        second.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        one.getattr(ROOT, 0).unwrap();
        assert_eq!(
            first.window.state().load(Ordering::Acquire),
            state,
            "{told}: it is served"
        );
    }
    drop(clients);
    let mut gofer = gofer;
    assert_eq!(gofer.exit().code, Some(0), "{told}");
}

#[test]
fn length_that_no_datagram_has_ends_the_channel_alone() {
    let too_long = LONGEST as u32 + 1;
    for length in [
        0,
        1,
        too_long,
        too_long + 1,
        WINDOW as u32,
        1 << 24,
        1 << 31,
        u32::MAX,
    ] {
        ends_alone(&format!("length {length}"), |channel| {
            channel.put(&[24, 0]);
            channel.window.length().store(length, Ordering::Relaxed);
            channel.hand_over().unwrap();
        });
    }
}

#[test]
fn state_that_there_is_not_ends_the_channel_alone() {
    for state in [OVER, 3, 4, 1 << 8, 1 << 31, u32::MAX] {
        ends_alone(&format!("state {state}"), |channel| {
            channel.window.state().store(state, Ordering::Release);
            channel.window.wake(1);
            until("the end", || {
                match channel.window.state().load(Ordering::Acquire) {
                    OVER => Ok(()),
                    state => Err(state),
                }
            });
        });
    }
}

/// It wakes the others that wait for the channel, and the server need not be told.
#[test]
fn client_that_shuts_a_channel_ends_it_alone() {
    ends_alone("shut", Channel::shut);
}

#[test]
fn end_of_all_channels_leaves_the_sockets() {
    let tree = Tree::new();
    let mut s = serve(&tree, &[]);
    for id in [0, 1] {
        let channel = Channel::open(&mut s, id).unwrap();
        channel.put(b"");
        channel.hand_over().unwrap();
        assert!(matches!(channel.wait(), Err(Fault::Closed)));
    }
    for _ in 0..100 {
        s.getattr(ROOT, 0).unwrap();
    }
}

// ---- what it costs ----

/// Ticks of processor time, and how often it has gone to sleep.
fn spent(gofer: &Gofer) -> (u64, u64) {
    let stat = gofer.proc_text("stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap());
    (
        ticks.sum(),
        gofer.status("voluntary_ctxt_switches").parse().unwrap(),
    )
}

#[test]
fn idle_channels_cost_no_time_and_no_call() {
    for spin in ["0", "20", "1000"] {
        let tree = Tree::new();
        let (gofer, mut clients) = serve_all(&tree, 3, &["--channel-spin", spin]);
        let mut channels = Vec::new();
        for client in &mut clients {
            channels.extend([0, 1].map(|id| Channel::open(client, id).unwrap()));
        }
        for _ in 0..200 {
            for channel in &channels {
                channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
            }
            clients[0].getattr(ROOT, 0).unwrap();
        }
        settled(&gofer); // what it gives back it gives back soon
        // Its last pass comes late on a busy machine. A cost that does not end is there in each of these times.
        let mut seen = vec![spent(&gofer)];
        let is_idle = (0..5).any(|_| {
            sleep(Duration::from_secs(2));
            seen.push(spent(&gofer));
            seen.ends_with(&[seen[seen.len() - 2]; 2])
        });
        assert!(is_idle, "ticks and sleeps, spin {spin}: {seen:?}");
        for channel in &channels {
            channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        }
    }
}

/// A bit of the flags of the program's end of a connection, as /proc tells them.
fn signals(gofer: &Gofer, index: usize) -> bool {
    const O_ASYNC: u32 = 0o20000;
    let inode = format!("socket:[{}]", gofer.inodes[index]);
    let all = gofer.descriptors().unwrap();
    let (number, _) = all
        .iter()
        .find(|(_, link)| *link == Path::new(&inode))
        .unwrap();
    let text = gofer.proc_text(&format!("fdinfo/{number}")).unwrap();
    let flags = text
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap();
    u32::from_str_radix(flags.trim(), 8).unwrap() & O_ASYNC != 0
}

/// Signals cost each message something: clients without channels are left alone as long as nobody has one.
#[test]
fn sockets_signal_only_while_a_channel_is_there() {
    let tree = Tree::new();
    let mut gofer = start(&tree, 3, &[]);
    let mut old = gofer.connect(0);
    let mut linux = gofer.client(1);
    linux.version(MSIZE, b"9P2000.L").unwrap();
    let mut new = connect(&mut gofer, 2);
    assert_eq!([0, 1, 2].map(|at| signals(&gofer, at)), [false; 3]);
    new.channel(0, 0).unwrap();
    new.getattr(ROOT, 0).unwrap();
    assert_eq!([0, 1, 2].map(|at| signals(&gofer, at)), [true; 3]);
    drop(new);
    until("silence", || {
        let signals = [0, 1].map(|at| signals(&gofer, at));
        if signals == [false; 2] {
            Ok(())
        } else {
            Err(signals)
        }
    });
    old.getattr(ROOT, 0).unwrap();
    refused(linux.getattr(ROOT, 0), Errno::EBADF);
}

fn shared_kib(gofer: &Gofer) -> u64 {
    let text = gofer.status("RssShmem");
    text.trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn windows_that_nobody_asks_for_take_no_memory() {
    let tree = Tree::new();
    let idle = |words: &[&str]| {
        let (gofer, mut clients) = serve_all(&tree, 4, words);
        for client in &mut clients {
            client.open(ROOT, 2, "", O_RDONLY).unwrap();
        }
        assert_eq!(shared_kib(&gofer), 0);
        settled(&gofer)
    };
    let (without, with) = (idle(&["--channels", "0"]), idle(&["--channels", "30"]));
    // Descriptors in tables, and no page of the windows.
    assert!(with <= without + 24, "{with} KiB, {without} without");
}

#[test]
fn windows_that_are_over_are_not_resident() {
    let tree = Tree::new();
    let (gofer, mut clients) = serve_all(&tree, 3, &["--channels", "60"]);
    let mut quiet = clients.remove(0);
    quiet.getattr(ROOT, 0).unwrap();
    let idle = settled(&gofer);
    let mut channels = Vec::new();
    for client in &mut clients {
        let offered = if channels.is_empty() { 0..60 } else { 0..7 };
        channels.extend(offered.map(|id| Channel::open(client, id).unwrap()));
    }
    let data = vec![7; PAYLOAD];
    for channel in &channels {
        refused(
            channel.get::<Rwrite>(&t::write(1, ROOT, 0, Data(&data))),
            Errno::EINVAL,
        );
        channel
            .get::<Rread>(&t::read(1, ROOT, 0, 1 << 20))
            .unwrap_err();
    }
    let used = shared_kib(&gofer);
    drop(clients);
    drop(channels);
    until("memory", || {
        let (shared, all) = (shared_kib(&gofer), resident_kib(&gofer));
        let is_back = all <= idle + LEFT_KIB;
        is_back.then_some(()).ok_or((shared, all, idle, used))
    });
    quiet.getattr(ROOT, 0).unwrap();
}

#[test]
fn first_use_of_a_channel_is_a_line_in_the_log() {
    let tree = Tree::new();
    let (gofer, mut clients) = serve_all(&tree, 2, &[]);
    let first = Channel::ask(&mut clients[0], 1).unwrap();
    let _unused = Channel::ask(&mut clients[1], 0).unwrap();
    clients[1].getattr(ROOT, 0).unwrap();
    let told = |gofer: &Gofer| -> Vec<String> {
        let lines = gofer.stderr();
        let lines = lines.lines().filter(|line| line.contains("hannel"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(told(&gofer), [""; 0]);
    for _ in 0..3 {
        first.greet().unwrap();
    }
    let lines = told(&gofer);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("hannel 1 of FD 3"), "{lines:?}");
}

#[test]
fn replies_that_wait_when_the_first_channel_is_given_out_go_on_when_they_are_read() {
    let tree = Tree::new();
    tree.file("large", vec![7; PAYLOAD]);
    for _ in 0..20 {
        let (_gofer, mut clients) = serve_all(&tree, 2, &[]);
        let [slow, other] = &mut clients[..] else {
            panic!("two clients");
        };
        slow.walk_to(ROOT, 1, "large").unwrap();
        slow.lopen(1, O_RDONLY).unwrap();
        // More than the socket holds, and nobody reads.
        for tag in 1..=3 {
            slow.send(&t::read(tag, 1, 0, PAYLOAD as u32)).unwrap();
        }
        other.getattr(ROOT, 0).unwrap();
        let channel = Channel::open(other, 0).unwrap();
        channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        for tag in 1..=3 {
            let reply = slow.recv().unwrap();
            assert_eq!((reply.tag, reply.kind), (tag, 117));
        }
    }
}
