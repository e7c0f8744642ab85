//! `./build.sh bench`: how fast the gofer serves and how small it is, beside a limit that does no more than
//! must be done (`echo.rs`), and beside other servers. Prints tables in Markdown.
//!
//! Each server runs all the time, and they take turns: a round of one, a round of the next. What is told is
//! the median of the rounds, of the middle operation's time and of the server's time on its core.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    unreachable_pub
)]

mod echo;
mod footprint;
mod locks;
mod server;
mod speed;
mod windows;
mod work;

use kit::{channel, harness, p9};
use rustix::fd::{FromRawFd, OwnedFd};
use server::{Kind, OURS, Place, pin};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const HELP: &str = "\
usage: ./build.sh bench [OPTION...]

  --smoke             each part once and small: whether it runs, not how fast
  --rounds N          rounds of each server and workload (default: 9)
  --ms N              milliseconds that a round takes (default: 60)
  --only TEXT         workloads with this in their names, and nothing else
  --peer NAME=LINE    another server: a command line in which {} is the number of the socket that it serves,
                      {tree} the tree and {bundle} a folder with a spec; again for more
  --go DRIVER         the client in Go that tests/interop/run.sh builds, its server beside it; ORIGINAL_GOFER and
                      ORIGINAL_CONTRACT, where they are set, name a further server for it
  --into FILE         put what is printed between two marks in this file, too
";

/// What is measured, and how long.
pub struct Plan {
    /// Rounds of each server and workload.
    pub rounds: usize,
    /// Time that a round takes at least.
    pub round_ms: u64,
    /// Text in the names of the workloads wanted.
    pub only: String,
    /// Other servers.
    pub peers: Vec<(String, Kind)>,
    /// A client in Go.
    pub go: Option<PathBuf>,
    /// Fids, nodes, entries and processes where there are many: divided by this.
    pub smaller: usize,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, root, numbers @ ..] = words.as_slice()
        && first == "--echo"
    {
        let sockets: Vec<OwnedFd> = numbers.iter().map(|number| inherited(number)).collect();
        echo::serve(root, &sockets).unwrap();
        return;
    }
    let mut plan = Plan {
        rounds: 9,
        round_ms: 60,
        only: String::new(),
        peers: Vec::new(),
        go: None,
        smaller: 1,
    };
    let mut into = None;
    // `cargo test` runs this too, without the word that `cargo bench` adds.
    let mut is_smoke = !words.iter().any(|word| word == "--bench");
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .unwrap_or_else(|| panic!("{word} wants a value"))
        };
        match word.as_str() {
            "--bench" => {}
            "--smoke" => is_smoke = true,
            "--rounds" => plan.rounds = value().parse().unwrap(),
            "--ms" => plan.round_ms = value().parse().unwrap(),
            "--only" => plan.only = value(),
            "--peer" => {
                let text = value();
                let (name, line) = text.split_once('=').expect("--peer NAME=LINE");
                plan.peers.push((name.into(), Kind::Peer(line.into())));
            }
            "--go" => plan.go = Some(PathBuf::from(value())),
            "--into" => into = Some(PathBuf::from(value())),
            _ => {
                print!("{HELP}");
                std::process::exit(i32::from(word != "--help") * 2);
            }
        }
    }
    if is_smoke {
        (plan.rounds, plan.round_ms, plan.smaller) = (1, 1, 100);
    }
    let report = measure(&plan);
    print!("{report}");
    if let Some(file) = into {
        put(&file, &report);
    }
}

/// A socket that was handed over under this number.
fn inherited(number: &str) -> OwnedFd {
    let number = number.parse().unwrap();
    // SAFETY: whoever started us says that this is a socket for us alone; nothing else here knows of it.
    #[allow(unsafe_code)]
    unsafe {
        OwnedFd::from_raw_fd(number)
    }
}

fn measure(plan: &Plan) -> String {
    server::raise_descriptor_limit();
    pin(OURS);
    let place = Place::new(10_000 / plan.smaller);
    let mut report = machine();
    report += &speed::work_table(plan, &place);
    report += &windows::window_table(plan, &place);
    if let Some(driver) = &plan.go {
        report += &windows::go_table(plan, driver, &place);
    }
    if plan.only.is_empty() {
        report += &speed::connection_table(plan, &place);
        report += &speed::fairness_table(plan, &place);
        report += &locks::lock_table(plan, &place);
        report += &speed::flat_table(plan, &place);
        report += &footprint::start_table(plan, &place);
        report += &footprint::memory_table(plan, &place);
    }
    report
}

/// The machine, in a line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or("?", |(_, value)| value.trim())
            .to_owned()
    };
    let virtual_machine = if field(&cpu, "flags").contains("hypervisor") {
        " (a virtual machine)"
    } else {
        ""
    };
    let mut text = String::new();
    writeln!(
        text,
        "Machine: {}, family {} model {}, {} cores{virtual_machine}; Linux {}; memory {}. Driver on core {}, servers on core {}; \
         load average at the start {}.\n",
        field(&cpu, "model name"),
        field(&cpu, "cpu family"),
        field(&cpu, "model\t"),
        cpu.lines().filter(|line| line.starts_with("processor")).count(),
        read("/proc/sys/kernel/osrelease").trim(),
        field(&memory, "MemTotal"),
        OURS,
        server::THEIRS,
        read("/proc/loadavg").split(' ').next().unwrap_or("?"),
    )
    .unwrap();
    text
}

/// Puts the report between the two marks of a file.
fn put(file: &Path, report: &str) {
    const BEGIN: &str = "<!-- measured: begin -->\n";
    const END: &str = "<!-- measured: end -->\n";
    let text = fs::read_to_string(file).expect("read the file of --into");
    let (before, rest) = text.split_once(BEGIN).expect("a mark where it begins");
    let (_, behind) = rest.split_once(END).expect("a mark where it ends");
    fs::write(file, format!("{before}{BEGIN}{report}{END}{behind}"))
        .expect("write the file of --into");
}

/// A table's head.
pub fn head(title: &str, columns: &[&str]) -> String {
    format!(
        "**{title}**\n\n| {} |\n|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    )
}

/// The middle one.
pub fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
    values[values.len() / 2]
}

/// The value that this share of all is below.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
