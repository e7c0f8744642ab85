//! Frames in any pieces, several connections, and their ends: docs/protocol.md 1.4, docs/launch.md 3.

use crate::harness::{
    Gofer, Launch, Mount, ROOT, Tree, expect_descriptors, serve, serve_mounts, spec, write_spec,
};
use crate::p9::{Client, Data, Frame, MSIZE, O_RDONLY, O_WRONLY, Rread, frame, refused, t};
use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A server with a root and `extra` connections to the directory `m`.
fn several(tree: &Tree, extra: usize) -> (Gofer, Vec<Client>) {
    tree.dir("m");
    serve_mounts(tree, false, &vec![Mount::bind("/m", &[]); extra])
}

// ---- frames ----

#[test]
fn frame_byte_by_byte_is_served() {
    let tree = Tree::new();
    let s = serve(&tree);
    for _ in 0..3 {
        for byte in t::getattr(5, ROOT, 0) {
            s.send(&[byte]).unwrap();
        }
        let reply = s.recv().unwrap();
        assert_eq!((reply.kind, reply.tag), (25, 5));
    }
}

#[test]
fn frame_cut_anywhere_is_served() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_WRONLY).unwrap();
    let request = t::write(5, 2, 0, Data(b"0123456789"));
    for cut in 1..request.len() {
        s.send(&request[..cut]).unwrap();
        s.send(&request[cut..]).unwrap();
        assert_eq!(s.recv().unwrap().kind, 119);
    }
    assert_eq!(tree.read("a"), b"0123456789");
}

#[test]
fn frames_glued_in_one_write_are_answered_in_order() {
    let tree = Tree::new();
    let s = serve(&tree);
    let all: Vec<u8> = (0..2000u16)
        .flat_map(|tag| t::getattr(tag, ROOT, 0))
        .collect();
    s.send(&all).unwrap();
    for tag in 0..2000 {
        let reply = s.recv().unwrap();
        assert_eq!((reply.kind, reply.tag), (25, tag));
    }
}

#[test]
fn frames_glued_with_the_start_of_another_are_answered_before_it_is_whole() {
    let tree = Tree::new();
    let s = serve(&tree);
    let third = t::statfs(3, ROOT);
    s.send(
        &[
            &t::getattr(1, ROOT, 0)[..],
            &t::getattr(2, ROOT, 0),
            &third[..9],
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(s.recv().unwrap().tag, 1);
    assert_eq!(s.recv().unwrap().tag, 2);
    s.send(&third[9..]).unwrap();
    assert_eq!(s.recv().unwrap().tag, 3);
}

/// Whole frames of the largest size, one behind the other, in pieces that fit nothing.
#[test]
fn frames_of_the_largest_size_in_odd_pieces_are_served() {
    let tree = Tree::new();
    tree.file("a", b"");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_WRONLY).unwrap();
    let length = MSIZE as usize - 23;
    let mut all = Vec::new();
    for number in 0..4u8 {
        let data = vec![number; length];
        all.extend(t::write(
            u16::from(number),
            2,
            u64::from(number) * length as u64,
            Data(&data),
        ));
    }
    for piece in all.chunks(77_777) {
        s.send(piece).unwrap();
    }
    for number in 0..4 {
        let reply = s.recv().unwrap();
        assert_eq!((reply.kind, reply.tag), (119, number));
        assert_eq!(reply.body, (length as u32).to_le_bytes());
    }
    let content = tree.read("a");
    assert_eq!(content.len(), 4 * length);
    assert!(
        content
            .chunks(length)
            .zip(0..)
            .all(|(part, number)| part.iter().all(|&byte| byte == number))
    );
}

#[test]
fn frame_of_exactly_the_msize_is_served() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    for msize in [MSIZE, 4096] {
        s.version(msize, b"9P2000.L.Google.7").unwrap();
        let mut body = ROOT.to_le_bytes().to_vec();
        body.resize(msize as usize - 7, 0); // bytes behind the last field are ignored
        assert_eq!(s.raw(124, &body).unwrap().kind, 125);
    }
}

#[test]
fn frame_shorter_than_a_header_ends_the_connection() {
    let tree = Tree::new();
    for size in 0..7u32 {
        let mut s = serve(&tree);
        let mut bad = t::getattr(2, ROOT, 0);
        bad[..4].copy_from_slice(&size.to_le_bytes());
        // What came before it is still answered.
        s.send(&[t::getattr(1, ROOT, 0), bad].concat()).unwrap();
        assert_eq!(s.recv().unwrap().tag, 1);
        s.expect_closed();
        assert_eq!(s.finish().code, Some(0), "size {size}");
    }
}

#[test]
fn frame_larger_than_the_msize_ends_the_connection() {
    let tree = Tree::new();
    for (msize, size) in [
        (4096, 4097),
        (MSIZE, MSIZE + 1),
        (MSIZE, 4 << 20),
        (MSIZE, u32::MAX),
    ] {
        let mut s = serve(&tree);
        s.version(msize, b"9P2000.L.Google.7").unwrap();
        let mut header = frame(120, 9, b"");
        header[..4].copy_from_slice(&size.to_le_bytes());
        s.send(&header).unwrap(); // the header is enough
        s.expect_closed();
        assert_eq!(s.finish().code, Some(0), "size {size}");
    }
}

#[test]
fn frame_above_1_mib_before_tversion_ends_the_connection() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let mut client = gofer.client(0);
    let largest = vec![0; MSIZE as usize - 7];
    assert_eq!(client.raw(124, &largest).unwrap().errno(), Errno::EBADF);
    let mut header = frame(124, 9, b"");
    header[..4].copy_from_slice(&(MSIZE + 1).to_le_bytes());
    client.send(&header).unwrap();
    client.expect_closed();
    assert_eq!(gofer.exit().code, Some(0));
}

// ---- ends ----

#[test]
fn end_of_file_at_any_point_of_a_frame_ends_the_program_in_peace() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let request = t::walk(5, ROOT, 2, &[b"abc"]);
    for length in 0..=request.len() {
        let mut gofer = Launch::new(&tree.bundle(), 1).start();
        let client = gofer.client(0);
        client.send(&request[..length]).unwrap();
        drop(client);
        let exit = gofer.exit();
        assert_eq!(exit.code, Some(0), "{length} bytes: {exit:?}");
    }
}

#[test]
fn end_of_file_before_any_byte_on_all_connections_is_exit_0() {
    let tree = Tree::new();
    tree.dir("m");
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/m", &[])]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 2).start();
    gofer.sockets.clear();
    assert_eq!(gofer.exit().code, Some(0));
}

#[test]
fn half_close_by_the_client_still_brings_the_replies() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    let all: Vec<u8> = (0..500u16)
        .flat_map(|tag| t::getattr(tag, ROOT, 0))
        .collect();
    s.send(&all).unwrap();
    s.socket.shutdown(Shutdown::Write).unwrap();
    for tag in 0..500 {
        assert_eq!(s.recv().unwrap().tag, tag);
    }
    s.expect_closed();
    assert_eq!(s.finish().code, Some(0));
}

#[test]
fn connection_that_ends_leaves_the_others() {
    let tree = Tree::new();
    let (mut gofer, mut clients) = several(&tree, 2);
    drop(clients.remove(1));
    for client in &mut clients {
        client.getattr(ROOT, 0).unwrap();
    }
    drop(clients.remove(0)); // the root's connection is no different
    clients[0].getattr(ROOT, 0).unwrap();
    clients[0].walk_to(ROOT, 2, "").unwrap();
    drop(clients);
    assert_eq!(gofer.exit().code, Some(0));
}

#[test]
fn connection_broken_by_a_bad_frame_leaves_the_others() {
    let tree = Tree::new();
    let (mut gofer, mut clients) = several(&tree, 1);
    clients[0].send(&[0; 7]).unwrap();
    clients[0].expect_closed();
    clients[1].getattr(ROOT, 0).unwrap();
    drop(clients);
    assert_eq!(gofer.exit().code, Some(0));
}

/// The server meets a broken pipe or a reset, and no signal.
#[test]
fn connection_closed_with_replies_unread_leaves_the_others() {
    let tree = Tree::new();
    tree.file("big", vec![7; 1 << 20]);
    let (mut gofer, mut clients) = several(&tree, 1);
    clients[0].open(ROOT, 2, "big", O_RDONLY).unwrap();
    let reads: Vec<u8> = (0..20u16)
        .flat_map(|tag| t::read(tag, 2, 0, 1_000_000))
        .collect();
    clients[0].send(&reads).unwrap();
    assert_eq!(clients[0].recv().unwrap().kind, 117);
    drop(clients.remove(0));
    for _ in 0..10 {
        clients[0].getattr(ROOT, 0).unwrap();
    }
    drop(clients);
    let exit = gofer.exit();
    assert_eq!((exit.code, exit.signal), (Some(0), None));
}

#[test]
fn connection_of_its_own_fids() {
    let tree = Tree::new();
    tree.file("a", b"");
    let (_gofer, mut clients) = several(&tree, 1);
    clients[0].walk_to(ROOT, 2, "a").unwrap();
    refused(clients[1].getattr(2, 0), Errno::EBADF);
    clients[1].clunk(ROOT).unwrap();
    clients[0].getattr(ROOT, 0).unwrap();
}

#[test]
fn connection_has_an_msize_of_its_own() {
    let tree = Tree::new();
    let (_gofer, mut clients) = several(&tree, 1);
    clients[0].version(100, b"9P2000.L").unwrap();
    assert_eq!(
        clients[1].raw(124, &vec![0; 100_000]).unwrap().errno(),
        Errno::EBADF
    );
}

#[test]
fn connections_up_to_256_are_served() {
    let tree = Tree::new();
    let (mut gofer, mut clients) = several(&tree, 255);
    assert_eq!(clients.len(), 256);
    for client in &mut clients {
        client.walk_to(ROOT, 2, "").unwrap();
    }
    drop(clients);
    assert_eq!(gofer.exit().code, Some(0));
}

#[test]
fn connections_above_256_end_the_start() {
    let tree = Tree::new();
    tree.dir("m");
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &vec![Mount::bind("/m", &[]); 256]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 257).start();
    let exit = gofer.exit();
    assert_eq!(exit.code, Some(128), "{exit:?}");
    assert!(!exit.stderr.is_empty());
}

// ---- nobody waits for another ----

/// Writes requests until the socket takes no more. What is left of the last one is returned.
fn flood(client: &Client, request: impl Fn(u16) -> Vec<u8>) -> (VecDeque<u16>, Vec<u8>) {
    client.socket.set_nonblocking(true).unwrap();
    let mut tags = VecDeque::new();
    let mut sent = 0;
    let left = 'full: loop {
        let tag = tags.len() as u16;
        let bytes = request(tag);
        tags.push_back(tag);
        let mut at = 0;
        while at < bytes.len() {
            match (&client.socket).write(&bytes[at..]) {
                Ok(count) => at += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    break 'full bytes[at..].to_vec();
                }
                Err(error) => panic!("{error}"),
            }
        }
        sent += bytes.len();
        assert!(
            sent < 64 << 20,
            "the server reads on though nobody takes its replies"
        );
    };
    client.socket.set_nonblocking(false).unwrap();
    (tags, left)
}

#[test]
fn stalled_and_silent_connections_do_not_stop_a_third() {
    let tree = Tree::new();
    tree.file(
        "big",
        (0..100_000u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<u8>>(),
    );
    let (mut gofer, mut clients) = several(&tree, 2);
    let mut lively = clients.pop().unwrap();
    let stalled = clients.pop().unwrap();
    let mut silent = clients.pop().unwrap();

    // One stops in mid-frame, one asks on and on and reads nothing.
    let half = t::getattr(5, ROOT, 0);
    stalled.send(&half[..10]).unwrap();
    silent.open(ROOT, 2, "big", O_RDONLY).unwrap();
    let offset = |tag: u16| u64::from(tag % 1000) * 4;
    let (mut tags, left) = flood(&silent, |tag| t::read(tag, 2, offset(tag), 2000));

    for _ in 0..500 {
        lively.walk_to(ROOT, 2, "").unwrap();
        lively.lopen(2, O_RDONLY).unwrap();
        assert_eq!(lively.list(2, 4096).unwrap(), []);
        lively.clunk(2).unwrap();
    }

    // Both may go on where they were, and have lost nothing.
    stalled.send(&half[10..]).unwrap();
    assert_eq!(stalled.recv().unwrap().kind, 25);
    let check = |frame: Frame, tag: u16| {
        let data = frame.answer::<Rread>(116, tag).unwrap().data.0;
        assert_eq!(data.len(), 2000);
        assert_eq!(data[..4], u32::from(tag % 1000).to_le_bytes());
    };
    let last = tags.pop_back().unwrap();
    for tag in tags {
        check(silent.recv().unwrap(), tag);
    }
    silent.send(&left).unwrap();
    check(silent.recv().unwrap(), last);

    drop((lively, stalled, silent));
    assert_eq!(gofer.exit().code, Some(0));
}

#[test]
fn silent_connection_that_ends_leaves_the_others() {
    let tree = Tree::new();
    tree.file("big", vec![1; 1 << 20]);
    let (mut gofer, mut clients) = several(&tree, 1);
    clients[0].open(ROOT, 2, "big", O_RDONLY).unwrap();
    flood(&clients[0], |tag| t::read(tag, 2, 0, 1_000_000));
    drop(clients.remove(0));
    clients[0].getattr(ROOT, 0).unwrap();
    drop(clients);
    assert_eq!(gofer.exit().code, Some(0));
}

/// Opens whose descriptors nobody takes: they are closed with the connection.
#[test]
fn silent_connection_with_donated_descriptors_frees_them_at_its_end() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let (gofer, mut clients) = several(&tree, 1);
    let start = gofer.descriptor_count();
    let silent = clients.remove(0);
    flood(&silent, |tag| {
        let fid = 10 + u32::from(tag);
        [
            t::walk(tag, ROOT, fid, &[b"a"]),
            t::lopen(tag, fid, O_RDONLY),
        ]
        .concat()
    });
    clients[0].getattr(ROOT, 0).unwrap();
    drop(silent);
    expect_descriptors(&gofer, &mut clients[0], start - 1); // without the socket, at least
}

// ---- waiting ----

/// Nanoseconds that it has run on a processor.
fn run_ns(gofer: &Gofer) -> u64 {
    let text = gofer.proc_text("schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// What a sleeping program costs in half a second: nothing, but for giving memory back once.
fn expect_asleep(gofer: &Gofer) {
    std::thread::sleep(Duration::from_millis(300));
    let before = run_ns(gofer);
    std::thread::sleep(Duration::from_millis(500));
    let spent = run_ns(gofer) - before;
    assert!(spent < 50_000_000, "{spent} ns of half a second");
}

#[test]
fn idle_program_sleeps_with_one_connection_and_with_many() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    s.getattr(ROOT, 0).unwrap();
    expect_asleep(&s.gofer);
    let (mut gofer, mut clients) = several(&tree, 5);
    clients[3].getattr(ROOT, 0).unwrap();
    expect_asleep(&gofer);
    drop(clients.pop());
    clients[0].getattr(ROOT, 0).unwrap();
    expect_asleep(&gofer);
    drop(clients);
    gofer.exit();
}

#[test]
fn socket_that_another_process_holds_too_costs_nothing_once_it_has_ended() {
    let tree = Tree::new();
    let (gofer, mut clients) = several(&tree, 2);
    let pid = Pid::from_raw(gofer.pid().cast_signed()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let name = format!("socket:[{}]", gofer.inodes[2]);
    let all = gofer.descriptors().unwrap();
    let (number, _) = all
        .iter()
        .find(|(_, link)| link.to_str() == Some(&name))
        .unwrap();
    let held = pidfd_getfd(&process, *number, PidfdGetfdFlags::empty()).unwrap();
    let last = clients.pop().unwrap();
    last.send(b"half a frame").unwrap();
    drop(last);
    for _ in 0..100 {
        clients[0].getattr(ROOT, 0).unwrap();
        clients[1].getattr(ROOT, 0).unwrap();
    }
    expect_asleep(&gofer);
    drop(held);
}

/// With several, the one that was heard last is waited for first, and the others as well.
#[test]
fn connections_that_take_turns_are_all_answered() {
    let tree = Tree::new();
    let (_gofer, mut clients) = several(&tree, 7);
    for round in 0..2000 {
        let count = clients.len();
        clients[round * 5 % count].getattr(ROOT, 0).unwrap();
        clients[round % 3].getattr(ROOT, 0).unwrap();
    }
    let all: Vec<u8> = (0..500).flat_map(|tag| t::getattr(tag, ROOT, 0)).collect();
    for client in &clients {
        client.send(&all).unwrap();
    }
    for client in clients.iter().rev() {
        for tag in 0..500 {
            assert_eq!(client.recv().unwrap().tag, tag);
        }
    }
}

/// A runtime may hand over a socket whose calls do not wait; it is one whose calls do, from then on.
#[test]
fn sockets_that_do_not_block_are_waited_for_all_the_same() {
    let tree = Tree::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let launch = Launch::new(&tree.bundle(), 0).with(&["--io-fds", "20"]);
    let mut gofer = launch.hand([(theirs.into(), 20)]).start();
    let mut client = Client::new(ours);
    client.hello(ROOT).unwrap();
    client.getattr(ROOT, 0).unwrap();
    expect_asleep(&gofer);
    drop(client);
    gofer.exit();
}

/// The server is slow where it looks at them, so that the one has asked again by then, every time.
#[test]
fn connection_that_always_asks_again_does_not_stop_another() {
    let tree = Tree::new();
    tree.dir("m");
    let mounts = [Mount::bind("/m", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let slow = [
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "inject=ppoll:delay_enter=20000",
    ];
    let mut gofer = Launch::new(&tree.bundle(), 2).by("strace", &slow).start();
    let (mut busy, other) = (gofer.connect(0), gofer.connect(1));
    busy.getattr(ROOT, 0).unwrap();
    other.send(&t::getattr(1, ROOT, 0)).unwrap();
    other.socket.set_nonblocking(true).unwrap();
    let mut rounds = 0;
    while (&other.socket).read(&mut [0]).is_err() {
        busy.getattr(ROOT, 0).unwrap();
        rounds += 1;
        assert!(rounds < 100, "the other one waits");
    }
}
