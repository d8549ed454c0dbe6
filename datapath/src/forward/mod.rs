//! The switch proper (IEEE 802.1Q clause 8, one VLAN): one way for every frame, whichever port it comes from.
//!
//! [`ingress`] checks, describes and learns; [`relay`] looks up and says which ports get the frame; [`egress`] finishes, joins and writes what goes to a local port,
//! and gives what goes to a peer to its [`Peers`]. What finds no way is dropped in [`Switch::forward`], and nowhere else.

mod egress;
mod ingress;
mod relay;

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
    context::Context,
    drops::{DropReason, Passed},
    frame::{Frame, FrameBytes, Offload, describe},
    io::Io,
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
    relay: Relay,
    pub(crate) egress: Egress,
    /// Of a frame that goes to several ports and comes in pieces, which whoever takes them may drain.
    copy: Vec<Bytes>,
}

impl Switch {
    pub(crate) fn new(udp_ports: Vec<u16>) -> Self {
        Self {
            ingress: Ingress::new(udp_ports),
            relay: Relay::default(),
            egress: Egress::new(),
            copy: Vec::new(),
        }
    }

    /// A frame's way, from the port that it came in at to where it goes: by its destination, or to the one port that `only` names.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        frame: Ingoing<'_>,
        only: Option<PortId>,
        peers: &mut impl Peers,
        cx: &mut Context,
        io: &mut impl Io,
    ) {
        let Ingoing { port, offload, mut bytes } = frame;
        let now_s = cx.shared.now_s(now);
        let described = ingress::check(now_s, port, &bytes, cx)
            .and_then(|()| describe(offload?, bytes.head(), bytes.len()));
        let passed = described.as_ref().map_err(|reason| *reason).and_then(|what| {
            self.ingress.learn(now_s, port, what, bytes.head(), cx)?;
            let frame = Frame { what, bytes: bytes.again() };
            let route = match only {
                Some(to) => Destination::To(to),
                None => self.relay.route((now, now_s), port, what, cx)?,
            };
            match route {
                Destination::To(to) => self.egress.send(to, frame, peers, cx, io),
                Destination::Flood => self.flood(port, frame, peers, cx, io),
            }
        });
        if let Err(reason) = passed {
            cx.drop(port, reason, bytes.head());
        }
    }

    /// Sends a copy to each port that gets what is flooded. One that its port does not take is dropped there.
    fn flood(
        &mut self,
        from: PortId,
        mut frame: Frame<'_>,
        peers: &mut impl Peers,
        cx: &Context,
        io: &mut impl Io,
    ) -> Passed {
        let mut ports = relay::flood_set(cx, from).peekable();
        let mut has_ports = Err(DropReason::NoPort);
        while let Some(to) = ports.next() {
            let copy = match &frame.bytes {
                FrameBytes::Pieces(pieces) if ports.peek().is_some() => {
                    self.copy.clone_from(pieces);
                    Frame { what: frame.what, bytes: FrameBytes::Pieces(&mut self.copy) }
                }
                _ => frame.again(),
            };
            if let Err(reason) = self.egress.send(to, copy, peers, cx, io) {
                cx.drop(to, reason, frame.bytes.head());
            }
            has_ports = Ok(());
        }
        self.copy.clear();
        has_ports
    }
}
