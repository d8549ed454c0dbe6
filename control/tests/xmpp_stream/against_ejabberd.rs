//! The stream against a real ejabberd: what it does differently from Prosody.

use std::time::Duration;

use ipop_control::xmpp::{
    BareJid,
    stream::{ChannelBinding, Failure, FromStream, Resumed},
};
use xmpp_parsers::{jid::Jid, minidom::Element, ping::Ping};

use super::{
    client::{Client, account},
    ejabberd::Ejabberd,
    proxy::Proxy,
    rooms,
};

const LONG: Duration = Duration::from_secs(60);

fn ping() -> Element {
    Ping.into()
}

/// It offers SCRAM-SHA-1-PLUS, names no kind of binding, and knows only one that TLS 1.3 does not have.
#[tokio::test]
async fn a_server_that_cannot_say_how_to_bind_is_logged_in_to_unbound_and_a_cut_is_resumed() {
    let Some(ejabberd) = Ejabberd::start() else { return };
    for port in [ejabberd.port, ejabberd.direct_port] {
        let mut client =
            Client::start(account("alice@localhost", "alicepw", port, &ejabberd.authority()));
        match client.event().await {
            FromStream::Online { resumed: Resumed::No, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let wrong = account("alice@localhost", "wrong", ejabberd.port, &ejabberd.authority());
    let why = Client::start(wrong).refused().await;
    assert!(matches!(why, Failure::Credentials { mechanism: "SCRAM-SHA-1", .. }), "{why:?}");

    let mut required = account("bob@localhost", "bobpw", ejabberd.port, &ejabberd.authority());
    required.binding = ChannelBinding::Required;
    let why = Client::start(required).refused().await;
    assert!(matches!(why, Failure::Credentials { mechanism: "SCRAM-SHA-1-PLUS", .. }), "{why:?}");

    let proxy = Proxy::start(ejabberd.port).await;
    let mut alice =
        Client::start(account("alice@localhost", "alicepw", proxy.port, &ejabberd.authority()));
    alice.online().await;
    let token = alice.ask(None, ping(), LONG);
    assert_eq!(alice.answer(token).await, Ok(None));
    proxy.cut();
    assert_eq!(alice.online().await.1, Resumed::Yes);
    let token = alice.ask(Some("localhost".parse().unwrap()), ping(), LONG);
    assert_eq!(alice.answer(token).await, Ok(None));
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again_and_its_rooms_with_it() {
    let Some(mut ejabberd) = Ejabberd::start() else { return };
    let room: BareJid = "net@muc.localhost".parse().unwrap();
    let server = rooms::Server::of_ejabberd(&ejabberd);
    rooms::make(&server, &room).await;
    let mut client =
        Client::start(account("alice@localhost", "alicepw", ejabberd.port, &ejabberd.authority()));
    client.online().await;
    ejabberd.stop();
    client.offline().await;
    ejabberd.run();
    assert_eq!(client.online().await.1, Resumed::No);
    let token = client.ask(Some(Jid::from(room.clone())), ping(), LONG);
    assert!(client.answer(token).await.is_err(), "an occupant alone may ask that");
    rooms::is_there_and_empty(&server, &room).await;
}
