//! What the protocol says of fids and paths (docs/protocol.md 3, state of 2022, and docs/differences.md),
//! over a tree of its own that it changes by system calls. Where the spec adds no check, the kernel decides.

use crate::ops::{Kind, Known, Name};
use crate::p9::{NOID, SetAttr};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat,
    mknodat, utimensat,
};
use nix::sys::statfs::{Statfs, fstatfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::{Rc, Weak};

pub type Outcome<T> = Result<T, Errno>;

const ABSOLUTE_MAXIMUM: u32 = 1 << 20;
const WALK_NAMES: usize = 256;

/// A path of one connection, and the file that it was at the walk: the flag "deleted" is that of the path,
/// for all its nodes (docs/protocol.md 3.2). A file that another connection has put in the place of the one
/// that was walked to is another node.
#[derive(Debug)]
pub struct Node {
    id: u64,
    parent: RefCell<Option<Rc<Node>>>,
    name: RefCell<Vec<u8>>,
    deleted: Cell<bool>,
    root: bool,
    pub kind: Kind,
    /// The twin's file, `O_PATH`.
    fd: OwnedFd,
    pub inode: u64,
    /// qid.path that the server gave it.
    pub qid_path: Cell<Option<u64>>,
}

impl Node {
    fn is_deleted(&self) -> bool {
        if self.deleted.get() {
            return true;
        }
        let parent = self.parent.borrow();
        parent.as_ref().is_some_and(|parent| parent.is_deleted())
    }

    /// The way to the file itself, whatever it is.
    fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    fn path(&self) -> PathBuf {
        std::fs::read_link(self.link()).expect("the path of a held file")
    }

    fn has_xattrs(&self) -> Outcome<()> {
        match self.kind {
            Kind::Regular | Kind::Directory => Ok(()),
            Kind::Symlink | Kind::Special | Kind::Block => Err(Errno::EOPNOTSUPP),
        }
    }

    fn xattr(&self, name: &[u8]) -> Outcome<Vec<u8>> {
        self.has_xattrs()?;
        let mut value = vec![0; 65_536];
        match rustix::fs::getxattr(self.link().as_str(), name, &mut value[..]) {
            Ok(length) => value.truncate(length),
            Err(errno) => return Err(Errno::from_raw(errno.raw_os_error())),
        }
        Ok(value)
    }

    /// The list as listxattr(2) has it.
    fn xattrs(&self) -> Outcome<Vec<u8>> {
        if self.has_xattrs().is_err() {
            return Ok(Vec::new());
        }
        let mut list = vec![0; 65_536];
        match rustix::fs::listxattr(self.link().as_str(), &mut list[..]) {
            Ok(length) => list.truncate(length),
            Err(errno) => return Err(Errno::from_raw(errno.raw_os_error())),
        }
        Ok(list)
    }

    pub fn stat(&self) -> FileStat {
        fstat(&self.fd).expect("fstat a held file")
    }
}

#[derive(Debug)]
pub struct Open {
    pub file: File,
    pub mode: u32,
}

/// How far a directory was listed, request by request.
#[derive(Debug, Default)]
pub struct Listing {
    pub offset: u64,
    pub seen: Vec<Vec<u8>>,
    /// Entries that were there all the time, with their inode.
    pub stable: Option<BTreeMap<Vec<u8>, u64>>,
}

#[derive(Debug)]
pub struct FidState {
    pub node: Rc<Node>,
    pub open: Option<Open>,
    pub listing: Listing,
}

pub struct Model {
    pub read_only: bool,
    pub fids: BTreeMap<u32, FidState>,
    root: Rc<Node>,
    /// The nodes of each path, one for each file that it was when somebody walked to it.
    index: BTreeMap<(u64, Vec<u8>), Vec<Weak<Node>>>,
    next_id: u64,
}

const HELD: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// A name of an attribute that is served.
fn user(name: &[u8]) -> Outcome<()> {
    match name {
        name if !name.starts_with(b"user.") => Err(Errno::EOPNOTSUPP),
        name if name.len() > 255 => Err(Errno::ERANGE),
        name if name.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

fn mode_of(perm: u32) -> Mode {
    Mode::from_bits_truncate(perm & 0o7777)
}

/// Too long a name is told before the host is asked.
fn host(name: &Name) -> Outcome<&[u8]> {
    if name.0.len() > 255 {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(&name.0)
}

fn safe(name: &Name) -> Outcome<()> {
    let bytes = name.0.as_slice();
    if bytes.is_empty() || bytes == b"." || bytes == b".." {
        return Err(Errno::EINVAL);
    }
    if bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

impl Model {
    /// A connection whose attach point is `path` in the twin, attached as `fid`.
    pub fn new(path: &std::path::Path, read_only: bool, fid: u32) -> Model {
        let fd = nix::fcntl::open(path, HELD, Mode::empty()).expect("open the twin");
        let stat = fstat(&fd).expect("fstat the twin");
        let root = Rc::new(Node {
            id: 0,
            parent: RefCell::new(None),
            name: RefCell::new(Vec::new()),
            deleted: Cell::new(false),
            root: true,
            kind: Kind::of(stat.st_mode),
            fd,
            inode: stat.st_ino,
            qid_path: Cell::new(None),
        });
        let mut model = Model {
            read_only,
            fids: BTreeMap::new(),
            root: root.clone(),
            index: BTreeMap::new(),
            next_id: 1,
        };
        model.bind(fid, root, None);
        model
    }

    fn bind(&mut self, fid: u32, node: Rc<Node>, open: Option<Open>) {
        let listing = Listing::default();
        let state = FidState {
            node,
            open,
            listing,
        };
        self.fids.insert(fid, state);
    }

    pub fn get(&self, fid: u32) -> Outcome<&FidState> {
        self.fids.get(&fid).ok_or(Errno::EBADF)
    }

    pub fn known(&self) -> Vec<Known> {
        let known = self.fids.iter().map(|(fid, state)| Known {
            fid: *fid,
            kind: state.node.kind,
            mode: state.open.as_ref().map(|open| open.mode),
        });
        known.collect()
    }

    fn writable(&self) -> Outcome<()> {
        if self.read_only {
            Err(Errno::EROFS)
        } else {
            Ok(())
        }
    }

    /// EBADF; deleted or not a directory EINVAL.
    fn directory(&self, fid: u32) -> Outcome<&FidState> {
        let state = self.get(fid)?;
        if state.node.is_deleted() || state.node.kind != Kind::Directory {
            return Err(Errno::EINVAL);
        }
        Ok(state)
    }

    /// As [`Model::directory`]; opened EINVAL; read-only.
    fn changeable(&self, fid: u32) -> Outcome<Rc<Node>> {
        let state = self.directory(fid)?;
        if state.open.is_some() {
            return Err(Errno::EINVAL);
        }
        self.writable()?;
        Ok(state.node.clone())
    }

    // ---- the path tree ----

    fn children(&self, parent: &Node, name: &[u8]) -> Vec<Rc<Node>> {
        let key = (parent.id, name.to_vec());
        let nodes = self.index.get(&key).into_iter().flatten();
        nodes.filter_map(Weak::upgrade).collect()
    }

    fn take_out(&mut self, node: &Rc<Node>) {
        let Some(parent) = node.parent.borrow().clone() else {
            return;
        };
        let key = (parent.id, node.name.borrow().clone());
        if let Some(nodes) = self.index.get_mut(&key) {
            nodes.retain(|there| there.upgrade().is_some_and(|there| there.id != node.id));
        }
    }

    fn put_in(&mut self, node: &Rc<Node>) {
        let parent = node.parent.borrow().clone().expect("a node below another");
        let key = (parent.id, node.name.borrow().clone());
        self.index.entry(key).or_default().push(Rc::downgrade(node));
    }

    fn delete(&mut self, node: &Rc<Node>) {
        self.take_out(node);
        node.deleted.set(true);
    }

    /// The node of the file that `name` in `parent` is now.
    fn step(&mut self, parent: &Rc<Node>, name: &[u8]) -> Outcome<Rc<Node>> {
        let fd = openat(&parent.fd, name, HELD, Mode::empty())?;
        let stat = fstat(&fd)?;
        let kind = Kind::of(stat.st_mode);
        if matches!(kind, Kind::Special | Kind::Block) {
            return Err(Errno::EPERM);
        }
        let mut known = self.children(parent, name).into_iter();
        if let Some(known) = known.find(|known| known.inode == stat.st_ino) {
            return Ok(known);
        }
        let id = self.next_id;
        self.next_id += 1;
        let node = Rc::new(Node {
            id,
            parent: RefCell::new(Some(parent.clone())),
            name: RefCell::new(name.to_vec()),
            deleted: Cell::new(false),
            root: false,
            kind,
            fd,
            inode: stat.st_ino,
            qid_path: Cell::new(None),
        });
        self.put_in(&node);
        Ok(node)
    }

    /// Every node that a fid stands for.
    pub fn nodes(&self) -> impl Iterator<Item = &Rc<Node>> {
        self.fids.values().map(|state| &state.node)
    }

    // ---- session and walk ----

    pub fn attach(&self, afid: u32) -> Outcome<()> {
        // Once in the life of the process, and the test has attached already.
        Err(if afid == u32::MAX {
            Errno::EIO
        } else {
            Errno::EINVAL
        })
    }

    pub fn clunk(&mut self, fid: u32) -> Outcome<()> {
        self.fids.remove(&fid).map(drop).ok_or(Errno::EBADF)
    }

    pub fn walk(&mut self, fid: u32, newfid: u32, names: &[Name]) -> Outcome<Vec<Kind>> {
        let state = self.get(fid)?;
        names.iter().try_for_each(safe)?;
        if state.open.is_some() {
            return Err(Errno::EBUSY);
        }
        if names.len() > WALK_NAMES {
            return Err(Errno::E2BIG);
        }
        let mut at = state.node.clone();
        let mut kinds = Vec::new();
        for name in names {
            if at.kind != Kind::Directory {
                return Err(Errno::EINVAL);
            }
            if at.is_deleted() {
                return Err(Errno::ENOENT);
            }
            at = self.step(&at, host(name)?)?;
            kinds.push(at.kind);
        }
        self.bind(newfid, at, None);
        Ok(kinds)
    }

    /// A mount that is read-only keeps times of access, too.
    fn keeping_atime(&self) -> OFlag {
        match self.read_only {
            true => OFlag::O_NOATIME,
            false => OFlag::empty(),
        }
    }

    // ---- open and create ----

    pub fn open(&mut self, fid: u32, flags: u32) -> Outcome<()> {
        let (read_only, keeping) = (self.read_only, self.keeping_atime());
        let state = self.fids.get_mut(&fid).ok_or(Errno::EBADF)?;
        let (node, mode) = (&state.node, flags & 3);
        let truncate = flags & OFlag::O_TRUNC.bits().cast_unsigned();
        if node.is_deleted() || state.open.is_some() || node.kind == Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        if node.kind == Kind::Directory && (mode != 0 || truncate != 0) {
            return Err(Errno::EISDIR);
        }
        if read_only && (mode == 1 || mode == 2 || truncate != 0) {
            return Err(Errno::EROFS);
        }
        let mut host_flags = OFlag::from_bits_retain((mode | truncate).cast_signed());
        host_flags |= keeping;
        let fd = nix::fcntl::open(
            node.link().as_str(),
            host_flags | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let file = File::from(fd);
        state.open = Some(Open { file, mode });
        Ok(())
    }

    /// Given to its owner, where that is given and differs.
    fn own(fd: impl AsFd, uid: u32, gid: u32) -> Outcome<()> {
        let stat = fstat(&fd)?;
        let stays = |id: u32, has: u32| id == NOID || id == has;
        if stays(uid, stat.st_uid) && stays(gid, stat.st_gid) {
            return Ok(());
        }
        chown(fd.as_fd(), uid, gid)
    }

    pub fn create(
        &mut self,
        fid: u32,
        name: &Name,
        flags: u32,
        perm: u32,
        (uid, gid): (u32, u32),
    ) -> Outcome<()> {
        safe(name)?;
        let node = &self.get(fid)?.node;
        if node.is_deleted() && node.kind == Kind::Directory {
            return Err(Errno::ENOENT); // to the version of the sessions here, as the original of its time
        }
        let parent = self.changeable(fid)?;
        let name = host(name)?;
        let mode = flags & 3;
        let host_mode = if mode == 1 { 2 } else { mode };
        let flags = OFlag::from_bits_retain(host_mode.cast_signed())
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let fd = openat(&parent.fd, name, flags, mode_of(perm))?;
        Model::own(&fd, uid, gid)?;
        let node = self.step(&parent, name)?;
        let file = File::from(fd);
        self.bind(fid, node, Some(Open { file, mode }));
        Ok(())
    }

    // ---- data ----

    pub fn read(&self, fid: u32, offset: u64, count: u32) -> Outcome<Vec<u8>> {
        let state = self.get(fid)?;
        if count > ABSOLUTE_MAXIMUM {
            return Err(Errno::ENOBUFS);
        }
        let open = state.open.as_ref().ok_or(Errno::EINVAL)?;
        if open.mode == 1 {
            return Err(Errno::EPERM);
        }
        let mut data = vec![0; count as usize];
        let done = open.file.read_at(&mut data, offset).map_err(errno)?;
        data.truncate(done);
        Ok(data)
    }

    pub fn write(&self, fid: u32, offset: u64, data: &[u8]) -> Outcome<u32> {
        let state = self.get(fid)?;
        let open = state.open.as_ref().ok_or(Errno::EINVAL)?;
        if open.mode == 0 {
            return Err(Errno::EPERM);
        }
        let done = open.file.write_at(data, offset).map_err(errno)?;
        Ok(done as u32)
    }

    pub fn fsync(&self, fid: u32) -> Outcome<()> {
        let state = self.get(fid)?;
        state.open.as_ref().map(drop).ok_or(Errno::EINVAL)
    }

    pub fn allocate(&self, fid: u32, mode: u32, offset: u64, length: u64) -> Outcome<()> {
        let state = self.get(fid)?;
        let open = state.open.as_ref().ok_or(Errno::EINVAL)?;
        if open.mode == 0 {
            return Err(Errno::EBADF);
        }
        if mode != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let none = nix::fcntl::FallocateFlags::empty();
        nix::fcntl::fallocate(&open.file, none, offset.cast_signed(), length.cast_signed())
    }

    // ---- attributes ----

    pub fn stat(&self, fid: u32) -> Outcome<FileStat> {
        Ok(self.get(fid)?.node.stat())
    }

    pub fn statfs(&self, fid: u32) -> Outcome<Statfs> {
        fstatfs(&self.get(fid)?.node.fd)
    }

    pub fn readlink(&self, fid: u32) -> Outcome<Vec<u8>> {
        let node = &self.get(fid)?.node;
        if node.is_deleted() || node.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        let before = fstat(&node.fd)?;
        let target = readlinkat(&node.fd, "")?;
        if self.read_only {
            utimensat(
                AT_FDCWD,
                node.link().as_str(),
                &TimeSpec::new(before.st_atime, before.st_atime_nsec),
                &TimeSpec::UTIME_OMIT,
                UtimensatFlags::FollowSymlink,
            )?;
        }
        Ok(std::os::unix::ffi::OsStringExt::into_vec(target))
    }

    // ---- extended attributes: user.* of files and directories ----

    /// EBADF; deleted EINVAL.
    fn alive(&self, fid: u32) -> Outcome<&Node> {
        let node = &self.get(fid)?.node;
        if node.is_deleted() {
            return Err(Errno::EINVAL);
        }
        Ok(node)
    }

    pub fn get_xattr(&self, fid: u32, name: &[u8], size: u64) -> Outcome<Vec<u8>> {
        let node = self.alive(fid)?;
        user(name)?;
        let value = node.xattr(name)?;
        if size > 0 && value.len() as u64 > size {
            return Err(Errno::ERANGE);
        }
        Ok(value)
    }

    pub fn list_xattrs(&self, fid: u32, size: u64) -> Outcome<BTreeSet<Vec<u8>>> {
        let list = self.alive(fid)?.xattrs()?;
        if size > 0 && list.len() as u64 > size {
            return Err(Errno::ERANGE);
        }
        let names = list
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    pub fn walk_xattr(&self, fid: u32, name: &[u8]) -> Outcome<Vec<u8>> {
        let node = &self.get(fid)?.node;
        if name.is_empty() {
            return node.xattrs();
        }
        user(name).map_err(|_| Errno::ENODATA)?;
        node.xattr(name)
    }

    /// Read-only; a name that is not served.
    pub fn may_create_xattr(&self, fid: u32, name: &[u8]) -> Outcome<()> {
        self.get(fid)?;
        self.writable()?;
        user(name)
    }

    pub fn set_xattr(&self, fid: u32, name: &[u8], value: Option<(&[u8], u32)>) -> Outcome<()> {
        self.alive(fid)?;
        self.may_create_xattr(fid, name)?;
        self.set_xattr_of_any(fid, name, value)
    }

    pub fn set_xattr_of_any(
        &self,
        fid: u32,
        name: &[u8],
        value: Option<(&[u8], u32)>,
    ) -> Outcome<()> {
        if value.is_some_and(|(_, flags)| flags > 3) {
            return Err(Errno::EINVAL);
        }
        let node = &self.get(fid)?.node;
        node.has_xattrs()?;
        let path = node.link();
        match value {
            Some((value, flags)) => {
                let flags = rustix::fs::XattrFlags::from_bits_retain(flags);
                rustix::fs::setxattr(path.as_str(), name, value, flags)
            }
            None => rustix::fs::removexattr(path.as_str(), name),
        }
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
    }

    pub fn setattr(&self, fid: u32, valid: u32, attr: &SetAttr) -> Outcome<()> {
        let state = self.get(fid)?;
        self.writable()?;
        let has = |bit: u32| valid & bit != 0;
        if has(0x40) {
            return Err(Errno::EPERM);
        }
        let node = &state.node;
        let mut last = Ok(());
        let mut note = |done: Outcome<()>| {
            if done.is_err() {
                last = done;
            }
        };
        if has(1) {
            note(match node.kind {
                Kind::Symlink => Err(Errno::EBADF),
                _ => fchmodat(
                    AT_FDCWD,
                    node.link().as_str(),
                    mode_of(attr.mode),
                    FchmodatFlags::FollowSymlink,
                ),
            });
        }
        if has(8) {
            note(match node.kind {
                Kind::Symlink => Err(Errno::EBADF),
                Kind::Directory => Err(Errno::EINVAL),
                _ if i64::try_from(attr.size).is_err() => Err(Errno::EINVAL),
                _ => nix::unistd::truncate(node.link().as_str(), attr.size.cast_signed()),
            });
        }
        let time = |set: u32, given: u32, sec: u64, nsec: u64| match (has(set), has(given)) {
            (false, _) => TimeSpec::UTIME_OMIT,
            (true, false) => TimeSpec::UTIME_NOW,
            (true, true) => TimeSpec::new(sec.cast_signed(), nsec.cast_signed()),
        };
        if has(0x10) || has(0x20) {
            // The link of an O_PATH descriptor leads to the symlink itself, and no further.
            note(utimensat(
                AT_FDCWD,
                node.link().as_str(),
                &time(0x10, 0x80, attr.atime, attr.atime_ns),
                &time(0x20, 0x100, attr.mtime, attr.mtime_ns),
                UtimensatFlags::FollowSymlink,
            ));
        }
        if has(2) || has(4) {
            let uid = if has(2) { attr.uid } else { NOID };
            let gid = if has(4) { attr.gid } else { NOID };
            // NOUID and NOGID leave the owner: nothing is left to do. (The original calls chown(2) all
            // the same, which clears set-id bits.)
            if (uid, gid) != (NOID, NOID) {
                note(chown(node.fd.as_fd(), uid, gid));
            }
        }
        last
    }

    // ---- directories ----

    /// What an opened directory holds: names, with inode and mode.
    pub fn list(&self, fid: u32) -> Outcome<BTreeMap<Vec<u8>, FileStat>> {
        let state = self.directory(fid)?;
        if state.open.is_none() {
            return Err(Errno::EINVAL);
        }
        if state.node.stat().st_nlink == 0 {
            return Err(Errno::ENOENT); // getdents(2) of a removed directory
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | self.keeping_atime();
        let path = state.node.link();
        let mut dir = nix::dir::Dir::open(path.as_str(), flags, Mode::empty())?;
        let mut all = BTreeMap::new();
        for entry in dir.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                let stat = fstatat(
                    &state.node.fd,
                    name.as_slice(),
                    AtFlags::AT_SYMLINK_NOFOLLOW,
                )?;
                all.insert(name, stat);
            }
        }
        Ok(all)
    }

    fn made(parent: &Node, name: &[u8], (uid, gid): (u32, u32), done: Outcome<()>) -> Outcome<()> {
        done?;
        let fd = openat(&parent.fd, name, HELD, Mode::empty())?;
        Model::own(&fd, uid, gid)
    }

    pub fn mkdir(&self, dfid: u32, name: &Name, perm: u32, owner: (u32, u32)) -> Outcome<()> {
        safe(name)?;
        let parent = self.changeable(dfid)?;
        let name = host(name)?;
        let done = mkdirat(&parent.fd, name, mode_of(perm));
        Model::made(&parent, name, owner, done)
    }

    pub fn symlink(&self, dfid: u32, name: &Name, target: &[u8], owner: (u32, u32)) -> Outcome<()> {
        safe(name)?;
        let parent = self.changeable(dfid)?;
        if target.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let name = host(name)?;
        let done = symlinkat(target, &parent.fd, name);
        Model::made(&parent, name, owner, done)
    }

    pub fn mknod(&self, dfid: u32, name: &Name, mode: u32, owner: (u32, u32)) -> Outcome<()> {
        safe(name)?;
        let parent = self.changeable(dfid)?;
        if mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(Errno::EPERM);
        }
        let name = host(name)?;
        let done = mknodat(&parent.fd, name, SFlag::S_IFREG, mode_of(mode), 0);
        Model::made(&parent, name, owner, done)
    }

    pub fn link(&self, dfid: u32, fid: u32, name: &Name) -> Outcome<()> {
        safe(name)?;
        self.get(dfid)?;
        let target = self.get(fid)?.node.clone();
        let parent = self.changeable(dfid)?;
        let flags = AtFlags::AT_EMPTY_PATH;
        linkat(&target.fd, "", &parent.fd, host(name)?, flags)
    }

    /// Whether a fid's file lies in the tree, and not where the host has moved it out: Landlock may refuse to link
    /// or rename to or from there, with EXDEV.
    pub fn is_inside(&self, fid: u32) -> bool {
        let state = self.get(fid);
        state.is_ok_and(|state| state.node.path().starts_with(self.root.path()))
    }

    /// The same of what its file was in when it was walked to.
    pub fn is_above_inside(&self, fid: u32) -> bool {
        let parent = self
            .get(fid)
            .ok()
            .and_then(|state| state.node.parent.borrow().clone());
        parent.is_some_and(|parent| parent.path().starts_with(self.root.path()))
    }

    pub fn rename(&mut self, fid: u32, dfid: u32, name: &Name) -> Outcome<()> {
        safe(name)?;
        let node = self.get(fid)?.node.clone();
        self.get(dfid)?;
        // A root, or a path that another connection's renames have made unknown.
        let old_parent = node.parent.borrow().clone().ok_or(Errno::EINVAL)?;
        if node.is_deleted() {
            return Err(Errno::EINVAL);
        }
        let parent = self.directory(dfid)?.node.clone();
        let old_name = node.name.borrow().clone();
        self.move_to(&old_parent, &Name(old_name), &parent, name)
    }

    pub fn renameat(&mut self, old: (u32, &Name), new: (u32, &Name)) -> Outcome<()> {
        safe(old.1)?;
        safe(new.1)?;
        self.get(old.0)?;
        self.get(new.0)?;
        let (from, to) = (self.directory(old.0)?, self.directory(new.0)?);
        if from.open.is_some() {
            return Err(Errno::EINVAL);
        }
        let (from, to) = (from.node.clone(), to.node.clone());
        self.move_to(&from, old.1, &to, new.1)
    }

    fn move_to(&mut self, from: &Rc<Node>, old: &Name, to: &Rc<Node>, new: &Name) -> Outcome<()> {
        if from.id == to.id && old == new {
            return Ok(());
        }
        self.writable()?;
        let (old, new) = (host(old)?, host(new)?);
        let there = inode_at(from, old);
        let same = there.is_ok() && there == inode_at(to, new);
        renameat(&from.fd, old, &to.fd, new)?;
        if same {
            return Ok(()); // two links of one file: rename(2) does nothing
        }
        for over in self.children(to, new) {
            self.delete(&over);
        }
        for moved in self.children(from, old) {
            self.take_out(&moved);
            if moved.id == to.id {
                // Another connection has moved it, and put another in its place.
                moved.parent.replace(None);
                continue;
            }
            self.cut(&moved, to);
            moved.parent.replace(Some(to.clone()));
            moved.name.replace(new.to_vec());
            self.put_in(&moved);
        }
        Ok(())
    }

    /// Another connection may have moved what a node lies in below what lies in that node. The kernel
    /// then allows a rename that would close a ring of nodes: the ring is cut.
    fn cut(&mut self, moved: &Rc<Node>, to: &Rc<Node>) {
        let mut at = to.clone();
        loop {
            let Some(parent) = at.parent.borrow().clone() else {
                return;
            };
            if parent.id == moved.id {
                self.take_out(&at);
                at.parent.replace(None);
                return;
            }
            at = parent;
        }
    }

    fn unlink(&mut self, parent: &Rc<Node>, name: &[u8], directory: bool) -> Outcome<()> {
        let flag = if directory {
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        unlinkat(&parent.fd, name, flag)?;
        for node in self.children(parent, name) {
            self.delete(&node);
        }
        Ok(())
    }

    pub fn unlinkat(&mut self, dfid: u32, name: &Name, flags: u32) -> Outcome<()> {
        safe(name)?;
        let parent = self.changeable(dfid)?;
        if flags & !0x200 != 0 {
            return Err(Errno::EINVAL);
        }
        self.unlink(&parent, host(name)?, flags != 0)
    }

    pub fn remove(&mut self, fid: u32) -> Outcome<()> {
        // Clunked in every case.
        let node = self.fids.remove(&fid).ok_or(Errno::EBADF)?.node;
        let parent = node.parent.borrow().clone().ok_or(Errno::EINVAL)?;
        if node.is_deleted() {
            return Err(Errno::EINVAL);
        }
        self.writable()?;
        let name = node.name.borrow().clone();
        self.unlink(&parent, &name, false)
    }

    /// The root is never deleted, and qids tell files apart.
    pub fn check(&self) -> Result<(), String> {
        if self.root.deleted.get() || !self.root.root {
            return Err("the root is deleted".into());
        }
        let mut files = BTreeSet::new();
        for node in self.nodes() {
            if let Some(path) = node.qid_path.get() {
                files.insert((path, node.inode));
            }
        }
        let paths: BTreeSet<_> = files.iter().map(|(path, _)| path).collect();
        let inodes: BTreeSet<_> = files.iter().map(|(_, inode)| inode).collect();
        if paths.len() != files.len() || inodes.len() != files.len() {
            return Err(format!("qid.path and inode do not go together: {files:?}"));
        }
        Ok(())
    }
}

/// What a name in a directory is, a symlink itself.
fn inode_at(dir: &Node, name: &[u8]) -> Outcome<u64> {
    let stat = fstatat(&dir.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(stat.st_ino)
}

fn errno(error: std::io::Error) -> Errno {
    match error.raw_os_error() {
        Some(code) => Errno::from_raw(code),
        None => Errno::EINVAL,
    }
}

fn chown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Outcome<()> {
    let uid = (uid != NOID).then(|| Uid::from_raw(uid));
    let gid = (gid != NOID).then(|| Gid::from_raw(gid));
    fchownat(fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)
}
