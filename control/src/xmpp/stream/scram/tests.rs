//! The library's exchange against the RFCs' formulas, written out here, and against servers that are wrong.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use data_encoding::BASE64;
use proptest::prelude::*;

use super::*;

/// The server's part of RFC 5802 section 3, by another library than the client's.
pub(in crate::xmpp::stream) struct Server {
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
    salt: Vec<u8>,
    iterations: u32,
}

impl Server {
    pub(in crate::xmpp::stream) fn new(mechanism: &str) -> Self {
        let (hmac, pbkdf2) = match mechanism.strip_suffix("-PLUS").unwrap_or(mechanism) {
            "SCRAM-SHA-1" => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pbkdf2::PBKDF2_HMAC_SHA1),
            "SCRAM-SHA-256" => (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
            "SCRAM-SHA-512" => (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
            other => panic!("{other}"),
        };
        Self { hmac, pbkdf2, salt: b"a salt".to_vec(), iterations: 4_096 }
    }

    fn mac(&self, key: &[u8], text: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac, key), text).as_ref().to_vec()
    }

    /// ClientProof and ServerSignature.
    pub(in crate::xmpp::stream) fn proof_and_signature(
        &self,
        password: &str,
        signed: &str,
    ) -> (String, String) {
        let digest = self.hmac.digest_algorithm();
        let mut salted = vec![0; digest.output_len()];
        let iterations = NonZeroU32::new(self.iterations).unwrap();
        pbkdf2::derive(self.pbkdf2, iterations, &self.salt, password.as_bytes(), &mut salted);
        let client_key = self.mac(&salted, b"Client Key");
        let stored_key = digest::digest(digest, &client_key);
        let client_signature = self.mac(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(client_signature).map(|(a, b)| a ^ b).collect();
        let signature = self.mac(&self.mac(&salted, b"Server Key"), signed.as_bytes());
        (BASE64.encode(&proof), BASE64.encode(&signature))
    }

    pub(in crate::xmpp::stream) fn challenge(&self, nonce: &str) -> String {
        format!("r={nonce}server,s={},i={}", BASE64.encode(&self.salt), self.iterations)
    }
}

fn exchange(mechanism: &str, binding: Binding) -> Exchange {
    Exchange::new(mechanism, "user", &Password::new("pencil"), binding).expect("preparable")
}

/// What stands before the client's first bare message, that message, and the nonce.
fn first(exchange: &Exchange) -> (String, String, String) {
    let text = String::from_utf8(exchange.first()).unwrap();
    let (header, bare) = text.split_once(",,").unwrap();
    let nonce = bare.split_once(",r=").unwrap().1;
    (format!("{header},,"), bare.to_owned(), nonce.to_owned())
}

/// One that has been challenged rightly.
fn answered() -> Exchange {
    let mut exchange = exchange("SCRAM-SHA-1", Binding::Unable);
    let (_, _, nonce) = first(&exchange);
    exchange.answer(Server::new("SCRAM-SHA-1").challenge(&nonce).as_bytes()).unwrap();
    exchange
}

#[test]
fn the_server_of_these_tests_is_that_of_rfc_5802_and_7677() {
    let salt = |text: &str| BASE64.decode(text.as_bytes()).unwrap();
    let sha1 = Server { salt: salt("QSXCR+Q6sek8bf92"), ..Server::new("SCRAM-SHA-1") };
    let nonce = "fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j";
    let signed = format!(
        "n=user,r=fyko+d2lbbFgONRv9qkxdawL,r={nonce},s=QSXCR+Q6sek8bf92,i=4096,c=biws,r={nonce}"
    );
    let expected = ("v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "rmF9pqV8S7suAoZWja4dJRkFsKQ=");
    let (proof, signature) = sha1.proof_and_signature("pencil", &signed);
    assert_eq!((proof.as_str(), signature.as_str()), expected);

    let sha256 = Server { salt: salt("W22ZaJ0SNY7soEsUEjb6gQ=="), ..Server::new("SCRAM-SHA-256") };
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let signed = format!(
        "n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    );
    let expected = (
        "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    );
    let (proof, signature) = sha256.proof_and_signature("pencil", &signed);
    assert_eq!((proof.as_str(), signature.as_str()), expected);
}

#[test]
fn every_mechanism_proves_both_ends_with_what_it_is_bound_to() {
    let key = Binding::TlsExporter([7; 32]);
    for (mechanism, binding, header) in [
        ("SCRAM-SHA-1", Binding::Unable, "n,,"),
        ("SCRAM-SHA-1", Binding::NotOffered, "y,,"),
        ("SCRAM-SHA-1-PLUS", key.clone(), "p=tls-exporter,,"),
        ("SCRAM-SHA-256", Binding::Unable, "n,,"),
        ("SCRAM-SHA-256", Binding::NotOffered, "y,,"),
        ("SCRAM-SHA-256-PLUS", key.clone(), "p=tls-exporter,,"),
        ("SCRAM-SHA-512", Binding::Unable, "n,,"),
        ("SCRAM-SHA-512", Binding::NotOffered, "y,,"),
        ("SCRAM-SHA-512-PLUS", key, "p=tls-exporter,,"),
    ] {
        let keying: &[u8] = if binding.is_bound() { &[7; 32] } else { &[] };
        let mut exchange = exchange(mechanism, binding);
        let (sent_header, bare, nonce) = first(&exchange);
        assert_eq!(sent_header, header, "{mechanism}");
        assert_eq!(bare, format!("n=user,r={nonce}"));
        let server = Server::new(mechanism);
        let challenge = server.challenge(&nonce);
        let answer = String::from_utf8(exchange.answer(challenge.as_bytes()).unwrap()).unwrap();
        let bound = BASE64.encode(&[header.as_bytes(), keying].concat());
        let last_bare = format!("c={bound},r={nonce}server");
        let (proof, signature) =
            server.proof_and_signature("pencil", &format!("{bare},{challenge},{last_bare}"));
        assert_eq!(answer, format!("{last_bare},p={proof}"), "{mechanism}");
        assert!(!exchange.is_verified());
        assert_eq!(exchange.verify(format!("v={signature}").as_bytes()), Ok(()), "{mechanism}");
        assert!(exchange.is_verified());
        assert_eq!(exchange.is_bound(), header.starts_with('p'), "{mechanism}");
    }
}

#[test]
fn no_nonce_comes_twice() {
    let nonces = std::iter::repeat_with(|| first(&exchange("SCRAM-SHA-1", Binding::Unable)).2);
    let nonces: std::collections::BTreeSet<_> = nonces.take(100).collect();
    assert_eq!(nonces.len(), 100);
    // Of 89 characters each, so 155 bits.
    assert!(nonces.iter().all(|nonce| nonce.len() == 24));
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    for (last, fault) in [
        ("v=AAAAAAAAAAAAAAAAAAAAAAAAAAA=", ScramFault::Signature),
        ("v=", ScramFault::Signature),
        ("v=!", ScramFault::NoSignature),
        ("v", ScramFault::NoSignature),
        (",v=AAAA", ScramFault::NoSignature),
        ("", ScramFault::NoSignature),
        ("e=other-error", ScramFault::NoSignature),
    ] {
        let mut exchange = answered();
        assert_eq!(exchange.verify(last.as_bytes()), Err(fault), "{last}");
        assert!(!exchange.is_verified());
        assert_eq!(exchange.verify(b"v=AAAA"), Err(ScramFault::OutOfOrder), "no second try");
    }
}

#[test]
fn bad_challenges_are_refused() {
    let unanswerable = "unanswerable";
    for (challenge, why) in [
        ("", "malformed"),
        ("r", "malformed"),
        ("r=NONCEx", unanswerable),
        ("r=NONCEx,", "malformed"),
        ("r=NONCEx,s,i=4096", "malformed"),
        ("r=NONCEx,s=QSXC", unanswerable),
        ("r=NONCEx,s=QSXC,i", "malformed"),
        ("m=x,r=NONCEx,s=QSXC,i=4096", unanswerable),
        ("r=NONCEx,s=*,i=4096", unanswerable),
        ("r=NONCEx,s=QSXC,i=0", unanswerable),
        ("r=NONCEx,s=QSXC,i=99999999999", unanswerable),
        ("r=NONCEx,s=QSXC,i=1", "fewer than 4,096"),
        ("r=NONCEx,s=QSXC,i=4095", "fewer than 4,096"),
        ("r=NONCEx,s=QSXC,i=1000001", "more than 1,000,000"),
        ("r=NONCEx,s=QSXC,i=4000000000", "more than 1,000,000"),
        ("r=NONCE,s=QSXC,i=4096", "nonce"),
        ("r=other,s=QSXC,i=4096", "nonce"),
        ("r=xNONCEx,s=QSXC,i=4096", "nonce"),
    ] {
        let mut exchange = exchange("SCRAM-SHA-256", Binding::Unable);
        let challenge = challenge.replace("NONCE", &first(&exchange).2);
        let fault = exchange.answer(challenge.as_bytes()).unwrap_err();
        match why {
            "unanswerable" => assert!(matches!(fault, ScramFault::Unanswerable(_)), "{challenge}"),
            _ => assert!(fault.to_string().contains(why), "{challenge}: {fault}"),
        }
        assert_eq!(exchange.answer(challenge.as_bytes()), Err(ScramFault::OutOfOrder));
    }
}

#[test]
fn a_challenge_of_more_than_4_kib_is_refused() {
    for (len, is_taken) in [(4_096, true), (4_097, false)] {
        let mut exchange = exchange("SCRAM-SHA-1", Binding::Unable);
        let challenge = Server::new("SCRAM-SHA-1").challenge(&first(&exchange).2) + ",x=";
        let challenge = format!("{challenge:x<len$}");
        let answer = exchange.answer(challenge.as_bytes());
        assert_eq!(answer.is_ok(), is_taken, "what a server adds is ignored, up to a length");
    }
}

#[test]
fn steps_cannot_be_skipped_or_repeated() {
    let mut skipping = exchange("SCRAM-SHA-1", Binding::Unable);
    assert_eq!(skipping.verify(b"v=AAAA"), Err(ScramFault::OutOfOrder));
    let mut repeating = answered();
    assert_eq!(repeating.answer(b"r=x,s=QSXC,i=4096"), Err(ScramFault::OutOfOrder));
}

#[test]
fn names_are_escaped_and_forbidden_characters_refused() {
    let begin = |name, password| {
        Exchange::new("SCRAM-SHA-1", name, &Password::new(password), Binding::NotOffered)
    };
    let bare = first(&begin("a,b=c", "p").unwrap()).1;
    assert!(bare.starts_with("n=a=2Cb=3Dc,r="), "{bare}");
    // SASLprep makes a usual space of one that is not, and an `a` of a feminine ordinal (RFC 4013 section 3).
    let bare = first(&begin("\u{aa} b", "p").unwrap()).1;
    assert!(bare.starts_with("n=a b,r="), "{bare}");
    assert!(begin("a", "p\u{7}").is_err());
    assert!(begin("a\u{7}", "p").is_err());
}

#[test]
fn the_password_is_prepared_too() {
    let mut exchange =
        Exchange::new("SCRAM-SHA-1", "user", &Password::new("\u{aa}"), Binding::Unable).unwrap();
    let (_, bare, nonce) = first(&exchange);
    let server = Server::new("SCRAM-SHA-1");
    let challenge = server.challenge(&nonce);
    let answer = String::from_utf8(exchange.answer(challenge.as_bytes()).unwrap()).unwrap();
    let last_bare = format!("c=biws,r={nonce}server");
    let (proof, _) = server.proof_and_signature("a", &format!("{bare},{challenge},{last_bare}"));
    assert_eq!(answer, format!("{last_bare},p={proof}"));
}

proptest! {
    /// Above all such as the library does not survive by itself.
    #[test]
    fn any_challenge_is_survived(rest in "[ -~]{0,60}", fields in "[rsimv=,]{0,12}", i in 0..20_000u32) {
        let begin = || {
            let exchange = exchange("SCRAM-SHA-1", Binding::Unable);
            let nonce = first(&exchange).2;
            (exchange, nonce)
        };
        for challenge in [
            rest.clone(),
            fields.clone(),
            format!("r=NONCE{rest},s=QSXC,i={i}"),
            format!("r=NONCE1{fields}"),
            format!("r=NONCE1,s=QSXC{fields}"),
        ] {
            let (mut exchange, nonce) = begin();
            let _ = exchange.answer(challenge.replace("NONCE", &nonce).as_bytes());
            let _ = exchange.verify(rest.as_bytes());
        }
        for last in [&rest, &fields] {
            let _ = answered().verify(last.as_bytes());
        }
    }
}
