//! Names in directories: made, linked, renamed, removed; and what that means for the tree of nodes.

use core::ffi::CStr;

use rustix::fd::AsFd;
use rustix::fs::{
    AtFlags, FileType, Mode, linkat, mkdirat, mknodat, renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::attr::{Meta, Owner, hold};
use super::file::{Reopen, number};
use super::name::{Name, NameBuffer};
use super::tree::STEPS_PER_UNIT;
use super::{Fs, NodeId, OpenId};
use crate::limits::{LINK_BYTES, NAME_BYTES, PROC_FD};
use crate::p9::qid::Qid;
use crate::sys::fd::fixed;

/// A name's bytes, copied out of the tables.
pub struct OwnName {
    bytes: [u8; NAME_BYTES],
    len: usize,
}

impl OwnName {
    /// The name.
    pub fn name(&self) -> Result<Name<'_>, Errno> {
        Name::new(self.bytes.get(..self.len).unwrap_or_default())
    }
}

/// A way to make something at a free name: mkdir(2) and its like.
type Make<'a> = &'a dyn Fn(rustix::fd::BorrowedFd<'_>, &CStr) -> Result<(), Errno>;

impl Fs {
    /// Makes a directory, for `owner`; see [`Fs::made`]. The host drops set-id bits of `perm`.
    ///
    /// Errors: mkdirat(2)'s, those of [`Fs::made`].
    pub fn mkdir(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        perm: u32,
        owner: Owner,
    ) -> Result<Qid, Errno> {
        let mode = Mode::from_raw_mode(perm);
        self.made(
            parent,
            name,
            (owner, 0),
            FileType::Directory,
            &|dir, name| mkdirat(dir, name, mode),
        )
    }

    /// Makes a symlink to `target`, any bytes without NUL; see [`Fs::made`].
    ///
    /// Errors: `ENAMETOOLONG` above [`LINK_BYTES`]; `EINVAL` a NUL; symlinkat(2)'s; those of [`Fs::made`].
    pub fn symlink(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        target: &[u8],
        owner: Owner,
    ) -> Result<Qid, Errno> {
        let mut buffer = [0; LINK_BYTES];
        let text = buffer.get_mut(..=target.len()).ok_or(Errno::NAMETOOLONG)?;
        if let Some((_nul, bytes)) = text.split_last_mut() {
            bytes.copy_from_slice(target);
        }
        let target = CStr::from_bytes_with_nul(text).map_err(|_| Errno::INVAL)?;
        self.made(parent, name, (owner, 0), FileType::Symlink, &|dir, name| {
            symlinkat(target, dir, name)
        })
    }

    /// Makes a file that is not opened: regular, a FIFO, a socket, or a device by its number; see [`Fs::made`].
    ///
    /// Errors: mknodat(2)'s, `EPERM` a device without the privilege among them; those of [`Fs::made`].
    pub fn mknod(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        mode: u32,
        device: u64,
        owner: Owner,
    ) -> Result<Qid, Errno> {
        let kind = FileType::from_raw_mode(mode);
        let (mode, set_ids) = owner.hold_back(mode);
        self.made(parent, name, (owner, set_ids), kind, &|dir, name| {
            mknodat(dir, name, kind, mode, device)
        })
    }

    /// Makes something of type `kind` and gives it to `owner`, where that is given and differs. If a
    /// step behind the making fails, what was made is removed again. No node is made.
    ///
    /// Errors: `ENAMETOOLONG`; the making's; openat(2)'s; `ESTALE` something else stands there by
    /// now; fstat(2)'s; fchownat(2)'s; `EREMOTEIO` too many devices.
    fn made(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        (owner, set_ids): (Owner, u32),
        kind: FileType,
        make: Make<'_>,
    ) -> Result<Qid, Errno> {
        let mut buffer = NameBuffer::new();
        let name = name.for_host(&mut buffer)?;
        let dir = self.directory(parent)?;
        make(dir, name)?;
        let mut is_ours = true;
        let mut meta = Meta::new();
        let opened = hold(dir, name, &mut meta).and_then(|fd| {
            is_ours = meta.file_type() == kind;
            if is_ours { Ok(fd) } else { Err(Errno::STALE) }
        });
        match opened
            .and_then(|fd| self.own(fd.as_fd(), owner, set_ids, &mut meta))
            .and_then(|()| self.new_qid(parent, &meta))
        {
            Err(errno) if is_ours => {
                let flags = if kind == FileType::Directory {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                };
                let _undone = unlinkat(self.directory(parent)?, name, flags);
                Err(errno)
            }
            done => done,
        }
    }

    /// Links the file of `target` as `name` in `parent`: the file that the node holds, by its descriptor.
    ///
    /// linkat(2) takes a descriptor alone only with CAP_DAC_READ_SEARCH; where it is missing the file
    /// is reached as for opening it again. Errors: `ENAMETOOLONG`; linkat(2)'s: `ENOENT` the last link
    /// is gone; `ESTALE` the target's name is another file by now (only without /proc).
    pub fn link(
        &mut self,
        target: NodeId,
        open: OpenId,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<(), Errno> {
        let mut buffer = NameBuffer::new();
        let name = name.for_host(&mut buffer)?;
        let file = self.descriptor(target, open)?;
        let dir = self.directory(parent)?;
        match linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
            Err(Errno::NOENT) => {}
            // Landlock, which asks about the directory above a root that is no clone, comes before the kind.
            Err(Errno::XDEV) if self.is_root(target) => return Err(Errno::PERM),
            done => return done,
        }
        if Meta::of(file)?.links() == 0 {
            return Err(Errno::NOENT);
        }
        match self.reopen {
            Reopen::ProcFd => linkat(
                fixed(PROC_FD),
                number(file, &mut [0; 11]),
                dir,
                name,
                AtFlags::SYMLINK_FOLLOW,
            ),
            Reopen::Parent => {
                let node = self.node(target)?;
                let mut buffer = NameBuffer::new();
                let old = buffer.fill(self.names.get(node.name()))?;
                linkat(self.above(node)?, old, dir, name, AtFlags::empty())?;
                let errno = match Meta::of_name(dir, name) {
                    Ok(meta) if node.is_file(&meta) => return Ok(()),
                    Ok(_) => Errno::STALE,
                    Err(errno) => errno,
                };
                let _undone = unlinkat(dir, name, AtFlags::empty());
                Err(errno)
            }
        }
    }

    /// Renames, over what stands at the new name. Whatever lies below moves along: one node is
    /// touched. What stood at the new name is deleted, and a node below the moved one that its new
    /// parent lies below (the host moved it meanwhile) is cut off.
    ///
    /// Errors: `ENAMETOOLONG`; `ENOMEM` no room for the name; renameat(2)'s.
    pub fn rename(
        &mut self,
        from: (NodeId, Name<'_>),
        to: (NodeId, Name<'_>),
    ) -> Result<(), Errno> {
        let (mut old_buffer, mut new_buffer) = (NameBuffer::new(), NameBuffer::new());
        let old_name = from.1.for_host(&mut old_buffer)?;
        let new_name = to.1.for_host(&mut new_buffer)?;
        let moved = self.child(from.0, from.1.bytes());
        // Nothing may fail behind the call, so the name has its room before it.
        let kept = match moved {
            Some(_) => Some(self.names.insert(to.1.bytes()).ok_or(Errno::NOMEM)?),
            None => None,
        };
        let done = renameat(
            self.directory(from.0)?,
            old_name,
            self.directory(to.0)?,
            new_name,
        );
        // Where no fid is on either name there is nothing to keep right.
        let idle = done.is_ok()
            && (self.any_child(from.0, from.1.bytes()).is_some()
                || self.any_child(to.0, to.1.bytes()).is_some())
            && self.is_one_file((from.0, old_name), (to.0, new_name));
        if done.is_err() || idle {
            if let Some(kept) = kept {
                self.names.remove(kept);
            }
            return done;
        }
        self.delete_path(to.0, to.1.bytes());
        if let (Some(moved), Some(kept)) = (moved, kept) {
            // Held, since cutting a chain below it may give up the last reference to it.
            self.hold(moved);
            self.cut_cycle(moved, to.0);
            if moved == to.0 {
                self.names.remove(kept); // it was cut off itself
            } else {
                self.move_node(moved, to.0, kept);
            }
            self.release(moved);
        }
        // Files that had the old name before the moved one go along.
        while let Some(stale) = self.any_child(from.0, from.1.bytes()) {
            self.units += 1;
            self.hold(stale);
            self.cut_cycle(stale, to.0);
            if stale != to.0 {
                match self.names.insert(to.1.bytes()) {
                    Some(name) => self.move_node(stale, to.0, name),
                    None => self.mark_deleted(stale),
                }
            }
            self.release(stale);
        }
        Ok(())
    }

    /// Whether two names are one file. Behind a rename(2) that succeeded they only are if it did
    /// nothing, as it does with two links of one file.
    fn is_one_file(&self, one: (NodeId, &CStr), other: (NodeId, &CStr)) -> bool {
        let meta = |(dir, name): (NodeId, &CStr)| Meta::of_name(self.directory(dir)?, name);
        match meta(one) {
            Err(_) => false, // as a rule: the old name is gone
            Ok(old) => meta(other).is_ok_and(|new| old.is_same_file(&new)),
        }
    }

    /// Cuts the chain from `parent` up to the root where it passes `moved`: below it, or at it if they are
    /// one. The host put one of them elsewhere meanwhile, so that what the chain says is no longer so.
    fn cut_cycle(&mut self, moved: NodeId, parent: NodeId) {
        if self.kind(moved) != Ok(FileType::Directory) {
            return; // nothing lies below it
        }
        let mut at = parent;
        let mut steps = 0;
        while let Ok(node) = self.node(at) {
            let above = node.parent();
            if at == moved || above == moved {
                self.cut(at);
                break;
            }
            at = above;
            steps += 1;
        }
        self.units += steps / STEPS_PER_UNIT;
    }

    /// Removes a name; a directory's if `directory`. Its node is deleted.
    ///
    /// Errors: `ENAMETOOLONG`; unlinkat(2)'s.
    pub fn unlink(&mut self, parent: NodeId, name: Name<'_>, directory: bool) -> Result<(), Errno> {
        let mut buffer = NameBuffer::new();
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        unlinkat(self.directory(parent)?, name.for_host(&mut buffer)?, flags)?;
        self.delete_path(parent, name.bytes());
        Ok(())
    }

    /// Parent and name of a node. Error: `EINVAL` it has none: a root, or cut off.
    pub fn place(&self, id: NodeId) -> Result<(NodeId, OwnName), Errno> {
        let node = self.node(id)?;
        if self.is_root(id) || !node.parent().is_some() {
            return Err(Errno::INVAL);
        }
        let name = self.names.get(node.name());
        let mut own = OwnName {
            bytes: [0; NAME_BYTES],
            len: name.len(),
        };
        own.bytes
            .get_mut(..name.len())
            .ok_or(Errno::INVAL)?
            .copy_from_slice(name);
        Ok((node.parent(), own))
    }
}
