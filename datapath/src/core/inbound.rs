//! Frames out of one tunnel, into the switch.

use std::time::Instant;

use bytes::Bytes;
use ipop_learning::PortId;

use super::{Core, lanes::Lanes};
use crate::{
    core::context::Context,
    counters::drops::DropReason,
    forward::{Ingoing, Switch},
    frame::{FrameBytes, Offload},
    io::Io,
    record::FrameSink,
    tunnel::Tunnel,
};

/// Takes the frames of one tunnel.
pub(super) struct Inbound<'a, I> {
    now: Instant,
    /// The peer's port. `None` until the peer is admitted.
    port: Option<PortId>,
    /// Cleared when the tunnel has ended. What still comes out of it would teach the table stations on a port that is down, or that the peer has lost.
    is_open: bool,
    switch: &'a mut Switch,
    lanes: &'a mut Lanes,
    cx: &'a mut Context,
    io: &'a mut I,
}

impl Core {
    /// Where the frames of a tunnel go.
    pub(super) fn inbound<'a, I: Io>(
        &'a mut self,
        now: Instant,
        tunnel: &Tunnel,
        io: &'a mut I,
    ) -> Inbound<'a, I> {
        let Self { switch, lanes, cx, .. } = self;
        let (port, is_open) = (tunnel.port(), !tunnel.is_ended());
        Inbound { now, port, is_open, switch, lanes, cx, io }
    }
}

impl<I: Io> FrameSink for Inbound<'_, I> {
    fn deliver(&mut self, offload: Offload, pieces: &mut Vec<Bytes>) {
        let Some(port) = self.port.filter(|_| self.is_open) else {
            let (frame, reason) = (FrameBytes::Pieces(pieces), DropReason::NotAdmitted);
            self.cx.drop_before(self.port, reason, 1);
            return self.cx.show_dropped(self.port, reason, &frame);
        };
        let frame = Ingoing { port, offload: Ok(offload), bytes: FrameBytes::Pieces(pieces) };
        self.switch.forward(self.now, frame, None, self.lanes, self.cx, self.io);
    }

    fn dropped(&mut self, reason: DropReason, frames: u64) {
        self.cx.drop_before(self.port, reason, frames);
    }
}
