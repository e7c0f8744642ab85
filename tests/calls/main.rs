//! How many system calls the served process makes for an operation: exact, and the same on every machine.
//!
//! The program runs under strace(1). A client does each workload of the bench some times, with a Tstatfs
//! before and behind each, whose fstatfs(2) tells them apart in the trace. It sends only to a process that
//! sleeps, so that what it sends together is there together.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[allow(dead_code, unreachable_pub)] // the bench's
#[path = "../bench/work.rs"]
mod work;

use channel::{Channel, VERSION};
use harness::{Gofer, Launch, Mount, ROOT, TempDir, Tree, binary, spec, write_spec};
use kit::{channel, harness, p9};
use p9::{Client, MSIZE, RLERROR, t};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use work::{DEEPEST, fill, preparation, works};

/// For each workload its calls: on the only connection, on one of four, for 16 in flight on the only
/// connection, sent together ("–" where more is sent than the socket takes at once), and through a channel whose
/// server sleeps in between.
const TABLE: &[[&str; 5]] = &[
    [
        "getattr",
        "3: recvfrom, newfstatat, sendmsg",
        "4: ppoll, recvfrom, newfstatat, sendmsg",
        "18: recvfrom, 16 newfstatat, sendmsg",
        "5: 2 rt_sigprocmask, futex_waitv, newfstatat, futex",
    ],
    [
        "walk + getattr + clunk",
        "10: 3 recvfrom, openat, 2 newfstatat, 3 sendmsg, close",
        "13: 3 ppoll, 3 recvfrom, openat, 2 newfstatat, 3 sendmsg, close",
        "70: 3 recvfrom, 16 openat, 32 newfstatat, 3 sendmsg, 16 close",
        "16: 6 rt_sigprocmask, 3 futex_waitv, openat, 2 newfstatat, 3 futex, close",
    ],
    [
        "walkgetattr + clunk",
        "7: 2 recvfrom, openat, newfstatat, 2 sendmsg, close",
        "9: 2 ppoll, 2 recvfrom, openat, newfstatat, 2 sendmsg, close",
        "52: 2 recvfrom, 16 openat, 16 newfstatat, 2 sendmsg, 16 close",
        "11: 4 rt_sigprocmask, 2 futex_waitv, openat, newfstatat, 2 futex, close",
    ],
    [
        "walk of 8 names + clunk",
        "28: 2 recvfrom, 8 openat, 8 newfstatat, 2 sendmsg, 8 close",
        "30: 2 ppoll, 2 recvfrom, 8 openat, 8 newfstatat, 2 sendmsg, 8 close",
        "–",
        "32: 4 rt_sigprocmask, 2 futex_waitv, 8 openat, 8 newfstatat, 2 futex, 8 close",
    ],
    [
        "walk + open + clunk",
        "11: 3 recvfrom, 2 openat, newfstatat, 3 sendmsg, 2 close",
        "14: 3 ppoll, 3 recvfrom, 2 openat, newfstatat, 3 sendmsg, 2 close",
        "101: 3 recvfrom, 32 openat, 16 newfstatat, 18 sendmsg, 32 close",
        "18: 6 rt_sigprocmask, 3 futex_waitv, 2 openat, newfstatat, 3 futex, sendmsg, 2 close",
    ],
    [
        "read 4 KiB",
        "3: recvfrom, pread64, sendmsg",
        "4: ppoll, recvfrom, pread64, sendmsg",
        "18: recvfrom, 16 pread64, sendmsg",
        "5: 2 rt_sigprocmask, futex_waitv, pread64, futex",
    ],
    [
        "read 64 KiB",
        "3: recvfrom, pread64, sendmsg",
        "4: ppoll, recvfrom, pread64, sendmsg",
        "–",
        "5: 2 rt_sigprocmask, futex_waitv, pread64, futex",
    ],
    [
        "write 4 KiB",
        "3: recvfrom, pwrite64, sendmsg",
        "4: ppoll, recvfrom, pwrite64, sendmsg",
        "–",
        "5: 2 rt_sigprocmask, futex_waitv, pwrite64, futex",
    ],
    [
        "create + write 4 KiB + clunk + unlink",
        "15: 5 recvfrom, 5 sendmsg, openat, newfstatat, pwrite64, close, unlinkat",
        "20: 5 ppoll, 5 recvfrom, 5 sendmsg, openat, newfstatat, pwrite64, close, unlinkat",
        "–",
        "26: 10 rt_sigprocmask, 5 futex_waitv, 5 futex, openat, newfstatat, sendmsg, pwrite64, close, unlinkat",
    ],
    [
        "mkdir + rmdir",
        "9: 2 recvfrom, mkdirat, openat, newfstatat, close, 2 sendmsg, unlinkat",
        "11: 2 ppoll, 2 recvfrom, mkdirat, openat, newfstatat, close, 2 sendmsg, unlinkat",
        "84: 2 recvfrom, 16 mkdirat, 16 openat, 16 newfstatat, 16 close, 2 sendmsg, 16 unlinkat",
        "13: 4 rt_sigprocmask, 2 futex_waitv, mkdirat, openat, newfstatat, close, 2 futex, unlinkat",
    ],
    [
        "rename",
        "3: recvfrom, renameat, sendmsg",
        "4: ppoll, recvfrom, renameat, sendmsg",
        "18: recvfrom, 16 renameat, sendmsg",
        "5: 2 rt_sigprocmask, futex_waitv, renameat, futex",
    ],
];

/// Times that each workload is done and counted.
const TIMES: usize = 4;
/// The most that a socket pair hands over at once, whatever it is told to buffer, bytes.
const AT_ONCE: usize = 32 << 10;

/// A program under strace, with its connections.
struct Traced {
    gofer: Gofer,
    clients: Vec<Client>,
    /// What the first client's requests go through, one by one.
    channel: Option<Channel>,
    /// The process that is traced.
    pid: String,
    marks: usize,
    /// The trace, read up to its end as it was then, and what stands behind the last mark of that.
    trace: File,
    behind: String,
}

impl Traced {
    fn start(tree: &Tree, trace: &Path, connections: usize) -> Traced {
        let mounts = vec![Mount::bind("/s", &[]); connections - 1];
        write_spec(&tree.bundle(), &spec(&tree.root(), false, &mounts));
        let mut words: Vec<OsString> = ["-f", "-o"].map(OsString::from).into();
        words.extend([trace.into(), binary().into(), "--bundle".into()]);
        words.push(tree.bundle().into());
        for number in 3..3 + connections {
            words.extend(["--io-fds".into(), number.to_string().into()]);
        }
        words.push("--channel-spin=0".into());
        let launch = Launch::raw(&words).sockets(connections);
        let mut gofer = launch.binary(Path::new("strace")).start();
        let clients = (0..connections).map(|at| gofer.connect(at)).collect();
        let tracer = gofer.pid();
        let children = gofer.proc_text(&format!("task/{tracer}/children")).unwrap();
        let pid = children.trim().to_owned();
        Traced {
            gofer,
            clients,
            channel: None,
            pid,
            marks: 0,
            trace: File::open(trace).unwrap(),
            behind: String::new(),
        }
    }

    /// From here on requests go through a channel.
    fn take_channel(&mut self) {
        self.clients[0].version(MSIZE, VERSION).unwrap();
        self.channel = Some(Channel::open(&mut self.clients[0], 0).unwrap());
    }

    /// Sends to the process as soon as it sleeps; as many replies are awaited.
    fn exchange(&mut self, bytes: &[u8], replies: usize) {
        let stat = Path::new("/proc").join(&self.pid).join("stat");
        loop {
            let text = fs::read_to_string(&stat).expect("a live process");
            let (_, behind) = text.rsplit_once(") ").expect("a name in brackets");
            if behind.starts_with('S') {
                break;
            }
            std::thread::yield_now();
        }
        if let Some(channel) = &self.channel {
            let reply = channel.exchange(bytes).unwrap();
            assert!(replies == 1 && reply.kind != RLERROR, "{reply:?}");
            return;
        }
        self.clients[0].send(bytes).unwrap();
        for _ in 0..replies {
            let reply = self.clients[0].recv().unwrap();
            assert_ne!(reply.kind, RLERROR, "{reply:?}");
        }
    }

    /// Puts a mark in the trace; its number.
    fn mark(&mut self) -> usize {
        self.exchange(&t::statfs(1, ROOT), 1);
        self.marks += 1;
        self.marks - 1
    }

    /// Does `work` and puts marks behind it until it was done `times` times without a pause; the numbers of these
    /// marks. How often a machine makes us pause is no matter of ours.
    fn without_pauses(&mut self, times: usize, mut work: impl FnMut(&mut Traced)) -> Vec<usize> {
        let mut marks = Vec::new();
        self.written();
        for _ in 0..1_000 {
            work(self);
            let mark = self.mark();
            if !self.written().lines().any(is_of_a_pause) {
                marks.push(mark);
            }
            if marks.len() == times {
                return marks;
            }
        }
        panic!("a pause each time");
    }

    /// What the tracer has written from the mark before the last one on, up to the last one, which was answered.
    fn written(&mut self) -> String {
        self.trace
            .read_to_string(&mut self.behind)
            .expect("a trace");
        let last = self.behind.rfind(" fstatfs(").expect("a mark");
        let next = self.behind.split_off(last + 1);
        std::mem::replace(&mut self.behind, next)
    }
}

/// Whether a call of the trace is one of a process that was left alone for 100 ms: a wait that ended with nothing,
/// or memory that is given back. Looks without waiting are not.
fn is_of_a_pause(line: &str) -> bool {
    let has = |words: &str| line.contains(words);
    has(" futex_waitv(") && has("ETIMEDOUT")
        || has(" ppoll(") && has("= 0 (Timeout)") && !has("tv_nsec=0}")
        || has(" recvfrom(") && has(") = -1 EAGAIN") && !has("MSG_DONTWAIT")
        || has(" madvise(")
}

/// The calls of each workload that can be counted at this depth; through a channel, or not.
fn counted(connections: usize, depth: usize, is_channel: bool) -> Vec<(&'static str, String)> {
    let tree = Tree::new();
    fill(&tree.root(), 10);
    let own = TempDir::new();
    let trace = own.path().join("trace");
    let mut traced = Traced::start(&tree, &trace, connections);
    for request in preparation() {
        traced.exchange(&request, 1);
    }
    if is_channel {
        traced.take_channel();
    }
    traced.mark();
    let empty = traced.without_pauses(1, |_| {})[0];
    let mut at = Vec::new();
    for work in works(depth) {
        let sent = work.stages.iter().map(|stage| stage.bytes.len()).max();
        let is_deep = work.is_deep || depth == 1;
        if !is_deep
            || sent > Some(AT_ONCE)
            || work.frame > 128 << 10
            || work.speaks == work::Speaks::Linux
        {
            continue;
        }
        let exchange = |traced: &mut Traced| {
            for stage in &work.stages {
                traced.exchange(&stage.bytes, stage.replies);
            }
        };
        exchange(&mut traced); // the first finds nothing as it is later
        traced.mark();
        let marks = traced.without_pauses(TIMES, exchange);
        at.push((work.name, work.operations / depth, marks));
    }
    (traced.channel, traced.clients) = (None, Vec::new());
    let exit = traced.gofer.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");

    let text = fs::read_to_string(&trace).unwrap();
    let mut names: Vec<&str> = text.lines().filter_map(call).collect();
    if is_channel {
        names.retain(|&name| name != "clock_gettime"); // once in each 100 ms
    }
    let between: Vec<&[&str]> = names.split(|&name| name == "fstatfs").collect();
    // The reply to a mark stands first, the wait for the next one last.
    let [_, waits @ ..] = between[empty] else {
        panic!("nothing between two marks");
    };
    at.iter()
        .map(|(name, repeats, marks)| {
            let lists: Vec<String> = marks
                .iter()
                .map(|&at| {
                    let [_, calls @ ..] = between[at] else {
                        panic!("nothing between two marks");
                    };
                    let calls = calls.strip_suffix(waits).expect("the wait for a mark");
                    list(calls, *repeats)
                })
                .collect();
            assert!(
                lists.iter().all(|list| *list == lists[0]),
                "{name}: {lists:#?}"
            );
            (*name, lists[0].clone())
        })
        .collect()
}

/// The call of a line of the trace. None: no call.
fn call(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(' ')?;
    let (name, rest) = rest.trim_start().split_once('(')?;
    assert!(!rest.contains("unfinished"), "{line}");
    (!name.contains(' ')).then_some(name)
}

/// `14: 3 ppoll, 3 recvfrom, ...`, in the order in which they are first made.
fn list(calls: &[&str], repeats: usize) -> String {
    let calls = &calls[..calls.len() / repeats];
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for &name in calls {
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    let words: Vec<String> = counts
        .iter()
        .map(|&(name, count)| match count {
            1 => name.to_owned(),
            _ => format!("{count} {name}"),
        })
        .collect();
    format!("{}: {}", calls.len(), words.join(", "))
}

/// Prints past the test harness, which would keep it for itself.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("write to standard error");
}

#[test]
fn system_calls_of_an_operation_are_those_of_the_table() {
    let [one, four, deep] = [(1, 1), (4, 1), (1, DEEPEST)]
        .map(|(connections, depth)| counted(connections, depth, false));
    let channel = counted(1, 1, true);
    let find = |list: &[(&str, String)], name: &str| {
        let found = list.iter().find(|(known, _)| *known == name);
        found.map_or("–".to_owned(), |(_, calls)| calls.clone())
    };
    let measured: Vec<[String; 5]> = one
        .iter()
        .map(|(name, calls)| {
            [
                (*name).to_owned(),
                calls.clone(),
                find(&four, name),
                find(&deep, name),
                find(&channel, name),
            ]
        })
        .collect();
    if measured != TABLE {
        for row in &measured {
            say(&format!("    {row:?},"));
        }
    }
    for (row, wanted) in measured.iter().zip(TABLE) {
        assert_eq!(
            row, wanted,
            "calls changed: where they are fewer, the table is to say so"
        );
    }
    assert_eq!(measured.len(), TABLE.len());
}

/// The same table, for people.
#[test]
fn table_in_the_documentation_is_the_same() {
    let mut text = String::from(
        "| work | one connection | four connections | 16 in flight, one connection | a channel |\n|---|---|---|---|---|\n",
    );
    for row in TABLE {
        text += &format!("| {} |\n", row.join(" | "));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench.md");
    let documented = fs::read_to_string(&file).unwrap();
    if !documented.contains(&text) {
        say(&text);
        panic!("{} has not the table above", file.display());
    }
}

/// What Linux's client asks for with P9_LOCK_FLAGS_BLOCK: to write a byte.
fn lock(start: u64, owner: u32) -> Vec<u8> {
    t::lock(7, 2, 1, 1, start, 1, owner, b"guest")
}

/// A program with `connections` under strace, each with the file `a` open as fid 2, to Linux.
fn with_locks(tree: &Tree, trace: &Path, connections: usize) -> Traced {
    tree.dir("s");
    tree.file("s/a", b"text");
    let mut traced = Traced::start(tree, trace, connections);
    for (at, client) in traced.clients.iter_mut().enumerate() {
        client.version(MSIZE, b"9P2000.L").unwrap();
        let path = if at == 0 { "s/a" } else { "a" };
        client.open(ROOT, 2, path, p9::O_RDWR).unwrap();
    }
    traced
}

/// The trace's lines behind each mark, once all have ended.
fn behind_marks(mut traced: Traced, trace: &Path) -> Vec<Vec<String>> {
    traced.clients.clear();
    let exit = traced.gofer.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let text = fs::read_to_string(trace).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let is_mark = |line: &String| line.contains(" fstatfs(");
    lines.split(is_mark).skip(1).map(<[_]>::to_vec).collect()
}

/// Nothing runs while a lock that another connection has is waited for: the loop sleeps for as long as nobody has
/// anything (or until it gives memory back). The unlock alone wakes it, and what that grants is answered with it.
#[test]
fn lock_of_a_client_is_waited_for_without_a_timer_and_granted_by_the_unlock() {
    let (tree, own) = (Tree::new(), TempDir::new());
    let trace = own.path().join("trace");
    let mut traced = with_locks(&tree, &trace, 2);
    traced.exchange(&lock(0, 100), 1);
    traced.clients[1].send(&lock(0, 200)).unwrap();
    traced.clients[1].statfs(ROOT).unwrap();
    let unlock = t::lock(8, 2, 2, 0, 0, 0, 100, b"guest");
    traced.exchange(&unlock, 1);
    assert_eq!(traced.clients[1].recv().unwrap().kind, 53);
    traced.mark();
    let [waits, ..] = behind_marks(traced, &trace)
        .try_into()
        .unwrap_or_else(|parts: Vec<Vec<String>>| -> [Vec<String>; 2] { panic!("{parts:#?}") });
    let is_timed = |line: &&String| {
        line.contains(" ppoll(")
            && !line.contains(", NULL, NULL, 8)")
            && !line.contains("{tv_sec=0, tv_nsec=0}, NULL")
            && !line.contains("{tv_sec=0, tv_nsec=100000000}, NULL")
    };
    assert_eq!(waits.iter().find(is_timed), None, "{waits:#?}");
    assert!(
        waits.iter().any(|line| line.contains(" ppoll(")),
        "{waits:#?}"
    );
    let names: Vec<&str> = waits.iter().filter_map(|line| call(line)).collect();
    let from = names
        .iter()
        .position(|&name| name == "fcntl")
        .expect("an unlock");
    assert_eq!(
        names[from..from + 6],
        ["fcntl", "close", "sendmsg", "openat", "fcntl", "sendmsg"],
        "{names:?}"
    );
}

/// A lock of a process of the host is asked for again and again, by the timer of the one wait: the only connection is not
/// waited for in a receive that blocks, and the file is opened once.
#[test]
fn lock_of_the_host_is_waited_for_by_the_timer_of_the_loops_wait() {
    let (tree, own) = (Tree::new(), TempDir::new());
    let trace = own.path().join("trace");
    let mut traced = with_locks(&tree, &trace, 1);
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).open(tree.path("s/a")).unwrap();
    let ofd = |kind: i32| {
        let lock = nix::libc::flock {
            l_type: kind.try_into().unwrap(),
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap()
    };
    ofd(nix::libc::F_WRLCK);
    traced.mark();
    let client = &mut traced.clients[0];
    client.send(&[lock(0, 100), lock(1, 101)].concat()).unwrap();
    client.statfs(ROOT).unwrap();
    // It asks for both, and for both again.
    let refused = || {
        let text = fs::read_to_string(&trace).unwrap();
        let is_it = |line: &&str| line.contains("F_OFD_SETLK") && line.contains("EAGAIN");
        text.lines().filter(is_it).count()
    };
    harness::until("questions", || match refused() {
        6.. => Ok(()),
        count => Err(count),
    });
    ofd(nix::libc::F_UNLCK);
    for _ in 0..2 {
        assert_eq!(client.recv().unwrap().kind, 53);
    }
    traced.mark();
    let parts = behind_marks(traced, &trace);
    let (asks, waits) = (&parts[0], &parts[1]);
    let of = |lines: &[String], call: &str| -> Vec<String> {
        let lines = lines.iter().filter(|line| line.contains(call));
        lines.cloned().collect()
    };
    assert_eq!(of(asks, " openat(").len(), 2, "{asks:#?}");
    let granted = waits.iter().rposition(|line| line.contains(" fcntl("));
    let waits = &waits[..granted.expect("a lock")];
    assert_eq!(of(waits, " openat("), [""; 0]);
    for receive in of(waits, " recvfrom(") {
        assert!(receive.contains("MSG_DONTWAIT"), "{waits:#?}");
    }
    let most = gofer::limits::HOST_LOCK_MS * 1_000_000;
    for wait in of(waits, " ppoll(") {
        let number = wait.split("{tv_sec=0, tv_nsec=").nth(1);
        let number = number.and_then(|rest| rest.split('}').next()?.parse().ok());
        assert!(number.is_some_and(|number: i32| number <= most), "{wait}");
    }
}

#[test]
fn line_of_the_trace_is_read() {
    assert_eq!(call("77    fstat(8, {st_mode=S_IFREG}) = 0"), Some("fstat"));
    assert_eq!(call("77    +++ exited with 0 +++"), None);
    let nothing = "-1 EAGAIN (Resource temporarily unavailable)";
    let lines = [
        ("ppoll([{fd=8}], 1, NULL, NULL, 0) = 1 ([{fd=8}])", false),
        (
            "ppoll([{fd=8}], 1, {tv_sec=0, tv_nsec=100000000}, NULL, 0) = 0 (Timeout)",
            true,
        ),
        (
            "ppoll([{fd=8}], 1, {tv_sec=0, tv_nsec=0}, NULL, 0) = 0 (Timeout)",
            false,
        ),
        (
            "futex_waitv([{val=3}], 2, 0, {tv_sec=1}, CLOCK_REALTIME) = 0",
            false,
        ),
        (
            "futex_waitv([{val=3}], 2, 0, {tv_sec=1}, CLOCK_REALTIME) = -1 ETIMEDOUT (Connection timed out)",
            true,
        ),
        ("recvfrom(8, 0x7f, 65536, 0, NULL, NULL) = 40", false),
        (
            &format!("recvfrom(8, 0x7f, 65536, 0, NULL, NULL) = {nothing}"),
            true,
        ),
        (
            &format!("recvfrom(8, 0x7f, 65536, MSG_DONTWAIT, NULL, NULL) = {nothing}"),
            false,
        ),
        ("madvise(0x7f, 4096, MADV_DONTNEED) = 0", true),
    ];
    for (line, is_pause) in lines {
        let line = format!("77    {line}");
        let (name, _) = line[6..].split_once('(').unwrap();
        assert_eq!(
            (call(&line), is_of_a_pause(&line)),
            (Some(name), is_pause),
            "{line}"
        );
    }
}
