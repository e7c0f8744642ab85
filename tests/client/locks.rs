//! Tlock and Tgetlock, as Linux's client sends them: protocol.md 7, fcntl(2).

use crate::harness::{Mount, ROOT, Session, Tree, serve, serve_mounts, serve_read_only};
use crate::linux::{linux, speak};
use crate::p9::{Client, MSIZE, O_RDONLY, O_RDWR, O_WRONLY, Rgetlock, refused, t};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
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
