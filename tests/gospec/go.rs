//! Go's own reader, `main.go`, as one process that answers for each spec.

use crate::harness::TempDir;
use gofer::spec::{Refusal, Spec};
use gofer::text::{Say, Sink};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The built program. It is needed: without Go the tests fail.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let room = Path::new(env!("CARGO_MANIFEST_DIR"));
        let work = room.join("target/gospec");
        let program = work.join("gospec");
        let build = Command::new("go")
            .current_dir(room.join("tests/gospec"))
            .env("GOCACHE", work.join("cache"))
            .env("GOWORK", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .args(["build", "-buildvcs=false", "-o"])
            .arg(&program)
            .output()
            .expect("start go, 1.19 or later: ./build.sh test installs it where it is missing");
        let told = String::from_utf8_lossy(&build.stderr);
        assert!(build.status.success(), "go build: {told}");
        program
    })
}

/// What Go tells: the types that it reads a spec into, and an answer for each spec.
pub struct Told {
    pub version: String,
    pub schema: String,
    pub answers: Vec<Value>,
}

/// Asks Go about all specs.
pub fn ask(specs: &[impl AsRef<[u8]> + Sync]) -> Told {
    let mut child = Command::new(program())
        .arg(MOST.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the reader in Go");
    let mut to = child.stdin.take().expect("a pipe of ours");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe of ours")).lines();
    let (first, answers) = std::thread::scope(|scope| {
        scope.spawn(move || {
            for spec in specs.iter().map(AsRef::as_ref) {
                let length = u64::try_from(spec.len()).expect("64 bits").to_le_bytes();
                to.write_all(&length).expect("write to Go");
                to.write_all(spec).expect("write to Go");
            }
        });
        let mut next = || -> Option<Value> {
            let line = lines.next()?.expect("a line of Go's");
            Some(serde_json::from_str(&line).expect("a line of JSON"))
        };
        let first = next().expect("the first line of Go's");
        (first, std::iter::from_fn(next).collect::<Vec<_>>())
    });
    assert!(child.wait().expect("wait for Go").success());
    assert_eq!(answers.len(), specs.len(), "an answer for each spec");
    let text = |at: usize| first[at].as_str().expect("a text").to_owned();
    Told {
        version: text(0),
        schema: text(1),
        answers,
    }
}

struct Text(Vec<u8>);

impl Sink for Text {
    fn put(&mut self, text: &[u8]) {
        self.0.extend_from_slice(text);
    }
}

/// Mounts told of one spec; of the others only how many they are.
const MOST: usize = 255;

/// The same answer, of our reader.
fn answer(read: &Result<Spec, Refusal>) -> Value {
    let spec = match read {
        Ok(spec) => spec,
        Err(refusal) => {
            let mut text = Text(Vec::new());
            refusal.say(&mut text);
            let text = String::from_utf8(text.0).expect("UTF-8");
            return json!({"refusal": text, "root": "", "read_only": false, "mounts": null,
                "count": 0, "apparmor": "", "seccomp": false});
        }
    };
    let text = |bytes| std::str::from_utf8(bytes).expect("UTF-8");
    let mounts: Vec<Value> = spec
        .served()
        .take(MOST)
        .map(|mount| {
            let options: Vec<&str> = mount.options.iter().map(|option| text(option)).collect();
            json!({"destination": text(mount.destination), "type": text(mount.kind),
                "source": text(mount.source), "options": options, "read_only": mount.read_only})
        })
        .collect();
    json!({"refusal": "", "root": text(spec.root_path), "read_only": spec.root_read_only,
        "mounts": mounts, "count": spec.served().count(), "apparmor": text(spec.apparmor),
        "seccomp": spec.has_seccomp})
}

/// What was compared.
#[derive(Default, Debug)]
pub struct Tally {
    pub accepted: usize,
    pub no_json: usize,
    pub mismatch: usize,
    pub invalid: usize,
}

/// Compares both readers' answers. Every difference is told, the shortest specs first.
#[track_caller]
pub fn compare(specs: &[impl AsRef<[u8]> + Sync]) -> Tally {
    let told = ask(specs);
    let mut tally = Tally::default();
    let mut differences = Vec::new();
    for (spec, go) in specs.iter().map(AsRef::as_ref).zip(&told.answers) {
        let read = Spec::read(spec);
        let mine = answer(&read);
        if mine != *go {
            let shown = String::from_utf8_lossy(&spec[..spec.len().min(4_000)]).into_owned();
            differences.push(format!("{shown}\n  ours: {mine}\n  Go:   {go}"));
        }
        *match read {
            Ok(_) => &mut tally.accepted,
            Err(Refusal::NotJson(_)) => &mut tally.no_json,
            Err(Refusal::Mismatch(..)) => &mut tally.mismatch,
            Err(_) => &mut tally.invalid,
        } += 1;
    }
    differences.sort_by_key(String::len);
    let count = differences.len();
    differences.truncate(20);
    assert!(
        differences.is_empty(),
        "{count} of {} specs are read otherwise than by {}:\n{}",
        specs.len(),
        told.version,
        differences.join("\n")
    );
    tally
}

/// A bundle with this spec.
pub fn bundle(spec: &[u8]) -> TempDir {
    let dir = TempDir::new();
    std::fs::write(dir.path().join("config.json"), spec).expect("write config.json");
    dir
}
