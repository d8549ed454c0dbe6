//! The stream to the account's XMPP server: found, encrypted, authenticated, kept alive, resumed.
//!
//! [`spawn`] starts a thread named `xmpp` with a runtime of its own. It takes [`ToStream`] and gives [`FromStream`],
//! both through bounded queues. While nobody reads the events the thread stops reading from the server, and TCP holds
//! the server back.
//!
//! A connection goes through these files: `srv` lists where the domain's server may be, `connect` opens TCP and TLS
//! (`tls`, `verifier`) to the first that answers, `xml` cuts what comes into elements of bounded size, `login` authenticates
//! (`sasl`, `scram`) and binds the resource, `online` carries the session: `management` counts stanzas so that a cut
//! connection is resumed, `iq` brings answers to their questions, `pace` bounds what the server sends. `actor` drives
//! them all, and `retry` says when it tries again. Only `srv`, `connect`, `tls` and `actor` do I/O.
//!
//! A session that is resumed ([`Resumed::Yes`]) has lost nothing in either direction. One that is not
//! ([`Resumed::No`]) is new: every question asked before has been answered by [`IqError::Disconnected`], stanzas sent
//! before may be lost, presence has to be sent again.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use xmpp_parsers::{
    jid::{BareJid, FullJid, Jid},
    minidom::Element,
    stanza::Stanza,
    stanza_error::StanzaError,
};

pub use account::{
    Account, Authorities, BadServerAddress, ChannelBinding, Password, PlainAuth, ServerAddress,
};
pub use failure::{Certificate, Failure};
pub use handle::{Events, Handle, QueueFull, spawn};
pub use srv::{Endpoint, Mode};
pub use xml::XmlFault;

mod account;
mod actor;
mod connect;
mod failure;
mod handle;
mod iq;
mod login;
mod management;
mod online;
mod retry;
mod sasl;
mod scram;
mod srv;
mod tls;
mod verifier;
mod xml;

/// Where the account's server may be, in the order in which it is tried. Asks DNS if no address is configured.
///
/// # Errors
/// When DNS says that there is none.
pub async fn endpoints(account: &Account) -> Result<Vec<Endpoint>, Failure> {
    srv::endpoints(account, &mut crate::rng::Rng::new(0)).await
}

/// The pin by which another host knows the server of this account, whom the account's authorities or pins have to vouch for: that of a
/// certificate in the file of authorities if the server shows it, else of the server's own key. Nobody logs in.
///
/// # Errors
/// When no server can be reached that is vouched for.
pub async fn server_pin(account: &Account) -> Result<crate::network::Pin, Failure> {
    let attempt = connect::Attempt {
        account: account.clone(),
        tls: tls::Tls::new(account)?,
        limits: Limits::default(),
        resumption: None,
        last_good: None,
        random: crate::rng::Rng::new(0),
    };
    attempt.server_pin().await
}

/// What the rest of the program asks of the stream.
#[derive(Debug)]
pub enum ToStream {
    /// Send it. While the stream is cut but may be resumed it is held back; with no session at all it is dropped.
    Send(Box<Stanza>),
    /// Ask, and bring the answer as [`FromStream::IqAnswer`]. Always answered, within `timeout` at the latest.
    Iq(Box<Question>),
    /// The host's addresses or routes changed: find out now whether the stream is alive, try now if it is not.
    NetworkChanged,
    /// Log in with these settings from now on. Ends [`FromStream::Refused`].
    UseAccount(Box<Account>),
    /// Say good-bye and end the thread.
    Shutdown,
}

/// An IQ request. Its id is chosen by the stream.
#[derive(Debug)]
pub struct Question {
    /// Whom to ask. `None` is the own account at its server.
    pub to: Option<Jid>,
    /// What to ask.
    pub request: Request,
    /// Comes back with the answer.
    pub token: IqToken,
    /// How long to wait for the answer.
    pub timeout: Duration,
}

/// The content of an IQ request.
#[derive(Debug)]
pub enum Request {
    /// `<iq type='get'/>`
    Get(Element),
    /// `<iq type='set'/>`
    Set(Element),
}

/// Ties an answer to its question; chosen by whoever asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct IqToken(pub u64);

/// What the stream tells the rest of the program.
#[derive(Debug)]
pub enum FromStream {
    /// The log-in is bound to its TLS connection, which this account did not require so far. From now on this stream
    /// requires it ([`ChannelBinding::Required`]); later ones do if whoever starts them remembers it.
    Bound {
        /// Whose log-in it is.
        account: BareJid,
    },
    /// Stanzas can be sent.
    Online {
        /// The address that the server gave; its resource may differ from the one asked for.
        jid: FullJid,
        /// Whether the session before goes on.
        resumed: Resumed,
    },
    /// A stanza came. IQ requests among them have to be answered; answers to own questions are never among them.
    Stanza(Box<Stanza>),
    /// The answer to a question.
    IqAnswer {
        /// Of the question.
        token: IqToken,
        /// The result's payload, if it has one, or why there is no result.
        result: Result<Option<Element>, IqError>,
    },
    /// The stream was lost or could not be opened.
    Offline {
        /// What happened, and what to do about it.
        why: Failure,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The server will not have this account as it is configured, so it is not tried again before
    /// [`ToStream::UseAccount`].
    Refused {
        /// What is wrong, and what to do about it.
        why: Failure,
    },
}

/// Whether a session goes on after a cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resumed {
    /// It does, with nothing lost.
    Yes,
    /// This session is a new one.
    No,
}

/// Why a question has no result.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum IqError {
    /// The one asked answered with an error.
    #[error("{}", describe(.0))]
    Stanza(Box<StanzaError>),
    /// No answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// The session in which it was asked is over, or there was none.
    #[error("not connected to the XMPP server")]
    Disconnected,
    /// Too many questions are open.
    #[error("too many questions are waiting for an answer")]
    TooMany,
    /// The question cannot be written as XML.
    #[error("the question is not valid XML")]
    Unwritable,
}

fn describe(error: &StanzaError) -> String {
    let condition = Element::from(error.defined_condition.clone());
    match error.texts.values().next() {
        Some(text) => format!("{} ({})", condition.name(), failure::printable(text)),
        None => condition.name().to_owned(),
    }
}

/// What happened so far; nothing is dropped without being counted here.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sessions opened anew.
    pub sessions: AtomicU64,
    /// Sessions that went on after a cut.
    pub resumptions: AtomicU64,
    /// Attempts and sessions that failed.
    pub failures: AtomicU64,
    /// Stanzas of the program dropped: there was no session, the queue was full, or they are not valid XML.
    pub unsent: AtomicU64,
    /// Stanzas of the server dropped: malformed, or answers that nobody asked for.
    pub ignored: AtomicU64,
}

impl Counters {
    /// What was dropped, by the names that operators see.
    pub fn dropped(&self) -> [(&'static str, u64); 2] {
        [("stream_unsent", &self.unsent), ("stream_ignored", &self.ignored)]
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

/// What a stream may cost. The server is not trusted with more.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one stanza, 10,000 at least (RFC 6120 section 13.12). Lists of a large room's members come in one.
    pub stanza_bytes: usize,
    /// Nesting of elements in a stanza.
    pub stanza_depth: usize,
    /// Elements in a stanza: in memory an empty one takes many times its four bytes.
    pub stanza_elements: usize,
    /// Stanzas that wait to be sent or acknowledged, and requests of the program that wait to be looked at.
    pub queued_stanzas: usize,
    /// Bytes of these stanzas.
    pub queued_bytes: usize,
    /// Events that wait to be read.
    pub queued_events: usize,
    /// Questions that wait for an answer.
    pub questions: usize,
    /// Bytes accepted in a second, and this many seconds' worth at once: a join brings everybody's presence.
    pub received_bytes_per_s: u32,
    /// Stanzas accepted in a second, likewise.
    pub received_stanzas_per_s: u32,
    /// How long the rates above may be exceeded.
    pub burst_s: u32,
    /// For one address of the server: from the start of TCP to the bound resource.
    pub login: Duration,
    /// After this long without a word from the server it is asked whether it lives.
    pub silence: Duration,
    /// How long it may take to answer.
    pub answer: Duration,
    /// How long it may take to answer when the network has just changed.
    pub answer_after_change: Duration,
    /// The longest wait between two attempts, before jitter.
    pub retry_cap: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stanza_bytes: 256 * 1024,
            stanza_depth: 32,
            stanza_elements: 8_192,
            queued_stanzas: 1_024,
            queued_bytes: 1024 * 1024,
            queued_events: 256,
            questions: 256,
            received_bytes_per_s: 256 * 1024,
            received_stanzas_per_s: 500,
            burst_s: 8,
            login: Duration::from_secs(15),
            silence: Duration::from_secs(60),
            answer: Duration::from_secs(15),
            answer_after_change: Duration::from_secs(4),
            retry_cap: Duration::from_secs(60),
        }
    }
}
