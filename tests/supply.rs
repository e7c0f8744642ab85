//! What the program is made of: its packages, where they come from and what they may do, and that
//! the same source gives the same bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use harness::TempDir;
use kit::harness;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Licences of the program's packages; of a choice one must be here.
const PROGRAM_LICENCES: &[&str] = &["Apache-2.0", "MIT"];
/// Those of the tests' packages, which nobody is given as a binary.
const TEST_LICENCES: &[&str] = &["Apache-2.0", "MIT", "Unicode-3.0", "Zlib"];

fn package_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the cargo that runs us, without the network: what the tests are built of is there.
#[track_caller]
fn cargo(dir: &Path, words: &[&str], target_dir: Option<&Path>) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(words).current_dir(dir).stdin(Stdio::null());
    if let Some(target_dir) = target_dir {
        command.env("CARGO_TARGET_DIR", target_dir);
    }
    let output = command.output().expect("start cargo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

// ---- Cargo.lock ----

/// The packages of Cargo.lock, each with its keys of one line.
fn locked() -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(package_root().join("Cargo.lock")).unwrap();
    let keys = |part: &str| {
        part.lines()
            .filter_map(|line| line.split_once(" = \""))
            .map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned()))
            .collect()
    };
    text.split("[[package]]").skip(1).map(keys).collect()
}

#[test]
fn packages_come_from_one_registry_with_a_checksum() {
    let packages = locked();
    assert!(packages.len() > 1, "{packages:?}");
    let mut sources = BTreeSet::new();
    for package in packages {
        if [env!("CARGO_PKG_NAME"), "kit"].contains(&&*package["name"]) {
            assert!(!package.contains_key("source"), "{package:?}");
            continue;
        }
        let source = package.get("source").map_or("", String::as_str);
        assert!(source.starts_with("registry+https://"), "{package:?}");
        sources.insert(source.to_owned());
        let checksum = package.get("checksum").map_or(0, String::len);
        assert_eq!(checksum, 64, "{package:?}");
    }
    assert_eq!(sources.len(), 1, "{sources:?}");
}

#[test]
fn packages_are_there_in_one_version_each() {
    let mut seen = BTreeMap::new();
    for package in locked() {
        let (name, version) = (package["name"].clone(), package["version"].clone());
        if let Some(other) = seen.insert(name.clone(), version.clone()) {
            panic!("{name} in the versions {other} and {version}");
        }
    }
}

// ---- what cargo knows of the packages that are compiled here ----

struct Package {
    name: String,
    version: String,
    licence: String,
    /// Has a build script or is a macro: it runs while building.
    runs: bool,
    dir: PathBuf,
}

/// The packages compiled into the program (or run to build it), and those only the tests need.
fn packages() -> (Vec<Package>, Vec<Package>) {
    let host = cargo(package_root(), &["-vV"], None);
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let words = [
        "metadata",
        "--locked",
        "--offline",
        "--format-version=1",
        "--filter-platform",
        host.unwrap(),
    ];
    let all: Value = serde_json::from_str(&cargo(package_root(), &words, None)).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();

    let needs: BTreeMap<String, Vec<String>> = list(&all["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let kept = list(&node["deps"])
                .into_iter()
                .filter(|dep| list(&dep["dep_kinds"]).iter().any(|k| k["kind"] != "dev"));
            (text(&node["id"]), kept.map(|d| text(&d["pkg"])).collect())
        })
        .collect();
    let own = text(&all["resolve"]["root"]);
    let (mut of_program, mut left) = (BTreeSet::new(), vec![own.clone()]);
    while let Some(id) = left.pop() {
        if of_program.insert(id.clone()) {
            left.extend_from_slice(&needs[&id]);
        }
    }

    let (mut program, mut tests) = (Vec::new(), Vec::new());
    for package in list(&all["packages"]) {
        let id = text(&package["id"]);
        if id == own {
            continue;
        }
        let kinds = list(&package["targets"])
            .into_iter()
            .flat_map(|target| list(&target["kind"]));
        let mut kinds = kinds.map(|kind| text(&kind));
        let found = Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            runs: kinds.any(|kind| kind == "custom-build" || kind == "proc-macro"),
            dir: Path::new(&text(&package["manifest_path"]))
                .parent()
                .unwrap()
                .to_owned(),
        };
        if of_program.contains(&id) {
            program.push(found);
        } else {
            tests.push(found);
        }
    }
    (program, tests)
}

/// Whether an SPDX expression can be met by the `allowed` licences. An exception (`WITH`) only adds
/// rights, but is a licence of its own: it counts if it is listed whole.
fn permits(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let spaced = spaced.replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(&word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if word == "(" {
        let met = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    let mut licence = word.to_owned();
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        licence = format!("{licence} WITH {exception}");
        *at += 2;
    }
    allowed.contains(&licence.as_str())
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    let allowed = &["MIT", "Zlib"];
    for good in [
        "MIT",
        "GPL-2.0 OR MIT",
        "GPL-2.0/MIT",
        "(A OR Zlib) AND MIT",
    ] {
        assert!(permits(good, allowed), "{good}");
    }
    let bad = [
        "",
        "GPL-2.0",
        "MIT AND GPL-2.0",
        "A OR MIT AND B",
        "MIT WITH X",
        "(MIT",
        "MIT Zlib",
    ];
    for bad in bad {
        assert!(!permits(bad, allowed), "{bad}");
    }
}

/// Packages that Cargo.lock holds for other systems or features are not compiled, and not looked at.
#[test]
fn licences_are_in_the_list() {
    let (program, tests) = packages();
    for (group, allowed) in [(program, PROGRAM_LICENCES), (tests, TEST_LICENCES)] {
        assert!(!group.is_empty());
        for package in group {
            let licence = &package.licence;
            assert!(permits(licence, allowed), "{}: {licence:?}", package.name);
        }
    }
}

// ---- the tables of SECURITY.md ----

/// Calls `look` with each line of Rust below `dir`.
fn each_line(dir: &Path, look: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_line(&path, look);
        } else if path.extension() == Some(OsStr::new("rs")) {
            let text = fs::read_to_string(&path).unwrap();
            text.lines().for_each(|line| look(&path, line));
        }
    }
}

fn has_word(line: &str, word: &str) -> bool {
    !line.trim_start().starts_with("//")
        && line
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|found| found == word)
}

/// The part "Packages" of SECURITY.md.
fn packages_of_the_document() -> String {
    let text = fs::read_to_string(package_root().join("SECURITY.md")).unwrap();
    text.split_once("\n## Packages\n").unwrap().1.to_owned()
}

#[test]
fn packages_of_the_program_are_those_in_the_table() {
    let document = packages_of_the_document();
    let yes_or_no = |cell: &str| match cell.split([':', ' ']).next() {
        Some("yes") => true,
        Some("no") => false,
        _ => panic!("neither yes nor no: {cell}"),
    };
    let mut stated = BTreeSet::new();
    for line in document
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, version, has_unsafe, runs] = cells[..] else {
            panic!("not four cells: {line}");
        };
        let row = (
            name.to_owned(),
            version.to_owned(),
            yes_or_no(has_unsafe),
            yes_or_no(runs),
        );
        stated.insert(row);
    }

    let mut found = BTreeSet::new();
    for package in packages().0 {
        let (mut has_unsafe, mut forbids) = (false, false);
        each_line(&package.dir.join("src"), &mut |path, line| {
            has_unsafe |= has_word(line, "unsafe");
            forbids |= path.ends_with("src/lib.rs")
                && line.starts_with("#![")
                && line.contains("forbid(unsafe_code)");
        });
        // What stands in macros for others to use is theirs.
        let has_unsafe = has_unsafe && !forbids;
        found.insert((package.name, package.version, has_unsafe, package.runs));
    }
    assert_eq!(
        found, stated,
        "(name, version, unsafe, runs while building)"
    );
}

#[test]
fn packages_of_the_tests_that_run_while_building_are_those_named() {
    let document = packages_of_the_document();
    let document = document.replace('\n', " ");
    let (_, list) = document.split_once("build scripts of ").unwrap();
    let (list, _) = list.split_once(". ").unwrap();
    let stated: BTreeSet<String> = list
        .split([',', ';'])
        .map(|part| part.trim().trim_start_matches("macros of ").to_owned())
        .collect();
    let running = packages().1.into_iter().filter(|package| package.runs);
    let found: BTreeSet<String> = running.map(|package| package.name).collect();
    assert_eq!(found, stated);
}

/// The lint is what forbids it elsewhere: nothing outside may turn it off.
#[test]
fn unsafe_code_is_allowed_in_src_sys_alone() {
    let manifest = fs::read_to_string(package_root().join("Cargo.toml")).unwrap();
    let denied = |line: &str| line.starts_with("unsafe_code = \"deny\"");
    assert!(manifest.lines().any(denied));
    let src = package_root().join("src");
    let (mut inside, mut outside) = (0, Vec::new());
    each_line(&src, &mut |path, line| {
        if has_word(line, "unsafe_code") {
            if path.starts_with(src.join("sys")) {
                inside += 1;
            } else {
                outside.push(format!("{}: {line}", path.display()));
            }
        }
    });
    assert!(outside.is_empty(), "{outside:#?}");
    assert!(inside > 0, "the room with unsafe code has moved");
}

// ---- two builds ----

/// Builds the program as `build.sh` does and returns its bytes.
#[track_caller]
fn build(dir: &Path, target_dir: Option<&Path>) -> Vec<u8> {
    let words = [
        "build",
        "--locked",
        "--offline",
        "--release",
        "--bin=gofer",
        "--message-format=json",
    ];
    let messages = cargo(dir, &words, target_dir);
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).unwrap();
        message["executable"].as_str().map(PathBuf::from)
    });
    fs::read(program.expect("cargo names the program")).unwrap()
}

/// The second folder holds what a build needs and no more: another place, another target directory.
#[test]
fn two_builds_in_two_folders_give_the_same_bytes() {
    let own = TempDir::new();
    let copy = own.path().join("a folder of another name");
    fs::create_dir(&copy).unwrap();
    // Cargo reads the manifests of what the tests need too.
    let copied = Command::new("cp")
        .current_dir(package_root())
        .args(["-R", "--parents", "src", ".cargo", "tests/kit"])
        .args(["Cargo.toml", "Cargo.lock"])
        .arg(&copy)
        .status()
        .unwrap();
    assert!(copied.success());

    let here = build(package_root(), None);
    let there = build(&copy, Some(&own.path().join("target")));

    let differs = here.iter().zip(&there).position(|(a, b)| a != b);
    assert_eq!((here.len(), differs), (there.len(), None));
    // Of the machine it holds nothing either; both builds share these places.
    for place in ["/registry/src/", "/rustc/", "/rustlib/"] {
        let found = here
            .windows(place.len())
            .any(|part| part == place.as_bytes());
        assert!(!found, "{place}");
    }
}
