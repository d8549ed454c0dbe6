//! Why paths are not direct, or not there at all, and what is wrong with servers: reasons for programs, with their words for people.

use std::{fmt, net::SocketAddr};

use serde::{Serialize, Serializer};

use super::{Candidate, CandidateKind};
use crate::host::refused_sends::cause;

/// All that is known to stand in the way of a direct path to one peer; the first is what was found, the others explain it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Obstacles(pub Vec<Obstacle>);

/// What stands in the way.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Obstacle {
    /// Nothing is known of the peer's description.
    #[error("the peer has not answered yet")]
    PeerSilent,
    /// Checks found no direct pair; without candidates at one end there is none to check.
    #[error("no direct pair answers (here {here}; there {there})")]
    NoPairAnswers {
        /// This end's candidates.
        here: Kinds,
        /// The peer's.
        there: Kinds,
    },
    /// No two candidates are of one family.
    #[error("one end has only IPv4, the other only IPv6")]
    NoCommonFamily,
    /// This host's kernel refuses packets to one of the peer's addresses.
    #[error("the kernel does not send to {address} ({})", cause(*errno))]
    KernelRefuses {
        /// Which.
        address: SocketAddr,
        /// Why.
        errno: i32,
    },
    /// This host is behind a symmetric NAT.
    #[error("the NAT here is symmetric: it maps each destination to another port")]
    SymmetricHere,
    /// The peer is.
    #[error("the peer's NAT is symmetric: it maps each destination to another port")]
    SymmetricThere,
    /// There is a relay, and no pair through it answers.
    #[error("the relay does not reach the peer either")]
    RelayInVain,
    /// There is no relay for this reason.
    #[error(transparent)]
    NoRelay(#[from] ServerProblem),
    /// A TURN server is being asked.
    #[error("no relay yet")]
    NoRelayYet,
    /// Nobody named one.
    #[error("no TURN server is known, so nothing can be relayed")]
    NoTurnServer,
    /// This host has no address of the family of any of them.
    #[error("no TURN server has IPv4 or IPv6 as this host has")]
    NoTurnServerOfFamily,
}

/// How many candidates there are of each kind; kinds without any are left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kinds(pub Vec<(CandidateKind, usize)>);

/// Something is wrong with a STUN or TURN server.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServerProblem {
    /// It was named by an address that cannot be one.
    #[error("the STUN or TURN server {0} cannot be right and is not used")]
    NotUsable(SocketAddr),
    /// A TURN server does not relay, or not to every peer.
    #[error("TURN server {server}: {why}")]
    Turn {
        /// Which.
        server: SocketAddr,
        /// Why.
        why: TurnFault,
    },
}

/// Why a TURN server does not relay, and what to do about it. Numbers are error codes of STUN and TURN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TurnFault {
    /// It does not answer.
    #[error("no answer")]
    Silent,
    /// They are known to have ended, so it was not asked.
    #[error("the credentials have expired, and no newer ones came")]
    CredentialsExpired,
    /// 401 or 441.
    #[error("it refuses the credentials (error {0}); check user name, password and clock")]
    CredentialsRefused(u16),
    /// A challenge without realm or nonce.
    #[error("it asks for a log-in without saying for what")]
    NoChallenge,
    /// 438 again and again.
    #[error("it refuses each nonce that it gives")]
    NoncesRefused,
    /// An allocation without a usable address.
    #[error("it allocated without giving an address that can be right")]
    BadAllocation,
    /// 300.
    #[error("it sends us to {}, which is not followed; configure that one if it is right", elsewhere(*.0))]
    SendsElsewhere(Option<SocketAddr>),
    /// 403.
    #[error("it forbids relaying to this node (error 403)")]
    Forbidden,
    /// 437.
    #[error("it still holds an allocation of before (error 437); it ends by itself")]
    OldAllocation,
    /// 440 or 443.
    #[error("it has no addresses of this family (error {0})")]
    NoAddressOfFamily(u16),
    /// 442.
    #[error("it does not relay UDP (error 442)")]
    NoUdp,
    /// 486.
    #[error("this user has too many allocations there (error 486)")]
    QuotaReached,
    /// 508.
    #[error("it has no capacity left (error 508)")]
    NoCapacity,
    /// Any other code.
    #[error("it refuses to allocate (error {0})")]
    Refused(u16),
    /// It relays, but 486 or 508 to a channel.
    #[error("it has no room for more channels (error {0})")]
    NoChannel(u16),
}

fn elsewhere(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "another server".to_owned(), |address| address.to_string())
}

impl fmt::Display for Obstacles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for obstacle in &self.0 {
            write!(f, "{separator}{obstacle}")?;
            separator = "; ";
        }
        Ok(())
    }
}

/// In reports it is its text.
impl Serialize for Obstacles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Kinds {
    pub(super) fn of(candidates: &[Candidate]) -> Self {
        use CandidateKind::{Host, PeerReflexive, Relayed, ServerReflexive};
        let counts = [Host, ServerReflexive, PeerReflexive, Relayed].map(|kind| {
            (kind, candidates.iter().filter(|candidate| candidate.kind == kind).count())
        });
        Self(counts.into_iter().filter(|(_, count)| *count > 0).collect())
    }
}

/// "2 host, 1 relayed".
impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no candidates");
        }
        let mut separator = "";
        for (kind, count) in &self.0 {
            write!(f, "{separator}{count} {kind}")?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obstacles_are_one_text_in_logs_and_reports() {
        let here = Kinds(vec![(CandidateKind::Host, 2), (CandidateKind::Relayed, 1)]);
        let server = "192.0.2.9:3478".parse().unwrap();
        let problem = ServerProblem::Turn { server, why: TurnFault::CredentialsRefused(401) };
        let obstacles = Obstacles(vec![
            Obstacle::NoPairAnswers { here, there: Kinds(Vec::new()) },
            Obstacle::NoCommonFamily,
            problem.into(),
        ]);
        let text = "no direct pair answers (here 2 host, 1 relayed; there no candidates); one end has only IPv4, the other only IPv6; TURN \
                    server 192.0.2.9:3478: it refuses the credentials (error 401); check user name, password and clock";
        assert_eq!(obstacles.to_string(), text);
        assert_eq!(serde_json::to_value(&obstacles).unwrap(), text);
    }
}
