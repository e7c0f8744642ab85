//! A hostile host tree: while clients do everything that clients do, on several connections, other threads swap
//! directories for symlinks, files for FIFOs, devices and sockets, move subtrees out of the export and into it,
//! unlink, make again and link. Meanwhile
//!
//! * canaries, in the program's root and outside of it, are not opened, read, written, listed or changed
//!   (inotify), and no reply has an inode number or a byte of them;
//! * special files are not opened, but where the command line says so;
//! * a connection that only asks for its root is answered, and the longest that it waited is printed;
//! * each reply is one that its request may have, and fids stay on their files (`differential/loose.rs`);
//! * at the end the server's view of the tree is the host's, and its descriptors go back.
//!
//! `GOFER_SECONDS` is how long it lasts for each way to start the program (5); rounds of 5 seconds have a tree
//! of their own. `GOFER_SEED` is the first round's seed.

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

mod canary;
#[path = "../client/harness.rs"]
mod harness;
#[path = "../differential/host.rs"]
mod host;
#[path = "../differential/loose.rs"]
mod loose;
#[allow(dead_code)] // the host's changes are chosen by themselves here
#[path = "../differential/ops.rs"]
mod ops;
#[path = "../client/p9.rs"]
mod p9;
mod storm;

use canary::{Alarm, Canary};
use harness::{Gofer, Launch, Mount, Tree, expect_descriptors, spec, write_spec};
use host::Host;
use loose::{Flavour, Loose, Same, Tally, files};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, umask};
use ops::{Op, ROOT, Random, SHARED};
use p9::{Client, MSIZE};
use rustix::fs::inotify::WatchFlags;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use storm::{Armory, SPECIAL, Storm};

/// How long a request of the quiet connection may take: only so that a block becomes a failure.
const LONGEST: Duration = Duration::from_secs(10);
const ROUND: u64 = 5;

/// Prints past the test harness, which would keep it for itself.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// How the program is started.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Without the clone of /proc/self/fd.
    by_parent: bool,
    /// The host's sockets and FIFOs are served.
    special: bool,
}

const WAYS: [Way; 4] = [
    Way {
        by_parent: false,
        special: false,
    },
    Way {
        by_parent: true,
        special: false,
    },
    Way {
        by_parent: false,
        special: true,
    },
    Way {
        by_parent: true,
        special: true,
    },
];

/// The export is `root/export` of the tree, so that there is something to see in the program's root too. Another
/// attach point lies in it.
struct World {
    tree: Tree,
    host: Host,
    armory: Armory,
    canary: Canary,
    /// Every place outside by every way, and some inside.
    targets: Vec<Vec<u8>>,
}

impl World {
    fn new(way: Way) -> World {
        let tree = Tree::new();
        tree.dir(&format!("export/{SHARED}/a/b"));
        tree.dir("export/a/b/c");
        tree.file("export/a/c", "some text");
        tree.file(&format!("export/{SHARED}/keep"), "kept");
        for dir in ["aside", "canary"] {
            tree.dir(dir);
        }
        let outside = tree.outside("canary");
        fs::create_dir(&outside).expect("mkdir");
        let dirs = [
            tree.root(),
            tree.path("aside"),
            tree.path("canary"),
            outside.clone(),
        ];
        let canary = Canary::plant(&dirs.each_ref().map(PathBuf::as_path));
        let mut targets: Vec<Vec<u8>> = [
            "a",
            "..",
            "../..",
            "../../..",
            "/",
            "/canary",
            "/canary/a",
            "/canary/c",
            "/a",
            "../canary",
            "../../canary/a",
            "../../../canary",
            "../../../../canary/a",
            "/proc/self/root",
            "/dev/null",
        ]
        .map(Into::into)
        .into();
        targets.push(outside.into_os_string().into_encoded_bytes());
        World {
            host: Host::new(&tree.path("export"), &tree.path("aside")),
            armory: Armory::new(&tree.outside("armory"), way.by_parent),
            tree,
            canary,
            targets,
        }
    }

    fn mounts() -> [Mount; 4] {
        let shared = format!("/export/{SHARED}");
        ["/export", "/export", &shared, &shared].map(|at| Mount::bind(at, &[]))
    }

    /// The directories that the connections serve.
    fn attached(&self) -> [PathBuf; 4] {
        let shared = self.tree.path("export").join(SHARED);
        let export = self.tree.path("export");
        [export.clone(), export, shared.clone(), shared]
    }
}

/// A connection that speaks plain 9P2000.L, attached.
fn linux(gofer: &mut Gofer, index: usize) -> Client {
    let mut client = gofer.client(index);
    client.version(MSIZE, b"9P2000.L").expect("version");
    client.attach_root(ROOT).expect("attach");
    client
}

/// What came of a round.
#[derive(Default)]
struct Count {
    tally: Tally,
    changes: usize,
    names: usize,
    quiet: usize,
    longest: Duration,
    opened: usize,
    connected: usize,
}

impl Count {
    fn add(&mut self, other: Count) {
        for (outcome, count) in other.tally {
            *self.tally.entry(outcome).or_default() += count;
        }
        self.changes += other.changes;
        self.names += other.names;
        self.quiet += other.quiet;
        self.longest = self.longest.max(other.longest);
        self.opened += other.opened;
        self.connected += other.connected;
    }

    fn requests(&self) -> usize {
        self.tally.values().sum::<usize>() + self.quiet
    }

    fn say(&self, what: &str) {
        let done = |(outcome, count): (&(String, String), &usize)| {
            if outcome.1 == "done" { *count } else { 0 }
        };
        say(&format!(
            "hosttree: {what}: {} requests, {} of them done, beside {} changes by the host; {} names compared at \
             rest; special files opened {} times, connected to {} times; the quiet connection's longest wait of \
             {}: {:?}",
            self.requests(),
            self.tally.iter().map(done).sum::<usize>() + self.quiet,
            self.changes,
            self.names,
            self.opened,
            self.connected,
            self.quiet,
            self.longest
        ));
    }
}

/// A client's steps until it is told to stop.
fn steps(side: &mut Loose<'_>, seed: u64, stop: &AtomicBool) -> Same {
    let mut random = Random::new(seed);
    let flavour = side.flavour;
    while !stop.load(Ordering::Relaxed) {
        let step = ops::choose(&mut random, 0, &side.known());
        if matches!(step.op, Op::Fsync { .. }) {
            continue; // the disk's time, not the server's
        }
        let why = |why| format!("{flavour:?}: {:?}: {why}", step.op);
        side.step(&step.op).map_err(why)?;
    }
    Ok(())
}

/// Asks for nothing but its root. How often, and the longest wait.
fn ask(quiet: &mut Client, stop: &AtomicBool) -> Same<(usize, Duration)> {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = quiet.getattr(ROOT, 0);
        answer.map_err(|fault| format!("the quiet connection: {fault}"))?;
        longest = longest.max(begun.elapsed());
        count += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((count, longest))
}

/// The storm for so long; `gofer` serves the world's root and its mounts.
fn round(world: &mut World, gofer: &mut Gofer, way: Way, seed: u64, last: Duration) -> Count {
    let mut quiet = gofer.connect(0);
    quiet
        .socket
        .set_read_timeout(Some(LONGEST))
        .expect("a socket of ours");
    let outside = [
        world.tree.root(),
        world.tree.path("aside"),
        world.tree.path("canary"),
    ];
    let watch = world
        .canary
        .watch(&outside.each_ref().map(PathBuf::as_path));
    let mut sides: Vec<Loose<'_>> = (1..=4)
        .map(|index| {
            let flavour = Flavour {
                linux: index % 2 == 0,
                special: way.special,
                by_parent: way.by_parent,
                read_only: false,
            };
            let client = if flavour.linux {
                linux(gofer, index)
            } else {
                gofer.connect(index)
            };
            Loose::new(client, ROOT, flavour, &watch)
        })
        .collect();
    let descriptors = gofer.descriptor_count();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let attached = world
        .attached()
        .map(|path| open(&path, flags, Mode::empty()).expect("open a directory"));
    let special: Vec<PathBuf> = SPECIAL
        .iter()
        .map(|name| world.armory.path.join(name))
        .collect();
    let opened = Alarm::set(special.iter().map(PathBuf::as_path), WatchFlags::OPEN);
    world.canary.arm();

    let (stop, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut count = Count::default();
    let targets: Vec<&[u8]> = world.targets.iter().map(Vec::as_slice).collect();
    let aside = world.tree.path("aside");
    let results: Vec<Same> = std::thread::scope(|scope| {
        let (stop, changes) = (&stop, &changes);
        for own in [1_000_000, 2_000_000] {
            let mut storm = Storm {
                host: &world.host,
                armory: &world.armory,
                random: Random::new(seed ^ u64::from(own) << 32),
                targets: &targets,
                own,
                out: 0,
                changes: 0,
            };
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    storm.swap();
                    storm.change();
                }
                changes.fetch_add(storm.changes, Ordering::Relaxed);
            });
        }
        let asking = scope.spawn(|| ask(&mut quiet, stop));
        let threads: Vec<_> = (1..)
            .zip(&mut sides)
            .map(|(at, side)| {
                scope.spawn(move || {
                    let done = steps(side, seed ^ at << 48, stop);
                    if done.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    done
                })
            })
            .collect();
        let begun = Instant::now();
        while begun.elapsed() < last && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        let mut results: Vec<Same> = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect();
        results.push(asking.join().expect("no panic").map(|(asked, longest)| {
            count.quiet = asked;
            count.longest = longest;
        }));
        results
    });
    for result in results {
        result.unwrap_or_else(|why| panic!("{way:?}, GOFER_SEED={seed}: {why}"));
    }
    count.changes = changes.into_inner();

    // What rang before we come near it ourselves.
    world.canary.check();
    let rung = opened.rung();
    count.opened = rung.len();
    while world.armory.listener.accept().is_ok() {
        count.connected += 1;
    }
    if !way.special && !way.by_parent {
        assert!(rung.is_empty(), "special files: {rung:#?}");
        assert!(
            !world.armory.appears.exists(),
            "the block device was opened"
        );
    }
    if !way.special || way.by_parent {
        assert_eq!(count.connected, 0, "connections to the socket");
    }

    let all = files(&[&world.tree.path("export"), &aside, &world.armory.path]);
    for (side, root) in sides.iter_mut().zip(&attached) {
        let at_rest = side.look_again(&all).and_then(|()| side.view(ROOT, root));
        count.names +=
            at_rest.unwrap_or_else(|why| panic!("{way:?}, GOFER_SEED={seed}, at rest: {why}"));
        side.forget(ROOT).expect("fids are given up");
        for (outcome, times) in std::mem::take(&mut side.tally) {
            *count.tally.entry(outcome).or_default() += times;
        }
    }
    expect_descriptors(gofer, &mut quiet, descriptors);
    count
}

fn launch(world: &World, way: Way) -> Launch {
    let mounts = World::mounts();
    write_spec(
        &world.tree.bundle(),
        &spec(&world.tree.root(), false, &mounts),
    );
    let mut launch = Launch::new(&world.tree.bundle(), 1 + mounts.len());
    if way.special {
        launch = launch.with(&["--host-uds=open", "--host-fifo=open"]);
    }
    if way.by_parent {
        launch = launch.by("setpriv", &["--bounding-set=-sys_admin"]);
    }
    launch
}

fn storm(way: Way) {
    umask(Mode::empty());
    let seconds = number("GOFER_SECONDS").unwrap_or(ROUND);
    let mut all = Count::default();
    let begun = Instant::now();
    let mut seed = number("GOFER_SEED").unwrap_or(1);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let mut world = World::new(way);
        let mut gofer = launch(&world, way).start();
        let count = round(
            &mut world,
            &mut gofer,
            way,
            seed,
            Duration::from_secs(ROUND.min(seconds)),
        );
        let log = gofer.stderr();
        assert_eq!(
            log.contains("No clone of /proc/self/fd"),
            way.by_parent,
            "{log}"
        );
        let exit = gofer.exit();
        assert_eq!(exit.code, Some(0), "{way:?}, GOFER_SEED={seed}: {exit:?}");
        all.add(count);
        if seconds > ROUND {
            all.say(&format!("{way:?} up to seed {seed}"));
        }
        seed += 1;
    }
    all.say(&format!("{way:?}"));
    say(&format!("{:?}", all.tally));
}

#[test]
fn storm_of_the_host_leads_no_client_out() {
    for way in WAYS {
        storm(way);
    }
}
