//! STUN and TURN messages: RFC 8489, RFC 8656, and the attributes of ICE (RFC 8445).
//!
//! [`Message::parse`] takes apart what came from the network and believes nothing: lengths must fit to the byte, a
//! FINGERPRINT must be right if there is one, and nothing behind MESSAGE-INTEGRITY counts. It allocates nothing.
//! Integrity is a separate step ([`Message::is_signed_with`]), because the key depends on what the message says.
//! [`Builder`] writes messages.
//!
//! The codec is our own for three reasons: every packet of a stranger ends here, so it must neither log nor allocate
//! for it; HMAC-SHA-1 comes from the crypto provider that the rest of the program uses; and the TURN client needs
//! error codes and channel numbers that the published state machines keep to themselves.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aws_lc_rs::hmac;

const HEADER_LEN: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const INTEGRITY_LEN: usize = 20;
const FINGERPRINT_XOR: u32 = 0x5354_554e;

mod attribute {
    pub(super) const MAPPED_ADDRESS: u16 = 0x0001;
    pub(super) const USERNAME: u16 = 0x0006;
    pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(super) const ERROR_CODE: u16 = 0x0009;
    pub(super) const CHANNEL_NUMBER: u16 = 0x000c;
    pub(super) const LIFETIME: u16 = 0x000d;
    pub(super) const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub(super) const DATA: u16 = 0x0013;
    pub(super) const REALM: u16 = 0x0014;
    pub(super) const NONCE: u16 = 0x0015;
    pub(super) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub(super) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub(super) const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub(super) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
    pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(super) const PRIORITY: u16 = 0x0024;
    pub(super) const USE_CANDIDATE: u16 = 0x0025;
    pub(super) const ALTERNATE_SERVER: u16 = 0x8023;
    pub(super) const FINGERPRINT: u16 = 0x8028;
    pub(super) const ICE_CONTROLLED: u16 = 0x8029;
    pub(super) const ICE_CONTROLLING: u16 = 0x802a;
    /// The number of a nomination (draft-thatcher-ice-renomination), so that an old one never wins.
    pub(super) const NOMINATION: u16 = 0xc001;
}

/// What ties a response to its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct TransactionId(pub(super) [u8; 12]);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Request,
    Indication,
    Success,
    Error,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    Binding,
    Allocate,
    Refresh,
    Data,
    ChannelBind,
}

impl Method {
    fn number(self) -> u16 {
        match self {
            Self::Binding => 0x001,
            Self::Allocate => 0x003,
            Self::Refresh => 0x004,
            Self::Data => 0x007,
            Self::ChannelBind => 0x009,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        [Self::Binding, Self::Allocate, Self::Refresh, Self::Data, Self::ChannelBind]
            .into_iter()
            .find(|method| method.number() == number)
    }
}

/// A key of MESSAGE-INTEGRITY.
#[derive(Clone, Debug)]
pub(super) struct IntegrityKey(hmac::Key);

impl IntegrityKey {
    /// The short-term key of ICE is the password itself, the long-term key of TURN a digest.
    pub(super) fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key))
    }
}

/// The role that a check claims, with its tie-breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClaimedRole {
    Controlling,
    Controlled,
}

/// A message taken apart. Of an attribute that is there twice the first one counts (RFC 8489, section 14).
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    pub(super) class: Class,
    pub(super) method: Method,
    pub(super) transaction: TransactionId,
    pub(super) username: Option<&'a str>,
    pub(super) realm: Option<&'a str>,
    pub(super) nonce: Option<&'a [u8]>,
    pub(super) error_code: Option<u16>,
    pub(super) mapped: Option<SocketAddr>,
    pub(super) relayed: Option<SocketAddr>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) alternate: Option<SocketAddr>,
    pub(super) payload: Option<&'a [u8]>,
    pub(super) lifetime_s: Option<u32>,
    pub(super) priority: Option<u32>,
    pub(super) nomination: Option<u32>,
    pub(super) nominates: Nominates,
    pub(super) role: Option<ClaimedRole>,
    pub(super) fingerprint: Fingerprint,
    /// An attribute that must be understood and is not.
    pub(super) unknown_required: Option<u16>,
    bytes: &'a [u8],
    integrity_at: Option<usize>,
}

/// Whether USE-CANDIDATE is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nominates {
    Yes,
    No,
}

/// Whether FINGERPRINT is there; a wrong one makes the message unreadable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fingerprint {
    Right,
    Absent,
}

impl<'a> Message<'a> {
    /// Takes `bytes` apart, or `None` if they are no message that this program understands.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, attributes) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if kind & 0xc000 != 0
            || header[4..8] != MAGIC_COOKIE
            || length != attributes.len()
            || length % 4 != 0
        {
            return None;
        }
        let class = match kind & 0x0110 {
            0x0000 => Class::Request,
            0x0010 => Class::Indication,
            0x0100 => Class::Success,
            _ => Class::Error,
        };
        let number = (kind & 0x000f) | (kind & 0x00e0) >> 1 | (kind & 0x3e00) >> 2;
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&header[8..20]);
        let mut message = Self {
            class,
            method: Method::from_number(number)?,
            transaction: TransactionId(transaction),
            username: None,
            realm: None,
            nonce: None,
            error_code: None,
            mapped: None,
            relayed: None,
            peer: None,
            alternate: None,
            payload: None,
            lifetime_s: None,
            priority: None,
            nomination: None,
            nominates: Nominates::No,
            role: None,
            fingerprint: Fingerprint::Absent,
            unknown_required: None,
            bytes,
            integrity_at: None,
        };
        message.parse_attributes()?;
        Some(message)
    }

    fn parse_attributes(&mut self) -> Option<()> {
        let mut at = HEADER_LEN;
        while at < self.bytes.len() {
            let (header, rest) = self.bytes[at..].split_first_chunk::<4>()?;
            let kind = u16::from_be_bytes([header[0], header[1]]);
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let value = rest.get(..length)?;
            if kind == attribute::FINGERPRINT {
                return self.check_fingerprint(at, value);
            }
            if self.integrity_at.is_none() {
                if kind == attribute::MESSAGE_INTEGRITY {
                    (length == INTEGRITY_LEN).then_some(())?;
                    self.integrity_at = Some(at);
                } else {
                    self.take_attribute(kind, value)?;
                }
            }
            at += 4 + length.next_multiple_of(4);
        }
        (at == self.bytes.len()).then_some(())
    }

    fn check_fingerprint(&mut self, at: usize, value: &[u8]) -> Option<()> {
        let stated = u32::from_be_bytes(value.try_into().ok()?);
        let is_last = at + 8 == self.bytes.len();
        (is_last && stated == crc32(&self.bytes[..at]) ^ FINGERPRINT_XOR).then(|| {
            self.fingerprint = Fingerprint::Right;
        })
    }

    fn take_attribute(&mut self, kind: u16, value: &'a [u8]) -> Option<()> {
        match kind {
            attribute::USERNAME => set(&mut self.username, std::str::from_utf8(value).ok()?),
            attribute::REALM => set(&mut self.realm, std::str::from_utf8(value).ok()?),
            attribute::NONCE => set(&mut self.nonce, value),
            attribute::DATA => set(&mut self.payload, value),
            attribute::ERROR_CODE => set(&mut self.error_code, error_code(value)?),
            attribute::LIFETIME => set(&mut self.lifetime_s, number(value)?),
            attribute::PRIORITY => set(&mut self.priority, number(value)?),
            attribute::NOMINATION => set(&mut self.nomination, number(value)?),
            attribute::USE_CANDIDATE => self.nominates = Nominates::Yes,
            attribute::ICE_CONTROLLING if value.len() == 8 => {
                set(&mut self.role, ClaimedRole::Controlling);
            }
            attribute::ICE_CONTROLLED if value.len() == 8 => {
                set(&mut self.role, ClaimedRole::Controlled);
            }
            attribute::MAPPED_ADDRESS => set(&mut self.mapped, address(value)?),
            attribute::ALTERNATE_SERVER => set(&mut self.alternate, address(value)?),
            // The plain MAPPED-ADDRESS is what old NATs rewrite, so the other one replaces it.
            attribute::XOR_MAPPED_ADDRESS => self.mapped = Some(self.unmask(value)?),
            attribute::XOR_RELAYED_ADDRESS => {
                let relayed = self.unmask(value)?;
                set(&mut self.relayed, relayed);
            }
            attribute::XOR_PEER_ADDRESS => {
                let peer = self.unmask(value)?;
                set(&mut self.peer, peer);
            }
            attribute::CHANNEL_NUMBER
            | attribute::REQUESTED_TRANSPORT
            | attribute::REQUESTED_ADDRESS_FAMILY
            | attribute::MESSAGE_INTEGRITY_SHA256 => {}
            unknown if unknown < 0x8000 => set(&mut self.unknown_required, unknown),
            _ => {}
        }
        Some(())
    }

    /// An address that is XORed with the cookie and, for IPv6, the transaction.
    fn unmask(&self, value: &[u8]) -> Option<SocketAddr> {
        Some(mask(address(value)?, self.transaction))
    }

    pub(super) fn has_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// Whether MESSAGE-INTEGRITY is there and right. Compares in constant time.
    pub(super) fn is_signed_with(&self, key: &IntegrityKey) -> bool {
        let Some(at) = self.integrity_at else { return false };
        let tag = &self.bytes[at + 4..at + 4 + INTEGRITY_LEN];
        // The length field is taken as if the message ended behind this attribute.
        let Ok(length) = u16::try_from(at + 4 + INTEGRITY_LEN - HEADER_LEN) else { return false };
        let mut signed = Vec::with_capacity(at);
        signed.extend_from_slice(&self.bytes[..at]);
        signed[2..4].copy_from_slice(&length.to_be_bytes());
        hmac::verify(&key.0, &signed, tag).is_ok()
    }
}

/// Writes one message.
#[derive(Debug)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    transaction: TransactionId,
}

impl Builder {
    pub(super) fn new(class: Class, method: Method, transaction: TransactionId) -> Self {
        let class = match class {
            Class::Request => 0x0000,
            Class::Indication => 0x0010,
            Class::Success => 0x0100,
            Class::Error => 0x0110,
        };
        let number = method.number();
        let kind = class | (number & 0x000f) | (number & 0x0070) << 1 | (number & 0x0f80) << 2;
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE);
        bytes.extend_from_slice(&transaction.0);
        Self { bytes, transaction }
    }

    pub(super) fn username(self, username: &str) -> Self {
        self.attribute(attribute::USERNAME, username.as_bytes())
    }

    pub(super) fn realm(self, realm: &str) -> Self {
        self.attribute(attribute::REALM, realm.as_bytes())
    }

    pub(super) fn nonce(self, nonce: &[u8]) -> Self {
        self.attribute(attribute::NONCE, nonce)
    }

    pub(super) fn priority(self, priority: u32) -> Self {
        self.attribute(attribute::PRIORITY, &priority.to_be_bytes())
    }

    pub(super) fn role(self, role: ClaimedRole, tie_breaker: u64) -> Self {
        let kind = match role {
            ClaimedRole::Controlling => attribute::ICE_CONTROLLING,
            ClaimedRole::Controlled => attribute::ICE_CONTROLLED,
        };
        self.attribute(kind, &tie_breaker.to_be_bytes())
    }

    pub(super) fn nomination(self, number: u32) -> Self {
        self.attribute(attribute::USE_CANDIDATE, &[])
            .attribute(attribute::NOMINATION, &number.to_be_bytes())
    }

    pub(super) fn error(self, code: u16, reason: &str) -> Self {
        let mut value = vec![0, 0, (code / 100) as u8, (code % 100) as u8];
        value.extend_from_slice(reason.as_bytes());
        self.attribute(attribute::ERROR_CODE, &value)
    }

    pub(super) fn lifetime_s(self, lifetime_s: u32) -> Self {
        self.attribute(attribute::LIFETIME, &lifetime_s.to_be_bytes())
    }

    /// An allocation for UDP (protocol 17).
    pub(super) fn udp_transport(self) -> Self {
        self.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
    }

    /// An allocation with an IPv6 address; IPv4 is what servers give if not asked.
    pub(super) fn ipv6_allocation(self) -> Self {
        self.attribute(attribute::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])
    }

    pub(super) fn channel_number(self, channel: u16) -> Self {
        let [high, low] = channel.to_be_bytes();
        self.attribute(attribute::CHANNEL_NUMBER, &[high, low, 0, 0])
    }

    pub(super) fn mapped(self, mapped: SocketAddr) -> Self {
        let value = address_value(mask(mapped, self.transaction));
        self.attribute(attribute::XOR_MAPPED_ADDRESS, &value)
    }

    pub(super) fn peer(self, peer: SocketAddr) -> Self {
        let value = address_value(mask(peer, self.transaction));
        self.attribute(attribute::XOR_PEER_ADDRESS, &value)
    }

    /// Of a server: for tests and fuzz targets.
    pub(super) fn relayed(self, relayed: SocketAddr) -> Self {
        let value = address_value(mask(relayed, self.transaction));
        self.attribute(attribute::XOR_RELAYED_ADDRESS, &value)
    }

    /// Of a server: for tests and fuzz targets.
    pub(super) fn payload(self, payload: &[u8]) -> Self {
        self.attribute(attribute::DATA, payload)
    }

    /// The message, signed with `key`, with its FINGERPRINT.
    pub(super) fn signed(mut self, key: &IntegrityKey) -> Vec<u8> {
        self.set_length(4 + INTEGRITY_LEN);
        let tag = hmac::sign(&key.0, &self.bytes);
        self.attribute(attribute::MESSAGE_INTEGRITY, tag.as_ref()).unsigned()
    }

    /// The message with its FINGERPRINT alone.
    pub(super) fn unsigned(mut self) -> Vec<u8> {
        self.set_length(8);
        let fingerprint = crc32(&self.bytes) ^ FINGERPRINT_XOR;
        self.attribute(attribute::FINGERPRINT, &fingerprint.to_be_bytes()).bytes
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = value.len().min(usize::from(u16::MAX)) as u16;
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&value[..usize::from(length)]);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// The length field as it will be once `more` bytes of attributes are there.
    fn set_length(&mut self, more: usize) {
        let length = (self.bytes.len() + more - HEADER_LEN) as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
}

fn set<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn error_code(value: &[u8]) -> Option<u16> {
    let [_, _, class, number, ..] = value else { return None };
    let (class, number) = (class & 0x07, *number);
    ((3..=6).contains(&class) && number < 100).then(|| u16::from(class) * 100 + u16::from(number))
}

fn address(value: &[u8]) -> Option<SocketAddr> {
    let [_, family, high, low, ip @ ..] = value else { return None };
    let ip = match family {
        1 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        2 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([*high, *low])))
}

fn address_value(address: SocketAddr) -> Vec<u8> {
    let [high, low] = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&[0, 1, high, low][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[0, 2, high, low][..], &ip.octets()].concat(),
    }
}

/// XOR with the cookie and the transaction: its own inverse.
fn mask(address: SocketAddr, transaction: TransactionId) -> SocketAddr {
    let port = address.port() ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]]);
    let ip = match address.ip() {
        IpAddr::V4(ip) => {
            IpAddr::V4(Ipv4Addr::from(u32::from(ip) ^ u32::from_be_bytes(MAGIC_COOKIE)))
        }
        IpAddr::V6(ip) => {
            let mut pad = [0; 16];
            pad[..4].copy_from_slice(&MAGIC_COOKIE);
            pad[4..].copy_from_slice(&transaction.0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) ^ u128::from_be_bytes(pad)))
        }
    };
    SocketAddr::new(ip, port)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// CRC-32 of ITU V.42, as FINGERPRINT wants it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc, byte| CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8)
}
