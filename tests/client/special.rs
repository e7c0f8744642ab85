//! Sockets and FIFOs of the host, which are served where `--host-uds` and `--host-fifo` say so; docs/protocol.md
//! 3.3, 3.14.

use crate::harness::{
    Launch, Mount, Namespace, ROOT, Session, Tree, meanwhile, serve, session_of, spec,
    status_flags, write_spec,
};
use crate::p9::{
    Answer, Data, MSIZE, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, QT_SPECIAL, SetAttr, refused,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

const STREAM: u32 = 0;
const DATAGRAM: u32 = 1;
const SEQPACKET: u32 = 2;

fn with(tree: &Tree, namespace: Option<Namespace>, words: &[&str]) -> Session {
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut launch = Launch::new(&tree.bundle(), 1).with(words);
    if let Some(namespace) = namespace {
        launch = launch.namespace(namespace);
    }
    session_of(launch)
}

fn fifo(tree: &Tree, name: &str) {
    nix::unistd::mkfifo(&tree.path(name), Mode::from_bits_truncate(0o600)).unwrap();
}

fn listener(tree: &Tree, name: &str) -> UnixListener {
    let listener = UnixListener::bind(tree.path(name)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// A connection through the gofer and the host's end of it.
fn connected(s: &mut Session, fid: u32, listener: &UnixListener) -> (UnixStream, UnixStream) {
    let fd = s.lconnect(fid, STREAM).unwrap().fd.expect("a descriptor");
    let (peer, _) = listener.accept().expect("somebody connected");
    (UnixStream::from(fd), peer)
}

// ---- sockets ----

#[test]
fn lconnect_gives_a_connected_nonblocking_socket_as_often_as_asked() {
    let tree = Tree::new();
    let listener = listener(&tree, "s");
    for namespace in [None, Some(Namespace::UserAndMount)] {
        let mut s = with(&tree, namespace, &["--host-uds=open"]);
        let before = s.gofer.descriptor_count();
        let qids = s.walk_to(ROOT, 2, "s").unwrap();
        assert_eq!(qids[0].kind, QT_SPECIAL);
        for _ in 0..3 {
            let (mut ours, mut peer) = connected(&mut s, 2, &listener);
            assert!(status_flags(&ours).contains(OFlag::O_NONBLOCK));
            ours.write_all(b"hello").unwrap();
            drop(ours);
            let mut text = String::new();
            peer.set_nonblocking(false).unwrap();
            peer.read_to_string(&mut text).unwrap(); // to its end: the gofer holds no other copy
            assert_eq!(text, "hello");
        }
        s.clunk(2).unwrap();
        s.expect_descriptors(before);
    }
}

#[test]
fn lconnect_knows_the_three_types_and_passes_the_hosts_errno() {
    let tree = Tree::new();
    let _stream = listener(&tree, "stream");
    let datagram = UnixDatagram::bind(tree.path("datagram")).unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let packets = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    let address = UnixAddr::new(&tree.path("seqpacket")).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&packets), &address).unwrap();
    listen(&packets, Backlog::new(1).unwrap()).unwrap();
    let mut s = with(&tree, None, &["--host-uds=all"]);
    let kinds = [
        ("stream", STREAM),
        ("datagram", DATAGRAM),
        ("seqpacket", SEQPACKET),
    ];
    for (name, own) in kinds {
        s.walk_to(ROOT, 2, name).unwrap();
        for (_, kind) in kinds {
            let answer = s.lconnect(2, kind);
            match kind == own {
                true => drop(answer.unwrap().fd.expect("a descriptor")),
                false => refused(answer, Errno::EPROTOTYPE),
            }
        }
        for kind in [3, 4, 5, u32::MAX] {
            refused(s.lconnect(2, kind), Errno::ENXIO);
        }
    }
    s.walk_to(ROOT, 2, "datagram").unwrap();
    let ours = UnixDatagram::from(s.lconnect(2, DATAGRAM).unwrap().fd.unwrap());
    ours.send(b"hello").unwrap();
    let mut text = [0; 9];
    assert_eq!(datagram.recv(&mut text).unwrap(), 5);
    drop(datagram); // nobody is bound to the file any more
    // But for a child of another test, between its fork and its exec.
    let host = UnixDatagram::unbound().unwrap();
    while host.connect(tree.path("datagram")).is_ok() {
        std::thread::yield_now();
    }
    refused(s.lconnect(2, DATAGRAM), Errno::ECONNREFUSED);
}

#[test]
fn lconnect_is_ebadf_then_einval_for_what_is_no_socket_or_deleted() {
    let tree = Tree::new();
    let listener = listener(&tree, "s");
    tree.file("f", b"");
    tree.link("l", "s");
    let mut s = with(&tree, None, &["--host-uds=open"]);
    for (fid, name) in [(2, "f"), (3, "l"), (4, "s")] {
        s.walk_to(ROOT, fid, name).unwrap();
    }
    for kind in [STREAM, 3, u32::MAX] {
        refused(s.lconnect(99, kind), Errno::EBADF);
        for fid in [ROOT, 2, 3] {
            refused(s.lconnect(fid, kind), Errno::EINVAL);
        }
    }
    refused(s.lopen(4, O_RDONLY), Errno::EINVAL);
    s.unlinkat(ROOT, b"s", 0).unwrap();
    refused(s.lconnect(4, STREAM), Errno::EINVAL);
    assert!(listener.accept().is_err());
}

/// The original connects by path, up to 107 bytes of it.
#[test]
fn lconnect_of_a_long_path_is_served() {
    let tree = Tree::new();
    let dir = [["long"; 20].concat().as_str(); 4].join("/");
    tree.dir(&dir);
    let listener = listener(&tree, "s");
    fs::rename(tree.path("s"), tree.path(&dir).join("s")).unwrap();
    let mut s = with(&tree, None, &["--host-uds=open"]);
    s.walk_to(ROOT, 2, &format!("{dir}/s")).unwrap();
    connected(&mut s, 2, &listener);
}

/// connect(2) follows symlinks: a path, or a name in a directory, could be made one in between.
#[test]
fn lconnect_of_a_socket_swapped_with_a_symlink_reaches_the_one_walked_to() {
    let tree = Tree::new();
    let inside = listener(&tree, "s");
    let secret = UnixListener::bind(tree.outside("secret")).unwrap();
    secret.set_nonblocking(true).unwrap();
    tree.link("swap", tree.outside("secret"));
    // One that chroot does not keep from it.
    let beside = listener(&tree, "beside");
    tree.link("other", "beside");
    let mut s = with(&tree, None, &["--host-uds=open"]);
    s.walk_to(ROOT, 2, "s").unwrap();
    meanwhile(
        || {
            tree.swap("s", "swap").unwrap();
            tree.swap("s", "other").unwrap();
        },
        || {
            for _ in 0..2000 {
                connected(&mut s, 2, &inside);
            }
        },
    );
    assert!(secret.accept().is_err());
    assert!(beside.accept().is_err());
}

/// One that nobody accepts from would be waited for.
#[test]
fn lconnect_to_a_full_queue_is_eagain_at_once() {
    let tree = Tree::new();
    let flags = SockFlag::SOCK_CLOEXEC;
    let full = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    let address = UnixAddr::new(&tree.path("s")).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&full), &address).unwrap();
    listen(&full, Backlog::new(0).unwrap()).unwrap();
    let mut s = with(&tree, None, &["--host-uds=open"]);
    s.walk_to(ROOT, 2, "s").unwrap();
    let mut held: Vec<OwnedFd> = Vec::new();
    loop {
        match s.lconnect(2, STREAM) {
            Ok(reply) => held.push(reply.fd.unwrap()),
            answer => break refused(answer, Errno::EAGAIN),
        }
        assert!(held.len() < 100, "a queue of 0 takes 100");
    }
    s.getattr(ROOT, 0).unwrap();
}

#[test]
fn sockets_are_eperm_unless_host_uds_lets_them_be_opened() {
    let tree = Tree::new();
    let listener = listener(&tree, "s");
    fifo(&tree, "p");
    for words in [
        &[][..],
        &["--host-uds=none"],
        &["--host-uds=create"],
        &["--host-fifo=open"],
    ] {
        refused(with(&tree, None, words).walk_to(ROOT, 2, "s"), Errno::EPERM);
    }
    for word in ["--host-uds=open", "--host-uds=all", "--fsgofer-host-uds"] {
        let mut s = with(&tree, None, &[word]);
        s.walk_to(ROOT, 2, "s").unwrap();
        connected(&mut s, 2, &listener);
        refused(s.walk_to(ROOT, 3, "p"), Errno::EPERM);
    }
}

/// Without the clone of /proc/self/fd there is no safe way.
#[test]
fn lconnect_without_the_clone_is_econnrefused() {
    let tree = Tree::new();
    let listener = listener(&tree, "s");
    let mut s = with(&tree, Some(Namespace::User), &["--host-uds=open"]);
    s.walk_to(ROOT, 2, "s").unwrap();
    for kind in [STREAM, DATAGRAM, SEQPACKET] {
        refused(s.lconnect(2, kind), Errno::ECONNREFUSED);
    }
    assert!(listener.accept().is_err());
}

/// The filter has two calls more with the flag.
#[test]
fn host_uds_alone_adds_calls_to_the_filter() {
    let tree = Tree::new();
    let count = |words: &[&str]| -> u32 {
        let s = with(&tree, None, words);
        let text = s.gofer.stderr();
        let (_, rest) = text.split_once("Installing seccomp filters for ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let plain = count(&[]);
    assert_eq!(count(&["--host-fifo=open"]), plain);
    assert_eq!(count(&["--host-uds=open"]), plain + 2);
    assert_eq!(count(&["--host-uds=open", "--host-fifo=open"]), plain + 2);
}

// ---- FIFOs ----

#[test]
fn fifo_is_opened_without_waiting_and_its_descriptor_donated() {
    for namespace in [None, Some(Namespace::User)] {
        let tree = Tree::new();
        fifo(&tree, "p");
        let mut s = with(&tree, namespace, &["--host-fifo=open"]);
        let qids = s.walk_to(ROOT, 2, "p").unwrap();
        assert_eq!(qids[0].kind, QT_SPECIAL);
        s.walk_to(ROOT, 3, "p").unwrap();
        s.walk_to(ROOT, 4, "p").unwrap();
        refused(s.lopen(3, O_WRONLY), Errno::ENXIO); // nobody reads
        let mut reader = File::from(s.lopen(2, O_RDONLY).unwrap().fd.expect("a descriptor"));
        assert!(status_flags(&reader).contains(OFlag::O_NONBLOCK));
        let mut writer = File::from(s.lopen(3, O_WRONLY).unwrap().fd.expect("a descriptor"));
        writer.write_all(b"text").unwrap();
        let mut text = [0; 9];
        assert_eq!(reader.read(&mut text).unwrap(), 4);
        s.lopen(4, O_RDWR).unwrap().fd.expect("a descriptor");
        // Data goes by the descriptor alone.
        refused(s.read(2, 0, 10), Errno::ESPIPE);
        refused(s.write(3, 0, Data(b"x")), Errno::ESPIPE);
    }
}

/// A shell's `> p`: there is nothing to cut off.
#[test]
fn fifo_opened_to_truncate_is_opened_as_without() {
    for namespace in [None, Some(Namespace::User)] {
        let tree = Tree::new();
        fifo(&tree, "p");
        let mut s = with(&tree, namespace, &["--host-fifo=open"]);
        for (fid, access) in [(2, O_RDONLY), (3, O_WRONLY), (4, O_RDWR)] {
            s.walk_to(ROOT, fid, "p").unwrap();
            let reply = s.lopen(fid, access | O_TRUNC).unwrap();
            reply.fd.expect("a descriptor");
        }
    }
}

#[test]
fn fifo_is_not_written_through_a_read_only_attach_point() {
    let tree = Tree::new();
    fifo(&tree, "p");
    write_spec(&tree.bundle(), &spec(&tree.root(), true, &[]));
    let mut s = session_of(Launch::new(&tree.bundle(), 1).with(&["--host-fifo=open"]));
    s.walk_to(ROOT, 2, "p").unwrap();
    refused(s.lopen(2, O_WRONLY), Errno::EROFS);
    refused(s.lopen(2, O_RDWR), Errno::EROFS);
    s.lopen(2, O_RDONLY).unwrap();
}

#[test]
fn fifos_are_eperm_without_host_fifo() {
    let tree = Tree::new();
    fifo(&tree, "p");
    for words in [&[][..], &["--host-fifo=none"], &["--host-uds=all"]] {
        refused(with(&tree, None, words).walk_to(ROOT, 2, "p"), Errno::EPERM);
    }
}

// ---- both ----

#[test]
fn sockets_and_fifos_have_attributes_that_change_and_names() {
    for namespace in [None, Some(Namespace::UserAndMount)] {
        let tree = Tree::new();
        let listener = listener(&tree, "s");
        fifo(&tree, "p");
        let mut s = with(&tree, namespace, &["--host-uds=open", "--host-fifo=open"]);
        for (fid, name) in [(2, "s"), (3, "p")] {
            s.walk_to(ROOT, fid, name).unwrap();
            let attr = SetAttr {
                mode: 0o640,
                size: 5,
                mtime: 7,
                ..SetAttr::default()
            };
            s.setattr(fid, 0x1 | 0x20 | 0x100, &attr).unwrap();
            refused(s.setattr(fid, 0x8, &attr), Errno::EINVAL);
            let told = s.getattr(fid, 0).unwrap().attr;
            assert_eq!((told.mode, told.mtime), (tree.stat(name).mode(), 7));
            assert_eq!(told.mode & 0o7777, 0o640);
            refused(s.getxattr(fid, b"user.a", 9), Errno::EOPNOTSUPP);
            refused(s.readlink(fid), Errno::EINVAL);
            refused(s.walk_to(fid, 9, "x"), Errno::EINVAL);
            s.rename(fid, ROOT, b"renamed").unwrap();
            assert!(tree.path("renamed").exists());
            if fid == 2 {
                connected(&mut s, fid, &listener);
            }
            s.remove(fid).unwrap();
            assert!(!tree.path("renamed").exists());
        }
    }
}

#[test]
fn linux_opens_no_fifo_whatever_the_command_line_says() {
    let tree = Tree::new();
    fifo(&tree, "p");
    let mut s = with(&tree, None, &["--host-fifo=open"]);
    s.version(MSIZE, b"9P2000.L").unwrap();
    s.walk_to(ROOT, 2, "p").unwrap();
    for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
        refused(s.lopen(2, flags), Errno::EINVAL);
    }
    s.version(MSIZE, b"9P2000.L.Google.13").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
}

#[test]
fn lconnect_through_a_fid_of_linux_takes_host_uds_all_the_same() {
    let tree = Tree::new();
    let listener = listener(&tree, "s");
    let mut s = with(&tree, None, &[]);
    s.version(MSIZE, b"9P2000.L").unwrap();
    s.walk_to(ROOT, 2, "s").unwrap();
    for version in [&b"9P2000.L"[..], b"9P2000.L.Google.13"] {
        s.version(MSIZE, version).unwrap();
        refused(s.lconnect(2, STREAM), Errno::ECONNREFUSED);
    }
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn mode_of_a_fifo_without_the_clone_is_eperm() {
    let tree = Tree::new();
    fifo(&tree, "p");
    let words = &["--host-fifo=open"];
    let mut s = with(&tree, Some(Namespace::User), words);
    s.walk_to(ROOT, 2, "p").unwrap();
    let attr = SetAttr {
        mode: 0o640,
        ..SetAttr::default()
    };
    refused(s.setattr(2, 0x1, &attr), Errno::EPERM);
    assert_eq!(tree.stat("p").mode() & 0o7777, 0o600);
    s.lopen(2, O_RDONLY).unwrap();
    s.setattr(2, 0x1, &attr).unwrap();
    assert_eq!(tree.stat("p").mode() & 0o7777, 0o640);
}

#[test]
fn attach_of_a_socket_and_a_fifo_is_served_with_their_flags() {
    let tree = Tree::new();
    let listener = listener(&tree, "s");
    fifo(&tree, "p");
    let mounts = ["/s", "/p"].map(|place| Mount::bind(place, &[]));
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let words = ["--host-uds=open", "--host-fifo=open"];
    let mut gofer = Launch::new(&tree.bundle(), 3).with(&words).start();
    let mut attach = |index: usize| {
        let mut c = gofer.client(index);
        c.version(MSIZE, b"9P2000.L.Google.13").unwrap();
        let qid: Answer<_> = c.attach_root(ROOT);
        assert_eq!(qid.unwrap().kind, QT_SPECIAL);
        c
    };
    let mut socket = attach(1);
    socket
        .lconnect(ROOT, STREAM)
        .unwrap()
        .fd
        .expect("a descriptor");
    listener.accept().unwrap();
    let mut pipe = attach(2);
    pipe.lopen(ROOT, O_RDONLY)
        .unwrap()
        .fd
        .expect("a descriptor");
    let writer = File::options()
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(tree.path("p"));
    writer.expect("somebody reads");
}

/// It may have become one since it was walked to.
#[test]
fn special_files_put_in_a_files_place_are_not_opened() {
    let tree = Tree::new();
    tree.file("f", b"text");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    fs::remove_file(tree.path("f")).unwrap();
    let _listener = listener(&tree, "f");
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"text");
    refused(s.lconnect(2, STREAM), Errno::EINVAL);
}
