//! Records of one type at stable numbers.

use super::places::{Id, Places};
use crate::sys::memory::{Region, Zeroed};

/// A fixed number of records, each at a number that stays its own until it is removed.
pub struct Slab<T: Zeroed> {
    slots: Region<T>,
    places: Places,
}

impl<T: Zeroed> Slab<T> {
    /// Reserves address space for `capacity` records.
    pub fn reserve(capacity: usize) -> Self {
        const {
            assert!(size_of::<T>().is_power_of_two()); // so that groups of chunks are whole pages
        }
        let places = Places::reserve(capacity, size_of::<T>());
        Self {
            slots: Region::reserve(places.slots()),
            places,
        }
    }

    /// Records in use.
    pub fn live(&self) -> usize {
        self.places.live()
    }

    /// Whether no further record has room.
    pub fn is_full(&self) -> bool {
        self.places.live() >= self.places.capacity()
    }

    /// Stores `record` at the lowest free number. `None`: full; a caller whose record owns something
    /// asks [`Slab::is_full`] before.
    pub fn insert(&mut self, record: T) -> Option<Id> {
        let id = self.places.take()?;
        *self.slots.get_mut(id.slot())? = record;
        Some(id)
    }

    /// The record at `id`. `None`: none is there.
    #[inline(never)] // 2 kB
    pub fn get(&self, id: Id) -> Option<&T> {
        if self.places.has(id) {
            self.slots.get(id.slot())
        } else {
            None
        }
    }

    /// The record at `id`, to change. `None`: none is there.
    #[inline(never)] // 2 kB
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        if self.places.has(id) {
            self.slots.get_mut(id.slot())
        } else {
            None
        }
    }

    /// Frees number `id`. What the record owned is the caller's to release before.
    pub fn remove(&mut self, id: Id) {
        self.places.free(id);
    }

    /// Whether memory may be given back by [`Slab::trim`].
    pub fn wants_trim(&self) -> bool {
        self.places.wants_trim()
    }

    /// Looks through at most `bytes` of records and gives back the pages that hold none in use.
    pub fn trim(&mut self, bytes: usize) {
        let slots = &mut self.slots;
        self.places
            .trim(bytes, &mut |range| slots.discard_bytes(range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_lowest_first_and_used_again() {
        let mut slab = Slab::<u64>::reserve(10_000);
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
        let mut slab = Slab::<u32>::reserve(64);
        let id = slab.insert(5).unwrap();
        slab.remove(Id::NONE);
        slab.remove(id);
        slab.remove(id);
        assert_eq!(slab.live(), 0);
        assert!(slab.get(Id::NONE).is_none());
    }

    #[test]
    fn trimming_keeps_live_records_and_ends() {
        let mut slab = Slab::<u64>::reserve(100_000);
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
