//! Starts the program under test on a tree of its own and looks at it from outside.

use crate::p9::{Answer, Client, PATIENCE};
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, RenameFlags, fcntl, open, renameat2};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use nix::unistd::{Gid, Uid, chdir, chroot, dup2_raw, setgid, setgroups, setuid, write};
use rustix::thread::{capabilities, configure_capability_in_ambient_set, set_capabilities};
use serde_json::{Value, json};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// The fid of the attach root in every [`Session`].
pub const ROOT: u32 = 1;
/// The number of the first io-fd.
pub const FIRST_FD: RawFd = 3;

/// The folder of gofer's own package.
pub fn package() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The program under test: `GOFER_BIN`, else `target/gofer` of this package, which must be newer than its source.
pub fn binary() -> PathBuf {
    let (path, is_ours) = match std::env::var_os("GOFER_BIN") {
        Some(path) => (PathBuf::from(path), false),
        None => (package().join("target/gofer"), true),
    };
    assert!(
        path.is_file(),
        "no program at {}: run ./build.sh first, or set GOFER_BIN",
        path.display()
    );
    static CHECKED: OnceLock<()> = OnceLock::new();
    if is_ours {
        CHECKED.get_or_init(|| {
            let built = changed(&path);
            let newer = newer_below(&package().join("src"), built);
            assert!(
                newer.is_none(),
                "{} is older than {newer:?}: run ./build.sh first",
                path.display()
            );
        });
    }
    path
}

fn changed(path: &Path) -> SystemTime {
    let meta = fs::metadata(path).and_then(|meta| meta.modified());
    meta.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file below `dir` that was changed after `time`.
fn newer_below(dir: &Path, time: SystemTime) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).expect("read_dir");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    paths.find_map(|path| match path.is_dir() {
        true => newer_below(&path, time),
        false => (changed(&path) > time).then_some(path),
    })
}

/// A copy of the program, where it can be started by anyone. `cp` makes it: a file that we had open
/// for writing ourselves could not be executed while another thread's child still holds it.
pub fn copy_binary(to: &Path) {
    let copied = Command::new("cp")
        .arg(binary())
        .arg(to)
        .status()
        .expect("start cp");
    assert!(copied.success(), "cp to {}", to.display());
}

// ---- directories ----------------------------------------------------------------------------

/// A new directory, searchable by all, removed with everything in it.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    pub fn new() -> TempDir {
        TempDir::try_new().expect("make a temporary directory")
    }

    pub fn try_new() -> io::Result<TempDir> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        reserve_low_numbers();
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("gofer-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => {
                    // The program and the tests must agree on names, whatever links lead here.
                    let path = path.canonicalize()?;
                    chmod(&path, 0o755);
                    return Ok(TempDir { path });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

pub fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// A tree to serve (`root`) and the bundle for it, side by side in one directory.
#[derive(Debug)]
pub struct Tree {
    dir: TempDir,
}

impl Tree {
    pub fn new() -> Tree {
        let dir = TempDir::new();
        fs::create_dir(dir.path().join("root")).expect("mkdir root");
        fs::create_dir(dir.path().join("bundle")).expect("mkdir bundle");
        Tree { dir }
    }

    /// The root served.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    /// Exchanges two names in the root.
    pub fn swap(&self, one: &str, other: &str) -> nix::Result<()> {
        let flags = RenameFlags::RENAME_EXCHANGE;
        renameat2(
            AT_FDCWD,
            &self.path(one),
            AT_FDCWD,
            &self.path(other),
            flags,
        )
    }

    /// A place beside the root, out of reach of the program.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The host's path of a file in the root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("write a file");
    }

    pub fn dir(&self, name: &str) {
        fs::create_dir_all(self.path(name)).expect("mkdir");
    }

    pub fn link(&self, name: &str, target: impl AsRef<Path>) {
        std::os::unix::fs::symlink(target, self.path(name)).expect("symlink");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("read a file")
    }

    pub fn stat(&self, name: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(name)).expect("lstat")
    }
}

// ---- bundles --------------------------------------------------------------------------------

/// A mount of the spec.
#[derive(Debug, Clone)]
pub struct Mount {
    pub destination: String,
    pub kind: String,
    pub source: String,
    pub options: Vec<String>,
}

impl Mount {
    pub fn bind(destination: &str, options: &[&str]) -> Mount {
        Mount {
            destination: destination.into(),
            kind: "bind".into(),
            source: "/somewhere".into(),
            options: options.iter().map(|&option| option.into()).collect(),
        }
    }
}

/// A spec as a runtime hands it over.
pub fn spec(root: &Path, readonly: bool, mounts: &[Mount]) -> Value {
    let mounts: Vec<Value> = mounts
        .iter()
        .map(|mount| {
            json!({
                "destination": mount.destination,
                "type": mount.kind,
                "source": mount.source,
                "options": mount.options,
            })
        })
        .collect();
    json!({
        "ociVersion": "1.0.1",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": {"path": root.to_str().expect("a path of ours"), "readonly": readonly},
        "hostname": "test",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    })
}

pub fn write_spec(bundle: &Path, spec: &Value) {
    fs::write(bundle.join("config.json"), spec.to_string()).expect("write config.json");
}

// ---- starting -------------------------------------------------------------------------------

/// Every number below this is kept busy in our own process, so that neither a socket of ours nor a
/// pipe of the standard library's can stand where the child wants its io-fds.
const LOW_NUMBERS: RawFd = 400;

fn reserve_low_numbers() {
    static HELD: OnceLock<Vec<OwnedFd>> = OnceLock::new();
    HELD.get_or_init(|| {
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        let null = File::open("/dev/null").expect("open /dev/null");
        let mut held = vec![OwnedFd::from(null)];
        while let Some(last) = held.last() {
            if last.as_raw_fd() >= LOW_NUMBERS {
                break;
            }
            held.push(last.try_clone().expect("dup /dev/null"));
        }
        held
    });
}

/// A namespace of its own for the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// A mount namespace, cut off from the host's.
    Mount,
    /// A user namespace; the mount namespace stays the host's.
    User,
    /// A user namespace and a mount namespace of it.
    UserAndMount,
}

/// What to start, and how.
#[derive(Debug)]
pub struct Launch {
    binary: Option<PathBuf>,
    argv0: OsString,
    words: Vec<OsString>,
    sockets: usize,
    namespace: Option<Namespace>,
    others: CloneFlags,
    is_unmapped: bool,
    ids: Option<(u32, u32)>,
    chroot: Option<PathBuf>,
    strays: Vec<RawFd>,
    handed: Vec<(OwnedFd, RawFd)>,
    first: RawFd,
    nofile: Option<(u64, u64)>,
    cwd: Option<PathBuf>,
    tmpfs: Option<(PathBuf, &'static CStr)>,
}

impl Launch {
    /// Exactly these words after argv0, and one socket at number 3.
    pub fn raw<W: AsRef<OsStr>>(words: &[W]) -> Launch {
        Launch {
            binary: None,
            argv0: "gofer".into(),
            words: words.iter().map(|word| word.as_ref().to_owned()).collect(),
            sockets: 1,
            namespace: None,
            others: CloneFlags::empty(),
            is_unmapped: false,
            ids: None,
            chroot: None,
            strays: Vec::new(),
            handed: Vec::new(),
            first: FIRST_FD,
            nofile: None,
            cwd: None,
            tmpfs: None,
        }
    }

    /// `gofer --bundle DIR --io-fds 3 --io-fds 4 …`
    pub fn new(bundle: &Path, sockets: usize) -> Launch {
        let mut words = vec![OsString::from("--bundle"), bundle.into()];
        for fd in (FIRST_FD..).take(sockets) {
            words.push("--io-fds".into());
            words.push(fd.to_string().into());
        }
        Launch {
            sockets,
            ..Launch::raw(&words)
        }
    }

    /// Another number of sockets than there are `--io-fds`.
    pub fn sockets(mut self, sockets: usize) -> Launch {
        self.sockets = sockets;
        self
    }

    /// Further words at the end.
    pub fn with(mut self, words: &[&str]) -> Launch {
        self.words.extend(words.iter().map(OsString::from));
        self
    }

    /// `ARGV0 GLOBALS gofer …`, as the runtime does it.
    pub fn through(mut self, argv0: &str, globals: &[&str]) -> Launch {
        self.argv0 = argv0.into();
        let front = globals.iter().chain(["gofer"].iter()).map(OsString::from);
        self.words = front.chain(self.words).collect();
        self
    }

    pub fn binary(mut self, path: &Path) -> Launch {
        self.binary = Some(path.to_owned());
        self
    }

    pub fn namespace(mut self, namespace: Namespace) -> Launch {
        self.namespace = Some(namespace);
        self
    }

    /// In these namespaces too; a new one for processes gets a process between us and its first one.
    pub fn namespaces(mut self, flags: CloneFlags) -> Launch {
        self.others = flags;
        self
    }

    /// In a user namespace where no id is mapped yet, with all capabilities there.
    pub fn unmapped(mut self) -> Launch {
        self.is_unmapped = true;
        self
    }

    /// Started with these ids, no groups and so without capabilities.
    pub fn ids(mut self, uid: u32, gid: u32) -> Launch {
        self.ids = Some((uid, gid));
        self
    }

    /// Started in this root; the binary's path is looked up in it.
    pub fn chroot(mut self, path: &Path) -> Launch {
        self.chroot = Some(path.to_owned());
        self
    }

    /// These numbers are open in the program, though nobody told it.
    pub fn strays(mut self, numbers: &[RawFd]) -> Launch {
        self.strays = numbers.to_vec();
        self
    }

    /// These descriptors are open in the program, at these numbers.
    pub fn hand(mut self, fds: impl IntoIterator<Item = (OwnedFd, RawFd)>) -> Launch {
        self.handed.extend(fds);
        self
    }

    /// The number of the first socket.
    pub fn first(mut self, number: RawFd) -> Launch {
        self.first = number;
        self
    }

    /// Started by this program, which is given these words, then the one under test and its own.
    pub fn by(mut self, program: &str, words: &[&str]) -> Launch {
        let started = self.binary.take().unwrap_or_else(binary);
        let front = words.iter().map(OsString::from).chain([started.into()]);
        self.words = front.chain(self.words).collect();
        self.binary = Some(program.into());
        self
    }

    /// Soft and hard limit of descriptors.
    pub fn nofile(mut self, soft: u64, hard: u64) -> Launch {
        self.nofile = Some((soft, hard));
        self
    }

    pub fn cwd(mut self, path: &Path) -> Launch {
        self.cwd = Some(path.to_owned());
        self
    }

    /// In a mount namespace of its own, with a tmpfs on a directory of the tree.
    pub fn tmpfs(mut self, path: &Path, options: &'static CStr) -> Launch {
        self.namespace = Some(Namespace::Mount);
        self.tmpfs = Some((path.to_owned(), options));
        self
    }

    pub fn start(self) -> Gofer {
        self.try_start().expect("start the program")
    }

    pub fn try_start(self) -> io::Result<Gofer> {
        reserve_low_numbers();
        let mut ours = Vec::new();
        let mut places = Vec::new();
        let mut inodes = Vec::new();
        for number in (self.first..).take(self.sockets) {
            let (mine, theirs) = UnixStream::pair()?;
            inodes.push(inode_of(&theirs));
            ours.push(Some(mine));
            places.push((OwnedFd::from(theirs), number));
        }
        for &number in &self.strays {
            places.push((memfd_create("stray", MFdFlags::MFD_CLOEXEC)?, number));
        }
        places.extend(self.handed);
        let error_file = File::from(memfd_create("stderr", MFdFlags::MFD_CLOEXEC)?);
        let own = (Uid::effective().as_raw(), Gid::effective().as_raw());
        let (uid, gid) = self.ids.unwrap_or(own);
        let child_setup = ChildSetup {
            places,
            flags: self.others
                | match self.namespace {
                    None => CloneFlags::empty(),
                    Some(Namespace::Mount) => CloneFlags::CLONE_NEWNS,
                    Some(Namespace::User) => CloneFlags::CLONE_NEWUSER,
                    Some(Namespace::UserAndMount) => {
                        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS
                    }
                },
            is_unmapped: self.is_unmapped,
            uid_map: format!("0 {uid} 1").into_bytes(),
            gid_map: format!("0 {gid} 1").into_bytes(),
            tmpfs: match &self.tmpfs {
                Some((path, options)) => Some((c_path(path)?, options)),
                None => None,
            },
            chroot: self.chroot.as_deref().map(c_path).transpose()?,
            ids: self.ids,
            nofile: self.nofile,
        };

        let mut command = Command::new(self.binary.unwrap_or_else(binary));
        command
            .arg0(&self.argv0)
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(error_file.try_clone()?);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        // SAFETY: the closure makes system calls only: no allocation, no lock, nothing another
        // thread of ours could hold at the fork.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || child_setup.apply());
        }
        let mut child = command.spawn()?;
        drop(command); // closes the program's ends here
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no pipe"))?;
        Ok(Gofer {
            child,
            sockets: ours,
            inodes,
            stdout: stdout.into(),
            stderr: error_file,
        })
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn inode_of(fd: &impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd).expect("fstat a socket").st_ino
}

/// What happens in the child between fork and exec.
struct ChildSetup {
    places: Vec<(OwnedFd, RawFd)>,
    flags: CloneFlags,
    is_unmapped: bool,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    tmpfs: Option<(CString, &'static CStr)>,
    chroot: Option<CString>,
    ids: Option<(u32, u32)>,
    nofile: Option<(u64, u64)>,
}

impl ChildSetup {
    fn apply(&self) -> io::Result<()> {
        for (fd, number) in &self.places {
            // SAFETY: in the child nothing uses that number: those of the parent are all above.
            #[allow(unsafe_code)]
            let placed = unsafe { dup2_raw(fd, *number) }?;
            std::mem::forget(placed); // stays open over the exec
        }
        umask(Mode::from_bits_truncate(0o022));
        if let Some((soft, hard)) = self.nofile {
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        }
        if let Some((uid, gid)) = self.ids {
            setgroups(&[])?;
            setgid(Gid::from_raw(gid))?;
            setuid(Uid::from_raw(uid))?;
            set_dumpable(true)?; // else our own files in /proc would be root's
        }
        if !self.flags.is_empty() {
            unshare(self.flags)?;
        }
        if self.flags.contains(CloneFlags::CLONE_NEWPID) {
            become_first_process()?;
        }
        if self.is_unmapped {
            keep_capabilities()?;
        } else if self.flags.contains(CloneFlags::CLONE_NEWUSER) {
            put(c"/proc/self/setgroups", b"deny")?;
            put(c"/proc/self/uid_map", &self.uid_map)?;
            put(c"/proc/self/gid_map", &self.gid_map)?;
        }
        if let Some((place, options)) = &self.tmpfs {
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(NOTHING, c"/", NOTHING, private, NOTHING)?;
            let (kind, none) = (Some(c"tmpfs"), MsFlags::empty());
            mount(kind, place.as_c_str(), kind, none, Some(*options))?;
        }
        if let Some(root) = &self.chroot {
            chroot(root.as_c_str())?;
            chdir(c"/")?;
        }
        Ok(())
    }
}

/// Goes on as the first process of the new namespace. The one that stays holds no descriptor of the
/// program's, and ends as it ends.
fn become_first_process() -> io::Result<()> {
    // SAFETY: one thread, between fork and exec; both go on with system calls only.
    #[allow(unsafe_code)]
    let ForkResult::Parent { child } = (unsafe { fork() })? else {
        return Ok(());
    };
    let _ = gofer::sys::raw::close_range(1, RawFd::MAX);
    let status = waitpid(child, None)?;
    gofer::sys::raw::exit(match status {
        WaitStatus::Exited(_, code) => code,
        _ => 255,
    })
}

/// Capabilities that outlive the exec of a program whose user has no id here.
fn keep_capabilities() -> io::Result<()> {
    let keep = || {
        let mut sets = capabilities(None)?;
        sets.inheritable = sets.permitted;
        set_capabilities(None, sets)?;
        let mut all = sets.permitted.iter();
        all.try_for_each(|one| configure_capability_in_ambient_set(one, true))
    };
    keep().map_err(|errno: rustix::io::Errno| io::Error::from_raw_os_error(errno.raw_os_error()))
}

const NOTHING: Option<&CStr> = None;

fn put(path: &CStr, bytes: &[u8]) -> nix::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, bytes).map(drop)
}

// ---- the running program --------------------------------------------------------------------

/// A started program. Killed when dropped.
#[derive(Debug)]
pub struct Gofer {
    child: Child,
    /// Our ends, in the order of the io-fds, until taken.
    pub sockets: Vec<Option<UnixStream>>,
    /// The inode numbers of the program's ends.
    pub inodes: Vec<u64>,
    stdout: OwnedFd,
    stderr: File,
}

/// How the program ended.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Exit {
    /// Asserts a fatal end: 128 and this text on stderr.
    #[track_caller]
    pub fn expect_fatal(&self, text: &str) {
        assert_eq!(self.code, Some(128), "{self:?}");
        assert!(
            self.stderr.contains(text),
            "wanted {text:?} on stderr: {self:?}"
        );
    }
}

impl Gofer {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Our end of the `index`-th connection.
    pub fn client(&mut self, index: usize) -> Client {
        let socket = self.sockets.get_mut(index).and_then(Option::take);
        Client::new(socket.expect("a connection nobody took yet"))
    }

    /// The first connection, attached to its root as [`ROOT`].
    pub fn session(mut self) -> Answer<Session> {
        let mut client = self.client(0);
        client.hello(ROOT)?;
        Ok(Session {
            client: Some(client),
            gofer: self,
        })
    }

    /// The connection `index`, with its root attached as [`ROOT`].
    #[track_caller]
    pub fn connect(&mut self, index: usize) -> Client {
        let mut client = self.client(index);
        if let Err(fault) = client.hello(ROOT) {
            let status = self.child.try_wait();
            panic!(
                "connection {index}: {fault}; {status:?}; stderr: {}",
                self.stderr()
            );
        }
        client
    }

    /// Waits for the end.
    #[track_caller]
    pub fn exit(&mut self) -> Exit {
        let mut stdout = File::from(self.stdout.try_clone().expect("dup a pipe"));
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(PATIENCE).expect("a short time");
            if poll(&mut fds, timeout).expect("poll a pipe") == 0 {
                let stderr = self.stderr();
                panic!("the program still runs after a minute; stderr: {stderr}");
            }
            match stdout.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => text.extend_from_slice(&chunk[..count]),
                Err(error) => panic!("read a pipe: {error}"),
            }
        }
        let status = self.child.wait().expect("wait for a child of ours");
        Exit {
            code: status.code(),
            signal: status.signal(),
            stdout: String::from_utf8_lossy(&text).into_owned(),
            stderr: self.stderr(),
        }
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        let size = self.stderr.metadata().map_or(0, |metadata| metadata.size());
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        drop(self.stderr.read_exact_at(&mut bytes, 0));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A path below /proc of the process.
    pub fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join(name)
    }

    pub fn proc_text(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.proc(name))
    }

    /// A field of /proc/PID/status.
    pub fn status(&self, field: &str) -> String {
        let text = self.proc_text("status").expect("read /proc/PID/status");
        status_field(&text, field).unwrap_or_else(|| panic!("no {field} in {text}"))
    }

    /// Open descriptors with what they lead to, by number.
    pub fn descriptors(&self) -> io::Result<Vec<(RawFd, PathBuf)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.proc("fd"))? {
            let entry = entry?;
            let link = match fs::read_link(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // closed since
                Err(error) if error.kind() == io::ErrorKind::InvalidFilename => PathBuf::new(), // too long a path
                link => link?,
            };
            let number = entry.file_name().to_string_lossy().parse();
            all.push((number.map_err(io::Error::other)?, link));
        }
        all.sort();
        Ok(all)
    }

    /// How many descriptors are open.
    #[track_caller]
    pub fn descriptor_count(&self) -> usize {
        let all = fs::read_dir(self.proc("fd")).expect("read /proc/PID/fd");
        all.count()
    }
}

/// Asserts that the program comes down to at most this many descriptors while `client` is served: it frees
/// a bounded number in each turn.
#[track_caller]
pub fn expect_descriptors(gofer: &Gofer, client: &mut Client, wanted: usize) {
    let mut open = gofer.descriptor_count();
    for _ in 0..20_000 {
        if open <= wanted {
            break;
        }
        client.getattr(ROOT, 0).expect("the root is served");
        open = gofer.descriptor_count();
    }
    assert!(open <= wanted, "{open}, not {wanted}");
}

impl Drop for Gofer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Looks until it is well.
#[track_caller]
pub fn until<T, E: fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(well) => return well,
            Err(seen) if begin.elapsed() > PATIENCE => panic!("{what}: {seen:?} after a minute"),
            Err(_) => sleep(Duration::from_millis(10)),
        }
    }
}

/// Memory in use: the exact sum, where VmRSS may lag behind by some pages for each processor.
pub fn resident_kib(gofer: &Gofer) -> u64 {
    let text = gofer.proc_text("smaps_rollup").expect("read smaps_rollup");
    let field = status_field(&text, "Rss").expect("a sum");
    field.trim_end_matches(" kB").parse().expect("a number")
}

/// The memory of an idle server, once it has given back what its first requests took.
pub fn settled(gofer: &Gofer) -> u64 {
    let (mut last, mut same) = (resident_kib(gofer), 0);
    until("memory at rest", || {
        let now = resident_kib(gofer);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same > 12 { Ok(now) } else { Err(now) }
    })
}

/// Device and inode number of what a path leads to: what a descriptor of the program is, as no name in /proc tells
/// once it lies on a mount that nobody else has.
pub fn file_of(path: impl AsRef<Path>) -> (u64, u64) {
    let metadata = fs::metadata(path).expect("stat");
    (metadata.dev(), metadata.ino())
}

/// The value of a line `Field:\tvalue`, its first word only if it has a unit.
pub fn status_field(text: &str, field: &str) -> Option<String> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// A program and an attached connection to it. When dropped in peace, the connection is closed and
/// the program must end with 0.
#[derive(Debug)]
pub struct Session {
    client: Option<Client>,
    pub gofer: Gofer,
}

impl Session {
    /// As [`expect_descriptors`].
    #[track_caller]
    pub fn expect_descriptors(&mut self, wanted: usize) {
        let client = self.client.as_mut().expect("a session in use");
        expect_descriptors(&self.gofer, client, wanted);
    }

    /// Closes the connection and waits for the program.
    #[track_caller]
    pub fn finish(&mut self) -> Exit {
        drop(self.client.take());
        self.gofer.sockets.clear();
        self.gofer.exit()
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        self.client.as_ref().expect("a session in use")
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("a session in use")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.client.is_some() && !std::thread::panicking() {
            let exit = self.finish();
            assert_eq!(exit.code, Some(0), "the end of a session: {exit:?}");
        }
    }
}

/// Serves a tree for reading and writing over one connection.
#[track_caller]
pub fn serve(tree: &Tree) -> Session {
    serve_as(tree, false)
}

/// Serves a tree read-only.
#[track_caller]
pub fn serve_read_only(tree: &Tree) -> Session {
    serve_as(tree, true)
}

#[track_caller]
fn serve_as(tree: &Tree, readonly: bool) -> Session {
    write_spec(&tree.bundle(), &spec(&tree.root(), readonly, &[]));
    session_of(Launch::new(&tree.bundle(), 1))
}

/// Starts what is asked for, and attaches.
#[track_caller]
pub fn session_of(launch: Launch) -> Session {
    let mut gofer = launch.start();
    let client = gofer.connect(0);
    Session {
        client: Some(client),
        gofer,
    }
}

/// Serves a tree with mounts, one attached connection each.
#[track_caller]
pub fn serve_mounts(tree: &Tree, readonly: bool, mounts: &[Mount]) -> (Gofer, Vec<Client>) {
    write_spec(&tree.bundle(), &spec(&tree.root(), readonly, mounts));
    let mut gofer = Launch::new(&tree.bundle(), 1 + mounts.len()).start();
    let clients = (0..=mounts.len())
        .map(|index| gofer.connect(index))
        .collect();
    (gofer, clients)
}

/// The access mode and status flags of a descriptor of ours.
pub fn status_flags(fd: &impl AsFd) -> OFlag {
    OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).expect("F_GETFL"))
}

/// Does `work` while another thread does `again` over and over.
pub fn meanwhile(again: impl Fn() + Sync, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                again();
            }
        });
        let worked = catch_unwind(AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed); // also where an assertion fails
        if let Err(failure) = worked {
            resume_unwind(failure);
        }
    });
}
