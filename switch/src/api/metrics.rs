//! What Prometheus scrapes (`GET /metrics`), in the text format of OpenMetrics.
//!
//! Nothing is counted for it: each scrape asks the control thread for what the API answers, and the one table of metrics ([`METRICS`]) says what is taken
//! of that. Labels have few values, so that a room of a thousand costs no more series than one of two; peers have series of their own only if the
//! operator says so (`metrics_peers`).

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry::Registry,
};

use super::types::{PathKind, Peer, PeerState, Port, Status, Traffic};

const PREFIX: &str = "ipop_switch";
/// As scrapers know it.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a scrape is made of.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) status: Status,
    pub(crate) peers: Vec<Peer>,
    pub(crate) ports: Vec<Port>,
    /// Of all ports, those that are gone included.
    pub(crate) traffic: Traffic,
    /// Frames dropped, by every reason.
    pub(crate) drops: BTreeMap<&'static str, u64>,
    /// Frames that wait.
    pub(crate) waiting: u64,
    /// What the ledger lacks.
    pub(crate) difference: i64,
    /// What came over XMPP and was refused, by every reason; nothing without a network.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) neighbour_overflows: u64,
    /// Whether peers have series of their own.
    pub(crate) peers_named: bool,
}

impl Scrape {
    /// As it is sent.
    ///
    /// # Errors
    /// Never: what is written to is a string.
    pub(super) fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let Metric { name, kind, labels, help, samples } = metric;
            let mut family = encoder.encode_descriptor(name, help, None, *kind)?;
            for Sample { values, value } in samples(self) {
                let labels: Vec<_> = labels.iter().copied().zip(values).collect();
                if labels.is_empty() {
                    write(&mut family, *kind, value)?;
                } else {
                    write(&mut family.encode_family(&labels)?, *kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(
    series: &mut prometheus_client::encoding::MetricEncoder<'_>,
    kind: MetricType,
    value: f64,
) -> fmt::Result {
    match kind {
        MetricType::Counter => series.encode_counter::<[(&str, &str); 0], _, f64>(&value, None),
        _ => series.encode_gauge(&value),
    }
}

/// A metric: what it is called, and what it is.
struct Metric {
    /// Without the prefix, and without the `_total` of counters.
    name: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    /// What it means, without a full stop.
    help: &'static str,
    samples: fn(&Scrape) -> Vec<Sample>,
}

/// A value and those of its labels, in their order.
struct Sample {
    values: Vec<String>,
    value: f64,
}

fn one(value: f64) -> Vec<Sample> {
    vec![Sample { values: Vec::new(), value }]
}

fn with(values: impl IntoIterator<Item = impl Into<String>>, value: f64) -> Sample {
    Sample { values: values.into_iter().map(Into::into).collect(), value }
}

macro_rules! metrics {
    ($($kind:ident $name:ident [$($label:ident)*] $help:literal = $samples:expr;)+) => {
        /// Every metric.
        const METRICS: &[Metric] = &[$(Metric {
            name: stringify!($name),
            kind: MetricType::$kind,
            labels: &[$(stringify!($label)),*],
            help: $help,
            samples: $samples,
        },)+];
    };
}

metrics! {
    Gauge build_info [version engine] "1; its labels say what runs" = |scrape| {
        vec![with([&*scrape.status.version, &scrape.status.engine], 1.0)]
    };
    Gauge uptime_seconds [] "for how long the switch runs" = |scrape| one(scrape.status.uptime_s);
    Gauge workers [] "threads that carry frames" = |scrape| one(f64::from(scrape.status.workers));
    Gauge peers [state] "peers by state: up, dialling, backing_off, awaited" = peers_by_state;
    Gauge peers_up [path] "peers that are up by path: direct_ipv4, direct_ipv6, relayed" = peers_by_path;
    Gauge peers_rtt_seconds [of] "round-trip time of the peers that are up: least, mean, most" = |scrape| {
        summary(scrape, |peer| Some(peer.path.as_ref()?.rtt_us? as f64 / 1e6))
    };
    Gauge peers_loss_ratio [of] "packets lost to the peers that are up, since their lanes are: least, mean, most" = |scrape| {
        summary(scrape, |peer| Some(peer.path.as_ref()?.loss_percent? / 100.0))
    };
    Counter received_frames [] "frames into the switch, at local ports and from peers" = |scrape| {
        one(scrape.traffic.received_frames as f64)
    };
    Counter received_bytes [] "their bytes" = |scrape| one(scrape.traffic.received_bytes as f64);
    Counter sent_frames [] "frames out of the switch, at local ports and to peers" = |scrape| {
        one(scrape.traffic.sent_frames as f64)
    };
    Counter sent_bytes [] "their bytes" = |scrape| one(scrape.traffic.sent_bytes as f64);
    Counter port_received_frames [port] "frames into the switch at a local port" = |scrape| {
        by_port(scrape, |port| port.traffic.received_frames as f64)
    };
    Counter port_received_bytes [port] "their bytes" = |scrape| {
        by_port(scrape, |port| port.traffic.received_bytes as f64)
    };
    Counter port_sent_frames [port] "frames out of the switch at a local port" = |scrape| {
        by_port(scrape, |port| port.traffic.sent_frames as f64)
    };
    Counter port_sent_bytes [port] "their bytes" = |scrape| {
        by_port(scrape, |port| port.traffic.sent_bytes as f64)
    };
    Counter port_kernel_dropped_frames [port] "frames that the kernel dropped at a local port since the switch did not read them in time" = |scrape| {
        by_port(scrape, |port| port.kernel_tx_dropped.unwrap_or_default() as f64)
    };
    Gauge port_blocked [port] "1 while a local port is blocked since a loop was seen" = |scrape| {
        by_port(scrape, |port| f64::from(u8::from(port.blocked)))
    };
    Gauge port_stations [port] "stations behind a local port" = |scrape| {
        by_port(scrape, |port| port.stations as f64)
    };
    Counter dropped_frames [reason] "frames dropped, by reason" = |scrape| by_reason(&scrape.drops);
    Gauge waiting_frames [] "frames that wait in the switch" = |scrape| one(scrape.waiting as f64);
    Gauge ledger_difference_frames [] "frames of which the switch does not know what became: 0, or the program is at fault" = |scrape| {
        one(scrape.difference as f64)
    };
    Gauge fdb_stations [] "stations in the forwarding database" = |scrape| {
        one(scrape.status.stations as f64)
    };
    Counter fdb_learned [] "stations learned" = |scrape| one(scrape.status.fdb.learned as f64);
    Counter fdb_moved [] "stations heard on another port than before" = |scrape| {
        one(scrape.status.fdb.moved as f64)
    };
    Counter fdb_evicted [] "stations that gave way to others" = |scrape| {
        one(scrape.status.fdb.evicted as f64)
    };
    Counter fdb_refused [] "stations for which there was no room" = |scrape| {
        one(scrape.status.fdb.refused as f64)
    };
    Counter fdb_aged [] "stations forgotten since they were silent" = |scrape| {
        one(scrape.status.fdb.aged as f64)
    };
    Counter fdb_flushed [] "stations forgotten with their port, or on request" = |scrape| {
        one(scrape.status.fdb.flushed as f64)
    };
    Gauge xmpp_online [] "1 while there is a stream to the XMPP server; absent without a network" = |scrape| {
        of_network(scrape, |network| f64::from(u8::from(network.online)))
    };
    Gauge room_joined [] "1 while this node is in the room; absent without a network" = |scrape| {
        of_network(scrape, |network| f64::from(u8::from(network.joined)))
    };
    Gauge room_occupants [] "nodes in the room; absent without a network" = |scrape| {
        of_network(scrape, |network| network.occupants as f64)
    };
    Counter refused [reason] "what servers and members said and was not believed, or too much (room, Jingle, STUN, TURN), by reason; absent without a network" = |scrape| {
        by_reason(&scrape.refused)
    };
    Counter neighbour_overflows [] "times that the kernel had no room for a neighbour" = |scrape| {
        one(scrape.neighbour_overflows as f64)
    };
    Gauge peer_up [peer] "1 while the peer is up; with `metrics_peers` alone, as all that follow" = |scrape| {
        by_peer(scrape, |peer| Some(f64::from(u8::from(peer.state == PeerState::Up))))
    };
    Gauge peer_relayed [peer] "1 while the peer is up over a relay" = |scrape| {
        by_peer(scrape, |peer| Some(f64::from(u8::from(way_to(peer) == Some(RELAYED)))))
    };
    Gauge peer_rtt_seconds [peer] "its round-trip time" = |scrape| {
        by_peer(scrape, |peer| Some(peer.path.as_ref()?.rtt_us? as f64 / 1e6))
    };
    Counter peer_received_bytes [peer] "bytes of frames from it" = |scrape| {
        by_peer(scrape, |peer| Some(peer.traffic.received_bytes as f64))
    };
    Counter peer_sent_bytes [peer] "bytes of frames to it" = |scrape| {
        by_peer(scrape, |peer| Some(peer.traffic.sent_bytes as f64))
    };
}

const DIRECT_IPV4: &str = "direct_ipv4";
const DIRECT_IPV6: &str = "direct_ipv6";
const RELAYED: &str = "relayed";

/// Which way a peer is up; nothing if it is not.
fn way_to(peer: &Peer) -> Option<&'static str> {
    let path = peer.path.as_ref().filter(|_| peer.state == PeerState::Up)?;
    let is_ipv4 = |remote: SocketAddr| remote.ip().to_canonical().is_ipv4();
    match path.kind {
        PathKind::Relayed => Some(RELAYED),
        PathKind::Direct | PathKind::None => {
            let remote = path.remote.as_ref()?.parse().ok()?;
            Some(if is_ipv4(remote) { DIRECT_IPV4 } else { DIRECT_IPV6 })
        }
    }
}

fn peers_by_state(scrape: &Scrape) -> Vec<Sample> {
    let states = [
        (PeerState::Up, "up"),
        (PeerState::Dialling, "dialling"),
        (PeerState::BackingOff, "backing_off"),
        (PeerState::Awaited, "awaited"),
    ];
    let count = |state| scrape.peers.iter().filter(|peer| peer.state == state).count();
    states.map(|(state, name)| with([name], count(state) as f64)).into()
}

fn peers_by_path(scrape: &Scrape) -> Vec<Sample> {
    let count = |way| scrape.peers.iter().filter(|peer| way_to(peer) == Some(way)).count();
    [DIRECT_IPV4, DIRECT_IPV6, RELAYED].map(|way| with([way], count(way) as f64)).into()
}

/// Nothing while no peer has such a value.
fn summary(scrape: &Scrape, of: fn(&Peer) -> Option<f64>) -> Vec<Sample> {
    let up = scrape.peers.iter().filter(|peer| peer.state == PeerState::Up);
    let values: Vec<f64> = up.filter_map(of).collect();
    let Some(most) = values.iter().copied().reduce(f64::max) else { return Vec::new() };
    let least = values.iter().copied().fold(most, f64::min);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    [("least", least), ("mean", mean), ("most", most)].map(|(of, value)| with([of], value)).into()
}

fn by_port(scrape: &Scrape, of: fn(&Port) -> f64) -> Vec<Sample> {
    scrape.ports.iter().map(|port| with([&*port.name], of(port))).collect()
}

fn by_reason(counts: &BTreeMap<&'static str, u64>) -> Vec<Sample> {
    counts.iter().map(|(reason, count)| with([*reason], *count as f64)).collect()
}

fn of_network(scrape: &Scrape, of: fn(&super::types::Network) -> f64) -> Vec<Sample> {
    scrape.status.network.as_ref().map_or_else(Vec::new, |network| one(of(network)))
}

/// By name where one peer alone has it, else by id: two series of one name would make the scrape useless.
fn by_peer(scrape: &Scrape, of: fn(&Peer) -> Option<f64>) -> Vec<Sample> {
    let peers = scrape.peers.iter().filter(|_| scrape.peers_named);
    let label = |peer: &Peer| {
        let has_name =
            |other: &&Peer| other.name == peer.name || Some(&other.node) == peer.name.as_ref();
        let is_alone = scrape.peers.iter().filter(has_name).count() == 1;
        peer.name.clone().filter(|_| is_alone).unwrap_or_else(|| peer.node.clone())
    };
    peers.filter_map(|peer| Some(with([label(peer)], of(peer)?))).collect()
}

#[cfg(test)]
mod tests;
