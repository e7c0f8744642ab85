//! Records of one type at stable numbers, lowest free number first, so that memory stays compact.

use rustix::io::Errno;

use crate::limits::PAGE_BYTES;
use crate::sys::memory::{Region, Zeroed};

crate::zeroed_record! {
    /// Number of a record in its slab; 0 is none, so that a zeroed field refers to nothing.
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

    fn slot(self) -> usize {
        (self.number as usize).wrapping_sub(1)
    }
}

const CHUNK: usize = 64;

/// A fixed number of records, each at a number that stays its own until it is removed.
pub struct Slab<T: Zeroed> {
    slots: Region<T>,
    /// One bit a slot, 64 slots a word: in use.
    used: Region<u64>,
    /// One bit a word of `used`: all 64 in use. Inserting looks through these alone.
    full: Region<u64>,
    capacity: usize,
    live: usize,
    /// No word of `full` before this one has a free bit.
    first_open: usize,
    /// Words of `used` from here on never had a record since the last complete trim.
    touched_chunks: usize,
    /// Where the next trim step goes on; the chunk count when nothing is to be trimmed.
    trim_at: usize,
    emptied: bool,
}

impl<T: Zeroed> Slab<T> {
    /// Chunks that share a page (or the one chunk that covers pages): what memory goes back by.
    const GROUP: usize = {
        let chunk_bytes = CHUNK * size_of::<T>();
        if chunk_bytes >= PAGE_BYTES {
            1
        } else {
            PAGE_BYTES / chunk_bytes
        }
    };

    /// Reserves address space for `capacity` records. Errors: mmap(2)'s.
    pub fn reserve(capacity: usize) -> Result<Self, Errno> {
        const {
            assert!(size_of::<T>().is_power_of_two()); // so that groups of chunks are whole pages
        }
        let chunks = capacity.div_ceil(CHUNK);
        Ok(Self {
            slots: Region::reserve(chunks * CHUNK)?,
            used: Region::reserve(chunks)?,
            full: Region::reserve(chunks.div_ceil(CHUNK))?,
            capacity,
            live: 0,
            first_open: 0,
            touched_chunks: 0,
            trim_at: 0,
            emptied: false,
        })
    }

    /// Records in use.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Records that may be in use at once.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Stores `record` at the lowest free number. `None`: full.
    pub fn insert(&mut self, record: T) -> Option<Id> {
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
        let slot = chunk * CHUNK + bit;
        *self.slots.get_mut(slot)? = record;
        *used |= 1 << bit;
        if *used == u64::MAX {
            *summary |= 1 << (chunk % CHUNK);
        }
        self.live += 1;
        self.touched_chunks = self.touched_chunks.max(chunk + 1);
        u32::try_from(slot + 1).ok().map(|number| Id { number })
    }

    fn is_used(&self, slot: usize) -> bool {
        self.used
            .get(slot / CHUNK)
            .is_some_and(|word| word >> (slot % CHUNK) & 1 == 1)
    }

    /// The record at `id`. `None`: none is there.
    pub fn get(&self, id: Id) -> Option<&T> {
        if self.is_used(id.slot()) {
            self.slots.get(id.slot())
        } else {
            None
        }
    }

    /// The record at `id`, to change. `None`: none is there.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        if self.is_used(id.slot()) {
            self.slots.get_mut(id.slot())
        } else {
            None
        }
    }

    /// Frees number `id`. What the record owned is the caller's to release before.
    pub fn remove(&mut self, id: Id) {
        let slot = id.slot();
        if !self.is_used(slot) {
            return;
        }
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

    /// Whether memory may be given back by [`Slab::trim`].
    pub fn wants_trim(&self) -> bool {
        self.emptied || self.trim_at != 0
    }

    /// Looks through at most `bytes` of records and gives back the pages that hold none in use.
    pub fn trim(&mut self, bytes: usize) {
        if self.trim_at == 0 {
            self.emptied = false;
        }
        let groups = bytes.div_ceil(Self::GROUP * CHUNK * size_of::<T>()).max(1);
        let start = self.trim_at;
        let end =
            (start + groups * Self::GROUP).min(self.touched_chunks.next_multiple_of(Self::GROUP));
        let mut run = start; // chunks from here to `at` hold no record
        let mut at = start;
        while at < end {
            let group_end = at + Self::GROUP;
            let empty = self
                .used
                .get(at..group_end.min(self.used.len()))
                .is_some_and(|words| words.iter().all(|&w| w == 0));
            if !empty {
                self.slots.discard(run * CHUNK..at * CHUNK);
                run = group_end;
            }
            at = group_end;
        }
        self.slots.discard(run * CHUNK..at * CHUNK);
        if end >= self.touched_chunks {
            self.touched_chunks = self.used.get(..self.touched_chunks).map_or(0, |words| {
                words
                    .iter()
                    .rposition(|&word| word != 0)
                    .map_or(0, |last| last + 1)
            });
            self.trim_at = 0;
        } else {
            self.trim_at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_lowest_first_and_used_again() {
        let mut slab = Slab::<u64>::reserve(10_000).unwrap();
        let ids: Vec<Id> = (0..10_000).map(|n| slab.insert(n).unwrap()).collect();
        assert_eq!(slab.insert(1), None);
        assert!(
            ids.iter()
                .enumerate()
                .all(|(n, &id)| *slab.get(id).unwrap() == n as u64)
        );
        for n in [9_000, 70, 5_000] {
            slab.remove(ids[n]);
            assert!(slab.get(ids[n]).is_none());
        }
        assert_eq!(slab.live(), 9_997);
        assert_eq!(slab.insert(1), Some(ids[70]));
        assert_eq!(slab.insert(1), Some(ids[5_000]));
        assert_eq!(slab.insert(1), Some(ids[9_000]));
        assert_eq!(slab.insert(1), None);
    }

    #[test]
    fn removing_twice_or_nothing_does_nothing() {
        let mut slab = Slab::<u32>::reserve(64).unwrap();
        let id = slab.insert(5).unwrap();
        slab.remove(Id::NONE);
        slab.remove(id);
        slab.remove(id);
        assert_eq!(slab.live(), 0);
        assert!(slab.get(Id::NONE).is_none());
    }

    #[test]
    fn trimming_keeps_live_records_and_ends() {
        let mut slab = Slab::<u64>::reserve(100_000).unwrap();
        let ids: Vec<Id> = (0..100_000).map(|n| slab.insert(n).unwrap()).collect();
        for (n, &id) in ids.iter().enumerate() {
            if n != 31 && n != 77_777 {
                slab.remove(id);
            }
        }
        let mut steps = 0;
        while slab.wants_trim() {
            slab.trim(16 << 10);
            steps += 1;
            assert!(steps < 1_000);
        }
        assert!(steps > 10);
        assert_eq!(slab.get(ids[31]), Some(&31));
        assert_eq!(slab.get(ids[77_777]), Some(&77_777));
        assert_eq!(slab.insert(9), Some(ids[0]));
    }
}
