//! A hash index over the records of a slab, chained through the records themselves.
//!
//! Keys come from a hostile peer, so the hash is keyed with random bytes taken at start.

use rustix::io::Errno;

use super::places::Id;
use super::slab::Slab;
use crate::limits::PAGE_BYTES;
use crate::sys::memory::{Region, Zeroed};

/// Secret of the hashes.
#[derive(Clone, Copy)]
pub struct Key(u64, u64);

impl Key {
    /// 16 bytes from getrandom(2), before the filter. Errors: its own.
    pub fn random() -> Result<Self, Errno> {
        let mut bytes = [0u8; 16];
        if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())? < 16 {
            return Err(Errno::IO); // never below 256 bytes, says getrandom(2)
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Ok(Self(
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
        ))
    }

    /// Hash of a number and some bytes: each word is mixed in by a multiplication whose two halves are
    /// folded together (as wyhash and foldhash do). Whoever knows no hash cannot aim at a bucket.
    #[inline(never)]
    pub fn hash(self, number: u64, bytes: &[u8]) -> u64 {
        let mut state = fold(number ^ self.0, self.1);
        let mut rest = bytes;
        while let Some((word, behind)) = rest.split_first_chunk() {
            state = fold(state ^ u64::from_le_bytes(*word), self.1);
            rest = behind;
        }
        if !rest.is_empty() {
            let word = rest
                .iter()
                .fold(0, |word, &byte| word << 8 | u64::from(byte));
            state = fold(state ^ word, self.1);
        }
        fold(state ^ bytes.len() as u64, self.0)
    }
}

#[allow(clippy::cast_possible_truncation)] // the halves
#[inline(always)] // a multiplication
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b | 1);
    product as u64 ^ (product >> 64) as u64
}

/// A record with a place for the chain of its hash bucket.
pub trait Linked {
    /// The next record of the same bucket.
    fn next(&self) -> Id;
    /// Sets it.
    fn set_next(&mut self, next: Id);
}

/// Heads of the chains. The caller hashes; equal hashes meet in one bucket.
pub struct Index {
    heads: Region<Id>,
    /// Heads in use of each page of heads, so that an empty page can go back.
    in_page: Region<u32>,
    mask: usize,
    emptied: bool,
}

const HEADS_PER_PAGE: usize = PAGE_BYTES / size_of::<Id>();

impl Index {
    /// Reserves address space for buckets for `capacity` records.
    pub fn reserve(capacity: usize) -> Self {
        let buckets = capacity.max(HEADS_PER_PAGE).next_power_of_two();
        let in_page = Region::reserve(buckets / HEADS_PER_PAGE);
        Self {
            heads: Region::reserve(buckets),
            in_page,
            mask: buckets - 1,
            emptied: false,
        }
    }

    #[allow(clippy::cast_possible_truncation)] // the bucket is the hash's low bits
    fn bucket(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    fn set_head(&mut self, bucket: usize, id: Id) {
        let Some(head) = self.heads.get_mut(bucket) else {
            return;
        };
        let was = core::mem::replace(head, id);
        let Some(count) = self.in_page.get_mut(bucket / HEADS_PER_PAGE) else {
            return;
        };
        match (was.is_some(), id.is_some()) {
            (false, true) => *count += 1,
            (true, false) => {
                *count -= 1;
                self.emptied |= *count == 0;
            }
            _ => {}
        }
    }

    /// The first record of the bucket that `wanted` says yes to.
    pub fn find<T: Zeroed + Linked>(
        &self,
        slab: &Slab<T>,
        hash: u64,
        wanted: impl Fn(Id, &T) -> bool,
    ) -> Option<Id> {
        let mut at = *self.heads.get(self.bucket(hash))?;
        while let Some(record) = slab.get(at) {
            if wanted(at, record) {
                return Some(at);
            }
            at = record.next();
        }
        None
    }

    /// Puts the record `id` into its bucket, once.
    pub fn insert<T: Zeroed + Linked>(&mut self, slab: &mut Slab<T>, hash: u64, id: Id) {
        let bucket = self.bucket(hash);
        let head = self.heads.get(bucket).copied().unwrap_or_default();
        if let Some(record) = slab.get_mut(id) {
            record.set_next(head);
            self.set_head(bucket, id);
        }
    }

    /// Takes the record `id` out of its bucket, if it is there.
    pub fn remove<T: Zeroed + Linked>(&mut self, slab: &mut Slab<T>, hash: u64, id: Id) {
        let Some(next) = slab.get(id).map(Linked::next) else {
            return;
        };
        let bucket = self.bucket(hash);
        let mut at = self.heads.get(bucket).copied().unwrap_or_default();
        if at == id {
            self.set_head(bucket, next);
            return;
        }
        while let Some(record) = slab.get_mut(at) {
            if record.next() == id {
                record.set_next(next);
                return;
            }
            at = record.next();
        }
    }

    /// Whether memory may be given back by [`Index::trim`].
    pub fn wants_trim(&self) -> bool {
        self.emptied
    }

    /// Gives back the pages that hold no head in use. Looks at one counter a page.
    pub fn trim(&mut self) {
        self.emptied = false;
        let mut run = 0; // pages from here to `page` hold none
        for page in 0..self.in_page.len() {
            if self.in_page.get(page) != Some(&0) {
                self.heads
                    .discard(run * HEADS_PER_PAGE..page * HEADS_PER_PAGE);
                run = page + 1;
            }
        }
        self.heads
            .discard_bytes(run * PAGE_BYTES..self.in_page.len() * PAGE_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_spread_over_the_buckets_whatever_differs() {
        let key = Key(0x9e37_79b9_7f4a_7c15, 0x2545_f491_4f6c_dd1d);
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..256 {
            for length in 0..20u8 {
                let bytes = vec![b'a'; length.into()];
                seen.insert(key.hash(number, &bytes) & 0xffff);
            }
        }
        // 5,120 values in 65,536 buckets: about 193 pairs would meet by chance.
        assert!(seen.len() > 4_800, "{}", seen.len());
    }

    crate::zeroed_record! {
        struct Record { next: Id, number: u32, pad: u64 }
    }

    impl Linked for Record {
        fn next(&self) -> Id {
            self.next
        }
        fn set_next(&mut self, next: Id) {
            self.next = next;
        }
    }

    #[test]
    fn records_are_found_removed_and_found_again_even_in_one_bucket() {
        let mut slab = Slab::reserve(100);
        let mut index = Index::reserve(100);
        for hash in [0, 1 << 40] {
            let ids: Vec<Id> = (0..50)
                .map(|number| {
                    slab.insert(Record {
                        next: Id::NONE,
                        number,
                        pad: 0,
                    })
                    .unwrap()
                })
                .collect();
            for &id in &ids {
                index.insert(&mut slab, hash, id);
            }
            for (number, &id) in ids.iter().enumerate().step_by(3) {
                index.remove(&mut slab, hash, id);
                assert_eq!(
                    index.find(&slab, hash, |_, record| record.number as usize == number),
                    None
                );
            }
            assert_eq!(
                index.find(&slab, hash, |_, record| record.number == 49),
                Some(ids[49])
            );
            for &id in &ids {
                index.remove(&mut slab, hash, id);
                slab.remove(id);
            }
            assert!(index.wants_trim());
            index.trim();
            assert_eq!(index.find(&slab, hash, |_, _| true), None);
        }
    }
}
