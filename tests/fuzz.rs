//! What the fuzzers found, run again without a fuzzer: each input in fuzz/corpus by the very function that
//! they call (docs/fuzzing.md); and that what these functions look for is noticed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::duplicate_mod // each target is a program of its own for the fuzzer
)]

#[path = "../fuzz/argv.rs"]
mod argv;
#[path = "../fuzz/filter.rs"]
mod filter;
#[path = "../fuzz/spec.rs"]
mod spec;
#[path = "../fuzz/wire.rs"]
mod wire;

use gofer::p9::messages::{Message, Rlerror, Rlopen};
use gofer::p9::messages::{Request, Tclunk, Tlock, Tlopen, Tversion};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use wire::peer::Peer;
use wire::requests::{REQUESTS, request};
use wire::tree::{CANARY, Tree};

/// One after the other: descriptors and the working directory are the whole process's.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints past the test harness, which would keep it for itself.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("write to standard error");
}

/// Time that no input comes near, even on a machine that has no time.
const PATIENCE: Duration = Duration::from_secs(300);

/// Ends the process, should an input never end.
fn watch(target: &str) -> Sender<usize> {
    let (begin, begun) = channel();
    let target = target.to_owned();
    thread::spawn(move || {
        let mut last = 0;
        loop {
            match begun.recv_timeout(PATIENCE) {
                Ok(count) => last = count,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    say(&format!("input {last} of {target} does not end"));
                    std::process::abort();
                }
            }
        }
    });
    begin
}

/// Runs every input of a pack: each stands behind its length in two bytes.
fn replay(target: &str, run: fn(&[u8])) {
    let _alone = alone();
    let watched = watch(target);
    let path = format!("{}/fuzz/corpus/{target}.gz", env!("CARGO_MANIFEST_DIR"));
    let pack = Command::new("gzip").args(["-dc", &path]).output().unwrap();
    assert!(pack.status.success(), "{path}: {pack:?}");
    let (mut rest, mut count) = (&pack.stdout[..], 0);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (input, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)));
        watched.send(count).unwrap();
        if let Err(panic) = catch_unwind(|| run(input)) {
            eprintln!("input {count} of {target}: b\"{}\"", input.escape_ascii());
            resume_unwind(panic);
        }
        (rest, count) = (behind, count + 1);
    }
    assert!(rest.is_empty() && count > 100, "{count} inputs");
    say(&format!("{target}: {count} inputs run again"));
}

#[test]
fn wire_inputs_run_again_are_answered_and_leave_nothing() {
    replay("wire", wire::run);
}

#[test]
fn argv_inputs_run_again_are_parsed_or_refused_on_one_line() {
    replay("argv", argv::run);
}

#[test]
fn spec_inputs_run_again_are_read_as_another_reader_reads_them() {
    replay("spec", spec::run);
}

#[test]
fn filter_inputs_run_again_assemble_to_what_their_rows_say() {
    replay("filter", filter::run);
}

// ---- what is looked for is noticed ----

/// Whether it panics.
fn is_noticed(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn requests_made_of_any_bytes_are_well_formed() {
    let mut kinds = Vec::new();
    for choice in 0..REQUESTS.len() {
        for filler in 0..=u8::MAX {
            let bytes: Vec<u8> = (0..2000u32)
                .map(|at| filler.wrapping_mul(at as u8 | 1))
                .collect();
            let frame = request(&mut wire::input::Input(&bytes), choice, 7);
            assert_eq!(frame[..4], (frame.len() as u32).to_le_bytes());
            let request = Request::decode(frame[4], &frame[7..]).unwrap();
            kinds.push(request.kind());
        }
    }
    kinds.dedup();
    assert_eq!(kinds.len(), gofer::p9::messages::REQUESTS.len());
}

/// A frame of tag 1.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let size = 7 + body.len() as u8;
    [&[size, 0, 0, 0, kind, 1, 0], body].concat()
}

#[test]
fn answers_that_are_wrong_are_noticed() {
    let open = frame(Tlopen::KIND, &[0; 8]);
    let clunk = frame(Tclunk::KIND, &[0; 4]);
    let opened = frame(Rlopen::KIND, &[0; 17]);
    let refused = frame(Rlerror::KIND, &[9, 0, 0, 0]);
    let is_wrong = |asked: &[u8], told: &[u8]| is_noticed(|| Peer::of(asked, told).check());
    assert!(!is_wrong(&open, &opened));
    assert!(!is_wrong(&open, &refused));
    assert!(!is_wrong(
        &[&open[..], &clunk].concat(),
        &[&refused[..], &refused].concat()
    ));
    assert!(is_wrong(&open, &[]), "no answer");
    assert!(is_wrong(&open, &opened[..20]), "half of one");
    assert!(is_wrong(&clunk, &opened), "to another request");
    assert!(
        is_wrong(&clunk, &[&refused[..], &refused].concat()),
        "two answers"
    );
    assert!(is_wrong(&open, &frame(Rlopen::KIND, &[0; 3])), "too short");
    assert!(is_wrong(&open, &frame(Rlerror::KIND, &[0; 4])), "no errno");
    let mut other = refused.clone();
    other[5] = 2;
    assert!(is_wrong(&open, &other), "another tag");
    assert!(
        is_wrong(&clunk, &frame(Tclunk::KIND + 1, CANARY)),
        "what stands outside"
    );
    let version = |kind, msize| frame(kind, &[&[msize, 0, 0, 0, 8, 0], &b"9P2000.L"[..]].concat());
    let asked = |msize| [version(Tversion::KIND, msize), open.clone()].concat();
    let told = |msize| [version(Tversion::KIND + 1, msize), opened.clone()].concat();
    assert!(!is_wrong(&asked(24), &told(24)));
    assert!(is_wrong(&asked(23), &told(23)), "more than was agreed on");
    assert!(
        !is_wrong(&asked(14), &version(Tversion::KIND + 1, 14)),
        "what is asked is longer than was agreed on: the end"
    );
}

#[test]
fn locks_alone_may_be_answered_late_or_never() {
    let _alone = alone();
    let is_wrong = |sent: &[Vec<u8>], told: &[Vec<u8>]| {
        let peer = Peer::of(&sent.concat(), &told.concat());
        is_noticed(|| peer.check())
    };
    let tagged = |kind, tag, body: &[u8]| {
        let size = u8::try_from(7 + body.len()).unwrap();
        [&[size, 0, 0, 0, kind, tag, 0], body].concat()
    };
    let lock = |tag, kind, flags| {
        let body = [&[0, 0, 0, 0, kind, flags], &[0; 3 + 8 + 8 + 4 + 2][..]].concat();
        tagged(Tlock::KIND, tag, &body)
    };
    let locked = |tag| tagged(Tlock::KIND + 1, tag, &[0]);
    let (clunk, clunked) = (
        tagged(Tclunk::KIND, 9, &[0; 4]),
        tagged(Tclunk::KIND + 1, 9, &[]),
    );
    let sent = [lock(1, 1, 1), lock(2, 0, 1), clunk.clone()];
    for told in [
        &[locked(1), locked(2), clunked.clone()][..],
        &[clunked.clone(), locked(2), locked(1)],
        &[locked(2), clunked.clone()],
        core::slice::from_ref(&clunked),
    ] {
        assert!(!is_wrong(&sent, told), "{told:?}");
    }
    assert!(is_wrong(&sent, &[locked(1)]), "no answer to the last");
    assert!(is_wrong(&sent, &[clunked.clone(), clunked.clone()]), "two");
    assert!(
        is_wrong(&sent, &[clunked.clone(), locked(1), locked(1)]),
        "two late ones"
    );
    for at_once in [lock(1, 1, 0), lock(1, 2, 1), clunk] {
        let sent = [at_once, tagged(Tclunk::KIND, 3, &[0; 4])];
        assert!(is_wrong(&sent, &[tagged(Tclunk::KIND + 1, 3, &[])]));
    }
}

#[test]
fn answers_in_a_window_that_are_wrong_are_noticed() {
    let _alone = alone();
    let tree = Tree::new();
    let clunk = Tclunk::KIND;
    // The window of a served request: state, length, and the datagram.
    let is_wrong = |kind, asked: (u32, u32), state: u8, told: &[u8]| {
        let (memory, _windows) = gofer::sys::window::make(1).unwrap();
        let mut peer = Peer::of_channel(memory);
        let length = u8::try_from(told.len()).unwrap();
        peer.scribble(0, &[state, 0, 0, 0, length, 0, 0, 0]);
        peer.scribble(16, told);
        is_noticed(|| peer.check_channel(kind, asked, &tree))
    };
    let served = (6, 1);
    assert!(!is_wrong(clunk, served, 0, &[clunk + 1, 0]));
    assert!(!is_wrong(clunk, served, 0, &[Rlerror::KIND, 0, 9, 0, 0, 0]));
    assert!(!is_wrong(clunk, served, 2, &[]), "over");
    assert!(!is_wrong(b'{', (3, 1), 0, b"{}\n"));
    assert!(is_wrong(clunk, served, 1, &[clunk + 1, 0]), "not answered");
    assert!(is_wrong(clunk, served, 3, &[clunk + 1, 0]), "no state");
    assert!(is_wrong(clunk, (1, 1), 0, &[clunk + 1, 0]), "of no length");
    assert!(is_wrong(clunk, (6, 3), 0, &[clunk + 1, 0]), "in no state");
    assert!(is_wrong(clunk, served, 0, &[clunk + 1]), "half of a header");
    assert!(is_wrong(clunk, served, 0, &[clunk + 3, 0]), "of another");
    assert!(is_wrong(clunk, served, 0, &[clunk + 1, 1]), "descriptor");
    assert!(is_wrong(clunk, served, 0, &[Rlerror::KIND, 0, 0, 0, 0, 0]));
    assert!(is_wrong(Tlopen::KIND, served, 0, &[Rlopen::KIND, 0, 0]));
    let secret = [&[clunk + 1, 0], CANARY].concat();
    assert!(is_wrong(clunk, served, 0, &secret), "what stands outside");
}

#[test]
fn whatever_is_done_outside_the_tree_is_noticed() {
    let _alone = alone();
    let changes: [fn(&str); 5] = [
        |outside| assert_eq!(std::fs::read(format!("{outside}/secret")).unwrap(), CANARY),
        |outside| assert_eq!(std::fs::read_dir(outside).unwrap().count(), 2),
        |outside| std::fs::write(format!("{outside}/new"), "").unwrap(),
        |outside| {
            std::fs::hard_link(
                format!("{outside}/secret"),
                format!("{outside}/../inside/x"),
            )
            .unwrap()
        },
        |outside| {
            std::fs::rename(format!("{outside}/d"), format!("{outside}/../inside/x")).unwrap()
        },
    ];
    for change in changes {
        let tree = Tree::new();
        tree.restore();
        tree.check_outside();
        change(&tree.path("outside"));
        assert!(is_noticed(|| tree.check_outside()));
    }
}
