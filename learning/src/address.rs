//! The names of the field: MAC addresses, VLANs and ports.

use std::{fmt, str::FromStr};

/// An IEEE 802 MAC address (EUI-48).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The group (multicast) bit, IEEE 802 section 8.2: broadcast included.
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// All zero, which no station may use.
    #[inline]
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// `01-80-C2-00-00-00` to `-0F`: never forwarded by a bridge (IEEE 802.1Q table 8-1).
    #[inline]
    pub const fn is_reserved(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six hexadecimal bytes separated by colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadMacAddr;

impl fmt::Display for BadMacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address is six hexadecimal bytes, like 02:00:5e:10:00:01")
    }
}

impl std::error::Error for BadMacAddr {}

impl FromStr for MacAddr {
    type Err = BadMacAddr;

    fn from_str(text: &str) -> Result<Self, BadMacAddr> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let is_octet = |part: &&str| {
                part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit())
            };
            let part = parts.next().filter(is_octet).ok_or(BadMacAddr)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| BadMacAddr)?;
        }
        if parts.next().is_some() { Err(BadMacAddr) } else { Ok(Self(octets)) }
    }
}

/// A VLAN identifier, 12 bits (IEEE 802.1Q). 0 is the untagged segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct VlanId(pub u16);

impl VlanId {
    /// Frames without a tag; the only VLAN so far.
    pub const UNTAGGED: Self = Self(0);
}

/// A port of the switch: a local TAP device or a peer (all its lanes together).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId(pub u16);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let address = MacAddr([0x02, 0, 0x5e, 0x10, 0xff, 0x01]);
        assert_eq!(address.to_string(), "02:00:5e:10:ff:01");
        assert_eq!("02:00:5E:10:ff:01".parse(), Ok(address));
        for bad in
            ["", "02:00:5e:10:ff", "02:00:5e:10:ff:01:", "2:0:5e:10:ff:1", "+2:00:5e:10:ff:01"]
        {
            assert_eq!(bad.parse::<MacAddr>(), Err(BadMacAddr), "{bad}");
        }
    }
}
