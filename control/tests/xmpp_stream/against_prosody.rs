//! What a well-behaved server does: the log-in, its refusals, cuts and restarts.

use std::time::{Duration, Instant};

use ipop_control::xmpp::stream::{
    Authorities, Certificate, ChannelBinding, Failure, FromStream, IqError, Limits, Password,
    Resumed, ToStream,
};
use xmpp_parsers::{
    jid::Jid,
    message::{Lang, Message},
    minidom::Element,
    ns,
    stanza::Stanza,
};

use super::{
    client::{Client, account},
    prosody::Prosody,
    proxy::Proxy,
};

const LONG: Duration = Duration::from_secs(120);

fn ping() -> Element {
    Element::bare("ping", ns::PING)
}

fn message(to: &Jid, text: &str) -> Message {
    Message::new(Some(to.clone())).with_body(Lang::new(), text.to_owned())
}

/// Limits under which a dead stream is noticed soon.
fn impatient() -> Limits {
    let short = Duration::from_millis(500);
    Limits { silence: short, answer: 2 * short, answer_after_change: short, ..Limits::default() }
}

#[tokio::test]
async fn logs_in_by_scram_over_starttls_and_direct_tls() {
    let Some(prosody) = Prosody::start() else { return };
    for port in [prosody.port, prosody.direct_port] {
        let started_at = Instant::now();
        let mut client =
            Client::start(account("alice@localhost", "alicepw", port, &prosody.authority()));
        let (jid, resumed) = client.online().await;
        println!("online after {:?}", started_at.elapsed());
        assert_eq!((jid.to_string().as_str(), resumed), ("alice@localhost/node", Resumed::No));
        let token = client.ask(Some("localhost".parse().unwrap()), ping(), LONG);
        assert_eq!(client.answer(token).await, Ok(None));
        let token = client.ask(None, Element::bare("query", "urn:no:such:thing"), LONG);
        assert!(matches!(client.answer(token).await, Err(IqError::Stanza(_))));
        client.tell(ToStream::Shutdown);
        while let Some(event) = client.events.next().await {
            assert!(!matches!(event, FromStream::Offline { .. }), "{event:?}");
        }
    }
}

/// Over TLS 1.3 Prosody 0.12 offers no way to bind a log-in (only `tls-unique`, which TLS 1.3 does not have); newer ones
/// do, and say how.
#[tokio::test]
async fn a_log_in_is_bound_if_this_prosody_can_do_it() {
    let Some(prosody) = Prosody::start() else { return };
    let settings = account("alice@localhost", "alicepw", prosody.port, &prosody.authority());
    let mut client = Client::start(settings.clone());
    let is_bound = match client.event().await {
        FromStream::Bound { .. } => true,
        FromStream::Online { .. } => false,
        other => panic!("{other:?}"),
    };
    println!("bound: {is_bound}");
    let required = ipop_control::xmpp::stream::Account {
        binding: ChannelBinding::Required,
        resource: "other".into(),
        ..settings
    };
    let mut strict = Client::start(required);
    match strict.event().await {
        FromStream::Online { .. } => assert!(is_bound),
        FromStream::Offline { why: Failure::Unbound { .. }, .. } => assert!(!is_bound),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_tried_again() {
    let Some(prosody) = Prosody::start() else { return };
    let proxy = Proxy::start(prosody.direct_port).await;
    let settings = account("alice@localhost", "wrong", proxy.port, &prosody.authority());
    let mut client = Client::start(settings.clone());
    let why = client.refused().await;
    assert!(
        matches!(&why, Failure::Credentials { condition, .. } if condition == "not-authorized"),
        "{why:?}"
    );
    client.tell(ToStream::NetworkChanged);
    let token = client.ask(None, ping(), LONG);
    assert_eq!(client.answer(token).await, Err(IqError::Disconnected));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(proxy.accepted(), 1);

    let corrected = Box::new(ipop_control::xmpp::stream::Account {
        password: Password::new("alicepw"),
        ..settings
    });
    client.tell(ToStream::UseAccount(corrected));
    client.online().await;
}

#[tokio::test]
async fn a_server_is_who_its_certificate_says_or_nobody() {
    let Some(prosody) = Prosody::start() else { return };
    let proxy = Proxy::start(prosody.direct_port).await;
    let good = account("alice@localhost", "alicepw", proxy.port, &prosody.authority());

    let mut stranger = good.clone();
    stranger.authorities = Authorities::System;
    let why = Client::start(stranger).offline().await;
    assert!(
        matches!(&why, Failure::Certificate { fault: Certificate::UnknownAuthority { .. }, .. }),
        "{why:?}"
    );

    let mut misnamed = good.clone();
    misnamed.jid = "alice@example.org".parse().unwrap();
    let why = Client::start(misnamed).offline().await;
    assert!(
        matches!(&why, Failure::Certificate { fault: Certificate::OtherName { .. }, .. }),
        "{why:?}"
    );

    let mut unreadable = good.clone();
    unreadable.authorities = Authorities::File("/nonexistent/authority.pem".into());
    assert!(matches!(Client::start(unreadable).refused().await, Failure::Settings(_)));
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let Some(mut prosody) = Prosody::start() else { return };
    let mut client =
        Client::start(account("alice@localhost", "alicepw", prosody.port, &prosody.authority()));
    let (jid, _) = client.online().await;
    prosody.stop();
    client.offline().await;
    // Waits for the session to be resumed, which this server has forgotten.
    let token = client.ask(Some(Jid::from(jid)), ping(), LONG);
    client.offline().await;
    prosody.run();
    assert_eq!(client.answer(token).await, Err(IqError::Disconnected));
    assert_eq!(client.online().await.1, Resumed::No);
    let token = client.ask(None, ping(), LONG);
    assert_eq!(client.answer(token).await, Ok(None));
}

#[tokio::test]
async fn a_cut_connection_is_resumed_without_loss() {
    let Some(prosody) = Prosody::start() else { return };
    let proxy = Proxy::start(prosody.port).await;
    let mut alice =
        Client::start(account("alice@localhost", "alicepw", proxy.port, &prosody.authority()));
    let mut bob =
        Client::start(account("bob@localhost", "bobpw", prosody.port, &prosody.authority()));
    let to_alice = Jid::from(alice.online().await.0);
    let to_bob = Jid::from(bob.online().await.0);
    // An answer shows that the server has agreed to resumption.
    let token = alice.ask(None, ping(), LONG);
    assert_eq!(alice.answer(token).await, Ok(None));
    for round in 0..3 {
        for count in 0..20 {
            alice.send(message(&to_bob, &format!("{round} {count} from alice")));
            bob.send(message(&to_alice, &format!("{round} {count} from bob")));
        }
        proxy.cut();
        let token = alice.ask(Some("localhost".parse().unwrap()), ping(), LONG);
        let mut resumptions = 0;
        let mut texts = Vec::new();
        let mut is_answered = false;
        while resumptions == 0 || texts.len() < 20 || !is_answered {
            match alice.event().await {
                FromStream::Online { resumed, .. } => {
                    assert_eq!(resumed, Resumed::Yes);
                    resumptions += 1;
                }
                FromStream::Stanza(stanza) => texts.push(body(&stanza)),
                FromStream::IqAnswer { token: answered, result } => {
                    assert_eq!((answered, result), (token, Ok(None)));
                    is_answered = true;
                }
                FromStream::Offline { .. } | FromStream::Bound { .. } => {}
                FromStream::Refused { why } => panic!("{why}"),
            }
        }
        let expected = |from: &str| {
            (0..20).map(|count| format!("{round} {count} from {from}")).collect::<Vec<_>>()
        };
        assert_eq!(texts, expected("bob"));
        let mut texts = Vec::new();
        while texts.len() < 20 {
            texts.push(body(&bob.stanza().await));
        }
        assert_eq!(texts, expected("alice"));
    }
}

fn body(stanza: &Stanza) -> String {
    match stanza {
        Stanza::Message(message) => message.bodies.values().next().cloned().unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_goes_dead_is_noticed() {
    let Some(prosody) = Prosody::start() else { return };
    let proxy = Proxy::start(prosody.direct_port).await;
    let settings = account("alice@localhost", "alicepw", proxy.port, &prosody.authority());
    let mut client = Client::with_limits(settings.clone(), impatient());
    client.online().await;
    proxy.freeze();
    assert!(matches!(client.offline().await, Failure::Silent { .. }));
    assert_eq!(client.online().await.1, Resumed::Yes);

    let patient = Limits { answer_after_change: Duration::from_millis(500), ..Limits::default() };
    let mut other = Client::with_limits(
        ipop_control::xmpp::stream::Account { resource: "other".into(), ..settings },
        patient,
    );
    other.online().await;
    proxy.freeze();
    other.tell(ToStream::NetworkChanged);
    assert!(matches!(other.offline().await, Failure::Silent { .. }));
    assert_eq!(other.online().await.1, Resumed::Yes);
}

#[tokio::test]
async fn an_unanswered_question_times_out() {
    let Some(prosody) = Prosody::start() else { return };
    let mut client =
        Client::start(account("alice@localhost", "alicepw", prosody.port, &prosody.authority()));
    let own = Jid::from(client.online().await.0);
    // This end is who is asked, and says nothing.
    let token = client.ask(Some(own), ping(), Duration::from_millis(700));
    assert!(matches!(client.stanza().await, Stanza::Iq(_)));
    assert_eq!(client.answer(token).await, Err(IqError::Timeout));
}

#[tokio::test]
async fn two_sessions_of_one_name_are_explained() {
    let Some(prosody) = Prosody::start() else { return };
    let settings = account("alice@localhost", "alicepw", prosody.port, &prosody.authority());
    let mut first = Client::start(settings.clone());
    first.online().await;
    let mut second = Client::start(settings);
    second.online().await;
    let why = first.offline().await;
    assert!(
        matches!(&why, Failure::Stream { condition, .. } if condition == "conflict"),
        "{why:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again() {
    let Some(mut prosody) = Prosody::start() else { return };
    prosody.stop();
    let mut client =
        Client::start(account("alice@localhost", "alicepw", prosody.port, &prosody.authority()));
    assert!(matches!(client.offline().await, Failure::Connect { .. }));
    assert!(matches!(client.offline().await, Failure::Connect { .. }));
    prosody.run();
    client.online().await;
}
