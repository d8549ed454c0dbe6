//! What the operator is told, once and not with every retry.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;
use xmpp_parsers::jid::{BareJid, FullJid};

use super::{MAX_OCCUPANTS, affiliations::MAX_ENTITLED};

/// The same is not told again for this long.
const QUIET: Duration = Duration::from_secs(600);
/// Problems that are remembered. A server that makes up new ones is told of at this many an interval at most.
const MAX_REMEMBERED: usize = 32;

/// Something is wrong with the room or in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// With which room.
    pub room: BareJid,
    /// This node's account, once it was online.
    pub account: Option<BareJid>,
    /// What it is.
    pub what: Trouble,
    /// What this node does about it.
    pub outcome: Outcome,
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This node is not in the room, and tries again after about this time.
    RetriedIn(Duration),
    /// This node is in the room.
    Goes,
}

/// What is wrong. Reasons are the words of whoever gave one, printable and bounded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The room lets in or hides whom this mode of trust must not: what is wrong with it.
    NotFit(Vec<&'static str>),
    /// It has another password than this node's network secret gives.
    OtherPassword,
    /// It has a password, and this mode of trust has none.
    WantsPassword,
    /// It is not there.
    Missing,
    /// It is gone or elsewhere, as the server says.
    Moved(String),
    /// It lets nobody in, as the server says.
    Full(String),
    /// Somebody destroyed it.
    Destroyed(Option<String>),
    /// This node's account is banned from it.
    Banned,
    /// It was banned while this node was in the room.
    WasBanned(Option<String>),
    /// This node's account is no member.
    NotMember,
    /// It was one.
    NoMemberAnyMore(Option<String>),
    /// The room says that it is no member, and lets it stay.
    SaidToBeRemoved,
    /// No nick is left to try.
    NoNick,
    /// One nick did not do.
    Nick {
        /// Which.
        refused: String,
        /// Why.
        why: NickFault,
        /// The nick from now on.
        now: String,
    },
    /// This node was kicked.
    Kicked(Option<String>),
    /// It is thrown out again and again.
    ThrownOut(Expulsion),
    /// It cannot enter, for a reason that may pass.
    CannotEnter(Hindrance),
    /// An occupant shows this node's id.
    OwnId(FullJid, NodeId),
    /// Two occupants show one id.
    Twins([FullJid; 2], NodeId),
    /// An occupant has another id than before.
    ChangedId {
        /// Who.
        jid: FullJid,
        /// Its id before.
        was: NodeId,
        /// Its id now.
        is: NodeId,
    },
    /// More nodes than are looked at.
    TooManyNodes,
    /// More members than are looked at.
    TooManyMembers,
}

/// Why a nick does not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NickFault {
    /// Somebody has it.
    #[error("is in use")]
    InUse,
    /// The server does not take it.
    #[error("is not accepted")]
    NotAccepted,
    /// Another program of the same account has it.
    #[error("is shared with another program of this account")]
    Shared,
}

/// How this node is thrown out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Expulsion {
    /// The stream was replaced by another one.
    #[error("another program logs in with the same JID and resource")]
    Replaced,
    /// The room says that this node left.
    #[error("it leaves the room without having been told to")]
    Left,
}

/// What keeps this node out for the time being.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Hindrance {
    /// The room is locked or missing, which the server does not tell apart.
    #[error("it is locked or does not exist; `ipop-switch room create` makes it")]
    Locked,
    /// Nothing came of the join.
    #[error("the room does not answer")]
    Silent,
    /// This node was in it, and was removed.
    #[error("it was removed from the room")]
    Removed,
    /// In the server's words.
    #[error("the server says {0}")]
    Said(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let room = &self.room;
        match &self.what {
            Trouble::NotFit(faults) => write!(
                f,
                "room {room} is not what this mode of trust needs: {}; its owner can set it right with \
                 `ipop-switch room create {room} --reconfigure`",
                faults.join(", ")
            ),
            Trouble::OtherPassword => write!(
                f,
                "room {room} has another password: this node's network secret is not the one that the room was \
                 created with"
            ),
            Trouble::WantsPassword => {
                write!(f, "room {room} wants a password, which only `trust = \"secret\"` has")
            }
            Trouble::Missing => {
                write!(
                    f,
                    "room {room} does not exist; make it with `ipop-switch room create {room}`"
                )
            }
            Trouble::Moved(said) => {
                write!(f, "room {room} is gone or has moved: the server says {said}")
            }
            Trouble::Full(said) => write!(
                f,
                "room {room} is full or not available: the server says {said}; raise the room's limit (ejabberd: max_users) if it is full"
            ),
            Trouble::Destroyed(reason) => write!(
                f,
                "room {room} was destroyed{}; `ipop-switch room create` makes another under another name",
                Given(reason)
            ),
            Trouble::SaidToBeRemoved => {
                write!(f, "room {room} says that this account was removed from it")
            }
            Trouble::NoNick => {
                write!(f, "no nick of this node is free in room {room}: give it another --name")
            }
            Trouble::Nick { refused, why, now } => {
                write!(f, "the nick {refused} {why}; this node is {now} in the room")
            }
            Trouble::Kicked(reason) => {
                write!(f, "this node was kicked from room {room}{}", Given(reason))
            }
            Trouble::ThrownOut(why) => write!(
                f,
                "this node is thrown out again and again: {why}. If this host was cloned from another, give it an account or a \
                 resource of its own and delete its copied state directory"
            ),
            Trouble::CannotEnter(why) => write!(f, "cannot enter room {room}: {why}"),
            Trouble::TooManyMembers => {
                write!(f, "room {room} has more than {MAX_ENTITLED} members: its lists are ignored")
            }
            Trouble::TooManyNodes => write!(
                f,
                "more than {MAX_OCCUPANTS} nodes are in room {room}: the others are ignored"
            ),
            Trouble::Banned
            | Trouble::WasBanned(..)
            | Trouble::NotMember
            | Trouble::NoMemberAnyMore(..) => self.fmt_of_account(f),
            Trouble::OwnId(..) | Trouble::Twins(..) | Trouble::ChangedId { .. } => {
                self.fmt_of_others(f)
            }
        }
    }
}

impl Problem {
    fn fmt_of_account(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let room = &self.room;
        let account = self.account.as_ref().map(BareJid::to_string).unwrap_or_default();
        // What somebody else types to let this account in.
        let cure = format!("`ipop-switch room add {room} {account}`");
        match &self.what {
            Trouble::Banned => {
                write!(
                    f,
                    "this account is banned from room {room}; an admin lifts that with {cure}"
                )
            }
            Trouble::WasBanned(reason) => write!(
                f,
                "this account was banned from room {room}{}; an admin lifts that with {cure}",
                Given(reason)
            ),
            Trouble::NotMember => write!(
                f,
                "this account is not a member of room {room}; its owner adds it with {cure}"
            ),
            Trouble::NoMemberAnyMore(reason) => write!(
                f,
                "this account is not a member of room {room} any more{}; its owner adds it with {cure}",
                Given(reason)
            ),
            _ => Ok(()),
        }
    }

    fn fmt_of_others(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Trouble::OwnId(jid, node) => write!(
                f,
                "{jid} says that it is this node ({node}); if that host was cloned from this one, delete its copied state directory"
            ),
            Trouble::Twins([one, other], node) => write!(
                f,
                "{one} and {other} both say that they are node {node}; whichever proves it is connected. If one host was cloned from the \
                 other, delete its copied state directory"
            ),
            Trouble::ChangedId { jid, was, is } => {
                write!(f, "{jid} was node {was} and now says that it is {is}")
            }
            _ => Ok(()),
        }
    }
}

/// A reason that somebody gave, if they gave one.
struct Given<'a>(&'a Option<String>);

impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Problems {
    told: VecDeque<(Trouble, Instant)>,
}

impl Problems {
    /// Whether this is to be told now.
    pub(super) fn is_news(&mut self, now: Instant, what: &Trouble) -> bool {
        while self.told.front().is_some_and(|(_, at)| *at + QUIET <= now) {
            self.told.pop_front();
        }
        if self.told.len() >= MAX_REMEMBERED || self.told.iter().any(|(told, _)| told == what) {
            return false;
        }
        self.told.push_back((what.clone(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_and_not_too_many() {
        let (mut problems, start) = (Problems::default(), Instant::now());
        let mut told = |at: Instant, said: &str| problems.is_news(at, &Trouble::Full(said.into()));
        assert!(told(start, "full") && !told(start, "full"));
        assert_eq!((0..1_000).filter(|n| told(start, &n.to_string())).count(), MAX_REMEMBERED - 1);
        assert!(told(start + QUIET, "full"));
    }
}
