//! Peers.

use std::time::Instant;

use ipop_control::{
    node::NotAdded,
    paths::LinkReport,
    peer::{NamedBy, PeerSpec},
    sessions::{self, LaneSnapshot, PeerSnapshot},
    trust::Refusal,
};
use ipop_datapath::{
    PortId,
    command::{ConnectionId, ConnectionStats},
    node_id::NodeId,
};

use super::{
    super::{Connections, Switch},
    links::node_of,
};
use crate::api::types::{
    AddPeer, Connection, Decided, Done, Lane, NoParams, PathKind, Peer, PeerParams, PeerPath,
    PeerState, Peers, Problem, ProblemCode, Source,
};
use crate::trust_cmd::word_of;

impl Switch {
    /// `peers.list`
    pub(crate) fn show_peers(
        &self,
        connections: &Connections,
        NoParams {}: NoParams,
    ) -> Result<Peers, Problem> {
        Ok(Peers { peers: self.all_peers(connections) })
    }

    /// `peers.get`
    pub(crate) fn show_peer(
        &self,
        connections: &Connections,
        PeerParams { peer }: PeerParams,
    ) -> Result<Peer, Problem> {
        let session = self.peer_named(&peer)?;
        Ok(self.peer_of(Instant::now(), session, connections))
    }

    /// `peers.add`
    pub(crate) fn add_peer(&mut self, params: AddPeer) -> Result<Decided, Problem> {
        let node: NodeId =
            params.node.parse().map_err(|error| Problem::bad_field("node", error))?;
        let address = params.address.as_deref().map(str::parse).transpose();
        let address = address.map_err(|why: String| Problem::bad_field("address", why))?;
        match self.node.add_peer(Instant::now(), PeerSpec { node, address }) {
            Ok(()) => Ok(Decided { node: node.to_string() }),
            Err(Refusal::Itself) => Err(Problem::bad_field("node", "that is this node itself")),
            Err(why) => {
                Err(Problem::new(ProblemCode::Refused, format_args!("the node {node} {why}")))
            }
        }
    }

    /// `peers.remove`
    pub(crate) fn remove_peer(&mut self, PeerParams { peer }: PeerParams) -> Result<Done, Problem> {
        // One that is denied meanwhile has no port.
        let node = match peer.parse() {
            Ok(node) => node,
            Err(_) => node_of(&self.peer_named(&peer)?.node)?,
        };
        self.node.take_peer_back(Instant::now(), node).map_err(|NotAdded(sources)| {
            if sources.is_empty() {
                return Problem::not_found(format_args!("node {node} was not added"));
            }
            let sources: Vec<_> = sources.iter().map(word_of).collect();
            let text = format!(
                "{peer} was not added; what names it is: {}. `ipop-switch trust deny {node}` keeps it out",
                sources.join(", ")
            );
            Problem::new(ProblemCode::Conflict, text)
        })?;
        Ok(Done { count: 1 })
    }

    /// All, by port.
    pub(super) fn all_peers(&self, connections: &Connections) -> Vec<Peer> {
        let now = Instant::now();
        let sessions = self.node.sessions().snapshot(now).into_iter();
        sessions.map(|session| self.peer_of(now, session, connections)).collect()
    }

    /// The peer that people call so: by its id, the start of it, or its name.
    pub(super) fn peer_named(&self, name: &str) -> Result<PeerSnapshot, Problem> {
        let mut peers = self.node.sessions().snapshot(Instant::now());
        if let Some(exact) = peers.iter().position(|peer| peer.node == name) {
            return Ok(peers.swap_remove(exact));
        }
        peers.retain(|peer| peer.name.as_deref() == Some(name) || is_start_of(name, &peer.node));
        match peers.len() {
            0 => Err(Problem::not_found(format!(
                "there is no peer {name:?}; `ipop-switch peers` shows them"
            ))),
            1 => Ok(peers.swap_remove(0)),
            count => Err(Problem::bad_field(
                "peer",
                format_args!("{count} peers are called {name:?}; give more of the node id"),
            )),
        }
    }

    fn peer_of(&self, now: Instant, session: PeerSnapshot, connections: &Connections) -> Peer {
        let port = PortId(session.port);
        let id = session.node.parse().ok();
        let link = id.and_then(|node| self.node.link_report(now, node));
        let sources = id.map(|node| self.node.trust().sources(node)).unwrap_or_default();
        let lanes: Vec<Lane> =
            session.lanes.iter().map(|lane| lane_of(lane, connections)).collect();
        let path = path_of(link.as_ref(), &lanes);
        Peer {
            why: self.why(&session, link.as_ref(), path.as_ref()),
            node: session.node,
            name: session.name,
            agent: session.agent,
            state: session.state.into(),
            since_s: session.since_s,
            sources: sources.into_iter().map(Into::into).collect(),
            port: session.port,
            address: session.address,
            account: link.and_then(|link| link.account),
            path,
            lanes,
            stations: self.shared.fdb.len_of_port(port),
            traffic: self.traffic_of(port),
            rates: self.rates.of(port),
            drops: self.dropped_at(port),
            retry_in_s: session.retry_in_s,
        }
    }
}

/// So few letters of a node id that they name nobody on purpose.
const SHORTEST_START: usize = 4;

fn is_start_of(text: &str, node: &str) -> bool {
    text.len() >= SHORTEST_START && node.starts_with(text)
}

fn lane_of(lane: &LaneSnapshot, connections: &Connections) -> Lane {
    Lane {
        lane: lane.lane,
        dialled: lane.direction == "dialled",
        up_s: lane.up_s,
        remote: lane.remote.clone(),
        local: lane.local.clone(),
        connection: connections.get(&ConnectionId(lane.connection)).map(Into::into),
    }
}

/// ICE's, if it looks for one; else that of the lanes.
fn path_of(link: Option<&LinkReport>, lanes: &[Lane]) -> Option<PeerPath> {
    let of_lanes = || lanes.iter().filter_map(|lane| lane.connection.as_ref());
    let (sent, lost) = of_lanes().fold((0, 0), |(sent, lost), connection| {
        (sent + connection.sent_packets, lost + connection.lost_packets)
    });
    let loss_percent = (sent > 0).then(|| 100.0 * lost as f64 / sent as f64);
    let mtu_bytes = of_lanes().map(|connection| connection.mtu_bytes).min();
    let rtt_us = of_lanes().map(|connection| connection.rtt_us).min();
    if let Some(link) = link {
        return Some(PeerPath {
            kind: match link.kind {
                "direct" => PathKind::Direct,
                "relayed" => PathKind::Relayed,
                _ => PathKind::None,
            },
            remote: link.remote.clone(),
            candidates: link.candidates.clone(),
            rtt_us: rtt_us.or(link.rtt_us),
            loss_percent,
            mtu_bytes,
        });
    }
    let remote = lanes.first()?.remote.clone();
    Some(PeerPath {
        kind: PathKind::Direct,
        remote,
        candidates: None,
        rtt_us,
        loss_percent,
        mtu_bytes,
    })
}

impl From<&ConnectionStats> for Connection {
    fn from(stats: &ConnectionStats) -> Self {
        Self {
            rtt_us: stats.rtt.as_micros() as u64,
            sent_packets: stats.sent_packets,
            lost_packets: stats.lost_packets,
            mtu_bytes: stats.path_mtu_bytes,
            queued_bytes: stats.queued_bytes,
            breaker_open: stats.breaker_open,
        }
    }
}

impl From<sessions::PeerState> for PeerState {
    fn from(state: sessions::PeerState) -> Self {
        match state {
            sessions::PeerState::Up => Self::Up,
            sessions::PeerState::Dialling => Self::Dialling,
            sessions::PeerState::BackingOff => Self::BackingOff,
            sessions::PeerState::Awaited => Self::Awaited,
        }
    }
}

impl From<NamedBy> for Source {
    fn from(source: NamedBy) -> Self {
        match source {
            NamedBy::Configured => Self::Configured,
            NamedBy::Controller => Self::Controller,
            NamedBy::Room => Self::Room,
            NamedBy::Saved => Self::Saved,
            NamedBy::Added => Self::Added,
        }
    }
}
