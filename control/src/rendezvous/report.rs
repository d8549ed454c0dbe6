//! What operators see of the network.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Rendezvous;
use crate::xmpp::{jingle::JingleCounters, room::RoomCounters};

/// The XMPP side.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NetworkReport {
    /// The room.
    pub room: String,
    /// `online` or `offline`: the stream to the server.
    pub xmpp: &'static str,
    /// The full JID of the session, if there was one.
    pub jid: Option<String>,
    /// Whether this node is in the room.
    pub joined: bool,
    /// Nodes of the room.
    pub occupants: usize,
    /// What is known of the NAT in front of this host: `unknown`, `endpoint_independent`, `symmetric`.
    pub nat: &'static str,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What came from the server, from members and from the network and was not believed, or was too much; by reason. Reasons
    /// that never occurred are left out.
    pub refused: BTreeMap<&'static str, u64>,
}

impl NetworkReport {
    /// Whether there is a stream to the server.
    pub fn is_online(&self) -> bool {
        self.xmpp == ONLINE
    }
}

const ONLINE: &str = "online";

/// How the stream stands.
#[derive(Debug, Default)]
pub(super) struct StreamState {
    online: bool,
    was_online: bool,
    jid: Option<String>,
    last_error: Option<String>,
    /// Why it is not there, as told since it was there last.
    told: Vec<String>,
}

/// Whether the operator has not been told of something yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    Yes,
    No,
}

/// Reasons that are told of one absence of the stream: a server that makes up new ones is not listened to for ever.
const MAX_TOLD: usize = 8;

impl StreamState {
    pub(super) fn online(&mut self, jid: String) {
        *self = Self { online: true, was_online: true, jid: Some(jid), ..Self::default() };
    }

    /// Whether that is news.
    pub(super) fn offline(&mut self, why: &str) -> News {
        self.online = false;
        self.jid = None;
        self.last_error = Some(why.to_owned());
        if self.told.len() >= MAX_TOLD || self.told.iter().any(|told| told == why) {
            return News::No;
        }
        self.told.push(why.to_owned());
        News::Yes
    }

    /// Whether there ever was a stream.
    pub(super) fn was_online(&self) -> bool {
        self.was_online
    }

    pub(super) fn joined(&mut self) {
        self.last_error = None;
    }

    pub(super) fn problem(&mut self, text: String) {
        self.last_error = Some(text);
    }
}

impl Rendezvous {
    /// The XMPP side now. What else is known of the network is put in by [`crate::node`].
    pub(crate) fn report(&self) -> NetworkReport {
        let state = &self.stream_state;
        NetworkReport {
            room: self.memory.room().to_owned(),
            xmpp: if state.online { ONLINE } else { "offline" },
            jid: state.jid.clone(),
            joined: state.online && self.room.is_joined(),
            occupants: self.by_jid.len(),
            nat: "unknown",
            last_error: state.last_error.clone(),
            refused: refused(self.room.counters(), self.jingle.counters()).collect(),
        }
    }
}

pub(crate) fn refused(
    room: RoomCounters,
    jingle: JingleCounters,
) -> impl Iterator<Item = (&'static str, u64)> {
    room.entries().chain(jingle.entries())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_there_is_no_stream_is_news_once_in_each_absence() {
        let mut state = StreamState::default();
        assert!(!state.was_online());
        for _ in 0..2 {
            assert_eq!(state.offline("refused"), News::Yes);
            assert_eq!(state.offline("refused"), News::No);
            assert_eq!(state.offline("no name"), News::Yes);
            assert_eq!(state.offline("refused"), News::No);
            let more = (0..100).filter(|n| state.offline(&n.to_string()) == News::Yes).count();
            assert_eq!(more, MAX_TOLD - 2);
            assert_eq!(state.last_error.as_deref(), Some("99"), "the counters have the latest");
            state.online("a@x/r".into());
            assert!(state.was_online() && state.last_error.is_none());
        }
    }
}
