//! One peer: its lanes, and what connections that come and go mean for them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::{
    PortId,
    command::{
        CloseReason, Command, ConnectionId, Direction, Ended, Lane as LaneNumber, ToConnection,
        ToPort,
    },
    node_id::NodeId,
    path::port_of_alias,
    policy::admission::Proved,
    tunnel::hello::Hello,
};

use super::{
    Action, Context, NamedPeer, PeerAddress, PeerPath, TunnelNews,
    backoff::Backoff,
    dialling::{Attempt, dialable, is_duplicate},
    lane::{
        DialledAt, Established, Lane, MAX_RETIRING, Retiring, STABLE, Survivor, arbitrate, linger,
    },
    unreached::{LastError, Unreached},
};
use crate::{
    notice::{Down, Notice, Who},
    trust::Loss,
};

/// A takeover soon after the first connection looks like a simultaneous dial and may lose. It is tried again at this pace, without backing off:
/// the dead connection outlives [`SIMULTANEOUS`](super::lane::SIMULTANEOUS) by two seconds only, and a peer that has no address cannot be dialled
/// once it is gone.
const TAKEOVER_RETRY: Duration = Duration::from_millis(500);
/// How long a lane that has proved no valid secret may stay, so that a connection that proves one takes over without a gap. Both
/// ends may be told of a new secret at different times; what follows the old one then is a redial.
const UNPROVED_FOR: Duration = Duration::from_secs(10);
/// Instances remembered in order to recognise two programs with one key.
const MAX_FORMER: usize = 8;
/// More returns of a former instance than this within [`ALTERNATION_WINDOW`] are two programs with one key.
const MAX_ALTERNATIONS: usize = 3;
const ALTERNATION_WINDOW: Duration = Duration::from_secs(30);

/// This node's part in connections over a path that control chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialler {
    /// It has the lower node id.
    ThisNode,
    /// It has the higher one.
    Peer,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) port: PortId,
    /// Whether something names it.
    is_named: bool,
    /// Where the configuration says that it listens.
    pub(super) address: Option<PeerAddress>,
    /// Where it listened before, by the memory of the room.
    pub(super) last_addresses: Vec<SocketAddr>,
    pub(super) path: PeerPath,
    pub(super) dialler: Dialler,
    /// What the resolver said last of the configured name.
    pub(super) resolved_addresses: Vec<SocketAddr>,
    /// Where it may come from, as the workers were told.
    pub(super) told_addresses: Vec<IpAddr>,
    /// As many as this node has workers.
    pub(super) lanes: Vec<Lane>,
    /// How many of them the peer serves too.
    pub(super) lanes_wanted: usize,
    pub(super) hello: Option<Hello>,
    /// The connection that signals go over, as others were told.
    signals_over: Option<ConnectionId>,
    /// Its last lane was closed by a peer that ends.
    has_left: bool,
    /// Since when it is up, or down.
    pub(super) since: Instant,
    pub(super) last_error: Option<LastError>,
    /// The dial failure that the operator was told last, and when.
    pub(super) reported: Option<(Unreached, Instant)>,
    /// A resolution is under way and must answer by then.
    pub(super) resolving: Option<Instant>,
    /// The latest answer of the resolver.
    pub(super) checked_at: Instant,
    former_instances: Vec<[u8; 16]>,
    alternations: Vec<Instant>,
}

impl Peer {
    pub(super) fn new(node: NodeId, port: PortId, ctx: &Context, now: Instant) -> Self {
        Self {
            node,
            port,
            is_named: false,
            address: None,
            last_addresses: Vec::new(),
            path: PeerPath::Down,
            dialler: if ctx.local < node { Dialler::ThisNode } else { Dialler::Peer },
            resolved_addresses: Vec::new(),
            told_addresses: Vec::new(),
            lanes: (0..ctx.lanes).map(|_| Lane::default()).collect(),
            lanes_wanted: 1,
            hello: None,
            signals_over: None,
            has_left: false,
            since: now,
            last_error: None,
            reported: None,
            resolving: None,
            checked_at: now,
            former_instances: Vec::new(),
            alternations: Vec::new(),
        }
    }

    /// As lines name it.
    pub(super) fn who(&self) -> Who {
        let name = self.hello.as_ref().map(|hello| hello.name.clone());
        Who { node: self.node, name }
    }

    pub(super) fn is_up(&self) -> bool {
        self.lanes.iter().any(|lane| lane.active.is_some())
    }

    /// Looks whether signals go over another connection than before, and tells that.
    pub(super) fn tunnel_changed(&mut self, ctx: &mut Context) -> bool {
        let tunnel = self.tunnel();
        let connection = tunnel.map(|(connection, _)| connection);
        if std::mem::replace(&mut self.signals_over, connection) == connection {
            return false;
        }
        let news = match tunnel {
            Some((connection, remote)) => TunnelNews::Up { connection, remote },
            None => TunnelNews::Ended { has_left: self.has_left },
        };
        ctx.push(Action::Tunnel { peer: self.node, news });
        true
    }

    /// What signals go over, the first lane that is up, and where it goes.
    pub(super) fn tunnel(&self) -> Option<(ConnectionId, SocketAddr)> {
        let established = self.lanes.iter().find_map(|lane| lane.active.as_ref())?;
        Some((established.connection, established.remote))
    }

    /// It is named, again or for the first time.
    pub(super) fn named(&mut self, named: NamedPeer) {
        self.is_named = true;
        self.set_addresses(named.address, dialable(named.last_addresses));
    }

    /// Nothing names it any more. What was known of addresses goes with that.
    pub(super) fn unnamed(&mut self) {
        self.is_named = false;
        self.set_addresses(None, Vec::new());
    }

    fn set_addresses(&mut self, configured: Option<PeerAddress>, last: Vec<SocketAddr>) {
        if self.address != configured {
            self.address = configured;
            self.resolved_addresses.clear();
        }
        self.last_addresses = last;
    }

    /// Tells the workers where it may come from, if they do not know: they keep places for its handshakes.
    pub(super) fn tell_addresses(&mut self, ctx: &mut Context) {
        let addresses = self.known_addresses();
        if addresses != self.told_addresses {
            self.told_addresses.clone_from(&addresses);
            let command = Command::Port(self.port, ToPort::KnowAddresses(addresses));
            ctx.command_all(&command);
        }
    }

    /// The addresses that the configuration, the memory of the room, path control and live connections name. Where it moved to while it was down nobody knows.
    fn known_addresses(&self) -> Vec<IpAddr> {
        let configured = self.address.as_ref().and_then(PeerAddress::literal);
        let all = self.lanes.iter().filter_map(|lane| lane.active.as_ref());
        let connected = all.map(|established| established.remote);
        let named = configured.into_iter().chain(self.path.address());
        let named = named.chain(self.resolved_addresses.iter().copied());
        let all = named.chain(self.last_addresses.iter().copied()).chain(connected);
        let mut addresses: Vec<IpAddr> = all
            .filter(|address| port_of_alias(*address).is_none())
            .map(|address| address.ip().to_canonical())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// It lost its right.
    pub(super) fn revoked(&mut self, ctx: &mut Context, why: Loss) {
        self.is_named = false;
        if self.is_up() {
            ctx.push(Action::Notice(Notice::Revoked { peer: self.who(), why }));
        }
        self.close_all(ctx, CloseReason::NotAdmitted);
    }

    /// Whether it can be forgotten.
    pub(super) fn is_over(&self) -> bool {
        !self.is_named && !self.is_up()
    }

    /// Closes whatever it has open.
    pub(super) fn close_all(&mut self, ctx: &mut Context, reason: CloseReason) {
        for lane in &mut self.lanes {
            if let Some(Attempt::Dialling { connection, .. }) = lane.attempt.take() {
                ctx.close(connection, CloseReason::Replaced);
            }
            let retiring = lane.retiring.drain(..).map(|retiring| retiring.established);
            for established in retiring.chain(lane.active.take()) {
                ctx.close(established.connection, reason);
            }
        }
    }

    /// Path control found a way, or lost it. A way that is new is tried at once.
    pub(super) fn path_changed(&mut self, ctx: &mut Context, now: Instant, path: PeerPath) {
        let found = self.path == PeerPath::Down && path != PeerPath::Down;
        self.path = path;
        if found && self.lanes[0].active.is_none() {
            self.lanes[0].backoff.reset();
            self.lanes[0].not_before = Some(now);
        }
        self.close_lanes_beside_path(ctx, now);
    }

    /// Further lanes go straight to the peer's address. Where path control has left that address they lead nowhere, which
    /// QUIC would notice only after its idle time-out: lane 0, which follows path control, takes over their frames.
    fn close_lanes_beside_path(&mut self, ctx: &mut Context, now: Instant) {
        let who = self.who();
        let Some((first, further)) = self.lanes.split_first_mut() else { return };
        let follows_path = |established: &Established| port_of_alias(established.remote).is_some();
        if self.path == PeerPath::Down || !first.active.as_ref().is_some_and(follows_path) {
            return;
        }
        let ip_of = |address: SocketAddr| address.ip().to_canonical();
        let path_to = self.path.address().map(ip_of);
        let is_beside = |established: &mut Established| match established.direction {
            Direction::Dialled => Some(ip_of(established.remote)) != path_to,
            // A peer that has moved brings its lanes along by itself.
            Direction::Accepted => path_to.is_none(),
        };
        for (lane, number) in further.iter_mut().zip(1..) {
            let Some(established) = lane.active.take_if(is_beside) else { continue };
            ctx.close(established.connection, CloseReason::Replaced);
            lane.missing_since = Some(now);
            let why = Down::BesidePath;
            let (peer, lane) = (who.clone(), LaneNumber(number));
            ctx.push(Action::Notice(Notice::LaneDown { peer, lane, why }));
        }
    }

    /// Lanes that have proved no valid secret are dialled anew, by whichever end notices, and closed if that does not help.
    pub(super) fn secrets_changed(&mut self, ctx: &Context, now: Instant) {
        let role = self.dialler;
        for established in self.lanes.iter_mut().filter_map(|lane| lane.active.as_mut()) {
            let dials = role == Dialler::ThisNode || port_of_alias(established.remote).is_none();
            let good = match &established.proved {
                _ if ctx.secrets.is_empty() => true,
                Proved::KeyAlone => false,
                Proved::Secrets(proved) => proved.iter().any(|id| ctx.secrets.contains(id)),
            };
            if good {
                established.unproved_until = None;
            } else if established.unproved_until.is_none() {
                established.unproved_until = Some(now + UNPROVED_FOR);
                if established.move_to.is_empty() && dials {
                    established.move_to = vec![established.remote];
                }
            }
        }
    }

    /// Closes lanes whose time to prove a valid secret is over.
    pub(super) fn close_unproved(&mut self, ctx: &mut Context, now: Instant) {
        for lane in 0..self.lanes.len() {
            let over = |established: &mut Established| {
                established.unproved_until.is_some_and(|until| now >= until)
            };
            if let Some(established) = self.lanes[lane].active.take_if(over) {
                ctx.close(established.connection, CloseReason::NotProved);
                self.lane_lost(ctx, now, lane, &Ended::Closed(CloseReason::NotProved));
            }
        }
    }

    /// A connection of this peer is established. Its lane exists here.
    pub(super) fn connected(&mut self, ctx: &mut Context, mut new: Established, hello: Hello) {
        let (now, lane) = (new.since, usize::from(hello.lane));
        if let Some(dialled_at) = self.finish_attempt(lane, new.connection) {
            new.dialled_at = dialled_at;
        }
        self.warn_of_mtu(ctx, hello.inner_mtu);
        self.drop_former_instance(ctx, &new);
        let was_up = self.is_up();
        self.lanes_wanted = self.lanes.len().min(usize::from(hello.lanes));
        self.hello = Some(hello);
        self.has_left = false;
        match self.lanes[lane].active.take() {
            Some(existing) => self.resolve_conflict(ctx, lane, existing, new),
            None if was_up => {
                let remote = new.remote;
                self.activate(ctx, lane, new);
                let number = LaneNumber(lane as u8);
                let up = Notice::LaneUp { peer: self.who(), lane: number, remote };
                ctx.push(Action::Notice(up));
            }
            None => {
                let (remote, direction) = (new.remote, new.direction);
                self.activate(ctx, lane, new);
                self.since = now;
                self.announce_up(ctx, now, remote, direction);
            }
        }
    }

    /// A connection of this peer, or a dial to it, is gone.
    pub(super) fn ended(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        connection: ConnectionId,
        why: &Ended,
    ) {
        for lane in 0..self.lanes.len() {
            let state = &mut self.lanes[lane];
            state.retiring.retain(|retiring| retiring.established.connection != connection);
            if matches!(&state.attempt, Some(Attempt::Dialling { connection: dialled, .. }) if *dialled == connection)
            {
                return self.dial_ended(ctx, now, lane, why);
            }
            if state.active.take_if(|established| established.connection == connection).is_some() {
                return self.lane_lost(ctx, now, lane, why);
            }
        }
    }

    /// The peer is at another address.
    pub(super) fn moved(&mut self, ctx: &mut Context, connection: ConnectionId, to: SocketAddr) {
        let peer = self.who();
        for (lane, number) in self.lanes.iter_mut().zip(0u8..) {
            let Some(established) = lane.established_mut(connection) else { continue };
            let from = std::mem::replace(&mut established.remote, to);
            for target in established.move_to.iter_mut().filter(|target| **target == from) {
                *target = to;
            }
            if from != to {
                let lane = LaneNumber(number);
                return ctx.push(Action::Notice(Notice::LaneMoved { peer, lane, from, to }));
            }
        }
    }

    /// The first lane stands for the peer: idle further ones would notice much later that nobody is there, so they are asked.
    pub(super) fn silent(&self, ctx: &mut Context, connection: ConnectionId, rtt: Duration) {
        if self.signals_over == Some(connection) {
            ctx.push(Action::Tunnel { peer: self.node, news: TunnelNews::Silent { rtt } });
        }
        let [first, further @ ..] = &self.lanes[..] else { return };
        if first.active.as_ref().is_some_and(|established| established.connection == connection) {
            for established in further.iter().filter_map(|lane| lane.active.as_ref()) {
                ctx.connection(established.connection, ToConnection::Probe);
            }
        }
    }

    /// If this connection is the one being dialled, the dial is over; tells what was dialled.
    fn finish_attempt(&mut self, lane: usize, connection: ConnectionId) -> Option<DialledAt> {
        let ours = |attempt: &mut Attempt| matches!(attempt, Attempt::Dialling { connection: dialled, .. } if *dialled == connection);
        match self.lanes[lane].attempt.take_if(ours)? {
            Attempt::Dialling { dialled_at, .. } => Some(dialled_at),
            Attempt::Resolving => None,
        }
    }

    fn announce_up(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        remote: SocketAddr,
        direction: Direction,
    ) {
        self.last_error = None;
        self.reported = None;
        for lane in self.lanes.iter_mut().filter(|lane| lane.active.is_none()) {
            lane.missing_since = Some(now);
        }
        if let Some(hello) = self.hello.clone().map(Box::new) {
            let (peer, port) = (self.who(), self.port);
            let way = None;
            ctx.push(Action::PeerUp { port });
            ctx.push(Action::Notice(Notice::PeerUp { peer, port, remote, way, direction, hello }));
        }
    }

    /// Two connections for one lane: one stays.
    fn resolve_conflict(
        &mut self,
        ctx: &mut Context,
        lane: usize,
        existing: Established,
        new: Established,
    ) {
        let now = new.since;
        let linger = linger(ctx.local, self.node, existing.direction, new.direction);
        let reason = match arbitrate(ctx.local, self.node, &existing, &new) {
            Survivor::Existing(reason) => {
                self.retire(
                    ctx,
                    lane,
                    Retiring { established: new, close_at: now + linger, reason },
                );
                self.lanes[lane].active = Some(existing);
                if self.due(lane).is_some() {
                    self.lanes[lane].not_before = Some(now + TAKEOVER_RETRY);
                }
                return;
            }
            Survivor::New(reason) => reason,
        };
        let (from, to) = (existing.remote, new.remote);
        let listener = new.direction == Direction::Dialled && new.dialled_at == DialledAt::Listener;
        self.retire(ctx, lane, Retiring { established: existing, close_at: now + linger, reason });
        self.activate(ctx, lane, new);
        if from != to && reason == CloseReason::Replaced {
            let number = LaneNumber(lane as u8);
            let moved = Notice::LaneMoved { peer: self.who(), lane: number, from, to };
            ctx.push(Action::Notice(moved));
            if listener {
                self.follow(from, to);
            }
        }
    }

    /// The listener was found at another address on one lane: the others go there too.
    fn follow(&mut self, from: SocketAddr, to: SocketAddr) {
        let all = self.lanes.iter_mut().filter_map(|lane| lane.active.as_mut());
        let dialled = all.filter(|established| {
            established.direction == Direction::Dialled
                && established.dialled_at == DialledAt::Listener
        });
        for established in dialled.filter(|established| established.remote == from) {
            established.move_to = vec![to];
        }
    }

    fn activate(&mut self, ctx: &mut Context, lane: usize, established: Established) {
        let connection = established.connection;
        let state = &mut self.lanes[lane];
        state.stable_at = Some(established.since + STABLE);
        state.not_before = None;
        state.missing_since = None;
        state.active = Some(established);
        ctx.connection(connection, ToConnection::Activate(self.port));
    }

    fn retire(&mut self, ctx: &mut Context, lane: usize, retiring: Retiring) {
        let lane = &mut self.lanes[lane];
        if lane.retiring.len() == MAX_RETIRING {
            let oldest = lane.retiring.remove(0);
            ctx.close(oldest.established.connection, oldest.reason);
        }
        lane.retiring.push(retiring);
    }

    /// The connection of a lane is gone. If the one it had won over is still there, that one takes over again.
    fn lane_lost(&mut self, ctx: &mut Context, now: Instant, lane: usize, why: &Ended) {
        if let Some(fallback) = self.lanes[lane].retiring.pop() {
            return self.activate(ctx, lane, fallback.established);
        }
        if is_duplicate(why) {
            self.lanes[lane].not_before = Some(now + Backoff::pause(&mut ctx.rng));
        } else {
            self.back_off(ctx, now, lane);
        }
        self.lanes[lane].missing_since = Some(now);
        self.has_left = is_goodbye(why);
        let why = Down::Ended { why: why.clone(), local: ctx.local };
        self.last_error = Some(LastError::Lost(why.clone()));
        let peer = self.who();
        let notice = if self.is_up() {
            Notice::LaneDown { peer, lane: LaneNumber(lane as u8), why }
        } else {
            let up = now.saturating_duration_since(self.since);
            self.since = now;
            Notice::PeerDown { peer, why, up }
        };
        ctx.push(Action::Notice(notice));
    }

    /// A new instance: the peer restarted, and whatever the old one had open is dead.
    fn drop_former_instance(&mut self, ctx: &mut Context, new: &Established) {
        let Some(known) = self.hello.as_ref().map(|hello| hello.instance) else { return };
        if known == new.instance {
            return;
        }
        let mut was_up = false;
        for lane in &mut self.lanes {
            for established in lane.take_other_instances(new.instance) {
                was_up = true;
                ctx.close(established.connection, CloseReason::Replaced);
            }
            if lane.active.is_none() {
                lane.missing_since = Some(new.since);
            }
        }
        if was_up {
            let (peer, remote) = (self.who(), new.remote);
            ctx.push(Action::Notice(Notice::PeerRestarted { peer, remote }));
        }
        self.watch_for_duplicates(ctx, known, new);
    }

    /// A restart brings an instance never seen; two programs with one key bring each other's back.
    fn watch_for_duplicates(&mut self, ctx: &mut Context, known: [u8; 16], new: &Established) {
        let now = new.since;
        if self.former_instances.contains(&new.instance) {
            self.alternations.push(now);
        }
        if !self.former_instances.contains(&known) {
            self.former_instances.truncate(MAX_FORMER - 1);
            self.former_instances.insert(0, known);
        }
        self.alternations.retain(|at| now.saturating_duration_since(*at) <= ALTERNATION_WINDOW);
        if self.alternations.len() > MAX_ALTERNATIONS {
            self.alternations.clear();
            let (peer, remote) = (self.who(), new.remote);
            ctx.push(Action::Notice(Notice::DuplicateNode { peer, remote }));
        }
    }

    /// Told once per value.
    fn warn_of_mtu(&self, ctx: &mut Context, theirs: u16) {
        let known = self.hello.as_ref().map(|hello| hello.inner_mtu);
        if theirs != ctx.inner_mtu && known != Some(theirs) {
            let (peer, ours) = (self.who(), ctx.inner_mtu);
            ctx.push(Action::Notice(Notice::MtuMismatch { peer, ours, theirs }));
        }
    }
}

fn is_goodbye(why: &Ended) -> bool {
    let Ended::ByPeer { code, .. } = why else { return false };
    CloseReason::of_code(*code) == Some(CloseReason::Shutdown)
}
