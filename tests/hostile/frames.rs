//! What docs/protocol.md 1.4 says of input that is none, and of its traps (10) those that take more than one request.

use crate::harness::ROOT;
use crate::p9::{Client, MSIZE, NOID, O_RDWR, REQUESTS, RLERROR, Ropen, frame, t};
use crate::request::{Request, batch, furnish, heard, stage};
use crate::world::{Setting, item};
use nix::errno::Errno::*;
use std::fs::File;
use std::io::Read;
use std::net::Shutdown;

/// What a type that is no request is refused with.
fn refusal(kind: u8, linux: bool) -> nix::errno::Errno {
    let request = REQUESTS.iter().find(|row| row.0 == kind.wrapping_sub(1));
    match request {
        _ if kind == RLERROR => ENOSYS,
        Some((_, "lock" | "getlock", _)) if !linux => EIO,
        Some(_) => ENOSYS,
        None => EIO,
    }
}

#[test]
fn every_type_with_any_body_is_answered() {
    item(
        "all 256 types, bodies of 0 bytes to 1 MiB",
        Setting::foes(1),
        |world| {
            let foe = &mut world.foes[0];
            batch(foe, &furnish(ROOT));
            let mut cases = 0;
            for version in [b"9P2000.L.Google.13".as_slice(), b"9P2000.L"] {
                for kind in 0..=255 {
                    for (length, byte) in [
                        (0, 0),
                        (4, 0xff),
                        (100, 0xff),
                        (70_000, b'/'),
                        (MSIZE - 7, 0),
                    ] {
                        let body = vec![byte; length as usize];
                        foe.version(MSIZE, version).unwrap();
                        foe.send(&frame(kind, 9, &body)).unwrap();
                        let answer = heard(foe, kind, 9);
                        let answer =
                            answer.unwrap_or_else(|fault| panic!("{kind}, {length}: {fault}"));
                        if REQUESTS.iter().all(|row| row.0 != kind) {
                            assert_eq!(
                                answer,
                                Err(refusal(kind, version.len() == 8)),
                                "{kind}, {length}"
                            );
                        }
                        cases += 1;
                    }
                }
                // Good ones, as long as a frame may be: what is behind the last field is ignored.
                for request in Request::good()
                    .into_iter()
                    .filter(|request| request.message != "version")
                {
                    foe.version(MSIZE, version).unwrap();
                    batch(foe, &furnish(ROOT));
                    batch(foe, &stage(ROOT, O_RDWR));
                    let mut long = request.frame(9);
                    long.resize(MSIZE as usize, 0);
                    long[..4].copy_from_slice(&MSIZE.to_le_bytes());
                    foe.send(&long).unwrap();
                    let answer = heard(foe, request.kind, 9).unwrap();
                    if request.message != "write" && !request.is_linux_alone() {
                        assert_ne!(answer, Err(EIO), "{}", request.told());
                    }
                    cases += 1;
                }
            }
            format!("{cases} frames")
        },
    );
}

/// Each ends its own connection, and nothing else.
#[test]
fn sizes_that_no_frame_has_and_ends_anywhere_end_one_connection() {
    let sizes = [0, 1, 2, 3, 4, 5, 6, MSIZE + 1, 4 << 20, 1 << 31, u32::MAX];
    let request = t::walk(5, ROOT, 2, &[b"d", b"in"]);
    let foes = 3 * sizes.len() + 2 * request.len();
    item(
        "sizes that no frame has, ends anywhere",
        Setting::foes(foes),
        |world| {
            let foes = world.foes.len();
            let mut left = world.foes.drain(..);
            for size in sizes {
                for length in [4, 7, 4000] {
                    let foe = left.next().unwrap();
                    let mut bad = frame(120, 9, &vec![0xff; length]);
                    bad[..4].copy_from_slice(&size.to_le_bytes());
                    foe.send(&t::getattr(1, ROOT, 0)).unwrap();
                    let _ = foe.send(&bad[..length.max(7)]); // it may be closed by the time it is all sent
                    assert_eq!(heard(&foe, 24, 1).unwrap(), Ok(()));
                    foe.expect_closed();
                }
            }
            for length in 0..request.len() {
                // A half close first, so that the end is seen to come.
                let foe = left.next().unwrap();
                foe.send(&request[..length]).unwrap();
                foe.socket.shutdown(Shutdown::Write).unwrap();
                foe.expect_closed();
                let foe = left.next().unwrap();
                foe.send(&request[..length]).unwrap();
                drop(foe);
            }
            format!("{foes} connections")
        },
    );
}

/// Traps 5 to 7: each descriptor comes with the reply that it belongs to, however many wait.
#[test]
fn hundreds_of_opens_in_one_write_bring_each_its_own_descriptor() {
    item("1000 opens in one write", Setting::foes(1), |world| {
        let foe = &mut world.foes[0];
        for number in 0..1000u32 {
            let name = format!("f{number}").into_bytes();
            foe.walk(ROOT, 2, &[]).unwrap();
            foe.lcreate(2, &name, O_RDWR, 0o600, NOID).unwrap();
            foe.write(2, 0, crate::p9::Data(&number.to_le_bytes()))
                .unwrap();
        }
        foe.clunk(2).unwrap();
        let requests: Vec<u8> = (0..1000u32)
            .flat_map(|number| {
                let name = format!("f{number}").into_bytes();
                let tag = number as u16;
                [
                    t::walk(tag, ROOT, 10 + number, &[&name]),
                    t::lopen(tag, 10 + number, O_RDWR),
                    t::getattr(tag, 10 + number, 0),
                ]
                .concat()
            })
            .collect();
        let foe: &Client = foe;
        std::thread::scope(|scope| {
            scope.spawn(|| foe.send(&requests).unwrap());
            for number in 0..1000u32 {
                let tag = number as u16;
                assert_eq!(heard(foe, 110, tag).unwrap(), Ok(()));
                let opened: Ropen = foe.recv().unwrap().answer(12, tag).unwrap();
                let mut content = [0; 4];
                let mut file = File::from(opened.fd.expect("a descriptor"));
                file.read_exact(&mut content).unwrap();
                assert_eq!(content, number.to_le_bytes());
                assert_eq!(heard(foe, 24, tag).unwrap(), Ok(()));
            }
        });
        "each came with its own reply".into()
    });
}
