//! Time, and everything that happens in it: one agenda for packets, answers of resolvers, restarts; timers besides.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_control::{
    node::{Action, Input},
    trust::TrustStore,
};
use ipop_datapath::{
    command::{Command, Event, FromConnection, ToConnection},
    frame::{FrameBytes, Headers, flow_hash},
    io::TapFrame,
    node_id::NodeId,
};

use crate::{
    frames::Frame,
    identity::identity,
    network::{Network, Packet},
    plan::Plan,
    ports::PortStep,
    rng::Rng,
    segment::{Segment, TapAt},
    site::{Honesty, LISTEN_PORT, Running, Site, source_of},
};

const SECRET: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43u";
/// More than this may not wait in the agenda: the links' queues are bounded.
const MAX_AGENDA: usize = 200_000;
/// Rounds in a row without the clock moving, above which something spins.
const MAX_ROUNDS_AT_ONCE: usize = 20_000;
/// Rounds of one switch with nothing new coming in, above which it spins.
const MAX_ROUNDS_OF_SITE: usize = 1_000;

pub(crate) enum Happening {
    Arrival(Packet),
    /// The resolver's answer to this start of the site.
    Resolved {
        site: usize,
        start: u32,
        peer: usize,
    },
    /// The host's addresses are listed.
    Addresses(usize),
    Start(usize),
    Heal(Vec<(usize, usize)>),
    /// A station makes itself known.
    Announcement(usize),
    /// What became of a local port, for this start of the site.
    Port {
        site: usize,
        start: u32,
        step: PortStep,
    },
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) network: Network,
    pub(crate) sites: Vec<Site>,
    pub(crate) segment: Segment,
    nodes: Vec<NodeId>,
    agenda: BTreeMap<(Instant, u64), Happening>,
    noted: u64,
    started: Instant,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let now = Instant::now();
        let count = plan.sites.len();
        let identities: Vec<_> = (0..count).map(|_| Arc::new(identity(&mut rng))).collect();
        let nodes: Vec<NodeId> = identities.iter().map(|identity| identity.node).collect();
        let network_rng = Rng::new(rng.next());
        let network = Network::new(count, plan.calm_conditions(), network_rng, now);
        let sites =
            plan.sites.iter().zip(identities).enumerate().map(|(number, (site, identity))| {
                let others = (0..count).filter(|other| *other != number);
                let peers = others.map(|other| {
                    let node = nodes[other];
                    let spec = if plan.dials[number][other] {
                        format!("{node}@site{other}.example:{LISTEN_PORT}")
                    } else {
                        node.to_string()
                    };
                    (other, spec.parse().expect("a sound --peer"))
                });
                Site {
                    number,
                    identity,
                    workers: site.workers,
                    taps: site.taps.clone(),
                    io: site.io.clone(),
                    peers: peers.collect(),
                    trusted: TrustStore::default(),
                    // Every other world has a network secret.
                    secrets: (plan.seed % 2 == 1).then(|| SECRET.parse().expect("a secret")),
                    honesty: Honesty::Honest,
                    running: None,
                    notices: Vec::new(),
                    starts: 0,
                    wake_at: None,
                }
            });
        let sites = sites.collect();
        let mut world = Self {
            now,
            rng,
            network,
            sites,
            segment: Segment::default(),
            nodes,
            agenda: BTreeMap::new(),
            noted: 0,
            started: now,
        };
        for site in 0..count {
            let after = world.rng.millis(0..2_000);
            world.note(after, Happening::Start(site));
        }
        world
    }

    pub(crate) fn note(&mut self, after: Duration, happening: Happening) {
        self.note_at(self.now + after, happening);
    }

    fn note_at(&mut self, at: Instant, happening: Happening) {
        self.noted += 1;
        self.agenda.insert((at, self.noted), happening);
        assert!(self.agenda.len() <= MAX_AGENDA, "the network holds too much");
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        let mut rounds_at_once = 0;
        loop {
            let noted = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let timers = self.sites.iter().filter_map(|site| site.wake_at);
            let Some(at) = timers.chain(noted).min().filter(|at| *at <= end) else { break };
            if at > self.now {
                self.now = at;
                rounds_at_once = 0;
            }
            rounds_at_once += 1;
            assert!(rounds_at_once < MAX_ROUNDS_AT_ONCE, "something spins: {}", self.overdue());
            if noted.is_some_and(|noted| noted <= self.now)
                && let Some((_, happening)) = self.agenda.pop_first()
            {
                self.happen(happening);
            }
            for site in 0..self.sites.len() {
                if self.sites[site].wake_at.is_some_and(|at| at <= self.now) {
                    self.settle(site);
                }
            }
        }
        self.now = end;
    }

    /// Whose timers are not in the future.
    fn overdue(&self) -> String {
        let mut overdue = String::new();
        for site in &self.sites {
            let Some(running) = &site.running else { continue };
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
            if is_due(running.node.poll_timeout()) {
                overdue += &format!("node of {}, ", site.number);
            }
            for (index, worker) in running.workers.iter().enumerate() {
                if is_due(Some(worker.core.poll_timeout())) {
                    overdue += &format!("worker {index} of {}, ", site.number);
                }
            }
        }
        overdue
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(packet) => self.arrive(&packet),
            Happening::Resolved { site, start, peer } => {
                if self.sites[site].starts == start {
                    let address = IpAddr::V4(self.network.address_of(peer));
                    let result = Ok(vec![SocketAddr::new(address, LISTEN_PORT)]);
                    let peer = self.nodes[peer];
                    self.tell(site, Input::PeerResolved { peer, result });
                }
            }
            Happening::Addresses(site) => {
                let addresses = BTreeSet::from([IpAddr::V4(self.network.address_of(site))]);
                self.tell(site, Input::LocalAddresses(addresses));
            }
            Happening::Start(site) => {
                if self.sites[site].running.is_none() {
                    let peers: Vec<_> =
                        self.sites[site].peers.iter().map(|(p, _)| self.nodes[*p]).collect();
                    self.sites[site].start(self.now, &peers, &mut self.rng);
                    self.happen(Happening::Addresses(site));
                }
            }
            Happening::Announcement(station) => self.announce(station),
            Happening::Port { site, start, step } => {
                if self.sites[site].starts == start {
                    self.take_port_step(site, step);
                }
            }
            Happening::Heal(pairs) => pairs.iter().for_each(|pair| {
                self.network.cut.remove(pair);
            }),
        }
    }

    pub(crate) fn tell(&mut self, site: usize, input: Input) {
        if let Some(running) = &mut self.sites[site].running {
            running.node.handle(self.now, input);
            self.settle(site);
        }
    }

    /// The operator of a site decides something about nodes, which a running program obeys.
    pub(crate) fn decide(&mut self, site: usize, decide: impl FnOnce(&mut TrustStore)) {
        let trusted = &mut self.sites[site].trusted;
        decide(trusted);
        let decisions = Input::Decisions(trusted.clone());
        self.tell(site, decisions);
    }

    fn arrive(&mut self, packet: &Packet) {
        let now = self.now;
        let running = self.sites[packet.to].running.as_mut();
        let reached = running.filter(|_| self.network.is_at_home(packet)).and_then(|running| {
            let (worker, socket) = running.steer(packet.destination.port(), &packet.bytes)?;
            Some((&mut running.workers[worker], socket))
        });
        let Some((worker, socket)) = reached else { return self.network.lose(packet) };
        let bytes = worker.buffers.fill(std::iter::once(&packet.bytes[..]));
        let local_ip = Some(packet.destination.ip());
        worker.core.packet(now, socket, packet.source, local_ip, bytes, &mut worker.io);
        worker.core.end_of_train(now, &mut worker.io);
        self.settle(packet.to);
    }

    /// A frame comes out of the kernel at a TAP. The kernel steers all frames of a flow to one queue.
    pub(crate) fn frame_from_tap(&mut self, at: TapAt, frame: &Frame) {
        let Some(running) = &mut self.sites[at.site].running else { return };
        let ethernet = &frame.bytes[..14];
        let headers = Headers::parse(ethernet).expect("not a runt");
        let queue = flow_hash(&headers, ethernet) as usize % running.workers.len();
        let before = running.accounted_for();
        let worker = &mut running.workers[queue];
        let vnet = frame.offload.to_tap(frame.headers_len);
        let tap = ipop_datapath::PortId(at.tap);
        let bytes = FrameBytes::Whole(&frame.bytes);
        let frame = TapFrame { tap, vnet: &vnet, bytes };
        worker.core.outbound(self.now, frame, &mut worker.io);
        assert!(running.accounted_for() > before, "a frame vanished without a counter");
    }

    /// Lets a switch work until it waits for something.
    pub(crate) fn settle(&mut self, site: usize) {
        let Some(mut running) = self.sites[site].running.take() else {
            self.sites[site].wake_at = None;
            return;
        };
        running.node.handle_timeout(self.now);
        let mut rounds = 0;
        while self.work(site, &mut running) {
            rounds += 1;
            assert!(rounds < MAX_ROUNDS_OF_SITE, "switch {site} spins");
        }
        for worker in &running.workers {
            let ledger = worker.core.ledger();
            assert_eq!(ledger.difference(), 0, "switch {site}: {ledger:?}");
        }
        self.sites[site].wake_at = running.poll_timeout();
        self.sites[site].running = Some(running);
    }

    /// One round of a switch; whether another is needed at once.
    fn work(&mut self, site: usize, running: &mut Running) -> bool {
        let now = self.now;
        let mut busy = false;
        for index in 0..running.workers.len() {
            let worker = &mut running.workers[index];
            worker.core.flush(now, &mut worker.io);
            for event in worker.core.drain_events() {
                if let Event::Connection(connection, FromConnection::Connected { .. }) = &event {
                    running.connections.insert(*connection);
                }
                running.node.handle(now, Input::Worker(event));
            }
            busy |= self.carry_mail(running, index);
            self.take_output(site, running, index);
            let worker = &running.workers[index];
            busy |= worker.core.has_backlog(&worker.io);
        }
        while let Some(action) = running.node.poll_action(now) {
            busy = true;
            self.carry_out(site, running, action);
        }
        busy
    }

    fn carry_mail(&mut self, running: &mut Running, from: usize) -> bool {
        let mut carried = false;
        while let Some(mail) = running.workers[from].io.mail.pop_front() {
            carried = true;
            let before = running.accounted_for();
            let to = &mut running.workers[usize::from(mail.worker)];
            to.core.mailed(mail.port, mail.frame());
            assert!(running.accounted_for() > before, "a frame vanished without a counter");
        }
        carried
    }

    fn take_output(&mut self, site: usize, running: &mut Running, index: usize) {
        let own = self.network.address_of(site);
        let io = &mut running.workers[index].io;
        let mut arrivals = Vec::new();
        while let Some(train) = io.trains.pop_front() {
            let source = source_of(index, train.socket, train.source_ip, own);
            for packet in train.packets() {
                self.network.send(
                    self.now,
                    site,
                    source,
                    train.destination,
                    packet,
                    |at, packet| {
                        arrivals.push((at, packet));
                    },
                );
            }
            io.recycle_train(train);
        }
        while let Some(write) = io.tap_writes.pop_front() {
            let tap = TapAt { site, tap: write.tap.0 };
            let takes = self.sites[site].taps.get(usize::from(tap.tap));
            if takes == Some(&ipop_datapath::TapOffload::None) {
                assert!(write.what.offload().is_none(), "{tap:?} takes no offloads");
            }
            self.segment.deliver(tap, write.what.offload(), &write.pieces.concat());
            io.recycle_tap_write(write);
        }
        for (at, packet) in arrivals {
            self.note_at(at, Happening::Arrival(packet));
        }
    }

    fn carry_out(&mut self, site: usize, running: &mut Running, action: Action) {
        match action {
            Action::ResolvePeer { peer, .. } => {
                let peer = self.nodes.iter().position(|node| *node == peer);
                let peer = peer.expect("only configured peers are looked up");
                let start = self.sites[site].starts;
                let after = self.rng.millis(1..80);
                self.note(after, Happening::Resolved { site, start, peer });
            }
            Action::Worker { worker, command } => {
                if let Command::Connection(connection, ToConnection::Dial { .. }) = &command {
                    running.connections.insert(*connection);
                }
                if let Command::Connection(_, ToConnection::Activate(port)) = &command {
                    assert!(!running.ports.contains_key(port), "{port} is a local port's");
                }
                let worker = &mut running.workers[worker];
                worker.core.command(self.now, command, &mut worker.io);
            }
            Action::Notice(notice) => {
                if std::env::var_os("SIMULATION_LOG").is_some() {
                    println!("{:>9.3?} site {site}: {notice}", self.now - self.started);
                }
                self.sites[site].notices.push(notice);
            }
            Action::Port { port, order } => self.follow_port(site, running, port, order),
            Action::Stream(_)
            | Action::ResolveServers(_)
            | Action::Observe { .. }
            | Action::Save(_)
            | Action::Controller { .. }
            | Action::Answered(_)
            | Action::Message { .. }
            | Action::Trace { .. }
            | Action::GiveUp(_) => panic!("there is no room: {action:?}"),
        }
    }

    /// The program ends: all of a sudden, or with a word to its peers.
    pub(crate) fn stop(&mut self, site: usize, says_goodbye: bool) {
        if says_goodbye {
            self.tell(site, Input::ShutDown);
        }
        self.sites[site].running = None;
        self.sites[site].wake_at = None;
    }
}
