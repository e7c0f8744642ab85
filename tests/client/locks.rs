//! Tlock and Tgetlock, as Linux's client sends them: docs/protocol.md 7, fcntl(2).

use crate::channel::{Channel, VERSION};
use crate::harness::{
    Gofer, Launch, Mount, ROOT, Session, Tree, serve, serve_mounts, serve_read_only, spec,
    write_spec,
};
use crate::linux::{linux, speak};
use crate::p9::{
    Client, Empty, MSIZE, O_RDONLY, O_RDWR, O_WRONLY, RLERROR, Rgetlock, Rstatus, refused, t,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};

const READ: u8 = 0;
const WRITE: u8 = 1;
const UNLOCK: u8 = 2;
const DONE: u8 = 0;
const BLOCKED: u8 = 1;
/// Flags: an answer at once, or Linux waits (P9_LOCK_FLAGS_BLOCK).
const NOW: u32 = 0;
const WAIT: u32 = 1;

const HOST: &[u8] = b"guest";

/// Process `owner` asks for `kind` on `length` bytes from `start` on.
#[track_caller]
fn lock(c: &mut Client, fid: u32, owner: u32, kind: u8, (start, length): (u64, u64)) -> u8 {
    let reply = c.lock(fid, kind, NOW, start, length, owner, HOST);
    reply.unwrap().status
}

#[track_caller]
fn ask(c: &mut Client, fid: u32, owner: u32, kind: u8, (start, length): (u64, u64)) -> Rgetlock {
    c.getlock(fid, kind, start, length, owner, HOST).unwrap()
}

/// A file `a` of two fids, 2 and 3, open for reading and writing.
fn with_two_fids() -> (Tree, Session) {
    let tree = Tree::new();
    tree.file("a", b"0123456789");
    let mut s = linux(&tree);
    for fid in [2, 3] {
        s.open(ROOT, fid, "a", O_RDWR).unwrap();
    }
    (tree, s)
}

/// A lock of a process of the host: of an open file description of its own.
#[track_caller]
fn host_lock(file: &File, kind: i32, (start, len): (i64, i64)) -> nix::Result<i32> {
    let lock = libc::flock {
        l_type: kind.try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock))
}

fn host_file(tree: &Tree, name: &str) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .open(tree.path(name))
        .unwrap()
}

#[test]
fn lock_held_by_another_process_is_blocked_at_once() {
    let (_tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 10)), DONE);
    for (kind, span) in [(WRITE, (0, 0)), (READ, (9, 1)), (WRITE, (5, 100))] {
        assert_eq!(lock(&mut s, 3, 200, kind, span), BLOCKED, "{kind} {span:?}");
    }
    assert_eq!(lock(&mut s, 3, 200, WRITE, (10, 0)), DONE);
    assert_eq!(lock(&mut s, 2, 100, UNLOCK, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 3, 200, WRITE, (0, 0)), DONE);
}

#[test]
fn lock_shared_by_two_keeps_writers_out() {
    let (_tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 2, 100, READ, (0, 10)), DONE);
    assert_eq!(lock(&mut s, 3, 200, READ, (5, 10)), DONE);
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 10)), BLOCKED);
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 5)), DONE);
    assert_eq!(lock(&mut s, 3, 200, UNLOCK, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 10)), DONE);
}

/// One process may have a file open twice: its locks are its own through either.
#[test]
fn lock_of_one_process_through_two_fids_is_one_owners() {
    let (_tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 10)), DONE);
    assert_eq!(lock(&mut s, 3, 100, WRITE, (0, 10)), DONE);
    assert_eq!(lock(&mut s, 3, 100, UNLOCK, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 2, 200, WRITE, (0, 10)), DONE);
}

/// What Linux sends when a forked child closes a file that its parent has locked.
#[test]
fn unlock_by_a_forked_child_through_its_parents_fid_leaves_the_parents_lock() {
    let (tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 10)), DONE);
    assert_eq!(lock(&mut s, 2, 101, UNLOCK, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 3, 200, WRITE, (0, 1)), BLOCKED);
    let refused = host_lock(&host_file(&tree, "a"), libc::F_RDLCK, (0, 1));
    assert_eq!(refused, Err(Errno::EAGAIN));
}

#[test]
fn clients_of_two_names_with_one_process_number_are_two_owners() {
    let (_tree, mut s) = with_two_fids();
    let status = |reply: crate::p9::Answer<crate::p9::Rstatus>| reply.unwrap().status;
    assert_eq!(status(s.lock(2, WRITE, 0, 0, 0, 7, b"one")), DONE);
    assert_eq!(status(s.lock(2, WRITE, 0, 0, 0, 7, b"two")), BLOCKED);
    assert_eq!(status(s.lock(2, UNLOCK, 0, 0, 0, 7, b"two")), DONE);
    assert_eq!(status(s.lock(2, WRITE, 0, 0, 0, 8, b"one")), BLOCKED);
}

#[test]
fn unlock_in_the_middle_splits_and_the_rest_stays_locked() {
    let (tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 100)), DONE);
    assert_eq!(lock(&mut s, 2, 100, UNLOCK, (40, 20)), DONE);
    let file = host_file(&tree, "a");
    for (start, is_free) in [
        (0, false),
        (39, false),
        (40, true),
        (59, true),
        (60, false),
        (99, false),
        (100, true),
    ] {
        let wanted = if is_free { DONE } else { BLOCKED };
        assert_eq!(
            lock(&mut s, 3, 200, WRITE, (start, 1)),
            wanted,
            "byte {start}"
        );
        lock(&mut s, 3, 200, UNLOCK, (0, 0));
        let host = host_lock(&file, libc::F_WRLCK, (start.cast_signed(), 1));
        assert_eq!(host.is_ok(), is_free, "byte {start} to the host");
        host_lock(&file, libc::F_UNLCK, (0, 0)).unwrap();
    }
}

/// Changing a part to the other kind cuts the rest, and neighbours of one kind join.
#[test]
fn lock_over_locks_of_its_own_replaces_them() {
    let (_tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 2, 100, READ, (0, 30)), DONE);
    assert_eq!(lock(&mut s, 2, 100, WRITE, (10, 10)), DONE);
    let found = ask(&mut s, 3, 200, READ, (0, 0));
    assert_eq!((found.kind, found.start, found.length), (WRITE, 10, 10));
    assert_eq!(lock(&mut s, 3, 200, READ, (0, 10)), DONE);
    assert_eq!(lock(&mut s, 3, 200, READ, (20, 10)), DONE);
    lock(&mut s, 3, 200, UNLOCK, (0, 0));
    assert_eq!(lock(&mut s, 2, 100, READ, (10, 10)), DONE);
    let found = ask(&mut s, 3, 200, WRITE, (25, 1));
    assert_eq!((found.kind, found.start, found.length), (READ, 0, 30));
    assert_eq!(lock(&mut s, 2, 100, READ, (30, 0)), DONE);
    let found = ask(&mut s, 3, 200, WRITE, (25, 1));
    assert_eq!((found.kind, found.start, found.length), (READ, 0, 0));
}

/// Against a table of one kind a byte, by another way of thinking.
#[test]
fn locks_of_three_owners_are_as_a_table_of_bytes_says() {
    const BYTES: usize = 24;
    let (_tree, mut s) = with_two_fids();
    let mut model = [[UNLOCK; BYTES]; 3];
    let mut random = 1u64;
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    for step in 0..4_000 {
        let owner = next(3) as usize;
        let start = next(BYTES as u64);
        let length = 1 + next(BYTES as u64 - start);
        let kind = next(3) as u8;
        let bytes = start as usize..(start + length) as usize;
        let conflicts = |at: usize| {
            (0..3).any(|other| {
                let has = model[other][at];
                other != owner && has != UNLOCK && kind != UNLOCK && (has == WRITE || kind == WRITE)
            })
        };
        let wanted = u8::from(bytes.clone().any(conflicts));
        let fid = 2 + next(2) as u32;
        let got = lock(&mut s, fid, owner as u32, kind, (start, length));
        assert_eq!(
            got, wanted,
            "step {step}: {owner} {kind} {bytes:?} in {model:?}"
        );
        if got == DONE {
            model[owner][bytes].fill(kind);
        }
    }
}

#[test]
fn locks_of_two_connections_conflict() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/a", b"text");
    let (_gofer, mut clients) = serve_mounts(&tree, false, &[Mount::bind("/d", &[])]);
    let [one, other] = clients.as_mut_slice() else {
        panic!("two connections");
    };
    for (client, path) in [(&mut *one, "d/a"), (&mut *other, "a")] {
        speak(client);
        client.open(ROOT, 2, path, O_RDWR).unwrap();
    }
    assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
    // The same name and number, but another machine.
    assert_eq!(lock(other, 2, 100, READ, (0, 0)), BLOCKED);
    let found = ask(other, 2, 100, UNLOCK, (0, 0));
    assert_eq!((found.kind, found.proc_id), (WRITE, 100));
    assert_eq!(lock(other, 2, 100, UNLOCK, (0, 0)), DONE);
    assert_eq!(lock(other, 2, 100, READ, (0, 0)), BLOCKED);
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    assert_eq!(lock(other, 2, 100, READ, (0, 0)), DONE);
}

#[test]
fn locks_end_with_their_connection() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/a", b"text");
    let (_gofer, mut clients) = serve_mounts(&tree, false, &[Mount::bind("/d", &[])]);
    let mut other = clients.pop().unwrap();
    let mut one = clients.pop().unwrap();
    for (client, path) in [(&mut one, "d/a"), (&mut other, "a")] {
        speak(client);
        client.open(ROOT, 2, path, O_RDWR).unwrap();
    }
    assert_eq!(lock(&mut one, 2, 100, WRITE, (0, 0)), DONE);
    assert_eq!(lock(&mut other, 2, 100, WRITE, (0, 0)), BLOCKED);
    drop(one);
    // It ends within a few turns of ours.
    let is_done = (0..10_000).any(|_| lock(&mut other, 2, 100, WRITE, (0, 0)) == DONE);
    assert!(is_done);
}

#[test]
fn locks_end_with_the_fid_that_they_were_taken_through() {
    let (tree, mut s) = with_two_fids();
    let before = s.gofer.descriptor_count();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 10)), DONE);
    assert_eq!(lock(&mut s, 2, 101, WRITE, (10, 10)), DONE);
    assert_eq!(lock(&mut s, 3, 200, WRITE, (20, 10)), DONE);
    s.clunk(2).unwrap();
    assert_eq!(lock(&mut s, 3, 201, WRITE, (0, 20)), DONE);
    assert_eq!(lock(&mut s, 3, 201, WRITE, (20, 1)), BLOCKED);
    s.clunk(3).unwrap();
    host_lock(&host_file(&tree, "a"), libc::F_WRLCK, (0, 0)).unwrap();
    s.expect_descriptors(before - 2);
}

#[test]
fn locks_and_those_of_a_process_of_the_host_conflict() {
    let (tree, mut s) = with_two_fids();
    let file = host_file(&tree, "a");
    host_lock(&file, libc::F_WRLCK, (0, 4)).unwrap();
    assert_eq!(lock(&mut s, 2, 100, READ, (3, 1)), BLOCKED);
    assert_eq!(lock(&mut s, 2, 100, WRITE, (4, 4)), DONE);
    let found = ask(&mut s, 2, 100, UNLOCK, (0, 0));
    assert_eq!((found.kind, found.start, found.length), (WRITE, 0, 4));
    assert_eq!(found.proc_id, 0, "a process number of the host");
    assert_eq!(host_lock(&file, libc::F_RDLCK, (4, 1)), Err(Errno::EAGAIN));
    lock(&mut s, 2, 100, UNLOCK, (0, 0));
    host_lock(&file, libc::F_WRLCK, (0, 8)).unwrap();
}

/// Linux asks with kind 2 whatever it was asked; sqlite recovers a journal only after this answer.
#[test]
fn getlock_of_kind_unlock_tells_any_lock_of_another() {
    let (_tree, mut s) = with_two_fids();
    for kind in [READ, WRITE] {
        assert_eq!(lock(&mut s, 2, 100, kind, (4, 2)), DONE);
        let found = ask(&mut s, 3, 200, UNLOCK, (0, 0));
        let lock = (found.kind, found.start, found.length, found.proc_id);
        assert_eq!(lock, (kind, 4, 2, 100));
        assert_eq!(found.client_id, b"");
    }
}

#[test]
fn getlock_without_a_lock_in_the_way_is_the_question_with_kind_unlock() {
    let (_tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 2, 100, READ, (0, 10)), DONE);
    for (fid, owner, kind, span) in [
        (2, 100, WRITE, (0, 0)), // its own
        (3, 100, UNLOCK, (3, 4)),
        (3, 200, READ, (0, 10)),
        (3, 200, WRITE, (10, 5)),
        (3, 200, UNLOCK, (10, 5)),
    ] {
        let found = ask(&mut s, fid, owner, kind, span);
        assert_eq!(found.kind, UNLOCK);
        assert_eq!(
            (found.start, found.length, found.proc_id),
            (span.0, span.1, owner)
        );
        assert_eq!(found.client_id, HOST);
    }
}

#[test]
fn getlock_takes_nothing() {
    let (tree, mut s) = with_two_fids();
    let before = s.gofer.descriptor_count();
    ask(&mut s, 2, 100, WRITE, (0, 0));
    host_lock(&host_file(&tree, "a"), libc::F_WRLCK, (0, 0)).unwrap();
    assert_eq!(s.gofer.descriptor_count(), before);
}

#[test]
fn lock_wants_an_open_fid_a_kind_and_a_range() {
    let (_tree, mut s) = with_two_fids();
    s.walk_to(ROOT, 4, "a").unwrap();
    const END: u64 = i64::MAX as u64;
    for (fid, kind, start, length, errno) in [
        (9, WRITE, 0, 0, Errno::EBADF),
        (4, WRITE, 0, 0, Errno::EINVAL),
        (2, 3, 0, 0, Errno::EINVAL),
        (2, 255, 0, 0, Errno::EINVAL),
        (2, READ, END + 1, 0, Errno::EINVAL),
        (2, READ, END, 2, Errno::EINVAL),
        (2, READ, 1, u64::MAX, Errno::EINVAL),
        (2, READ, u64::MAX, 2, Errno::EINVAL),
    ] {
        refused(s.lock(fid, kind, 0, start, length, 1, HOST), errno);
        refused(s.getlock(fid, kind, start, length, 1, HOST), errno);
    }
    assert_eq!(lock(&mut s, 2, 1, WRITE, (END, 1)), DONE);
    assert_eq!(lock(&mut s, 2, 2, WRITE, (END, 0)), BLOCKED);
}

/// flock(2) of a file open for reading alone is an exclusive lock to Linux's client.
#[test]
fn lock_exclusive_through_a_fid_open_for_reading_keeps_others_out() {
    let (tree, mut s) = with_two_fids();
    s.open(ROOT, 4, "a", O_RDONLY).unwrap();
    s.open(ROOT, 5, "a", O_WRONLY).unwrap();
    assert_eq!(lock(&mut s, 4, 100, WRITE, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 5, 200, READ, (0, 0)), BLOCKED);
    let shared = host_lock(&host_file(&tree, "a"), libc::F_RDLCK, (0, 0));
    assert_eq!(shared, Err(Errno::EAGAIN));
    lock(&mut s, 4, 100, UNLOCK, (0, 0));
    assert_eq!(lock(&mut s, 5, 200, READ, (0, 0)), DONE);
}

/// What was taken for reading first, and what cannot be written to, is shared to the host alone.
#[test]
fn lock_exclusive_without_write_access_is_shared_to_the_host() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve_read_only(&tree);
    speak(&mut s);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 2, 200, READ, (0, 0)), BLOCKED);
    let file = host_file(&tree, "a");
    assert_eq!(host_lock(&file, libc::F_WRLCK, (0, 0)), Err(Errno::EAGAIN));
    host_lock(&file, libc::F_RDLCK, (0, 0)).unwrap();
}

#[test]
fn lock_on_a_deleted_open_file_is_served() {
    let (_tree, mut s) = with_two_fids();
    s.unlinkat(ROOT, b"a", 0).unwrap();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 3, 200, WRITE, (0, 0)), BLOCKED);
}

#[test]
fn locks_have_a_limit_and_beyond_it_enolck() {
    let (_tree, mut s) = with_two_fids();
    let limit = gofer::limits::LOCKS as u64;
    let (mut taken, mut at) = (0, 0);
    while taken < limit {
        if s.lock(2, WRITE, 0, at, 1, 100, HOST).is_err() {
            break;
        }
        at += 2; // not touching
        taken += 1;
    }
    assert_eq!(taken, limit - 1, "one less: a lock may split another");
    refused(s.lock(2, WRITE, 0, at, 1, 100, HOST), Errno::ENOLCK);
    refused(s.lock(3, READ, 0, at, 1, 200, HOST), Errno::ENOLCK);
    assert_eq!(lock(&mut s, 2, 100, UNLOCK, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 3, 200, WRITE, (0, 0)), DONE);
}

/// Whoever filled the table: what SQLite gives back piece by piece is given back.
#[test]
fn unlock_of_a_part_needs_no_room_unless_it_cuts_a_hole() {
    let (_tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 3, 200, WRITE, (0, 12)), DONE);
    let mut at = 100;
    while s.lock(2, WRITE, 0, at, 1, 100, HOST).is_ok() {
        at += 2; // not touching
    }
    // One hole takes the last place.
    assert_eq!(lock(&mut s, 3, 200, UNLOCK, (2, 2)), DONE);
    refused(s.lock(3, UNLOCK, 0, 7, 2, 200, HOST), Errno::ENOLCK);
    assert_eq!(lock(&mut s, 3, 200, UNLOCK, (10, 2)), DONE);
    assert_eq!(lock(&mut s, 3, 200, UNLOCK, (0, 2)), DONE);
    assert_eq!(lock(&mut s, 3, 200, UNLOCK, (4, 6)), DONE);
    assert_eq!(lock(&mut s, 3, 201, WRITE, (0, 12)), DONE);
}

#[test]
fn lock_holders_have_a_limit_and_beyond_it_enolck() {
    let (_tree, mut s) = with_two_fids();
    let limit = gofer::limits::LOCK_HOLDERS as u32;
    for owner in 0..limit {
        assert_eq!(lock(&mut s, 2, owner, READ, (0, 1)), DONE);
    }
    refused(s.lock(2, READ, 0, 0, 1, limit, HOST), Errno::ENOLCK);
    assert_eq!(lock(&mut s, 2, 7, UNLOCK, (0, 0)), DONE);
    assert_eq!(lock(&mut s, 2, limit, READ, (0, 1)), DONE);
    s.clunk(2).unwrap();
    assert_eq!(lock(&mut s, 3, 1, WRITE, (0, 0)), DONE);
}

/// To gVisor's versions these numbers are none.
#[test]
fn lock_under_another_version_is_eio() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.open(ROOT, 2, "a", O_RDWR).unwrap();
    for kind in 52..=55 {
        let body = &t::lock(1, 2, WRITE, 0, 0, 0, 1, HOST)[7..];
        assert_eq!(s.raw(kind, body).unwrap().errno(), Errno::EIO, "{kind}");
    }
    s.version(MSIZE, b"9P2000.L").unwrap();
    assert_eq!(lock(&mut s, 2, 1, WRITE, (0, 0)), DONE);
    assert_eq!(s.raw(53, &[0]).unwrap().errno(), Errno::ENOSYS);
}

// ---- locks that wait ----

/// Connections of one server, each with the file `d/a` open as fids 2 and 3.
struct Guests {
    tree: Tree,
    gofer: Gofer,
    clients: Vec<Client>,
}

fn guests(count: usize) -> Guests {
    guests_with(count, &[])
}

fn guests_with(count: usize, words: &[&str]) -> Guests {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/a", b"0123456789");
    let mounts = vec![Mount::bind("/d", &[]); count - 1];
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let mut gofer = Launch::new(&tree.bundle(), count).with(words).start();
    let clients = (0..count).map(|at| {
        let mut client = gofer.connect(at);
        speak(&mut client);
        for fid in [2, 3] {
            let path = if at == 0 { "d/a" } else { "a" };
            client.open(ROOT, fid, path, O_RDWR).unwrap();
        }
        client
    });
    Guests {
        clients: clients.collect(),
        tree,
        gofer,
    }
}

/// Two of them.
fn two(clients: &mut [Client]) -> [&mut Client; 2] {
    let clients: Vec<_> = clients.iter_mut().collect();
    clients.try_into().unwrap()
}

/// Sends a Tlock that may wait; its tag.
fn send_lock(c: &mut Client, fid: u32, owner: u32, kind: u8, (start, length): (u64, u64)) -> u16 {
    let tag = c.next_tag();
    c.send(&t::lock(tag, fid, kind, WAIT, start, length, owner, HOST))
        .unwrap();
    tag
}

/// Nothing has been answered but what was received: requests are served in order, and this is one more.
#[track_caller]
fn still_waits(c: &mut Client) {
    c.statfs(ROOT).unwrap();
}

/// The same, as far as it waits.
#[track_caller]
fn wait(c: &mut Client, fid: u32, owner: u32, kind: u8, span: (u64, u64)) -> u16 {
    let tag = send_lock(c, fid, owner, kind, span);
    still_waits(c);
    tag
}

/// What comes next is that a lock is taken.
#[track_caller]
fn granted(c: &Client, tag: u16) {
    assert_eq!(late(c, tag), Ok(DONE));
}

#[track_caller]
fn late(c: &Client, tag: u16) -> Result<u8, Errno> {
    let reply = c.recv().unwrap();
    assert_eq!(reply.tag, tag, "{reply:?}");
    if reply.kind == RLERROR {
        Err(reply.errno())
    } else {
        Ok(reply.answer::<Rstatus>(52, tag).unwrap().status)
    }
}

#[test]
fn lock_that_waits_is_granted_when_another_connection_unlocks() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 10)), DONE);
    let tag = wait(other, 2, 200, WRITE, (5, 10));
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 5)), DONE);
    still_waits(other);
    assert_eq!(lock(one, 2, 100, UNLOCK, (5, 5)), DONE);
    granted(other, tag);
    assert_eq!(lock(one, 2, 100, WRITE, (5, 1)), BLOCKED);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 5)), DONE);
}

/// Both requests in one frame of bytes, and one connection that is alone: nobody wakes it again.
#[test]
fn lock_that_waits_is_granted_on_the_only_connection() {
    let (_tree, mut s) = with_two_fids();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 0)), DONE);
    let requests = [
        t::lock(1000, 3, READ, WAIT, 0, 10, 200, HOST),
        t::lock(1001, 2, UNLOCK, WAIT, 0, 0, 100, HOST),
    ];
    s.send(&requests.concat()).unwrap();
    granted(&s, 1001);
    granted(&s, 1000);
}

#[test]
fn lock_that_may_wait_is_answered_at_once_where_nothing_is_in_the_way() {
    let (_tree, mut s) = with_two_fids();
    for (owner, kind, span) in [
        (100, READ, (0, 10)),
        (200, READ, (0, 10)),
        (200, WRITE, (10, 10)),
        (100, UNLOCK, (0, 0)),
        (200, WRITE, (0, 0)),
    ] {
        let tag = send_lock(&mut s, 2, owner, kind, span);
        granted(&s, tag);
    }
    for (fid, kind, length, errno) in [
        (9, WRITE, 0, Errno::EBADF),
        (ROOT, WRITE, 0, Errno::EINVAL),
        (2, 3, 0, Errno::EINVAL),
        (2, WRITE, u64::MAX, Errno::EINVAL),
    ] {
        refused(s.lock(fid, kind, WAIT, 1, length, 200, HOST), errno);
    }
}

#[test]
fn lock_without_the_flag_never_waits_whoever_does() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, READ, (0, 10)), DONE);
    let tag = wait(other, 2, 200, WRITE, (0, 10));
    // A reader more passes the writer that waits; a writer is told of the readers.
    assert_eq!(lock(one, 3, 101, READ, (0, 10)), DONE);
    assert_eq!(lock(one, 3, 102, WRITE, (0, 10)), BLOCKED);
    for owner in [100, 101] {
        still_waits(other);
        assert_eq!(lock(one, 2, owner, UNLOCK, (0, 0)), DONE);
    }
    granted(other, tag);
}

#[test]
fn lock_that_waits_is_granted_when_the_other_changes_to_shared() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 10)), DONE);
    let reader = wait(other, 2, 201, READ, (0, 10));
    assert_eq!(lock(one, 2, 100, READ, (0, 10)), DONE);
    granted(other, reader);
}

/// A waiting writer keeps later readers out, so that it gets its turn; then all readers get theirs.
#[test]
fn lock_waits_for_earlier_waiters_that_conflict() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, READ, (0, 10)), DONE);
    let writer = wait(other, 2, 200, WRITE, (0, 10));
    let readers = [300, 301].map(|owner| wait(one, 3, owner, READ, (5, 10)));
    // What overlaps no waiter is granted.
    let tag = send_lock(other, 2, 201, READ, (15, 1));
    granted(other, tag);
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    granted(other, writer);
    still_waits(one);
    assert_eq!(lock(other, 2, 200, UNLOCK, (0, 0)), DONE);
    for reader in readers {
        granted(one, reader);
    }
}

/// A flush, too, lets those go that waited for the waiter alone.
#[test]
fn lock_that_waits_for_a_waiter_is_granted_when_that_is_flushed() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, READ, (0, 10)), DONE);
    let writer = wait(other, 2, 200, WRITE, (0, 10));
    let reader = wait(one, 3, 300, READ, (0, 10));
    other.flush(writer).unwrap();
    granted(one, reader);
    still_waits(other);
}

#[test]
fn many_locks_that_wait_for_one_range_are_granted_in_order() {
    const EACH: u32 = 100;
    let mut guests = guests(2);
    let clients = &mut guests.clients;
    assert_eq!(lock(&mut clients[0], 2, 1, WRITE, (0, 1)), DONE);
    let waiting: Vec<(usize, u32, u16)> = (0..2 * EACH)
        .map(|number| {
            let (at, owner) = ((number % 2) as usize, 100 + number);
            let fid = 2 + number / 2 % 2;
            (at, owner, wait(&mut clients[at], fid, owner, WRITE, (0, 1)))
        })
        .collect();
    let (mut holder, mut of) = (1, 0);
    for (at, owner, tag) in waiting {
        assert_eq!(lock(&mut clients[of], 2, holder, UNLOCK, (0, 0)), DONE);
        granted(&clients[at], tag);
        (holder, of) = (owner, at);
    }
}

#[test]
fn locks_that_wait_for_half_overlapping_ranges_are_granted_in_order() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 20)), DONE);
    let first = wait(other, 2, 201, WRITE, (0, 10));
    let second = wait(other, 2, 202, WRITE, (5, 10));
    let third = wait(other, 2, 203, WRITE, (12, 8));
    let fourth = wait(other, 2, 204, READ, (18, 2));
    let beside = wait(other, 2, 205, READ, (10, 2));
    // Free, but the second waits for a part of it, and the fourth and the last come behind.
    assert_eq!(lock(one, 2, 100, UNLOCK, (10, 10)), DONE);
    still_waits(other);
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 5)), DONE);
    still_waits(other);
    assert_eq!(lock(one, 2, 100, UNLOCK, (5, 5)), DONE);
    granted(other, first);
    still_waits(other);
    assert_eq!(lock(other, 2, 201, UNLOCK, (0, 0)), DONE);
    granted(other, second);
    still_waits(other);
    assert_eq!(lock(other, 2, 202, UNLOCK, (10, 5)), DONE);
    let mut tags = BTreeSet::new();
    for _ in 0..2 {
        tags.insert(other.recv().unwrap().tag);
    }
    assert_eq!(tags, [third, beside].into());
    assert_eq!(lock(other, 2, 203, UNLOCK, (18, 1)), DONE);
    still_waits(other);
    assert_eq!(lock(other, 2, 203, UNLOCK, (19, 1)), DONE);
    granted(other, fourth);
}

/// Who has a lock and wants more of it would wait for those that wait for it to go.
#[test]
fn lock_never_waits_for_a_waiter_that_waits_for_a_lock_of_the_askers() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, READ, (0, 10)), DONE);
    assert_eq!(lock(other, 2, 300, READ, (20, 10)), DONE);
    // It waits for both.
    let writer = wait(other, 3, 200, WRITE, (0, 30));
    for (kind, span) in [(WRITE, (0, 10)), (READ, (5, 20)), (WRITE, (8, 12))] {
        let tag = send_lock(one, 2, 100, kind, span);
        granted(one, tag);
    }
    // Of another process it is not.
    let later = wait(one, 2, 101, READ, (12, 1));
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    still_waits(one);
    assert_eq!(lock(other, 2, 300, UNLOCK, (0, 0)), DONE);
    granted(other, writer);
    assert_eq!(lock(other, 2, 200, UNLOCK, (0, 0)), DONE);
    granted(one, later);
}

/// Another lock of the asker's, for which nobody waits, makes no difference.
#[test]
fn lock_of_who_has_others_waits_for_earlier_waiters() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, READ, (0, 10)), DONE);
    assert_eq!(lock(one, 2, 300, WRITE, (100, 1)), DONE);
    let writer = wait(other, 2, 200, WRITE, (0, 10));
    let behind = wait(other, 3, 201, WRITE, (100, 1));
    let reader = wait(one, 3, 300, READ, (0, 10));
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    granted(other, writer);
    assert_eq!(lock(other, 2, 200, UNLOCK, (0, 0)), DONE);
    granted(one, reader);
    assert_eq!(lock(one, 2, 300, UNLOCK, (0, 0)), DONE);
    granted(other, behind);
}

/// Through others: the writer waits for a lock of who waits for a lock of the asker's. Whoever comes last.
#[test]
fn lock_never_waits_in_a_circle_of_our_making() {
    let mut guests = guests(2);
    for asker_is_last in [false, true] {
        let [one, other] = two(&mut guests.clients);
        // 100 has 50, 200 reads 0; 300 wants to write 0, 200 wants 50, and 100 wants to read 0.
        assert_eq!(lock(one, 2, 100, WRITE, (50, 1)), DONE);
        assert_eq!(lock(other, 2, 200, READ, (0, 1)), DONE);
        let writer = wait(other, 3, 300, WRITE, (0, 1));
        let (circle, asker);
        if asker_is_last {
            circle = wait(other, 2, 200, WRITE, (50, 1));
            asker = send_lock(one, 2, 100, READ, (0, 1));
        } else {
            asker = wait(one, 2, 100, READ, (0, 1));
            circle = wait(other, 2, 200, WRITE, (50, 1));
        }
        granted(one, asker);
        assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
        granted(other, circle);
        assert_eq!(lock(other, 2, 200, UNLOCK, (0, 0)), DONE);
        granted(other, writer);
        assert_eq!(lock(other, 2, 300, UNLOCK, (0, 0)), DONE);
    }
}

/// Two processes that wait for each other do so until one is interrupted: there is no EDEADLK.
#[test]
fn locks_that_wait_for_each_other_wait_until_one_is_flushed() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 1)), DONE);
    assert_eq!(lock(other, 2, 200, WRITE, (1, 1)), DONE);
    let first = wait(one, 2, 100, WRITE, (1, 1));
    let second = wait(other, 2, 200, WRITE, (0, 1));
    still_waits(one);
    other.flush(second).unwrap();
    assert_eq!(lock(other, 2, 200, UNLOCK, (0, 0)), DONE);
    granted(one, first);
}

/// Bytes that owners of the random test lock.
const BYTES: usize = 8;
const OWNERS: usize = 6;

/// What a waiter of the random test asks for.
#[derive(Clone, Debug)]
struct Asked {
    owner: usize,
    tag: u16,
    kind: u8,
    bytes: std::ops::Range<usize>,
}

impl Asked {
    fn overlaps(&self, other: &Asked) -> bool {
        self.owner != other.owner
            && (self.kind == WRITE || other.kind == WRITE)
            && self.bytes.start < other.bytes.end
            && other.bytes.start < self.bytes.end
    }
}

/// What owners have, a kind for each byte, and who waits, in order.
#[derive(Default, Debug)]
struct Model {
    has: [[Option<u8>; BYTES]; OWNERS],
    waiting: Vec<Asked>,
}

impl Model {
    /// Whether a lock of `owner` is in the way.
    fn keeps(&self, owner: usize, asked: &Asked) -> bool {
        let of = &self.has[owner][asked.bytes.clone()];
        let conflicts = |has: &Option<u8>| has.is_some_and(|has| has.max(asked.kind) == WRITE);
        owner != asked.owner && of.iter().any(conflicts)
    }

    fn is_kept(&self, asked: &Asked) -> bool {
        (0..OWNERS).any(|owner| self.keeps(owner, asked))
    }

    /// Waiters are granted. What came earlier, is passed and still waits is what waits for a lock of their owner; or that
    /// keeps somebody else waiting.
    fn grant(&mut self, tags: &BTreeSet<u16>) {
        let was = Model {
            has: self.has,
            waiting: self.waiting.clone(),
        };
        self.waiting.retain(|asked| !tags.contains(&asked.tag));
        let granted = |asked: &&Asked| tags.contains(&asked.tag);
        for asked in was.waiting.iter().filter(granted) {
            self.has[asked.owner][asked.bytes.clone()].fill(Some(asked.kind));
        }
        for (at, asked) in was.waiting.iter().enumerate() {
            if !granted(&asked) {
                continue;
            }
            assert!(!self.is_kept(asked), "{asked:?} in {self:#?}");
            let is_waited_for = self.waiting.iter().any(|it| was.keeps(asked.owner, it));
            for earlier in &was.waiting[..at] {
                assert!(
                    tags.contains(&earlier.tag) || !earlier.overlaps(asked) || is_waited_for,
                    "{asked:?} passed {earlier:?} in {was:#?}"
                );
            }
        }
    }

    /// Whoever waits has a reason: a lock, or an earlier waiter that does not wait for a lock of its own.
    fn check(&self) {
        for (at, asked) in self.waiting.iter().enumerate() {
            let is_behind =
                |earlier: &Asked| earlier.overlaps(asked) && !self.keeps(asked.owner, earlier);
            assert!(
                self.is_kept(asked) || self.waiting[..at].iter().any(is_behind),
                "{asked:?} waits for nothing in {self:#?}"
            );
        }
    }

    /// Whether owners wait for each other's locks in a circle, which is their own doing.
    fn has_circle(&self) -> bool {
        let mut waits: Vec<&Asked> = self.waiting.iter().collect();
        loop {
            // Whoever waits for nobody that waits is in none.
            let left: Vec<&Asked> = waits
                .iter()
                .copied()
                .filter(|asked| waits.iter().any(|other| self.keeps(other.owner, asked)))
                .collect();
            if left.len() == waits.len() {
                return !left.is_empty();
            }
            waits = left;
        }
    }
}

/// The replies up to that of one more request; those of locks are granted in the model.
fn catch_up(clients: &mut [Client], model: &mut Model) {
    let mut granted = BTreeSet::new();
    for at in [0, 1, 0, 1] {
        let client = &mut clients[at];
        let fence = client.next_tag();
        client.send(&t::statfs(fence, ROOT)).unwrap();
        loop {
            let reply = client.recv().unwrap();
            if reply.tag == fence {
                break;
            }
            let tag = reply.tag;
            assert_eq!(reply.answer::<Rstatus>(52, tag).unwrap().status, DONE);
            granted.insert(tag);
        }
    }
    model.grant(&granted);
    model.check();
}

/// Against a table of bytes and a list of who waits. Owners that do not wait let everything go in the end: then nobody
/// waits but who is in a circle of locks.
#[test]
fn locks_that_wait_are_granted_as_a_table_of_bytes_says() {
    let mut guests = guests(2);
    let clients = guests.clients.as_mut_slice();
    let mut random = 7u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    let (mut tag, mut waited) = (1_000, 0);
    for _ in 0..400 {
        let mut model = Model::default();
        for _ in 0..24 {
            let owner = next(OWNERS);
            if model.waiting.iter().any(|asked| asked.owner == owner) {
                continue;
            }
            let start = next(BYTES);
            let bytes = start..(start + 1 + next(4)).min(BYTES);
            let (from, length) = (bytes.start as u64, bytes.len() as u64);
            let client = &mut clients[owner % 2];
            if next(4) == 0 {
                let fid = 2 + next(2) as u32;
                assert_eq!(
                    lock(client, fid, owner as u32, UNLOCK, (from, length)),
                    DONE
                );
                model.has[owner][bytes].fill(None);
            } else {
                tag += 1;
                let kind = next(2) as u8;
                let request = t::lock(tag, 2, kind, WAIT, from, length, owner as u32, HOST);
                client.send(&request).unwrap();
                model.waiting.push(Asked {
                    owner,
                    tag,
                    kind,
                    bytes,
                });
            }
            catch_up(clients, &mut model);
            waited += model.waiting.len();
            tag %= 30_000;
            tag = tag.max(1_000);
        }
        loop {
            let is_free = |owner: &usize| {
                !model.waiting.iter().any(|asked| asked.owner == *owner)
                    && model.has[*owner].iter().any(Option::is_some)
            };
            let Some(owner) = (0..OWNERS).find(is_free) else {
                break;
            };
            let client = &mut clients[owner % 2];
            assert_eq!(lock(client, 2, owner as u32, UNLOCK, (0, 0)), DONE);
            model.has[owner].fill(None);
            catch_up(clients, &mut model);
        }
        assert!(model.waiting.is_empty() || model.has_circle(), "{model:#?}");
        // Those end by their signals.
        while let Some(asked) = model.waiting.first().cloned() {
            let client = &mut clients[asked.owner % 2];
            client.flush(asked.tag).unwrap();
            model.waiting.remove(0);
            catch_up(clients, &mut model);
        }
        for owner in 0..OWNERS {
            assert_eq!(
                lock(&mut clients[owner % 2], 2, owner as u32, UNLOCK, (0, 0)),
                DONE
            );
        }
    }
    assert!(waited > 5_000, "{waited}");
}

// ---- how a wait ends ----

#[test]
fn lock_that_waits_and_is_flushed_is_not_answered_and_never_granted() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
    let tag = wait(other, 2, 200, WRITE, (0, 0));
    let stays = wait(other, 3, 201, READ, (0, 5));
    other.flush(tag).unwrap(); // Rflush is what comes next
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    granted(other, stays);
    still_waits(other);
    assert_eq!(lock(one, 2, 100, WRITE, (5, 0)), DONE);
    // Of what is not there, of what was answered, of the flush itself.
    for tag in [tag, stays, 12_345, u16::MAX] {
        other.flush(tag).unwrap();
    }
}

#[test]
fn lock_granted_before_its_flush_is_answered_first() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
    let tag = wait(other, 2, 200, WRITE, (0, 0));
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    let flush = other.next_tag();
    other.send(&t::flush(flush, tag)).unwrap();
    granted(other, tag);
    other.recv().unwrap().answer::<Empty>(108, flush).unwrap();
    assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), BLOCKED);
}

/// A client that uses a tag again for what waits: each is answered, and a flush ends all.
#[test]
fn locks_that_wait_under_one_tag_are_all_answered_and_all_flushed() {
    let mut guests = guests(2);
    for is_flushed in [false, true] {
        let [one, other] = two(&mut guests.clients);
        assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
        for (owner, start) in [(200, 0), (201, 1)] {
            other
                .send(&t::lock(9_000, 2, WRITE, WAIT, start, 1, owner, HOST))
                .unwrap();
        }
        still_waits(other);
        if is_flushed {
            other.flush(9_000).unwrap();
        }
        assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
        if !is_flushed {
            granted(other, 9_000);
            granted(other, 9_000);
            for owner in [200, 201] {
                assert_eq!(lock(other, 2, owner, UNLOCK, (0, 0)), DONE);
            }
        }
        assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
        assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    }
}

/// By Tclunk, by Tremove, and by a walk that puts another file in the fid's place.
#[test]
fn locks_that_wait_through_a_fid_are_eintr_before_the_reply_that_gives_it_up() {
    let mut guests = guests(2);
    let (clunk, remove, walk) = (120, 122, 110);
    for kind in [clunk, walk, remove] {
        let [one, other] = two(&mut guests.clients);
        assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
        // Several of one fid and of one owner; one of the other fid.
        let through = [(200, READ), (200, WRITE), (201, READ)]
            .map(|(owner, kind)| wait(other, 2, owner, kind, (0, 0)));
        let stays = wait(other, 3, 202, READ, (0, 0));
        let tag = other.next_tag();
        let request = match kind {
            120 => t::clunk(tag, 2),
            122 => t::remove(tag, 2),
            _ => t::walk(tag, ROOT, 2, &[]),
        };
        other.send(&request).unwrap();
        for waiter in through {
            assert_eq!(late(other, waiter), Err(Errno::EINTR));
        }
        let reply = other.recv().unwrap();
        assert_eq!((reply.kind, reply.tag), (kind + 1, tag));
        assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
        granted(other, stays);
        still_waits(other);
        assert_eq!(lock(other, 3, 202, UNLOCK, (0, 0)), DONE);
        if kind == walk {
            other.clunk(2).unwrap();
        }
        if kind != remove {
            other.open(ROOT, 2, "a", O_RDWR).unwrap();
        }
    }
}

#[test]
fn locks_end_with_their_fid_and_who_waits_for_them_is_granted() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 5)), DONE);
    assert_eq!(lock(one, 2, 101, WRITE, (5, 5)), DONE);
    let tag = wait(other, 2, 200, WRITE, (0, 10));
    one.clunk(3).unwrap();
    still_waits(other);
    one.clunk(2).unwrap();
    granted(other, tag);
}

/// Its waiters go, its locks go, and others are granted what either kept from them.
#[test]
fn locks_end_with_their_connection_and_who_waits_for_them_is_granted() {
    let mut guests = guests(3);
    let before = guests.gofer.descriptor_count();
    let mut ends = guests.clients.pop().unwrap();
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(&mut ends, 2, 100, WRITE, (0, 10)), DONE);
    assert_eq!(lock(one, 2, 101, READ, (20, 10)), DONE);
    wait(&mut ends, 2, 102, WRITE, (20, 10));
    let behind_a_lock = wait(other, 2, 200, WRITE, (0, 10));
    let behind_a_waiter = wait(one, 2, 201, READ, (20, 10));
    drop(ends);
    granted(other, behind_a_lock);
    granted(one, behind_a_waiter);
    for owner in [101, 201] {
        assert_eq!(lock(one, 2, owner, UNLOCK, (0, 0)), DONE);
    }
    assert_eq!(lock(other, 2, 200, UNLOCK, (0, 0)), DONE);
    // The socket and two open files.
    crate::harness::expect_descriptors(&guests.gofer, &mut guests.clients[0], before - 3);
}

/// Whoever shuts its sending side has said all that it will; what waits is not waited for.
#[test]
fn connection_that_sends_no_more_ends_with_its_waiters() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
    wait(other, 2, 200, WRITE, (0, 0));
    other.socket.shutdown(std::net::Shutdown::Write).unwrap();
    other.expect_closed();
    assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
}

/// version(5): what is under way is aborted. A version that is refused changes nothing.
#[test]
fn tversion_ends_what_waits_without_a_reply() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 0)), DONE);
    let stays = wait(other, 2, 200, WRITE, (0, 5));
    refused(other.version(MSIZE, b"nonsense"), Errno::EINVAL);
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 5)), DONE);
    granted(other, stays);
    wait(other, 2, 201, WRITE, (10, 5));
    speak(other);
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    still_waits(other);
    assert_eq!(lock(one, 2, 100, WRITE, (10, 5)), DONE);
}

#[test]
fn unlock_of_an_owner_leaves_what_it_waits_for() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 10)), DONE);
    assert_eq!(lock(other, 3, 200, WRITE, (20, 10)), DONE);
    let tags = [(2, WRITE), (3, READ)].map(|(fid, kind)| wait(other, fid, 200, kind, (0, 10)));
    assert_eq!(lock(other, 2, 200, UNLOCK, (0, 0)), DONE);
    still_waits(other);
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    // Two of one owner are in no order: both are its own.
    let got: BTreeSet<u16> = [(); 2].map(|()| other.recv().unwrap().tag).into();
    assert_eq!(got, tags.into());
}

/// What was there when it was asked for may be gone when it is granted.
#[test]
fn lock_that_waits_is_enolck_if_there_is_no_room_when_its_turn_comes() {
    let mut guests = guests(2);
    let [one, other] = two(&mut guests.clients);
    let limit = gofer::limits::LOCK_HOLDERS as u32;
    assert_eq!(lock(one, 2, 0, WRITE, (0, 2)), DONE);
    let tag = wait(other, 2, 1, WRITE, (0, 1));
    for owner in 1..limit {
        assert_eq!(lock(one, 2, owner, READ, (10, 1)), DONE);
    }
    assert_eq!(lock(one, 2, 0, UNLOCK, (0, 1)), DONE); // and the second byte stays
    assert_eq!(late(other, tag), Err(Errno::ENOLCK));
}

// ---- how many wait ----

#[test]
fn locks_that_wait_have_a_limit_and_beyond_it_they_are_blocked() {
    let (_tree, mut s) = with_two_fids();
    let limit = gofer::limits::LOCK_WAITERS as u32;
    assert_eq!(lock(&mut s, 2, 0, WRITE, (0, 1)), DONE);
    let first = fill(&mut s, limit);
    let tag = send_lock(&mut s, 3, limit + 1, WRITE, (0, 1));
    assert_eq!(late(&s, tag), Ok(BLOCKED));
    s.flush(first).unwrap();
    wait(&mut s, 3, limit + 1, WRITE, (0, 1));
    let tag = send_lock(&mut s, 3, limit + 2, WRITE, (0, 1));
    assert_eq!(late(&s, tag), Ok(BLOCKED));
    // One clunk ends them all, with a reply for each.
    let clunk = s.next_tag();
    s.send(&t::clunk(clunk, 3)).unwrap();
    for _ in 0..limit {
        assert_eq!(s.recv().unwrap().errno(), Errno::EINTR);
    }
    s.recv().unwrap().answer::<Empty>(120, clunk).unwrap();
    assert_eq!(lock(&mut s, 2, 0, WRITE, (0, 0)), DONE);
}

/// So many of a client wait for its own first byte; the tag of the first.
#[track_caller]
fn fill(c: &mut Client, count: u32) -> u16 {
    let tags: Vec<u16> = (1..=count)
        .map(|owner| send_lock(c, 3, owner, WRITE, (0, 1)))
        .collect();
    still_waits(c);
    tags[0]
}

/// Half of them in even parts, the other half for who comes first.
#[test]
fn each_connection_has_a_share_of_the_locks_that_wait() {
    let mut guests = guests(4);
    let limit = gofer::limits::LOCK_WAITERS as u32;
    let floor = limit / 2 / 4;
    assert_eq!(lock(&mut guests.clients[0], 2, 0, WRITE, (0, 1)), DONE);
    for (at, count) in [
        (1, floor + limit / 2 - 10),
        (2, floor + 10),
        (0, floor),
        (3, floor),
    ] {
        let client = &mut guests.clients[at];
        fill(client, count);
        if at != 1 {
            let tag = send_lock(client, 3, 5_000, WRITE, (0, 1));
            assert_eq!(late(client, tag), Ok(BLOCKED), "{at}");
        }
    }
    let ask = |client: &mut Client| client.lock(3, WRITE, WAIT, 0, 1, 5_000, HOST);
    assert_eq!(ask(&mut guests.clients[1]).unwrap().status, BLOCKED);
    // What one gives back of the common half another one gets.
    let client = &mut guests.clients[2];
    let clunk = client.next_tag();
    client.send(&t::clunk(clunk, 3)).unwrap();
    for _ in 0..floor + 10 {
        assert_eq!(client.recv().unwrap().errno(), Errno::EINTR);
    }
    client.recv().unwrap().answer::<Empty>(120, clunk).unwrap();
    let client = &mut guests.clients[1];
    wait(client, 3, 5_000, WRITE, (0, 1));
}

/// A client that reads nothing: as much is served as has room beside the replies of what waits. First all but that room
/// is filled, then more than that is asked for.
#[test]
fn locks_that_wait_keep_room_for_their_replies() {
    const WAITERS: u32 = 200;
    let rest = gofer::limits::OUTPUT_BYTES as u32 - MSIZE;
    for count in [rest - 11 - 11 * WAITERS, rest - 11] {
        let mut guests = guests(2);
        guests.tree.file("d/large", vec![7; 1 << 20]);
        let [one, other] = two(&mut guests.clients);
        other.open(ROOT, 4, "large", O_RDONLY).unwrap();
        assert_eq!(lock(one, 2, 0, WRITE, (0, 0)), DONE);
        let mut tags: BTreeSet<u16> = (1..=WAITERS)
            .map(|owner| wait(other, 2, owner, WRITE, (owner.into(), 1)))
            .collect();
        // The first is more than the socket takes at once.
        let reads = [MSIZE - 11, count].map(|count| (other.next_tag(), count));
        let requests = reads.map(|(tag, count)| t::read(tag, 4, 0, count));
        other.send(&requests.concat()).unwrap();
        // Each reply to the one is behind a turn of the other.
        for _ in 0..4 {
            still_waits(one);
        }
        assert_eq!(lock(one, 2, 0, UNLOCK, (0, 0)), DONE);
        // Until they all have their locks.
        for owner in 1..=WAITERS {
            while lock(one, 3, 5_000, READ, (owner.into(), 1)) == DONE {
                lock(one, 3, 5_000, UNLOCK, (0, 0));
            }
        }
        let mut reads = reads.into_iter();
        for _ in 0..2 + WAITERS {
            let reply = other.recv().unwrap();
            if reply.kind == 53 {
                assert!(tags.remove(&reply.tag) && reply.body == [DONE]);
            } else {
                let (tag, count) = reads.next().unwrap();
                assert_eq!((reply.tag, reply.body.len()), (tag, 4 + count as usize));
            }
        }
        still_waits(other);
    }
}

// ---- locks of the host's processes that are waited for ----

#[test]
fn lock_that_waits_for_a_process_of_the_host_is_granted_when_that_lets_go() {
    let (tree, mut s) = with_two_fids();
    let before = s.gofer.descriptor_count();
    let file = host_file(&tree, "a");
    host_lock(&file, libc::F_WRLCK, (0, 4)).unwrap();
    // Nothing wakes the only connection but the time.
    let tag = wait(&mut s, 2, 100, READ, (3, 1));
    assert_eq!(s.gofer.descriptor_count(), before + 1);
    host_lock(&file, libc::F_UNLCK, (0, 0)).unwrap();
    granted(&s, tag);
    assert_eq!(s.gofer.descriptor_count(), before + 1);
    assert_eq!(host_lock(&file, libc::F_WRLCK, (3, 1)), Err(Errno::EAGAIN));
    assert_eq!(lock(&mut s, 2, 100, UNLOCK, (0, 0)), DONE);
    assert_eq!(s.gofer.descriptor_count(), before);
}

#[test]
fn locks_that_wait_for_processes_of_the_host_are_granted_each_on_its_own() {
    let mut guests = guests(2);
    let before = guests.gofer.descriptor_count();
    let files = [(); 3].map(|()| host_file(&guests.tree, "d/a"));
    let [one, other] = two(&mut guests.clients);
    let mut tags = Vec::new();
    for (at, file) in (0..).zip(&files) {
        host_lock(file, libc::F_WRLCK, (at, 1)).unwrap();
        let span = (at.cast_unsigned(), 1);
        tags.push(wait(one, 2, 100, WRITE, span));
    }
    let flushed = wait(other, 2, 200, WRITE, (0, 0));
    // Behind it, and behind those of the first.
    let behind = wait(other, 3, 201, READ, (1, 1));
    assert_eq!(guests.gofer.descriptor_count(), before + 1);
    other.flush(flushed).unwrap();
    for at in [2, 0, 1] {
        host_lock(&files[at], libc::F_UNLCK, (0, 0)).unwrap();
        granted(one, tags[at]);
    }
    still_waits(other);
    assert_eq!(lock(one, 2, 100, UNLOCK, (1, 1)), DONE);
    granted(other, behind);
    for (client, owner) in [(&mut *one, 100), (&mut *other, 201)] {
        assert_eq!(lock(client, 2, owner, UNLOCK, (0, 0)), DONE);
    }
    assert_eq!(guests.gofer.descriptor_count(), before);
}

/// First one of ours has it, then one of the host's, then both.
#[test]
fn lock_waits_for_ours_and_the_hosts_in_turn() {
    let mut guests = guests(2);
    let file = host_file(&guests.tree, "d/a");
    let [one, other] = two(&mut guests.clients);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 1)), DONE);
    host_lock(&file, libc::F_WRLCK, (1, 1)).unwrap();
    let tag = wait(other, 2, 200, WRITE, (0, 2));
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 1)), DONE);
    // It asks the host now, and while it does so one of ours comes again.
    still_waits(other);
    assert_eq!(lock(one, 2, 100, WRITE, (0, 1)), DONE);
    host_lock(&file, libc::F_UNLCK, (0, 0)).unwrap();
    still_waits(other);
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 1)), DONE);
    granted(other, tag);
}

/// What was opened to wait is closed with the wait, however that ends.
#[test]
fn lock_that_waits_for_a_process_of_the_host_leaves_no_descriptor() {
    let mut guests = guests(3);
    let file = host_file(&guests.tree, "d/a");
    host_lock(&file, libc::F_WRLCK, (0, 0)).unwrap();
    let before = guests.gofer.descriptor_count();
    let mut ends = guests.clients.pop().unwrap();
    let [one, other] = two(&mut guests.clients);
    for owner in 0..10 {
        wait(&mut ends, 2, owner, READ, (0, 1));
    }
    let flushed = wait(one, 2, 200, READ, (0, 1));
    let clunked = wait(other, 3, 300, READ, (0, 1));
    assert_eq!(guests.gofer.descriptor_count(), before + 12);
    one.flush(flushed).unwrap();
    assert_eq!(guests.gofer.descriptor_count(), before + 11);
    let tag = other.next_tag();
    other.send(&t::clunk(tag, 3)).unwrap();
    assert_eq!(late(other, clunked), Err(Errno::EINTR));
    other.recv().unwrap().answer::<Empty>(120, tag).unwrap();
    drop(ends);
    // The socket and two open files, and the one just given up.
    crate::harness::expect_descriptors(&guests.gofer, one, before - 4);
}

// ---- channels ----

#[test]
fn lock_through_a_channel_does_not_wait() {
    let tree = Tree::new();
    tree.file("a", b"text");
    let mut s = serve(&tree);
    s.version(MSIZE, VERSION).unwrap();
    let channel = Channel::open(&mut s, 0).unwrap();
    speak(&mut s);
    s.open(ROOT, 2, "a", O_RDWR).unwrap();
    assert_eq!(lock(&mut s, 2, 100, WRITE, (0, 0)), DONE);
    let ask = |owner| {
        let request = t::lock(0, 2, WRITE, WAIT, 0, 1, owner, HOST);
        let reply = channel.exchange(&request).unwrap();
        assert_eq!(reply.kind, 53, "{reply:?}");
        reply.body
    };
    assert_eq!(ask(200), [BLOCKED]);
    assert_eq!(ask(100), [DONE]);
}

/// While channels are served the loop waits elsewhere: sockets' locks are granted all the same, and what channels do
/// lets locks go, too.
#[test]
fn locks_that_wait_are_granted_while_channels_are_there() {
    let mut guests = guests_with(3, &["--channels=1"]);
    let mut third = guests.clients.pop().unwrap();
    third.version(MSIZE, VERSION).unwrap();
    let channel = Channel::open(&mut third, 0).unwrap();
    speak(&mut third);
    let busy = |channel: &Channel| {
        let reply = channel.exchange(&t::statfs(0, ROOT)).unwrap();
        assert_eq!(reply.kind, 9, "{reply:?}");
    };
    let file = host_file(&guests.tree, "d/a");
    let [one, other] = two(&mut guests.clients);
    busy(&channel);
    // One of another connection's, one of the host's, one that a channel gives up.
    assert_eq!(lock(one, 2, 100, WRITE, (0, 1)), DONE);
    host_lock(&file, libc::F_WRLCK, (1, 1)).unwrap();
    assert_eq!(lock(&mut third, 2, 102, WRITE, (2, 1)), DONE);
    let tags = [0, 1, 2].map(|at| wait(other, 2, 200 + at as u32, WRITE, (at, 1)));
    busy(&channel);
    assert_eq!(lock(one, 2, 100, UNLOCK, (0, 0)), DONE);
    granted(other, tags[0]);
    busy(&channel);
    host_lock(&file, libc::F_UNLCK, (0, 0)).unwrap();
    granted(other, tags[1]);
    let reply = channel.exchange(&t::clunk(0, 2)).unwrap();
    assert_eq!(reply.kind, 121, "{reply:?}");
    granted(other, tags[2]);
    // And what waits through a fid that a channel gives up is told so.
    let tag = wait(&mut third, 3, 103, WRITE, (0, 1));
    let reply = channel.exchange(&t::clunk(0, 3)).unwrap();
    assert_eq!(reply.kind, 121, "{reply:?}");
    assert_eq!(late(&third, tag), Err(Errno::EINTR));
}
