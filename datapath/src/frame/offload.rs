//! The vnet header: what a frame still needs before it may touch a wire.
//!
//! `virtio_net_hdr_v1` (VIRTIO 1.2, section 5.1.6), 12 bytes, little-endian at the TAP (`TUNSETVNETLE`);
//! the tunnel carries the 8 bytes that the receiver cannot recompute, big-endian (`docs/WIRE.md`).

pub use crate::port::VNET_HEADER_LEN;

/// Bytes of the header in a record.
pub const WIRE_OFFLOAD_LEN: usize = 8;

/// Segmentation that a superframe needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Gso {
    /// An ordinary frame.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4 {
        /// The sender negotiated ECN: the first segment alone keeps CWR.
        ecn: bool,
    },
    /// TCP over IPv6.
    Tcp6 {
        /// As for IPv4.
        ecn: bool,
    },
    /// UDP, either family (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

/// The parsed vnet header. `hdr_len` and `num_buffers` are recomputed, not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Offload {
    /// The checksum at `csum_start + csum_offset` holds the pseudo-header sum only.
    pub needs_csum: bool,
    /// Segmentation needed.
    pub gso: Gso,
    /// Payload bytes of each segment; 0 without `gso`.
    pub gso_size: u16,
    /// Offset in the frame where the checksum starts (the transport header).
    pub csum_start: u16,
    /// Offset from `csum_start` of the checksum field (TCP 16, UDP 6).
    pub csum_offset: u16,
}

/// The `gso_type` or the flags have a value that no one defined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadGsoType;

const F_NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl Offload {
    /// An ordinary frame whose checksums are complete.
    pub const NONE: Self =
        Self { needs_csum: false, gso: Gso::None, gso_size: 0, csum_start: 0, csum_offset: 0 };

    /// Reads the TAP's header (little-endian).
    pub fn from_tap(header: &[u8; VNET_HEADER_LEN]) -> Result<Self, BadGsoType> {
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        Self::from_fields(header[0], header[1], field(4), field(6), field(8))
    }

    /// Writes the TAP's header; `headers_len` is the length of the frame's headers up to the transport payload.
    pub fn to_tap(self, headers_len: u16) -> [u8; VNET_HEADER_LEN] {
        let mut header = [0; VNET_HEADER_LEN];
        (header[0], header[1]) = self.flags_and_type();
        for (at, value) in
            [(2, headers_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)]
        {
            header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        header
    }

    /// Reads the form in a record (big-endian).
    pub fn from_wire(wire: &[u8; WIRE_OFFLOAD_LEN]) -> Result<Self, BadGsoType> {
        let field = |at: usize| u16::from_be_bytes([wire[at], wire[at + 1]]);
        Self::from_fields(wire[0], wire[1], field(2), field(4), field(6))
    }

    /// Writes the form in a record.
    pub fn to_wire(self) -> [u8; WIRE_OFFLOAD_LEN] {
        let mut wire = [0; WIRE_OFFLOAD_LEN];
        (wire[0], wire[1]) = self.flags_and_type();
        for (at, value) in [(2, self.gso_size), (4, self.csum_start), (6, self.csum_offset)] {
            wire[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        wire
    }

    /// Whether a port without offloads may be given the frame as it is.
    #[inline]
    pub fn is_none(self) -> bool {
        !self.needs_csum && self.gso == Gso::None
    }

    fn flags_and_type(self) -> (u8, u8) {
        let gso_type = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 { ecn } => GSO_TCPV4 | if ecn { GSO_ECN } else { 0 },
            Gso::Tcp6 { ecn } => GSO_TCPV6 | if ecn { GSO_ECN } else { 0 },
            Gso::Udp => GSO_UDP_L4,
        };
        (if self.needs_csum { F_NEEDS_CSUM } else { 0 }, gso_type)
    }

    fn from_fields(
        flags: u8,
        gso_type: u8,
        gso_size: u16,
        csum_start: u16,
        csum_offset: u16,
    ) -> Result<Self, BadGsoType> {
        let ecn = gso_type & GSO_ECN != 0;
        let gso = match gso_type & !GSO_ECN {
            0 if !ecn => Gso::None,
            GSO_TCPV4 => Gso::Tcp4 { ecn },
            GSO_TCPV6 => Gso::Tcp6 { ecn },
            GSO_UDP_L4 if !ecn => Gso::Udp,
            _ => return Err(BadGsoType),
        };
        // DATA_VALID (2) only says that the sum was checked already: nothing is left to do.
        let needs_csum = flags & F_NEEDS_CSUM != 0;
        Ok(Self {
            needs_csum,
            gso,
            gso_size: if gso == Gso::None { 0 } else { gso_size },
            csum_start: if needs_csum { csum_start } else { 0 },
            csum_offset: if needs_csum { csum_offset } else { 0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_stand_where_virtio_puts_them() {
        let offload = Offload {
            needs_csum: true,
            gso: Gso::Tcp6 { ecn: true },
            gso_size: 0x0102,
            csum_start: 0x0304,
            csum_offset: 0x0506,
        };
        assert_eq!(offload.to_tap(0x0708), [1, 0x84, 8, 7, 2, 1, 4, 3, 6, 5, 0, 0]);
        assert_eq!(offload.to_wire(), [1, 0x84, 1, 2, 3, 4, 5, 6]);
        assert!(Offload::NONE.is_none() && !offload.is_none());
    }

    #[test]
    fn undefined_types_are_refused() {
        // UDP fragmentation (3) is one of them: no TAP is asked for it.
        for gso_type in [2, 3, 6, 0x7f, 0x80, 0x85] {
            assert_eq!(Offload::from_wire(&[1, gso_type, 0, 1, 0, 1, 0, 1]), Err(BadGsoType));
        }
    }

    proptest! {
        #[test]
        fn both_forms_round_trip(wire in any::<[u8; 8]>(), headers_len in any::<u16>()) {
            if let Ok(offload) = Offload::from_wire(&wire) {
                prop_assert_eq!(Offload::from_wire(&offload.to_wire()), Ok(offload));
                prop_assert_eq!(Offload::from_tap(&offload.to_tap(headers_len)), Ok(offload));
            }
        }
    }
}
