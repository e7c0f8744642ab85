//! Windows that their clients write to at any time, words that are nobody's or never at rest, descriptors that
//! nobody takes, and clients that are killed in the middle; docs/channels.md, "A hostile client".
//!
//! Beside the quiet connection a quiet channel asks once a millisecond, and its longest wait is printed too.

use crate::channel::{CLIENT, Channel, GREETING, LONGEST, OVER, SERVER, VERSION, WINDOW, Window};
use crate::harness::{ROOT, meanwhile, until};
use crate::p9::{
    Client, Data, Empty, Fault, MSIZE, NOID, O_RDWR, PATIENCE, RLERROR, Rgetattr, Rmultigetattr,
    Ropen, Rread, Rwalk, Rwrite, t,
};
use crate::request::{Request, batch, furnish, heard, stage};
use crate::world::{Setting, WAIT, Waits, World, item};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, send, sendmsg, shutdown};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use rustix::thread::futex::{self, Flags};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// How long an attack lasts that has no end of its own.
const LASTS: Duration = Duration::from_millis(1000);
/// As many hostile connections as can have two channels each, with those of the root, the quiet and the reader's.
const MOST: usize = 60;

/// An item with so many foes, who have agreed on a version with channels.
#[track_caller]
fn attacked(
    name: &str,
    foes: usize,
    words: &'static [&'static str],
    attack: impl FnOnce(&mut World) -> String,
) {
    let setting = Setting {
        words,
        ..Setting::foes(foes)
    };
    item(name, setting, |world| {
        for client in world.foes.iter_mut().chain([&mut world.reader]) {
            client.version(MSIZE, VERSION).unwrap();
        }
        let quiet = Channel::open(&mut world.reader, 0).unwrap();
        let waits = Mutex::new(Waits::default());
        let mut done = String::new();
        meanwhile(
            || {
                sleep(Duration::from_millis(1));
                let ask = || quiet.get::<Rgetattr>(&t::getattr(1, ROOT, 0));
                waits.lock().unwrap().measure(ask);
            },
            || done = attack(world),
        );
        let waits = waits.into_inner().unwrap();
        assert!(waits.longest < WAIT, "{waits:?}");
        let (longest, count) = (waits.longest.as_secs_f64() * 1000.0, waits.count);
        format!("{done}; a channel waited at most {longest:.1} ms of {count} times")
    });
}

/// xorshift64*.
struct Random(AtomicU64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(AtomicU64::new(seed * 2 + 1))
    }

    fn next(&self) -> u64 {
        let mut state = self.0.load(Ordering::Relaxed);
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.store(state, Ordering::Relaxed);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn of<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Whether the server has given channel `id` up.
fn is_over(foe: &mut Client, id: u32) -> bool {
    match foe.channel(id, 0) {
        Ok(_) => false,
        Err(Fault::Errno(Errno::ENOSYS)) => true,
        Err(fault) => panic!("{fault}"),
    }
}

/// Hands over what stands in the window, whatever state it is in, and waits a little until it is not the server's.
fn provoke(window: &Window) {
    window.state().store(SERVER, Ordering::Release);
    window.wake(1);
    for _ in 0..20 {
        if window.state().load(Ordering::Acquire) != SERVER {
            break;
        }
        window.sleep(SERVER, Duration::from_micros(500));
    }
}

/// The same, by a client that waits for the answer; nothing on a channel that is over.
fn ask(window: &Window) {
    let begin = Instant::now();
    let state = window.state();
    if state
        .compare_exchange(CLIENT, SERVER, Ordering::AcqRel, Ordering::Relaxed)
        .is_err()
    {
        return;
    }
    window.wake(1);
    while state.load(Ordering::Acquire) == SERVER && begin.elapsed() < PATIENCE {
        window.sleep(SERVER, Duration::from_micros(500));
    }
}

/// Repeats something for as long as an attack lasts; how often.
fn lasting(lasts: Duration, mut again: impl FnMut()) -> u32 {
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < lasts {
        again();
        count += 1;
    }
    count
}

/// Puts the datagram of a frame into a window.
fn put(window: &Window, frame: &[u8]) {
    window.put(16, &[frame[4], 0]);
    window.put(18, &frame[7..]);
    window
        .length()
        .store(frame.len() as u32 - 5, Ordering::Relaxed);
}

/// A file of its own with so many bytes, opened as fid 10.
fn open(foe: &mut Client, bytes: usize) {
    let name = format!("of {}", foe.socket.as_raw_fd());
    foe.walk(ROOT, 10, &[]).unwrap();
    foe.lcreate(10, name.as_bytes(), O_RDWR, 0o600, NOID)
        .unwrap();
    foe.write(10, 0, Data(&vec![b'a'; bytes])).unwrap();
}

// ---- what a window says, changed while it is read ----

#[test]
fn length_that_changes_during_service_is_read_once() {
    attacked("lengths that change, all of them good", 1, &[], |world| {
        let foe = &mut world.foes[0];
        open(foe, 1000);
        batch(foe, &furnish(ROOT));
        let channel = Channel::open(foe, 0).unwrap();
        let window = &channel.window;
        let random = Random::new(1);
        let requests = [
            t::write(1, 10, 0, Data(&[b'a'; 1000])),
            t::walk(1, ROOT, 2, &[b"d", b"in"]),
            t::multigetattr(1, ROOT, &[b"d".as_slice(); 200]),
            t::getattr(1, ROOT, 0),
            t::read(1, 10, 0, 1000),
        ];
        let lengths = [
            2,
            3,
            5,
            17,
            18,
            19,
            100,
            1000,
            1018,
            1 << 16,
            LONGEST as u32,
        ];
        let mut count = 0;
        meanwhile(
            || {
                window
                    .length()
                    .store(random.of(&lengths), Ordering::Relaxed)
            },
            || {
                let own = Random::new(2);
                count = lasting(LASTS, || {
                    put(window, &requests[own.below(requests.len())]);
                    ask(window);
                    assert_eq!(window.state().load(Ordering::Acquire), CLIENT);
                    let kind = window.get(16, 1)[0];
                    assert!(kind % 2 == 1, "a reply of type {kind}");
                });
            },
        );
        channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        assert_eq!(foe.getattr(10, 0x200).unwrap().attr.size, 1000);
        format!("{count} requests")
    });
}

#[test]
fn length_that_changes_to_what_there_is_not_ends_its_channel_alone() {
    attacked(
        "lengths that change, some of them bad",
        MOST,
        &[],
        |world| {
            let random = Random::new(3);
            let bad = [
                0,
                1,
                LONGEST as u32 + 1,
                WINDOW as u32,
                1 << 31,
                u32::MAX,
                100,
                19,
                2,
            ];
            let (mut count, mut over) = (0, 0);
            for foe in &mut world.foes {
                for id in [0, 1] {
                    let channel = Channel::open(foe, id).unwrap();
                    let window = &channel.window;
                    put(window, &t::getattr(1, ROOT, 0));
                    meanwhile(
                        || window.length().store(random.of(&bad), Ordering::Relaxed),
                        || {
                            until("a bad length", || {
                                count += lasting(Duration::from_millis(3), || ask(window));
                                if is_over(foe, id) { Ok(()) } else { Err(count) }
                            });
                        },
                    );
                    over += 1;
                    foe.getattr(ROOT, 0).unwrap();
                }
            }
            format!("{count} requests, {over} channels over")
        },
    );
}

#[test]
fn state_that_changes_during_service_ends_its_channel_at_the_most() {
    attacked("states that change", MOST, &[], |world| {
        let random = Random::new(4);
        let states = [
            CLIENT,
            SERVER,
            OVER,
            3,
            u32::MAX,
            SERVER,
            CLIENT,
            SERVER,
            CLIENT,
        ];
        let (mut count, mut over) = (0, 0);
        for (foe, number) in world.foes.iter_mut().zip(0..) {
            for id in [0, 1] {
                let channel = Channel::open(foe, id).unwrap();
                let window = &channel.window;
                // Half of them between two that there are.
                let states = if number % 2 == 0 {
                    &states[..2]
                } else {
                    &states
                };
                meanwhile(
                    || {
                        window.state().store(random.of(states), Ordering::Relaxed);
                        if random.below(8) == 0 {
                            window.wake(1);
                        }
                    },
                    || {
                        count += lasting(Duration::from_millis(3), || {
                            put(window, &t::getattr(1, ROOT, 0));
                            provoke(window);
                        });
                    },
                );
                over += u32::from(is_over(foe, id));
                foe.getattr(ROOT, 0).unwrap();
            }
        }
        format!("{count} requests, {over} channels over")
    });
}

/// The name is checked where it cannot be changed any more.
#[test]
fn names_that_change_during_a_walk_never_climb() {
    attacked("names that change", 1, &[], |world| {
        let foe = &mut world.foes[0];
        foe.mkdir(ROOT, b"dd", 0o755, NOID).unwrap();
        foe.symlink(ROOT, b"ll", b"../../secrets", NOID).unwrap();
        let known =
            [&b"dd"[..], b"ll"].map(|name| foe.walk(ROOT, 2, &[name]).unwrap().qids[0].path);
        let channel = Channel::open(foe, 0).unwrap();
        let window = &channel.window;
        let random = Random::new(5);
        let names: [&[u8]; 7] = [b"dd", b"..", b"./", b"/d", b"d\0", b"ll", b"d/"];
        // Where the walk's name is.
        const NAME: usize = 16 + 2 + 4 + 4 + 2 + 2;
        let request = t::walk(1, ROOT, 3, &[b"dd"]);
        let (mut count, mut served) = (0, 0);
        meanwhile(
            || window.put(NAME, random.of(&names)),
            || {
                count = lasting(LASTS, || {
                    // All but the name, which is what the other thread says, or the last reply.
                    window.put(16, &[request[4], 0]);
                    window.put(18, &request[7..NAME + 5 - 16]);
                    window
                        .length()
                        .store(request.len() as u32 - 5, Ordering::Relaxed);
                    ask(window);
                    assert_eq!(window.state().load(Ordering::Acquire), CLIENT);
                    // What was walked to, by the socket.
                    match foe.getattr(3, 0) {
                        Ok(told) => {
                            assert!(known.contains(&told.qid.path), "{told:?}");
                            served += 1;
                            foe.clunk(3).unwrap();
                        }
                        Err(Fault::Errno(Errno::EBADF)) => {}
                        Err(fault) => panic!("{fault}"),
                    }
                });
            },
        );
        assert!(served > 0 && served < count, "{served} of {count}");
        format!("{count} walks, {served} served")
    });
}

/// Bytes of a Twrite go from the window to the file: those that stood there, earlier or later, and no others.
#[test]
fn data_that_change_during_a_write_are_the_clients_own() {
    attacked("data that change", 1, &[], |world| {
        const BYTES: usize = 1 << 16;
        let foe = &mut world.foes[0];
        open(foe, BYTES);
        let channel = Channel::open(foe, 0).unwrap();
        let window = &channel.window;
        let request = t::write(1, 10, 0, Data(&vec![b'a'; BYTES]));
        let random = Random::new(6);
        put(window, &request);
        let mut count = 0;
        meanwhile(
            || {
                let letters = u32::from_ne_bytes([random.of(b"ab"); 4]);
                // Whole words of the data, and not the reply.
                for word in 40..(34 + BYTES) / 4 {
                    window.word(word).store(letters, Ordering::Relaxed);
                }
            },
            || {
                count = lasting(LASTS, || {
                    window.put(16, &[request[4], 0]);
                    window.put(18, &request[7..200]);
                    window
                        .length()
                        .store(request.len() as u32 - 5, Ordering::Relaxed);
                    provoke(window);
                    let reply = channel.recv(1).unwrap().answer::<Rwrite>(118, 1).unwrap();
                    assert_eq!(reply.count as usize, BYTES);
                    let data = foe.read(10, 0, MSIZE - 11).unwrap().data.0;
                    assert_eq!(data.len(), BYTES);
                    assert!(data.iter().all(|byte| b"ab".contains(byte)));
                });
            },
        );
        format!("{count} writes of 64 KiB")
    });
}

/// Number, fid, offset and count: what was checked is what is done.
#[test]
fn head_of_a_write_that_changes_is_one_of_its_heads() {
    attacked("heads that change", 1, &[], |world| {
        const BYTES: usize = 5000;
        let foe = &mut world.foes[0];
        open(foe, BYTES);
        let channel = Channel::open(foe, 0).unwrap();
        let window = &channel.window;
        let request = t::write(1, 10, 0, Data(&[b'b'; BYTES]));
        let random = Random::new(7);
        let numbers = [118u8, 116, 24, 110, 50, 7, 119];
        let counts = [
            0,
            1,
            BYTES as u32 - 1,
            BYTES as u32,
            BYTES as u32 + 1,
            1 << 20,
            u32::MAX,
        ];
        let (mut count, mut served) = (0, 0);
        meanwhile(
            || {
                window.put(16, &[random.of(&numbers)]);
                window.put(30, &random.of(&counts).to_ne_bytes());
            },
            || {
                count = lasting(LASTS, || {
                    put(window, &request);
                    ask(window);
                    assert_eq!(window.state().load(Ordering::Acquire), CLIENT);
                    let now = foe.getattr(10, 0x200).unwrap().attr.size;
                    assert_eq!(now, BYTES as u64, "more was written than there was");
                    served += 1;
                });
            },
        );
        let data = foe.read(10, 0, 10_000).unwrap().data.0;
        assert!(data.iter().all(|byte| b"ab".contains(byte)));
        channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        format!("{count} requests, {served} answered")
    });
}

// ---- the file of the windows ----

#[test]
fn memory_keeps_its_size_and_its_seals() {
    attacked("the file misused", 1, &[], |world| {
        let foe = &mut world.foes[0];
        let channel = Channel::open(foe, 0).unwrap();
        let file = File::from(channel.memory.try_clone().unwrap());
        let size = file.metadata().unwrap().len();
        let mut refused = 0;
        for wanted in [0, 1, 4096, size - 1, size + 1, 1 << 40] {
            assert_eq!(
                file.set_len(wanted).unwrap_err().raw_os_error(),
                Some(1),
                "{wanted} bytes"
            );
            refused += 1;
        }
        let (past, beyond) = (FallocateFlags::empty(), size as i64);
        assert!(fallocate(&file, past, 0, beyond + 4096).is_err());
        for seal in [
            SealFlag::F_SEAL_WRITE,
            SealFlag::F_SEAL_GROW,
            SealFlag::all(),
        ] {
            assert_eq!(fcntl(&file, FcntlArg::F_ADD_SEALS(seal)), Err(Errno::EPERM));
            refused += 1;
        }
        std::os::unix::fs::FileExt::write_at(&file, &[0xff; 100], size).unwrap_err();
        channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        // And by every path that leads to it.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let again = File::options().read(true).write(true).open(path).unwrap();
        again.set_len(0).unwrap_err();
        std::fs::File::options()
            .write(true)
            .truncate(true)
            .open(format!("/proc/self/fd/{}", again.as_raw_fd()))
            .unwrap_err();
        channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        format!("{refused} refused")
    });
}

#[test]
fn holes_punched_into_windows_during_service_do_no_harm() {
    attacked("holes", 2, &[], |world| {
        for foe in &mut world.foes {
            open(foe, 1 << 19);
        }
        let channels: Vec<_> = world
            .foes
            .iter_mut()
            .map(|foe| Channel::open(foe, 0).unwrap())
            .collect();
        let [behind, all] = &channels[..] else {
            panic!("two")
        };
        let random = Random::new(8);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let punch = |channel: &Channel, start| {
            fallocate(&channel.memory, hole, start, WINDOW as i64 - start).unwrap();
        };
        let data = vec![b'b'; 1 << 19];
        let (write, read) = (t::write(1, 10, 0, Data(&data)), t::read(1, 10, 0, 1 << 19));
        let (mut count, mut torn) = (0, 0);
        meanwhile(
            // Behind the page with the state, and all of it.
            || {
                punch(behind, random.of(&[4096, 8192, 100_000]));
                punch(all, 0);
            },
            || {
                count = lasting(LASTS, || {
                    let written = behind.get::<Rwrite>(&write).unwrap();
                    assert_eq!(written.count, 1 << 19);
                    let read = behind.get::<Rread>(&read).unwrap().data.0;
                    assert!(read.iter().all(|byte| b"b\0".contains(byte)));
                    torn += u32::from(read.contains(&0));
                    put(&all.window, &write);
                    provoke(&all.window);
                });
            },
        );
        // A word that is punched out while the server is at it reads as the client's, which ends the channel.
        let over = [0, 1].map(|at| is_over(&mut world.foes[at], 0));
        assert!(!over[0], "nobody touched its state");
        format!(
            "{count} rounds, {torn} reads with holes, the other channel over: {}",
            over[1]
        )
    });
}

// ---- futexes ----

#[test]
fn wake_ups_without_end_do_not_stop_the_others() {
    attacked("wake-ups without end", 1, &[], |world| {
        let foe = &mut world.foes[0];
        let channels = [0, 1].map(|id| Channel::open(foe, id).unwrap());
        let count = lasting(LASTS, || {
            for channel in &channels {
                channel.window.wake(u32::MAX >> 1);
            }
        });
        for channel in &channels {
            channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        }
        format!("{} wake-ups", 2 * count)
    });
}

#[test]
fn requeueing_the_server_does_not_hang_it() {
    attacked("the server requeued", 1, &[], |world| {
        let foe = &mut world.foes[0];
        let channels = [0, 1].map(|id| Channel::open(foe, id).unwrap());
        let words = [0, 1].map(|at: usize| channels[at].window.state());
        let nobodys = channels[0].window.word(3);
        let shared = Flags::empty();
        let (mut moved, mut count) = (0, 0);
        count += lasting(LASTS, || {
            for (from, to) in [
                (words[0], words[1]),
                (words[1], nobodys),
                (words[0], nobodys),
                (nobodys, words[0]),
            ] {
                let found = futex::requeue(from, shared, 0, 100, to).unwrap();
                moved += found;
            }
            // A request that is told to nobody.
            for channel in &channels {
                if channel.window.state().load(Ordering::Acquire) == CLIENT {
                    put(&channel.window, &t::getattr(1, ROOT, 0));
                    channel.hand_over().unwrap();
                }
            }
        });
        // What it does to itself is over with the next request of anybody's.
        for channel in &channels {
            until("a reply", || {
                foe.getattr(ROOT, 0).unwrap();
                match channel.window.state().load(Ordering::Acquire) {
                    CLIENT => Ok(()),
                    state => Err(state),
                }
            });
            channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        }
        assert!(moved > 0);
        format!("{count} rounds, {moved} moved")
    });
}

/// Calls of other kinds on the server's words, whatever comes of them.
#[test]
fn priority_futexes_on_the_servers_words_do_not_stop_the_others() {
    attacked("priority futexes", MOST, &[], |world| {
        let shared = Flags::empty();
        let soon = futex::Timespec {
            tv_sec: 0,
            tv_nsec: 100_000,
        };
        let (mut count, mut over) = (0, 0);
        for foe in &mut world.foes {
            let channels = [0, 1].map(|id| Channel::open(foe, id).unwrap());
            for (channel, other) in [(&channels[0], &channels[1]), (&channels[1], &channels[0])] {
                let (word, other) = (channel.window.state(), other.window.state());
                let spare = channel.window.word(2);
                let _ = futex::lock_pi(word, shared, Some(&soon));
                let _ = futex::unlock_pi(word, shared);
                let _ = futex::cmp_requeue_pi(word, shared, 1, spare, 0);
                let _ = futex::cmp_requeue(word, shared, 1, 1, other, 0);
                let _ = futex::wake_op(
                    word,
                    shared,
                    1,
                    1,
                    other,
                    futex::WakeOp::Set,
                    futex::WakeOpCmp::Eq,
                    1,
                    0,
                );
                let _ = futex::trylock_pi(word, shared);
                word.store(CLIENT, Ordering::Release);
                channel.window.wake(1);
                count += 1;
            }
            foe.getattr(ROOT, 0).unwrap();
            over += [0, 1].iter().filter(|&&id| is_over(foe, id)).count();
        }
        format!("{count} words, {over} channels over")
    });
}

// ---- words that are never at rest ----

/// Makes the words of the channels the server's whenever they are not, for a time, as another process would, with
/// the requests that stand in the windows. How often.
fn hold(channels: &[Channel], request: &[u8], lasts: Duration) -> u64 {
    let mut count = 0;
    for channel in channels {
        put(&channel.window, request);
    }
    lasting(lasts, || {
        for channel in channels {
            let window = &channel.window;
            if window.state().load(Ordering::Acquire) != SERVER {
                window.put(16, &[request[4], 0]);
                window.put(18, &request[7..request.len().min(100)]);
                window
                    .length()
                    .store(request.len() as u32 - 5, Ordering::Relaxed);
                window.state().store(SERVER, Ordering::Release);
                window.wake(1);
                count += 1;
            }
        }
    });
    count
}

#[test]
fn words_held_by_two_channels_do_not_stop_the_others() {
    let deep = [b"d".as_slice(); 256];
    let missing = [b"missing".as_slice(); 256];
    let requests = [
        ("the greeting", vec![0, 0, 0, 0, b'{', 0, 0, b'\n']),
        ("Tgetattr", t::getattr(1, ROOT, u64::MAX)),
        ("Twalk of 256 names", t::walk(1, ROOT, 2, &deep)),
        ("Twalk of missing names", t::walk(1, ROOT, 2, &missing)),
        (
            "Tmultigetattr of 256 names",
            t::multigetattr(1, ROOT, &deep),
        ),
        ("Tread of 512 KiB", t::read(1, 10, 0, 1 << 19)),
        (
            "Twrite of 512 KiB",
            t::write(1, 10, 0, Data(&vec![7; 1 << 19])),
        ),
        ("Tfsync", t::fsync(1, 10, 0)),
        ("an unknown number", crate::p9::frame(200, 1, &[0; 100])),
    ];
    for (what, request) in requests {
        attacked(&format!("words held, {what}"), 1, &[], |world| {
            let foe = &mut world.foes[0];
            open(foe, 1 << 19);
            foe.walk(ROOT, 2, &[]).unwrap();
            for _ in 0..256 {
                foe.mkdir(2, b"d", 0o755, NOID).unwrap();
                foe.walk(2, 2, &[b"d"]).unwrap();
            }
            let channels = [0, 1].map(|id| Channel::open(foe, id).unwrap());
            let count = hold(&channels, &request, LASTS / 4);
            for channel in &channels {
                channel.wait().unwrap();
                channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
            }
            format!("{count} requests")
        });
    }
}

/// All that there are but the quiet one's.
#[test]
fn a_hundred_and_twenty_six_words_held_do_not_stop_the_others() {
    attacked("126 words held", 124, &["--channels", "1"], |world| {
        let mut channels: Vec<_> = world
            .foes
            .iter_mut()
            .map(|foe| Channel::open(foe, 0).unwrap())
            .collect();
        world.host.version(MSIZE, VERSION).unwrap();
        channels.push(Channel::open(&mut world.host, 0).unwrap());
        assert_eq!(channels.len(), 125);
        let count = hold(&channels, &t::getattr(1, ROOT, u64::MAX), LASTS);
        for channel in &channels {
            channel.wait().unwrap();
            channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
        }
        // And with clients that ask by their sockets at the same time.
        for foe in &mut world.foes {
            foe.getattr(ROOT, 0).unwrap();
        }
        format!("{count} requests of {} channels", channels.len())
    });
}

/// Set and told to nobody: nobody is woken for it, and it is served when somebody is.
#[test]
fn word_set_without_a_wake_up_waits_for_the_next_one() {
    attacked("words set silently", 1, &[], |world| {
        let foe = &mut world.foes[0];
        let channel = Channel::open(foe, 0).unwrap();
        for _ in 0..500 {
            put(&channel.window, &t::getattr(1, ROOT, 0));
            channel.window.state().store(SERVER, Ordering::Release);
            foe.getattr(ROOT, 0).unwrap();
            channel.wait().unwrap();
        }
        "500 times".into()
    });
}

// ---- junk ----

#[test]
fn random_words_end_their_channels_alone() {
    attacked("random words", MOST, &[], |world| {
        let random = Random::new(9);
        let mut over = 0;
        for foe in &mut world.foes {
            for id in [0, 1] {
                let channel = Channel::open(foe, id).unwrap();
                until("a bad word", || {
                    for _ in 0..10 {
                        for word in [1, 2, 3, 4, 5, 0] {
                            let value = random.next() as u32 >> random.below(32);
                            channel.window.word(word).store(value, Ordering::Release);
                        }
                        channel.window.wake(1);
                        channel.window.sleep(SERVER, Duration::from_micros(100));
                    }
                    if is_over(foe, id) {
                        Ok(())
                    } else {
                        Err("live")
                    }
                });
                over += 1;
            }
            foe.getattr(ROOT, 0).unwrap();
        }
        format!("{over} channels over")
    });
}

/// Datagrams of random bytes, and good ones with some bytes changed, cut, or too long.
fn junk(random: &Random, good: &[Vec<u8>]) -> Vec<u8> {
    let bytes = |count: usize| (0..count).map(|_| random.next() as u8).collect::<Vec<u8>>();
    if random.below(8) == 0 {
        let mut all = bytes(2 + random.below(80));
        all[0] = random.of(&[
            all[0], 8, 12, 22, 24, 26, 40, 72, 100, 108, 110, 116, 118, 120, 126, 140, 142, 250,
        ]);
        return all;
    }
    let mut all = good[random.below(good.len())].clone();
    for _ in 0..random.below(4) {
        let at = random.below(all.len());
        all[at] = match random.below(4) {
            0 => random.of(&[0, 1, 0x7f, 0x80, 0xff, b'.', b'/']),
            _ => random.next() as u8,
        };
    }
    match random.below(8) {
        0 => all.truncate(2 + random.below(all.len() - 1)),
        1 => all.extend(bytes(1 + random.below(300))),
        _ => {}
    }
    all
}

#[test]
fn a_hundred_thousand_random_datagrams_are_each_answered() {
    attacked("100,000 random datagrams", 1, &[], |world| {
        let foe = &mut world.foes[0];
        let channels = [0, 1].map(|id| {
            Channel::open(foe, id)
                .unwrap()
                .spinning(Duration::from_micros(20))
        });
        let random = Random::new(10);
        let good: Vec<Vec<u8>> = Request::good()
            .iter()
            .map(|request| {
                let frame = request.frame(1);
                [&[frame[4], 0], &frame[7..]].concat()
            })
            .collect();
        let (mut served, mut refused) = (0, 0);
        for round in 0..100_000 {
            if round % 50 == 0 {
                foe.version(MSIZE, VERSION).unwrap();
                batch(foe, &furnish(ROOT));
                batch(foe, &stage(ROOT, O_RDWR));
            }
            let channel = &channels[round % 2];
            let sent = junk(&random, &good);
            channel.put(&sent);
            channel.hand_over().unwrap();
            let reply = channel
                .recv(1)
                .unwrap_or_else(|fault| panic!("round {round}, {sent:02x?}: {fault}"));
            let kind = reply.kind;
            assert!(
                kind == RLERROR || kind == sent[0].wrapping_add(1),
                "round {round}, {sent:02x?}: type {kind}"
            );
            assert!(
                !reply.body.windows(6).any(|bytes| bytes == b"CANARY"),
                "round {round}, {sent:02x?}"
            );
            match reply.answers(sent[0], 1) {
                Ok(()) => served += 1,
                Err(Fault::Errno(_)) => refused += 1,
                Err(fault) => panic!("round {round}, {sent:02x?}: {fault}"),
            }
        }
        assert!(
            served > 10_000 && refused > 10_000,
            "{served} and {refused}"
        );
        format!("{served} served, {refused} refused")
    });
}

/// The words that nobody uses, and all of the window behind the datagram.
#[test]
fn windows_full_of_junk_that_changes_change_no_answer() {
    attacked("windows full of junk", 1, &[], |world| {
        let foe = &mut world.foes[0];
        open(foe, 100);
        let channel = Channel::open(foe, 0).unwrap();
        let window = &channel.window;
        let random = Random::new(11);
        let wanted = foe.getattr(ROOT, u64::MAX).unwrap();
        let mut count = 0;
        meanwhile(
            || {
                let junk = random.next() as u32;
                window.word(2).store(junk, Ordering::Relaxed);
                window.word(3).store(!junk, Ordering::Relaxed);
                let word = 100 + random.below((WINDOW - 400) / 4);
                window.word(word).store(junk, Ordering::Relaxed);
            },
            || {
                count = lasting(LASTS, || {
                    let told = channel
                        .get::<Rgetattr>(&t::getattr(1, ROOT, u64::MAX))
                        .unwrap();
                    assert_eq!(
                        (told.qid, told.attr),
                        (wanted.qid.clone(), wanted.attr.clone())
                    );
                    let read = channel.get::<Rread>(&t::read(1, 10, 0, 100)).unwrap();
                    assert_eq!(read.data.0, [b'a'; 100]);
                });
            },
        );
        format!("{count} requests answered")
    });
}

// ---- descriptors ----

#[test]
fn descriptors_that_nobody_takes_fill_the_queues_and_no_more() {
    attacked("descriptors that nobody takes", MOST, &[], |world| {
        world.foes[0]
            .mknod(ROOT, b"f", 0o100_644, 0, 0, NOID)
            .unwrap();
        let mut under_way = 0;
        for foe in &mut world.foes {
            for id in [0, 1] {
                let channel = Channel::open(foe, id).unwrap();
                let mut is_full = false;
                while !is_full {
                    channel.get::<Rwalk>(&t::walk(1, ROOT, 2, &[b"f"])).unwrap();
                    channel.send(&t::lopen(1, 2, O_RDWR)).unwrap();
                    channel.wait().unwrap();
                    let reply = channel.datagram().unwrap();
                    assert_eq!(reply[0], 13);
                    is_full = reply[1] == 0;
                    under_way += u32::from(!is_full);
                    assert!(under_way <= 32 * 2 * MOST as u32, "{under_way} under way");
                    channel.get::<Empty>(&t::clunk(1, 2)).unwrap();
                }
            }
        }
        // The kernel counts those of a user: others get theirs all the same.
        let opened = world.host.open(ROOT, 5, "kept/file", 0).unwrap();
        assert!(opened.fd.is_some());
        world.host.clunk(5).unwrap();
        format!("{under_way} under way")
    });
}

/// What is not asked for, on the sockets that descriptors come over.
#[test]
fn sockets_for_descriptors_misused_do_no_harm() {
    attacked("descriptors sent the wrong way", 4, &[], |world| {
        world.foes[0]
            .mknod(ROOT, b"f", 0o100_644, 0, 0, NOID)
            .unwrap();
        for (foe, way) in world.foes.iter_mut().zip(0..) {
            let channels = [0, 1].map(|id| Channel::open(foe, id).unwrap());
            let mut numbers = vec![foe.socket.as_raw_fd()];
            for channel in &channels {
                numbers.extend([&channel.memory, &channel.socket].map(|fd| fd.as_raw_fd()));
            }
            for channel in &channels {
                let socket = channel.socket.as_raw_fd();
                // Both ends of itself, and the connection, for nobody to read.
                for rights in [&[ControlMessage::ScmRights(&numbers)][..], &[]] {
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    let sent = sendmsg::<()>(socket, &[IoSlice::new(b"junk")], rights, flags, None);
                    assert_eq!(sent, Err(Errno::EPIPE));
                }
                match way {
                    0 => {}
                    1 => shutdown(socket, Shutdown::Write).unwrap(),
                    2 => shutdown(socket, Shutdown::Read).unwrap(),
                    _ => shutdown(socket, Shutdown::Both).unwrap(),
                }
                for _ in 0..20 {
                    channel.get::<Rwalk>(&t::walk(1, ROOT, 2, &[b"f"])).unwrap();
                    let opened = channel.get::<Ropen>(&t::lopen(1, 2, O_RDWR)).unwrap();
                    assert_eq!(opened.fd.is_some(), way < 2, "{way}");
                    channel.get::<Empty>(&t::clunk(1, 2)).unwrap();
                }
            }
        }
        "refused".into()
    });
}

// ---- sockets beside channels ----

/// Bytes, one at a time and out of band, each a signal for the server.
#[test]
fn storms_of_signals_from_sockets_do_not_stop_the_others() {
    attacked("storms of signals", 4, &[], |world| {
        let mut count = 0;
        scope(|scope| {
            let storm = |foe: &mut Client, number: usize| {
                let channel = Channel::open(foe, 0).unwrap();
                let request = t::getattr(7, ROOT, 0);
                let count = lasting(LASTS, || {
                    for &byte in &request {
                        foe.send(&[byte]).unwrap();
                    }
                    channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0)).unwrap();
                    assert_eq!(heard(foe, 24, 7).unwrap(), Ok(()));
                });
                // Out of band: a byte that the next one puts into the stream, which is no frame any more.
                if number.is_multiple_of(2) {
                    let send = || {
                        send(
                            foe.socket.as_raw_fd(),
                            b"!",
                            MsgFlags::MSG_OOB | MsgFlags::MSG_DONTWAIT,
                        )
                    };
                    lasting(LASTS, || {
                        let _ = send();
                    });
                }
                count
            };
            let threads: Vec<_> = world
                .foes
                .iter_mut()
                .zip(0..)
                .map(|(foe, number)| scope.spawn(move || storm(foe, number)))
                .collect();
            for thread in threads {
                count += thread.join().unwrap();
            }
        });
        format!("{count} rounds")
    });
}

/// Full buffers of dear requests on the sockets, and channels that work beside them.
#[test]
fn full_buffers_on_sockets_do_not_stop_the_channels() {
    attacked("full buffers beside channels", 4, &[], |world| {
        let deep = [b"d".as_slice(); 256];
        let mut count = 0;
        for foe in &mut world.foes {
            foe.walk(ROOT, 2, &[]).unwrap();
            for _ in 0..256 {
                let _ = foe.mkdir(2, b"d", 0o755, NOID);
                foe.walk(2, 2, &[b"d"]).unwrap();
            }
        }
        scope(|scope| {
            let flood = |foe: &mut Client| {
                let channel = Channel::open(foe, 0).unwrap();
                let requests = vec![t::walkgetattr(1, ROOT, 3, &deep); 40];
                lasting(LASTS, || {
                    batch(foe, &requests);
                    let told = channel.get::<Rmultigetattr>(&t::multigetattr(1, ROOT, &deep));
                    assert_eq!(told.unwrap().stats.len(), 256);
                })
            };
            let threads: Vec<_> = world
                .foes
                .iter_mut()
                .map(|foe| scope.spawn(move || flood(foe)))
                .collect();
            for thread in threads {
                count += thread.join().unwrap();
            }
        });
        format!("{count} rounds of 40 walks and one request through a channel")
    });
}

// ---- killed ----

/// A process of its own that does `again` for ever.
fn process(again: impl Fn()) -> Pid {
    // SAFETY: the child makes system calls and writes to mapped memory only: no allocation, no lock.
    #[allow(unsafe_code)]
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => loop {
            again();
        },
    }
}

#[test]
fn clients_killed_at_any_point_leave_nothing() {
    attacked("clients killed", MOST, &[], |world| {
        let getattr = t::getattr(1, ROOT, 0);
        let write = t::write(1, 10, 0, Data(&vec![7; 1 << 19]));
        let (mut killed, mut states) = (0, [0; 4]);
        for (mut foe, number) in world.foes.drain(..).zip(0..) {
            open(&mut foe, 10);
            let channel = Channel::open(&mut foe, 0).unwrap();
            let window = &channel.window;
            let child = match number % 6 {
                // In the middle of small requests, of large ones, and of what is none.
                0 => process(|| {
                    put(window, &getattr);
                    provoke(window);
                }),
                1 => process(|| {
                    put(window, &write);
                    provoke(window);
                }),
                2 => process(|| {
                    window.put(16, GREETING);
                    window.length().store(3, Ordering::Relaxed);
                    provoke(window);
                }),
                // The server's all the time; asleep; writing, and never handing over.
                3 => process(|| window.state().store(SERVER, Ordering::Release)),
                4 => process(|| {
                    window.sleep(CLIENT, WAIT);
                }),
                _ => process(|| window.put(16, &write)),
            };
            drop(foe); // the child has the last one
            sleep(Duration::from_micros(number * 97));
            kill(child, Signal::SIGKILL).unwrap();
            waitpid(child, None).unwrap();
            killed += 1;
            let state = window.state().load(Ordering::Acquire);
            states[(state as usize).min(3)] += 1;
            until("the end of the channel", || {
                match window.state().load(Ordering::Acquire) {
                    OVER => Ok(()),
                    state => Err(state),
                }
            });
        }
        format!("{killed} killed, with states {states:?}")
    });
}

/// The socket is closed, and another process that has the memory does as it likes.
#[test]
fn windows_of_ended_connections_are_nobodys() {
    attacked("windows of ended connections", 30, &[], |world| {
        let mut windows = Vec::new();
        for mut foe in world.foes.drain(..) {
            windows.push([0, 1].map(|id| Channel::open(&mut foe, id).unwrap()));
        }
        let channels: Vec<_> = windows.into_iter().flatten().collect();
        for channel in &channels {
            until("the end of the channel", || {
                match channel.window.state().load(Ordering::Acquire) {
                    OVER => Ok(()),
                    state => Err(state),
                }
            });
        }
        let count = hold(&channels, &t::getattr(1, ROOT, 0), LASTS / 2);
        assert_eq!(count, channels.len() as u64, "one of them was served");
        format!("{} windows", channels.len())
    });
}
