//! What names a file on the wire, apart from its path.

use super::wire::{Field, Fixed, Reader, Writer};

/// Type byte of a qid: the file's kind (docs/protocol.md 1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QidType(pub u8);

impl QidType {
    /// A directory.
    pub const DIRECTORY: Self = Self(0x80);
    /// A socket, FIFO or character device.
    pub const APPEND: Self = Self(0x40);
    /// A symlink.
    pub const SYMLINK: Self = Self(0x02);
    /// A regular file, and everything else.
    pub const REGULAR: Self = Self(0x00);
}

/// `type[1] version[4] path[8]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Qid {
    /// The file's kind.
    pub kind: QidType,
    /// Always 0 to gVisor's client.
    pub version: u32,
    /// Device index in the top 8 bits, inode number in the others.
    pub path: u64,
}

impl Field<'_> for Qid {
    const LEAST: usize = 13;
    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            kind: QidType(Field::read(from)),
            version: Field::read(from),
            path: Field::read(from),
        }
    }
    fn write(&self, to: &mut Writer<'_>) {
        if let Some(room) = to.take(Self::LEAST) {
            self.put(room);
        }
    }
}

impl Fixed for Qid {
    #[inline(always)] // a few stores
    fn put(&self, room: &mut [u8]) {
        if let Some([kind, room @ ..]) = room.first_chunk_mut::<{ <Self as Field>::LEAST }>() {
            *kind = self.kind.0;
            self.version.put(room);
            if let Some(room) = room.get_mut(4..) {
                self.path.put(room);
            }
        }
    }
}
