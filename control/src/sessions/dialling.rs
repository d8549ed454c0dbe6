//! When a lane is dialled, where, and what follows from success and failure.
//!
//! [`Peer::due`] states what each lane wants, from the state alone; [`Peer::maintain`] acts on it after every input, and
//! the next time-out follows from it, so that the two cannot disagree.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::{
    command::{CloseReason, ConnectionId, Direction, Ended, Lane as LaneNumber, ToConnection},
    path::{alias, is_of_aliases, port_of_alias},
};

use super::{
    Action, Context, PeerPath,
    backoff::Backoff,
    canonical,
    lane::{DialledAt, Established},
    peer::{Dialler, Peer},
    unreached::{LastError, Tried, Unreached, Unresolved},
};
use crate::{notice::Notice, timed::Timer};

/// How long one address may take to answer before the next is tried. Three retransmissions of an Initial fit.
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a resolution may take; resolvers with several dead servers take half a minute.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the name of a connected peer is looked up, to notice that it moved.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How long an end that did not dial waits for the other to bring a missing lane back.
const PATIENCE: Duration = Duration::from_secs(3);
/// Addresses tried per round.
const MAX_ADDRESSES: usize = 8;
/// An unchanged dial failure is reported again after this.
const REPEAT_REPORT: Duration = Duration::from_secs(300);

/// A dial under way.
#[derive(Debug)]
pub(super) enum Attempt {
    Resolving,
    Dialling {
        connection: ConnectionId,
        dialled_at: DialledAt,
        remote: SocketAddr,
        /// Addresses not yet tried.
        rest: VecDeque<SocketAddr>,
        deadline: Instant,
        /// What went wrong so far.
        tried: Vec<Tried>,
    },
}

/// A lane wants to be dialled.
pub(super) struct Due {
    /// Not before this.
    pub(super) at: Option<Instant>,
    target: Target,
}

enum Target {
    Known(Vec<SocketAddr>, DialledAt),
    Configured,
}

impl Peer {
    /// Whether, when and where this lane wants to be dialled; independent of a dial under way.
    pub(super) fn due(&self, lane: usize) -> Option<Due> {
        let state = &self.lanes[lane];
        let at = state.not_before;
        if let Some(established) = &state.active {
            if established.move_to.is_empty() {
                return self.takeover_by_path(lane, established);
            }
            let dialled_at = match established.direction {
                Direction::Dialled => DialledAt::Listener,
                Direction::Accepted => DialledAt::PeersSource,
            };
            return Some(Due {
                at,
                target: Target::Known(established.move_to.clone(), dialled_at),
            });
        }
        if lane == 0 && !self.is_up() {
            return self.first_lane_due();
        }
        if lane > 0 && lane >= self.lanes_wanted {
            return None;
        }
        if let Some(remote) = self.listener_in_use() {
            return Some(Due { at, target: Target::Known(vec![remote], DialledAt::Listener) });
        }
        if !self.is_up() {
            return None;
        }
        if let (PeerPath::Listener(remote), Dialler::ThisNode) = (self.path, self.dialler) {
            return Some(Due { at, target: Target::Known(vec![remote], DialledAt::Listener) });
        }
        self.address.as_ref()?;
        let patient = state.missing_since.map(|since| since + PATIENCE);
        Some(Due { at: at.max(patient), target: Target::Configured })
    }

    /// When and where the lane that comes first is dialled while the peer is down.
    fn first_lane_due(&self) -> Option<Due> {
        let at = self.lanes[0].not_before;
        if self.address.is_some() {
            return Some(Due { at, target: Target::Configured });
        }
        let mut known: Vec<SocketAddr> = self.dialled_alias().into_iter().collect();
        if self.path == PeerPath::Down {
            known.extend(&self.last_addresses);
        }
        (!known.is_empty()).then_some(Due { at, target: Target::Known(known, DialledAt::Listener) })
    }

    /// A peer that was found where it had been before goes over to path control, which follows it when addresses change.
    fn takeover_by_path(&self, lane: usize, established: &Established) -> Option<Due> {
        let alias = self.dialled_alias().filter(|alias| *alias != established.remote)?;
        (lane == 0 && self.address.is_none()).then_some(Due {
            at: self.lanes[lane].not_before,
            target: Target::Known(vec![alias], DialledAt::Alias),
        })
    }

    /// The peer's alias, if there is a way and it is this node's part to dial it.
    fn dialled_alias(&self) -> Option<SocketAddr> {
        (self.path != PeerPath::Down && self.dialler == Dialler::ThisNode).then(|| alias(self.port))
    }

    /// Acts on everything whose time has come.
    pub(super) fn maintain(&mut self, ctx: &mut Context, now: Instant) {
        self.close_retired(ctx, now);
        self.close_unproved(ctx, now);
        if self.resolving.is_some_and(|deadline| now >= deadline) {
            self.resolved(ctx, now, Err(Unresolved::Late));
        }
        if self.recheck_at().is_some_and(|at| now >= at) {
            self.start_resolving(ctx, now);
        }
        for lane in 0..self.lanes.len() {
            if let Some(Attempt::Dialling { connection, deadline, .. }) = self.lanes[lane].attempt
                && now >= deadline
            {
                ctx.close(connection, CloseReason::Replaced);
                self.address_failed(ctx, now, lane, &Ended::TimedOut);
            }
            if self.lanes[lane].attempt.is_none()
                && let Some(due) = self.due(lane)
                && due.at.is_none_or(|at| now >= at)
            {
                self.start_attempt(ctx, now, lane, due.target);
            }
        }
    }

    /// The resolver's answer.
    pub(super) fn resolved(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        result: Result<Vec<SocketAddr>, Unresolved>,
    ) {
        if self.resolving.take().is_none() {
            return;
        }
        self.checked_at = now;
        let result = result.and_then(|addresses| {
            let without = match addresses[..] {
                [] => Unresolved::NoAddress,
                _ => Unresolved::OnlyAliases,
            };
            let addresses = dialable(addresses);
            if addresses.is_empty() { Err(without) } else { Ok(addresses) }
        });
        if let Ok(addresses) = &result {
            self.resolved_addresses.clone_from(addresses);
            self.notice_move(addresses);
        }
        for lane in 0..self.lanes.len() {
            if !matches!(self.lanes[lane].attempt, Some(Attempt::Resolving)) {
                continue;
            }
            self.lanes[lane].attempt = None;
            if self.due(lane).is_none() {
                continue;
            }
            match &result {
                Ok(addresses) => {
                    let addresses =
                        self.dialled_alias().into_iter().chain(addresses.clone()).collect();
                    self.dial_next(ctx, now, lane, DialledAt::Listener, addresses, Vec::new());
                }
                Err(why) => {
                    self.round_failed(ctx, now, lane, Unreached::Unresolved(why.clone()));
                }
            }
        }
    }

    /// The connection of a dial under way ended before it was established.
    pub(super) fn dial_ended(&mut self, ctx: &mut Context, now: Instant, lane: usize, why: &Ended) {
        if is_duplicate(why) {
            self.lanes[lane].attempt = None;
            self.lanes[lane].not_before = Some(now + Backoff::pause(&mut ctx.rng));
            return;
        }
        self.address_failed(ctx, now, lane, why);
    }

    /// Sets the wait before the next dial, after a failure or the loss of a connection.
    pub(super) fn back_off(&mut self, ctx: &mut Context, now: Instant, lane: usize) -> Duration {
        let lane = &mut self.lanes[lane];
        if lane.stable_at.take_if(|stable_at| *stable_at <= now).is_some() {
            lane.backoff.reset();
        }
        let wait = lane.backoff.next(&mut ctx.rng);
        lane.not_before = Some(now + wait);
        wait
    }

    /// The host's addresses are these now. Whoever dialled an address that is gone cannot find this node by
    /// itself: it is dialled. Connections that this node dialled validate their path anew.
    pub(super) fn local_addresses_changed(
        &mut self,
        ctx: &mut Context,
        is_local: &dyn Fn(IpAddr) -> bool,
        removed_any: RemovedAny,
    ) {
        let literal = self.address.as_ref().and_then(super::PeerAddress::literal);
        for established in self.lanes.iter_mut().filter_map(|lane| lane.active.as_mut()) {
            if port_of_alias(established.remote).is_some() {
                // Path control watches over it.
                continue;
            }
            let gone = established.local_ip.is_some_and(|ip| !is_local(ip));
            match established.direction {
                Direction::Accepted if gone => {
                    established.move_to =
                        dialable([established.remote].into_iter().chain(literal).collect());
                }
                Direction::Accepted if established.unproved_until.is_none() => {
                    established.move_to.clear();
                }
                Direction::Accepted => {}
                Direction::Dialled => {
                    let unsure = established.local_ip.is_none() && removed_any == RemovedAny::Yes;
                    if gone || unsure {
                        established.local_ip = None;
                        ctx.connection(established.connection, ToConnection::Probe);
                    }
                }
            }
        }
    }

    /// Where the peer listens, as proved by a connection that this node dialled.
    fn listener_in_use(&self) -> Option<SocketAddr> {
        let all = self.lanes.iter().filter_map(|lane| lane.active.as_ref());
        let mut dialled = all
            .filter(|established| {
                established.direction == Direction::Dialled
                    && established.dialled_at == DialledAt::Listener
            })
            .filter(|established| established.move_to.is_empty());
        dialled.next().map(|established| established.remote)
    }

    /// When the name of the peer is due to be looked up again although it is connected.
    fn recheck_at(&self) -> Option<Instant> {
        let established = self.lanes[0].active.as_ref()?;
        let by_name = self.address.as_ref()?.literal().is_none();
        let dialled = established.direction == Direction::Dialled
            && established.dialled_at == DialledAt::Listener;
        (by_name && dialled && self.resolving.is_none())
            .then(|| self.checked_at.max(established.since) + RECHECK_INTERVAL)
    }

    /// The name leads elsewhere now: what still goes to the old address is to be taken over.
    fn notice_move(&mut self, addresses: &[SocketAddr]) {
        let all = self.lanes.iter_mut().filter_map(|lane| lane.active.as_mut());
        for established in all.filter(|established| established.direction == Direction::Dialled) {
            if established.dialled_at == DialledAt::Listener {
                let remote = canonical(established.remote);
                let still_there = addresses.iter().any(|address| canonical(*address) == remote);
                established.move_to = if still_there { Vec::new() } else { addresses.to_vec() };
            }
        }
    }

    fn start_resolving(&mut self, ctx: &mut Context, now: Instant) {
        if let Some(address) = &self.address
            && self.resolving.is_none()
        {
            self.resolving = Some(now + RESOLVE_TIMEOUT);
            ctx.push(Action::Resolve { peer: self.node, address: address.clone() });
        }
    }

    fn start_attempt(&mut self, ctx: &mut Context, now: Instant, lane: usize, target: Target) {
        let literal = self.address.as_ref().and_then(super::PeerAddress::literal);
        let (addresses, dialled_at) = match (target, literal) {
            (Target::Known(addresses, dialled_at), _) => (addresses, dialled_at),
            (Target::Configured, Some(literal)) => {
                (self.dialled_alias().into_iter().chain([literal]).collect(), DialledAt::Listener)
            }
            (Target::Configured, None) => {
                self.lanes[lane].attempt = Some(Attempt::Resolving);
                return self.start_resolving(ctx, now);
            }
        };
        self.dial_next(ctx, now, lane, dialled_at, addresses.into(), Vec::new());
    }

    /// Dials the first of these addresses; when there is none left, the round has failed.
    fn dial_next(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        lane: usize,
        dialled_at: DialledAt,
        mut rest: VecDeque<SocketAddr>,
        tried: Vec<Tried>,
    ) {
        let Some(remote) = rest.pop_front() else {
            self.lanes[lane].attempt = None;
            return self.round_failed(ctx, now, lane, Unreached::Tried(tried));
        };
        let number = LaneNumber(lane as u8);
        let dialled_at =
            if port_of_alias(remote).is_some() { DialledAt::Alias } else { dialled_at };
        let connection = ctx.new_connection(number, self.port);
        ctx.connection(connection, ToConnection::Dial { peer: self.node, lane: number, remote });
        ctx.refused_sends.forget_at(remote.ip());
        let deadline = now + DIAL_TIMEOUT;
        self.lanes[lane].attempt =
            Some(Attempt::Dialling { connection, dialled_at, remote, rest, deadline, tried });
    }

    /// The address dialled now is no good: on to the next, if a connection is still wanted.
    fn address_failed(&mut self, ctx: &mut Context, now: Instant, lane: usize, why: &Ended) {
        let Some(Attempt::Dialling { dialled_at, remote, rest, mut tried, .. }) =
            self.lanes[lane].attempt.take()
        else {
            return;
        };
        if self.due(lane).is_some() {
            let errno = ctx.refused_sends.errno_at(remote.ip());
            tried.push(Tried { remote, why: why.clone(), local: ctx.local, errno });
            self.dial_next(ctx, now, lane, dialled_at, rest, tried);
        }
    }

    fn round_failed(&mut self, ctx: &mut Context, now: Instant, lane: usize, why: Unreached) {
        let retry_in = self.back_off(ctx, now, lane);
        let repeated = self.reported.as_ref().is_some_and(|(reported, at)| {
            *reported == why && now.saturating_duration_since(*at) < REPEAT_REPORT
        });
        if !repeated {
            self.reported = Some((why.clone(), now));
            let (peer, why) = (self.who(), why.clone());
            let lane = LaneNumber(lane as u8);
            ctx.push(Action::Notice(Notice::DialFailed { peer, lane, why, retry_in }));
        }
        self.last_error = Some(LastError::Unreached(why));
    }

    fn close_retired(&mut self, ctx: &mut Context, now: Instant) {
        for lane in &mut self.lanes {
            for retired in lane.retiring.extract_if(.., |retiring| now >= retiring.close_at) {
                ctx.close(retired.established.connection, retired.reason);
            }
        }
    }
}

/// When [`Peer::maintain`] has something to do next.
impl Timer for Peer {
    fn wake_at(&self) -> Option<Instant> {
        let lanes = self.lanes.iter().enumerate().flat_map(|(index, lane)| {
            let attempt = match &lane.attempt {
                Some(Attempt::Dialling { deadline, .. }) => Some(*deadline),
                Some(Attempt::Resolving) => None,
                None => self.due(index).and_then(|due| due.at),
            };
            let unproved = lane.active.as_ref().and_then(|established| established.unproved_until);
            let closes = lane.retiring.iter().map(|retiring| retiring.close_at);
            closes.chain(attempt).chain(unproved)
        });
        lanes.chain(self.resolving).chain(self.recheck_at()).min()
    }
}

/// Whether an address of this host went away since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RemovedAny {
    Yes,
    No,
}

/// Closed because the other of two simultaneous dials stays: no failure.
pub(super) fn is_duplicate(why: &Ended) -> bool {
    const DUPLICATE: u64 = CloseReason::Duplicate as u64;
    matches!(why, Ended::ByPeer { code: DUPLICATE, .. } | Ended::Closed(CloseReason::Duplicate))
}

/// Those of the addresses that somebody names which are dialled: an alias stands for a path, and is nobody's to name.
pub(super) fn dialable(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = Vec::new();
    for address in addresses {
        let is_usable = !is_of_aliases(address.ip()) && !seen.contains(&address);
        if is_usable && seen.len() < MAX_ADDRESSES {
            seen.push(address);
        }
    }
    seen
}
