//! Specs, odd and hostile ones, read by our reader and by Go's encoding/json, which the sandbox reads the same
//! file by: the mounts that are served, or the refusal, must be the same. Go's side is `main.go`, built by the
//! machine's Go; what it makes equal before comparing is told there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod go;
mod odd;

use go::{ask, bundle, compare};
use gofer::spec::SCHEMA;
use harness::Launch;
use kit::harness;
use std::collections::{BTreeMap, BTreeSet};

/// A spec as a runtime writes one, with every structure of the OCI's in it.
const REAL: &str = include_str!("config.json");
/// A spec that is accepted, but for its end.
const BEGUN: &str = r#"{"process":{"args":["x"]},"root":{"path":"r"},"mounts":[{"destination":"/a","type":"bind","source":"/s","options":["ro"]}],"#;

// ---- the table of types ---------------------------------------------------------------------

#[test]
fn the_table_has_the_types_that_go_reads_the_fields_that_decide_something_into() {
    let told = ask(&[""; 0]);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (mine, go) = (lines(SCHEMA), lines(&told.schema));
    let only = |one: &BTreeSet<String>, other| one.difference(other).cloned().collect::<Vec<_>>();
    assert_eq!((only(&mine, &go), only(&go, &mine)), (vec![], vec![]));
}

/// What may stand in a field's place.
const VALUES: &[&str] = &[
    "null",
    "true",
    "\"\"",
    "\"x\"",
    "\"5\"",
    "{}",
    "[]",
    "{\"x\":null}",
    "{\"x\":\"y\"}",
    "{\"x\":5}",
    "{\"x\":{}}",
    "[null]",
    "[\"x\"]",
    "[\"x\",5]",
    "[5]",
    "[{}]",
    "[[]]",
    "[true]",
    "0",
    "-0",
    "-1",
    "7",
    "1.0",
    "1.5",
    "1e2",
    "1E+2",
    "1e400",
    "65535",
    "65536",
    "-32769",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
];

/// The text around a value of each field, through every structure once: before it, and behind it.
fn fields() -> Vec<(String, String)> {
    let structures: BTreeMap<&str, &str> = SCHEMA
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let mut seen = BTreeSet::new();
    let mut fields = Vec::new();
    let mut left = vec![("Spec", String::new(), String::new())];
    while let Some((name, before, behind)) = left.pop() {
        if !seen.insert(name) {
            continue;
        }
        for field in structures[name].split(' ') {
            let (key, kind) = field.split_once(':').expect("a key and a type");
            let (mut before, mut behind) = (format!("{before}\"{key}\":"), behind.clone());
            fields.push((before.clone(), behind.clone()));
            let mut inner = kind;
            while let Some(rest) = inner.strip_prefix(['*', '[', '{']) {
                let (open, close) = match inner.as_bytes()[0] {
                    b'[' => ("[", "]"),
                    b'{' => ("{\"x\":", "}"),
                    _ => ("", ""),
                };
                before.push_str(open);
                behind.insert_str(0, close);
                inner = rest;
            }
            if structures.contains_key(inner) {
                left.push((inner, format!("{before}{{"), format!("}}{behind}")));
            }
        }
    }
    fields
}

#[test]
fn every_field_takes_and_refuses_what_it_does_in_go() {
    let mut specs = Vec::new();
    for (before, behind) in fields() {
        specs.extend(
            VALUES
                .iter()
                .map(|value| format!("{BEGUN}{before}{value}{behind}}}")),
        );
        // Taken away again, and the other way round.
        specs.push(format!("{BEGUN}{before}null{behind},{before}5{behind}}}"));
        specs.push(format!("{BEGUN}{before}5{behind},{before}null{behind}}}"));
        specs.push(format!("{BEGUN}{}{{}}{behind}}}", before.to_uppercase()));
    }
    let tally = compare(&specs);
    assert!(tally.accepted > 100 && tally.mismatch > 500, "{tally:?}");
}

// ---- odd ones -------------------------------------------------------------------------------

#[test]
fn odd_and_hostile_specs_are_read_as_go_reads_them() {
    let specs = odd::specs();
    let distinct: BTreeSet<&[u8]> = specs.iter().map(Vec::as_slice).collect();
    assert!(
        distinct.len() >= 200 && distinct.len() == specs.len(),
        "{}",
        distinct.len()
    );
    let tally = compare(&specs);
    let least = [tally.accepted, tally.no_json, tally.mismatch, tally.invalid];
    assert!(least.iter().all(|count| *count >= 10), "{tally:?}");
}

#[test]
fn a_real_spec_cut_off_anywhere_is_refused_as_by_go() {
    let whole = REAL.trim_end().as_bytes();
    let cut: Vec<&[u8]> = (0..=whole.len()).map(|end| &whole[..end]).collect();
    let tally = compare(&cut);
    assert_eq!(
        (tally.accepted, tally.no_json),
        (1, whole.len()),
        "{tally:?}"
    );
}

#[test]
fn a_real_spec_with_any_byte_replaced_is_read_as_by_go() {
    let whole = REAL.as_bytes();
    let specs: Vec<Vec<u8>> = (0..whole.len())
        .map(|at| {
            let mut text = whole.to_vec();
            text[at] = [0, 0xff, b'"', b'\\', b'{', b'0', b'K', b',', 0x7f, 0xc2][at % 10];
            text
        })
        .collect();
    let tally = compare(&specs);
    assert!(tally.accepted > 100 && tally.no_json > 100, "{tally:?}");
}

// ---- random ones ----------------------------------------------------------------------------

/// A small generator of pseudo-random numbers: the same ones in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn choose<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// Where the values of a document are.
fn values(text: &[u8]) -> Vec<(usize, usize)> {
    let (mut spans, mut open) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < text.len() {
        let start = at;
        at += 1;
        match text[start] {
            b'{' | b'[' => open.push(start),
            b'}' | b']' => spans.extend(open.pop().map(|start| (start, at))),
            b'"' => {
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(text.len());
                if text.get(at) != Some(&b':') {
                    spans.push((start, at));
                }
            }
            b' ' | b'\n' | b',' | b':' => {}
            _ => {
                while at < text.len() && !b",]} \n".contains(&text[at]) {
                    at += 1;
                }
                spans.push((start, at));
            }
        }
    }
    spans
}

/// Pieces that change what a document means, or whether it is one.
const PIECES: &[&str] = &[
    "null",
    "[]",
    "{}",
    "[null]",
    "[{}]",
    "true",
    "-0",
    "1e2",
    "\"ro\"",
    "\"bind\"",
    "\"/a\"",
    "\"\\ud83d\"",
    "{\"destination\":\"/n\"}",
    "[{\"source\":\"/t\"},{\"destination\":\"/u\"}]",
    "[{\"options\":[\"ro\"]},null]",
];
const MEMBERS: &[&str] = &[
    "\"mounts\":null,",
    "\"mounts\":[],",
    "\"MOUNT\u{17f}\":[{},{}],",
    "\"mounts\":[{\"type\":\"bind\"}],",
    "\"root\":null,",
    "\"Root\":{\"path\":\"/q\"},",
    "\"linux\":null,",
    "\"linux\":{\"seccomp\":{}},",
    "\"process\":{\"args\":[\"z\"]},",
    "\"process\":null,",
    "\"annotations\":null,",
    "\"options\":null,",
    "\"options\":[null,\"ro\"],",
    "\"options\":[],",
    "\"source\":\"/w\",",
    "\"type\":\"bind\",",
    "\"path\":\"\",",
    "\"readonly\":false,",
    "\"solaris\":{},",
    "\"windows\":null,",
    "\"seccomp\":null,",
    "\"args\":[],",
    "\"destination\":\"/dev/../dev/pts/1\",",
    "\"io.kubernetes.cri.container-type\":\"sandbox\",",
    "\"mounts\":[{\"destination\":\"/1\",\"type\":\"bind\",\"source\":\"s\",\"options\":[\"a\",\"b\",\"ro\"]},{\"destination\":\"/2\",\"type\":\"bind\",\"source\":\"s\"},{\"destination\":\"/3\",\"type\":\"bind\",\"source\":\"s\"}],",
];
const BYTES: &[u8] = b"{}[],:\"\\u0e-.19tnfalse \n\x00\x7f\x80\xc3\xe2\xff'/KS";

fn mutated(random: &mut Random) -> Vec<u8> {
    let mut text = match random.below(2) {
        0 => REAL.as_bytes().to_vec(),
        _ => format!("{BEGUN}\"annotations\":{{\"a\":\"b\"}},\"linux\":{{\"seccomp\":null}}}}")
            .into_bytes(),
    };
    for _ in 0..1 + random.below(4) {
        let spans = values(&text);
        if spans.is_empty() {
            break;
        }
        let (start, end) = spans[random.below(spans.len())];
        let (from, to) = spans[random.below(spans.len())];
        match random.below(10) {
            // A value in another's place.
            0 => drop(text.splice(start..end, text[from..to].to_vec())),
            1 => drop(text.splice(start..end, random.choose(PIECES).bytes())),
            // A member more, before all or behind all, so that it comes first or last.
            2..=7 if text[start] == b'{' => {
                let member = random.choose(MEMBERS);
                match random.below(2) {
                    0 if end - start > 2 => drop(text.splice(start + 1..=start, member.bytes())),
                    _ if end - start > 2 && text[end - 1] == b'}' => {
                        let member = format!(",{}", member.trim_end_matches(','));
                        text.splice(end - 1..end - 1, member.bytes());
                    }
                    _ => {}
                }
            }
            2..=7 if text[start] == b'[' => {
                text.splice(start..end, random.choose(PIECES).bytes());
            }
            8 => text.insert(random.below(text.len()), BYTES[random.below(BYTES.len())]),
            9 => text[start] = BYTES[random.below(BYTES.len())],
            _ => {}
        }
    }
    text
}

#[test]
fn random_changes_of_a_real_spec_are_read_as_by_go() {
    let count =
        std::env::var("GOFER_SPECS").map_or(6_000, |count| count.parse().expect("a number"));
    let seed = std::env::var("GOFER_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut random = Random(seed);
    let specs: Vec<Vec<u8>> = (0..count).map(|_| mutated(&mut random)).collect();
    let tally = compare(&specs);
    let least = [tally.accepted, tally.no_json, tally.mismatch, tally.invalid];
    assert!(least.iter().all(|part| *part >= count / 50), "{tally:?}");
}

// ---- giants, by the program itself ----------------------------------------------------------

/// What the program says of a spec: the mounts that it serves, or why it ends.
#[track_caller]
fn program_agrees(spec: &[u8]) {
    let go = &ask(&[spec]).answers[0];
    let bundle = bundle(spec);
    let mounts = go["mounts"].as_array().cloned().unwrap_or_default();
    let mut gofer = Launch::new(bundle.path(), 1 + mounts.len()).start();
    gofer.sockets.clear();
    let exit = gofer.exit();
    let refusal = go["refusal"].as_str().unwrap();
    if !refusal.is_empty() {
        exit.expect_fatal(&format!("{refusal}\n"));
        return;
    }
    let wanted: Vec<String> = mounts
        .iter()
        .zip(4..)
        .map(|(mount, fd)| {
            let (destination, read_only) =
                (mount["destination"].as_str().unwrap(), &mount["read_only"]);
            format!("Serving \"{destination}\" mapped on FD {fd} (ro: {read_only})")
        })
        .collect();
    let served: Vec<&str> = exit
        .stderr
        .lines()
        .filter_map(|line| line.split_once("x:0] ").map(|(_, text)| text))
        .filter(|text| text.starts_with("Serving \"") && !text.starts_with("Serving \"/\" "))
        .collect();
    assert_eq!(served, wanted);
    assert_eq!(go["count"].as_u64(), u64::try_from(wanted.len()).ok());
    assert_eq!(exit.code, Some(0));
}

#[test]
fn a_hundred_megabytes_of_annotations_are_read_as_by_go() {
    let annotation = format!("\"{}\":\"{}\",", "k".repeat(40), "\\u00e9".repeat(1_000));
    let many = annotation.repeat(100_000_000 / annotation.len());
    let one = "x".repeat(100_000_000);
    let begun = BEGUN.replace("\"r\"", "\"/\"");
    program_agrees(format!("{begun}\"annotations\":{{{many}\"last\":\"{one}\"}}}}").as_bytes());
}

#[test]
fn a_million_mounts_are_read_as_by_go() {
    let mount = r#"{"destination":"/p","type":"proc","source":"proc"},"#.repeat(999_998);
    let begun = r#"{"process":{"args":["x"]},"root":{"path":"/"},"mounts":["#;
    let served = r#"{"destination":"/one","type":"bind","source":"/","options":["ro"]}"#;
    program_agrees(format!("{begun}{served},{mount}{served}]}}").as_bytes());
    // As little text as a mount can have, and no memory but its own.
    for least in ["{},", "null,"] {
        program_agrees(format!("{begun}{}{{}}]}}", least.repeat(999_999)).as_bytes());
    }
    let options = "\"\",".repeat(1_000_000);
    program_agrees(
        format!("{begun}{{\"destination\":\"/\",\"options\":[{options}\"\"]}}]}}").as_bytes(),
    );
}

#[test]
fn brackets_a_hundred_thousand_deep_are_refused_as_by_go() {
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat(100_000);
        program_agrees(deep.as_bytes());
        program_agrees(format!("{BEGUN}\"x\":{deep}").as_bytes());
    }
    for depth in [9_999, 10_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        program_agrees(
            format!("{}\"x\":{open}{close}}}", BEGUN.replace("\"r\"", "\"/\"")).as_bytes(),
        );
    }
}
