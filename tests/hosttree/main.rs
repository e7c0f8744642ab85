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
//! of their own. `GOFER_SEED` is the first round's seed. Without the clone of /proc/self/fd a device that comes
//! between two looks may be opened (docs/security-model.md, 2): that leaves /sys/block/loop250 behind.

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

#[path = "../differential/ask.rs"]
mod ask;
mod canary;
#[path = "../differential/host.rs"]
mod host;
#[path = "../differential/loose.rs"]
mod loose;
#[allow(dead_code)] // the host's changes are chosen by themselves here
#[path = "../differential/ops.rs"]
mod ops;
mod storm;

use canary::{Alarm, Canary};
use harness::{Gofer, Launch, Mount, Tree, expect_descriptors, spec, write_spec};
use host::Host;
use kit::{harness, p9};
use loose::{Flavour, Loose, Same, Tally, files};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, umask};
use ops::{Name, Op, ROOT, Random, SHARED};
use p9::{Client, Data, MSIZE, NOID, SetAttr, refused};
use rustix::fs::inotify::WatchFlags;
use std::collections::BTreeSet;
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

/// A walk, and at once what depends on what was found there; the last comes first.
fn race(random: &mut Random) -> Vec<Op> {
    let fid = 30;
    let names =
        (0..=random.below(2)).map(|_| Name(random.of(&[&b"a"[..], b"b", b"c", b"d", b"e"]).into()));
    let walk = Op::Walk {
        fid: ROOT,
        newfid: fid,
        names: names.collect(),
        getattr: random.once_in(2),
    };
    let attr = SetAttr {
        mode: 0o640,
        size: 100,
        ..SetAttr::default()
    };
    let then = match random.below(8) {
        0..=2 => vec![Op::Open {
            fid,
            flags: random.of(&[0, 1, 2, 0x202]),
        }],
        3 => vec![Op::List { fid, count: 65_536 }, Op::Open { fid, flags: 0 }],
        4 => vec![
            Op::Read {
                fid,
                offset: 0,
                count: 512,
            },
            Op::Open { fid, flags: 0 },
        ],
        5 => vec![Op::Setattr {
            fid,
            valid: random.of(&[1, 8]),
            attr,
        }],
        6 => vec![Op::Idle { fid, which: 1 }],
        _ => vec![Op::Idle { fid, which: 3 }],
    };
    then.into_iter().chain([walk]).collect()
}

/// A client's steps until it is told to stop.
fn steps(side: &mut Loose<'_>, seed: u64, stop: &AtomicBool) -> Same {
    let mut random = Random::new(seed);
    let flavour = side.flavour;
    let mut next: Vec<Op> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if random.once_in(16) {
            next = race(&mut random);
        }
        let op = next.pop();
        let op = op.unwrap_or_else(|| ops::choose(&mut random, 0, &side.known()).op);
        if matches!(op, Op::Fsync { .. }) {
            continue; // the disk's time, not the server's
        }
        let why = |why| format!("{flavour:?}: {op:?}: {why}");
        side.step(&op).map_err(why)?;
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
    // Not in vain: every kind of step was done, and the host's changes too.
    let kinds: BTreeSet<&String> = all.tally.keys().map(|(kind, _)| kind).collect();
    assert_eq!(kinds.len(), 24, "{kinds:?}");
    for kind in kinds {
        let done = all.tally.contains_key(&(kind.clone(), "done".into()));
        assert!(done, "{kind} never done: {:?}", all.tally);
    }
    assert!(all.changes > 0 && all.names > 0);
}

#[test]
fn storm_of_the_host_leads_no_client_out_and_blocks_nobody() {
    for way in WAYS {
        storm(way);
    }
}

// ---- under a tracer ----

/// What stands in `<>` behind the descriptors of a call as strace(1) prints it; strings are left out.
fn paths(line: &str) -> Vec<&str> {
    let (mut all, mut quoted, mut begun, mut escaped) = (Vec::new(), false, None, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'<' if !quoted => begun = Some(at + 1),
            b'>' if !quoted => all.extend(begun.take().map(|from| &line[from..at])),
            _ => {}
        }
    }
    all
}

/// inotify(7) tells nothing of a mere look at a file, nor of a path opened with O_PATH; the tracer does. Without
/// clones of what is served, since in a clone each path begins at its root.
#[test]
fn storm_under_a_tracer_shows_no_descriptor_outside() {
    umask(Mode::empty());
    let way = Way {
        by_parent: true,
        special: false,
    };
    let mut world = World::new(way);
    let trace = world.tree.outside("trace");
    let mut gofer = launch(&world, way)
        .by(
            "strace",
            &["-f", "-y", "-o", trace.to_str().expect("a path of ours")],
        )
        .start();
    let count = round(&mut world, &mut gofer, way, 1, Duration::from_secs(3));
    let exit = gofer.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    count.say("under strace");

    let top = world
        .tree
        .outside("")
        .to_str()
        .expect("a path of ours")
        .to_owned();
    let root = world
        .tree
        .root()
        .to_str()
        .expect("a path of ours")
        .to_owned();
    let (export, out) = (format!("{root}/export"), format!("{root}/aside/"));
    let text = fs::read_to_string(&trace).expect("read the trace");
    let mut lines = text.lines();
    assert!(
        lines.any(|line| line.contains("SECCOMP_SET_MODE_FILTER")),
        "no filter"
    );
    let (mut inside, mut left) = (0, 0);
    for line in lines {
        for path in paths(line) {
            let path = path.strip_suffix("(deleted)").unwrap_or(path);
            let number = path.strip_prefix(&out).and_then(|rest| rest.bytes().next());
            if number.is_some_and(|first| first.is_ascii_digit()) {
                left += 1; // a subtree that was moved out, with a fid in it
            } else if path == root || path == export || path.starts_with(&format!("{export}/")) {
                inside += 1;
            } else {
                assert!(!path.starts_with(&top), "{path}: {line}");
            }
        }
    }
    say(&format!(
        "hosttree: {inside} descriptors of calls lay inside, {left} in subtrees moved out, none elsewhere"
    ));
    assert!(inside > 0 && left > 0);
}

// ---- moved out ----

/// A fid keeps its directory, wherever the host puts it, and all that lies below. What lies beside or above it
/// there has no name for a client.
#[test]
fn directory_moved_out_is_walked_on_below_and_never_left() {
    for by_parent in [false, true] {
        let way = Way {
            by_parent,
            special: false,
        };
        let mut world = World::new(way);
        let mut gofer = launch(&world, way).start();
        let mut quiet = gofer.connect(0);
        let mut sides = [gofer.connect(1), linux(&mut gofer, 2)];
        for s in &mut sides {
            s.walk_to(ROOT, 2, "a").unwrap();
            s.walk_to(ROOT, 3, "a/b").unwrap();
        }
        world.canary.arm();
        fs::rename(world.tree.path("export/a"), world.tree.path("aside/0")).unwrap();
        for (round, s) in sides.iter_mut().enumerate() {
            // Below it all is served.
            s.walk_to(2, 4, "c").unwrap();
            s.lopen(4, 2).unwrap();
            assert_eq!(s.read_all(4).unwrap(), b"some text");
            s.walk_to(3, 5, "c").unwrap();
            let name = format!("made{round}");
            s.mkdir(2, name.as_bytes(), 0o755, NOID).unwrap();
            assert!(world.tree.path("aside/0").join(name).is_dir());
            // Its old name is free, and another directory there is another.
            refused(s.walk_to(ROOT, 6, "a"), Errno::ENOENT);
            // Up there is no way, from no fid.
            for fid in [ROOT, 2, 3, 5] {
                for names in [
                    &[&b".."[..]][..],
                    &[b"..", b"a"],
                    &[b"../a"],
                    &[b"."],
                    &[b"/"],
                ] {
                    refused(s.walk(fid, 6, names), Errno::EINVAL);
                    refused(s.multigetattr(fid, names), Errno::EINVAL);
                }
                refused(s.mkdir(fid, b"..", 0o755, NOID), Errno::EINVAL);
                refused(s.unlinkat(fid, b"..", 0x200), Errno::EINVAL);
                refused(s.renameat(fid, b"..", ROOT, b"x"), Errno::EINVAL);
                refused(s.renameat(ROOT, b"x", fid, b"../x"), Errno::EINVAL);
            }
            s.write(4, 0, Data(b"S")).unwrap();
            s.write(4, 0, Data(b"s")).unwrap();
        }
        quiet.getattr(ROOT, 0).unwrap();
        world.canary.check();
    }
}
