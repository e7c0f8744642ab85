//! One component of a path, checked once.

use core::ffi::CStr;

use rustix::io::Errno;

use crate::limits::NAME_BYTES;

/// A name that cannot leave its directory: not empty, not `.` or `..`, no `/`, no NUL. `fs` takes nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks a name from the wire. Error: `EINVAL` (docs/protocol.md 3.4).
    ///
    /// Length is the host's matter, so that too long a name is told only where the host would tell it.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Errno> {
        if bytes.is_empty()
            || bytes == b"."
            || bytes == b".."
            || bytes.iter().any(|&byte| byte == b'/' || byte == 0)
        {
            return Err(Errno::INVAL);
        }
        Ok(Self(bytes))
    }

    /// The name's bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The name with the NUL that system calls want. Error: `ENAMETOOLONG`.
    pub fn for_host(self, buffer: &mut NameBuffer) -> Result<&CStr, Errno> {
        buffer.fill(self.0)
    }
}

/// Room for a name and its NUL.
pub struct NameBuffer([u8; NAME_BYTES + 1]);

impl NameBuffer {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self([0; NAME_BYTES + 1])
    }

    /// Copies `bytes` here, with a NUL behind. Errors: `ENAMETOOLONG` no room; `EINVAL` a NUL in it.
    pub fn fill(&mut self, bytes: &[u8]) -> Result<&CStr, Errno> {
        let room = self.0.get_mut(..=bytes.len()).ok_or(Errno::NAMETOOLONG)?;
        let (nul, name) = room.split_last_mut().ok_or(Errno::NAMETOOLONG)?;
        name.copy_from_slice(bytes);
        *nul = 0;
        CStr::from_bytes_with_nul(room).map_err(|_| Errno::INVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_climb_split_or_end_early_are_refused() {
        for bad in [
            &b""[..],
            b".",
            b"..",
            b"/",
            b"a/b",
            b"/a",
            b"a/",
            b"a\0",
            b"\0",
        ] {
            assert_eq!(Name::new(bad), Err(Errno::INVAL), "{bad:?}");
        }
        for good in [
            &b"a"[..],
            b"...",
            b".a",
            b"..a",
            b" ",
            b"\xff\xfe",
            &[b'x'; 65_535],
        ] {
            assert_eq!(Name::new(good).unwrap().bytes(), good);
        }
    }

    #[test]
    fn a_name_of_256_bytes_is_too_long_for_the_host() {
        let long = [b'x'; 256];
        let mut buffer = NameBuffer::new();
        assert_eq!(
            Name::new(&long).unwrap().for_host(&mut buffer),
            Err(Errno::NAMETOOLONG)
        );
        let fits = Name::new(&long[..255]).unwrap();
        assert_eq!(fits.for_host(&mut buffer).unwrap().to_bytes(), &long[..255]);
    }
}
