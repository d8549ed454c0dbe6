//! Packets that get no answer, since their sender shows no knowledge of the node's id.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn_proto::ConnectionId;

use crate::siege::{Packet, Siege, address, host};

const MEMBER: &str = "10.0.0.7:5800";

/// Source id, destination id of a packet with a long header (RFC 8999 section 5.1).
fn ids(packet: &[u8]) -> (&[u8], &[u8]) {
    let destination = 6..6 + usize::from(packet[5]);
    let source_at = destination.end + 1;
    (&packet[source_at..source_at + usize::from(packet[destination.end])], &packet[destination])
}

/// The first packets of the attackers' handshake with this destination id.
fn initials(siege: &mut Siege, from: SocketAddr, id: ConnectionId) -> Vec<Packet> {
    siege.attackers.begin_with(siege.now, from, Arc::new(move || id));
    let mut initials = Vec::new();
    siege.attackers.transmit(siege.now, |packet| initials.push(packet));
    initials
}

fn assert_silence(siege: &mut Siege, packets: &[Packet], about: &str) {
    let strangers = siege.io().strangers.get();
    siege.sent.clear();
    packets.iter().for_each(|packet| siege.send(packet.clone()));
    siege.run_in_peace(Duration::from_millis(200));
    let to = packets[0].from;
    assert!(siege.sent.iter().all(|packet| packet.to != to), "{about}");
    assert_eq!(siege.io().strangers.get(), strangers + packets.len() as u64, "{about}");
}

#[test]
fn an_issued_id_alone_opens_no_handshake() {
    let mut siege = Siege::new(&[address(MEMBER)]);
    siege.dial(0);
    siege.run_in_peace(Duration::from_millis(300));
    assert!(siege.is_connected(0));
    let issued = ids(&siege.sent[0].bytes).0.to_vec();
    assert_eq!(issued.len(), 8);
    siege.leave(0);
    siege.run_in_peace(Duration::from_secs(5));
    let packets = initials(&mut siege, host(1), ConnectionId::new(&issued));
    assert_silence(&mut siege, &packets, "an id of a connection that has ended");
    // A token that nobody gave. Its length is in the byte after the two ids, where it was 0.
    let mut with_token = packets[0].clone();
    let token_at = 6 + 8 + 1 + ids(&with_token.bytes).0.len();
    assert_eq!(with_token.bytes[token_at], 0);
    with_token.bytes[token_at] = 40;
    with_token.bytes.splice(token_at + 1..token_at + 1, [0x77; 40]);
    with_token.bytes.truncate(1_200);
    siege.sent.clear();
    siege.send(with_token);
    siege.run_in_peace(Duration::from_millis(200));
    assert_eq!(siege.sent.len(), 0);
}

#[test]
fn the_token_of_a_retry_is_worth_nothing_elsewhere() {
    let mut siege = Siege::new(&[]);
    for number in 0..16 {
        siege.attackers.begin(siege.now, host(number));
    }
    siege.run_in_peace(Duration::from_millis(200));
    // Who is seventeenth is given a token, and repeats its hello with it.
    siege.attackers.begin(siege.now, host(100));
    siege.run_in_peace(Duration::from_millis(200));
    let with_token = siege.seen.iter().filter(|packet| packet.from == host(100));
    let with_token: Vec<_> = with_token.filter(|packet| ids(&packet.bytes).1.len() == 8).collect();
    let mut stolen = with_token[0].clone();
    // That handshake is over.
    siege.attackers.keep(0);
    siege.run_in_peace(Duration::from_secs(6));
    stolen.from = host(200);
    assert_silence(&mut siege, &[stolen.clone()], "a token of another address");
    stolen.from = host(100);
    siege.sent.clear();
    siege.send(stolen);
    siege.run_in_peace(Duration::from_millis(200));
    assert!(!siege.sent.is_empty(), "the same is good where it was given");
}
