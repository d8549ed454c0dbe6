//! One node and peers whose every packet the test writes: what they can make it believe, keep and send.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::{command::ControlPacket, node_id::NodeId, path::Source};

use super::{
    Candidate, CandidateKind, Entropy, Ice, IceConfig, IceDescription, IceEvent, Loopback, Packet,
    Role, Timing, Via,
    stun::{Builder, ClaimedRole, Class, IntegrityKey, Message, Method, TransactionId},
};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PASSWORD: &str = "0123456789abcdef012345";
const STEP: Duration = Duration::from_millis(5);
const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);

struct Bench {
    ice: Ice,
    now: Instant,
    /// Since the last look.
    events: Vec<IceEvent>,
    /// Where checks are answered, whomever they are for.
    answering: Vec<SocketAddr>,
    /// Checks that left, answered or not.
    checks: usize,
    /// What the node calls itself towards each peer, and its password.
    own: Vec<(NodeId, String, String)>,
}

impl Bench {
    /// A node that has the descriptions of two peers.
    fn new() -> Self {
        let mut bench = Self::without_descriptions();
        bench.describe(A);
        bench.describe(B);
        bench
    }

    fn without_descriptions() -> Self {
        Self::in_role(Role::Controlling)
    }

    fn in_role(role: Role) -> Self {
        let now = Instant::now();
        let config = IceConfig {
            listen_port: 5_800,
            loopback: Loopback::Refused,
            entropy: Entropy::seeded(1),
            timing: Timing::default(),
        };
        let mut ice = Ice::new(config, now);
        ice.set_local_addresses(now, &[HOST.into()]);
        ice.start(now, A, role);
        ice.start(now, B, role);
        let mut own = Vec::new();
        while let Some(event) = ice.poll_event() {
            if let IceEvent::LocalDescription { peer, description } = event {
                own.push((peer, description.ufrag, description.password));
            }
        }
        Self { ice, now, events: Vec::new(), answering: Vec::new(), checks: 0, own }
    }

    fn describe(&mut self, peer: NodeId) {
        let (ufrag, password) = (format!("peer{}", peer.0[0]), PASSWORD.to_owned());
        let remote = IceDescription { ufrag, password, generation: 0 };
        self.ice.set_remote(self.now, peer, &remote);
    }

    /// The peer sends a check from an address.
    fn request(&mut self, peer: NodeId, from: SocketAddr) {
        self.request_as(peer, from, (ClaimedRole::Controlled, 1));
    }

    fn request_as(
        &mut self,
        peer: NodeId,
        from: SocketAddr,
        (role, tie_breaker): (ClaimedRole, u64),
    ) {
        let (_, ufrag, password) = self.own.iter().find(|(of, ..)| *of == peer).expect("a peer");
        let mut transaction = [0; 12];
        transaction[..2].copy_from_slice(&from.port().to_be_bytes());
        let username = format!("{ufrag}:peer{}", peer.0[0]);
        let payload = Builder::new(Class::Request, Method::Binding, TransactionId(transaction))
            .username(&username)
            .priority(1_000)
            .role(role, tie_breaker)
            .signed(&IntegrityKey::short_term(password));
        self.take(from, &payload);
    }

    fn pairs(&self, peer: NodeId) -> usize {
        self.ice.peers[&peer].agent.pairs().len()
    }

    fn tell(&mut self, peer: NodeId, address: SocketAddr) {
        let (kind, related, priority) = (CandidateKind::Host, None, 1_000);
        let candidate = Candidate { kind, address, related, priority };
        self.ice.add_remote_candidates(self.now, peer, 0, &[candidate]);
    }

    fn run(&mut self, time: Duration) {
        self.run_with(time, |bench, sent| {
            if bench.answering.contains(&sent.remote) {
                bench.answer(sent.remote, &sent.payload);
            }
        });
    }

    /// What is sent is shown to `see`.
    fn run_with(&mut self, time: Duration, see: impl Fn(&mut Self, &ControlPacket)) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.ice.handle_timeout(self.now);
            while let Some(transmit) = self.ice.poll_transmit() {
                let message = Message::parse(&transmit.payload).expect("STUN");
                self.checks += usize::from(message.class == Class::Request);
                see(self, &transmit);
            }
            self.events.extend(std::iter::from_fn(|| self.ice.poll_event()));
        }
    }

    fn answer(&mut self, from: SocketAddr, request: &[u8]) {
        let request = Message::parse(request).expect("a check");
        let payload = Builder::new(Class::Success, Method::Binding, request.transaction)
            .mapped(SocketAddr::from((HOST, 5_800)))
            .signed(&IntegrityKey::short_term(PASSWORD));
        self.take(from, &payload);
    }

    fn take(&mut self, from: SocketAddr, payload: &[u8]) {
        let via = Via::Listen { local_ip: Some(HOST.into()), remote: from };
        self.ice.handle_packet(self.now, Packet { via, payload });
    }

    /// Whose this source became, or ceased to be.
    fn owners(&mut self, of: SocketAddr) -> Vec<(NodeId, bool)> {
        let of = Source::Direct(of);
        let owner = |event: IceEvent| match event {
            IceEvent::SourceValid { peer, source } if source == of => Some((peer, true)),
            IceEvent::SourceGone { peer, source } if source == of => Some((peer, false)),
            _ => None,
        };
        self.events.drain(..).filter_map(owner).collect()
    }

    fn is_selected(&self, peer: NodeId) -> bool {
        let is_it =
            |event: &IceEvent| matches!(event, IceEvent::Selected { peer: of, .. } if *of == peer);
        self.events.iter().any(is_it)
    }
}

/// A member claims another's address, and passes the checks on to it or answers them from there: the other's packets stay its own.
#[test]
fn an_address_that_a_peer_has_proved_is_nobody_elses() {
    let address: SocketAddr = "192.0.2.77:4000".parse().expect("an address");
    let mut bench = Bench::new();
    bench.answering.push(address);
    bench.tell(A, address);
    bench.run(Duration::from_secs(1));
    assert!(bench.is_selected(A));
    assert_eq!(bench.owners(address), [(A, true)]);

    bench.tell(B, address);
    bench.run(Duration::from_secs(30));
    assert!(!bench.is_selected(B), "no traffic to it either");
    assert_eq!(bench.owners(address), []);
    assert!(bench.ice.counters().contested_sources > 0);

    // It is free when its owner has gone.
    let now = bench.now;
    bench.ice.stop(now, A);
    bench.run(Duration::from_secs(30));
    assert!(bench.is_selected(B));
    assert_eq!(bench.owners(address), [(A, false), (B, true)]);
}

fn of_port(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 77], port))
}

/// Each address that a peer's check comes from is one more to be checked.
#[test]
fn a_peer_that_sends_checks_from_everywhere_gets_few_pairs_and_slow_checks() {
    let mut bench = Bench::new();
    (1..=100).for_each(|port| bench.tell(A, of_port(port)));
    assert_eq!((bench.pairs(A), bench.ice.counters().refused_candidates), (24, 76));
    for port in 1..=2_000 {
        bench.request(A, of_port(port));
    }
    assert_eq!(bench.pairs(A), 72);
    bench.run(Duration::from_secs(1));
    assert!((100..=205).contains(&bench.checks), "{} checks in the first second", bench.checks);
    bench.run(Duration::from_secs(60));
    assert!(bench.checks <= 72 * 7 + 6 * 2 * 6, "{} checks in a minute", bench.checks);
    assert_eq!(bench.pairs(B), 0);
}

#[test]
fn checks_before_the_description_are_remembered_but_not_many() {
    let mut bench = Bench::without_descriptions();
    for port in 1..=2_000 {
        bench.request(A, of_port(port));
    }
    bench.describe(A);
    assert_eq!(bench.pairs(A), 8);
}

/// RFC 8445 section 7.3.1.1 has the tie-breakers decide who changes its role. Here roles follow from the node ids, so that whoever claims
/// this end's is wrong: it is told so, whatever its tie-breaker, makes no pair, and this end stays what it is.
#[test]
fn who_claims_this_ends_role_is_refused_and_this_end_keeps_it() {
    let roles = [ClaimedRole::Controlling, ClaimedRole::Controlled];
    for (role, [own, other]) in
        [(Role::Controlling, roles), (Role::Controlled, [roles[1], roles[0]])]
    {
        let mut bench = Bench::in_role(role);
        bench.describe(A);
        let (_, _, password) = bench.own[0].clone();
        let key = IntegrityKey::short_term(&password);
        let answers_to = |bench: &mut Bench, claimed| {
            bench.request_as(A, of_port(1), claimed);
            let answer = bench.ice.poll_transmit().expect("an answer");
            let answer = Message::parse(&answer.payload).expect("STUN");
            assert!(answer.is_signed_with(&key));
            (answer.class, answer.error_code)
        };
        for tie_breaker in [0, u64::MAX] {
            let answer = answers_to(&mut bench, (own, tie_breaker));
            assert_eq!(answer, (Class::Error, Some(487)), "{role:?} {tie_breaker}");
        }
        assert_eq!((bench.pairs(A), bench.ice.counters().role_conflicts), (0, 2), "{role:?}");
        assert_eq!(answers_to(&mut bench, (other, 0)), (Class::Success, None), "{role:?}");
        assert_eq!(bench.pairs(A), 1, "{role:?}");

        // The other way: the peer says so of this end's checks.
        bench.run_with(Duration::from_secs(2), |bench, check| {
            let request = Message::parse(&check.payload).expect("STUN");
            assert_eq!(request.role, Some(own), "{role:?}");
            let payload = Builder::new(Class::Error, Method::Binding, request.transaction)
                .error(487, "Role Conflict")
                .signed(&IntegrityKey::short_term(PASSWORD));
            bench.take(check.remote, &payload);
        });
        let refused = bench.ice.counters().bad_response;
        assert!(bench.checks > 1 && refused == bench.checks as u64, "{role:?}: {refused}");
        assert!(!bench.is_selected(A), "{role:?}");
    }
}

#[test]
fn where_nobody_should_be_sent_no_check_goes() {
    let mut bench = Bench::new();
    for address in [
        "0.0.0.0:4000",
        "127.0.0.1:4000",
        "224.0.0.251:5353",
        "255.255.255.255:4000",
        "192.0.2.77:0",
        "[::1]:4000",
        "[ff02::1]:4000",
        "[::ffff:127.0.0.1]:4000",
        "[100::1]:1",
    ] {
        bench.tell(A, address.parse().expect("an address"));
    }
    bench.run(Duration::from_secs(30));
    assert_eq!((bench.checks, bench.ice.counters().refused_candidates), (0, 9));
}

#[test]
fn addresses_of_the_host_and_peers_are_bounded() {
    let mut bench = Bench::new();
    let addresses: Vec<_> = (1..=20).map(|n| Ipv4Addr::new(192, 0, 2, n).into()).collect();
    bench.ice.set_local_addresses(bench.now, &addresses);
    assert_eq!(bench.ice.local_candidates().len(), 8);
    for number in 0..2_000_u16 {
        let [high, low] = number.to_be_bytes();
        let mut id = [9; 32];
        (id[0], id[1]) = (high, low);
        bench.ice.start(bench.now, NodeId(id), Role::Controlled);
    }
    assert_eq!(bench.ice.peers.len(), 1_024);
    assert_eq!(bench.ice.counters().refused_peers, 2_000 + 2 - 1_024);
}
