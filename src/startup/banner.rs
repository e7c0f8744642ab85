//! What the log is told before anything is done.

use gofer::cli::{Contract, Options};
use gofer::log::Log;
use gofer::text;
use gofer::text::Arg::{Flag, Number, Quoted, Said, Str};
use gofer::text::{Arg, Say, Sink, Text};

pub(crate) const VERSION: Arg<'static> = Str(env!("CARGO_PKG_VERSION"));

/// What the original says of itself first.
pub(crate) fn banner(options: &Options<'_>, words: &[&[u8]], log: &Log) {
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
    for name in options.skipped.iter() {
        log.warning(text!("Unknown flag is ignored: -%", Quoted(name)));
    }
}

/// Words with spaces between, as they are.
pub(crate) struct Listed<'a>(pub(crate) &'a [&'a [u8]]);

impl Say for Listed<'_> {
    fn say(&self, to: &mut dyn Sink) {
        for (at, word) in self.0.iter().enumerate() {
            to.put(if at > 0 { b" " } else { b"" });
            to.put(word);
        }
    }
}

/// Words with spaces between, escaped.
pub(crate) struct Words<'a>(&'a [&'a [u8]]);

impl Say for Words<'_> {
    fn say(&self, to: &mut dyn Sink) {
        for (at, word) in self.0.iter().enumerate() {
            to.put(if at > 0 { b" " } else { b"" });
            Quoted(word).say(to);
        }
    }
}
