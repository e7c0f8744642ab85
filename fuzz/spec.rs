//! Bytes to the JSON reader, to the spec's checks, and to all that start-up makes of a spec.
#![cfg_attr(fuzzing, no_main)]

use gofer::cli::Options;
use gofer::json::{DEPTH, Event, Reader};
use gofer::mounts;
use gofer::spec::{Refusal, Spec};
use gofer::sys::arena::{List, c_path};
use gofer::text::Say;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    run(bytes);
    // SAFETY: what the run took, it has forgotten.
    unsafe { gofer::sys::arena::take_back() };
});

/// Memory that a spec may take, for each byte of it; nothing of it is given back.
const MEMORY_PER_BYTE: usize = 512;

/// One run.
pub(crate) fn run(bytes: &[u8]) {
    let before = c_path(b"").expect("a path").as_ptr().addr();
    let is_json = read(bytes);
    let spec = Spec::read(bytes);
    assert_eq!(
        is_json,
        !matches!(spec, Err(Refusal::NotJson(_))),
        "the reader and the spec do not agree on what is JSON"
    );
    compare(bytes, is_json);
    match spec {
        Ok(mut spec) => use_it(&mut spec),
        Err(refusal) => {
            let mut text = List::<u8>::new();
            refusal.say(&mut text);
            assert!(!text.is_empty());
        }
    }
    let taken = c_path(b"").expect("a path").as_ptr().addr() - before;
    let most = (64 << 10) + bytes.len() * MEMORY_PER_BYTE;
    assert!(
        taken <= most,
        "{taken} bytes of memory for {} of a spec",
        bytes.len()
    );
}

/// Reads the whole document. Whether it is one.
fn read(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    let (mut depth, mut events) = (0usize, 0usize);
    loop {
        let event = match reader.next() {
            Ok(Some(event)) => event,
            Ok(None) => break,
            Err(fault) => {
                let mut text = List::<u8>::new();
                fault.say(&mut text);
                assert!(!text.is_empty());
                return false;
            }
        };
        events += 1;
        match event {
            Event::Object | Event::Array => depth += 1,
            Event::End => depth -= 1,
            Event::Key(text) | Event::String(text) => {
                let kept = text.kept();
                assert!(std::str::from_utf8(kept).is_ok(), "text that is not mended");
                assert_eq!(text.chars().map(char::len_utf8).sum::<usize>(), kept.len());
            }
            Event::Number(number) => assert!(!number.is_empty()),
            Event::Bool(_) | Event::Null => {}
        }
        assert!(
            depth <= DEPTH && events <= bytes.len(),
            "more than there is"
        );
    }
    assert_eq!(depth, 0);
    true
}

/// Another reader of JSON, which is stricter than Go's only about text, deep nesting and large numbers.
fn compare(bytes: &[u8], is_json: bool) {
    let other: Result<serde_json::Value, _> = serde_json::from_slice(bytes);
    match other {
        Ok(_) => assert!(is_json, "JSON is refused"),
        Err(error) => {
            let text = error.to_string();
            let is_stricter = [
                "recursion",
                "out of range",
                "surrogate",
                "unicode",
                "hex escape",
            ];
            let is_fault = !is_stricter.iter().any(|what| text.contains(what));
            assert!(!is_json || !is_fault, "{text}: yet it is taken");
        }
    }
}

/// What start-up makes of a spec.
fn use_it(spec: &mut Spec) {
    assert!(!spec.root_path.is_empty());
    let served = spec.served().count();
    for connections in [served, served + 1, usize::MAX] {
        spec.serve_by_later_rules(connections);
        assert!(spec.served().count() >= served, "a later rule serves less");
    }
    let _flags = mounts::root_flags(spec.propagation);
    let mut entries = List::<u8>::new();
    for mount in spec.mounts.iter() {
        assert!(mount.destination.starts_with(b"/"));
        assert_eq!(mount.read_only, mount.options.contains(&&b"ro"[..]));
        let _flags = mounts::flags(mount.options);
        mounts::entry(&mut entries, mount, mount.destination, mount.source, true);
    }
    if !entries.is_empty() {
        entries.push(b']');
        let list: serde_json::Value =
            serde_json::from_slice(&entries).expect("the mount list is JSON");
        assert_eq!(list.as_array().map(Vec::len), Some(spec.mounts.len()));
    }
    let mut options = Options::default();
    for (name, value) in spec.overrides.iter() {
        let _taken = options.override_by(name, value);
    }
}
