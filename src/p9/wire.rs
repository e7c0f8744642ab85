//! Primitives of the wire: little-endian numbers, strings, lists (docs/protocol.md 1.2).

/// A request that its bytes do not spell: too short, or a count that disagrees with what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Reads fields in wire order. Running out of bytes is latched: reads go on with zeros, and
/// [`Reader::finish`] tells once.
pub struct Reader<'a> {
    rest: &'a [u8],
    overrun: bool,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte behind the frame's header.
    pub fn new(body: &'a [u8]) -> Self {
        Self {
            rest: body,
            overrun: false,
        }
    }

    /// The next `count` bytes.
    #[inline(never)] // 4 kB
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        match self.rest.split_at_checked(count) {
            Some((bytes, rest)) => {
                self.rest = rest;
                bytes
            }
            None => {
                self.overrun = true;
                self.rest = &[];
                &[]
            }
        }
    }

    /// A number of `N` bytes, at most 8. One load where eight are left, which is nearly always.
    #[inline(never)] // its many calls then give the reader alone
    fn number<const N: usize>(&mut self) -> u64 {
        let mut all = [0; 8];
        match self.rest.split_at_checked(N) {
            Some((number, behind)) => {
                match self.rest.first_chunk() {
                    Some(chunk) => all = *chunk,
                    None => all
                        .iter_mut()
                        .zip(number)
                        .for_each(|(to, from)| *to = *from),
                }
                self.rest = behind;
            }
            None => {
                self.overrun = true;
                self.rest = &[];
            }
        }
        u64::from_le_bytes(all) & u64::MAX >> (64 - 8 * N)
    }

    /// All bytes that are left.
    pub fn remaining(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Notes that a count disagreed with what follows it.
    pub fn fail(&mut self) {
        self.overrun = true;
    }

    /// Whether a field was not there.
    pub fn is_overrun(&self) -> bool {
        self.overrun
    }

    /// Whether all fields were there. Bytes behind the last field are ignored.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.overrun { Err(Malformed) } else { Ok(()) }
    }
}

/// Fills a reply in place. Running out of room is latched: writes are dropped, and the frame
/// is not sent ([`Writer::written`]).
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
    overrun: bool,
}

impl<'a> Writer<'a> {
    /// Writes from the start of `buffer` on.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self {
            buffer,
            at: 0,
            overrun: false,
        }
    }

    /// The next `count` bytes, which the caller fills. `None`: no room.
    #[inline(never)] // 6 kB
    pub fn take(&mut self, count: usize) -> Option<&mut [u8]> {
        let room = self
            .buffer
            .get_mut(self.at..)
            .and_then(|rest| rest.get_mut(..count));
        match room {
            Some(_) => self.at += count,
            None => self.overrun = true,
        }
        room
    }

    /// Appends bytes.
    #[inline(never)] // as above
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(room) = self.take(bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    /// Appends the lowest `N` bytes of a number, at most 8. One store where eight have room, of which the
    /// upper ones are written over next.
    #[inline(never)] // as above
    fn number<const N: usize>(&mut self, value: u64) {
        let all = value.to_le_bytes();
        let room = self.buffer.get_mut(self.at..).unwrap_or_default();
        if let Some(chunk) = room.first_chunk_mut() {
            *chunk = all;
        } else if let Some(room) = room.get_mut(..N) {
            room.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        } else {
            self.overrun = true;
            return;
        }
        self.at += N;
    }

    /// The room left behind what is written, for data that a system call puts there.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.at..).unwrap_or_default()
    }

    /// Counts `count` bytes of [`Writer::room`] as written.
    pub fn advance(&mut self, count: usize) {
        if count <= self.buffer.len() - self.at {
            self.at += count;
        } else {
            self.overrun = true;
        }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.at
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// Writes `bytes` over what stands at `at`.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self
            .buffer
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
        {
            place.copy_from_slice(bytes);
        }
    }

    /// Writes a field over what stands at `at`.
    pub fn put(&mut self, at: usize, field: &impl Fixed) {
        if let Some(place) = self.buffer.get_mut(at..) {
            field.put(place);
        }
    }

    /// How many bytes were written; [`Malformed`] if there was no room for all.
    pub fn written(&self) -> Result<usize, Malformed> {
        if self.overrun {
            Err(Malformed)
        } else {
            Ok(self.at)
        }
    }
}

/// A type with one layout on the wire.
pub trait Field<'a>: Sized {
    /// The least number of bytes it takes.
    const LEAST: usize;
    /// Reads it.
    fn read(from: &mut Reader<'a>) -> Self;
    /// Writes it.
    fn write(&self, to: &mut Writer<'_>);
}

/// A field that takes the same number of bytes always.
pub trait Fixed {
    /// Writes it to the start of `room`, which has room.
    fn put(&self, room: &mut [u8]);
}

macro_rules! integer_fields {
    ($($type:ty),*) => { $(
        impl Field<'_> for $type {
            const LEAST: usize = size_of::<$type>();
            #[allow(clippy::cast_possible_truncation, clippy::cast_lossless)] // it has as many bytes
            fn read(from: &mut Reader<'_>) -> Self { from.number::<{ size_of::<$type>() }>() as $type }
            #[allow(clippy::cast_lossless)] // one of the types is u64 itself
            fn write(&self, to: &mut Writer<'_>) { to.number::<{ size_of::<$type>() }>(*self as u64); }
        }
        impl Fixed for $type {
            #[inline(always)] // a store, where the room's length is known
            fn put(&self, room: &mut [u8]) {
                if let Some(room) = room.first_chunk_mut() {
                    *room = self.to_le_bytes();
                }
            }
        }
    )* };
}
integer_fields!(u8, u16, u32, u64);

/// Declares a type that is one number on the wire.
macro_rules! number_fields {
    ($($(#[$meta:meta])* $name:ident($type:ty);)*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name(pub $type);
        impl Field<'_> for $name {
            const LEAST: usize = <$type as Field>::LEAST;
            fn read(from: &mut Reader<'_>) -> Self { Self(Field::read(from)) }
            fn write(&self, to: &mut Writer<'_>) { self.0.write(to); }
        }
        impl Fixed for $name {
            #[inline(always)] // as above
            fn put(&self, room: &mut [u8]) { self.0.put(room); }
        }
    )* };
}

number_fields! {
    /// A client's number for a file. 0xFFFFFFFF is special only as Tattach's afid.
    Fid(u32);
    /// A client's number for a request under way.
    Tag(u16);
    /// A user id; [`Uid::NONE`] leaves the owner.
    Uid(u32);
    /// A group id; [`Gid::NONE`] leaves the group.
    Gid(u32);
}

impl Fid {
    /// No fid, in Tattach's afid.
    pub const NONE: Self = Self(u32::MAX);
}

impl Uid {
    /// NOUID.
    pub const NONE: Self = Self(u32::MAX);
}

impl Gid {
    /// NOGID.
    pub const NONE: Self = Self(u32::MAX);
}

/// Permission bits, cut to 07777 on both ways (since 2021-03-23, docs/protocol.md 1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Perm(pub u32);

impl Field<'_> for Perm {
    const LEAST: usize = 4;
    fn read(from: &mut Reader<'_>) -> Self {
        Self(u32::read(from) & 0o7777)
    }
    fn write(&self, to: &mut Writer<'_>) {
        (self.0 & 0o7777).write(to);
    }
}

impl Fixed for Perm {
    fn put(&self, room: &mut [u8]) {
        (self.0 & 0o7777).put(room);
    }
}

/// A string: any bytes, none excluded; it borrows from the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Str<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Str<'a> {
    const LEAST: usize = 2;
    fn read(from: &mut Reader<'a>) -> Self {
        let len = u16::read(from);
        Self(from.bytes(usize::from(len)))
    }
    fn write(&self, to: &mut Writer<'_>) {
        let len = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        len.write(to);
        to.bytes(self.0.get(..usize::from(len)).unwrap_or_default());
    }
}

/// File data: a count, then exactly that many bytes to the end of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Data<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Data<'a> {
    const LEAST: usize = 4;
    fn read(from: &mut Reader<'a>) -> Self {
        let count = u32::read(from);
        let bytes = from.remaining();
        if bytes.len() as u64 != u64::from(count) {
            from.fail();
        }
        Self(bytes)
    }
    fn write(&self, to: &mut Writer<'_>) {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX).write(to);
        to.bytes(self.0);
    }
}

/// A counted list; the items are checked to be there when it is read, and decoded when walked through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List<'a, T> {
    count: u16,
    items: &'a [u8],
    of: core::marker::PhantomData<T>,
}

impl<'a, T: Field<'a>> List<'a, T> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut reader = Reader::new(self.items);
        (0..self.count).map(move |_| T::read(&mut reader))
    }
}

impl<'a, T: Field<'a>> Field<'a> for List<'a, T> {
    const LEAST: usize = 2;
    fn read(from: &mut Reader<'a>) -> Self {
        let count = u16::read(from);
        let all = from.rest;
        for _ in 0..count {
            let _item = T::read(from);
            if from.overrun {
                break;
            }
        }
        let items = all.get(..all.len() - from.rest.len()).unwrap_or_default();
        Self {
            count: if from.overrun { 0 } else { count },
            items,
            of: core::marker::PhantomData,
        }
    }
    fn write(&self, to: &mut Writer<'_>) {
        self.count.write(to);
        to.bytes(self.items);
    }
}

/// Bytes of a frame's header: size[4] type[1] tag[2].
pub const HEADER_BYTES: usize = 7;

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of the whole frame, these included.
    pub size: u32,
    /// Number of the message.
    pub kind: u8,
    /// The request's tag.
    pub tag: Tag,
}

impl Header {
    /// Reads it. `None`: fewer than [`HEADER_BYTES`] bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d, kind, e, f] = bytes.first_chunk()?;
        Some(Self {
            size: u32::from_le_bytes([a, b, c, d]),
            kind,
            tag: Tag(u16::from_le_bytes([e, f])),
        })
    }

    /// Its bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.size.to_le_bytes();
        let [e, f] = self.tag.0.to_le_bytes();
        [a, b, c, d, self.kind, e, f]
    }
}
