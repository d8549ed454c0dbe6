//! Loop probes: frames by which a switch notices that one segment is reached twice.
//!
//! Two switches bridged to one LAN, or two TAPs of one switch in one bridge, would turn each broadcast into a storm that never ends. So every switch sends a
//! small multicast frame out of each TAP every [`PROBE_INTERVAL`]; no switch forwards one. A probe that comes in on a TAP has travelled around outside
//! the overlay. If it is our own, the TAP with the higher number is blocked; if it is a connected peer's, the node with the higher id blocks its TAP
//! and the other one carries on. A blocked TAP forwards again after [`CLEAR_AFTER_S`] seconds without such a probe.
//!
//! The token in a probe is random at each start and told to peers in the hello, so that a station on one site cannot block another site's port
//! by inventing a probe.

use std::time::Duration;

use ipop_learning::MacAddr;

use crate::node_id::NodeId;

/// Between two probes on a TAP: a storm is stopped within this time.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Three lost probes and a bit, seconds.
pub const CLEAR_AFTER_S: u32 = 4;
/// Bytes of a probe: a minimum Ethernet frame without FCS, or a little more.
pub const PROBE_LEN: usize = 14 + 4 + 2 + 32 + 16;

/// IEEE 802 local experimental EtherType 1.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// A locally administered group address, which Linux bridges flood.
const DESTINATION: MacAddr = MacAddr([0x03, 0x49, 0x50, 0x4f, 0x50, 0x01]);
const MAGIC: [u8; 4] = *b"IPlp";

/// What a probe says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopProbe {
    /// Who sent it.
    pub origin: NodeId,
    /// The sender's token of this start.
    pub token: [u8; 16],
    /// Number of the TAP that it went out of.
    pub tap: u16,
}

impl LoopProbe {
    /// The frame; `source` is the TAP's own address.
    pub fn encode(&self, source: MacAddr) -> [u8; PROBE_LEN] {
        let mut frame = [0; PROBE_LEN];
        frame[..6].copy_from_slice(&DESTINATION.0);
        frame[6..12].copy_from_slice(&source.0);
        frame[12..14].copy_from_slice(&ETHERTYPE);
        frame[14..18].copy_from_slice(&MAGIC);
        frame[18..20].copy_from_slice(&self.tap.to_be_bytes());
        frame[20..52].copy_from_slice(&self.origin.0);
        frame[52..68].copy_from_slice(&self.token);
        frame
    }

    /// Reads a frame that [`LoopProbe::is_probe`].
    pub fn decode(frame: &[u8]) -> Option<Self> {
        if !Self::is_probe(frame) {
            return None;
        }
        let mut origin = [0; 32];
        origin.copy_from_slice(frame.get(20..52)?);
        let mut token = [0; 16];
        token.copy_from_slice(frame.get(52..68)?);
        let tap = u16::from_be_bytes([frame[18], frame[19]]);
        Some(Self { origin: NodeId(origin), token, tap })
    }

    /// Whether the frame (14 bytes or more) is a probe of any switch.
    #[inline]
    pub fn is_probe(frame: &[u8]) -> bool {
        frame.len() >= 18
            && frame[..6] == DESTINATION.0
            && frame[12..14] == ETHERTYPE
            && frame[14..18] == MAGIC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_cut_short() {
        let probe = LoopProbe { origin: NodeId([3; 32]), token: [4; 16], tap: 5 };
        let frame = probe.encode(MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(LoopProbe::decode(&frame), Some(probe));
        for len in 0..frame.len() {
            assert_eq!(LoopProbe::decode(&frame[..len]), None);
        }
    }
}
