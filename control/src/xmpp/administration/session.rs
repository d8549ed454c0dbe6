//! A stream for one command: it logs in once, asks, and says good-bye.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use xmpp_parsers::{
    iq::Iq,
    jid::{FullJid, Jid},
    presence::Presence,
    stanza::Stanza,
};

use super::{AdministrationError, Server};
use crate::xmpp::{
    answers::Answers,
    request::{Answer, Ask, RequestFailure},
    stream::{
        self, Account, ChannelBinding, Events, FromStream, Handle, IqToken, Limits, Question,
        ToStream, spawn,
    },
};

/// For all addresses of the server together.
const LOG_IN: Duration = Duration::from_secs(60);
/// For each answer: those of other servers take a second connection.
const ANSWER: Duration = Duration::from_secs(20);
/// For the server to take the good-bye.
const FAREWELL: Duration = Duration::from_secs(2);
/// Presence that waits to be looked at; a room holds fewer.
const MAX_QUEUED: usize = 4_096;

/// A stream that is logged in.
#[derive(Debug)]
pub struct Session {
    handle: Handle,
    events: Events,
    jid: FullJid,
    is_bound: bool,
    asked: u64,
    presences: VecDeque<Presence>,
    answers: Answers,
}

impl Session {
    /// Logs in, once. The server chooses the resource, so that a node with the same account is not disturbed.
    ///
    /// # Errors
    /// When that fails; which step did is told by the failure.
    pub async fn open(mut account: Account) -> Result<Self, AdministrationError> {
        account.resource.clear();
        let mut is_bound = account.binding == ChannelBinding::Required;
        let no_thread = |error: std::io::Error| stream::Failure::Settings(error.to_string());
        let spawned = spawn(account, Limits::default()).map_err(no_thread);
        let (handle, mut events) = spawned.map_err(AdministrationError::Stream)?;
        let logged_in = timeout(LOG_IN, async {
            loop {
                match events.next().await {
                    Some(FromStream::Online { jid, .. }) => return Ok(jid),
                    Some(FromStream::Offline { why, .. } | FromStream::Refused { why }) => {
                        return Err(why);
                    }
                    Some(FromStream::Bound { .. }) => is_bound = true,
                    Some(FromStream::Stanza(_) | FromStream::IqAnswer { .. }) => {}
                    None => return Err(stream::Failure::Closed),
                }
            }
        });
        let silent = stream::Failure::Silent { doing: "logging in", waited_s: LOG_IN.as_secs() };
        let jid = logged_in.await.unwrap_or(Err(silent)).map_err(AdministrationError::Stream)?;
        let answers = Answers::new(Instant::now());
        Ok(Self { handle, events, jid, is_bound, asked: 0, presences: VecDeque::new(), answers })
    }

    /// The own address.
    pub fn jid(&self) -> &FullJid {
        &self.jid
    }

    /// Whether the log-in was bound to its TLS connection.
    pub fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The other's error, or no answer.
    pub async fn ask(&mut self, to: Jid, ask: Ask) -> Answer {
        self.asked += 1;
        let token = IqToken(self.asked);
        let question = Question { to: Some(to), request: ask.into(), token, timeout: ANSWER };
        if self.handle.send(ToStream::Iq(Box::new(question))).is_err() {
            return Err(RequestFailure::Offline);
        }
        loop {
            match self.events.next().await {
                Some(FromStream::IqAnswer { token: answered, result }) if answered == token => {
                    return result.map_err(RequestFailure::from);
                }
                Some(FromStream::Offline { .. } | FromStream::Refused { .. }) | None => {
                    return Err(RequestFailure::Offline);
                }
                Some(other) => self.take(other),
            }
        }
    }

    /// Ends the stream; what was sent before still goes out.
    pub async fn close(mut self) {
        if self.handle.send(ToStream::Shutdown).is_err() {
            return;
        }
        // Nobody waits for the outcome: the server notices by itself, only later.
        let _ = timeout(FAREWELL, async { while self.events.next().await.is_some() {} }).await;
    }

    fn take(&mut self, event: FromStream) {
        let FromStream::Stanza(stanza) = event else { return };
        match *stanza {
            Stanza::Presence(presence) if self.presences.len() < MAX_QUEUED => {
                self.presences.push_back(presence);
            }
            Stanza::Iq(iq) => self.answer(&iq),
            Stanza::Presence(_) | Stanza::Message(_) => {}
        }
    }

    fn answer(&mut self, iq: &Iq) {
        if let Some(answer) = self.answers.answer(Instant::now(), iq) {
            // Who asked and gets no answer asks again.
            let _ = self.handle.send(ToStream::Send(Box::new(answer.into())));
        }
    }
}

impl Server for Session {
    fn jid(&self) -> &FullJid {
        Self::jid(self)
    }

    async fn ask(&mut self, to: Jid, ask: Ask) -> Answer {
        Self::ask(self, to, ask).await
    }

    fn send(&mut self, presence: Presence) {
        // One that is lost is noticed by the missing answer.
        let _ = self.handle.send(ToStream::Send(Box::new(presence.into())));
    }

    async fn presence(&mut self) -> Result<Presence, RequestFailure> {
        let waited = timeout(ANSWER, async {
            loop {
                if let Some(presence) = self.presences.pop_front() {
                    return Ok(presence);
                }
                match self.events.next().await {
                    Some(FromStream::Offline { .. } | FromStream::Refused { .. }) | None => {
                        return Err(RequestFailure::Offline);
                    }
                    Some(other) => self.take(other),
                }
            }
        });
        waited.await.unwrap_or(Err(RequestFailure::TimedOut))
    }
}
