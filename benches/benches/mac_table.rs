//! The MAC table beside what one would write first: a `Mutex<HashMap>` and a `DashMap`.
//!
//! ```sh
//! cargo bench -p ipop-benches --bench mac_table -- --quick
//! ```
//!
//! Each figure is the time of one look-up, or of learning one station that is known, over all stations in random order.
//! `alone`: one thread, each operation independent of the one before, as for a batch of frames. `dependent`: the next address
//! is known only when the last answer is, so the whole latency shows. `beside a learner`: as `alone`, while a second thread
//! learns all the stations again and again as fast as it can; its clock is the real one, so it writes each station's time once
//! a second, as a switch does. `beside a writer`: the learner's clock is a second later each round, so that every learning
//! writes and takes the cache line away from the measured thread, which no traffic can bring about. The measured thread learns
//! stations that were heard in the same second, as nearly all frames do.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use ipop_learning::{MacAddr, MacTable, MacTableConfig, PortId, VlanId};

const STATIONS: [usize; 4] = [64, 4096, 65_536, 1 << 20];
const AGEING_S: u32 = u32::MAX / 2;
const PORTS: usize = 8;

type Station = (VlanId, MacAddr);

/// What the three have in common.
trait ForwardingDatabase: Send + Sync + 'static {
    const NAME: &'static str;
    fn sized(stations: usize) -> Self;
    fn look_up(&self, station: Station, now_s: u32) -> Option<PortId>;
    fn learn(&self, station: Station, port: PortId, now_s: u32);
}

impl ForwardingDatabase for MacTable {
    const NAME: &'static str = "MacTable";

    fn sized(stations: usize) -> Self {
        let capacity = stations.max(65_536);
        Self::new(MacTableConfig { capacity, per_port_cap: capacity, ageing_s: AGEING_S })
    }

    fn look_up(&self, (vlan, mac): Station, now_s: u32) -> Option<PortId> {
        self.look_up(vlan, mac, now_s)
    }

    fn learn(&self, (vlan, mac): Station, port: PortId, now_s: u32) {
        self.learn(vlan, mac, port, now_s);
    }
}

type Seen = (PortId, u32);

fn unless_aged((port, seen_s): Seen, now_s: u32) -> Option<PortId> {
    (now_s.saturating_sub(seen_s) <= AGEING_S).then_some(port)
}

impl ForwardingDatabase for Mutex<HashMap<Station, Seen>> {
    const NAME: &'static str = "Mutex<HashMap>";

    fn sized(stations: usize) -> Self {
        Self::new(HashMap::with_capacity(stations))
    }

    fn look_up(&self, station: Station, now_s: u32) -> Option<PortId> {
        let seen = self.lock().unwrap_or_else(PoisonError::into_inner).get(&station).copied();
        unless_aged(seen?, now_s)
    }

    fn learn(&self, station: Station, port: PortId, now_s: u32) {
        self.lock().unwrap_or_else(PoisonError::into_inner).insert(station, (port, now_s));
    }
}

impl ForwardingDatabase for DashMap<Station, Seen> {
    const NAME: &'static str = "DashMap";

    fn sized(stations: usize) -> Self {
        Self::with_capacity(stations)
    }

    fn look_up(&self, station: Station, now_s: u32) -> Option<PortId> {
        let seen = self.get(&station).map(|seen| *seen);
        unless_aged(seen?, now_s)
    }

    fn learn(&self, station: Station, port: PortId, now_s: u32) {
        self.insert(station, (port, now_s));
    }
}

/// Different unicast addresses in no order; the same ones in each run.
fn stations(count: usize) -> Arc<[Station]> {
    let address = |number: usize| {
        let [a, b, c, .., d] = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let [.., e, f] = (number as u32 >> 8).to_be_bytes();
        (VlanId::UNTAGGED, MacAddr([a & 0xfc | 2, b, c, d, e, f]))
    };
    (0..count).map(|at| address(at.wrapping_mul(0x9e37_79b1) & (count - 1))).collect()
}

fn port_of(at: usize) -> PortId {
    PortId((at % PORTS) as u16)
}

fn filled<F: ForwardingDatabase>(stations: &[Station]) -> Arc<F> {
    let database = F::sized(stations.len());
    for (at, station) in stations.iter().enumerate() {
        database.learn(*station, port_of(at), 1);
    }
    Arc::new(database)
}

/// What the learner takes for the time.
#[derive(Clone, Copy)]
enum Clock {
    Real,
    /// A second passes with each round of all stations.
    SecondARound,
}

/// A thread that learns all stations over and over until dropped.
struct Learner {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Learner {
    fn start<F: ForwardingDatabase>(
        database: &Arc<F>,
        stations: &Arc<[Station]>,
        clock: Clock,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, database, stations) = (stop.clone(), database.clone(), stations.clone());
        let began = Instant::now();
        let thread = thread::spawn(move || {
            for round in 2.. {
                let now_s = match clock {
                    Clock::Real => 2 + began.elapsed().as_secs() as u32,
                    Clock::SecondARound => round,
                };
                for (at, station) in stations.iter().enumerate() {
                    database.learn(*station, port_of(at), now_s);
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Learner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look_up<F: ForwardingDatabase>(c: &mut Criterion) {
    for count in STATIONS {
        let stations = stations(count);
        let database = filled::<F>(&stations);
        let id = || BenchmarkId::new(F::NAME, count);
        let mut at = 0;
        let mut one = || {
            at = (at + 1) & (count - 1);
            database.look_up(stations[at], 1)
        };
        c.benchmark_group("look up alone").bench_function(id(), |b| b.iter(&mut one));
        let mut at = 0;
        let mut dependent = || {
            let port = database.look_up(stations[at], 1).map_or(PORTS, |port| usize::from(port.0));
            at = (at + 1 + black_box(port)) & (count - 1);
        };
        c.benchmark_group("look up dependent").bench_function(id(), |b| b.iter(&mut dependent));
        for (clock, group) in [
            (Clock::Real, "look up beside a learner"),
            (Clock::SecondARound, "look up beside a writer"),
        ] {
            let _learner = Learner::start(&database, &stations, clock);
            c.benchmark_group(group).bench_function(id(), |b| b.iter(&mut one));
        }
    }
}

fn learn<F: ForwardingDatabase>(c: &mut Criterion) {
    for count in STATIONS {
        let stations = stations(count);
        let database = filled::<F>(&stations);
        let id = || BenchmarkId::new(F::NAME, count);
        let mut at = 0;
        let mut one = || {
            at = (at + 1) & (count - 1);
            database.learn(stations[at], port_of(at), 1);
        };
        c.benchmark_group("learn alone").bench_function(id(), |b| b.iter(&mut one));
        for (clock, group) in [
            (Clock::Real, "learn beside a learner"),
            (Clock::SecondARound, "learn beside a writer"),
        ] {
            let _learner = Learner::start(&database, &stations, clock);
            c.benchmark_group(group).bench_function(id(), |b| b.iter(&mut one));
        }
    }
}

criterion_group!(
    benches,
    look_up::<MacTable>,
    look_up::<Mutex<HashMap<Station, Seen>>>,
    look_up::<DashMap<Station, Seen>>,
    learn::<MacTable>,
    learn::<Mutex<HashMap<Station, Seen>>>,
    learn::<DashMap<Station, Seen>>,
);
criterion_main!(benches);
