//! The steps, and how they are chosen: few names and few fids, so that they meet often.

use crate::host::{self, Change};
use crate::p9::{NOFID, NOID, SetAttr};
use nix::sys::stat::SFlag;
use std::fmt;

/// A name that prints readably.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(pub Vec<u8>);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() > 16 {
            write!(f, "({} bytes)", self.0.len())
        } else {
            write!(f, "{:?}", String::from_utf8_lossy(&self.0))
        }
    }
}

#[derive(Debug, Clone)]
pub struct Step {
    pub connection: usize,
    pub op: Op,
}

/// `uid: None` is the plain form of a message with a Tu* form.
#[derive(Debug, Clone)]
pub enum Op {
    Attach {
        afid: u32,
    },
    Walk {
        fid: u32,
        newfid: u32,
        names: Vec<Name>,
        getattr: bool,
    },
    Clunk {
        fid: u32,
    },
    Remove {
        fid: u32,
    },
    Open {
        fid: u32,
        flags: u32,
    },
    Create {
        fid: u32,
        name: Name,
        flags: u32,
        perm: u32,
        gid: u32,
        uid: Option<u32>,
    },
    Mkdir {
        dfid: u32,
        name: Name,
        perm: u32,
        gid: u32,
        uid: Option<u32>,
    },
    Symlink {
        dfid: u32,
        name: Name,
        target: Name,
        gid: u32,
        uid: Option<u32>,
    },
    Mknod {
        dfid: u32,
        name: Name,
        mode: u32,
        gid: u32,
        uid: Option<u32>,
    },
    Link {
        dfid: u32,
        fid: u32,
        name: Name,
    },
    Rename {
        fid: u32,
        dfid: u32,
        name: Name,
    },
    Renameat {
        olddirfid: u32,
        oldname: Name,
        newdirfid: u32,
        newname: Name,
    },
    Unlinkat {
        dfid: u32,
        name: Name,
        flags: u32,
    },
    Setattr {
        fid: u32,
        valid: u32,
        attr: SetAttr,
    },
    Allocate {
        fid: u32,
        mode: u32,
        offset: u64,
        length: u64,
    },
    Read {
        fid: u32,
        offset: u64,
        count: u32,
    },
    Write {
        fid: u32,
        offset: u64,
        length: usize,
        byte: u8,
    },
    /// Treaddir from the start to the end.
    List {
        fid: u32,
        count: u32,
    },
    /// One Treaddir, from where the fid's last one ended.
    ListOn {
        fid: u32,
        count: u32,
    },
    Readlink {
        fid: u32,
    },
    Getattr {
        fid: u32,
        mask: u64,
    },
    Statfs {
        fid: u32,
    },
    Fsync {
        fid: u32,
    },
    /// An extended attribute, by gVisor's message or by Linux's walk.
    Xattr {
        fid: u32,
        act: Act,
        name: Name,
    },
    /// What the host does between two requests, whatever the connection.
    Host(Change),
    /// Tsetattrclunk with nothing to change, Tmultigetattr of the fid alone, Tflushf, Tlconnect.
    Idle {
        fid: u32,
        which: u8,
    },
}

#[derive(Debug, Clone)]
pub enum Act {
    Get {
        size: u64,
    },
    Set {
        length: usize,
        byte: u8,
        flags: u32,
    },
    Remove,
    List {
        size: u64,
    },
    /// Txattrwalk, Tread, Tclunk.
    Walk,
    /// Twalk, Txattrcreate, Twrite, Tclunk.
    Create {
        length: usize,
        byte: u8,
        flags: u32,
    },
}

/// xorshift64*, seeded through splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((mixed ^ (mixed >> 31)) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 33) as usize) % end
    }

    /// Once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// The attach roots' fid, which no step gives away: there is no second attach.
pub const ROOT: u32 = 1;
const FIDS: u32 = 24;
/// The directory that the second connection serves.
pub const SHARED: &str = "sub";

/// Types of files, as far as the protocol tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    /// A FIFO, a socket or a character device.
    Special,
    Block,
}

impl Kind {
    pub fn of(mode: u32) -> Kind {
        match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => Kind::Regular,
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => Kind::Symlink,
            SFlag::S_IFBLK => Kind::Block,
            _ => Kind::Special,
        }
    }

    pub fn qid_type(self) -> u8 {
        match self {
            Kind::Regular | Kind::Block => 0,
            Kind::Directory => 0x80,
            Kind::Symlink => 0x02,
            Kind::Special => 0x40,
        }
    }
}

/// A fid that is known: what it is on and, where it is open, the access mode.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub fid: u32,
    pub kind: Kind,
    pub mode: Option<u32>,
}

/// Chooses the next step of connection `connection`, which has these fids.
pub fn choose(random: &mut Random, connection: usize, known: &[Known]) -> Step {
    let op = Chooser { random, known }.op();
    Step { connection, op }
}

/// Chooses a change by the host.
pub fn choose_change(random: &mut Random) -> Step {
    let targets = host::TARGETS;
    let op = Op::Host(host::Chooser { random, targets }.change());
    Step { connection: 0, op }
}

struct Chooser<'a> {
    random: &'a mut Random,
    known: &'a [Known],
}

impl Chooser<'_> {
    /// Any fid, mostly a known one.
    fn fid(&mut self) -> u32 {
        self.fid_where(|_, _| true)
    }

    /// A fid, mostly one for which `wanted` holds of its kind and, where it is open, the access mode.
    fn fid_where(&mut self, wanted: impl Fn(Kind, Option<u32>) -> bool) -> u32 {
        if self.random.once_in(12) {
            return self.random.of(&[0, 3, 7, FIDS, NOFID]);
        }
        let fids = |all: &[Known], wanted: &dyn Fn(&Known) -> bool| -> Vec<u32> {
            let wanted = all.iter().filter(|known| wanted(known));
            wanted.map(|known| known.fid).collect()
        };
        let known = fids(self.known, &|known| wanted(known.kind, known.mode));
        if known.is_empty() || self.random.once_in(12) {
            let all = fids(self.known, &|_| true);
            return self.random.of(&all);
        }
        self.random.of(&known)
    }

    fn dir(&mut self) -> u32 {
        self.fid_where(|kind, mode| kind == Kind::Directory && mode.is_none())
    }

    /// An open file, mostly not with access mode `but`.
    fn opened(&mut self, but: u32) -> u32 {
        self.fid_where(|kind, mode| kind == Kind::Regular && mode.is_some_and(|mode| mode != but))
    }

    fn file(&mut self) -> u32 {
        self.fid_where(|kind, _| kind != Kind::Directory)
    }

    /// A fid number that may be given away, mostly a free one.
    fn newfid(&mut self) -> u32 {
        let number = ROOT + 1 + self.random.below(FIDS as usize - 2) as u32;
        let known = self.known.iter().any(|known| known.fid == number);
        if known && !self.random.once_in(4) {
            ROOT + 1 + self.random.below(FIDS as usize - 2) as u32
        } else {
            number
        }
    }

    fn spare(&mut self, fid: u32) -> u32 {
        if fid == ROOT { self.newfid() } else { fid }
    }

    fn name(&mut self) -> Name {
        let name: &[u8] = match self.random.below(120) {
            0 => self
                .random
                .of(&[&b""[..], b".", b"..", b"a/b", b"/", b"a\0"]),
            1 => &[b'x'; 256],
            2 => &[b'x'; 255],
            3..=10 => SHARED.as_bytes(),
            _ => self.random.of(&[&b"a"[..], b"b", b"c", b"d", b"e"]),
        };
        Name(name.to_vec())
    }

    fn names(&mut self) -> Vec<Name> {
        let count = match self.random.below(400) {
            0 => 257,
            1 => 256,
            other => [0, 1, 1, 1, 1, 2, 2, 3, 4][other % 9],
        };
        (0..count).map(|_| self.name()).collect()
    }

    fn id(&mut self) -> u32 {
        self.random.of(&[0, 0, 5, 1000, NOID, NOID, 0xffff_fffe])
    }

    fn owner(&mut self) -> (u32, Option<u32>) {
        let gid = self.id();
        let tagged = self.random.once_in(2);
        (gid, tagged.then(|| self.id()))
    }

    fn perm(&mut self) -> u32 {
        match self.random.below(4) {
            0 => self.random.next() as u32, // the wire cuts it
            1 => self.random.of(&[0o4755, 0o2755, 0o1777, 0o7777, 0o2070, 0]),
            _ => self.random.of(&[0o644, 0o755, 0o600]),
        }
    }

    fn flags(&mut self) -> u32 {
        let mode = self.random.of(&[0, 0, 1, 2, 2, 3]);
        let more = match self.random.below(6) {
            0 => 0x200,
            1 => self.random.next() as u32 & !0x203,
            2 => self
                .random
                .of(&[0x8000, 0o100, 0o200, 0o2000, 0o4000, 0o200_000]),
            _ => 0,
        };
        mode | more
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(30) {
            0 => self.random.of(&[1 << 63, u64::MAX, (1 << 63) - 1, 1 << 62]),
            _ => self.random.below(20_000) as u64,
        }
    }

    fn setattr(&mut self) -> Op {
        let fid = match self.random.below(3) {
            0 => self.file(),
            1 => self.dir(),
            _ => self.fid(),
        };
        let valid = match self.random.below(4) {
            0 => 1 << self.random.below(10),
            1 => self.random.next() as u32 & 0x1bf,
            2 => self
                .random
                .of(&[0, 0x200, 0x1ff, 0x1bf, 0xffff_ffff, 0x90, 0x120, 0x130, 6]),
            _ => self.random.of(&[1, 2, 4, 8, 0x10, 0x20, 0x1b0, 7, 0xf]),
        };
        let size = match self.random.below(12) {
            0 => self.random.of(&[1 << 63, u64::MAX, (1 << 63) - 1]),
            _ => self.random.below(30_000) as u64,
        };
        let attr = SetAttr {
            mode: self.perm(),
            uid: self.id(),
            gid: self.id(),
            size,
            atime: self.seconds(),
            atime_ns: self.nanoseconds(),
            mtime: self.seconds(),
            mtime_ns: self.nanoseconds(),
        };
        Op::Setattr { fid, valid, attr }
    }

    fn seconds(&mut self) -> u64 {
        match self.random.below(16) {
            0 => self.random.of(&[u64::MAX, 1 << 63, 1 << 40, 0]),
            _ => self.random.below(1_000_000) as u64,
        }
    }

    fn nanoseconds(&mut self) -> u64 {
        match self.random.below(16) {
            // UTIME_NOW and UTIME_OMIT, and out of range
            0 => self
                .random
                .of(&[0x3fff_ffff, 0x3fff_fffe, 1_000_000_000, u64::MAX]),
            _ => self.random.below(1_000_000_000) as u64,
        }
    }

    fn xattr(&mut self) -> Op {
        let name: &[u8] = match self.random.below(12) {
            0 => self.random.of(&[
                &b""[..],
                b"user",
                b"user.",
                b"security.capability",
                b"trusted.a",
                b"user.a\0b",
                &[b'u'; 300],
            ]),
            _ => self.random.of(&[&b"user.a"[..], b"user.b"]),
        };
        let size = self.random.of(&[0, 1, 7, 14, 100, 65_536, u64::MAX]);
        let length = self.random.of(&[0, 0, 1, 50, 100, 200]);
        let flags = self.random.of(&[0, 0, 0, 1, 2, 3, 4, u32::MAX]);
        let byte = self.random.next() as u8;
        let act = match self.random.below(10) {
            0 | 1 => Act::Get { size },
            2..=4 => Act::Set {
                length,
                byte,
                flags,
            },
            5 => Act::Remove,
            6 => Act::List { size },
            7 | 8 => Act::Walk,
            _ => Act::Create {
                length,
                byte,
                flags,
            },
        };
        Op::Xattr {
            fid: self.fid(),
            act,
            name: Name(name.to_vec()),
        }
    }

    fn count(&mut self) -> u32 {
        self.random.of(&[0, 10, 24, 30, 60, 100, 4096, 65536])
    }

    fn op(&mut self) -> Op {
        match self.random.below(100) {
            0 => Op::Attach {
                afid: self.random.of(&[NOFID, NOFID, 5]),
            },
            1..=17 => Op::Walk {
                fid: self.dir(),
                newfid: self.newfid(),
                names: self.names(),
                getattr: self.random.once_in(2),
            },
            18..=20 => {
                let fid = self.fid();
                Op::Walk {
                    fid,
                    newfid: if self.random.once_in(3) {
                        self.spare(fid)
                    } else {
                        self.newfid()
                    },
                    names: self.names(),
                    getattr: self.random.once_in(2),
                }
            }
            21..=23 => {
                let fid = self.fid();
                Op::Clunk {
                    fid: self.spare(fid),
                }
            }
            24..=26 => {
                let fid = self.file();
                Op::Remove {
                    fid: self.spare(fid),
                }
            }
            27..=33 => Op::Open {
                // The root's fid, once open, would be of no more use.
                fid: match self.random.below(4) {
                    0 => self.fid_where(|kind, mode| kind == Kind::Directory && mode.is_none()),
                    _ => self.fid_where(|kind, mode| kind == Kind::Regular && mode.is_none()),
                }
                .max(ROOT + 1),
                flags: if self.random.once_in(3) {
                    0
                } else {
                    self.flags()
                },
            },
            34..=38 => {
                let fid = self.dir();
                let (gid, uid) = self.owner();
                Op::Create {
                    fid: self.spare(fid),
                    name: self.name(),
                    flags: self.flags(),
                    perm: self.perm(),
                    gid,
                    uid,
                }
            }
            39..=43 => {
                let (gid, uid) = self.owner();
                Op::Mkdir {
                    dfid: self.dir(),
                    name: self.name(),
                    perm: self.perm(),
                    gid,
                    uid,
                }
            }
            44..=46 => {
                let (gid, uid) = self.owner();
                Op::Symlink {
                    dfid: self.dir(),
                    name: self.name(),
                    target: self.target(),
                    gid,
                    uid,
                }
            }
            47..=49 => {
                let (gid, uid) = self.owner();
                Op::Mknod {
                    dfid: self.dir(),
                    name: self.name(),
                    mode: if self.random.once_in(4) {
                        self.random.next() as u32
                    } else {
                        0o100_000 | self.perm() & 0o7777
                    },
                    gid,
                    uid,
                }
            }
            50..=54 => Op::Link {
                dfid: self.dir(),
                fid: self.file(),
                name: self.name(),
            },
            55..=59 => Op::Rename {
                fid: self.fid(),
                dfid: self.dir(),
                name: self.name(),
            },
            60..=66 => Op::Renameat {
                olddirfid: self.dir(),
                oldname: self.name(),
                newdirfid: self.dir(),
                newname: self.name(),
            },
            67..=72 => Op::Unlinkat {
                dfid: self.dir(),
                name: self.name(),
                flags: self.random.of(&[0, 0, 0, 0x200, 0x200, 0x201, 1, 0x100]),
            },
            73..=79 => self.setattr(),
            80..=81 => Op::Allocate {
                fid: self.opened(0),
                mode: self.random.of(&[0, 0, 0, 1, 3, 0x40]),
                offset: self.offset(),
                length: match self.random.below(8) {
                    0 => self.random.of(&[0, 1 << 63, u64::MAX, (1 << 63) - 1]),
                    _ => self.random.below(20_000) as u64,
                },
            },
            82..=83 => Op::Read {
                fid: self.opened(1),
                offset: self.offset(),
                count: self
                    .random
                    .of(&[0, 1, 512, 8192, 8192, 1 << 20, (1 << 20) + 1]),
            },
            84..=86 => Op::Write {
                fid: self.opened(0),
                offset: self.offset(),
                length: self.random.below(6_000),
                byte: self.random.next() as u8,
            },
            87 => Op::List {
                fid: self.fid_where(|kind, mode| kind == Kind::Directory && mode.is_some()),
                count: self.count(),
            },
            88..=90 => Op::ListOn {
                fid: self.fid_where(|kind, mode| kind == Kind::Directory && mode.is_some()),
                count: self.count(),
            },
            91..=92 => Op::Readlink {
                fid: self.fid_where(|kind, _| kind == Kind::Symlink),
            },
            93..=94 => self.xattr(),
            95..=96 => Op::Getattr {
                fid: self.fid(),
                mask: self.random.next(),
            },
            97 => Op::Statfs { fid: self.fid() },
            98 if self.random.once_in(3) => Op::Fsync {
                fid: self.opened(9),
            },
            _ => Op::Idle {
                fid: self.fid(),
                which: self.random.below(4) as u8,
            },
        }
    }

    fn target(&mut self) -> Name {
        let target = match self.random.below(20) {
            0 => vec![b't'; 4095],
            1 => vec![b't'; 4096],
            2 => Vec::new(),
            3 => b"a\0b".to_vec(),
            4 => vec![b't'; 200],
            _ => self
                .random
                .of(&[&b"a"[..], b"../b", b"/etc", b"\xff\xfe"])
                .to_vec(),
        };
        Name(target)
    }
}
