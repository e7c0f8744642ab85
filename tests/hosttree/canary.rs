//! Files that the program has no business with, and whether anybody came near them.

use crate::loose::Watch;
use nix::sys::stat::{FileStat, lstat};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

/// It stands in every file of a canary.
pub const TEXT: &[u8] = b"the canary sings";

/// Watched for everything that leaves a trace there: opened, read, written, listed, changed, removed.
#[derive(Debug)]
pub struct Alarm {
    inotify: OwnedFd,
    paths: BTreeMap<i32, PathBuf>,
}

impl Alarm {
    pub fn set<'p>(paths: impl Iterator<Item = &'p Path>, flags: WatchFlags) -> Alarm {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
        let mut watched = BTreeMap::new();
        for path in paths {
            let flags = flags | WatchFlags::DONT_FOLLOW;
            let number = inotify::add_watch(&inotify, path.as_os_str().as_encoded_bytes(), flags)
                .expect("watch a file");
            watched.insert(number, path.to_path_buf());
        }
        Alarm {
            inotify,
            paths: watched,
        }
    }

    /// What has happened since the last time.
    pub fn rung(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut all = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let path = self.paths.get(&event.wd()).cloned().unwrap_or_default();
                    let lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    let what = if lost { "events lost" } else { "" };
                    all.push(format!("{what}{}: {:?}", path.display(), event.events()));
                }
                Err(Errno::AGAIN) => return all,
                Err(errno) => panic!("inotify: {errno}"),
            }
        }
    }
}

/// Trees that stay as they are.
#[derive(Debug)]
pub struct Canary {
    files: BTreeMap<PathBuf, FileStat>,
    alarm: Option<Alarm>,
}

impl Canary {
    /// In each of these directories every name that steps know is a file or a directory of a canary, so that
    /// whoever comes there finds what it looks for.
    pub fn plant(dirs: &[&Path]) -> Canary {
        let mut files = BTreeMap::new();
        for dir in dirs {
            for name in ["a", "b", "sub"] {
                let inner = dir.join(name);
                fs::create_dir(&inner).expect("mkdir");
                for name in ["a", "b", "c"] {
                    fs::write(inner.join(name), TEXT).expect("write");
                }
                fs::create_dir(inner.join("d")).expect("mkdir");
                fs::write(inner.join("d/a"), TEXT).expect("write");
                for path in ["", "a", "b", "c", "d", "d/a"] {
                    let path = inner.join(path);
                    files.insert(path.clone(), lstat(&path).expect("lstat"));
                }
            }
            for name in ["c", "d", "e"] {
                let path = dir.join(name);
                fs::write(&path, TEXT).expect("write");
                files.insert(path.clone(), lstat(&path).expect("lstat"));
            }
        }
        Canary { files, alarm: None }
    }

    /// From here on nobody touches it.
    pub fn arm(&mut self) {
        let paths = self.files.keys().map(PathBuf::as_path);
        self.alarm = Some(Alarm::set(paths, WatchFlags::ALL_EVENTS));
    }

    /// What no reply may hold; these directories lie outside too.
    pub fn watch(&self, dirs: &[&Path]) -> Watch {
        let stats = self.files.values().copied();
        let dirs = dirs.iter().map(|dir| lstat(*dir).expect("lstat"));
        Watch {
            inodes: stats.chain(dirs).map(|stat| stat.st_ino).collect(),
            text: TEXT.to_vec(),
        }
    }

    /// Nobody has opened, read, written, listed or changed anything, and all is as it was.
    pub fn check(&self) {
        let rung = self.alarm.as_ref().expect("armed").rung();
        assert!(rung.is_empty(), "the canary: {rung:#?}");
        for (path, before) in &self.files {
            let mut now = lstat(path).unwrap_or_else(|errno| panic!("{}: {errno}", path.display()));
            now.st_atime = before.st_atime; // our own reading below, at the last check
            now.st_atime_nsec = before.st_atime_nsec;
            assert_eq!(now, *before, "{}", path.display());
        }
    }
}
