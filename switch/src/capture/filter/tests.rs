use proptest::prelude::*;

use super::{parse::MAX_LEN, *};

fn frame(destination: [u8; 6], source: [u8; 6], rest: &[u8]) -> Vec<u8> {
    [&destination[..], &source, rest].concat()
}

/// UDP over IPv4 from 10.0.0.1:53 to 10.0.1.2:4000, behind a VLAN tag.
fn udp() -> Vec<u8> {
    let mut rest = vec![0x81, 0, 0, 5, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    rest.extend([10, 0, 0, 1, 10, 0, 1, 2, 0, 53, 0x0f, 0xa0, 0, 8, 0, 0]);
    frame([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1], &rest)
}

/// A broadcast that asks who has 10.0.0.9.
fn arp() -> Vec<u8> {
    let mut rest = vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1];
    rest.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
    frame([0xff; 6], [2, 0, 0, 0, 0, 1], &rest)
}

/// A neighbour solicitation (ICMPv6) from fd00::1 to ff02::1.
fn icmp6() -> Vec<u8> {
    let mut rest = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 4, 58, 255, 0xfd];
    rest.extend([0; 14]);
    rest.extend([1, 0xff, 2]);
    rest.extend([0; 13]);
    rest.extend([1, 135, 0, 0, 0]);
    frame([0x33, 0x33, 0, 0, 0, 1], [2, 0, 0, 0, 0, 1], &rest)
}

#[test]
fn each_primary_means_what_it_says() {
    let (udp, arp, icmp6) = (udp(), arp(), icmp6());
    for (filter, expected) in [
        ("mac 02:00:00:00:00:01", [true, true, true]),
        ("mac 02:00:00:00:00:02", [true, false, false]),
        ("src mac 02:00:00:00:00:02", [false, false, false]),
        ("dst mac 02:00:00:00:00:02", [true, false, false]),
        ("ether 0x0806", [false, true, false]),
        ("arp", [false, true, false]),
        ("ip", [true, false, false]),
        ("ip6", [false, false, true]),
        ("host 10.0.0.1", [true, true, false]),
        ("host 10.0.0.9", [false, true, false]),
        ("src host 10.0.0.9", [false, false, false]),
        ("dst host 10.0.0.0/16", [true, true, false]),
        ("dst host 10.0.1.0/24", [true, false, false]),
        ("host 0.0.0.0/0", [true, true, false]),
        ("host fd00::/64", [false, false, true]),
        ("dst host fd00::/64", [false, false, false]),
        ("host ::/0", [false, false, true]),
        ("port 53", [true, false, false]),
        ("dst port 53", [false, false, false]),
        ("dst port 4000", [true, false, false]),
        ("udp", [true, false, false]),
        ("tcp", [false, false, false]),
        ("icmp", [false, false, true]),
        ("broadcast", [false, true, false]),
        ("multicast", [false, true, true]),
        ("not broadcast", [true, false, true]),
        ("arp or udp and port 53", [true, true, false]),
        ("(arp or udp) and port 53", [true, false, false]),
        ("not arp and not udp", [false, false, true]),
        ("not (arp or udp)", [false, false, true]),
    ] {
        let parsed: Filter = filter.parse().unwrap();
        let means = [&udp, &arp, &icmp6].map(|frame| parsed.matches(&Head::of(frame)));
        assert_eq!(means, expected, "{filter}");
    }
    assert!("not ip".parse::<Filter>().unwrap().matches(&Head::of(&[1; 5])), "a runt is not IP");
}

#[test]
fn an_error_points_at_the_place() {
    for (text, column, expected) in [
        ("", 1, "mac, ether"),
        ("   ", 4, "mac, ether"),
        ("tcp and", 8, "mac, ether"),
        ("tcp udp", 5, "and, or, or the end"),
        ("tcp  porrt 5", 6, "and, or, or the end"),
        ("tcp and porrt 5", 9, "mac, ether"),
        ("host 10.0.0.300", 6, "an address"),
        ("host 10.0.0.1/33", 6, "an address"),
        ("host fd00::/129", 6, "an address"),
        ("src", 4, "mac, host or port"),
        ("src tcp", 5, "mac, host or port"),
        ("dst ether 0x0806", 5, "mac, host or port"),
        ("port 65536", 6, "a port"),
        ("mac 02:00", 5, "a MAC address"),
        ("ether 806", 7, "a type"),
        ("ether 0x+80", 7, "a type"),
        ("(tcp or udp", 12, "and, or, or )"),
        ("tcp)", 4, "and, or, or the end"),
        ("ä or tcp", 1, "mac, ether"),
        ("tcp or ä", 8, "mac, ether"),
        ("TCP", 1, "mac, ether"),
    ] {
        let error = text.parse::<Filter>().unwrap_err();
        assert_eq!(error.column, column, "{text:?}: {error}");
        assert!(error.expected.starts_with(expected), "{text:?}: {error}");
    }
    let error = "tcp and host rack7".parse::<Filter>().unwrap_err().to_string();
    assert!(error.starts_with("column 14: expected an address"), "{error}");
    assert!(error.ends_with("found \"rack7\""), "{error}");
}

#[test]
fn depth_and_length_are_bounded() {
    let nested = |depth| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
    assert!(nested(32).parse::<Filter>().is_ok());
    assert_eq!(nested(33).parse::<Filter>().unwrap_err().column, 34);
    assert!("not ".repeat(33).parse::<Filter>().is_err());
    let long = format!("tcp{}", " or tcp".repeat(146));
    assert!(long.len() > MAX_LEN);
    assert_eq!(long.parse::<Filter>().unwrap_err().column, MAX_LEN + 1);
    assert!(long[..3 + 7 * 145].parse::<Filter>().is_ok());
}

fn primary() -> impl Strategy<Value = Primary> {
    let end = || prop_oneof![Just(End::Either), Just(End::Source), Just(End::Destination)];
    let v4 = (any::<Ipv4Addr>(), 0..=32_u8)
        .prop_map(|(address, prefix_len)| Network { address: address.into(), prefix_len });
    let v6 = (any::<Ipv6Addr>(), 0..=128_u8)
        .prop_map(|(address, prefix_len)| Network { address: address.into(), prefix_len });
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Icmp)];
    prop_oneof![
        (end(), any::<[u8; 6]>()).prop_map(|(end, mac)| Primary::Mac(end, MacAddr(mac))),
        any::<u16>().prop_map(Primary::Ether),
        (end(), prop_oneof![v4, v6]).prop_map(|(end, network)| Primary::Host(end, network)),
        (end(), any::<u16>()).prop_map(|(end, port)| Primary::Port(end, port)),
        protocol.prop_map(Primary::Protocol),
        Just(Primary::Broadcast),
        Just(Primary::Multicast),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    primary().prop_map(Filter::Is).prop_recursive(4, 8, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|filter| Filter::Not(Box::new(filter))),
            two.clone().prop_map(|(one, other)| Filter::And(Box::new(one), Box::new(other))),
            two.prop_map(|(one, other)| Filter::Or(Box::new(one), Box::new(other))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(filter in filter()) {
        prop_assert_eq!(filter.to_string().parse(), Ok(filter));
    }

    #[test]
    fn words_in_any_order_are_a_filter_or_an_error_within_the_text(
        words in prop::collection::vec(prop_oneof![
            Just("not"), Just("and"), Just("or"), Just("("), Just(")"), Just("src"), Just("host"),
            Just("10.0.0.1/8"), Just("port"), Just("53"), Just("tcp"), Just("é"),
        ], 0..20),
    ) {
        let text = words.join(" ");
        match text.parse::<Filter>() {
            Ok(filter) => prop_assert_eq!(filter.to_string().parse(), Ok(filter)),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column)),
        }
    }

    #[test]
    fn a_filter_and_its_opposite_part_all_frames(
        filter in filter(),
        changes in prop::collection::vec((0..80_usize, any::<u8>()), 0..4),
        cut in 0..80_usize,
    ) {
        for mut frame in [udp(), arp(), icmp6()] {
            for (at, value) in &changes {
                if let Some(byte) = frame.get_mut(*at) {
                    *byte = *value;
                }
            }
            frame.truncate(cut);
            let head = Head::of(&frame);
            let opposite = Filter::Not(Box::new(filter.clone()));
            prop_assert_ne!(filter.matches(&head), opposite.matches(&head));
        }
    }
}
