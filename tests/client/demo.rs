//! `9p demo`: a walk-through of one confined gofer.

use super::harness::{ROOT, TempDir, status_field};
use super::p9::{Answer, Client, Data, Fault, NOID, O_RDONLY, O_RDWR, QT_FILE};
use super::show::{self, printable};
use super::{DEPTH, FILE, LINK, Outcome, Served, branch, in_a_namespace};
use std::fmt::Debug;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Lines of the tree that are shown.
const TREE_LINES: usize = 25;
/// Starts that are timed.
const STARTS: usize = 21;

/// A small tree to look at.
fn small_tree(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root.join("docs/drafts"))?;
    fs::create_dir_all(root.join("bin"))?;
    fs::write(
        root.join("hello.txt"),
        "Hello from the other side of a socket.\n",
    )?;
    fs::write(root.join("docs/notes.md"), "# Notes\n\nNothing yet.\n")?;
    fs::write(root.join("docs/drafts/plan.md"), "1. start\n2. serve\n")?;
    fs::write(root.join("bin/run.sh"), "#!/bin/sh\nexec true\n")?;
    symlink("docs/notes.md", root.join("latest"))?;
    symlink("/etc", root.join("way-out"))
}

/// Files that the demo makes in a directory of the user's, gone when it ends.
struct Scratch {
    path: PathBuf,
    name: String,
}

impl Scratch {
    fn new(root: &Path) -> io::Result<Scratch> {
        let name = format!(".9p-demo-{}", std::process::id());
        let path = root.join(&name);
        fs::create_dir(&path)?;
        let scratch = Scratch { path, name };
        symlink("/etc", scratch.path.join("etc"))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

pub(crate) fn run(binary: &Path, dir: Option<&Path>) -> Outcome {
    let made = match dir {
        Some(_) => None,
        None => Some(TempDir::try_new()?),
    };
    let root = match (&made, dir) {
        (Some(made), _) => {
            small_tree(made.path())?;
            made.path().to_owned()
        }
        (None, dir) => dir.unwrap_or(Path::new(".")).canonicalize()?,
    };
    let mut times = Vec::new();
    for _ in 1..STARTS {
        times.push(Served::start(binary, &root, false)?.start_up);
    }
    let mut served = Served::start(binary, &root, false)?;
    times.push(served.start_up);
    times.sort();
    let median = times.get(STARTS / 2).copied().unwrap_or_default();

    let out = &mut io::stdout().lock();
    let uid = nix::unistd::Uid::effective();
    let note = if made.is_some() {
        " (made for this demo)"
    } else {
        ""
    };
    line(
        out,
        "program",
        &format!(
            "{}, {} bytes",
            binary.display(),
            show::grouped(binary.metadata()?.len())
        ),
    )?;
    line(out, "serves", &format!("{}{note}", root.display()))?;
    let how = if in_a_namespace() {
        format!(
            "process {}, in a user namespace where uid {uid} is root",
            served.gofer.pid()
        )
    } else {
        format!("process {}, by root", served.gofer.pid())
    };
    line(out, "runs as", &how)?;
    let milliseconds = median.as_secs_f64() * 1e3;
    line(
        out,
        "start-up",
        &format!("{milliseconds:.2} ms from fork to Rattach, median of {STARTS}"),
    )?;

    heading(out, "The tree, through 9P")?;
    served.client.walk(ROOT, DEPTH, &[])?;
    branch(
        &mut served.client,
        DEPTH,
        "  ",
        &mut show::Budget {
            lines: TREE_LINES,
            each: 8,
        },
        out,
    )?;

    let client = &mut served.client;
    heading(out, "A file read")?;
    match first_file(client, made.is_some())? {
        Some(name) => read(client, &name, out)?,
        None => writeln!(out, "  There is no regular file at the top of this tree.")?,
    }

    let scratch = Scratch::new(&root);
    heading(out, "A file written, and read back")?;
    match &scratch {
        Ok(scratch) => write(client, scratch, &root, out)?,
        Err(error) => writeln!(out, "  Not here: {error}.")?,
    }

    heading(out, "Ways out, refused")?;
    refusals(client, scratch.as_ref().ok(), out)?;
    for fid in [FILE, LINK, DEPTH] {
        let _ = client.clunk(fid); // some are not in use
    }
    drop(scratch);

    heading(
        out,
        &format!("The process, from /proc/{}", served.gofer.pid()),
    )?;
    process(&served, out)?;
    Ok(())
}

fn heading(out: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(out, "\n{text}")
}

fn line(out: &mut impl Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "{name:<15} {value}")
}

/// A small regular file in the root.
fn first_file(client: &mut Client, made: bool) -> Outcome<Option<Vec<u8>>> {
    if made {
        return Ok(Some(b"hello.txt".to_vec()));
    }
    client.walk(ROOT, FILE, &[])?;
    for entry in super::entries(client, FILE)? {
        if entry.kind == QT_FILE {
            return Ok(Some(entry.name));
        }
    }
    Ok(None)
}

fn read(client: &mut Client, name: &[u8], out: &mut impl Write) -> Outcome {
    client.walk(ROOT, FILE, &[name])?;
    let opened = match client.lopen(FILE, O_RDONLY) {
        Ok(opened) => opened,
        Err(fault) => {
            writeln!(out, "  Tlopen {}: {fault}", printable(name))?;
            return Ok(());
        }
    };
    let donated = if opened.fd.is_some() {
        "the host's descriptor came with it"
    } else {
        "without a descriptor"
    };
    let data = client.read(FILE, 0, 4096)?.data.0;
    writeln!(out, "  Twalk, Tlopen  {} ({donated})", printable(name))?;
    writeln!(out, "  Tread          {} bytes", data.len())?;
    for text in data.split_inclusive(|&byte| byte == b'\n').take(3) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        writeln!(out, "  | {}", printable(text.get(..70).unwrap_or(text)))?;
    }
    Ok(())
}

fn write(client: &mut Client, scratch: &Scratch, root: &Path, out: &mut impl Write) -> Outcome {
    let (dir, name) = (scratch.name.as_bytes(), b"written");
    let text = b"written through 9P\n";
    client.walk(ROOT, FILE, &[dir])?;
    client.lcreate(FILE, name, O_RDWR, 0o600, NOID)?;
    writeln!(out, "  Tlcreate       {}/written", scratch.name)?;
    let count = client.write(FILE, 0, Data(text))?.count;
    writeln!(out, "  Twrite         {count} bytes")?;
    client.fsync(FILE, 0)?;
    writeln!(out, "  Tfsync")?;
    let back = client.read_all(FILE)?;
    let same = if back == text {
        "the same"
    } else {
        "NOT the same"
    };
    writeln!(out, "  Tread          {} bytes, {same}", back.len())?;
    let host = fs::read(root.join(&scratch.name).join("written"))?;
    let same = if host == text {
        "the same"
    } else {
        "NOT the same"
    };
    writeln!(
        out,
        "  on the host    {} bytes, {same}; removed at the end",
        host.len()
    )?;
    client.clunk(FILE)?;
    Ok(())
}

fn refusals(
    client: &mut Client,
    scratch: Option<&Scratch>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut show = |what: &str, outcome: String| writeln!(out, "  {what:<36} {outcome}");
    show("Twalk ..", said(client.walk(ROOT, FILE, &[b".."])))?;
    show(
        "Twalk \"../etc/passwd\" as one name",
        said(client.walk(ROOT, FILE, &[b"../etc/passwd"])),
    )?;
    show(
        "Twalk \"/etc\" as one name",
        said(client.walk(ROOT, FILE, &[b"/etc"])),
    )?;
    show(
        "Tlcreate \"../new\"",
        said(client.lcreate(ROOT, b"../new", O_RDWR, 0o600, NOID)),
    )?;
    if let Some(scratch) = scratch {
        let dir = scratch.name.as_bytes();
        let through = client.walk(ROOT, FILE, &[dir, b"etc", b"passwd"]);
        show("Twalk through a symlink to /etc", said(through))?;
        if client.walk(ROOT, FILE, &[dir, b"etc"]).is_ok() {
            show("Tlopen of that symlink", said(client.lopen(FILE, O_RDONLY)))?;
        }
    }
    Ok(())
}

fn said<T: Debug>(answer: Answer<T>) -> String {
    match answer {
        Ok(reply) => format!("NOT refused: {reply:?}"),
        Err(Fault::Errno(errno)) => format!("{errno:?} ({})", errno.desc()),
        Err(other) => other.to_string(),
    }
}

fn process(served: &Served, out: &mut impl Write) -> Outcome {
    let gofer = &served.gofer;
    let text = gofer.proc_text("status")?;
    let field = |name: &str| status_field(&text, name).unwrap_or_else(|| "unknown".to_owned());
    let mut show = |name: &str, value: &str| writeln!(out, "  {name:<13} {value}");
    show("capabilities", &show::capabilities(&field("CapEff")))?;
    show("bounding set", &show::capabilities(&field("CapBnd")))?;
    show(
        "seccomp",
        &match field("Seccomp").as_str() {
            "2" => format!("2 (filter), {} installed", field("Seccomp_filters")),
            other => other.to_owned(),
        },
    )?;
    show("no_new_privs", &field("NoNewPrivs"))?;
    let hidden = "not for us to see: the process is not dumpable";
    match fs::read_dir(gofer.proc("root")).map(Iterator::count) {
        Ok(0) => show("root", "an empty directory")?,
        Ok(_) => show("root", "what is served")?,
        Err(_) => show("root", hidden)?,
    }
    show("threads", &field("Threads"))?;
    match gofer.descriptors() {
        Ok(all) => {
            show("descriptors", &all.len().to_string())?;
            for (number, link) in all {
                show("", &format!("{number:>3} {}", link.display()))?;
            }
        }
        Err(_) => show("descriptors", hidden)?,
    }
    show("memory", &format!("VmRSS {}", field("VmRSS")))?;
    if let Ok(rollup) = gofer.proc_text("smaps_rollup") {
        let field = |name: &str| status_field(&rollup, name).unwrap_or_default();
        show(
            "",
            &format!(
                "Rss {}, Pss {}, private dirty {}",
                field("Rss"),
                field("Pss"),
                field("Private_Dirty")
            ),
        )?;
    }
    Ok(())
}
