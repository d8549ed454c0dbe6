//! The switch itself: devices, workers, and the loop of the control plane that holds them together.
//!
//! One channel brings everything to the control thread (workers' events, signals, resolved names); it feeds the node, whose state machine decides
//! (`ipop_control::node`), and carries out what it asks for.

mod announce;
mod answers;
mod devices;
mod flaps;
mod interfaces;
mod kernel;
mod network;
mod ports;
mod present;
mod queries;
mod rates;
mod refusals;
mod reload;
mod report;
mod service;
mod signals;
mod told;
mod workers;

use std::{
    collections::HashMap,
    net::ToSocketAddrs,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ipop_control::{
    identity::Identity,
    node::{Action, Input, Node, NodeConfig, PortSpec},
    notice::{Level, Notice},
    peer::{PeerAddress, PeerSpec},
    questions,
    sessions::SessionsConfig,
    trust::Standing,
    xmpp::stream::FromStream,
};
use ipop_datapath::{
    PortId,
    command::{Answer, Command, Event, FromPort, FromWorker, ToWorker},
    core::shared::{NodeFacts, Shared},
    engine::{Backend, Uring},
    node_id::NodeId,
    os::{OsError, network::Change},
    quic::cid::fill_random,
};
use ipop_learning::{MacTable, MacTableConfig};
use signal_hook::consts::{SIGHUP, SIGUSR1};

pub(crate) use self::{
    answers::PortNames,
    devices::listen,
    queries::Connections,
    signals::Early as EarlySignals,
    workers::{WorkerFailure, tls_identity, worker_count},
};
use self::{
    devices::{Devices, OpenTap},
    flaps::Flaps,
    interfaces::Routes,
    kernel::KernelWatch,
    network::{Network, ResolvedServers},
    present::Presence,
    queries::Queries,
    rates::RateMeter,
    refusals::Refusals,
    reload::TrustFile,
    service::ServiceManager,
    workers::RunningWorker,
};
use crate::{
    api::{
        self, EventLog,
        types::{EventKind, What},
    },
    capture::Capture,
    exit::{ExitCode, Failure},
    identity_cmd,
    settings::Settings,
};

/// What moves frames and packets here, as operators read it.
const ENGINE: &str = Uring::NAME;
/// Messages to the control thread that may wait; workers keep what does not fit.
const MESSAGES: usize = 4_096;
/// How often the trust file is looked at.
const TRUST_EVERY: Duration = Duration::from_secs(1);
/// How long the workers get to say goodbye.
const SHUT_DOWN_WITHIN: Duration = Duration::from_secs(3);

/// To the control thread.
pub(crate) enum Message {
    Worker(Event),
    /// A worker cannot go on.
    WorkerFailed(u8, WorkerFailure),
    Resolved {
        peer: NodeId,
        result: Result<Vec<std::net::SocketAddr>, String>,
    },
    Signal(i32),
    /// Addresses or routes of this host.
    Network(Change),
    /// From the XMPP stream.
    Stream(Box<FromStream>),
    /// STUN and TURN servers.
    Servers(ResolvedServers),
    /// Somebody asks something through the API.
    Work(api::Work),
}

/// Reads the configuration again.
type Reread = Box<dyn Fn() -> Result<Settings, Failure>>;

/// Runs until it is told to stop; SIGHUP has `reread` called.
pub(crate) fn run(settings: Settings, early: EarlySignals, reread: Reread) -> Result<(), Failure> {
    let identity = identity_cmd::load(&settings.identity)?;
    let workers = worker_count(settings.workers);
    if let Some(error) = own_peer(&settings.peers, identity.node_id()) {
        return Err(Failure::new(ExitCode::Usage, error));
    }
    let (trust_file, decisions) = TrustFile::of_state(&settings.state)?;
    let (messages, inbox) = bounded(MESSAGES);
    // Before any device is touched, so that a signal finds someone who cleans up.
    signals::watch(early, messages.clone())?;
    interfaces::watch(messages.clone())?;
    let mut devices = Devices::open(&settings, workers).map_err(os_failure)?;
    let facts = Arc::new(NodeFacts {
        node: identity.node_id(),
        instance: random_bytes(),
        probe_token: random_bytes(),
        name: settings.name.clone().unwrap_or_else(host_name),
        inner_mtu: settings.mtu,
        lanes: workers,
    });
    let config = NodeConfig {
        local: facts.node,
        sessions: SessionsConfig { inner_mtu: settings.mtu, lanes: workers, seed: random() },
        decisions,
        configured: reload::configured(&settings),
        ice: network::ice_config(&devices),
        rendezvous: network::rendezvous(&settings, &identity, &facts.name)?,
    };
    let node =
        Node::new(config, Instant::now()).map_err(|error| Failure::new(ExitCode::Usage, error))?;
    for (port, PortSpec::Tap(name)) in node.local_ports().iter() {
        let opened = OpenTap::open(port, name, &settings, facts.node, workers);
        devices.taps.push(opened.map_err(os_failure)?);
    }
    let fdb = MacTable::new(MacTableConfig::default());
    let shared = Shared::new(fdb, &devices.local_ports(), workers, Instant::now());
    let mut switch = Switch {
        started: Instant::now(),
        reread,
        node,
        trust_file,
        presence: Presence::new(&settings.state),
        settings,
        shared: Arc::new(shared),
        facts,
        devices,
        workers: Vec::new(),
        messages,
        refusals: Refusals::default(),
        queries: Queries::default(),
        rates: RateMeter::default(),
        events: EventLog::default(),
        before: answers::Before::default(),
        captures: Vec::new(),
        api: None,
        flaps: Flaps::default(),
        kernel: KernelWatch::default(),
        network: None,
        offered: Vec::new(),
        asked: HashMap::new(),
        port_failed: None,
        given_up: None,
        routes: Routes::default(),
        service_manager: ServiceManager::of_process(),
    };
    switch.start_workers(&identity)?;
    switch.announce();
    switch.join_network(&identity)?;
    switch.serve_api()?;
    switch.service_manager.ready();
    let ended = switch.serve(&inbox);
    switch.shut_down(&inbox);
    ended
}

/// The parts of a running switch. Fields drop in order: the TAPs are left after the workers have ended.
pub(crate) struct Switch {
    started: Instant,
    reread: Reread,
    node: Node,
    trust_file: TrustFile,
    presence: Presence,
    /// What is in force: of a reload only what it changed. Peers and policy are those of the start, the node has those of now.
    settings: Settings,
    shared: Arc<Shared>,
    facts: Arc<NodeFacts>,
    workers: Vec<RunningWorker>,
    devices: Devices,
    messages: Sender<Message>,
    refusals: Refusals,
    queries: Queries,
    rates: RateMeter,
    events: EventLog,
    /// For events that are told once a second.
    before: answers::Before,
    captures: Vec<Arc<Capture>>,
    /// None if it is off, or its socket is another switch's.
    api: Option<api::Server>,
    flaps: Flaps,
    kernel: KernelWatch,
    network: Option<Network>,
    /// Addresses that peers are told now.
    offered: Vec<std::net::IpAddr>,
    /// Who waits for the answers of peers.
    asked: HashMap<questions::Token, answers::Asked>,
    /// The port that could not be opened last, and why.
    port_failed: Option<(PortSpec, String)>,
    /// Why the network cannot be joined, and nothing else can be done either.
    given_up: Option<String>,
    routes: Routes,
    service_manager: ServiceManager,
}

impl Switch {
    fn announce(&self) {
        let settings = &self.settings;
        let facts = &self.facts;
        let workers = facts.lanes;
        tracing::info!(
            "node {} listens on {}, {workers} worker{}, engine {ENGINE}",
            facts.node,
            self.devices.listen_address(),
            if workers == 1 { "" } else { "s" },
        );
        for OpenTap { tap, .. } in &self.devices.taps {
            tracing::info!("{}", devices::describe(tap, settings.mtu));
        }
        for peer in &settings.peers {
            // Of those that may not connect the node tells by itself.
            if !matches!(self.node.trust().standing(peer.node), Standing::Admitted(_)) {
                continue;
            }
            let how = if peer.address.is_some() { "will be dialled" } else { "may connect" };
            tracing::debug!("peer {peer} {how}");
        }
        if settings.peers.is_empty() && settings.network.is_none() {
            tracing::warn!(
                "no peer is configured: only local TAPs are switched (--peer NODEID@HOST, or --join TOKEN)"
            );
        }
    }

    /// Answers whoever asks. A socket of our own choice that cannot be had is none to end for: hosts with two switches are to go on as they did.
    fn serve_api(&mut self) -> Result<(), Failure> {
        let api = &self.settings.api;
        let groups = api.groups()?;
        let mut listeners = api::Listeners::none();
        if let Some(path) = api.socket() {
            match listeners.open_unix(&path, &groups) {
                Ok(()) => tracing::info!("API at {}", path.display()),
                // Not a warning: nobody has asked for it.
                Err(error) if api.is_default_socket() => tracing::info!("no API: {error}"),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(tcp) = &api.tcp {
            let opened = listeners.open_tcp(tcp.address, tcp.token.clone());
            opened.map_err(|error| Failure::io("--api-listen: cannot listen", error))?;
            tracing::info!("API at http://{}", tcp.address);
        }
        if !listeners.is_empty() {
            self.api = Some(api::Server::start(
                listeners,
                groups,
                self.messages.clone(),
                self.events.clone(),
            )?);
        }
        Ok(())
    }

    /// What passed each port by now. Nobody asks where there is no API.
    fn sample_rates(&mut self, now: Instant) {
        if self.api.is_none() {
            return;
        }
        let traffic: Vec<_> =
            self.ports_in_use().map(|(port, _)| (port, self.traffic_of(port))).collect();
        self.rates.sample(now, traffic.into_iter());
    }

    /// Goes to the XMPP server, if there is a network to join.
    fn join_network(&mut self, identity: &Identity) -> Result<(), Failure> {
        self.network = Network::start(&self.settings, identity.node_id(), &self.messages)?;
        self.resolve_configured_servers();
        self.look_at_addresses(Instant::now());
        Ok(())
    }

    /// Until a signal or a failure ends it.
    fn serve(&mut self, inbox: &Receiver<Message>) -> Result<(), Failure> {
        let mut trust_at = Instant::now();
        loop {
            self.carry_out();
            if let Some(why) = self.given_up.take() {
                return Err(Failure::new(ExitCode::Usage, anyhow::anyhow!("{why}")));
            }
            let now = Instant::now();
            let node = self.node.poll_timeout();
            let due = [self.routes.due(), self.queries.due(), node];
            let until = due.into_iter().flatten().fold(trust_at, Instant::min);
            match inbox.recv_timeout(until.saturating_duration_since(now)) {
                Ok(Message::Signal(SIGHUP)) => {
                    if let Err(error) = self.reread_and_reload() {
                        tracing::error!(
                            "SIGHUP: {error}; what was configured before stays in force"
                        );
                    }
                }
                Ok(message) => {
                    if let Some(ended) = self.take(message) {
                        return ended;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let now = Instant::now();
            if now >= trust_at {
                trust_at = now + TRUST_EVERY;
                self.follow_trust_file();
                self.presence.follow(&mut self.node);
                self.sample_rates(now);
                self.tell_changes(now);
                self.end_captures();
                self.kernel.look(now).iter().for_each(|line| tracing::warn!("{line}"));
            }
            self.look_at_routes(now);
            self.answer_queries(now);
            self.node.handle_timeout(now);
        }
    }

    /// Works off a message; `Some` ends the switch.
    fn take(&mut self, message: Message) -> Option<Result<(), Failure>> {
        let now = Instant::now();
        match message {
            Message::Signal(SIGUSR1) => {
                self.ask_for_report(now);
                None
            }
            Message::Signal(signal) => {
                tracing::info!("{}: closing the tunnels", signals::name(signal));
                Some(Ok(()))
            }
            Message::Resolved { peer, result } => {
                self.node.handle(now, Input::PeerResolved { peer, result });
                None
            }
            Message::Worker(event) => self.take_event(now, event),
            Message::WorkerFailed(worker, why) => {
                Some(Err(anyhow::anyhow!("worker {worker} failed: {why}").into()))
            }
            Message::Network(change) => {
                self.network_changed(now, change);
                None
            }
            Message::Stream(event) => {
                self.take_from_stream(now, *event);
                None
            }
            Message::Servers(servers) => {
                self.servers_resolved(now, servers);
                None
            }
            Message::Work(work) => {
                work(self);
                None
            }
        }
    }

    fn take_event(&mut self, now: Instant, event: Event) -> Option<Result<(), Failure>> {
        match event {
            Event::Port(port, what) => return self.take_from_port(port, what),
            Event::Answer(token, Answer::Connections { connections, ledger }) => {
                self.queries.answered(token, connections, ledger);
                return None;
            }
            Event::Worker(FromWorker::Rejected { remote, why }) => {
                if let Some(line) = self.refusals.note(now, remote, why.to_string()) {
                    tracing::warn!("{line}");
                }
                return None;
            }
            Event::Worker(FromWorker::StationsMoved(moved)) => {
                self.stations_moved(now, &moved);
                return None;
            }
            Event::Worker(FromWorker::SendRefused { remote, errno }) => {
                if let Some(line) = self.kernel.send_refused(now, remote, errno) {
                    tracing::warn!("{line}");
                }
            }
            Event::Connection(..) | Event::Packet(_) | Event::ChannelPacket { .. } => {}
        }
        self.node.handle(now, Input::Worker(event));
        None
    }

    fn take_from_port(&mut self, port: PortId, what: FromPort) -> Option<Result<(), Failure>> {
        let tap = self.tap_name(port).to_owned();
        match what {
            FromPort::LoopSeen { origin } => {
                let whose = if origin == self.facts.node { "this node's own" } else { "a peer's" };
                tracing::error!(
                    "loop: {whose} probe came in on {tap}, so its segment is also connected some other way; {tap} is blocked until that ends"
                );
                self.forget_stations_of_bridge(port);
                let text = format!("{tap} is blocked: a loop was seen");
                self.tell_event(EventKind::Port, text, What::PortBlocked { port: tap });
            }
            FromPort::LoopElsewhere => {
                tracing::debug!("a loop through {tap} is broken elsewhere");
                self.forget_stations_of_bridge(port);
            }
            FromPort::LoopCleared => {
                let text = format!("the loop is gone: {tap} forwards again");
                tracing::info!("{text}");
                self.tell_event(EventKind::Port, text, What::PortUnblocked { port: tap });
            }
            FromPort::Closed { .. } => {
                self.node.handle(Instant::now(), Input::Worker(Event::Port(port, what)));
            }
            FromPort::Gone if self.node.local_ports().is_open(port) => {
                return Some(Err(Failure::new(
                    ExitCode::Failed,
                    anyhow::anyhow!(
                        "TAP {tap} was deleted while in use; start the switch again to make a new one"
                    ),
                )));
            }
            // It is being closed.
            FromPort::Gone => {}
        }
        None
    }

    /// Does what the node asks for.
    fn carry_out(&mut self) {
        while let Some(action) = self.node.poll_action(Instant::now()) {
            match action {
                Action::Worker { worker, command } => self.command(worker, command),
                Action::Stream(what) => self.tell_stream(what),
                Action::ResolvePeer { peer, address } => self.resolve(peer, address),
                Action::ResolveServers(offer) => network::resolve(offer, self.messages.clone()),
                Action::Observe { seen, new } => self.observe(&seen, new),
                Action::Save(saved) => self.save(&saved),
                Action::Port { port, order } => self.follow_port(port, order),
                Action::Answered(answered) => self.answered(answered),
                Action::Message { peer, data } => self.message_came(peer, &data),
                Action::Trace { peer, token, source, destination } => {
                    let verdict = self.far_verdict(peer, source, destination);
                    self.node.traced(peer, token, verdict);
                }
                Action::GiveUp(why) => self.given_up = Some(why.to_string()),
                Action::Notice(notice) => self.tell(&notice),
                Action::Controller { peer, what } => self.tell_controller(peer, what),
            }
        }
    }

    /// In the log, and as an event.
    fn tell(&mut self, notice: &Notice) {
        let Some((level, line)) = self.refusals.line(Instant::now(), notice) else { return };
        match level {
            Level::Warning => tracing::warn!("{line}"),
            Level::Info => tracing::info!("{line}"),
            Level::Debug => tracing::debug!("{line}"),
        }
        self.tell_notice(notice, line);
    }

    /// Names are resolved in a thread of their own each: one that hangs must not hold up the others.
    fn resolve(&self, peer: NodeId, address: PeerAddress) {
        let messages = self.messages.clone();
        let failed = messages.clone();
        let spawned = thread::Builder::new().name("resolve".into()).spawn(move || {
            let text = address.to_string();
            let result = text
                .to_socket_addrs()
                .map(Iterator::collect)
                .map_err(|error| format!("cannot resolve {text}: {error}"));
            let _ = messages.send(Message::Resolved { peer, result });
        });
        if let Err(error) = spawned {
            let result = Err(format!("cannot start a thread to resolve the name: {error}"));
            let _ = failed.try_send(Message::Resolved { peer, result });
        }
    }

    /// A bridge has learned stations on this TAP that are reached some other way now that the loop is broken. It would send to
    /// a TAP that leads nowhere until they speak again (IEEE 802.1Q clause 13 flushes in the same place).
    fn forget_stations_of_bridge(&self, port: PortId) {
        if let Some(tap) = self.devices.tap(port) {
            tap.flush_bridge_port();
        }
    }

    fn tap_name(&self, port: PortId) -> &str {
        self.devices.tap(port).map_or("?", |tap| &tap.name)
    }

    /// Closes the tunnels, so that the far sides know at once, and waits for the workers.
    fn shut_down(mut self, inbox: &Receiver<Message>) {
        self.service_manager.stopping();
        // Its thread ends; who asks now hears that the switch does.
        drop(self.api.take());
        self.node.handle(Instant::now(), Input::ShutDown);
        self.carry_out();
        let deadline = Instant::now() + SHUT_DOWN_WITHIN;
        for worker in self.workers.drain(..) {
            // Sent again in case that the sessions never came to it.
            let _ = worker.handle.send(Command::Worker(ToWorker::Shutdown));
            while !worker.thread.is_finished() && Instant::now() < deadline {
                let _ = inbox.recv_timeout(Duration::from_millis(10));
            }
            if worker.thread.is_finished() {
                let _ = worker.thread.join();
            }
        }
    }
}

/// An error of the kernel, with the exit code that it stands for.
fn os_failure(error: OsError) -> Failure {
    Failure::new(ExitCode::of(error.cause.kind()), anyhow::anyhow!("{error}"))
}

/// What is wrong, if one of the peers is this node.
pub(crate) fn own_peer(peers: &[PeerSpec], node: NodeId) -> Option<anyhow::Error> {
    peers.iter().any(|peer| peer.node == node).then(|| {
        anyhow::anyhow!(
            "--peer {node} is this node itself; give the id that `ipop-switch identity` prints on the other host"
        )
    })
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

fn random() -> u64 {
    u64::from_ne_bytes(random_bytes())
}
