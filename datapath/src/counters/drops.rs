//! Why a frame was dropped. One list feeds counters, logs and documentation.

/// Whether a frame went on its way, or why it is dropped.
pub type Passed = Result<(), DropReason>;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, cure $cure:literal;)+) => {
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

            /// What it means, for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// What an operator does about it.
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$variant => $cure,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than an Ethernet header (14 bytes).
    Runt = "runt", cure "a program on this segment sends frames that are too short";
    /// Longer than the receiving end accepts.
    Oversized = "oversized", cure "give this TAP and the peers the same inner MTU (--mtu)";
    /// From a peer, and longer than this node's inner MTU allows.
    OverMtu = "over_mtu", cure "give all nodes the same inner MTU (--mtu)";
    /// Headers beyond Ethernet's contradict themselves where the switch needs them.
    Malformed = "malformed", cure "see what sends it: `tcpdump -i TAP`";
    /// The vnet header contradicts the frame.
    BadOffload = "bad_offload", cure "report it, with the kernel's version";
    /// The source address is a group address or zero.
    BadSource = "bad_source", cure "see what sends it: `tcpdump -e -i TAP`";
    /// A reserved address that bridges do not forward (01-80-C2-00-00-0X).
    Reserved = "reserved", cure "nothing: bridges keep these to themselves";
    /// The destination is on the port that the frame came from.
    SamePort = "same_port", cure "nothing: the station is on the same segment";
    /// From a peer, for a station behind another peer: never forwarded in the full mesh.
    SplitHorizon = "split_horizon", cure "nothing, if a station has just moved; else see whether all nodes have tunnels to each other";
    /// Nowhere to go: no other port, or no lane of the peer, is up.
    NoPort = "no_port", cure "see why the peer is down: `ipop-switch peers`";
    /// More broadcast, multicast and unknown traffic than the port's token bucket allows.
    Storm = "storm", cure "find the station that floods, or the loop";
    /// The port is blocked: a loop was seen.
    Blocked = "blocked", cure "take one of the two connections between the segments away";
    /// A loop probe: consumed, not forwarded.
    LoopProbe = "loop_probe", cure "nothing";
    /// One of the switch's own tunnel packets, seen on a TAP.
    OwnPacket = "own_packet", cure "keep the tunnels' own traffic out of the overlay: see the routes of this host";
    /// The tunnel's queue is full.
    TunnelQueueFull = "tunnel_queue_full", cure "the path is slower than what is sent into it: nothing, or a faster path";
    /// The tunnel ended with the frame in its queue. The frame was counted as sent before.
    TunnelDown = "tunnel_down", cure "see why the tunnel ended: `ipop-switch peers`";
    /// The mailbox of another worker is full.
    MailboxFull = "mailbox_full", cure "give the switch more processors (--workers), or less to do";
    /// The peer's frames before its hello, before its admission, or after its connection was closed.
    NotAdmitted = "not_admitted", cure "nothing, if a peer has just lost its right; else see `ipop-switch peers`";
    /// A record that is cut short or whose lengths disagree.
    BadRecord = "bad_record", cure "run the same version on both hosts";
    /// A record of a kind that this version does not know.
    UnknownRecord = "unknown_record", cure "run the same version on both hosts";
    /// A piece that overlaps, contradicts or repeats another.
    BadPiece = "bad_piece", cure "run the same version on both hosts";
    /// A frame that came already: small frames are sent twice on paths that lose packets.
    Repeated = "repeated", cure "nothing: the first copy was delivered";
    /// A frame with holes that cannot be salvaged.
    Incomplete = "incomplete", cure "the path loses packets: see the loss in `ipop-switch peers`";
    /// Reassembly ran out of its bound; the oldest frame went.
    ReassemblyFull = "reassembly_full", cure "the path loses or reorders packets: see the loss in `ipop-switch peers`";
    /// The kernel refused the frame at the TAP.
    TapWrite = "tap_write", cure "see the kernel's log";
    /// The TAP is gone or down.
    TapDown = "tap_down", cure "set the TAP up: `ip link set dev TAP up`";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_meaning_and_a_cure() {
        for reason in DropReason::ALL {
            assert!(reason.meaning().ends_with('.'), "{reason:?}: {}", reason.meaning());
            assert!(!reason.meaning().starts_with(' ') && reason.cure().len() > 6, "{reason:?}");
        }
    }

    #[test]
    fn names_are_unique_and_in_counter_order() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(DropReason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
    }
}
