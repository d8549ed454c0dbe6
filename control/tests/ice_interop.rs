//! Against an ICE agent by another hand (the crate `is`): a path comes about in both roles, and both ends agree on it.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipop_control::ice::{
    Candidate, CandidateKind, Entropy, Ice, IceConfig, IceDescription, IceEvent, Loopback, Packet,
    Path, Role, Timing, Via,
};
use ipop_datapath::node_id::NodeId;
use is::{IceAgent, IceAgentEvent, IceCreds, Protocol, stun::StunMessage, stun::StunPacket};

const PEER: NodeId = NodeId([9; 32]);
const OURS: &str = "192.0.2.1:5800";
const THEIRS: &str = "192.0.2.2:6000";

struct Pair {
    now: Instant,
    ice: Ice,
    other: IceAgent,
    our_path: Option<Path>,
    their_path: Option<SocketAddr>,
}

impl Pair {
    fn new(role: Role) -> Self {
        let now = Instant::now();
        let (ours, theirs): (SocketAddr, SocketAddr) =
            (OURS.parse().unwrap(), THEIRS.parse().unwrap());
        let config = IceConfig {
            listen_port: ours.port(),
            loopback: Loopback::Refused,
            entropy: Entropy::seeded(1),
            timing: Timing::default(),
        };
        let mut ice = Ice::new(config, now);
        ice.set_local_addresses(now, &[ours.ip()]);
        ice.start(now, PEER, role);
        let creds = IceCreds::new();
        let mut other = IceAgent::new(creds.clone());
        other.set_controlling(role == Role::Controlled);
        other.add_local_candidate(is::Candidate::host(theirs, Protocol::Udp).unwrap());
        let description =
            IceDescription { ufrag: creds.ufrag, password: creds.pass, generation: 0 };
        ice.set_remote(now, PEER, &description);
        let candidate = Candidate::local(CandidateKind::Host, theirs, None, u16::MAX);
        ice.add_remote_candidates(now, PEER, 0, &[candidate]);
        Self { now, ice, other, our_path: None, their_path: None }
    }

    fn step(&mut self) {
        let (ours, theirs): (SocketAddr, SocketAddr) =
            (OURS.parse().unwrap(), THEIRS.parse().unwrap());
        self.now += Duration::from_millis(10);
        self.ice.handle_timeout(self.now);
        self.other.handle_timeout(self.now);
        while let Some(event) = self.ice.poll_event() {
            self.ours(event);
        }
        while let Some(event) = self.other.poll_event() {
            if let IceAgentEvent::NominatedSend { destination, .. } = event {
                self.their_path = Some(destination);
            }
        }
        while let Some(transmit) = self.ice.poll_transmit() {
            let message = StunMessage::parse(&transmit.payload).expect("they can read it");
            let packet =
                StunPacket { proto: Protocol::Udp, source: ours, destination: theirs, message };
            self.other.handle_packet(self.now, packet);
        }
        while let Some(transmit) = self.other.poll_transmit() {
            let via = Via::Listen { local_ip: Some(ours.ip()), remote: transmit.source };
            self.ice.handle_packet(self.now, Packet { via, payload: &transmit.contents });
        }
    }

    fn ours(&mut self, event: IceEvent) {
        match event {
            IceEvent::LocalDescription { description, .. } => {
                let IceDescription { ufrag, password: pass, .. } = description;
                self.other.set_remote_credentials(IceCreds { ufrag, pass });
            }
            IceEvent::LocalCandidates { candidates, .. } => {
                for candidate in candidates {
                    let host = is::Candidate::host(candidate.address, Protocol::Udp).unwrap();
                    self.other.add_remote_candidate(host);
                }
            }
            IceEvent::Selected { path, .. } => self.our_path = Some(path),
            _ => {}
        }
    }
}

#[test]
fn a_path_comes_about_in_both_roles_and_lasts() {
    for role in [Role::Controlling, Role::Controlled] {
        let mut pair = Pair::new(role);
        for _ in 0..100 {
            pair.step();
        }
        let expected = Path::Direct {
            remote: THEIRS.parse().unwrap(),
            local_ip: Some(OURS.parse::<SocketAddr>().unwrap().ip()),
        };
        assert_eq!(pair.our_path, Some(expected), "{role:?}");
        assert_eq!(pair.their_path, Some(OURS.parse().unwrap()), "{role:?}");
        for _ in 0..12_000 {
            pair.step();
        }
        assert!(pair.other.state().is_connected(), "{role:?}");
        let snapshot = pair.ice.snapshot(pair.now, PEER).unwrap();
        assert_eq!(snapshot.selected.map(|selected| selected.path), Some(expected), "{role:?}");
        assert_eq!(pair.ice.counters().bad_response, 0, "{role:?}");
        assert_eq!(pair.ice.counters().bad_integrity, 0, "{role:?}");
    }
}
