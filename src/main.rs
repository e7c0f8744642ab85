//! The program: its start, top to bottom. `src/lib.rs` says what the rooms are.
#![no_std]
#![no_main]

#[path = "sys/entry.rs"]
mod entry;
mod startup;

use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

use gofer::cli::{self, Command, Contract, DESCRIPTORS, Help, Options};
use gofer::clock::{self, Offset};
use gofer::decimal::is_among;
use gofer::fs::Fs;
use gofer::fs::attach::{self, Attach, Changes};
use gofer::fs::attr::Special;
use gofer::fs::file::Reopen;
use gofer::limits::FIRST_FREE_FD;
use gofer::log::{self, Log};
use gofer::sandbox::newroot::{self, Place};
use gofer::sandbox::root::RootFault;
use gofer::sandbox::seccomp::{self, Modes};
use gofer::sandbox::{caps, descriptors, detached, landlock, root};
use gofer::server::channels::Channels;
use gofer::server::connection::listen;
use gofer::server::dispatch::Policy;
use gofer::server::{SPEAKS_9P, Server};
use gofer::spec::Spec;
use gofer::sys::arena::List;
use gofer::sys::args::Args;
use gofer::sys::memory;
use gofer::sys::{image, raw};
use gofer::tables::Key;
use gofer::text;
use gofer::text::Arg::{Flag, Hex, Number, Of, Quoted, Raw, Said, Signed, Str};
use rustix::fd::{AsFd, OwnedFd, RawFd};
use rustix::io::Errno;

use startup::banner::{Listed, VERSION, banner};
use startup::fatal::{Fatal, complain, fatal, say, step};
use startup::later;
use startup::paths::{c_string, join};
use startup::reading::read_spec;

/// The program's exit code.
fn start(args: Args) -> i32 {
    if image::protect().is_err() {
        return 128; // nothing is open yet, and nothing is told of it: the linker always makes the range
    }
    let words = List::of((1..).map_while(|at| args.get(at)));
    let mut options = Options::default();
    let command = match cli::parse(words.iter().copied(), &mut options) {
        Ok(command) => command,
        Err(refusal) => {
            let _where_it_can = raw::ignore_write_signals(); // standard error may be a pipe without a reader
            // A runtime gives its gofer /dev/null for standard error: the logs have it too.
            let options = cli::logs(words.iter().copied());
            log::open::report(&options, pid(), host_zone(), refusal.text);
            complain(text!("gofer: %; --help lists the flags", Raw(refusal.text)).told());
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
        Command::Serve(mut options) => match serve(&mut options, &words) {
            Ok(()) => 0,
            Err(Fatal(text)) => {
                complain(text);
                128
            }
        },
    }
}

/// The descriptors that the command line names, but for the logs.
struct Inherited {
    sockets: List<(OwnedFd, RawFd)>,
    /// Those of [`DESCRIPTORS`], as far as they are given.
    later: [Option<OwnedFd>; 3],
}

fn pid() -> u64 {
    u64::from(rustix::process::getpid().as_raw_pid().unsigned_abs())
}

/// All of it: read, confine, serve.
#[inline(never)]
fn serve(options: &mut Options<'static>, words: &[&[u8]]) -> Result<(), Fatal> {
    let mut log = Log::new(pid(), host_zone());
    let inherited = begin(options, &mut log)
        .inspect_err(|fatal| log::open::report(options, log.pid, log.offset, fatal.0))?;
    banner(options, words, &log);
    let tell = |fatal: &Fatal, log: &Log| log.fatal(text!("%", Raw(fatal.0)));
    match inherited {
        Ok(inherited) => {
            serve_logged(options, inherited, &mut log).inspect_err(|fatal| tell(fatal, &log))
        }
        Err(fatal) => {
            tell(&fatal, &log);
            Err(Fatal(b""))
        }
    }
}

/// Takes over what the command line names, with the logs in their places.
///
/// Error: there is no log yet. The error inside is one that the logs are to have.
fn begin(options: &Options<'_>, log: &mut Log) -> Result<Result<Inherited, Fatal>, Fatal> {
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    raw::ignore_write_signals().map_err(step("ignoring signals"))?;
    let inherited = inherit(options);
    log::open::leave_standard_error(options);
    // One of 0 to 2 may have been named, and moved.
    descriptors::fill_standard().map_err(step("opening standard descriptors"))?;
    let mut logs = List::new();
    log::open::open(options, log, &mut logs).map_err(Fatal)?;
    if let Err(fatal) = &inherited {
        complain(fatal.0); // before a log may take the place of standard error
    }
    descriptors::place_fixed(logs).map_err(step("placing the logs"))?;
    Ok(inherited)
}

/// Takes over what the command line names, but for the logs.
#[inline(never)]
fn inherit(options: &Options<'_>) -> Result<Inherited, Fatal> {
    let number = |name| {
        let number = options.number(name).clamp(-1, RawFd::MAX.into());
        RawFd::try_from(number).unwrap_or(-1)
    };
    let later = match options.contract() {
        Contract::L => DESCRIPTORS.map(number),
        Contract::S => [-1; 3],
    };
    // Looked at before any is moved.
    let mut named = List::of(["log-fd", "debug-log-fd"].map(number));
    named.extend(later);
    let checked = descriptors::check_named(&options.io_fds, &named);
    // Without the flag: a runtime that has no LISAFS, or one that has it by default and is recognised by its first message.
    if options.contract() == Contract::L && options.flag("lisafs") {
        return Err(Fatal(SPEAKS_9P));
    }
    checked.map_err(|(fd, errno)| unusable(options, fd, errno))?;
    let sockets = adopt_sockets(options)?;
    let later = later.map(|fd| descriptors::adopt(fd).ok());
    Ok(Inherited { sockets, later })
}

/// Why a descriptor that the command line names is no use; the words for a socket are the original's.
fn unusable(options: &Options<'_>, fd: RawFd, errno: Errno) -> Fatal {
    let what = if options.io_fds.contains(&fd) {
        "err creating server on"
    } else {
        "taking over"
    };
    fatal(text!("% FD %: %", Str(what), Signed(fd.into()), Of(errno)))
}

/// Offset of the host's zone, read once, before the chroot; UTC where it cannot be had.
fn host_zone() -> Offset {
    let (now, _) = raw::wall_clock();
    descriptors::read_file(c"/etc/localtime")
        .ok()
        .and_then(|zone| clock::offset_at(&zone, now))
        .unwrap_or_default()
}

fn serve_logged(
    options: &mut Options<'static>,
    inherited: Inherited,
    log: &mut Log,
) -> Result<(), Fatal> {
    // An error is the end of the process: nothing is closed on the way there.
    let mut inherited = ManuallyDrop::new(inherited);
    let held = inherited.sockets.iter().map(|(socket, _)| socket);
    let held = List::of(held.chain(inherited.later.iter().flatten()));
    descriptors::close_others(&held).map_err(step("closing inherited descriptors"))?;
    let Inherited {
        sockets,
        later: [spec_fd, list_fd, userns],
    } = &mut *inherited;
    root::seal_process().map_err(step("sealing the process"))?;
    let mut spec = read_spec(options, spec_fd.take(), log)?;
    let is_l = options.contract() == Contract::L;
    if is_l {
        later::adapt(options, &mut spec, sockets.len().saturating_sub(1), log)?;
    }
    let (options, log) = (&*options, &*log);
    if let Some(userns) = userns.take() {
        later::become_root(&userns)?;
    }
    let limit = later::limit_descriptors(options, log)?;
    let bundle = options.text("bundle");
    let root_path = join(bundle, spec.root_path);
    let is_in_place = !is_l || options.flag("TESTONLY-unsafe-nonroot");
    let places = later::places(&spec, bundle, later::overlay(options), is_l)?;
    let is_made = !is_in_place && options.flag("setup-root");
    let restricts = is_made || may_restrict(places, log);
    if is_made {
        newroot::make(places, &join(b"/", spec.cwd)).map_err(Fatal)?;
    } else if !is_in_place {
        newroot::find(places);
    }
    if let Some(list_fd) = list_fd.take() {
        later::write_list(&spec, bundle, places, &list_fd)?;
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
    for place in places.iter_mut() {
        if place.tree.is_err() {
            place.tree = attach::open_path(place.path);
        }
    }
    let is_held = detach(places, restricts, log);
    let rules = landlock::rules(places);
    let special = special(options);
    let panics = options.flag("panic-on-write");
    let how = (special, reopen, panics);
    let attaches = open_attach_points(&spec, &root_path, places, sockets, how, log)?;
    // From what is no clone `..` leads on until the process's root, which is the served one still.
    let emptied = match is_held && reopen == Reopen::ProcFd {
        true => detached::enter_empty(),
        false => Err(Errno::PERM),
    };
    match emptied {
        Ok(()) => log.info(text!(
            "Root and working directory are empty and read-only now"
        )),
        Err(errno) => log.warning(text!("No empty directory for a root: %", Of(errno))),
    }
    if let Some(kept) = kept {
        caps::drop_startup(kept).map_err(step("Unable to apply caps: capset"))?;
    }
    let files =
        limit.saturating_sub(u64::from(FIRST_FREE_FD.unsigned_abs()) + 1 + sockets.len() as u64);
    let key = Key::random().map_err(step("getrandom"))?;
    let mut fs = Fs::new(attaches, files, reopen, special, key);
    let channels = make_channels(options, sockets, &mut fs, log);
    let channel_mode = match channels.is_empty() {
        true => Modes::NONE,
        false => Modes::CHANNELS,
    };
    let policy = Policy {
        qid_versions: options.text("qid-version") == b"real",
        may_be_lisafs: is_l,
    };
    let mut server = Server::new(core::mem::take(sockets), (fs, channels), key, policy, log);
    if let Some(errno) = memory::failure() {
        return Err(step("reserving memory")(errno));
    }
    install_filter(reopen, (special.sockets, channel_mode), rules, log)?;
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
        sockets: is_among("open all", options.text("host-uds")) || options.flag("fsgofer-host-uds"),
        fifos: options.text("host-fifo") == b"open",
    }
}

fn adopt_sockets(options: &Options<'_>) -> Result<List<(OwnedFd, RawFd)>, Fatal> {
    let mut sockets = List::new();
    for &number in options.io_fds.iter() {
        let socket =
            descriptors::adopt(number).map_err(|errno| unusable(options, number, errno))?;
        listen(&socket).map_err(|errno| unusable(options, number, errno))?;
        sockets.push((socket, number));
    }
    Ok(sockets)
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

/// A mount namespace of our own, where there are read-only mounts below a root that is not so: they become
/// read-only there, wherever they are reached from.
fn may_restrict(places: &[Place], log: &Log) -> bool {
    let mut of = places.iter().map(Place::is_read_only);
    of.next() == Some(false)
        && of.any(|read_only| read_only)
        && told(b"/", raw::unshare_mounts(), log).is_some()
}

/// Detached clones in the places' stead. The root's comes last, when the mounts that are read-only may be made so
/// with all that lies below them. Whether it was done for each.
fn detach(places: &mut [Place], restricts: bool, log: &Log) -> bool {
    let unbindable = places.iter().any(Place::is_unbindable);
    let mut is_held = true;
    let Some((root, binds)) = places.split_first_mut() else {
        return is_held;
    };
    let mut sources = List::new();
    for place in binds {
        let read_only = place.is_read_only();
        let Ok(tree) = &mut place.tree else {
            continue;
        };
        match told(place.name, detached::detach(tree, read_only), log) {
            Some(source) if read_only && restricts => sources.push((place.name, source)),
            done => is_held &= done.is_some(),
        }
    }
    // Each source is closed with that: it lies where `..` leads on.
    while let Some((name, source)) = sources.pop() {
        told(name, raw::restrict_mounts(source.as_fd(), 1), log);
    }
    let read_only = root.is_read_only();
    if let Ok(tree) = &mut root.tree {
        let done = match unbindable {
            true => Err(Errno::INVAL),
            false => detached::detach(tree, read_only),
        };
        is_held &= told(root.name, done, log).is_some();
    }
    is_held
}

/// A step that can be done without, its failure told.
fn told<T>(name: &[u8], done: Result<T, Errno>, log: &Log) -> Option<T> {
    done.inspect_err(|&errno| {
        log.warning(text!(
            "\"%\" is not held by mounts alone: %",
            Quoted(name),
            Of(errno)
        ))
    })
    .ok()
}

/// One attach point for each socket: the root, then the mounts in their order.
fn open_attach_points(
    spec: &Spec,
    root_path: &[u8],
    places: &mut [Place],
    sockets: &[(OwnedFd, RawFd)],
    (special, reopen, panics): (Special, Reopen, bool),
    log: &Log,
) -> Result<List<Attach>, Fatal> {
    let (count, mounts) = (sockets.len() as u64, places.len() as u64);
    let mut attaches = List::new();
    for (place, (_, number)) in places.iter_mut().zip(sockets) {
        let read_only = place.is_read_only();
        let (name, fd, ro) = (Raw(place.name), Signed((*number).into()), Flag(read_only));
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
        let tree = core::mem::replace(&mut place.tree, Err(Errno::BADF));
        let changes = match (read_only, panics && !place.is_below_overlay) {
            (false, _) => Changes::Made,
            (true, false) => Changes::Refused,
            (true, true) => Changes::Panic,
        };
        let attach = Attach::new(tree, place.path, changes, special, reopen);
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
            Raw(mount.destination),
            Raw(mount.kind),
            Raw(mount.source),
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

/// What Tchannel offers, as far as it can be made; the sockets' signals are ours.
fn make_channels(
    options: &Options<'_>,
    sockets: &[(OwnedFd, RawFd)],
    fs: &mut Fs,
    log: &Log,
) -> Channels {
    let mut channels = Channels::none();
    let each = usize::try_from(options.size("channels")).unwrap_or(0);
    if each > 0 {
        let spin_us = options.size("channel-spin");
        let pid = rustix::process::getpid().as_raw_pid().unsigned_abs();
        let made = sockets
            .iter()
            .try_for_each(|(socket, _)| raw::own_signals(socket.as_fd(), pid))
            .and_then(|()| channels.make(sockets.len(), each, spin_us, fs));
        if let Err(errno) = made {
            log.warning(text!("Not all channels can be made: %", Of(errno)));
        }
    }
    channels
}

#[inline(never)]
fn install_filter(
    reopen: Reopen,
    (sockets, more): (bool, Modes),
    rules: Result<OwnedFd, Errno>,
    log: &Log,
) -> Result<(), Fatal> {
    let modes = match reopen {
        Reopen::ProcFd if sockets => {
            root::work_in_proc_fd().map_err(step("entering the clone of /proc/self/fd"))?;
            Modes::BY_PROC_FD.and(Modes::HOST_UDS)
        }
        Reopen::ProcFd => Modes::BY_PROC_FD,
        Reopen::Parent => Modes::BY_PARENT,
    }
    .and(more);
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
    match rules.and_then(|rules| raw::landlock_restrict(rules.as_fd())) {
        Ok(()) => log.info(text!("Landlock rules installed.")),
        Err(errno) => log.warning(text!("No Landlock rules: %", Of(errno))),
    }
    seccomp::install(modes).map_err(step(
        "Failed to install seccomp filters: Failed to set filter",
    ))?;
    log.info(text!("Seccomp filters installed."));
    Ok(())
}
