//! What fuzz targets call: bytes of strangers, through all doors of a node that is busy with a peer.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::{io::SocketKind, node_id::NodeId};

use super::{
    Candidate, CandidateKind, Entropy, Ice, IceConfig, IceDescription, IceEvent, Loopback, Packet,
    Role, StunServer, Timing, TurnServer, Via, check_address,
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
        if let IceEvent::LocalDescription { description, .. } = event {
            (own_ufrag, own_password) = (description.ufrag, description.password);
        }
    }
    let remote = IceDescription {
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
pub fn stun_packets(input: &[u8]) {
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
    request.signed(&IntegrityKey::short_term(password))
}

/// Candidates of a peer, 8 bytes each, and the checks that they cause.
///
/// # Panics
/// If a check goes to an address that must not be checked, or more are sent than allowed.
pub fn ice_candidates(input: &[u8]) {
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

/// Rounds for one pause, above which something spins.
const MAX_ROUNDS: usize = 20_000;
/// Requests to the TURN server that may still be answered.
const MAX_ASKED: usize = 32;

/// A TURN server that knows the password and does what the input says.
struct Server {
    ice: Ice,
    now: Instant,
    key: IntegrityKey,
    asked: VecDeque<Vec<u8>>,
    sent: usize,
}

/// Answers of a TURN server that is in the right place and knows the password, and time between them.
///
/// # Panics
/// If something spins, more is sent than such a server may cause, or anything where nobody may be sent.
pub fn turn_answers(input: &[u8]) {
    let start = Instant::now();
    let (mut ice, ufrag, password) = busy_node(start);
    let peer = SocketAddr::from(([192, 0, 2, 77], 4000));
    let candidate =
        Candidate { kind: CandidateKind::Host, address: peer, related: None, priority: 1 << 30 };
    ice.add_remote_candidates(start, PEER, 0, &[candidate]);
    let key = IntegrityKey::long_term("u", "realm", "p");
    let mut server = Server { ice, now: start, key, asked: VecDeque::new(), sent: 0 };
    let mut rest = input;
    let mut steps = 0;
    while let Some(([step, a, b, c], others)) = rest.split_first_chunk::<4>() {
        rest = others;
        steps += 1;
        server.take_transmits();
        match step % 8 {
            0..=3 => server.answer(*step, [*a, *b, *c]),
            4 => server.says(Via::Channel { channel: 0x4000 + u16::from(*a) }, &[*b; 40]),
            5 => {
                let request = signed_request(&[*a, *b, *c, 0, 0, 0], &ufrag, &password);
                let payload: &[u8] = if c % 2 == 0 { &request } else { &[*b; 30] };
                let indication = Builder::new(Class::Indication, Method::Data, transaction(*a))
                    .peer(address([*b, *c]))
                    .payload(payload);
                server.says(Via::RelaySocket { remote: SERVER }, &indication.unsigned());
            }
            6 => server.pass(Duration::from_millis(u64::from(*a) * 10)),
            _ => server.pass(Duration::from_secs(u64::from(*a))),
        }
    }
    server.take_transmits();
    let elapsed_s = (server.now - start).as_secs() as usize;
    assert!(server.sent <= 100 + 40 * steps + 20 * elapsed_s, "{} in {elapsed_s} s", server.sent);
    assert!(server.ice.bound_channels() <= 4_096);
}

impl Server {
    fn take_transmits(&mut self) {
        while let Some(transmit) = self.ice.poll_transmit() {
            self.sent += 1;
            assert_eq!(check_address(transmit.remote, Loopback::Refused), Ok(()));
            let is_relay = transmit.socket == SocketKind::Relay;
            assert!(!is_relay || transmit.remote == SERVER);
            let is_request = Message::parse(&transmit.payload)
                .is_some_and(|message| message.class == Class::Request);
            if is_relay && is_request {
                self.asked.push_back(transmit.payload);
                self.asked.truncate(MAX_ASKED);
            }
        }
        while self.ice.poll_event().is_some() {}
    }

    fn says(&mut self, via: Via, payload: &[u8]) {
        self.ice.handle_packet(self.now, Packet { via, payload });
        self.take_transmits();
    }

    /// An answer to one of the requests: right, or as the bytes say.
    fn answer(&mut self, step: u8, [a, b, c]: [u8; 3]) {
        const CODES: [u16; 12] = [300, 400, 401, 403, 420, 437, 438, 441, 442, 486, 500, 508];
        let at = if step & 8 == 0 { 0 } else { usize::from(c) };
        let Some(request) = self.asked.remove(at % self.asked.len().max(1)) else { return };
        let Some(request) = Message::parse(&request) else { return };
        let class = if step & 1 == 0 { Class::Success } else { Class::Error };
        let method = if step & 16 == 0 { request.method } else { Method::Refresh };
        let mut answer = Builder::new(class, method, request.transaction);
        if class == Class::Error {
            answer = answer.error(CODES[usize::from(a) % CODES.len()], "no");
        }
        if step & 32 == 0 {
            answer = answer.realm(if b % 4 == 3 { "other" } else { "realm" }).nonce(&[b; 8]);
        }
        if step & 64 == 0 {
            let lifetime_s = if c & 0x80 == 0 { 600 } else { u32::from(b) << (c % 32) };
            let answer_ = answer.relayed(address([a, b])).mapped(address([b, c]));
            answer = answer_.lifetime_s(lifetime_s);
        }
        let signed = if step & 128 == 0 { answer.signed(&self.key) } else { answer.unsigned() };
        self.says(Via::RelaySocket { remote: SERVER }, &signed);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for round in 0.. {
            assert!(round < MAX_ROUNDS, "something spins");
            let Some(at) = self.ice.poll_timeout().filter(|at| *at <= end) else { break };
            self.now = at.max(self.now + Duration::from_micros(1));
            self.ice.handle_timeout(self.now);
            self.take_transmits();
        }
        self.now = self.now.max(end);
    }
}

fn transaction(number: u8) -> TransactionId {
    TransactionId([number; 12])
}

/// Anywhere: good addresses, and those where nobody may be sent.
fn address([a, b]: [u8; 2]) -> SocketAddr {
    let ip = match a % 8 {
        0 => [127, 0, 0, b],
        1 => [224, 0, 0, b],
        2 => [0, 0, 0, b],
        3 => [255, 255, 255, b],
        _ => [192, 0, 2, b],
    };
    SocketAddr::from((ip, u16::from(a) * 256))
}

/// Inputs to start from, for each target of this file.
#[cfg(test)]
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let chunk = |bytes: &[u8]| [&[bytes.len() as u8][..], bytes].concat();
    let key = IntegrityKey::short_term("0123456789abcdef012345");
    let of = |class| Builder::new(class, Method::Binding, transaction(1));
    match target {
        "stun_packets" => vec![
            chunk(&of(Class::Request).username("a:b").priority(1).signed(&key)),
            [
                chunk(&of(Class::Success).mapped(address([4, 7])).unsigned()),
                chunk(&of(Class::Error).error(487, "Role Conflict").signed(&key)),
                chunk(&[0x40, 0, 0, 4, 1, 2, 3, 4]),
                chunk(&[1, 0, 0, 0, 9, 0, 3]),
            ]
            .concat(),
        ],
        "ice_candidates" => vec![
            [[0, 10, 0, 0, 2, 0x16, 0xa8, 255], [1, 203, 0, 113, 7, 0x16, 0xa8, 100]].concat(),
            [[0x80, 0x20, 1, 0, 1, 0x16, 0xa8, 9], [2, 127, 0, 0, 1, 0, 1, 1]].concat(),
        ],
        _ => vec![
            // A challenge, an allocation, time, a channel, what comes through it, a refresh.
            vec![
                1, 2, 0, 0, 0, 4, 9, 0, 6, 20, 0, 0, 0, 4, 9, 0, 4, 0, 7, 0, 5, 1, 2, 4, 7, 250, 0,
                0, 7, 250, 0, 0, 0, 4, 9, 0,
            ],
            // Refusals of every kind.
            (0..12).flat_map(|code| [1, code, 0, 0, 7, 70, 0, 0]).collect(),
            // It forgets the allocation, sends elsewhere, and gives short times.
            vec![
                1, 2, 0, 0, 0, 4, 9, 0x81, 7, 40, 0, 0, 1, 5, 0, 0, 1, 0, 0, 0, 1, 6, 0, 0, 128, 4,
                9, 0,
            ],
        ],
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_packets_are_survived(input in vec(any::<u8>(), 0..400)) {
            super::stun_packets(&input);
        }

        #[test]
        fn any_answers_are_survived(input in vec(any::<u8>(), 0..400)) {
            super::turn_answers(&input);
        }

        #[test]
        fn any_candidates_are_survived(input in vec(any::<u8>(), 0..800)) {
            super::ice_candidates(&input);
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
        super::ice_candidates(&input);
    }
}
