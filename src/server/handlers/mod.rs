//! One family of messages a file: look up, check, act, commit, reply.

pub mod attach;
pub mod attr;
pub mod data;
pub mod dir;
pub mod open;
pub mod walk;

use super::dispatch::Session;
use super::fids::State;
use crate::p9::wire::Fid;

impl Session<'_> {
    /// Gives up what a fid stood for.
    fn release(&mut self, state: State) {
        self.fs.release_open(state.open());
        self.fs.release(state.node());
    }

    /// Makes `fid` stand for `state`; what it stood for before is given up.
    fn bind(&mut self, fid: Fid, state: State) {
        if let Some(was) = self.fids.set(self.link.id, fid, state) {
            self.release(was);
        }
    }

    fn get(&self, fid: Fid) -> Result<State, rustix::io::Errno> {
        self.fids.get(self.link.id, fid)
    }
}
