//! The workloads: which requests, and what they need to be there. Shared by the bench and the count of
//! system calls.

use super::harness::{ROOT, chmod};
use super::p9::{Data, NOID, O_RDONLY, O_RDWR, t};
use nix::libc::AT_REMOVEDIR;
use std::fs;
use std::path::Path;

/// A walked file that is not open.
const FILE: u32 = 2;
/// A file of 1 MiB, open for reading and writing.
const DATA: u32 = 3;
/// A directory where things are made and removed.
const MAKING: u32 = 4;
/// A directory with files that are renamed.
const RENAMING: u32 = 5;
/// An open directory.
pub const LIST: u32 = 6;
/// The fid of the first operation in flight; the others' are behind it.
const FIRST: u32 = 100;

/// Operations in flight, at the most.
pub const DEEPEST: usize = 16;
/// The largest payload that a frame of 1 MiB has room for, as Linux reckons it.
pub const MIB: u32 = (1 << 20) - 24;

/// What a workload asks of the server beyond 9P2000.L.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// Nothing.
    Any,
    /// gVisor's additions.
    Google,
    /// That it takes the client for Linux.
    Linux,
}

/// Requests that are sent at once and answered all.
#[derive(Debug)]
pub struct Stage {
    pub bytes: Vec<u8>,
    pub replies: usize,
}

/// A workload: a cycle of stages, which leaves everything as it was.
#[derive(Debug)]
pub struct Work {
    pub name: &'static str,
    /// Operations of a cycle.
    pub operations: usize,
    pub stages: Vec<Stage>,
    pub speaks: Speaks,
    /// A descriptor comes with replies of gVisor's protocol.
    pub donates: bool,
    /// Bytes of the largest frame, either way.
    pub frame: usize,
    /// It is done with many in flight too.
    pub is_deep: bool,
    /// How many times the limit it may take: one at a time, and with many in flight.
    pub within: (f64, f64),
}

/// Makes what the workloads need, below `root`, and `entries` files in the directory that is listed.
pub fn fill(root: &Path, entries: usize) {
    let make = |name: &str| fs::create_dir_all(root.join(name)).expect("mkdir");
    let file = |name: String, bytes: usize| {
        fs::write(root.join(name), vec![b'x'; bytes]).expect("write a file");
    };
    chmod(root, 0o755);
    make("s");
    make("r");
    make("l");
    make("1/2/3/4/5/6/7");
    file("1/2/3/4/5/6/7/8".into(), 10);
    file("g".into(), 10);
    file("data".into(), 1 << 20);
    for slot in 0..DEEPEST {
        file(format!("f{slot}"), 10);
        file(format!("r/a{slot}"), 10);
    }
    for number in 0..entries {
        file(format!("l/{number:06}"), 0);
    }
}

/// Removes what a workload left that stopped half-way.
pub fn tidy(root: &Path) {
    for slot in 0..DEEPEST {
        drop(fs::remove_file(root.join(format!("s/n{slot}"))));
        drop(fs::remove_dir(root.join(format!("s/d{slot}"))));
        drop(fs::rename(
            root.join(format!("r/b{slot}")),
            root.join(format!("r/a{slot}")),
        ));
    }
}

/// What is sent first, one at a time: walks to what the workloads need. The root is attached.
pub fn preparation() -> Vec<Vec<u8>> {
    let walk = |fid, name: &[u8]| t::walk(1, ROOT, fid, &[name]);
    vec![
        walk(FILE, b"g"),
        walk(DATA, b"data"),
        t::lopen(1, DATA, O_RDWR),
        walk(MAKING, b"s"),
        walk(RENAMING, b"r"),
        walk(LIST, b"l"),
        t::lopen(1, LIST, O_RDONLY),
    ]
}

/// One request for each operation in flight.
fn stage(depth: usize, request: impl Fn(u16, u32) -> Vec<u8>) -> Stage {
    let slots = 0..u16::try_from(depth).expect("a small depth");
    Stage {
        bytes: slots
            .flat_map(|slot| request(slot, FIRST + u32::from(slot)))
            .collect(),
        replies: depth,
    }
}

fn name(letter: char, slot: u16) -> Vec<u8> {
    format!("{letter}{slot}").into_bytes()
}

/// All workloads, with `depth` operations in flight.
pub fn works(depth: usize) -> Vec<Work> {
    let work = |name, stages| Work {
        name,
        operations: depth,
        stages,
        speaks: Speaks::Any,
        donates: false,
        frame: 8 << 10,
        is_deep: true,
        within: (1.05, 1.3),
    };
    let each = |request: &dyn Fn(u16, u32) -> Vec<u8>| stage(depth, request);
    let walk = || each(&|slot, fid| t::walk(slot, ROOT, fid, &[&name('f', slot)]));
    let clunk = || each(&|slot, fid| t::clunk(slot, fid));
    let open = || {
        let lopen = each(&|slot, fid| t::lopen(slot, fid, O_RDONLY));
        vec![walk(), lopen, clunk()]
    };
    let read = |name, count| Work {
        frame: count as usize + 24,
        is_deep: count <= 4096,
        ..work(name, vec![each(&|slot, _| t::read(slot, DATA, 0, count))])
    };
    let write = |name, count| {
        let data = vec![b'y'; count as usize];
        Work {
            frame: count as usize + 24,
            is_deep: count <= 4096,
            ..work(
                name,
                vec![each(&|slot, _| t::write(slot, DATA, 0, Data(&data)))],
            )
        }
    };
    let create = || {
        vec![
            each(&|slot, fid| t::walk(slot, MAKING, fid, &[])),
            each(&|slot, fid| t::lcreate(slot, fid, &name('n', slot), O_RDWR, 0o644, NOID)),
            each(&|slot, fid| t::write(slot, fid, 0, Data(&[b'z'; 4096]))),
            clunk(),
            each(&|slot, _| t::unlinkat(slot, MAKING, &name('n', slot), 0)),
        ]
    };
    let rename = |from, to| {
        each(&|slot, _| t::renameat(slot, RENAMING, &name(from, slot), RENAMING, &name(to, slot)))
    };
    let getattr = |slot, fid| t::getattr(slot, fid, u64::MAX);
    let eight: [&[u8]; 8] = [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"];
    vec![
        work("getattr", vec![each(&|slot, _| getattr(slot, FILE))]),
        work(
            "walk + getattr + clunk",
            vec![walk(), each(&getattr), clunk()],
        ),
        Work {
            speaks: Speaks::Google,
            ..work(
                "walkgetattr + clunk",
                vec![
                    each(&|slot, fid| t::walkgetattr(slot, ROOT, fid, &[&name('f', slot)])),
                    clunk(),
                ],
            )
        },
        Work {
            is_deep: false,
            within: (1.10, 1.3),
            ..work(
                "walk of 8 names + clunk",
                vec![each(&|slot, fid| t::walk(slot, ROOT, fid, &eight)), clunk()],
            )
        },
        Work {
            donates: true,
            within: (1.15, 3.0),
            ..work("walk + open + clunk", open())
        },
        Work {
            speaks: Speaks::Linux,
            within: (1.15, 1.3),
            ..work("walk + open + clunk, not donated", open())
        },
        read("read 4 KiB", 4 << 10),
        read("read 64 KiB", 64 << 10),
        read("read 1 MiB", MIB),
        write("write 4 KiB", 4 << 10),
        write("write 64 KiB", 64 << 10),
        write("write 1 MiB", MIB),
        Work {
            donates: true,
            within: (1.10, 1.3),
            ..work("create + write 4 KiB + clunk + unlink", create())
        },
        Work {
            within: (1.10, 1.3),
            ..work(
                "mkdir + rmdir",
                vec![
                    each(&|slot, _| t::mkdir(slot, MAKING, &name('d', slot), 0o755, NOID)),
                    each(&|slot, _| {
                        t::unlinkat(slot, MAKING, &name('d', slot), AT_REMOVEDIR.cast_unsigned())
                    }),
                ],
            )
        },
        Work {
            operations: 2 * depth,
            within: (1.10, 1.3),
            ..work("rename", vec![rename('a', 'b'), rename('b', 'a')])
        },
    ]
}
