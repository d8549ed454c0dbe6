//! Frames out of one tunnel, into the switch.

use std::time::Instant;

use bytes::Bytes;
use ipop_learning::PortId;

use crate::{
    drops::DropReason, forward::Switch, frame::Offload, io::Io, record::FrameSink, tunnel::Tunnel,
};

/// Takes the frames of one tunnel.
pub(super) struct Inbound<'a, I> {
    now: Instant,
    /// The peer's port. `None` until the peer is admitted; then its frames are counted where they would have gone, at the first TAP.
    port: Option<PortId>,
    /// Cleared when the tunnel has ended. What still comes out of it would teach the table stations on a port that is down, or that the peer has lost.
    is_open: bool,
    switch: &'a mut Switch,
    io: &'a mut I,
}

impl<'a, I: Io> Inbound<'a, I> {
    pub(super) fn of(now: Instant, tunnel: &Tunnel, switch: &'a mut Switch, io: &'a mut I) -> Self {
        Self { now, port: tunnel.port(), is_open: !tunnel.is_ended(), switch, io }
    }
}

impl<I: Io> FrameSink for Inbound<'_, I> {
    fn deliver(&mut self, offload: Offload, pieces: &mut Vec<Bytes>) {
        let Some(port) = self.port.filter(|_| self.is_open) else {
            return self.dropped(DropReason::NotAdmitted, 1);
        };
        if let Err(reason) = self.switch.inbound(self.now, port, offload, pieces, self.io) {
            self.switch.count_drop(port, reason);
        }
    }

    fn dropped(&mut self, reason: DropReason, frames: u64) {
        let port = self.port.unwrap_or(PortId(0));
        self.switch.counters.port(port).drop_frames(reason, frames);
    }
}

/// Takes in what the connection received.
pub(super) fn drain(now: Instant, tunnel: &mut Tunnel, switch: &mut Switch, io: &mut impl Io) {
    let mut inbound = Inbound::of(now, tunnel, switch, io);
    tunnel.drain_received(now, &mut inbound);
}
