//! What two nodes say to each other inside a tunnel, so that they find another way when the one in use ends and nobody
//! else passes on what they say (docs/WIRE.md, Signalling): ICE description and candidates, as JSON.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ice::{
    Candidate, CandidateKind, IceDescription, Loopback, MAX_CANDIDATES, check_address,
};

/// Description and candidates of one end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    /// Its credentials.
    pub(crate) description: IceDescription,
    /// Its candidates, at most [`MAX_CANDIDATES`].
    pub(crate) candidates: Vec<Candidate>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    ice: WireIce,
}

#[derive(Serialize, Deserialize)]
struct WireIce {
    ufrag: String,
    pwd: String,
    generation: u32,
    candidates: Vec<WireCandidate>,
}

#[derive(Serialize, Deserialize)]
struct WireCandidate {
    kind: WireKind,
    address: SocketAddr,
    priority: u32,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireKind {
    Host,
    Srflx,
    Prflx,
    Relay,
}

/// The message's bytes.
pub(super) fn write(description: &IceDescription, candidates: &[Candidate]) -> Vec<u8> {
    let candidates = candidates.iter().take(MAX_CANDIDATES).map(|candidate| WireCandidate {
        kind: match candidate.kind {
            CandidateKind::Host => WireKind::Host,
            CandidateKind::ServerReflexive => WireKind::Srflx,
            CandidateKind::PeerReflexive => WireKind::Prflx,
            CandidateKind::Relayed => WireKind::Relay,
        },
        address: candidate.address,
        priority: candidate.priority,
    });
    let ice = WireIce {
        ufrag: description.ufrag.clone(),
        pwd: description.password.clone(),
        generation: description.generation,
        candidates: candidates.collect(),
    };
    // Strings and numbers always are JSON.
    serde_json::to_vec(&Wire { ice }).unwrap_or_default()
}

/// The message in these bytes; none if it makes no sense. Candidates at addresses where nobody should be sent are left out.
pub(crate) fn read(bytes: &[u8]) -> Option<Message> {
    let Wire { ice } = serde_json::from_slice(bytes).ok()?;
    let WireIce { ufrag, pwd, generation, candidates } = ice;
    let description = IceDescription { ufrag, password: pwd, generation };
    if !description.is_sound() {
        return None;
    }
    let usable = |candidate: &WireCandidate| {
        candidate.priority > 0 && check_address(candidate.address, Loopback::Refused).is_ok()
    };
    let candidates = candidates.into_iter().take(MAX_CANDIDATES).filter(usable);
    let candidates = candidates.map(|wire| Candidate {
        kind: match wire.kind {
            WireKind::Host => CandidateKind::Host,
            WireKind::Srflx => CandidateKind::ServerReflexive,
            WireKind::Prflx => CandidateKind::PeerReflexive,
            WireKind::Relay => CandidateKind::Relayed,
        },
        address: wire.address,
        related: None,
        priority: wire.priority,
    });
    Some(Message { description, candidates: candidates.collect() })
}

/// For fuzzing: what a peer says inside the tunnel.
///
/// # Panics
/// When something is taken that is not sound, or is not written as it was read.
#[cfg(feature = "testing")]
pub fn fuzz(bytes: &[u8]) {
    let Some(message) = read(bytes) else { return };
    assert!(message.description.is_sound() && message.candidates.len() <= MAX_CANDIDATES);
    for candidate in &message.candidates {
        assert_eq!(check_address(candidate.address, Loopback::Refused), Ok(()));
    }
    let written = write(&message.description, &message.candidates);
    assert_eq!(read(&written), Some(message));
}

/// Inputs to start from.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let description =
        IceDescription { ufrag: "abcd".into(), password: "p".repeat(22), generation: 3 };
    let candidate = |kind, address: &str| Candidate {
        kind,
        address: address.parse().expect("an address"),
        related: None,
        priority: 7,
    };
    let candidates = [
        candidate(CandidateKind::Host, "10.0.0.2:5800"),
        candidate(CandidateKind::Relayed, "[2001:db8::7]:50000"),
        candidate(CandidateKind::PeerReflexive, "127.0.0.1:9"),
    ];
    let weak = IceDescription { password: "short".into(), ..description.clone() };
    vec![write(&description, &candidates), write(&description, &[]), write(&weak, &candidates)]
}

#[cfg(test)]
mod tests {
    use ipop_datapath::command::MAX_SIGNAL_LEN;
    use proptest::prelude::*;

    use super::*;

    fn description() -> IceDescription {
        IceDescription { ufrag: "abcd".into(), password: "p".repeat(22), generation: 3 }
    }

    fn candidate(address: &str) -> Candidate {
        let address = address.parse().unwrap();
        Candidate { kind: CandidateKind::ServerReflexive, address, related: None, priority: 7 }
    }

    #[test]
    fn what_is_written_is_read_and_the_largest_fits_a_signal() {
        let candidates =
            vec![candidate("[2001:db8:1111:2222:3333:4444:5555:6666]:65535"); MAX_CANDIDATES];
        let description = IceDescription {
            ufrag: "u".repeat(32),
            password: "p".repeat(32),
            generation: u32::MAX,
        };
        let bytes = write(&description, &candidates);
        assert!(bytes.len() <= MAX_SIGNAL_LEN, "{}", bytes.len());
        assert_eq!(read(&bytes), Some(Message { description, candidates }));
    }

    #[test]
    fn nobody_is_sent_where_nobody_should_go() {
        let bad = ["127.0.0.1:9", "224.0.0.1:9", "0.0.0.0:9", "10.0.0.1:0", "[100::1]:9"];
        let candidates: Vec<_> = bad.iter().map(|address| candidate(address)).collect();
        assert_eq!(read(&write(&description(), &candidates)).unwrap().candidates, []);
    }

    #[test]
    fn of_the_own_candidates_24_are_told_and_of_a_peers_24_read() {
        let own: Vec<_> = (1..=60).map(|n| candidate(&format!("10.0.0.{n}:9"))).collect();
        let told: Wire = serde_json::from_slice(&write(&description(), &own)).unwrap();
        assert_eq!(told.ice.candidates.len(), MAX_CANDIDATES);
        let one = r#"{"kind":"host","address":"10.0.0.1:9","priority":7}"#;
        let many = [one; 60].join(",");
        let pwd = description().password;
        let peers = format!(
            r#"{{"ice":{{"ufrag":"abcd","pwd":"{pwd}","generation":3,"candidates":[{many}]}}}}"#
        );
        assert!(peers.len() <= MAX_SIGNAL_LEN, "a tunnel carries {} bytes", peers.len());
        assert_eq!(read(peers.as_bytes()).unwrap().candidates.len(), MAX_CANDIDATES);
    }

    #[test]
    fn weak_credentials_are_refused() {
        let weak = IceDescription { password: "short".into(), ..description() };
        assert_eq!(read(&write(&weak, &[])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
