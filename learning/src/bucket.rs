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
//! empty the word, then write the time, which releases the emptied word, then the new word. So a reader that saw the new time
//! with the old word sees at its second look that the word is gone. That answer, "not here", is right: a station is in one slot only, so
//! there was a moment during the look-up when it was in none. Readers therefore never retry.
//!
//! Only one thing is written without the lock: the time, when a known station is heard again. It is only ever raised. If the
//! slot changes hands meanwhile, the newcomer's time is raised to a moment at which it was indeed present, or about to be.

use crate::{
    PortId,
    sync::{AtomicU32, AtomicU64, Backoff, Ordering},
};

/// A bucket is two cache lines, and each slot's word and time are in the same one: most look-ups touch one line only.
const LINES: usize = if cfg!(loom) { 1 } else { 2 };

/// Slots in a line: five words and five times leave four bytes, for the lock.
const WAYS_PER_LINE: usize = if cfg!(loom) { 2 } else { 5 };

/// Slots in a bucket. At the mean load of four that the table aims at, fewer than one station in a thousand finds its bucket
/// full.
#[cfg(all(test, not(loom)))]
pub(crate) const WAYS: usize = LINES * WAYS_PER_LINE;

/// The bits of a key that fit into a word beside the port and the in-use bit.
pub(crate) const TAG_BITS: u32 = 64 - 1 - PORT_BITS;

const PORT_BITS: u32 = 16;
const PORT_MASK: u64 = (1 << PORT_BITS) - 1;
const IN_USE: u64 = 1 << 63;
const EMPTY: u64 = 0;

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == 64 && size_of::<Bucket>() == 128);

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
    fn home_way(self) -> Way {
        // Bits above the lowest eight of the remainder, as fractions of 2^4 and 2^16.
        let line = (self.0 >> (PORT_BITS + 8) & 0xf) as usize * LINES;
        let at = (self.0 >> (PORT_BITS + 12) & 0xffff) as usize * WAYS_PER_LINE;
        Way { line: line >> 4, at: at >> 16 }
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

/// A place in a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Way {
    line: usize,
    at: usize,
}

impl Way {
    fn all() -> impl Iterator<Item = Self> {
        (0..LINES).flat_map(|line| (0..WAYS_PER_LINE).map(move |at| Self { line, at }))
    }
}

/// A slot in use, as read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Its place in the bucket.
    pub(crate) way: Way,
    pub(crate) tag: Tag,
    pub(crate) port: PortId,
    /// When the station was last heard, in the caller's seconds.
    pub(crate) seen_s: u32,
}

#[repr(align(64))]
#[derive(Default)]
struct Line {
    words: [AtomicU64; WAYS_PER_LINE],
    seen_s: [AtomicU32; WAYS_PER_LINE],
    /// The bucket's lock is its first line's.
    lock: AtomicU32,
}

/// The slots of one hash value, in two cache lines.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Bucket {
    lines: [Line; LINES],
}

impl Bucket {
    /// The slot of this station. Takes no lock and ends after one pass.
    #[inline]
    pub(crate) fn find(&self, tag: Tag) -> Option<Slot> {
        let home = tag.home_way();
        let way = if Tag::of_word(self.word(home).load(Ordering::Acquire)) == tag {
            home
        } else {
            self.find_away(tag)?
        };
        self.read(way).filter(|slot| slot.tag == tag)
    }

    /// The way of a station that is not in its home way. Looks at all of a line without a branch between: which one it is cannot
    /// be predicted, and a wrong guess costs more than five comparisons.
    #[inline]
    fn find_away(&self, tag: Tag) -> Option<Way> {
        self.lines.iter().enumerate().find_map(|(line, Line { words, .. })| {
            let mut holds_tag = 0u32;
            for (at, word) in words.iter().enumerate() {
                let holds = Tag::of_word(word.load(Ordering::Acquire)) == tag;
                holds_tag |= u32::from(holds) << at;
            }
            (holds_tag != 0).then(|| Way { line, at: holds_tag.trailing_zeros() as usize })
        })
    }

    #[inline]
    fn word(&self, way: Way) -> &AtomicU64 {
        &self.lines[way.line].words[way.at]
    }

    #[inline]
    fn time(&self, way: Way) -> &AtomicU32 {
        &self.lines[way.line].seen_s[way.at]
    }

    /// What the slot holds. Takes no lock.
    #[inline]
    pub(crate) fn read(&self, way: Way) -> Option<Slot> {
        let word = self.word(way).load(Ordering::Acquire);
        if word == EMPTY {
            return None;
        }
        // Acquire: the second look at the word must not come before the time, and a time written for a newcomer brings the
        // emptied word with it.
        let seen_s = self.time(way).load(Ordering::Acquire);
        let still = self.word(way).load(Ordering::Relaxed);
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
            self.time(slot.way).fetch_max(now_s, Ordering::Relaxed);
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
        self.lines[0]
            .lock
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| Locked { bucket: self })
    }

    /// The slots in use. Takes no lock: each is read consistently, but not all at one moment.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        Way::all().filter_map(|way| self.read(way))
    }
}

/// The right to write to a bucket; given back when dropped.
pub(crate) struct Locked<'a> {
    bucket: &'a Bucket,
}

impl Locked<'_> {
    /// Gives the slot to a station.
    pub(crate) fn put(&self, way: Way, tag: Tag, port: PortId, now_s: u32) {
        self.bucket.word(way).store(EMPTY, Ordering::Relaxed);
        self.bucket.time(way).store(now_s, Ordering::Release);
        self.bucket.word(way).store(tag.with_port(port), Ordering::Release);
    }

    /// Leads the slot's station to another port.
    pub(crate) fn move_to(&self, slot: &Slot, port: PortId, now_s: u32) {
        self.bucket.refresh(slot, now_s);
        self.bucket.word(slot.way).store(slot.tag.with_port(port), Ordering::Release);
    }

    /// Empties the slot.
    pub(crate) fn clear(&self, way: Way) {
        self.bucket.word(way).store(EMPTY, Ordering::Release);
    }

    /// An empty slot for this station: its home way, or the first.
    pub(crate) fn free_way(&self, tag: Tag) -> Option<Way> {
        let is_free = |way: &Way| self.bucket.word(*way).load(Ordering::Relaxed) == EMPTY;
        std::iter::once(tag.home_way()).chain(Way::all()).find(is_free)
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
        self.bucket.lines[0].lock.store(0, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const FIRST: Way = Way { line: 0, at: 0 };
    const LAST: Way = Way { line: LINES - 1, at: WAYS_PER_LINE - 1 };

    #[test]
    fn a_slot_keeps_what_was_put() {
        let bucket = Bucket::default();
        let tag = Tag::new((1 << TAG_BITS) - 1);
        assert_eq!(tag.remainder(), (1 << TAG_BITS) - 1);
        bucket.lock().put(LAST, tag, PortId(u16::MAX), 7);
        let slot = bucket.find(tag).unwrap();
        assert_eq!((slot.way, slot.tag, slot.port, slot.seen_s), (LAST, tag, PortId(u16::MAX), 7));
        assert!(bucket.find(Tag::new(0)).is_none());
        bucket.lock().clear(LAST);
        assert!(bucket.find(tag).is_none());
    }

    #[test]
    fn an_all_zero_station_on_port_zero_is_not_an_empty_slot() {
        let bucket = Bucket::default();
        assert!(bucket.find(Tag::new(0)).is_none());
        assert_eq!(bucket.lock().free_way(Tag::new(0)), Some(FIRST));
        bucket.lock().put(FIRST, Tag::new(0), PortId(0), 0);
        assert_eq!(bucket.find(Tag::new(0)).unwrap().port, PortId(0));
        assert_eq!(bucket.lock().free_way(Tag::new(0)), Some(Way { line: 0, at: 1 }));
    }

    #[test]
    fn time_only_rises() {
        let bucket = Bucket::default();
        let tag = Tag::new(1);
        bucket.lock().put(FIRST, tag, PortId(1), 100);
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
