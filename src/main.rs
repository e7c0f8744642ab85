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

use gofer::cli::{self, Command, Contract, Help, Options};
use gofer::clock::{self, Offset};
use gofer::errno::{Quoted, Text, told};
use gofer::fs::Fs;
use gofer::fs::attach::Attach;
use gofer::fs::file::Reopen;
use gofer::limits::{FIRST_FREE_FD, HEAP_BYTES, HEAP_PER_SPEC_BYTE};
use gofer::log::open::Placed;
use gofer::log::{self, Log};
use gofer::sandbox::root::RootFault;
use gofer::sandbox::seccomp::{self, Modes};
use gofer::sandbox::{caps, descriptors, root};
use gofer::server::Server;
use gofer::server::dispatch::Policy;
use gofer::spec::Spec;
use gofer::sys::args::Args;
use gofer::sys::fd::fixed;
use gofer::sys::memory::{self, Region};
use gofer::sys::{raw, relro};
use gofer::tables::Key;
use rustix::fd::{OwnedFd, RawFd};
use rustix::io::Errno;

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
        Command::Serve(options) => match serve(&options, &words) {
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

/// All of it: read, confine, serve.
fn serve(options: &Options<'_>, words: &[&[u8]]) -> Result<(), Fatal> {
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    raw::ignore_write_signals().map_err(step("ignoring signals"))?;
    let pid = u64::from(rustix::process::getpid().as_raw_pid().unsigned_abs());
    let mut log = Log::new(pid, host_zone());
    let mut logs = Vec::new();
    let sockets = match open_inherited(options, &mut log, &mut logs) {
        Ok(sockets) => sockets,
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
    let kept: Vec<&OwnedFd> = sockets.iter().map(|(socket, _)| socket).collect();
    descriptors::settle(logs, &kept).map_err(step("closing inherited descriptors"))?;
    banner(options, words, &log);
    serve_logged(options, sockets, &log).inspect_err(|fatal| log.fatal(format_args!("{}", fatal.0)))
}

/// The logs, so that all that goes wrong stands there, and the sockets.
fn open_inherited(
    options: &Options<'_>,
    log: &mut Log,
    logs: &mut Placed,
) -> Result<Vec<(OwnedFd, RawFd)>, Fatal> {
    let number = |name| RawFd::try_from(options.number(name)).unwrap_or(-1);
    let named = [number("log-fd"), number("debug-log-fd")];
    let named: Vec<RawFd> = named.into_iter().filter(|&number| number >= 0).collect();
    // Looked at before any is moved.
    let checked = descriptors::check_named(&options.io_fds, &named);
    log::open::open(options, log, logs).map_err(fatal)?;
    refuse_contract(options)?;
    checked.map_err(|(number, errno)| {
        step(format_args!(
            "err creating server on FD {}",
            i64::from(number)
        ))(errno)
    })?;
    adopt_sockets(options)
}

/// The later contract is known and not served yet: better one line now than a sandbox that hangs.
fn refuse_contract(options: &Options<'_>) -> Result<(), Fatal> {
    if options.contract() == Contract::S {
        return Ok(());
    }
    let why = if options.flag("lisafs") {
        "this gofer speaks 9P; start the runtime with --lisafs=false"
    } else if options.flag("setup-root") {
        "--setup-root is not served yet; start with --setup-root=false"
    } else {
        "--spec-fd is not served yet; start without it"
    };
    Err(fatal(why))
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
    options: &Options<'_>,
    sockets: Vec<(OwnedFd, RawFd)>,
    log: &Log,
) -> Result<(), Fatal> {
    let limit =
        descriptors::raise_descriptor_limit().map_err(step("raising the limit of descriptors"))?;
    root::seal_process().map_err(step("sealing the process"))?;
    let spec = read_spec(options, log)?;
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
    let root_path = join(options.text("bundle"), spec.root_path.as_bytes());
    enter_root(&root_path, log)?;
    if let Some(kept) = kept {
        caps::drop_chroot(kept).map_err(step("Unable to apply caps: capset"))?;
    }
    let attaches = open_attach_points(&spec, &root_path, &sockets, log)?;
    let files =
        limit.saturating_sub(u64::from(FIRST_FREE_FD.unsigned_abs()) + sockets.len() as u64);
    let key = Key::random().map_err(step("getrandom"))?;
    let fs = Fs::new(attaches, files, reopen, key);
    let policy = Policy {
        panic_on_write: options.flag("panic-on-write"),
    };
    let mut server = Server::new(sockets, fs, key, policy, log);
    if let Some(errno) = memory::failure() {
        return Err(step("reserving memory")(errno));
    }
    install_filter(reopen, log)?;
    entry::ARENA.seal();
    match server.serve() {
        Ok(()) => log.info(format_args!("All 9P servers exited.")),
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

/// `config.clean.json`, which a runtime writes for its gofer, or else `config.json`.
fn read_spec(options: &Options<'_>, log: &Log) -> Result<Spec, Fatal> {
    let clean = join(options.text("bundle"), b"config.clean.json");
    let plain = join(options.text("bundle"), b"config.json");
    let (path, mut text) = match descriptors::read_file(&c_string(&clean)?) {
        Err(first) if first == Errno::NOENT => match descriptors::read_file(&c_string(&plain)?) {
            Ok(text) => (plain, text),
            Err(Errno::NOENT) => return Err(spec_fault("opening", &clean)(first)),
            Err(errno) => return Err(spec_fault("opening", &plain)(errno)),
        },
        Ok(text) => (clean, text),
        Err(errno) => return Err(spec_fault("opening", &clean)(errno)),
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
    sockets: &[(OwnedFd, RawFd)],
    log: &Log,
) -> Result<Vec<Attach>, Fatal> {
    let mut attaches = Vec::with_capacity(sockets.len());
    let mut numbers = sockets.iter().map(|(_, number)| i64::from(*number));
    if let Some(number) = numbers.next() {
        let root = Attach::open(b"/", spec.root_read_only);
        let (name, read_only) = (Quoted(root_path), spec.root_read_only);
        log.info(format_args!(
            "Serving \"/\" mapped to \"{name}\" on FD {number} (ro: {read_only})"
        ));
        warn_of(&root, "/", log);
        attaches.push(root);
    }
    for mount in spec.served() {
        let destination = mount.destination;
        let number = numbers.next().ok_or_else(|| {
            let (kind, source, count) = (&mount.kind, &mount.source, sockets.len());
            let options = mount.options.join(" ");
            fatal(told(format_args!(
                "No FD found for mount. Did you forget --io-fd? mount: {count}, {{{destination} {kind} {source} [{options}]}}"
            )))
        })?;
        let attach = Attach::open(destination.as_bytes(), mount.read_only);
        log.info(format_args!(
            "Serving \"{destination}\" mapped on FD {number} (ro: {})",
            mount.read_only
        ));
        warn_of(&attach, destination, log);
        attaches.push(attach);
    }
    if attaches.len() != sockets.len() {
        return Err(fatal(told(format_args!(
            "too many FDs passed for mounts. mounts: {}, FDs: {}",
            attaches.len(),
            sockets.len()
        ))));
    }
    Ok(attaches)
}

fn warn_of(attach: &Attach, path: &str, log: &Log) {
    if let Some(errno) = attach.failure() {
        log.warning(format_args!(
            "Attach point \"{path}\" cannot be opened: {}",
            Text(errno)
        ));
    }
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
