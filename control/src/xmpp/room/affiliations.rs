//! Who has a right by the room's lists: messages that tell of a change, and the lists themselves after each join.
//!
//! In a members-only, non-anonymous room members may read the lists, so a node that was away learns who was removed
//! meanwhile. In a room with a password the affiliation "none" is everybody's, so there only a ban takes a right away.

use std::{collections::BTreeSet, time::Instant};

use xmpp_parsers::{
    jid::{BareJid, Jid},
    message::{Message, MessageType},
};

use super::{
    Entry, Event, Outcome, Purpose, Room,
    presence::muc_user,
    problem::Trouble,
    wire::{AdminItem, AdminQuery, Affiliation, code},
};
use crate::xmpp::request::{Answer, Ask};

/// The lists that give a right.
const RIGHTFUL: [Affiliation; 3] = [Affiliation::Owner, Affiliation::Admin, Affiliation::Member];
/// Longer lists are not believed to be a network's.
pub(super) const MAX_ENTITLED: usize = 4_096;

/// Lists that are being read.
#[derive(Debug, Default)]
pub(super) struct Reconciliation {
    read: usize,
    entitled: BTreeSet<BareJid>,
}

/// The question for one list, XEP-0045 section 9.5.
pub(in crate::xmpp) fn list(affiliation: Affiliation) -> Ask {
    let item = AdminItem { affiliation: Some(affiliation), jid: None };
    Ask::Get(AdminQuery { items: vec![item] }.into())
}

impl Room {
    pub(super) fn start_reconciliation(&mut self) {
        if self.config.entry != Entry::Members {
            return;
        }
        self.reconciliation = Some(Reconciliation::default());
        for affiliation in RIGHTFUL {
            self.ask(
                Purpose::Affiliates(affiliation),
                self.config.room.clone().into(),
                list(affiliation),
            );
        }
    }

    pub(super) fn take_affiliates(
        &mut self,
        now: Instant,
        affiliation: Affiliation,
        answer: Answer,
    ) {
        // Whoever may not read one of the lists knows nothing from the others.
        let Some(mut reconciliation) = self.reconciliation.take() else { return };
        let Some(query) = answer.ok().flatten().and_then(|query| AdminQuery::try_from(query).ok())
        else {
            return;
        };
        let listed = query.items.iter().filter(|item| item.affiliation == Some(affiliation));
        reconciliation
            .entitled
            .extend(listed.filter_map(|item| item.jid.as_ref()).map(Jid::to_bare));
        reconciliation.read += 1;
        if reconciliation.entitled.len() > MAX_ENTITLED {
            return self.problem(now, Trouble::TooManyMembers, Outcome::Goes);
        }
        if reconciliation.read == RIGHTFUL.len() {
            self.tell(Event::Entitled(reconciliation.entitled));
        } else {
            self.reconciliation = Some(reconciliation);
        }
    }

    /// From the room itself: changes of configuration and of affiliations of accounts that are not inside.
    pub(super) fn take_message(&mut self, now: Instant, message: &Message) {
        if !self.is_joined() || message.type_ == MessageType::Error {
            return;
        }
        // Prosody repeats the subject and other servers their own remarks; all of that is for people.
        let Some(x) = muc_user(&message.payloads) else { return };
        if code::CONFIGURED.into_iter().any(|code| x.has(code))
            && !self.asked.values().any(|p| *p == Purpose::Configuration)
        {
            self.ask_configuration();
        }
        for item in &x.items {
            if let (Some(affiliation), Some(jid)) = (item.affiliation, &item.jid) {
                self.affiliation_changed(now, jid.to_bare(), affiliation);
            }
        }
    }

    fn affiliation_changed(&mut self, now: Instant, account: BareJid, affiliation: Affiliation) {
        let revoked = match affiliation {
            Affiliation::Outcast => true,
            Affiliation::None => self.config.entry == Entry::Members,
            Affiliation::Member | Affiliation::Admin | Affiliation::Owner => false,
        };
        if revoked && self.jid.as_ref().is_some_and(|own| own.to_bare() == account) {
            self.problem(now, Trouble::SaidToBeRemoved, Outcome::Goes);
        } else if revoked {
            self.revoke(account);
        }
    }
}
