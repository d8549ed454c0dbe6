//! Why a frame was dropped. One list feeds counters, logs and documentation.

/// Whether a frame went on its way, or why it is dropped.
pub type Passed = Result<(), DropReason>;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame (or a record, or a packet) was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in counters and logs: snake case, stable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than an Ethernet header (14 bytes).
    Runt = "runt",
    /// Longer than the receiving end accepts.
    Oversized = "oversized",
    /// From a peer, and longer than this node's inner MTU allows.
    OverMtu = "over_mtu",
    /// Headers beyond Ethernet's contradict themselves where the switch needs them.
    Malformed = "malformed",
    /// The vnet header contradicts the frame.
    BadOffload = "bad_offload",
    /// The source address is a group address or zero.
    BadSource = "bad_source",
    /// A reserved address that bridges do not forward (01-80-C2-00-00-0X).
    Reserved = "reserved",
    /// The destination is on the port that the frame came from.
    SamePort = "same_port",
    /// From a peer, for a station behind another peer: never forwarded in the full mesh.
    SplitHorizon = "split_horizon",
    /// Nowhere to go: no other port, or no lane of the peer, is up.
    NoPort = "no_port",
    /// More broadcast, multicast and unknown traffic than the port's token bucket allows.
    Storm = "storm",
    /// The port is blocked: a loop was seen.
    Blocked = "blocked",
    /// A loop probe: consumed, not forwarded.
    LoopProbe = "loop_probe",
    /// One of the switch's own tunnel packets, seen on a TAP.
    OwnPacket = "own_packet",
    /// The tunnel's queue is full.
    TunnelQueueFull = "tunnel_queue_full",
    /// The tunnel ended with the frame in its queue. The frame was counted as sent before.
    TunnelDown = "tunnel_down",
    /// The mailbox of another worker is full.
    MailboxFull = "mailbox_full",
    /// The peer's frames before its hello, before its admission, or after its connection was closed.
    NotAdmitted = "not_admitted",
    /// A record that is cut short or whose lengths disagree.
    BadRecord = "bad_record",
    /// A record of a kind that this version does not know.
    UnknownRecord = "unknown_record",
    /// A piece that overlaps, contradicts or repeats another.
    BadPiece = "bad_piece",
    /// A frame that came already: small frames are sent twice on paths that lose packets.
    Repeated = "repeated",
    /// A frame with holes that cannot be salvaged.
    Incomplete = "incomplete",
    /// Reassembly ran out of its bound; the oldest frame went.
    ReassemblyFull = "reassembly_full",
    /// The kernel refused the frame at the TAP.
    TapWrite = "tap_write",
    /// The TAP is gone or down.
    TapDown = "tap_down",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_counter_order() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(DropReason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
    }
}
