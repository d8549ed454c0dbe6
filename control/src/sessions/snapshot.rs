//! What the sessions look like now, for machines.

use std::time::Instant;

use ipop_datapath::{command::Direction, path::port_of_alias};
use serde::Serialize;

use super::{peer::Peer, unreached::LastError};

/// One peer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PeerSnapshot {
    /// Node id.
    pub node: String,
    /// The name that it gave itself, if it ever connected.
    pub name: Option<String>,
    /// Program and version that it runs, if it ever connected.
    pub agent: Option<String>,
    /// Its port in the switch.
    pub port: u16,
    /// What is going on.
    pub state: PeerState,
    /// Time in that state of up or not up, seconds.
    pub since_s: f64,
    /// The configured address, if any.
    pub address: Option<String>,
    /// Lanes that are up.
    pub lanes: Vec<LaneSnapshot>,
    /// The latest failure.
    pub last_error: Option<LastError>,
    /// Time to the next dial, seconds.
    pub retry_in_s: Option<f64>,
}

/// What is going on with a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// At least one lane is up.
    Up,
    /// A dial is under way.
    Dialling,
    /// The next dial waits for its time.
    BackingOff,
    /// It has no address here: it must dial, or a path to it must be found.
    Awaited,
}

/// One lane that is up.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LaneSnapshot {
    /// Its number.
    pub lane: u8,
    /// The connection that carries it.
    pub connection: u64,
    /// The peer's address; none where the path is found by ICE, which then says where it leads.
    pub remote: Option<String>,
    /// The local address, if known.
    pub local: Option<String>,
    /// Whether this node dialled.
    pub direction: &'static str,
    /// How long this connection carries it, seconds.
    pub up_s: f64,
}

impl Peer {
    pub(super) fn snapshot(&self, now: Instant) -> PeerSnapshot {
        let lanes: Vec<LaneSnapshot> = self.lane_snapshots(now).collect();
        let next = (0..self.lanes.len()).filter_map(|lane| self.due(lane)).map(|due| due.at).min();
        let state = match next {
            _ if !lanes.is_empty() => PeerState::Up,
            _ if self.lanes.iter().any(|lane| lane.attempt.is_some()) => PeerState::Dialling,
            Some(_) => PeerState::BackingOff,
            None => PeerState::Awaited,
        };
        PeerSnapshot {
            node: self.node.to_string(),
            name: self.hello.as_ref().map(|hello| hello.name.clone()),
            agent: self.hello.as_ref().map(|hello| hello.agent.clone()),
            port: self.port.0,
            state,
            since_s: now.saturating_duration_since(self.since).as_secs_f64(),
            address: self.address.as_ref().map(ToString::to_string),
            lanes,
            last_error: self.last_error.clone(),
            retry_in_s: next.flatten().map(|at| at.saturating_duration_since(now).as_secs_f64()),
        }
    }

    fn lane_snapshots(&self, now: Instant) -> impl Iterator<Item = LaneSnapshot> {
        self.lanes.iter().zip(0u8..).filter_map(move |(lane, number)| {
            let established = lane.active.as_ref()?;
            Some(LaneSnapshot {
                lane: number,
                connection: established.connection.0,
                remote: port_of_alias(established.remote)
                    .is_none()
                    .then(|| established.remote.to_string()),
                local: established.local_ip.map(|ip| ip.to_string()),
                direction: match established.direction {
                    Direction::Dialled => "dialled",
                    Direction::Accepted => "accepted",
                },
                up_s: now.saturating_duration_since(established.since).as_secs_f64(),
            })
        })
    }
}
