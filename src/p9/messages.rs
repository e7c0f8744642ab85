//! The message table: number, name, fields in wire order (docs/protocol.md 2). Nothing else repeats a layout.
//!
//! `since N` is the version that brings a message in; one above [`Version::HIGHEST`] is unknown to us.

use super::attr::{Attr, FullStat, GetMask, SetAttr, SetMask, StatFs};
use super::qid::Qid;
use super::version::Version;
use super::wire::{
    Data, Fid, Field, Gid, HEADER_BYTES, List, Malformed, Perm, Reader, Str, Tag, Uid, Writer,
};

/// A message with its one layout.
pub trait Message<'a>: Sized {
    /// Its number.
    const KIND: u8;
    /// Its least size, header included, bytes.
    const LEAST: usize;
    /// The extension version that brings it in.
    const SINCE: u32;
    /// Reads it from the bytes behind the header.
    fn decode(body: &'a [u8]) -> Result<Self, Malformed>;
    /// Appends its fields; the header is the frame's.
    fn encode(&self, to: &mut Writer<'_>);
}

/// What a request's bytes turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undecodable {
    /// Too short, or counts that disagree.
    Malformed,
    /// A number that no message served here has.
    Unknown,
    /// The number of a reply.
    Reply,
}

macro_rules! messages {
    ($( $(#[$meta:meta])* $kind:literal $name:ident $(<$life:lifetime>)? $(since $since:literal)?
        { $( $field:ident : $type:ty ),* $(,)? } )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs)] // the fields are the protocol's own
        pub struct $name $(<$life>)? { $( pub $field: $type ),* }

        impl<'a> Message<'a> for $name $(<$life>)? {
            const KIND: u8 = $kind;
            const LEAST: usize = HEADER_BYTES $( + <$type as Field<'a>>::LEAST )*;
            const SINCE: u32 = 0 $( + $since )?;
            #[allow(unused_mut)]
            fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
                let mut from = Reader::new(body);
                let message = Self { $( $field: Field::read(&mut from) ),* };
                from.finish().map(|()| message)
            }
            #[allow(unused_variables)]
            fn encode(&self, to: &mut Writer<'_>) {
                $( self.$field.write(to); )*
            }
        }
    )* };
}

/// One bit for each number whose message came in with a version up to ours.
#[allow(clippy::indexing_slicing)] // evaluated by the compiler: a bad index is a build error
const fn served(kinds: &[(u8, u32)]) -> [u64; 4] {
    let Version::Google(highest) = Version::HIGHEST else {
        return [0; 4];
    };
    let mut bits = [0; 4];
    let mut at = 0;
    while at < kinds.len() {
        let (kind, since) = kinds[at];
        if since <= highest {
            bits[kind as usize / 64] |= 1 << (kind % 64);
        }
        at += 1;
    }
    bits
}

macro_rules! requests {
    ($( $(#[$meta:meta])* $kind:literal $name:ident $(<$life:lifetime>)? $(since $since:literal)?
        { $( $field:ident : $type:ty ),* $(,)? } )*) => {
        messages! { $( $(#[$meta])* $kind $name $(<$life>)? $(since $since)? { $( $field: $type ),* } )* }

        /// A request, decoded; it borrows from the receive buffer.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs)] // the variants are the messages
        pub enum Request<'a> { $( $name($name $(<$life>)?) ),* }

        impl<'a> Request<'a> {
            /// Reads request number `kind` from the bytes behind its header.
            pub fn decode(kind: u8, body: &'a [u8]) -> Result<Self, Undecodable> {
                match kind {
                    $( $kind if Version::HIGHEST >= Version::Google(<$name as Message>::SINCE) =>
                        Message::decode(body).map(Self::$name).map_err(|Malformed| Undecodable::Malformed), )*
                    $( kind if kind == $kind + 1 && Version::HIGHEST >= Version::Google(<$name as Message>::SINCE) =>
                        Err(Undecodable::Reply), )*
                    Rlerror::KIND => Err(Undecodable::Reply),
                    _ => Err(Undecodable::Unknown),
                }
            }

            /// Its number.
            pub fn kind(&self) -> u8 {
                match self { $( Self::$name(_) => $kind ),* }
            }
        }

        /// Whether `kind` is the number of the reply to a request that is served here.
        pub fn is_reply(kind: u8) -> bool {
            const SERVED: [u64; 4] = served(&[$( ($kind, <$name as Message>::SINCE) ),*]);
            let [low, second, third, high] = SERVED;
            let word = match kind / 64 { 0 => low, 1 => second, 2 => third, _ => high };
            kind == Rlerror::KIND || kind % 2 == 1 && word >> (kind % 64 - 1) & 1 == 1
        }

        /// Every request on a line: its number, its name, its fields with their types, tabs between.
        pub const LAYOUTS: &str = concat!($(
            stringify!($kind), "\t", stringify!($name), $( "\t", stringify!($field), ":", stringify!($type), )* "\n"
        ),*);

        /// Numbers, names and least sizes of all requests, for tests.
        pub const REQUESTS: &[(u8, &str, usize)] = &[ $( ($kind, stringify!($name), <$name as Message>::LEAST) ),* ];
    };
}

requests! {
    /// A file system's figures.
    8 Tstatfs { fid: Fid }
    /// Opens the file of a walked fid, once.
    12 Tlopen { fid: Fid, flags: u32 }
    /// Creates and opens a file; the directory's fid becomes the file's.
    14 Tlcreate<'a> { fid: Fid, name: Str<'a>, flags: u32, perm: Perm, gid: Gid }
    /// Creates a symlink.
    16 Tsymlink<'a> { dfid: Fid, name: Str<'a>, target: Str<'a>, gid: Gid }
    /// Creates a file that is not opened.
    18 Tmknod<'a> { dfid: Fid, name: Str<'a>, mode: u32, major: u32, minor: u32, gid: Gid }
    /// Renames the file of a fid.
    20 Trename<'a> { fid: Fid, dfid: Fid, name: Str<'a> }
    /// The target of a symlink.
    22 Treadlink { fid: Fid }
    /// Attributes.
    24 Tgetattr { fid: Fid, mask: GetMask }
    /// Changes attributes.
    26 Tsetattr { fid: Fid, valid: SetMask, attr: SetAttr }
    /// Names of extended attributes.
    28 Tlistxattr since 11 { fid: Fid, size: u64 }
    /// A fid for an extended attribute, or for their list.
    30 Txattrwalk<'a> { fid: Fid, newfid: Fid, name: Str<'a> }
    /// Makes a fid the place to write an extended attribute.
    32 Txattrcreate<'a> { fid: Fid, name: Str<'a>, size: u64, flags: u32 }
    /// An extended attribute.
    34 Tgetxattr<'a> since 10 { fid: Fid, name: Str<'a>, size: u64 }
    /// Sets an extended attribute.
    36 Tsetxattr<'a> since 10 { fid: Fid, name: Str<'a>, value: Str<'a>, flags: u32 }
    /// Removes an extended attribute.
    38 Tremovexattr<'a> since 11 { fid: Fid, name: Str<'a> }
    /// Entries of a directory.
    40 Treaddir { fid: Fid, offset: u64, count: u32 }
    /// Writes a file to its disk. Linux adds datasync[4], which is ignored.
    50 Tfsync { fid: Fid }
    /// Takes or gives back a byte-range lock: Linux's, which gVisor's versions do not know.
    52 Tlock<'a> { fid: Fid, kind: u8, flags: u32, start: u64, length: u64, proc_id: u32, client_id: Str<'a> }
    /// Asks for a lock that is in the way: Linux's.
    54 Tgetlock<'a> { fid: Fid, kind: u8, start: u64, length: u64, proc_id: u32, client_id: Str<'a> }
    /// Creates a hard link.
    70 Tlink<'a> { dfid: Fid, fid: Fid, name: Str<'a> }
    /// Creates a directory.
    72 Tmkdir<'a> { dfid: Fid, name: Str<'a>, perm: Perm, gid: Gid }
    /// Renames by directories and names.
    74 Trenameat<'a> { olddirfid: Fid, oldname: Str<'a>, newdirfid: Fid, newname: Str<'a> }
    /// Removes a name.
    76 Tunlinkat<'a> { dfid: Fid, name: Str<'a>, flags: u32 }
    /// Agrees on version and message size.
    100 Tversion<'a> { msize: u32, version: Str<'a> }
    /// Asks for authentication.
    102 Tauth<'a> { afid: Fid, uname: Str<'a>, aname: Str<'a>, uid: Uid }
    /// A fid for the attach point.
    104 Tattach<'a> { fid: Fid, afid: Fid, uname: Str<'a>, aname: Str<'a>, uid: Uid }
    /// Waits for a request.
    108 Tflush { oldtag: Tag }
    /// A fid for a file below another one.
    110 Twalk<'a> { fid: Fid, newfid: Fid, names: List<'a, Str<'a>> }
    /// Reads file data.
    116 Tread { fid: Fid, offset: u64, count: u32 }
    /// Writes file data.
    118 Twrite<'a> { fid: Fid, offset: u64, data: Data<'a> }
    /// Gives a fid up.
    120 Tclunk { fid: Fid }
    /// Removes a file and gives its fid up.
    122 Tremove { fid: Fid }
    /// Hears of a close.
    124 Tflushf since 1 { fid: Fid }
    /// Twalk and Tgetattr in one.
    126 Twalkgetattr<'a> since 2 { fid: Fid, newfid: Fid, names: List<'a, Str<'a>> }
    /// Tlcreate with an owner.
    128 Tucreate<'a> since 3 { fid: Fid, name: Str<'a>, flags: u32, perm: Perm, gid: Gid, uid: Uid }
    /// Tmkdir with an owner.
    130 Tumkdir<'a> since 3 { dfid: Fid, name: Str<'a>, perm: Perm, gid: Gid, uid: Uid }
    /// Tmknod with an owner.
    132 Tumknod<'a> since 3 { dfid: Fid, name: Str<'a>, mode: u32, major: u32, minor: u32, gid: Gid, uid: Uid }
    /// Tsymlink with an owner.
    134 Tusymlink<'a> since 3 { dfid: Fid, name: Str<'a>, target: Str<'a>, gid: Gid, uid: Uid }
    /// Connects to a host socket.
    136 Tlconnect since 4 { fid: Fid, socktype: u32 }
    /// fallocate(2).
    138 Tallocate since 7 { fid: Fid, mode: u32, offset: u64, length: u64 }
    /// Tsetattr and Tclunk in one.
    140 Tsetattrclunk since 12 { fid: Fid, valid: SetMask, attr: SetAttr }
    /// Attributes of a chain of names.
    142 Tmultigetattr<'a> since 13 { fid: Fid, names: List<'a, Str<'a>> }
    /// Binds a socket.
    144 Tbind<'a> since 13 { dfid: Fid, socktype: u32, name: Str<'a>, uid: Uid, gid: Gid, newfid: Fid }
    /// Asks for a shared-memory channel.
    250 Tchannel since 8 { id: u32, control: u32 }
}

/// Declares the replies, and a table of their least sizes by number.
macro_rules! replies {
    ($( $(#[$meta:meta])* $kind:literal $name:ident $(<$life:lifetime>)? $(since $since:literal)?
        { $( $field:ident : $type:ty ),* $(,)? } )*) => {
        messages! { $( $(#[$meta])* $kind $name $(<$life>)? $(since $since)? { $( $field: $type ),* } )* }

        /// Least size of the reply to request number `kind`, bytes; of one that is not served, 0.
        pub fn reply_least(kind: u8) -> usize {
            const LEAST: [u8; 256] = by_number(&[$( ($kind, <$name as Message>::LEAST) ),*]);
            LEAST.get(usize::from(kind) + 1).copied().unwrap_or_default().into()
        }
    };
}

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)] // evaluated by the compiler
const fn by_number(sizes: &[(u8, usize)]) -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < sizes.len() {
        assert!(sizes[at].1 <= u8::MAX as usize);
        table[sizes[at].0 as usize] = sizes[at].1 as u8;
        at += 1;
    }
    table
}

replies! {
    /// The error reply to any request.
    7 Rlerror { ecode: u32 }
    9 Rstatfs { statfs: StatFs }
    /// At most one donated fd goes with it.
    13 Rlopen { qid: Qid, iounit: u32 }
    /// At most one donated fd goes with it.
    15 Rlcreate { qid: Qid, iounit: u32 }
    17 Rsymlink { qid: Qid }
    19 Rmknod { qid: Qid }
    21 Rrename {}
    23 Rreadlink<'a> { target: Str<'a> }
    25 Rgetattr { valid: GetMask, qid: Qid, attr: Attr }
    27 Rsetattr {}
    29 Rlistxattr<'a> since 11 { names: List<'a, Str<'a>> }
    31 Rxattrwalk { size: u64 }
    33 Rxattrcreate {}
    35 Rgetxattr<'a> since 10 { value: Str<'a> }
    37 Rsetxattr since 10 {}
    39 Rremovexattr since 11 {}
    /// Entries, each `qid[13] offset[8] type[1] name[s]`.
    41 Rreaddir<'a> { data: Data<'a> }
    51 Rfsync {}
    53 Rlock { status: u8 }
    55 Rgetlock<'a> { kind: u8, start: u64, length: u64, proc_id: u32, client_id: Str<'a> }
    71 Rlink {}
    73 Rmkdir { qid: Qid }
    75 Rrenameat {}
    77 Runlinkat {}
    101 Rversion<'a> { msize: u32, version: Str<'a> }
    103 Rauth { qid: Qid }
    105 Rattach { qid: Qid }
    109 Rflush {}
    111 Rwalk<'a> { qids: List<'a, Qid> }
    117 Rread<'a> { data: Data<'a> }
    119 Rwrite { count: u32 }
    121 Rclunk {}
    123 Rremove {}
    125 Rflushf since 1 {}
    127 Rwalkgetattr<'a> since 2 { valid: GetMask, attr: Attr, qids: List<'a, Qid> }
    /// At most one donated fd goes with it.
    129 Rucreate since 3 { qid: Qid, iounit: u32 }
    131 Rumkdir since 3 { qid: Qid }
    133 Rumknod since 3 { qid: Qid }
    135 Rusymlink since 3 { qid: Qid }
    /// One donated fd goes with it.
    137 Rlconnect since 4 {}
    139 Rallocate since 7 {}
    141 Rsetattrclunk since 12 {}
    143 Rmultigetattr<'a> since 13 { stats: List<'a, FullStat> }
    145 Rbind since 13 { qid: Qid, valid: GetMask, attr: Attr }
    /// One donated fd goes with it.
    251 Rchannel since 8 { offset: u64, length: u64 }
}

const _: () = {
    assert!(
        Tlopen::LEAST == 15 && Rlopen::LEAST == 24 && Twrite::LEAST == 23 && Rread::LEAST == 11
    );
    assert!(
        Rgetattr::LEAST == 160
            && Rwalkgetattr::LEAST == 149
            && Tsetattr::LEAST == 67
            && Rlerror::LEAST == 11
    );
    assert!(
        Tumknod::LEAST == 33
            && Tattach::LEAST == 23
            && Tallocate::LEAST == 31
            && Rmultigetattr::LEAST == 9
    );
};
