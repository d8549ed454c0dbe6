//! What a server may try: each costs a bounded amount, and is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use data_encoding::BASE64;
use ipop_control::xmpp::stream::{
    Account, Certificate, Failure, FromStream, Limits, PlainAuth, XmlFault,
};
use tokio::sync::mpsc;

use super::{
    certificates::{authority, authority_in},
    client::{Client, account},
    scripted::{HEADER, PLAIN_ONLY, Peer, Server, content},
};

/// An account that lets the scripted server's simple log-in pass.
fn trusting(server: &Server) -> Account {
    Account { plain: PlainAuth::Allowed, ..careful(server) }
}

fn careful(server: &Server) -> Account {
    account("alice@example.org", "sesame", server.port, &server.authority.file)
}

fn short() -> Limits {
    let short = Duration::from_secs(1);
    Limits { login: short, silence: short / 4, answer: short / 4, ..Limits::default() }
}

/// What comes of `text` right after the log-in.
async fn after_log_in(text: &'static str) -> Failure {
    let server = Server::direct(move |mut peer: Peer| async move {
        peer.log_in().await?;
        peer.send(text).await?;
        peer.hear_all().await;
        Ok(())
    })
    .await;
    Client::start(trusting(&server)).offline().await
}

#[tokio::test]
async fn an_endless_stanza_is_cut_off() {
    let (report, mut reports) = mpsc::unbounded_channel();
    let server = Server::direct(move |mut peer: Peer| {
        let report = report.clone();
        async move {
            peer.log_in().await?;
            peer.send("<message><body>").await?;
            let _ = report.send(peer.send_endlessly("x", Duration::from_secs(30)).await);
            Ok(())
        }
    })
    .await;
    let mut client = Client::start(trusting(&server));
    let why = client.offline().await;
    let limit = Limits::default().stanza_bytes;
    assert_eq!(why, Failure::Xml(XmlFault::TooLong { limit }));
    let taken = reports.recv().await.unwrap();
    assert!(
        taken < limit + 16 * 1024 * 1024,
        "{taken} bytes: what the kernel's buffers hold, but no more"
    );
}

#[tokio::test]
async fn endless_features_are_cut_off_before_anything_is_sent() {
    let server = Server::direct(|mut peer: Peer| async move {
        peer.hear("version='1.0'").await?;
        peer.send(&format!("{HEADER}<stream:features>")).await?;
        peer.send_endlessly("<mechanism/>", Duration::from_secs(30)).await;
        Ok(())
    })
    .await;
    let why = Client::start(careful(&server)).offline().await;
    assert!(matches!(why, Failure::Xml(XmlFault::TooManyElements { .. })), "{why:?}");
}

#[tokio::test]
async fn deep_nesting_and_bad_xml_end_the_stream() {
    let why = after_log_in("<message><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a>").await;
    assert!(matches!(why, Failure::Xml(XmlFault::TooDeep { .. })), "{why:?}");
    for text in
        ["<message></presence>", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "\u{0}", "words", "&lol;"]
    {
        let why = after_log_in(text).await;
        assert!(matches!(why, Failure::Xml(XmlFault::Malformed(_))), "{text}: {why:?}");
    }
}

#[tokio::test]
async fn broken_stream_management_ends_the_stream() {
    for text in [
        "<a xmlns='urn:xmpp:sm:3' h='7'/>",
        "<a xmlns='urn:xmpp:sm:3'/>",
        "<enabled xmlns='urn:xmpp:sm:3' id='x' resume='1'/>",
    ] {
        assert!(matches!(after_log_in(text).await, Failure::Protocol(_)), "{text}");
    }
}

#[tokio::test]
async fn a_server_without_tls_gets_nothing() {
    let server = Server::plain(|mut peer: Peer| async move {
        peer.hear("version='1.0'").await?;
        peer.send(&format!("{HEADER}{PLAIN_ONLY}")).await?;
        let rest = peer.hear_all().await;
        assert!(!rest.contains("auth"), "{rest}");
        Ok(())
    })
    .await;
    let why = Client::start(trusting(&server)).offline().await;
    assert!(matches!(why, Failure::NoTls { .. }), "{why:?}");
}

#[tokio::test]
async fn nothing_is_carried_from_plain_text_into_tls() {
    let server = Server::plain(|mut peer: Peer| async move {
        peer.hear("version='1.0'").await?;
        let starttls = "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>";
        peer.send(&format!("{HEADER}{starttls}")).await?;
        peer.hear("<starttls").await?;
        peer.send(&format!("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>{HEADER}{PLAIN_ONLY}")).await?;
        peer.hear_all().await;
        Ok(())
    })
    .await;
    let why = Client::start(trusting(&server)).offline().await;
    assert!(matches!(why, Failure::Protocol(_)), "{why:?}");
}

#[tokio::test]
async fn the_password_is_not_handed_over_on_a_downgrade() {
    let (report, mut reports) = mpsc::unbounded_channel();
    let server = Server::direct(move |mut peer: Peer| {
        let report = report.clone();
        async move {
            peer.hear("version='1.0'").await?;
            peer.send(&format!("{HEADER}{PLAIN_ONLY}")).await?;
            let _ = report.send(peer.hear_all().await);
            Ok(())
        }
    })
    .await;
    let why = Client::start(careful(&server)).refused().await;
    assert!(matches!(&why, Failure::Mechanisms { offered } if offered == "PLAIN"), "{why:?}");
    let heard = reports.recv().await.unwrap();
    assert!(!heard.contains("auth"), "{heard}");
}

/// Plays SCRAM up to the client's last message, which it gives.
async fn scram(peer: &mut Peer, mechanism: &str) -> std::io::Result<String> {
    peer.hear("version='1.0'").await?;
    let offer = PLAIN_ONLY.replace("PLAIN", mechanism);
    peer.send(&format!("{HEADER}{offer}")).await?;
    let first = content(&peer.hear("</auth>").await?);
    let nonce = first.split_once("r=").expect("a nonce").1;
    let challenge = BASE64.encode(format!("r={nonce}more,s=QSXCR+Q6sek8bf92,i=4096").as_bytes());
    peer.send(&format!(
        "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{challenge}</challenge>"
    ))
    .await?;
    Ok(content(&peer.hear("</response>").await?))
}

#[tokio::test]
async fn a_server_that_cannot_prove_itself_is_refused() {
    for last in ["v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "", "e=other-error"] {
        let server = Server::direct(move |mut peer: Peer| async move {
            scram(&mut peer, "SCRAM-SHA-256").await?;
            let last = BASE64.encode(last.as_bytes());
            peer.send(&format!(
                "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{last}</success>"
            ))
            .await?;
            peer.hear_all().await;
            Ok(())
        })
        .await;
        let why = Client::start(careful(&server)).refused().await;
        assert!(matches!(why, Failure::Impersonation(_)), "{why:?}");
    }
}

#[tokio::test]
async fn a_certificate_of_a_trusted_authority_for_another_name_is_not_enough() {
    let authority = Arc::new(authority(&["example.com", "localhost"]));
    let server =
        Server::direct_with(authority, |mut peer: Peer| async move { peer.log_in().await }).await;
    let why = Client::start(trusting(&server)).offline().await;
    assert!(
        matches!(why, Failure::Certificate { fault: Certificate::OtherName { .. }, .. }),
        "{why:?}"
    );
}

/// Which is also what a wrong clock looks like.
#[tokio::test]
async fn a_certificate_outside_its_dates_is_explained_and_tried_again() {
    for years in [1990..1991, 2090..2091] {
        let authority = Arc::new(authority_in(&["example.org"], years));
        let server =
            Server::direct_with(authority, |mut peer: Peer| async move { peer.log_in().await })
                .await;
        let why = Client::start(trusting(&server)).offline().await;
        let is_of_dates = matches!(why, Failure::Certificate { fault: Certificate::Dates, .. });
        assert!(is_of_dates && why.to_string().contains("clock"), "{why:?}");
    }
}

#[tokio::test]
async fn stream_errors_are_told() {
    for (condition, word) in
        [("conflict", "cloned"), ("policy-violation", "limits"), ("system-shutdown", "shutdown")]
    {
        let text = match condition {
            "conflict" => {
                "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
            }
            "policy-violation" => {
                "<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
            }
            _ => {
                "<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
            }
        };
        let why = after_log_in(text).await;
        assert!(
            matches!(&why, Failure::Stream { condition: told, .. } if told == condition),
            "{why:?}"
        );
        assert!(why.to_string().contains(word), "{why}");
    }
}

#[tokio::test]
async fn another_host_is_gone_to_but_not_in_circles() {
    let redirect = |port: u16| {
        move |mut peer: Peer| async move {
            peer.hear("version='1.0'").await?;
            let host = format!(
                "<see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>127.0.0.1:{port}</see-other-host>"
            );
            peer.send(&format!("{HEADER}<stream:error>{host}</stream:error></stream:stream>"))
                .await?;
            peer.hear_all().await;
            Ok(())
        }
    };
    let authority = Arc::new(authority(&["example.org"]));
    let good = Server::direct_with(Arc::clone(&authority), |mut peer: Peer| async move {
        peer.log_in().await?;
        peer.hear_all().await;
        Ok(())
    })
    .await;
    let first = Server::direct_with(Arc::clone(&authority), redirect(good.port)).await;
    Client::start(trusting(&first)).online().await;

    let own_port = Arc::new(AtomicU16::new(0));
    let port = Arc::clone(&own_port);
    let circle = Server::direct_with(Arc::clone(&authority), move |peer: Peer| {
        redirect(port.load(Ordering::Relaxed))(peer)
    })
    .await;
    own_port.store(circle.port, Ordering::Relaxed);
    let why = Client::start(trusting(&circle)).offline().await;
    assert!(
        matches!(&why, Failure::Stream { condition, .. } if condition == "see-other-host"),
        "{why:?}"
    );
    assert_eq!(circle.accepted(), 3);

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = Server::direct_with(authority, redirect(port)).await;
    let why = Client::start(trusting(&nowhere)).offline().await;
    assert!(
        matches!(&why, Failure::Stream { condition, .. } if condition == "see-other-host"),
        "{why:?}"
    );
    assert_eq!(nowhere.accepted(), 1);
}

#[tokio::test]
async fn silence_is_not_waited_out() {
    let mute = Server::plain(|mut peer: Peer| async move {
        peer.hear_all().await;
        Ok(())
    })
    .await;
    Client::with_limits(trusting(&mute), short()).offline().await;

    let mute_in_tls = Server::direct(|mut peer: Peer| async move {
        peer.hear_all().await;
        Ok(())
    })
    .await;
    let why = Client::with_limits(trusting(&mute_in_tls), short()).offline().await;
    assert!(matches!(why, Failure::Silent { doing: "logging in", .. }), "{why:?}");

    let mute_after_log_in = Server::direct(|mut peer: Peer| async move {
        peer.log_in().await?;
        peer.hear_all().await;
        Ok(())
    })
    .await;
    let why = Client::with_limits(trusting(&mute_after_log_in), short()).offline().await;
    assert!(matches!(why, Failure::Silent { doing: "connected", .. }), "{why:?}");
}

#[tokio::test]
async fn a_server_that_floods_is_held_back() {
    let (report, mut reports) = mpsc::unbounded_channel();
    let server = Server::direct(move |mut peer: Peer| {
        let report = report.clone();
        async move {
            peer.log_in().await?;
            let _ = report.send(
                peer.send_endlessly("<presence from='r@example.org/x'/>", Duration::from_secs(2))
                    .await,
            );
            Ok(())
        }
    })
    .await;
    let limits = Limits { queued_events: 16, ..Limits::default() };
    let mut client = Client::with_limits(trusting(&server), limits);
    client.online().await;
    // Nobody reads the events.
    let taken = reports.recv().await.unwrap();
    assert!(taken < 32 * 1024 * 1024, "{taken} bytes: what the kernel's buffers hold, but no more");
    let mut stanzas = 0;
    while let FromStream::Stanza(_) = client.event().await {
        stanzas += 1;
        if stanzas == 100 {
            return;
        }
    }
    panic!("only {stanzas} stanzas, though many more were sent");
}
