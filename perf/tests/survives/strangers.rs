//! Packets from nobody: no answer, whatever they look like.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use ipop_datapath::{command::Lane, quic::cid::InitialKey};

use crate::support::{Pair, SOON, counters, inner, of_workers, wait_for_counters};

/// How long an answer is waited for: thousands of round trips.
const SILENCE: Duration = Duration::from_millis(1_500);
const INITIAL_LEN: usize = 1_200;

/// A long header with this first byte, version and destination id, padded to the size of an Initial.
fn long_header(first: u8, version: u32, destination: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend_from_slice(&version.to_be_bytes());
    packet.push(destination.len() as u8);
    packet.extend_from_slice(destination);
    // The source id, so that an answer would have somewhere to go.
    packet.push(8);
    packet.extend_from_slice(&[0x5a; 8]);
    packet.resize(INITIAL_LEN, 0);
    packet
}

#[test]
fn strangers_get_no_answer_and_are_counted() {
    let pair = Pair::new("silent");
    let [_a, mut b] = pair.start();
    let keyed = InitialKey::of(pair.b.node_id()).generate(Lane(0));
    let mut forged = keyed.to_vec();
    forged[19] ^= 1;
    let packets = [
        // An Initial to a random id, one whose MAC is nearly right, one to an id of another length.
        long_header(0xc3, 1, &[0x77; 20]),
        long_header(0xc3, 1, &forged),
        long_header(0xc3, 1, &[0x77; 8]),
        // Versions that do not exist, asking for a negotiation, even with the right id; a negotiation itself.
        long_header(0xc3, 0x1a2a_3a4a, &[0x77; 20]),
        long_header(0xc3, 0x1a2a_3a4a, &keyed),
        long_header(0xc3, 0, &keyed),
        // A handshake packet, a Retry.
        long_header(0xe3, 1, &[0x77; 8]),
        long_header(0xf0, 1, &[0x77; 20]),
        // No QUIC at all: the fixed bit is missing; STUN; a byte; nothing.
        vec![0x00; 100],
        vec![0x3f; INITIAL_LEN],
        vec![0xff],
        vec![],
        b"\x00\x01\x00\x00\x21\x12\xa4\x42 binding?".to_vec(),
    ];
    // Short headers to ids that were never issued, of every size that could hold a reset.
    let short = (21..61).map(|len| {
        let mut packet = vec![0x40; len];
        packet[1..9].copy_from_slice(&[len as u8; 8]);
        packet
    });
    let before = of_workers(&counters(&mut b), "strangers");
    let target = SocketAddr::from((pair.link.b.ipv4, 5800));
    let stranger = pair.a.host().enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    stranger.connect(target).unwrap();
    let mut recognised = 0;
    for packet in packets {
        stranger.send(&packet).unwrap();
        recognised += u64::from(!packet.is_empty());
    }
    for packet in short {
        stranger.send(&packet).unwrap();
    }
    stranger.set_read_timeout(Some(SILENCE)).unwrap();
    let mut answer = [0; 2_000];
    let silence = stranger.recv(&mut answer);
    let kind = silence.as_ref().err().map(std::io::Error::kind);
    assert!(
        matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "an answer: {silence:?} {:02x?}",
        &answer[..silence.as_ref().copied().unwrap_or(0).min(64)]
    );
    wait_for_counters(&mut b, SOON, |report| {
        of_workers(report, "strangers") >= before + recognised
    });
    b.wait_for_answer(inner(1).into()).unwrap();
}
