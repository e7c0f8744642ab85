//! One family of messages a file: look up, check, act, commit, reply.

pub mod attach;
pub mod attr;
pub mod data;
pub mod dir;
pub mod entries;
pub mod open;
pub mod walk;
pub mod xattr;

use rustix::io::Errno;

use super::dispatch::Session;
use super::fids::State;
use crate::fs::NodeId;
use crate::fs::attr::Kind;
use crate::p9::wire::Fid;
use crate::text;

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
    /// `--panic-on-write`, after the original's text in the log (gofer.md 3.4).
    fn writable(&self) -> Result<(), Errno> {
        if !self.fs.is_read_only(self.link.id) {
            return Ok(());
        }
        if self.policy.panic_on_write {
            self.log
                .warning(text!("panic in handler: attempt to write to RO mount"));
            return Err(Errno::FAULT);
        }
        Err(Errno::ROFS)
    }

    /// The directory that a fid stands for. Errors: `EBADF` no such fid; `EINVAL` deleted or not a
    /// directory.
    fn directory(&mut self, fid: Fid) -> Result<(NodeId, State), Errno> {
        let state = self.get(fid)?;
        let node = state.node();
        if self.fs.is_deleted(node) || self.fs.kind(node)? != Kind::Directory {
            return Err(Errno::INVAL);
        }
        Ok((node, state))
    }

    /// The directory in which a fid lets something be changed. Errors, in this order: those of
    /// [`Session::directory`]; `EINVAL` open; those of [`Session::writable`].
    fn writable_directory(&mut self, fid: Fid) -> Result<NodeId, Errno> {
        let (node, state) = self.directory(fid)?;
        state.not_opened(Errno::INVAL)?;
        self.writable()?;
        Ok(node)
    }
}
