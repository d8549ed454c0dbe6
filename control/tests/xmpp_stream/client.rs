//! The stream under test, with its events waited for.

use std::{path::Path, time::Duration};

use ipop_control::xmpp::stream::{
    Account, Authorities, ChannelBinding, Events, Failure, FromStream, Handle, IqError, IqToken,
    Limits, Password, PlainAuth, Question, Request, Resumed, ToStream, spawn,
};
use tokio::time::timeout;
use xmpp_parsers::{
    jid::{FullJid, Jid},
    minidom::Element,
    stanza::Stanza,
};

/// Long enough for the slowest machine: nothing waits for it unless the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn account(jid: &str, password: &str, port: u16, authorities: &Path) -> Account {
    Account {
        jid: jid.parse().expect("JID"),
        password: Password::new(password),
        resource: "node".into(),
        server: Some(format!("127.0.0.1:{port}").parse().expect("address")),
        authorities: Authorities::File(authorities.to_owned()),
        pins: Vec::new(),
        plain: PlainAuth::Never,
        binding: ChannelBinding::IfNamed,
    }
}

pub(crate) struct Client {
    handle: Handle,
    pub(crate) events: Events,
    next_token: u64,
}

impl Client {
    pub(crate) fn start(account: Account) -> Self {
        Self::with_limits(account, Limits::default())
    }

    pub(crate) fn with_limits(account: Account, limits: Limits) -> Self {
        let (handle, events) = spawn(account, limits).expect("thread");
        Self { handle, events, next_token: 0 }
    }

    pub(crate) fn tell(&self, command: ToStream) {
        self.handle.send(command).expect("room in the queue");
    }

    pub(crate) fn send(&self, stanza: impl Into<Stanza>) {
        self.tell(ToStream::Send(Box::new(stanza.into())));
    }

    pub(crate) fn ask(&mut self, to: Option<Jid>, payload: Element, patience: Duration) -> IqToken {
        let token = IqToken(self.next_token);
        self.next_token += 1;
        let request = Request::Get(payload);
        self.tell(ToStream::Iq(Box::new(Question { to, request, token, timeout: patience })));
        token
    }

    pub(crate) async fn event(&mut self) -> FromStream {
        let event = timeout(PATIENCE, self.events.next()).await;
        event.expect("something happens in time").expect("the thread runs")
    }

    /// The next session. Failures on the way to it are passed over.
    pub(crate) async fn online(&mut self) -> (FullJid, Resumed) {
        loop {
            match self.event().await {
                FromStream::Online { jid, resumed } => return (jid, resumed),
                FromStream::Refused { why } => panic!("refused: {why}"),
                other => println!("{other:?}"),
            }
        }
    }

    /// Why there is no stream any more.
    pub(crate) async fn offline(&mut self) -> Failure {
        loop {
            match self.event().await {
                FromStream::Offline { why, .. } => {
                    println!("{why}");
                    return why;
                }
                FromStream::Refused { why } => panic!("refused: {why}"),
                other => println!("{other:?}"),
            }
        }
    }

    /// Why the account is refused.
    pub(crate) async fn refused(&mut self) -> Failure {
        loop {
            match self.event().await {
                FromStream::Refused { why } => {
                    println!("{why}");
                    return why;
                }
                FromStream::Online { .. } => panic!("not refused"),
                other => println!("{other:?}"),
            }
        }
    }

    pub(crate) async fn answer(&mut self, expected: IqToken) -> Result<Option<Element>, IqError> {
        loop {
            match self.event().await {
                FromStream::IqAnswer { token, result } if token == expected => return result,
                other => println!("{other:?}"),
            }
        }
    }

    pub(crate) async fn stanza(&mut self) -> Stanza {
        loop {
            match self.event().await {
                FromStream::Stanza(stanza) => return *stanza,
                other => println!("{other:?}"),
            }
        }
    }
}
