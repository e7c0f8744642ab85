//! A server with hostile clients, a quiet one that is served all along, and what is looked at afterwards.

use crate::harness::{
    Gofer, Launch, Mount, ROOT, Tree, meanwhile, resident_kib, settled, spec, until, write_spec,
};
use crate::p9::Client;
use crate::say;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the quiet connection may wait for an answer.
const WAIT: Duration = Duration::from_secs(10);
/// Memory above the idle figure that may stay, KiB.
const LEFT_KIB: u64 = 64;

/// What an item of the battery is made with.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Hostile connections to `m`, a tmpfs for reading and writing; attached.
    pub foes: usize,
    /// Others to `m` that have said nothing yet.
    pub strangers: usize,
    /// Limit of descriptors.
    pub nofile: u64,
}

impl Setting {
    pub fn foes(foes: usize) -> Setting {
        Setting {
            foes,
            strangers: 0,
            nofile: 20_000,
        }
    }
}

/// The running server, as the attackers have it.
pub struct World {
    pub tree: Tree,
    pub gofer: Gofer,
    pub foes: Vec<Client>,
    pub strangers: Vec<Client>,
    /// To `r`, which is read-only and has what [`crate::request::stage`] walks to.
    pub reader: Client,
    /// To the root: what other processes do to the files of `m` is done through it.
    pub host: Client,
}

/// Runs one item and looks at the server all along and afterwards. `attack` tells what it did.
#[track_caller]
pub fn item(name: &str, setting: Setting, attack: impl FnOnce(&mut World) -> String) {
    // One after the other, or the waits would be of all.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);

    let tree = furnished();
    let mut mounts = vec![Mount::bind("/q", &[]), Mount::bind("/r", &["ro"])];
    mounts.resize(2 + setting.foes + setting.strangers, Mount::bind("/m", &[]));
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
    let outside = look(&tree.outside(""));
    let mut gofer = Launch::new(&tree.bundle(), 1 + mounts.len())
        .tmpfs(&tree.path("m"), c"size=256m,nr_inodes=1m")
        .nofile(setting.nofile, setting.nofile)
        .start();
    let host = gofer.connect(0);
    let quiet = gofer.connect(1);
    let reader = gofer.connect(2);
    let foes = 3..3 + setting.foes;
    let strangers = foes.end..foes.end + setting.strangers;
    let mut world = World {
        tree,
        host,
        reader,
        foes: foes.map(|index| gofer.connect(index)).collect(),
        strangers: strangers.map(|index| gofer.client(index)).collect(),
        gofer,
    };
    let idle = settled(&world.gofer);
    let start = world.gofer.descriptors().expect("read /proc/PID/fd");

    let quiet = Mutex::new((quiet, Waits::default()));
    let begin = Instant::now();
    let mut after = None;
    meanwhile(
        || {
            sleep(Duration::from_millis(1));
            let mut quiet = quiet.lock().expect("the quiet connection");
            let (client, waits) = &mut *quiet;
            waits.measure(client);
        },
        || {
            let done = attack(&mut world);
            let World {
                tree,
                gofer,
                foes,
                strangers,
                reader,
                host,
            } = world;
            drop((foes, strangers, reader, host));
            until("the end of the connections", || {
                let log = gofer.stderr();
                let ended = log.matches("Connection on FD").count();
                (ended == mounts.len()).then_some(()).ok_or(log)
            });
            after = Some((done, tree, gofer, begin.elapsed()));
        },
    );
    let (done, tree, mut gofer, took) = after.expect("the attack is over");
    let (mut quiet, mut waits) = quiet.into_inner().expect("the quiet connection");

    waits.measure(&mut quiet);
    let end = until("descriptors", || {
        let now = gofer.descriptors().expect("read /proc/PID/fd");
        let is_old = now.iter().all(|fd| start.contains(fd));
        if is_old { Ok(now) } else { Err(now) }
    });
    until("memory", || {
        let now = resident_kib(&gofer);
        let is_back = now <= idle + LEFT_KIB;
        is_back.then_some(()).ok_or((now, idle))
    });
    let left = settled(&gofer);
    say(&format!(
        "{name}: {done}; {} ms; the others waited at most {:.1} ms of {} times; KiB {idle} idle, {} at most, {left} left; \
         descriptors {} before, {} after",
        took.as_millis(),
        waits.longest.as_secs_f64() * 1000.0,
        waits.count,
        gofer.status("VmHWM").trim_end_matches(" kB"),
        start.len(),
        end.len(),
    ));
    assert!(waits.longest < WAIT, "{waits:?}");
    let now = look(&tree.outside(""));
    let same = now
        .iter()
        .filter(|&(path, looks)| outside.get(path) == Some(looks));
    assert_eq!(
        (same.count(), now.len()),
        (outside.len(), outside.len()),
        "{now:?}\n{outside:?}"
    );
    drop(quiet);
    let exit = gofer.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
}

/// What there is, in and beside the tree that is served.
fn furnished() -> Tree {
    let tree = Tree::new();
    for dir in ["m", "q", "r/d", "kept"] {
        tree.dir(dir);
    }
    tree.file("r/in", "for all to read");
    tree.file("r/d/in", "for all to read");
    tree.link("r/l", "../../secrets");
    tree.file("kept/file", "CANARY");
    fs::create_dir(tree.outside("secrets")).expect("mkdir");
    fs::write(tree.outside("secrets/file"), "CANARY").expect("write a file");
    tree
}

#[derive(Debug, Default)]
struct Waits {
    count: u32,
    longest: Duration,
}

impl Waits {
    fn measure(&mut self, client: &mut Client) {
        let begin = Instant::now();
        client
            .getattr(ROOT, 0)
            .expect("the quiet connection is served");
        self.longest = self.longest.max(begin.elapsed());
        self.count += 1;
    }
}

/// All about a file that its use could change, but for the time of its last reading.
type Looks = (
    u64,
    u32,
    (u32, u32),
    u64,
    u64,
    (i64, i64),
    (i64, i64),
    Vec<u8>,
);

fn look(dir: &Path) -> BTreeMap<PathBuf, Looks> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("list a directory") {
            let path = entry.expect("list a directory").path();
            let stat = fs::symlink_metadata(&path).expect("lstat");
            let content = if stat.is_file() {
                fs::read(&path).expect("read a file")
            } else {
                Vec::new()
            };
            if stat.is_dir() {
                dirs.push(path.clone());
            }
            let looks = (
                stat.ino(),
                stat.mode(),
                (stat.uid(), stat.gid()),
                stat.nlink(),
                stat.size(),
                (stat.mtime(), stat.mtime_nsec()),
                (stat.ctime(), stat.ctime_nsec()),
                content,
            );
            all.insert(path, looks);
        }
    }
    all
}
