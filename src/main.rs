//! The program: its start, top to bottom. `src/lib.rs` says what the rooms are.
#![no_std]
#![no_main]

#[path = "sys/entry.rs"]
mod entry;

use core::ffi::CStr;
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
use gofer::sandbox::root::RootFault;
use gofer::sandbox::seccomp::{self, Modes};
use gofer::sandbox::{caps, descriptors, root};
use gofer::server::Server;
use gofer::server::dispatch::Policy;
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
                let _told = serve(&options, &words, Some(refusal.text));
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
        Command::Serve(options) => match serve(&options, &words, None) {
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

/// All of it: read, confine, serve. Or, of a command line that is `refused`, tell the logs why.
fn serve(options: &Options<'_>, words: &[&[u8]], refused: Option<Told>) -> Result<(), Fatal> {
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    raw::ignore_write_signals().map_err(step("ignoring signals"))?;
    let pid = u64::from(rustix::process::getpid().as_raw_pid().unsigned_abs());
    let mut log = Log::new(pid, host_zone());
    let mut logs = List::new();
    let sockets = match open_inherited(options, refused, &mut log, &mut logs) {
        Ok(sockets) => sockets,
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
    let kept = List::of(sockets.iter().map(|(socket, _)| socket));
    descriptors::settle(logs, &kept).map_err(step("closing inherited descriptors"))?;
    banner(options, words, &log);
    serve_logged(options, sockets, &log).inspect_err(|fatal| log.fatal(text!("%", Raw(fatal.0))))
}

/// The logs, so that all that goes wrong stands there, and the sockets.
fn open_inherited(
    options: &Options<'_>,
    refused: Option<Told>,
    log: &mut Log,
    logs: &mut Placed,
) -> Result<List<(OwnedFd, RawFd)>, Fatal> {
    let number = |name| RawFd::try_from(options.number(name)).unwrap_or(-1);
    let named = [number("log-fd"), number("debug-log-fd")];
    let named = List::of(named.into_iter().filter(|&number| number >= 0));
    // Looked at before any is moved.
    let checked = descriptors::check_named(&options.io_fds, &named);
    log::open::open(options, log, logs).map_err(Fatal)?;
    refused.map_or(Ok(()), |text| Err(Fatal(text)))?;
    refuse_contract(options)?;
    checked.map_err(|(number, errno)| no_server(number, errno))?;
    adopt_sockets(options)
}

fn no_server(number: RawFd, errno: Errno) -> Fatal {
    fatal(text!(
        "err creating server on FD %: %",
        Signed(number.into()),
        Of(errno)
    ))
}

/// The later contract is known and not served yet: better one line now than a sandbox that hangs.
fn refuse_contract(options: &Options<'_>) -> Result<(), Fatal> {
    if options.contract() == Contract::S {
        return Ok(());
    }
    Err(Fatal(if options.flag("lisafs") {
        b"this gofer speaks 9P; start the runtime with --lisafs=false"
    } else if options.flag("setup-root") {
        b"--setup-root is not served yet; start with --setup-root=false"
    } else {
        b"--spec-fd is not served yet; start without it"
    }))
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
    options: &Options<'_>,
    sockets: List<(OwnedFd, RawFd)>,
    log: &Log,
) -> Result<(), Fatal> {
    let limit =
        descriptors::raise_descriptor_limit().map_err(step("raising the limit of descriptors"))?;
    root::seal_process().map_err(step("sealing the process"))?;
    let spec = read_spec(options, log)?;
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
    let root_path = join(options.text("bundle"), spec.root_path.as_bytes());
    enter_root(&root_path, log)?;
    if let Some(kept) = kept {
        caps::drop_chroot(kept).map_err(step("Unable to apply caps: capset"))?;
    }
    let special = special(options);
    let attaches = open_attach_points(&spec, &root_path, &sockets, special, log)?;
    let files =
        limit.saturating_sub(u64::from(FIRST_FREE_FD.unsigned_abs()) + sockets.len() as u64);
    let key = Key::random().map_err(step("getrandom"))?;
    let fs = Fs::new(attaches, files, reopen, special, key);
    let policy = Policy {
        panic_on_write: options.flag("panic-on-write"),
    };
    let mut server = Server::new(sockets, fs, key, policy, log);
    if let Some(errno) = memory::failure() {
        return Err(step("reserving memory")(errno));
    }
    install_filter(reopen, special.sockets, log)?;
    entry::SERVING.store(true, Ordering::Relaxed);
    match server.serve() {
        Ok(()) => log.info(text!("All 9P servers exited.")),
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

/// `config.clean.json`, which a runtime writes for its gofer, or else `config.json`.
fn read_spec(options: &Options<'_>, log: &Log) -> Result<Spec, Fatal> {
    let clean = join(options.text("bundle"), b"config.clean.json");
    let plain = join(options.text("bundle"), b"config.json");
    let (path, mut text) = match descriptors::read_file(c_string(&clean)?) {
        Err(first) if first == Errno::NOENT => match descriptors::read_file(c_string(&plain)?) {
            Ok(text) => (plain, text),
            Err(Errno::NOENT) => return Err(spec_fault(&clean, first)),
            Err(errno) => return Err(spec_fault(&plain, errno)),
        },
        Ok(text) => (clean, text),
        Err(errno) => return Err(spec_fault(&clean, errno)),
    };
    let spec = Spec::read(&text).map_err(|refusal| match refusal {
        Refusal::NotJson(_) | Refusal::Mismatch(..) => fatal(text!(
            "error reading spec: error unmarshaling spec from file \"%\": %",
            Quoted(&path),
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
    sockets: &[(OwnedFd, RawFd)],
    special: Special,
    log: &Log,
) -> Result<List<Attach>, Fatal> {
    let mut attaches = List::new();
    let mut numbers = sockets.iter().map(|(_, number)| i64::from(*number));
    if let Some(number) = numbers.next() {
        let root = Attach::open(b"/", spec.root_read_only, special);
        log.info(text!(
            "Serving \"/\" mapped to \"%\" on FD % (ro: %)",
            Quoted(root_path),
            Signed(number),
            Flag(spec.root_read_only)
        ));
        warn_of(&root, "/", log);
        attaches.push(root);
    }
    for mount in spec.mounts.iter() {
        let destination = mount.destination;
        let number = numbers.next().ok_or_else(|| {
            fatal(text!(
                "No FD found for mount. Did you forget --io-fd? mount: %, {% % % [%]}",
                Number(sockets.len() as u64),
                Str(destination),
                Str(mount.kind),
                Str(mount.source),
                Said(&Listed(mount.options))
            ))
        })?;
        let attach = Attach::open(destination.as_bytes(), mount.read_only, special);
        log.info(text!(
            "Serving \"%\" mapped on FD % (ro: %)",
            Str(destination),
            Signed(number),
            Flag(mount.read_only)
        ));
        warn_of(&attach, destination, log);
        attaches.push(attach);
    }
    if attaches.len() != sockets.len() || spec.mount_count + 1 != sockets.len() {
        return Err(fatal(text!(
            "too many FDs passed for mounts. mounts: %, FDs: %",
            Number(spec.mount_count as u64 + 1),
            Number(sockets.len() as u64)
        )));
    }
    Ok(attaches)
}

fn warn_of(attach: &Attach, path: &str, log: &Log) {
    if let Some(errno) = attach.failure() {
        log.warning(text!(
            "Attach point \"%\" cannot be opened: %",
            Str(path),
            Of(errno)
        ));
    }
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
