//! A listener, those who dial it, and attackers, on a network where each packet takes [`DELAY`] and none is lost.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ipop_datapath::{
    PortId,
    command::{CloseReason, Command, ConnectionId, Event, FromConnection, Lane, ToConnection},
    counters::IoCounters,
    io::SocketKind,
    memory::{MemoryIo, MemoryIoConfig, Node, PEER, node, node_of},
    node_id::NodeId,
    policy::admission::{Admission, Proof, ProofBinding, Proved, Unproved, Verdict},
};

use crate::{attackers::Attackers, common::identity};

/// One way.
pub(crate) const DELAY: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(2);
/// As the sessions dial: so long for an answer, and so long until the next try.
const DIAL_TIME: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// A node that dials the listener until it is connected.
pub(crate) struct Dialler {
    pub(crate) node: Node,
    dial: Option<(ConnectionId, Instant)>,
    dials: u64,
    pub(crate) is_connected: bool,
}

pub(crate) struct Siege {
    pub(crate) now: Instant,
    pub(crate) listener: Node,
    pub(crate) listener_id: NodeId,
    pub(crate) members: Arc<Members>,
    pub(crate) diallers: Vec<Dialler>,
    pub(crate) attackers: Attackers,
    /// Packets that attackers may send a second, all of them together.
    pub(crate) attack_rate: u32,
    budget: Duration,
    waiting: VecDeque<Packet>,
    wire: VecDeque<(Instant, Packet)>,
    /// Which packets the network loses; none at first.
    pub(crate) loses: Box<dyn FnMut(&Packet) -> bool>,
    /// Everything that the listener sent.
    pub(crate) sent: Vec<Packet>,
    /// Everything that came to it.
    pub(crate) seen: Vec<Packet>,
}

pub(crate) struct Members {
    nodes: Vec<NodeId>,
    /// Every second question is answered by a refusal.
    pub(crate) is_fickle: AtomicBool,
    questions: AtomicUsize,
}

impl Admission for Members {
    fn verdict(&self, node: NodeId) -> Verdict {
        let is_second = self.questions.fetch_add(1, Relaxed) % 2 == 1;
        let refuses = is_second && self.is_fickle.load(Relaxed);
        match self.nodes.iter().position(|member| *member == node) {
            Some(index) if !refuses => Verdict::Admitted(PortId(PEER.0 + index as u16)),
            _ => Verdict::Refused("it is not a member".into()),
        }
    }

    fn proofs(&self, _: NodeId, _: &ProofBinding) -> Vec<Proof> {
        Vec::new()
    }

    fn verify(&self, _: NodeId, _: &ProofBinding, _: &[Proof]) -> Result<Proved, Unproved> {
        Ok(Proved::KeyAlone)
    }
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Siege {
    /// The members come from these addresses when they are told to dial.
    pub(crate) fn new(members: &[SocketAddr]) -> Self {
        let now = Instant::now();
        let own = identity();
        let listener_id = own.node;
        let identities: Vec<_> = members.iter().map(|_| identity()).collect();
        let members_of_listener = Arc::new(Members {
            nodes: identities.iter().map(|identity| identity.node).collect(),
            is_fickle: AtomicBool::new(false),
            questions: AtomicUsize::new(0),
        });
        let admission = members_of_listener.clone();
        let io = MemoryIoConfig::default;
        let (listener, _) = node_of(own, admission, 1, io(), now);
        let dialler = |(identity, address): (_, &SocketAddr)| {
            let mut node = node(identity, listener_id, 2, io(), now);
            node.address = *address;
            Dialler { node, dial: None, dials: 0, is_connected: false }
        };
        let diallers = identities.into_iter().zip(members).map(dialler).collect();
        let attackers = Attackers::new(&identity(), (listener_id, listener.address));
        Self {
            now,
            listener,
            listener_id,
            members: members_of_listener,
            diallers,
            attackers,
            attack_rate: u32::MAX,
            budget: Duration::ZERO,
            waiting: VecDeque::new(),
            wire: VecDeque::new(),
            loses: Box::new(|_| false),
            sent: Vec::new(),
            seen: Vec::new(),
        }
    }

    pub(crate) fn io(&self) -> &IoCounters {
        &self.listener.core.counters().io
    }

    pub(crate) fn command(&mut self, command: Command) {
        let Node { core, io, .. } = &mut self.listener;
        core.command(self.now, command, io);
    }

    /// Has this member dial, until it is connected.
    pub(crate) fn dial(&mut self, member: usize) {
        let dialler = &mut self.diallers[member];
        dialler.dials += 1;
        dialler.is_connected = false;
        let connection = ConnectionId((1 << 55) + dialler.dials);
        dialler.dial = Some((connection, self.now + DIAL_TIME));
        let (peer, remote) = (self.listener_id, self.listener.address);
        let Node { core, io, .. } = &mut dialler.node;
        core.command(
            self.now,
            Command::Connection(connection, ToConnection::Dial { peer, lane: Lane(0), remote }),
            io,
        );
    }

    pub(crate) fn is_connected(&self, member: usize) -> bool {
        self.diallers[member].is_connected
    }

    /// Dials of all members so far.
    pub(crate) fn dials(&self) -> u64 {
        self.diallers.iter().map(|dialler| dialler.dials).sum()
    }

    /// Ends a member's connection, and with it its dialling.
    pub(crate) fn leave(&mut self, member: usize) {
        let dialler = &mut self.diallers[member];
        if let Some((connection, _)) = dialler.dial.take() {
            let close = Command::Connection(connection, ToConnection::Close(CloseReason::Replaced));
            dialler.node.core.command(self.now, close, &mut dialler.node.io);
        }
    }

    /// Puts a packet on the wire.
    pub(crate) fn send(&mut self, packet: Packet) {
        self.wire.push_back((self.now + DELAY, packet));
    }

    /// Lets time pass. `attack` is asked at each step, once what the attackers had to say before has gone out.
    pub(crate) fn run(&mut self, time: Duration, mut attack: impl FnMut(&mut Attackers, Instant)) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.carry();
            if self.waiting.is_empty() {
                attack(&mut self.attackers, self.now);
            }
            self.attack();
            self.redial();
        }
    }

    pub(crate) fn run_in_peace(&mut self, time: Duration) {
        self.run(time, |_, _| {});
    }

    /// Until this member is connected; how long that took.
    pub(crate) fn time_to_connect(
        &mut self,
        member: usize,
        mut attack: impl FnMut(&mut Attackers, Instant),
    ) -> Duration {
        const PATIENCE: Duration = Duration::from_secs(30);
        let begun = self.now;
        self.dial(member);
        while !self.is_connected(member) && self.now < begun + PATIENCE {
            self.run(STEP, &mut attack);
        }
        self.now - begun
    }

    fn carry(&mut self) {
        while self.wire.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, packet)) = self.wire.pop_front() else { break };
            if !(self.loses)(&packet) {
                self.arrive(&packet);
            }
        }
        self.settle_listener();
        for dialler in &mut self.diallers {
            dialler.node.core.flush(self.now, &mut dialler.node.io);
            let events: Vec<Event> = dialler.node.core.drain_events().collect();
            for event in events {
                dialler.take_note(&event, self.now);
            }
            let from = dialler.node.address;
            let sent = take_packets(&mut dialler.node.io, from);
            self.wire.extend(sent.into_iter().map(|packet| (self.now + DELAY, packet)));
        }
    }

    fn arrive(&mut self, packet: &Packet) {
        let now = self.now;
        if packet.to == self.listener.address {
            self.seen.push(packet.clone());
            let (socket, bytes) = (SocketKind::Listen, &packet.bytes[..]);
            self.listener.receive_packets(now, socket, packet.from, &[bytes]);
        } else if let Some(dialler) =
            self.diallers.iter_mut().find(|dialler| dialler.node.address == packet.to)
        {
            let (socket, bytes) = (SocketKind::Listen, &packet.bytes[..]);
            dialler.node.receive_packets(now, socket, packet.from, &[bytes]);
        } else {
            self.attackers.receive(now, &packet.bytes);
        }
    }

    fn settle_listener(&mut self) {
        let Node { core, io, address, .. } = &mut self.listener;
        let mut more = true;
        while more {
            core.flush(self.now, io);
            core.drain_events().for_each(drop);
            let sent = take_packets(io, *address);
            self.sent.extend(sent.iter().cloned());
            self.wire.extend(sent.into_iter().map(|packet| (self.now + DELAY, packet)));
            more = core.has_backlog(io);
        }
    }

    /// Attackers send what they have, as fast as they may.
    fn attack(&mut self) {
        self.attackers.transmit(self.now, |packet| self.waiting.push_back(packet));
        self.budget = (self.budget + STEP).min(Duration::from_millis(100));
        let each = Duration::from_secs(1) / self.attack_rate;
        while self.budget >= each
            && let Some(packet) = self.waiting.pop_front()
        {
            self.budget -= each;
            self.wire.push_back((self.now + DELAY, packet));
        }
    }

    fn redial(&mut self) {
        for member in 0..self.diallers.len() {
            let Dialler { dial, is_connected, .. } = &self.diallers[member];
            if let (Some((_, until)), false) = (dial, is_connected)
                && self.now >= *until
            {
                self.leave(member);
                self.dial(member);
            }
        }
    }
}

impl Dialler {
    fn take_note(&mut self, event: &Event, now: Instant) {
        let Some((current, until)) = &mut self.dial else { return };
        match event {
            Event::Connection(connection, FromConnection::Connected { .. })
                if connection == current =>
            {
                self.is_connected = true;
            }
            Event::Connection(connection, FromConnection::Ended(_)) if connection == current => {
                self.is_connected = false;
                *until = now + PAUSE;
            }
            _ => {}
        }
    }
}

fn take_packets(io: &mut MemoryIo, from: SocketAddr) -> Vec<Packet> {
    let mut sent = Vec::new();
    while let Some(train) = io.trains.pop_front() {
        let to = train.destination;
        sent.extend(train.packets().map(|packet| Packet { from, to, bytes: packet.to_vec() }));
        io.recycle_train(train);
    }
    sent
}

/// The IP address of a number.
pub(crate) fn host(number: usize) -> SocketAddr {
    let [.., high, low] = (number as u32).to_be_bytes();
    SocketAddr::new(IpAddr::from([172, 16, high, low]), 40_000)
}
