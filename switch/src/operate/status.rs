//! `status`: one screen that says what is well, what is not, and why.

use super::{
    Screen,
    format::{bytes, duration, rtt, short_id},
};
use crate::{
    api::{
        Client,
        types::{Network, PathKind, Peer, PeerPath, PeerState, Peers, Port, Ports, Status, Why},
    },
    exit::Failure,
};

/// All that the screen shows.
#[derive(serde::Serialize)]
struct Everything {
    status: Status,
    ports: Vec<Port>,
    peers: Vec<Peer>,
}

pub(super) fn show(client: &Client, screen: Screen) -> Result<(), Failure> {
    let status: Status = client.get("/v1/status")?;
    let Peers { peers } = client.get("/v1/peers")?;
    let Ports { ports } = client.get("/v1/ports")?;
    let everything = Everything { status, ports, peers };
    screen.show(&everything, || text(&everything, Colours::of(screen)))
}

/// How what is well and what is not stand out.
#[derive(Clone, Copy)]
pub(super) struct Colours {
    well: &'static str,
    unwell: &'static str,
    plain: &'static str,
}

impl Colours {
    pub(super) fn of(screen: Screen) -> Self {
        if screen.has_colours() {
            Self { well: "\x1b[32m", unwell: "\x1b[31m", plain: "\x1b[0m" }
        } else {
            Self { well: "", unwell: "", plain: "" }
        }
    }
}

fn text(Everything { status, ports, peers }: &Everything, colours: Colours) -> String {
    let mut text = format!(
        "{} ({}) runs for {}, ipop-switch {}, listens on {}\n",
        status.name,
        short_id(&status.node),
        duration(status.uptime_s),
        status.version,
        status.listen
    );
    if let Some(network) = &status.network {
        text += &line_of_network(network);
    }
    for port in ports {
        text += &line_of_port(port);
    }
    let counts = status.peers;
    text += &format!("{} of {} peers up", counts.up, counts.known);
    if counts.relayed > 0 {
        text += &format!(", {} relayed", counts.relayed);
    }
    text += &format!(", {} stations\n", status.stations);
    if !peers.is_empty() {
        text.push('\n');
        text += &lines_of_peers(peers, colours);
    }
    for why in &status.problems {
        text.push('\n');
        text += &lines_of_why(why, colours);
    }
    text
}

fn line_of_network(network: &Network) -> String {
    let how = match (network.online, network.joined) {
        (true, true) => format!("joined, {} others there", network.occupants),
        (true, false) => "not joined".into(),
        (false, _) => "the XMPP server is not reached".into(),
    };
    format!("room {}: {how}\n", network.room)
}

fn line_of_port(port: &Port) -> String {
    let state = match (port.closing, port.blocked) {
        (true, _) => ", closing",
        (false, true) => ", blocked: a loop",
        (false, false) => "",
    };
    let (received, sent) = (bytes(port.traffic.received_bytes), bytes(port.traffic.sent_bytes));
    format!("TAP {}: {} stations, in {received} out {sent}{state}\n", port.name, port.stations)
}

/// A line a peer, and below it why it is not as one would have it.
pub(super) fn lines_of_peers(peers: &[Peer], colours: Colours) -> String {
    let names: Vec<String> = peers.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (peer, name) in peers.iter().zip(&names) {
        text += &format!("{name:width$} {}\n", line_of_peer(peer, colours));
        if let Some(why) = &peer.why {
            text += &format!("  {}\n  cure: {}\n", why.text, why.cure);
        }
    }
    text
}

/// What people call it.
pub(super) fn name(peer: &Peer) -> String {
    peer.name.clone().unwrap_or_else(|| short_id(&peer.node).to_owned())
}

fn line_of_peer(peer: &Peer, Colours { well, unwell, plain }: Colours) -> String {
    let since = duration(peer.since_s);
    if peer.state != PeerState::Up {
        return format!("{unwell}down{plain} {since}");
    }
    let mut text = format!("{well}up{plain} {since}");
    if let Some(path) = &peer.path {
        text += &way(path);
        text.extend(path.rtt_us.map(|us| format!(" {}", rtt(us))));
    }
    let traffic = peer.traffic;
    text + &format!(" in {} out {}", bytes(traffic.received_bytes), bytes(traffic.sent_bytes))
}

/// Which way it goes, after a space.
pub(super) fn way(path: &PeerPath) -> String {
    let kind = match path.kind {
        PathKind::Direct => " direct",
        PathKind::Relayed => " relayed",
        PathKind::None => "",
    };
    let remote = path.remote.as_ref().map(|remote| format!(" {remote}"));
    format!("{kind}{}", remote.unwrap_or_default())
}

fn lines_of_why(why: &Why, Colours { unwell, plain, .. }: Colours) -> String {
    format!("{unwell}not well{plain}: {}\n  cure: {}\n", why.text, why.cure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Rates, Source, Traffic, WhyCode};

    fn peer(name: &str) -> Peer {
        Peer {
            node: "mbfs7znmuu3fmdpyrg3bnrn6tt5mewp76t5zdy34z5dp6ocf6ppq".into(),
            name: Some(name.into()),
            agent: None,
            state: PeerState::Up,
            since_s: 3.0 * 3_600.0,
            sources: vec![Source::Room],
            port: 1,
            address: None,
            account: None,
            path: Some(PeerPath {
                kind: PathKind::Direct,
                remote: Some("198.51.100.7:5800".into()),
                candidates: None,
                rtt_us: Some(12_000),
                loss_percent: None,
                mtu_bytes: None,
            }),
            lanes: Vec::new(),
            stations: 3,
            traffic: Traffic {
                received_bytes: 1_200_000_000,
                sent_bytes: 3_400_000_000,
                ..Traffic::default()
            },
            rates: Rates::default(),
            drops: Default::default(),
            why: None,
            retry_in_s: None,
        }
    }

    #[test]
    fn a_peer_is_one_line_and_says_why_it_is_not_well() {
        let colours = Colours { well: "", unwell: "", plain: "" };
        let down = Peer {
            state: PeerState::Awaited,
            since_s: 20.0,
            name: None,
            why: Some(Why::of(WhyCode::NoPath, "no path was found")),
            ..peer("x")
        };
        let text = lines_of_peers(&[peer("rack7"), down], colours);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "rack7    up 3h direct 198.51.100.7:5800 12 ms in 1.2 GB out 3.4 GB",
                "mbfs7znm down 20s",
                "  no path was found",
                &format!("  cure: {}", WhyCode::NoPath.cure()),
            ]
        );
    }
}
