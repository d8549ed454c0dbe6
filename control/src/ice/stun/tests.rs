//! The samples of RFC 5769, damage, and round trips.

use proptest::prelude::*;

use super::*;

const TRANSACTION: TransactionId = TransactionId(*b"transaction!");

/// RFC 5769, section 2.1: a request of ICE with everything in it.
const SAMPLE_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
const SAMPLE_PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// The length field, as the bytes are.
fn set_length(bytes: &mut [u8]) {
    let length = (bytes.len() - MessageHeader::LENGTH) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
}

#[test]
fn sample_request_of_rfc_5769() {
    let bytes = hex(SAMPLE_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class, Class::Request);
    assert_eq!(message.username, Some("evtj:h6vY"));
    assert_eq!(message.priority, Some(0x6e00_01ff));
    assert_eq!(message.role, Some(ClaimedRole::Controlled));
    assert!(message.is_signed_with(&IntegrityKey::short_term(SAMPLE_PASSWORD)));
    assert!(!message.is_signed_with(&IntegrityKey::short_term("another password")));
}

#[test]
fn sample_ipv6_response_of_rfc_5769() {
    let bytes = hex(
        "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c",
    );
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class, Class::Success);
    assert_eq!(
        message.mapped,
        Some("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap())
    );
    assert!(message.is_signed_with(&IntegrityKey::short_term(SAMPLE_PASSWORD)));
}

#[test]
fn any_changed_byte_of_a_signed_request_is_noticed() {
    let bytes = hex(SAMPLE_REQUEST);
    let key = IntegrityKey::short_term(SAMPLE_PASSWORD);
    // Behind MESSAGE-INTEGRITY there is the FINGERPRINT alone.
    for at in 0..bytes.len() - 8 {
        let mut changed = bytes.clone();
        changed[at] ^= 0x01;
        let accepted = Message::parse(&changed).is_some_and(|m| m.is_signed_with(&key));
        assert!(!accepted, "byte {at}");
    }
}

/// The library alone would take what is behind the message for attributes of it, and sign for them too.
#[test]
fn lengths_fit_to_the_byte() {
    let builder = Builder::new(Class::Request, Method::Binding, TRANSACTION).username("a:b");
    // Without its FINGERPRINT, which is checked to be the last.
    let mut bytes = builder.unsigned();
    bytes.truncate(28);
    set_length(&mut bytes);
    assert!(Message::parse(&bytes).is_some());
    for behind in [&[0; 4][..], &[0; 1], &[0, 0x24, 0, 4, 0, 0, 0, 1]] {
        assert!(Message::parse(&[&bytes, behind].concat()).is_none(), "{behind:?}");
    }
    for at in 0..bytes.len() {
        let mut cut = bytes[..at].to_vec();
        assert!(Message::parse(&cut).is_none(), "{at}");
        // As short as it says it is, but where an attribute ends.
        if at >= MessageHeader::LENGTH {
            set_length(&mut cut);
            assert_eq!(Message::parse(&cut).is_some(), at == MessageHeader::LENGTH, "{at}");
        }
    }
}

#[test]
fn a_fingerprint_is_right_and_the_last_attribute() {
    let bytes =
        Builder::new(Class::Request, Method::Binding, TRANSACTION).username("a:b").unsigned();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        // But for the kind of the attribute: then it is another one.
        let is_kind = at == bytes.len() - 8 || at == bytes.len() - 7;
        assert_eq!(Message::parse(&changed).is_some(), is_kind, "{at}");
    }
    let mut followed = [&bytes[..], &[0, 6, 0, 1, b'c', 0, 0, 0]].concat();
    set_length(&mut followed);
    assert!(Message::parse(&followed).is_none());
}

#[test]
fn of_an_attribute_that_is_there_twice_the_first_counts() {
    let builder = Builder::new(Class::Request, Method::Binding, TRANSACTION);
    let bytes = builder.username("first").username("second").priority(1).priority(2).unsigned();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.username, message.priority), (Some("first"), Some(1)));
}

/// The plain address is what old NATs rewrite.
#[test]
fn of_both_mapped_addresses_the_masked_one_counts() {
    let [masked, plain] = ["192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().unwrap());
    let plain_value = MappedSocketAddr::new(plain);
    let plain_value = plain_value.to_raw(attribute::MAPPED_ADDRESS);
    let builder = || Builder::new(Class::Success, Method::Binding, TRANSACTION);
    for bytes in [
        builder().add(&plain_value).mapped(masked).unsigned(),
        builder().mapped(masked).add(&plain_value).unsigned(),
    ] {
        assert_eq!(Message::parse(&bytes).unwrap().mapped, Some(masked));
    }
    let bytes = builder().add(&plain_value).unsigned();
    assert_eq!(Message::parse(&bytes).unwrap().mapped, Some(plain));
}

/// RFC 8489, section 9.2.2: the key is MD5 of `user:realm:pass`.
#[test]
fn the_long_term_key_is_that_of_the_rfc() {
    let digest = hex("8493fbc53ba582fb4c044c456bdc40eb");
    let bytes = Builder::new(Class::Request, Method::Refresh, TRANSACTION)
        .signed(&IntegrityKey::long_term("user", "realm", "pass"));
    // MESSAGE-INTEGRITY is the first attribute: 4 bytes of head, 20 of HMAC. The length that it covers is its own end.
    let mut signed = bytes[..20].to_vec();
    signed[2..4].copy_from_slice(&[0, 24]);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &digest);
    assert_eq!(&bytes[24..44], aws_lc_rs::hmac::sign(&key, &signed).as_ref());
}

#[test]
fn attributes_behind_the_integrity_do_not_count() {
    let key = IntegrityKey::short_term("key");
    let bytes = Builder::new(Class::Request, Method::Binding, TRANSACTION).signed(&key);
    // Without its FINGERPRINT, with a USERNAME behind MESSAGE-INTEGRITY.
    let mut bytes = bytes[..bytes.len() - 8].to_vec();
    bytes.extend_from_slice(&[0, 6, 0, 4, b'e', b'v', b'i', b'l']);
    set_length(&mut bytes);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.username, None);
    assert!(message.is_signed_with(&key));
}

#[test]
fn an_unknown_attribute_that_must_be_understood_is_reported() {
    let builder = Builder::new(Class::Request, Method::Binding, TRANSACTION);
    let bytes =
        builder.attribute(0x7777.into(), &[1, 2, 3]).attribute(0x8777.into(), &[]).unsigned();
    assert_eq!(Message::parse(&bytes).unwrap().unknown_required, Some(0x7777));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        ip: std::net::IpAddr,
        port: u16,
        priority: u32,
        nomination: u32,
        code in 300_u16..700,
    ) {
        let address = SocketAddr::new(ip, port);
        let key = IntegrityKey::short_term("key");
        let bytes = Builder::new(Class::Error, Method::ChannelBind, TRANSACTION)
            .username("a:b").realm("r").nonce(b"nonce").priority(priority)
            .nomination(nomination).error(code, "why").mapped(address).peer(address)
            .lifetime_s(600).role(ClaimedRole::Controlling, 7).signed(&key);
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!(message.class, Class::Error);
        prop_assert_eq!(message.method, Method::ChannelBind);
        prop_assert_eq!(message.transaction, TRANSACTION);
        prop_assert_eq!(message.mapped, Some(address));
        prop_assert_eq!(message.peer, Some(address));
        prop_assert_eq!(message.priority, Some(priority));
        prop_assert_eq!(message.nomination, Some(nomination));
        prop_assert_eq!(message.nominates, Nominates::Yes);
        prop_assert_eq!(message.error_code, Some(code));
        prop_assert_eq!(message.role, Some(ClaimedRole::Controlling));
        prop_assert!(message.is_signed_with(&key));
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&bytes);
    }

    #[test]
    fn a_damaged_message_is_survived(at in 0..108_usize, value: u8, cut in 0..108_usize) {
        let mut bytes = hex(SAMPLE_REQUEST);
        bytes[at] = value;
        let _ = Message::parse(&bytes[..cut]);
        if let Some(message) = Message::parse(&bytes) {
            let _ = message.is_signed_with(&IntegrityKey::short_term(SAMPLE_PASSWORD));
        }
    }
}
