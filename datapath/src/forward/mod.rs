//! The switch proper (IEEE 802.1Q clause 8, one VLAN): one way for every frame, whichever port it comes from.
//!
//! [`ingress`] checks, describes and learns; [`relay`] looks up and says which ports get the frame; [`egress`] finishes, joins and writes what goes to a local port,
//! and gives what goes to a peer to its [`Peers`]. What finds no way is dropped in [`Switch::forward`], a copy of a flooded
//! frame at the port that it was for. What a mailbox, a tunnel or the kernel takes no more is dropped there.

mod egress;
mod ingress;
mod relay;
pub mod trace;

use std::time::Instant;

use bytes::Bytes;
use ipop_learning::PortId;

pub(crate) use self::ingress::clear_loops;
use self::{
    egress::Egress,
    ingress::Ingress,
    relay::{Destination, Relay},
};
use crate::{
    core::context::Context,
    counters::drops::{DropReason, Passed},
    frame::{Frame, FrameBytes, Offload, describe},
    io::Io,
    port::PortKind,
};

/// What carries frames to peers.
pub(crate) trait Peers {
    /// Takes a frame for the peer at a port.
    fn send(&mut self, to: PortId, frame: Frame<'_>, cx: &Context, io: &mut impl Io) -> Passed;
}

/// A frame as it comes in.
pub(crate) struct Ingoing<'a> {
    pub(crate) port: PortId,
    /// What came with it as its offload, if that can be read.
    pub(crate) offload: Result<Offload, DropReason>,
    pub(crate) bytes: FrameBytes<'a>,
}

/// The forwarding state of one worker.
pub(crate) struct Switch {
    pub(crate) ingress: Ingress,
    pub(crate) relay: Relay,
    pub(crate) egress: Egress,
    /// Of a frame that goes to several ports and comes in pieces, which whoever takes them may drain.
    copy: Vec<Bytes>,
}

impl Switch {
    pub(crate) fn new(now: Instant, udp_ports: Vec<u16>) -> Self {
        Self {
            ingress: Ingress::new(udp_ports),
            relay: Relay::new(now),
            egress: Egress::new(),
            copy: Vec::new(),
        }
    }

    /// A frame's way, from the port that it came in at to where it goes: by its destination, or to the one port that `only` names.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        mut frame: Ingoing<'_>,
        only: Option<PortId>,
        peers: &mut impl Peers,
        cx: &mut Context,
        io: &mut impl Io,
    ) {
        if let Err(reason) = self.pass(now, &mut frame, only, peers, cx, io) {
            cx.drop(frame.port, reason, &frame.bytes);
        }
    }

    #[inline]
    fn pass(
        &mut self,
        now: Instant,
        frame: &mut Ingoing<'_>,
        only: Option<PortId>,
        peers: &mut impl Peers,
        cx: &mut Context,
        io: &mut impl Io,
    ) -> Passed {
        let now_s = cx.shared.now_s(now);
        let from = (frame.port, ingress::check(now_s, frame, cx)?);
        let (head, len) = (frame.bytes.head(), frame.bytes.len());
        let what = &describe(frame.offload?, head, len)?;
        self.ingress.learn(now_s, from, what, head, cx)?;
        let frame = Frame { what, bytes: frame.bytes.again() };
        let route = match only {
            Some(to) => Destination::To(to, cx.shared.ports.of(to)),
            None => self.relay.route((now, now_s), from, what, cx)?,
        };
        match route {
            Destination::To(to, port) => self.egress.send((to, port), frame, peers, cx, io),
            Destination::Flood => self.flood(from, frame, peers, cx, io),
        }
    }

    /// Sends a copy to each port that gets what is flooded. One that its port does not take is dropped there.
    fn flood(
        &mut self,
        from: (PortId, PortKind),
        mut frame: Frame<'_>,
        peers: &mut impl Peers,
        cx: &Context,
        io: &mut impl Io,
    ) -> Passed {
        let mut ports = relay::flood_set(&cx.local, &cx.shared, from).peekable();
        let mut copies = 0_u64;
        while let Some(to) = ports.next() {
            let copy = match &frame.bytes {
                FrameBytes::Pieces(pieces) if ports.peek().is_some() => {
                    self.copy.clone_from(pieces);
                    Frame { what: frame.what, bytes: FrameBytes::Pieces(&mut self.copy) }
                }
                _ => frame.again(),
            };
            let port = cx.shared.ports.of(to);
            if let Err(reason) = self.egress.send((to, port), copy, peers, cx, io) {
                cx.drop(to, reason, &frame.bytes);
            }
            copies += 1;
        }
        self.copy.clear();
        let beyond_first = copies.checked_sub(1).ok_or(DropReason::NoPort)?;
        cx.counters.port(from.0).copies.add(beyond_first);
        Ok(())
    }
}
