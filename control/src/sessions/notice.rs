//! What the operator is told. Each notice is one line of the log.

use std::{fmt, net::SocketAddr, time::Duration};

use ipop_datapath::{
    PortId,
    command::{CloseReason, Direction, Ended, Lane},
    hello::Hello,
    node_id::NodeId,
    path::port_of_alias,
};

use super::mesh::ShortId;
use crate::trust::Loss;

/// A peer, as every line names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Who {
    /// Its node id.
    pub node: NodeId,
    /// The name that it gave itself, if it ever connected.
    pub name: Option<String>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name})", self.node),
            None => self.node.fmt(f),
        }
    }
}

/// Something that the operator should know.
#[derive(Clone, PartialEq, Debug)]
pub enum Notice {
    /// The first lane of a peer is up.
    PeerUp {
        /// Who.
        peer: Who,
        /// Its port.
        port: PortId,
        /// Its address.
        remote: SocketAddr,
        /// Who dialled.
        direction: Direction,
        /// What it said of itself.
        hello: Hello,
    },
    /// The last lane of a peer is gone.
    PeerDown {
        /// Who.
        peer: Who,
        /// Why, for people.
        why: String,
        /// How long it was up.
        up: Duration,
    },
    /// A peer that was up came back as a new instance.
    PeerRestarted {
        /// Who.
        peer: Who,
        /// Its address now.
        remote: SocketAddr,
    },
    /// One more lane of a peer is up.
    LaneUp {
        /// Whose.
        peer: Who,
        /// Which.
        lane: Lane,
        /// The address.
        remote: SocketAddr,
    },
    /// A lane is gone, others live.
    LaneDown {
        /// Whose.
        peer: Who,
        /// Which.
        lane: Lane,
        /// Why, for people.
        why: String,
    },
    /// A lane goes another way now.
    LaneMoved {
        /// Whose.
        peer: Who,
        /// Which.
        lane: Lane,
        /// The address before.
        from: SocketAddr,
        /// The address now.
        to: SocketAddr,
    },
    /// No address of the peer answered. Repeated only when the reason changes, and every five minutes.
    DialFailed {
        /// Who.
        peer: Who,
        /// Which lane.
        lane: Lane,
        /// What went wrong at each address.
        error: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// A connection was closed for what it asked.
    Refused {
        /// Who asked.
        peer: NodeId,
        /// From where.
        remote: SocketAddr,
        /// Why, and what to do.
        why: String,
    },
    /// A peer lost its right to be connected while it was up.
    Revoked {
        /// Who.
        peer: Who,
        /// Why.
        why: Loss,
    },
    /// The peer's inner MTU is another.
    MtuMismatch {
        /// Who.
        peer: Who,
        /// This node's, bytes.
        ours: u16,
        /// The peer's, bytes.
        theirs: u16,
    },
    /// Two programs use one key.
    DuplicateNode {
        /// Their node id.
        peer: Who,
        /// The latest address of one of them.
        remote: SocketAddr,
    },
    /// Two peers are not connected to each other, as they say.
    PairMissing {
        /// Which.
        pair: [NodeId; 2],
        /// The names that they gave, perhaps empty.
        names: [String; 2],
    },
    /// They are now.
    PairConnected {
        /// Which.
        pair: [NodeId; 2],
    },
    /// A peer reaches a node that this one does not.
    BeyondMissing {
        /// That node, as far as the peer tells.
        node: ShortId,
        /// The peer.
        via: NodeId,
        /// The peer's name, perhaps empty.
        name: String,
    },
    /// That node is a peer that is up now.
    BeyondConnected {
        /// Which.
        node: ShortId,
    },
}

/// How much a notice matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Worth a line.
    Info,
    /// Something should be done.
    Warning,
}

impl Notice {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::PeerUp { .. }
            | Self::PeerRestarted { .. }
            | Self::LaneUp { .. }
            | Self::LaneMoved { .. }
            | Self::PairConnected { .. }
            | Self::BeyondConnected { .. } => Severity::Info,
            Self::PeerDown { .. }
            | Self::LaneDown { .. }
            | Self::DialFailed { .. }
            | Self::Refused { .. }
            | Self::Revoked { .. }
            | Self::MtuMismatch { .. }
            | Self::DuplicateNode { .. }
            | Self::PairMissing { .. }
            | Self::BeyondMissing { .. } => Severity::Warning,
        }
    }
}

impl Notice {
    /// The same for a peer whose path others chose: `way` says how it is reached, since its address here stands for that
    /// path and means nothing to people.
    pub fn told_over(&self, way: &str) -> String {
        match self {
            Self::PeerUp { peer, port, direction, hello, .. } => {
                let who = match direction {
                    Direction::Dialled => "dialled",
                    Direction::Accepted => "it dialled",
                };
                let (agent, takes) = (&hello.agent, hello.capabilities);
                format!("peer {peer} up, {way} ({who}), port {port}, takes {takes}, {agent}")
            }
            other => other.to_string(),
        }
    }
}

/// Where a peer is, as people may see it.
struct Shown(SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match port_of_alias(self.0) {
            Some(_) => f.write_str("the path that was found"),
            None => self.0.fmt(f),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerUp { remote, .. } => {
                f.write_str(&self.told_over(&format!("direct UDP to {}", Shown(*remote))))
            }
            Self::PeerDown { peer, why, up } => {
                write!(f, "peer {peer} down after {} s: {why}", up.as_secs())
            }
            Self::PeerRestarted { peer, remote } => {
                write!(f, "peer {peer} restarted, up again at {}", Shown(*remote))
            }
            Self::LaneUp { peer, lane, remote } => {
                write!(f, "peer {peer} lane {} up at {}", lane.0, Shown(*remote))
            }
            Self::LaneDown { peer, lane, why } => {
                write!(f, "peer {peer} lane {} down, others carry on: {why}", lane.0)
            }
            Self::LaneMoved { peer, lane, from, to } => {
                let (from, to) = (Shown(*from), Shown(*to));
                write!(f, "peer {peer} lane {} moved from {from} to {to}", lane.0)
            }
            Self::DialFailed { peer, lane, error, retry_in } => {
                write!(f, "cannot reach peer {peer}, lane {}: {error}; next try ", lane.0)?;
                match retry_in.as_secs_f64() {
                    // Rounded, it would be no time at all.
                    ..0.1 => f.write_str("at once"),
                    seconds => write!(f, "in {seconds:.1} s"),
                }
            }
            Self::Refused { peer, remote, why } => {
                write!(f, "refused a connection of {peer} at {}: {why}", Shown(*remote))
            }
            Self::Revoked { peer, why } => write!(f, "closed the tunnels of peer {peer}: {why}"),
            Self::MtuMismatch { peer, ours, theirs } => write!(
                f,
                "peer {peer} has inner MTU {theirs}, this node {ours}: large packets between them \
                 get lost; give both the same --mtu"
            ),
            Self::DuplicateNode { peer, remote } => write!(
                f,
                "two programs use the key of peer {peer} and push each other out, one of them at \
                 {}; was the host cloned? Stop one, delete its identity.pem, start it again and \
                 tell the peers its new node id",
                Shown(*remote)
            ),
            Self::PairMissing { pair: [one, other], names: [name, other_name] } => write!(
                f,
                "peers {one} ({name}) and {other} ({other_name}) have no tunnel to each other: frames \
                 between the machines behind them are lost, since none is forwarded from peer to peer; \
                 give both of them each other as --peer, one with an address, or let them join the network"
            ),
            Self::PairConnected { pair: [one, other] } => {
                write!(f, "peers {one} and {other} have a tunnel to each other now")
            }
            Self::BeyondMissing { node, via, name } => write!(
                f,
                "peer {via} ({name}) has a tunnel to a node whose id begins with {node}, this node has \
                 none: frames to and from the machines behind it are lost; give both of them each other \
                 as --peer, one with an address, or let them join the network"
            ),
            Self::BeyondConnected { node } => {
                write!(f, "the node whose id begins with {node} has a tunnel to this node now")
            }
        }
    }
}

/// Why a connection of ours ended, for people; `local` is named where the cure needs it.
pub fn explain(why: &Ended, local: NodeId) -> String {
    match why {
        Ended::Closed(reason) => closed_here(*reason).into(),
        Ended::ByPeer { code, phrase } => by_peer(*code, phrase, local),
        Ended::Reset => "the peer restarted".into(),
        Ended::TimedOut => "nothing was heard from it".into(),
        Ended::Refused(why) => why.to_string(),
        Ended::Failed(why) => why.to_string(),
    }
}

fn closed_here(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Shutdown => "this node shuts down",
        CloseReason::Replaced => "a newer connection replaced it",
        CloseReason::Duplicate => "both ends dialled at once",
        CloseReason::Version => {
            "the peer speaks another version; run the same release on both ends"
        }
        CloseReason::BadHello => "the peer's hello is malformed; run the same release on both ends",
        CloseReason::NotAdmitted => "the node is not among the peers",
        CloseReason::DialledSelf => "the address leads back to this node; correct --peer",
        CloseReason::NotProved => "it has proved no network secret that is still valid here",
    }
}

fn by_peer(code: u64, phrase: &str, local: NodeId) -> String {
    match CloseReason::of_code(code) {
        Some(CloseReason::Shutdown) => "the peer was shut down".into(),
        Some(CloseReason::Replaced) => "the peer replaced it by a newer connection".into(),
        Some(CloseReason::Duplicate) => "both ends dialled at once".into(),
        Some(CloseReason::Version) => {
            "the peer speaks another version; run the same release on both ends".into()
        }
        Some(CloseReason::BadHello) => {
            format!("the peer could not read this node's hello ({phrase})")
        }
        Some(CloseReason::NotAdmitted) => {
            format!(
                "the peer does not admit this node ({phrase}); start it there with --peer {local}, or see `ipop-switch \
                 trust list` there"
            )
        }
        Some(CloseReason::DialledSelf) => {
            "the address leads back to this node; correct --peer".into()
        }
        Some(CloseReason::NotProved) if phrase.is_empty() => {
            "the peer asks for another network secret".into()
        }
        Some(CloseReason::NotProved) => phrase.into(),
        None => format!("the peer closed it with code {code} ({phrase})"),
    }
}

#[cfg(test)]
mod tests {
    use ipop_datapath::path::alias;

    use super::*;

    #[test]
    fn nobody_is_shown_an_address_that_stands_for_a_path() {
        let (node, lane) = (NodeId([7; 32]), Lane(0));
        let peer = || Who { node, name: None };
        let stands_for_it = alias(PortId(3));
        for notice in [
            Notice::LaneUp { peer: peer(), lane, remote: stands_for_it },
            Notice::PeerRestarted { peer: peer(), remote: stands_for_it },
            Notice::Refused { peer: node, remote: stands_for_it, why: "x".into() },
        ] {
            let (told, over) = (notice.to_string(), notice.told_over("by air"));
            assert!(told.contains("the path that was found") && !told.contains("100::"), "{told}");
            assert_eq!(told, over);
        }
        let remote = "192.0.2.1:5800".parse().unwrap();
        let told = Notice::LaneUp { peer: peer(), lane, remote }.to_string();
        assert!(told.ends_with("up at 192.0.2.1:5800"), "{told}");
    }

    #[test]
    fn the_next_try_is_told_in_seconds_unless_it_is_now() {
        let told = |retry_in| {
            let peer = Who { node: NodeId([7; 32]), name: None };
            Notice::DialFailed { peer, lane: Lane(0), error: "silence".into(), retry_in }
                .to_string()
        };
        assert!(told(Duration::from_millis(40)).ends_with("silence; next try at once"));
        assert!(told(Duration::from_millis(260)).ends_with("silence; next try in 0.3 s"));
        assert!(told(Duration::from_secs(15)).ends_with("silence; next try in 15.0 s"));
    }
}
