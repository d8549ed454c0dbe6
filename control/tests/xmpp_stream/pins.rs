//! Pinned keys: what they let in, and what a server that means harm makes of them.

use ipop_control::{
    network::Pin,
    xmpp::stream::{Account, Authorities, Certificate, Failure, FromStream, PlainAuth, server_pin},
};
use rcgen::KeyPair;
use rustls::{ALL_VERSIONS, SupportedProtocolVersion, version::TLS12, version::TLS13};

use super::{
    certificates::{Link, NOW, PAST, showing},
    client::{Client, account},
    scripted::{Peer, Server},
};

/// Nobody whom a server here has to do with.
fn nobody() -> Link {
    Link::authority("nobody", NOW, None)
}

async fn server(
    chain: &[&Link],
    key: &KeyPair,
    vouches: &Link,
    versions: &[&'static SupportedProtocolVersion],
) -> Server {
    let shown = showing(chain, key, vouches, versions);
    let script = |mut peer: Peer| async move {
        peer.log_in().await?;
        peer.hear_all().await;
        Ok(())
    };
    Server::direct_with(shown, script).await
}

fn with_pins(server: &Server, pins: &[Pin]) -> Account {
    let account = account("alice@example.org", "sesame", server.port, &server.authority.file);
    Account { plain: PlainAuth::Allowed, pins: pins.to_vec(), ..account }
}

/// What comes of a log-in with these pins at a server that shows this chain, which no authority vouches for.
async fn log_in(chain: &[&Link], pins: &[Pin]) -> Result<(), Failure> {
    let server = server(chain, &chain[0].key, &nobody(), ALL_VERSIONS).await;
    outcome(with_pins(&server, pins)).await
}

async fn outcome(account: Account) -> Result<(), Failure> {
    match Client::start(account).event().await {
        FromStream::Online { .. } => Ok(()),
        FromStream::Offline { why, .. } | FromStream::Refused { why } => Err(why),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_unknown(outcome: &Result<(), Failure>, key: Pin) {
    let Err(failure) = outcome else { panic!("it is believed") };
    let Failure::Certificate { fault: Certificate::NotPinned { key: shown }, .. } = failure else {
        panic!("{failure:?}");
    };
    assert_eq!(*shown, key);
    assert!(failure.to_string().contains(&key.to_string()));
}

#[tokio::test]
async fn a_server_that_vouches_for_itself_is_known_by_its_key_alone() {
    // Another name, and long expired: the pin is of the key.
    let expired = Link::authority("localhost", PAST, None);
    let other = nobody().pin();
    assert_eq!(log_in(&[&expired], &[expired.pin()]).await, Ok(()));
    assert_eq!(log_in(&[&expired], &[other, expired.pin()]).await, Ok(()));
    assert!(log_in(&[&expired], &[other]).await.is_err());
    let own = Link::authority("localhost", NOW, None);
    is_unknown(&log_in(&[&own], &[other]).await, own.pin());
    let without = log_in(&[&own], &[]).await.unwrap_err();
    let Failure::Certificate { fault: Certificate::UnknownAuthority { key }, .. } = &without else {
        panic!("{without:?}");
    };
    assert_eq!(*key, own.pin());
    assert!(without.to_string().contains(&format!("--xmpp-pin {key}")), "{without}");
}

#[tokio::test]
async fn a_certificate_of_the_operators_file_is_good_for_its_names_alone() {
    let own = Link::authority("example.org", NOW, None);
    let honest = server(&[&own], &own.key, &own, ALL_VERSIONS).await;
    assert_eq!(outcome(with_pins(&honest, &[])).await, Ok(()));
    let misnamed = Link::authority("localhost", NOW, None);
    let server = server(&[&misnamed], &misnamed.key, &misnamed, ALL_VERSIONS).await;
    let why = outcome(with_pins(&server, &[])).await.unwrap_err();
    assert!(
        matches!(why, Failure::Certificate { fault: Certificate::OtherName { .. }, .. }),
        "{why:?}"
    );
}

#[tokio::test]
async fn a_system_without_authorities_needs_no_more_than_the_pin() {
    let own = Link::authority("localhost", NOW, None);
    let server = server(&[&own], &own.key, &nobody(), ALL_VERSIONS).await;
    let account = Account { authorities: Authorities::System, ..with_pins(&server, &[own.pin()]) };
    assert_eq!(outcome(account).await, Ok(()));
}

#[tokio::test]
async fn a_pinned_authority_must_have_signed_the_servers_certificate() {
    let root = Link::authority("root", NOW, None);
    let between = Link::authority("between", NOW, Some(&root));
    let server = Link::server("example.org", NOW, &between);
    for pinned in [&server, &between, &root] {
        let outcome = log_in(&[&server, &between, &root], &[pinned.pin()]).await;
        assert_eq!(outcome, Ok(()));
    }
    // Not shown, so that nobody knows what the pin is of.
    is_unknown(&log_in(&[&server, &between], &[root.pin()]).await, server.pin());

    // Everybody can show the certificates of others.
    let evil = nobody();
    let of_evil = Link::server("example.org", NOW, &evil);
    let of_itself = Link::authority("example.org", NOW, None);
    for pinned in [&server, &between, &root] {
        for first in [&of_evil, &of_itself] {
            let chain = [first, &evil, &server, &between, &root];
            is_unknown(&log_in(&chain, &[pinned.pin()]).await, first.pin());
        }
    }
    // An authority that takes the pinned one's name.
    let namesake = Link::authority("root", NOW, None);
    let of_namesake = Link::server("example.org", NOW, &namesake);
    is_unknown(&log_in(&[&of_namesake, &root], &[root.pin()]).await, of_namesake.pin());
}

#[tokio::test]
async fn what_a_pinned_authority_signs_has_to_have_its_name_and_dates() {
    let old = Link::authority("root", PAST, None);
    let server = Link::server("example.org", NOW, &old);
    assert_eq!(log_in(&[&server, &old], &[old.pin()]).await, Ok(()), "its own do not matter");
    let expired = Link::server("example.org", PAST, &old);
    let outcome = log_in(&[&expired, &old], &[old.pin()]).await;
    let of_dates = outcome.unwrap_err();
    assert!(matches!(of_dates, Failure::Certificate { fault: Certificate::Dates, .. }));
    let misnamed = Link::server("example.net", NOW, &old);
    let outcome = log_in(&[&misnamed, &old], &[old.pin()]).await.unwrap_err();
    assert!(
        matches!(outcome, Failure::Certificate { fault: Certificate::OtherName { .. }, .. }),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn who_shows_the_pinned_certificate_without_its_key_gets_nothing() {
    let own = Link::authority("example.org", NOW, None);
    let root = Link::authority("root", NOW, None);
    let below = Link::server("example.org", NOW, &root);
    let evil = KeyPair::generate().unwrap();
    for versions in [&[&TLS12][..], &[&TLS13]] {
        for (chain, pin) in [(&[&own][..], own.pin()), (&[&below, &root][..], root.pin())] {
            let honest = server(chain, &chain[0].key, &nobody(), versions).await;
            assert_eq!(outcome(with_pins(&honest, &[pin])).await, Ok(()));
            let server = server(chain, &evil, &nobody(), versions).await;
            let why = outcome(with_pins(&server, &[pin])).await.unwrap_err();
            assert!(matches!(why, Failure::Certificate { .. } | Failure::Tls { .. }), "{why:?}");
        }
    }
}

#[tokio::test]
async fn pins_do_not_count_where_an_authority_vouches() {
    let root = Link::authority("root", NOW, None);
    let below = Link::server("example.org", NOW, &root);
    let server = server(&[&below], &below.key, &root, ALL_VERSIONS).await;
    assert_eq!(outcome(with_pins(&server, &[nobody().pin()])).await, Ok(()));
}

#[tokio::test]
async fn the_pin_to_hand_on_is_of_a_key_that_the_operator_vouched_for() {
    let root = Link::authority("root", NOW, None);
    let below = Link::server("example.org", NOW, &root);
    let own = Link::authority("example.org", NOW, None);
    let stranger = nobody();
    for (chain, vouches, pin) in [
        (&[&own][..], &own, own.pin()),
        (&[&below, &root][..], &root, root.pin()),
        (&[&below][..], &root, below.pin()),
        (&[&below, &stranger][..], &root, below.pin()),
    ] {
        let server = server(chain, &chain[0].key, vouches, ALL_VERSIONS).await;
        assert_eq!(server_pin(&with_pins(&server, &[])).await, Ok(pin));
        assert_eq!(log_in(chain, &[pin]).await, Ok(()), "it is good for others");
    }
    let unknown = server(&[&own], &own.key, &stranger, ALL_VERSIONS).await;
    let why = server_pin(&with_pins(&unknown, &[])).await.unwrap_err();
    assert!(matches!(why, Failure::Certificate { .. }), "{why:?}");
}
