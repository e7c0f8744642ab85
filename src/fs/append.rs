//! Appends of Linux's clients, told from what they write in place.
//!
//! A client says O_APPEND once, in Tlopen, and an offset in each Twrite. Where it writes without a cache, each Twrite
//! of such a fid is an append, and its offset is where the client takes the end to be: several processes may take it
//! to be at the same place, and the host may have moved it. A client that keeps pages (Linux from 6.4 on with
//! cache=mmap, loose or fscache) writes them back whole, at their own offsets, through any fid that may write, one
//! for appending too. So the host's file is opened without O_APPEND, and a *mark* keeps what the client knows of the
//! file's end, by which each Twrite is told.

use rustix::fd::BorrowedFd;
use rustix::io::{Errno, IoSlice, ReadWriteFlags, pread, pwritev2, retry_on_intr};

use super::attr::Meta;
use super::{Fs, NodeId, OpenId};
use crate::limits::{CONNECTIONS, MARKS, SMALLEST_PAGE_BYTES};
use crate::sys::memory::Region;
use crate::tables::{Id, Index, Key, Linked, Slab};

/// How a client writes, as far as its requests have shown.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Writing {
    /// Nothing was seen.
    #[default]
    Unknown,
    /// It writes back whole pages: one held again what an append had brought, and more behind it.
    Pages,
    /// Each Twrite is a write(2): it opens O_WRONLY, which a client that keeps pages does not where it may read too.
    Direct,
}

/// What a connection has shown of its client.
#[derive(Clone, Copy, Default)]
pub struct Habit {
    /// How it writes.
    pub writing: Writing,
    /// Device and inode of the file that it was last refused to open for writing: a client that keeps pages then
    /// asks for O_WRONLY.
    refused: (u64, u64),
}

impl Habit {
    /// Whether a client that opens `file` shows that it is direct.
    fn shows_direct(&self, file: (u64, u64), write_only: bool) -> bool {
        write_only && file != self.refused
    }
}

/// What a client comes to know of a file's size, or the server of what it knows.
#[derive(Clone, Copy)]
pub enum Size {
    /// From Rgetattr.
    Seen(u64),
    /// By its own Tsetattr, O_TRUNC or creation.
    Set(u64),
    /// At least this, after its own Twrite.
    Reached(u64),
}

/// What a Twrite to a fid for appending is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Append,
    InPlace,
    /// An append, unless it begins behind the end that the host's file has.
    AppendWithinFile,
    /// An append, unless it begins with all that the file has from there on, and goes on: a page.
    AppendUnlessPage,
}

/// The end of a file, as a client knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    /// Where the client takes the end to be.
    known: u64,
    /// Where it may take it to be too, since the host has cut the file; or [`NOWHERE`].
    other: u64,
    /// That a process of the client takes the end to be before this is unlikely: answers may overtake each other on
    /// their way to its processes.
    least: u64,
    /// Where the last write ended, if it was one in place of half a page or more: a message may end anywhere in a page,
    /// and the next one goes on there; or [`NOWHERE`].
    resume: u64,
}

/// No offset.
const NOWHERE: u64 = u64::MAX;

impl End {
    fn new(size: u64) -> Self {
        Self {
            known: size,
            other: NOWHERE,
            least: size,
            resume: NOWHERE,
        }
    }

    /// What a Twrite at `offset` is, of a client that is not direct.
    ///
    /// One that keeps pages has one size for all its processes: what begins before that is a page, what begins
    /// behind it goes to the end if the host has made the file longer. Of a client that may be direct as well, as
    /// little as possible is taken for a page: it begins at a multiple of a page's size, and either is as long as pages
    /// are, where no process of a direct client is likely to have seen the end; or begins with the very bytes that are
    /// there, up to the end of the host's file: where several processes append at once that is behind the end that
    /// their client knows.
    fn call(self, offset: u64, count: u64, writing: Writing) -> Call {
        if i64::try_from(offset).is_err() {
            return Call::InPlace; // which pwrite(2) refuses
        }
        if offset == self.known || offset == self.other || writing == Writing::Direct {
            return Call::Append;
        }
        if offset == self.resume {
            return Call::InPlace;
        }
        match writing {
            Writing::Pages if offset < self.known => Call::InPlace,
            Writing::Pages => Call::AppendWithinFile,
            _ if offset > self.known || !offset.is_multiple_of(SMALLEST_PAGE_BYTES as u64) => {
                Call::Append
            }
            _ if offset < self.least && self.ends_pages(offset, count) => Call::InPlace,
            _ => Call::AppendUnlessPage,
        }
    }

    /// Whether `count` bytes from the start of a page on reach the end of one, or of the file.
    fn ends_pages(self, offset: u64, count: u64) -> bool {
        count >= SMALLEST_PAGE_BYTES as u64 || offset.saturating_add(count) == self.known
    }

    /// A Twrite of `count` bytes at `offset` was done.
    fn written(&mut self, offset: u64, count: u64, appended: bool) {
        let end = offset.saturating_add(count);
        let goes_on = !appended && count >= SMALLEST_PAGE_BYTES as u64 / 2;
        self.resume = if goes_on { end } else { NOWHERE };
        if offset == self.known {
            (self.known, self.other) = (end, NOWHERE);
        } else if offset == self.other {
            // It had not heard of the cut. When it does it goes on where that was.
            (self.known, self.other) = (end, self.known.min(self.other));
        } else {
            self.known = self.known.max(end);
        }
    }

    fn note(&mut self, size: Size) {
        match size {
            Size::Seen(size) if size < self.known => {
                // A process may take it to be where it was before the file grew.
                *self = Self {
                    other: self.known,
                    least: self.least.min(size),
                    ..Self::new(size)
                };
            }
            Size::Seen(_) => {}
            Size::Set(size) => *self = Self::new(size),
            Size::Reached(end) => self.known = self.known.max(end),
        }
    }
}

crate::zeroed_record! {
    /// What a connection's client knows of the end of a file that it has open for appending, by whatever names.
    struct Mark {
        device: u64,
        inode: u64,
        known: u64,
        other: u64,
        least: u64,
        resume: u64,
        /// Chain of the hash bucket.
        next: Id,
        /// Open files.
        refs: u32,
        /// What they were opened by; `NONE` if by several names: a direct client has an end for each.
        node: NodeId,
        connection: u16,
        spare: [u8; 2],
    }
}

const _: () = assert!(size_of::<Mark>() == 64);

impl Linked for Mark {
    fn next(&self) -> Id {
        self.next
    }
    fn set_next(&mut self, next: Id) {
        self.next = next;
    }
}

impl Mark {
    fn end(&self) -> End {
        End {
            known: self.known,
            other: self.other,
            least: self.least,
            resume: self.resume,
        }
    }

    fn set_end(&mut self, end: End) {
        (self.known, self.other) = (end.known, end.other);
        (self.least, self.resume) = (end.least, end.resume);
    }
}

/// The marks of all connections.
pub(super) struct Marks {
    marks: Slab<Mark>,
    index: Index,
    key: Key,
    /// Of each connection.
    held: Region<u32>,
    /// Those that every connection can have.
    floor: u32,
    /// Those held beyond that, of all connections together.
    beyond: usize,
}

impl Marks {
    /// Reserves the table, half of which is divided among `connections`.
    pub(super) fn reserve(connections: usize, key: Key) -> Self {
        let floor = MARKS / 2 / connections.clamp(1, CONNECTIONS);
        Self {
            marks: Slab::reserve(MARKS),
            index: Index::reserve(MARKS),
            key,
            held: Region::reserve(CONNECTIONS),
            floor: u32::try_from(floor).unwrap_or(0),
            beyond: 0,
        }
    }

    fn held(&self, connection: u16) -> u32 {
        let held = self.held.get(usize::from(connection));
        held.copied().unwrap_or(u32::MAX)
    }

    /// Whether a connection can have one more.
    fn has_room(&self, connection: u16) -> bool {
        self.held(connection) < self.floor || self.beyond < MARKS / 2
    }

    fn hash(&self, connection: u16, (device, inode): (u64, u64)) -> u64 {
        let number = device ^ u64::from(connection) << 48;
        self.key.hash(number, &inode.to_le_bytes())
    }

    #[inline(never)] // three users
    fn find(&self, connection: u16, file: (u64, u64)) -> Option<Id> {
        if self.held(connection) == 0 {
            return None; // as a rule
        }
        let hash = self.hash(connection, file);
        self.index.find(&self.marks, hash, |_, mark| {
            mark.connection == connection && (mark.device, mark.inode) == file
        })
    }

    /// A file's mark, with one reference for the caller, who opened it by `node`; a new one, where there is none, has
    /// this end. `None`: no room.
    fn take(&mut self, connection: u16, file: (u64, u64), node: NodeId, end: End) -> Option<Id> {
        if let Some(id) = self.find(connection, file) {
            let mark = self.marks.get_mut(id)?;
            mark.refs += 1;
            if mark.node != node {
                mark.node = Id::NONE;
            }
            return Some(id);
        }
        if !self.has_room(connection) {
            return None;
        }
        let mut mark = Mark {
            device: file.0,
            inode: file.1,
            known: 0,
            other: 0,
            least: 0,
            resume: 0,
            next: Id::NONE,
            refs: 1,
            node,
            connection,
            spare: [0; 2],
        };
        mark.set_end(end);
        let id = self.marks.insert(mark)?;
        let hash = self.hash(connection, file);
        self.index.insert(&mut self.marks, hash, id);
        self.beyond += usize::from(self.held(connection) >= self.floor);
        if let Some(held) = self.held.get_mut(usize::from(connection)) {
            *held += 1;
        }
        Some(id)
    }

    /// One reference less; the last one frees it.
    pub(super) fn release(&mut self, id: Id) {
        let Some(mark) = self.marks.get_mut(id) else {
            return;
        };
        mark.refs -= 1;
        if mark.refs > 0 {
            return;
        }
        let (connection, file) = (mark.connection, (mark.device, mark.inode));
        let hash = self.hash(connection, file);
        self.index.remove(&mut self.marks, hash, id);
        self.marks.remove(id);
        if let Some(held) = self.held.get_mut(usize::from(connection)) {
            *held -= 1;
        }
        self.beyond -= usize::from(self.held(connection) >= self.floor);
    }

    pub(super) fn wants_trim(&self) -> bool {
        self.marks.wants_trim() || self.index.wants_trim()
    }

    pub(super) fn trim(&mut self, bytes: usize) {
        self.marks.trim(bytes);
        self.index.trim();
    }
}

impl Fs {
    /// Whether an open of `node` for appending, or of a file that is created in it, is to be marked: direct clients
    /// need no marks, and one that shows by this open that it is direct none either; and there is room.
    pub fn wants_mark(&self, node: NodeId, write_only: bool, habit: &Habit) -> bool {
        self.nodes.get(node).is_some_and(|node| {
            let (connection, file) = (node.attach(), node.file());
            habit.writing != Writing::Direct
                && !habit.shows_direct(file, write_only)
                && (self.marks.has_room(connection) || self.marks.find(connection, file).is_some())
        })
    }

    /// Marks the open file of a node, for which [`Fs::wants_mark`] has found room, and which was opened without O_APPEND;
    /// `size`: the host's, which counts where the client was not told one, and is less where another process of it, which
    /// knows the file by another name, has cut it.
    pub fn mark(&mut self, id: NodeId, open: OpenId, size: u64) {
        let Some(node) = self.nodes.get(id) else {
            return;
        };
        let (connection, file, known) = (node.attach(), node.file(), node.seen().unwrap_or(size));
        let end = End {
            least: known.min(size),
            ..End::new(known)
        };
        if let Some(mark) = self.marks.take(connection, file, id, end)
            && let Some(open) = self.opens.get_mut(open)
        {
            open.mark = mark;
        }
    }

    /// The client of a node comes to know something of its file's size.
    pub fn note_size(&mut self, node: NodeId, size: Size) {
        let Some(node) = self.nodes.get_mut(node) else {
            return;
        };
        node.note(size);
        let (connection, file) = (node.attach(), node.file());
        if let Some(id) = self.marks.find(connection, file)
            && let Some(mark) = self.marks.marks.get_mut(id)
        {
            let mut end = mark.end();
            end.note(size);
            mark.set_end(end);
        }
    }

    /// A regular file was opened, or refused to be.
    pub fn note_open(&self, node: NodeId, was_opened: bool, write_only: bool, habit: &mut Habit) {
        let Some(file) = self.nodes.get(node).map(super::tree::Node::file) else {
            return;
        };
        if !was_opened {
            habit.refused = file;
        } else if habit.shows_direct(file, write_only) {
            habit.writing = Writing::Direct;
        }
    }

    /// [`Fs::write`] whose failure half-way is a failure: of a short count Linux 6.12 sends the rest, and upon the error of
    /// that the whole again, and its process is told of both. Errors: pwrite(2)'s.
    fn write_all(&self, open: OpenId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let (done, end) = self.write_until(open, offset, data);
        end.map(|()| done)
    }

    /// Twrite of Linux's client: to a marked file an append, or in place, as [`End::call`] has it.
    ///
    /// Errors: pwrite(2)'s, pwritev2(2)'s, with nothing written.
    pub fn write_noted(
        &mut self,
        (node, open): (NodeId, OpenId),
        offset: u64,
        data: &[u8],
        writing: &mut Writing,
    ) -> Result<usize, Errno> {
        let id = self.opens.get(open).map_or(Id::NONE, |open| open.mark);
        let Some(mark) = self.marks.marks.get(id) else {
            let done = self.write_all(open, offset, data)?;
            self.note_size(node, Size::Reached(offset.saturating_add(done as u64)));
            return Ok(done);
        };
        let fd = self.open_descriptor(open)?;
        let end = mark.end();
        let is_by_names = *writing == Writing::Unknown && mark.node == Id::NONE;
        let taken_for = if is_by_names {
            Writing::Direct
        } else {
            *writing
        };
        let appends = match end.call(offset, data.len() as u64, taken_for) {
            Call::Append => true,
            Call::InPlace => false,
            Call::AppendWithinFile => offset <= Meta::of(fd)?.size(),
            Call::AppendUnlessPage => {
                let is_page = is_page(fd, offset, end.known, data);
                if is_page {
                    *writing = Writing::Pages;
                }
                !is_page
            }
        };
        let done = if appends {
            append_all(fd, data)?
        } else {
            self.write_all(open, offset, data)?
        };
        let reached = offset.saturating_add(done as u64);
        if let Some(node) = self.nodes.get_mut(node) {
            node.note(Size::Reached(reached));
        }
        if let Some(mark) = self.marks.marks.get_mut(id) {
            let mut end = mark.end();
            end.written(offset, done as u64, appends);
            mark.set_end(end);
        }
        Ok(done)
    }
}

/// One write at the end, wherever that is by now. Errors: pwritev2(2)'s, also of what a short one has left.
fn append_all(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize, Errno> {
    let append = |data| {
        let data = [IoSlice::new(data)];
        retry_on_intr(|| pwritev2(fd, &data, 0, ReadWriteFlags::APPEND))
    };
    let done = append(data)?;
    match data.get(done..).unwrap_or_default() {
        [] => Ok(done),
        rest => Ok(done + append(rest)?),
    }
}

/// Whether `data` begins with what the file has from `offset` up to `known`, or up to the end of the smallest page,
/// and goes on beyond `known`, where the file ends.
#[inline(never)] // its buffer has no place in the frame of every Twrite
fn is_page(fd: BorrowedFd<'_>, offset: u64, known: u64, data: &[u8]) -> bool {
    let mut there = [0; SMALLEST_PAGE_BYTES];
    let old = known.saturating_sub(offset);
    if data.len() as u64 <= old || Meta::of(fd).map_or(true, |meta| meta.size() != known) {
        return false;
    }
    let compared = usize::try_from(old).map_or(there.len(), |old| old.min(there.len()));
    let there = there.get_mut(..compared).unwrap_or_default();
    retry_on_intr(|| pread(fd, &mut *there, offset)) == Ok(compared)
        && data.get(..compared) == Some(&*there)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = SMALLEST_PAGE_BYTES as u64;

    /// Known to be 10,000 bytes long, and opened when it was 5,000.
    const END: End = End {
        known: 10_000,
        other: NOWHERE,
        least: 5_000,
        resume: NOWHERE,
    };

    #[test]
    fn each_row_of_a_client_that_writes_pages() {
        let cut = End {
            other: 20_000,
            ..END
        };
        for (end, offset, call) in [
            (END, 10_000, Call::Append),
            (cut, 20_000, Call::Append),
            (END, 9_999, Call::InPlace),
            (END, 8_192, Call::InPlace),
            (END, 0, Call::InPlace),
            (END, 10_001, Call::AppendWithinFile),
            (END, 20_000, Call::AppendWithinFile),
            (cut, 12_288, Call::AppendWithinFile),
        ] {
            assert_eq!(end.call(offset, 1, Writing::Pages), call, "{offset}");
        }
    }

    #[test]
    fn each_row_of_a_client_of_which_nothing_is_known() {
        for (offset, count, call) in [
            (10_000, PAGE, Call::Append),
            (9_999, PAGE, Call::Append),
            (1, PAGE, Call::Append),
            (10_001, PAGE, Call::Append),
            (3 * PAGE, PAGE, Call::Append),
            (PAGE, PAGE, Call::InPlace),
            (PAGE, PAGE + 1, Call::InPlace),
            (PAGE, PAGE - 1, Call::AppendUnlessPage),
            (0, 3 * PAGE, Call::InPlace),
            (0, 1, Call::AppendUnlessPage),
            (2 * PAGE, PAGE, Call::AppendUnlessPage),
        ] {
            let what = END.call(offset, count, Writing::Unknown);
            assert_eq!(what, call, "{offset} {count}");
        }
        let short = End::new(PAGE + 100);
        let what = short.call(PAGE, 100, Writing::Unknown);
        assert_eq!(what, Call::InPlace, "the last page");
    }

    #[test]
    fn a_direct_client_appends_at_whatever_offset() {
        for offset in [0, PAGE, 9_999, 10_000, 10_001, i64::MAX.cast_unsigned()] {
            assert_eq!(END.call(offset, 1, Writing::Direct), Call::Append);
        }
        for offset in [1 << 63, NOWHERE] {
            for writing in [Writing::Direct, Writing::Pages, Writing::Unknown] {
                assert_eq!(END.call(offset, 1, writing), Call::InPlace);
            }
        }
    }

    #[test]
    fn ends_follow_what_the_client_comes_to_know() {
        let mut end = End::new(100);
        end.note(Size::Seen(150));
        assert_eq!(end, End::new(100), "it may still write where it was");
        end.note(Size::Reached(80));
        assert_eq!(end, End::new(100));
        end.note(Size::Reached(120));
        assert_eq!((end.known, end.least), (120, 100));
        end.written(120, 10, true);
        assert_eq!((end.known, end.other), (130, NOWHERE));
        end.written(0, 4096, true);
        assert_eq!(end.known, 4096);
        end.note(Size::Seen(50));
        assert_eq!((end.known, end.other, end.least), (50, 4096, 50));
        end.note(Size::Set(7));
        assert_eq!(end, End::new(7));
    }

    #[test]
    fn after_a_cut_either_end_may_be_believed() {
        let mut end = End::new(100);
        end.note(Size::Seen(50));
        // It had not heard of it yet, and then it has.
        end.written(100, 5, true);
        assert_eq!((end.known, end.other), (105, 50));
        end.written(50, 5, true);
        assert_eq!((end.known, end.other), (55, 50));
        // It has: a page that begins there is no append any more.
        end.written(55, 5, true);
        assert_eq!((end.known, end.other), (60, NOWHERE));
    }

    fn marks(connections: usize) -> Marks {
        Marks::reserve(connections, Key::random().unwrap())
    }

    /// As an open by one and the same name does.
    fn take(marks: &mut Marks, connection: u16, file: (u64, u64), size: u64) -> Option<Id> {
        marks.take(connection, file, Id::NONE, End::new(size))
    }

    /// Takes marks of a connection until there is none; how many.
    fn fill(marks: &mut Marks, connection: u16) -> usize {
        let from = 1_000_000 * u64::from(connection);
        (from..)
            .take_while(|&inode| take(marks, connection, (1, inode), 0).is_some())
            .count()
    }

    #[test]
    fn each_connection_has_its_share_and_the_first_ones_have_the_rest() {
        let mut marks = marks(4);
        assert_eq!(fill(&mut marks, 0), MARKS / 8 + MARKS / 2);
        for other in 1..4 {
            assert_eq!(fill(&mut marks, other), MARKS / 8);
        }
        // What one gives back of the common half is anyone's.
        let id = marks.find(0, (1, 5)).unwrap();
        marks.release(id);
        assert_eq!(marks.find(0, (1, 5)), None);
        assert!(take(&mut marks, 3, (1, 0), 0).is_some());
        assert!(take(&mut marks, 0, (1, 5), 0).is_none());
        // A file that has one needs no room.
        assert!(take(&mut marks, 0, (1, 6), 0).is_some());
    }

    #[test]
    fn a_full_table_of_the_most_connections_has_four_for_each() {
        let mut marks = marks(CONNECTIONS);
        fill(&mut marks, 0);
        for other in 1..u16::try_from(CONNECTIONS).unwrap() {
            assert_eq!(fill(&mut marks, other), 4);
        }
    }

    #[test]
    fn one_mark_a_file_and_connection_until_its_last_reference() {
        let mut marks = marks(2);
        let first = take(&mut marks, 0, (1, 7), 3).unwrap();
        assert_eq!(take(&mut marks, 0, (1, 7), 9), Some(first));
        assert_ne!(take(&mut marks, 1, (1, 7), 9), Some(first));
        assert_ne!(take(&mut marks, 0, (2, 7), 9), Some(first));
        marks.release(first);
        assert_eq!(marks.find(0, (1, 7)), Some(first));
        assert_eq!(marks.marks.get(first).unwrap().end(), End::new(3));
        marks.release(first);
        assert_eq!(marks.find(0, (1, 7)), None);
        marks.release(Id::NONE);
    }
}
