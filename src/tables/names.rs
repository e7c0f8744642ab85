//! Bytes of path names, in five sizes of block.

use rustix::io::Errno;

use super::slab::{Id, Slab};
use crate::limits::NAME_BYTES;

/// Where a name of known length is kept. Which size of block follows from the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameRef {
    /// Its block among those of its size.
    pub block: Id,
    /// Its length, bytes.
    pub len: u8,
}

/// The names; each size of block has room for a name of every node.
pub struct Names {
    upto16: Slab<[u8; 16]>,
    upto32: Slab<[u8; 32]>,
    upto64: Slab<[u8; 64]>,
    upto128: Slab<[u8; 128]>,
    upto256: Slab<[u8; 256]>,
}

const _: () = assert!(NAME_BYTES < 256);

impl Names {
    /// Reserves address space for `capacity` names. Errors: mmap(2)'s.
    pub fn reserve(capacity: usize) -> Result<Self, Errno> {
        Ok(Self {
            upto16: Slab::reserve(capacity)?,
            upto32: Slab::reserve(capacity)?,
            upto64: Slab::reserve(capacity)?,
            upto128: Slab::reserve(capacity)?,
            upto256: Slab::reserve(capacity)?,
        })
    }

    /// Keeps a copy of `name`. `None`: full, or longer than [`NAME_BYTES`].
    pub fn insert(&mut self, name: &[u8]) -> Option<NameRef> {
        let len = u8::try_from(name.len()).ok()?;
        let block = match len {
            0..=16 => self.upto16.insert(padded(name)),
            17..=32 => self.upto32.insert(padded(name)),
            33..=64 => self.upto64.insert(padded(name)),
            65..=128 => self.upto128.insert(padded(name)),
            _ => self.upto256.insert(padded(name)),
        }?;
        Some(NameRef { block, len })
    }

    /// The name's bytes; none if it was removed.
    pub fn get(&self, name: NameRef) -> &[u8] {
        let block: Option<&[u8]> = match name.len {
            0..=16 => self.upto16.get(name.block).map(|block| &block[..]),
            17..=32 => self.upto32.get(name.block).map(|block| &block[..]),
            33..=64 => self.upto64.get(name.block).map(|block| &block[..]),
            65..=128 => self.upto128.get(name.block).map(|block| &block[..]),
            _ => self.upto256.get(name.block).map(|block| &block[..]),
        };
        block
            .and_then(|bytes| bytes.get(..usize::from(name.len)))
            .unwrap_or_default()
    }

    /// Frees the name's block.
    pub fn remove(&mut self, name: NameRef) {
        match name.len {
            0..=16 => self.upto16.remove(name.block),
            17..=32 => self.upto32.remove(name.block),
            33..=64 => self.upto64.remove(name.block),
            65..=128 => self.upto128.remove(name.block),
            _ => self.upto256.remove(name.block),
        }
    }

    /// Whether memory may be given back by [`Names::trim`].
    pub fn wants_trim(&self) -> bool {
        self.upto16.wants_trim()
            || self.upto32.wants_trim()
            || self.upto64.wants_trim()
            || self.upto128.wants_trim()
            || self.upto256.wants_trim()
    }

    /// Looks through at most `bytes` of each size and gives back the pages that hold no name.
    pub fn trim(&mut self, bytes: usize) {
        self.upto16.trim(bytes);
        self.upto32.trim(bytes);
        self.upto64.trim(bytes);
        self.upto128.trim(bytes);
        self.upto256.trim(bytes);
    }
}

fn padded<const N: usize>(name: &[u8]) -> [u8; N] {
    let mut block = [0; N];
    for (to, from) in block.iter_mut().zip(name) {
        *to = *from;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_kept_whole() {
        let mut names = Names::reserve(64).unwrap();
        let kept: Vec<(NameRef, Vec<u8>)> = (0..=NAME_BYTES)
            .step_by(5)
            .map(|len| {
                let name = vec![b'a' + u8::try_from(len % 26).unwrap(); len];
                (names.insert(&name).unwrap(), name)
            })
            .collect();
        for (at, name) in &kept {
            assert_eq!(names.get(*at), name);
        }
        assert_eq!(names.insert(&[0; 256]), None);
        names.remove(kept[3].0);
        assert_eq!(names.get(kept[3].0), b"");
    }
}
