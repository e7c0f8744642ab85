//! How soon a server answers, and what memory it takes.

use super::harness::binary;
use super::server::{Kind, OURS, Place, Server, THEIRS, pin};
use super::speed::{clones, send_all};
use super::work::preparation;
use super::{Plan, head, median};
use std::fs;

const VERSION: &str = "9P2000.L.Google.13";

fn kinds(plan: &Plan) -> Vec<(String, Kind)> {
    let ours = [
        ("limit".to_owned(), Kind::Echo),
        ("gofer".to_owned(), Kind::Gofer),
    ];
    ours.into_iter().chain(plan.peers.iter().cloned()).collect()
}

fn started(kind: &Kind, place: &Place, connections: usize) -> Server {
    pin(THEIRS);
    let server = Server::start(kind, place, connections, VERSION);
    pin(OURS);
    server
}

/// From before the process is made to the first Rattach.
pub fn start_table(plan: &Plan, place: &Place) -> String {
    let kinds = kinds(plan);
    let mut times: Vec<Vec<f64>> = kinds.iter().map(|_| Vec::new()).collect();
    for _ in 0..(200 / plan.smaller).max(3) {
        for ((_, kind), times) in kinds.iter().zip(&mut times) {
            times.push(started(kind, place, 1).start.as_nanos() as f64 / 1e6);
        }
    }
    let times: Vec<f64> = times.into_iter().map(median).collect();
    let mut text = head(
        "From the start to the first Rattach, ms",
        &["server", "time", "to limit (gofer: may be 1.10)"],
    );
    for ((name, _), time) in kinds.iter().zip(&times) {
        text += &format!("| {name} | {time:.2} | {:.2} |\n", time / times[0]);
    }
    text + "\n"
}

/// Memory, by connections, fids and processes.
pub fn memory_table(plan: &Plan, place: &Place) -> String {
    let mut text = head("Memory, KiB", &["what", "VmRSS", "Pss", "private"]);
    let cells = |server: &Server| {
        let private = server.memory_kib("Private_Dirty") + server.memory_kib("Private_Clean");
        format!(
            "{} | {} | {private}",
            server.resident_kib(),
            server.memory_kib("Pss")
        )
    };
    for (name, kind) in kinds(plan).iter().skip(1) {
        text += &format!(
            "| {name}, idle after attach | {} |\n",
            cells(&started(kind, place, 1))
        );
    }

    let mut server = started(&Kind::Gofer, place, 256);
    // Memory of a buffer that was used goes back once things are quiet.
    let rested = |server: &Server| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        server.memory_kib("Rss") as f64
    };
    let with_256 = rested(&server);
    let one = started(&Kind::Gofer, place, 1);
    let with_1 = rested(&one);
    text += &format!(
        "| gofer, for each idle connection beyond the first (of 256) | {:.2} | | |\n",
        (with_256 - with_1) / 255.0
    );

    let line = &mut server.lines[0];
    send_all(line, preparation().into_iter());
    let count = 1_000_000 / plan.smaller as u32 - 1000;
    clones(line, count);
    let grown = rested(&server) - with_256;
    text += &format!(
        "| gofer, for each fid (of {count}), bytes | {:.1} | | |\n",
        grown * 1024.0 / f64::from(count)
    );

    let many: Vec<Server> = (0..(1000 / plan.smaller))
        .map(|_| started(&Kind::Gofer, place, 1))
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let sum = |field: &str| {
        many.iter()
            .map(|server| server.memory_kib(field))
            .sum::<u64>()
    };
    text += &format!(
        "| {} gofers, idle, together | {} | {} | {} |\n",
        many.len(),
        sum("Rss"),
        sum("Pss"),
        sum("Private_Dirty") + sum("Private_Clean")
    );
    let size = fs::metadata(binary()).expect("the program").len();
    text + &format!("\nThe program's file has {size} bytes.\n")
}
