//! What SIGUSR1 prints on standard output: everything that is counted, one line of JSON.
//!
//! What is counted by frame and packet is read where the workers count it. How their connections are they are asked, and the line is printed when all
//! have answered, or after a while without those that have not.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write},
    time::{Duration, Instant},
};

use ipop_control::{
    paths::LinkReport,
    peer::NamedBy,
    rendezvous::NetworkReport,
    sessions::{MeshReport, PeerSnapshot},
};
use ipop_datapath::{
    PortId,
    command::{Command, ConnectionId, ConnectionStats, Query, Token},
    counters::{Drops, drops::DropReason},
};
use serde::Serialize;

use super::{ENGINE, Switch, devices::OpenTap};

/// The whole report.
#[derive(Serialize)]
struct Report {
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

/// How long workers have to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

type Connections = HashMap<ConnectionId, ConnectionStats>;

/// The report that waits for the workers' answers.
#[derive(Default)]
pub(super) struct Reports {
    asked: u64,
    waiting: Option<Waiting>,
}

struct Waiting {
    token: Token,
    /// Answers that have not come.
    missing: usize,
    until: Instant,
    connections: Connections,
}

impl Reports {
    /// A report is to be printed: what these many workers are to be asked with, unless that was done already.
    fn begin(&mut self, now: Instant, workers: usize) -> Option<Token> {
        if self.waiting.is_some() {
            return None;
        }
        let (token, until) = (Token(self.asked), now + ANSWER_WITHIN);
        self.asked += 1;
        let connections = Connections::new();
        self.waiting = Some(Waiting { token, missing: workers, until, connections });
        Some(token)
    }

    /// A worker has answered.
    pub(super) fn answered(
        &mut self,
        token: Token,
        connections: impl IntoIterator<Item = (ConnectionId, ConnectionStats)>,
    ) {
        if let Some(waiting) = self.waiting.as_mut().filter(|waiting| waiting.token == token) {
            waiting.missing = waiting.missing.saturating_sub(1);
            waiting.connections.extend(connections);
        }
    }

    /// When [`Switch::report`] has something to print, whoever answers.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|waiting| waiting.until)
    }

    fn take_due(&mut self, now: Instant) -> Option<Connections> {
        let is_due = |waiting: &mut Waiting| waiting.missing == 0 || waiting.until <= now;
        self.waiting.take_if(is_due).map(|waiting| waiting.connections)
    }
}

impl Switch {
    /// Asks the workers for what the report needs. Who asks for one that is under way gets that one.
    pub(super) fn ask_for_report(&mut self, now: Instant) {
        if let Some(token) = self.reports.begin(now, self.workers.len()) {
            for worker in 0..self.workers.len() {
                self.command(worker, Command::Query(token, Query::Connections));
            }
        }
    }

    /// Prints the report that is due.
    pub(super) fn report(&mut self, now: Instant) {
        if let Some(connections) = self.reports.take_due(now) {
            print(&Report::of(self, now, &connections));
        }
    }
}

impl Report {
    /// What is true now.
    fn of(switch: &Switch, now: Instant, connections: &Connections) -> Self {
        let shared = &switch.shared;
        let fdb = shared.fdb.counters();
        Self {
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

fn kernel_tx_dropped(tap: &str) -> Option<u64> {
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

    #[test]
    fn a_report_waits_for_all_workers_and_then_for_none() {
        let (mut reports, start) = (Reports::default(), Instant::now());
        let stats = ConnectionStats {
            rtt: Duration::from_millis(7),
            path_mtu_bytes: 1_200,
            sent_packets: 1,
            lost_packets: 0,
            black_holes: 0,
            queued_bytes: 0,
            breaker_open: false,
        };
        let answer = |id| [(ConnectionId(id), stats)];
        let first = reports.begin(start, 2).unwrap();
        assert_eq!(reports.begin(start, 2), None, "it is under way");
        reports.answered(first, answer(1));
        assert!(reports.take_due(start).is_none());
        reports.answered(first, answer(2));
        assert_eq!(reports.take_due(start).unwrap().len(), 2);
        let second = reports.begin(start, 2).unwrap();
        reports.answered(first, answer(3));
        reports.answered(second, answer(1));
        assert!(reports.take_due(start).is_none(), "the late answer was another report's");
        assert_eq!(reports.take_due(reports.due().unwrap()).unwrap().len(), 1);
        assert_eq!(reports.due(), None);
    }
}
