//! The table under loom: every interleaving, and every reordering that the memory model allows, of a few small encounters.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p ipop-learning --release --test loom
//! ```
//!
//! Under loom a bucket has two slots, a table one bucket per station of its capacity, and there are ports 0 to 3. A table of
//! capacity 1 therefore gives every newcomer the slot of its predecessor.
#![cfg(loom)]

use std::sync::atomic::{AtomicUsize, Ordering};

use ipop_learning::{Learned, MacAddr, MacTable, MacTableConfig, PortId, VlanId};
use loom::{sync::Arc, thread};

const V: VlanId = VlanId::UNTAGGED;
const K: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const L: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const M: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const P1: PortId = PortId(1);
const P2: PortId = PortId(2);
const P3: PortId = PortId(3);
const AGEING_S: u32 = 10;

fn table(capacity: usize, per_port_cap: usize) -> Arc<MacTable> {
    let config = MacTableConfig { capacity, per_port_cap, ageing_s: AGEING_S };
    Arc::new(MacTable::new(config))
}

/// Tries every schedule with at most three involuntary switches, which keeps the run short. An encounter that loom explores
/// in a handful of schedules would prove nothing, so their number is checked.
fn explore(encounter: impl Fn() + Sync + Send + 'static) {
    let schedules = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = schedules.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        encounter();
    });
    let schedules = schedules.load(Ordering::Relaxed);
    println!("{schedules} schedules");
    assert!(schedules >= 100, "only {schedules} schedules were tried");
}

/// When all is quiet the counts must agree with what is stored, no station may be there twice, and looking up must find what
/// the listing shows.
fn check_quiet(table: &MacTable, now_s: u32) {
    let mut entries = Vec::new();
    table.for_each(0, |entry| entries.push(entry));
    assert_eq!(table.len(), entries.len());
    for port in [P1, P2, P3] {
        let count = entries.iter().filter(|entry| entry.port == port).count();
        assert_eq!(table.len_of_port(port), count, "port {port}");
    }
    for (place, entry) in entries.iter().enumerate() {
        assert!(entries[..place].iter().all(|other| other.mac != entry.mac), "stored twice");
    }
    table.for_each(now_s, |entry| {
        let station = MacAddr([2, 0, 0, 0, 0, entry.mac.0[5]]);
        assert_eq!(table.look_up(V, station, now_s), Some(entry.port));
    });
}

#[test]
fn a_reader_never_gets_the_port_of_the_slots_next_station() {
    explore(|| {
        let table = table(1, 1);
        table.learn(V, K, P1, 0);
        let writer = {
            let table = table.clone();
            thread::spawn(move || {
                assert!(matches!(table.learn(V, L, P2, 0), Learned::Evicted { port: P1, .. }));
                assert!(matches!(table.learn(V, K, P3, 0), Learned::Evicted { port: P2, .. }));
            })
        };
        let of_l = table.look_up(V, L, 0);
        assert!(matches!(of_l, None | Some(P2)), "{of_l:?}");
        let of_k = table.look_up(V, K, 0);
        assert!(matches!(of_k, None | Some(P1 | P3)), "{of_k:?}");
        writer.join().unwrap();
        assert_eq!(table.look_up(V, K, 0), Some(P3));
        check_quiet(&table, 0);
    });
}

#[test]
fn an_aged_station_does_not_borrow_the_time_of_its_successor() {
    explore(|| {
        let table = table(1, 1);
        let now_s = AGEING_S + 1;
        table.learn(V, K, P1, 0);
        let writer = {
            let table = table.clone();
            thread::spawn(move || assert_eq!(table.learn(V, L, P2, now_s), Learned::New))
        };
        assert_eq!(table.look_up(V, K, now_s), None);
        let of_l = table.look_up(V, L, now_s);
        assert!(matches!(of_l, None | Some(P2)), "{of_l:?}");
        writer.join().unwrap();
        check_quiet(&table, now_s);
    });
}

#[test]
fn a_new_station_is_never_taken_for_aged() {
    explore(|| {
        let table = table(1, 1);
        let now_s = AGEING_S + 1;
        table.learn(V, L, P2, 0);
        let writer = {
            let table = table.clone();
            thread::spawn(move || table.learn(V, K, P1, now_s))
        };
        let first = table.look_up(V, K, now_s);
        let second = table.look_up(V, K, now_s);
        assert!(first.is_none() || second == Some(P1), "found, then lost: {first:?} {second:?}");
        writer.join().unwrap();
        assert_eq!(table.look_up(V, K, now_s), Some(P1));
    });
}

#[test]
fn a_moving_station_is_found_at_its_old_or_its_new_port() {
    explore(|| {
        let table = table(2, 2);
        table.learn(V, K, P1, 0);
        let writer = {
            let table = table.clone();
            thread::spawn(move || {
                assert_eq!(table.learn(V, K, P2, 1), Learned::Moved { from: P1 });
            })
        };
        let first = table.look_up(V, K, 1);
        let second = table.look_up(V, K, 1);
        assert!(
            matches!((first, second), (Some(P1), Some(P1 | P2)) | (Some(P2), Some(P2))),
            "{first:?}, then {second:?}"
        );
        writer.join().unwrap();
        check_quiet(&table, 1);
    });
}

#[test]
fn two_learners_of_one_station_store_it_once() {
    explore(|| {
        let table = table(2, 2);
        let other = {
            let table = table.clone();
            thread::spawn(move || table.learn(V, K, P1, 0))
        };
        let mine = table.learn(V, K, P2, 0);
        let others = other.join().unwrap();
        let port = match (mine, others) {
            (Learned::New, Learned::Moved { from: P2 }) => P1,
            (Learned::Moved { from: P1 }, Learned::New) => P2,
            outcome => panic!("{outcome:?}"),
        };
        assert_eq!(table.look_up(V, K, 0), Some(port));
        assert_eq!(table.len(), 1);
        check_quiet(&table, 0);
    });
}

#[test]
fn a_displaced_station_does_not_borrow_the_time_of_its_successor() {
    explore(|| {
        let table = table(1, 1);
        table.learn(V, K, P1, 0);
        let writer = {
            let table = table.clone();
            // This worker's clock is behind: to it, K is still young, and has to be displaced.
            thread::spawn(move || {
                assert!(matches!(table.learn(V, L, P2, AGEING_S), Learned::Evicted { .. }));
            })
        };
        assert_eq!(table.look_up(V, K, AGEING_S + 1), None);
        writer.join().unwrap();
        check_quiet(&table, AGEING_S);
    });
}

/// Two learners compete for what is left of a table of two buckets, in one bucket or in both: which one a station lives in
/// follows from its address, so a few addresses show every case.
fn compete(stored: &'static [MacAddr]) {
    for last_octet in 0x10..0x16 {
        explore(move || {
            let table = table(2, 2);
            for station in stored {
                table.learn(V, *station, P1, 0);
            }
            let other = {
                let table = table.clone();
                thread::spawn(move || table.learn(V, M, P2, 0))
            };
            table.learn(V, MacAddr([2, 0, 0, 0, 0, last_octet]), P3, 0);
            assert!(table.len() <= 2);
            other.join().unwrap();
            assert_eq!(table.len(), 2);
            check_quiet(&table, 0);
        });
    }
}

#[test]
fn the_capacity_holds_when_two_learners_want_the_last_place() {
    compete(&[K]);
}

#[test]
fn the_capacity_holds_when_two_learners_displace_stations() {
    compete(&[K, L]);
}

#[test]
fn a_flush_and_a_learner_leave_the_counts_right() {
    explore(|| {
        let table = table(1, 1);
        table.learn(V, K, P1, 0);
        let other = {
            let table = table.clone();
            thread::spawn(move || table.learn(V, K, P2, 0))
        };
        let flushed = table.flush_port(P1);
        let learned = other.join().unwrap();
        assert_eq!(flushed == 1, learned == Learned::New, "{flushed} {learned:?}");
        assert_eq!(table.len_of_port(P1), 0);
        assert_eq!(table.look_up(V, K, 0), Some(P2));
        check_quiet(&table, 0);
    });
}

#[test]
fn a_sweep_and_a_refresh_leave_the_counts_right() {
    explore(|| {
        let table = table(1, 1);
        table.learn(V, K, P1, 0);
        let other = {
            let table = table.clone();
            thread::spawn(move || table.learn(V, K, P1, AGEING_S))
        };
        let aged = table.age_out(AGEING_S + 1, table.buckets());
        let learned = other.join().unwrap();
        assert_eq!(table.len(), usize::from(aged == 0 || learned == Learned::New));
        check_quiet(&table, AGEING_S + 1);
    });
}

#[test]
fn the_later_of_two_times_stays() {
    explore(|| {
        let table = table(1, 1);
        table.learn(V, K, P1, 0);
        let other = {
            let table = table.clone();
            thread::spawn(move || table.learn(V, K, P1, 9))
        };
        assert_eq!(table.learn(V, K, P1, 5), Learned::Known);
        assert_eq!(other.join().unwrap(), Learned::Known);
        assert_eq!(table.look_up(V, K, 9 + AGEING_S), Some(P1));
    });
}
