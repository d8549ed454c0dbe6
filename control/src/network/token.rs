//! Join tokens: what a host needs to join a network, in one line that survives mail and chat.
//!
//! `ipop1` and the base32 (RFC 4648, lower case, no padding) of: fields of one byte type, one byte length and value; then the first 5
//! bytes of the SHA-256 of all before them, which catch what was mistyped or cut off. Fields: 1 the room's JID (required), 2 the network's
//! secret (required), 3 the server's `HOST:PORT` for accounts whose domain does not lead there, 4 one or two pins of 32 bytes by which the
//! server is known, 5 the domain of the accounts that they hold for (neither without the other). Unknown fields are ignored, so that later
//! versions can add some. A token holds the secret: it is as confidential.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};

use super::{
    pin::{MAX_PINS, PIN_LEN, Pin, ServerPins},
    secret::{Secret, SecretError},
};

/// Every token begins so; the digit is the version.
const PREFIX: &str = "ipop1";
const CHECKSUM_LEN: usize = 5;
/// The longest token that is looked at, in characters: four fields of 255 bytes and one of 64 fit.
pub const MAX_TOKEN_LEN: usize = 2_048;

mod field {
    pub(super) const ROOM: u8 = 1;
    pub(super) const SECRET: u8 = 2;
    pub(super) const SERVER: u8 = 3;
    pub(super) const PINS: u8 = 4;
    pub(super) const PINNED_DOMAIN: u8 = 5;
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
    /// By which keys the server of a domain is known, if no authority vouches for it.
    pub pins: Option<ServerPins>,
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
        let mut put = |kind: u8, value: &[u8]| {
            // What does not fit one byte of length is left out, and the reader then says that it is missing.
            if let Ok(len) = u8::try_from(value.len()) {
                bytes.extend_from_slice(&[kind, len]);
                bytes.extend_from_slice(value);
            }
        };
        put(field::ROOM, self.room.as_bytes());
        put(field::SECRET, self.secret.reveal().as_bytes());
        if let Some(server) = &self.server {
            put(field::SERVER, server.as_bytes());
        }
        if let Some(ServerPins { domain, pins }) = &self.pins {
            let pins: Vec<u8> = pins.iter().flat_map(|pin| pin.0).collect();
            put(field::PINS, &pins);
            put(field::PINNED_DOMAIN, domain.as_bytes());
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
        const KNOWN: usize = field::PINNED_DOMAIN as usize + 1;
        let mut fields: [Option<&[u8]>; KNOWN] = [None; KNOWN];
        while let Some((&[kind, len], tail)) = rest.split_first_chunk() {
            let (value, tail) = tail
                .split_at_checked(usize::from(len))
                .ok_or(TokenError::Malformed("a field is cut short"))?;
            if let Some(field) = fields.get_mut(usize::from(kind)).filter(|_| kind != 0)
                && field.replace(value).is_some()
            {
                return Err(TokenError::Malformed("a field stands twice"));
            }
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(TokenError::Malformed("a field is cut short"));
        }
        let field = |kind: u8| fields[usize::from(kind)];
        let text_of = |kind: u8| field(kind).map(text).transpose();
        let room = text_of(field::ROOM)?.filter(|room| !room.is_empty());
        let room = room.ok_or(TokenError::Malformed("it names no room"))?.to_owned();
        let secret = text_of(field::SECRET)?;
        let secret = secret.ok_or(TokenError::Malformed("it holds no secret"))?;
        let secret = secret.parse().map_err(TokenError::Secret)?;
        let server = text_of(field::SERVER)?.map(str::to_owned);
        let pins = pins_of(field(field::PINS), text_of(field::PINNED_DOMAIN)?)?;
        Ok(Self { room, secret, server, pins })
    }
}

fn pins_of(pins: Option<&[u8]>, domain: Option<&str>) -> Result<Option<ServerPins>, TokenError> {
    let (pins, domain) = match (pins, domain) {
        (Some(pins), Some(domain)) if !domain.is_empty() => (pins, domain.to_owned()),
        (None, None) => return Ok(None),
        _ => return Err(TokenError::Malformed("its pins and their domain do not belong together")),
    };
    let (pins, rest) = pins.as_chunks::<PIN_LEN>();
    if !rest.is_empty() || !(1..=MAX_PINS).contains(&pins.len()) {
        return Err(TokenError::Malformed("its pins are not one or two hashes"));
    }
    Ok(Some(ServerPins { domain, pins: pins.iter().copied().map(Pin).collect() }))
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
#[cfg(feature = "testing")]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<JoinToken>() {
        assert!(token.secret.reveal().len() <= super::secret::MAX_LEN && !token.room.is_empty());
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
            pins: Some(ServerPins {
                domain: "example.org".into(),
                pins: vec![Pin([7; PIN_LEN]), Pin([9; PIN_LEN])],
            }),
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
        let bare = JoinToken { server: None, pins: None, ..sample() };
        assert_eq!(bare.to_string().parse(), Ok(bare));
    }

    #[test]
    fn the_longest_token_is_within_the_bounds() {
        let token = JoinToken {
            room: "r".repeat(255),
            secret: "mfrggzdfmztwq2lknnwg23tpobyxe43u".repeat(8)[..255].parse().unwrap(),
            server: Some("s".repeat(255)),
            pins: Some(ServerPins { domain: "d".repeat(255), ..sample().pins.unwrap() }),
        };
        assert!(token.to_string().len() <= MAX_TOKEN_LEN, "{}", token.to_string().len());
        assert_eq!(token.to_string().parse(), Ok(token));
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
        let twice = [77, 0, 77, 0, 0, 0];
        assert_eq!(parse(&[&room, &secret, &twice]).unwrap().pins, None);
        let pins = |count: u8| [vec![field::PINS, count * 32], vec![7; 32 * usize::from(count)]];
        let (one_pin, three_pins) = (pins(1).concat(), pins(3).concat());
        let of_domain = [&[field::PINNED_DOMAIN, 1][..], b"x"].concat();
        let pinned = parse(&[&room, &of_domain, &secret, &one_pin]).unwrap().pins.unwrap();
        assert_eq!(pinned, ServerPins { domain: "x".into(), pins: vec![Pin([7; 32])] });
        for parts in [
            &[&room[..]][..],
            &[&secret],
            &[&room, &room, &secret],
            &[&room, &secret, &[3, 9]],
            &[&room, &secret, &[3]],
            &[&[1, 0], &secret],
            &[&[1, 2, b'a', b'\n'], &secret],
            &[&[1, 1, 0xff], &secret],
            &[&room, &secret, &one_pin],
            &[&room, &secret, &of_domain],
            &[&room, &secret, &one_pin, &[field::PINNED_DOMAIN, 0]],
            &[&room, &secret, &of_domain, &[field::PINS, 0]],
            &[&room, &secret, &of_domain, &one_pin[..33]],
            &[&room, &secret, &of_domain, &three_pins],
        ] {
            assert!(matches!(parse(parts), Err(TokenError::Malformed(_))), "{parts:?}");
        }
        assert!(matches!(parse(&[&room, &[2, 1, b'x']]), Err(TokenError::Secret(_))));
    }

    /// Well made but for its length, so that nothing else refuses it.
    #[test]
    fn a_text_longer_than_any_token_is_refused() {
        let secret = sample().secret;
        let known = [&[field::ROOM, 3][..], b"a@b", &[field::SECRET, 32]].concat();
        let known = [&known, secret.reveal().as_bytes()].concat();
        // Base32 has 8 characters for 5 bytes, so no token has 2,048.
        for (bytes_len, len, is_taken) in [(1_276, 2_047, true), (1_277, 2_049, false)] {
            let mut fields = known.clone();
            while fields.len() < bytes_len - CHECKSUM_LEN {
                let value_len = (bytes_len - CHECKSUM_LEN - fields.len() - 2).min(200);
                fields.extend_from_slice(&[77, value_len as u8]);
                fields.resize(fields.len() + value_len, 0);
            }
            let token = with_checksum(&fields);
            assert_eq!(token.len(), len);
            let parsed = token.parse::<JoinToken>();
            assert_eq!(
                parsed.map(|token| token.room == "a@b"),
                is_taken.then_some(true).ok_or(TokenError::Long)
            );
        }
    }

    /// It is none of a token's characters, but there is no need to look at any amount of it.
    #[test]
    fn much_white_space_is_refused() {
        let token = sample().to_string();
        for (len, expected) in
            [(2 * MAX_TOKEN_LEN, None), (2 * MAX_TOKEN_LEN + 1, Some(TokenError::Long))]
        {
            assert_eq!(format!("{token:<len$}").parse::<JoinToken>().err(), expected, "{len}");
        }
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
            room in "[!-~]{1,255}", secret in "[!-~]{40,255}", server in prop::option::of("[a-z.]{1,200}:[0-9]{1,5}"),
            pins in prop::option::of(("[a-z.]{1,255}", prop::collection::vec(any::<[u8; 32]>(), 1..=2)))
        ) {
            if let Ok(secret) = secret.parse() {
                let pins = pins.map(|(domain, pins)| {
                    ServerPins { domain, pins: pins.into_iter().map(Pin).collect() }
                });
                let token = JoinToken { room, secret, server, pins };
                prop_assert_eq!(token.to_string().parse(), Ok(token));
            }
        }
    }
}
