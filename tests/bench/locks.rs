//! How long a lock that waits is waited for after the one in its way has gone.

use super::harness::ROOT;
use super::p9::{O_RDWR, t};
use super::server::{Kind, Line, Place};
use super::speed::{LINUX, beside, prepared};
use super::{Plan, head, quantile};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{self, File};
use std::time::{Duration, Instant};

const FID: u32 = 60;
const HOST: &[u8] = b"guest";

/// Tlock of a byte, to write it, which may wait.
fn lock(owner: u32) -> Vec<u8> {
    t::lock(1, FID, 1, 1, 0, 1, owner, HOST)
}

fn unlock(owner: u32) -> Vec<u8> {
    t::lock(1, FID, 2, 0, 0, 0, owner, HOST)
}

/// A lock of a process of the host.
fn host(file: &File, kind: i32) {
    let lock = libc::flock {
        l_type: kind.try_into().expect("a kind"),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).expect("F_OFD_SETLK");
}

/// The table: the holder is a client or a process of the host, and beside it a third client does nothing or never rests.
pub fn lock_table(plan: &Plan, place: &Place) -> String {
    let mut text = head(
        "From an unlock to the answer of a Tlock that waited, µs",
        &[
            "the lock was",
            "a third connection sends",
            "middle",
            "99 of 100 within",
            "longest",
            "may be",
            "as many getattrs, longest",
        ],
    );
    let file = place.root().join("s/lock");
    fs::write(&file, b"text").expect("write a file");
    let file = File::options()
        .read(true)
        .write(true)
        .open(file)
        .expect("a file");
    let beside_it = [
        ("nothing", Vec::new()),
        ("getattr", t::getattr(1, ROOT, u64::MAX)),
    ];
    for (whose, is_host, most) in [
        ("a client's", false, 5_000),
        ("a process of the host's", true, 50_000),
    ] {
        for (name, request) in &beside_it {
            let mut server = prepared(&Kind::Gofer, place, 3, LINUX);
            let flooding = server.lines.swap_remove(0);
            let [other, one] = server.lines.as_mut_slice() else {
                panic!("two connections");
            };
            for line in [&mut *one, &mut *other] {
                line.done(&t::walk(1, ROOT, FID, &[b"lock"]));
                line.done(&t::lopen(1, FID, O_RDWR));
            }
            let count = (1_000 / plan.smaller as u64).max(3);
            let getattr = t::getattr(1, FID, u64::MAX);
            let (mut times, mut others) = (Vec::new(), Vec::new());
            beside(&flooding, request, || {
                for number in 0..count {
                    times.push(after_unlock(one, other, is_host.then_some(&file), number));
                    let begun = Instant::now();
                    other.done(&getattr);
                    others.push(begun.elapsed().as_nanos() as f64 / 1e3);
                }
            });
            for times in [&mut times, &mut others] {
                times.sort_by(f64::total_cmp);
            }
            text += &format!(
                "| {whose} | {name} | {:.0} | {:.0} | {:.0} | {most} | {:.0} |\n",
                quantile(&times, 0.5),
                quantile(&times, 0.99),
                quantile(&times, 1.0),
                quantile(&others, 1.0)
            );
        }
    }
    text + "\n"
}

/// The time, in µs. `file`: what a process of the host locks instead of the one client.
fn after_unlock(one: &mut Line, other: &mut Line, file: Option<&File>, number: u64) -> f64 {
    match file {
        Some(file) => host(file, libc::F_WRLCK),
        None => one.done(&lock(100)),
    }
    other.send(&lock(200));
    other.done(&t::statfs(1, ROOT)); // it waits
    if file.is_some() {
        // At any time between two questions.
        std::thread::sleep(Duration::from_micros(number * 617 % 10_000));
    }
    let begun = Instant::now();
    match file {
        Some(file) => host(file, libc::F_UNLCK),
        None => one.send(&unlock(100)),
    }
    other.exchange(&[], 1, false).expect("the lock");
    let time = begun.elapsed().as_nanos() as f64 / 1e3;
    if file.is_none() {
        one.exchange(&[], 1, false).expect("the unlock");
    }
    other.done(&unlock(200));
    time
}
