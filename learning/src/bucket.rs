//! A bucket of the table: the slots in which the stations of one hash value live.
//!
//! A slot is a word and a time. The word holds the tag (what the bucket's number does not already say of the key) and the
//! port **together**, so a reader gets a port with the key it was stored under or not at all: there is nothing to tear.
//!
//! ```text
//! 63      62..16        15..0
//! in use  tag           port
//! ```
//!
//! The time at which the station was last seen is a word of its own, because it changes each second while the other does
//! not. Readers take no lock: word, time, word again. Writers take the bucket's lock; to give a slot to another station they
//! empty the word, write the time, then write the word, each step released, so a reader that saw the new time with the old
//! word sees at its second look that the word is gone. That answer, "not here", is right: a station is in one slot only, so
//! there was a moment during the look-up when it was in none. Readers therefore never retry.
//!
//! Only one thing is written without the lock: the time, when a known station is heard again. It is only ever raised. If the
//! slot changes hands meanwhile, the newcomer's time is raised to a moment at which it was indeed present, or about to be.

use crate::{
    PortId,
    sync::{AtomicU32, AtomicU64, Backoff, Ordering},
};

/// Slots in a bucket: ten words, ten times and the lock fill two cache lines. At the mean load of four that the table aims
/// at, fewer than one station in a thousand finds its bucket full.
pub(crate) const WAYS: usize = if cfg!(loom) { 2 } else { 10 };

/// The bits of a key that fit into a word beside the port and the in-use bit.
pub(crate) const TAG_BITS: u32 = 64 - 1 - PORT_BITS;

const PORT_BITS: u32 = 16;
const PORT_MASK: u64 = (1 << PORT_BITS) - 1;
const IN_USE: u64 = 1 << 63;
const EMPTY: u64 = 0;

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 128);

/// A word without its port: in use, and the tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(u64);

impl Tag {
    /// `remainder` has at most [`TAG_BITS`].
    #[inline]
    pub(crate) fn new(remainder: u64) -> Self {
        debug_assert!(remainder < 1 << TAG_BITS, "the remainder overlaps the in-use bit");
        Self(IN_USE | remainder << PORT_BITS)
    }

    /// What [`Self::new`] was given.
    pub(crate) fn remainder(self) -> u64 {
        (self.0 & !IN_USE) >> PORT_BITS
    }

    /// Where in its bucket the station is put if there is a choice, so that one look nearly always finds it: ten ways, mostly
    /// four taken, leave four stations in five their own.
    #[inline]
    fn home_way(self) -> usize {
        // The bits above the lowest eight of the remainder, as a fraction of 2^16.
        let fraction = self.0 >> (PORT_BITS + 8) & 0xffff;
        ((fraction * WAYS as u64) >> 16) as usize
    }

    #[inline]
    fn of_word(word: u64) -> Self {
        Self(word & !PORT_MASK)
    }

    #[inline]
    fn with_port(self, port: PortId) -> u64 {
        self.0 | u64::from(port.0)
    }
}

/// A slot in use, as read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Its place in the bucket.
    pub(crate) way: usize,
    pub(crate) tag: Tag,
    pub(crate) port: PortId,
    /// When the station was last heard, in the caller's seconds.
    pub(crate) seen_s: u32,
}

/// See the head of this file.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Bucket {
    words: [AtomicU64; WAYS],
    seen_s: [AtomicU32; WAYS],
    lock: AtomicU32,
}

impl Bucket {
    /// The slot of this station. Takes no lock and ends after one pass.
    #[inline]
    pub(crate) fn find(&self, tag: Tag) -> Option<Slot> {
        let home = tag.home_way();
        let way = if Tag::of_word(self.words[home].load(Ordering::Acquire)) == tag {
            home
        } else {
            self.find_away(tag)?
        };
        self.read(way).filter(|slot| slot.tag == tag)
    }

    /// The way of a station that is not in its home way. Looks at all of them without a branch between: which one it is cannot
    /// be predicted, and a wrong guess costs more than ten comparisons.
    #[inline]
    fn find_away(&self, tag: Tag) -> Option<usize> {
        let mut holds_tag = 0u32;
        for (way, word) in self.words.iter().enumerate() {
            let holds = Tag::of_word(word.load(Ordering::Acquire)) == tag;
            holds_tag |= u32::from(holds) << way;
        }
        (holds_tag != 0).then(|| holds_tag.trailing_zeros() as usize)
    }

    /// What the slot holds. Takes no lock.
    #[inline]
    pub(crate) fn read(&self, way: usize) -> Option<Slot> {
        let word = self.words[way].load(Ordering::Acquire);
        if word == EMPTY {
            return None;
        }
        // Acquire: the second look at the word must not come before the time, and a time written for a newcomer brings the
        // emptied word with it.
        let seen_s = self.seen_s[way].load(Ordering::Acquire);
        let still = self.words[way].load(Ordering::Relaxed);
        // The same station with another port has just moved: the newer port is the right one.
        (Tag::of_word(still) == Tag::of_word(word)).then(|| Slot {
            way,
            tag: Tag::of_word(still),
            port: PortId((still & PORT_MASK) as u16),
            seen_s,
        })
    }

    /// Notes that the slot's station was heard. Writes nothing if it was already heard in this second.
    #[inline]
    pub(crate) fn refresh(&self, slot: &Slot, now_s: u32) {
        if slot.seen_s < now_s {
            // Relaxed is enough: as a read-modify-write it stays in the release sequence of the time it raises.
            self.seen_s[slot.way].fetch_max(now_s, Ordering::Relaxed);
        }
    }

    /// Waits until no other writer is in the bucket.
    pub(crate) fn lock(&self) -> Locked<'_> {
        let backoff = Backoff::default();
        loop {
            if let Some(locked) = self.try_lock() {
                return locked;
            }
            backoff.wait();
        }
    }

    /// The right to write, unless somebody has it.
    pub(crate) fn try_lock(&self) -> Option<Locked<'_>> {
        self.lock
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| Locked { bucket: self })
    }

    /// The slots in use. Takes no lock: each is read consistently, but not all at one moment.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..WAYS).filter_map(|way| self.read(way))
    }
}

/// The right to write to a bucket; given back when dropped.
pub(crate) struct Locked<'a> {
    bucket: &'a Bucket,
}

impl Locked<'_> {
    /// Gives the slot to a station.
    pub(crate) fn put(&self, way: usize, tag: Tag, port: PortId, now_s: u32) {
        self.bucket.words[way].store(EMPTY, Ordering::Relaxed);
        self.bucket.seen_s[way].store(now_s, Ordering::Release);
        self.bucket.words[way].store(tag.with_port(port), Ordering::Release);
    }

    /// Leads the slot's station to another port.
    pub(crate) fn move_to(&self, slot: &Slot, port: PortId, now_s: u32) {
        self.bucket.refresh(slot, now_s);
        self.bucket.words[slot.way].store(slot.tag.with_port(port), Ordering::Release);
    }

    /// Empties the slot.
    pub(crate) fn clear(&self, way: usize) {
        self.bucket.words[way].store(EMPTY, Ordering::Release);
    }

    /// An empty slot for this station: its home way, or the first.
    pub(crate) fn free_way(&self, tag: Tag) -> Option<usize> {
        let is_free = |way: &usize| self.bucket.words[*way].load(Ordering::Relaxed) == EMPTY;
        std::iter::once(tag.home_way()).chain(0..WAYS).find(is_free)
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = Bucket;

    fn deref(&self) -> &Bucket {
        self.bucket
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.bucket.lock.store(0, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_what_was_put() {
        let bucket = Bucket::default();
        let tag = Tag::new((1 << TAG_BITS) - 1);
        assert_eq!(tag.remainder(), (1 << TAG_BITS) - 1);
        bucket.lock().put(3, tag, PortId(u16::MAX), 7);
        let slot = bucket.find(tag).unwrap();
        assert_eq!((slot.way, slot.tag, slot.port, slot.seen_s), (3, tag, PortId(u16::MAX), 7));
        assert!(bucket.find(Tag::new(0)).is_none());
        bucket.lock().clear(3);
        assert!(bucket.find(tag).is_none());
    }

    #[test]
    fn an_all_zero_station_on_port_zero_is_not_an_empty_slot() {
        let bucket = Bucket::default();
        assert!(bucket.find(Tag::new(0)).is_none());
        assert_eq!(bucket.lock().free_way(Tag::new(0)), Some(0));
        bucket.lock().put(0, Tag::new(0), PortId(0), 0);
        assert_eq!(bucket.find(Tag::new(0)).unwrap().port, PortId(0));
        assert_eq!(bucket.lock().free_way(Tag::new(0)), Some(1));
    }

    #[test]
    fn time_only_rises() {
        let bucket = Bucket::default();
        let tag = Tag::new(1);
        bucket.lock().put(0, tag, PortId(1), 100);
        let early = bucket.find(tag).unwrap();
        bucket.refresh(&early, 120);
        bucket.refresh(&early, 110);
        bucket.refresh(&early, 99);
        assert_eq!(bucket.find(tag).unwrap().seen_s, 120);
    }

    #[test]
    fn the_lock_excludes() {
        let bucket = Bucket::default();
        let held = bucket.lock();
        assert!(bucket.try_lock().is_none());
        assert!(bucket.try_lock().is_none(), "a refused attempt must not unlock");
        drop(held);
        assert!(bucket.try_lock().is_some());
    }
}
