//! The user name fragment and password of one end (RFC 8445, section 5.3).

use std::{fmt, ops::RangeInclusive};

use super::{entropy::Entropy, stun::IntegrityKey};

/// 6 bits a character: what routes a request to its peer need not be secret, only unique. 8 characters are 48 bits.
const UFRAG_LEN: usize = 8;
/// 144 bits.
const PASSWORD_LEN: usize = 24;

/// Lengths of what a peer says, RFC 8839 section 5.4.
const UFRAG_LENS: RangeInclusive<usize> = 4..=256;
const PASSWORD_LENS: RangeInclusive<usize> = 22..=256;

/// Credentials of one end, as they are told to the other.
#[derive(Clone, PartialEq, Eq)]
pub struct IceDescription {
    /// 4 to 256 characters.
    pub ufrag: String,
    /// 22 to 256 characters.
    pub password: String,
    /// Counts restarts of this end: of two descriptions in one session the higher one holds.
    pub generation: u32,
}

impl fmt::Debug for IceDescription {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IceDescription({}, generation {})", self.ufrag, self.generation)
    }
}

impl IceDescription {
    /// Whether ufrag and password are what RFC 8839 allows.
    pub fn is_sound(&self) -> bool {
        is_ice(&self.ufrag, &UFRAG_LENS) && is_ice(&self.password, &PASSWORD_LENS)
    }
}

/// Whether these are `ice-char`s, so many of them.
pub(crate) fn is_ice(text: &str, lengths: &RangeInclusive<usize>) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    lengths.contains(&text.len()) && text.bytes().all(fits)
}

#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) password: String,
    pub(super) key: IntegrityKey,
}

impl Credentials {
    pub(super) fn generate(entropy: &mut Entropy) -> Self {
        Self::from_text(entropy.ice_text::<UFRAG_LEN>(), entropy.ice_text::<PASSWORD_LEN>())
    }

    /// What the peer says. `None` if it is not what RFC 8839, section 5.4, allows.
    pub(super) fn parse(said: &IceDescription) -> Option<Self> {
        said.is_sound().then(|| Self::from_text(said.ufrag.clone(), said.password.clone()))
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.ufrag == other.ufrag && self.password == other.password
    }

    fn from_text(ufrag: String, password: String) -> Self {
        let key = IntegrityKey::short_term(&password);
        Self { ufrag, password, key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(ufrag: &str, password: &str) -> Option<Credentials> {
        let (ufrag, password) = (ufrag.to_owned(), password.to_owned());
        Credentials::parse(&IceDescription { ufrag, password, generation: 0 })
    }

    #[test]
    fn own_credentials_are_what_a_peer_takes() {
        let own = Credentials::generate(&mut Entropy::System);
        assert!(parsed(&own.ufrag, &own.password).is_some());
    }

    #[test]
    fn other_characters_and_lengths_are_refused() {
        let good = "0123456789abcdef+/ABCD";
        assert!(parsed("abc+", good).is_some());
        assert!(parsed(&"u".repeat(256), &"p".repeat(256)).is_some());
        assert!(parsed("abcd", &"p".repeat(257)).is_none());
        for (ufrag, password) in [("abc", good), ("ab:cd", good), ("abcd", "short"), ("abcd", "")] {
            assert!(parsed(ufrag, password).is_none(), "{ufrag} {password}");
        }
        assert!(parsed(&"a".repeat(257), good).is_none());
    }
}
