//! What other processes of the host do to the tree meanwhile, as fast as they can.

use crate::host::{Change, Chooser, Host, Place, What};
use crate::ops::{Name, Random};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, open};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::linkat;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Special files, each with a name of its own outside, so that it stays the same file wherever it is put.
pub const SPECIAL: [&str; 4] = ["fifo", "character", "block", "socket"];

#[derive(Debug)]
pub struct Armory {
    pub path: PathBuf,
    dir: OwnedFd,
    /// Who connects to the socket.
    pub listener: UnixListener,
    /// Opening the block device makes it appear here, where the kernel has the driver.
    pub appears: PathBuf,
}

impl Armory {
    /// `appears`: whether its block device may be there already. Else it has a number that no other run has.
    pub fn new(path: &Path, appears: bool) -> Armory {
        let minor = if appears {
            250
        } else {
            251 + u64::from(std::process::id()) % 1_000_000
        };
        let device = Path::new("/sys/block").join(format!("loop{minor}"));
        assert!(appears || !device.exists(), "{}", device.display());
        fs::create_dir(path).expect("mkdir");
        let mode = Mode::from_bits_truncate(0o666);
        let nodes = [
            (SFlag::S_IFIFO, 0),
            (SFlag::S_IFCHR, makedev(1, 3)),
            (SFlag::S_IFBLK, makedev(7, minor)),
        ];
        for (name, (kind, device)) in SPECIAL.iter().zip(nodes) {
            mknod(&path.join(name), kind, mode, device).expect("mknod");
        }
        let listener = UnixListener::bind(path.join("socket")).expect("bind");
        listener.set_nonblocking(true).expect("a socket of ours");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Armory {
            path: path.to_path_buf(),
            appears: device,
            dir: open(path, flags, Mode::empty()).expect("open a directory"),
            listener,
        }
    }
}

/// One process's part in it. Counts what it changed.
pub struct Storm<'a> {
    pub host: &'a Host,
    pub armory: &'a Armory,
    pub random: Random,
    pub targets: &'a [&'a [u8]],
    /// The place beside the tree that is this one's alone; behind it lie the subtrees that it moved out.
    pub own: u32,
    pub out: u32,
    pub changes: usize,
}

impl Storm<'_> {
    fn note(&mut self, done: nix::Result<()>) -> bool {
        self.changes += usize::from(done.is_ok());
        done.is_ok()
    }

    fn chooser(&mut self) -> Chooser<'_> {
        Chooser {
            random: &mut self.random,
            targets: self.targets,
        }
    }

    /// What any process does: makes, removes, renames, links, writes.
    pub fn change(&mut self) {
        let change = self.chooser().change();
        let done = self.host.apply(&change);
        self.note(done);
    }

    /// Puts something else in a name's place, as a rule for a moment only.
    pub fn swap(&mut self) {
        let own = Place::Aside(self.own);
        self.clear();
        match self.random.below(8) {
            0..=2 => {
                let target = Name(self.random.of(self.targets).into());
                let what = What::Symlink { target };
                self.host
                    .apply(&Change::Make {
                        at: own.clone(),
                        what,
                    })
                    .expect("symlink");
            }
            3..=5 => {
                let special = self.random.of(&SPECIAL);
                let (dir, name) = self.host.find(&own).expect("a place of ours");
                linkat(&self.armory.dir, special, &dir, &*name, AtFlags::empty()).expect("link");
            }
            // A subtree comes back in.
            _ => {
                let out = Place::Aside(self.own + self.out);
                if self.out > 0 {
                    let done = self.host.rename(&out, &own, RenameFlags::empty());
                    assert!(self.note(done), "nobody else comes there");
                    self.out -= 1;
                } else {
                    let what = What::Directory;
                    let at = own.clone();
                    self.host.apply(&Change::Make { at, what }).expect("mkdir");
                }
            }
        }
        let place = self.chooser().place();
        let exchange = RenameFlags::RENAME_EXCHANGE;
        let done = self.host.rename(&own, &place, exchange);
        if self.note(done) {
            for _ in 0..self.random.below(200) {
                std::hint::spin_loop();
            }
            if !self.random.once_in(8) {
                let done = self.host.rename(&own, &place, exchange);
                self.note(done);
            }
        } else if self.random.once_in(4) {
            let done = self
                .host
                .rename(&own, &place, RenameFlags::RENAME_NOREPLACE);
            self.note(done);
        }
    }

    /// Empties the place of ours; a directory stays outside for a while.
    fn clear(&mut self) {
        let at = Place::Aside(self.own);
        if self.host.apply(&Change::Unlink { at: at.clone() }) == Err(Errno::EISDIR) {
            self.out += 1;
            let out = Place::Aside(self.own + self.out);
            self.host
                .rename(&at, &out, RenameFlags::empty())
                .expect("a free place of ours");
        }
    }
}
