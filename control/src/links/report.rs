//! What operators see of the network and of the way to each peer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use ipop_datapath::{bucket::Bucket, node_id::NodeId, path::Path};
use serde::Serialize;

use super::{Action, Links};
use crate::{
    ice::{CandidateKind, IceCounters, NatMapping},
    notice::{Level, Notice, Pathless},
    xmpp::{jingle::JingleCounters, room::RoomCounters},
};

/// Lines for the operator. Servers and members can cause as many as they like; nobody reads more, and a disk is only so large.
const LINES_PER_S: u32 = 2;
const LINES_AT_ONCE: u32 = 200;

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

/// The way to one peer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LinkReport {
    /// `direct`, `relayed` or `none`.
    pub kind: &'static str,
    /// Where packets go: the peer's address, or the relay's.
    pub remote: Option<String>,
    /// Kinds of both ends' candidates, such as `srflx to host`.
    pub candidates: Option<String>,
    /// Why it is relayed, or not there.
    pub why: Option<String>,
    /// Round-trip time by the checks, microseconds.
    pub rtt_us: Option<u64>,
    /// The account that the node is in the room with.
    pub account: String,
}

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

/// What the operator was told lately.
#[derive(Debug)]
pub(super) struct Lines {
    bucket: Bucket,
    /// Since the last line.
    left_out: u64,
    /// In all.
    all_left_out: u64,
}

impl Lines {
    pub(super) fn new(now: Instant) -> Self {
        let bucket = Bucket::new(now, LINES_PER_S, LINES_AT_ONCE);
        Self { bucket, left_out: 0, all_left_out: 0 }
    }
}

/// That a peer has no path was told so long ago that it is told again.
const PATHLESS_EVERY: Duration = Duration::from_secs(300);
/// Different reasons that are told of one peer within that time.
const MAX_PATHLESS_TOLD: usize = 3;

/// What the operator was told lately of searches for a path to one peer. It is looked for all the time, and each search that fails is the same news.
#[derive(Debug, Default)]
pub(super) struct Searches {
    told: VecDeque<(Instant, Pathless, String)>,
    left_out: u64,
}

impl Searches {
    /// Whether it is to be told that one failed, and how many were left out before.
    pub(super) fn failed(&mut self, now: Instant, was: Pathless, why: &str) -> Option<u64> {
        while self.told.front().is_some_and(|(at, ..)| *at + PATHLESS_EVERY <= now) {
            self.told.pop_front();
        }
        let is_told = self.told.iter().any(|(_, then, told)| (*then, &**told) == (was, why));
        if self.told.len() >= MAX_PATHLESS_TOLD || is_told {
            self.left_out += 1;
            return None;
        }
        self.told.push_back((now, was, why.to_owned()));
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Links {
    /// Tells the operator, unless too much was told lately.
    pub(super) fn tell(&mut self, now: Instant, notice: Notice) {
        if notice.level() > Level::Debug {
            if !self.lines.bucket.take(now, 1) {
                self.lines.left_out += 1;
                self.lines.all_left_out += 1;
                return;
            }
            let lines = std::mem::take(&mut self.lines.left_out);
            if lines > 0 {
                self.actions.push_back(Action::Notice(Notice::LeftOut { lines }));
            }
        }
        self.actions.push_back(Action::Notice(notice));
    }

    /// The XMPP side now.
    pub fn report(&self) -> NetworkReport {
        let state = &self.stream_state;
        NetworkReport {
            room: self.memory_room().to_owned(),
            xmpp: if state.online { "online" } else { "offline" },
            jid: state.jid.clone(),
            joined: state.online && self.room.is_joined(),
            occupants: self.by_jid.len(),
            nat: match self.ice.nat_mapping() {
                NatMapping::Unknown => "unknown",
                NatMapping::EndpointIndependent => "endpoint_independent",
                NatMapping::EndpointDependent => "symmetric",
            },
            last_error: state.last_error.clone(),
            refused: self.refusals(),
        }
    }

    fn refusals(&self) -> BTreeMap<&'static str, u64> {
        let own = [self.lines.all_left_out, self.malformed_signals];
        let (room, jingle, ice) =
            (self.room.counters(), self.jingle.counters(), self.ice.counters());
        entries(own, room, jingle, ice).filter(|(_, count)| *count > 0).collect()
    }

    /// The way to a peer now; none for a node that the room never named.
    pub fn report_of(&self, now: Instant, node: NodeId) -> Option<LinkReport> {
        let link = self.links.get(&node)?;
        let snapshot = self.ice.snapshot(now, node);
        let selected = snapshot.as_ref().and_then(|snapshot| snapshot.selected);
        // The relay may be this end's or the peer's.
        let (kind, remote) = match selected.map(|pair| (pair.path, pair.remote)) {
            Some((Path::Direct { remote, .. }, CandidateKind::Relayed)) => {
                ("relayed", Some(remote.to_string()))
            }
            Some((Path::Direct { remote, .. }, _)) => ("direct", Some(remote.to_string())),
            Some((Path::Relay { server, .. }, _)) => ("relayed", Some(server.to_string())),
            None => ("none", None),
        };
        let why = snapshot.and_then(|snapshot| snapshot.why);
        Some(LinkReport {
            kind,
            remote,
            candidates: selected.map(|pair| format!("{} to {}", pair.local, pair.remote)),
            why: why.or_else(|| link.last_error.clone().filter(|_| kind == "none")),
            rtt_us: selected.and_then(|pair| pair.rtt).map(|rtt| rtt.as_micros() as u64),
            account: link.claim.account.clone(),
        })
    }
}

fn entries(
    [log_lines, malformed_signals]: [u64; 2],
    room: RoomCounters,
    jingle: JingleCounters,
    ice: IceCounters,
) -> impl Iterator<Item = (&'static str, u64)> {
    let own = [("log_lines", log_lines), ("signal_malformed", malformed_signals)];
    own.into_iter().chain(room.entries()).chain(jingle.entries()).chain(ice.entries())
}

/// The reasons that [`NetworkReport::refused`] can have.
pub fn refused_reasons() -> impl Iterator<Item = &'static str> {
    let nothing =
        entries([0; 2], RoomCounters::default(), JingleCounters::default(), IceCounters::default());
    nothing.map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_no_path_is_told_now_and_then() {
        let (mut searches, start) = (Searches::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut failed = |now, why: &str| searches.failed(now, Pathless::NotYet, why);
        assert_eq!(failed(start, "no relay"), Some(0));
        assert!((1..300).all(|second| failed(at(second), "no relay").is_none()));
        assert_eq!(failed(at(300), "no relay"), Some(299));
        // Reasons that somebody makes up are not told without end either.
        let told = (0..600).filter(|n| failed(at(300 + n), &n.to_string()).is_some()).count();
        assert_eq!(told, 2 + MAX_PATHLESS_TOLD);
    }

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
