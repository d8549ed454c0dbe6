//! When a log-in is bound to its TLS connection (SCRAM's channel binding), and what whoever stands in between gets by
//! taking that out of what the server says.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{hmac, pbkdf2};
use data_encoding::BASE64;
use ipop_control::xmpp::stream::{Account, ChannelBinding, Failure, FromStream, ToStream};
use tokio::sync::mpsc;

use super::{
    client::{Client, account},
    scripted::{HEADER, Peer, Server, content},
};

const SALT: &[u8] = b"salt of the test";
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not 0");

/// What a server says in its features.
#[derive(Clone, Copy, Debug)]
struct Offer {
    mechanisms: &'static [&'static str],
    kinds: &'static [&'static str],
}

const NAMED: Offer =
    Offer { mechanisms: &["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"], kinds: &["tls-exporter"] };
/// As ejabberd 23.01 does; or somebody took the list out.
const UNNAMED: Offer = Offer { mechanisms: NAMED.mechanisms, kinds: &[] };
const WITHOUT: Offer = Offer { mechanisms: &["SCRAM-SHA-256", "PLAIN"], kinds: &[] };

/// How a log-in began: its mechanism and the first message's flag.
type Begun = (String, String);

impl Offer {
    fn features(self) -> String {
        let mechanisms: String =
            self.mechanisms.iter().map(|m| format!("<mechanism>{m}</mechanism>")).collect();
        let kinds: String =
            self.kinds.iter().map(|kind| format!("<channel-binding type='{kind}'/>")).collect();
        let kinds = match self.kinds {
            [] => String::new(),
            _ => format!(
                "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>{kinds}</sasl-channel-binding>"
            ),
        };
        format!(
            "{HEADER}<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{mechanisms}\
             </mechanisms>{kinds}</stream:features>"
        )
    }
}

/// A server that makes these offers, one a connection and the last one from then on, and ends each session at once; and
/// how each log-in began.
async fn server(offers: &'static [Offer]) -> (Server, mpsc::UnboundedReceiver<Begun>) {
    let (report, reports) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let server = Server::direct(move |mut peer: Peer| {
        let (report, connections) = (report.clone(), Arc::clone(&connections));
        async move {
            let number = connections.fetch_add(1, Ordering::Relaxed);
            let offer = offers[number.min(offers.len() - 1)];
            let begun = log_in(&mut peer, offer).await?;
            let _ = report.send(begun);
            // Its last session stays.
            if number + 1 >= offers.len() {
                peer.hear_all().await;
            }
            Ok(())
        }
    })
    .await;
    (server, reports)
}

/// SCRAM-SHA-256 from the server's side, up to a session.
async fn log_in(peer: &mut Peer, offer: Offer) -> std::io::Result<Begun> {
    peer.hear("version='1.0'").await?;
    peer.send(&offer.features()).await?;
    let auth = peer.hear("</auth>").await?;
    let mechanism = auth.split("mechanism='").nth(1).and_then(|rest| rest.split('\'').next());
    let first = content(&auth);
    let (flag, bare) = first.split_once(",,").expect("a GS2 header");
    let nonce = bare.split_once("r=").expect("a nonce").1;
    let challenge = format!("r={nonce}more,s={},i={ITERATIONS}", BASE64.encode(SALT));
    let encoded = BASE64.encode(challenge.as_bytes());
    let sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
    peer.send(&format!("<challenge {sasl}>{encoded}</challenge>")).await?;
    let last = content(&peer.hear("</response>").await?);
    let (last_bare, _proof) = last.split_once(",p=").expect("a proof");
    let signed = format!("{bare},{challenge},{last_bare}");
    let bound = last_bare.strip_prefix("c=").and_then(|rest| rest.split(',').next());
    let mut expected = format!("{flag},,").into_bytes();
    if flag.starts_with("p=") {
        expected.extend_from_slice(&peer.exported);
    }
    assert_eq!(BASE64.decode(bound.expect("a binding").as_bytes()).expect("base64"), expected);

    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, SALT, b"sesame", &mut salted);
    let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let signature = mac(mac(&salted, b"Server Key").as_ref(), signed.as_bytes());
    let success = BASE64.encode(format!("v={}", BASE64.encode(signature.as_ref())).as_bytes());
    peer.send(&format!("<success {sasl}>{success}</success>")).await?;
    peer.bind().await?;
    Ok((mechanism.expect("a mechanism").to_owned(), flag.to_owned()))
}

fn careful(server: &Server) -> Account {
    account("alice@example.org", "sesame", server.port, &server.authority.file)
}

fn begun(mechanism: &str, flag: &str) -> Begun {
    (mechanism.into(), flag.into())
}

#[tokio::test]
async fn a_log_in_is_bound_where_the_server_says_how_and_nowhere_else() {
    let (named, mut reports) = server(&[NAMED]).await;
    let mut client = Client::start(careful(&named));
    let event = client.event().await;
    assert!(
        matches!(&event, FromStream::Bound { account } if account.as_str() == "alice@example.org"),
        "{event:?}"
    );
    client.online().await;
    assert_eq!(reports.recv().await, Some(begun("SCRAM-SHA-256-PLUS", "p=tls-exporter")));

    for (offers, flag) in [(&[UNNAMED], "n"), (&[WITHOUT], "y")] {
        let (other, mut reports) = server(offers).await;
        let mut client = Client::start(careful(&other));
        let event = client.event().await;
        assert!(matches!(event, FromStream::Online { .. }), "{event:?}");
        assert_eq!(reports.recv().await, Some(begun("SCRAM-SHA-256", flag)));
    }
}

/// Whoever is in between has a certificate for the server's name, and takes out of its offers what would give it away.
#[tokio::test]
async fn what_was_bound_once_is_bound_from_then_on_or_not_logged_in() {
    let (server, mut reports) = server(&[NAMED, UNNAMED, WITHOUT, NAMED]).await;
    let mut client = Client::start(careful(&server));
    let bound = Some(begun("SCRAM-SHA-256-PLUS", "p=tls-exporter"));
    for _ in 0..2 {
        client.online().await;
        assert_eq!(reports.recv().await, bound);
        client.offline().await;
    }
    let why = client.offline().await;
    assert!(matches!(why, Failure::Unbound { .. }), "{why:?}");
    assert!(why.to_string().contains("bound-accounts.toml"), "{why}");
    client.online().await;
    assert_eq!(reports.recv().await, bound, "nothing was sent to the one that offered no binding");
}

#[tokio::test]
async fn other_settings_of_the_account_change_nothing_of_that() {
    let (server, mut reports) = server(&[NAMED, WITHOUT]).await;
    let mut client = Client::start(careful(&server));
    client.online().await;
    reports.recv().await;
    client.offline().await;
    let other = Account { resource: "other".into(), ..careful(&server) };
    assert_eq!(other.binding, ChannelBinding::IfNamed);
    client.tell(ToStream::UseAccount(Box::new(other)));
    let why = client.offline().await;
    assert!(matches!(why, Failure::Unbound { .. }), "{why:?}");
}

#[tokio::test]
async fn an_account_that_was_bound_in_an_earlier_run_is_bound_at_the_first_log_in() {
    let (server, mut reports) = server(&[WITHOUT, UNNAMED]).await;
    let mut client =
        Client::start(Account { binding: ChannelBinding::Required, ..careful(&server) });
    let why = client.offline().await;
    assert!(matches!(why, Failure::Unbound { .. }), "{why:?}");
    // It is known already, and not told again.
    let event = client.event().await;
    assert!(matches!(event, FromStream::Online { .. }), "{event:?}");
    assert_eq!(reports.recv().await, Some(begun("SCRAM-SHA-256-PLUS", "p=tls-exporter")));
}

#[tokio::test]
async fn a_bound_log_in_that_is_refused_is_not_tried_without() {
    let (report, mut reports) = mpsc::unbounded_channel();
    let server = Server::direct(move |mut peer: Peer| {
        let report = report.clone();
        async move {
            peer.hear("version='1.0'").await?;
            peer.send(&NAMED.features()).await?;
            let _ = report.send(peer.hear("</auth>").await?);
            let failure = "<not-authorized/><text>Invalid channel binding</text>";
            peer.send(&format!(
                "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{failure}</failure>"
            ))
            .await?;
            let _ = report.send(peer.hear_all().await);
            Ok(())
        }
    })
    .await;
    let mut client = Client::start(careful(&server));
    let first = client.event().await;
    let FromStream::Refused { why } = first else { panic!("{first:?}") };
    assert!(
        matches!(&why, Failure::Credentials { mechanism: "SCRAM-SHA-256-PLUS", .. }),
        "{why:?}"
    );
    assert!(why.to_string().contains("somebody ends TLS"), "{why}");
    client.tell(ToStream::NetworkChanged);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(server.accepted(), 1);
    assert!(reports.recv().await.unwrap().contains("SCRAM-SHA-256-PLUS"));
    assert!(!reports.recv().await.unwrap().contains("<auth"));
}
