//! What fuzz targets call: bytes of strangers, through all doors of a node that is busy with a peer.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;

use super::{
    Candidate, CandidateKind, Entropy, Ice, IceConfig, IceEvent, Loopback, Packet,
    RemoteDescription, Role, StunServer, Timing, TurnServer, Via,
    stun::{Builder, ClaimedRole, Class, IntegrityKey, Message, Method, TransactionId},
};

const PEER: NodeId = NodeId([7; 32]);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), 3478);

/// A node with one peer, a STUN server and a TURN server that has not answered; and its own ufrag and password.
fn busy_node(now: Instant) -> (Ice, String, String) {
    let config = IceConfig {
        listen_port: 5800,
        loopback: Loopback::Refused,
        entropy: Entropy::seeded(1),
        timing: Timing::default(),
    };
    let mut ice = Ice::new(config, now);
    ice.set_local_addresses(now, &[HOST.into()]);
    let turn = TurnServer {
        address: SERVER,
        username: "u".to_owned(),
        password: "p".to_owned(),
        expires: None,
    };
    ice.set_servers(now, &[StunServer { address: SERVER }], vec![turn]);
    ice.start(now, PEER, Role::Controlled);
    let (mut own_ufrag, mut own_password) = (String::new(), String::new());
    while let Some(event) = ice.poll_event() {
        if let IceEvent::LocalDescription { ufrag, password, .. } = event {
            (own_ufrag, own_password) = (ufrag, password);
        }
    }
    let remote = RemoteDescription {
        ufrag: "peer".to_owned(),
        password: "0123456789abcdef012345".to_owned(),
        generation: 0,
    };
    ice.set_remote(now, PEER, &remote);
    (ice, own_ufrag, own_password)
}

/// Bytes on the listening socket, the relay socket and a channel, and time after them.
///
/// # Panics
/// If more is sent than the pace allows: that is what the target looks for, besides panics of the code.
pub fn packets(input: &[u8]) {
    let mut now = Instant::now();
    let (mut ice, ufrag, password) = busy_node(now);
    let from = SocketAddr::from(([192, 0, 2, 77], 4000));
    // Chunks with a length before each.
    let mut rest = input;
    while let Some((length, bytes)) = rest.split_first() {
        let (payload, others) = bytes.split_at(bytes.len().min(usize::from(*length)));
        rest = others;
        for via in [
            Via::Listen { local_ip: Some(HOST.into()), remote: from },
            Via::Listen { local_ip: None, remote: SERVER },
            Via::RelaySocket { remote: SERVER },
            Via::Channel { channel: 0x4000 },
        ] {
            ice.handle_packet(now, Packet { via, payload });
        }
        let request = signed_request(payload, &ufrag, &password);
        let remote = SocketAddr::new(from.ip(), u16::from(*length) + 1);
        let via = Via::Listen { local_ip: Some(HOST.into()), remote };
        ice.handle_packet(now, Packet { via, payload: &request });
        now += Duration::from_millis(10);
        ice.handle_timeout(now);
    }
    let mut sent = 0;
    while ice.poll_transmit().is_some() {
        sent += 1;
    }
    assert!(sent <= 64 + 8 * input.len(), "{sent} packets for {} bytes", input.len());
}

/// A request that the node believes, with what the fuzzer likes in it.
fn signed_request(payload: &[u8], ufrag: &str, password: &str) -> Vec<u8> {
    let byte = |at: usize| payload.get(at).copied().unwrap_or_default();
    let mut transaction = [0; 12];
    for (to, from) in transaction.iter_mut().zip(payload) {
        *to = *from;
    }
    let remote_ufrag = if byte(0) & 1 == 0 { "peer" } else { "other" };
    let request = Builder::new(Class::Request, Method::Binding, TransactionId(transaction))
        .username(&format!("{ufrag}:{remote_ufrag}"))
        .priority(u32::from_be_bytes([byte(1), byte(2), byte(3), byte(4)]))
        .role(ClaimedRole::Controlling, 1);
    let request = if byte(5) & 1 == 0 { request } else { request.nomination(byte(6).into()) };
    request.signed(&IntegrityKey::new(password.as_bytes()))
}

/// Candidates of a peer, 8 bytes each, and the checks that they cause.
///
/// # Panics
/// If a check goes to an address that must not be checked, or more are sent than allowed.
pub fn candidates(input: &[u8]) {
    let mut now = Instant::now();
    let (mut ice, _, _) = busy_node(now);
    let candidates: Vec<_> = input
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| {
            let [kind, a, b, c, d, high, low, priority] = *bytes;
            let kind = match kind % 3 {
                0 => CandidateKind::Host,
                1 => CandidateKind::ServerReflexive,
                _ => CandidateKind::Relayed,
            };
            let port = u16::from_be_bytes([high, low]);
            let address = if bytes[0] & 0x80 == 0 {
                SocketAddr::from(([a, b, c, d], port))
            } else {
                let ip = [u16::from_be_bytes([a, b]), 0, 0, 0, 0, 0, 0, u16::from_be_bytes([c, d])];
                SocketAddr::from((ip, port))
            };
            Candidate { kind, address, related: None, priority: u32::from(priority) << 23 }
        })
        .collect();
    ice.add_remote_candidates(now, PEER, 0, &candidates);
    let mut sent = 0;
    for _ in 0..400 {
        now += Duration::from_millis(10);
        ice.handle_timeout(now);
        while let Some(transmit) = ice.poll_transmit() {
            let is_check =
                Message::parse(&transmit.payload).is_some_and(|message| message.username.is_some());
            if is_check {
                assert_eq!(super::check_address(transmit.remote, Loopback::Refused), Ok(()));
                sent += 1;
            }
        }
    }
    // 24 candidates, one base, 5 checks each, and what is tried again within 4 seconds.
    assert!(sent <= 24 * 5 + 12, "{sent} checks");
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_packets_are_survived(input in vec(any::<u8>(), 0..400)) {
            super::packets(&input);
        }

        #[test]
        fn any_candidates_are_survived(input in vec(any::<u8>(), 0..800)) {
            super::candidates(&input);
        }
    }

    #[test]
    fn ten_thousand_candidates_cost_no_more_than_24() {
        let input: Vec<u8> = (0..10_000_u32)
            .flat_map(|number| {
                let [a, b, c, d] = (0x0a00_0000 + number).to_be_bytes();
                [0, a, b, c, d, 0x16, 0xa8, 255]
            })
            .collect();
        super::candidates(&input);
    }
}
