//! Which numbers of a table are in use: one bit each, lowest free number first, so that memory stays compact.

use core::ops::Range;

use crate::limits::PAGE_BYTES;
use crate::sys::memory::Region;

crate::zeroed_record! {
    /// Number of a record in its table; 0 is none, so that a zeroed field refers to nothing.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct Id {
        number: u32,
    }
}

impl Id {
    /// Refers to no record.
    pub const NONE: Self = Self { number: 0 };

    /// Whether it refers to a record.
    pub fn is_some(self) -> bool {
        self.number != 0
    }

    /// The number itself, for hashing and logs.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Its place among the records.
    pub(super) fn slot(self) -> usize {
        (self.number as usize).wrapping_sub(1)
    }
}

const CHUNK: usize = 64;

/// The numbers of a table of a fixed capacity, whose records all have one size.
pub(super) struct Places {
    /// One bit a record, 64 of them a word: in use.
    used: Region<u64>,
    /// One bit a word of `used`: all 64 in use. Taking looks through these alone.
    full: Region<u64>,
    capacity: usize,
    live: usize,
    /// No word of `full` before this one has a free bit.
    first_open: usize,
    /// Words of `used` from here on never had a record since the last complete trim.
    touched_chunks: usize,
    /// Chunks that share a page, or the one chunk that covers pages: what memory goes back by.
    group: usize,
    chunk_bytes: usize,
    /// Where the next trim step goes on; 0 at the start.
    trim_at: usize,
    emptied: bool,
}

impl Places {
    /// `capacity` numbers for records of `record_bytes`, a power of two.
    pub(super) fn reserve(capacity: usize, record_bytes: usize) -> Self {
        let chunks = capacity.div_ceil(CHUNK);
        let chunk_bytes = CHUNK * record_bytes;
        Self {
            used: Region::reserve(chunks),
            full: Region::reserve(chunks.div_ceil(CHUNK)),
            capacity,
            live: 0,
            first_open: 0,
            touched_chunks: 0,
            group: (PAGE_BYTES / chunk_bytes).max(1),
            chunk_bytes,
            trim_at: 0,
            emptied: false,
        }
    }

    /// Records that there is room for: whole chunks.
    pub(super) fn slots(&self) -> usize {
        self.capacity.next_multiple_of(CHUNK)
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn has(&self, id: Id) -> bool {
        let slot = id.slot();
        self.used
            .get(slot / CHUNK)
            .is_some_and(|word| (word >> (slot % CHUNK)) & 1 == 1)
    }

    /// Takes the lowest free number. `None`: full.
    pub(super) fn take(&mut self) -> Option<Id> {
        if self.live >= self.capacity {
            return None;
        }
        let open = self
            .full
            .get(self.first_open..)?
            .iter()
            .position(|&word| word != u64::MAX)?;
        self.first_open += open;
        let summary = self.full.get_mut(self.first_open)?;
        let chunk = self.first_open * CHUNK + summary.trailing_ones() as usize;
        let used = self.used.get_mut(chunk)?;
        let bit = used.trailing_ones() as usize;
        let number = u32::try_from(chunk * CHUNK + bit + 1).ok()?;
        *used |= 1 << bit;
        if *used == u64::MAX {
            *summary |= 1 << (chunk % CHUNK);
        }
        self.live += 1;
        self.touched_chunks = self.touched_chunks.max(chunk + 1);
        Some(Id { number })
    }

    /// Frees a number; one that is free stays so.
    pub(super) fn free(&mut self, id: Id) {
        if !self.has(id) {
            return;
        }
        let slot = id.slot();
        let chunk = slot / CHUNK;
        if let Some(word) = self.used.get_mut(chunk) {
            *word &= !(1 << (slot % CHUNK));
            self.emptied |= *word == 0;
        }
        if let Some(word) = self.full.get_mut(chunk / CHUNK) {
            *word &= !(1 << (chunk % CHUNK));
        }
        self.first_open = self.first_open.min(chunk / CHUNK);
        self.live -= 1;
    }

    pub(super) fn wants_trim(&self) -> bool {
        self.emptied || self.trim_at != 0
    }

    /// Looks through at most `bytes` of records and hands each run of them that holds none in use to
    /// `discard`, as a range of bytes.
    pub(super) fn trim(&mut self, bytes: usize, discard: &mut dyn FnMut(Range<usize>)) {
        if self.trim_at == 0 {
            self.emptied = false;
        }
        let groups = bytes.div_ceil(self.group * self.chunk_bytes).max(1);
        let start = self.trim_at;
        let touched = self.touched_chunks.next_multiple_of(self.group);
        let end = (start + groups * self.group).min(touched);
        let mut run = start; // chunks from here to `at` hold no record
        let mut at = start;
        while at < end {
            let next = at + self.group;
            let words = self
                .used
                .get(at..next.min(self.used.len()))
                .unwrap_or_default();
            if words.iter().any(|&word| word != 0) {
                discard(run * self.chunk_bytes..at * self.chunk_bytes);
                run = next;
            }
            at = next;
        }
        discard(run * self.chunk_bytes..at * self.chunk_bytes);
        if end >= self.touched_chunks {
            // What was freed behind this pass is the next one's.
            if !self.emptied {
                let touched = self.used.get(..self.touched_chunks).unwrap_or_default();
                self.touched_chunks = touched
                    .iter()
                    .rposition(|&word| word != 0)
                    .map_or(0, |last| last + 1);
                // Their bits are zeros, and so are those of what was never touched.
                self.used.discard(self.touched_chunks..self.used.len());
            }
            self.trim_at = 0;
        } else {
            self.trim_at = end;
        }
    }
}
