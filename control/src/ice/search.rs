//! How the search for a way to one peer stands, pair by pair, for whoever drives it.

use std::{net::SocketAddr, time::Duration};

use ipop_datapath::node_id::NodeId;

use super::{
    Candidate, CandidateKind, Ice, IceDescription, IceState, Role,
    pair::{Duty, Pair, PairState},
};

/// The search for a way to one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    /// In one word.
    pub state: IceState,
    /// This end's.
    pub role: Role,
    /// What the peer must learn: this end's description.
    pub description: IceDescription,
    /// This end's candidates.
    pub local: Vec<Candidate>,
    /// Whether these are all.
    pub is_gathered: bool,
    /// The peer's candidates.
    pub remote: Vec<Candidate>,
    /// Pairs of them.
    pub pairs: Vec<PairReport>,
}

/// A pair of candidates, and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairReport {
    /// The kind of this end's candidate.
    pub local: CandidateKind,
    /// The peer's address.
    pub remote_address: SocketAddr,
    /// Its kind.
    pub remote: CandidateKind,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether it carries the traffic.
    pub is_selected: bool,
    /// Whether it goes over a relay, of either end.
    pub is_relayed: bool,
    /// Whether the peer checks it too.
    pub is_mutual: bool,
    /// By RFC 8445, section 6.1.2.3.
    pub priority: u64,
    /// Of the last checks.
    pub rtt: Option<Duration>,
    /// Checks sent.
    pub checks_sent: u64,
    /// Checks answered.
    pub checks_answered: u64,
}

/// What became of a pair (RFC 8445, section 6.1.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// To be checked.
    Waiting,
    /// A check is under way.
    InProgress,
    /// It was answered.
    Succeeded,
    /// It was not.
    Failed,
}

impl Ice {
    /// The search for a way to `peer`, or `None` if there is none.
    #[must_use]
    pub fn search(&self, peer: NodeId) -> Option<Search> {
        let entry = self.peers.get(&peer)?;
        let (credentials, generation) = entry.agent.local();
        Some(Search {
            state: entry.agent.state(),
            role: entry.agent.role(),
            description: IceDescription {
                ufrag: credentials.ufrag.clone(),
                password: credentials.password.clone(),
                generation,
            },
            local: self.local_candidates(),
            is_gathered: self.is_gathered(),
            remote: entry.agent.remote_candidates().to_vec(),
            pairs: entry.agent.pairs().iter().map(report).collect(),
        })
    }
}

fn report(pair: &Pair) -> PairReport {
    PairReport {
        local: pair.local_kind,
        remote_address: pair.remote,
        remote: pair.remote_kind,
        outcome: match pair.state {
            PairState::Waiting => Outcome::Waiting,
            PairState::InProgress => Outcome::InProgress,
            PairState::Succeeded => Outcome::Succeeded,
            PairState::Failed => Outcome::Failed,
        },
        is_selected: pair.duty == Duty::Selected,
        is_relayed: pair.is_relayed(),
        is_mutual: pair.is_mutual(),
        priority: pair.priority,
        rtt: pair.rtt,
        checks_sent: pair.checks_sent,
        checks_answered: pair.checks_answered,
    }
}
