//! Clients that are too fast, too slow, deaf, idle, or gone.

use crate::harness::ROOT;
use crate::p9::{Client, Data, NOID, O_RDONLY, O_RDWR, t};
use crate::request::{batch, heard};
use crate::world::{Setting, item};
use std::io::{ErrorKind, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_millis(1000);
/// Levels of the deepest path that one walk takes.
const LEVELS: usize = 256;

/// What costs the server most, each as dear as it gets.
fn dear() -> Vec<(&'static str, Vec<u8>)> {
    let deep = [b"d".as_slice(); LEVELS];
    let missing = [b"missing".as_slice(); LEVELS];
    vec![
        ("Twalk of 256 names", t::walk(1, ROOT, 2, &deep)),
        (
            "Twalkgetattr of 256 names",
            t::walkgetattr(1, ROOT, 3, &deep),
        ),
        (
            "Tmultigetattr of 256 names",
            t::multigetattr(1, ROOT, &deep),
        ),
        ("Twalk of missing names", t::walk(1, ROOT, 4, &missing)),
        ("Tread of 1 MiB", t::read(1, 10, 0, 1 << 20)),
        ("Twrite of 100 kB", t::write(1, 10, 0, Data(&[7; 100_000]))),
        ("Treaddir of 5000 names", t::readdir(1, 11, 0, 1 << 20)),
        ("Treaddir of one name", t::readdir(1, 11, 0, 40)),
        ("Tfsync", t::fsync(1, 10, 0)),
        (
            "Trenameat of a path of 256 levels",
            t::renameat(1, ROOT, b"d", ROOT, b"e"),
        ),
        ("Trenameat back", t::renameat(1, ROOT, b"e", ROOT, b"d")),
        ("Tlistxattr", t::listxattr(1, ROOT, 0)),
        ("Txattrwalk", t::xattrwalk(1, ROOT, 5, b"")),
        ("Tstatfs", t::statfs(1, ROOT)),
    ]
}

fn dear_in_turn() -> Vec<Vec<u8>> {
    dear().into_iter().map(|(_, request)| request).collect()
}

/// A path of [`LEVELS`] directories, a file of 1 MiB and a directory of 5000 names.
fn furnish(foe: &mut Client) {
    foe.walk(ROOT, 2, &[]).unwrap();
    for _ in 0..LEVELS {
        foe.mkdir(2, b"d", 0o755, NOID).unwrap();
        foe.walk(2, 2, &[b"d"]).unwrap();
    }
    foe.walk(ROOT, 2, &[]).unwrap();
    foe.lcreate(2, b"big", O_RDWR, 0o600, NOID).unwrap();
    foe.write(2, 0, Data(&vec![1; 1 << 19])).unwrap();
    foe.write(2, 1 << 19, Data(&vec![2; 1 << 19])).unwrap();
    foe.mkdir(ROOT, b"wide", 0o755, NOID).unwrap();
    foe.walk(ROOT, 3, &[b"wide"]).unwrap();
    for number in 0..5000 {
        let name = format!("name {number}").into_bytes();
        foe.mknod(3, &name, 0o100_600, 0, 0, NOID).unwrap();
    }
}

fn open(foe: &mut Client) {
    foe.open(ROOT, 10, "big", O_RDWR).unwrap();
    foe.open(ROOT, 11, "wide", O_RDONLY).unwrap();
}

#[test]
fn eight_clients_that_flood_with_dear_requests_do_not_stop_the_others() {
    item("8 clients flood", Setting::foes(8), |world| {
        furnish(&mut world.foes[0]);
        let requests = &dear_in_turn();
        let mut count = 0;
        std::thread::scope(|scope| {
            let flood = |foe: &mut Client| {
                open(foe);
                let begin = Instant::now();
                let mut count = 0;
                while begin.elapsed() < FLOOD {
                    batch(foe, requests);
                    count += requests.len();
                }
                count
            };
            let threads: Vec<_> = world
                .foes
                .iter_mut()
                .map(|foe| scope.spawn(move || flood(foe)))
                .collect();
            count = threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum();
        });
        format!("{count} requests in {} ms", FLOOD.as_millis())
    });
}

/// Each alone, over and over in one write, so that a turn is full of it: the longest wait is printed for each.
#[test]
fn each_dear_request_in_full_buffers_does_not_stop_the_others() {
    for (what, request) in dear() {
        item(
            &format!("buffers full of {what}"),
            Setting::foes(2),
            |world| {
                furnish(&mut world.foes[0]);
                let mut count = 0;
                for foe in &mut world.foes {
                    open(foe);
                }
                let burst = (150_000 / request.len()).clamp(1, 40);
                let bytes = request.repeat(burst);
                let begin = Instant::now();
                while begin.elapsed() < FLOOD / 10 {
                    for foe in &world.foes {
                        foe.send(&bytes).unwrap();
                    }
                    for foe in &world.foes {
                        for _ in 0..burst {
                            let _ = heard(foe, request[4], 1).unwrap();
                            count += 1;
                        }
                    }
                }
                format!("{count} requests")
            },
        );
    }
}

/// A byte now and then on each of many connections: no frame waits for another's.
#[test]
fn a_hundred_clients_that_send_byte_by_byte_are_answered() {
    item(
        "100 clients, a byte each 10 ms",
        Setting::foes(100),
        |world| {
            let frames = [
                t::getattr(3, ROOT, 0),
                t::walk(4, ROOT, 2, &[]),
                t::clunk(5, 2),
            ];
            for byte in frames.concat() {
                for foe in &world.foes {
                    foe.send(&[byte]).unwrap();
                }
                sleep(Duration::from_millis(10));
            }
            for foe in &world.foes {
                for frame in &frames {
                    let tag = u16::from(frame[5]);
                    assert_eq!(heard(foe, frame[4], tag).unwrap(), Ok(()));
                }
            }
            format!("{} bytes each", frames.concat().len())
        },
    );
}

/// Writes until the socket takes no more; how many bytes.
fn stuff(foe: &Client, requests: &[u8]) -> usize {
    foe.socket.set_nonblocking(true).unwrap();
    let mut sent = 0;
    loop {
        // A request that is torn is at the end: nothing follows.
        match (&foe.socket).write(&requests[sent % requests.len()..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // The server may only be about to read on.
                sleep(Duration::from_millis(20));
                match (&foe.socket).write(&requests[sent % requests.len()..]) {
                    Ok(count) => sent += count,
                    Err(_) => return sent,
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(
            sent < 64 << 20,
            "the server reads on though nobody takes its replies"
        );
    }
}

#[test]
fn clients_that_never_read_cost_their_buffers_and_nobodys_time() {
    item("20 clients never read", Setting::foes(20), |world| {
        furnish(&mut world.foes[0]);
        let mut sent = 0;
        for (foe, number) in world.foes.iter_mut().zip(0..) {
            open(foe);
            let requests = match number % 4 {
                0 => t::read(1, 10, 0, 1 << 20),
                1 => [t::walk(1, ROOT, 2, &[b"big"]), t::lopen(1, 2, O_RDWR)].concat(),
                2 => t::readdir(1, 11, 0, 1 << 20),
                _ => t::multigetattr(1, ROOT, &[b"d".as_slice(); LEVELS]),
            };
            sent += stuff(foe, &requests);
        }
        sleep(Duration::from_millis(300));
        format!("{sent} bytes sent")
    });
}

#[test]
fn clients_that_end_in_the_middle_of_their_requests_leave_nothing() {
    item(
        "100 clients end amid their requests",
        Setting::foes(100),
        |world| {
            furnish(&mut world.foes[0]);
            let requests = dear_in_turn().concat();
            for (mut foe, number) in world.foes.drain(..).zip(1..) {
                open(&mut foe);
                foe.send(&requests[..requests.len() * number / 100])
                    .unwrap();
                // Some hear a part of it.
                for _ in 0..number % 4 {
                    foe.recv().unwrap();
                }
            }
            "each after another part of them".into()
        },
    );
}

/// The table of connections is full: 256 with the quiet one, the host's and the reader's.
#[test]
fn idle_clients_up_to_the_limit_cost_little_and_nobodys_time() {
    item("253 idle clients and 3", Setting::foes(253), |world| {
        for (foe, number) in world.foes.iter().zip(0..) {
            // Some in the middle of a header, some of a body.
            foe.send(&t::getattr(1, ROOT, 0)[..number % 19]).unwrap();
        }
        sleep(Duration::from_millis(1000));
        world.host.getattr(ROOT, 0).unwrap();
        for (foe, number) in world.foes.iter().zip(0..) {
            foe.send(&t::getattr(1, ROOT, 0)[number % 19..]).unwrap();
            assert_eq!(heard(foe, 24, 1).unwrap(), Ok(()));
        }
        "a second of silence".into()
    });
}
