//! The launch of the runtimes of 2019 to 2022 (docs/launch.md 1.4, 2.1, 3): in namespaces of its own, with the
//! descriptors that they hand over.

use crate::harness::{Exit, Gofer, Launch, Mount, ROOT, Tree, meanwhile, serve, spec};
use crate::p9::{Client, NOFID, O_RDONLY, O_RDWR, O_WRONLY, PATIENCE, RLERROR, SetAttr, refused};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

// ---- as a runtime starts it ----

/// Numbers of the descriptors, in the order in which the runtime hands them over.
const DEBUG_LOG: RawFd = 3;
const SPEC: RawFd = 4;
const LIST: RawFd = 5;
const FIRST_SOCKET: RawFd = 6;
/// Nobody's: a descriptor that the runtime leaks.
const STRAY: RawFd = 100;

struct Later {
    spec: Value,
    globals: Vec<String>,
    flags: Vec<String>,
    namespaces: CloneFlags,
    is_unmapped: bool,
    sockets: usize,
    /// Whether the runtime wants the mount list.
    has_list: bool,
    handed: Vec<(OwnedFd, RawFd)>,
}

/// A started one: itself, the end of the list that the sandbox reads, and its log.
struct Started {
    gofer: Gofer,
    list: File,
    log: File,
}

fn later(tree: &Tree, readonly: bool, mounts: &[Mount]) -> Later {
    Later {
        spec: spec(&tree.root(), readonly, mounts),
        globals: [
            "--root=/run/runsc",
            "--debug=true",
            "--network=none",
            "--debug-log-fd=3",
        ]
        .map(String::from)
        .into(),
        flags: Vec::new(),
        namespaces: CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
        is_unmapped: false,
        sockets: 1 + mounts.len(),
        has_list: true,
        handed: Vec::new(),
    }
}

impl Later {
    fn global(mut self, word: &str) -> Later {
        self.globals.push(word.into());
        self
    }

    fn flag(mut self, word: &str) -> Later {
        self.flags.push(word.into());
        self
    }

    /// In a user namespace of one id.
    fn rootless(mut self) -> Later {
        self.namespaces |= CloneFlags::CLONE_NEWUSER;
        self
    }

    fn sockets(mut self, sockets: usize) -> Later {
        self.sockets = sockets;
        self
    }

    fn edit(mut self, change: impl FnOnce(&mut Value)) -> Later {
        change(&mut self.spec);
        self
    }

    fn start(self, tree: &Tree) -> Started {
        self.start_by(tree, &[])
    }

    /// Started by a program that executes the words behind its own.
    fn start_by(self, tree: &Tree, by: &[&str]) -> Started {
        let spec_path = tree.bundle().join("config.json");
        fs::write(&spec_path, self.spec.to_string()).unwrap();
        let (list, list_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let log = File::from(memfd_create("log", MFdFlags::MFD_CLOEXEC).unwrap());
        let bundle = tree.bundle();
        let mut words = vec!["--bundle".to_owned(), bundle.to_str().unwrap().to_owned()];
        words.push(format!("--spec-fd={SPEC}"));
        if self.has_list {
            words.push(format!("--mounts-fd={LIST}"));
        }
        words.extend(
            (FIRST_SOCKET..)
                .take(self.sockets)
                .map(|fd| format!("--io-fds={fd}")),
        );
        words.extend(self.flags);
        let globals: Vec<&str> = self.globals.iter().map(String::as_str).collect();
        let handed = [
            (log.try_clone().unwrap().into(), DEBUG_LOG),
            (File::open(spec_path).unwrap().into(), SPEC),
            (list_end, LIST),
        ];
        let mut launch = Launch::raw(&words)
            .through("runsc-gofer", &globals)
            .sockets(self.sockets)
            .first(FIRST_SOCKET)
            .strays(&[STRAY])
            .hand(handed.into_iter().chain(self.handed))
            .namespaces(self.namespaces);
        if self.is_unmapped {
            launch = launch.unmapped();
        }
        if let Some((program, words)) = by.split_first() {
            launch = launch.by(program, words);
        }
        let gofer = launch.start();
        Started {
            gofer,
            list: list.into(),
            log,
        }
    }
}

impl Started {
    /// The list, read to its end.
    fn read_list(&mut self) -> String {
        let mut text = String::new();
        self.list.read_to_string(&mut text).unwrap();
        text
    }

    /// The destinations of the list.
    fn destinations(&mut self) -> Vec<String> {
        let text = self.read_list();
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|_| {
            panic!("{text:?}; {}", self.log());
        });
        let all = list.as_array().unwrap().iter();
        all.map(|mount| mount["destination"].as_str().unwrap().to_owned())
            .collect()
    }

    fn log(&self) -> String {
        let mut bytes = vec![0; self.log.metadata().unwrap().len() as usize];
        self.log.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[track_caller]
    fn connect(&mut self, index: usize) -> Client {
        let mut client = self.gofer.client(index);
        if let Err(fault) = client.hello(ROOT) {
            panic!("connection {index}: {fault}; {}", self.log());
        }
        client
    }

    /// The process itself, the first of its namespace.
    fn pid(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.gofer.pid());
        fs::read_to_string(children)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid())).unwrap()
    }

    /// What `look` sees in its mount namespace, above the empty root, and the mounts there.
    fn inside<T: Send>(&self, look: impl FnOnce() -> T + Send) -> (String, T) {
        let namespace = File::open(format!("/proc/{}/ns/mnt", self.pid())).unwrap();
        let inside = || {
            let own = File::open("/proc/thread-self").unwrap();
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNS).unwrap();
            let mounts = openat(&own, "mountinfo", OFlag::O_RDONLY, Mode::empty()).unwrap();
            let mut text = String::new();
            File::from(mounts).read_to_string(&mut text).unwrap();
            (text, look())
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// The mounts of what is served, a line each.
    fn mountinfo(&self) -> Vec<String> {
        let (text, ()) = self.inside(|| ());
        let served = text.lines().filter(|line| line.contains(" /root"));
        served.map(String::from).collect()
    }

    /// Where something is mounted in the root that is served, with the options of the mount.
    fn mounts(&self) -> Vec<(String, String)> {
        let lines = self.mountinfo();
        let fields = lines.iter().map(|line| line.split(' ').collect::<Vec<_>>());
        let places = fields.filter_map(|of| {
            let place = of[4].strip_prefix("/root")?;
            let place = if place.is_empty() { "/" } else { place };
            Some((place.to_owned(), of[5].to_owned()))
        });
        places.collect()
    }

    /// Asserts that it ends with 128 and one line in its log that says why.
    #[track_caller]
    fn expect_end(&mut self, text: &str) {
        let exit = self.gofer.exit();
        let log = self.log();
        assert_eq!(exit.code, Some(128), "{exit:?}; {log}");
        let fatal: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("FATAL ERROR: "))
            .collect();
        assert_eq!(fatal.len(), 1, "{log}");
        assert!(fatal[0].contains(text), "wanted {text:?}: {}", fatal[0]);
    }

    /// Ends the connections, and asserts that it ends well.
    #[track_caller]
    fn finish(mut self, clients: Vec<Client>) -> (Exit, String) {
        drop(clients);
        self.gofer.sockets.clear();
        let exit = self.gofer.exit();
        let log = self.log();
        assert_eq!(exit.code, Some(0), "{exit:?}; {log}");
        assert!(log.contains("All 9P servers exited."), "{log}");
        (exit, log)
    }
}

/// A bind mount of a directory beside the root.
fn bind(tree: &Tree, source: &str, destination: &str, options: &[&str]) -> Mount {
    Mount {
        source: tree.outside(source).to_str().unwrap().into(),
        ..Mount::bind(destination, options)
    }
}

/// A tree with sources beside the root: a directory `src` with a file `here`, and a file `single`.
fn with_sources() -> Tree {
    let tree = Tree::new();
    fs::create_dir(tree.outside("src")).unwrap();
    fs::write(tree.outside("src/here"), "source").unwrap();
    fs::write(tree.outside("single"), "one file").unwrap();
    tree
}

/// The mounts of our own namespace; those of a test that runs beside us are in one of its own.
fn host_mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

// ---- command lines of each period ----

/// Flags that every runtime from 2019-02 to 2020-08 passes, at their defaults or not.
const ALWAYS: [&str; 20] = [
    "--root=/var/run/docker/runtime-runsc/moby",
    "--debug=true",
    "--log=/dev/null",
    "--log-format=json",
    "--debug-log=/dev/null",
    "--debug-log-format=text",
    "--file-access=exclusive",
    "--overlay=false",
    "--network=sandbox",
    "--log-packets=false",
    "--platform=ptrace",
    "--strace=false",
    "--strace-syscalls=",
    "--strace-log-size=1024",
    "--watchdog-action=LogWarning",
    "--panic-signal=-1",
    "--profile=false",
    "--net-raw=false",
    "--num-network-channels=1",
    "--rootless=false",
];

/// A time, whether its runtimes pass [`ALWAYS`], and what else they pass. Put together from what the runtimes of that
/// time can pass (docs/launch.md 1.3, 1.4).
const PERIODS: [(&str, bool, &[&str]); 10] = [
    // Before 2019-03-18 there is no mount list.
    ("2019-02", true, &[]),
    ("2019-06", true, &[]),
    ("one day of 2019-08", true, &["--refs-leak-mode=disabled"]),
    ("2019-10 to 2020-08", true, &["--overlayfs-stale-read=true"]),
    (
        "one day of 2019-12",
        true,
        &["--overlayfs-stale-read=false", "--cpu-num-min=2"],
    ),
    (
        "2020-09 to 2021-06",
        false,
        &["--overlayfs-stale-read=true", "--root=/r"],
    ),
    (
        "2021-03 to 2022-06",
        false,
        &[
            "--verity=true",
            "--root=/run/containerd/runsc/k8s.io",
            "--log-format=json",
        ],
    ),
    (
        "2021-08 to 2022-08",
        false,
        &["--controls=all", "--root=/r", "--profile=true"],
    ),
    (
        "2022-12",
        false,
        &[
            "--root=/r",
            "--debug-log=/dev/null",
            "--network=none",
            "--lisafs=false",
        ],
    ),
    // No runtime of these years has it, and one of a fork may.
    (
        "a fork",
        false,
        &[
            "--root=/r",
            "--lisafs=false",
            "--its-own=x",
            "--file-access=shared",
            "--host-uds=open",
        ],
    ),
];

#[test]
fn command_lines_of_2019_to_2022_start_and_serve_in_their_namespaces() {
    for (when, passes_all, more) in PERIODS {
        let tree = with_sources();
        tree.dir("etc");
        tree.file("etc/passwd", b"root");
        let mounts = [
            Mount {
                kind: "proc".into(),
                source: "proc".into(),
                ..Mount::bind("/proc", &[])
            },
            bind(&tree, "src", "/mnt1", &["rbind", "rw"]),
            bind(&tree, "src", "/mnt2", &["rbind", "ro"]),
        ];
        let before = host_mounts();
        let mut later = later(&tree, false, &mounts).sockets(3);
        let always = if passes_all { &ALWAYS[..] } else { &[] };
        let globals = always.iter().chain(more).chain(&["--debug-log-fd=3"]);
        later.globals = globals.map(|&word| word.into()).collect();
        later.has_list = when != "2019-02";
        let has_list = later.has_list;

        let mut s = later.start(&tree);

        let source = tree.outside("src");
        let (source, proc) = (source.display(), tree.bundle().join("proc"));
        let wanted = format!(
            "[{{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"{}\"}},\
             {{\"destination\":\"/mnt1\",\"type\":\"bind\",\"source\":\"{source}\",\"options\":[\"rbind\",\"rw\"]}},\
             {{\"destination\":\"/mnt2\",\"type\":\"bind\",\"source\":\"{source}\",\"options\":[\"rbind\",\"ro\"]}}]",
            proc.display()
        );
        if has_list {
            assert_eq!(s.read_list(), wanted, "{when}: {}", s.log());
        }
        let is_ignored = s.log().contains("Unknown flag is ignored: -its-own\n");
        assert_eq!(is_ignored, when == "a fork", "{when}: {}", s.log());
        let mut clients: Vec<Client> = (0..3).map(|index| s.connect(index)).collect();
        let donated = clients[0].open(ROOT, 2, "etc/passwd", O_RDWR).unwrap();
        assert!(donated.fd.is_some(), "{when}");
        clients[0].walk_to(ROOT, 3, "mnt1/here").unwrap();
        clients[1].mkdir(ROOT, b"made", 0o755, NOFID).unwrap();
        assert!(tree.outside("src/made").is_dir());
        refused(clients[2].mkdir(ROOT, b"new", 0o755, NOFID), Errno::EROFS);

        let status = s.proc("status");
        let field = |name: &str| crate::harness::status_field(&status, name).unwrap();
        assert!(field("NSpid").ends_with("\t1"), "{when}: {status}");
        assert_eq!(field("CapEff"), "000000000000001f", "{when}");
        assert_eq!(field("CapBnd"), "000000000004001f", "{when}");
        assert_eq!(
            (field("Seccomp"), field("Umask")),
            ("2".into(), "0000".into())
        );
        let comm = s.proc("cmdline");
        assert!(comm.starts_with("runsc-gofer\0"), "{when}: {comm}");
        assert!(!Path::new(&format!("/proc/{}/fd/{STRAY}", s.pid())).exists());
        let root = fs::read_dir(format!("/proc/{}/root", s.pid())).unwrap();
        assert_eq!(root.count(), 0, "{when}");
        assert!(!s.log().contains("held by mounts"), "{when}: {}", s.log());
        let places: Vec<String> = s.mounts().into_iter().map(|(place, _)| place).collect();
        assert_eq!(places, ["/", "/mnt1", "/mnt2"], "{when}");
        assert_eq!(host_mounts(), before, "{when}");
        s.finish(clients);
        assert_eq!(host_mounts(), before, "{when}");
    }
}

/// Nobody made a namespace for it, as no runtime does: the host's mounts stay as they are all the same.
#[test]
fn a_start_in_the_hosts_own_namespaces_leaves_its_mounts_alone() {
    let tree = with_sources();
    let before = host_mounts();
    let mut launch = later(&tree, false, &[bind(&tree, "src", "/m", &["rbind"])]);
    launch.namespaces = CloneFlags::empty();
    let mut s = launch.start(&tree);
    assert_eq!(s.destinations(), ["/m"]);
    let mut client = s.connect(1);
    client.walk_to(ROOT, 2, "here").unwrap();
    assert_eq!(host_mounts(), before);
    let rest = s.connect(0);
    s.finish(vec![client, rest]);
    assert_eq!(host_mounts(), before);
}

// ---- order, and what is entered ----

/// As in the launch of 2018: whatever takes a privilege is done before that privilege goes, and nothing of it
/// behind the filter.
#[test]
fn the_root_is_made_before_capabilities_go_then_comes_chroot_then_the_filter() {
    let tree = with_sources();
    let mounts = [bind(&tree, "src", "/m", &["rbind", "ro"])];
    let trace = tree.outside("trace");
    let calls = "trace=unshare,mount,move_mount,pivot_root,umount2,capset,chroot,mount_setattr,fsmount,\
        landlock_restrict_self,seccomp";
    let trace_word = trace.to_str().unwrap();
    let by = ["strace", "-f", "-qq", "-o", trace_word, "-e", calls];

    let mut s = later(&tree, false, &mounts).start_by(&tree, &by);
    let mut clients = vec![s.connect(0), s.connect(1)];
    clients[1].walk_to(ROOT, 2, "here").unwrap();
    s.finish(clients);

    let text = fs::read_to_string(trace).unwrap();
    let names = text.lines().filter_map(|line| line.split_once('('));
    let mut called: Vec<&str> = names
        .map(|(name, _)| name.rsplit(' ').next().unwrap())
        .collect();
    called.dedup();
    let wanted = [
        "unshare",
        "mount",
        "move_mount",
        "pivot_root",
        "umount2",
        "mount", // changed: propagation, read-only
        "capset",
        "chroot",
        "mount_setattr", // of the clones that are served
        "fsmount",       // an empty directory
        "chroot",
        "capset", // without CAP_SYS_CHROOT and CAP_SYS_ADMIN
        "landlock_restrict_self",
        "seccomp",
    ];
    assert_eq!(called, wanted, "{text}");
}

/// Seen by one who enters its mount namespace, above the root that it has changed to.
#[test]
fn its_namespace_holds_a_proc_of_its_own_and_what_is_served_and_nothing_of_the_host() {
    let tree = with_sources();
    let mounts = [bind(&tree, "src", "/m", &["rbind"])];
    let mut s = later(&tree, false, &mounts).start(&tree);
    let clients = vec![s.connect(0), s.connect(1)];

    let (text, (at_root, in_proc)) = s.inside(|| {
        let names = |place: &str| {
            let entries = fs::read_dir(place).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        (names("/"), names("/proc"))
    });

    let mut mounts: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    mounts.sort_by_key(|fields| fields[4]);
    let places: Vec<&str> = mounts.iter().map(|fields| fields[4]).collect();
    assert_eq!(places, ["/", "/proc", "/root", "/root/m"], "{text}");
    for (fields, options, kind) in [
        (&mounts[0], "rw,nosuid,nodev,noexec", "tmpfs"),
        (&mounts[1], "ro,nosuid,nodev,noexec", "proc"),
    ] {
        assert!(fields[5].starts_with(options), "{text}");
        let mut behind = fields.iter().skip_while(|&&field| field != "-");
        assert_eq!(behind.nth(1), Some(&kind), "{text}");
    }
    assert_eq!(at_root, ["proc", "root"]);
    let processes = in_proc.iter().filter(|name| name.parse::<u32>().is_ok());
    assert_eq!(processes.collect::<Vec<_>>(), ["1"]);
    s.finish(clients);
}

/// A runtime may have read or written it just before.
#[test]
fn a_spec_is_read_from_its_start_wherever_its_descriptor_stands() {
    let tree = with_sources();
    let mounts = [bind(&tree, "src", "/m", &["rbind"])];
    let mut file = File::from(memfd_create("spec", MFdFlags::MFD_CLOEXEC).unwrap());
    let text = spec(&tree.root(), false, &mounts).to_string();
    file.write_all(text.as_bytes()).unwrap();
    assert_eq!(file.stream_position().unwrap(), text.len() as u64);
    // The bundle's own names no mount.
    let mut launch = later(&tree, false, &[]).sockets(2).flag("--spec-fd=50");
    launch.handed.push((file.into(), 50));

    let mut s = launch.start(&tree);

    assert_eq!(s.destinations(), ["/m"]);
    let mut clients = vec![s.connect(0), s.connect(1)];
    clients[1].walk_to(ROOT, 2, "here").unwrap();
    s.finish(clients);
}

#[test]
fn standard_error_is_the_debug_log_then() {
    let tree = Tree::new();
    let mut s = later(&tree, false, &[]).start(&tree);
    let client = s.connect(0);
    let standard_error = fs::metadata(format!("/proc/{}/fd/2", s.pid())).unwrap();
    let log = s.log.metadata().unwrap();
    assert_eq!(
        (standard_error.dev(), standard_error.ino()),
        (log.dev(), log.ino())
    );
    s.finish(vec![client]);
}

/// Standard error is told of everything, also where its number is a log's.
#[test]
fn a_log_at_standard_error_and_also_there_is_served() {
    let tree = Tree::new();
    for log in ["--log-fd=2", "--debug-log-fd=2"] {
        let mut s = later(&tree, false, &[])
            .global(log)
            .global("--alsologtostderr")
            .start(&tree);
        assert_eq!(s.read_list(), "[]", "{log}");
        let client = s.connect(0);
        drop(client);
        s.gofer.sockets.clear();
        let exit = s.gofer.exit();
        assert_eq!(exit.code, Some(0), "{log}: {exit:?}");
        assert!(exit.stderr.contains("All 9P servers exited."), "{log}");
    }
}

// ---- mount points ----

#[test]
fn symlinked_destinations_are_resolved_inside_the_root_and_told_without_symlinks() {
    let tree = with_sources();
    for name in ["real", "deep/er"] {
        tree.dir(name);
    }
    tree.link("absolute", "/real");
    tree.link("relative", "deep/../real");
    tree.link("climbing", "../../../../../real");
    tree.link("chain", "/climbing/./.");
    let asked = [
        ("/absolute/a", "/real/a"),
        ("/relative/b", "/real/b"),
        ("/climbing/c", "/real/c"),
        ("/chain/d", "/real/d"),
        ("/deep/er/../e", "/deep/e"),
        ("/../../deep//f/", "/deep/f"),
        ("/deep/./er", "/deep/er"),
    ];
    let mounts: Vec<Mount> = asked
        .iter()
        .map(|(to, _)| bind(&tree, "src", to, &["rbind"]))
        .collect();

    let mut s = later(&tree, false, &mounts).start(&tree);

    let wanted: Vec<&str> = asked.iter().map(|(_, resolved)| *resolved).collect();
    assert_eq!(s.destinations(), wanted);
    let mut clients: Vec<Client> = (0..=asked.len()).map(|index| s.connect(index)).collect();
    for client in &mut clients[1..] {
        client.walk_to(ROOT, 2, "here").unwrap();
    }
    for resolved in wanted {
        let here = format!("{}/here", &resolved[1..]);
        clients[0].walk_to(ROOT, 2, &here).unwrap();
        clients[0].clunk(2).unwrap();
    }
    s.finish(clients);
}

#[test]
fn missing_mount_points_and_the_working_directory_are_made_in_the_root() {
    let tree = with_sources();
    tree.link("var-run", "/run/lock");
    tree.link("loose", "gone/deeper");
    let mounts = [
        bind(&tree, "src", "/a/b/c", &["rbind"]),
        bind(&tree, "single", "/a/file", &["rbind"]),
        bind(&tree, "src", "/var-run/d", &["rbind"]),
        bind(&tree, "single", "/loose", &["bind"]),
        bind(&tree, "src", "/a/b/c/below", &["rbind"]),
    ];
    let launch = later(&tree, false, &mounts).edit(|spec| spec["process"]["cwd"] = json!("/w/x"));

    let mut s = launch.start(&tree);

    let wanted = [
        "/a/b/c",
        "/a/file",
        "/run/lock/d",
        "/gone/deeper",
        "/a/b/c/below",
    ];
    assert_eq!(s.destinations(), wanted);
    let mut clients: Vec<Client> = (0..6).map(|index| s.connect(index)).collect();
    for index in [2, 4] {
        let opened = clients[index].lopen(ROOT, O_RDONLY).unwrap();
        let mut text = String::new();
        File::from(opened.fd.unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "one file");
    }
    for name in ["a/b/c", "run/lock/d", "w/x"] {
        let made = tree.stat(name);
        assert!(made.is_dir(), "{name}");
        assert_eq!(made.permissions().mode() & 0o777, 0o755, "{name}");
    }
    for name in ["a/file", "gone/deeper"] {
        assert!(
            tree.stat(name).is_file() && tree.stat(name).len() == 0,
            "{name}"
        );
    }
    // Below a mount that was made before, so in its source.
    assert!(tree.outside("src/below").is_dir());
    s.finish(clients);
}

/// An image decides where its symlinks lead, and the way there may be as deep as a path can be.
#[test]
fn a_symlink_to_a_deep_place_costs_no_memory() {
    let tree = with_sources();
    let deep = "/a".repeat(500);
    tree.link("loose", &deep);
    let mounts = [bind(&tree, "src", "/loose", &["rbind"])];

    let mut s = later(&tree, false, &mounts).start(&tree);

    assert_eq!(s.destinations(), [deep]);
    let client = s.connect(1);
    let status = s.proc("status");
    let most = status.split_once("VmHWM:").unwrap().1;
    let most: u64 = most.split_whitespace().next().unwrap().parse().unwrap();
    assert!(most < 16 << 10, "{most} KiB");
    s.finish(vec![client]);
}

/// Two containers that share a root may make the same mount point.
#[test]
fn a_mount_point_that_another_makes_meanwhile_is_taken() {
    for name in ["m", "file"] {
        let tree = with_sources();
        tree.dir("m");
        tree.file("file", b"");
        let source = if name == "m" { "src" } else { "single" };
        let destination = format!("/{name}");
        let mounts = [bind(&tree, source, &destination, &["rbind"])];
        // It is there, but was not yet when it was looked for.
        let inject = "inject=openat2:error=ENOENT:when=1..2";
        let by = ["strace", "-f", "-o", "/dev/null", "-e", inject];

        let mut s = later(&tree, false, &mounts).start_by(&tree, &by);

        let client = s.connect(1);
        s.finish(vec![client]);
    }
}

#[test]
fn a_read_only_root_has_its_mount_points_made_first_and_refuses_changes_then() {
    let tree = with_sources();
    let mounts = [bind(&tree, "src", "/new", &["rbind", "rw"])];
    let mut s = later(&tree, true, &mounts).start(&tree);
    assert_eq!(s.destinations(), ["/new"]);
    let mut clients = vec![s.connect(0), s.connect(1)];
    refused(clients[0].mkdir(ROOT, b"d", 0o755, NOFID), Errno::EROFS);
    clients[1].mkdir(ROOT, b"d", 0o755, NOFID).unwrap();
    let mounts = s.mounts();
    assert!(mounts[0].1.starts_with("ro"), "{mounts:?}");
    assert!(mounts[1].1.starts_with("rw"), "{mounts:?}");
    s.finish(clients);
}

/// In the original a change below an `ro` mount that is made through the root's connection succeeds.
#[test]
fn read_only_binds_are_read_only_through_the_roots_connection_too() {
    let tree = with_sources();
    let mounts = [
        bind(
            &tree,
            "src",
            "/ro",
            &["rbind", "ro", "nosuid", "nodev", "noexec"],
        ),
        bind(&tree, "src", "/rw", &["rbind", "rw"]),
        bind(&tree, "single", "/file", &["ro"]),
    ];
    let mut s = later(&tree, false, &mounts).start(&tree);
    s.read_list();
    let mut clients: Vec<Client> = (0..4).map(|index| s.connect(index)).collect();
    clients[0].walk_to(ROOT, 2, "ro").unwrap();
    refused(clients[0].mkdir(2, b"d", 0o755, NOFID), Errno::EROFS);
    clients[0].walk_to(ROOT, 3, "file").unwrap();
    refused(clients[0].lopen(3, O_WRONLY), Errno::EROFS);
    clients[0].walk_to(ROOT, 4, "rw").unwrap();
    clients[0].mkdir(4, b"d", 0o755, NOFID).unwrap();
    let mounts = s.mounts();
    assert!(
        mounts[1].1.starts_with("ro,nosuid,nodev,noexec"),
        "{mounts:?}"
    );
    s.finish(clients);
}

/// What lies below a read-only mount is read-only from above, and what its own connection says for that one.
#[test]
fn a_mount_below_a_read_only_one_is_read_only_through_the_roots_connection_alone() {
    let tree = with_sources();
    fs::create_dir(tree.outside("inner")).unwrap();
    let mounts = [
        bind(&tree, "src", "/ro", &["rbind", "ro"]),
        bind(&tree, "inner", "/ro/inner", &["rbind", "rw"]),
    ];
    let mut s = later(&tree, false, &mounts).start(&tree);
    assert_eq!(s.destinations(), ["/ro", "/ro/inner"]);
    let mut clients: Vec<Client> = (0..3).map(|index| s.connect(index)).collect();
    for (index, path) in [(0, "ro/inner"), (1, "inner")] {
        clients[index].walk_to(ROOT, 2, path).unwrap();
        refused(clients[index].mkdir(2, b"d", 0o755, NOFID), Errno::EROFS);
    }
    clients[2].mkdir(ROOT, b"d", 0o755, NOFID).unwrap();
    assert!(tree.outside("inner/d").is_dir());
    s.finish(clients);
}

/// While the root is set up, another container that shares it moves a symlink to the host's tree in and
/// out of every place on the way.
#[test]
fn symlinks_swapped_in_during_set_up_never_lead_out_of_the_root() {
    let tree = with_sources();
    let outside = tree.outside("outside");
    fs::create_dir_all(outside.join("m")).unwrap();
    fs::write(outside.join("m/secret"), "").unwrap();
    tree.dir("way/m");
    symlink(&outside, tree.path("absolute")).unwrap();
    symlink("../../outside", tree.path("climbing")).unwrap();
    let mounts = [
        bind(&tree, "src", "/way/m", &["rbind"]),
        bind(&tree, "src", "/way/new", &["rbind"]),
        bind(&tree, "single", "/way/file", &["bind"]),
    ];
    let before = host_mounts();
    let mut served = 0;
    let swap = || {
        for link in ["absolute", "climbing"] {
            let _ = tree.swap("way", link);
            let _ = tree.swap("way", link);
        }
    };
    meanwhile(swap, || {
        for _ in 0..60 {
            let mut s = later(&tree, false, &mounts).start(&tree);
            let list = s.read_list();
            if list.is_empty() {
                // The way led nowhere just then, inside the root.
                s.expect_end("setting up root: ");
            } else {
                served += 1;
                for index in 1..3 {
                    let mut client = s.connect(index);
                    client.walk_to(ROOT, 2, "here").unwrap();
                    refused(client.walk_to(ROOT, 3, "secret"), Errno::ENOENT);
                }
                assert!(s.mounts().len() == 4, "{:?}", s.mounts());
            }
            let names: Vec<_> = fs::read_dir(&outside)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert_eq!(names, ["m"]);
            assert_eq!(fs::read_dir(outside.join("m")).unwrap().count(), 1);
        }
    });
    assert!(served > 0, "not one start found its way");
    assert_eq!(host_mounts(), before);
}

#[test]
fn options_by_name_are_binds_too_and_those_below_dev_get_a_socket_as_the_runtime_counts_them() {
    let tree = with_sources();
    tree.dir("dev");
    let named = Mount {
        kind: "none".into(),
        ..bind(&tree, "src", "/named", &["rbind"])
    };
    let empty = Mount {
        source: String::new(),
        ..Mount::bind("/empty", &["bind"])
    };
    let mounts = [named, empty, bind(&tree, "src", "/dev/shm", &["rbind"])];
    for (sockets, wanted) in [(3, "dev/shm"), (2, "named")] {
        let mut s = later(&tree, false, &mounts).sockets(sockets).start(&tree);
        assert_eq!(s.destinations(), ["/named", "/empty", "/dev/shm"]);
        let mut clients: Vec<Client> = (0..sockets).map(|index| s.connect(index)).collect();
        clients[sockets - 1].walk_to(ROOT, 2, "here").unwrap();
        clients[0]
            .walk_to(ROOT, 2, &format!("{wanted}/here"))
            .unwrap();
        s.finish(clients);
    }
    for (mounts, sockets, text) in [
        (
            &mounts[..],
            4,
            "too many FDs passed for mounts. mounts: 3, FDs: 4",
        ),
        (
            &[bind(&tree, "src", "/plain", &["rbind"])],
            1,
            "No FD found for mount. Did you forget --io-fd? mount: 1, {/plain bind ",
        ),
    ] {
        let mut s = later(&tree, false, mounts).sockets(sockets).start(&tree);
        s.read_list();
        s.expect_end(text);
    }
}

#[test]
fn what_an_overlay_covers_is_read_only() {
    let tree = with_sources();
    let mounts = [bind(&tree, "src", "/m", &["rbind", "rw"])];
    for (flag, root, mount) in [
        ("--overlay=true", true, true),
        ("--overlay2=all:memory", true, true),
        ("--overlay2=root:memory", true, false),
        ("--overlay2=none", false, false),
    ] {
        let mut s = later(&tree, false, &mounts).global(flag).start(&tree);
        s.read_list();
        let mut clients = vec![s.connect(0), s.connect(1)];
        for (client, read_only) in clients.iter_mut().zip([root, mount]) {
            match read_only {
                true => refused(client.mkdir(ROOT, b"d", 0o755, NOFID), Errno::EROFS),
                false => {
                    client.mkdir(ROOT, b"d", 0o755, NOFID).unwrap();
                    client.unlinkat(ROOT, b"d", 0x200).unwrap();
                }
            }
        }
        s.finish(clients);
    }
}

/// A runtime passes --panic-on-write with its overlay, and one of 2019-10 sets times below it: that is refused
/// without a panic, which stays for what the spec makes read-only.
#[test]
fn what_an_overlay_alone_makes_read_only_does_not_panic() {
    let tree = with_sources();
    tree.file("f", b"");
    let mounts = [
        bind(&tree, "src", "/m", &["rbind", "rw"]),
        bind(&tree, "src", "/ro", &["rbind", "ro"]),
    ];
    let mut s = later(&tree, false, &mounts)
        .global("--overlay=true")
        .flag("--panic-on-write=true")
        .start(&tree);
    s.read_list();
    let mut clients: Vec<Client> = (0..3).map(|index| s.connect(index)).collect();
    const BOTH_TIMES: u32 = 0x30;
    clients[0].walk_to(ROOT, 2, "f").unwrap();
    clients[1].walk_to(ROOT, 2, "here").unwrap();
    for client in &mut clients[..2] {
        let times = SetAttr::default();
        refused(client.setattr(2, BOTH_TIMES, &times), Errno::EROFS);
        refused(client.mkdir(ROOT, b"d", 0o755, NOFID), Errno::EROFS);
    }
    assert!(!s.log().contains("panic in handler"), "{}", s.log());
    refused(clients[2].mkdir(ROOT, b"d", 0o755, NOFID), Errno::EFAULT);
    assert_eq!(s.log().matches("panic in handler: attempt").count(), 1);
    s.finish(clients);
}

/// A list that a pipe does not hold is written to its end, however late it is read.
#[test]
fn a_long_list_is_written_to_its_end() {
    let tree = with_sources();
    let odd = "/q\"\\\u{1}\u{e9}\n";
    let mut mounts = vec![bind(&tree, "src", odd, &["rbind"])];
    let proc = Mount {
        kind: "proc".into(),
        ..Mount::bind(&"/p".repeat(1000), &["a", "b"])
    };
    mounts.resize(100, proc);
    let mut s = later(&tree, false, &mounts).sockets(2).start(&tree);
    let list: Value = serde_json::from_str(&s.read_list()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 100);
    assert_eq!(list[0]["destination"], odd);
    assert_eq!(list[99]["destination"], mounts[99].destination.as_str());
    let clients = vec![s.connect(0), s.connect(1)];
    s.finish(clients);
}

#[test]
fn a_spec_without_mounts_gives_an_empty_list() {
    let tree = Tree::new();
    let mut s = later(&tree, false, &[]).start(&tree);
    assert_eq!(s.read_list(), "[]");
    let client = s.connect(0);
    s.finish(vec![client]);
}

/// overlayfs on Linux before 4.19 kept the lower file after a copy-up; the sandbox is told where.
#[test]
fn mounts_on_overlayfs_are_told_as_stale() {
    let tree = with_sources();
    for name in ["lower", "upper", "work", "both"] {
        fs::create_dir(tree.outside(name)).unwrap();
    }
    let scratch = tree.outside("scratch");
    fs::create_dir(&scratch).unwrap();
    let script = format!(
        "mount -t tmpfs t {0} && mkdir {0}/l {0}/u {0}/w && \
         mount -t overlay o -o lowerdir={0}/l,upperdir={0}/u,workdir={0}/w {1} && exec \"$0\" \"$@\"",
        scratch.display(),
        tree.outside("both").display()
    );
    let mounts = [
        bind(&tree, "both", "/stale", &["rbind"]),
        bind(&tree, "src", "/plain", &["rbind"]),
    ];
    let mut s = later(&tree, false, &mounts).start_by(&tree, &["sh", "-c", &script]);
    let list: Value =
        serde_json::from_str(&s.read_list()).unwrap_or_else(|_| panic!("{}", s.log()));
    assert_eq!(list[0]["options"], json!(["rbind", "overlayfs_stale_read"]));
    let plain = nix::sys::statfs::statfs(tree.outside("src").as_path()).unwrap();
    if plain.filesystem_type().0 != 0x794c_7630 {
        assert_eq!(list[1]["options"], json!(["rbind"]));
    }
    let clients = (0..3).map(|index| s.connect(index)).collect();
    s.finish(clients);
}

/// The new root begins as a tmpfs on /proc, which hides what lies below it.
#[test]
fn sources_below_proc_are_those_of_the_host() {
    let tree = Tree::new();
    let mounts = [Mount {
        source: "/proc/sys/kernel".into(),
        ..Mount::bind("/m", &["bind", "ro"])
    }];
    let mut s = later(&tree, false, &mounts).start(&tree);
    s.read_list();
    let mut clients = vec![s.connect(0), s.connect(1)];
    clients[1].walk_to(ROOT, 2, "ostype").unwrap();
    s.finish(clients);
}

// ---- propagation ----

/// All mounts shared, so that a propagation can be seen.
const SHARED: [&str; 3] = ["sh", "-c", "mount --make-rshared / && exec \"$0\" \"$@\""];

#[test]
fn propagation_is_what_the_spec_says_and_slave_without_it() {
    let tree = with_sources();
    for (root, option, root_is, mount_is) in [
        ("", "rbind", "master:", "master:"),
        ("rprivate", "rprivate", "-", "-"),
        ("private", "rslave", "-", "master:"),
        ("rslave", "unbindable", "master:", "unbindable"),
    ] {
        let mounts = [bind(&tree, "src", "/m", &["rbind", option])];
        let launch = later(&tree, false, &mounts)
            .edit(|spec| spec["linux"]["rootfsPropagation"] = json!(root));
        let mut s = launch.start_by(&tree, &SHARED);
        s.read_list();
        let mut clients = vec![s.connect(0), s.connect(1)];
        clients[0].walk_to(ROOT, 2, "m/here").unwrap();
        let lines = s.mountinfo();
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (line, wanted) in lines.iter().zip([root_is, mount_is]) {
            let tag = line.split(' ').nth(6).unwrap();
            assert!(tag.starts_with(wanted), "{root} {option}: {line}");
        }
        s.finish(clients);
    }
}

// ---- ends ----

#[test]
fn each_step_that_fails_is_one_line_that_names_it() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 16] = [
        (
            |spec| spec["root"]["path"] = json!("/missing"),
            "setting up root: cloning \"/missing\" on \"/\": no such file or directory",
        ),
        (
            |spec| spec["mounts"][0]["source"] = json!("/missing"),
            "setting up root: cloning \"/missing\" on \"/m\": no such file or directory",
        ),
        (
            |spec| spec["mounts"][0]["destination"] = json!("/file/m"),
            "on \"/file/m\": not a directory",
        ),
        (
            |spec| spec["mounts"][0]["destination"] = json!("/file"),
            "setting up root: mounting \"",
        ),
        (
            |spec| spec["mounts"][0]["destination"] = json!("/loop/m"),
            "setting up root: making the mount point of \"",
        ),
        (
            |spec| spec["mounts"][0]["destination"] = json!("m"),
            "error reading spec: Spec.Mounts[0] Mount.Destination must be an absolute path",
        ),
        (
            |spec| spec["mounts"][0]["options"] = json!(["rbind", "slave", "private"]),
            "setting up root: changing the mount of \"",
        ),
        (
            |spec| spec["mounts"][0]["options"] = json!(["shared"]),
            "error reading spec: mount option \"shared\" is not supported",
        ),
        (
            |spec| spec["mounts"][0]["options"] = json!(["rbind", "sideways"]),
            "error reading spec: unknown mount option \"sideways\"",
        ),
        (
            |spec| spec["linux"]["rootfsPropagation"] = json!("shared"),
            "error reading spec: root mount propagation option must specify private or slave: \"shared\"",
        ),
        (
            |spec| spec["process"]["cwd"] = json!("/file/w"),
            "setting up root: making process.cwd: not a directory",
        ),
        (
            |spec| spec["process"] = json!(null),
            "error reading spec: Spec.Process must be defined",
        ),
        (|spec| *spec = json!("text"), "error reading spec: "),
        (
            |spec| spec["annotations"] = json!({"dev.gvisor.flag.debug": "maybe"}),
            "error reading spec: invalid boolean value \"maybe\" for -debug",
        ),
        (
            |spec| spec["annotations"] = json!({"dev.gvisor.flag.overlay": "true"}),
            "error reading spec: flag override disabled, use --allow-flag-override to enable it: overlay",
        ),
        (
            |spec| spec["annotations"] = json!({"dev.gvisor.flag.oci-seccomp": "false"}),
            "error reading spec: flag override disabled",
        ),
    ];
    for (change, text) in changes {
        let tree = with_sources();
        tree.file("file", b"");
        tree.link("loop", "loop");
        let mounts = [bind(&tree, "src", "/m", &["rbind"])];
        let before = host_mounts();
        let mut s = later(&tree, false, &mounts).edit(change).start(&tree);
        assert_eq!(s.read_list(), "", "{text}");
        s.expect_end(text);
        assert_eq!(host_mounts(), before, "{text}");
    }
}

#[test]
fn descriptors_that_are_not_there_are_named() {
    let tree = Tree::new();
    for (flag, text) in [
        ("--spec-fd=77", "taking over FD 77: bad file descriptor"),
        ("--mounts-fd=77", "taking over FD 77: bad file descriptor"),
        (
            "--sync-userns-fd=77",
            "taking over FD 77: bad file descriptor",
        ),
        ("--mounts-fd=4", "taking over FD 4: bad file descriptor"),
        (
            "--spec-fd=99999999999",
            "taking over FD 2147483647: bad file descriptor",
        ),
        (
            "--io-fds=77",
            "err creating server on FD 77: bad file descriptor",
        ),
        ("--spec-fd=5", "error reading spec: "),
    ] {
        let mut s = later(&tree, false, &[]).flag(flag);
        if flag == "--spec-fd=5" {
            s = s.flag("--mounts-fd=-1"); // a pipe
        }
        s.start(&tree).expect_end(text);
    }
}

/// Each would be another's to close; a socket is none that any flag refuses for another reason. What is not a log alone
/// gets no line of one.
#[test]
fn a_descriptor_that_is_named_twice_is_an_end() {
    let tree = Tree::new();
    let flags = [
        "--log-fd",
        "--debug-log-fd",
        "--spec-fd",
        "--mounts-fd",
        "--sync-userns-fd",
        "--io-fds",
    ];
    let pairs = (0..flags.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
    for (one, other) in pairs.chain([(5, 5)]) {
        let (end, theirs) = UnixStream::pair().unwrap();
        let mut launch = later(&tree, false, &[]);
        for at in [one, other] {
            let word = format!("{}=50", flags[at]);
            launch = if at < 2 {
                launch.global(&word)
            } else {
                launch.flag(&word)
            };
        }
        launch.handed.push((theirs.into(), 50));

        let mut s = launch.start(&tree);

        let pair = format!("{} and {}", flags[one], flags[other]);
        assert_eq!(s.read_list(), "", "{pair}");
        let exit = s.gofer.exit();
        assert_eq!(exit.code, Some(128), "{pair}: {exit:?}");
        end.set_nonblocking(true).unwrap();
        let mut written = String::new();
        let _ = (&end).read_to_string(&mut written);
        let is_log = one < 2 && other < 2;
        assert_eq!(!written.is_empty(), is_log, "{pair}: {written}");
        // The debug log may be the one that is named twice, and then there is none.
        let told = s.log() + &written + &exit.stderr;
        let last = told.lines().last().unwrap_or_default();
        assert!(
            last.contains("FD 50: bad file descriptor"),
            "{pair}: {told}"
        );
    }
}

#[test]
fn a_list_that_nobody_reads_is_an_end() {
    let tree = Tree::new();
    let (end, list) = pipe2(OFlag::O_CLOEXEC).unwrap();
    drop(end);
    let mut launch = later(&tree, false, &[]).flag("--mounts-fd=50");
    launch.handed.push((list, 50));
    launch
        .start(&tree)
        .expect_end("writing the mounts to --mounts-fd: broken pipe");
}

/// Standard error is the debug log then, and takes no more.
#[test]
fn an_end_that_a_full_log_is_not_told_of_is_an_end() {
    let tree = Tree::new();
    let (_end, log) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut launch = later(&tree, false, &[])
        .global("--debug-log-fd=50")
        .edit(|spec| {
            spec["annotations"] = json!({"big": "x".repeat(1_000_000)});
            spec["root"]["path"] = json!("/missing");
        });
    launch.handed.push((log, 50));
    let mut s = launch.start(&tree);
    assert_eq!(s.read_list(), "");
    assert_eq!(s.gofer.exit().code, Some(128));
}

/// Without privileges there is no root to be made.
#[test]
fn a_start_without_privileges_names_the_step() {
    let tree = Tree::new();
    let words = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ];
    let mut s = later(&tree, false, &[]).start_by(&tree, &words);
    s.expect_end("setting up root: unsharing the mount namespace: operation not permitted");
}

// ---- user namespaces ----

#[test]
fn a_rootless_start_serves_with_one_id_mapped() {
    let tree = with_sources();
    let mounts = [
        bind(&tree, "src", "/new/ro", &["rbind", "ro"]),
        bind(&tree, "single", "/file", &["rbind", "rw"]),
    ];
    let before = host_mounts();
    let launch = later(&tree, false, &mounts).rootless();
    let mut s = launch.global("--rootless=true").start(&tree);
    assert_eq!(s.destinations(), ["/new/ro", "/file"]);
    let mut clients: Vec<Client> = (0..3).map(|index| s.connect(index)).collect();
    let donated = clients[0].lcreate(ROOT, b"made", O_RDWR, 0o644, 0).unwrap();
    File::from(donated.fd.unwrap()).write_all(b"x").unwrap();
    assert_eq!(tree.read("made"), b"x");
    refused(clients[1].mkdir(ROOT, b"d", 0o755, NOFID), Errno::EROFS);
    clients[2].lopen(ROOT, O_RDWR).unwrap();
    assert!(!s.log().contains("held by mounts"), "{}", s.log());
    assert!(s.log().contains("Root and working directory are empty"));
    assert_eq!(s.proc("uid_map").split_whitespace().last(), Some("1"));
    assert_eq!(s.proc("setgroups").trim(), "deny");
    let places: Vec<String> = s.mounts().into_iter().map(|(place, _)| place).collect();
    assert_eq!(places, ["/", "/new/ro", "/file"]);
    s.finish(clients);
    assert_eq!(host_mounts(), before);
}

/// A root for the user namespace that the runtime has still to map: it starts as nobody, and the
/// end of --sync-userns-fd says that the ids are there.
fn unmapped(tree: &Tree) -> (Started, OwnedFd, u32) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut launch = later(tree, false, &[])
        .rootless()
        .flag("--sync-userns-fd=50");
    launch.handed.push((theirs.into(), 50));
    launch.is_unmapped = true;
    let s = launch.start(tree);
    let begun = Instant::now();
    loop {
        let pid = s.gofer.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        if let Ok(child) = children.trim().parse::<u32>() {
            let name = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if name.starts_with(b"runsc-gofer\0") {
                return (s, ours.into(), child);
            }
        }
        assert!(begun.elapsed() < PATIENCE, "not started: {}", s.log());
        thread::yield_now();
    }
}

#[test]
fn the_user_namespace_is_waited_for_and_its_root_serves() {
    let tree = Tree::new();
    let (mut s, sync, pid) = unmapped(&tree);
    fs::write(format!("/proc/{pid}/uid_map"), "0 0 1").unwrap();
    fs::write(format!("/proc/{pid}/gid_map"), "0 0 1").unwrap();
    drop(sync);
    assert_eq!(s.read_list(), "[]");
    let mut client = s.connect(0);
    client.mkdir(ROOT, b"d", 0o755, NOFID).unwrap();
    let made = tree.stat("d");
    assert_eq!((made.uid(), made.gid()), (0, 0));
    assert_eq!(
        s.proc("status").lines().find(|l| l.starts_with("Uid:")),
        Some("Uid:\t0\t0\t0\t0")
    );
    s.finish(vec![client]);
}

#[test]
fn a_user_namespace_without_a_root_is_an_end() {
    let tree = Tree::new();
    let (mut s, sync, _) = unmapped(&tree);
    drop(sync);
    s.expect_end("becoming the user namespace's root: setuid: invalid argument");
}

// ---- a root that is there already, and one that stays ----

#[test]
fn without_setup_root_the_root_that_was_made_before_is_served() {
    let tree = with_sources();
    tree.dir("real");
    tree.link("link", "/real");
    tree.file("real/inside", b"");
    tree.link("dangling", "/nowhere");
    let script = format!(
        "mount --bind {} /root && exec \"$0\" \"$@\"",
        tree.root().display()
    );
    let mounts = [
        bind(&tree, "src", "/link", &["rbind", "ro"]),
        bind(&tree, "src", "/missing", &["rbind"]),
        bind(&tree, "src", "/dangling", &["rbind"]),
    ];
    let launch = later(&tree, false, &mounts)
        .flag("--setup-root=false")
        .edit(|spec| spec["root"]["path"] = json!("/elsewhere"));
    let mut s = launch.start_by(&tree, &["sh", "-c", &script]);
    assert_eq!(s.destinations(), ["/real", "/missing", "/dangling"]);
    let mut clients = vec![s.connect(0), s.connect(1)];
    clients[0].walk_to(ROOT, 2, "real/inside").unwrap();
    clients[1].walk_to(ROOT, 2, "inside").unwrap();
    let mut missing = s.gofer.client(2);
    refused(missing.hello(ROOT), Errno::EIO);
    assert!(!tree.path("missing").exists());
    clients.extend([missing, s.connect(3)]);
    assert_eq!(clients[3].readlink(ROOT).unwrap().target, b"/nowhere");
    s.finish(clients);
}

/// Whoever made the mounts: they are in its own namespace, which the flags are put on in one of ours.
#[test]
fn without_setup_root_read_only_mounts_are_so_through_the_roots_connection_too() {
    let tree = with_sources();
    for name in ["ro", "plain"] {
        tree.dir(name);
    }
    let script = format!(
        "mount --bind {} /root && mount --bind {} /root/ro && exec \"$0\" \"$@\"",
        tree.root().display(),
        tree.outside("src").display()
    );
    let mounts = ["/ro", "/plain"].map(|place| bind(&tree, "src", place, &["rbind", "ro"]));
    let launch = later(&tree, false, &mounts).flag("--setup-root=false");
    let mut s = launch.start_by(&tree, &["sh", "-c", &script]);
    assert_eq!(s.destinations(), ["/ro", "/plain"]);
    let mut clients: Vec<Client> = (0..3).map(|index| s.connect(index)).collect();
    clients[0].walk_to(ROOT, 2, "ro").unwrap();
    refused(clients[0].mkdir(2, b"d", 0o755, NOFID), Errno::EROFS);
    // Nobody mounted anything there.
    clients[0].walk_to(ROOT, 3, "plain").unwrap();
    clients[0].mkdir(3, b"d", 0o755, NOFID).unwrap();
    refused(clients[2].mkdir(ROOT, b"e", 0o755, NOFID), Errno::EROFS);
    let told = s.log();
    assert!(
        told.contains("\"/plain\" is not held by mounts alone: invalid argument"),
        "{told}"
    );
    assert!(!told.contains("\"/ro\" is not held"), "{told}");
    s.finish(clients);
}

#[test]
fn a_runtime_that_tests_without_root_has_its_root_served_in_place() {
    let tree = with_sources();
    tree.dir("m");
    tree.file("m/inside", b"");
    let mounts = [bind(&tree, "src", "/m", &["rbind"])];
    let launch = later(&tree, false, &mounts).global("-TESTONLY-unsafe-nonroot=true");
    let mut s = launch.start(&tree);
    assert_eq!(s.destinations(), ["/m"]);
    let mut clients = vec![s.connect(0), s.connect(1)];
    clients[1].walk_to(ROOT, 2, "inside").unwrap();
    clients[0].walk_to(ROOT, 2, "m/inside").unwrap();
    s.finish(clients);
}

// ---- flags ----

#[test]
fn annotations_override_flags() {
    let tree = Tree::new();
    for (globals, annotations, logs, read_only) in [
        (&[][..], json!({}), false, false),
        (&[], json!({"dev.gvisor.flag.debug": "true"}), true, false),
        (
            &["--debug=true"],
            json!({"dev.gvisor.flag.debug": "0"}),
            false,
            false,
        ),
        (
            &["--allow-flag-override"],
            json!({"dev.gvisor.flag.log-packets": "1", "dev.gvisor.flag.overlay2": "root:memory", "other": "x"}),
            true,
            true,
        ),
        (
            &["--overlay=false"],
            json!({"dev.gvisor.flag.oci-seccomp": "true"}),
            false,
            false,
        ),
    ] {
        let mut launch =
            later(&tree, false, &[]).edit(|spec| spec["annotations"] = annotations.clone());
        launch.globals = vec!["--debug-log-fd=3".into()];
        launch
            .globals
            .extend(globals.iter().map(|&word| word.to_owned()));
        let mut s = launch.start(&tree);
        s.read_list();
        let mut client = s.connect(0);
        match read_only {
            true => refused(client.mkdir(ROOT, b"d", 0o755, NOFID), Errno::EROFS),
            false => {
                client.mkdir(ROOT, b"d", 0o755, NOFID).unwrap();
                client.unlinkat(ROOT, b"d", 0x200).unwrap();
            }
        }
        let (_, log) = s.finish(vec![client]);
        assert_eq!(log.contains("Tmkdir"), logs, "{annotations}: {log}");
    }
}

#[test]
fn fdlimit_is_the_limit_of_descriptors() {
    let tree = Tree::new();
    let limits = |s: &Started| {
        let text = s.proc("limits");
        let line = text
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        line.split_whitespace()
            .skip(3)
            .take(2)
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let mut s = later(&tree, false, &[])
        .global("--fdlimit=321")
        .start(&tree);
    s.read_list();
    let client = s.connect(0);
    assert_eq!(limits(&s), ["321", "321"]);
    s.finish(vec![client]);

    // More than it may have is told, and it takes what it has: in a user namespace it may not raise it.
    let launch = later(&tree, false, &[]).rootless();
    let mut s = launch.global("--fdlimit=1073741000").start(&tree);
    s.read_list();
    let client = s.connect(0);
    let hard = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .unwrap()
        .1;
    assert_eq!(limits(&s), [hard.to_string(), hard.to_string()]);
    let (_, log) = s.finish(vec![client]);
    assert!(
        log.contains("--fdlimit is more than the process may have"),
        "{log}"
    );
}

// ---- LISAFS ----

const SPEAKS_9P: &str = "this gofer speaks 9P; start the runtime with --lisafs=false";

/// LISAFS's Mount, as its clients begin: the payload's length, 1, 0, and the payload, which is the path
/// to attach in some versions.
fn lisafs_mount(path: Option<&str>) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(path) = path {
        payload.extend((path.len() as u32).to_le_bytes());
        payload.extend(path.as_bytes());
    }
    let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
    frame.extend([1, 0, 0, 0]);
    frame.extend(payload);
    frame
}

/// A runtime of 2022 without `--lisafs=false` has its client hear the end at once, and can read why.
#[test]
fn a_client_that_speaks_lisafs_is_told_so_and_does_not_hang() {
    for path in [
        None,
        Some("/"),
        Some("/mnt1"),
        Some("/a/long/way/to/the/mount/point"),
    ] {
        let tree = Tree::new();
        let mut s = later(&tree, false, &[]).start(&tree);
        assert_eq!(s.read_list(), "[]");
        let client = s.gofer.client(0);
        client.send(&lisafs_mount(path)).unwrap();
        client.expect_closed();
        s.expect_end(SPEAKS_9P);
    }
}

/// What one connection speaks is not held against the others.
#[test]
fn a_connection_that_speaks_lisafs_ends_alone() {
    let tree = with_sources();
    let mounts = [bind(&tree, "src", "/m", &["rbind"])];
    let mut s = later(&tree, false, &mounts).start(&tree);
    s.read_list();
    let mut client = s.connect(0);
    let other = s.gofer.client(1);
    other.send(&lisafs_mount(Some("/some/where"))).unwrap();
    other.expect_closed();
    client.mkdir(ROOT, b"d", 0o755, NOFID).unwrap();
    // Behind a first frame it is a number that is not served.
    let answer = client.raw(1, b"abc").unwrap();
    assert_eq!((answer.kind, answer.errno()), (RLERROR, Errno::EIO));
    drop(client);
    s.expect_end(SPEAKS_9P);
}

/// The contract of 2018 knows nothing of it.
#[test]
fn an_unknown_first_request_is_answered_in_contract_s() {
    let tree = Tree::new();
    let mut s = serve(&tree);
    drop(s.mkdir(ROOT, b"d", 0o755, NOFID));
    let answer = s.raw(1, b"abc").unwrap();
    assert_eq!(answer.errno(), Errno::EIO);
}

#[test]
fn lisafs_asked_for_is_refused_before_anything_is_set_up() {
    let tree = with_sources();
    let mounts = [bind(&tree, "src", "/new", &["rbind"])];
    for word in ["--lisafs=true", "--lisafs"] {
        let mut s = later(&tree, false, &mounts).global(word).start(&tree);
        assert_eq!(s.read_list(), "");
        s.expect_end(SPEAKS_9P);
        assert!(!tree.path("new").exists());
    }
}
