//! Extended attributes: `user.*` of regular files and directories. All others say something to the host
//! (labels, capabilities, ACLs): a client neither sees nor changes them.

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{FileType, OFlags, XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use super::name::NameBuffer;
use super::{Fs, NodeId, OpenId};
use crate::limits::XATTR_FLAGS_END;

const USER: &[u8] = b"user.";

/// Name of an attribute that is served.
#[derive(Clone, Copy)]
pub struct UserName<'b>(&'b CStr);

impl<'b> UserName<'b> {
    /// Checks a name from the wire. Errors, in this order: `EOPNOTSUPP` not `user.*`; `ERANGE` longer than
    /// 255 bytes; `EINVAL` a NUL in it.
    pub fn new(bytes: &[u8], buffer: &'b mut NameBuffer) -> Result<Self, Errno> {
        if !bytes.starts_with(USER) {
            return Err(Errno::OPNOTSUPP);
        }
        match buffer.fill(bytes) {
            Ok(name) => Ok(Self(name)),
            Err(Errno::NAMETOOLONG) => Err(Errno::RANGE), // xattr(7)'s
            Err(errno) => Err(errno),
        }
    }

    /// With its NUL.
    pub fn text(self) -> &'b CStr {
        self.0
    }
}

/// What is done to a file: how many bytes it came to.
type Act<'a> = &'a mut dyn FnMut(BorrowedFd<'_>) -> Result<usize, Errno>;

impl Fs {
    /// Does something with a node's file, which takes more than an `O_PATH` descriptor: with `open`'s, or one
    /// for reading, since writing an attribute takes no descriptor for writing.
    ///
    /// Errors: `EOPNOTSUPP` neither a regular file nor a directory; openat(2)'s; `ESTALE`.
    fn with_file(&self, node: NodeId, open: OpenId, act: Act<'_>) -> Result<usize, Errno> {
        if !matches!(
            self.kind(node)?,
            FileType::RegularFile | FileType::Directory
        ) {
            return Err(Errno::OPNOTSUPP);
        }
        match self.open_descriptor(open) {
            Ok(fd) => act(fd),
            Err(_) => act(self.open_again(node, open, OFlags::RDONLY)?.as_fd()),
        }
    }

    /// Value of an attribute, into `room`, which is not empty. Errors: those of opening it again;
    /// fgetxattr(2)'s: `ENODATA` none, `ERANGE` no room.
    pub fn get_xattr(
        &self,
        node: NodeId,
        open: OpenId,
        name: UserName<'_>,
        room: &mut [u8],
    ) -> Result<usize, Errno> {
        self.with_file(node, open, &mut |fd| fgetxattr(fd, name.0, &mut *room))
    }

    /// Names of the attributes that are served, each with a NUL behind, into `room`; of other kinds of files
    /// none. Errors: those of opening it again; flistxattr(2)'s.
    pub fn list_xattrs(&self, node: NodeId, open: OpenId, room: &mut [u8]) -> Result<usize, Errno> {
        let list = &mut *room;
        match self.with_file(node, open, &mut |fd| flistxattr(fd, &mut *list)) {
            Ok(len) => Ok(keep_user(room, len)),
            Err(Errno::OPNOTSUPP) => Ok(0),
            Err(errno) => Err(errno),
        }
    }

    /// Sets an attribute, with flags of setxattr(2), or removes it. Errors: `EINVAL` other flags; those of
    /// opening it again; fsetxattr(2)'s, fremovexattr(2)'s.
    pub fn set_xattr(
        &self,
        node: NodeId,
        open: OpenId,
        name: &CStr,
        value: Option<(&[u8], u32)>,
    ) -> Result<(), Errno> {
        if value.is_some_and(|(_, flags)| flags >= XATTR_FLAGS_END) {
            return Err(Errno::INVAL); // the filter ends the process for less
        }
        self.with_file(node, open, &mut |fd| {
            match value {
                Some((value, flags)) => {
                    fsetxattr(fd, name, value, XattrFlags::from_bits_retain(flags))
                }
                None => fremovexattr(fd, name),
            }
            .map(|()| 0)
        })
        .map(drop)
    }
}

/// Moves the names that are served to the start of the list of `len` bytes; how many bytes they are.
fn keep_user(list: &mut [u8], len: usize) -> usize {
    let (mut from, mut kept) = (0, 0);
    while let Some(name) = list.get(from..len)
        && let Some(end) = name.iter().position(|&byte| byte == 0)
    {
        let next = from + end + 1;
        if name.starts_with(USER) {
            list.copy_within(from..next, kept);
            kept += next - from;
        }
        from = next;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_user_names_are_kept_in_their_order() {
        let all = b"security.selinux\0user.a\0system.posix_acl_access\0user.bc\0user\0trusted.x\0";
        let mut list = all.to_vec();
        let len = keep_user(&mut list, all.len());
        assert_eq!(&list[..len], b"user.a\0user.bc\0");
        assert_eq!(keep_user(&mut [], 0), 0);
        assert_eq!(keep_user(&mut b"user.torn".to_vec(), 9), 0);
    }

    #[test]
    fn names_of_other_kinds_too_long_or_with_a_nul_are_refused() {
        let new = |bytes: &[u8]| UserName::new(bytes, &mut NameBuffer::new()).err();
        let long = [&b"user."[..], &[b'x'; 251]].concat();
        assert_eq!(new(&long), Some(Errno::RANGE));
        assert_eq!(new(&long[..255]), None);
        assert_eq!(new(b"user.a\0b"), Some(Errno::INVAL));
        for other in [
            &b""[..],
            b"user",
            b"security.capability",
            b"USER.a",
            b"\0user.a",
        ] {
            assert_eq!(new(other), Some(Errno::OPNOTSUPP));
        }
    }
}
