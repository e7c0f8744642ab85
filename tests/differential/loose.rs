//! Steps while the host changes the tree at the same time: nobody can tell what each will find, so what is
//! checked is what must hold whatever it finds.
//!
//! * Every request is answered, by a reply of its type or an errno that such a step may have.
//! * What depends on the connection's own fids alone is exact: an unknown fid is EBADF, an unsafe name EINVAL;
//!   a known fid can be cloned, looked at and given up, an open one read and written as it was opened.
//! * A fid stays on its file: the inode of the walk is that of every later reply and of the descriptor donated.
//! * What is read through a fid, and its attributes, are those that the descriptor donated with it tells, where
//!   these are the same before and after.
//! * The [`Watch`] says which inodes and bytes no reply may have.

use crate::ask;
use crate::ops::{Act, Kind, Known, Name, Op};
use crate::p9::{Answer, Attr, Client, Data, Dirent, Fault, NOID, QT_DIR, Qid, Ropen};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, lstat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub type Same<T = ()> = Result<T, String>;
/// How often a kind of step was done, or refused with an errno.
pub type Tally = BTreeMap<(String, String), usize>;

/// What no reply may tell of.
#[derive(Debug, Default)]
pub struct Watch {
    pub inodes: BTreeSet<u64>,
    /// A text that stands in every file there.
    pub text: Vec<u8>,
}

/// A connection's flavour.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flavour {
    /// Plain 9P2000.L.
    pub linux: bool,
    pub read_only: bool,
    /// The host's sockets and FIFOs are served.
    pub special: bool,
    /// Without the clone of /proc/self/fd: files are opened again by parent and name.
    pub by_parent: bool,
}

#[derive(Debug)]
struct Fid {
    kind: Kind,
    inode: u64,
    mode: Option<u32>,
    donated: Option<OwnedFd>,
    offset: u64,
}

#[derive(Debug)]
pub struct Loose<'w> {
    pub client: Client,
    pub flavour: Flavour,
    pub tally: Tally,
    fids: BTreeMap<u32, Fid>,
    watch: &'w Watch,
}

/// What a step must come to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Must {
    Succeed,
    Fail(Errno),
    Either,
}

fn is_safe(name: &Name) -> bool {
    let bytes = name.0.as_slice();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/') && !bytes.contains(&0)
}

fn kind_of(qid: &Qid) -> Kind {
    match qid.kind {
        0x80 => Kind::Directory,
        0x02 => Kind::Symlink,
        0x40 => Kind::Special,
        _ => Kind::Regular,
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Same {
    if holds { Ok(()) } else { Err(why()) }
}

/// The wire's attributes against a descriptor's, but for the times that reading changes, and for blocks: ext4
/// allocates them behind its writes, at a time of its own.
fn same_attr(attr: &Attr, stat: &FileStat) -> Same {
    let got = (
        attr.mode, attr.uid, attr.gid, attr.nlink, attr.rdev, attr.size,
    );
    let want = (
        stat.st_mode,
        stat.st_uid,
        stat.st_gid,
        stat.st_nlink,
        stat.st_rdev,
        stat.st_size.cast_unsigned(),
    );
    let times = |a: &Attr| (a.mtime.cast_signed(), a.mtime_ns as i64);
    ensure(
        got == want && times(attr) == (stat.st_mtime, stat.st_mtime_nsec),
        || format!("attributes {attr:?}, host {stat:?}"),
    )
}

/// Errnos of steps that found something else than they looked for. None of them is EIO, EFAULT or ENOMEM,
/// none says that descriptors are leaking, and none that it would have waited.
fn may_fail(op: &Op, flavour: Flavour) -> Vec<Errno> {
    use Errno::*;
    let mut all = vec![EINVAL];
    if flavour.read_only {
        all.push(EROFS);
    }
    all.extend(match op {
        Op::Attach { .. } => vec![EIO],
        Op::Walk { .. } => vec![ENOENT, EBUSY, E2BIG, ENAMETOOLONG, EPERM],
        Op::Clunk { .. } | Op::Getattr { .. } | Op::Statfs { .. } | Op::Fsync { .. } => vec![],
        Op::Remove { .. } => vec![ENOENT, EISDIR],
        Op::Open { .. } => vec![EISDIR, ENXIO],
        Op::Create { .. } | Op::Mkdir { .. } | Op::Symlink { .. } | Op::Mknod { .. } => {
            // ESTALE: what was made has been put elsewhere; Linux is to look again.
            vec![EEXIST, ENOENT, ENAMETOOLONG, EPERM, ESTALE]
        }
        // EXDEV: one of the two lies outside by now.
        Op::Link { .. } => vec![EEXIST, ENOENT, ENAMETOOLONG, EPERM, EMLINK, EXDEV],
        Op::Rename { .. } | Op::Renameat { .. } => {
            vec![ENOENT, ENOTDIR, EISDIR, ENOTEMPTY, ENAMETOOLONG, EXDEV]
        }
        Op::Unlinkat { .. } => vec![ENOENT, ENOTDIR, EISDIR, ENOTEMPTY, ENAMETOOLONG],
        Op::Setattr { .. } => vec![EPERM, EBADF, EFBIG],
        Op::Allocate { .. } => vec![EBADF, EOPNOTSUPP, EFBIG, ENODEV, ESPIPE],
        // EBADF: opened with access mode 3, which is for neither.
        Op::Read { .. } | Op::Write { .. } => vec![EPERM, EBADF, ENOBUFS, EISDIR, EFBIG],
        Op::List { .. } | Op::ListOn { .. } => vec![ENOENT],
        Op::Readlink { .. } => vec![ENOENT],
        Op::Xattr { .. } => vec![
            EBUSY, EEXIST, ENODATA, EOPNOTSUPP, ERANGE, ENOSPC, EPERM, ENOENT,
        ],
        Op::Idle { .. } => vec![EBUSY, ENOENT, ENOTDIR, ECONNREFUSED, EAGAIN, EPROTOTYPE],
        Op::Host(_) => vec![],
    });
    if flavour.linux {
        all.extend([ENOTDIR, EOPNOTSUPP, ENOENT, EISDIR, ENOTEMPTY]);
    }
    if flavour.special {
        all.extend([ESPIPE, EAGAIN, ENODEV, EPIPE]); // of FIFOs
    }
    if flavour.by_parent {
        // What has the name by now: gone, another file, a symlink, a special file, no directory. EACCES: it lies
        // outside by now, where Landlock lets nothing be opened or changed.
        all.extend([
            ENOENT, ESTALE, ELOOP, ENXIO, ENODEV, ENOTDIR, EISDIR, EPERM, EXDEV, EACCES,
        ]);
    }
    all
}

impl<'w> Loose<'w> {
    /// An attached connection, whose root is `root`.
    pub fn new(client: Client, root: u32, flavour: Flavour, watch: &'w Watch) -> Loose<'w> {
        let mut loose = Loose {
            client,
            flavour,
            tally: Tally::new(),
            fids: BTreeMap::new(),
            watch,
        };
        let got = loose.client.getattr(root, 0).expect("the root is served");
        loose.put(root, &got.qid);
        loose
    }

    pub fn known(&self) -> Vec<Known> {
        let known = self.fids.iter().map(|(fid, state)| Known {
            fid: *fid,
            kind: state.kind,
            mode: state.mode,
        });
        known.collect()
    }

    fn put(&mut self, fid: u32, qid: &Qid) {
        let state = Fid {
            kind: kind_of(qid),
            inode: qid.path,
            mode: None,
            donated: None,
            offset: 0,
        };
        self.fids.insert(fid, state);
    }

    fn is_known(&self, fid: u32) -> bool {
        self.fids.contains_key(&fid)
    }

    fn is_open(&self, fid: u32) -> bool {
        self.fids
            .get(&fid)
            .is_some_and(|state| state.mode.is_some())
    }

    /// No device but the attach point's own, no inode that is watched.
    fn qid(&self, qid: &Qid) -> Same {
        ensure(qid.path >> 56 == 0, || format!("another device: {qid:?}"))?;
        let version = qid.version == 0 || self.flavour.linux;
        ensure(version, || format!("version: {qid:?}"))?;
        self.inode(qid.path)
    }

    fn inode(&self, inode: u64) -> Same {
        let watched = self.watch.inodes.contains(&inode);
        ensure(!watched, || format!("inode {inode} lies outside"))
    }

    fn bytes(&self, bytes: &[u8]) -> Same {
        let text = self.watch.text.as_slice();
        let found = !text.is_empty() && bytes.windows(text.len()).any(|part| part == text);
        ensure(!found, || "the text of a file outside".into())
    }

    /// The fid's qid is what it was at the walk.
    fn own_qid(&self, fid: u32, qid: &Qid) -> Same {
        self.qid(qid)?;
        let state = self.fids.get(&fid).ok_or("a fid of ours")?;
        ensure(
            (state.inode, state.kind) == (qid.path, kind_of(qid)),
            || format!("{qid:?} of a fid on {state:?}"),
        )
    }

    /// Compares with what must be, and notes it.
    fn settle<T: std::fmt::Debug>(
        &mut self,
        op: &Op,
        must: Must,
        got: Answer<T>,
    ) -> Same<Option<T>> {
        let kind = format!("{op:?}");
        let kind = kind.split_whitespace().next().unwrap_or_default();
        let (outcome, result) = match got {
            Ok(got) => {
                let allowed = matches!(must, Must::Succeed | Must::Either);
                ensure(allowed, || format!("{got:?}, must be {must:?}"))?;
                ("done".into(), Some(got))
            }
            Err(Fault::Errno(errno)) => {
                let allowed = match must {
                    Must::Succeed => false,
                    Must::Fail(wanted) => wanted == errno,
                    Must::Either => may_fail(op, self.flavour).contains(&errno),
                };
                ensure(allowed, || format!("{errno:?}, must be {must:?}"))?;
                (format!("{errno:?}"), None)
            }
            Err(fault) => return Err(fault.to_string()),
        };
        *self.tally.entry((kind.into(), outcome)).or_default() += 1;
        Ok(result)
    }

    /// Of a step through one fid.
    fn must(&self, fid: u32) -> Must {
        if self.is_known(fid) {
            Must::Either
        } else {
            Must::Fail(Errno::EBADF)
        }
    }

    fn must_all(&self, fids: &[u32], names: &[&Name]) -> Must {
        // Names are looked at first.
        if !names.iter().all(|name| is_safe(name)) {
            return Must::Fail(Errno::EINVAL);
        }
        let unknown = fids.iter().any(|fid| !self.is_known(*fid));
        if unknown {
            Must::Fail(Errno::EBADF)
        } else {
            Must::Either
        }
    }

    /// What holds of a known fid whatever the host does.
    fn sure(&self, fid: u32) -> Must {
        match self.must(fid) {
            Must::Either => Must::Succeed,
            other => other,
        }
    }

    pub fn step(&mut self, op: &Op) -> Same {
        let linux = self.flavour.linux;
        match op {
            Op::Host(_) => unreachable!("no request"),
            Op::Attach { afid } => {
                let got = self.client.attach(2, *afid, b"", b"/", NOID);
                if let Some(got) = self.settle(op, Must::Either, got)? {
                    ensure(linux, || "a second attach".into())?;
                    self.qid(&got.qid)?;
                    self.put(2, &got.qid);
                }
            }
            Op::Walk {
                fid,
                newfid,
                names,
                getattr,
            } => {
                self.walk(op, (*fid, *newfid), names, *getattr)?;
            }
            Op::Clunk { fid } => {
                let (must, got) = (self.sure(*fid), self.client.clunk(*fid));
                self.settle(op, must, got)?;
                self.fids.remove(fid);
            }
            Op::Remove { fid } => {
                let (must, got) = (self.must(*fid), self.client.remove(*fid));
                self.settle(op, must, got)?;
                self.fids.remove(fid);
            }
            Op::Open { fid, flags } => {
                let mut must = self.must(*fid);
                if self.is_open(*fid) {
                    must = Must::Fail(Errno::EINVAL);
                }
                let got = self.client.lopen(*fid, *flags);
                if let Some(got) = self.settle(op, must, got)? {
                    self.own_qid(*fid, &got.qid)?;
                    self.opened(*fid, flags & 3, got)?;
                }
            }
            Op::Create {
                fid,
                name,
                flags,
                perm,
                gid,
                uid,
            } => {
                let must = self.must_all(&[*fid], &[name]);
                let got = ask::create(&mut self.client, *fid, name, *flags, *perm, (*uid, *gid));
                if let Some(got) = self.settle(op, must, got)? {
                    self.qid(&got.qid)?;
                    self.put(*fid, &got.qid);
                    self.opened(*fid, flags & 3, got)?;
                }
            }
            Op::Mkdir {
                dfid,
                name,
                perm,
                gid,
                uid,
            } => {
                let must = self.must_all(&[*dfid], &[name]);
                let got = ask::mkdir(&mut self.client, *dfid, name, *perm, (*uid, *gid));
                if let Some(got) = self.settle(op, must, got)? {
                    self.qid(&got.qid)?;
                }
            }
            Op::Symlink {
                dfid,
                name,
                target,
                gid,
                uid,
            } => {
                let must = self.must_all(&[*dfid], &[name]);
                let got = ask::symlink(&mut self.client, *dfid, name, &target.0, (*uid, *gid));
                if let Some(got) = self.settle(op, must, got)? {
                    self.qid(&got.qid)?;
                }
            }
            Op::Mknod {
                dfid,
                name,
                mode,
                gid,
                uid,
            } => {
                let must = self.must_all(&[*dfid], &[name]);
                let got = ask::mknod(&mut self.client, *dfid, name, *mode, (*uid, *gid));
                if let Some(got) = self.settle(op, must, got)? {
                    self.qid(&got.qid)?;
                }
            }
            Op::Link { dfid, fid, name } => {
                let must = self.must_all(&[*dfid, *fid], &[name]);
                let got = self.client.link(*dfid, *fid, &name.0);
                self.settle(op, must, got)?;
            }
            Op::Rename { fid, dfid, name } => {
                let must = self.must_all(&[*fid, *dfid], &[name]);
                let got = self.client.rename(*fid, *dfid, &name.0);
                self.settle(op, must, got)?;
            }
            Op::Renameat {
                olddirfid,
                oldname,
                newdirfid,
                newname,
            } => {
                let (old, new) = (*olddirfid, *newdirfid);
                let must = self.must_all(&[old, new], &[oldname, newname]);
                let got = self.client.renameat(old, &oldname.0, new, &newname.0);
                self.settle(op, must, got)?;
            }
            Op::Unlinkat { dfid, name, flags } => {
                let must = self.must_all(&[*dfid], &[name]);
                let got = self.client.unlinkat(*dfid, &name.0, *flags);
                self.settle(op, must, got)?;
            }
            Op::Setattr { fid, valid, attr } => {
                let (must, got) = (self.must(*fid), self.client.setattr(*fid, *valid, attr));
                self.settle(op, must, got)?;
            }
            Op::Allocate {
                fid,
                mode,
                offset,
                length,
            } => {
                let must = self.must(*fid);
                let got = self.client.allocate(*fid, *mode, *offset, *length);
                self.settle(op, must, got)?;
            }
            Op::Read { fid, offset, count } => self.read(op, *fid, *offset, *count)?,
            Op::Write {
                fid,
                offset,
                length,
                byte,
            } => {
                let data = vec![*byte; *length];
                let must = self.must(*fid);
                let got = self.client.write(*fid, *offset, Data(&data));
                if let Some(got) = self.settle(op, must, got)? {
                    let whole = got.count as usize == *length;
                    ensure(whole, || format!("{} bytes of {length} written", got.count))?;
                }
            }
            Op::List { fid, count } => {
                let (must, got) = (self.must(*fid), self.client.list(*fid, *count));
                if let Some(all) = self.settle(op, must, got)? {
                    all.iter().try_for_each(|entry| self.entry(entry))?;
                }
            }
            Op::ListOn { fid, count } => {
                let must = self.must(*fid);
                let offset = self.fids.get(fid).map_or(0, |state| state.offset);
                let got = self.client.readdir(*fid, offset, *count);
                if let Some(got) = self.settle(op, must, got)? {
                    ensure(got.entries.bytes <= *count as usize, || {
                        "more than count".into()
                    })?;
                    let all = got.entries.list;
                    all.iter().try_for_each(|entry| self.entry(entry))?;
                    let last = all.last().map_or(0, |last| last.offset);
                    self.fids.get_mut(fid).ok_or("a fid of ours")?.offset = last;
                }
            }
            Op::Readlink { fid } => {
                let (must, got) = (self.must(*fid), self.client.readlink(*fid));
                self.settle(op, must, got)?;
            }
            Op::Getattr { fid, mask } => self.getattr(op, *fid, *mask)?,
            Op::Statfs { fid } => {
                let (must, got) = (self.sure(*fid), self.client.statfs(*fid));
                self.settle(op, must, got)?;
            }
            Op::Fsync { fid } => {
                let must = match self.must(*fid) {
                    Must::Either if !self.is_open(*fid) => Must::Fail(Errno::EINVAL),
                    // Of a FIFO the host refuses it.
                    Must::Either if !self.flavour.special => Must::Succeed,
                    other => other,
                };
                let got = self.client.fsync(*fid, 0);
                self.settle(op, must, got)?;
            }
            Op::Xattr { fid, act, name } => self.xattr(op, *fid, act, &name.0)?,
            Op::Idle { fid, which } => self.idle(op, *fid, *which)?,
        }
        Ok(())
    }

    fn walk(&mut self, op: &Op, (fid, newfid): (u32, u32), names: &[Name], getattr: bool) -> Same {
        let (known, open) = (self.is_known(fid), self.is_open(fid));
        let must = if !known {
            Must::Fail(Errno::EBADF)
        } else if !names.iter().all(is_safe) {
            Must::Fail(Errno::EINVAL)
        } else if open && !self.flavour.linux {
            Must::Fail(Errno::EBUSY)
        } else if names.is_empty() && !open {
            Must::Succeed
        } else {
            Must::Either
        };
        let parts: Vec<&[u8]> = names.iter().map(|name| name.0.as_slice()).collect();
        let (got, attr) = if getattr {
            match self.client.walkgetattr(fid, newfid, &parts) {
                Ok(got) => (Ok(got.qids), Some(got.attr)),
                Err(fault) => (Err(fault), None),
            }
        } else {
            let got = self.client.walk(fid, newfid, &parts);
            (got.map(|got| got.qids), None)
        };
        let Some(qids) = self.settle(op, must, got)? else {
            return Ok(());
        };
        ensure(qids.len() == names.len(), || format!("{} qids", qids.len()))?;
        qids.iter().try_for_each(|qid| self.qid(qid))?;
        let (last, above) = qids.split_last().unzip();
        let above: &[Qid] = above.unwrap_or_default();
        let directories = above.iter().all(|qid| qid.kind == QT_DIR);
        ensure(directories, || format!("through no directory: {qids:?}"))?;
        let qid = match last {
            Some(last) => last.clone(),
            None => {
                self.client
                    .getattr(newfid, 0)
                    .map_err(|fault| fault.to_string())?
                    .qid
            }
        };
        if names.is_empty() {
            self.own_qid(fid, &qid)?;
        }
        if let Some(attr) = attr {
            let kind = Kind::of(attr.mode).qid_type() == qid.kind;
            ensure(kind, || format!("mode {:o} of {qid:?}", attr.mode))?;
        }
        self.put(newfid, &qid);
        Ok(())
    }

    fn opened(&mut self, fid: u32, mode: u32, got: Ropen) -> Same {
        let state = self.fids.get_mut(&fid).ok_or("a fid of ours")?;
        let donates = state.kind != Kind::Directory && !self.flavour.linux;
        ensure(got.fd.is_some() == donates, || {
            "a descriptor came, or not".into()
        })?;
        state.mode = Some(mode);
        if let Some(fd) = got.fd {
            let stat = fstat(&fd).map_err(|errno| errno.to_string())?;
            ensure(stat.st_ino == state.inode, || {
                format!("a descriptor of {stat:?} for {state:?}")
            })?;
            state.donated = Some(fd);
        }
        Ok(())
    }

    /// A descriptor of ours on the fid's regular file.
    fn donated(&self, fid: u32) -> Option<File> {
        let state = self
            .fids
            .get(&fid)
            .filter(|state| state.kind == Kind::Regular)?;
        let fd = state
            .donated
            .as_ref()?
            .try_clone()
            .expect("dup a descriptor");
        Some(fd.into())
    }

    fn read(&mut self, op: &Op, fid: u32, offset: u64, count: u32) -> Same {
        let state = self.fids.get(&fid);
        let reads = state.filter(|state| matches!(state.mode, Some(0 | 2)));
        let regular = reads.is_some_and(|state| state.kind == Kind::Regular);
        let fits = count <= 1 << 19 && i64::try_from(offset).is_ok_and(|at| at < 1 << 40);
        let must = match self.must(fid) {
            // A block device looks regular to Linux, and is not opened.
            Must::Either if regular && fits => Must::Succeed,
            other => other,
        };
        let file = self.donated(fid).filter(|_| regular && fits);
        let look = |file: &File| -> Same<Vec<u8>> {
            let mut data = vec![0; count as usize];
            let done = file
                .read_at(&mut data, offset)
                .map_err(|error| error.to_string())?;
            data.truncate(done);
            Ok(data)
        };
        let before = file.as_ref().map(look).transpose()?;
        let got = self.client.read(fid, offset, count);
        let Some(got) = self.settle(op, must, got)? else {
            return Ok(());
        };
        let got = got.data.0;
        self.bytes(&got)?;
        if let (Some(file), Some(before)) = (file, before)
            && before == look(&file)?
        {
            ensure(got == before, || {
                format!("{} bytes read, not the file's", got.len())
            })?;
        }
        Ok(())
    }

    fn getattr(&mut self, op: &Op, fid: u32, mask: u64) -> Same {
        let look = |file: &File| fstat(file).expect("fstat a descriptor of ours");
        let file = self.donated(fid);
        let before = file.as_ref().map(look);
        let (must, got) = (self.sure(fid), self.client.getattr(fid, mask));
        let Some(got) = self.settle(op, must, got)? else {
            return Ok(());
        };
        self.own_qid(fid, &got.qid)?;
        let kind = Kind::of(got.attr.mode).qid_type() == got.qid.kind;
        ensure(kind, || {
            format!("mode {:o} of {:?}", got.attr.mode, got.qid)
        })?;
        if let (Some(file), Some(before)) = (file, before)
            && before == look(&file)
        {
            same_attr(&got.attr, &before)?;
        }
        Ok(())
    }

    fn entry(&self, entry: &Dirent) -> Same {
        let dots = entry.name == b"." || entry.name == b"..";
        ensure(!dots || self.flavour.linux, || format!("{entry:?}"))?;
        if entry.name == b".." {
            // A directory that the host has moved out lies in another; its number is all that is told.
            return Ok(());
        }
        self.inode(entry.qid.path)?;
        ensure(entry.qid.path >> 56 == 0, || {
            format!("another device: {entry:?}")
        })
    }

    fn xattr(&mut self, op: &Op, fid: u32, act: &Act, name: &[u8]) -> Same {
        let spare = u32::MAX - 1;
        let must = self.must(fid);
        let client = &mut self.client;
        match *act {
            Act::Get { size } => {
                let got = client.getxattr(fid, name, size);
                self.settle(op, must, got)?;
            }
            Act::Set {
                length,
                byte,
                flags,
            } => {
                let got = client.setxattr(fid, name, &vec![byte; length], flags);
                self.settle(op, must, got)?;
            }
            Act::Remove => {
                let got = client.removexattr(fid, name);
                self.settle(op, must, got)?;
            }
            Act::List { size } => {
                let got = client.listxattr(fid, size);
                self.settle(op, must, got)?;
            }
            Act::Walk => {
                let got = client.xattrwalk(fid, spare, name);
                if let Some(got) = self.settle(op, must, got)? {
                    let read = self
                        .client
                        .read_all(spare)
                        .map_err(|fault| fault.to_string())?;
                    self.client
                        .clunk(spare)
                        .map_err(|fault| fault.to_string())?;
                    ensure(read.len() as u64 == got.size, || "size of a value".into())?;
                }
            }
            Act::Create {
                length,
                byte,
                flags,
            } => {
                let got = client.walk(fid, spare, &[]);
                if self.settle(op, must, got)?.is_none() {
                    return Ok(());
                }
                let got = self.client.xattrcreate(spare, name, length as u64, flags);
                if self.settle(op, Must::Either, got)?.is_some() && length > 0 {
                    let data = vec![byte; length];
                    let written = self.client.write(spare, 0, Data(&data));
                    written.map_err(|fault| fault.to_string())?;
                }
                let got = self.client.clunk(spare); // in every case
                self.settle(op, Must::Either, got)?;
                let gone = self.client.clunk(spare);
                self.settle(op, Must::Fail(Errno::EBADF), gone)?;
            }
        }
        Ok(())
    }

    fn idle(&mut self, op: &Op, fid: u32, which: u8) -> Same {
        match which {
            0 => {
                let (must, got) = (self.sure(fid), self.client.flushf(fid));
                self.settle(op, must, got)?;
            }
            1 => {
                let (must, got) = (self.must(fid), self.client.lconnect(fid, 0));
                self.settle(op, must, got)?;
            }
            2 => {
                let must = self.sure(fid);
                let got = self.client.multigetattr(fid, &[b""]);
                if let Some(got) = self.settle(op, must, got)? {
                    ensure(got.stats.len() == 1, || "one file, one stat".into())?;
                    self.own_qid(fid, &got.stats[0].qid)?;
                }
            }
            _ => {
                // A way down, all its attributes at once.
                let must = self.must(fid);
                let got = self.client.multigetattr(fid, &[b"a", b"b", b"c"]);
                if let Some(got) = self.settle(op, must, got)? {
                    let mut all = got.stats.iter();
                    all.try_for_each(|stat| self.inode(stat.qid.path))?;
                }
            }
        }
        Ok(())
    }

    /// Once the host is quiet: what the fid `root` leads to is the directory `dir` of the host, name by name.
    /// How many names.
    pub fn view(&mut self, root: u32, dir: &OwnedFd) -> Same<usize> {
        const FIRST: u32 = 1_000;
        let clone = self.client.walk(root, FIRST, &[]);
        clone.map_err(|fault| format!("the root: {fault}"))?;
        self.view_below(FIRST, dir)
    }

    fn view_below(&mut self, fid: u32, dir: &OwnedFd) -> Same<usize> {
        let fault = |fault: Fault| fault.to_string();
        let c = &mut self.client;
        c.walk(fid, fid + 1, &[]).map_err(fault)?;
        c.lopen(fid + 1, 0).map_err(fault)?;
        let listed = c.list(fid + 1, 65_536).map_err(fault)?;
        c.clunk(fid + 1).map_err(fault)?;
        let listed: BTreeSet<_> = listed
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| name != b"." && name != b"..")
            .collect();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut names = BTreeSet::new();
        let mut host = nix::dir::Dir::openat(dir, ".", flags, Mode::empty())
            .map_err(|errno| errno.to_string())?;
        for entry in host.iter() {
            let name = entry
                .map_err(|errno| errno.to_string())?
                .file_name()
                .to_bytes()
                .to_vec();
            if name != b"." && name != b".." {
                names.insert(name);
            }
        }
        ensure(listed == names, || {
            format!("listed {listed:?}, host {names:?}")
        })?;
        let mut count = names.len();
        for name in names {
            let held = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file =
                openat(dir, name.as_slice(), held, Mode::empty()).map_err(|e| e.to_string())?;
            let stat = fstat(&file).map_err(|errno| errno.to_string())?;
            let at = |why: String| format!("{}: {why}", String::from_utf8_lossy(&name));
            let kind = Kind::of(stat.st_mode);
            match self.client.walkgetattr(fid, fid + 1, &[&name]) {
                Err(Fault::Errno(Errno::EPERM)) if matches!(kind, Kind::Special | Kind::Block) => {
                    continue;
                }
                got => {
                    let got = got.map_err(fault).map_err(at)?;
                    self.qid(&got.qids[0]).map_err(at)?;
                    ensure(got.qids[0].path == stat.st_ino, || "inode".into()).map_err(at)?;
                    same_attr(&got.attr, &stat).map_err(at)?;
                }
            }
            match kind {
                Kind::Directory => count += self.view_below(fid + 1, &file).map_err(at)?,
                Kind::Symlink => {
                    let got = self.client.readlink(fid + 1).map_err(fault).map_err(at)?;
                    let want = readlinkat(&file, "").map_err(|e| e.to_string())?.into_vec();
                    ensure(got.target == want, || "target".into()).map_err(at)?;
                }
                Kind::Regular => {
                    self.client.lopen(fid + 1, 0).map_err(fault).map_err(at)?;
                    let size = stat.st_size.cast_unsigned().min(100_000);
                    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                    let mut want = vec![0; size as usize];
                    let host = File::open(path).map_err(|error| error.to_string())?;
                    host.read_exact_at(&mut want, 0)
                        .map_err(|error| error.to_string())?;
                    let mut got = Vec::new();
                    while got.len() < want.len() {
                        let rest = (want.len() - got.len()) as u32;
                        let part = self.client.read(fid + 1, got.len() as u64, rest);
                        got.extend(part.map_err(fault).map_err(at)?.data.0);
                    }
                    ensure(got == want, || "content".into()).map_err(at)?;
                }
                Kind::Special | Kind::Block => {}
            }
            if self.is_known(fid + 1) {
                return Err("a fid of the walk in use".into());
            }
            self.client.clunk(fid + 1).map_err(fault)?;
        }
        Ok(count)
    }

    /// Once the host is quiet: the attributes of each fid's file are the host's, where `files` (by inode) has it;
    /// of another one no link is left.
    pub fn look_again(&mut self, files: &BTreeMap<u64, FileStat>) -> Same {
        let fids: Vec<(u32, u64)> = self
            .fids
            .iter()
            .map(|(fid, state)| (*fid, state.inode))
            .collect();
        for (fid, inode) in fids {
            let got = self
                .client
                .getattr(fid, u64::MAX)
                .map_err(|fault| fault.to_string())?;
            self.own_qid(fid, &got.qid)?;
            match files.get(&inode) {
                Some(stat) => {
                    same_attr(&got.attr, stat).map_err(|why| format!("fid {fid}: {why}"))?
                }
                None => {
                    let gone = got.attr.nlink == 0;
                    ensure(gone, || {
                        format!("fid {fid}: a file that no name has: {:?}", got.attr)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Gives up all fids but `root`.
    pub fn forget(&mut self, root: u32) -> Same {
        let fids: Vec<u32> = self
            .fids
            .keys()
            .copied()
            .filter(|fid| *fid != root)
            .collect();
        for fid in fids {
            self.step(&Op::Clunk { fid })?;
        }
        Ok(())
    }
}

/// These directories and every file below them, by their inodes.
pub fn files(tops: &[&Path]) -> BTreeMap<u64, FileStat> {
    let mut all = BTreeMap::new();
    let mut rest: Vec<PathBuf> = tops.iter().map(|top| top.to_path_buf()).collect();
    while let Some(path) = rest.pop() {
        let stat = lstat(&path).expect("lstat");
        if Kind::of(stat.st_mode) == Kind::Directory {
            let entries = fs::read_dir(&path).expect("read a directory");
            rest.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        all.insert(stat.st_ino, stat);
    }
    all
}
