//! The command line: Go's flag syntax, the runtime's global flags, the gofer's own (gofer.md 1). Makes no system call.

use alloc::vec::Vec;
use core::fmt;

use crate::limits::CONNECTIONS;

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// `--bundle`.
    pub bundle: &'a [u8],
    /// `--io-fds`, in order.
    pub io_fds: Vec<i32>,
    /// `--apply-caps`.
    pub keep_all_capabilities: bool,
    /// `--panic-on-write`.
    pub panic_on_write: bool,
    /// `--log`; empty: standard error.
    pub log: &'a [u8],
    /// `--log-fd`, above -1 if given.
    pub log_fd: Option<i32>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Serve.
    Serve(Options<'a>),
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
}

/// Why the command line is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// Before the word `gofer`, where the runtime's own flags stand: exit code 2, not 128.
    pub is_global: bool,
    /// What is wrong.
    pub fault: Fault<'a>,
}

/// What is wrong with a command line; each text is Go's or the original's.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    /// Three dashes, or no name.
    Syntax(&'a [u8]),
    /// No such flag.
    Unknown(&'a [u8]),
    /// The command line ends behind a flag that takes a value.
    NoValue(&'static str),
    /// Not a boolean: value, flag.
    Bool(&'a [u8], &'static str),
    /// Not a value of the flag's type: value, flag, why.
    Value(&'a [u8], &'static str, &'static str),
    /// An io-fd below 0.
    NegativeFd(i64),
    /// A sub-command other than `gofer`.
    Command(&'a [u8]),
    /// `--bundle` is missing.
    NoBundle,
    /// `--io-fds` is missing.
    NoIoFds,
    /// More than [`CONNECTIONS`].
    ManyIoFds,
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(word) => write!(f, "bad flag syntax: {}", word.escape_ascii()),
            Self::Unknown(name) => {
                write!(f, "flag provided but not defined: -{}", name.escape_ascii())
            }
            Self::NoValue(name) => write!(f, "flag needs an argument: -{name}"),
            Self::Bool(value, name) => {
                let value = value.escape_ascii();
                write!(
                    f,
                    "invalid boolean value \"{value}\" for -{name}: parse error"
                )
            }
            Self::Value(value, name, why) => {
                write!(
                    f,
                    "invalid value \"{}\" for flag -{name}: {why}",
                    value.escape_ascii()
                )
            }
            Self::NegativeFd(number) => write!(
                f,
                "invalid value \"{number}\" for flag -io-fds: flag value must be greater than 0: {number}"
            ),
            Self::Command(word) => write!(
                f,
                "unknown sub-command \"{}\": only gofer is served",
                word.escape_ascii()
            ),
            Self::NoBundle => write!(f, "--bundle is missing"),
            Self::NoIoFds => write!(f, "--io-fds is missing"),
            Self::ManyIoFds => write!(f, "more than {CONNECTIONS} --io-fds"),
        }
    }
}

/// The type of a flag's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Bool,
    Int,
    Uint,
    Fds,
}

/// A flag: its name, its value's type, and what it does here (empty: accepted and not used).
pub struct Flag {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

const fn flag(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, kind, help }
}

const BUNDLE: &str = "bundle";
const IO_FDS: &str = "io-fds";
const APPLY_CAPS: &str = "apply-caps";
const PANIC_ON_WRITE: &str = "panic-on-write";
const LOG: &str = "log";
const LOG_FD: &str = "log-fd";

/// Flags of the sub-command `gofer` (gofer.md 1.2).
const GOFER_FLAGS: &[Flag] = &[
    flag(
        APPLY_CAPS,
        Kind::Bool,
        "keep six capabilities only (default true)",
    ),
    flag(
        BUNDLE,
        Kind::Text,
        "the bundle: a directory with config.clean.json or config.json",
    ),
    flag(
        IO_FDS,
        Kind::Fds,
        "a connected stream socket; once for the root and once for each bind mount",
    ),
    flag(
        PANIC_ON_WRITE,
        Kind::Bool,
        "tell of changes tried on read-only mounts (default false)",
    ),
];

/// Flags of the runtime itself, which stand before the word `gofer` (gofer.md 1.3).
const GLOBAL_FLAGS: &[Flag] = &[
    flag(
        LOG,
        Kind::Text,
        "log to this file (default: standard error)",
    ),
    flag(LOG_FD, Kind::Int, "log to this descriptor"),
    flag("root", Kind::Text, ""),
    flag("log-format", Kind::Text, ""),
    flag("debug", Kind::Bool, ""),
    flag("debug-log", Kind::Text, ""),
    flag("debug-log-fd", Kind::Int, ""),
    flag("debug-log-format", Kind::Text, ""),
    flag("log-packets", Kind::Bool, ""),
    flag("strace", Kind::Bool, ""),
    flag("strace-syscalls", Kind::Text, ""),
    flag("strace-log-size", Kind::Uint, ""),
    flag("platform", Kind::Text, ""),
    flag("network", Kind::Text, ""),
    flag("file-access", Kind::Text, ""),
    flag("overlay", Kind::Bool, ""),
    flag("watchdog-action", Kind::Text, ""),
    flag("panic-signal", Kind::Int, ""),
    flag("TESTONLY-unsafe-nonroot", Kind::Bool, ""),
];

/// Reads the words behind the program's name.
///
/// Two forms: `[global flags] gofer [flags]`, as a runtime calls it, and `[flags]` of both kinds
/// alone. In the first, flags of the gofer before the word are unknown, as in the original.
pub fn parse<'a>(
    words: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<Command<'a>, Refusal<'a>> {
    let mut options = Options::default();
    let mut parser = Parser {
        words: words.clone(),
    };
    match parser.flags(&[GLOBAL_FLAGS], &mut options) {
        Ok(Stop::Help) => return Ok(Command::Help),
        Ok(Stop::Version) => return Ok(Command::Version),
        Ok(Stop::Word(Some(b"gofer"))) => {
            let stop = parser.flags(&[GOFER_FLAGS], &mut options);
            return finish(stop, options);
        }
        Ok(Stop::Word(Some(word))) => {
            return Err(Refusal {
                is_global: false,
                fault: Fault::Command(word),
            });
        }
        // No sub-command: the short form, where a flag of the gofer's is met (or nothing at all).
        Ok(Stop::Word(None)) => {}
        Err(Fault::Unknown(name))
            if GOFER_FLAGS.iter().any(|flag| flag.name.as_bytes() == name) => {}
        Err(fault) => {
            return Err(Refusal {
                is_global: words.clone().any(|word| word == b"gofer"),
                fault,
            });
        }
    }
    let mut options = Options::default();
    let mut parser = Parser { words };
    let stop = parser.flags(&[GOFER_FLAGS, GLOBAL_FLAGS], &mut options);
    finish(stop, options)
}

fn finish<'a>(
    stop: Result<Stop<'a>, Fault<'a>>,
    options: Options<'a>,
) -> Result<Command<'a>, Refusal<'a>> {
    let fault = match stop {
        Ok(Stop::Help) => return Ok(Command::Help),
        Ok(Stop::Version) => return Ok(Command::Version),
        Err(fault) => fault,
        // Words behind the flags are ignored, as the original ignores them.
        Ok(Stop::Word(_)) if options.bundle.is_empty() => Fault::NoBundle,
        Ok(Stop::Word(_)) if options.io_fds.is_empty() => Fault::NoIoFds,
        Ok(Stop::Word(_)) => return Ok(Command::Serve(options)),
    };
    Err(Refusal {
        is_global: false,
        fault,
    })
}

struct Parser<I> {
    words: I,
}

/// Where a run of flags ended.
enum Stop<'a> {
    Word(Option<&'a [u8]>),
    Help,
    Version,
}

impl<'a, I: Iterator<Item = &'a [u8]> + Clone> Parser<I> {
    /// Takes flags up to the first word that is none, which is taken too.
    fn flags(
        &mut self,
        tables: &[&'static [Flag]],
        options: &mut Options<'a>,
    ) -> Result<Stop<'a>, Fault<'a>> {
        loop {
            let Some(word) = self.words.next() else {
                return Ok(Stop::Word(None));
            };
            let body = match word.strip_prefix(b"-") {
                None | Some(b"") => return Ok(Stop::Word(Some(word))),
                Some(b"-") => return Ok(Stop::Word(self.words.next())),
                Some(body) => body.strip_prefix(b"-").unwrap_or(body),
            };
            if body.starts_with(b"-") || body.starts_with(b"=") {
                return Err(Fault::Syntax(word));
            }
            let equals = body.iter().position(|&byte| byte == b'=');
            let (name, value) = match equals.and_then(|at| body.split_at_checked(at)) {
                Some((name, value)) => (name, Some(value.get(1..).unwrap_or_default())),
                None => (body, None),
            };
            match name {
                b"help" | b"h" => return Ok(Stop::Help),
                b"version" => return Ok(Stop::Version),
                _ => {}
            }
            let flag = tables
                .iter()
                .flat_map(|table| table.iter())
                .find(|flag| flag.name.as_bytes() == name)
                .ok_or(Fault::Unknown(name))?;
            let value = match value {
                Some(value) => value,
                None if flag.kind == Kind::Bool => b"true",
                None => self.words.next().ok_or(Fault::NoValue(flag.name))?,
            };
            set(options, flag, value)?;
        }
    }
}

fn set<'a>(
    options: &mut Options<'a>,
    flag: &'static Flag,
    value: &'a [u8],
) -> Result<(), Fault<'a>> {
    let invalid = |why| Fault::Value(value, flag.name, why);
    match flag.kind {
        Kind::Text => match flag.name {
            BUNDLE => options.bundle = value,
            LOG => options.log = value,
            _ => {}
        },
        Kind::Bool => {
            let on = boolean(value).ok_or(Fault::Bool(value, flag.name))?;
            match flag.name {
                APPLY_CAPS => options.keep_all_capabilities = !on,
                PANIC_ON_WRITE => options.panic_on_write = on,
                _ => {}
            }
        }
        Kind::Int => {
            let number = integer(value).ok_or(invalid("parse error"))?;
            if flag.name == LOG_FD {
                let fd = i32::try_from(number).map_err(|_| invalid("value out of range"))?;
                options.log_fd = Some(fd).filter(|&fd| fd > -1);
            }
        }
        Kind::Uint => {
            let number = integer(value).ok_or(invalid("parse error"))?;
            if number < 0 {
                return Err(invalid("parse error"));
            }
        }
        Kind::Fds => {
            let why = "invalid flag value: strconv.Atoi: parsing: invalid syntax";
            let number = decimal(value).ok_or(invalid(why))?;
            if number < 0 {
                return Err(Fault::NegativeFd(number));
            }
            let fd = i32::try_from(number).map_err(|_| invalid("value out of range"))?;
            if options.io_fds.len() == CONNECTIONS {
                return Err(Fault::ManyIoFds);
            }
            options.io_fds.push(fd);
        }
    }
    Ok(())
}

/// Go's strconv.ParseBool.
fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Some(false),
        _ => None,
    }
}

/// Go's strconv.Atoi: decimal, with a sign or without.
fn decimal(text: &[u8]) -> Option<i64> {
    let digits = text
        .strip_prefix(b"+")
        .or(text.strip_prefix(b"-"))
        .unwrap_or(text);
    magnitude(digits, 10).and_then(|value| signed(value, text.starts_with(b"-")))
}

/// Go's strconv.ParseInt with base 0: decimal, 0x, 0b, 0o or a leading 0 for octal, and `_` between digits.
fn integer(text: &[u8]) -> Option<i64> {
    let unsigned = text
        .strip_prefix(b"+")
        .or(text.strip_prefix(b"-"))
        .unwrap_or(text);
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
    let spans = digits.split(|&byte| byte == b'_');
    if separated && (!prefixed || spans.clone().any(<[u8]>::is_empty)) {
        return None; // Go takes `_` only behind a base prefix, and only between digits
    }
    let mut value = 0u64;
    for span in spans {
        for &byte in span {
            let digit = u64::from(char::from(byte).to_digit(base)?);
            value = value.checked_mul(u64::from(base))?.checked_add(digit)?;
        }
    }
    if digits.is_empty() {
        None
    } else {
        signed(value, text.starts_with(b"-"))
    }
}

fn magnitude(digits: &[u8], base: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = char::from(byte).to_digit(base)?;
        value
            .checked_mul(u64::from(base))?
            .checked_add(u64::from(digit))
    })
}

fn signed(value: u64, is_negative: bool) -> Option<i64> {
    if is_negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    }
}

/// The help text.
pub struct Help;

impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(concat!(
            "gofer ", env!("CARGO_PKG_VERSION"), ": serves a host's files to a sandboxed kernel, over 9P2000.L on inherited sockets\n",
            "\n",
            "usage: gofer --bundle DIR --io-fds N [--io-fds N ...] [flags]\n",
            "       ANY-NAME [global flags] gofer --bundle DIR --io-fds N [flags]\n",
            "\n",
            "Flags are Go's: one dash or two, `--name=value` or `--name value`, a bool alone or `=false`.\n",
        ))?;
        for (title, table) in [("flags", GOFER_FLAGS), ("global flags", GLOBAL_FLAGS)] {
            write!(f, "\n{title}:\n")?;
            for flag in table.iter().filter(|flag| !flag.help.is_empty()) {
                writeln!(f, "  --{:<16} {}", flag.name, flag.help)?;
            }
            let mut accepted = table.iter().filter(|flag| flag.help.is_empty()).peekable();
            if accepted.peek().is_some() {
                f.write_str("  accepted from a runtime and not used:")?;
                for flag in accepted {
                    write!(f, " {}", flag.name)?;
                }
                f.write_str("\n")?;
            }
        }
        f.write_str(concat!(
            "  --help             this text\n",
            "  --version          the version\n",
            "\n",
            "exit codes: 0 all connections ended; 128 start-up failed or a flag is wrong; 2 a global flag is wrong;\n",
            "            killed by SIGSYS: a system call outside the filter\n",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a>(words: &[&'a str]) -> Result<Command<'a>, Refusal<'a>> {
        let words: Vec<&'a [u8]> = words.iter().map(|word| word.as_bytes()).collect();
        parse(words.into_iter())
    }

    fn serve<'a>(words: &[&'a str]) -> Options<'a> {
        match run(words) {
            Ok(Command::Serve(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    fn fault<'a>(words: &[&'a str]) -> (bool, String) {
        match run(words) {
            Err(Refusal { is_global, fault }) => (is_global, fault.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let short = serve(&["--bundle", "/b", "-io-fds=3", "--io-fds", "4", "--log="]);
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
        assert_eq!(short, long);
        assert_eq!(
            (short.bundle, short.io_fds.as_slice()),
            (&b"/b"[..], &[3, 4][..])
        );
        assert!(!short.keep_all_capabilities && !short.panic_on_write);
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
            (options.bundle, options.io_fds.as_slice()),
            (&b"--io-fds"[..], &[5][..])
        );
        assert!(options.keep_all_capabilities && options.panic_on_write);
        // `false` ends the flags, so what is behind it is not read.
        let options = serve(&[
            "gofer",
            "--bundle=b",
            "--io-fds=3",
            "--panic-on-write",
            "false",
            "--apply-caps=false",
        ]);
        assert!(options.panic_on_write && !options.keep_all_capabilities);
    }

    #[test]
    fn flags_end_at_a_lone_dash_two_dashes_and_a_word() {
        for end in ["-", "--", "word"] {
            let options = serve(&["gofer", "--bundle=b", "--io-fds=3", end, "--io-fds=4"]);
            assert_eq!(options.io_fds, [3]);
        }
    }

    #[test]
    fn faults_have_gos_words_and_know_where_they_stand() {
        let gofer = |word| fault(&["gofer", "--bundle=b", "--io-fds=3", word]);
        assert_eq!(
            gofer("--nope=1"),
            (false, "flag provided but not defined: -nope".into())
        );
        assert_eq!(
            gofer("---bundle"),
            (false, "bad flag syntax: ---bundle".into())
        );
        assert_eq!(gofer("-=x"), (false, "bad flag syntax: -=x".into()));
        assert_eq!(
            gofer("--bundle"),
            (false, "flag needs an argument: -bundle".into())
        );
        assert_eq!(
            gofer("--io-fds=3,4").1,
            "invalid value \"3,4\" for flag -io-fds: invalid flag value: strconv.Atoi: parsing: invalid syntax"
        );
        assert_eq!(
            gofer("--io-fds=-1").1,
            "invalid value \"-1\" for flag -io-fds: flag value must be greater than 0: -1"
        );
        assert_eq!(
            fault(&["--nope", "gofer"]),
            (true, "flag provided but not defined: -nope".into())
        );
        assert_eq!(
            fault(&["--debug=maybe", "gofer"]).1,
            "invalid boolean value \"maybe\" for -debug: parse error"
        );
        assert_eq!(
            fault(&["run", "x"]),
            (
                false,
                "unknown sub-command \"run\": only gofer is served".into()
            )
        );
        assert_eq!(fault(&["gofer", "--io-fds=3"]).1, "--bundle is missing");
        assert_eq!(fault(&["gofer", "--bundle=b"]).1, "--io-fds is missing");
        assert_eq!(fault(&[]).1, "--bundle is missing");
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
        for (text, value) in [
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
        ] {
            assert_eq!(integer(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn help_and_version_win_over_what_is_missing() {
        assert_eq!(run(&["--help"]), Ok(Command::Help));
        assert_eq!(run(&["gofer", "-h"]), Ok(Command::Help));
        assert_eq!(run(&["--version"]), Ok(Command::Version));
        let help = Help.to_string();
        for flag in GOFER_FLAGS.iter().chain(GLOBAL_FLAGS) {
            assert!(help.contains(flag.name), "{}", flag.name);
        }
    }
}
