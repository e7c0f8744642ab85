//! Extended attributes by walk, refused as the original refuses them (protocol.md 3.13).

use rustix::io::Errno;

use crate::p9::messages::{Rxattrcreate, Rxattrwalk, Txattrcreate, Txattrwalk};
use crate::server::dispatch::Session;

/// Txattrwalk. Errors, in this order: `EBADF` no such fid; `ENODATA`.
pub fn xattrwalk(s: &mut Session<'_>, t: Txattrwalk<'_>) -> Result<Rxattrwalk, Errno> {
    s.get(t.fid)?;
    Err(Errno::NODATA)
}

/// Txattrcreate. Errors, in this order: `EBADF` no such fid; `ENOSYS`.
pub fn xattrcreate(s: &mut Session<'_>, t: Txattrcreate<'_>) -> Result<Rxattrcreate, Errno> {
    s.get(t.fid)?;
    Err(Errno::NOSYS)
}
