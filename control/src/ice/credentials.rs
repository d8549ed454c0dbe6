//! The user name fragment and password of one end (RFC 8445, section 5.3).

use super::{entropy::Entropy, stun::IntegrityKey};

/// 6 bits a character: what routes a request to its peer need not be secret, only unique. 8 characters are 48 bits.
const UFRAG_LEN: usize = 8;
/// 144 bits.
const PASSWORD_LEN: usize = 24;

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
    pub(super) fn parse(ufrag: &str, password: &str) -> Option<Self> {
        let is_ice = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
        };
        let is_fitting = (4..=256).contains(&ufrag.len()) && (22..=256).contains(&password.len());
        (is_fitting && is_ice(ufrag) && is_ice(password))
            .then(|| Self::from_text(ufrag.to_owned(), password.to_owned()))
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

    #[test]
    fn own_credentials_are_what_a_peer_takes() {
        let own = Credentials::generate(&mut Entropy::System);
        assert!(Credentials::parse(&own.ufrag, &own.password).is_some());
    }

    #[test]
    fn other_characters_and_lengths_are_refused() {
        let good = "0123456789abcdef+/ABCD";
        assert!(Credentials::parse("abcd", good).is_some());
        for (ufrag, password) in [("abc", good), ("ab:cd", good), ("abcd", "short"), ("abcd", "")] {
            assert!(Credentials::parse(ufrag, password).is_none(), "{ufrag} {password}");
        }
        assert!(Credentials::parse(&"a".repeat(257), good).is_none());
    }
}
