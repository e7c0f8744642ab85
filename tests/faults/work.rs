//! Requests that do all that there is to do, each with the fids that it needs, on a tree that is made anew
//! for each; and that tree as the host sees it.

use crate::channel::{Channel, VERSION};
use crate::harness::{Gofer, Launch, Mount, Namespace, ROOT, Tree, spec, write_spec};
use crate::p9::{
    Client, Data, Fault, Frame, MSIZE, NOFID, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, RLERROR,
    SetAttr, t,
};
use linux_raw_sys::general::__NR_linkat;
use nix::errno::Errno;
use nix::libc::{AT_REMOVEDIR, O_APPEND, S_IFIFO, S_IFREG};
use nix::sys::stat::Mode;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, setxattr};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::slice::from_ref;

/// The tag of every request at hand.
pub(crate) const TAG: u16 = 77;
/// A user and a group of nobody else.
pub(crate) const USER: u32 = 1234;

/// The directory that everything happens in.
const W: u32 = 2;
/// Its file `f`, walked to.
const F: u32 = 3;
/// The same, open for reading and writing.
const OPEN: u32 = 4;
/// Its directory `d`.
const D: u32 = 5;
/// Where a request makes a fid.
const NEW: u32 = 6;
/// Fids are below this.
const FIDS: u32 = 10;

/// Where a request can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// Anywhere.
    Any,
    /// Where there are other users than root.
    Users,
    /// Where the host's sockets and FIFOs are served.
    Special,
}

/// A request that is done if nothing goes wrong.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) linux: bool,
    pub(crate) place: Where,
    /// Requests before it, which are done.
    pub(crate) before: Vec<Vec<u8>>,
    pub(crate) request: Vec<u8>,
    /// The first call of this number fails so, and the request is done another way.
    pub(crate) first: Option<(u32, Errno)>,
}

fn attr() -> SetAttr {
    SetAttr {
        mode: 0o640,
        size: 7,
        atime: 1,
        mtime: 2,
        ..SetAttr::default()
    }
}

fn walk(fid: u32, names: &[&[u8]]) -> Vec<u8> {
    t::walk(1, W, fid, names)
}

const MODE: u32 = 0x1;
const OWNER: u32 = 0x2 | 0x4;
const SIZE: u32 = 0x8;
const TIMES: u32 = 0x10 | 0x20 | 0x80 | 0x100;

/// gVisor's requests.
fn google() -> Vec<Case> {
    let case = |name, before: &[Vec<u8>], request| Case {
        name,
        linux: false,
        place: Where::Any,
        before: before.to_vec(),
        request,
        first: None,
    };
    let (f, d) = (walk(F, &[b"f"]), walk(D, &[b"d"]));
    let open = [walk(OPEN, &[b"f"]), t::lopen(1, OPEN, O_RDWR)];
    let opened = [f.clone(), open[0].clone(), open[1].clone()];
    let listed = [walk(NEW, &[]), t::lopen(1, NEW, O_RDONLY)];
    let w = walk(NEW, &[]);
    let change = |fid, valid| t::setattr(TAG, fid, valid, &attr());
    let xattr = (b"user.a".as_slice(), b"user.b".as_slice());
    let mut all = vec![
        case("Twalk", &[], t::walk(TAG, W, NEW, &[b"d", b"inner"])),
        case("Twalk of a clone", &[], t::walk(TAG, W, NEW, &[])),
        case(
            "Twalk to a known file",
            from_ref(&f),
            t::walk(TAG, W, NEW, &[b"f"]),
        ),
        case(
            "Twalkgetattr",
            &[],
            t::walkgetattr(TAG, W, NEW, &[b"d", b"inner"]),
        ),
        case(
            "Twalkgetattr of a clone",
            &[],
            t::walkgetattr(TAG, W, NEW, &[]),
        ),
        case("Tgetattr", from_ref(&f), t::getattr(TAG, F, u64::MAX)),
        case(
            "Tmultigetattr",
            &[],
            t::multigetattr(TAG, W, &[b"", b"d", b"inner"]),
        ),
        case("Tstatfs", &[], t::statfs(TAG, W)),
        case("Treadlink", &[walk(F, &[b"l"])], t::readlink(TAG, F)),
        case(
            "Tlopen for reading",
            from_ref(&f),
            t::lopen(TAG, F, O_RDONLY),
        ),
        case("Tlopen for both", from_ref(&f), t::lopen(TAG, F, O_RDWR)),
        case(
            "Tlopen with O_TRUNC",
            from_ref(&f),
            t::lopen(TAG, F, O_WRONLY | O_TRUNC),
        ),
        case(
            "Tlopen of a directory",
            from_ref(&d),
            t::lopen(TAG, D, O_RDONLY),
        ),
        case("Tread", &open, t::read(TAG, OPEN, 0, 5000)),
        case("Twrite", &open, t::write(TAG, OPEN, 3, Data(&[b'w'; 5000]))),
        case("Tfsync", &open, t::fsync(TAG, OPEN, 0)),
        case("Tallocate", &open, t::allocate(TAG, OPEN, 0, 0, 20_000)),
        case("Tflushf", &open, t::flushf(TAG, OPEN)),
        case("Tflush", &[], t::flush(TAG, 1)),
        case("Treaddir", &listed, t::readdir(TAG, NEW, 0, 4096)),
        case(
            "Treaddir from the start again",
            &[listed.to_vec(), vec![t::readdir(1, NEW, 0, 4096)]].concat(),
            t::readdir(TAG, NEW, 0, 4096),
        ),
        case(
            "Tsetattr of a directory's mode",
            from_ref(&d),
            change(D, MODE),
        ),
        case(
            "Tsetattrclunk",
            from_ref(&f),
            t::setattrclunk(TAG, F, MODE, &attr()),
        ),
        case(
            "Tlcreate",
            from_ref(&w),
            t::lcreate(TAG, NEW, b"new", O_RDWR, 0o6755, NOID),
        ),
        case("Tmkdir", &[], t::mkdir(TAG, W, b"new", 0o1750, NOID)),
        case("Tsymlink", &[], t::symlink(TAG, W, b"new", b"target", NOID)),
        case(
            "Tmknod",
            &[],
            t::mknod(TAG, W, b"new", S_IFREG | 0o640, 0, 0, NOID),
        ),
        case("Tlink", from_ref(&f), t::link(TAG, W, F, b"new")),
        case(
            "Trename",
            &[f.clone(), d.clone()],
            t::rename(TAG, F, D, b"new"),
        ),
        case(
            "Trename onto a file",
            &[f.clone(), walk(NEW, &[b"g"])],
            t::rename(TAG, F, W, b"g"),
        ),
        case(
            "Trenameat",
            from_ref(&d),
            t::renameat(TAG, W, b"f", D, b"new"),
        ),
        case(
            "Trenameat onto a file",
            &[],
            t::renameat(TAG, W, b"f", W, b"g"),
        ),
        case("Tunlinkat", &[], t::unlinkat(TAG, W, b"f", 0)),
        case(
            "Tunlinkat of a directory",
            &[],
            t::unlinkat(TAG, W, b"empty", AT_REMOVEDIR.cast_unsigned()),
        ),
        case("Tremove", from_ref(&f), t::remove(TAG, F)),
        case("Tclunk", &open, t::clunk(TAG, OPEN)),
        case(
            "Tclunk behind Txattrcreate",
            &[
                f.clone(),
                t::xattrcreate(1, F, xattr.1, 2, 0),
                t::write(1, F, 0, Data(b"xy")),
            ],
            t::clunk(TAG, F),
        ),
        case(
            "Tclunk that removes an attribute",
            &[f.clone(), t::xattrcreate(1, F, xattr.0, 0, 2)],
            t::clunk(TAG, F),
        ),
    ];
    for (fid, of) in [(F, "a walked file"), (OPEN, "an open file")] {
        let named = |what: &str| -> &'static str { format!("{what} of {of}").leak() };
        let mut add = |what: &str, request| all.push(case(named(what), &opened, request));
        for (what, valid) in [
            ("Tsetattr, mode", MODE),
            ("Tsetattr, owner", OWNER),
            ("Tsetattr, size", SIZE),
            ("Tsetattr, times", TIMES),
            ("Tsetattr, all", MODE | OWNER | SIZE | TIMES),
        ] {
            add(what, change(fid, valid));
        }
        add("Tgetxattr", t::getxattr(TAG, fid, xattr.0, 100));
        add("Tlistxattr", t::listxattr(TAG, fid, 1000));
        add("Tsetxattr", t::setxattr(TAG, fid, xattr.1, b"value", 0));
        add("Tremovexattr", t::removexattr(TAG, fid, xattr.0));
        add("Txattrwalk", t::xattrwalk(TAG, fid, NEW, xattr.0));
        add("Txattrwalk to the names", t::xattrwalk(TAG, fid, NEW, b""));
    }
    all.push(Case {
        first: Some((__NR_linkat, Errno::ENOENT)),
        ..case(
            "Tlink without the capability",
            from_ref(&f),
            t::link(TAG, W, F, b"new"),
        )
    });
    let users = |name, before: &[Vec<u8>], request| Case {
        place: Where::Users,
        ..case(name, before, request)
    };
    let owned = SetAttr {
        uid: USER,
        gid: USER,
        mode: 0o4755,
        ..attr()
    };
    all.extend([
        users(
            "Tucreate",
            &[w],
            t::ucreate(TAG, NEW, b"new", O_RDWR, 0o640, USER, USER),
        ),
        users("Tumkdir", &[], t::umkdir(TAG, W, b"new", 0o750, USER, USER)),
        users(
            "Tumknod",
            &[],
            t::umknod(TAG, W, b"new", S_IFREG | 0o640, 0, 0, USER, USER),
        ),
        users(
            "Tusymlink",
            &[],
            t::usymlink(TAG, W, b"new", b"target", USER, USER),
        ),
        users(
            "Tsetattr, mode, owner, size and times",
            &[f],
            t::setattr(TAG, F, MODE | OWNER | SIZE | TIMES, &owned),
        ),
    ]);
    for (kind, name) in ["a stream socket", "a datagram socket"].iter().enumerate() {
        all.push(Case {
            place: Where::Special,
            ..case(
                format!("Tlconnect to {name}").leak(),
                &[walk(F, &[[&b"stream"[..], b"datagram"][kind]])],
                t::lconnect(TAG, F, kind as u32),
            )
        });
    }
    all.push(Case {
        place: Where::Special,
        ..case(
            "Tlopen of a FIFO",
            &[walk(F, &[b"fifo"])],
            t::lopen(TAG, F, O_RDWR),
        )
    });
    all
}

/// Linux's, where it does something else than gVisor's.
fn linux() -> Vec<Case> {
    let case = |name, before: &[Vec<u8>], request| Case {
        name,
        linux: true,
        place: Where::Any,
        before: before.to_vec(),
        request,
        first: None,
    };
    let f = walk(F, &[b"f"]);
    let open = [walk(OPEN, &[b"f"]), t::lopen(1, OPEN, O_RDWR)];
    let w = walk(NEW, &[]);
    let locked = t::lock(1, OPEN, 1, 0, 0, 10, 1, b"client");
    let (before, request) = (
        [open.to_vec(), vec![locked.clone()]].concat(),
        t::lock(TAG, OPEN, 2, 0, 0, 10, 1, b"client"),
    );
    let mut all = vec![
        // Before any Tlopen of O_WRONLY, after which the host's file is opened with O_APPEND.
        case(
            "Twrite that is an append",
            &[
                walk(OPEN, &[b"f"]),
                t::lopen(1, OPEN, O_RDWR | O_APPEND.cast_unsigned()),
            ],
            t::write(TAG, OPEN, content().len() as u64, Data(&[b'w'; 5000])),
        ),
        case("Tattach", &[], t::attach(TAG, NEW, NOFID, b"", b"/", 0)),
        case(
            "Tattach below",
            &[],
            t::attach(TAG, NEW, NOFID, b"", b"/w/d", 0),
        ),
        case(
            "Twalk from a file created and open",
            &[
                t::walk(1, W, OPEN, &[]),
                t::lcreate(1, OPEN, b"new", O_RDWR, 0o640, NOID),
            ],
            t::walk(TAG, OPEN, NEW, &[]),
        ),
        case(
            "Tmkdir in an open directory",
            &[t::walk(1, W, OPEN, &[b"d"]), t::lopen(1, OPEN, O_RDONLY)],
            t::mkdir(TAG, OPEN, b"new", 0o1750, NOID),
        ),
        case("Tlock", &open, t::lock(TAG, OPEN, 1, 0, 0, 0, 1, b"client")),
        case("Tlock that gives back", &before, request),
        case(
            "Tgetlock",
            &open,
            t::getlock(TAG, OPEN, 1, 0, 0, 1, b"client"),
        ),
        case("Tclunk that ends a lock", &before, t::clunk(TAG, OPEN)),
        case(
            "Tlopen with O_APPEND",
            from_ref(&f),
            t::lopen(TAG, F, O_WRONLY | O_APPEND.cast_unsigned()),
        ),
        case(
            "Tsetattr, change time",
            &[f],
            t::setattr(TAG, W, 0x40, &attr()),
        ),
        case(
            "Tmknod of a FIFO",
            &[],
            t::mknod(TAG, W, b"new", S_IFIFO | 0o640, 0, 0, 0),
        ),
        case(
            "Tremove of a directory",
            &[walk(F, &[b"empty"])],
            t::remove(TAG, F),
        ),
        case(
            "Tlcreate for Linux",
            &[w],
            t::lcreate(TAG, NEW, b"new", O_RDWR, 0o640, 0),
        ),
    ];
    // Through fids that a user attached: what is made is that user's.
    let attached = [
        t::attach(1, NEW, NOFID, b"", b"/", USER),
        t::walk(1, NEW, NEW, &[b"w"]),
    ];
    let users = |name, more: &[Vec<u8>], request| Case {
        place: Where::Users,
        ..case(name, &[&attached, more].concat(), request)
    };
    all.extend([
        users(
            "Tlcreate by a user",
            &[],
            t::lcreate(TAG, NEW, b"new", O_RDWR, 0o6755, USER),
        ),
        users(
            "Tmkdir by a user",
            &[],
            t::mkdir(TAG, NEW, b"new", 0o750, USER),
        ),
        users(
            "Tsymlink by a user",
            &[],
            t::symlink(TAG, NEW, b"new", b"target", USER),
        ),
        users(
            "Tmknod by a user",
            &[],
            t::mknod(TAG, NEW, b"new", S_IFIFO | 0o6755, 0, 0, USER),
        ),
        users(
            "Twrite by a user to a set-id file",
            &[
                t::walk(1, NEW, OPEN, &[b"setid"]),
                t::lopen(1, OPEN, O_RDWR),
            ],
            t::write(TAG, OPEN, 0, Data(b"text")),
        ),
    ]);
    all
}

/// Every request that can be tried in one of these places.
pub(crate) fn cases(places: &[Where]) -> Vec<Case> {
    let mut all = google();
    all.extend(linux());
    all.retain(|case| places.contains(&case.place));
    all
}

// ---- the host's tree ----------------------------------------------------------------------

/// Content of the file.
pub(crate) fn content() -> Vec<u8> {
    (0..10_000u32).map(|at| (at / 7) as u8).collect()
}

/// Makes what the requests work on, in `w`.
pub(crate) fn fill(tree: &Tree) {
    tree.dir("w/d");
    tree.dir("w/empty");
    tree.file("w/f", content());
    tree.file("w/g", b"another");
    tree.file("w/d/inner", b"inner");
    tree.file("w/setid", b"program");
    crate::harness::chmod(&tree.path("w/setid"), 0o6755);
    tree.link("w/l", "target");
    let path = tree.path("w/f");
    setxattr(
        path.as_os_str().as_bytes(),
        "user.a",
        b"value",
        XattrFlags::empty(),
    )
    .expect("setxattr");
}

/// What a client or the host can see of a file, but for its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) links: u64,
    /// Times that the requests set, and not the host.
    pub(crate) times: (bool, bool),
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Everything below a directory, by its path.
pub(crate) type Sight = BTreeMap<String, Seen>;

pub(crate) fn sight(tree: &Tree) -> Sight {
    let mut all = Sight::new();
    look(&tree.path("w"), "w", &mut all);
    all
}

fn look(path: &Path, name: &str, all: &mut Sight) {
    let meta = fs::symlink_metadata(path).expect("lstat");
    let mut content = Vec::new();
    if meta.is_dir() {
        for entry in fs::read_dir(path).expect("list") {
            let entry = entry.expect("an entry").file_name();
            let entry = entry.to_str().expect("a name of ours");
            look(&path.join(entry), &format!("{name}/{entry}"), all);
        }
    } else if meta.is_symlink() {
        content = fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec();
    } else if meta.is_file() {
        content = fs::read(path).expect("read");
    }
    let seen = Seen {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: if meta.is_dir() { 1 } else { meta.nlink() },
        times: (meta.atime() == 1, meta.mtime() == 2),
        content,
        xattrs: xattrs(path),
    };
    all.insert(name.to_owned(), seen);
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let path = path.as_os_str().as_bytes();
    let mut list = [0; 4096];
    let Ok(len) = llistxattr(path, &mut list[..]) else {
        return Vec::new();
    };
    let names = list[..len].split(|&byte| byte == 0);
    let users = names.filter(|name| name.starts_with(b"user."));
    users
        .map(|name| {
            let mut value = [0; 4096];
            let len = lgetxattr(path, name, &mut value[..]).expect("lgetxattr");
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

/// Requests that can be done in part, and how.
const PARTS: &[(&str, &str)] = &[
    ("Tsetattr, all of a walked file", EACH),
    ("Tsetattr, all of an open file", EACH),
    ("Tsetattr, mode, owner, size and times", EACH),
    (
        "Twrite by a user to a set-id file",
        "the set-id bits go before anything is written",
    ),
    ("Tucreate", GIVEN),
    ("Tumkdir", GIVEN),
    ("Tumknod", GIVEN),
    ("Tusymlink", GIVEN),
    ("Tlcreate by a user", GIVEN),
    ("Tmkdir by a user", GIVEN),
    ("Tsymlink by a user", GIVEN),
    ("Tmknod by a user", GIVEN),
];
const EACH: &str = "mode, length, times, owner: one after the other";
const GIVEN: &str =
    "made as the server's own without set-id bits, then given to its owner, then the bits";

/// Whether the tree is one that is listed as half done: each thing that can be seen is as it was before or as
/// it is after, but that set-id bits may be missing, and what is new may be the server's still, without any.
pub(crate) fn is_half_done(case: &Case, before: &Sight, after: &Sight, now: &Sight) -> bool {
    if !PARTS.iter().any(|&(name, _)| name == case.name) {
        return false;
    }
    let names = |sight: &Sight| sight.keys().cloned().collect::<Vec<_>>();
    let known = [before, after].iter().any(|&end| names(end) == names(now));
    known
        && now.iter().all(|(name, seen)| {
            let is_new = !before.contains_key(name);
            let ends: Vec<&Seen> = [before, after]
                .iter()
                .filter_map(|end| end.get(name))
                .collect();
            let is = |same: &dyn Fn(&Seen) -> bool| ends.iter().any(|end| same(end));
            is(&|end| end.mode & !0o6000 == seen.mode & !0o6000)
                && is(&|end| {
                    let is_servers = is_new && seen.owner == (0, 0) && seen.mode & 0o6000 == 0;
                    end.owner == seen.owner || is_servers
                })
                && is(&|end| end.links == seen.links)
                && is(&|end| end.times == seen.times)
                && is(&|end| end.content == seen.content)
                && is(&|end| end.xattrs == seen.xattrs)
        })
}

pub(crate) fn difference(wanted: &Sight, now: &Sight) -> Vec<String> {
    let names: BTreeSet<&String> = wanted.keys().chain(now.keys()).collect();
    let brief = |sight: &Sight, name: &String| {
        sight.get(name).map(|seen| {
            let mut seen = seen.clone();
            seen.content.truncate(20);
            seen
        })
    };
    names
        .into_iter()
        .filter(|&name| wanted.get(name) != now.get(name))
        .map(|name| {
            format!(
                "{name}: {:?}, not {:?}",
                brief(now, name),
                brief(wanted, name)
            )
        })
        .collect()
}

// ---- the program ----------------------------------------------------------------------------

/// A program with a connection that has bad luck, and another one that must not notice.
pub(crate) struct World {
    pub(crate) tree: Tree,
    pub(crate) gofer: Gofer,
    pub(crate) victim: Client,
    pub(crate) witness: Client,
    /// The victim's, where its requests go through one.
    pub(crate) channel: Option<Channel>,
    linux: bool,
    _listeners: Vec<Box<dyn std::any::Any>>,
}

/// How a program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) namespace: Option<Namespace>,
    pub(crate) special: bool,
    pub(crate) debug: bool,
    /// Requests go through a channel.
    pub(crate) channel: bool,
}

/// With nothing special.
pub(crate) const PLAIN: Start = Start {
    namespace: None,
    special: false,
    debug: false,
    channel: false,
};

impl World {
    /// A program, and both connections attached.
    #[track_caller]
    pub(crate) fn new(start: Start) -> World {
        let mut world = World::begun(start);
        for client in [&mut world.victim, &mut world.witness] {
            client.hello(ROOT).expect("attach");
        }
        if start.channel {
            world.victim.version(MSIZE, VERSION).expect("Tversion");
            world.channel = Some(Channel::open(&mut world.victim, 0).expect("a channel"));
        }
        world
    }

    /// A program that has heard nothing yet.
    pub(crate) fn begun(start: Start) -> World {
        let tree = Tree::new();
        tree.dir("m");
        write_spec(
            &tree.bundle(),
            &spec(&tree.root(), false, &[Mount::bind("/m", &[])]),
        );
        let mut globals = Vec::new();
        let log = format!("--log={}", tree.outside("log").display());
        if start.debug {
            globals.extend(["--debug", &log]);
        }
        if start.special {
            globals.extend(["--host-uds=open", "--host-fifo=open"]);
        }
        let mut launch = Launch::new(&tree.bundle(), 2).through("gofer", &globals);
        if start.channel {
            launch = launch.with(&["--channel-spin=1000"]); // under a tracer gaps are longer
        }
        if let Some(namespace) = start.namespace {
            launch = launch.namespace(namespace);
        }
        let mut gofer = launch.start();
        let (victim, witness) = (gofer.client(0), gofer.client(1));
        World {
            tree,
            gofer,
            victim,
            witness,
            channel: None,
            linux: false,
            _listeners: Vec::new(),
        }
    }

    /// Makes the tree anew, and fids for a case.
    #[track_caller]
    pub(crate) fn prepare(&mut self, case: &Case) {
        if self.tree.path("w").exists() {
            fs::remove_dir_all(self.tree.path("w")).expect("remove w");
        }
        fill(&self.tree);
        if case.place == Where::Special {
            nix::unistd::mkfifo(&self.tree.path("w/fifo"), Mode::S_IRWXU).expect("mkfifo");
            let stream = UnixListener::bind(self.tree.path("w/stream")).expect("bind");
            let datagram = std::os::unix::net::UnixDatagram::bind(self.tree.path("w/datagram"));
            self._listeners = vec![Box::new(stream), Box::new(datagram.expect("bind"))];
        }
        if case.linux != self.linux {
            let version: &[u8] = if case.linux {
                b"9P2000.L"
            } else {
                b"9P2000.L.Google.7"
            };
            self.victim.version(MSIZE, version).expect("Tversion");
            self.linux = case.linux;
        }
        self.ask(&t::walk(1, ROOT, W, &[b"w"]), case.name);
        for request in &case.before {
            self.ask(request, case.name);
        }
    }

    /// A request of the preparation.
    #[track_caller]
    fn ask(&mut self, request: &[u8], name: &str) {
        self.victim.send(request).expect("send");
        let reply = self.victim.recv().expect("a reply");
        if reply.kind == RLERROR {
            panic!("{name}, message {}: {:?}", request[4], reply.errno());
        }
    }

    /// Sends a case's request; what comes of it.
    pub(crate) fn send(&mut self, case: &Case) -> Outcome {
        if let Some(channel) = &self.channel {
            return match channel.exchange(&case.request) {
                Ok(reply) => Outcome::of(case, reply),
                Err(Fault::Closed) => Outcome::Lost,
                Err(fault) => Outcome::Other(fault.to_string()),
            };
        }
        if self.victim.send(&case.request).is_err() {
            return Outcome::Lost;
        }
        match self.victim.recv() {
            Ok(reply) => Outcome::of(case, reply),
            Err(Fault::Closed) => Outcome::Lost,
            Err(fault) => Outcome::Other(fault.to_string()),
        }
    }

    /// Gives up whatever fids there are.
    #[track_caller]
    pub(crate) fn clean(&mut self) {
        let requests: Vec<u8> = (W..FIDS).flat_map(|fid| t::clunk(1, fid)).collect();
        self.victim.send(&requests).expect("send");
        for _ in W..FIDS {
            let reply = self.victim.recv().expect("a reply");
            if reply.kind == RLERROR {
                assert_eq!(reply.errno(), Errno::EBADF);
            }
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Rlerror on the request's tag.
    Told(Errno),
    /// The connection has ended.
    Lost,
    Other(String),
}

impl Outcome {
    fn of(case: &Case, reply: Frame) -> Outcome {
        if reply.tag != TAG {
            return Outcome::Other(format!("{reply:?}"));
        }
        match reply.kind {
            RLERROR => Outcome::Told(reply.errno()),
            kind if kind == case.request[4] + 1 => Outcome::Done,
            _ => Outcome::Other(format!("{reply:?}")),
        }
    }
}
