//! The table from outside: its promises one by one, and many threads at once.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, Ordering};

use ipop_learning::{Entry, Learned, MacAddr, MacTable, MacTableConfig, PortId, VlanId};

const V: VlanId = VlanId::UNTAGGED;
const A: PortId = PortId(1);
const B: PortId = PortId(2);

/// A different unicast address for each number, in no order.
fn address(number: u32) -> MacAddr {
    let [a, b, c, d, e, ..] = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let [.., f] = number.to_be_bytes();
    MacAddr([a & 0xfc | 2, b, c, d, e, f])
}

fn table(capacity: usize, per_port_cap: usize) -> MacTable {
    MacTable::new(MacTableConfig { capacity, per_port_cap, ageing_s: 300 })
}

#[test]
fn learns_and_forgets() {
    let table = MacTable::new(MacTableConfig::default());
    assert!(table.is_empty());
    assert_eq!(table.look_up(V, address(1), 0), None);
    assert_eq!(table.learn(V, address(1), A, 0), Learned::New);
    assert_eq!(table.learn(V, address(1), A, 0), Learned::Known);
    assert_eq!(table.look_up(V, address(1), 300), Some(A));
    assert_eq!(table.look_up(V, address(1), 301), None, "older than the ageing time");
    assert_eq!(table.learn(V, address(1), A, 301), Learned::New);
    assert_eq!(table.learn(V, address(1), A, 500), Learned::Known);
    assert_eq!(table.look_up(V, address(1), 800), Some(A), "the age starts anew at each frame");
    assert_eq!((table.len(), table.len_of_port(A)), (1, 1));
}

#[test]
fn a_station_that_moves_is_counted_and_found_at_its_new_port() {
    let table = MacTable::new(MacTableConfig::default());
    table.learn(V, address(1), A, 5);
    assert_eq!(table.learn(V, address(1), B, 6), Learned::Moved { from: A });
    assert_eq!(table.look_up(V, address(1), 6), Some(B));
    assert_eq!((table.len_of_port(A), table.len_of_port(B), table.counters().moved), (0, 1, 1));
}

#[test]
fn vlans_are_separate() {
    let table = MacTable::new(MacTableConfig::default());
    table.learn(VlanId(1), address(1), A, 0);
    table.learn(VlanId(4095), address(1), B, 0);
    assert_eq!(table.look_up(VlanId(1), address(1), 0), Some(A));
    assert_eq!(table.look_up(VlanId(4095), address(1), 0), Some(B));
    assert_eq!(table.look_up(V, address(1), 0), None);
}

#[test]
fn addresses_that_no_station_has_are_refused() {
    let table = MacTable::new(MacTableConfig::default());
    let group = MacAddr([0x01, 0x00, 0x5e, 0, 0, 1]);
    for (vlan, mac) in
        [(V, group), (V, MacAddr::BROADCAST), (V, MacAddr([0; 6])), (VlanId(4096), address(1))]
    {
        assert_eq!(table.learn(vlan, mac, A, 0), Learned::Refused, "{vlan:?} {mac}");
        assert_eq!(table.look_up(vlan, mac, 0), None, "{vlan:?} {mac}");
    }
    assert!(table.is_empty());
    // 4096 has no bit in common with VLAN 0, and must not be taken for it.
    table.learn(V, address(1), A, 0);
    assert_eq!(table.look_up(VlanId(4096), address(1), 0), None);
}

#[test]
fn a_clock_that_steps_back_does_no_harm() {
    let table = MacTable::new(MacTableConfig::default());
    table.learn(V, address(1), A, 100);
    assert_eq!(table.look_up(V, address(1), 98), Some(A));
    assert_eq!(table.learn(V, address(1), A, 98), Learned::Known);
    assert_eq!(table.look_up(V, address(1), 400), Some(A), "the later time counts");
    table.learn(V, address(2), A, u32::MAX - 1);
    assert_eq!(table.look_up(V, address(2), u32::MAX), Some(A));
}

#[test]
fn odd_sizes_are_brought_into_range() {
    let smallest = table(0, 0);
    assert_eq!(smallest.learn(V, address(1), A, 0), Learned::New);
    assert_eq!(smallest.learn(V, address(1), PortId(u16::MAX), 0), Learned::Moved { from: A });
    for number in 2..100 {
        smallest.learn(V, address(number), B, 0);
        assert_eq!(smallest.len(), 1);
    }
}

#[test]
fn nearly_all_of_a_full_table_is_stored() {
    const OFFERED: u32 = 65_536;
    let table = table(OFFERED as usize, OFFERED as usize);
    for number in 0..OFFERED {
        table.learn(V, address(number), PortId((number % 8) as u16), 0);
    }
    let found = (0..OFFERED)
        .filter(|number| {
            let port = table.look_up(V, address(*number), 0);
            assert!(port.is_none_or(|port| u32::from(port.0) == number % 8));
            port.is_some()
        })
        .count();
    assert_eq!(found, table.len());
    assert!(found * 1000 >= OFFERED as usize * 995, "{found} of {OFFERED}");
}

#[test]
fn floods_do_not_push_out_other_ports() {
    const CAPACITY: usize = 32_768;
    let table = table(CAPACITY, CAPACITY / 2);
    let quiet = 0..500;
    for number in quiet.clone() {
        assert_eq!(table.learn(V, address(number), A, 0), Learned::New);
    }
    for number in 10_000..90_000 {
        table.learn(V, address(number), PortId(7), 1);
        table.learn(V, address(number + 100_000), PortId(8), 1);
        assert!(table.len() <= CAPACITY && table.len_of_port(PortId(7)) <= CAPACITY / 2);
    }
    for number in quiet.clone() {
        assert_eq!(table.look_up(V, address(number), 1), Some(A), "displaced by a flood");
    }
    // Two ports fill the table. A third still finds room, at their cost.
    assert_eq!(table.len(), CAPACITY);
    let stored = (1_000_000..1_001_000)
        .filter(|number| table.learn(V, address(*number), B, 2) != Learned::Refused)
        .count();
    assert_eq!(stored, 1000);
    assert_eq!(table.len_of_port(B), 1000);
    assert_eq!(table.len(), CAPACITY);
    // A and B have less than their share: the floods alone made room.
    for number in quiet {
        assert_eq!(table.look_up(V, address(number), 2), Some(A), "displaced by the third");
    }
}

#[test]
fn a_flushed_port_has_no_stations() {
    let table = MacTable::new(MacTableConfig::default());
    for number in 0..1000 {
        table.learn(V, address(number), if number % 2 == 0 { A } else { B }, 0);
    }
    assert_eq!(table.flush_port(A), 500);
    assert_eq!(table.flush_port(A), 0);
    assert_eq!((table.len(), table.len_of_port(A), table.len_of_port(B)), (500, 0, 500));
    for number in 0..1000 {
        let port = table.look_up(V, address(number), 0);
        assert_eq!(port, (number % 2 == 1).then_some(B));
    }
    assert_eq!(table.counters().flushed, 500);
}

#[test]
fn the_sweep_gives_room_back_in_bounded_steps() {
    let table = MacTable::new(MacTableConfig::default());
    for number in 0..1000 {
        table.learn(V, address(number), A, if number < 400 { 0 } else { 200 });
    }
    let steps = 64;
    let mut aged = 0;
    for _ in 0..steps {
        aged += table.age_out(301, table.buckets() / steps);
    }
    assert_eq!((aged, table.len(), table.len_of_port(A)), (400, 600, 600));
    assert_eq!(table.age_out(301, usize::MAX), 0, "the rest is young");
    assert_eq!(table.counters().aged, 400);
}

#[test]
fn the_listing_names_each_station() {
    let table = MacTable::new(MacTableConfig::default());
    table.learn(VlanId(100), address(1), A, 10);
    table.learn(V, address(2), B, 15);
    table.learn(V, address(3), B, 400);
    let mut entries = Vec::new();
    table.for_each(312, |entry| entries.push(entry));
    entries.sort_by_key(|entry| entry.age_s);
    let second = Entry { vlan: V, mac: address(2), port: B, age_s: 297 };
    let third = Entry { vlan: V, mac: address(3), port: B, age_s: 0 };
    assert_eq!(entries, [third, second], "the first has aged");
}

/// Each station is only ever learned on the port that its number names, or that port + 8. Threads learn, move, flush and
/// sweep a table that is far too small; a reader must never see a station at another's port.
#[test]
fn threads_never_see_a_station_at_a_wrong_port() {
    let table = table(2048, 600);
    let done = AtomicBool::new(false);
    let home = |number: u32| PortId((number % 8) as u16);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|thread| {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..150_000u32 {
                        let number = round.wrapping_mul(0x9e37_79b9 + thread * 2) % 6000;
                        let moved = round >> 9 & 8;
                        table.learn(
                            V,
                            address(number),
                            PortId(home(number).0 + moved as u16),
                            round / 500,
                        );
                        match round % 4096 {
                            0 => drop(table.flush_port(home(number))),
                            2048 => drop(table.age_out(round / 500, 1000)),
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number = (number + 1) % 6000;
                if let Some(port) = table.look_up(V, address(number), 0) {
                    assert_eq!(port.0 % 8, home(number).0, "station {number}");
                }
                assert!(table.len() <= 2048);
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let mut of_port = [0; 16];
    table.for_each(0, |entry| of_port[usize::from(entry.port.0)] += 1);
    for (port, count) in of_port.into_iter().enumerate() {
        assert_eq!(table.len_of_port(PortId(port as u16)), count, "port {port}");
    }
    assert_eq!(table.len(), of_port.into_iter().sum::<usize>());
}
