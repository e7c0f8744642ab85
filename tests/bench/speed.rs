//! Time for an operation, of the client and of the server's core.

use super::harness::ROOT;
use super::p9::t;
use super::server::{Kind, Line, OURS, Place, Server, THEIRS, pin};
use super::work::{DEEPEST, LIST, MIB, Speaks, Stage, Work, preparation, tidy, works};
use super::{Plan, head, median, quantile};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;
use std::fs;
use std::time::{Duration, Instant};

pub const GOOGLE: &str = "9P2000.L.Google.13";
pub const LINUX: &str = "9P2000.L";

/// Starts a server on its core, attached and prepared.
pub fn prepared(kind: &Kind, place: &Place, connections: usize, version: &str) -> Server {
    pin(THEIRS);
    let mut server = Server::start(kind, place, connections, version);
    pin(OURS);
    for request in preparation() {
        server.lines[0].done(&request);
    }
    server
}

/// One operation, in µs: as the client sees it, and on the server's core.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub struct Time {
    pub seen: f64,
    pub core: f64,
}

/// Runs cycles for about so long, with a few before that do not count.
pub fn round(
    server: &mut Server,
    round_ms: u64,
    operations: usize,
    mut cycle: impl FnMut(&mut Line),
) -> Time {
    for _ in 0..3 {
        cycle(&mut server.lines[0]);
    }
    let mut times = Vec::new();
    let before = server.cpu_ns();
    let end = Instant::now() + Duration::from_millis(round_ms);
    let mut now = Instant::now();
    while now < end || times.len() < 5 {
        cycle(&mut server.lines[0]);
        let after = Instant::now();
        times.push((after - now).as_nanos() as f64 / 1e3 / operations as f64);
        now = after;
    }
    let core = (server.cpu_ns() - before) as f64 / 1e3 / (times.len() * operations) as f64;
    times.sort_by(f64::total_cmp);
    Time {
        seen: quantile(&times, 0.5),
        core,
    }
}

pub fn middle(rounds: &[Time]) -> Time {
    Time {
        seen: median(rounds.iter().map(|time| time.seen).collect()),
        core: median(rounds.iter().map(|time| time.core).collect()),
    }
}

/// Whether a server can be asked for it at all.
fn serves(line: &Line, work: &Work) -> bool {
    work.frame <= line.msize && (work.speaks != Speaks::Google || line.is_google())
}

fn run(line: &mut Line, work: &Work) -> Result<(), Errno> {
    let donates = work.donates && line.is_google();
    work.stages
        .iter()
        .try_fold((), |(), stage| line.stage(stage, donates))
}

pub fn must_run(line: &mut Line, work: &Work) {
    run(line, work).unwrap_or_else(|errno| panic!("{}: {errno}", work.name));
}

pub fn cell(time: Option<Time>, unit: f64) -> String {
    match time {
        Some(Time { seen, core }) => format!("{:.1} / {:.1}", seen / unit, core / unit),
        None => "–".into(),
    }
}

fn ratio(time: Time, limit: Time) -> String {
    format!(
        "{:.2} / {:.2}",
        time.seen / limit.seen,
        time.core / limit.core
    )
}

/// Every workload, alone and with many in flight.
pub fn work_table(plan: &Plan, place: &Place) -> String {
    let mut servers = vec![
        prepared(&Kind::Echo, place, 1, GOOGLE),
        prepared(&Kind::Gofer, place, 1, GOOGLE),
    ];
    let mut linux = prepared(&Kind::Gofer, place, 1, LINUX);
    for (_, kind) in &plan.peers {
        servers.push(prepared(kind, place, 1, GOOGLE));
    }
    let mut text = String::new();
    for depth in [1, DEEPEST] {
        let title = match depth {
            1 => "One operation at a time, µs: middle operation / server's core".into(),
            _ => format!(
                "{depth} in flight, sent together, µs for each: middle operation / server's core"
            ),
        };
        let mut columns = vec!["work", "limit", "gofer", "gofer to limit", "may be"];
        columns.extend(plan.peers.iter().map(|(name, _)| name.as_str()));
        text += &head(&title, &columns);
        for work in works(depth) {
            if !work.name.contains(&plan.only) || depth > 1 && !work.is_deep {
                continue;
            }
            let mut rounds: Vec<Vec<Time>> = servers.iter().map(|_| Vec::new()).collect();
            let mut refused = vec![false; servers.len()];
            for _ in 0..plan.rounds {
                for (at, server) in servers.iter_mut().enumerate() {
                    let server = match at {
                        1 if work.speaks == Speaks::Linux => &mut linux,
                        _ => server,
                    };
                    // Those before are ours and must serve everything.
                    if at >= 2 {
                        if !serves(&server.lines[0], &work) || refused[at] {
                            continue;
                        }
                        if run(&mut server.lines[0], &work).is_err() {
                            // It stopped half-way.
                            refused[at] = true;
                            tidy(&place.root());
                            *server = prepared(&plan.peers[at - 2].1, place, 1, GOOGLE);
                            continue;
                        }
                    }
                    rounds[at].push(round(server, plan.round_ms, work.operations, |line| {
                        must_run(line, &work)
                    }));
                }
            }
            let within = if depth == 1 {
                work.within.0
            } else {
                work.within.1
            };
            text += &row(work.name, &rounds, within, 1.0);
        }
        if depth == 1 && "list".contains(&plan.only) {
            let mut rounds: Vec<Vec<Time>> = servers.iter().map(|_| Vec::new()).collect();
            for _ in 0..plan.rounds {
                for (server, rounds) in servers.iter_mut().zip(&mut rounds) {
                    let count = MIB.min(server.lines[0].msize as u32 - 24);
                    rounds.push(round(server, plan.round_ms, 1, |line| {
                        line.list(count);
                    }));
                }
            }
            let name = format!("list {} entries, ms", 10_000 / plan.smaller);
            text += &row(&name, &rounds, 1.05, 1e3);
        }
        text += "\n";
    }
    text
}

fn row(name: &str, rounds: &[Vec<Time>], within: f64, unit: f64) -> String {
    let times: Vec<Option<Time>> = rounds
        .iter()
        .map(|rounds| (!rounds.is_empty()).then(|| middle(rounds)))
        .collect();
    let (limit, gofer) = (times[0].expect("the limit"), times[1].expect("the gofer"));
    let mut cells = vec![
        name.to_owned(),
        cell(times[0], unit),
        cell(times[1], unit),
        ratio(gofer, limit),
        format!("{within:.2}"),
    ];
    cells.extend(times[2..].iter().map(|&time| cell(time, unit)));
    format!("| {} |\n", cells.join(" | "))
}

/// One active connection among idle ones.
pub fn connection_table(plan: &Plan, place: &Place) -> String {
    const COUNTS: [usize; 3] = [1, 4, 256];
    let mut pairs: Vec<(Server, Server)> = COUNTS
        .iter()
        .map(|&count| {
            let start = |kind| prepared(kind, place, count, GOOGLE);
            (start(&Kind::Echo), start(&Kind::Gofer))
        })
        .collect();
    let mut text = head(
        "One active connection of several, µs: middle operation / server's core. With more than one the limit polls them all",
        &[
            "work",
            "in flight",
            "connections",
            "limit",
            "gofer",
            "gofer to limit",
            "gofer to limit of one connection",
        ],
    );
    for depth in [1, DEEPEST] {
        for work in works(depth) {
            if !["getattr", "walkgetattr + clunk", "read 4 KiB"].contains(&work.name) {
                continue;
            }
            let mut rounds = [const { (Vec::new(), Vec::new()) }; COUNTS.len()];
            for _ in 0..plan.rounds {
                for ((echo, gofer), (limits, gofers)) in pairs.iter_mut().zip(&mut rounds) {
                    for (server, times) in [(echo, limits), (gofer, gofers)] {
                        times.push(round(server, plan.round_ms, work.operations, |line| {
                            must_run(line, &work)
                        }));
                    }
                }
            }
            let alone = middle(&rounds[0].0);
            for (count, (limits, gofers)) in COUNTS.iter().zip(&rounds) {
                let (limit, gofer) = (middle(limits), middle(gofers));
                text += &format!(
                    "| {} | {depth} | {count} | {} | {} | {} | {} |\n",
                    work.name,
                    cell(Some(limit), 1.0),
                    cell(Some(gofer), 1.0),
                    ratio(gofer, limit),
                    ratio(gofer, alone)
                );
            }
        }
    }
    text + "\n"
}

/// How long a connection that asks now and then waits beside one that always has requests there.
pub fn fairness_table(plan: &Plan, place: &Place) -> String {
    const DATA: u32 = 3;
    fs::create_dir_all(place.root().join("n/".repeat(256))).expect("mkdir");
    let floods: [(&str, Vec<u8>); 5] = [
        ("nothing", Vec::new()),
        ("getattr", t::getattr(1, ROOT, u64::MAX)),
        (
            "walkgetattr of a name",
            t::walkgetattr(1, ROOT, 50, &[b"f0"]),
        ),
        ("walk of 256 names", t::walk(1, ROOT, 50, &[&b"n"[..]; 256])),
        ("read of 1 MiB", t::read(1, DATA, 0, MIB)),
    ];
    let mut text = head(
        "A getattr every 0.2 ms on one connection, beside another that never waits for its answers, µs",
        &["the other sends", "middle", "99 of 100 within", "longest"],
    );
    for (name, request) in floods {
        let mut server = prepared(&Kind::Gofer, place, 2, GOOGLE);
        let flooding = server.lines.swap_remove(0);
        let mut quiet = server.lines.remove(0);
        let count = 3000 / plan.smaller;
        let getattr = t::getattr(1, ROOT, u64::MAX);
        let mut times: Vec<f64> = beside(&flooding, &request, || {
            (0..count)
                .map(|_| {
                    std::thread::sleep(Duration::from_micros(200));
                    let begun = Instant::now();
                    quiet.done(&getattr);
                    begun.elapsed().as_nanos() as f64 / 1e3
                })
                .collect()
        });
        times.sort_by(f64::total_cmp);
        text += &format!(
            "| {name} | {:.0} | {:.0} | {:.0} |\n",
            quantile(&times, 0.5),
            quantile(&times, 0.99),
            quantile(&times, 1.0)
        );
    }
    text + "\n"
}

/// Does `work` while a connection sends a request again and again and never waits for its answers; or nothing.
pub fn beside<T>(flooding: &Line, request: &[u8], work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let socket = &flooding.socket;
        if !request.is_empty() {
            let bytes = request.repeat((64 << 10) / request.len() + 1);
            scope.spawn(move || {
                step_back();
                while send(socket, &bytes, SendFlags::NOSIGNAL).is_ok() {}
            });
            scope.spawn(move || {
                step_back();
                let mut buffer = vec![0; 1 << 20];
                while recv(socket, &mut buffer[..], RecvFlags::empty())
                    .is_ok_and(|(count, _)| count > 0)
                {}
            });
        }
        let done = work();
        shutdown(socket, Shutdown::Both).expect("shutdown");
        done
    })
}

/// This thread gives way to others on its core: it is there to keep the server busy.
fn step_back() {
    let thread: Pid = gettid();
    setpriority_process(Some(thread), 19).expect("setpriority");
}

/// Sends requests, many at a time; all must be done.
pub fn send_all(line: &mut Line, requests: impl Iterator<Item = Vec<u8>>) {
    let requests: Vec<Vec<u8>> = requests.collect();
    for batch in requests.chunks(1000) {
        line.exchange(&batch.concat(), batch.len(), false)
            .expect("all are done");
    }
}

/// Clones of the walked file [`FILE`], as fids from [`MANY`] on.
pub fn clones(line: &mut Line, count: u32) {
    send_all(
        line,
        (0..count).map(|number| t::walk(1, FILE, MANY + number, &[])),
    );
}

const FILE: u32 = 2;
const MANY: u32 = 1000;

/// The same operation with little and with much around it.
pub fn flat_table(plan: &Plan, place: &Place) -> String {
    let size = |count: usize| (count / plan.smaller).max(1);
    let mut text = head(
        "The same with more around it, µs: middle operation / server's core",
        &["work", "with", "time", "with", "time", "ratio"],
    );
    let mut servers = [(); 2].map(|()| prepared(&Kind::Gofer, place, 1, GOOGLE));
    let mut compare = |name: &str,
                       few: &str,
                       many: &str,
                       operations: [usize; 2],
                       unit: f64,
                       cycle: &mut dyn FnMut(usize, &mut Line)| {
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..plan.rounds {
            for at in 0..2 {
                rounds[at].push(round(
                    &mut servers[at],
                    plan.round_ms,
                    operations[at],
                    |line| cycle(at, line),
                ));
            }
        }
        let [few_time, many_time] = rounds.map(|rounds| middle(&rounds));
        text += &format!(
            "| {name} | {few} | {} | {many} | {} | {} |\n",
            cell(Some(few_time), unit),
            cell(Some(many_time), unit),
            ratio(many_time, few_time)
        );
    };

    // Fids: all over the table, in no order; it holds a million, those that come later among them.
    let counts = [100, size(980_000) as u32];
    let stages = counts.map(|count| -> Vec<Stage> {
        let fids =
            (0..256u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % u64::from(count));
        let request = |fid: u64| Stage {
            bytes: t::getattr(1, MANY + fid as u32, u64::MAX),
            replies: 1,
        };
        fids.map(request).collect()
    });
    let mut is_cloned = [false; 2];
    let mut clone = |at: usize, line: &mut Line| {
        if !core::mem::replace(&mut is_cloned[at], true) {
            clones(line, counts[at]);
        }
    };
    let name = format!("{} fids", counts[1]);
    compare(
        "getattr of any fid",
        "100 fids",
        &name,
        [256; 2],
        1.0,
        &mut |at, line| {
            clone(at, line);
            stages[at]
                .iter()
                .for_each(|stage| line.stage(stage, false).expect("getattr"));
        },
    );
    let [one, other] = [t::walk(1, FILE, 500, &[]), t::clunk(1, 500)];
    compare(
        "clone + clunk",
        "100 fids",
        &name,
        [1; 2],
        1.0,
        &mut |_, line| {
            line.done(&one);
            line.done(&other);
        },
    );

    // Known files below a directory that is renamed.
    let nodes = [1, size(15_000)];
    for (at, count) in nodes.iter().enumerate() {
        let dir = place.root().join(format!("top{at}/d"));
        fs::create_dir_all(&dir).expect("mkdir");
        for number in 0..*count {
            fs::write(dir.join(number.to_string()), b"").expect("write a file");
        }
    }
    let mut is_walked = [false; 2];
    compare(
        "rename of a directory",
        "1 known file below",
        &format!("{} known files below", nodes[1]),
        [2; 2],
        1.0,
        &mut |at, line| {
            let top = format!("top{at}");
            if !core::mem::replace(&mut is_walked[at], true) {
                line.done(&t::walk(1, ROOT, 20, &[top.as_bytes()]));
                let file = |number: usize| {
                    let name = number.to_string();
                    t::walk(1, 20, 2_000_000 + number as u32, &[b"d", name.as_bytes()])
                };
                send_all(line, (0..nodes[at]).map(file));
            }
            line.done(&t::renameat(1, 20, b"d", 20, b"e"));
            line.done(&t::renameat(1, 20, b"e", 20, b"d"));
        },
    );

    // Entries of a directory.
    let entries = [size(10_000), size(1_000_000)];
    let big = place.root().join("big");
    fs::create_dir(&big).expect("mkdir");
    for number in 0..entries[1] {
        fs::File::create(big.join(format!("{number:06}"))).expect("make a file");
    }
    let mut is_open = false;
    compare(
        "list a directory, for each entry",
        &format!("{} entries", entries[0]),
        &format!("{} entries", entries[1]),
        entries,
        1.0,
        &mut |at, line| {
            if at == 1 && !core::mem::replace(&mut is_open, true) {
                line.done(&t::clunk(1, LIST));
                line.done(&t::walk(1, ROOT, LIST, &[b"big"]));
                line.done(&t::lopen(1, LIST, 0));
            }
            assert_eq!(line.list(MIB), entries[at]);
        },
    );
    drop(servers);
    fs::remove_dir_all(&big).expect("remove the directory");
    text + "\n"
}
