//! Descriptors sent with requests, and none left to open anything with.

use crate::harness::{ROOT, until};
use crate::p9::{Client, Fault, MSIZE, NOID, O_RDONLY, O_RDWR, t};
use crate::request::{BASE, Request, ask, batch, furnish, heard, stage};
use crate::world::{Setting, item};
use nix::errno::Errno::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// A pipe whose end for writing only the server could still hold.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    fn new() -> Pipe {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        Pipe { reader, writer }
    }

    /// Asserts that nobody holds the other end.
    #[track_caller]
    fn expect_closed(self, told: &str) {
        drop(self.writer);
        let mut fds = [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)];
        let count = poll(&mut fds, PollTimeout::ZERO).unwrap();
        assert_eq!(count, 1, "a descriptor sent with {told} is held");
    }
}

#[test]
fn descriptors_sent_with_every_message_are_closed_by_its_answer() {
    item(
        "descriptors with every message",
        Setting::foes(1),
        |world| {
            let start = world.gofer.descriptor_count();
            let foe = &mut world.foes[0];
            let mut sent = 0;
            for version in [b"9P2000.L.Google.13".as_slice(), b"9P2000.L"] {
                for request in Request::good() {
                    for count in [1, 12, 253] {
                        foe.version(MSIZE, version).unwrap();
                        batch(foe, &furnish(ROOT));
                        batch(foe, &stage(ROOT, O_RDWR));
                        let pipe = Pipe::new();
                        let bytes = request.frame(9);
                        foe.send_with(&bytes, &vec![pipe.writer.as_raw_fd(); count])
                            .unwrap();
                        sent += count;
                        let answer = heard(foe, request.kind, 9);
                        if let Err(fault) = answer {
                            panic!("{}: {fault}", request.told());
                        }
                        pipe.expect_closed(&request.told());
                    }
                }
            }
            give_up(foe);
            until("descriptors", || {
                let now = world.gofer.descriptor_count();
                if now <= start { Ok(()) } else { Err(now) }
            });
            format!("{sent} sent")
        },
    );
}

/// With each byte of a frame, of every kind, among them the connection's own and one that holds itself.
#[test]
fn descriptors_sent_with_every_byte_of_a_frame_are_closed() {
    item("descriptors with every byte", Setting::foes(2), |world| {
        let [foe, other] = &mut world.foes[..] else {
            panic!("two")
        };
        let (one, end) = UnixStream::pair().unwrap();
        let file = File::open("/etc/passwd").unwrap();
        let dir = File::open("/").unwrap();
        let mut sent = 0;
        for round in 0..20 {
            let pipe = Pipe::new();
            let kinds: [RawFd; 6] = [
                pipe.writer.as_raw_fd(),
                file.as_raw_fd(),
                dir.as_raw_fd(),
                one.as_raw_fd(),
                other.socket.as_raw_fd(),
                foe.socket.as_raw_fd(),
            ];
            for byte in t::getattr(round, ROOT, 0) {
                foe.send_with(&[byte], &kinds.repeat(2)).unwrap();
                sent += 12;
            }
            assert_eq!(heard(foe, 24, round).unwrap(), Ok(()));
            pipe.expect_closed("a byte");
        }
        // A socket on its way through itself.
        for _ in 0..100 {
            other
                .send_with(
                    &t::getattr(1, ROOT, 0),
                    &[end.as_raw_fd(), other.socket.as_raw_fd()],
                )
                .unwrap();
            assert_eq!(heard(other, 24, 1).unwrap(), Ok(()));
        }
        format!("{sent} sent")
    });
}

/// Gives up what [`stage`] has made.
fn give_up(client: &mut Client) {
    batch(
        client,
        &[0, 1, 2, 3, 4, 5, 6].map(|number| t::clunk(1, BASE + number)),
    );
}

#[test]
fn every_message_without_a_descriptor_left_is_answered_and_the_server_recovers() {
    let setting = Setting {
        nofile: 300,
        ..Setting::foes(2)
    };
    item("no descriptor left", setting, |world| {
        let [greedy, foe] = &mut world.foes[..] else {
            panic!("two")
        };
        batch(foe, &furnish(ROOT));
        let (mut cases, mut refused, mut held) = (0, 0, 0);
        for version in [b"9P2000.L.Google.13".as_slice(), b"9P2000.L"] {
            for request in Request::good() {
                foe.version(MSIZE, version).unwrap();
                batch(foe, &furnish(ROOT));
                batch(foe, &stage(ROOT, O_RDWR));
                held = exhaust(greedy);
                let pipe = Pipe::new();
                foe.send_with(&t::getattr(1, ROOT, 0), &[pipe.writer.as_raw_fd(); 12])
                    .unwrap();
                assert_eq!(heard(foe, 24, 1).unwrap(), Ok(()));
                pipe.expect_closed("a request to a full table");
                let answer = ask(foe, &request);
                let answer = answer.unwrap_or_else(|fault| panic!("{}: {fault}", request.told()));
                assert!(
                    answer != Err(EIO) || request.is_linux_alone(),
                    "{}",
                    request.told()
                );
                refused += u32::from(answer == Err(EMFILE));
                cases += 1;
                // What was open works on, and one that is given up is enough for another.
                batch(foe, &stage(ROOT, O_RDWR)[..1]);
                greedy.getattr(10, 0).unwrap();
                greedy.clunk(10).unwrap();
                greedy.walk_to(ROOT, 10, "many").unwrap();
                greedy.lopen(10, O_RDONLY).unwrap();
                let given_up: Vec<_> = (10..10 + held).map(|fid| t::clunk(1, fid)).collect();
                assert!(batch(greedy, &given_up).iter().all(Result::is_ok));
                foe.clunk(crate::request::NEW).ok();
            }
        }
        give_up(foe);
        assert!(refused > 10, "{refused} were EMFILE");
        format!("{cases} messages, {refused} of them EMFILE, {held} fids open")
    });
}

/// Opens one file until there is no descriptor left; how many fids from 10 up have it open.
fn exhaust(client: &mut Client) -> u32 {
    let _ = client.mknod(ROOT, b"many", 0o100_600, 0, 0, NOID);
    let mut held = 0;
    loop {
        client.walk_to(ROOT, 10 + held, "many").unwrap();
        match client.lopen(10 + held, O_RDONLY) {
            Ok(_) => held += 1,
            Err(Fault::Errno(EMFILE)) => break,
            Err(fault) => panic!("{fault}"),
        }
        assert!(held < 1000);
    }
    client.clunk(10 + held).unwrap();
    held
}

/// Donated descriptors that the client may do with as it likes: its offsets, its flags, its end.
#[test]
fn donated_descriptors_misused_do_not_harm_the_servers() {
    item("donated descriptors misused", Setting::foes(1), |world| {
        let foe = &mut world.foes[0];
        batch(foe, &furnish(ROOT));
        for round in 0..1000u64 {
            foe.walk_to(ROOT, 2, "d/in").unwrap();
            let donated = foe.lopen(2, O_RDWR).unwrap().fd.expect("a descriptor");
            let mut file = File::from(donated);
            file.seek(std::io::SeekFrom::Start(round << 32)).unwrap();
            nix::fcntl::fcntl(
                &file,
                nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND),
            )
            .unwrap();
            file.write_all(b"appended").unwrap();
            file.set_len(4).unwrap();
            assert_eq!(foe.read(2, 0, 100).unwrap().data.0.len(), 4);
            // Sent back to where it came from.
            foe.send_with(&t::getattr(1, 2, 0), &[file.as_raw_fd(); 12])
                .unwrap();
            assert_eq!(heard(foe, 24, 1).unwrap(), Ok(()));
        }
        foe.clunk(2).unwrap();
        "1000 of them".into()
    });
}
