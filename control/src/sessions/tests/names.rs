//! Peers whose address is a name, and where that leads.

use super::*;

#[test]
fn names_are_resolved_at_every_dial_and_all_addresses_tried_in_turn() {
    let mut bench = Bench::new(1, "@hostB:5800");
    for _ in 0..2 {
        assert!(bench.resolve_asked());
        bench.resolve(&["10.0.0.1:5800", "10.0.0.2:5800", "10.0.0.1:5800"]);
        for address in ["10.0.0.1:5800", "10.0.0.2:5800"] {
            let (connection, _, remote) = bench.one_dial();
            assert_eq!(remote, address.parse().unwrap());
            bench.end(connection, Ended::Failed(Failure::NoPath));
        }
        bench.advance_ms(400);
    }
    let error = bench.notices()[0].to_string();
    let each = ["10.0.0.1:5800: there is no path", "10.0.0.2:5800: there is no path"];
    assert!(each.iter().all(|told| error.contains(told)), "{error}");
    assert!(bench.resolve_asked());
    bench.input(Input::Resolved { peer: PEER, result: Err("no such host".into()) });
    assert!(bench.notices()[0].to_string().contains("no such host"));
    bench.advance_ms(2_000);
    assert!(bench.resolve_asked());
    bench.resolve(&[]);
    assert!(bench.notices()[0].to_string().contains("no address"));
}

/// Whoever answers for the name could have this node knock at any number of doors.
#[test]
fn eight_addresses_of_a_name_are_tried_and_no_more() {
    let mut bench = Bench::new(1, "@hostB:5800");
    assert!(bench.resolve_asked());
    let addresses: Vec<String> = (1..=20).map(|number| format!("10.0.0.{number}:5800")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    bench.resolve(&addresses);
    for address in &addresses[..8] {
        let (connection, _, remote) = bench.one_dial();
        assert_eq!(remote, address.parse().unwrap());
        bench.end(connection, Ended::TimedOut);
    }
    assert_eq!(bench.dials(), []);
    bench.advance_ms(400);
    assert!(bench.resolve_asked(), "the next round");
}

/// An alias stands for the path of some peer of the room.
#[test]
fn nothing_that_a_name_leads_to_is_taken_for_an_alias() {
    let mut bench = Bench::new(1, "@host.example:5800");
    assert!(bench.resolve_asked());
    bench.resolve(&["[100::11]:1", "[100::1:2:3:4]:5800"]);
    assert_eq!(bench.dials(), []);
    let told = bench.notices()[0].to_string();
    assert!(told.contains("100::/64"), "{told}");
    bench.advance_ms(1_000);
    assert!(bench.resolve_asked());
    bench.resolve(&["[100::11]:1", LISTENER]);
    assert_eq!(bench.one_dial().2, LISTENER.parse().unwrap());
}
