//! Who gets in: what this node says of itself, and what it makes of what the peer says.

use std::sync::Arc;

use crate::{
    command::{CloseReason, Ended, Event, FromConnection},
    core::context::Context,
    frame::MAX_FRAME_LEN,
    path::port_of_alias,
    policy::admission::{Admission, ProofBinding, Unproved, Verdict},
    port::{LocalPort, TapOffload},
    tunnel::{
        Tunnel,
        hello::{Capabilities, Hello, HelloError},
    },
};

const AGENT: &str = concat!("ipop-switch ", env!("CARGO_PKG_VERSION"));

/// Lets peers in.
pub(super) struct Door {
    admission: Arc<dyn Admission>,
}

impl Door {
    pub(super) fn new(admission: Arc<dyn Admission>) -> Self {
        Self { admission }
    }

    /// The peer's key is proven: this node introduces itself, if it may join.
    pub(super) fn greet(&self, tunnel: &mut Tunnel, cx: &Context) -> Result<(), Closing> {
        let proven = tunnel.proven_node().zip(tunnel.exported());
        let (node, exported) = proven.ok_or(CloseReason::NotAdmitted)?;
        let Verdict::Admitted(port) = self.admission.verdict(node) else {
            return Err(CloseReason::NotAdmitted.into());
        };
        if port_of_alias(tunnel.remote).is_some_and(|path| path != port) {
            return Err(Closing::PathOfAnother);
        }
        let Some(handshake) = tunnel.handshake() else { return Ok(()) };
        handshake.peer = Some((node, port));
        let lane = handshake.dialled_lane.map_or(cx.worker, |lane| lane.0);
        let facts = &cx.facts;
        let binding = ProofBinding::new(facts.node, node, tunnel.direction, exported);
        let hello = Hello {
            capabilities: Capabilities(
                capabilities(&cx.local).0
                    | Capabilities::SIGNALLING
                    | Capabilities::REPEATS
                    | Capabilities::REACHED
                    | Capabilities::QUESTIONS,
            ),
            max_frame_len: MAX_FRAME_LEN as u32,
            inner_mtu: facts.inner_mtu,
            lanes: facts.lanes,
            lane,
            name: facts.name.clone(),
            instance: facts.instance,
            probe_token: Some(facts.probe_token),
            agent: AGENT.into(),
            proofs: self.admission.proofs(facts.node, &binding),
        };
        tunnel.say_hello(&hello);
        Ok(())
    }

    /// The peer has introduced itself: its frames are welcome from now on, if what it says will do.
    pub(super) fn admit(
        &self,
        tunnel: &mut Tunnel,
        mut hello: Hello,
        cx: &mut Context,
    ) -> Result<(), Closing> {
        let Some((peer, port)) = tunnel.handshake().and_then(|handshake| handshake.peer) else {
            return Ok(());
        };
        if hello.lane != cx.worker {
            return Err(Closing::ForeignLane);
        }
        let proofs = std::mem::take(&mut hello.proofs);
        let exported = tunnel.exported().ok_or(Unproved::NoExporter)?;
        let binding = ProofBinding::new(cx.facts.node, peer, tunnel.direction, exported);
        let proved = self.admission.verify(peer, &binding, &proofs)?;
        // Its right may have gone since the handshake, and its port with it.
        if self.admission.verdict(peer) != Verdict::Admitted(port) {
            return Err(CloseReason::NotAdmitted.into());
        }
        tunnel.admit(peer, port, hello.clone());
        let connected = FromConnection::Connected {
            peer,
            direction: tunnel.direction,
            remote: tunnel.remote,
            local_ip: tunnel.connection.local_ip(),
            hello,
            proved,
        };
        cx.events.push(Event::Connection(tunnel.id, connected));
        Ok(())
    }
}

/// Why this node closes a connection; the text is the reason phrase (RFC 9000 section 19.19).
#[derive(Debug, thiserror::Error)]
pub(super) enum Closing {
    /// The reason says all.
    #[error(transparent)]
    Plain(#[from] CloseReason),
    #[error("another node has this path")]
    PathOfAnother,
    #[error("the lane does not belong to the worker that got it")]
    ForeignLane,
    #[error(transparent)]
    BadHello(HelloError),
    #[error(transparent)]
    NotProved(#[from] Unproved),
}

impl Closing {
    /// The close code.
    pub(super) fn reason(&self) -> CloseReason {
        match self {
            Self::Plain(reason) => *reason,
            Self::PathOfAnother => CloseReason::NotAdmitted,
            Self::BadHello(HelloError::Version(_)) => CloseReason::Version,
            Self::ForeignLane | Self::BadHello(_) => CloseReason::BadHello,
            Self::NotProved(_) => CloseReason::NotProved,
        }
    }

    /// What control is told.
    pub(super) fn ended(&self) -> Ended {
        match self {
            Self::NotProved(why) => Ended::Refused((*why).into()),
            other => Ended::Closed(other.reason()),
        }
    }
}

/// What the hello promises: superframes only if every TAP takes them as they are. (One that does not, or comes later, gets them finished in
/// software, but then the far side may as well not make them.)
fn capabilities(local: &[LocalPort]) -> Capabilities {
    let of_port = |local: &LocalPort| match local.takes {
        TapOffload::Full => Capabilities::ALL.0,
        TapOffload::WithoutUso => Capabilities::ALL.0 & !Capabilities::USO,
        TapOffload::None => Capabilities::NONE.0,
    };
    Capabilities(local.iter().map(of_port).fold(Capabilities::ALL.0, |all, port| all & port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn the_hello_promises_what_every_tap_takes() {
        use TapOffload::{Full, None, WithoutUso};
        let of = |takes: &[TapOffload]| {
            let local = takes.iter().map(|&takes| LocalPort { takes, ..memory::tap(1) });
            capabilities(&local.collect::<Vec<_>>())
        };
        assert_eq!(of(&[Full, Full]), Capabilities::ALL);
        assert_eq!(of(&[Full, None]), Capabilities::NONE);
        let old = of(&[Full, WithoutUso]);
        assert!(old.has(Capabilities::CSUM | Capabilities::TSO4 | Capabilities::TSO6));
        assert!(!old.has(Capabilities::USO));
    }
}
