//! Join tokens: what a host needs to join a network, in one line that survives mail and chat.
//!
//! `ipop1` and the base32 (RFC 4648, lower case, no padding) of: fields of one byte type, one byte length and value; then the first 5
//! bytes of the SHA-256 of all before them, which catch what was mistyped or cut off. Fields: 1 the room's JID (required), 2 the network's
//! secret (required), 3 the server's `HOST:PORT` for accounts whose domain does not lead there. Unknown fields are ignored, so that later
//! versions can add some. A token holds the secret: it is as confidential.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};

use super::secret::{MAX_LEN, Secret, SecretError};

/// Every token begins so; the digit is the version.
const PREFIX: &str = "ipop1";
const CHECKSUM_LEN: usize = 5;
/// The longest token that is looked at, in characters: three fields of 255 bytes fit.
pub const MAX_TOKEN_LEN: usize = 2_048;

mod field {
    pub(super) const ROOM: u8 = 1;
    pub(super) const SECRET: u8 = 2;
    pub(super) const SERVER: u8 = 3;
}

/// An invitation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinToken {
    /// The room's bare JID, 1 to 255 bytes. Whether it is one is for the caller to check.
    pub room: String,
    /// The network's secret.
    pub secret: Secret,
    /// `HOST:PORT` of the server, if the account's domain does not lead there.
    pub server: Option<String>,
}

/// The text is not a token. No message repeats it, since it may hold a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// It begins otherwise.
    #[error(
        "a join token begins with {PREFIX}, as `ipop-switch room create` prints it; this text does not"
    )]
    NotAToken,
    /// A character that no token has.
    #[error(
        "the join token contains a character that no token has, or a part of it is missing; copy the whole line"
    )]
    BadCharacter,
    /// The checksum does not fit.
    #[error(
        "the join token was changed on its way or a part of it is missing; copy the whole line again"
    )]
    Checksum,
    /// Longer than any token.
    #[error("the join token is longer than {MAX_TOKEN_LEN} characters")]
    Long,
    /// Its fields make no sense although the checksum fits.
    #[error("the join token was made wrongly: {0}")]
    Malformed(&'static str),
    /// The secret in it is no good.
    #[error("the join token was made wrongly: {0}")]
    Secret(SecretError),
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(128);
        let mut put = |kind: u8, value: &str| {
            // What does not fit one byte of length is left out, and the reader then says that it is missing.
            if let Ok(len) = u8::try_from(value.len()) {
                bytes.extend_from_slice(&[kind, len]);
                bytes.extend_from_slice(value.as_bytes());
            }
        };
        put(field::ROOM, &self.room);
        put(field::SECRET, self.secret.reveal());
        if let Some(server) = &self.server {
            put(field::SERVER, server);
        }
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// White space within is ignored: mail programs break lines.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > 2 * MAX_TOKEN_LEN {
            return Err(TokenError::Long);
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if text.len() > MAX_TOKEN_LEN {
            return Err(TokenError::Long);
        }
        let head = text.get(..PREFIX.len()).filter(|head| head.eq_ignore_ascii_case(PREFIX));
        let body = head.map(|head| &text[head.len()..]).ok_or(TokenError::NotAToken)?;
        let bytes =
            BASE32_NOPAD_NOCASE.decode(body.as_bytes()).map_err(|_| TokenError::BadCharacter)?;
        let fields_len = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(TokenError::Checksum)?;
        let (fields, sum) = bytes.split_at(fields_len);
        if sum != checksum(fields) {
            return Err(TokenError::Checksum);
        }
        Self::of_fields(fields)
    }
}

impl JoinToken {
    fn of_fields(mut rest: &[u8]) -> Result<Self, TokenError> {
        let (mut room, mut secret, mut server) = (None, None, None);
        while let Some((&[kind, len], tail)) = rest.split_first_chunk() {
            let (value, tail) = tail
                .split_at_checked(usize::from(len))
                .ok_or(TokenError::Malformed("a field is cut short"))?;
            let slot = match kind {
                field::ROOM => Some(&mut room),
                field::SECRET => Some(&mut secret),
                field::SERVER => Some(&mut server),
                _ => None,
            };
            if let Some(slot) = slot
                && slot.replace(text(value)?).is_some()
            {
                return Err(TokenError::Malformed("a field stands twice"));
            }
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(TokenError::Malformed("a field is cut short"));
        }
        let room = room.filter(|room| !room.is_empty());
        let room = room.ok_or(TokenError::Malformed("it names no room"))?.to_owned();
        let secret = secret.ok_or(TokenError::Malformed("it holds no secret"))?;
        let secret = secret.parse().map_err(TokenError::Secret)?;
        Ok(Self { room, secret, server: server.map(str::to_owned) })
    }
}

fn text(value: &[u8]) -> Result<&str, TokenError> {
    let text = std::str::from_utf8(value).ok();
    text.filter(|text| !text.chars().any(|c| c.is_control() || c.is_whitespace()))
        .ok_or(TokenError::Malformed("a field is not text"))
}

fn checksum(fields: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(PREFIX.as_bytes());
    context.update(fields);
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&context.finish().as_ref()[..CHECKSUM_LEN]);
    sum
}

/// Body of the fuzz target: any text is refused or round-trips.
///
/// # Panics
/// When that does not hold.
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<JoinToken>() {
        assert!(token.secret.reveal().len() <= MAX_LEN && !token.room.is_empty());
        assert_eq!(token.to_string().parse(), Ok(token), "it round-trips");
    }
    // The same bytes as fields, past the checksum.
    if let Ok(token) = JoinToken::of_fields(bytes) {
        assert_eq!(token.to_string().parse(), Ok(token), "fields round-trip");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> JoinToken {
        JoinToken {
            room: "vmnet@muc.example.org".into(),
            secret: "mfrggzdfmztwq2lknnwg23tpobyxe43u".parse().unwrap(),
            server: Some("xmpp.example.org:443".into()),
        }
    }

    #[test]
    fn a_token_is_one_line_and_round_trips() {
        let text = sample().to_string();
        assert!(text.starts_with("ipop1") && text.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(text.parse(), Ok(sample()));
        assert_eq!(text.to_uppercase().parse(), Ok(sample()));
        let (head, tail) = text.split_at(40);
        assert_eq!(format!(" {head}\r\n {tail}\n").parse(), Ok(sample()));
        let bare = JoinToken { server: None, ..sample() };
        assert_eq!(bare.to_string().parse(), Ok(bare));
    }

    #[test]
    fn every_mistyped_character_and_every_cut_is_noticed() {
        let text = sample().to_string();
        for at in 5..text.len() {
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(changed.parse::<JoinToken>().is_err(), "{at}");
            assert!(text[..at].parse::<JoinToken>().is_err(), "cut at {at}");
        }
    }

    #[test]
    fn errors_say_what_to_do_and_keep_the_secret() {
        for (text, word) in [
            ("", "room create"),
            ("vmnet@muc.example.org", "begins with ipop1"),
            ("ipop1", "copy the whole line"),
            ("ipop1abc!", "copy the whole line"),
            ("ipop1mfrggzdfmztwq2lk", "copy the whole line"),
        ] {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("mfrgg"), "{error}");
        }
        assert_eq!("x".repeat(5_000).parse::<JoinToken>(), Err(TokenError::Long));
    }

    fn with_checksum(fields: &[u8]) -> String {
        let bytes = [fields, &checksum(fields)].concat();
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes))
    }

    #[test]
    fn unknown_fields_are_ignored_and_others_must_make_sense() {
        let secret = sample().secret;
        let secret = [&[field::SECRET, 32][..], secret.reveal().as_bytes()].concat();
        let room = [&[field::ROOM, 3][..], b"a@b"].concat();
        let parse = |parts: &[&[u8]]| with_checksum(&parts.concat()).parse::<JoinToken>();
        assert_eq!(parse(&[&room, &[77, 2, 1, 2], &secret]).unwrap().room, "a@b");
        for parts in [
            &[&room[..]][..],
            &[&secret],
            &[&room, &room, &secret],
            &[&room, &secret, &[3, 9]],
            &[&room, &secret, &[3]],
            &[&[1, 0], &secret],
            &[&[1, 2, b'a', b'\n'], &secret],
            &[&[1, 1, 0xff], &secret],
        ] {
            assert!(matches!(parse(parts), Err(TokenError::Malformed(_))), "{parts:?}");
        }
        assert!(matches!(parse(&[&room, &[2, 1, b'x']]), Err(TokenError::Secret(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
        }

        #[test]
        fn any_fields_with_a_good_checksum(fields in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz(with_checksum(&fields).as_bytes());
        }

        #[test]
        fn any_token_round_trips(
            room in "[!-~]{1,255}", secret in "[!-~]{40,255}", server in prop::option::of("[a-z.]{1,200}:[0-9]{1,5}")
        ) {
            if let Ok(secret) = secret.parse() {
                let token = JoinToken { room, secret, server };
                prop_assert_eq!(token.to_string().parse(), Ok(token));
            }
        }
    }
}
