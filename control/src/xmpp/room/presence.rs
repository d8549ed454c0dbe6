//! Presence from the room: occupants, this node itself, and errors.

use std::time::Instant;

use xmpp_parsers::{
    jid::{FullJid, Jid},
    minidom::Element,
    ns,
    presence::{Presence, Type},
    stanza_error::StanzaError,
};

use super::{
    Event, Outcome, Room, State,
    card::Card,
    join::FoundOrMade,
    occupants::{Occupant, OccupantChange},
    problem::{Expulsion, Hindrance, NickFault, Trouble},
    wire::{Affiliation, Item, MucUser, code},
};
use crate::xmpp::request::printable;

/// The muc#user element among these payloads.
pub(in crate::xmpp) fn muc_user(payloads: &[Element]) -> Option<MucUser> {
    let element = payloads.iter().find(|payload| payload.is("x", ns::MUC_USER))?;
    MucUser::try_from(element.clone()).ok()
}

impl Room {
    pub(super) fn take_presence(&mut self, now: Instant, from: &Jid, presence: &Presence) {
        if matches!(self.state, State::Left | State::Offline) {
            return;
        }
        if self.is_join_error(presence) {
            let error =
                presence.payloads.iter().find(|payload| payload.is("error", ns::DEFAULT_NS));
            match error.and_then(|error| StanzaError::try_from(error.clone()).ok()) {
                Some(error) => self.join_refused(now, &error),
                None => self.counters.malformed += 1,
            }
            return;
        }
        let (Some(nick), Some(x)) = (from.resource(), muc_user(&presence.payloads)) else {
            self.counters.malformed += 1;
            return;
        };
        let nick = nick.as_str();
        match presence.type_ {
            Type::None if x.has(code::SELF) => self.own_presence(now, nick, presence, &x),
            Type::None => self.occupant(now, nick, presence, &x),
            Type::Unavailable if x.has(code::SELF) => self.own_exit(now, nick, &x),
            Type::Unavailable => self.exit(nick, &x),
            _ => self.counters.malformed += 1,
        }
    }

    fn own_presence(&mut self, now: Instant, nick: &str, presence: &Presence, x: &MucUser) {
        if matches!(self.state, State::Waiting(_)) {
            return;
        }
        // Programs of one account may share a nick, and the room then shows only one of them.
        let shared = Card::of(presence).is_some_and(|card| card.node != self.local());
        if shared || x.items.len() > 1 {
            self.send_unavailable();
            return self.next_nick(now, NickFault::Shared);
        }
        if nick != self.nick() {
            self.counters.malformed += 1;
        }
        let origin = if x.has(code::CREATED) { FoundOrMade::Made } else { FoundOrMade::Found };
        self.listed(now, origin);
    }

    fn occupant(&mut self, now: Instant, nick: &str, presence: &Presence, x: &MucUser) {
        let Some(card) = Card::of(presence) else {
            self.counters.cardless += 1;
            return;
        };
        let [item] = x.items.as_slice() else {
            self.counters.ambiguous += 1;
            return;
        };
        let Some(jid) = item.jid.as_ref().and_then(|jid| jid.try_as_full().ok()).cloned() else {
            self.counters.anonymous += 1;
            return;
        };
        if Some(&jid) == self.jid.as_ref() {
            self.counters.ambiguous += 1;
            return;
        }
        if card.node == self.local() {
            return self.problem(now, Trouble::OwnId(jid, card.node), Outcome::Goes);
        }
        let affiliation = item.affiliation.unwrap_or_default();
        if affiliation == Affiliation::Outcast {
            self.counters.malformed += 1;
            return;
        }
        self.put(now, nick, Occupant { jid, affiliation, card });
    }

    fn put(&mut self, now: Instant, nick: &str, occupant: Occupant) {
        let gone = match self.occupants.put(nick, occupant.clone(), self.join) {
            OccupantChange::None => return,
            OccupantChange::New { gone } => gone,
            OccupantChange::JidTwice => {
                self.counters.ambiguous += 1;
                return;
            }
            OccupantChange::Full => {
                self.counters.over_limit += 1;
                return self.problem(now, Trouble::TooManyNodes, Outcome::Goes);
            }
        };
        if let Some(twin) = self.occupants.twin(&occupant) {
            let both = [twin.jid.clone(), occupant.jid.clone()];
            self.problem(now, Trouble::Twins(both, occupant.card.node), Outcome::Goes);
        }
        if let Some(gone) = gone {
            if gone.jid == occupant.jid && gone.card.node != occupant.card.node {
                self.counters.changed_id += 1;
                let (jid, was, is) = (gone.jid.clone(), gone.card.node, occupant.card.node);
                self.problem(now, Trouble::ChangedId { jid, was, is }, Outcome::Goes);
            }
            self.tell(Event::OccupantGone(gone.jid));
        }
        if self.is_joined() {
            for occupant in self.occupants.tell() {
                self.tell(Event::Occupant(occupant));
            }
        }
    }

    fn exit(&mut self, nick: &str, x: &MucUser) {
        let item = x.items.first();
        if x.has(code::NEW_NICK) {
            if let Some(new) = item.and_then(|item| item.nick.as_deref()) {
                self.occupants.rename(nick, new);
            }
            return;
        }
        let account = item
            .and_then(|item| item.jid.as_ref().map(Jid::to_bare))
            .or_else(|| self.occupants.jid_of(nick));
        if let (Some(account), true) = (account, x.items.iter().any(|item| loses_right(x, item))) {
            self.revoke(account);
        }
        if let Some(gone) = self.occupants.remove(nick) {
            self.tell(Event::OccupantGone(gone.jid));
        }
    }

    fn own_exit(&mut self, now: Instant, nick: &str, x: &MucUser) {
        let leaves_old_nick = nick != self.nick();
        if matches!(self.state, State::Waiting(_))
            || leaves_old_nick && matches!(self.state, State::Joining(_))
        {
            return;
        }
        let reason = told(x.items.iter().find_map(|item| item.reason.as_deref()));
        if let Some(destroy) = &x.destroy {
            return self.refused(now, Trouble::Destroyed(told(destroy.reason.as_deref())));
        }
        if x.has(code::BANNED) {
            return self.refused(now, Trouble::WasBanned(reason));
        }
        if x.has(code::NO_LONGER_MEMBER) || x.has(code::NOW_MEMBERS_ONLY) {
            return self.refused(now, Trouble::NoMemberAnyMore(reason));
        }
        if x.has(code::NEW_NICK) {
            self.send_unavailable();
            return self.start_join(now);
        }
        if x.has(code::KICKED) {
            self.problem(now, Trouble::Kicked(reason), Outcome::Goes);
        }
        if !x.has(code::SHUTDOWN) {
            self.thrown_out(now, Expulsion::Left);
        }
        self.retry_soon(now, Hindrance::Removed);
    }

    /// An account lost its right. Its occupants are gone with it.
    pub(super) fn revoke(&mut self, account: xmpp_parsers::jid::BareJid) {
        if self.jid.as_ref().is_some_and(|own: &FullJid| own.to_bare() == account) {
            return;
        }
        let gone = self.occupants.remove_if(|occupant, _| occupant.jid.to_bare() == account);
        self.tell(Event::Revoked(account));
        for occupant in gone {
            self.tell(Event::OccupantGone(occupant.jid));
        }
    }
}

/// A reason that somebody gave, if they gave one.
fn told(reason: Option<&str>) -> Option<String> {
    reason.map(printable).filter(|reason| !reason.is_empty())
}

/// Whether this exit is more than leaving: the status says why, and the affiliation says that it lasts.
fn loses_right(x: &MucUser, item: &Item) -> bool {
    let status = [code::BANNED, code::NO_LONGER_MEMBER, code::NOW_MEMBERS_ONLY]
        .into_iter()
        .any(|code| x.has(code));
    status && matches!(item.affiliation, Some(Affiliation::None | Affiliation::Outcast))
}
