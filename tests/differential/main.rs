//! Random sequences of all operations through two connections, each step compared with the same step done
//! by system calls on a twin tree, and the two trees compared whole. One step in five is the host's: it makes,
//! removes, moves, swaps, links and writes files of every type by their names, and moves subtrees out of the tree
//! and back, and the clients' next steps find what it left.
//!
//! Beside that, steps while a thread of the host does the same at the same time: what they come to is then checked
//! by what holds whatever it does (`loose.rs`), and by comparing the whole tree whenever it rests (`racing.rs`).
//!
//! `GOFER_SEED` repeats one seed, `GOFER_STEPS` sets the number of steps (100,000) of each kind. A difference is
//! printed with the fewest steps that still show it. The long run, which takes half an hour or so:
//!
//!     GOFER_STEPS=10000000 cargo test --locked --release --test differential -- --nocapture
//!
//! The temporary directory is to lie on a disk's file system: on tmpfs an entry that is made while a directory is
//! read may bring others a second time (Linux 6.18, seen without the program too).

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

mod ask;
mod compare;
mod found;
mod host;
#[allow(dead_code)] // tests/hosttree uses all of it
mod loose;
mod model;
mod ops;
mod racing;
mod world;

use kit::{harness, p9};
use nix::sys::stat::{Mode, umask};
use ops::{Random, Step};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use world::{Tally, World};

const STEPS: usize = 100_000;
/// Seeds have about so many steps: a difference in a longer one takes long to make short.
const STEPS_OF_A_SEED: usize = 10_000;
/// Steps between two comparisons of the whole trees.
const INTERVAL: usize = 250;
/// One step of so many is the host's.
const HOST_ONCE_IN: usize = 5;

/// Prints past the test harness, which would keep it for itself.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Every fourth seed has its second connection read-only.
fn is_read_only(seed: u64) -> bool {
    seed % 4 == 3
}

/// Where two sides differ, with all steps up to there.
struct Difference {
    steps: Vec<Step>,
    why: String,
}

/// Steps of a seed on a new world.
fn run(seed: u64, count: usize) -> Result<Tally, Difference> {
    let mut random = Random::new(seed);
    let mut world = World::new(is_read_only(seed));
    let mut steps = Vec::new();
    for at in 1..=count {
        let step = if random.once_in(HOST_ONCE_IN) {
            ops::choose_change(&mut random)
        } else {
            let connection = random.below(2);
            ops::choose(&mut random, connection, &world.models[connection].known())
        };
        steps.push(step);
        let done = world.step(&steps[at - 1]);
        let whole = at % INTERVAL == 0 || at == count;
        let done = done.and_then(|()| {
            if whole {
                world.compare().map(drop)
            } else {
                Ok(())
            }
        });
        if let Err(why) = done {
            return Err(Difference { steps, why });
        }
    }
    let tally = std::mem::take(&mut world.tally);
    match world.finish() {
        Ok(()) => Ok(tally),
        Err(why) => Err(Difference { steps, why }),
    }
}

/// These steps on a new world, the trees compared behind the last. `Some`: why they differ.
fn replay(world: World, steps: &[Step]) -> Option<String> {
    let mut world = world;
    world.hurry();
    for step in steps {
        if let Err(why) = world.step(step) {
            return Some(why);
        }
    }
    world.compare().err()
}

/// Leaves out steps as long as a difference remains.
fn shrink(read_only: bool, mut steps: Vec<Step>) -> (Vec<Step>, Option<String>) {
    let mut why = replay(World::new(read_only), &steps);
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 && why.is_some() {
        let mut at = 0;
        let mut shorter = false;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + chunk).min(fewer.len()));
            match replay(World::new(read_only), &fewer) {
                None => at += chunk,
                differs => {
                    (steps, why) = (fewer, differs);
                    shorter = true;
                }
            }
        }
        chunk = if chunk == 1 && shorter { 1 } else { chunk / 2 };
    }
    (steps, why)
}

/// Plays a seed; how often each kind of step was done, or refused so.
fn play(seed: u64, steps: usize) -> Tally {
    umask(Mode::empty()); // as the program's
    say(&format!(
        "differential: GOFER_SEED={seed} GOFER_STEPS={steps}"
    ));
    let difference = match run(seed, steps) {
        Ok(tally) => return tally,
        Err(difference) => difference,
    };
    let (count, first) = (difference.steps.len(), difference.why);
    let (fewest, why) = shrink(is_read_only(seed), difference.steps);
    let mut text = format!("seed {seed}, step {count}: {first}\n");
    match why {
        Some(why) => text += &format!("the fewest steps ({}) end with: {why}\n", fewest.len()),
        None => text += "the steps alone do not show it again\n",
    }
    for step in fewest.iter().rev().take(40).rev() {
        text += &format!("  {}: {:?}\n", step.connection, step.op);
    }
    panic!("{text}");
}

#[test]
fn what_was_found_is_mended() {
    umask(Mode::empty());
    for found in found::FOUND {
        if let Some(why) = replay(World::new(false), &(found.steps)()) {
            panic!("{}: {why}", found.name);
        }
    }
}

fn steps() -> usize {
    number("GOFER_STEPS").map_or(STEPS, |steps| steps as usize)
}

#[test]
fn fixed_seeds_do_on_the_tree_what_they_do_on_its_twin() {
    if number("GOFER_SEED").is_some() {
        return; // the other test repeats it
    }
    let begun = Instant::now();
    let seeds = (steps() / STEPS_OF_A_SEED).max(10) - 1;
    let mut all = Tally::new();
    for seed in 1..=seeds {
        for (outcome, count) in play(seed as u64, steps() / (seeds + 1)) {
            *all.entry(outcome).or_default() += count;
        }
    }
    let done: usize = all.values().sum();
    let kinds = all.keys().map(|(kind, _)| kind.as_str());
    let kinds: BTreeSet<_> = kinds.collect();
    say(&format!(
        "differential: {} kinds of steps, {} outcomes, {done} steps in {:?}",
        kinds.len(),
        all.len(),
        begun.elapsed()
    ));
    if steps() >= STEPS {
        assert_eq!(kinds.len(), 41, "{kinds:?}");
        // Not all of them in vain.
        for kind in kinds.iter().filter(|kind| **kind != "Attach") {
            let done = all.get(&((*kind).into(), "done".into()));
            assert!(done.is_some_and(|done| *done >= 20), "{kind}: {all:?}");
        }
    }
}

#[test]
fn a_random_or_chosen_seed_does_on_the_tree_what_it_does_on_its_twin() {
    if let Some(seed) = number("GOFER_SEED") {
        play(seed, steps());
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = now.as_nanos() as u64 % 1_000_000_000;
    play(seed, STEPS_OF_A_SEED);
}

#[test]
fn steps_while_the_host_changes_the_tree_keep_to_what_holds_whatever_it_does() {
    umask(Mode::empty());
    let begun = Instant::now();
    let seeds = match number("GOFER_SEED") {
        Some(seed) => vec![seed],
        None => (1..=(steps() / STEPS_OF_A_SEED).max(1) as u64).collect(),
    };
    let (mut all, mut names, mut changes) = (Tally::new(), 0, 0);
    for &seed in &seeds {
        let count = steps() / seeds.len();
        say(&format!("racing: GOFER_SEED={seed} GOFER_STEPS={count}"));
        let (tally, compared, changed) =
            racing::run(seed, count, is_read_only(seed), seed % 3 == 2)
                .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        for (outcome, count) in tally {
            *all.entry(outcome).or_default() += count;
        }
        names += compared;
        changes += changed;
    }
    assert!(names > 0 && changes > 0);
    let done: usize = all.values().sum();
    say(&format!(
        "racing: {done} steps beside {changes} changes by the host in {:?}, {names} names compared at rest",
        begun.elapsed()
    ));
}
