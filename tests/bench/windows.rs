//! Time for an operation over channels, with a client of one thread that has up to four of them: it hands all its
//! requests over, and then takes the answers.

use super::channel::{Channel, DATAGRAM, SERVER};
use super::harness::binary;
use super::p9::{Client, RLERROR};
use super::server::{Cores, Kind, Line, OURS, Place, Server, pin, unpin};
use super::speed::{GOOGLE, Time, cell, middle, must_run, prepared, round};
use super::work::{Stage, Work, works};
use super::{Plan, head};
use rustix::fd::IntoRawFd;
use rustix::io::dup;
use std::fs;
use std::hint::spin_loop;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The workloads that are done over channels.
const WORKS: [&str; 9] = [
    "getattr",
    "walkgetattr + clunk",
    "walk + open + clunk",
    "read 4 KiB",
    "read 64 KiB",
    "read 1 MiB",
    "write 4 KiB",
    "write 64 KiB",
    "write 1 MiB",
];

/// The most requests that are under way at once.
const MOST: usize = 4;

/// How long the client looks for an answer before it sleeps, where it looks.
const LOOK: Duration = Duration::from_micros(20);
/// Looks between two yields.
const LOOKS: usize = 64;

/// The same server, and how both sides wait; the first is asked for no channel.
const COLUMNS: [(&str, Kind, bool); 4] = [
    ("socket", Kind::Flagged(&["--channels", "4"]), false),
    (
        "channels, both sleep",
        Kind::Flagged(&["--channels", "4", "--channel-spin", "0"]),
        false,
    ),
    (
        "the server looks first",
        Kind::Flagged(&["--channels", "4"]),
        false,
    ),
    ("both look first", Kind::Flagged(&["--channels", "4"]), true),
];

/// A server, and the channels that it gave.
struct Peer {
    server: Server,
    channels: Vec<Channel>,
    /// The client looks before it sleeps.
    looks: bool,
    /// Where the data of a reply goes.
    data: Vec<u8>,
}

impl Peer {
    fn start(kind: &Kind, place: &Place, channels: usize, looks: bool) -> Peer {
        let server = prepared(kind, place, 1, GOOGLE);
        let mut client = Client::new(again(&server.lines[0]));
        let channels = (0..).take(channels);
        let open = |id| Channel::open(&mut client, id).expect("a channel");
        let channels = channels.map(open).collect();
        let data = vec![0; 1 << 20];
        Peer {
            server,
            channels,
            looks,
            data,
        }
    }

    fn round(&mut self, plan: &Plan, work: &Work, stages: &[Vec<Vec<u8>>]) -> Time {
        let channels = &self.channels;
        round(
            &mut self.server,
            plan.round_ms,
            work.operations,
            |line| match channels.is_empty() {
                true => must_run(line, work),
                false => cycle(channels, self.looks, &mut self.data, stages),
            },
        )
    }
}

/// The same socket, for who wants it as std has it.
fn again(line: &Line) -> UnixStream {
    let socket = dup(&line.socket).expect("dup").into_raw_fd();
    // SAFETY: the kernel made this descriptor for us in the call above; nothing else owns it.
    #[allow(unsafe_code)]
    unsafe {
        UnixStream::from_raw_fd(socket)
    }
}

fn cycle(channels: &[Channel], looks: bool, data: &mut [u8], stages: &[Vec<Vec<u8>>]) {
    for stage in stages {
        for (channel, datagram) in channels.iter().zip(stage) {
            channel.put(datagram);
            channel.hand_over().expect("the client's turn");
        }
        for (channel, datagram) in channels.iter().zip(stage) {
            wait(channel, looks);
            take(channel, datagram[0], data);
        }
    }
}

fn wait(channel: &Channel, looks: bool) {
    let state = channel.window.state();
    let begun = Instant::now();
    while looks && begun.elapsed() < LOOK {
        for _ in 0..LOOKS {
            if state.load(Ordering::Acquire) != SERVER {
                return;
            }
            spin_loop();
        }
        std::thread::yield_now();
    }
    channel.wait().expect("an answer");
}

/// Takes an answer out of its window: its data, where they are long, and its descriptor.
fn take(channel: &Channel, asked: u8, data: &mut [u8]) {
    let mut start = [0; 2];
    channel.window.copy(DATAGRAM, &mut start);
    let [kind, has_fd] = start;
    assert!(kind == asked + 1 && kind != RLERROR, "message {asked}");
    let length = channel.window.length().load(Ordering::Relaxed) as usize;
    channel.window.copy(DATAGRAM + 2, &mut data[..length - 2]);
    if has_fd == 1 {
        drop(channel.descriptor().expect("a descriptor"));
    }
}

/// The datagrams of a stage's frames.
fn datagrams(stage: &Stage) -> Vec<Vec<u8>> {
    let mut rest = &stage.bytes[..];
    let mut all = Vec::new();
    while let Some(size) = rest.first_chunk() {
        let (frame, behind) = rest.split_at(u32::from_le_bytes(*size) as usize);
        all.push([&[frame[4], 0], &frame[7..]].concat());
        rest = behind;
    }
    all
}

/// Channels beside the socket.
pub fn window_table(plan: &Plan, place: &Place) -> String {
    let mut columns = vec!["work", "at once", "cores"];
    columns.extend(COLUMNS.iter().map(|(name, ..)| *name));
    let title = "Over channels, µs for each operation: middle operation / server's core";
    let mut text = head(title, &columns);
    let mut peers: Vec<Peer> = (0..)
        .zip(&COLUMNS)
        .map(|(at, (_, kind, looks))| {
            Peer::start(kind, place, if at == 0 { 0 } else { MOST }, *looks)
        })
        .collect();
    for at_once in [1, MOST] {
        let is_wanted = |work: &Work| WORKS.contains(&work.name) && work.name.contains(&plan.only);
        for work in works(at_once).into_iter().filter(is_wanted) {
            let stages: Vec<Vec<Vec<u8>>> = work.stages.iter().map(datagrams).collect();
            for (name, cores) in [
                ("two", Cores::Other),
                ("one", Cores::Same),
                ("any", Cores::Any),
            ] {
                let mut rounds: Vec<Vec<Time>> = peers.iter().map(|_| Vec::new()).collect();
                for _ in 0..plan.rounds {
                    for (peer, rounds) in peers.iter_mut().zip(&mut rounds) {
                        peer.server.place(cores);
                        rounds.push(peer.round(plan, &work, &stages));
                    }
                }
                let cells: Vec<String> = rounds
                    .iter()
                    .map(|rounds| cell(Some(middle(rounds)), 1.0))
                    .collect();
                text += &format!(
                    "| {} | {at_once} | {name} | {} |\n",
                    work.name,
                    cells.join(" | ")
                );
            }
        }
    }
    pin(OURS);
    text + "\n"
}

/// What a client in Go sees, which does as gVisor's does: the table that it writes.
pub fn go_table(plan: &Plan, driver: &Path, place: &Place) -> String {
    let table = place.dir().join("go.md");
    unpin(); // Go counts the cores that it may use
    let status = Command::new(driver)
        .arg("-test.run=^TestTable$")
        .env("BENCH_INTO", &table)
        .env("BENCH_ROUNDS", plan.rounds.to_string())
        .env("BENCH_MS", plan.round_ms.to_string())
        .env("BENCH_ONLY", &plan.only)
        .env("BENCH_DIR", place.dir())
        .env("GOFER_BIN", binary())
        .env(
            "FORK_BIN",
            fs::canonicalize(driver.with_file_name("fork")).expect("the server beside the driver"),
        )
        .stdout(Stdio::null())
        .status();
    pin(OURS);
    assert!(
        status.expect("start the driver").success(),
        "the driver has failed: {driver:?}"
    );
    fs::read_to_string(table).expect("the driver's table") + "\n"
}
