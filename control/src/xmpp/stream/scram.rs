//! SCRAM, the client's side (RFC 5802, RFC 7677), with channel binding by `tls-exporter` (RFC 9266).
//!
//! The password never leaves the host, and the server has to prove that it knows it too. The exchange is three
//! messages from [`Exchange::first`], [`Exchange::answer`] and [`Exchange::verify`]; each step can be taken once.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use data_encoding::BASE64;
use stringprep::saslprep;
use zeroize::Zeroizing;

use super::account::Password;

/// Fewer make it cheap for whoever gets hold of the server's half to find the password (RFC 7677 section 4).
const MIN_ITERATIONS: u32 = 4_096;
/// More would let a server keep this host computing; a million takes about half a second.
const MAX_ITERATIONS: u32 = 1_000_000;
/// What a challenge may hold, in bytes.
const MAX_CHALLENGE_LEN: usize = 4 * 1024;
const NONCE_LEN: usize = 24;

/// The hash that an exchange uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hash {
    Sha1,
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        self.hmac().digest_algorithm()
    }
}

/// What the exchange is bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Binding {
    /// Nothing, and this end could not do it either.
    Unable,
    /// Nothing, since the server offers none. If it did, and somebody took the offer out, the server notices.
    NotOffered,
    /// The TLS connection, by its exported key.
    TlsExporter([u8; 32]),
}

impl Binding {
    fn gs2_header(&self) -> &'static str {
        match self {
            Self::Unable => "n,,",
            Self::NotOffered => "y,,",
            Self::TlsExporter(_) => "p=tls-exporter,,",
        }
    }

    /// Whether it is something.
    pub(super) fn is_bound(&self) -> bool {
        matches!(self, Self::TlsExporter(_))
    }

    fn keying_material(&self) -> &[u8] {
        match self {
            Self::Unable | Self::NotOffered => &[],
            Self::TlsExporter(key) => key,
        }
    }
}

/// What is wrong with the other side's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum ScramFault {
    #[error("its challenge is malformed")]
    Challenge,
    #[error("its nonce is not an extension of this side's")]
    Nonce,
    #[error("it asks for fewer than 4,096 iterations, which would endanger the password")]
    FewIterations,
    #[error("it asks for more than 1,000,000 iterations")]
    ManyIterations,
    #[error("its signature is wrong")]
    Signature,
    #[error("it reports success without a signature")]
    NoSignature,
    #[error("it skips a step of the exchange")]
    OutOfOrder,
}

/// The account's name or password holds characters that SASL forbids (RFC 4013).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unpreparable;

/// One log-in.
pub(super) struct Exchange {
    hash: Hash,
    binding: Binding,
    password: Zeroizing<String>,
    nonce: String,
    first_bare: String,
    state: State,
}

enum State {
    First,
    Answered { server_signature: hmac::Tag },
    Verified,
}

impl Exchange {
    pub(super) fn new(
        hash: Hash,
        user: &str,
        password: &Password,
        binding: Binding,
    ) -> Result<Self, Unpreparable> {
        let mut nonce = [0; NONCE_LEN];
        // The generator fails only where there is none; a log-in cannot go on then.
        rand::fill(&mut nonce).map_err(|_| Unpreparable)?;
        Self::with_nonce(hash, user, password, binding, BASE64.encode(&nonce))
    }

    fn with_nonce(
        hash: Hash,
        user: &str,
        password: &Password,
        binding: Binding,
        nonce: String,
    ) -> Result<Self, Unpreparable> {
        let user =
            saslprep(user).map_err(|_| Unpreparable)?.replace('=', "=3D").replace(',', "=2C");
        let password = saslprep(password.as_str()).map_err(|_| Unpreparable)?;
        Ok(Self {
            hash,
            binding,
            password: Zeroizing::new(password.into_owned()),
            first_bare: format!("n={user},r={nonce}"),
            nonce,
            state: State::First,
        })
    }

    /// The client's first message.
    pub(super) fn first(&self) -> Vec<u8> {
        format!("{}{}", self.binding.gs2_header(), self.first_bare).into_bytes()
    }

    /// Answers the server's first message.
    pub(super) fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ScramFault> {
        if !matches!(self.state, State::First) {
            return Err(ScramFault::OutOfOrder);
        }
        let text = str::from_utf8(challenge).map_err(|_| ScramFault::Challenge)?;
        let challenge = Challenge::parse(text)?;
        let is_extension =
            challenge.nonce.len() > self.nonce.len() && challenge.nonce.starts_with(&self.nonce);
        if !is_extension {
            return Err(ScramFault::Nonce);
        }
        let mut bound = self.binding.gs2_header().as_bytes().to_vec();
        bound.extend_from_slice(self.binding.keying_material());
        let last_bare = format!("c={},r={}", BASE64.encode(&bound), challenge.nonce);
        let signed = format!("{},{text},{last_bare}", self.first_bare);

        let salted = self.salted_password(&challenge);
        let client_key = self.mac(&salted, b"Client Key");
        let stored_key = digest::digest(self.hash.digest(), client_key.as_ref());
        let client_signature = self.mac(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> =
            client_key.as_ref().iter().zip(client_signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = self.mac(&salted, b"Server Key");
        self.state =
            State::Answered { server_signature: self.mac(server_key.as_ref(), signed.as_bytes()) };
        Ok(format!("{last_bare},p={}", BASE64.encode(&proof)).into_bytes())
    }

    /// Checks the server's last message, which proves that it knows the password.
    pub(super) fn verify(&mut self, last: &[u8]) -> Result<(), ScramFault> {
        let State::Answered { server_signature } = &self.state else {
            return Err(ScramFault::OutOfOrder);
        };
        let text = str::from_utf8(last).map_err(|_| ScramFault::NoSignature)?;
        let encoded = text.split(',').next().and_then(|field| field.strip_prefix("v="));
        let signature = BASE64.decode(encoded.ok_or(ScramFault::NoSignature)?.as_bytes());
        let signature = signature.map_err(|_| ScramFault::Signature)?;
        constant_time::verify_slices_are_equal(&signature, server_signature.as_ref())
            .map_err(|_| ScramFault::Signature)?;
        self.state = State::Verified;
        Ok(())
    }

    /// Whether it is bound to the connection.
    pub(super) fn is_bound(&self) -> bool {
        self.binding.is_bound()
    }

    /// Whether the server has proved itself.
    pub(super) fn is_verified(&self) -> bool {
        matches!(self.state, State::Verified)
    }

    fn salted_password(&self, challenge: &Challenge<'_>) -> Zeroizing<Vec<u8>> {
        let mut salted = Zeroizing::new(vec![0; self.hash.digest().output_len()]);
        let password = self.password.as_bytes();
        pbkdf2::derive(
            self.hash.pbkdf2(),
            challenge.iterations,
            &challenge.salt,
            password,
            &mut salted,
        );
        salted
    }

    fn mac(&self, key: &[u8], text: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(self.hash.hmac(), key), text)
    }
}

/// The server's first message.
struct Challenge<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl<'a> Challenge<'a> {
    /// `r=`, `s=`, `i=` in this order, then extensions, which are ignored. One that must not be ignored (`m=`) would
    /// come first.
    fn parse(text: &'a str) -> Result<Self, ScramFault> {
        if text.len() > MAX_CHALLENGE_LEN {
            return Err(ScramFault::Challenge);
        }
        let mut fields = text.split(',');
        let mut field = |name| {
            fields.next().and_then(|field| field.strip_prefix(name)).ok_or(ScramFault::Challenge)
        };
        let nonce = field("r=")?;
        let salt = BASE64.decode(field("s=")?.as_bytes()).map_err(|_| ScramFault::Challenge)?;
        let iterations: NonZeroU32 = field("i=")?.parse().map_err(|_| ScramFault::Challenge)?;
        match iterations.get() {
            ..MIN_ITERATIONS => Err(ScramFault::FewIterations),
            MIN_ITERATIONS..=MAX_ITERATIONS => Ok(Self { nonce, salt, iterations }),
            _ => Err(ScramFault::ManyIterations),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 5802 section 5.
    const SHA1_NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";
    const SHA1_CHALLENGE: &str =
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096";

    fn exchange(hash: Hash, nonce: &str, binding: Binding) -> Exchange {
        Exchange::with_nonce(hash, "user", &Password::new("pencil"), binding, nonce.to_owned())
            .expect("preparable")
    }

    #[test]
    fn sha1_as_in_rfc_5802() {
        let mut exchange = exchange(Hash::Sha1, SHA1_NONCE, Binding::Unable);
        assert_eq!(exchange.first(), b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
        let answer = exchange.answer(SHA1_CHALLENGE.as_bytes()).unwrap();
        let expected =
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=";
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
        assert_eq!(exchange.verify(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="), Ok(()));
        assert!(exchange.is_verified());
    }

    #[test]
    fn sha256_as_in_rfc_7677() {
        let mut exchange = exchange(Hash::Sha256, "rOprNGfwEbeRWgbNEkqO", Binding::Unable);
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = exchange.answer(challenge.as_bytes()).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
        assert_eq!(exchange.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    #[test]
    fn channel_binding_stands_in_first_and_last_message() {
        let mut exchange = exchange(Hash::Sha1, SHA1_NONCE, Binding::TlsExporter([7; 32]));
        assert!(exchange.first().starts_with(b"p=tls-exporter,,n=user,"));
        let answer =
            String::from_utf8(exchange.answer(SHA1_CHALLENGE.as_bytes()).unwrap()).unwrap();
        let bound = answer.strip_prefix("c=").and_then(|rest| rest.split(',').next()).unwrap();
        let expected = [b"p=tls-exporter,,".as_slice(), &[7; 32]].concat();
        assert_eq!(BASE64.decode(bound.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        for (last, fault) in [
            ("v=AAAAAAAAAAAAAAAAAAAAAAAAAAA=", ScramFault::Signature),
            ("v=", ScramFault::Signature),
            ("v=!", ScramFault::Signature),
            ("", ScramFault::NoSignature),
            ("e=other-error", ScramFault::NoSignature),
        ] {
            let mut exchange = exchange(Hash::Sha1, SHA1_NONCE, Binding::Unable);
            exchange.answer(SHA1_CHALLENGE.as_bytes()).unwrap();
            assert_eq!(exchange.verify(last.as_bytes()), Err(fault), "{last}");
            assert!(!exchange.is_verified());
        }
    }

    #[test]
    fn bad_challenges_are_refused() {
        for (challenge, fault) in [
            ("", ScramFault::Challenge),
            ("m=x,r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXC,i=4096", ScramFault::Challenge),
            ("r=fyko+d2lbbFgONRv9qkxdawLx,s=*,i=4096", ScramFault::Challenge),
            ("r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXC,i=0", ScramFault::Challenge),
            ("r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXC,i=99999999999", ScramFault::Challenge),
            ("r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXC,i=1", ScramFault::FewIterations),
            ("r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXC,i=4000000000", ScramFault::ManyIterations),
            ("r=fyko+d2lbbFgONRv9qkxdawL,s=QSXC,i=4096", ScramFault::Nonce),
            ("r=other,s=QSXC,i=4096", ScramFault::Nonce),
        ] {
            let mut exchange = exchange(Hash::Sha256, SHA1_NONCE, Binding::Unable);
            assert_eq!(exchange.answer(challenge.as_bytes()), Err(fault), "{challenge}");
        }
    }

    #[test]
    fn a_challenge_of_more_than_4_kib_is_refused() {
        let of_len = |len: usize| {
            let extension = len - SHA1_CHALLENGE.len() - ",x=".len();
            format!("{SHA1_CHALLENGE},x={}", "x".repeat(extension))
        };
        let answer = |challenge: &str| {
            exchange(Hash::Sha1, SHA1_NONCE, Binding::Unable).answer(challenge.as_bytes())
        };
        assert!(answer(&of_len(4_096)).is_ok(), "what a server adds is ignored");
        assert_eq!(answer(&of_len(4_097)), Err(ScramFault::Challenge));
    }

    #[test]
    fn steps_cannot_be_skipped_or_repeated() {
        let mut skipping = exchange(Hash::Sha1, SHA1_NONCE, Binding::Unable);
        assert_eq!(skipping.verify(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="), Err(ScramFault::OutOfOrder));
        let mut repeating = exchange(Hash::Sha1, SHA1_NONCE, Binding::Unable);
        repeating.answer(SHA1_CHALLENGE.as_bytes()).unwrap();
        assert_eq!(repeating.answer(SHA1_CHALLENGE.as_bytes()), Err(ScramFault::OutOfOrder));
    }

    #[test]
    fn names_are_escaped_and_forbidden_characters_refused() {
        let password = Password::new("p");
        let exchange =
            Exchange::with_nonce(Hash::Sha1, "a,b=c", &password, Binding::NotOffered, "n".into())
                .unwrap();
        assert_eq!(exchange.first(), b"y,,n=a=2Cb=3Dc,r=n");
        assert!(Exchange::new(Hash::Sha1, "a", &Password::new("p\u{7}"), Binding::Unable).is_err());
    }

    proptest! {
        #[test]
        fn any_challenge_is_survived(rest in "[ -~]{0,60}", i in 0..20_000u32) {
            let mut exchange = exchange(Hash::Sha1, "n", Binding::Unable);
            let _ = exchange.answer(rest.as_bytes());
            let mut exchange = self::exchange(Hash::Sha1, "n", Binding::Unable);
            let _ = exchange.answer(format!("r=n{rest},s=QSXC,i={i}").as_bytes());
            let _ = exchange.verify(rest.as_bytes());
        }
    }
}
