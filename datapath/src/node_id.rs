//! A node's identity on the wire: the hash of its key.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};

/// SHA-256 of an Ed25519 key's DER-encoded SubjectPublicKeyInfo.
///
/// Written as 52 characters of lower-case base32 without padding (RFC 4648).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The id of the key with this SubjectPublicKeyInfo (DER, RFC 8410).
    pub fn of_spki(spki_der: &[u8]) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, spki_der).as_ref());
        Self(id)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a node id is 52 characters a-z and 2-7, as `ipop-switch identity` prints it on that host; \
     this one {0}"
)]
pub struct BadNodeId(String);

impl FromStr for NodeId {
    type Err = BadNodeId;

    fn from_str(text: &str) -> Result<Self, BadNodeId> {
        if text.chars().count() != 52 {
            return Err(BadNodeId(format!("has {} characters", text.chars().count())));
        }
        if let Some(odd) = text.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '2'..='7')) {
            return Err(BadNodeId(format!("contains {odd:?}")));
        }
        let bytes = BASE32_NOPAD_NOCASE
            .decode(text.as_bytes())
            .map_err(|_| BadNodeId("is mistyped near its end".into()))?;
        let id = bytes.try_into().map_err(|_| BadNodeId("is mistyped near its end".into()))?;
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_either_case() {
        let id = NodeId::of_spki(b"any key");
        let text = id.to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse::<NodeId>(), Ok(id));
        assert_eq!(text.to_uppercase().parse::<NodeId>(), Ok(id));
    }

    #[test]
    fn typos_are_explained() {
        let text = NodeId::of_spki(b"any key").to_string();
        for bad in [&text[1..], "", &text.replace(&text[3..4], "1"), &format!("{}z", &text[..51])] {
            let error = bad.parse::<NodeId>().unwrap_err().to_string();
            assert!(error.contains("52 characters"), "{error}");
        }
    }
}
