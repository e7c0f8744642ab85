//! The command line: Go's flag syntax, the runtime's global flags, the gofer's own (docs/launch.md 1). Makes no system call.

use rustix::fd::RawFd;

use crate::decimal::{digit, is_among, split_once};
use crate::limits::{CHANNEL_SPIN_US, CHANNELS, CONNECTIONS};
use crate::sys::arena::List;
use crate::text;
use crate::text::Arg::{Number, Quoted, Raw, Signed, Str};
use crate::text::{Say, Sink, Told};

/// Which runtime is calling: what it hands over, and what it expects in its logs (docs/launch.md 1, 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contract {
    /// 2018-11 to 2019-01: the bundle alone.
    S,
    /// Later: the spec as a descriptor. `--spec-fd` is what tells them apart.
    L,
}

/// What the command line asks for: the flags that were given, by name, and the sockets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    given: List<(&'static [u8], &'a [u8])>,
    /// `--io-fds`, in order.
    pub io_fds: List<RawFd>,
    /// Names of global flags that are not known here, and were skipped with their values.
    pub skipped: List<&'a [u8]>,
}

impl<'a> Options<'a> {
    /// The value of flag `name`, or what it is without: the last one given counts.
    pub fn text(&self, name: &str) -> &'a [u8] {
        match self
            .given
            .iter()
            .rev()
            .find(|(given, _)| *given == name.as_bytes())
        {
            Some((_, value)) => value,
            None => known(Part::Any, name.as_bytes()).map_or(b"", |flag| flag.default),
        }
    }

    /// The value of a flag that is a boolean.
    pub fn flag(&self, name: &str) -> bool {
        boolean(self.text(name)) == Some(true)
    }

    /// Whether every request is to be logged.
    pub fn is_debug(&self) -> bool {
        self.flag("debug") || self.flag("log-packets")
    }

    /// The value of a flag that is a number.
    pub fn number(&self, name: &str) -> i64 {
        integer(self.text(name)).and_then(signed).unwrap_or(-1)
    }

    /// The value of a flag that is a number without a sign.
    pub fn size(&self, name: &str) -> u64 {
        integer(self.text(name)).map_or(0, |(_, size)| size)
    }

    /// Whether `number` is a descriptor that is named for something else than a log.
    pub fn names_descriptor(&self, number: RawFd) -> bool {
        let one = |name: &&str| self.number(name) == i64::from(number);
        self.io_fds.contains(&number) || DESCRIPTORS.iter().any(one)
    }

    /// The pattern of the debug log's path: `--debug-log`, or else the directory that runtimes before
    /// 2018-10-11 name by `--debug-log-dir`. Empty: there is no such log.
    pub fn debug_log(&self) -> List<u8> {
        let mut pattern = List::copy(self.text("debug-log"));
        if pattern.is_empty() && !self.text("debug-log-dir").is_empty() {
            pattern.put(self.text("debug-log-dir"));
            pattern.push(b'/');
        }
        pattern
    }

    /// Sets a flag as an annotation of the spec says (docs/launch.md 1.4). Error: one line, of a flag that may
    /// not be overridden, that is unknown, or of a wrong value.
    #[inline(never)]
    pub fn override_by(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Told> {
        let is_free = is_among("debug strace strace-syscalls strace-log-size", name)
            || name == b"oci-seccomp" && boolean(value) == Some(true)
            || self.flag("allow-flag-override");
        if !is_free {
            return Err(text!(
                "flag override disabled, use --allow-flag-override to enable it: %",
                Quoted(name)
            )
            .told());
        }
        let flag = find(Part::Front, name)?;
        take(self, &flag, value)?;
        self.given.push((flag.name, value));
        Ok(())
    }

    /// Which runtime is calling.
    pub fn contract(&self) -> Contract {
        if self.number("spec-fd") >= 0 {
            Contract::L
        } else {
            Contract::S
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // made once
pub enum Command<'a> {
    /// Serve.
    Serve(Options<'a>),
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
}

/// Why the command line is refused; the texts are Go's and the original's.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 2 for a flag of the runtime, before the word `gofer`; 128 for everything else.
    pub status: i32,
    /// One line.
    pub text: Told,
}

/// Flags of the sub-command `gofer`, of both contracts (docs/launch.md 1.2), each with the letter of its type, and
/// what it is without. s text, b bool, i int, u uint, F descriptors, t duration; the others, see [`choices`].
const GOFER_FLAGS: &str = "
    apply-caps:b=true bundle:s= io-fds:F= panic-on-write:b= setup-root:b=true
    channels:c=2 channel-spin:m=20 qid-version:v=real spec-fd:i=-1 mounts-fd:i=-1 sync-userns-fd:i=-1 profile-block-fd:i=-1 profile-cpu-fd:i=-1
    profile-heap-fd:i=-1 profile-mutex-fd:i=-1 trace-fd:i=-1 host-uds-allowed:b=
";

/// Flags of the runtime itself, of both contracts, which stand before the word `gofer` (docs/launch.md 1.3, 1.4).
const GLOBAL_FLAGS: &str = "
    root:s=/var/run/runsc version:b= log:s= log-format:s=text debug:b= debug-log:s=
    debug-log-format:s=text log-packets:b= log-fd:i=-1 debug-log-fd:i=-1 strace:b=false
    strace-syscalls:s= strace-log-size:u=1024 platform:s=ptrace network:n=sandbox
    file-access:a=exclusive overlay:b=false watchdog-action:w=log panic-signal:i=
    TESTONLY-unsafe-nonroot:b= systemd-cgroup:b= debug-command:s= panic-log:s= coverage-report:s=
    pcap-log:s= alsologtostderr:b= allow-flag-override:b= traceback:s= strace-event:b=
    platform_device_path:s= profile:b= profile-block:s= profile-cpu:s= profile-heap:s=
    profile-mutex:s= trace:s= rootless:b= ref-leak-mode:r= cpu-num-from-quota:b= oci-seccomp:b=
    enable-core-tags:b= pod-init-config:s= file-access-mounts:a= overlay2:s= fsgofer-host-uds:b=
    host-uds:h= host-fifo:o= vfs2:b= fuse:b= lisafs:b= cgroupfs:b= ignore-cgroups:b=
    fdlimit:i= dcache:i= net-raw:b= gso:b= software-gso:b= gvisor-gro:t= tx-checksum-offload:b=
    rx-checksum-offload:b= qdisc:q= num-network-channels:i= buffer-pooling:b=
    EXPERIMENTAL-afxdp:b= TESTONLY-test-name-env:s= TESTONLY-allow-packet-endpoint-write:b=
    panic-log-fd:i= coverage-fd:i= debug-log-dir:s= multi-container:b= trace-signal:i=-1
    refs-leak-mode:s= overlayfs-stale-read:b= cpu-num-min:i= verity:b= controls:s=
";

/// Flags that name one descriptor each: those of the later contract.
pub const DESCRIPTORS: [&str; 3] = ["spec-fd", "mounts-fd", "sync-userns-fd"];

/// The flags that say which logs there are, how they are opened, and which descriptors are none.
const LOG_FLAGS: &str = "log log-fd log-format debug-log debug-log-dir debug-log-fd debug-log-format \
                         io-fds spec-fd mounts-fd sync-userns-fd";

/// Where a flag stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Before the word `gofer`.
    Front,
    /// Behind it.
    Behind,
    /// On a command line without that word, or where it is not known yet whether it comes.
    Any,
}

impl Part {
    /// The flags that may stand there.
    fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Front => &[GLOBAL_FLAGS],
            Self::Behind => &[GOFER_FLAGS],
            Self::Any => &[GOFER_FLAGS, GLOBAL_FLAGS],
        }
    }
}

/// A flag of the tables.
struct Flag {
    name: &'static [u8],
    kind: u8,
    default: &'static [u8],
}

fn all(table: &'static str) -> impl Iterator<Item = Flag> {
    table
        .as_bytes()
        .split(u8::is_ascii_whitespace)
        .filter_map(|flag| {
            let (name, kind) = split_once(flag, b':')?;
            let (kind, default) = split_once(kind, b'=')?;
            Some(Flag {
                name,
                kind: *kind.first()?,
                default,
            })
        })
}

#[inline(never)]
fn known(part: Part, name: &[u8]) -> Option<Flag> {
    let mut found = part
        .tables()
        .iter()
        .map(|table| all(table).find(|flag| flag.name == name));
    found.find(Option::is_some).flatten()
}

/// A flag. Error: what Go says of one that is unknown.
fn find(part: Part, name: &[u8]) -> Result<Flag, Told> {
    known(part, name).ok_or_else(|| text!("flag provided but not defined: -%", Quoted(name)).told())
}

/// The words that a flag takes, by the letter of its type, and what its value is called.
fn choices(kind: u8) -> Option<(&'static str, &'static str)> {
    match kind {
        b'n' => Some(("sandbox host none", "network type")),
        b'a' => Some(("exclusive shared", "file access type")),
        b'w' => Some(("log logwarning panic", "watchdog action")),
        b'r' => Some(("disabled log-names log-traces panic", "ref leak mode")),
        b'h' => Some(("none open create all", "host UDS type")),
        b'o' => Some(("none open", "host fifo type")),
        b'q' => Some(("none fifo", "qdisc")),
        b'v' => Some(("real zero", "qid version")),
        _ => None,
    }
}

/// What the flags do that are used, for people.
pub(crate) const HELP: &str = concat!(
    "gofer ",
    env!("CARGO_PKG_VERSION"),
    ": serves a host's files to a sandboxed kernel, over 9P2000.L on inherited sockets\n",
    "\n",
    "usage: gofer --bundle DIR --io-fds N [--io-fds N ...] [flags]\n",
    "       ANY-NAME [global flags] gofer --bundle DIR --io-fds N [flags]\n",
    "\n",
    "Flags are Go's: one dash or two, `--name=value` or `--name value`, a bool alone or `=false`.\n",
    "\nflags:",
    "
  --bundle DIR         the bundle: a directory with config.clean.json or config.json
  --io-fds N           a connected stream socket; once for the root and once for each bind mount
  --apply-caps         keep six capabilities only (default true)
  --panic-on-write     tell of changes tried on read-only mounts (default false)
  --channels N         shared-memory channels for each connection (default 2; 127 in all; 0: none)
  --channel-spin US    microseconds to look for a channel's next request (default 20; 0: sleep at once)
  --qid-version WORD   real or zero: what Linux's client caches by (default real)
"
);
pub(crate) const GLOBAL_HELP: &str = "
global flags:
  --log FILE           log to this file (default: standard error)
  --log-fd N           log to this descriptor
  --log-format F       text, json or json-k8s (default text)
  --debug              log every request and its answer (default false)
  --log-packets        the same
  --debug-log PATH     log there too; one that ends in / is a directory;
                       %TIMESTAMP% and %COMMAND% are replaced
  --debug-log-fd N     log to this descriptor too (with --spec-fd only)
  --debug-log-format F text, json or json-k8s (default text)
  --alsologtostderr    log to standard error too (default false; with --spec-fd only)
  --host-uds WORD      open or all: serve the host's sockets (default none)
  --host-fifo WORD     open: serve the host's FIFOs (default none)
";

/// Reads the words behind the program's name.
///
/// Two forms: `[global flags] gofer [flags]`, as a runtime calls it, and `[flags]` of both kinds
/// alone. In the first, flags of the gofer before the word are unknown, as in the original.
/// `options` takes what is read, and has what was read before a refusal.
#[inline(never)]
pub fn parse<'a>(
    words: impl Iterator<Item = &'a [u8]> + Clone,
    options: &mut Options<'a>,
) -> Result<Command<'a>, Refusal> {
    let scan = |part| Scan {
        words: words.clone(),
        part,
    };
    let names_command = || scan(Part::Any).any(is_command);
    let global = |text| Refusal {
        status: if names_command() { 2 } else { 128 },
        text,
    };
    let mut front = scan(Part::Front);
    match front.flags(options) {
        Ok(Stop::Help) => return Ok(Command::Help),
        Ok(Stop::Word(Some(b"gofer"))) => {
            let mut behind = Scan {
                part: Part::Behind,
                ..front
            };
            let stop = behind.flags(options).map_err(local)?;
            return finish(&stop, options, &global);
        }
        Ok(Stop::Word(Some(word))) => {
            return Err(local(
                text!(
                    "unknown sub-command \"%\": only gofer is served",
                    Quoted(word)
                )
                .told(),
            ));
        }
        // No sub-command: the short form, where a flag of the gofer's comes (or nothing at all).
        Ok(Stop::Word(None)) => {}
        Err(_) if !names_command() => {}
        Err(text) => return Err(global(text)),
    }
    *options = Options::default();
    let stop = scan(Part::Any).flags(options).map_err(local)?;
    finish(&stop, options, &global)
}

/// What a command line says of logs, whatever else is wrong with it: a refusal stands in each of them. Flags
/// with wrong values are passed over. A word that is no flag ends them, but in front of the word `gofer`, where it may
/// be the value of a flag that is not known.
#[inline(never)]
pub fn logs<'a>(words: impl Iterator<Item = &'a [u8]> + Clone) -> Options<'a> {
    let mut options = Options::default();
    let mut scan = Scan {
        words,
        part: Part::Any,
    };
    while let Some(token) = scan.next() {
        match token {
            Token::Word(b"gofer") if scan.part == Part::Any => scan.part = Part::Behind,
            Token::Word(_) if scan.part == Part::Any && scan.clone().any(is_command) => {}
            Token::Word(_) => break,
            Token::Flag(name, Some(flag), Some(value)) if is_among(LOG_FLAGS, name) => {
                if take(&mut options, &flag, value).is_ok() {
                    options.given.push((flag.name, value));
                }
            }
            Token::Flag(..) => {}
        }
    }
    options
}

/// A part of the command line.
enum Token<'a> {
    /// A flag's name, what is known of it, and its value: in the same word, or in the next one if it is
    /// a flag that takes one.
    Flag(&'a [u8], Option<Flag>, Option<&'a [u8]>),
    /// A word that is no flag, `-` and `--` among them.
    Word(&'a [u8]),
}

fn is_command(token: Token<'_>) -> bool {
    matches!(token, Token::Word(b"gofer"))
}

/// Splits words by Go's rules. It refuses nothing.
#[derive(Clone)]
struct Scan<I> {
    words: I,
    /// Whose flags take a value of a word of their own.
    part: Part,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Iterator for Scan<I> {
    type Item = Token<'a>;

    #[inline(never)]
    fn next(&mut self) -> Option<Token<'a>> {
        let word = self.words.next()?;
        let body = match word {
            b"-" | b"--" => return Some(Token::Word(word)),
            [b'-', b'-', body @ ..] | [b'-', body @ ..] => body,
            _ => return Some(Token::Word(word)),
        };
        let (name, value) = match split_once(body, b'=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let flag = known(self.part, name);
        let value = match &flag {
            Some(flag) if value.is_none() && flag.kind != b'b' => self.words.next(),
            _ => value,
        };
        Some(Token::Flag(name, flag, value))
    }
}

fn local(text: Told) -> Refusal {
    Refusal { status: 128, text }
}

fn finish<'a>(
    stop: &Stop<'a>,
    options: &mut Options<'a>,
    global: &dyn Fn(Told) -> Refusal,
) -> Result<Command<'a>, Refusal> {
    match stop {
        Stop::Help => return Ok(Command::Help),
        Stop::Word(_) => {} // words behind the flags are ignored, as the original ignores them
    }
    if options.flag("version") {
        return Ok(Command::Version);
    }
    check(options, global)?;
    if options.text("bundle").is_empty() {
        return Err(local(b"--bundle is missing"));
    }
    if options.io_fds.is_empty() {
        return Err(local(b"--io-fds is missing"));
    }
    Ok(Command::Serve(core::mem::take(options)))
}

/// The values that the original checks before its sub-command runs, each contract in its own words.
fn check(options: &Options<'_>, global: &dyn Fn(Told) -> Refusal) -> Result<(), Refusal> {
    let is_l = options.contract() == Contract::L;
    let platform = options.text("platform");
    if !is_among("ptrace kvm", platform) {
        let name = Quoted(platform);
        return Err(local(match is_l {
            true => text!("unknown platform: %", name).told(),
            false => text!("invalid platform type \"%\"", name).told(),
        }));
    }
    for (kind, name) in [
        (b'a', "file-access"),
        (b'n', "network"),
        (b'w', "watchdog-action"),
    ] {
        let shown = options.text(name);
        let lower = List::of(shown.iter().map(u8::to_ascii_lowercase));
        // Runtimes of 2018 and 2019 spell it LogWarning.
        let value = if kind == b'w' { &lower } else { shown };
        if let Err(why) = choose(kind, value, shown) {
            return Err(if is_l {
                global(invalid(shown, name.as_bytes(), why))
            } else {
                local(why)
            });
        }
    }
    if !is_l && options.flag("overlay") && options.text("file-access") == b"shared" {
        return Err(local(
            b"overlay flag is incompatible with shared file access",
        ));
    }
    Ok(())
}

fn choose(kind: u8, value: &[u8], shown: &[u8]) -> Result<(), Told> {
    match choices(kind) {
        Some((words, what)) if !is_among(words, value) => {
            Err(text!("invalid % \"%\"", Str(what), Quoted(shown)).told())
        }
        _ => Ok(()),
    }
}

fn invalid(value: &[u8], name: &[u8], why: &[u8]) -> Told {
    text!(
        "invalid value \"%\" for flag -%: %",
        Quoted(value),
        Raw(name),
        Raw(why)
    )
    .told()
}

/// Where a run of flags ended.
enum Stop<'a> {
    Word(Option<&'a [u8]>),
    Help,
}

impl<'a, I: Iterator<Item = &'a [u8]> + Clone> Scan<I> {
    /// Takes flags up to the first word that is none, which is taken too.
    fn flags(&mut self, options: &mut Options<'a>) -> Result<Stop<'a>, Told> {
        loop {
            let whole = self.words.clone().next().unwrap_or_default();
            let (name, flag, value) = match self.next() {
                None => return Ok(Stop::Word(None)),
                Some(Token::Word(b"--")) => return Ok(Stop::Word(self.words.next())),
                Some(Token::Word(word)) => return Ok(Stop::Word(Some(word))),
                Some(Token::Flag(name, flag, value)) => (name, flag, value),
            };
            if name.is_empty() || name.starts_with(b"-") {
                return Err(text!("bad flag syntax: %", Quoted(whole)).told());
            }
            if is_among("help h", name) {
                return Ok(Stop::Help);
            }
            // A runtime passes its flags as --name=value. One that is not known here concerns the runtime alone.
            let is_foreign = self.part == Part::Front && known(Part::Any, name).is_none();
            if is_foreign && value.is_some() {
                options.skipped.push(name);
                continue;
            }
            let flag = flag.map_or_else(|| find(self.part, name), Ok)?;
            let value = match value {
                Some(value) => value,
                None if flag.kind == b'b' => b"true",
                None => {
                    return Err(text!("flag needs an argument: -%", Raw(flag.name)).told());
                }
            };
            take(options, &flag, value)?;
            options.given.push((flag.name, value));
        }
    }
}

/// Checks a value by its flag's type, and keeps the sockets. Error: what Go says.
fn take(options: &mut Options<'_>, flag: &Flag, value: &[u8]) -> Result<(), Told> {
    let name = flag.name;
    let why = match flag.kind {
        b'b' if boolean(value).is_none() => {
            return Err(text!(
                "invalid boolean value \"%\" for -%: parse error",
                Quoted(value),
                Raw(name)
            )
            .told());
        }
        b'i' => integer(value).and_then(signed).err(),
        // Go's unsigned parser takes no sign at all.
        b'u' if value.starts_with(b"+") || value.starts_with(b"-") => Some(SYNTAX),
        b'u' => integer(value).err(),
        b'c' | b'm' => {
            let most = if flag.kind == b'c' {
                CHANNELS as u64
            } else {
                CHANNEL_SPIN_US
            };
            match integer(value) {
                Ok((is_negative, size)) if is_negative || size > most => Some(RANGE),
                parsed => parsed.err(),
            }
        }
        b't' if duration(value).is_none() => Some(SYNTAX),
        b'F' => match decimal(value).and_then(signed) {
            Err(why) => {
                let why = Raw(if why == SYNTAX {
                    b"invalid syntax"
                } else {
                    why
                });
                Some(
                    text!(
                        "invalid flag value: strconv.Atoi: parsing \"%\": %",
                        Quoted(value),
                        why
                    )
                    .told(),
                )
            }
            Ok(number) if number < 0 => {
                Some(text!("flag value must be greater than 0: %", Signed(number)).told())
            }
            Ok(_) if options.io_fds.len() == CONNECTIONS => {
                return Err(text!("more than % --io-fds", Number(CONNECTIONS as u64)).told());
            }
            Ok(number) => match RawFd::try_from(number) {
                Ok(fd) => {
                    options.io_fds.push(fd);
                    None
                }
                Err(_) => Some(RANGE),
            },
        },
        b's' if name == b"overlay2" && !is_overlay(value) => Some(SYNTAX),
        // Their values are checked when it is known which runtime calls.
        b'n' | b'w' => None,
        b'a' if name == b"file-access" => None,
        kind => choose(kind, value, value).err(),
    };
    why.map_or(Ok(()), |why| Err(invalid(value, name, why)))
}

const SYNTAX: Told = b"parse error";
const RANGE: Told = b"value out of range";

/// Whether it is none, or what the overlay lies over and what it lies on.
#[inline(never)]
fn is_overlay(value: &[u8]) -> bool {
    let medium = value.strip_prefix(b"root:").or(value.strip_prefix(b"all:"));
    let is_medium = |medium: &[u8]| is_among("memory self", medium) || medium.starts_with(b"dir=");
    value == b"none" || medium.is_some_and(is_medium)
}

/// Go's strconv.ParseBool.
fn boolean(text: &[u8]) -> Option<bool> {
    let is_true = is_among("1 t T TRUE true True", text);
    (is_true || is_among("0 f F FALSE false False", text)).then_some(is_true)
}

/// A number with its sign: whether it is negative, and how large.
type Parsed = Result<(bool, u64), Told>;

fn split_sign(text: &[u8]) -> (bool, &[u8]) {
    let unsigned = text
        .strip_prefix(b"+")
        .or(text.strip_prefix(b"-"))
        .unwrap_or(text);
    (text.starts_with(b"-"), unsigned)
}

/// Go's strconv.Atoi: decimal.
fn decimal(text: &[u8]) -> Parsed {
    let (negative, digits) = split_sign(text);
    if digits.contains(&b'_') {
        return Err(SYNTAX);
    }
    Ok((negative, magnitude(digits, 10)?))
}

/// Go's strconv.ParseInt with base 0: decimal, 0x, 0b, 0o or a leading 0 for octal, and `_` between digits
/// behind such a prefix.
fn integer(text: &[u8]) -> Parsed {
    let (negative, unsigned) = split_sign(text);
    let (digits, base) = match unsigned {
        [b'0', b'x' | b'X', digits @ ..] => (digits, 16),
        [b'0', b'b' | b'B', digits @ ..] => (digits, 2),
        [b'0', b'o' | b'O', digits @ ..] => (digits, 8),
        [b'0', digits @ ..] if !digits.is_empty() => (digits, 8),
        digits => (digits, 10),
    };
    let prefixed = digits.len() < unsigned.len();
    let digits = if prefixed {
        digits.strip_prefix(b"_").unwrap_or(digits)
    } else {
        digits
    };
    let separated = digits.contains(&b'_');
    if separated && (!prefixed || digits.split(|&byte| byte == b'_').any(<[u8]>::is_empty)) {
        return Err(SYNTAX);
    }
    Ok((negative, magnitude(digits, base)?))
}

/// The value of digits, with or without `_` between them.
fn magnitude(digits: &[u8], base: u32) -> Result<u64, Told> {
    let digits = || {
        digits
            .iter()
            .filter(|&&byte| byte != b'_')
            .map(|&byte| digit(byte, base))
    };
    if digits().next().is_none() || digits().any(|digit| digit.is_none()) {
        return Err(SYNTAX);
    }
    digits()
        .flatten()
        .try_fold(0u64, |value, digit| {
            let value = value.checked_mul(base.into())?;
            value.checked_add(digit.into())
        })
        .ok_or(RANGE)
}

fn signed((negative, value): (bool, u64)) -> Result<i64, Told> {
    let signed = if negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    };
    signed.ok_or(RANGE)
}

/// Whether Go's time.ParseDuration takes it: `0`, or numbers with units.
fn duration(text: &[u8]) -> Option<()> {
    let (_, mut rest) = split_sign(text);
    if rest == b"0" {
        return Some(());
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest
            .iter()
            .position(|byte| !byte.is_ascii_digit() && *byte != b'.')
            .unwrap_or(rest.len());
        let (digits, behind) = rest.split_at_checked(number)?;
        let dots = digits.iter().filter(|&&byte| byte == b'.').count();
        if dots > 1 || digits.len() == dots {
            return None;
        }
        let unit = behind
            .iter()
            .position(|byte| byte.is_ascii_digit() || *byte == b'.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(unit)?;
        if !is_among("ns us \u{b5}s \u{3bc}s ms s m h", unit) {
            return None;
        }
        rest = behind;
    }
    Some(())
}

/// The help text.
pub struct Help;

impl Say for Help {
    fn say(&self, to: &mut dyn Sink) {
        let mut room = [0; HELP.len() + GLOBAL_HELP.len()];
        for (part, table) in [
            (crate::packed!(HELP.as_bytes()), GOFER_FLAGS),
            (crate::packed!(GLOBAL_HELP.as_bytes()), GLOBAL_FLAGS),
        ] {
            to.put(part.unpack(&mut room));
            to.put(ACCEPTED.as_bytes());
            to.put(table.as_bytes());
        }
        to.put(crate::packed!(END.as_bytes()).unpack(&mut room));
    }
}

const END: &str = concat!(
    "\n",
    "  --help               this text\n",
    "  --version            the version\n",
    "\n",
    "exit codes: 0 all connections ended, 128 start-up failed, 2 a global flag is wrong",
);

const ACCEPTED: &str = "  accepted, with types and defaults:";

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a>(words: &[&'a str]) -> Result<Command<'a>, Refusal> {
        let words: Vec<&'a [u8]> = words.iter().map(|word| word.as_bytes()).collect();
        parse(words.into_iter(), &mut Options::default())
    }

    fn serve<'a>(words: &[&'a str]) -> Options<'a> {
        match run(words) {
            Ok(Command::Serve(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    fn fault(words: &[&str]) -> (i32, String) {
        match run(words) {
            Err(Refusal { status, text }) => (status, String::from_utf8_lossy(text).into_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let short = serve(&[
            "--bundle",
            "/b",
            "-io-fds=3",
            "--io-fds",
            "4",
            "--log=",
            "--root=/r",
            "--debug",
        ]);
        let long = serve(&[
            "--root=/r",
            "--debug",
            "--log=",
            "gofer",
            "--bundle",
            "/b",
            "--io-fds=3",
            "--io-fds=4",
        ]);
        assert_eq!(short.io_fds, long.io_fds);
        for name in ["bundle", "root", "debug", "log", "platform"] {
            assert_eq!(short.text(name), long.text(name), "{name}");
        }
        assert_eq!(
            (short.text("bundle"), &*short.io_fds),
            (&b"/b"[..], &[3, 4][..])
        );
        assert!(short.flag("apply-caps") && !short.flag("panic-on-write") && short.flag("debug"));
        assert_eq!(
            (short.number("spec-fd"), short.text("root")),
            (-1, &b"/r"[..])
        );
    }

    #[test]
    fn a_value_is_taken_blindly_and_a_bool_takes_none() {
        let options = serve(&[
            "--bundle",
            "--io-fds",
            "--io-fds",
            "5",
            "--apply-caps=false",
            "--panic-on-write",
        ]);
        assert_eq!(
            (options.text("bundle"), &*options.io_fds),
            (&b"--io-fds"[..], &[5][..])
        );
        assert!(!options.flag("apply-caps") && options.flag("panic-on-write"));
        // `false` ends the flags, so what is behind it is not read.
        let options = serve(&[
            "gofer",
            "--bundle=b",
            "--io-fds=3",
            "--panic-on-write",
            "false",
            "--apply-caps=false",
        ]);
        assert!(options.flag("panic-on-write") && options.flag("apply-caps"));
    }

    #[test]
    fn flags_end_at_a_lone_dash_two_dashes_and_a_word() {
        for end in ["-", "--", "word"] {
            let options = serve(&["gofer", "--bundle=b", "--io-fds=3", end, "--io-fds=4"]);
            assert_eq!(*options.io_fds, [3]);
        }
    }

    #[test]
    fn faults_have_gos_words_and_know_where_they_stand() {
        let gofer = |word| fault(&["gofer", "--bundle=b", "--io-fds=3", word]);
        assert_eq!(
            gofer("--nope=1"),
            (128, "flag provided but not defined: -nope".into())
        );
        assert_eq!(
            gofer("---bundle"),
            (128, "bad flag syntax: ---bundle".into())
        );
        assert_eq!(gofer("-=x"), (128, "bad flag syntax: -=x".into()));
        assert_eq!(
            gofer("--bundle"),
            (128, "flag needs an argument: -bundle".into())
        );
        assert_eq!(
            gofer("--io-fds=3,4").1,
            "invalid value \"3,4\" for flag -io-fds: invalid flag value: strconv.Atoi: parsing \"3,4\": invalid syntax"
        );
        assert_eq!(
            gofer("--io-fds=-1").1,
            "invalid value \"-1\" for flag -io-fds: flag value must be greater than 0: -1"
        );
        assert_eq!(
            fault(&["--nope", "gofer"]),
            (2, "flag provided but not defined: -nope".into())
        );
        assert_eq!(
            fault(&["--bundle=b", "gofer"]),
            (2, "flag provided but not defined: -bundle".into())
        );
        assert_eq!(
            fault(&["--debug=maybe", "gofer"]),
            (
                2,
                "invalid boolean value \"maybe\" for -debug: parse error".into()
            )
        );
        assert_eq!(
            fault(&["--log-fd=x", "gofer"]),
            (
                2,
                "invalid value \"x\" for flag -log-fd: parse error".into()
            )
        );
        assert_eq!(
            fault(&["--strace-log-size=99999999999999999999", "gofer"]).1,
            "invalid value \"99999999999999999999\" for flag -strace-log-size: value out of range"
        );
        assert_eq!(
            fault(&["--strace-log-size=-1", "gofer"]).1,
            "invalid value \"-1\" for flag -strace-log-size: parse error"
        );
        assert_eq!(
            fault(&["run", "x"]),
            (
                128,
                "unknown sub-command \"run\": only gofer is served".into()
            )
        );
        assert_eq!(fault(&["gofer", "--io-fds=3"]).1, "--bundle is missing");
        assert_eq!(fault(&["gofer", "--bundle=b"]).1, "--io-fds is missing");
        assert_eq!(fault(&[]).1, "--bundle is missing");
        // The value of a flag is not the command.
        for name in ["bundle", "log"] {
            let flag = format!("--{name}");
            let options = serve(&["--bundle=b", "--io-fds=3", &flag, "gofer"]);
            assert_eq!(options.text(name), b"gofer");
        }
    }

    #[test]
    fn values_are_checked_as_the_calling_runtime_checks_them() {
        let s = |word| fault(&[word, "gofer", "--bundle=b", "--io-fds=3"]);
        let l = |word| fault(&[word, "gofer", "--bundle=b", "--io-fds=3", "--spec-fd=4"]);
        assert_eq!(
            s("--platform=x"),
            (128, "invalid platform type \"x\"".into())
        );
        assert_eq!(l("--platform=x"), (128, "unknown platform: x".into()));
        assert_eq!(s("--network=x"), (128, "invalid network type \"x\"".into()));
        assert_eq!(
            l("--network=x"),
            (
                2,
                "invalid value \"x\" for flag -network: invalid network type \"x\"".into()
            )
        );
        assert_eq!(
            s("--file-access=x"),
            (128, "invalid file access type \"x\"".into())
        );
        assert_eq!(
            s("--watchdog-action=X"),
            (128, "invalid watchdog action \"X\"".into())
        );
        assert_eq!(l("--watchdog-action=Nothing").0, 2);
        assert_eq!(l("--host-uds=x").0, 2);
        assert_eq!(l("--gvisor-gro=1x").0, 2);
        let words = [
            "--overlay",
            "--file-access=shared",
            "gofer",
            "--bundle=b",
            "--io-fds=3",
        ];
        assert_eq!(
            fault(&words),
            (
                128,
                "overlay flag is incompatible with shared file access".into()
            )
        );
        serve(&[
            "--watchdog-action=LogWarning",
            "gofer",
            "--bundle=b",
            "--io-fds=3",
        ]);
        serve(&[
            "--gvisor-gro=1h2.5ms",
            "--host-uds=all",
            "--lisafs=false",
            "gofer",
            "--bundle=b",
            "--io-fds=3",
            "--spec-fd=4",
        ]);
    }

    #[test]
    fn more_io_fds_than_connections_are_refused() {
        let word = "--io-fds=3";
        let mut words = vec!["--bundle=b"];
        words.extend([word; CONNECTIONS]);
        assert_eq!(serve(&words).io_fds.len(), CONNECTIONS);
        words.push(word);
        assert_eq!(fault(&words).1, format!("more than {CONNECTIONS} --io-fds"));
    }

    #[test]
    fn integers_are_gos() {
        let value = |text: &str| integer(text.as_bytes()).and_then(signed).ok();
        for (text, wanted) in [
            ("0", Some(0)),
            ("-7", Some(-7)),
            ("+7", Some(7)),
            ("0x1F", Some(31)),
            ("010", Some(8)),
            ("0o17", Some(15)),
            ("0b101", Some(5)),
            ("0x_1f", Some(31)),
            ("0_7", Some(7)),
            ("1_0", None),
            ("08", None),
            ("", None),
            ("-", None),
            ("0x", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1 ", None),
            ("0x1_", None),
        ] {
            assert_eq!(value(text), wanted, "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for good in ["0", "-0", "1ns", "1.5h", ".5s", "1h2m3s", "1\u{b5}s"] {
            assert_eq!(duration(good.as_bytes()), Some(()), "{good}");
        }
        for bad in ["", "1", "s", ".s", "1.2.3s", "1x", "-", "1h2"] {
            assert_eq!(duration(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn help_and_version_win_over_what_is_missing() {
        assert_eq!(run(&["--help"]), Ok(Command::Help));
        assert_eq!(run(&["gofer", "-h"]), Ok(Command::Help));
        assert_eq!(run(&["--version"]), Ok(Command::Version));
        let help = crate::text::said(&Help);
        for flag in all(GOFER_FLAGS).chain(all(GLOBAL_FLAGS)) {
            assert!(
                help.as_bytes()
                    .windows(flag.name.len())
                    .any(|word| word == flag.name)
            );
        }
    }
}
