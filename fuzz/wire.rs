//! Bytes to requests to the server's own loop, over a tree that is thrown away; both kinds of client, on two
//! connections and a channel each, while the host changes what they see. The bytes are a script: see [`Run::step`].
//!
//! After each run: replies answer the requests one by one and in order, as long as they are told to be at most,
//! at most one file comes with each; no descriptor is left; nothing outside was touched or told.
#![cfg_attr(fuzzing, no_main)]

#[path = "input.rs"]
pub(crate) mod input;
#[path = "peer.rs"]
pub(crate) mod peer;
#[path = "requests.rs"]
pub(crate) mod requests;
#[path = "tree.rs"]
pub(crate) mod tree;

use gofer::clock::Offset;
use gofer::fs::Fs;
use gofer::fs::attach::{Attach, Changes, open_path};
use gofer::fs::attr::Special;
use gofer::fs::file::Reopen;
use gofer::limits::{FIRST_FREE_FD, LOG_FD, PROC_FD};
use gofer::log::{Format, Level, Log, Target};
use gofer::sandbox::{caps, descriptors};
use gofer::server::Server;
use gofer::server::channels::Channels;
use gofer::server::dispatch::Policy;
use gofer::sys::arena::List;
use gofer::sys::fd::{fixed, place};
use gofer::sys::raw::ignore_write_signals;
use gofer::tables::Key;
use input::Input;
use peer::Peer;
use requests::request;
use rustix::fd::{IntoRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::fchdir;
use std::cell::OnceCell;
use std::sync::Once;
use tree::Tree;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(init: hold_numbers(), |bytes: &[u8]| {
    run(bytes);
    // SAFETY: what the run took, it has dropped or forgotten.
    unsafe { gofer::sys::arena::take_back() };
});

/// Requests in a run, at the most.
const REQUESTS: u16 = 200;
/// Bytes that a connection is sent in a run, at the most.
const SENT_BYTES: usize = 400 << 10;
/// Rounds of the server's loop that one step may take. The most expensive script takes some hundreds.
const ROUNDS: usize = 20_000;

/// What all runs share.
struct World {
    tree: Tree,
    key: Key,
    log: Log,
    /// The directory that the process was in.
    home: OwnedFd,
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// One run.
pub(crate) fn run(bytes: &[u8]) {
    WORLD.with(|world| world.get_or_init(World::new).run(Input(bytes)));
}

/// Takes the numbers of descriptors that the program has fixed, before anybody else's come to lie there.
pub(crate) fn hold_numbers() {
    static HELD: Once = Once::new();
    HELD.call_once(|| while open("/dev/null", OFlags::RDONLY).into_raw_fd() < FIRST_FREE_FD {});
}

fn open(path: &str, flags: OFlags) -> OwnedFd {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()).expect("open")
}

impl World {
    fn new() -> Self {
        ignore_write_signals().expect("ignore signals");
        rustix::process::umask(Mode::empty());
        hold_numbers();
        let log = open("/dev/null", OFlags::WRONLY);
        place(log, LOG_FD).expect("a place for the log");
        descriptors::clone_proc().expect("a clone of /proc/self/fd: the tests run as root");
        let tree = Tree::new();
        // As the program does: above all no CAP_MKNOD.
        let reduced = caps::reduce().expect("reduce capabilities");
        caps::drop_startup(reduced.kept).expect("reduce capabilities");
        let mut log = Log::new(1, Offset::default());
        log.targets[0] = Some(Target {
            fd: LOG_FD,
            format: Format::Text,
            least: Level::Debug,
            is_socket: false,
            may_block: false,
        });
        Self {
            tree,
            key: Key::random().expect("random bytes"),
            log,
            home: open(".", OFlags::PATH | OFlags::DIRECTORY),
        }
    }

    fn run(&self, mut input: Input<'_>) {
        self.tree.restore();
        let before = tree::descriptors();
        let setup = Setup::of(&mut input);
        let mut log = Log::new(self.log.pid, self.log.offset);
        log.targets = self.log.targets;
        log.debug = setup.debug;

        // Paths of attach points lead from the working directory on.
        fchdir(self.tree.root()).expect("fchdir");
        let attach = |path: &str, changes| {
            let path = path.as_bytes();
            Attach::new(open_path(path), path, changes, setup.special, setup.reopen)
        };
        let attaches = List::of([
            attach("/inside", Changes::Made),
            attach(setup.second, setup.changes),
        ]);
        // Where sockets are connected to from.
        fchdir(fixed(PROC_FD)).expect("fchdir");
        let mut fs = Fs::new(
            attaches,
            setup.descriptors,
            setup.reopen,
            setup.special,
            self.key,
        );
        let (first, ours) = Peer::pair();
        let (second, theirs) = Peer::pair();
        let sockets = List::of([(ours, 100), (theirs, 101)]);
        let mut channels = Channels::none();
        channels.make(2, 1, 0, &mut fs).expect("two channels");
        let server = Server::new(sockets, (fs, channels), self.key, setup.policy, &log);

        let mut run = Run {
            tree: &self.tree,
            server,
            peers: [first, second],
            now: 0,
            tag: 0,
            mangle: 0,
        };
        run.greet(&setup);
        while !input.is_empty() && run.tag < REQUESTS {
            run.step(&mut input);
        }
        for peer in run.finish() {
            peer.check();
        }
        fchdir(&self.home).expect("fchdir");
        self.tree.hang_up();
        self.tree.check_outside();
        assert_eq!(
            tree::descriptors(),
            before,
            "descriptors were left open, or too many closed"
        );
    }
}

/// How the server is started.
struct Setup {
    /// By connection: whether Linux's client greets.
    linux: [bool; 2],
    greets: bool,
    msize: u32,
    second: &'static str,
    changes: Changes,
    special: Special,
    reopen: Reopen,
    policy: Policy,
    debug: bool,
    /// The limit.
    descriptors: u64,
}

impl Setup {
    fn of(input: &mut Input<'_>) -> Self {
        let (first, second) = (input.byte(), input.byte());
        let has = |bit: u8| first >> bit & 1 == 1;
        let (second_path, read_only) = match first >> 6 {
            0 => ("/inside", true),
            1 => ("/inside", false),
            2 => ("/inside/d", second & 8 != 0),
            _ => (
                [
                    "/inside/f",
                    "/inside/s",
                    "/inside/p",
                    "/inside/q",
                    "/inside/none",
                ][usize::from(second >> 3) % 5],
                false,
            ),
        };
        Self {
            linux: [has(0), has(1)],
            greets: second & 7 != 7,
            msize: [1 << 20, 1 << 20, 65536, 8192, 4096, 200, 24, 0][usize::from(second & 7)],
            second: second_path,
            changes: match (read_only, has(3)) {
                (false, _) => Changes::Made,
                (true, false) => Changes::Refused,
                (true, true) => Changes::Panic,
            },
            special: Special {
                sockets: has(4),
                fifos: has(4),
            },
            reopen: if has(2) {
                Reopen::Parent
            } else {
                Reopen::ProcFd
            },
            policy: Policy {
                qid_versions: second & 0x10 == 0,
                may_be_lisafs: has(5),
            },
            // Under a fuzzer a line costs as much as ten requests.
            debug: second >> 5 == 6 && input.0.len() < 120,
            descriptors: if second >= 0xf0 { 40 } else { 300 },
        }
    }
}

struct Run<'a> {
    tree: &'a Tree,
    server: Server<'a>,
    peers: [Peer; 2],
    /// The peer that steps are of.
    now: usize,
    /// The next request's, and their count.
    tag: u16,
    /// What is done to the next request's bytes.
    mangle: u8,
}

impl Run<'_> {
    /// What most clients begin with: version and attach point, as fid 0.
    fn greet(&mut self, setup: &Setup) {
        if !setup.greets {
            return;
        }
        for (peer, linux) in self.peers.iter_mut().zip(setup.linux) {
            let version: &[u8] = if linux {
                b"9P2000.L"
            } else {
                b"9P2000.L.Google.13"
            };
            let mut frame = vec![13 + version.len() as u8, 0, 0, 0, 100, 0xff, 0xff];
            frame.extend(setup.msize.to_le_bytes());
            frame.extend([version.len() as u8, 0]);
            frame.extend(version);
            frame.extend([
                23, 0, 0, 0, 104, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0,
            ]);
            peer.queue(&frame);
        }
    }

    /// One step of the script. Requests wait until they are delivered, by the host's next change at the latest.
    fn step(&mut self, input: &mut Input<'_>) {
        let [first, second] = &mut self.peers;
        let peer = if self.now == 0 { first } else { second };
        match input.byte() {
            byte @ 0..200 => {
                let mut frame = request(input, byte.into(), self.tag);
                self.tag += 1;
                mangle(&mut frame, core::mem::take(&mut self.mangle));
                peer.queue(&frame);
            }
            200..208 => self.mangle = input.byte(),
            208..222 => {
                self.deliver();
                self.tree.change(input);
            }
            222..230 => self.deliver(),
            230..236 => self.now = 1 - self.now,
            236..239 => peer.reads = !peer.reads,
            239 => peer.shut_reading(),
            240 => peer.shut_writing(),
            241 => peer.close(),
            242..246 => {
                let count = input.byte();
                peer.queue(input.bytes(count.into()));
            }
            246..250 => peer.burst = usize::from(input.byte()) + 1, // bytes sent at a time
            250 => peer.burst = usize::MAX,
            _ if !peer.has_channel() => {
                for control in [0, 1] {
                    peer.queue(&[15, 0, 0, 0, 250, 0xff, 0xff, 0, 0, 0, 0, control, 0, 0, 0]);
                }
                self.deliver();
            }
            251 => {
                let (at, count) = (input.number(2), input.byte());
                peer.scribble(8 + (at & 0x1ff), input.bytes(count.into())); // clear of state and length
            }
            252 => {
                let (first, last) = (input.number(1), input.number(1));
                peer.punch(first << 12, (last + 1) << 12);
            }
            253 => {
                let length = input.one_of(&[0, 1, 2, 3, 6, 0x10_0ff0, 0x10_0ff1, 1 << 31], 4);
                let state = input.one_of(&[1, 1, 1, 0, 2, 3], 4);
                self.exchange((length as u32, state as u32));
            }
            254 => {
                peer.scribble(16, b"{}\n");
                self.exchange((3, 1));
            }
            _ => {
                let choice = input.byte();
                let mut frame = request(input, choice.into(), self.tag);
                self.tag += 1;
                mangle(&mut frame, core::mem::take(&mut self.mangle));
                let told = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
                peer.scribble(16, &[frame[4], 0]);
                peer.scribble(18, &frame[7..]);
                self.exchange((told.wrapping_sub(5), 1));
            }
        }
    }

    /// Hands over what stands in the window, as so many bytes and with this state; and what comes of it.
    fn exchange(&mut self, (length, state): (u32, u32)) {
        let at = self.now;
        let kind = self.peers[at].datagram(1)[0];
        self.peers[at].hand_over(length, state);
        self.deliver();
        self.peers[at].check_channel(kind, (length, state), self.tree);
    }

    /// One round of the loop, and what the peers do meanwhile. None: the server is done; or whether a byte moved.
    fn round(&mut self) -> Option<bool> {
        let mut moved = false;
        for peer in &mut self.peers {
            moved |= peer.send() | peer.receive(self.tree);
        }
        self.server.serve_once().expect("ppoll").then_some(moved)
    }

    /// Goes on until nothing moves any more.
    fn deliver(&mut self) {
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            quiet = match self.round() {
                Some(true) => 0,
                Some(false) => quiet + 1,
                None => return,
            };
            if quiet == 3 {
                return;
            }
        }
        panic!("the server is busy for ever");
    }

    /// The peers send what is left, and their end; the server ends. What the peers were told is to be checked.
    fn finish(mut self) -> [Peer; 2] {
        for peer in &mut self.peers {
            peer.reads = true;
            peer.ends = true;
            peer.burst = usize::MAX;
        }
        for _ in 0..ROUNDS {
            if self.round().is_none() {
                for peer in &mut self.peers {
                    peer.receive(self.tree);
                }
                return self.peers;
            }
        }
        panic!("the server does not end with its connections");
    }
}

/// Makes something of a frame that is none, or another one.
fn mangle(frame: &mut Vec<u8>, how: u8) {
    let size = frame.len() as u32;
    let arg = how >> 4;
    let told = match how & 15 {
        1 => size + 1 + u32::from(arg),
        2 => size.saturating_sub(1 + u32::from(arg)),
        3 => u32::from(arg) % 7,
        4 => [1 << 20, (1 << 20) + 1, u32::MAX, 1 << 31][usize::from(arg) % 4],
        5..=8 => {
            frame.truncate(7 + usize::from(arg) * 3); // cut short, and told so
            frame.len() as u32
        }
        9..=11 => {
            frame.extend(core::iter::repeat_n(how, usize::from(arg) + 1));
            frame.len() as u32
        }
        12 | 13 => {
            frame[4] = how.wrapping_mul(31); // another message's number
            size
        }
        14 => {
            frame[5..7].fill(0xff); // no tag
            size
        }
        _ => size,
    };
    frame[..4].copy_from_slice(&told.to_le_bytes());
}
