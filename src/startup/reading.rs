//! The spec: found, read, told to the log.

use gofer::cli::Options;
use gofer::json::character;
use gofer::log::Log;
use gofer::sandbox::descriptors;
use gofer::spec::{Refusal, Spec};
use gofer::text;
use gofer::text::Arg::{Of, Quoted, Raw, Said};
use gofer::text::{Say, Sink};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::fatal::{Fatal, fatal, step};
use super::paths::{c_string, join};

/// `config.clean.json`, which a runtime writes for its gofer, or else `config.json`; in the later contract
/// what the descriptor leads to.
pub(crate) fn read_spec(
    options: &Options<'_>,
    fd: Option<OwnedFd>,
    log: &Log,
) -> Result<Spec, Fatal> {
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
            Raw(profile)
        ));
    }
    if spec.has_seccomp {
        log.warning(text!("Seccomp spec is being ignored"));
    }
    Ok(spec)
}

/// The spec as it was read, on one line: white space between its words is left out.
pub(crate) struct OneLine<'a>(&'a [u8]);

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
            while !rest.is_empty() {
                let (len, text) = match character(rest) {
                    Some((_, len)) => (len, rest.get(..len).unwrap_or_default()),
                    None => (1, "\u{fffd}".as_bytes()), // as it was read
                };
                to.put(text);
                rest = rest.get(len..).unwrap_or_default();
            }
        }
    }
}

pub(crate) fn spec_fault(path: &[u8], errno: Errno) -> Fatal {
    fatal(text!(
        "error opening spec: open %: %",
        Quoted(path),
        Of(errno)
    ))
}
