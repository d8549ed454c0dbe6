//! The samples of RFC 5769, damage, and round trips.

use proptest::prelude::*;

use super::*;

const TRANSACTION: TransactionId = TransactionId(*b"transaction!");

/// RFC 5769, section 2.1: a request of ICE with everything in it.
const SAMPLE_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
const SAMPLE_PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn crc_of_the_check_string() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn sample_request_of_rfc_5769() {
    let bytes = hex(SAMPLE_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class, Class::Request);
    assert_eq!(message.username, Some("evtj:h6vY"));
    assert_eq!(message.priority, Some(0x6e00_01ff));
    assert_eq!(message.role, Some(ClaimedRole::Controlled));
    assert_eq!(message.fingerprint, Fingerprint::Right);
    assert!(message.is_signed_with(&IntegrityKey::new(SAMPLE_PASSWORD)));
    assert!(!message.is_signed_with(&IntegrityKey::new(b"another password")));
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
    assert!(message.is_signed_with(&IntegrityKey::new(SAMPLE_PASSWORD)));
}

#[test]
fn any_changed_byte_of_a_signed_request_is_noticed() {
    let bytes = hex(SAMPLE_REQUEST);
    let key = IntegrityKey::new(SAMPLE_PASSWORD);
    // Behind MESSAGE-INTEGRITY there is the FINGERPRINT alone.
    for at in 0..bytes.len() - 8 {
        let mut changed = bytes.clone();
        changed[at] ^= 0x01;
        let accepted = Message::parse(&changed).is_some_and(|m| m.is_signed_with(&key));
        assert!(!accepted, "byte {at}");
    }
}

#[test]
fn attributes_behind_the_integrity_do_not_count() {
    let key = IntegrityKey::new(b"key");
    let bytes = Builder::new(Class::Request, Method::Binding, TRANSACTION).signed(&key);
    // Without its FINGERPRINT, with a USERNAME behind MESSAGE-INTEGRITY.
    let mut bytes = bytes[..bytes.len() - 8].to_vec();
    bytes.extend_from_slice(&[0, 6, 0, 4, b'e', b'v', b'i', b'l']);
    let length = (bytes.len() - HEADER_LEN) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.username, None);
    assert!(message.is_signed_with(&key));
}

#[test]
fn an_unknown_attribute_that_must_be_understood_is_reported() {
    let builder = Builder::new(Class::Request, Method::Binding, TRANSACTION);
    let bytes = builder.attribute(0x7777, &[1, 2, 3]).attribute(0x8777, &[]).unsigned();
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
        let key = IntegrityKey::new(b"key");
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
            let _ = message.is_signed_with(&IntegrityKey::new(SAMPLE_PASSWORD));
        }
    }
}
