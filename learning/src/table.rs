//! The MAC table: learned on ingress, asked on egress, shared by all workers.
//!
//! A station lives in one bucket, which its permuted (VLAN, MAC) names. [`MacTable::look_up`] takes no lock and never waits;
//! [`MacTable::learn`] of a station that is where it was writes nothing, except once a second its time; everything else takes
//! the lock of one bucket. `bucket` argues why that is sound.
//!
//! **Who gives way.** The table holds at most `capacity` stations and a port at most `per_port_cap`. For a new station
//!
//! 1. aged stations of its bucket go first;
//! 2. a port at its cap gives up its own oldest station in the bucket; if it has none there, the new one is refused;
//! 3. if its bucket is full, a station of the port with the most stations gives way, among those of the bucket, and of that
//!    port's the oldest. A port with fewer stations than the newcomer's port never gives way;
//! 4. if only the table is full, the same, but a port with no more than its fair share (the capacity divided by the ports that
//!    have stations) never gives way, and the next few buckets are tried if nobody in the station's own has to. So a port that
//!    floods addresses ends up displacing its own, and a port within its share keeps what it has;
//! 5. then the new station is refused.
//!
//! Being refused or displaced is harmless: frames to the station are flooded until there is room.

use std::cmp::Reverse;

use crossbeam::utils::CachePadded;

use crate::{
    MacAddr, PortId, VlanId,
    bucket::{Bucket, Locked, Slot, TAG_BITS, Tag, Way},
    permutation::{KEY_BITS, KEY_MASK, Permutation},
    sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

/// Every value of a [`PortId`].
const PORTS: usize = if cfg!(loom) { 4 } else { 1 << 16 };

/// What a tag cannot hold of a key, the bucket's number must say: 8,192 buckets (1 MiB) at least.
const BUCKET_BITS_MIN: u32 = KEY_BITS.saturating_sub(TAG_BITS);

/// Stations per bucket when the table is full. Of random stations 0.1 % then find their bucket of ten slots full.
const MEAN_LOAD: usize = if cfg!(loom) { 1 } else { 4 };

/// 4 Mi stations, 128 MiB: far beyond one Ethernet segment.
const CAPACITY_MAX: usize = 1 << 22;

/// Buckets tried when the table is full and the station's own bucket yields nothing. At the mean load of a full table one
/// bucket in 50 is empty, so that all of them yield nothing only if no port has to give way.
const BUCKETS_TRIED_FOR_ROOM: usize = 16;

/// The sizes of a [`MacTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacTableConfig {
    /// Stations at most; 1 to 4,194,304 (other values are brought into that range).
    pub capacity: usize,
    /// Stations on one port at most; 1 to `capacity` (other values are brought into that range).
    pub per_port_cap: usize,
    /// A station not heard for longer than this is forgotten (IEEE 802.1Q clause 8.8.3, ageing time), in seconds.
    pub ageing_s: u32,
}

impl Default for MacTableConfig {
    fn default() -> Self {
        Self { capacity: 65_536, per_port_cap: 32_768, ageing_s: 300 }
    }
}

/// What [`MacTable::learn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The station was known on this port.
    Known,
    /// A new station, or one that had aged.
    New,
    /// The station was known on another port.
    Moved {
        /// Where it was before.
        from: PortId,
    },
    /// A new station, stored in place of this one.
    Evicted {
        /// The displaced station's VLAN.
        vlan: VlanId,
        /// The displaced station.
        mac: MacAddr,
        /// The port it was on.
        port: PortId,
    },
    /// Not stored: a group or zero address or a VLAN beyond 4,095; or no room by the rules at the head of this file. A
    /// station known on another port stays there, until it ages.
    Refused,
}

/// A station, as listed by [`MacTable::for_each`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its VLAN.
    pub vlan: VlanId,
    /// Its address.
    pub mac: MacAddr,
    /// The port that leads to it.
    pub port: PortId,
    /// Seconds since it was last heard.
    pub age_s: u32,
}

/// What has happened in a table since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TableCounters {
    /// Stations stored, those in place of others included.
    pub learned: u64,
    /// Stations that moved from one port to another.
    pub moved: u64,
    /// Stations displaced.
    pub evicted: u64,
    /// Stations not stored for want of room; addresses that are never stored are not counted.
    pub refused: u64,
    /// Stations removed because they had aged.
    pub aged: u64,
    /// Stations removed because their port was flushed.
    pub flushed: u64,
}

#[derive(Default)]
struct Counters {
    learned: AtomicU64,
    moved: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
    aged: AtomicU64,
    flushed: AtomicU64,
}

/// The forwarding database (IEEE 802.1Q clause 8.8): which port each station was heard on last.
pub struct MacTable {
    permutation: Permutation,
    /// The bits of a permuted key below those that number its bucket.
    remainder_bits: u32,
    buckets: Box<[Bucket]>,
    ageing_s: u32,
    capacity: usize,
    per_port_cap: u32,
    /// Stations stored, and room reserved for stations that are just being stored.
    stations: CachePadded<AtomicUsize>,
    stations_of_port: Box<[AtomicU32]>,
    /// Ports that have stations. Follows their counts a moment later, so that it may be off by one for each writer, and wrap at 0.
    ports_in_use: AtomicUsize,
    sweep_hand: AtomicUsize,
    counters: CachePadded<Counters>,
}

impl MacTable {
    /// An empty table.
    pub fn new(config: MacTableConfig) -> Self {
        Self::with_permutation(config, Permutation::random())
    }

    pub(crate) fn with_permutation(config: MacTableConfig, permutation: Permutation) -> Self {
        let capacity = config.capacity.clamp(1, CAPACITY_MAX);
        let bucket_bits =
            capacity.div_ceil(MEAN_LOAD).next_power_of_two().ilog2().max(BUCKET_BITS_MIN);
        Self {
            permutation,
            remainder_bits: KEY_BITS - bucket_bits,
            buckets: (0..1usize << bucket_bits).map(|_| Bucket::default()).collect(),
            ageing_s: config.ageing_s,
            capacity,
            per_port_cap: config.per_port_cap.clamp(1, capacity) as u32,
            stations: CachePadded::new(AtomicUsize::new(0)),
            stations_of_port: (0..PORTS).map(|_| AtomicU32::new(0)).collect(),
            ports_in_use: AtomicUsize::new(0),
            sweep_hand: AtomicUsize::new(0),
            counters: CachePadded::new(Counters::default()),
        }
    }

    /// The port that leads to this station; `None` if it is not known or has aged.
    #[inline]
    pub fn look_up(&self, vlan: VlanId, mac: MacAddr, now_s: u32) -> Option<PortId> {
        let (index, tag) = self.place(key(vlan, mac)?);
        let slot = self.buckets[index].find(tag)?;
        (!self.is_aged(&slot, now_s)).then_some(slot.port)
    }

    /// Notes that this station was heard on `port`. `now_s` should not run backward; an earlier time than one already noted
    /// for the station is ignored.
    #[inline]
    pub fn learn(&self, vlan: VlanId, mac: MacAddr, port: PortId, now_s: u32) -> Learned {
        if mac.is_group() || mac.is_zero() || usize::from(port.0) >= PORTS {
            return Learned::Refused;
        }
        let Some(key) = key(vlan, mac) else { return Learned::Refused };
        let (index, tag) = self.place(key);
        if let Some(slot) = self.buckets[index].find(tag)
            && slot.port == port
            && !self.is_aged(&slot, now_s)
        {
            self.buckets[index].refresh(&slot, now_s);
            return Learned::Known;
        }
        self.learn_locked(index, tag, port, now_s)
    }

    /// Forgets the stations of a port that went down; says how many there were. The port's workers must have stopped
    /// learning on it, or what they learn meanwhile may stay.
    pub fn flush_port(&self, port: PortId) -> usize {
        let mut flushed = 0;
        for bucket in &self.buckets {
            if self.len_of_port(port) == 0 {
                break;
            }
            if !bucket.slots().any(|slot| slot.port == port) {
                continue;
            }
            let locked = bucket.lock();
            for slot in locked.slots().filter(|slot| slot.port == port) {
                self.remove(&locked, &slot);
                flushed += 1;
            }
        }
        self.counters.flushed.fetch_add(flushed as u64, Ordering::Relaxed);
        flushed
    }

    /// Forgets every station; says how many there were. What is learned meanwhile may stay.
    pub fn flush(&self) -> usize {
        let mut flushed = 0;
        for bucket in self.buckets.iter().filter(|bucket| bucket.slots().next().is_some()) {
            let locked = bucket.lock();
            for slot in locked.slots() {
                self.remove(&locked, &slot);
                flushed += 1;
            }
        }
        self.counters.flushed.fetch_add(flushed as u64, Ordering::Relaxed);
        flushed
    }

    /// Forgets one station, if it is there, and on this port if one is given; whether it was.
    pub fn forget(&self, vlan: VlanId, mac: MacAddr, port: Option<PortId>) -> bool {
        let Some(key) = key(vlan, mac) else { return false };
        let (index, tag) = self.place(key);
        let locked = self.buckets[index].lock();
        let Some(slot) = locked.find(tag).filter(|slot| port.is_none_or(|port| slot.port == port))
        else {
            return false;
        };
        self.remove(&locked, &slot);
        self.counters.flushed.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Removes the aged stations from the next `buckets` buckets of a never-ending round, and says how many there were.
    /// [`Self::buckets`] makes one round. Aged stations are never found, swept or not; the sweep gives their room back.
    pub fn age_out(&self, now_s: u32, buckets: usize) -> usize {
        let buckets = buckets.min(self.buckets.len());
        let from = self.sweep_hand.fetch_add(buckets, Ordering::Relaxed);
        let mut aged = 0;
        for step in 0..buckets {
            let index = self.wrapped(from.wrapping_add(step));
            if self.buckets[index].slots().any(|slot| self.is_aged(&slot, now_s)) {
                aged += self.age_out_locked(&self.buckets[index].lock(), now_s);
            }
        }
        aged
    }

    /// The number of buckets, for pacing [`Self::age_out`].
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Stations stored, including aged ones that no sweep has met yet. Never more than the capacity.
    pub fn len(&self) -> usize {
        self.stations.load(Ordering::Relaxed)
    }

    /// Nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stations stored for one port, including aged ones that no sweep has met yet.
    pub fn len_of_port(&self, port: PortId) -> usize {
        let count = self.stations_of_port.get(usize::from(port.0));
        count.map_or(0, |count| count.load(Ordering::Relaxed) as usize)
    }

    /// What has happened so far.
    pub fn counters(&self) -> TableCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TableCounters {
            learned: read(&self.counters.learned),
            moved: read(&self.counters.moved),
            evicted: read(&self.counters.evicted),
            refused: read(&self.counters.refused),
            aged: read(&self.counters.aged),
            flushed: read(&self.counters.flushed),
        }
    }

    /// Shows each station that has not aged. Takes no lock: each entry is consistent, but a station that is removed and
    /// learned again meanwhile may be missed or seen twice.
    pub fn for_each(&self, now_s: u32, mut visit: impl FnMut(Entry)) {
        for (index, bucket) in self.buckets.iter().enumerate() {
            for slot in bucket.slots().filter(|slot| !self.is_aged(slot, now_s)) {
                let (vlan, mac) = self.station(index, slot.tag);
                let age_s = now_s.saturating_sub(slot.seen_s);
                visit(Entry { vlan, mac, port: slot.port, age_s });
            }
        }
    }
}

/// Where a station lives.
impl MacTable {
    #[inline]
    pub(crate) fn place(&self, key: u64) -> (usize, Tag) {
        let image = self.permutation.apply(key);
        let remainder = image & ((1 << self.remainder_bits) - 1);
        ((image >> self.remainder_bits) as usize, Tag::new(remainder))
    }

    fn station(&self, index: usize, tag: Tag) -> (VlanId, MacAddr) {
        let image = (index as u64) << self.remainder_bits | tag.remainder();
        let key = self.permutation.invert(image);
        let [_, _, octets @ ..] = key.to_be_bytes();
        (VlanId((key >> 48) as u16), MacAddr(octets))
    }

    /// An index into the buckets; their number is a power of two.
    fn wrapped(&self, index: usize) -> usize {
        index & (self.buckets.len() - 1)
    }

    #[inline]
    fn is_aged(&self, slot: &Slot, now_s: u32) -> bool {
        now_s.saturating_sub(slot.seen_s) > self.ageing_s
    }
}

/// Learning what is not known yet.
impl MacTable {
    #[cold]
    fn learn_locked(&self, index: usize, tag: Tag, port: PortId, now_s: u32) -> Learned {
        let bucket = self.buckets[index].lock();
        self.age_out_locked(&bucket, now_s);
        let learned = match bucket.find(tag) {
            Some(slot) if slot.port == port => {
                bucket.refresh(&slot, now_s);
                Learned::Known
            }
            Some(slot) => self.move_station(&bucket, index, &slot, port, now_s),
            None => self.insert(&bucket, index, tag, port, now_s),
        };
        let counter = match learned {
            Learned::Known => return learned,
            Learned::New | Learned::Evicted { .. } => &self.counters.learned,
            Learned::Moved { .. } => &self.counters.moved,
            Learned::Refused => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        learned
    }

    fn move_station(
        &self,
        bucket: &Locked<'_>,
        index: usize,
        slot: &Slot,
        port: PortId,
        now_s: u32,
    ) -> Learned {
        if !self.reserve_for_port(port) {
            let Some(own) = oldest_of(bucket, port) else { return Learned::Refused };
            // Its share of the port's cap passes to the station that moves here.
            bucket.clear(own.way);
            self.release_station();
            self.evicted(index, &own);
        }
        bucket.move_to(slot, port, now_s);
        self.release_for_port(slot.port);
        Learned::Moved { from: slot.port }
    }

    fn insert(
        &self,
        bucket: &Locked<'_>,
        index: usize,
        tag: Tag,
        port: PortId,
        now_s: u32,
    ) -> Learned {
        let (way, learned) = if self.reserve_for_port(port) {
            let Some(room) = self.make_room(bucket, index, tag, port, now_s) else {
                self.release_for_port(port);
                return Learned::Refused;
            };
            room
        } else {
            let Some(own) = oldest_of(bucket, port) else { return Learned::Refused };
            (own.way, self.evicted(index, &own))
        };
        bucket.put(way, tag, port, now_s);
        learned
    }

    /// A slot for a new station of `port`, reserved, and what to report for it.
    fn make_room(
        &self,
        bucket: &Locked<'_>,
        index: usize,
        tag: Tag,
        port: PortId,
        now_s: u32,
    ) -> Option<(Way, Learned)> {
        let Some(way) = bucket.free_way(tag) else {
            let victim = self.fair_victim(bucket, port, 0)?;
            return Some((victim.way, self.displace(bucket, index, &victim)));
        };
        if self.reserve_station() {
            return Some((way, Learned::New));
        }
        if let Some(victim) = self.fair_victim(bucket, port, self.fair_share()) {
            return Some((victim.way, self.displace(bucket, index, &victim)));
        }
        let learned = (1..=BUCKETS_TRIED_FOR_ROOM)
            .find_map(|step| self.make_room_in(self.wrapped(index + step), port, now_s))?;
        Some((way, learned))
    }

    /// Takes a station out of another bucket of a full table, so that its room can be used elsewhere. Only tries for the
    /// lock: two workers that hold a bucket each and want the other's must not wait for one another.
    fn make_room_in(&self, index: usize, port: PortId, now_s: u32) -> Option<Learned> {
        let bucket = self.buckets[index].try_lock()?;
        self.age_out_locked(&bucket, now_s);
        if self.reserve_station() {
            return Some(Learned::New);
        }
        let victim = self.fair_victim(&bucket, port, self.fair_share())?;
        Some(self.displace(&bucket, index, &victim))
    }

    /// The station that gives way to a new one of `port`, whose count includes the new one already (rules 3 and 4). Ports with
    /// at most `share` stations are spared.
    fn fair_victim(&self, bucket: &Locked<'_>, port: PortId, share: usize) -> Option<Slot> {
        let gives_way_from = self.len_of_port(port).max(share + 1);
        bucket
            .slots()
            .map(|slot| (self.len_of_port(slot.port), slot))
            .filter(|(count, _)| *count >= gives_way_from)
            .max_by_key(|(count, slot)| (*count, Reverse(slot.seen_s)))
            .map(|(_, slot)| slot)
    }

    /// What each port may keep of a full table.
    fn fair_share(&self) -> usize {
        self.capacity / self.ports_in_use.load(Ordering::Relaxed).max(1)
    }

    /// Removes a station whose room in the table passes to another.
    fn displace(&self, bucket: &Locked<'_>, index: usize, victim: &Slot) -> Learned {
        bucket.clear(victim.way);
        self.release_for_port(victim.port);
        self.evicted(index, victim)
    }

    fn evicted(&self, index: usize, victim: &Slot) -> Learned {
        self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        let (vlan, mac) = self.station(index, victim.tag);
        Learned::Evicted { vlan, mac, port: victim.port }
    }
}

/// Removing, and the counts.
impl MacTable {
    fn age_out_locked(&self, bucket: &Locked<'_>, now_s: u32) -> usize {
        let mut aged = 0;
        for slot in bucket.slots().filter(|slot| self.is_aged(slot, now_s)) {
            self.remove(bucket, &slot);
            aged += 1;
        }
        if aged > 0 {
            self.counters.aged.fetch_add(aged as u64, Ordering::Relaxed);
        }
        aged
    }

    fn remove(&self, bucket: &Locked<'_>, slot: &Slot) {
        bucket.clear(slot.way);
        self.release_for_port(slot.port);
        self.release_station();
    }

    /// Room for one more station in the table, if there is any.
    fn reserve_station(&self) -> bool {
        let one_more = |count: usize| (count < self.capacity).then_some(count + 1);
        self.stations.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn release_station(&self) {
        self.stations.fetch_sub(1, Ordering::Relaxed);
    }

    /// Room for one more station of this port, if its cap allows.
    fn reserve_for_port(&self, port: PortId) -> bool {
        let one_more = |count: u32| (count < self.per_port_cap).then_some(count + 1);
        let before = self.stations_of_port[usize::from(port.0)].fetch_update(
            Ordering::Relaxed,
            Ordering::Relaxed,
            one_more,
        );
        if before == Ok(0) {
            self.ports_in_use.fetch_add(1, Ordering::Relaxed);
        }
        before.is_ok()
    }

    fn release_for_port(&self, port: PortId) {
        let before = self.stations_of_port[usize::from(port.0)].fetch_sub(1, Ordering::Relaxed);
        if before == 1 {
            self.ports_in_use.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// (VLAN, MAC) as one number; `None` if the VLAN has more than 12 bits.
#[inline]
pub(crate) fn key(vlan: VlanId, mac: MacAddr) -> Option<u64> {
    let [a, b, c, d, e, f] = mac.0;
    let address = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    let key = u64::from(vlan.0) << 48 | address;
    (vlan.0 < 1 << 12).then_some(key & KEY_MASK)
}

fn oldest_of(bucket: &Locked<'_>, port: PortId) -> Option<Slot> {
    bucket.slots().filter(|slot| slot.port == port).min_by_key(|slot| slot.seen_s)
}
