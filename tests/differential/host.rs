//! What the host does to a tree beside the clients: by names alone, and never through a symlink, since
//! those of the steps lead anywhere.

use crate::ops::{Name, Random, SHARED};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where a name stands: at the end of this way from the root, or beside it, out of the clients' reach.
#[derive(Debug, Clone)]
pub enum Place {
    In(Vec<Name>),
    Aside(u32),
}

#[derive(Debug, Clone)]
pub enum What {
    File { length: usize, byte: u8 },
    Directory,
    Symlink { target: Name },
    Fifo,
    Socket,
    Character,
    Block,
}

#[derive(Debug, Clone)]
pub enum Change {
    Make {
        at: Place,
        what: What,
    },
    Unlink {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
    },
    Exchange {
        one: Place,
        other: Place,
    },
    Link {
        from: Place,
        to: Place,
    },
    Write {
        at: Place,
        offset: u64,
        length: usize,
        byte: u8,
    },
    Truncate {
        at: Place,
        size: u64,
    },
    Mode {
        at: Place,
        mode: u32,
    },
    Owner {
        at: Place,
        uid: u32,
        gid: u32,
    },
}

/// A tree and the directory beside it.
#[derive(Debug)]
pub struct Host {
    root: OwnedFd,
    aside: OwnedFd,
}

type Outcome<T = ()> = Result<T, Errno>;

const HELD: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

impl Host {
    pub fn new(root: &Path, aside: &Path) -> Host {
        let open = |path| nix::fcntl::open(path, HELD, Mode::empty()).expect("open a tree");
        Host {
            root: open(root),
            aside: open(aside),
        }
    }

    /// The directory and the name in it.
    pub fn find<'a>(&self, place: &'a Place) -> Outcome<(OwnedFd, std::borrow::Cow<'a, [u8]>)> {
        let (from, way) = match place {
            Place::In(way) => (&self.root, way.as_slice()),
            Place::Aside(slot) => {
                let fd = self.aside.try_clone().expect("dup a directory");
                return Ok((fd, slot.to_string().into_bytes().into()));
            }
        };
        let (last, parents) = way.split_last().ok_or(Errno::EINVAL)?;
        let mut dir = from.try_clone().expect("dup a directory");
        for name in parents {
            let flags = HELD | OFlag::O_DIRECTORY;
            dir = openat(&dir, name.0.as_slice(), flags, Mode::empty())?;
        }
        Ok((dir, last.0.as_slice().into()))
    }

    /// A regular file, opened for writing.
    fn file(&self, place: &Place) -> Outcome<File> {
        let (dir, name) = self.find(place)?;
        let held = openat(&dir, &*name, HELD, Mode::empty())?;
        if SFlag::from_bits_truncate(fstat(&held)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(Errno::EINVAL);
        }
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        Ok(nix::fcntl::open(path.as_str(), flags, Mode::empty())?.into())
    }

    pub fn apply(&self, change: &Change) -> Outcome {
        match change {
            Change::Make { at, what } => self.make(at, what),
            Change::Unlink { at } => {
                let (dir, name) = self.find(at)?;
                unlinkat(&dir, &*name, UnlinkatFlags::NoRemoveDir)
            }
            Change::Rmdir { at } => {
                let (dir, name) = self.find(at)?;
                unlinkat(&dir, &*name, UnlinkatFlags::RemoveDir)
            }
            Change::Rename { from, to } => self.rename(from, to, RenameFlags::empty()),
            Change::Exchange { one, other } => {
                self.rename(one, other, RenameFlags::RENAME_EXCHANGE)
            }
            Change::Link { from, to } => {
                let ((old_dir, old), (new_dir, new)) = (self.find(from)?, self.find(to)?);
                linkat(&old_dir, &*old, &new_dir, &*new, AtFlags::empty())
            }
            Change::Write {
                at,
                offset,
                length,
                byte,
            } => {
                let data = vec![*byte; *length];
                let written = self.file(at)?.write_all_at(&data, *offset);
                written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
            }
            Change::Truncate { at, size } => {
                nix::unistd::ftruncate(self.file(at)?, size.cast_signed())
            }
            Change::Mode { at, mode } => fchmod(self.file(at)?, Mode::from_bits_truncate(*mode)),
            Change::Owner { at, uid, gid } => {
                let (dir, name) = self.find(at)?;
                let (uid, gid) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                fchownat(&dir, &*name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
            }
        }
    }

    pub fn rename(&self, from: &Place, to: &Place, flags: RenameFlags) -> Outcome {
        let ((old_dir, old), (new_dir, new)) = (self.find(from)?, self.find(to)?);
        renameat2(&old_dir, &*old, &new_dir, &*new, flags)
    }

    fn make(&self, at: &Place, what: &What) -> Outcome {
        let (dir, name) = self.find(at)?;
        let mode = Mode::from_bits_truncate(0o640);
        let node = |kind, device| mknodat(&dir, &*name, kind, mode, device);
        match what {
            What::File { length, byte } => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
                let file = File::from(openat(&dir, &*name, flags, mode)?);
                file.write_all_at(&vec![*byte; *length], 0)
                    .expect("write a new file");
                Ok(())
            }
            What::Directory => mkdirat(&dir, &*name, Mode::from_bits_truncate(0o750)),
            What::Symlink { target } => symlinkat(target.0.as_slice(), &dir, &*name),
            What::Fifo => node(SFlag::S_IFIFO, 0),
            What::Socket => node(SFlag::S_IFSOCK, 0),
            What::Character => node(SFlag::S_IFCHR, makedev(1, 3)),
            What::Block => node(SFlag::S_IFBLK, makedev(7, 250)),
        }
    }
}

/// Ways that symlinks take, up and out too.
pub const TARGETS: &[&[u8]] = &[b"a", b"..", b"../b", b"/etc"];

/// Chooses changes.
pub struct Chooser<'a> {
    pub random: &'a mut Random,
    /// Where symlinks lead to.
    pub targets: &'a [&'a [u8]],
}

impl Chooser<'_> {
    fn name(&mut self) -> Name {
        let name = match self.random.below(12) {
            0 => SHARED,
            _ => self.random.of(&["a", "b", "c", "d", "e"]),
        };
        Name(name.into())
    }

    /// A way from the root.
    pub fn place(&mut self) -> Place {
        let count = self.random.of(&[1, 1, 2, 2, 3]);
        Place::In((0..count).map(|_| self.name()).collect())
    }

    /// Now and then one beside the tree: subtrees leave and come back.
    fn any(&mut self) -> Place {
        if self.random.once_in(4) {
            Place::Aside(self.random.below(4) as u32)
        } else {
            self.place()
        }
    }

    fn what(&mut self) -> What {
        match self.random.below(10) {
            0..=2 => What::File {
                length: self.random.below(3_000),
                byte: self.random.next() as u8,
            },
            3..=5 => What::Directory,
            6 => What::Symlink {
                target: Name(self.random.of(self.targets).into()),
            },
            7 => What::Fifo,
            8 => What::Socket,
            _ => self.random.of(&[What::Character, What::Block]),
        }
    }

    pub fn change(&mut self) -> Change {
        let (one, other) = (self.any(), self.any());
        let at = self.place();
        match self.random.below(24) {
            0..=6 => {
                let what = self.what();
                Change::Make { at, what }
            }
            7..=9 => Change::Unlink { at },
            10 => Change::Rmdir { at },
            11..=15 => Change::Rename {
                from: one,
                to: other,
            },
            16..=18 => Change::Exchange { one, other },
            19 => Change::Link {
                from: one,
                to: other,
            },
            20 => Change::Write {
                at,
                offset: self.random.below(9_000) as u64,
                length: self.random.below(4_000),
                byte: self.random.next() as u8,
            },
            21 => Change::Truncate {
                at,
                size: self.random.below(9_000) as u64,
            },
            22 => Change::Mode {
                at,
                mode: self.random.of(&[0o644, 0o755, 0o4755, 0o2070, 0]),
            },
            _ => Change::Owner {
                at,
                uid: self.random.of(&[0, 5, 1000]),
                gid: self.random.of(&[0, 5, 1000]),
            },
        }
    }
}
