//! What SIGUSR1 prints on standard output: everything that is counted, one line of JSON.
//!
//! What is counted by frame and packet is read where the workers count it. How their connections are they are asked ([`super::queries`]).

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    time::Instant,
};

use ipop_control::{
    paths::LinkReport,
    peer::NamedBy,
    rendezvous::NetworkReport,
    sessions::{MeshReport, PeerSnapshot},
};
use ipop_datapath::{
    PortId,
    command::ConnectionId,
    counters::{Drops, drops::DropReason},
};
use serde::Serialize;

use super::{Connections, ENGINE, Switch, devices::OpenTap};

/// The whole report.
#[derive(Serialize)]
struct Report {
    /// What shows the same for people.
    see: &'static str,
    version: &'static str,
    node: String,
    engine: &'static str,
    listen: String,
    /// Times that the kernel had no room for a neighbour.
    neighbour_overflows: u64,
    /// Nothing without a network.
    network: Option<NetworkReport>,
    mesh: MeshReport,
    fdb: FdbReport,
    taps: Vec<TapReport>,
    peers: Vec<PeerReport>,
    workers: Vec<CountsReport>,
}

#[derive(Serialize)]
struct FdbReport {
    stations: usize,
    learned: u64,
    moved: u64,
    evicted: u64,
    refused: u64,
    aged: u64,
    flushed: u64,
}

#[derive(Serialize)]
struct TapReport {
    name: String,
    port: u16,
    mac: String,
    queues: usize,
    attached: bool,
    blocked: bool,
    stations: usize,
    /// Frames that the kernel dropped because the switch did not read them in time.
    kernel_tx_dropped: Option<u64>,
    #[serde(flatten)]
    total: CountsReport,
    /// The same by worker.
    workers: Vec<CountsReport>,
}

#[derive(Serialize)]
struct PeerReport {
    #[serde(flatten)]
    session: PeerSnapshot,
    /// What names it.
    sources: Vec<NamedBy>,
    /// Nothing for peers that nobody signals with.
    path: Option<LinkReport>,
    stations: usize,
    tunnels: Vec<TunnelReport>,
    #[serde(flatten)]
    total: CountsReport,
    workers: Vec<CountsReport>,
}

#[derive(Serialize)]
struct TunnelReport {
    lane: u8,
    rtt_us: u64,
    path_mtu_bytes: u16,
    sent_packets: u64,
    lost_packets: u64,
    black_holes: u64,
    queued_bytes: u64,
    breaker_open: bool,
}

/// What was counted somewhere, and the frames dropped there by reason; reasons that never occurred are left out.
#[derive(Serialize, Default)]
struct CountsReport {
    #[serde(flatten)]
    counts: BTreeMap<&'static str, u64>,
    drops: BTreeMap<&'static str, u64>,
}

impl Switch {
    /// SIGUSR1: prints the report when the workers have answered.
    pub(super) fn ask_for_report(&mut self, now: Instant) {
        self.with_connections(now, |switch, connections| {
            print(&Report::of(switch, Instant::now(), connections));
        });
    }
}

impl Report {
    /// What is true now.
    fn of(switch: &Switch, now: Instant, connections: &Connections) -> Self {
        let shared = &switch.shared;
        let fdb = shared.fdb.counters();
        Self {
            see: "ipop-switch status",
            version: env!("CARGO_PKG_VERSION"),
            node: switch.facts.node.to_string(),
            engine: ENGINE,
            listen: switch.devices.listen_address().to_string(),
            neighbour_overflows: switch.kernel.overflows(),
            network: switch.network_report(),
            mesh: switch.node.sessions().mesh(),
            fdb: FdbReport {
                stations: shared.fdb.len(),
                learned: fdb.learned,
                moved: fdb.moved,
                evicted: fdb.evicted,
                refused: fdb.refused,
                aged: fdb.aged,
                flushed: fdb.flushed,
            },
            taps: switch.devices.taps.iter().map(|tap| TapReport::of(switch, tap)).collect(),
            peers: switch
                .node
                .sessions()
                .snapshot(now)
                .into_iter()
                .map(|session| PeerReport::of(switch, now, session, connections))
                .collect(),
            workers: shared
                .counters
                .iter()
                .map(|worker| CountsReport::of(worker.io.by_name(), &worker.io.drops))
                .collect(),
        }
    }
}

/// Prints a report. Nothing can be done if standard output is closed.
fn print(report: &Report) {
    match serde_json::to_string(report) {
        Ok(line) => {
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
        Err(error) => tracing::error!(%error, "cannot write the counters"),
    }
}

impl TapReport {
    fn of(switch: &Switch, &OpenTap { port, ref tap, .. }: &OpenTap) -> Self {
        let (total, workers) = CountsReport::of_port(switch, port);
        Self {
            name: tap.name.clone(),
            port: port.0,
            mac: tap.mac.to_string(),
            queues: tap.queues.len(),
            attached: tap.was_attached(),
            blocked: switch.shared.ports.of(port).is_blocked(),
            stations: switch.shared.fdb.len_of_port(port),
            kernel_tx_dropped: kernel_tx_dropped(&tap.name),
            total,
            workers,
        }
    }
}

pub(super) fn kernel_tx_dropped(tap: &str) -> Option<u64> {
    let path = format!("/sys/class/net/{tap}/statistics/tx_dropped");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl PeerReport {
    fn of(switch: &Switch, now: Instant, session: PeerSnapshot, connections: &Connections) -> Self {
        let port = PortId(session.port);
        let node = session.node.parse().ok();
        let sources = node.map(|node| switch.node.trust().sources(node)).unwrap_or_default();
        let path = node.and_then(|node| switch.node.link_report(now, node));
        let (total, workers) = CountsReport::of_port(switch, port);
        let tunnels = session
            .lanes
            .iter()
            .filter_map(|lane| {
                let stats = connections.get(&ConnectionId(lane.connection))?;
                Some(TunnelReport {
                    lane: lane.lane,
                    rtt_us: stats.rtt.as_micros() as u64,
                    path_mtu_bytes: stats.path_mtu_bytes,
                    sent_packets: stats.sent_packets,
                    lost_packets: stats.lost_packets,
                    black_holes: stats.black_holes,
                    queued_bytes: stats.queued_bytes,
                    breaker_open: stats.breaker_open,
                })
            })
            .collect();
        let stations = switch.shared.fdb.len_of_port(port);
        Self { session, sources, path, stations, tunnels, total, workers }
    }
}

impl CountsReport {
    /// Of a port: in all, and by worker.
    fn of_port(switch: &Switch, port: PortId) -> (Self, Vec<Self>) {
        let ports = || switch.shared.counters.iter().map(|worker| worker.port(port));
        let mut total = Self::default();
        ports().for_each(|counters| total.add(counters.by_name(), &counters.drops));
        (total, ports().map(|counters| Self::of(counters.by_name(), &counters.drops)).collect())
    }

    fn of(counts: impl Iterator<Item = (&'static str, u64)>, drops: &Drops) -> Self {
        let mut report = Self::default();
        report.add(counts, drops);
        report
    }

    fn add(&mut self, counts: impl Iterator<Item = (&'static str, u64)>, drops: &Drops) {
        for (name, count) in counts {
            *self.counts.entry(name).or_default() += count;
        }
        for reason in DropReason::ALL {
            let dropped = drops.of(*reason);
            if dropped > 0 {
                *self.drops.entry(reason.name()).or_default() += dropped;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ipop_datapath::counters::IoCounters;

    use super::*;

    #[test]
    fn what_the_kernel_drops_and_refuses_stands_in_the_report_of_its_worker() {
        let io = IoCounters::default();
        let counters = [
            ("receive_overflows", &io.receive_overflows),
            ("send_errors", &io.send_errors),
            ("send_unreachable", &io.send_unreachable),
            ("send_no_room", &io.send_no_room),
            ("send_too_large", &io.send_too_large),
        ];
        (1..).zip(counters).for_each(|(number, (_, counter))| counter.add(number));
        let report = serde_json::to_value(CountsReport::of(io.by_name(), &io.drops)).unwrap();
        for (number, (name, _)) in (1..).zip(counters) {
            assert_eq!(report[name], number, "{name}");
        }
    }
}
