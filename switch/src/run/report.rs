//! What SIGUSR1 prints on standard output: everything that is counted, one line of JSON.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    time::Instant,
};

use ipop_control::{
    links::{LinkReport, NetworkReport},
    peer::PeerSource,
    sessions::{MeshReport, PeerSnapshot},
};
use ipop_datapath::{
    PortId,
    command::ConnectionId,
    counters::{Drops, IoCounters, PortCounters, WorkerCounters},
    drops::DropReason,
};
use serde::Serialize;

use super::Switch;

/// The whole report.
#[derive(Serialize)]
pub(super) struct Report {
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
    workers: Vec<WorkerReport>,
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
    total: PortReport,
    /// The same by worker.
    workers: Vec<PortReport>,
}

#[derive(Serialize)]
struct PeerReport {
    #[serde(flatten)]
    session: PeerSnapshot,
    /// What names it.
    sources: Vec<PeerSource>,
    /// Nothing for peers that are not of the room.
    path: Option<LinkReport>,
    stations: usize,
    tunnels: Vec<TunnelReport>,
    #[serde(flatten)]
    total: PortReport,
    workers: Vec<PortReport>,
}

#[derive(Serialize)]
struct TunnelReport {
    lane: u8,
    rtt_us: u64,
    path_mtu_bytes: u64,
    sent_packets: u64,
    lost_packets: u64,
    black_holes: u64,
    queued_bytes: u64,
    breaker_open: bool,
}

#[derive(Serialize, Default)]
struct PortReport {
    received_frames: u64,
    received_bytes: u64,
    sent_frames: u64,
    sent_bytes: u64,
    segmented_frames: u64,
    segments: u64,
    missing_frames: u64,
    salvaged_frames: u64,
    salvaged_runs: u64,
    /// By reason; reasons that never occurred are left out.
    drops: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct WorkerReport {
    waits: u64,
    received_packets: u64,
    received_trains: u64,
    strangers: u64,
    receive_errors: u64,
    receive_rearms: u64,
    receive_overflows: u64,
    sent_packets: u64,
    sent_trains: u64,
    send_blocked: u64,
    send_errors: u64,
    send_unreachable: u64,
    send_no_room: u64,
    send_too_large: u64,
    unqueued_datagrams: u64,
    oversized_datagrams: u64,
    path_changes: u64,
    pathless_packets: u64,
    unmapped_packets: u64,
    ignored_initials: u64,
    crowded_initials: u64,
    unfinished_handshakes: u64,
    received_control_packets: u64,
    sent_control_packets: u64,
    dropped_control_packets: u64,
    dropped_signals: u64,
    /// Of far ends that were not admitted.
    drops: BTreeMap<&'static str, u64>,
}

impl Report {
    /// What is true now.
    pub(super) fn of(switch: &Switch, now: Instant) -> Self {
        let shared = &switch.shared;
        let fdb = shared.fdb.counters();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            node: switch.facts.node.to_string(),
            engine: "io_uring",
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
            taps: (0..switch.devices.taps.len()).map(|tap| TapReport::of(switch, tap)).collect(),
            peers: switch
                .node
                .sessions()
                .snapshot(now)
                .into_iter()
                .map(|session| PeerReport::of(switch, now, session))
                .collect(),
            workers: shared.counters.iter().map(|worker| WorkerReport::of(&worker.io)).collect(),
        }
    }
}

/// Prints a report. Nothing can be done if standard output is closed.
pub(super) fn print(report: &Report) {
    match serde_json::to_string(report) {
        Ok(line) => {
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
        Err(error) => tracing::error!(%error, "cannot write the counters"),
    }
}

impl TapReport {
    fn of(switch: &Switch, index: usize) -> Self {
        let tap = &switch.devices.taps[index];
        let port = PortId(index as u16);
        let (total, workers) = PortReport::of(switch, port);
        Self {
            name: tap.name.clone(),
            port: port.0,
            mac: tap.mac.to_string(),
            queues: tap.queues.len(),
            attached: tap.was_attached(),
            blocked: switch.shared.port(port).is_blocked(),
            stations: switch.shared.fdb.len_of_port(port),
            kernel_tx_dropped: kernel_tx_dropped(&tap.name),
            total,
            workers,
        }
    }
}

fn kernel_tx_dropped(tap: &str) -> Option<u64> {
    let path = format!("/sys/class/net/{tap}/statistics/tx_dropped");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl PeerReport {
    fn of(switch: &Switch, now: Instant, session: PeerSnapshot) -> Self {
        let port = PortId(session.port);
        let node = session.node.parse().ok();
        let sources = node.map(|node| switch.node.trust().sources(node)).unwrap_or_default();
        let path = switch.node.links().zip(node);
        let path = path.and_then(|(links, node)| links.report_of(now, node));
        let (total, workers) = PortReport::of(switch, port);
        let tunnels = session
            .lanes
            .iter()
            .filter_map(|lane| {
                let gauges = switch.shared.tunnels.get(ConnectionId(lane.connection))?;
                Some(TunnelReport {
                    lane: lane.lane,
                    rtt_us: gauges.rtt_us.get(),
                    path_mtu_bytes: gauges.path_mtu_bytes.get(),
                    sent_packets: gauges.sent_packets.get(),
                    lost_packets: gauges.lost_packets.get(),
                    black_holes: gauges.black_holes.get(),
                    queued_bytes: gauges.queued_bytes.get(),
                    breaker_open: gauges.breaker_open.get() != 0,
                })
            })
            .collect();
        let stations = switch.shared.fdb.len_of_port(port);
        Self { session, sources, path, stations, tunnels, total, workers }
    }
}

impl PortReport {
    fn of(switch: &Switch, port: PortId) -> (Self, Vec<Self>) {
        let by_worker = |worker: &std::sync::Arc<WorkerCounters>| {
            let mut report = Self::default();
            report.add(worker.port(port));
            report
        };
        let workers = switch.shared.counters.iter().map(by_worker).collect();
        let mut total = Self::default();
        for worker in &switch.shared.counters {
            total.add(worker.port(port));
        }
        (total, workers)
    }

    fn add(&mut self, counters: &PortCounters) {
        self.received_frames += counters.received_frames.get();
        self.received_bytes += counters.received_bytes.get();
        self.sent_frames += counters.sent_frames.get();
        self.sent_bytes += counters.sent_bytes.get();
        self.segmented_frames += counters.segmented_frames.get();
        self.segments += counters.segments.get();
        self.missing_frames += counters.missing_frames.get();
        self.salvaged_frames += counters.salvaged_frames.get();
        self.salvaged_runs += counters.salvaged_runs.get();
        add_drops(&mut self.drops, &counters.drops);
    }
}

fn add_drops(sum: &mut BTreeMap<&'static str, u64>, drops: &Drops) {
    for reason in DropReason::ALL {
        let dropped = drops.of(*reason);
        if dropped > 0 {
            *sum.entry(reason.name()).or_default() += dropped;
        }
    }
}

impl WorkerReport {
    fn of(io: &IoCounters) -> Self {
        let mut drops = BTreeMap::new();
        add_drops(&mut drops, &io.drops);
        Self {
            waits: io.waits.get(),
            received_packets: io.received_packets.get(),
            received_trains: io.received_trains.get(),
            strangers: io.strangers.get(),
            receive_errors: io.receive_errors.get(),
            receive_rearms: io.receive_rearms.get(),
            receive_overflows: io.receive_overflows.get(),
            sent_packets: io.sent_packets.get(),
            sent_trains: io.sent_trains.get(),
            send_blocked: io.send_blocked.get(),
            send_errors: io.send_errors.get(),
            send_unreachable: io.send_unreachable.get(),
            send_no_room: io.send_no_room.get(),
            send_too_large: io.send_too_large.get(),
            unqueued_datagrams: io.unqueued_datagrams.get(),
            oversized_datagrams: io.oversized_datagrams.get(),
            path_changes: io.path_changes.get(),
            pathless_packets: io.pathless_packets.get(),
            unmapped_packets: io.unmapped_packets.get(),
            ignored_initials: io.ignored_initials.get(),
            crowded_initials: io.crowded_initials.get(),
            unfinished_handshakes: io.unfinished_handshakes.get(),
            received_control_packets: io.received_control_packets.get(),
            sent_control_packets: io.sent_control_packets.get(),
            dropped_control_packets: io.dropped_control_packets.get(),
            dropped_signals: io.dropped_signals.get(),
            drops,
        }
    }
}

#[cfg(test)]
mod tests {
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
        let report = serde_json::to_value(WorkerReport::of(&io)).unwrap();
        for (number, (name, _)) in (1..).zip(counters) {
            assert_eq!(report[name], number, "{name}");
        }
    }
}
