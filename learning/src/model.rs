//! The table beside a slow, obvious one: a list of stations, searched from end to end, that follows the rules at the head of
//! `table` to the letter. Both are given the same random operations and must answer alike. The stations are chosen so that
//! they crowd into two neighbouring buckets, where every rule has its turn.

use std::sync::LazyLock;

use proptest::{prelude::*, sample};

use crate::{
    Entry, Learned, MacAddr, MacTable, MacTableConfig, PortId, TableCounters, VlanId, bucket::WAYS,
    permutation::Permutation, table,
};

const SECRET: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];
const STATIONS_PER_BUCKET: usize = 16;
const PORTS: u16 = 5;
const AGEING_S: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Station {
    vlan: VlanId,
    mac: MacAddr,
}

fn new_table(capacity: usize, per_port_cap: usize) -> MacTable {
    let config = MacTableConfig { capacity, per_port_cap, ageing_s: AGEING_S };
    MacTable::with_permutation(config, Permutation::new(SECRET))
}

fn bucket_of(table: &MacTable, station: Station) -> usize {
    let key = table::key(station.vlan, station.mac).expect("a VLAN of 12 bits");
    table.place(key).0
}

/// Stations of the first two buckets, as many of each.
static CROWD: LazyLock<Vec<Station>> = LazyLock::new(|| {
    let table = new_table(1, 1);
    let mut crowd = Vec::new();
    for bucket in 0..2 {
        let found = (1u32..)
            .map(|number| {
                let [a, b, c, d] = number.to_be_bytes();
                Station { vlan: VlanId((number % 3) as u16), mac: MacAddr([2, 0, a, b, c, d]) }
            })
            .filter(|station| bucket_of(&table, *station) == bucket);
        crowd.extend(found.take(STATIONS_PER_BUCKET));
    }
    crowd
});

#[derive(Clone, Copy, Debug)]
struct Stored {
    station: Station,
    bucket: usize,
    port: PortId,
    seen_s: u32,
}

struct Model {
    stored: Vec<Stored>,
    buckets: usize,
    capacity: usize,
    per_port_cap: usize,
    sweep_hand: usize,
    counters: TableCounters,
}

/// What the table may do next. Where stations are equally old and equally entitled, the rules leave the choice open.
enum Expected {
    Exactly(Learned),
    MovedAfterEvicting { from: PortId, one_of: Vec<Station> },
    Evicted { one_of: Vec<Station> },
}

impl Model {
    fn new(table: &MacTable, capacity: usize, per_port_cap: usize) -> Self {
        let counters = TableCounters::default();
        let buckets = table.buckets();
        Self { stored: Vec::new(), buckets, capacity, per_port_cap, sweep_hand: 0, counters }
    }

    fn count(&self, port: PortId) -> usize {
        self.stored.iter().filter(|stored| stored.port == port).count()
    }

    fn find(&mut self, station: Station) -> Option<&mut Stored> {
        self.stored.iter_mut().find(|stored| stored.station == station)
    }

    fn remove(&mut self, station: Station) -> Stored {
        let place = self.stored.iter().position(|stored| stored.station == station);
        self.stored.remove(place.expect("a victim is a stored station"))
    }

    fn look_up(&mut self, station: Station, now_s: u32) -> Option<PortId> {
        let stored = self.find(station)?;
        (now_s.saturating_sub(stored.seen_s) <= AGEING_S).then_some(stored.port)
    }

    fn age_out_bucket(&mut self, bucket: usize, now_s: u32) -> usize {
        let before = self.stored.len();
        self.stored.retain(|stored| {
            stored.bucket != bucket || now_s.saturating_sub(stored.seen_s) <= AGEING_S
        });
        let aged = before - self.stored.len();
        self.counters.aged += aged as u64;
        aged
    }

    fn age_out(&mut self, now_s: u32, buckets: usize) -> usize {
        let mut aged = 0;
        for _ in 0..buckets {
            let bucket = self.sweep_hand % self.buckets;
            self.sweep_hand += 1;
            // Stations are in the first two buckets only.
            if bucket < 2 {
                aged += self.age_out_bucket(bucket, now_s);
            }
        }
        aged
    }

    fn flush_port(&mut self, port: PortId) -> usize {
        let flushed = self.count(port);
        self.stored.retain(|stored| stored.port != port);
        self.counters.flushed += flushed as u64;
        flushed
    }

    fn expect(&mut self, station: Station, bucket: usize, port: PortId, now_s: u32) -> Expected {
        if self.look_up(station, now_s) == Some(port) {
            return Expected::Exactly(Learned::Known);
        }
        self.age_out_bucket(bucket, now_s);
        let at_cap = self.count(port) >= self.per_port_cap;
        let own = self.oldest(bucket, |stored| stored.port == port);
        if let Some(stored) = self.find(station) {
            let from = stored.port;
            return match (at_cap, own.is_empty()) {
                (false, _) => Expected::Exactly(Learned::Moved { from }),
                (true, false) => Expected::MovedAfterEvicting { from, one_of: own },
                (true, true) => Expected::Exactly(Learned::Refused),
            };
        }
        if at_cap {
            return Self::evicted_or_refused(own);
        }
        let bucket_full =
            self.stored.iter().filter(|stored| stored.bucket == bucket).count() >= WAYS;
        let table_full = self.stored.len() >= self.capacity;
        if !bucket_full && !table_full {
            return Expected::Exactly(Learned::New);
        }
        if bucket_full {
            return Self::evicted_or_refused(self.fair_victims(bucket, port, 0));
        }
        let victims = self.fair_victims(bucket, port, self.fair_share(port));
        if !victims.is_empty() || bucket != 0 {
            return Self::evicted_or_refused(victims);
        }
        // The table is full and the first bucket has nobody to displace: the second is the only other one in use.
        if self.age_out_bucket(1, now_s) > 0 {
            return Expected::Exactly(Learned::New);
        }
        Self::evicted_or_refused(self.fair_victims(1, port, self.fair_share(port)))
    }

    fn evicted_or_refused(one_of: Vec<Station>) -> Expected {
        if one_of.is_empty() {
            Expected::Exactly(Learned::Refused)
        } else {
            Expected::Evicted { one_of }
        }
    }

    fn oldest(&self, bucket: usize, admitted: impl Fn(&Stored) -> bool) -> Vec<Station> {
        let candidates =
            || self.stored.iter().filter(|stored| stored.bucket == bucket && admitted(stored));
        let oldest_s = candidates().map(|stored| stored.seen_s).min();
        candidates()
            .filter(|stored| Some(stored.seen_s) == oldest_s)
            .map(|stored| stored.station)
            .collect()
    }

    /// What each port may keep, once `newcomer` has a station too.
    fn fair_share(&self, newcomer: PortId) -> usize {
        let has_stations = |port: &PortId| *port == newcomer || self.count(*port) > 0;
        self.capacity / (0..PORTS).map(PortId).filter(has_stations).count()
    }

    fn fair_victims(&self, bucket: usize, port: PortId, share: usize) -> Vec<Station> {
        // As if the new station were stored already.
        let count = |of: PortId| self.count(of) + usize::from(of == port);
        let gives_way = |of: PortId| count(of) >= count(port) && count(of) > share;
        let most = self
            .stored
            .iter()
            .filter(|stored| stored.bucket == bucket && gives_way(stored.port))
            .map(|stored| count(stored.port))
            .max();
        self.oldest(bucket, |stored| gives_way(stored.port) && Some(count(stored.port)) == most)
    }

    /// Checks the table's answer and follows it.
    fn learn(
        &mut self,
        table: &MacTable,
        station: Station,
        port: PortId,
        now_s: u32,
    ) -> Result<(), TestCaseError> {
        let bucket = bucket_of(table, station);
        let expected = self.expect(station, bucket, port, now_s);
        let learned = table.learn(station.vlan, station.mac, port, now_s);
        match expected {
            Expected::Exactly(exactly) => prop_assert_eq!(learned, exactly),
            Expected::Evicted { one_of } => {
                let Learned::Evicted { vlan, mac, port: victim_port } = learned else {
                    return Err(TestCaseError::fail(format!("{learned:?}, not evicted")));
                };
                let victim = Station { vlan, mac };
                prop_assert!(one_of.contains(&victim), "{victim:?} had not to give way");
                prop_assert_eq!(self.remove(victim).port, victim_port);
                self.counters.evicted += 1;
            }
            Expected::MovedAfterEvicting { from, one_of } => {
                prop_assert_eq!(learned, Learned::Moved { from });
                let is_gone = |of: &Station| table.look_up(of.vlan, of.mac, now_s).is_none();
                let gone: Vec<_> = one_of.into_iter().filter(is_gone).collect();
                prop_assert_eq!(gone.len(), 1, "the port gives up one station: {:?}", gone);
                self.remove(gone[0]);
                self.counters.evicted += 1;
            }
        }
        let seen_s = now_s;
        match learned {
            Learned::New | Learned::Evicted { .. } => {
                self.counters.learned += 1;
                self.stored.push(Stored { station, bucket, port, seen_s });
            }
            Learned::Known | Learned::Moved { .. } => {
                self.counters.moved += u64::from(learned != Learned::Known);
                let stored = self.find(station).expect("was found above");
                stored.port = port;
                stored.seen_s = stored.seen_s.max(seen_s);
            }
            Learned::Refused => self.counters.refused += 1,
        }
        Ok(())
    }

    fn check(&mut self, table: &MacTable, now_s: u32) -> Result<(), TestCaseError> {
        prop_assert_eq!(table.len(), self.stored.len());
        prop_assert!(table.len() <= self.capacity);
        for port in (0..PORTS).map(PortId) {
            prop_assert_eq!(table.len_of_port(port), self.count(port));
            prop_assert!(table.len_of_port(port) <= self.per_port_cap);
        }
        for &station in CROWD.iter() {
            let found = table.look_up(station.vlan, station.mac, now_s);
            prop_assert_eq!(found, self.look_up(station, now_s), "{:?}", station);
        }
        prop_assert_eq!(table.counters(), self.counters);
        Ok(())
    }

    fn check_listing(&self, table: &MacTable, now_s: u32) -> Result<(), TestCaseError> {
        let mut listed = Vec::new();
        table.for_each(now_s, |entry| listed.push(entry));
        let mut expected: Vec<_> = self
            .stored
            .iter()
            .map(|stored| Entry {
                vlan: stored.station.vlan,
                mac: stored.station.mac,
                port: stored.port,
                age_s: now_s.saturating_sub(stored.seen_s),
            })
            .filter(|entry| entry.age_s <= AGEING_S)
            .collect();
        listed.sort_by_key(|entry| (entry.vlan, entry.mac));
        expected.sort_by_key(|entry| (entry.vlan, entry.mac));
        prop_assert_eq!(listed, expected);
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Learn(Station, PortId),
    Wait(u32),
    /// The other worker's clock is a little behind.
    StepBack(u32),
    Flush(PortId),
    AgeOut(sample::Index),
    AgeOutAll,
}

fn operation() -> impl Strategy<Value = Operation> {
    let station = || sample::select(CROWD.as_slice());
    // Port 0 is as busy as the others together.
    let port = || prop_oneof![Just(0), 1..PORTS].prop_map(PortId);
    prop_oneof![
        40 => (station(), port()).prop_map(|(station, port)| Operation::Learn(station, port)),
        8 => (0..5u32).prop_map(Operation::Wait),
        1 => (AGEING_S - 1..AGEING_S * 2).prop_map(Operation::Wait),
        1 => (0..2u32).prop_map(Operation::StepBack),
        1 => port().prop_map(Operation::Flush),
        2 => any::<sample::Index>().prop_map(Operation::AgeOut),
        1 => Just(Operation::AgeOutAll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn answers_like_the_model(
        capacity in 1usize..30,
        per_port_cap in 1usize..16,
        operations in prop::collection::vec(operation(), 1..250),
    ) {
        let per_port_cap = per_port_cap.min(capacity);
        let table = new_table(capacity, per_port_cap);
        let mut model = Model::new(&table, capacity, per_port_cap);
        let mut now_s = 1000;
        for operation in operations {
            match operation {
                Operation::Learn(station, port) => model.learn(&table, station, port, now_s)?,
                Operation::Wait(seconds) => now_s += seconds,
                Operation::StepBack(seconds) => now_s -= seconds,
                Operation::Flush(port) => {
                    prop_assert_eq!(table.flush_port(port), model.flush_port(port));
                }
                Operation::AgeOut(part) => {
                    let buckets = part.index(table.buckets() * 2);
                    let aged = table.age_out(now_s, buckets);
                    prop_assert_eq!(aged, model.age_out(now_s, buckets.min(table.buckets())));
                }
                Operation::AgeOutAll => {
                    let buckets = table.buckets();
                    prop_assert_eq!(table.age_out(now_s, buckets), model.age_out(now_s, buckets));
                }
            }
            model.check(&table, now_s)?;
        }
        model.check_listing(&table, now_s)?;
    }
}
