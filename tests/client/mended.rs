//! Faults that reviews found and that are mended: each stays mended.

use crate::entries::start;
use crate::harness::{
    Gofer, Launch, Mount, Namespace, ROOT, Tree, binary, expect_descriptors, serve, serve_mounts,
    session_of, spec, write_spec,
};
use crate::p9::{
    Client, Data, Fault, MSIZE, NOFID, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, SetAttr, refused,
    t,
};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The words for these io-fds.
fn io_fds(tree: &Tree, numbers: &[u32]) -> Vec<String> {
    let mut words = vec!["--bundle".into(), tree.bundle().display().to_string()];
    for number in numbers {
        words.extend(["--io-fds".into(), number.to_string()]);
    }
    words
}

// ---- the tree of paths ----

/// Fids of the nodes that are only held.
const OTHERS: u32 = 1000;

/// With few descriptors the index has few buckets, so that names of one bucket are met soon.
fn rename_into_what_was_below(rounds: u32, others: u32) {
    let tree = Tree::new();
    for round in 0..rounds {
        tree.dir(&format!("m/a{round}/b"));
    }
    for number in 0..others {
        tree.file(&format!("o{number}"), b"");
    }
    let mounts = [Mount::bind("/m", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), 2).nofile(512, 512).start();
    let (mut one, mut other) = (gofer.connect(0), gofer.connect(1));
    for number in 0..others {
        one.walk_to(ROOT, OTHERS + number, &format!("o{number}"))
            .unwrap();
    }
    one.walk_to(ROOT, 3, "m").unwrap();
    for round in 0..rounds {
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let fid = 10 + round;
        one.walk_to(ROOT, fid, &format!("m/{a}/b")).unwrap();
        other.walk_to(ROOT, 2, &a).unwrap();
        other.renameat(2, b"b", ROOT, b.as_bytes()).unwrap();
        other.clunk(2).unwrap();
        one.renameat(3, a.as_bytes(), fid, b"x").unwrap();
        // The first new node takes the place of the last that was freed.
        one.walk_to(fid, 4, "x").unwrap();
        let below = one.getattr(fid, 0).unwrap().qid.path;
        assert_eq!(below, tree.stat(&format!("m/{b}")).ino());
        let moved = one.getattr(4, 0).unwrap().qid.path;
        assert_eq!(moved, tree.stat(&format!("m/{b}/x")).ino());
    }
    for number in 0..20_000 {
        let name = format!("missing{number}");
        refused(one.walk_to(ROOT, 5, &name), Errno::ENOENT);
    }
    other.getattr(ROOT, 0).unwrap();
    one.walk_to(ROOT, 5, "m/b0/x").unwrap();
    let moved = one.getattr(5, 0).unwrap().qid.path;
    assert_eq!(moved, tree.stat("m/b0/x").ino());
    for number in 0..others {
        let qid = one.getattr(OTHERS + number, 0).unwrap().qid;
        assert_eq!(qid.path, tree.stat(&format!("o{number}")).ino());
    }
    drop((one, other));
    let exit = gofer.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
}

/// No fid holds the directory between, so the chain that is cut was all that held the moved one.
#[test]
fn rename_into_a_directory_that_was_below_and_moved_by_another_connection_is_served() {
    rename_into_what_was_below(1, 0);
}

/// As above: no other fid comes to stand for another file.
#[test]
fn rename_into_a_directory_that_was_below_leaves_other_fids_their_files() {
    rename_into_what_was_below(30, 300);
}

/// The path is deleted, whichever of its files a fid stands for.
#[test]
fn fid_of_a_file_replaced_by_the_host_is_deleted_with_its_name() {
    for by_client in [false, true] {
        let tree = Tree::new();
        tree.file("f", b"first");
        tree.file("other", b"second");
        let mut s = serve(&tree);
        s.walk_to(ROOT, 2, "f").unwrap();
        fs::rename(tree.path("other"), tree.path("f")).unwrap();
        s.walk_to(ROOT, 3, "f").unwrap();
        s.unlinkat(ROOT, b"f", 0).unwrap();
        if by_client {
            s.walk_to(ROOT, 4, "").unwrap();
            s.lcreate(4, b"f", O_RDWR, 0o644, NOID).unwrap();
            s.write(4, 0, Data(b"third")).unwrap();
        } else {
            tree.file("f", b"third");
        }
        for fid in [2, 3] {
            refused(s.lopen(fid, O_RDONLY), Errno::EINVAL);
            refused(s.remove(fid), Errno::EINVAL);
            refused(s.getattr(fid, 0), Errno::EBADF); // given up all the same
        }
        assert_eq!(tree.read("f"), b"third");
        s.open(ROOT, 5, "f", O_RDONLY).unwrap();
        assert_eq!(s.read_all(5).unwrap(), b"third");
    }
}

/// The fid's path is the new one from then on.
#[test]
fn fid_of_a_file_replaced_by_the_host_is_renamed_with_its_name() {
    let tree = Tree::new();
    tree.file("f", b"first");
    tree.file("other", b"second");
    let mut s = serve(&tree);
    s.walk_to(ROOT, 2, "f").unwrap();
    fs::rename(tree.path("other"), tree.path("f")).unwrap();
    s.walk_to(ROOT, 3, "f").unwrap();
    s.renameat(ROOT, b"f", ROOT, b"g").unwrap();
    assert_eq!(tree.read("g"), b"second");
    tree.file("f", b"third");
    s.remove(2).unwrap();
    assert!(!tree.path("g").exists());
    assert_eq!(tree.read("f"), b"third");
    refused(s.lopen(3, O_RDONLY), Errno::EINVAL);
}

/// So that a rename costs no more for each file that the path once was.
#[test]
fn path_remembers_its_last_16_files_and_the_older_lose_it() {
    const FILES: u32 = 40;
    const REMEMBERED: u32 = 16;
    let tree = Tree::new();
    let mut s = serve(&tree);
    let mut inodes = vec![];
    for number in 0..FILES {
        tree.file("new", format!("{number}").as_bytes());
        fs::rename(tree.path("new"), tree.path("f")).unwrap();
        s.walk_to(ROOT, 10 + number, "f").unwrap();
        inodes.push(tree.stat("f").ino());
    }
    s.renameat(ROOT, b"f", ROOT, b"g").unwrap();
    for (fid, inode) in (10..).zip(inodes) {
        assert_eq!(s.getattr(fid, 0).unwrap().qid.path, inode);
    }
    let oldest = 10 + FILES - REMEMBERED;
    for fid in 10..oldest {
        refused(s.remove(fid), Errno::EINVAL);
        refused(s.getattr(fid, 0), Errno::EBADF);
        assert!(tree.path("g").exists());
    }
    s.remove(oldest).unwrap();
    assert!(!tree.path("g").exists());
}

/// Without the clone of /proc/self/fd it has no other way to be opened. It was EBADF, as of no fid.
#[test]
fn file_that_lost_its_path_is_opened_or_else_estale() {
    for (way, errno) in [(None, None), (Some(Namespace::User), Some(Errno::ESTALE))] {
        let tree = Tree::new();
        let mut s = start(&tree, way);
        for fid in 10..40 {
            tree.file("new", b"text");
            fs::rename(tree.path("new"), tree.path("f")).unwrap();
            s.walk_to(ROOT, fid, "f").unwrap();
        }
        match errno {
            None => drop(s.lopen(10, O_RDONLY).unwrap()),
            Some(errno) => refused(s.lopen(10, O_RDONLY), errno),
        }
        s.lopen(39, O_RDONLY).unwrap();
    }
}

// ---- messages ----

fn attach(aname: &[u8]) -> Result<(), Fault> {
    let tree = Tree::new();
    tree.dir("d");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let mut client = gofer.client(0);
    client.version(MSIZE, b"9P2000.L.Google.7").unwrap();
    let done = client.attach(2, NOFID, b"", aname, NOID).map(drop);
    if done.is_err() {
        refused(client.getattr(2, 0), Errno::EBADF);
    }
    drop(client);
    let exit = gofer.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    done
}

/// All names are looked at before the first is walked to, and are no more than those of a walk.
#[test]
fn attach_name_has_the_checks_and_the_limit_of_a_walk() {
    let missing = |parts: usize| vec!["missing"; parts].join("/");
    refused(attach(missing(257).as_bytes()), Errno::E2BIG);
    refused(
        attach(format!("/{}", missing(257)).as_bytes()),
        Errno::E2BIG,
    );
    refused(attach(missing(256).as_bytes()), Errno::ENOENT);
    refused(attach(b"/missing/.."), Errno::EINVAL);
    refused(
        attach(format!("{}/..", missing(300)).as_bytes()),
        Errno::EINVAL,
    );
    attach(b"/d").unwrap();
}

/// Rlopen has 24 bytes: nothing is opened, nothing cut.
#[test]
fn lopen_whose_reply_has_no_room_does_nothing() {
    for msize in [20, 23] {
        let tree = Tree::new();
        tree.file("a", b"text");
        let mut s = serve(&tree);
        s.walk_to(ROOT, 2, "a").unwrap();
        s.version(msize, b"9P2000.L.Google.7").unwrap();
        refused(s.lopen(2, O_RDWR | O_TRUNC), Errno::EMSGSIZE);
        refused(s.lopen(2, O_RDWR | O_TRUNC), Errno::EMSGSIZE);
        assert_eq!(tree.read("a"), b"text");
        if msize == 23 {
            refused(s.read(2, 0, 1), Errno::EINVAL);
            s.version(MSIZE, b"9P2000.L").unwrap();
            s.lopen(2, O_RDWR).unwrap();
        }
        s.clunk(2).unwrap();
        let mut second = serve(&tree);
        second.walk_to(ROOT, 2, "a").unwrap();
        assert_eq!(second.getattr(2, 0).unwrap().attr.size, 4);
    }
}

/// No entry has such an offset, and the one asked for behind it is still known.
#[test]
fn readdir_at_offsets_of_2_to_the_63_and_more_is_einval_and_the_listing_goes_on() {
    let tree = Tree::new();
    let mut wanted = BTreeSet::new();
    for number in 0..300 {
        let name = format!("f{number}");
        tree.file(&name, b"");
        wanted.insert(name.into_bytes());
    }
    let mut s = serve(&tree);
    s.open(ROOT, 2, "", O_RDONLY).unwrap();
    let (mut got, mut offset) = (Vec::new(), 0);
    loop {
        for wrong in [u64::MAX, 1 << 63] {
            refused(s.readdir(2, wrong, 500), Errno::EINVAL);
        }
        let list = s.readdir(2, offset, 500).unwrap().entries.list;
        let Some(last) = list.last() else { break };
        offset = last.offset;
        got.extend(list.into_iter().map(|entry| entry.name));
    }
    assert_eq!(got.len(), wanted.len());
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), wanted);
}

// ---- descriptors and limits ----

/// The texts name the number as it was given.
#[test]
fn io_fds_not_open_given_twice_or_no_sockets_are_fatal() {
    let tree = Tree::new();
    tree.dir("m");
    let mounts = [Mount::bind("/m", &[])];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let end = |numbers: &[u32], strays: &[i32]| {
        Launch::raw(&io_fds(&tree, numbers))
            .strays(strays)
            .start()
            .exit()
    };
    end(&[3, 8], &[]).expect_fatal("FD 8");
    end(&[8, 3], &[]).expect_fatal("FD 8");
    end(&[3, 3], &[]).expect_fatal("FD 3");
    let exit = end(&[3, 8], &[8]);
    exit.expect_fatal("FD 8");
    exit.expect_fatal("socket operation on non-socket");
}

/// The place that the socket leaves is filled again before any file could come to stand there.
#[test]
fn io_fd_0_is_served_and_its_number_is_never_a_file() {
    let tree = Tree::new();
    tree.file("a", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut words = vec![
        "-c".to_owned(),
        "exec \"$0\" \"$@\" 0<&3 3<&-".to_owned(),
        binary().display().to_string(),
    ];
    words.extend(io_fds(&tree, &[0]));
    let mut s = session_of(Launch::raw(&words).binary(Path::new("/bin/sh")));
    for fid in 10..20 {
        s.open(ROOT, fid, "a", O_RDWR).unwrap();
    }
    assert_eq!(s.read_all(10).unwrap(), b"text");
    let all = s.gofer.descriptors().unwrap();
    let (number, link) = &all[0];
    let link = link.to_str().unwrap();
    assert_eq!(*number, 0, "{all:?}");
    assert!(link == "/dev/null" || link.starts_with("pipe:"), "{link}");
}

/// The signal that comes with the error is not the server's death.
#[test]
fn file_size_limit_is_efbig_and_the_server_lives() {
    let tree = Tree::new();
    tree.file("a", b"");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut words = vec![
        "-c".to_owned(),
        "ulimit -f 8 && exec \"$0\" \"$@\"".to_owned(), // blocks of 512 bytes
        binary().display().to_string(),
    ];
    words.extend(io_fds(&tree, &[3]));
    let mut s = session_of(Launch::raw(&words).binary(Path::new("/bin/sh")));
    let limits = s.gofer.proc_text("limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max file size"));
    assert!(line.is_some_and(|line| line.contains(" 4096 ")), "{line:?}");
    s.open(ROOT, 2, "a", O_RDWR).unwrap();
    refused(s.write(2, 4096, Data(b"x")), Errno::EFBIG);
    match s.write(2, 0, Data(&[1; 8192])) {
        Ok(written) => assert_eq!(written.count, 4096),
        other => refused(other, Errno::EFBIG),
    }
    let larger = SetAttr {
        size: 8192,
        ..SetAttr::default()
    };
    refused(s.setattr(2, 8, &larger), Errno::EFBIG);
    s.write(2, 0, Data(b"text")).unwrap();
    assert!(tree.stat("a").len() <= 4096);
    assert!(tree.read("a").starts_with(b"text"));
}

/// What attach points hold from the start counts too, though nobody attaches them.
#[test]
fn descriptor_limit_with_many_mounts_is_emfile_and_known_files_still_open() {
    let tree = Tree::new();
    let mut mounts = Vec::new();
    for number in 0..100 {
        let name = format!("m{number}");
        if number % 2 == 0 {
            tree.dir(&name);
        } else {
            tree.file(&name, b"");
        }
        mounts.push(Mount::bind(&format!("/{name}"), &[]));
    }
    for number in 0..512 {
        tree.file(&format!("f{number}"), b"text");
    }
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let launch = Launch::new(&tree.bundle(), 1 + mounts.len());
    let mut s = session_of(launch.nofile(512, 512));
    let mut held = 0;
    let refusal = loop {
        match s.walk_to(ROOT, 10 + held, &format!("f{held}")) {
            Ok(_) => held += 1,
            Err(fault) => break fault,
        }
        assert!(held < 512);
    };
    assert!(
        matches!(refusal, Fault::Errno(Errno::EMFILE)),
        "{refusal:?}"
    );
    assert!(held >= 20, "{held}");
    for fid in 10..30 {
        s.lopen(fid, O_RDWR).unwrap();
        assert_eq!(s.read_all(fid).unwrap(), b"text");
    }
}

// ---- the ends of connections ----

/// Reads of a megabyte that nobody takes, then a write, then the end.
fn ask_and_go(tree: &Tree, mut client: Client) {
    client.open(ROOT, 2, "big", O_RDONLY).unwrap();
    client.open(ROOT, 3, "small", O_WRONLY).unwrap();
    let mut all: Vec<u8> = (0..2000)
        .flat_map(|tag| t::read(tag, 2, 0, 1 << 20))
        .collect();
    all.extend(t::write(2000, 3, 0, Data(b"text")));
    client.send(&all).unwrap();
    assert_eq!(tree.read("small"), b"");
}

fn tree_to_read() -> Tree {
    let tree = Tree::new();
    tree.file("big", vec![7; 1 << 20]);
    tree.file("small", b"");
    tree
}

/// The program ends as soon as all that changes something is done.
#[test]
fn reads_that_nobody_takes_do_not_delay_the_end_nor_lose_the_write_behind_them() {
    let tree = tree_to_read();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut gofer = Launch::new(&tree.bundle(), 1).start();
    let client = gofer.connect(0);
    ask_and_go(&tree, client);
    let exit = gofer.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_eq!(tree.read("small"), b"text");
}

/// Bytes that the process has read so far. The kernel must count them (CONFIG_TASK_IO_ACCOUNTING).
fn bytes_read(gofer: &Gofer) -> u64 {
    let text = gofer.proc_text("io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar:"));
    line.expect("rchar in /proc/PID/io").trim().parse().unwrap()
}

/// A few are read before the peer is gone, 2,000 would be 2 GiB.
#[test]
fn reads_of_a_client_that_is_gone_are_not_done() {
    let tree = tree_to_read();
    tree.dir("m");
    let (gofer, mut clients) = serve_mounts(&tree, false, &[Mount::bind("/m", &[])]);
    let open = gofer.descriptor_count();
    let before = bytes_read(&gofer);
    ask_and_go(&tree, clients.remove(0));
    expect_descriptors(&gofer, &mut clients[0], open - 1);
    assert_eq!(tree.read("small"), b"text");
    let read = bytes_read(&gofer) - before;
    assert!(read < 64 << 20, "{read}");
}

fn resident_kib(gofer: &Gofer) -> u64 {
    let text = gofer.status("VmRSS");
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Also while the process is never quiet.
#[test]
fn memory_of_an_ended_connections_fids_goes_back_while_another_is_served() {
    let tree = Tree::new();
    tree.dir("m");
    let (gofer, mut clients) = serve_mounts(&tree, false, &[Mount::bind("/m", &[])]);
    let many = clients.remove(0);
    let stays = &mut clients[0];
    stays.getattr(ROOT, 0).unwrap();
    let before = resident_kib(&gofer);
    for batch in 0..200 {
        let requests: Vec<u8> = (0..1000)
            .flat_map(|number| t::walk(1, ROOT, 10 + 1000 * batch + number, &[]))
            .collect();
        many.send(&requests).unwrap();
        for _ in 0..1000 {
            assert_eq!(many.recv().unwrap().kind, 111);
        }
    }
    let full = resident_kib(&gofer);
    assert!(full > before + 1024, "{full} kB, {before} kB before");
    drop(many);
    let mut now = full;
    for _ in 0..20_000 {
        if now <= before + 256 {
            break;
        }
        stays.getattr(ROOT, 0).unwrap();
        now = resident_kib(&gofer);
    }
    assert!(
        now <= before + 256,
        "{now} kB, {full} kB when full, {before} kB before"
    );
}
