//! `9p`: looks at a tree of one's own through a confined gofer, and shows what that is.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // the modules shared with the tests

mod demo;
mod show;

use harness::{Gofer, Launch, Namespace, ROOT, TempDir, spec};
use kit::{harness, p9};
use p9::{Client, Data, Dirent, Fault, NOID, O_RDONLY, O_TRUNC, O_WRONLY, QT_DIR};
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
Looks at a directory through a gofer: starts one, confined to it, and speaks 9P2000.L to it.

Usage: 9p [--gofer PATH] [--ro] DIR COMMAND
       9p [--gofer PATH] demo [DIR]

Commands, with paths below DIR:
  ls [PATH]         list a directory, or one file
  tree [PATH]       list a directory and all below it
  stat PATH...      show attributes
  cat PATH...       copy files to the standard output
  put PATH [FILE]   write FILE, or the standard input, to PATH

demo shows the tree, a file read, one written and read back, what is refused, and the process
itself. Without DIR it makes a small tree; in DIR it leaves nothing behind.

Options:
  --gofer PATH      the program (default: GOFER_BIN, else target/gofer of this package)
  --ro              serve DIR read-only
  --help            this text

A user other than root needs user namespaces: the gofer then runs in one of its own.
";

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    // What is shared with the tests panics; here that is one line too.
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = match (
            payload.downcast_ref::<String>(),
            payload.downcast_ref::<&str>(),
        ) {
            (Some(text), _) => text,
            (_, Some(text)) => *text,
            _ => "something went wrong",
        };
        let text = text.replace('\n', " ");
        eprintln!("9p: {text}");
        std::process::exit(1);
    }));
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("9p: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Somebody has read enough.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run() -> Outcome {
    let mut gofer = None;
    let mut readonly = false;
    let mut words: Vec<OsString> = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => {
                io::stdout().write_all(HELP.as_bytes())?;
                return Ok(());
            }
            lexopt::Arg::Long("gofer") => gofer = Some(PathBuf::from(parser.value()?)),
            lexopt::Arg::Long("ro") => readonly = true,
            lexopt::Arg::Value(word) => words.push(word),
            other => return Err(other.unexpected().into()),
        }
    }
    let binary = find_binary(gofer)?;
    let mut words = words.into_iter();
    let first = words
        .next()
        .ok_or("no directory given; 9p --help says more")?;
    if first == "demo" {
        let dir = words.next().map(PathBuf::from);
        nothing_more(words)?;
        return demo::run(&binary, dir.as_deref());
    }
    let command = words
        .next()
        .ok_or("no command given; 9p --help says more")?;
    let mut served = Served::start(&binary, Path::new(&first), readonly)?;
    let out = &mut io::stdout().lock();
    match command.to_str() {
        Some("ls") => {
            let path = words.next().unwrap_or_default();
            nothing_more(words)?;
            ls(&mut served.client, &path, out)
        }
        Some("tree") => {
            let path = words.next().unwrap_or_default();
            nothing_more(words)?;
            tree(&mut served.client, &path, out)
        }
        Some("stat") => each(words, |path| stat(&mut served.client, path, out)),
        Some("cat") => each(words, |path| cat(&mut served.client, path, out)),
        Some("put") => {
            let path = words.next().ok_or("put needs a path")?;
            let from = words.next();
            nothing_more(words)?;
            put(&mut served.client, &path, from.as_deref().map(Path::new))
        }
        _ => Err(format!(
            "no such command: {}; 9p --help lists them",
            command.display()
        )
        .into()),
    }
}

fn nothing_more(mut words: impl Iterator<Item = OsString>) -> Outcome {
    match words.next() {
        Some(word) => Err(format!("one word too many: {}", word.display()).into()),
        None => Ok(()),
    }
}

fn each(
    words: impl Iterator<Item = OsString>,
    mut action: impl FnMut(&OsString) -> Outcome,
) -> Outcome {
    let mut none = true;
    for word in words {
        action(&word)?;
        none = false;
    }
    if none {
        Err("no path given".into())
    } else {
        Ok(())
    }
}

fn find_binary(given: Option<PathBuf>) -> Outcome<PathBuf> {
    let path = given
        .or_else(|| std::env::var_os("GOFER_BIN").map(PathBuf::from))
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/gofer"));
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) => Err(format!("{}: {error}; ./build.sh makes it", path.display()).into()),
    }
}

/// A gofer that serves a directory, and the connection to it, its root attached.
struct Served {
    client: Client,
    gofer: Gofer,
    /// From before the fork to Rattach.
    start_up: Duration,
    _bundle: TempDir,
}

/// Whether the gofer is started in a user namespace.
fn in_a_namespace() -> bool {
    !nix::unistd::Uid::effective().is_root()
}

impl Served {
    fn start(binary: &Path, dir: &Path, readonly: bool) -> Outcome<Served> {
        let named = |error: io::Error| format!("{}: {error}", dir.display());
        let root = dir.canonicalize().map_err(named)?;
        if !root.is_dir() {
            return Err(named(io::ErrorKind::NotADirectory.into()).into());
        }
        if root.to_str().is_none() {
            return Err(format!("{}: a spec holds names in UTF-8 only", dir.display()).into());
        }
        let bundle = TempDir::try_new()?;
        fs::write(
            bundle.path().join("config.json"),
            spec(&root, readonly, &[]).to_string(),
        )?;
        let mut launch = Launch::new(bundle.path(), 1).binary(binary);
        if in_a_namespace() {
            launch = launch.namespace(Namespace::User);
        }
        let begin = Instant::now();
        let mut gofer = launch.try_start().map_err(|error| {
            let hint = if in_a_namespace() {
                " (are user namespaces allowed?)"
            } else {
                ""
            };
            format!("start {}: {error}{hint}", binary.display())
        })?;
        let mut client = gofer.client(0);
        if let Err(fault) = client.hello(ROOT) {
            let stderr = gofer.stderr();
            let said = stderr
                .lines()
                .find(|line| !line.is_empty())
                .unwrap_or_default();
            return Err(format!("the gofer does not serve: {fault}: {said}").into());
        }
        Ok(Served {
            client,
            gofer,
            start_up: begin.elapsed(),
            _bundle: bundle,
        })
    }
}

// ---- commands -------------------------------------------------------------------------------

/// The fids used here, besides the root's.
const FILE: u32 = 2;
const LINK: u32 = 3;
/// Directories of a walk down a tree use this and the ones above.
const DEPTH: u32 = 10;

fn parts(path: &OsString) -> Vec<&[u8]> {
    path.as_bytes()
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
        .collect()
}

fn at<'a>(path: &'a OsString) -> impl Fn(Fault) -> String + 'a {
    move |fault| format!("{}: {fault}", path.display())
}

/// An entry with its attributes, and its target if it is a symlink.
struct Entry {
    name: Vec<u8>,
    attr: p9::Attr,
    target: Option<Vec<u8>>,
}

fn look(client: &mut Client, dir: u32, name: &[u8]) -> Result<Entry, Fault> {
    let reply = client.walkgetattr(dir, LINK, &[name])?;
    let target = match reply.attr.mode & show::S_IFMT {
        show::S_IFLNK => Some(client.readlink(LINK)?.target),
        _ => None,
    };
    Ok(Entry {
        name: name.to_vec(),
        attr: reply.attr,
        target,
    })
}

/// The entries of a directory that `fid` has walked to, by name.
fn entries(client: &mut Client, fid: u32) -> Result<Vec<Dirent>, Fault> {
    client.lopen(fid, O_RDONLY)?;
    let mut list = client.list(fid, 65536)?;
    list.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(list)
}

fn ls(client: &mut Client, path: &OsString, out: &mut impl Write) -> Outcome {
    let names = parts(path);
    let attr = client
        .walkgetattr(ROOT, FILE, &names)
        .map_err(at(path))?
        .attr;
    let mut rows = Vec::new();
    if attr.mode & show::S_IFMT == show::S_IFDIR {
        client.walk(ROOT, DEPTH, &names)?;
        for entry in entries(client, DEPTH).map_err(at(path))? {
            rows.push(match look(client, FILE, &entry.name) {
                Ok(seen) => show::row(&seen),
                // Sockets, devices and FIFOs are listed and cannot be walked to.
                Err(Fault::Errno(_)) => show::row_unknown(&entry),
                Err(fault) => return Err(fault.into()),
            });
        }
    } else {
        let target = match attr.mode & show::S_IFMT {
            show::S_IFLNK => Some(client.readlink(FILE)?.target),
            _ => None,
        };
        rows.push(show::row(&Entry {
            name: path.as_bytes().to_vec(),
            attr,
            target,
        }));
    }
    show::table(&rows, out)?;
    Ok(())
}

fn tree(client: &mut Client, path: &OsString, out: &mut impl Write) -> Outcome {
    client.walk(ROOT, DEPTH, &parts(path)).map_err(at(path))?;
    let head = if path.is_empty() {
        "."
    } else {
        &path.to_string_lossy()
    };
    writeln!(out, "{head}")?;
    let mut lines = show::Budget {
        lines: usize::MAX,
        each: usize::MAX,
    };
    branch(client, DEPTH, "", &mut lines, out)
}

/// Prints what lies below the directory at `fid`, which it opens, and the fids above it.
fn branch(
    client: &mut Client,
    fid: u32,
    indent: &str,
    budget: &mut show::Budget,
    out: &mut impl Write,
) -> Outcome {
    client.walk(fid, fid + 1, &[])?;
    let list = match entries(client, fid + 1) {
        Ok(list) => list,
        Err(Fault::Errno(errno)) => {
            writeln!(out, "{indent}└── ({errno:?})")?;
            return Ok(());
        }
        Err(fault) => return Err(fault.into()),
    };
    for (number, entry) in list.iter().enumerate() {
        if budget.lines == 0 || number == budget.each {
            writeln!(out, "{indent}… {} more", list.len() - number)?;
            return Ok(());
        }
        budget.lines -= 1;
        let last = number + 1 == list.len();
        let (here, below) = if last {
            ("└── ", "    ")
        } else {
            ("├── ", "│   ")
        };
        let note = match entry.kind {
            QT_DIR => "/".to_owned(),
            p9::QT_LINK => match look(client, fid, &entry.name) {
                Ok(Entry {
                    target: Some(target),
                    ..
                }) => format!(" -> {}", show::printable(&target)),
                _ => String::new(),
            },
            p9::QT_SPECIAL => " (not served)".to_owned(),
            _ => String::new(),
        };
        writeln!(out, "{indent}{here}{}{note}", show::printable(&entry.name))?;
        if entry.kind == QT_DIR && client.walk(fid, fid + 2, &[&entry.name]).is_ok() {
            branch(client, fid + 2, &format!("{indent}{below}"), budget, out)?;
            client.clunk(fid + 2)?;
        }
    }
    client.clunk(fid + 1)?;
    Ok(())
}

fn stat(client: &mut Client, path: &OsString, out: &mut impl Write) -> Outcome {
    client.walk(ROOT, FILE, &parts(path)).map_err(at(path))?;
    let reply = client.getattr(FILE, p9::VALID).map_err(at(path))?;
    let target = match reply.qid.kind {
        p9::QT_LINK => Some(client.readlink(FILE)?.target),
        _ => None,
    };
    show::stat(path, &reply, target.as_deref(), out)?;
    Ok(())
}

fn cat(client: &mut Client, path: &OsString, out: &mut impl Write) -> Outcome {
    client.walk(ROOT, FILE, &parts(path)).map_err(at(path))?;
    client.lopen(FILE, O_RDONLY).map_err(at(path))?;
    let mut offset = 0;
    loop {
        let data = client
            .read(FILE, offset, p9::MSIZE - 11)
            .map_err(at(path))?
            .data
            .0;
        if data.is_empty() {
            return Ok(());
        }
        out.write_all(&data)?;
        offset += u64::try_from(data.len())?;
    }
}

fn put(client: &mut Client, path: &OsString, from: Option<&Path>) -> Outcome {
    let mut source: Box<dyn Read> = match from {
        Some(from) => {
            Box::new(fs::File::open(from).map_err(|error| format!("{}: {error}", from.display()))?)
        }
        None => Box::new(io::stdin()),
    };
    let names = parts(path);
    let Some((name, dirs)) = names.split_last() else {
        return Err("put needs a file's path".into());
    };
    match client.walk(ROOT, FILE, &names) {
        Ok(_) => drop(client.lopen(FILE, O_WRONLY | O_TRUNC).map_err(at(path))?),
        Err(Fault::Errno(nix::errno::Errno::ENOENT)) => {
            client.walk(ROOT, FILE, dirs).map_err(at(path))?;
            drop(
                client
                    .lcreate(FILE, name, O_WRONLY, 0o644, NOID)
                    .map_err(at(path))?,
            );
        }
        Err(fault) => return Err(at(path)(fault).into()),
    }
    let mut offset = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            client.fsync(FILE, 0).map_err(at(path))?;
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let written = client
                .write(FILE, offset, Data(rest))
                .map_err(at(path))?
                .count;
            offset += u64::from(written);
            rest = &rest[usize::try_from(written)?..];
        }
    }
}
