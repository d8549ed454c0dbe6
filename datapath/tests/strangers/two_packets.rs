//! The first hello of a dialler carries a key of ML-KEM-768 and takes two Initial packets. Either may be lost, before a Retry or after it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::siege::{DELAY, Packet, Siege, address, host};

const MEMBER: &str = "10.0.0.7:5800";
/// A lost packet is sent again after three times the first guess of the round trip, 100 ms, then twice that.
const REPEATED_WITHIN: Duration = Duration::from_secs(2);

/// Handshakes of others, more than may be under way before an address must be proved.
fn with_many_handshakes() -> Siege {
    let mut siege = Siege::new(&[address(MEMBER)]);
    for number in 0..20 {
        siege.attackers.begin(siege.now, host(number));
    }
    siege.run_in_peace(Duration::from_millis(100));
    siege
}

fn without_others() -> Siege {
    Siege::new(&[address(MEMBER)])
}

/// Loses the packet of this number that comes from the member: 0 is the first.
fn lose(siege: &mut Siege, number: usize) {
    let member: SocketAddr = address(MEMBER);
    let mut seen = 0;
    siege.loses = Box::new(move |packet: &Packet| {
        let is_of_member = packet.from == member;
        seen += usize::from(is_of_member);
        is_of_member && seen == number + 1
    });
}

fn time_to_connect(siege: &mut Siege) -> Duration {
    let took = siege.time_to_connect(0, |_, _: Instant| {});
    assert!(siege.is_connected(0));
    took
}

fn from_member(siege: &Siege) -> Vec<&Packet> {
    siege.seen.iter().filter(|packet| packet.from == address(MEMBER)).collect()
}

#[test]
fn a_first_hello_is_two_packets_of_the_size_that_every_path_takes_and_of_one_worker() {
    let mut siege = without_others();
    let took = time_to_connect(&mut siege);
    assert!(took < 6 * DELAY, "no round trip more than without: {took:?}");
    let packets = from_member(&siege);
    let [first, second] = [&packets[0].bytes, &packets[1].bytes];
    assert_eq!((first.len(), second.len()), (1_200, 1_200));
    // Long headers, Initial, the same destination: its first byte steers to the worker (`quic/cid.rs`).
    for packet in [first, second] {
        assert_eq!(packet[0] & 0xf0, 0xc0);
    }
    assert_eq!(first[5..26], second[5..26]);
    assert_eq!(siege.io().strangers.get(), 0);
    assert_eq!(siege.io().crowded_initials.get(), 0);
}

#[test]
fn either_of_the_two_may_be_lost() {
    for number in 0..2 {
        let mut siege = without_others();
        lose(&mut siege, number);
        let took = time_to_connect(&mut siege);
        assert!(took < REPEATED_WITHIN, "packet {number} lost: {took:?}");
        assert_eq!(siege.dials(), 1, "packet {number} lost: one dial is enough");
        // What is there of it holds one place, not two.
        siege.leave(0);
        siege.run_in_peace(Duration::from_secs(6));
        assert_eq!(siege.io().unfinished_handshakes.get(), 0, "packet {number} lost");
    }
}

#[test]
fn a_retry_answers_it_and_either_packet_of_either_try_may_be_lost() {
    let mut siege = with_many_handshakes();
    let took = time_to_connect(&mut siege);
    assert!(took < 8 * DELAY, "one round trip more: {took:?}");
    let packets = from_member(&siege);
    let with_token = packets.iter().filter(|packet| packet.bytes[0] & 0xf0 == 0xc0);
    let with_token: Vec<_> = with_token.filter(|packet| packet.bytes[5] == 8).collect();
    assert!(with_token.len() >= 2, "the hello with the token: {}", with_token.len());
    for number in 0..4 {
        let mut siege = with_many_handshakes();
        lose(&mut siege, number);
        let took = time_to_connect(&mut siege);
        assert!(took < REPEATED_WITHIN, "packet {number} lost: {took:?}");
        assert_eq!(siege.dials(), 1, "packet {number} lost: one dial is enough");
    }
}
