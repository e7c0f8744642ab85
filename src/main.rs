//! The program: its start, top to bottom. `src/lib.rs` says what the rooms are.
#![no_std]
#![no_main]

#[path = "sys/entry.rs"]
mod entry;

use core::ffi::CStr;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

use gofer::cli::{self, Command, Contract, Help, Options};
use gofer::clock::{self, Offset};
use gofer::fs::Fs;
use gofer::fs::attach::Attach;
use gofer::fs::attr::Special;
use gofer::fs::file::Reopen;
use gofer::limits::FIRST_FREE_FD;
use gofer::log::open::Placed;
use gofer::log::{self, Log};
use gofer::mounts::{self, Flags};
use gofer::sandbox::newroot::{self, Place};
use gofer::sandbox::root::RootFault;
use gofer::sandbox::seccomp::{self, Modes};
use gofer::sandbox::{caps, descriptors, root};
use gofer::server::dispatch::Policy;
use gofer::server::{SPEAKS_9P, Server};
use gofer::spec::{Refusal, Spec};
use gofer::sys::arena::{List, c_path};
use gofer::sys::args::Args;
use gofer::sys::fd::fixed;
use gofer::sys::memory;
use gofer::sys::{raw, relro};
use gofer::tables::Key;
use gofer::text;
use gofer::text::Arg::{Flag, Hex, Number, Of, Quoted, Raw, Said, Signed, Str};
use gofer::text::{Arg, Say, Sink, Text, Told};
use rustix::fd::{OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_uid};

/// Why start-up ends, with 128: one line that names the step, the file and the errno; empty if it was
/// told already.
struct Fatal(Told);

fn fatal(text: Text<'_>) -> Fatal {
    Fatal(text.told())
}

/// A step's name before its errno.
fn step(what: &'static str) -> impl FnOnce(Errno) -> Fatal {
    move |errno| fatal(text!("%: %", Str(what), Of(errno)))
}

/// The program's exit code.
fn start(args: Args) -> i32 {
    if relro::protect().is_err() {
        return 128; // nothing is open yet, and nothing is told of it: the linker always makes the range
    }
    let words = List::of((1..).map_while(|at| args.get(at)));
    let mut options = Options::default();
    let command = match cli::parse(words.iter().copied(), &mut options) {
        Ok(command) => command,
        Err(refusal) => {
            say(
                2,
                text!("gofer: %; --help lists the flags", Raw(refusal.text)),
            );
            // A log is opened behind the runtime's own flags; standard error has just been told.
            if refusal.status == 128 && options.names_log() {
                let _told = serve(&mut options, &words, Some(refusal.text));
            }
            return refusal.status;
        }
    };
    match command {
        Command::Help => {
            say(1, text!("%", Said(&Help)));
            0
        }
        Command::Version => {
            say(1, text!("gofer %", VERSION));
            0
        }
        Command::Serve(mut options) => match serve(&mut options, &words, None) {
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
fn complain(text: Told) {
    if !text.is_empty() {
        let mut line = log::Line::new();
        line.put(text);
        let _lost = rustix::io::write(fixed(2), line.finish());
    }
}

/// Prints a line, as far as it can be printed.
fn say(fd: RawFd, text: Text<'_>) {
    let mut line = List::new();
    text.say(&mut line);
    line.put(b"\n");
    let mut rest = &*line;
    while !rest.is_empty() {
        match rustix::io::write(fixed(fd), rest) {
            Ok(count) if count > 0 => rest = rest.get(count..).unwrap_or_default(),
            _ => return,
        }
    }
}

const VERSION: Arg<'static> = Str(env!("CARGO_PKG_VERSION"));

/// The descriptors that the command line names, but for the logs.
struct Inherited {
    sockets: List<(OwnedFd, RawFd)>,
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

/// All of it: read, confine, serve. Or, of a command line that is `refused`, tell the logs why.
fn serve(
    options: &mut Options<'static>,
    words: &[&[u8]],
    refused: Option<Told>,
) -> Result<(), Fatal> {
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    raw::ignore_write_signals().map_err(step("ignoring signals"))?;
    let pid = u64::from(rustix::process::getpid().as_raw_pid().unsigned_abs());
    let mut log = Log::new(pid, host_zone());
    let mut logs = List::new();
    let inherited = match open_inherited(options, refused, &mut log, &mut logs) {
        Ok(inherited) => inherited,
        Err(fault) => {
            if refused.is_none() {
                complain(fault.0); // before a log may take the place of standard error
            }
            if descriptors::settle(logs, &[]).is_ok() {
                log.fatal(text!("%", Raw(fault.0)));
            }
            return Err(Fatal(b""));
        }
    };
    // Again: one of 0 to 2 may have been named, and moved.
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    let sockets = inherited.sockets.iter().map(|(socket, _)| socket);
    let kept = List::of(sockets.chain(inherited.later.iter().flatten()));
    descriptors::settle(logs, &kept).map_err(step("closing inherited descriptors"))?;
    banner(options, words, &log);
    serve_logged(options, inherited, &mut log)
        .inspect_err(|fatal| log.fatal(text!("%", Raw(fatal.0))))
}

/// The logs, so that all that goes wrong stands there, and the other descriptors.
fn open_inherited(
    options: &Options<'_>,
    refused: Option<Told>,
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
    log::open::open(options, log, logs).map_err(Fatal)?;
    refused.map_or(Ok(()), |text| Err(Fatal(text)))?;
    // Runtimes before 2022 have no such flag, and those that have it and leave it out are met in the loop.
    if is_l && options.flag("lisafs") {
        return Err(Fatal(SPEAKS_9P));
    }
    checked.map_err(|(fd, errno)| {
        let is_later = later.contains(&fd) && !options.io_fds.contains(&fd);
        let what = if is_later {
            "taking over"
        } else {
            "err creating server on"
        };
        fatal(text!("% FD %: %", Str(what), Signed(fd.into()), Of(errno)))
    })?;
    let sockets = adopt_sockets(options)?;
    let later = later.map(|fd| descriptors::adopt(fd).ok());
    Ok(Inherited { sockets, later })
}

fn no_server(number: RawFd, errno: Errno) -> Fatal {
    fatal(text!(
        "err creating server on FD %: %",
        Signed(number.into()),
        Of(errno)
    ))
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
    const STARS: Text<'static> = Text::new("***************************", &[]);
    let id = |raw: u32| Number(raw.into());
    let text = |name| Quoted(options.text(name));
    let flag = |name| Flag(options.flag(name));
    log.info(STARS);
    log.long(text!("Args: [%]", Said(&Words(words))));
    let contract = match options.contract() {
        Contract::S => "S, the bundle alone",
        Contract::L => "L, the spec as a descriptor",
    };
    let process = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    for line in [
        text!("Git Revision: gofer %", VERSION),
        text!("PID: %", Number(log.pid)),
        text!("UID: %, GID: %", id(process), id(group)),
        text!("Launch contract: %", Str(contract)),
        text!("Configuration:"),
        text!("  RootDir: %", text("root")),
        text!("  Platform: %", text("platform")),
        text!(
            "  FileAccess: %, overlay: %",
            text("file-access"),
            flag("overlay")
        ),
        text!(
            "  Network: %, logging: %",
            text("network"),
            flag("log-packets")
        ),
        text!(
            "  Strace: %, max size: %, syscalls: %",
            flag("strace"),
            Number(options.size("strace-log-size")),
            text("strace-syscalls")
        ),
        STARS,
    ] {
        log.info(line);
    }
}

/// Words with spaces between, as they are.
struct Listed<'a>(&'a [&'a str]);

impl Say for Listed<'_> {
    fn say(&self, to: &mut dyn Sink) {
        for (at, word) in self.0.iter().enumerate() {
            to.put(if at > 0 { b" " } else { b"" });
            to.put(word.as_bytes());
        }
    }
}

/// Words with spaces between, escaped.
struct Words<'a>(&'a [&'a [u8]]);

impl Say for Words<'_> {
    fn say(&self, to: &mut dyn Sink) {
        for (at, word) in self.0.iter().enumerate() {
            to.put(if at > 0 { b" " } else { b"" });
            Quoted(word).say(to);
        }
    }
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
        newroot::make(places, &join(b"/", spec.cwd.as_bytes())).map_err(Fatal)?;
    } else if !is_in_place {
        newroot::find(places);
    }
    if let Some(list_fd) = list_fd.take() {
        write_list(&spec, bundle, places, &list_fd)?;
    }
    let reopen = match descriptors::clone_proc() {
        Ok(()) => Reopen::ProcFd,
        Err(errno) => {
            log.info(text!("No clone of /proc/self/fd: %", Of(errno)));
            Reopen::Parent
        }
    };
    let kept = match options.flag("apply-caps") {
        true => Some(reduce_capabilities(log)?),
        false => None,
    };
    let new_root = match is_in_place {
        true => &*root_path,
        false => newroot::SERVED.to_bytes(),
    };
    enter_root(new_root, log)?;
    if let Some(kept) = kept {
        caps::drop_chroot(kept).map_err(step("Unable to apply caps: capset"))?;
    }
    let special = special(options);
    let attaches = open_attach_points(&spec, &root_path, places, sockets, special, log)?;
    let files =
        limit.saturating_sub(u64::from(FIRST_FREE_FD.unsigned_abs()) + sockets.len() as u64);
    let key = Key::random().map_err(step("getrandom"))?;
    let fs = Fs::new(attaches, files, reopen, special, key);
    let policy = Policy {
        panic_on_write: options.flag("panic-on-write"),
        may_be_lisafs: is_l,
    };
    let mut server = Server::new(core::mem::take(sockets), fs, key, policy, log);
    if let Some(errno) = memory::failure() {
        return Err(step("reserving memory")(errno));
    }
    install_filter(reopen, special.sockets, log)?;
    entry::SERVING.store(true, Ordering::Relaxed);
    match server.serve() {
        Ok(()) => log.info(text!("All 9P servers exited.")),
        Err(Errno::PROTONOSUPPORT) => raw::exit(128),
        Err(errno) => {
            // Nothing can be allocated for a text to be handed up.
            log.fatal(text!("ppoll: %", Of(errno)));
            raw::exit(128);
        }
    }
    Ok(())
}

/// What `--host-uds` and `--host-fifo` allow; sockets are never made.
fn special(options: &Options<'_>) -> Special {
    Special {
        sockets: matches!(options.text("host-uds"), b"open" | b"all")
            || options.flag("fsgofer-host-uds"),
        fifos: options.text("host-fifo") == b"open",
    }
}

fn adopt_sockets(options: &Options<'_>) -> Result<List<(OwnedFd, RawFd)>, Fatal> {
    let mut sockets = List::new();
    for &number in options.io_fds.iter() {
        let socket = descriptors::adopt(number).map_err(|errno| no_server(number, errno))?;
        sockets.push((socket, number));
    }
    Ok(sockets)
}

fn c_string(bytes: &[u8]) -> Result<&'static CStr, Fatal> {
    c_path(bytes).map_err(|_| fatal(text!("\"%\": a NUL in a path", Quoted(bytes))))
}

/// What the later contract makes of a spec: its annotations override flags, other mounts are served, and
/// what lies below an overlay in the sandbox is read-only.
fn adapt(
    options: &mut Options<'static>,
    spec: &mut Spec,
    mounts: usize,
    log: &mut Log,
) -> Result<(), Fatal> {
    for &(name, value) in spec.overrides.iter() {
        options.override_by(name, value).map_err(refused)?;
    }
    log.debug = options.is_debug();
    spec.serve_by_later_rules(mounts);
    let overlay = options.text("overlay2");
    let all = options.flag("overlay") || overlay.starts_with(b"all:");
    spec.root_read_only |= all || overlay.starts_with(b"root:");
    for mount in spec.mounts.iter_mut() {
        mount.read_only |= all;
    }
    Ok(())
}

fn refused(why: Told) -> Fatal {
    fatal(text!("error reading spec: %", Raw(why)))
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
            log.warning(text!("--fdlimit is more than the process may have"));
            descriptors::limit_descriptors(None)
        }
        limited => limited,
    };
    limited.map_err(step("raising the limit of descriptors"))
}

/// What is served: the root, and the mounts in their order.
fn places(spec: &Spec, bundle: &[u8], is_l: bool) -> Result<&'static mut [Place], Fatal> {
    let mut places = List::new();
    let mut add = |name: &'static str, source: &str, flags: Result<Flags, _>, read_only: bool| {
        let mut place = Place {
            name,
            source: c"",
            path: name.as_bytes(),
            flags: Flags::default(),
            tree: None,
        };
        if is_l {
            place.source = c_string(&join(bundle, source.as_bytes()))?;
            place.path = join(b"/", name.as_bytes().get(1..).unwrap_or_default()).leak();
            place.flags = flags.map_err(refused)?;
        }
        place.flags.attributes |= u32::from(read_only); // MS_RDONLY
        places.push(place);
        Ok(())
    };
    let flags = mounts::root_flags(spec.propagation);
    add("/", spec.root_path, flags, spec.root_read_only)?;
    for mount in spec.served() {
        let flags = mounts::flags(mount.options);
        add(mount.destination, mount.source, flags, mount.read_only)?;
    }
    Ok(places.leak()) // held, or given up with the process
}

/// Hands the sandbox the mount list, to its end.
fn write_list(spec: &Spec, bundle: &[u8], places: &[Place], fd: &OwnedFd) -> Result<(), Fatal> {
    let mut served = places.iter().skip(1);
    let mut list = List::new();
    for mount in spec.mounts.iter() {
        let place = if mount.served { served.next() } else { None };
        let source = match mount.source {
            "" => List::new(),
            source => join(bundle, source.as_bytes()),
        };
        let path = place.map_or(mount.destination.as_bytes(), |place| place.path);
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
    let (path, mut text): (&[u8], _) = match fd {
        Some(fd) => {
            let text = descriptors::read_all(&fd).map_err(step("error reading spec: --spec-fd"))?;
            (b"--spec-fd", text)
        }
        None => match descriptors::read_file(c_string(&clean)?) {
            Err(Errno::NOENT) => match descriptors::read_file(c_string(&plain)?) {
                Ok(text) => (&plain, text),
                Err(Errno::NOENT) => return Err(spec_fault(&clean, Errno::NOENT)),
                Err(errno) => return Err(spec_fault(&plain, errno)),
            },
            Ok(text) => (&clean, text),
            Err(errno) => return Err(spec_fault(&clean, errno)),
        },
    };
    let spec = Spec::read(&text).map_err(|refusal| match refusal {
        Refusal::NotJson(_) | Refusal::Mismatch(..) => fatal(text!(
            "error reading spec: error unmarshaling spec from file \"%\": %",
            Quoted(path),
            Said(&refusal)
        )),
        _ => fatal(text!("error reading spec: %", Said(&refusal))),
    })?;
    log.long(text!("Spec: %", Said(&OneLine(&text))));
    let len = text.len();
    text.discard(0..len);
    let profile = spec.apparmor;
    if !profile.is_empty() {
        log.warning(text!(
            "AppArmor profile \"%\" is being ignored",
            Str(profile)
        ));
    }
    if spec.has_seccomp {
        log.warning(text!("Seccomp spec is being ignored"));
    }
    Ok(spec)
}

/// The spec as it was read, on one line: white space between its words is left out.
struct OneLine<'a>(&'a [u8]);

impl Say for OneLine<'_> {
    fn say(&self, to: &mut dyn Sink) {
        let (mut quoted, mut escaped) = (false, false);
        for word in self.0.split_inclusive(|&byte| {
            let space = byte.is_ascii_whitespace() && !quoted;
            if byte == b'"' && !escaped {
                quoted = !quoted;
            }
            escaped = byte == b'\\' && !escaped;
            space
        }) {
            let mut rest = word.trim_ascii_end();
            while let Err(at) = core::str::from_utf8(rest) {
                let (valid, behind) = rest.split_at_checked(at.valid_up_to()).unwrap_or_default();
                to.put(valid);
                to.put("\u{fffd}".as_bytes()); // as it was read
                rest = behind.get(1..).unwrap_or_default();
            }
            to.put(rest);
        }
    }
}

fn spec_fault(path: &[u8], errno: Errno) -> Fatal {
    fatal(text!(
        "error opening spec: open %: %",
        Quoted(path),
        Of(errno)
    ))
}

fn reduce_capabilities(log: &Log) -> Result<rustix::thread::CapabilitySet, Fatal> {
    let reduced = caps::reduce().map_err(step("Unable to apply caps: capset"))?;
    let missing = caps::KEPT - reduced.kept;
    if !missing.is_empty() {
        let missing = Hex(missing.bits());
        log.warning(text!("Capabilities not permitted, dropped: %", missing));
    }
    if !reduced.bounding {
        log.warning(text!("The bounding set stays as it is: no CAP_SETPCAP"));
    }
    log.info(text!("Capabilities applied: %", Hex(reduced.kept.bits())));
    Ok(reduced.kept)
}

fn enter_root(path: &[u8], log: &Log) -> Result<(), Fatal> {
    root::enter(c_string(path)?).map_err(|fault| match fault {
        RootFault::Chroot(errno) => fatal(text!(
            "failed to chroot to \"%\": %",
            Quoted(path),
            Of(errno)
        )),
        RootFault::Chdir(errno) => step("failed to change working dir")(errno),
    })?;
    log.info(text!("Process chroot'd to \"%\"", Quoted(path)));
    Ok(())
}

/// One attach point for each socket: the root, then the mounts in their order.
fn open_attach_points(
    spec: &Spec,
    root_path: &[u8],
    places: &mut [Place],
    sockets: &[(OwnedFd, RawFd)],
    special: Special,
    log: &Log,
) -> Result<List<Attach>, Fatal> {
    let (count, mounts) = (sockets.len() as u64, places.len() as u64);
    let mut attaches = List::new();
    for (place, (_, number)) in places.iter_mut().zip(sockets) {
        let read_only = place.flags.attributes & 1 != 0;
        let (name, fd, ro) = (Str(place.name), Signed((*number).into()), Flag(read_only));
        if attaches.is_empty() {
            let mapped = Quoted(root_path);
            log.info(text!(
                "Serving \"/\" mapped to \"%\" on FD % (ro: %)",
                mapped,
                fd,
                ro
            ));
        } else {
            log.info(text!("Serving \"%\" mapped on FD % (ro: %)", name, fd, ro));
        }
        let attach = Attach::open(place.path, read_only, special, place.tree.take());
        if let Some(errno) = attach.failure() {
            log.warning(text!(
                "Attach point \"%\" cannot be opened: %",
                name,
                Of(errno)
            ));
        }
        attaches.push(attach);
    }
    if let Some(mount) = spec.served().nth(sockets.len().saturating_sub(1)) {
        return Err(fatal(text!(
            "No FD found for mount. Did you forget --io-fd? mount: %, {% % % [%]}",
            Number(count),
            Str(mount.destination),
            Str(mount.kind),
            Str(mount.source),
            Said(&Listed(mount.options))
        )));
    }
    if mounts != count {
        return Err(fatal(text!(
            "too many FDs passed for mounts. mounts: %, FDs: %",
            Number(mounts),
            Number(count)
        )));
    }
    Ok(attaches)
}

fn install_filter(reopen: Reopen, sockets: bool, log: &Log) -> Result<(), Fatal> {
    let modes = match reopen {
        Reopen::ProcFd if sockets => {
            root::work_in_proc_fd().map_err(step("entering the clone of /proc/self/fd"))?;
            Modes::BY_PROC_FD.and(Modes::HOST_UDS)
        }
        Reopen::ProcFd => Modes::BY_PROC_FD,
        Reopen::Parent => Modes::BY_PARENT,
    };
    let way = match reopen {
        Reopen::ProcFd => "a detached clone of /proc/self/fd",
        Reopen::Parent => "parent and name, device and inode compared",
    };
    log.info(text!("Held files are opened again through %", Str(way)));
    let calls = Number(seccomp::count_calls(modes) as u64);
    log.info(text!("Installing seccomp filters for % syscalls", calls));
    raw::no_new_privs().map_err(step(
        "Failed to install seccomp filters: Failed to set no_new_privs",
    ))?;
    seccomp::install(modes).map_err(step(
        "Failed to install seccomp filters: Failed to set filter",
    ))?;
    log.info(text!("Seccomp filters installed."));
    Ok(())
}

/// `path` below `bundle`, cleaned as Go's filepath.Join does; an absolute path stays as it is.
fn join(bundle: &[u8], path: &[u8]) -> List<u8> {
    let mut joined = List::new();
    if path.starts_with(b"/") {
        joined.put(path);
        return joined;
    }
    let rooted = bundle.starts_with(b"/");
    joined.put(if rooted { b"/" } else { b"" });
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
                joined.put(if joined.len() > fixed { b"/" } else { b"" });
                joined.put(part);
            }
        }
    }
    if joined.is_empty() {
        joined.put(b".");
    }
    joined
}
