//! One peer: its lanes, and what connections that come and go mean for them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipop_datapath::{
    PortId,
    command::{CloseReason, Command, ConnectionId, Direction, Ended, Lane as LaneNumber},
    hello::Hello,
    node_id::NodeId,
};

use super::{
    Action, Context, PeerAddress,
    backoff::Backoff,
    dialling::{Attempt, is_duplicate},
    lane::{Lane, Link, MAX_RETIRING, Retiring, STABLE, Verdict, Via, arbitrate, linger},
    notice::{Notice, explain},
};

/// A takeover soon after the first connection looks like a simultaneous dial and may lose. It is tried again at this pace, without backing off:
/// the dead connection outlives [`SIMULTANEOUS`](super::lane::SIMULTANEOUS) by two seconds only, and a peer that has no address cannot be dialled
/// once it is gone.
const TAKEOVER_RETRY: Duration = Duration::from_millis(500);
/// Instances remembered in order to recognise two programs with one key.
const MAX_FORMER: usize = 8;
/// More returns of a former instance than this within [`ALTERNATION_WINDOW`] are two programs with one key.
const MAX_ALTERNATIONS: usize = 3;
const ALTERNATION_WINDOW: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) index: usize,
    pub(super) address: Option<PeerAddress>,
    pub(super) port: PortId,
    /// As many as this node has workers.
    pub(super) lanes: Vec<Lane>,
    /// How many of them the peer serves too.
    pub(super) lanes_wanted: usize,
    pub(super) hello: Option<Hello>,
    /// Since when it is up, or down.
    pub(super) since: Instant,
    pub(super) last_error: Option<String>,
    /// The dial failure that the operator was told last, and when.
    pub(super) reported: Option<(String, Instant)>,
    /// A resolution is under way and must answer by then.
    pub(super) resolving: Option<Instant>,
    /// The latest answer of the resolver.
    pub(super) checked_at: Instant,
    former_instances: Vec<[u8; 16]>,
    alternations: Vec<Instant>,
}

impl Peer {
    pub(super) fn new(
        node: NodeId,
        address: Option<PeerAddress>,
        index: usize,
        ctx: &Context,
        now: Instant,
    ) -> Self {
        Self {
            node,
            index,
            address,
            port: PortId(ctx.first_port + index as u16),
            lanes: (0..ctx.lanes).map(|_| Lane::default()).collect(),
            lanes_wanted: 1,
            hello: None,
            since: now,
            last_error: None,
            reported: None,
            resolving: None,
            checked_at: now,
            former_instances: Vec::new(),
            alternations: Vec::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.lanes.iter().any(|lane| lane.active.is_some())
    }

    /// A connection of this peer is established. Its lane exists here.
    pub(super) fn connected(&mut self, ctx: &mut Context, mut new: Link, hello: Hello) {
        let (now, lane) = (new.since, usize::from(hello.lane));
        if let Some(via) = self.finish_attempt(lane, new.connection) {
            new.via = via;
        }
        self.warn_of_mtu(ctx, hello.inner_mtu);
        self.drop_former_instance(ctx, &new);
        let was_up = self.is_up();
        self.lanes_wanted = self.lanes.len().min(usize::from(hello.lanes));
        self.hello = Some(hello);
        match self.lanes[lane].active.take() {
            Some(existing) => self.resolve_conflict(ctx, lane, existing, new),
            None if was_up => {
                let remote = new.remote;
                self.activate(ctx, lane, new);
                let number = LaneNumber(lane as u8);
                let up = Notice::LaneUp { peer: self.node, lane: number, remote };
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
            state.retiring.retain(|retiring| retiring.link.connection != connection);
            if matches!(&state.attempt, Some(Attempt::Dialling { connection: dialled, .. }) if *dialled == connection)
            {
                return self.dial_ended(ctx, now, lane, why);
            }
            if state.active.take_if(|link| link.connection == connection).is_some() {
                return self.lane_lost(ctx, now, lane, why);
            }
        }
    }

    /// The peer is at another address.
    pub(super) fn moved(&mut self, ctx: &mut Context, connection: ConnectionId, to: SocketAddr) {
        for (lane, number) in self.lanes.iter_mut().zip(0u8..) {
            let Some(link) = lane.link_mut(connection) else { continue };
            let from = std::mem::replace(&mut link.remote, to);
            for target in link.move_to.iter_mut().filter(|target| **target == from) {
                *target = to;
            }
            if from != to {
                let lane = LaneNumber(number);
                ctx.push(Action::Notice(Notice::LaneMoved { peer: self.node, lane, from, to }));
            }
        }
    }

    /// If this connection is the one being dialled, the dial is over; tells what was dialled.
    fn finish_attempt(&mut self, lane: usize, connection: ConnectionId) -> Option<Via> {
        let ours = |attempt: &mut Attempt| matches!(attempt, Attempt::Dialling { connection: dialled, .. } if *dialled == connection);
        match self.lanes[lane].attempt.take_if(ours)? {
            Attempt::Dialling { via, .. } => Some(via),
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
        if let Some(hello) = self.hello.clone() {
            let (peer, port) = (self.node, self.port);
            ctx.push(Action::Notice(Notice::PeerUp { peer, port, remote, direction, hello }));
        }
    }

    /// Two connections for one lane: one stays.
    fn resolve_conflict(&mut self, ctx: &mut Context, lane: usize, existing: Link, new: Link) {
        let now = new.since;
        let linger = linger(ctx.local, self.node, existing.direction, new.direction);
        let reason = match arbitrate(ctx.local, self.node, &existing, &new) {
            Verdict::KeepExisting(reason) => {
                self.retire(ctx, lane, Retiring { link: new, close_at: now + linger, reason });
                self.lanes[lane].active = Some(existing);
                if self.due(lane).is_some() {
                    self.lanes[lane].not_before = Some(now + TAKEOVER_RETRY);
                }
                return;
            }
            Verdict::TakeNew(reason) => reason,
        };
        let (from, to) = (existing.remote, new.remote);
        let listener = new.direction == Direction::Dialled && new.via == Via::Listener;
        self.retire(ctx, lane, Retiring { link: existing, close_at: now + linger, reason });
        self.activate(ctx, lane, new);
        if from != to && reason == CloseReason::Replaced {
            let number = LaneNumber(lane as u8);
            ctx.push(Action::Notice(Notice::LaneMoved { peer: self.node, lane: number, from, to }));
            if listener {
                self.follow(from, to);
            }
        }
    }

    /// The listener was found at another address on one lane: the others go there too.
    fn follow(&mut self, from: SocketAddr, to: SocketAddr) {
        let links = self.lanes.iter_mut().filter_map(|lane| lane.active.as_mut());
        let dialled =
            links.filter(|link| link.direction == Direction::Dialled && link.via == Via::Listener);
        for link in dialled.filter(|link| link.remote == from) {
            link.move_to = vec![to];
        }
    }

    fn activate(&mut self, ctx: &mut Context, lane: usize, link: Link) {
        let connection = link.connection;
        let state = &mut self.lanes[lane];
        state.stable_at = Some(link.since + STABLE);
        state.not_before = None;
        state.missing_since = None;
        state.active = Some(link);
        ctx.command(Command::Activate { connection, port: self.port }, connection);
    }

    fn retire(&mut self, ctx: &mut Context, lane: usize, retiring: Retiring) {
        let lane = &mut self.lanes[lane];
        if lane.retiring.len() == MAX_RETIRING {
            let oldest = lane.retiring.remove(0);
            ctx.close(oldest.link.connection, oldest.reason);
        }
        lane.retiring.push(retiring);
    }

    /// The connection of a lane is gone. If the one it had won over is still there, that one takes over again.
    fn lane_lost(&mut self, ctx: &mut Context, now: Instant, lane: usize, why: &Ended) {
        if let Some(fallback) = self.lanes[lane].retiring.pop() {
            return self.activate(ctx, lane, fallback.link);
        }
        if is_duplicate(why) {
            self.lanes[lane].not_before = Some(now + Backoff::pause(&mut ctx.rng));
        } else {
            self.back_off(ctx, now, lane);
        }
        self.lanes[lane].missing_since = Some(now);
        let why = explain(why, ctx.local);
        self.last_error = Some(why.clone());
        let peer = self.node;
        let notice = if self.is_up() {
            Notice::LaneDown { peer, lane: LaneNumber(lane as u8), why }
        } else {
            let up = now.saturating_duration_since(self.since);
            self.since = now;
            let name = self.hello.as_ref().map(|hello| hello.name.clone()).unwrap_or_default();
            Notice::PeerDown { peer, name, why, up }
        };
        ctx.push(Action::Notice(notice));
    }

    /// A new instance: the peer restarted, and whatever the old one had open is dead.
    fn drop_former_instance(&mut self, ctx: &mut Context, new: &Link) {
        let Some(known) = self.hello.as_ref().map(|hello| hello.instance) else { return };
        if known == new.instance {
            return;
        }
        let mut was_up = false;
        for lane in &mut self.lanes {
            for link in lane.take_other_instances(new.instance) {
                was_up = true;
                ctx.close(link.connection, CloseReason::Replaced);
            }
            if lane.active.is_none() {
                lane.missing_since = Some(new.since);
            }
        }
        if was_up {
            let (peer, remote) = (self.node, new.remote);
            ctx.push(Action::Notice(Notice::PeerRestarted { peer, remote }));
        }
        self.watch_for_duplicates(ctx, known, new);
    }

    /// A restart brings an instance never seen; two programs with one key bring each other's back.
    fn watch_for_duplicates(&mut self, ctx: &mut Context, known: [u8; 16], new: &Link) {
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
            let (peer, remote) = (self.node, new.remote);
            ctx.push(Action::Notice(Notice::DuplicateNode { peer, remote }));
        }
    }

    /// Told once per value.
    fn warn_of_mtu(&self, ctx: &mut Context, theirs: u16) {
        let known = self.hello.as_ref().map(|hello| hello.inner_mtu);
        if theirs != ctx.inner_mtu && known != Some(theirs) {
            let (peer, ours) = (self.node, ctx.inner_mtu);
            ctx.push(Action::Notice(Notice::MtuMismatch { peer, ours, theirs }));
        }
    }
}
