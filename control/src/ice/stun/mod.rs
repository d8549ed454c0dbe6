//! STUN and TURN messages: RFC 8489, RFC 8656, and the attributes of ICE (RFC 8445), by `stun-types`.
//!
//! The library takes messages apart and writes them: header, attributes, addresses, FINGERPRINT, MESSAGE-INTEGRITY.
//! [`Message::parse`] names what this program understands, so that the rest of it sees fields, and looks after what the
//! library lets pass: lengths must fit to the byte, and nothing stands behind a FINGERPRINT. For a packet of a stranger
//! it allocates nothing but an error's reason. Integrity is a separate step ([`Message::is_signed_with`]), because the
//! key depends on what the message says. [`Builder`] writes messages.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub(super) use stun_types::message::MessageClass as Class;
use stun_types::{
    attribute::{
        AlternateServer, AttributeFromRaw as _, AttributeStaticType as _, AttributeType,
        AttributeWrite, ErrorCode, Fingerprint, MappedSocketAddr, MessageIntegrity,
        MessageIntegritySha256, Nonce, RawAttribute, Realm, Username, XorMappedAddress,
        XorSocketAddr,
    },
    message::{
        self as library, IntegrityAlgorithm, LongTermKeyCredentials, MessageHeader, MessageType,
        MessageWrite as _, MessageWriteExt as _, MessageWriteVec, ShortTermCredentials,
    },
};

/// Attributes of TURN and ICE; the library names those of RFC 8489.
mod attribute {
    use stun_types::attribute::AttributeType;

    pub(super) const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);
    pub(super) const CHANNEL_NUMBER: AttributeType = AttributeType::new(0x000c);
    pub(super) const LIFETIME: AttributeType = AttributeType::new(0x000d);
    pub(super) const XOR_PEER_ADDRESS: AttributeType = AttributeType::new(0x0012);
    pub(super) const DATA: AttributeType = AttributeType::new(0x0013);
    pub(super) const XOR_RELAYED_ADDRESS: AttributeType = AttributeType::new(0x0016);
    pub(super) const REQUESTED_ADDRESS_FAMILY: AttributeType = AttributeType::new(0x0017);
    pub(super) const REQUESTED_TRANSPORT: AttributeType = AttributeType::new(0x0019);
    pub(super) const PRIORITY: AttributeType = AttributeType::new(0x0024);
    pub(super) const USE_CANDIDATE: AttributeType = AttributeType::new(0x0025);
    pub(super) const ICE_CONTROLLED: AttributeType = AttributeType::new(0x8029);
    pub(super) const ICE_CONTROLLING: AttributeType = AttributeType::new(0x802a);
    /// The number of a nomination (draft-thatcher-ice-renomination), so that an old one never wins.
    pub(super) const NOMINATION: AttributeType = AttributeType::new(0xc001);
}

/// What ties a response to its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct TransactionId(pub(super) [u8; 12]);

impl From<TransactionId> for library::TransactionId {
    fn from(id: TransactionId) -> Self {
        id.0.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)).into()
    }
}

/// What a message is about, with its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    Binding = 0x001,
    Allocate = 0x003,
    Refresh = 0x004,
    Data = 0x007,
    ChannelBind = 0x009,
}

impl Method {
    fn from_number(number: u16) -> Option<Self> {
        [Self::Binding, Self::Allocate, Self::Refresh, Self::Data, Self::ChannelBind]
            .into_iter()
            .find(|method| *method as u16 == number)
    }
}

/// A key of MESSAGE-INTEGRITY.
#[derive(Clone, Debug)]
pub(super) struct IntegrityKey(library::IntegrityKey);

impl IntegrityKey {
    /// ICE's: the password itself.
    pub(super) fn short_term(password: &str) -> Self {
        Self(ShortTermCredentials::new(password.to_owned()).make_key())
    }

    /// TURN's: a digest by MD5, which is what servers have agreed on (RFC 8489, section 9.2.2).
    pub(super) fn long_term(username: &str, realm: &str, password: &str) -> Self {
        let [username, realm, password] = [username, realm, password].map(str::to_owned);
        let credentials = LongTermKeyCredentials::new(username, password, realm);
        Self(credentials.make_key(IntegrityAlgorithm::Sha1))
    }
}

/// The role that a check claims, with its tie-breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClaimedRole {
    Controlling,
    Controlled,
}

/// Whether USE-CANDIDATE is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nominates {
    Yes,
    No,
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
    /// An attribute that must be understood and is not.
    pub(super) unknown_required: Option<u16>,
    has_integrity: bool,
    whole: library::Message<'a>,
}

impl<'a> Message<'a> {
    /// Takes `bytes` apart, or `None` if they are no message that this program understands.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = MessageHeader::from_bytes(bytes).ok()?;
        // The library takes what stands behind the message for attributes of it.
        if MessageHeader::LENGTH + usize::from(header.data_length()) != bytes.len() {
            return None;
        }
        let whole = library::Message::from_bytes(bytes).ok()?;
        let mut message = Self {
            class: whole.class(),
            method: Method::from_number(whole.method().value())?,
            transaction: TransactionId(*bytes.get(8..)?.first_chunk()?),
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
            unknown_required: None,
            has_integrity: false,
            whole,
        };
        // The library stops behind MESSAGE-INTEGRITY and the FINGERPRINT: what comes then does not count.
        for (at, attribute) in whole.iter_attributes() {
            let value_at = at + 4;
            let value = bytes.get(value_at..value_at + attribute.value.len())?;
            if attribute.header.get_type() == Fingerprint::TYPE && value_at + 4 != bytes.len() {
                return None;
            }
            message.take_attribute(&attribute, value)?;
        }
        Some(message)
    }

    fn take_attribute(&mut self, attribute: &RawAttribute<'_>, value: &'a [u8]) -> Option<()> {
        let plain = || Some(MappedSocketAddr::from_raw(attribute).ok()?.addr());
        let transaction = self.whole.transaction_id();
        let xored = || Some(XorSocketAddr::from_raw(attribute).ok()?.addr(transaction));
        match attribute.header.get_type() {
            Username::TYPE => set(&mut self.username, std::str::from_utf8(value).ok()?),
            Realm::TYPE => set(&mut self.realm, std::str::from_utf8(value).ok()?),
            Nonce::TYPE => set(&mut self.nonce, value),
            attribute::DATA => set(&mut self.payload, value),
            ErrorCode::TYPE => {
                set(&mut self.error_code, ErrorCode::from_raw_ref(attribute).ok()?.code());
            }
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
            attribute::MAPPED_ADDRESS => set(&mut self.mapped, plain()?),
            AlternateServer::TYPE => set(&mut self.alternate, plain()?),
            // The plain MAPPED-ADDRESS is what old NATs rewrite, so the other one replaces it.
            XorMappedAddress::TYPE => self.mapped = Some(xored()?),
            attribute::XOR_RELAYED_ADDRESS => set(&mut self.relayed, xored()?),
            attribute::XOR_PEER_ADDRESS => set(&mut self.peer, xored()?),
            MessageIntegrity::TYPE | MessageIntegritySha256::TYPE => self.has_integrity = true,
            attribute::CHANNEL_NUMBER
            | attribute::REQUESTED_TRANSPORT
            | attribute::REQUESTED_ADDRESS_FAMILY => {}
            unknown if unknown.comprehension_required() => {
                set(&mut self.unknown_required, unknown.value());
            }
            _ => {}
        }
        Some(())
    }

    pub(super) fn has_integrity(&self) -> bool {
        self.has_integrity
    }

    /// Whether MESSAGE-INTEGRITY is there and right. Compares in constant time.
    pub(super) fn is_signed_with(&self, key: &IntegrityKey) -> bool {
        self.whole.validate_integrity_with_key(&key.0).is_ok()
    }
}

/// Writes one message.
#[derive(Debug)]
pub(super) struct Builder {
    message: MessageWriteVec,
    transaction: library::TransactionId,
}

impl Builder {
    pub(super) fn new(class: Class, method: Method, transaction: TransactionId) -> Self {
        let kind = MessageType::from_class_method(class, library::Method::new(method as u16));
        let transaction = transaction.into();
        let message = MessageWriteVec::with_capacity(160);
        Self { message: library::Message::builder(kind, transaction, message), transaction }
    }

    pub(super) fn username(self, username: &str) -> Self {
        self.attribute(Username::TYPE, username.as_bytes())
    }

    pub(super) fn realm(self, realm: &str) -> Self {
        self.attribute(Realm::TYPE, realm.as_bytes())
    }

    pub(super) fn nonce(self, nonce: &[u8]) -> Self {
        self.attribute(Nonce::TYPE, nonce)
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
        match ErrorCode::new(code, reason) {
            Ok(error) => self.add(&error),
            Err(_) => self,
        }
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
        self.xored(XorMappedAddress::TYPE, mapped)
    }

    pub(super) fn peer(self, peer: SocketAddr) -> Self {
        self.xored(attribute::XOR_PEER_ADDRESS, peer)
    }

    /// Of a server: for tests and fuzz targets.
    #[cfg(feature = "testing")]
    pub(super) fn relayed(self, relayed: SocketAddr) -> Self {
        self.xored(attribute::XOR_RELAYED_ADDRESS, relayed)
    }

    /// Of a server: for tests and fuzz targets.
    #[cfg(feature = "testing")]
    pub(super) fn payload(self, payload: &[u8]) -> Self {
        self.attribute(attribute::DATA, payload)
    }

    /// The message, signed with `key`, with its FINGERPRINT.
    pub(super) fn signed(mut self, key: &IntegrityKey) -> Vec<u8> {
        // Refused only to what is signed already.
        let _ = self.message.add_message_integrity_with_key(&key.0, IntegrityAlgorithm::Sha1);
        self.unsigned()
    }

    /// The message with its FINGERPRINT alone.
    pub(super) fn unsigned(mut self) -> Vec<u8> {
        let _ = self.message.add_fingerprint();
        self.message.finish()
    }

    fn xored(self, kind: AttributeType, address: SocketAddr) -> Self {
        let address = XorSocketAddr::new(address, self.transaction);
        self.add(&address.to_raw(kind))
    }

    fn attribute(self, kind: AttributeType, value: &[u8]) -> Self {
        let length = value.len().min(usize::from(u16::MAX));
        self.add(&RawAttribute::new(kind, &value[..length]))
    }

    fn add(mut self, attribute: &dyn AttributeWrite) -> Self {
        // Refused only to what is signed already.
        let _ = self.message.add_attribute(attribute);
        self
    }
}

fn set<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}
