//! One family of messages a file: look up, check, act, commit, reply.

pub mod attach;
pub mod attr;
pub mod data;
pub mod dir;
pub mod entries;
pub mod lock;
pub mod open;
pub mod walk;
pub mod xattr;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::dispatch::Session;
use super::fids::State;
use crate::fs::attach::Changes;
use crate::fs::attr::{Meta, Owner};
use crate::fs::{NodeId, OpenId};
use crate::limits::REFUSALS_LOGGED;
use crate::p9::qid::Qid;
use crate::p9::wire::{Fid, Gid, Uid};
use crate::text;
use crate::text::Text;

impl Session<'_> {
    /// Gives up what a fid stood for.
    fn release(&mut self, state: State) {
        self.values.release(state.value());
        self.fs.release_open(state.open());
        self.fs.release(state.node());
    }

    /// Makes `fid` stand for `state`; what it stood for before is given up.
    fn bind(&mut self, fid: Fid, state: State) {
        if let Some(was) = self.fids.set(self.link.id, fid, state) {
            self.release(was);
        }
    }

    /// What a fid stands for. Error: `EBADF` no such fid.
    fn get(&self, fid: Fid) -> Result<State, Errno> {
        let state = self.fids.get(self.link.id, fid)?;
        debug_assert!(self.fs.is_of(state.node(), self.link.id));
        if self.fs.is_of(state.node(), self.link.id) {
            Ok(state)
        } else {
            Err(Errno::BADF)
        }
    }

    /// Nothing, if the attach point takes changes. Error: `EROFS` it does not; `EFAULT` instead with
    /// `--panic-on-write`, after the original's text in the log (docs/launch.md 3), unless the attach point is
    /// read-only by the sandbox's overlay alone: runtimes of 2019 then try to set times on it.
    fn writable(&self) -> Result<(), Errno> {
        match self.fs.changes(self.link.id) {
            Changes::Made => Ok(()),
            Changes::Refused => Err(Errno::ROFS),
            Changes::Panic => {
                self.log
                    .warning(text!("panic in handler: attempt to write to RO mount"));
                Err(Errno::FAULT)
            }
        }
    }

    /// One line about a session that was refused, which its user sees as a mount that fails; the first
    /// [`REFUSALS_LOGGED`] of a connection.
    #[cold]
    fn log_refusal(&mut self, text: Text<'_>) {
        if self.link.refusals_logged < REFUSALS_LOGGED {
            self.link.refusals_logged += 1;
            self.log.warning(text);
        }
    }

    /// What Linux's client is told in place of `EINVAL`: the errno that a local file system would give.
    fn wrong(&self, local: Errno) -> Errno {
        if self.link.linux { local } else { Errno::INVAL }
    }

    /// The directory that a fid stands for. Errors: `EBADF` no such fid; `EINVAL` deleted or not a
    /// directory, to Linux `ENOENT` and `ENOTDIR`.
    fn directory(&mut self, fid: Fid) -> Result<(NodeId, State), Errno> {
        let state = self.get(fid)?;
        let node = state.node();
        if self.fs.is_deleted(node) {
            return Err(self.wrong(Errno::NOENT));
        }
        if self.fs.kind(node)? != FileType::Directory {
            return Err(self.wrong(Errno::NOTDIR));
        }
        Ok((node, state))
    }

    /// Whether this client's qids have versions. gVisor's never have; Linux's have none with `--qid-version zero`.
    fn has_qid_versions(&self) -> bool {
        self.link.linux && self.policy.qid_versions
    }

    /// A qid as this client wants it: where it has no version, that is 0.
    fn shown(&self, qid: Qid, version: u32) -> Qid {
        let version = if self.has_qid_versions() { version } else { 0 };
        Qid { version, ..qid }
    }

    /// The qid of a file as it is now. Error: `EBADF`.
    fn qid(&self, node: NodeId, open: OpenId) -> Result<Qid, Errno> {
        self.qid_and_size(node, open).map(|(qid, _)| qid)
    }

    /// The same, and to Linux the file's size. Error: `EBADF`.
    fn qid_and_size(&self, node: NodeId, open: OpenId) -> Result<(Qid, u64), Errno> {
        let qid = self.fs.qid(node)?;
        let mut meta = Meta::new(); // all zeros, as long as nothing is asked
        if !self.link.linux || self.fs.meta(node, open, &mut meta).is_err() {
            return Ok((qid, 0));
        }
        Ok((self.shown(qid, meta.version()), meta.size()))
    }

    /// The owner of a file that is made through `fid`: to Linux, whose messages name none, the user that the
    /// fid was attached for.
    #[inline(never)]
    fn owner(&mut self, fid: Fid, uid: Uid, gid: Gid) -> Owner {
        let lenient = self.link.linux;
        Owner {
            uid: if lenient && uid == Uid::NONE {
                self.fids.user(self.link.id, fid)
            } else {
                uid
            },
            gid,
            lenient,
        }
    }

    /// `newfid` is of the user that `fid` is of.
    #[inline(never)]
    fn inherit(&mut self, fid: Fid, newfid: Fid) {
        if self.link.linux {
            let user = self.fids.user(self.link.id, fid);
            self.fids.set_user(self.link.id, newfid, user);
        }
    }

    /// The directory in which a fid changes a name. Linux of 5.11 to 5.16 sends the fid of an open directory,
    /// without a clone; gVisor's client never does, and keeps the original's answer.
    ///
    /// Errors, in this order: those of [`Session::directory`]; `EINVAL` open (not to Linux), or holding a value.
    fn parent(&mut self, fid: Fid) -> Result<NodeId, Errno> {
        let (node, state) = self.directory(fid)?;
        if !self.link.linux || state.value().is_some() {
            state.not_opened(Errno::INVAL)?;
        }
        Ok(node)
    }

    /// The same, where the attach point takes changes. Errors, in this order: those of [`Session::parent`]; those
    /// of [`Session::writable`].
    fn writable_parent(&mut self, fid: Fid) -> Result<NodeId, Errno> {
        let node = self.parent(fid)?;
        self.writable()?;
        Ok(node)
    }
}
