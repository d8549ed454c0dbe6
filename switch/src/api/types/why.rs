//! Why something is not as one would have it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why something is not as one would have it, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Why {
    /// For programs; does not change.
    pub(crate) code: WhyCode,
    /// What is the matter, for people.
    pub(crate) text: String,
    /// What to do about it, for people.
    pub(crate) cure: String,
}

impl Why {
    /// With the cure that goes with the code.
    pub(crate) fn of(code: WhyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), cure: code.cure().into() }
    }
}

macro_rules! why_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident => $cure:literal,)+) => {
        /// What can be the matter with a peer, or with the switch.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum WhyCode { $($(#[doc = $doc])+ $variant,)+ }

        impl WhyCode {
            /// What to do about it, for people.
            pub(crate) const fn cure(self) -> &'static str {
                match self { $(Self::$variant => $cure,)+ }
            }
        }
    };
}

why_codes! {
    /// Neither end has an address of a family that the other one has.
    NoCommonAddressFamily => "give both hosts an address of one family, or configure a TURN server that has both",
    /// The NATs of both ends map each far end differently, so only a relay gets through.
    SymmetricNats => "forward the switch's UDP port at one end, or accept the relay",
    /// UDP does not get through to the STUN or TURN servers.
    UdpBlocked => "let UDP out of this host's network",
    /// No path was found, and there is no relay.
    NoPath => "configure a TURN server ([ice] turn), or forward the switch's UDP port at one end",
    /// A path is being looked for.
    Searching => "wait a few seconds",
    /// The path goes over a relay.
    Relayed => "forward the switch's UDP port at one end for a direct path",
    /// The peer has not proved that it knows the network's secret, or this node has not.
    SecretNotProved => "give both hosts the same network secret (--network-secret-file, --join)",
    /// The operator denied the node here.
    Denied => "`ipop-switch trust forget NODE` takes that back",
    /// The node waits for the operator.
    Pending => "`ipop-switch trust accept NODE` lets it in",
    /// The far end does not let this node in.
    RefusedByPeer => "name this node at the far end (--peer, trust accept)",
    /// The node was seen before, but is not in the room.
    NotInRoom => "start the switch there, and see what it says of its account",
    /// The far end speaks another version.
    OtherVersion => "run the same version on both hosts",
    /// The credentials of the relay have expired.
    CredentialsExpired => "give newer ones in [ice] turn, or have the XMPP server issue them",
    /// The kernel has no room for another neighbour.
    NeighbourTableFull => "raise net.ipv4.neigh.default.gc_thresh3 and its IPv6 twin",
    /// The kernel knows no route to the peer.
    Unreachable => "see `ip route get` for the peer's address",
    /// The peer's name does not resolve.
    NameNotResolved => "correct the name in --peer, or the name server",
    /// The peer does not answer.
    NoAnswer => "see that the switch runs there, and that UDP gets through to its port",
    /// The peer has no address here, so it must dial.
    MustDial => "give the peer an address here, or this node's address there",
    /// The peer was shut down.
    PeerShutDown => "start the switch there",
    /// The address leads back to this node.
    OwnAddress => "correct the address in --peer",
    /// There is no stream to the XMPP server.
    XmppOffline => "see the server, the account and its password (`ipop-switch check`)",
    /// This node is not in the room.
    RoomNotJoined => "see the room's rules and the account's rights (`ipop-switch room show`)",
    /// A loop was seen, and a port is blocked.
    Loop => "take one of the two connections between the segments away",
    /// None of the above.
    Other => "see the text",
}
