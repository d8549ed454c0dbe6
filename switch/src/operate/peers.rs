//! `peers`: all, or all that is known of one.

use super::{
    Screen,
    format::{bit_rate, bytes, duration, rtt},
    status::{Colours, lines_of_peers, name},
    table,
};
use crate::{
    api::{
        Client,
        types::{Lane, Peer, PeerState, Peers, Source},
    },
    exit::Failure,
};

pub(super) fn show(client: &Client, screen: Screen, wanted: Option<&str>) -> Result<(), Failure> {
    let Some(wanted) = wanted else {
        let peers: Peers = client.get("/v1/peers")?;
        let none = "no peers: name some (--peer), or join a network (--join)\n";
        let text = || match peers.peers.as_slice() {
            [] => none.into(),
            all => lines_of_peers(all, Colours::of(screen)),
        };
        return screen.show(&peers, text);
    };
    let peer: Peer = client.get(&format!("/v1/peers/{}", in_path(wanted)))?;
    screen.show(&peer, || text(&peer))
}

/// As a part of a path.
pub(super) fn in_path(text: &str) -> String {
    // Spaces become plus signs in forms, and stay so in paths.
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

fn text(peer: &Peer) -> String {
    let mut rows = vec![
        ("peer", name(peer)),
        ("node", peer.node.clone()),
        ("state", format!("{} for {}", state(peer.state), duration(peer.since_s))),
        ("named by", peer.sources.iter().map(source).collect::<Vec<_>>().join(", ")),
    ];
    rows.extend(peer.agent.iter().map(|agent| ("runs", agent.clone())));
    rows.extend(peer.address.iter().map(|address| ("address", address.clone())));
    rows.extend(peer.account.iter().map(|account| ("account", account.clone())));
    if let Some(path) = &peer.path {
        let how = [path.remote.as_deref(), path.candidates.as_deref()];
        let how: Vec<&str> = how.into_iter().flatten().collect();
        rows.push(("path", format!("{:?} {}", path.kind, how.join(", ")).to_lowercase()));
        rows.extend(path.rtt_us.map(|us| ("RTT", rtt(us))));
        rows.extend(path.loss_percent.map(|percent| ("loss", format!("{percent:.2} %"))));
        rows.extend(path.mtu_bytes.map(|mtu| ("path MTU", format!("{mtu} bytes"))));
    }
    rows.push(("stations", peer.stations.to_string()));
    let (traffic, rates) = (peer.traffic, peer.rates.over_10_s);
    let passed = |bytes_all: u64, frames: u64, bytes_per_s: f64| {
        format!("{} in {frames} frames, {}", bytes(bytes_all), bit_rate(bytes_per_s))
    };
    let received = (traffic.received_bytes, traffic.received_frames);
    rows.push(("in", passed(received.0, received.1, rates.received_bytes_per_s)));
    let sent = (traffic.sent_bytes, traffic.sent_frames);
    rows.push(("out", passed(sent.0, sent.1, rates.sent_bytes_per_s)));
    rows.extend(
        peer.drops.iter().map(|(reason, frames)| ("dropped", format!("{frames} {reason}"))),
    );
    if let Some(why) = &peer.why {
        rows.push(("why", why.text.clone()));
        rows.push(("cure", why.cure.clone()));
    }
    rows.extend(peer.retry_in_s.map(|seconds| ("next dial in", duration(seconds))));
    let mut text: String = rows.iter().map(|(key, value)| format!("{key:12} {value}\n")).collect();
    if !peer.lanes.is_empty() {
        text.push('\n');
        let head = ["LANE", "UP", "DIALLED", "RTT", "MTU", "SENT", "LOST", "QUEUED"];
        text += &table::of(head, peer.lanes.iter().map(row_of_lane));
    }
    text
}

fn row_of_lane(lane: &Lane) -> [String; 8] {
    let dialled = if lane.dialled { "here" } else { "there" };
    let start = [lane.lane.to_string(), duration(lane.up_s), dialled.to_owned()];
    let rest = match &lane.connection {
        Some(connection) => [
            rtt(connection.rtt_us),
            connection.mtu_bytes.to_string(),
            connection.sent_packets.to_string(),
            connection.lost_packets.to_string(),
            bytes(connection.queued_bytes),
        ],
        None => ["?"; 5].map(str::to_owned),
    };
    let ([a, b, c], [d, e, f, g, h]) = (start, rest);
    [a, b, c, d, e, f, g, h]
}

fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Up => "up",
        PeerState::Dialling => "down, being dialled,",
        PeerState::BackingOff => "down, dialled again soon,",
        PeerState::Awaited => "down, awaited",
    }
}

fn source(source: &Source) -> &'static str {
    match source {
        Source::Configured => "--peer",
        Source::Controller => "controller",
        Source::Room => "room",
        Source::Saved => "known from before",
        Source::Added => "added",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_in_a_path_is_one_part_of_it() {
        assert_eq!(super::in_path("a b/c?d"), "a%20b%2Fc%3Fd");
    }
}
