//! Pins: by which key a server is known whose certificate no authority vouches for.
//!
//! A pin is the SHA-256 of a public key as it stands in a certificate (SubjectPublicKeyInfo in DER), as RFC 7469 section 2.4 computes it.
//! What it proves is decided where certificates are checked (`xmpp::stream`): it stands in when no authority vouches.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// Bytes of a SHA-256.
pub(crate) const PIN_LEN: usize = 32;
/// Pins of one server: the key in use, and the one that will be.
pub const MAX_PINS: usize = 2;

/// The hash of one public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pin(pub [u8; PIN_LEN]);

/// By which keys the server of a domain is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerPins {
    /// Of the accounts. The pins say nothing about the servers of others.
    pub domain: String,
    /// One to [`MAX_PINS`].
    pub pins: Vec<Pin>,
}

/// The text is not a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a pin is sha256: and 64 hexadecimal digits, the hash of a certificate's public key; \
     `openssl x509 -in FILE -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum` shows the digits"
)]
pub struct BadPin;

impl Pin {
    /// Of a public key, DER as it stands in a certificate.
    pub fn of_spki(spki: &[u8]) -> Self {
        let mut hash = [0; PIN_LEN];
        hash.copy_from_slice(digest::digest(&digest::SHA256, spki).as_ref());
        Self(hash)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", HEXLOWER.encode(&self.0))
    }
}

impl FromStr for Pin {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let digits = text.trim().strip_prefix("sha256:").ok_or(BadPin)?;
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| BadPin)?;
        bytes.try_into().map(Self).map_err(|_| BadPin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_the_hash_that_openssl_shows() {
        // `printf abc | sha256sum`, in the place of a key.
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Pin::of_spki(b"abc").to_string(), text);
        assert_eq!(text.parse(), Ok(Pin::of_spki(b"abc")));
        let upper = format!(" sha256:{}\n", text["sha256:".len()..].to_uppercase());
        assert_eq!(upper.parse(), Ok(Pin::of_spki(b"abc")));
    }

    #[test]
    fn what_is_no_pin_is_refused_with_the_way_to_one() {
        let long = format!("sha256:{}", "a".repeat(66));
        for text in ["", "sha256:", "sha256:abc", &long[..70], &long, "md5:00", "sha256:zz"] {
            let error = text.parse::<Pin>().unwrap_err();
            assert!(error.to_string().contains("openssl x509"), "{text}");
        }
    }
}
