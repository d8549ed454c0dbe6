//! The words of notices.

use std::{fmt, net::SocketAddr};

use ipop_datapath::{
    command::{CloseReason, Direction, Ended},
    node_id::NodeId,
    path::{Path, port_of_alias},
};

use super::{Down, Notice, Pathless, Trespass, Who};
use crate::{ice::CandidateKind, paths::Way, trust::Claim, xmpp::room::Outcome};

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name})", self.node),
            None => self.node.fmt(f),
        }
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { why, local } => f.write_str(&explain(why, *local)),
            Self::BesidePath => f.write_str("its path is not in use any more"),
        }
    }
}

impl fmt::Display for Trespass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself => f.write_str("it is this node itself; correct the address of --peer"),
            Self::Unknown(node) => {
                write!(f, "it is not among the peers; allow it with --peer {node}")
            }
            Self::NoSuchLane { lane, lanes } => {
                write!(f, "it wants lane {lane}, this node serves {lanes}")
            }
            Self::AnotherNode => f.write_str("another node was dialled"),
            Self::AnotherLane { lane, dialled } => {
                write!(f, "it answers for lane {lane}, not {dialled}")
            }
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
            Self::PeerUp { peer, port, remote, way, direction, hello } => {
                let who = match direction {
                    Direction::Dialled => "dialled",
                    Direction::Accepted => "it dialled",
                };
                let (agent, takes) = (&hello.agent, hello.capabilities);
                let way = match way {
                    Some(Way::Direct(remote)) => format!("direct UDP to {remote}"),
                    Some(Way::Relayed(relay)) => format!("UDP relayed by {relay}"),
                    None => format!("direct UDP to {}", Shown(*remote)),
                };
                write!(f, "peer {peer} up, {way} ({who}), port {port}, takes {takes}, {agent}")
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
            Self::DialFailed { peer, lane, why, retry_in } => {
                write!(f, "cannot reach peer {peer}, lane {}: {why}; next try ", lane.0)?;
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
            of_the_room => of_the_room.write_of_room(f),
        }
    }
}

impl Notice {
    /// Those of the room, of who may connect, and of paths.
    fn write_of_room(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |node: &NodeId, Claim { account, name }: &Claim| {
            format!("node {node} ({name} of {account})")
        };
        match self {
            Self::Reconfigured { added, removed, has_other_policy } => {
                let policy =
                    if *has_other_policy { ", another trust policy or secret" } else { "" };
                write!(
                    f,
                    "SIGHUP: {added} peers new or changed, {removed} no longer configured{policy}"
                )
            }
            Self::PortLeftOut { spec } => write!(
                f,
                "there are as many local ports as may be; {spec} is left out; SIGHUP tries it again"
            ),
            Self::NotAdmitted { peer, why } => write!(f, "--peer {peer}: it {why}"),
            Self::Forgotten { peer } => write!(f, "peer {peer} is forgotten"),
            Self::OwnId { jid } => write!(
                f,
                "{jid} is in the room with this node's id: the key file was copied to another host; delete it on one of them"
            ),
            Self::Contested { node } => write!(
                f,
                "several occupants of the room say that they are node {node}: whichever proves it is connected"
            ),
            Self::Waits { node, claim } => write!(
                f,
                "{} waits to be accepted: `ipop-switch trust accept {node}` lets it in",
                shown(node, claim)
            ),
            Self::Barred { node, claim, why } => write!(f, "{} {why}", shown(node, claim)),
            Self::Online { jid } => write!(f, "XMPP: logged in as {jid}"),
            Self::Offline { why } => write!(f, "{why}; it is tried again until it works"),
            Self::StillOffline { why, retry_in } => {
                write!(f, "{why}; next try in {:.0} s", retry_in.as_secs_f64())
            }
            Self::AccountRefused { why } => write!(
                f,
                "{why}; not tried again before the account's settings change (SIGHUP reads them)"
            ),
            Self::Offered(services) => write!(f, "STUN and TURN servers on offer: {services:?}"),
            Self::Joined { nick } => write!(f, "in the room as {nick}"),
            Self::AccountRemoved { account } => write!(f, "{account} was removed from the room"),
            Self::Room(problem) => {
                write!(f, "room: {problem}")?;
                match problem.outcome {
                    Outcome::Goes => Ok(()),
                    Outcome::RetriedIn(wait) => write!(f, "; next try in {} s", wait.as_secs()),
                }
            }
            Self::Server(problem) => write!(f, "{problem}"),
            Self::BadSignal { peer } => write!(f, "peer {peer}: a signal that makes no sense"),
            Self::Path { peer, path, local, remote, .. } => {
                let way = way(*path, *remote);
                write!(f, "peer {peer}: path {way} ({local} to {remote})")
            }
            Self::NoPath { peer, was, why, left_out, .. } => {
                let what = match was {
                    Pathless::Lost => "no path is left",
                    Pathless::NotYet => "no path yet",
                };
                write!(f, "peer {peer}: {what}: {why}")?;
                match left_out {
                    0 => Ok(()),
                    more => write!(f, " ({more} lines like it were left out)"),
                }
            }
            Self::LeftOut { lines } => {
                write!(f, "{lines} lines about the room and its nodes were left out")
            }
            // Those of tunnels have their words above.
            Self::PeerUp { .. }
            | Self::PeerDown { .. }
            | Self::PeerRestarted { .. }
            | Self::LaneUp { .. }
            | Self::LaneDown { .. }
            | Self::LaneMoved { .. }
            | Self::DialFailed { .. }
            | Self::Refused { .. }
            | Self::Revoked { .. }
            | Self::MtuMismatch { .. }
            | Self::DuplicateNode { .. }
            | Self::PairMissing { .. }
            | Self::PairConnected { .. }
            | Self::BeyondMissing { .. }
            | Self::BeyondConnected { .. } => Ok(()),
        }
    }
}

/// Which way packets go.
fn way(path: Path, remote_kind: CandidateKind) -> String {
    match path {
        Path::Direct { remote, .. } if remote_kind == CandidateKind::Relayed => {
            format!("relayed by the peer's {remote}")
        }
        Path::Direct { remote, .. } => format!("direct, {remote}"),
        Path::Relay { server, .. } => format!("relayed by {server}"),
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
    use std::time::Duration;

    use ipop_datapath::{PortId, command::Lane, path::alias};

    use super::*;
    use crate::sessions::{Unreached, Unresolved};
    use crate::testing;

    #[test]
    fn nobody_is_shown_an_address_that_stands_for_a_path() {
        let (node, lane) = (NodeId([7; 32]), Lane(0));
        let peer = || Who { node, name: None };
        let stands_for_it = alias(PortId(3));
        for notice in [
            Notice::LaneUp { peer: peer(), lane, remote: stands_for_it },
            Notice::PeerRestarted { peer: peer(), remote: stands_for_it },
            Notice::Refused { peer: node, remote: stands_for_it, why: Trespass::Itself },
        ] {
            let told = notice.to_string();
            assert!(told.contains("the path that was found") && !told.contains("100::"), "{told}");
        }
        let remote = "192.0.2.1:5800".parse().unwrap();
        let told = Notice::LaneUp { peer: peer(), lane, remote }.to_string();
        assert!(told.ends_with("up at 192.0.2.1:5800"), "{told}");
    }

    #[test]
    fn a_peer_is_up_over_the_way_that_its_packets_take() {
        let told = |remote, way| {
            let (peer, port) = (Who { node: NodeId([7; 32]), name: None }, PortId(3));
            let (direction, hello) = (Direction::Dialled, Box::new(testing::hello()));
            Notice::PeerUp { peer, port, remote, way, direction, hello }.to_string()
        };
        let address: SocketAddr = "192.0.2.1:5800".parse().unwrap();
        for (remote, way, words) in [
            (address, None, "up, direct UDP to 192.0.2.1:5800 (dialled), port 3, takes "),
            (alias(PortId(3)), None, "up, direct UDP to the path that was found (dialled)"),
            (alias(PortId(3)), Some(Way::Direct(address)), "up, direct UDP to 192.0.2.1:5800 ("),
            (alias(PortId(3)), Some(Way::Relayed(address)), "up, UDP relayed by 192.0.2.1:5800 ("),
        ] {
            let told = told(remote, way);
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn the_next_try_is_told_in_seconds_unless_it_is_now() {
        let told = |retry_in| {
            let peer = Who { node: NodeId([7; 32]), name: None };
            let why = Unreached::Unresolved(Unresolved::Failed("silence".into()));
            Notice::DialFailed { peer, lane: Lane(0), why, retry_in }.to_string()
        };
        assert!(told(Duration::from_millis(40)).ends_with("silence; next try at once"));
        assert!(told(Duration::from_millis(260)).ends_with("silence; next try in 0.3 s"));
        assert!(told(Duration::from_secs(15)).ends_with("silence; next try in 15.0 s"));
    }
}
