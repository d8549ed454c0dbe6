//! Where a frame goes: what the table knows, who gets what is flooded, and what may pass between which ports.

use std::time::Instant;

use ipop_learning::{PortId, VlanId};

use crate::{
    context::Context,
    drops::DropReason,
    frame::Description,
    shared::{PortKind, Shared},
    storm::{STORM_BURST_FRAMES, STORM_RATE_FRAMES, TokenBucket},
};

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// To one port.
    To(PortId),
    /// To every port of the flood set.
    Flood,
}

/// What each port may still have flooded.
pub(super) struct Relay {
    /// By port.
    buckets: Vec<TokenBucket>,
}

impl Relay {
    pub(super) fn new(ports: usize, now: Instant) -> Self {
        Self { buckets: vec![TokenBucket::new(STORM_RATE_FRAMES, STORM_BURST_FRAMES, now); ports] }
    }

    /// The way of a frame by its destination.
    #[inline]
    pub(super) fn route(
        &mut self,
        (now, now_s): (Instant, u32),
        from: PortId,
        what: &Description,
        cx: &Context,
    ) -> Result<Route, DropReason> {
        let (shared, destination) = (&cx.shared, what.ethernet().destination);
        if !destination.is_group()
            && let Some(to) = shared.fdb.look_up(VlanId::UNTAGGED, destination, now_s)
        {
            if to == from {
                return Err(DropReason::SamePort);
            }
            if !may_pass(shared.kind(from), shared.kind(to)) {
                return Err(DropReason::SplitHorizon);
            }
            return Ok(Route::To(to));
        }
        if !self.buckets[usize::from(from.0)].take(now) {
            return Err(DropReason::Storm);
        }
        Ok(Route::Flood)
    }
}

/// The ports that get what comes from `from` and is for everybody, or for a station that nobody knows.
pub(super) fn flood_set(shared: &Shared, from: PortId) -> impl Iterator<Item = PortId> {
    let to = |kind| may_pass(shared.kind(from), kind);
    let taps = to(PortKind::Tap).then(|| shared.taps());
    let peers = to(PortKind::Peer).then(|| shared.live_peers());
    let ports = taps.into_iter().flatten().chain(peers.into_iter().flatten());
    ports.filter(move |port| *port != from)
}

/// Split horizon: peers are connected to one another, so what came from one is none of the others' business.
fn may_pass(from: PortKind, to: PortKind) -> bool {
    (from, to) != (PortKind::Peer, PortKind::Peer)
}
