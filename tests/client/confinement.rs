//! What the live process may do and hold, read from /proc: docs/launch.md 2, docs/syscalls.md.

use crate::harness::{
    Gofer, Launch, Mount, Namespace, ROOT, Session, TempDir, Tree, copy_binary, file_of, serve,
};
use crate::harness::{serve_mounts, session_of, spec, write_spec};
use crate::p9::{Data, MSIZE, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, t};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// CHOWN, `DAC_OVERRIDE`, `DAC_READ_SEARCH`, FOWNER, FSETID.
const FIVE: &str = "000000000000001f";
/// … and `SYS_CHROOT`.
const SIX: &str = "000000000004001f";
const NONE: &str = "0000000000000000";

fn capabilities(gofer: &Gofer) -> BTreeMap<&'static str, String> {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .into_iter()
        .map(|field| (field, gofer.status(field)))
        .collect()
}

fn confined() -> BTreeMap<&'static str, String> {
    [
        ("CapInh", NONE),
        ("CapPrm", FIVE),
        ("CapEff", FIVE),
        ("CapBnd", SIX),
        ("CapAmb", NONE),
    ]
    .map(|(field, value)| (field, value.to_owned()))
    .into()
}

fn tree_with_spec() -> Tree {
    let tree = Tree::new();
    tree.file("a", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    tree
}

/// The resource's soft and hard limit.
fn limit(gofer: &Gofer, name: &str) -> (String, String) {
    let text = gofer.proc_text("limits").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

/// The memory that the process can write: each range whole, or its first and its last 1 MiB, since address space that
/// was reserved and never touched reads as zeros, at length.
fn writable_memory(gofer: &Gofer) -> Vec<Vec<u8>> {
    let memory = fs::File::open(gofer.proc("mem")).unwrap();
    let maps = gofer.proc_text("maps").unwrap();
    let ranges = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        rest.starts_with("rw")
            .then_some((number(start), number(end)))
    });
    ranges
        .flat_map(|(start, end)| match end - start {
            ..=0x20_0000 => vec![(start, end)],
            _ => vec![(start, start + 0x10_0000), (end - 0x10_0000, end)],
        })
        .map(|(start, end)| {
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            memory.read_exact_at(&mut bytes, start).unwrap();
            bytes
        })
        .collect()
}

/// The original executes itself again with an empty one.
#[test]
fn the_environment_is_gone_from_memory() {
    let tree = tree_with_spec();
    let secret = "PASSWORD=correct horse battery staple";
    let launch = Launch::new(&tree.bundle(), 1);
    let mut s = session_of(launch.by("/usr/bin/env", &["-i", "A=", secret, "B=\u{e9}"]));
    let environment = fs::read(s.gofer.proc("environ")).unwrap();
    assert!(environment.len() > secret.len(), "it was handed over");
    assert!(environment.iter().all(|&byte| byte == 0), "{environment:?}");
    let has = |word: &str| {
        let memory = writable_memory(&s.gofer);
        let mut parts = memory.iter();
        parts.any(|part| part.windows(word.len()).any(|at| at == word.as_bytes()))
    };
    assert!(!has("battery staple"));
    assert!(has(tree.bundle().to_str().unwrap()), "argv is there");
    expect_served(&mut s, &tree);
}

/// Reads and writes: the program serves.
fn expect_served(s: &mut Session, tree: &Tree) {
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"text");
    s.walk_to(ROOT, 3, "").unwrap();
    s.lcreate(3, b"new", O_RDWR, 0o640, NOID).unwrap();
    s.write(3, 0, Data(b"written")).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"written");
    assert_eq!(tree.read("new"), b"written");
    s.clunk(2).unwrap();
    s.clunk(3).unwrap();
}

#[test]
fn capabilities_are_the_five_and_the_bounding_set_the_six() {
    let tree = tree_with_spec();
    let s = serve(&tree);
    assert_eq!(capabilities(&s.gofer), confined());
}

#[test]
fn capabilities_stay_with_apply_caps_false() {
    let tree = tree_with_spec();
    let s = session_of(Launch::new(&tree.bundle(), 1).with(&["--apply-caps=false"]));
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let ours = |field| crate::harness::status_field(&own, field).unwrap();
    assert_eq!(s.gofer.status("CapBnd"), ours("CapBnd"));
    assert_eq!(s.gofer.status("CapEff"), ours("CapBnd")); // what exec gives to root
    assert_eq!(
        (s.gofer.status("NoNewPrivs"), s.gofer.status("Seccomp")),
        ("1".into(), "2".into())
    );
}

#[test]
fn process_has_a_filter_no_new_privileges_and_one_thread() {
    let tree = tree_with_spec();
    let s = serve(&tree);
    assert_eq!(s.gofer.status("Seccomp"), "2");
    assert_eq!(s.gofer.status("NoNewPrivs"), "1");
    assert_eq!(s.gofer.status("Threads"), "1");
}

/// It is started with 022.
#[test]
fn process_has_umask_0() {
    let tree = tree_with_spec();
    let s = serve(&tree);
    assert_eq!(s.gofer.status("Umask"), "0000");
}

#[test]
fn process_ignores_sigpipe() {
    let tree = tree_with_spec();
    let s = serve(&tree);
    let ignored = u64::from_str_radix(&s.gofer.status("SigIgn"), 16).unwrap();
    assert_ne!(ignored & 1 << (13 - 1), 0);
}

/// Asserts that a directory of the process holds nothing, and that root of the host makes nothing in it.
#[track_caller]
pub(crate) fn expect_empty(gofer: &Gofer, name: &str) {
    let place = gofer.proc(name);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "{name}");
    assert_eq!(fs::read_dir(place.join("..")).unwrap().count(), 0, "{name}");
    let made = fs::write(place.join("new"), b"").unwrap_err();
    assert_eq!(made.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn process_root_and_directory_are_empty_and_read_only() {
    let tree = tree_with_spec();
    let s = serve(&tree);
    expect_empty(&s.gofer, "root");
    expect_empty(&s.gofer, "cwd");
    assert_eq!(s.gofer.proc_text("mountinfo").unwrap(), "");
    assert!(
        s.gofer
            .stderr()
            .contains("Root and working directory are empty")
    );
}

#[test]
fn process_leaves_no_core_and_may_open_what_the_hard_limit_allows() {
    let tree = tree_with_spec();
    let s = session_of(Launch::new(&tree.bundle(), 1).nofile(256, 600));
    assert_eq!(limit(&s.gofer, "Max core file size").0, "0");
    assert_eq!(
        limit(&s.gofer, "Max open files"),
        ("600".into(), "600".into())
    );
}

/// Started by a user with some capabilities only, some inheritable and ambient, one not of the six.
#[test]
fn capabilities_not_permitted_at_start_are_done_without() {
    let tree = tree_with_spec();
    let s = with_some_capabilities(&tree);
    let all = capabilities(&s.gofer);
    assert_eq!((all["CapPrm"].as_str(), all["CapEff"].as_str()), (TWO, TWO));
    assert_eq!(
        (all["CapInh"].as_str(), all["CapAmb"].as_str()),
        (NONE, NONE)
    );
}

/// The files in /proc of a process that is not dumpable belong to root.
#[test]
fn process_is_not_dumpable() {
    let tree = tree_with_spec();
    let s = with_some_capabilities(&tree);
    assert_eq!(
        s.gofer.status("Uid").split_whitespace().next(),
        Some("65534")
    );
    assert_eq!(fs::metadata(s.gofer.proc("fd")).unwrap().uid(), 0);
}

/// CHOWN and `DAC_OVERRIDE`.
const TWO: &str = "0000000000000003";

fn with_some_capabilities(tree: &Tree) -> Session {
    let program = tree.outside("gofer");
    copy_binary(&program);
    let words = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=+chown,+dac_override,+sys_chroot,+kill",
        "--ambient-caps=+chown,+dac_override,+sys_chroot,+kill",
        program.to_str().unwrap(),
        "--bundle",
        tree.bundle().to_str().unwrap(),
        "--io-fds=3",
    ]
    .map(str::to_owned);
    session_of(Launch::raw(&words).binary(Path::new("/usr/bin/setpriv")))
}

#[test]
fn process_has_no_memory_writable_and_executable() {
    let tree = tree_with_spec();
    let mut s = serve(&tree);
    expect_served(&mut s, &tree);
    let maps = s.gofer.proc_text("maps").unwrap();
    let both = |line: &&str| {
        line.split_whitespace()
            .nth(1)
            .is_some_and(|mode| mode.contains("wx"))
    };
    assert_eq!(maps.lines().find(both), None);
}

/// A wait interrupted by a stop goes on by a call of its own, which the filter must know.
#[test]
fn process_goes_on_after_a_stop() {
    let tree = tree_with_spec();
    let mut s = serve(&tree);
    let pid = Pid::from_raw(s.gofer.pid().cast_signed());
    for _ in 0..5 {
        kill(pid, Signal::SIGSTOP).unwrap();
        while !s.gofer.status("State").starts_with('T') {
            std::thread::yield_now();
        }
        kill(pid, Signal::SIGCONT).unwrap();
        s.getattr(ROOT, 0).unwrap();
    }
}

/// The descriptors beyond stdio and the io sockets: what they lead to.
fn others(gofer: &Gofer) -> Vec<(RawFd, PathBuf)> {
    let sockets: Vec<PathBuf> = gofer
        .inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]").into())
        .collect();
    let all = gofer.descriptors().unwrap();
    for socket in &sockets {
        assert_eq!(
            all.iter().filter(|(_, link)| link == socket).count(),
            1,
            "{socket:?} in {all:?}"
        );
    }
    let mut rest = Vec::new();
    for (number, link) in all {
        if number > 2 && !sockets.contains(&link) {
            rest.push((number, link));
        }
    }
    rest
}

/// Five are named: the clone of /proc/self/fd and four for logs. One tells of all sockets, and each attach
/// point has one; channels have theirs.
#[test]
fn descriptors_are_stdio_the_sockets_the_named_and_the_roots() {
    let tree = Tree::new();
    tree.dir("m");
    let (gofer, _clients) = serve_mounts(&tree, false, &[Mount::bind("/m", &[])]);
    let rest = others(&gofer);
    let roots = [tree.root(), tree.path("m")].map(file_of);
    let (held, named): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|(number, _)| roots.contains(&file_of(gofer.proc(&format!("fd/{number}")))));
    // A root may be held once as such and once as the file of fids.
    assert!(held.len() <= 2 * roots.len(), "{held:?}");
    let memory = Path::new("/memfd:channels (deleted)");
    let memories = named.iter().filter(|(_, link)| link == memory).count();
    let is_socket = |link: &Path| link.to_string_lossy().starts_with("socket:");
    let sockets = named.iter().filter(|(_, link)| is_socket(link)).count();
    // Two channels for each of two connections.
    assert_eq!((memories, sockets), (2, 2 * 2 * 2), "{named:?}");
    assert!(named.len() <= 6 + memories + sockets, "{named:?}");
    let others = |(_, link): &(RawFd, PathBuf)| link != memory && !is_socket(link);
    for (number, link) in named.into_iter().filter(others) {
        let link = link.to_str().unwrap();
        // The log is stderr; what is not in use holds a place with a pipe or /dev/null.
        let words = [
            "/dev/null",
            "/memfd:stderr (deleted)",
            "/",
            "anon_inode:[eventpoll]",
        ];
        let known = words.contains(&link) || link.starts_with("pipe:") || link.ends_with("/fd");
        assert!(known, "{number} {link}");
    }
}

#[test]
fn descriptors_nobody_named_are_closed() {
    let tree = tree_with_spec();
    let numbers = [4, 5, 6, 7, 8, 20, 37, 63, 64, 255, 399];
    let mut s = session_of(Launch::new(&tree.bundle(), 1).strays(&numbers));
    let stray = Path::new("/memfd:stray (deleted)");
    let left: Vec<_> = s
        .gofer
        .descriptors()
        .unwrap()
        .into_iter()
        .filter(|(_, link)| link == stray)
        .collect();
    assert_eq!(left, []);
    expect_served(&mut s, &tree);
}

/// No served file may come to stand where the log is written.
#[test]
fn descriptors_0_to_2_closed_at_start_are_never_files() {
    let tree = tree_with_spec();
    let words = [
        "-c".to_owned(),
        "exec \"$0\" \"$@\" 0<&- 1>&- 2>&-".to_owned(),
        crate::harness::binary().to_str().unwrap().to_owned(),
        format!("--bundle={}", tree.bundle().display()),
        "--io-fds=3".to_owned(),
    ];
    let mut s = session_of(Launch::raw(&words).binary(Path::new("/bin/sh")));
    for fid in 10..20 {
        s.open(ROOT, fid, "a", O_RDWR).unwrap();
    }
    for (number, link) in s.gofer.descriptors().unwrap() {
        let link = link.to_str().unwrap();
        let named = number > 2 || link == "/dev/null" || link.starts_with("pipe:");
        assert!(named, "{number} {link}");
    }
    s.write(10, 0, Data(b"t")).unwrap();
    assert_eq!(tree.read("a"), b"text");
}

/// Any number may be an io-fd, also those the program would rather use itself.
#[test]
fn descriptors_of_connections_may_have_any_number() {
    let tree = tree_with_spec();
    for number in 3..24 {
        let sockets = number - 2;
        let words = [
            "--bundle".into(),
            tree.bundle().into_os_string(),
            "--io-fds".into(),
            number.to_string().into(),
        ];
        let mut gofer = Launch::raw(&words).sockets(sockets).start();
        let mut client = gofer.connect(sockets - 1);
        client.walk_to(ROOT, 2, "a").unwrap();
        let rest = gofer.descriptors().unwrap();
        let sockets = rest
            .iter()
            .filter(|(_, link)| link.to_string_lossy().starts_with("socket:"))
            .count();
        assert_eq!(sockets, 1 + 2 * 2, "{rest:?}"); // its own, and those of two channels
    }
}

#[test]
fn descriptors_do_not_grow_with_use() {
    let tree = tree_with_spec();
    tree.dir("d/e");
    tree.link("l", "a");
    let mut s = serve(&tree);
    s.getattr(ROOT, 0).unwrap();
    let before = s.gofer.descriptors().unwrap();
    for round in 0..50 {
        s.open(ROOT, 2, "a", O_RDONLY).unwrap();
        s.open(ROOT, 3, "a", O_RDWR).unwrap();
        s.open(ROOT, 4, "d", O_RDONLY).unwrap();
        s.list(4, 4096).unwrap();
        s.walk_to(ROOT, 5, "d/e").unwrap();
        s.walk_to(ROOT, 6, "l").unwrap();
        s.walk_to(ROOT, 7, "").unwrap();
        s.lcreate(7, format!("new{round}").as_bytes(), O_RDWR, 0o600, NOID)
            .unwrap();
        s.walk_to(ROOT, 8, "d/missing").unwrap_err();
        s.lopen(6, O_RDONLY).unwrap_err();
        s.walk_to(ROOT, 9, "").unwrap();
        s.lcreate(9, b"a", O_RDWR, 0o600, NOID).unwrap_err();
        for fid in [2, 3, 4, 5, 6, 7, 9] {
            s.clunk(fid).unwrap();
        }
    }
    s.expect_descriptors(before.len());
    assert_eq!(s.gofer.descriptors().unwrap(), before);
}

// ---- places to start in ----

/// No /proc, no /dev, no /etc, no library: the program and its bundle.
#[test]
fn start_in_a_bare_root_is_served() {
    let bare = TempDir::new();
    fs::create_dir(bare.path().join("bundle")).unwrap();
    fs::write(bare.path().join("a"), b"text").unwrap();
    copy_binary(&bare.path().join("gofer"));
    write_spec(
        &bare.path().join("bundle"),
        &spec(Path::new("/"), false, &[]),
    );
    let launch = Launch::new(Path::new("/bundle"), 1)
        .binary(Path::new("/gofer"))
        .chroot(bare.path());
    let mut s = session_of(launch);
    s.open(ROOT, 2, "a", O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"text");
    s.walk_to(ROOT, 3, "").unwrap();
    s.lcreate(3, b"new", O_RDWR, 0o640, NOID).unwrap();
    s.write(3, 0, Data(b"written")).unwrap();
    assert_eq!(fs::read(bare.path().join("new")).unwrap(), b"written");
    assert_eq!(capabilities(&s.gofer), confined());
    assert_eq!(
        (s.gofer.status("NoNewPrivs"), s.gofer.status("Seccomp")),
        ("1".into(), "2".into())
    );
}

#[test]
fn start_without_privileges_is_fatal_and_serves_nothing() {
    let tree = tree_with_spec();
    let program = tree.outside("gofer");
    copy_binary(&program);
    for caps in ["--apply-caps=true", "--apply-caps=false"] {
        let launch = Launch::new(&tree.bundle(), 1)
            .with(&[caps])
            .binary(&program)
            .ids(65534, 65534);
        let mut gofer = launch.start();
        let client = gofer.client(0);
        let _ = client.send(&t::version(1, MSIZE, b"9P2000.L")); // it may be gone before
        client.expect_closed();
        let root = tree.root();
        let wanted = format!(
            "failed to chroot to \"{}\": operation not permitted",
            root.display()
        );
        gofer.exit().expect_fatal(&wanted);
    }
}

fn in_user_namespace(tree: &Tree) -> Session {
    session_of(Launch::new(&tree.bundle(), 1).namespace(Namespace::User))
}

#[test]
fn start_in_a_user_namespace_is_served_and_confined() {
    let tree = tree_with_spec();
    for namespace in [Namespace::User, Namespace::UserAndMount] {
        let mut s = session_of(Launch::new(&tree.bundle(), 1).namespace(namespace));
        expect_served(&mut s, &tree);
        fs::remove_file(tree.path("new")).unwrap();
        assert_eq!(capabilities(&s.gofer), confined());
        assert_eq!(
            (s.gofer.status("NoNewPrivs"), s.gofer.status("Seccomp")),
            ("1".into(), "2".into())
        );
        match namespace {
            // Its mounts are not ours to clone.
            Namespace::User => {
                assert_eq!(fs::read_link(s.gofer.proc("root")).unwrap(), tree.root());
                assert_eq!(fs::read_link(s.gofer.proc("cwd")).unwrap(), tree.root());
            }
            // The flags of its mounts are locked, which does not keep clones from being restricted further.
            _ => {
                expect_empty(&s.gofer, "root");
                assert!(!s.gofer.stderr().contains("held by mounts"));
            }
        }
    }
}

#[test]
fn start_by_a_plain_user_in_a_user_namespace_is_served() {
    let tree = tree_with_spec();
    for path in [tree.root(), tree.path("a")] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let program = tree.outside("gofer");
    copy_binary(&program);
    let launch = Launch::new(&tree.bundle(), 1).binary(&program);
    let mut s = session_of(launch.ids(65534, 65534).namespace(Namespace::User));
    expect_served(&mut s, &tree);
    assert_eq!(tree.stat("new").uid(), 65534);
}

// ---- files are re-opened by parent and name where there is no clone of /proc/self/fd ----

#[test]
fn fallback_opens_for_reading_and_writing() {
    let tree = tree_with_spec();
    tree.dir("d/e");
    tree.file("d/e/f", b"deep");
    let mut s = in_user_namespace(&tree);
    assert!(s.open(ROOT, 2, "d/e/f", O_RDONLY).unwrap().fd.is_some());
    assert_eq!(s.read_all(2).unwrap(), b"deep");
    s.open(ROOT, 3, "d/e/f", O_RDWR).unwrap();
    s.write(3, 0, Data(b"D")).unwrap();
    s.open(ROOT, 4, "d/e/f", O_WRONLY | O_TRUNC).unwrap();
    assert_eq!(tree.read("d/e/f"), b"");
    s.open(ROOT, 5, "d", O_RDONLY).unwrap();
    assert_eq!(s.list(5, 4096).unwrap().len(), 1);
}

#[test]
fn fallback_opens_the_root() {
    let tree = tree_with_spec();
    let mut s = in_user_namespace(&tree);
    s.walk_to(ROOT, 2, "").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(s.list(2, 4096).unwrap().len(), 1);
}

#[test]
fn fallback_opens_a_file_mount() {
    let tree = Tree::new();
    tree.file("hosts", b"127.0.0.1\n");
    write_spec(
        &tree.bundle(),
        &spec(&tree.root(), false, &[Mount::bind("/hosts", &[])]),
    );
    let mut gofer = Launch::new(&tree.bundle(), 2)
        .namespace(Namespace::User)
        .start();
    let mut client = gofer.connect(1);
    client.walk_to(ROOT, 2, "").unwrap();
    client.lopen(2, O_RDWR).unwrap();
    assert_eq!(client.read_all(2).unwrap(), b"127.0.0.1\n");
}

#[test]
fn fallback_opens_what_was_created() {
    let tree = tree_with_spec();
    tree.dir("d");
    let mut s = in_user_namespace(&tree);
    s.walk_to(ROOT, 2, "d").unwrap();
    s.lcreate(2, b"new", O_RDWR, 0o600, NOID).unwrap();
    s.write(2, 0, Data(b"written")).unwrap();
    s.open(ROOT, 3, "d/new", O_RDWR).unwrap();
    assert_eq!(s.read_all(3).unwrap(), b"written");
}

/// Names change with what the connection itself does.
#[test]
fn fallback_opens_a_file_renamed_through_the_connection() {
    let tree = tree_with_spec();
    tree.dir("d");
    tree.file("d/f", b"deep");
    let mut s = in_user_namespace(&tree);
    s.walk_to(ROOT, 2, "a").unwrap();
    s.walk_to(ROOT, 3, "d").unwrap();
    s.walk_to(ROOT, 4, "d/f").unwrap();
    s.renameat(ROOT, b"a", 3, b"b").unwrap();
    s.renameat(ROOT, b"d", ROOT, b"e").unwrap();
    s.rename(4, ROOT, b"g").unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"text");
    s.lopen(4, O_RDONLY).unwrap();
    assert_eq!(s.read_all(4).unwrap(), b"deep");
    s.lopen(3, O_RDONLY).unwrap();
    assert_eq!(s.list(3, 4096).unwrap().len(), 1);
}

/// An error, never another file, and no truncation of it.
#[test]
fn fallback_refuses_a_file_that_was_replaced() {
    let tree = Tree::new();
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    fs::write(tree.outside("secret"), b"outside").unwrap();
    let mut s = in_user_namespace(&tree);
    type Make<'a> = &'a dyn Fn(&Path);
    let replacements: [(&str, Make<'_>); 6] = [
        ("nothing", &|_| ()),
        ("file", &|path| fs::write(path, b"another").unwrap()),
        ("directory", &|path| fs::create_dir(path).unwrap()),
        ("fifo", &|path| {
            nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap()
        }),
        ("link", &|path| {
            std::os::unix::fs::symlink(tree.outside("secret"), path).unwrap()
        }),
        ("link to the old file", &|path| {
            std::os::unix::fs::symlink("kept", path).unwrap()
        }),
    ];
    for (number, (what, make)) in replacements.into_iter().enumerate() {
        for flags in [O_RDONLY, O_RDWR, O_RDWR | O_TRUNC] {
            let name = format!("{number}-{flags}");
            tree.file(&name, b"walked to");
            s.walk_to(ROOT, 2, &name).unwrap();
            // Kept alive, so that its inode number cannot come back.
            drop(fs::remove_file(tree.path("kept")));
            fs::rename(tree.path(&name), tree.path("kept")).unwrap();
            make(&tree.path(&name));
            let opened = s.lopen(2, flags);
            assert!(opened.is_err(), "{what}, flags {flags:#x}: {opened:?}");
            if what == "file" {
                assert_eq!(tree.read(&name), b"another", "flags {flags:#x}");
            }
            assert_eq!(tree.read("kept"), b"walked to");
        }
    }
    assert_eq!(fs::read(tree.outside("secret")).unwrap(), b"outside");
}

#[test]
fn fallback_opens_a_file_whose_directory_was_moved() {
    let tree = Tree::new();
    tree.dir("d");
    tree.file("d/f", b"text");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    let mut s = in_user_namespace(&tree);
    s.walk_to(ROOT, 2, "d/f").unwrap();
    fs::rename(tree.path("d"), tree.path("e")).unwrap();
    s.lopen(2, O_RDONLY).unwrap();
    assert_eq!(s.read_all(2).unwrap(), b"text");
}

// ---- memory ----

fn resident_kib(gofer: &Gofer) -> u64 {
    gofer
        .status("VmRSS")
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// The page behind a reply that ends with one, and what a request wrote before it failed.
#[test]
fn memory_behind_replies_goes_back() {
    const OTHERS: usize = 100;
    const LEVELS: usize = 254;
    let tree = Tree::new();
    fs::create_dir_all(tree.path(&format!("m/{}", "d/".repeat(LEVELS)))).unwrap();
    tree.file("m/f", [7; 4096]);
    let (gofer, mut clients) = serve_mounts(&tree, false, &vec![Mount::bind("/m", &[]); OTHERS]);
    let others = &mut clients[1..];
    for client in &mut *others {
        client.open(ROOT, 2, "f", O_RDONLY).unwrap();
    }
    let long = [b'x'; 256];
    let mut names = [b"d".as_slice(); LEVELS + 2];
    (names[0], names[LEVELS + 1]) = (b"", &long);
    let last_of_a_page = [t::read(1, 2, 0, 4096 - 11 - 11), t::clunk(1, 99)].concat();
    for (requests, replies) in [(last_of_a_page, 2), (t::multigetattr(1, ROOT, &names), 1)] {
        std::thread::sleep(std::time::Duration::from_millis(500)); // it has been quiet
        let idle = resident_kib(&gofer);
        for client in &*others {
            client.send(&requests).unwrap();
            let got: usize = (0..replies)
                .map(|_| client.recv().unwrap().body.len())
                .sum();
            assert_eq!(got, if replies == 2 { 4096 - 2 * 7 } else { 4 });
        }
        let begin = std::time::Instant::now();
        while resident_kib(&gofer) > idle + 128 {
            let waited = begin.elapsed();
            let now = resident_kib(&gofer);
            assert!(waited < crate::p9::PATIENCE, "{now} kB, {idle} kB at first");
            std::thread::yield_now();
        }
    }
}

/// Buffers of a megabyte are touched, then given back when it is quiet.
#[test]
fn memory_of_large_requests_goes_back() {
    let tree = Tree::new();
    tree.file("big", vec![7; 1 << 20]);
    let mut s = serve(&tree);
    let idle = resident_kib(&s.gofer);
    s.open(ROOT, 2, "big", O_RDWR).unwrap();
    let data = s.read(2, 0, MSIZE).unwrap().data.0;
    s.write(2, 0, Data(&data[..1_000_000])).unwrap();
    let begin = std::time::Instant::now();
    while resident_kib(&s.gofer) > idle + 256 {
        let waited = begin.elapsed();
        assert!(
            waited < crate::p9::PATIENCE,
            "{} kB, {idle} kB at first",
            resident_kib(&s.gofer)
        );
        std::thread::yield_now();
    }
    println!("{idle} kB idle, {} kB after use", resident_kib(&s.gofer));
}
