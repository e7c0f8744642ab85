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
use core::fmt::Display;

use gofer::cli::{self, Command, Help, Options};
use gofer::errno::Text;
use gofer::fs::Fs;
use gofer::fs::attach::Attach;
use gofer::fs::file::Reopen;
use gofer::limits::{FIRST_FREE_FD, HEAP_BYTES, HEAP_PER_SPEC_BYTE};
use gofer::log::Log;
use gofer::sandbox::root::RootFault;
use gofer::sandbox::seccomp::{self, Modes};
use gofer::sandbox::{caps, descriptors, root};
use gofer::server::Server;
use gofer::server::dispatch::Policy;
use gofer::spec::Spec;
use gofer::sys::args::Args;
use gofer::sys::fd::fixed;
use gofer::sys::memory::Region;
use gofer::sys::{raw, relro};
use rustix::fd::{OwnedFd, RawFd};
use rustix::io::Errno;

/// Why start-up ends: one line that names the step, the file and the errno, and the exit code.
struct Fatal {
    text: String,
    status: i32,
}

fn fatal(text: String) -> Fatal {
    Fatal { text, status: 128 }
}

/// A step's name before its errno.
fn step(what: impl Display) -> impl FnOnce(Errno) -> Fatal {
    move |errno| fatal(format!("{what}: {}", Text(errno)))
}

/// The program's exit code.
fn start(args: Args) -> i32 {
    let began = relro::protect().and_then(|()| Region::reserve(HEAP_BYTES));
    match began {
        Ok(heap) => entry::ARENA.provide(heap),
        Err(_) => {
            say(2, "gofer: no memory to start with");
            return 128;
        }
    }
    let words: Vec<&[u8]> = (1..).map_while(|at| args.get(at)).collect();
    let command = match cli::parse(words.iter().copied()) {
        Ok(command) => command,
        Err(refusal) => {
            say(
                2,
                &format!("gofer: {}; --help lists the flags", refusal.fault),
            );
            return if refusal.is_global { 2 } else { 128 };
        }
    };
    match command {
        Command::Help => {
            say(1, format!("{Help}").trim_end());
            0
        }
        Command::Version => {
            say(1, concat!("gofer ", env!("CARGO_PKG_VERSION")));
            0
        }
        Command::Serve(options) => match serve(&options) {
            Ok(()) => 0,
            Err(Fatal { text, status }) => {
                say(2, &text);
                status
            }
        },
    }
}

/// Prints a line, as far as it can be printed.
fn say(fd: RawFd, text: &str) {
    let line = format!("{text}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(fixed(fd), rest) {
            Ok(count) if count > 0 => rest = rest.get(count..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// All of it: read, confine, serve.
fn serve(options: &Options<'_>) -> Result<(), Fatal> {
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    let sockets = adopt_sockets(options)?;
    let log_fd = open_log(options)?;
    let kept: Vec<&OwnedFd> = sockets.iter().map(|(socket, _)| socket).collect();
    descriptors::settle(log_fd, &kept).map_err(step("closing inherited descriptors"))?;
    let log = Log::new(
        rustix::process::getpid()
            .as_raw_nonzero()
            .get()
            .cast_unsigned(),
    );
    serve_logged(options, sockets, &log)
        .inspect_err(|fatal| log.warning(format_args!("FATAL ERROR: {}", fatal.text)))
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
    let kept = if options.keep_all_capabilities {
        None
    } else {
        Some(reduce_capabilities(log)?)
    };
    let root_path = join(options.bundle, spec.root_path.as_bytes());
    enter_root(&root_path, log)?;
    if let Some(kept) = kept {
        caps::drop_chroot(kept).map_err(step("Unable to apply caps: capset"))?;
    }
    let attaches = open_attach_points(&spec, &root_path, &sockets, log)?;
    let files =
        limit.saturating_sub(u64::from(FIRST_FREE_FD.unsigned_abs()) + sockets.len() as u64);
    let fs = Fs::new(attaches, files, reopen).map_err(step("reserving the tables of files"))?;
    let policy = Policy {
        panic_on_write: options.panic_on_write,
    };
    let mut server = Server::new(sockets, fs, policy, log)
        .map_err(step("reserving the connections' buffers"))?;
    install_filter(reopen, log)?;
    entry::ARENA.seal();
    match server.serve() {
        Ok(()) => log.info(format_args!("All 9P servers exited.")),
        Err(errno) => {
            // Nothing can be allocated for a text to be handed up.
            log.warning(format_args!("FATAL ERROR: ppoll: {}", Text(errno)));
            raw::exit(128);
        }
    }
    Ok(())
}

fn adopt_sockets(options: &Options<'_>) -> Result<Vec<(OwnedFd, RawFd)>, Fatal> {
    let mut sockets = Vec::with_capacity(options.io_fds.len());
    for &number in &options.io_fds {
        let socket = descriptors::adopt(number)
            .map_err(step(format_args!("err creating server on FD {number}")))?;
        sockets.push((socket, number));
    }
    Ok(sockets)
}

fn open_log(options: &Options<'_>) -> Result<OwnedFd, Fatal> {
    if let Some(number) = options.log_fd {
        return descriptors::adopt(number)
            .map_err(step(format_args!("error opening log: FD {number}")));
    }
    if options.log.is_empty() {
        return descriptors::standard_error().map_err(step("error opening log: standard error"));
    }
    let name = options.log.escape_ascii();
    descriptors::open_log(&c_string(options.log)?)
        .map_err(step(format_args!("error opening log file \"{name}\"")))
}

fn c_string(bytes: &[u8]) -> Result<CString, Fatal> {
    CString::new(bytes).map_err(|_| fatal(format!("\"{}\": a NUL in a path", bytes.escape_ascii())))
}

/// `config.clean.json`, which a runtime writes for its gofer, or else `config.json`.
fn read_spec(options: &Options<'_>, log: &Log) -> Result<Spec, Fatal> {
    let clean = join(options.bundle, b"config.clean.json");
    let plain = join(options.bundle, b"config.json");
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
    entry::ARENA
        .provide(Region::reserve(heap).map_err(step("error reading spec: reserving memory"))?);
    let spec = Spec::read(&text).map_err(|refusal| {
        fatal(format!(
            "error reading spec: {refusal} in \"{}\"",
            path.escape_ascii()
        ))
    })?;
    let len = text.len();
    text.discard(0..len);
    if let Some(profile) = &spec.apparmor {
        log.warning(format_args!(
            "AppArmor profile \"{profile}\" is being ignored"
        ));
    }
    if spec.has_seccomp {
        log.warning(format_args!("Seccomp spec is being ignored"));
    }
    Ok(spec)
}

fn spec_fault(what: &str, path: &[u8]) -> impl FnOnce(Errno) -> Fatal {
    step(format!("error {what} spec: open {}", path.escape_ascii()))
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
    let name = path.escape_ascii();
    root::enter(&c_string(path)?).map_err(|fault| match fault {
        RootFault::Chroot(errno) => {
            fatal(format!("failed to chroot to \"{name}\": {}", Text(errno)))
        }
        RootFault::Chdir(errno) => fatal(format!("failed to change working dir: {}", Text(errno))),
    })?;
    log.info(format_args!(
        "Process chroot'd to \"{}\"",
        path.escape_ascii()
    ));
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
    let mut numbers = sockets.iter().map(|(_, number)| *number);
    if let Some(number) = numbers.next() {
        let root = Attach::open(b"/", spec.root_read_only);
        let (name, read_only) = (root_path.escape_ascii(), spec.root_read_only);
        log.info(format_args!(
            "Serving \"/\" mapped to \"{name}\" on FD {number} (ro: {read_only})"
        ));
        warn_of(&root, "/", log);
        attaches.push(root);
    }
    for mount in &spec.mounts {
        let destination = mount.destination.as_str();
        let number = numbers.next().ok_or_else(|| {
            let (kind, source, count) = (&mount.kind, &mount.source, sockets.len());
            let options = mount.options.join(" ");
            fatal(format!(
                "No FD found for mount. Did you forget --io-fd? mount: {count}, {{{destination} {kind} {source} [{options}]}}"
            ))
        })?;
        let attach = Attach::open(destination.as_bytes(), mount.read_only);
        log.info(format_args!(
            "Serving \"{destination}\" mapped on FD {number} (ro: {})",
            mount.read_only
        ));
        warn_of(&attach, destination, log);
        attaches.push(attach);
    }
    if attaches.len() != sockets.len() || spec.mount_count + 1 != sockets.len() {
        return Err(fatal(format!(
            "too many FDs passed for mounts. mounts: {}, FDs: {}",
            spec.mount_count + 1,
            sockets.len()
        )));
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
    let is_absolute = bundle.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in bundle
        .split(|&byte| byte == b'/')
        .chain(path.split(|&byte| byte == b'/'))
    {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|&last| last != b"..") => drop(parts.pop()),
            b".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    let mut joined = if is_absolute {
        b"/".to_vec()
    } else {
        Vec::new()
    };
    joined.extend_from_slice(&parts.join(&b'/'));
    if joined.is_empty() {
        b".".to_vec()
    } else {
        joined
    }
}
