//! The throw-away tree: a small tmpfs that no namespace has, with the directory that is served, and beside it
//! what must never be touched.

use super::input::Input;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::fs::{
    chmodat, chownat, fchmod, linkat, mkdirat, mknodat, openat, renameat_with, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use rustix::process::{Gid, Uid};
use std::os::unix::net::UnixListener;

/// What the file outside holds; its first byte is rare.
pub(crate) const CANARY: &[u8] = b"\x05This stands outside what is served.";

pub(crate) struct Tree {
    root: OwnedFd,
    /// The directory that is served.
    inside: OwnedFd,
    /// Where the host moves what it takes out of it.
    away: OwnedFd,
    listener: UnixListener,
    /// Of [`OUTSIDE`], as they were made.
    outside: Vec<Stat>,
}

const OUTSIDE: [&str; 4] = ["", "outside", "outside/secret", "outside/d"];

fn dir(at: impl AsFd, name: &str) -> OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty()).expect("open a directory of the tree")
}

/// A path for calls that take no descriptor.
fn path(dir: &OwnedFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

fn file(at: impl AsFd, name: &str, bytes: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(at, name, flags, Mode::from_raw_mode(0o644)).expect("create a file");
    rustix::io::write(&file, bytes).expect("write a file");
}

impl Tree {
    /// Needs CAP_SYS_ADMIN and CAP_MKNOD.
    pub(crate) fn new() -> Self {
        let tmpfs =
            fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen: the tests run as root");
        for (key, value) in [("size", "4m"), ("nr_inodes", "256"), ("mode", "755")] {
            fsconfig_set_string(&tmpfs, key, value).expect("fsconfig");
        }
        fsconfig_create(&tmpfs).expect("fsconfig");
        // Each access moves the access time, so that reading what is outside shows.
        let attributes = MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        let root = fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).expect("fsmount");
        for name in ["inside", "away", "kept", "outside", "outside/d"] {
            mkdirat(&root, name, Mode::from_raw_mode(0o755)).expect("mkdir");
        }
        file(&root, "outside/secret", CANARY);
        // A socket and a device to be linked into the tree.
        let kept = dir(&root, "kept");
        let listener = UnixListener::bind(path(&kept, "q")).expect("bind a socket");
        listener
            .set_nonblocking(true)
            .expect("a socket that does not block");
        let null = rustix::fs::makedev(1, 3);
        mknodat(
            &kept,
            "z",
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            null,
        )
        .expect("mknod");
        for name in OUTSIDE {
            let flags = if name.is_empty() {
                AtFlags::EMPTY_PATH
            } else {
                AtFlags::empty()
            };
            let zero = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: zero,
                last_modification: zero,
            };
            utimensat(&root, name, &times, flags).expect("utimensat");
        }
        let (inside, away) = (dir(&root, "inside"), dir(&root, "away"));
        let mut tree = Self {
            root,
            inside,
            away,
            listener,
            outside: Vec::new(),
        };
        tree.outside = tree.stat_outside();
        tree
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A path to what the tree or its surroundings hold.
    #[cfg(not(fuzzing))]
    pub(crate) fn path(&self, name: &str) -> String {
        path(&self.root, name)
    }

    fn stat_outside(&self) -> Vec<Stat> {
        let stat =
            |name| statat(&self.root, name, AtFlags::EMPTY_PATH).expect("stat what is outside");
        OUTSIDE.into_iter().map(stat).collect()
    }

    /// The tree as it is at the start of each run.
    pub(crate) fn restore(&self) {
        for (at, name) in [(&self.inside, "inside"), (&self.away, "away")] {
            for entry in std::fs::read_dir(path(at, "")).expect("read the tree") {
                let entry = entry.expect("an entry of the tree");
                let is_dir = entry.file_type().expect("its type").is_dir();
                match is_dir {
                    true => std::fs::remove_dir_all(entry.path()),
                    false => std::fs::remove_file(entry.path()),
                }
                .expect("remove what was made");
            }
            chownat(
                &self.root,
                name,
                Some(Uid::ROOT),
                Some(Gid::ROOT),
                AtFlags::empty(),
            )
            .expect("chown");
            chmodat(
                &self.root,
                name,
                Mode::from_raw_mode(0o755),
                AtFlags::empty(),
            )
            .expect("chmod");
            for name in ["user.a", "user.b", "user.c", "user.d"] {
                let _gone = rustix::fs::fremovexattr(at, name);
            }
        }
        let inside = &self.inside;
        for name in ["d", "d/k"] {
            mkdirat(inside, name, Mode::from_raw_mode(0o755)).expect("mkdir");
        }
        file(inside, "f", b"A file of about forty bytes, to be read.");
        file(inside, "g", b"");
        file(inside, "d/e", b"below");
        file(inside, "d/k/m", &[b'm'; 5000]);
        chownat(
            inside,
            "g",
            Some(Uid::from_raw(1000)),
            None,
            AtFlags::empty(),
        )
        .expect("chown");
        linkat(inside, "f", inside, "h", AtFlags::empty()).expect("link");
        for (target, name) in [
            ("f", "s"),
            ("../outside/secret", "up"),
            ("../outside", "out"),
            ("../../outside/d", "d/far"),
        ] {
            symlinkat(target, inside, name).expect("symlink");
        }
        mknodat(inside, "p", FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("mkfifo");
        for name in ["q", "z"] {
            chmodat(
                &self.root,
                &*format!("kept/{name}"),
                Mode::from_raw_mode(0o666),
                AtFlags::empty(),
            )
            .expect("chmod");
            linkat(
                &self.root,
                &*format!("kept/{name}"),
                inside,
                name,
                AtFlags::empty(),
            )
            .expect("link");
        }
        rustix::fs::setxattr(&*path(inside, "f"), "user.a", b"value", XattrFlags::empty())
            .expect("setxattr");
    }

    /// The host changes something in the served tree, or takes it away.
    pub(crate) fn change(&self, input: &mut Input<'_>) {
        let (inside, away) = (&self.inside, &self.away);
        let swap = |one, other| renameat_with(inside, one, inside, other, RenameFlags::EXCHANGE);
        let perm = Mode::from_raw_mode(0o755);
        let done: Result<(), Errno> = match input.byte() % 20 {
            0 => renameat_with(inside, "f", inside, "n1", RenameFlags::empty()),
            1 => unlinkat(inside, "f", AtFlags::empty()),
            2 => swap("d", "out"), // a directory becomes a symlink to what is outside
            3 => swap("f", "up"),
            4 => swap("f", "p"),
            5 => swap("f", "g"),
            6 => swap("f", "d"),
            7 => swap("d/e", "e"),
            8 => renameat_with(inside, "d", away, "d", RenameFlags::empty()),
            9 => renameat_with(away, "d", inside, "d", RenameFlags::empty()),
            10 => renameat_with(inside, "d/k", away, "k", RenameFlags::empty()),
            11 => renameat_with(away, "k", inside, "k", RenameFlags::empty()),
            12 => renameat_with(inside, "f", away, "f", RenameFlags::empty()),
            13 => mkdirat(inside, "n1", perm),
            14 => unlinkat(inside, "d/k/m", AtFlags::empty()),
            15 => unlinkat(inside, "d/k", AtFlags::REMOVEDIR),
            16 => symlinkat("../outside/d", inside, "n2"),
            17 => mknodat(inside, "n1", FileType::Fifo, perm, 0),
            18 => openat(
                inside,
                "f",
                OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .and_then(|file| fchmod(file, Mode::empty())),
            _ => swap("d/k", "d/e"),
        };
        let _as_far_as_it_goes = done;
    }

    /// Takes what came to the listening socket.
    pub(crate) fn hang_up(&self) {
        while self.listener.accept().is_ok() {}
    }

    /// A file that a client may get: of this tree, and not outside.
    pub(crate) fn check_donated(&self, stat: &Stat) {
        let [root, secret] = [0, 2].map(|at| &self.outside[at]);
        assert_eq!(
            stat.st_dev, root.st_dev,
            "a file of another file system was donated"
        );
        assert_ne!(
            stat.st_ino, secret.st_ino,
            "a file from outside was donated"
        );
    }

    /// That nothing outside was read, listed or changed.
    pub(crate) fn check_outside(&self) {
        for ((was, is), name) in self.outside.iter().zip(self.stat_outside()).zip(OUTSIDE) {
            let facts = |s: &Stat| {
                [
                    s.st_ino,
                    s.st_mode.into(),
                    s.st_nlink,
                    s.st_size.cast_unsigned(),
                    s.st_uid.into(),
                    s.st_gid.into(),
                ]
            };
            let times = |s: &Stat| {
                [
                    s.st_atime,
                    s.st_atime_nsec.cast_signed(),
                    s.st_mtime,
                    s.st_mtime_nsec.cast_signed(),
                    s.st_ctime,
                    s.st_ctime_nsec.cast_signed(),
                ]
            };
            assert!(
                facts(was) == facts(&is) && times(was) == times(&is),
                "outside/{name} was touched: {was:?} is now {is:?}"
            );
        }
    }
}

/// Open descriptors of this process.
pub(crate) fn descriptors() -> usize {
    let stat = statat(CWD, "/proc/self/fd", AtFlags::empty()).expect("stat /proc/self/fd");
    match stat.st_size {
        // Linux before 6.2 does not count them there.
        0 => {
            std::fs::read_dir("/proc/self/fd")
                .expect("read /proc/self/fd")
                .count()
                - 1
        }
        count => usize::try_from(count).expect("a count"),
    }
}
