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
    /// `None` until the peer is admitted.
    port: Option<PortId>,
    switch: &'a mut Switch,
    io: &'a mut I,
}

impl<'a, I: Io> Inbound<'a, I> {
    pub(super) fn of(now: Instant, tunnel: &Tunnel, switch: &'a mut Switch, io: &'a mut I) -> Self {
        let port = tunnel.peer.map(|(_, port)| port).filter(|_| tunnel.proved.is_some());
        Self { now, port, switch, io }
    }
}

impl<I: Io> FrameSink for Inbound<'_, I> {
    fn deliver(&mut self, offload: Offload, pieces: &mut Vec<Bytes>) {
        let Some(port) = self.port else {
            // No port to count it under: the first TAP's, which is where it would have gone.
            self.switch.count_drop(PortId(0), DropReason::NotAdmitted);
            return;
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
