//! Where a frame goes: what the table knows, who gets what is flooded, and what may pass between which ports.

use std::time::Instant;

use ipop_learning::{MacAddr, PortId, VlanId};

use crate::{
    core::{context::Context, shared::Shared},
    counters::drops::DropReason,
    frame::Description,
    policy::bucket::PortBuckets,
    port::{LocalPort, PortKind, SharedPort},
};

/// Flooded frames (broadcast, multicast, unknown destination) a second that one port may send into the switch: 100 times what a busy
/// segment of some hundred hosts makes, and a tenth of what one core carries.
const STORM_RATE_FRAMES: u32 = 20_000;
/// Frames at once, half a second's worth.
const STORM_BURST_FRAMES: u32 = 10_000;

/// Where a frame goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination<'a> {
    /// To one port.
    To(PortId, &'a SharedPort),
    /// To every port of the flood set.
    Flood,
}

/// What each port may still have flooded.
pub(crate) struct Relay {
    /// Whoever gets a number of before finds its bucket full again after half a second.
    pub(crate) flooded: PortBuckets,
}

impl Relay {
    pub(super) fn new(now: Instant) -> Self {
        Self { flooded: PortBuckets::new(now, STORM_RATE_FRAMES, STORM_BURST_FRAMES) }
    }

    /// The way of a frame by its destination.
    #[inline]
    pub(super) fn route<'a>(
        &mut self,
        (now, now_s): (Instant, u32),
        (from, kind): (PortId, PortKind),
        what: &Description,
        cx: &'a Context,
    ) -> Result<Destination<'a>, DropReason> {
        let destination = what.headers().destination;
        if let Some(to) = look_up(now_s, (from, kind), destination, &cx.shared)? {
            return Ok(Destination::To(to, cx.shared.ports.of(to)));
        }
        if !self.flooded.take(now, from) {
            return Err(DropReason::Storm);
        }
        Ok(Destination::Flood)
    }
}

/// The port that leads to a station, if it is known and a frame from `from` may go there; `None` for what everybody gets.
#[inline]
pub(super) fn look_up(
    now_s: u32,
    (from, kind): (PortId, PortKind),
    destination: MacAddr,
    shared: &Shared,
) -> Result<Option<PortId>, DropReason> {
    if destination.is_group() {
        return Ok(None);
    }
    let Some(to) = shared.fdb.look_up(VlanId::UNTAGGED, destination, now_s) else {
        return Ok(None);
    };
    if to == from {
        return Err(DropReason::SamePort);
    }
    if !may_pass(kind, shared.ports.of(to).kind()) {
        return Err(DropReason::SplitHorizon);
    }
    Ok(Some(to))
}

/// The ports that get what comes from `from` and is for everybody, or for a station that nobody knows.
pub(super) fn flood_set<'a>(
    local: &'a [LocalPort],
    shared: &'a Shared,
    (from, kind): (PortId, PortKind),
) -> impl Iterator<Item = PortId> + use<'a> {
    let to = |other| may_pass(kind, other);
    let local = to(PortKind::Tap).then(|| local.iter().map(|local| local.port));
    let peers = to(PortKind::Peer).then(|| shared.ports.live_peers());
    let ports = local.into_iter().flatten().chain(peers.into_iter().flatten());
    ports.filter(move |port| *port != from)
}

/// Split horizon: peers are connected to one another, so what came from one is none of the others' business.
fn may_pass(from: PortKind, to: PortKind) -> bool {
    (from, to) != (PortKind::Peer, PortKind::Peer)
}
