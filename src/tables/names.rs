//! Bytes of path names, in five sizes of block.

use super::places::{Id, Places};
use crate::limits::NAME_BYTES;
use crate::sys::memory::Region;

/// Where a name of known length is kept. Which size of block follows from the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameRef {
    /// Its block among those of its size.
    pub block: Id,
    /// Its length, bytes.
    pub len: u8,
}

/// Bytes of a block of each size.
const SIZES: [usize; 5] = [16, 32, 64, 128, 256];

/// Blocks of one size.
struct Blocks {
    bytes: Region<u8>,
    places: Places,
    size: usize,
}

/// The names; each size of block has room for a name of every node.
pub struct Names([Blocks; SIZES.len()]);

const _: () = assert!(NAME_BYTES < 256);

impl Names {
    /// Reserves address space for `capacity` names.
    pub fn reserve(capacity: usize) -> Self {
        Self(SIZES.map(|size| {
            let places = Places::reserve(capacity, size);
            Blocks {
                bytes: Region::reserve(places.slots() * size),
                places,
                size,
            }
        }))
    }

    fn blocks(&mut self, len: u8) -> Option<&mut Blocks> {
        self.0
            .iter_mut()
            .find(|blocks| blocks.size >= usize::from(len))
    }

    /// Keeps a copy of `name`. `None`: full, or longer than [`NAME_BYTES`].
    pub fn insert(&mut self, name: &[u8]) -> Option<NameRef> {
        let len = u8::try_from(name.len()).ok()?;
        let blocks = self.blocks(len)?;
        let block = blocks.places.take()?;
        blocks
            .bytes
            .get_mut(block.slot() * blocks.size..)?
            .get_mut(..name.len())?
            .copy_from_slice(name);
        Some(NameRef { block, len })
    }

    /// The name's bytes; none if it was removed.
    pub fn get(&self, name: NameRef) -> &[u8] {
        let blocks = self
            .0
            .iter()
            .find(|blocks| blocks.size >= usize::from(name.len));
        blocks
            .filter(|blocks| blocks.places.has(name.block))
            .and_then(|blocks| blocks.bytes.get(name.block.slot() * blocks.size..))
            .and_then(|bytes| bytes.get(..usize::from(name.len)))
            .unwrap_or_default()
    }

    /// Frees the name's block.
    pub fn remove(&mut self, name: NameRef) {
        if let Some(blocks) = self.blocks(name.len) {
            blocks.places.free(name.block);
        }
    }

    /// Whether memory may be given back by [`Names::trim`].
    pub fn wants_trim(&self) -> bool {
        self.0.iter().any(|blocks| blocks.places.wants_trim())
    }

    /// Looks through at most `bytes` of each size and gives back the pages that hold no name.
    pub fn trim(&mut self, bytes: usize) {
        for blocks in &mut self.0 {
            let region = &mut blocks.bytes;
            blocks
                .places
                .trim(bytes, &mut |range| region.discard_bytes(range));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_kept_whole() {
        let mut names = Names::reserve(64);
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
