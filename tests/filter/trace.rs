//! What the binary calls while it serves: a session with every message, under strace(1), in every mode.
//! Each call behind the filter is in the table with its very arguments, and each row is seen.

use crate::channel::{Channel, VERSION};
use crate::harness::{
    Launch, Namespace, ROOT, Session, TempDir, Tree, binary, session_of, spec, write_spec,
};
use crate::p9::{
    Data, Frame, MSIZE, NOFID, NOID, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, PATIENCE, RLERROR,
    Rgetattr, SetAttr, t,
};
use crate::say;
use crate::table::{Call, MODES, describe, matching};
use gofer::limits::TRIM_EVERY_WAKEUPS;
use gofer::p9::messages::REQUESTS;
use gofer::sandbox::seccomp::{ALLOWED, Modes};
use linux_raw_sys::general::__NR_seccomp;
use linux_raw_sys::ptrace::SECCOMP_SET_MODE_FILTER;
use nix::libc::{AT_REMOVEDIR, O_APPEND, S_IFCHR, S_IFIFO, S_IFREG};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How the program is started so that it serves in a mode. What else a mode has is a matter of flags: see [`traced`].
fn ways(mode: Modes) -> &'static [Option<Namespace>] {
    if mode.meets(Modes::BY_PROC_FD) {
        &[None, Some(Namespace::UserAndMount)]
    } else {
        // No privilege over the mounts: no clone of /proc/self/fd.
        &[Some(Namespace::User)]
    }
}

/// Rows that no session of ours can bring about: mode, call, and why. None so far.
const UNSEEN: &[(&str, &str, &str)] = &[];

// ---- the session ----------------------------------------------------------------------------

/// Sends messages and remembers which.
struct Driver<'a> {
    session: &'a mut Session,
    sent: BTreeSet<u8>,
}

impl Driver<'_> {
    #[track_caller]
    fn answer(&mut self, request: &[u8]) -> Frame {
        let [_, _, _, _, kind, tag0, tag1, ..] = *request else {
            panic!("a request without a header");
        };
        self.sent.insert(kind);
        self.session.send(request).expect("send");
        let reply = self.session.recv().expect("a reply");
        assert_eq!(reply.tag, u16::from_le_bytes([tag0, tag1]));
        assert!(reply.kind == kind + 1 || reply.kind == RLERROR, "{reply:?}");
        reply
    }

    /// It must be done.
    #[track_caller]
    fn done(&mut self, request: Vec<u8>) {
        let reply = self.answer(&request);
        if reply.kind == RLERROR {
            panic!("message {}: {:?}", request[4], reply.errno());
        }
    }

    /// It is answered in one way or the other.
    #[track_caller]
    fn answered(&mut self, request: Vec<u8>) {
        self.answer(&request);
    }

    /// Walks `fid` to `names` below the root.
    #[track_caller]
    fn walk(&mut self, fid: u32, names: &[&[u8]]) {
        self.done(t::walk(1, ROOT, fid, names));
    }

    #[track_caller]
    fn clunk(&mut self, fids: &[u32]) {
        for &fid in fids {
            self.done(t::clunk(1, fid));
        }
    }
}

/// Every message, so that every row of the table that holds in `mode` has a reason to be used. The tree is `filled`'s.
fn drive(session: &mut Session, tree: &Tree, mode: Modes, trace: &Path) {
    let sent = BTreeSet::from([100, 104]); // the harness has sent Tversion and Tattach
    let d = &mut Driver { session, sent };

    // walk, attr
    d.walk(2, &[]);
    d.walk(3, &[b"d", b"inner"]);
    d.walk(4, &[b"d", b"inner"]); // known by now
    d.done(t::walkgetattr(1, ROOT, 5, &[b"l"]));
    d.done(t::getattr(1, 3, u64::MAX));
    d.done(t::statfs(1, ROOT));
    d.done(t::readlink(1, 5));
    d.answered(t::walk(1, ROOT, 6, &[b"missing"]));
    d.done(t::flush(1, 7));
    d.answered(t::auth(1, 6, b"", b"", NOID));
    d.answered(t::attach(1, 6, NOFID, b"", b"/", NOID));
    d.clunk(&[2, 3, 4, 5]);

    // data
    d.walk(2, &[b"a"]);
    d.done(t::lopen(1, 2, O_RDWR));
    d.done(t::read(1, 2, 0, 100));
    d.done(t::write(1, 2, 3, Data(b"text")));
    d.done(t::fsync(1, 2, 0));
    d.done(t::flushf(1, 2));
    d.done(t::allocate(1, 2, 0, 0, 4096));
    d.walk(3, &[b"a"]);
    d.done(t::lopen(1, 3, O_WRONLY | O_TRUNC));
    d.clunk(&[3]);

    // directories
    d.walk(3, &[]);
    d.done(t::lopen(1, 3, O_RDONLY));
    d.done(t::readdir(1, 3, 0, 4096));
    d.done(t::readdir(1, 3, 0, 4096)); // from the start again
    d.clunk(&[3]);

    // attributes changed: of an open file, of one that is not, of a directory
    d.walk(3, &[b"a"]);
    d.walk(4, &[b"d"]);
    let attr = SetAttr {
        mode: 0o640,
        uid: 0,
        gid: 0,
        size: 7,
        atime: 1,
        mtime: 2,
        ..SetAttr::default()
    };
    const SIZE: u32 = 0x8;
    for fid in [2, 3, 4] {
        for valid in [
            0x1,
            0x2,
            0x4,
            SIZE,
            0x10,
            0x20,
            0x10 | 0x80,
            0x20 | 0x100,
            0x1bf,
        ] {
            if fid != 4 || valid & SIZE == 0 {
                d.done(t::setattr(1, fid, valid, &attr));
            }
        }
        d.answered(t::setattr(1, fid, 0x40, &attr)); // the change time is nobody's to set
    }
    d.answered(t::setattrclunk(1, 3, 0x1, &attr));
    d.done(t::multigetattr(1, ROOT, &[b"", b"d", b"inner"]));
    d.answered(t::clunk(1, 3));
    d.clunk(&[2]);

    // files made; another owner is refused inside a user namespace, and what was made is removed
    for (fid, name) in [(5, b"made"), (6, b"mine")] {
        d.walk(fid, &[]);
        d.done(t::lcreate(1, fid, name, O_RDWR, 0o600, NOID));
    }
    d.walk(7, &[]);
    d.answered(t::ucreate(1, 7, b"theirs", O_RDWR, 0o600, 1234, 1234));
    d.done(t::mkdir(1, ROOT, b"new", 0o755, NOID));
    d.done(t::mknod(1, ROOT, b"node", S_IFREG | 0o644, 0, 0, NOID));
    d.done(t::symlink(1, ROOT, b"sym", b"target", NOID));
    d.answered(t::umkdir(1, ROOT, b"unew", 0o755, 1234, 1234));
    d.answered(t::umknod(
        1,
        ROOT,
        b"unode",
        S_IFREG | 0o644,
        0,
        0,
        1234,
        1234,
    ));
    d.answered(t::usymlink(1, ROOT, b"usym", b"target", 1234, 1234));

    // names: linked, renamed, removed
    d.walk(8, &[b"a"]);
    d.done(t::link(1, ROOT, 8, b"hard"));
    d.walk(9, &[b"gone"]);
    fs::remove_dir(tree.path("gone")).expect("rmdir by the host");
    d.answered(t::link(1, 9, 8, b"hard")); // tried by every way there is
    d.done(t::rename(1, 8, 4, b"renamed"));
    d.done(t::renameat(1, 4, b"inner", ROOT, b"outer"));
    d.done(t::unlinkat(1, ROOT, b"new", AT_REMOVEDIR.cast_unsigned()));
    d.done(t::unlinkat(1, ROOT, b"node", 0));
    d.done(t::remove(1, 5));
    d.clunk(&[4, 6, 7, 8, 9]);

    // extended attributes: of a file that is opened again for it, and of an open one
    d.walk(2, &[b"t"]);
    d.walk(3, &[b"t"]);
    d.done(t::lopen(1, 3, O_RDONLY));
    for fid in [2, 3] {
        for flags in [0, 2] {
            d.done(t::setxattr(1, fid, b"user.a", b"value", flags));
        }
        d.done(t::getxattr(1, fid, b"user.a", 100));
        d.done(t::listxattr(1, fid, 100));
        d.done(t::xattrwalk(1, fid, 4, b"user.a"));
        d.done(t::xattrwalk(1, fid, 4, b""));
        d.done(t::removexattr(1, fid, b"user.a"));
        d.answered(t::setxattr(1, fid, b"user.a", b"value", u32::MAX));
    }
    d.done(t::xattrcreate(1, 2, b"user.a", 1, 1));
    d.done(t::write(1, 2, 0, Data(b"x")));
    d.clunk(&[2, 3, 4]);

    // the host's socket and FIFO, where they are served
    d.answered(t::walk(1, ROOT, 2, &[b"socket"]));
    d.answered(t::walk(1, ROOT, 3, &[b"fifo"]));
    if mode.meets(Modes::HOST_UDS) {
        for kind in [0, 1, 2] {
            d.answered(t::lconnect(1, 2, kind));
        }
        d.done(t::lopen(1, 3, O_RDWR));
        d.clunk(&[2, 3]);
    }
    d.answered(t::lconnect(1, ROOT, 0));

    // refused, whatever the tree
    d.answered(t::bind(1, ROOT, 1, b"socket", NOID, NOID, 9));
    d.answered(t::channel(1, 0, 0)); // the version has none
    if mode.meets(Modes::CHANNELS) {
        drive_channel(d, trace);
    }

    // Linux's own; a device wants a capability that is gone
    d.done(t::version(1, MSIZE, b"9P2000.L"));
    d.walk(2, &[b"t"]);
    d.done(t::lopen(1, 2, O_RDWR | O_APPEND.cast_unsigned()));
    d.done(t::write(1, 2, 1, Data(b"appended")));
    for kind in [1, 2] {
        d.done(t::getlock(1, 2, kind, 0, 0, 1, b"client"));
        d.done(t::lock(1, 2, kind, 0, 0, 0, 1, b"client"));
    }
    d.done(t::mknod(1, ROOT, b"pipe", S_IFIFO | 0o644, 0, 0, NOID));
    d.answered(t::mknod(1, ROOT, b"null", S_IFCHR | 0o644, 1, 3, NOID));
    d.done(t::attach(1, 10, NOFID, b"", b"/", 0));

    // long enough for memory to be given back though the program is never idle
    for _ in 0..=2 * TRIM_EVERY_WAKEUPS {
        d.done(t::getattr(1, ROOT, 0));
    }

    for &(kind, name, _) in REQUESTS {
        assert!(d.sent.contains(&kind), "the session lacks {name}");
    }
}

/// Requests through a channel, and through the socket beside it.
fn drive_channel(d: &mut Driver<'_>, trace: &Path) {
    d.done(t::version(1, MSIZE, VERSION));
    let channel = Channel::open(d.session, 0).expect("a channel");
    d.walk(2, &[b"t"]);
    let opened = channel
        .exchange(&t::lopen(1, 2, O_RDONLY))
        .expect("a reply");
    assert!(opened.kind != RLERROR && opened.fd.is_some(), "{opened:?}");
    d.clunk(&[2]);
    let asked = channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0));
    asked.expect("a reply");
    // Until it sleeps where the socket rings.
    let begun = Instant::now();
    while !has(trace, "rt_sigreturn(") && begun.elapsed() < PATIENCE {
        sleep(Duration::from_millis(1));
        d.done(t::getattr(1, ROOT, 0));
    }
}

fn has(trace: &Path, words: &str) -> bool {
    fs::read_to_string(trace).is_ok_and(|text| text.contains(words))
}

/// The calls of a program that looks for the next request before it sleeps: that pays only where the mean time
/// between a reply and what comes next is below --channel-spin. Requests of ours come later than that on a machine
/// whose cores wake slowly, and under a tracer. A signal that is pending when a wait begins ends it at once, as
/// a socket's would; and of the calls this tracer stops only those that are wanted here.
fn drive_looks(way: Option<Namespace>, mode: Modes) -> Vec<(String, Call)> {
    let options = [
        "--seccomp-bpf",
        "-e",
        "trace=seccomp,sched_yield,exit_group",
    ];
    let mut traced = Traced::start(way, mode, &[&options[..], &["-e", "signal=none"]].concat());
    let session = &mut traced.session;
    session.version(MSIZE, VERSION).expect("a version");
    let channel = Channel::open(session, 0).expect("a channel");
    let asked = channel.get::<Rgetattr>(&t::getattr(1, ROOT, 0));
    asked.expect("a reply");
    let children = session
        .gofer
        .proc_text(&format!("task/{}/children", session.gofer.pid()));
    let children = children.expect("the tracer's children");
    let pid = Pid::from_raw(children.trim().parse().expect("one child"));
    let begun = Instant::now();
    while !has(&traced.file, "sched_yield(") && begun.elapsed() < 5 * PATIENCE {
        for _ in 0..1_000 {
            kill(pid, Signal::SIGIO).expect("a signal");
        }
    }
    drop(channel);
    traced.finish()
}

fn filled() -> Tree {
    let tree = Tree::new();
    tree.file("a", b"some text");
    tree.file("t", b"more text");
    tree.dir("d");
    tree.dir("gone");
    tree.file("d/inner", b"inner");
    tree.link("l", "a");
    nix::unistd::mkfifo(&tree.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    write_spec(&tree.bundle(), &spec(&tree.root(), false, &[]));
    tree
}

// ---- the trace ------------------------------------------------------------------------------

/// A session under strace.
struct Traced {
    session: Session,
    tree: Tree,
    file: PathBuf,
    /// Where the file lies, and the host's socket: for as long as the session.
    _held: (TempDir, UnixListener),
}

impl Traced {
    /// Starts the program in `mode`, with further `options` of strace.
    fn start(way: Option<Namespace>, mode: Modes, options: &[&str]) -> Traced {
        let strace = Path::new("strace");
        if let Err(error) = Command::new(strace).arg("--version").output() {
            panic!("strace: {error}: install the Debian package strace");
        }
        let tree = filled();
        let own = TempDir::new();
        let file = own.path().join("trace");
        // Numbers of calls and raw arguments: what the filter sees.
        let words = ["-f", "-n", "-e", "raw=all", "-o"];
        let mut words: Vec<OsString> = options.iter().chain(&words).map(OsString::from).collect();
        words.extend([file.clone().into(), binary().into(), "--bundle".into()]);
        words.extend([tree.bundle().into(), "--io-fds".into(), "3".into()]);
        let listener = UnixListener::bind(tree.path("socket")).expect("a socket of the host");
        // Gaps between requests are longer under strace.
        words.extend(match mode.meets(Modes::CHANNELS) {
            true => ["--channels=2", "--channel-spin=1000"].map(OsString::from),
            false => ["--channels=0", "--channel-spin=0"].map(OsString::from),
        });
        if mode.meets(Modes::HOST_UDS) {
            words.extend(["--host-uds=open".into(), "--host-fifo=open".into()]);
        }
        let mut launch = Launch::raw(&words).binary(strace);
        if let Some(namespace) = way {
            launch = launch.namespace(namespace);
        }
        Traced {
            session: session_of(launch),
            tree,
            file,
            _held: (own, listener),
        }
    }

    /// Ends the session. The calls behind the filter.
    fn finish(mut self) -> Vec<(String, Call)> {
        let exit = self.session.finish();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let text = fs::read_to_string(&self.file).expect("read the trace");
        let calls = behind_filter(&text).unwrap_or_else(|fault| panic!("{fault}: {text}"));
        let (last, _) = calls.last().expect("calls behind the filter");
        assert_eq!(last, "exit_group");
        calls
    }
}

/// The calls of a session with every message.
fn every_message(way: Option<Namespace>, mode: Modes) -> Vec<(String, Call)> {
    let mut traced = Traced::start(way, mode, &[]);
    let Traced {
        session,
        tree,
        file,
        ..
    } = &mut traced;
    drive(session, tree, mode, file);
    traced.finish()
}

/// What is said of a start that came to nothing.
const NO_FILTER: &str = "no filter installed";

const ENDS: [&str; 2] = ["+++ exited with ", "+++ killed by SIGKILL"];

/// The calls behind the filter of a program's trace.
fn behind_filter(trace: &str) -> Result<Vec<(String, Call)>, String> {
    let installs = |line: &str| {
        parse(line).is_some_and(|(_, call)| {
            call.number == __NR_seccomp && call.args[0] == u64::from(SECCOMP_SET_MODE_FILTER)
        }) && line.ends_with(" = 0")
    };
    let mut lines = trace.lines();
    if !lines.any(installs) {
        return Err(NO_FILTER.to_owned());
    }
    let mut calls = Vec::new();
    for line in lines {
        match parse(line) {
            Some(parsed) => calls.push(parsed),
            None if ENDS.iter().any(|end| line.contains(end)) => {}
            None if line.contains("--- SIGIO {") => {} // what a socket has, where there are channels
            None => return Err(format!("not a call: {line}")),
        }
    }
    Ok(calls)
}

/// `PID [NUMBER] NAME(ARGUMENT, …) = RESULT`
fn parse(line: &str) -> Option<(String, Call)> {
    let (_, rest) = line.split_once('[')?;
    let (number, rest) = rest.split_once(']')?;
    let (name, rest) = rest.split_once('(')?;
    let (list, _) = rest.split_once(')')?;
    let mut args = [0; 6];
    let words = list.split(", ").filter(|word| !word.is_empty());
    for (arg, word) in args.iter_mut().zip(words) {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        *arg = u64::from_str_radix(digits, 16).ok()?;
    }
    let number = number.trim().parse().ok()?;
    Some((name.trim().to_owned(), Call::new(number, args)))
}

fn check(name: &str, mode: Modes) {
    let mut seen = BTreeSet::new();
    let mut count = 0;
    for way in ways(mode) {
        let mut calls = every_message(*way, mode);
        if mode.meets(Modes::CHANNELS) {
            calls.extend(drive_looks(*way, mode));
        }
        for (call_name, call) in calls {
            let rows: Vec<usize> = matching(mode, &call).collect();
            assert!(
                !rows.is_empty(),
                "mode {name}, {way:?}: {call_name} {call:x?}"
            );
            seen.extend(rows);
            count += 1;
        }
    }
    let rows = ALLOWED.iter().enumerate();
    let missing: Vec<usize> = rows
        .filter(|(at, rule)| mode.meets(rule.when) && !seen.contains(at))
        .map(|(at, _)| at)
        .collect();
    let list: Vec<String> = missing.iter().map(|&at| describe(at)).collect();
    say(&format!(
        "trace in mode {name}: {count} calls behind the filter, rows seen: {}, never seen: {list:#?}",
        seen.len()
    ));
    let is_known = |at: &usize| {
        let (call, _) = gofer::sandbox::seccomp::REASONS[*at];
        UNSEEN
            .iter()
            .any(|&(in_mode, unseen, _)| in_mode == name && unseen == call)
    };
    assert!(missing.iter().all(is_known), "mode {name}: {list:#?}");
}

#[test]
fn trace_of_every_message_stays_in_the_table_and_uses_every_row() {
    for &(name, mode) in MODES {
        check(name, mode);
    }
}

/// What `./build.sh traced` has left of each client: GOFER_TRACES has a folder for each, with a file for each start.
#[test]
#[ignore = "needs the traces of ./build.sh traced"]
fn traces_of_real_clients_stay_in_the_table() {
    let top = std::env::var_os("GOFER_TRACES").expect("GOFER_TRACES, the folder with the traces");
    let reopening = Modes::BY_PROC_FD.and(Modes::BY_PARENT);
    let all_modes = reopening.and(Modes::HOST_UDS).and(Modes::CHANNELS);
    let entries = |dir: &Path| {
        let list = fs::read_dir(dir).expect("list the traces");
        list.map(|entry| entry.expect("an entry").path())
            .collect::<Vec<_>>()
    };
    let clients = entries(Path::new(&top));
    assert_eq!(clients.len(), 2, "{clients:?}");
    for client in clients {
        let mut seen = BTreeSet::new();
        let (mut starts, mut count) = (0, 0);
        for file in entries(&client) {
            let text = fs::read_to_string(&file).expect("read a trace");
            let calls = match behind_filter(&text) {
                Ok(calls) => calls,
                Err(fault) if fault == NO_FILTER => continue, // a start that was to fail
                Err(fault) => panic!("{}: {fault}", file.display()),
            };
            starts += 1;
            for (name, call) in calls {
                let rows: Vec<usize> = matching(all_modes, &call).collect();
                assert!(!rows.is_empty(), "{}: {name} {call:x?}", file.display());
                seen.extend(rows);
                count += 1;
            }
        }
        assert!(starts > 0, "no start in {}", client.display());
        let rest: Vec<String> = (0..ALLOWED.len())
            .filter(|at| !seen.contains(at))
            .map(describe)
            .collect();
        say(&format!(
            "{}: {count} calls behind the filter in {starts} starts, rows seen: {}, never seen: {rest:#?}",
            client.display(),
            seen.len()
        ));
    }
}

#[test]
fn trace_line_is_read_with_its_raw_arguments() {
    let line = "77    [ 262] newfstatat(0xffffff9c, 0x7ffd, 0x10, 0) = -1 ENOENT (No such file)";
    let wanted = Call::new(262, [0xffff_ff9c, 0x7ffd, 0x10, 0, 0, 0]);
    assert_eq!(parse(line), Some(("newfstatat".to_owned(), wanted)));
    assert_eq!(parse("77    [ 231] +++ exited with 0 +++"), None);
    assert_eq!(parse("77    [ 231] --- SIGSYS {si_signo=SIGSYS} ---"), None);
}
