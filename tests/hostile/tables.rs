//! Tables filled to their limits, trees as deep and as wide as they get, and names that go round.

use crate::harness::{ROOT, expect_descriptors, until};
use crate::p9::{Client, Data, Fault, MSIZE, NOID, O_RDWR, refused, t};
use crate::request::heard_all;
use crate::world::{Setting, World, item};
use nix::errno::Errno::{self, *};

const FIDS: u32 = 1_000_000;

/// Sends many requests, `each` of them a frame, and gives each answer to `came`.
fn pipeline(
    client: &Client,
    count: u32,
    each: impl Fn(u32) -> Vec<u8>,
    mut came: impl FnMut(u32, Result<(), Errno>),
) {
    for start in (0..count).step_by(500) {
        let numbers = start..count.min(start + 500);
        let frames: Vec<Vec<u8>> = numbers.clone().map(&each).collect();
        client.send(&frames.concat()).unwrap();
        for (number, answer) in numbers.zip(heard_all(client, &frames)) {
            came(number, answer);
        }
    }
}

fn all_served(client: &Client, count: u32, each: impl Fn(u32) -> Vec<u8>) {
    pipeline(client, count, each, |number, answer| {
        assert_eq!(answer, Ok(()), "{number}")
    });
}

fn name(number: u32) -> Vec<u8> {
    format!("f{number}").into_bytes()
}

#[test]
fn a_million_fids_on_10000_files_are_held_then_enomem_and_all_is_freed() {
    fill(10_000);
}

#[test]
#[ignore = "needs a limit of 100,300 descriptors: ./build.sh v9fs hostile"]
fn a_million_fids_on_100000_files_are_held_then_enomem_and_all_is_freed() {
    fill(100_000);
}

/// Fills the table of fids with clones of many files, and then the table of descriptors.
#[track_caller]
fn fill(files: u32) {
    const MORE: u32 = 300;
    let (foes, nofile) = (4, files + MORE);
    let setting = Setting {
        nofile: u64::from(nofile),
        ..Setting::foes(foes)
    };
    item(
        &format!("a million fids on {files} files"),
        setting,
        |world| {
            let share = files / foes as u32;
            let mut held = 3 + foes as u32; // the roots of all
            for (foe, first) in world.foes.iter().zip((0..files).step_by(share as usize)) {
                let make = |number| t::mknod(1, ROOT, &name(first + number), 0o100_600, 0, 0, NOID);
                all_served(foe, share, make);
                all_served(foe, share, |number| {
                    t::walk(1, ROOT, 10 + number, &[&name(first + number)])
                });
                held += share;
                // Clones of each in turn, as many as there is room for.
                let clone = |number| t::walk(1, 10 + number % share, 10 + share + number, &[]);
                let mut full = false;
                pipeline(
                    foe,
                    FIDS / foes as u32 - share,
                    clone,
                    |_, answer| match answer {
                        Ok(()) if !full => held += 1,
                        answer => {
                            assert_eq!(answer, Err(ENOMEM));
                            full = true;
                        }
                    },
                );
            }
            assert_eq!(held, FIDS);
            let [one, other, ..] = &mut world.foes[..] else {
                panic!("four")
            };
            refused(one.walk_to(ROOT, 5_000_000, ""), ENOMEM);
            refused(world.host.walk_to(ROOT, 5_000_000, ""), ENOMEM);
            refused(one.xattrwalk(ROOT, 5_000_000, b""), ENOMEM);
            one.getattr(10, 0).unwrap();
            one.clunk(10).unwrap();
            other.walk_to(ROOT, 5_000_000, "").unwrap();
            refused(one.walk_to(ROOT, 10, ""), ENOMEM);
            // With room for fids again, more files, until nothing but what is kept for opens is left.
            all_served(one, MORE, |number| t::clunk(1, 10 + share + number));
            all_served(one, MORE, |number| {
                t::mknod(1, ROOT, &name(files + number), 0o100_600, 0, 0, NOID)
            });
            let fill_up = |one: &mut Client| {
                let walk =
                    |number: &u32| walk_or_emfile(one, 10 + share + number, &name(files + number));
                (0..MORE).take_while(walk).count() as u32
            };
            let more = fill_up(one);
            let (walks, room) = (world.gofer.descriptor_count(), nofile as usize);
            assert!((room - 40..=room - 32).contains(&walks), "{walks}");
            assert!(!walk_or_emfile(&mut world.host, 5_000_000, b"kept"));
            one.walk_to(ROOT, 11, "f1").unwrap();
            let mut opened = 0;
            loop {
                match one.lopen(20 + opened, O_RDWR) {
                    Ok(_) => opened += 1,
                    Err(fault) => break refused::<()>(Err(fault), EMFILE),
                }
            }
            let opens = world.gofer.descriptor_count();
            assert!((room - 1..=room).contains(&opens), "{opens}");
            one.getattr(11, 0).unwrap();
            one.write(20, 0, Data(b"open")).unwrap();
            // What is given up makes room for as many.
            all_served(one, opened, |number| t::clunk(1, 20 + number));
            one.open(ROOT, 20, "f10", O_RDWR).unwrap();
            one.clunk(20).unwrap();
            all_served(one, more, |number| t::clunk(1, 10 + share + number));
            assert_eq!(fill_up(one), more);
            format!("{held} held, {walks} descriptors, {opens} with {opened} opens")
        },
    );
}

/// Whether a walk to a file that was not known found a descriptor for it.
#[track_caller]
fn walk_or_emfile(client: &mut Client, newfid: u32, name: &[u8]) -> bool {
    match client.walk(ROOT, newfid, &[name]) {
        Ok(_) => true,
        Err(Fault::Errno(EMFILE)) => false,
        Err(fault) => panic!("{fault}"),
    }
}

#[test]
fn a_path_of_5000_levels_is_renamed_deleted_and_freed() {
    deepen(5000);
}

#[test]
#[ignore = "needs a limit of 100,300 descriptors: ./build.sh v9fs hostile"]
fn a_path_of_100000_levels_is_renamed_deleted_and_freed() {
    deepen(100_000);
}

/// The host's own names go on below them all.
#[track_caller]
fn deepen(levels: u32) {
    let setting = Setting {
        nofile: u64::from(levels) + 300,
        ..Setting::foes(1)
    };
    item(&format!("{levels} levels"), setting, |world| {
        let World { foes, gofer, .. } = world;
        let foe = &mut foes[0];
        let start = gofer.descriptor_count();
        let fid = |level: u32| if level == 0 { ROOT } else { 10 + level };
        all_served(foe, 2 * levels, |step| match (step / 2, step % 2) {
            (level, 0) => t::mkdir(1, fid(level), b"d", 0o755, NOID),
            (level, _) => t::walk(1, fid(level), fid(level + 1), &[b"d"]),
        });
        // Round: none into itself, at any depth.
        for level in [1, 2, levels / 2, levels] {
            refused(foe.renameat(ROOT, b"d", fid(level), b"loop"), EINVAL);
            refused(foe.rename(fid(1), fid(level), b"loop"), EINVAL);
        }
        foe.rename(fid(1), ROOT, b"e").unwrap();
        foe.mknod(fid(levels), b"in", 0o100_600, 0, 0, NOID)
            .unwrap();
        // The lowest alone keeps all above it.
        all_served(foe, levels - 1, |level| t::clunk(1, fid(level + 1)));
        foe.walk_to(fid(levels), 5, "in").unwrap();
        foe.walk_to(ROOT, 6, &format!("e{}", "/d".repeat(254)))
            .unwrap();
        assert!(gofer.descriptor_count() > levels as usize);
        // Over the highest: the lowest is deleted with it, as far as the host lets it be.
        foe.mkdir(ROOT, b"empty", 0o755, NOID).unwrap();
        refused(foe.renameat(ROOT, b"empty", ROOT, b"e"), ENOTEMPTY);
        foe.renameat(ROOT, b"e", ROOT, b"d").unwrap();
        foe.getattr(5, 0).unwrap();
        for fid in [5, 6, fid(levels)] {
            foe.clunk(fid).unwrap();
        }
        expect_descriptors(gofer, foe, start);
        "into itself is EINVAL".into()
    });
}

#[test]
fn a_directory_of_50000_names_is_listed_in_any_pieces_and_emptied() {
    const NAMES: u32 = 50_000;
    item("50000 names in a directory", Setting::foes(2), |world| {
        let [one, other] = &mut world.foes[..] else {
            panic!("two")
        };
        let long = |number: u32| format!("{number:0200}").into_bytes();
        all_served(one, NAMES, |number| {
            t::mknod(1, ROOT, &long(number), 0o100_600, 0, 0, NOID)
        });
        for count in [1 << 20, 30_000] {
            other.walk_to(ROOT, 2, "").unwrap();
            other.lopen(2, 0).unwrap();
            let list = other.list(2, count).unwrap();
            assert_eq!(list.len(), NAMES as usize, "{count} bytes at a time");
            other.clunk(2).unwrap();
        }
        other.walk_to(ROOT, 2, "").unwrap();
        other.lopen(2, 0).unwrap();
        let first = other.readdir(2, 0, 1 << 20).unwrap().entries.list;
        all_served(one, NAMES, |number| t::unlinkat(1, ROOT, &long(number), 0));
        // From every place where an entry was, though none is there.
        for entry in first.iter().step_by(50) {
            let rest = other.readdir(2, entry.offset, 1 << 20).unwrap();
            assert!(rest.entries.list.len() < first.len());
        }
        format!("{NAMES} names of 200 bytes")
    });
}

/// Two connections move the same directories into each other, up, down and over each other.
#[test]
fn renames_in_circles_by_two_connections_are_answered_and_lose_nothing() {
    const DIRS: u64 = 6;
    const MOVES: u32 = 10_000;
    item("renames in circles", Setting::foes(2), |world| {
        let dir = |number: u64| format!("d{number}").into_bytes();
        for number in 0..DIRS {
            let foe = &mut world.foes[0];
            foe.mkdir(ROOT, &dir(number), 0o755, NOID).unwrap();
            // Something in it, so that none is replaced.
            foe.walk(ROOT, 2, &[&dir(number)]).unwrap();
            foe.mknod(2, b"in", 0o100_600, 0, 0, NOID).unwrap();
            foe.clunk(2).unwrap();
        }
        let mut served = 0;
        for foe in &mut world.foes {
            for number in 0..DIRS {
                foe.walk(ROOT, 10 + number as u32, &[&dir(number)]).unwrap();
            }
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = world
                .foes
                .iter_mut()
                .zip(1..)
                .map(|(foe, seed)| scope.spawn(move || turn_round(foe, seed, MOVES, DIRS)))
                .collect();
            for thread in threads {
                served += thread.join().unwrap();
            }
        });
        // Each is where some path leads to, and none below itself.
        let (mut left, mut found) = (vec![Vec::new()], 0);
        while let Some(path) = left.pop() {
            let parts: Vec<&[u8]> = std::iter::once(b"m".as_slice())
                .chain(path.iter().map(Vec::as_slice))
                .collect();
            world.host.walk(ROOT, 2, &parts).unwrap();
            world.host.lopen(2, 0).unwrap();
            let entries = world.host.list(2, 8192).unwrap();
            for entry in entries.into_iter().filter(|entry| entry.name != b"in") {
                found += 1;
                left.push([&path[..], &[entry.name]].concat());
            }
            world.host.clunk(2).unwrap();
        }
        assert_eq!(found, DIRS);
        format!("{} requests, {served} renames done", 2 * MOVES)
    });
}

/// Random renames; how many were done.
fn turn_round(foe: &mut Client, seed: u64, moves: u32, dirs: u64) -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % limit
    };
    let mut done = 0;
    for _ in 0..moves {
        let (from, to) = (below(dirs + 1) as u32, below(dirs + 1) as u32);
        let fid = |number: u32| {
            if number == dirs as u32 {
                ROOT
            } else {
                10 + number
            }
        };
        let one = format!("d{}", below(dirs)).into_bytes();
        let answer = match below(4) {
            0 => foe.rename(10 + below(dirs) as u32, fid(to), &one).map(drop),
            1 => foe.renameat(fid(from), &one, fid(to), &one).map(drop),
            2 => foe.walk(ROOT, 10 + below(dirs) as u32, &[&one]).map(drop),
            _ => foe
                .walk(fid(from), 10 + below(dirs) as u32, &[&one])
                .map(drop),
        };
        match answer {
            Ok(()) => done += 1,
            // Into itself, from where it no longer is, over one that is not empty or is this one.
            Err(Fault::Errno(EINVAL | ENOENT | ENOTEMPTY | EEXIST)) => {}
            Err(fault) => panic!("{fault}"),
        }
    }
    done
}

#[test]
fn locks_up_to_their_limits_are_held_then_enolck_and_all_is_freed() {
    const LOCKS: u64 = 4096;
    const HOLDERS: u32 = 1024;
    item("4096 locks, then 1024 holders", Setting::foes(2), |world| {
        for foe in &mut world.foes {
            foe.version(MSIZE, b"9P2000.L").unwrap();
            let _ = foe.mknod(ROOT, b"f", 0o100_600, 0, 0, NOID);
            foe.open(ROOT, 2, "f", O_RDWR).unwrap();
        }
        let [one, other] = &mut world.foes[..] else {
            panic!("two")
        };
        let taken = (0..=LOCKS).take_while(|number| {
            let answer = one.lock(2, 1, 0, 2 * number, 1, 1, b"one");
            answer
                .inspect_err(|fault| assert!(matches!(fault, Fault::Errno(ENOLCK))))
                .is_ok()
        });
        let taken = taken.count() as u64;
        assert!((LOCKS - 1..=LOCKS).contains(&taken), "{taken}");
        let beyond = u64::from(u32::MAX);
        refused(other.lock(2, 1, 0, beyond, 1, 2, b"other"), ENOLCK);
        assert_eq!(other.getlock(2, 1, 0, 0, 2, b"other").unwrap().kind, 1);
        assert_eq!(one.lock(2, 2, 0, 0, 0, 1, b"one").unwrap().status, 0);
        for owner in 0..HOLDERS {
            assert_eq!(one.lock(2, 0, 0, 0, 0, owner, b"one").unwrap().status, 0);
        }
        refused(other.lock(2, 0, 0, 0, 0, 2, b"other"), ENOLCK);
        // One that ends makes room.
        assert_eq!(one.lock(2, 2, 0, 0, 0, 7, b"one").unwrap().status, 0);
        assert_eq!(other.lock(2, 0, 0, 0, 0, 2, b"other").unwrap().status, 0);
        "ENOLCK behind each".into()
    });
}

/// As many wait as may, behind a table of locks that is nearly full, and a lock that changes again and again has all of
/// them looked at.
#[test]
fn locks_that_wait_up_to_their_limit_do_not_stop_the_others() {
    const RANGES: u64 = 3000;
    const WAITERS: u16 = 2048;
    const CHANGES: u64 = 300;
    item(
        "2048 locks that wait behind 3000",
        Setting::foes(2),
        |world| {
            for foe in &mut world.foes {
                foe.version(MSIZE, b"9P2000.L").unwrap();
                let _ = foe.mknod(ROOT, b"f", 0o100_600, 0, 0, NOID);
                foe.open(ROOT, 2, "f", O_RDWR).unwrap();
            }
            let [one, other] = &mut world.foes[..] else {
                panic!("two")
            };
            for number in 0..RANGES {
                let at = 10 + 2 * number;
                let status = one.lock(2, 1, 0, at, 1, 1, b"one").unwrap().status;
                assert_eq!(status, 0);
            }
            // All but the last of the ranges is passed over to find what is in the way.
            let last = 10 + 2 * (RANGES - 1);
            let mut waits = 0;
            for foe in [&mut *one, &mut *other] {
                let lock =
                    |owner: u16| t::lock(owner, 2, 1, 1, last, 1, 100 + u32::from(owner), b"x");
                let locks: Vec<u8> = (1..=WAITERS).flat_map(lock).collect();
                foe.send(&locks).unwrap();
                foe.send(&t::statfs(0, ROOT)).unwrap();
                let mut blocked = 0;
                while foe.recv().unwrap().tag != 0 {
                    blocked += 1;
                }
                waits += WAITERS - blocked;
            }
            assert!(waits > WAITERS / 2, "{waits}");
            for number in 0..CHANGES {
                for kind in [2, 1] {
                    let at = 10 + 2 * (number % 100);
                    let status = one.lock(2, kind, 0, at, 1, 1, b"one").unwrap().status;
                    assert_eq!(status, 0);
                }
            }
            format!("{waits} wait, {CHANGES} changes")
        },
    );
}

#[test]
fn values_up_to_their_limit_are_held_then_enomem_and_all_is_freed() {
    const VALUES: u32 = 256;
    item("256 values of 64 KiB", Setting::foes(2), |world| {
        let [one, other] = &mut world.foes[..] else {
            panic!("two")
        };
        let value = vec![7; 1 << 16];
        one.mknod(ROOT, b"f", 0o100_600, 0, 0, NOID).unwrap();
        for number in 0..VALUES {
            one.walk_to(ROOT, 10 + number, "f").unwrap();
            one.xattrcreate(10 + number, b"user.a", 1 << 16, 0).unwrap();
            one.write(10 + number, 0, Data(&value)).unwrap();
        }
        refused(other.xattrwalk(ROOT, 10, b""), ENOMEM);
        refused(other.xattrcreate(ROOT, b"user.a", 1, 0), ENOMEM);
        refused(other.listxattr(ROOT, 0), ENOMEM);
        other.getattr(ROOT, 0).unwrap();
        one.walk_to(ROOT, 10, "").unwrap(); // given up for another file, and not set
        other.xattrwalk(ROOT, 10, b"").unwrap();
        other.clunk(10).unwrap();
        // What ends with its connection is not set either.
        world.foes.remove(0);
        let other = &mut world.foes[0];
        other.walk_to(ROOT, 2, "f").unwrap();
        until("the values", || {
            other
                .listxattr(2, 0)
                .map(|list| assert!(list.names.is_empty()))
        });
        format!("{VALUES} held")
    });
}
