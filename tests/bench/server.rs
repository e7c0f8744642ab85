//! Servers that run beside each other, and connections to them.

use super::harness::{Mount, ROOT, TempDir, binary, spec, status_field, write_spec};
use super::p9::{MSIZE, NOFID, NOID, PATIENCE, RLERROR, t};
use super::work::{LIST, Stage, fill};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::{Errno, FdFlags, IoSliceMut, fcntl_setfd};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, SocketFlags, SocketType, recv,
    recvmsg, send, socketpair,
};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs::{self, OpenOptions};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The tree that all servers serve, on a tmpfs in a mount namespace of our own, and bundles for it.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// `entries`: files in the directory that is listed.
    pub fn new(entries: usize) -> Place {
        let dir = TempDir::new();
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare: run this as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).expect("make mounts private");
        let options = Some("mode=755,nr_inodes=0");
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .expect("mount a tmpfs");
        let place = Place { dir };
        fs::create_dir(place.root()).expect("mkdir");
        fill(&place.root(), entries);
        place
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Where whoever wants a tree of their own may make one.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A bundle with so many mounts beside its root.
    pub fn bundle(&self, mounts: usize) -> PathBuf {
        let bundle = self.dir.path().join(format!("bundle{mounts}"));
        if fs::create_dir(&bundle).is_ok() {
            let list: Vec<Mount> = (0..mounts).map(|_| Mount::bind("/s", &[])).collect();
            write_spec(&bundle, &spec(&self.root(), false, &list));
        }
        bundle
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}

/// Confines what this thread starts and does from now on to one core.
pub fn pin(core: usize) {
    sched_setaffinity(None, &only(core)).expect("sched_setaffinity");
}

/// Lets this thread, and what it starts from now on, run anywhere.
pub fn unpin() {
    sched_setaffinity(None, &all_cores()).expect("sched_setaffinity");
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core.min(cores() - 1));
    set
}

fn all_cores() -> CpuSet {
    let mut set = CpuSet::new();
    (0..cores()).for_each(|core| set.set(core));
    set
}

/// Cores of this machine, whichever of them we run on.
fn cores() -> usize {
    let text = fs::read_to_string("/proc/cpuinfo").expect("/proc/cpuinfo");
    let lines = text.lines().filter(|line| line.starts_with("processor"));
    lines.count().clamp(1, CpuSet::MAX_CPU)
}

/// Where the driver and a server of one thread run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cores {
    /// Each has its own.
    Other,
    /// One for both.
    Same,
    /// Wherever the kernel puts them.
    Any,
}

/// The core of the driver, and that of the servers.
pub const OURS: usize = 0;
pub const THEIRS: usize = 1;

/// What servers say on standard error.
const LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench.log");

/// What is started.
#[derive(Clone, Debug)]
pub enum Kind {
    Gofer,
    /// With flags.
    Flagged(&'static [&'static str]),
    Echo,
    /// Another server: words in which {} stands for the socket, {tree} and {bundle} for what they say.
    Peer(String),
}

/// A running server and our ends of its sockets, which are attached. Killed when dropped.
pub struct Server {
    child: Child,
    pub lines: Vec<Line>,
    /// From before the start to the first Rattach.
    pub start: Duration,
}

impl Server {
    /// `version`: the one that is asked for.
    pub fn start(kind: &Kind, place: &Place, connections: usize, version: &str) -> Server {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            let (our, their) = socketpair(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )
            .expect("socketpair");
            // Inherited under its own number, so that no code of ours runs between fork and exec.
            fcntl_setfd(&their, FdFlags::empty()).expect("fcntl");
            ours.push(our);
            theirs.push(their);
        }
        let mut numbers = theirs.iter().map(|socket| socket.as_raw_fd().to_string());
        let root = place.root();
        let mut command = match kind {
            Kind::Gofer | Kind::Flagged(_) => {
                let mut command = Command::new(binary());
                command.arg("--bundle").arg(place.bundle(connections - 1));
                if let Kind::Flagged(flags) = kind {
                    command.args(*flags);
                }
                numbers.for_each(|number| {
                    command.args(["--io-fds", &number]);
                });
                command
            }
            Kind::Echo => {
                let mut command = Command::new(std::env::current_exe().expect("our own path"));
                command.arg("--echo").arg(&root).args(numbers);
                command
            }
            Kind::Peer(line) => {
                let number = numbers.next().expect("one socket");
                let bundle = place.bundle(0);
                let words: Vec<String> = line
                    .split_whitespace()
                    .map(|word| {
                        word.replace("{}", &number)
                            .replace("{tree}", &root.to_string_lossy())
                            .replace("{bundle}", &bundle.to_string_lossy())
                    })
                    .collect();
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(LOG)
            .expect(LOG);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let begun = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        drop(theirs);
        // A server that is told the path of the tree is asked for it.
        let path = root.to_string_lossy();
        let tree = matches!(kind, Kind::Peer(line) if line.contains("{tree}")).then_some(&*path);
        let (mut lines, mut start) = (Vec::new(), None);
        for socket in ours {
            let mut line = Line::new(socket);
            line.attach(version, tree);
            start.get_or_insert_with(|| begun.elapsed());
            lines.push(line);
        }
        let start = start.expect("one connection");
        Server {
            child,
            lines,
            start,
        }
    }

    /// Puts this thread and the server, which has one, where they are to run.
    pub fn place(&self, cores: Cores) {
        let theirs = if cores == Cores::Same { OURS } else { THEIRS };
        let child = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let child = child.expect("a number of a process");
        for (process, core) in [(None, OURS), (Some(child), theirs)] {
            let set = match cores {
                Cores::Any => all_cores(),
                Cores::Other | Cores::Same => only(core),
            };
            sched_setaffinity(process, &set).expect("sched_setaffinity");
        }
    }

    fn proc(&self, name: &str) -> String {
        let path = Path::new("/proc")
            .join(self.child.id().to_string())
            .join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Time that all its threads have been running, ns.
    pub fn cpu_ns(&self) -> u64 {
        let tasks = Path::new("/proc")
            .join(self.child.id().to_string())
            .join("task");
        let times = fs::read_dir(tasks).expect("a live server").map(|task| {
            let path = task.expect("a thread").path().join("schedstat");
            let text = fs::read_to_string(path).unwrap_or_default(); // a thread that has ended since
            text.split(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or_default()
        });
        times.sum()
    }

    /// A field of /proc/PID/smaps_rollup, KiB: Rss, Pss, ...
    pub fn memory_kib(&self, field: &str) -> u64 {
        kib(&self.proc("smaps_rollup"), field)
    }

    /// VmRSS, KiB.
    pub fn resident_kib(&self) -> u64 {
        kib(&self.proc("status"), "VmRSS")
    }
}

fn kib(text: &str, field: &str) -> u64 {
    let value = status_field(text, field).and_then(|value| value.split(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {field} in {text}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection, with as little of our own between it and the socket as can be.
pub struct Line {
    pub socket: OwnedFd,
    input: Vec<u8>,
    /// What was agreed on.
    pub msize: usize,
    pub version: String,
}

impl Line {
    fn new(socket: OwnedFd) -> Line {
        // Only so that a hang becomes a failure.
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, timeout, Some(PATIENCE)).expect("a socket of ours");
        }
        Line {
            socket,
            input: vec![0; 5 << 20], // four replies with a MiB each
            msize: MSIZE as usize,
            version: String::new(),
        }
    }

    /// Agrees on a version, and attaches, to `/` or to a path.
    fn attach(&mut self, version: &str, tree: Option<&str>) {
        let mut asked = version;
        loop {
            let sent = self.exchange(&t::version(u16::MAX, MSIZE, asked.as_bytes()), 1, false);
            let granted = u32::from_le_bytes(self.input[7..11].try_into().expect("four bytes"));
            let length = usize::from(u16::from_le_bytes([self.input[11], self.input[12]]));
            if sent.is_ok() && self.input[13..].starts_with(b"9P2000.L") {
                self.msize = granted as usize;
                self.version = String::from_utf8_lossy(&self.input[13..13 + length]).into_owned();
                break;
            }
            assert_ne!(asked, "9P2000.L", "the server speaks no 9P2000.L");
            asked = "9P2000.L"; // one that knows no other
        }
        self.done(&match tree {
            None => t::attach(1, ROOT, NOFID, b"", b"/", NOID),
            Some(tree) => t::attach(1, ROOT, NOFID, b"root", tree.as_bytes(), 0),
        });
    }

    /// One request that must be done.
    #[track_caller]
    pub fn done(&mut self, request: &[u8]) {
        if let Err(errno) = self.exchange(request, 1, false) {
            panic!("message {}: {errno}", request[4]);
        }
    }

    /// Sends requests whose replies come later.
    pub fn send(&self, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += send(&self.socket, &bytes[sent..], SendFlags::NOSIGNAL).expect("send");
        }
    }

    /// Sends requests and receives as many replies. Error: that of the first Rlerror; all are received.
    pub fn exchange(&mut self, bytes: &[u8], replies: usize, donates: bool) -> Result<(), Errno> {
        self.send(bytes);
        let (mut end, mut at, mut left) = (0, 0, replies);
        let mut result = Ok(());
        while left > 0 {
            let count = self.receive(end, donates);
            assert_ne!(
                count, 0,
                "the server closed the connection; it may say why in {LOG}"
            );
            end += count;
            while let Some(size) = self.input[at..end].first_chunk() {
                let size = u32::from_le_bytes(*size) as usize;
                if at + size > end {
                    break;
                }
                if self.input[at + 4] == RLERROR {
                    let code = self.input[at + 7..at + 11].try_into().expect("four bytes");
                    result = result.and(Err(Errno::from_raw_os_error(i32::from_le_bytes(code))));
                }
                at += size;
                left -= 1;
            }
        }
        assert_eq!(at, end, "more replies than requests");
        result
    }

    fn receive(&mut self, end: usize, donates: bool) -> usize {
        let room = &mut self.input[end..];
        if !donates {
            return recv(&self.socket, room, RecvFlags::empty())
                .expect("a reply")
                .0;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(room)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        control.drain().for_each(drop); // the descriptors are closed
        message.expect("a reply").bytes
    }

    pub fn stage(&mut self, stage: &Stage, donates: bool) -> Result<(), Errno> {
        self.exchange(&stage.bytes, stage.replies, donates)
    }

    /// Lists the open directory from its start with replies of at most `count` bytes; how many entries it has.
    pub fn list(&mut self, count: u32) -> usize {
        let (mut entries, mut offset) = (0, 0u64);
        loop {
            self.done(&t::readdir(1, LIST, offset, count));
            let bytes =
                u32::from_le_bytes(self.input[7..11].try_into().expect("four bytes")) as usize;
            if bytes == 0 {
                return entries;
            }
            let mut at = 11;
            while at < 11 + bytes {
                let cookie = self.input[at + 13..at + 21].try_into();
                offset = u64::from_le_bytes(cookie.expect("eight bytes"));
                at += 24
                    + usize::from(u16::from_le_bytes([
                        self.input[at + 22],
                        self.input[at + 23],
                    ]));
                entries += 1;
            }
        }
    }

    /// Whether gVisor's messages were agreed on.
    pub fn is_google(&self) -> bool {
        self.version.contains("Google")
    }
}

/// Descriptors that this process may have.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("setrlimit");
}
