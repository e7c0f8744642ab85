//! Attributes as the wire has them (docs/protocol.md 1.2, 3.10, 3.11).

use super::qid::Qid;
use super::wire::{Field, Fixed, Gid, Perm, Reader, Uid, Writer};

/// Declares a plain record of fields in wire order.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $( $(#[$fmeta:meta])* $field:ident: $type:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $type ),* }
        impl Field<'_> for $name {
            const LEAST: usize = 0 $( + <$type as Field>::LEAST )*;
            fn read(from: &mut Reader<'_>) -> Self { Self { $( $field: Field::read(from) ),* } }
            fn write(&self, to: &mut Writer<'_>) {
                if let Some(room) = to.take(Self::LEAST) {
                    self.put(room);
                }
            }
        }
        impl Fixed for $name {
            #[inline(never)] // 1 kB
            fn put(&self, room: &mut [u8]) {
                // One look at its length: the stores behind it need none.
                let Some(room) = room.first_chunk_mut::<{ <Self as Field>::LEAST }>() else {
                    return;
                };
                let mut at = 0;
                $(
                    if let Some(place) = room.get_mut(at..) {
                        self.$field.put(place);
                    }
                    at += <$type as Field>::LEAST;
                )*
                debug_assert_eq!(at, room.len());
            }
        }
    };
}

/// Declares a set of bits; bits that it does not know are dropped on both ways.
macro_rules! bits {
    ($(#[$meta:meta])* $name:ident($type:ty) { $( $(#[$bmeta:meta])* $bit:ident = $value:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name(pub $type);
        impl $name {
            $( $(#[$bmeta])* pub const $bit: Self = Self($value); )*
            /// All bits there are.
            pub const ALL: Self = Self(0 $( | $value )*);
            /// Whether every bit of `other` is set.
            pub fn has(self, other: Self) -> bool { self.0 & other.0 == other.0 }
            /// Whether none is set.
            pub fn is_empty(self) -> bool { self.0 == 0 }
        }
        impl Field<'_> for $name {
            const LEAST: usize = <$type as Field>::LEAST;
            fn read(from: &mut Reader<'_>) -> Self { Self(<$type as Field>::read(from) & Self::ALL.0) }
            fn write(&self, to: &mut Writer<'_>) { (self.0 & Self::ALL.0).write(to); }
        }
        impl Fixed for $name {
            fn put(&self, room: &mut [u8]) { (self.0 & Self::ALL.0).put(room); }
        }
    };
}

bits! {
    /// Which attributes are asked for or given.
    GetMask(u64) {
        /// st_mode.
        MODE = 0x1,
        /// st_nlink.
        NLINK = 0x2,
        /// st_uid.
        UID = 0x4,
        /// st_gid.
        GID = 0x8,
        /// st_rdev.
        RDEV = 0x10,
        /// Access time.
        ATIME = 0x20,
        /// Modification time.
        MTIME = 0x40,
        /// Change time.
        CTIME = 0x80,
        /// Inode number.
        INO = 0x100,
        /// st_size.
        SIZE = 0x200,
        /// st_blocks, and st_blksize with it.
        BLOCKS = 0x400,
        /// Birth time.
        BTIME = 0x800,
        /// Generation.
        GEN = 0x1000,
        /// Data version.
        DATA_VERSION = 0x2000,
    }
}

impl GetMask {
    /// What is always given, whatever was asked.
    pub const GIVEN: Self = Self(0x6ff);
}

bits! {
    /// Which attributes a Tsetattr changes.
    SetMask(u32) {
        /// Permission bits.
        MODE = 0x1,
        /// Owner.
        UID = 0x2,
        /// Group.
        GID = 0x4,
        /// Length.
        SIZE = 0x8,
        /// Access time, to now unless [`SetMask::ATIME_GIVEN`].
        ATIME = 0x10,
        /// Modification time, to now unless [`SetMask::MTIME_GIVEN`].
        MTIME = 0x20,
        /// Change time.
        CTIME = 0x40,
        /// The access time's value counts.
        ATIME_GIVEN = 0x80,
        /// The modification time's value counts.
        MTIME_GIVEN = 0x100,
    }
}

record! {
    /// Attributes of a file, 132 bytes. Times in seconds and nanoseconds.
    Attr {
        /// st_mode, type bits included.
        mode: u32,
        /// Owner.
        uid: Uid,
        /// Group.
        gid: Gid,
        /// Hard links.
        nlink: u64,
        /// st_rdev.
        rdev: u64,
        /// Length, bytes.
        size: u64,
        /// Preferred unit of I/O, bytes.
        blksize: u64,
        /// Units of 512 bytes in use.
        blocks: u64,
        /// Access time.
        atime_sec: u64,
        /// Its nanoseconds.
        atime_nsec: u64,
        /// Modification time.
        mtime_sec: u64,
        /// Its nanoseconds.
        mtime_nsec: u64,
        /// Change time.
        ctime_sec: u64,
        /// Its nanoseconds.
        ctime_nsec: u64,
        /// Birth time; not given.
        btime_sec: u64,
        /// Its nanoseconds; not given.
        btime_nsec: u64,
        /// Generation; not given.
        generation: u64,
        /// Data version; not given.
        data_version: u64,
    }
}

record! {
    /// New attributes, 52 bytes.
    SetAttr {
        /// Permission bits.
        perm: Perm,
        /// Owner.
        uid: Uid,
        /// Group.
        gid: Gid,
        /// Length, bytes.
        size: u64,
        /// Access time.
        atime_sec: u64,
        /// Its nanoseconds.
        atime_nsec: u64,
        /// Modification time.
        mtime_sec: u64,
        /// Its nanoseconds.
        mtime_nsec: u64,
    }
}

record! {
    /// A file system's figures, 60 bytes.
    StatFs {
        /// f_type.
        kind: u32,
        /// Bytes of a block.
        bsize: u32,
        /// Blocks in all.
        blocks: u64,
        /// Free blocks.
        bfree: u64,
        /// Free blocks for ordinary users.
        bavail: u64,
        /// Inodes in all.
        files: u64,
        /// Free inodes.
        ffree: u64,
        /// Always 0.
        fsid: u64,
        /// Longest name, bytes.
        namelen: u32,
    }
}

record! {
    /// One entry of Rmultigetattr, 153 bytes.
    FullStat {
        /// The file's qid.
        qid: Qid,
        /// Which attributes are given.
        valid: GetMask,
        /// The attributes.
        attr: Attr,
    }
}

const _: () = assert!(
    Attr::LEAST == 132 && SetAttr::LEAST == 52 && StatFs::LEAST == 60 && FullStat::LEAST == 153
);
