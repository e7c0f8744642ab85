//! The program: its start, top to bottom. `src/lib.rs` says what the rooms are.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "sys/entry.rs"]
mod entry;

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Display, Formatter};
use core::mem::ManuallyDrop;

use gofer::cli::{self, Command, Contract, Help, Options};
use gofer::clock::{self, Offset};
use gofer::errno::{Quoted, Text, told};
use gofer::fs::Fs;
use gofer::fs::attach::Attach;
use gofer::fs::file::Reopen;
use gofer::limits::{FIRST_FREE_FD, HEAP_BYTES, HEAP_PER_SPEC_BYTE};
use gofer::log::open::Placed;
use gofer::log::{self, Log};
use gofer::mounts::{self, Flags};
use gofer::sandbox::newroot::{self, Place};
use gofer::sandbox::root::RootFault;
use gofer::sandbox::seccomp::{self, Modes};
use gofer::sandbox::{caps, descriptors, root};
use gofer::server::dispatch::Policy;
use gofer::server::{SPEAKS_9P, Server};
use gofer::spec::Spec;
use gofer::sys::args::Args;
use gofer::sys::fd::fixed;
use gofer::sys::memory::{self, Region};
use gofer::sys::{raw, relro};
use gofer::tables::Key;
use rustix::fd::{OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_uid};

/// Why start-up ends, with 128: one line that names the step, the file and the errno; empty if it was
/// told already.
struct Fatal(&'static str);

fn fatal(text: &'static str) -> Fatal {
    Fatal(text)
}

/// A step's name before its errno.
fn step(what: impl Display) -> impl FnOnce(Errno) -> Fatal {
    move |errno| fatal(told(format_args!("{what}: {}", Text(errno))))
}

/// The program's exit code.
fn start(args: Args) -> i32 {
    if relro::protect().is_err() {
        return 128; // nothing is open yet, and nothing is told of it: the linker always makes the range
    }
    entry::ARENA.provide(Region::reserve(HEAP_BYTES));
    let words: Vec<&[u8]> = (1..).map_while(|at| args.get(at)).collect();
    let command = match cli::parse(words.iter().copied()) {
        Ok(command) => command,
        Err(refusal) => {
            say(
                2,
                told(format_args!(
                    "gofer: {}; --help lists the flags",
                    refusal.text
                )),
            );
            return refusal.status;
        }
    };
    match command {
        Command::Help => {
            say(1, told(format_args!("{Help}")));
            0
        }
        Command::Version => {
            say(1, concat!("gofer ", env!("CARGO_PKG_VERSION")));
            0
        }
        Command::Serve(mut options) => match serve(&mut options, &words) {
            Ok(()) => 0,
            Err(Fatal(text)) => {
                complain(text);
                128
            }
        },
    }
}

/// Tells on standard error why start-up ends, if there is something to tell: one line, whatever the spec
/// or a path holds.
fn complain(text: &str) {
    if !text.is_empty() {
        let mut line = log::Line::new();
        let _cut = fmt::Write::write_str(&mut line, text);
        let _lost = rustix::io::write(fixed(2), line.finish());
    }
}

/// Prints a line, as far as it can be printed.
fn say(fd: RawFd, text: &str) {
    for mut rest in [text.as_bytes(), b"\n"] {
        while !rest.is_empty() {
            match rustix::io::write(fixed(fd), rest) {
                Ok(count) if count > 0 => rest = rest.get(count..).unwrap_or_default(),
                _ => return,
            }
        }
    }
}

/// The descriptors that the command line names, but for the logs.
struct Inherited {
    sockets: Vec<(OwnedFd, RawFd)>,
    /// The last three of [`NAMED_FDS`], as far as they are given.
    later: [Option<OwnedFd>; 3],
}

/// Flags that name one descriptor each; the last three are those of the later contract.
const NAMED_FDS: [&str; 5] = [
    "log-fd",
    "debug-log-fd",
    "spec-fd",
    "mounts-fd",
    "sync-userns-fd",
];

/// All of it: read, confine, serve.
fn serve(options: &mut Options<'static>, words: &[&[u8]]) -> Result<(), Fatal> {
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    raw::ignore_write_signals().map_err(step("ignoring signals"))?;
    let pid = u64::from(rustix::process::getpid().as_raw_pid().unsigned_abs());
    let mut log = Log::new(pid, host_zone());
    let mut logs = Vec::new();
    let inherited = match open_inherited(options, &mut log, &mut logs) {
        Ok(inherited) => inherited,
        Err(fault) => {
            complain(fault.0); // before a log may take the place of standard error
            if descriptors::settle(logs, &[]).is_ok() {
                log.fatal(format_args!("{}", fault.0));
            }
            return Err(Fatal(""));
        }
    };
    // Again: one of 0 to 2 may have been named, and moved.
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    let sockets = inherited.sockets.iter().map(|(socket, _)| socket);
    let kept: Vec<&OwnedFd> = sockets.chain(inherited.later.iter().flatten()).collect();
    descriptors::settle(logs, &kept).map_err(step("closing inherited descriptors"))?;
    banner(options, words, &log);
    serve_logged(options, inherited, &mut log)
        .inspect_err(|fatal| log.fatal(format_args!("{}", fatal.0)))
}

/// The logs, so that all that goes wrong stands there, and the other descriptors.
fn open_inherited(
    options: &Options<'_>,
    log: &mut Log,
    logs: &mut Placed,
) -> Result<Inherited, Fatal> {
    let is_l = options.contract() == Contract::L;
    let [log_fd, debug_log_fd, later @ ..] = NAMED_FDS.map(|name| {
        let number = options.number(name).clamp(-1, RawFd::MAX.into());
        RawFd::try_from(number).unwrap_or(-1)
    });
    let later = if is_l { later } else { [-1; 3] };
    let [spec_fd, list_fd, userns_fd] = later;
    let named = [log_fd, debug_log_fd, spec_fd, list_fd, userns_fd];
    // Looked at before any is moved.
    let checked = descriptors::check_named(&options.io_fds, &named);
    log::open::open(options, log, logs).map_err(fatal)?;
    // Runtimes before 2022 have no such flag, and those that have it and leave it out are met in the loop.
    if is_l && options.flag("lisafs") {
        return Err(fatal(SPEAKS_9P));
    }
    checked.map_err(|(fd, errno)| {
        let is_later = later.contains(&fd) && !options.io_fds.contains(&fd);
        let what = if is_later {
            "taking over"
        } else {
            "err creating server on"
        };
        step(format_args!("{what} FD {}", i64::from(fd)))(errno)
    })?;
    let sockets = adopt_sockets(options)?;
    let later = later.map(|fd| descriptors::adopt(fd).ok());
    Ok(Inherited { sockets, later })
}

/// Offset of the host's zone, read once, before the chroot; UTC where it cannot be had.
fn host_zone() -> Offset {
    let (now, _) = raw::wall_clock();
    descriptors::read_file(c"/etc/localtime")
        .ok()
        .and_then(|zone| clock::offset_at(&zone, now))
        .unwrap_or_default()
}

/// What the original says of itself first.
fn banner(options: &Options<'_>, words: &[&[u8]], log: &Log) {
    const STARS: &str = "***************************";
    let args: Vec<String> = words
        .iter()
        .map(|word| format!("{}", Quoted(word)))
        .collect();
    let (uid, gid) = (
        u64::from(rustix::process::getuid().as_raw()),
        u64::from(rustix::process::getgid().as_raw()),
    );
    let text = |name: &str| format!("{}", Quoted(options.text(name)));
    log.info(format_args!("{STARS}"));
    log.long(format_args!("Args: [{}]", args.join(" ")));
    log.info(format_args!(
        "Git Revision: gofer {}",
        env!("CARGO_PKG_VERSION")
    ));
    log.info(format_args!("PID: {}", log.pid));
    log.info(format_args!("UID: {uid}, GID: {gid}"));
    let contract = match options.contract() {
        Contract::S => "S, the bundle alone",
        Contract::L => "L, the spec as a descriptor",
    };
    log.info(format_args!("Launch contract: {contract}"));
    log.info(format_args!("Configuration:"));
    log.info(format_args!("  RootDir: {}", text("root")));
    log.info(format_args!("  Platform: {}", text("platform")));
    log.info(format_args!(
        "  FileAccess: {}, overlay: {}",
        text("file-access"),
        options.flag("overlay")
    ));
    log.info(format_args!(
        "  Network: {}, logging: {}",
        text("network"),
        options.flag("log-packets")
    ));
    log.info(format_args!(
        "  Strace: {}, max size: {}, syscalls: {}",
        options.flag("strace"),
        options.size("strace-log-size"),
        text("strace-syscalls")
    ));
    log.info(format_args!("{STARS}"));
}

fn serve_logged(
    options: &mut Options<'static>,
    inherited: Inherited,
    log: &mut Log,
) -> Result<(), Fatal> {
    // An error is the end of the process: nothing is closed on the way there.
    let mut inherited = ManuallyDrop::new(inherited);
    let Inherited {
        sockets,
        later: [spec_fd, list_fd, userns],
    } = &mut *inherited;
    root::seal_process().map_err(step("sealing the process"))?;
    let mut spec = read_spec(options, spec_fd.take(), log)?;
    let is_l = options.contract() == Contract::L;
    if is_l {
        adapt(options, &mut spec, sockets.len().saturating_sub(1), log)?;
    }
    let (options, log) = (&*options, &*log);
    if let Some(userns) = userns.take() {
        become_root(&userns)?;
    }
    let limit = limit_descriptors(options, log)?;
    let bundle = options.text("bundle");
    let root_path = join(bundle, spec.root_path.as_bytes());
    let is_in_place = !is_l || options.flag("TESTONLY-unsafe-nonroot");
    let places = places(&spec, bundle, is_l)?;
    if !is_in_place && options.flag("setup-root") {
        newroot::make(places, &join(b"/", spec.cwd.as_bytes())).map_err(fatal)?;
    } else if !is_in_place {
        newroot::find(places);
    }
    if let Some(list_fd) = list_fd.take() {
        write_list(&spec, bundle, places, &list_fd)?;
    }
    let reopen = match descriptors::clone_proc() {
        Ok(()) => Reopen::ProcFd,
        Err(errno) => {
            log.info(format_args!("No clone of /proc/self/fd: {}", Text(errno)));
            Reopen::Parent
        }
    };
    let kept = match options.flag("apply-caps") {
        true => Some(reduce_capabilities(log)?),
        false => None,
    };
    let new_root = match is_in_place {
        true => &root_path,
        false => newroot::SERVED.to_bytes(),
    };
    enter_root(new_root, log)?;
    if let Some(kept) = kept {
        caps::drop_chroot(kept).map_err(step("Unable to apply caps: capset"))?;
    }
    let attaches = open_attach_points(&spec, &root_path, places, sockets, log)?;
    let files =
        limit.saturating_sub(u64::from(FIRST_FREE_FD.unsigned_abs()) + sockets.len() as u64);
    let key = Key::random().map_err(step("getrandom"))?;
    let fs = Fs::new(attaches, files, reopen, key);
    let policy = Policy {
        panic_on_write: options.flag("panic-on-write"),
        may_be_lisafs: is_l,
    };
    let mut server = Server::new(core::mem::take(sockets), fs, key, policy, log);
    if let Some(errno) = memory::failure() {
        return Err(step("reserving memory")(errno));
    }
    install_filter(reopen, log)?;
    entry::ARENA.seal();
    match server.serve() {
        Ok(()) => log.info(format_args!("All 9P servers exited.")),
        Err(Errno::PROTONOSUPPORT) => raw::exit(128),
        Err(errno) => {
            // Nothing can be allocated for a text to be handed up.
            log.fatal(format_args!("ppoll: {}", Text(errno)));
            raw::exit(128);
        }
    }
    Ok(())
}

fn adopt_sockets(options: &Options<'_>) -> Result<Vec<(OwnedFd, RawFd)>, Fatal> {
    let mut sockets = Vec::with_capacity(options.io_fds.len());
    for &number in &options.io_fds {
        let socket = descriptors::adopt(number).map_err(step(format_args!(
            "err creating server on FD {}",
            i64::from(number)
        )))?;
        sockets.push((socket, number));
    }
    Ok(sockets)
}

fn c_string(bytes: &[u8]) -> Result<CString, Fatal> {
    CString::new(bytes)
        .map_err(|_| fatal(told(format_args!("\"{}\": a NUL in a path", Quoted(bytes)))))
}

/// What the later contract makes of a spec: its annotations override flags, other mounts are served, and
/// what lies below an overlay in the sandbox is read-only.
fn adapt(
    options: &mut Options<'static>,
    spec: &mut Spec,
    mounts: usize,
    log: &mut Log,
) -> Result<(), Fatal> {
    for &(name, value) in &spec.overrides {
        options.override_by(name, value).map_err(refused)?;
    }
    log.debug = options.is_debug();
    spec.serve_by_later_rules(mounts);
    let overlay = options.text("overlay2");
    let all = options.flag("overlay") || overlay.starts_with(b"all:");
    spec.root_read_only |= all || overlay.starts_with(b"root:");
    for mount in &mut spec.mounts {
        mount.read_only |= all;
    }
    Ok(())
}

fn refused(why: &'static str) -> Fatal {
    fatal(told(format_args!("error reading spec: {why}")))
}

/// Waits until whoever makes our user namespace has mapped its ids, and becomes its root.
fn become_root(userns: &OwnedFd) -> Result<(), Fatal> {
    let mut ignored = [0; 64];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(userns, &mut ignored)) {
            Ok(0) => break,
            Ok(_) => {}
            Err(errno) => return Err(step("waiting for the user namespace")(errno)),
        }
    }
    set_thread_uid(Uid::ROOT).map_err(step("becoming the user namespace's root: setuid"))?;
    set_thread_gid(Gid::ROOT).map_err(step("becoming the user namespace's root: setgid"))
}

/// `--fdlimit`, as far as the process may set it, or else as many as it may have.
fn limit_descriptors(options: &Options<'_>, log: &Log) -> Result<u64, Fatal> {
    let wanted = u64::try_from(options.number("fdlimit")).ok();
    let limited = match descriptors::limit_descriptors(wanted) {
        Err(Errno::PERM) => {
            log.warning(format_args!("--fdlimit is more than the process may have"));
            descriptors::limit_descriptors(None)
        }
        limited => limited,
    };
    limited.map_err(step("raising the limit of descriptors"))
}

/// What is served: the root, and the mounts in their order.
fn places(spec: &Spec, bundle: &[u8], is_l: bool) -> Result<&'static mut [Place], Fatal> {
    let mut places = Vec::new();
    let mut add = |name: &'static str, source: &str, flags: Result<Flags, _>, read_only: bool| {
        let mut place = Place {
            name,
            source: CString::default(),
            path: name.into(),
            flags: Flags::default(),
            tree: None,
        };
        if is_l {
            place.source = c_string(&join(bundle, source.as_bytes()))?;
            place.path = join(b"/", name.as_bytes().get(1..).unwrap_or_default());
            place.flags = flags.map_err(refused)?;
        }
        place.flags.attributes |= u32::from(read_only); // MS_RDONLY
        places.push(place);
        Ok(())
    };
    let flags = mounts::root_flags(spec.propagation);
    add("/", spec.root_path, flags, spec.root_read_only)?;
    for mount in spec.served() {
        let flags = mounts::flags(&mount.options);
        add(mount.destination, mount.source, flags, mount.read_only)?;
    }
    Ok(places.leak()) // held, or given up with the process
}

/// Hands the sandbox the mount list, to its end.
fn write_list(spec: &Spec, bundle: &[u8], places: &[Place], fd: &OwnedFd) -> Result<(), Fatal> {
    let mut served = places.iter().skip(1);
    let mut list = Vec::new();
    for mount in &spec.mounts {
        let place = if mount.served { served.next() } else { None };
        let source = match mount.source {
            "" => Vec::new(),
            source => join(bundle, source.as_bytes()),
        };
        let path = place.map_or(mount.destination.as_bytes(), |place| &place.path);
        mounts::entry(
            &mut list,
            mount,
            path,
            &source,
            place.is_some_and(Place::is_on_overlay),
        );
    }
    if list.is_empty() {
        list.push(b'[');
    }
    list.push(b']');
    let mut rest = &*list;
    while !rest.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(fd, rest))
            .map_err(step("writing the mounts to --mounts-fd"))?;
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// `config.clean.json`, which a runtime writes for its gofer, or else `config.json`; in the later contract
/// what the descriptor leads to.
fn read_spec(options: &Options<'_>, fd: Option<OwnedFd>, log: &Log) -> Result<Spec, Fatal> {
    let clean = join(options.text("bundle"), b"config.clean.json");
    let plain = join(options.text("bundle"), b"config.json");
    let (path, mut text) = match fd {
        Some(fd) => {
            let text = descriptors::read_all(&fd).map_err(step("error reading spec: --spec-fd"))?;
            (b"--spec-fd".to_vec(), text)
        }
        None => match descriptors::read_file(&c_string(&clean)?) {
            Err(Errno::NOENT) => match descriptors::read_file(&c_string(&plain)?) {
                Ok(text) => (plain, text),
                Err(Errno::NOENT) => return Err(spec_fault("opening", &clean)(Errno::NOENT)),
                Err(errno) => return Err(spec_fault("opening", &plain)(errno)),
            },
            Ok(text) => (clean, text),
            Err(errno) => return Err(spec_fault("opening", &clean)(errno)),
        },
    };
    let heap = text
        .len()
        .saturating_mul(HEAP_PER_SPEC_BYTE)
        .saturating_add(HEAP_BYTES);
    entry::ARENA.provide(Region::reserve(heap));
    let spec = Spec::read(&text).map_err(|refusal| {
        fatal(told(format_args!(
            "error reading spec: {refusal} in \"{}\"",
            Quoted(&path)
        )))
    })?;
    log.long(format_args!("Spec: {}", OneLine(&text)));
    let len = text.len();
    text.discard(0..len);
    let profile = spec.apparmor;
    if !profile.is_empty() {
        log.warning(format_args!(
            "AppArmor profile \"{profile}\" is being ignored"
        ));
    }
    if spec.has_seccomp {
        log.warning(format_args!("Seccomp spec is being ignored"));
    }
    Ok(spec)
}

/// The spec as it was read, on one line: white space between its words is left out.
struct OneLine<'a>(&'a [u8]);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (mut quoted, mut escaped) = (false, false);
        for word in self.0.split_inclusive(|&byte| {
            let space = byte.is_ascii_whitespace() && !quoted;
            if byte == b'"' && !escaped {
                quoted = !quoted;
            }
            escaped = byte == b'\\' && !escaped;
            space
        }) {
            match core::str::from_utf8(word.trim_ascii_end()) {
                Ok(word) => f.write_str(word)?,
                Err(_) => write!(f, "{}", Quoted(word))?,
            }
        }
        Ok(())
    }
}

fn spec_fault(what: &str, path: &[u8]) -> impl FnOnce(Errno) -> Fatal {
    step(format!("error {what} spec: open {}", Quoted(path)))
}

fn reduce_capabilities(log: &Log) -> Result<rustix::thread::CapabilitySet, Fatal> {
    let reduced = caps::reduce().map_err(step("Unable to apply caps: capset"))?;
    let missing = caps::KEPT - reduced.kept;
    if !missing.is_empty() {
        log.warning(format_args!(
            "Capabilities not permitted, dropped: {:#x}",
            missing.bits()
        ));
    }
    if !reduced.bounding {
        log.warning(format_args!(
            "The bounding set stays as it is: no CAP_SETPCAP"
        ));
    }
    log.info(format_args!(
        "Capabilities applied: {:#x}",
        reduced.kept.bits()
    ));
    Ok(reduced.kept)
}

fn enter_root(path: &[u8], log: &Log) -> Result<(), Fatal> {
    let name = Quoted(path);
    root::enter(&c_string(path)?).map_err(|fault| match fault {
        RootFault::Chroot(errno) => fatal(told(format_args!(
            "failed to chroot to \"{name}\": {}",
            Text(errno)
        ))),
        RootFault::Chdir(errno) => fatal(told(format_args!(
            "failed to change working dir: {}",
            Text(errno)
        ))),
    })?;
    log.info(format_args!("Process chroot'd to \"{}\"", Quoted(path)));
    Ok(())
}

/// One attach point for each socket: the root, then the mounts in their order.
fn open_attach_points(
    spec: &Spec,
    root_path: &[u8],
    places: &mut [Place],
    sockets: &[(OwnedFd, RawFd)],
    log: &Log,
) -> Result<Vec<Attach>, Fatal> {
    let (count, mounts) = (sockets.len(), places.len());
    let mut attaches = Vec::with_capacity(count);
    for (place, (_, number)) in places.iter_mut().zip(sockets) {
        let (name, mapped) = (place.name, Quoted(root_path));
        let (read_only, number) = (place.flags.attributes & 1 != 0, i64::from(*number));
        match attaches.len() {
            0 => log.info(format_args!(
                "Serving \"/\" mapped to \"{mapped}\" on FD {number} (ro: {read_only})"
            )),
            _ => log.info(format_args!(
                "Serving \"{name}\" mapped on FD {number} (ro: {read_only})"
            )),
        }
        let attach = Attach::open(&place.path, read_only, place.tree.take());
        if let Some(errno) = attach.failure() {
            log.warning(format_args!(
                "Attach point \"{name}\" cannot be opened: {}",
                Text(errno)
            ));
        }
        attaches.push(attach);
    }
    if let Some(mount) = spec.served().nth(count.saturating_sub(1)) {
        let (destination, kind, source) = (mount.destination, mount.kind, mount.source);
        let options = mount.options.join(" ");
        return Err(fatal(told(format_args!(
            "No FD found for mount. Did you forget --io-fd? mount: {count}, {{{destination} {kind} {source} [{options}]}}"
        ))));
    }
    if mounts != count {
        return Err(fatal(told(format_args!(
            "too many FDs passed for mounts. mounts: {mounts}, FDs: {count}"
        ))));
    }
    Ok(attaches)
}

fn install_filter(reopen: Reopen, log: &Log) -> Result<(), Fatal> {
    let modes = match reopen {
        Reopen::ProcFd => Modes::BY_PROC_FD,
        Reopen::Parent => Modes::BY_PARENT,
    };
    let way = match reopen {
        Reopen::ProcFd => "a detached clone of /proc/self/fd",
        Reopen::Parent => "parent and name, device and inode compared",
    };
    log.info(format_args!("Held files are opened again through {way}"));
    log.info(format_args!(
        "Installing seccomp filters for {} syscalls",
        seccomp::count_calls(modes)
    ));
    raw::no_new_privs().map_err(step(
        "Failed to install seccomp filters: Failed to set no_new_privs",
    ))?;
    seccomp::install(modes).map_err(step(
        "Failed to install seccomp filters: Failed to set filter",
    ))?;
    log.info(format_args!("Seccomp filters installed."));
    Ok(())
}

/// `path` below `bundle`, cleaned as Go's filepath.Join does; an absolute path stays as it is.
fn join(bundle: &[u8], path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") {
        return path.to_vec();
    }
    let rooted = bundle.starts_with(b"/");
    let mut joined = if rooted { b"/".to_vec() } else { Vec::new() };
    let fixed = joined.len();
    for part in [bundle, path]
        .iter()
        .flat_map(|path| path.split(|&byte| byte == b'/'))
    {
        let last = joined
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |at| at + 1);
        match part {
            b"" | b"." => continue,
            b".." if joined.get(last..) != Some(b"..") && joined.len() > fixed => {
                joined.truncate(last.saturating_sub(1).max(fixed));
            }
            b".." if rooted => {}
            part => {
                if joined.len() > fixed {
                    joined.push(b'/');
                }
                joined.extend_from_slice(part);
            }
        }
    }
    if joined.is_empty() {
        b".".to_vec()
    } else {
        joined
    }
}
