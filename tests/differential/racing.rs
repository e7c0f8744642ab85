//! Steps of both connections while a thread changes the tree by the same names, as fast as it can. Now and then
//! it rests, and what the server says of the whole tree must be what the host says.

use crate::harness::{Launch, Mount, Tree, meanwhile, spec, write_spec};
use crate::host::{self, Host};
use crate::loose::{Flavour, Loose, Same, Tally, Watch, files};
use crate::ops::{self, ROOT, Random, SHARED};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Steps between two rests.
const INTERVAL: usize = 500;

/// Steps of a seed, with or without the clone of /proc/self/fd. What became of them, how many names were compared, and how often the host changed something.
pub fn run(
    seed: u64,
    count: usize,
    read_only: bool,
    by_parent: bool,
) -> Same<(Tally, usize, usize)> {
    let tree = Tree::new();
    for name in [SHARED, "a", "a/b"] {
        tree.dir(name);
    }
    fs::write(tree.path(SHARED).join("keep"), "kept").expect("write");
    let aside = tree.outside("aside");
    fs::create_dir(&aside).expect("mkdir");
    let options: &[&str] = if read_only { &["ro"] } else { &[] };
    let mount = Mount::bind(&format!("/{SHARED}"), options);
    let held = [tree.root(), tree.path(SHARED)].map(|path| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(&path, flags, Mode::empty()).expect("open a directory")
    });
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[mount]));
    let mut launch = Launch::new(&tree.bundle(), held.len());
    if by_parent {
        launch = launch.by("setpriv", &["--bounding-set=-sys_admin"]);
    }
    let mut gofer = launch.start();
    let clients = [0, 1].map(|index| gofer.connect(index));
    let watch = Watch::default();
    let mut sides: Vec<Loose<'_>> = clients
        .into_iter()
        .zip([false, read_only])
        .map(|(client, read_only)| {
            let flavour = Flavour {
                read_only,
                by_parent,
                ..Flavour::default()
            };
            Loose::new(client, ROOT, flavour, &watch)
        })
        .collect();

    let host = Host::new(&tree.root(), &aside);
    let (changes, wanted, turn) = (
        AtomicUsize::new(0),
        AtomicBool::new(false),
        Mutex::new(Random::new(!seed)),
    );
    let change = || {
        while wanted.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let mut random = turn.lock().expect("a lock");
        let targets = host::TARGETS;
        let random = &mut *random;
        let change = host::Chooser { random, targets }.change();
        changes.fetch_add(usize::from(host.apply(&change).is_ok()), Ordering::Relaxed);
    };
    let mut random = Random::new(seed);
    let mut compared = 0;
    let mut steps = || -> Same {
        for at in 1..=count {
            let connection = random.below(2);
            let side = &mut sides[connection];
            let step = ops::choose(&mut random, connection, &side.known());
            let why = |why| format!("step {at}, {connection}: {:?}: {why}", step.op);
            side.step(&step.op).map_err(why)?;
            if at % INTERVAL == 0 || at == count {
                wanted.store(true, Ordering::Relaxed);
                let resting = turn.lock().expect("a lock");
                let all = files(&[&tree.root(), &aside]);
                for (side, root) in sides.iter_mut().zip(&held) {
                    let why = |why| format!("at rest behind step {at}: {why}");
                    side.look_again(&all).map_err(why)?;
                    compared += side.view(ROOT, root).map_err(why)?;
                }
                drop(resting);
                wanted.store(false, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    let mut result = Ok(());
    meanwhile(change, || {
        result = steps();
        wanted.store(false, Ordering::Relaxed);
    });
    result?;
    let mut tally = Tally::new();
    for side in sides {
        for (outcome, count) in side.tally {
            *tally.entry(outcome).or_default() += count;
        }
    }
    let exit = gofer.exit();
    if exit.code != Some(0) {
        return Err(format!("the end of the program: {exit:?}"));
    }
    Ok((tally, compared, changes.into_inner()))
}
