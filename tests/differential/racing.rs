//! Steps of both connections while a thread changes the tree by the same names, as fast as it can. Now and then
//! it rests, and what the server says of the whole tree must be what the host says.

use crate::harness::{Mount, Tree, serve_mounts};
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

/// Steps of a seed. What became of them, how many names were compared, and how often the host changed something.
pub fn run(seed: u64, count: usize, read_only: bool) -> Same<(Tally, usize, usize)> {
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
    let (mut gofer, clients) = serve_mounts(&tree, false, &[mount]);
    let watch = Watch::default();
    let mut sides: Vec<Loose<'_>> = clients
        .into_iter()
        .zip([false, read_only])
        .map(|(client, read_only)| {
            let flavour = Flavour {
                read_only,
                ..Flavour::default()
            };
            Loose::new(client, ROOT, flavour, &watch)
        })
        .collect();

    let host = Host::new(&tree.root(), &aside);
    let (stop, changes, turn) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(()));
    let mut compared = 0;
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(!seed);
            while !stop.load(Ordering::Relaxed) {
                let _turn = turn.lock().expect("a lock");
                let mut chooser = host::Chooser {
                    random: &mut random,
                    targets: host::TARGETS,
                };
                if host.apply(&chooser.change()).is_ok() {
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut random = Random::new(seed);
        let mut steps = || -> Same {
            for at in 1..=count {
                let connection = random.below(2);
                let side = &mut sides[connection];
                let step = ops::choose(&mut random, connection, &side.known());
                let why = |why| format!("step {at}, {connection}: {:?}: {why}", step.op);
                side.step(&step.op).map_err(why)?;
                if at % INTERVAL == 0 || at == count {
                    let _turn = turn.lock().expect("a lock");
                    let all = files(&[&tree.root(), &aside]);
                    for (side, root) in sides.iter_mut().zip(&held) {
                        let why = |why| format!("at rest behind step {at}: {why}");
                        side.look_again(&all).map_err(why)?;
                        compared += side.view(ROOT, root).map_err(why)?;
                    }
                }
            }
            Ok(())
        };
        let result = steps();
        stop.store(true, Ordering::Relaxed);
        result
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
