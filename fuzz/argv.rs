//! Words with NULs between them to the command line's parser, to what it keeps, and to a flag that the spec
//! overrides.
#![cfg_attr(fuzzing, no_main)]

use gofer::cli::{Command, Options, parse};
use gofer::limits::CONNECTIONS;
use gofer::sys::arena::c_path;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    run(bytes);
    // SAFETY: what the run took, it has forgotten.
    unsafe { gofer::sys::arena::take_back() };
});

/// Memory that a command line may take, for each byte of it; nothing of it is given back.
const MEMORY_PER_BYTE: usize = 512;

/// One run. A last word with a `=` is an annotation's flag and value.
pub(crate) fn run(bytes: &[u8]) {
    let mut words: Vec<&[u8]> = bytes.split(|&byte| byte == 0).collect();
    let last = words.last().copied().unwrap_or_default();
    let annotation = last
        .iter()
        .position(|&byte| byte == b'=')
        .map(|at| (&last[..at], &last[at + 1..]));
    if annotation.is_some() {
        words.pop();
    }
    let before = c_path(b"").expect("a path").as_ptr().addr();
    let first = parse(words.iter().copied(), &mut Options::default());
    let second = parse(words.iter().copied(), &mut Options::default());
    assert_eq!(first, second, "two answers to one command line");
    match first {
        Err(refusal) => {
            assert!([2, 128].contains(&refusal.status), "{refusal:?}");
            check_text(refusal.text);
        }
        Ok(Command::Help | Command::Version) => {}
        Ok(Command::Serve(mut options)) => {
            assert!(!options.io_fds.is_empty() && !options.text("bundle").is_empty());
            check(&options);
            if let Some((name, value)) = annotation {
                match options.override_by(name, value) {
                    Ok(()) => check(&options),
                    Err(text) => check_text(text),
                }
            }
        }
    }
    let taken = c_path(b"").expect("a path").as_ptr().addr() - before;
    let most = 4096 + bytes.len() * MEMORY_PER_BYTE;
    assert!(
        taken <= most,
        "{taken} bytes of memory for {} of words",
        bytes.len()
    );
}

/// It is told on one line.
fn check_text(text: &[u8]) {
    assert!(
        !text.is_empty() && !text.contains(&b'\n'),
        "{}",
        text.escape_ascii()
    );
}

/// What start-up asks of the options.
fn check(options: &Options<'_>) {
    let fds = &options.io_fds;
    assert!(
        fds.len() <= CONNECTIONS && fds.iter().all(|&fd| fd >= 0),
        "{options:?}"
    );
    let _told = (
        options.names_descriptor(3),
        options.is_debug(),
        options.contract(),
    );
    for name in
        "bundle log log-fd debug-log spec-fd fdlimit overlay2 host-uds lisafs none".split(' ')
    {
        let _values = (
            options.text(name),
            options.number(name),
            options.size(name),
            options.flag(name),
        );
    }
}
