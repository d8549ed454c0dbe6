//! The room's lists of accounts (affiliations, XEP-0045 section 9 and 10).

use std::collections::BTreeMap;

use xmpp_parsers::{
    jid::{BareJid, Jid},
    stanza_error::DefinedCondition as Condition,
};

use super::{AdministrationError, Server, configuration};
use crate::xmpp::{
    request::{Ask, RequestFailure},
    room::{
        Affiliation,
        affiliations::list,
        wire::{AdminItem, AdminQuery},
    },
};

/// Accounts that are taken in; longer lists are no network's.
const MAX_LISTED: usize = 4_096;

/// Who has which relation to a room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lists {
    /// Of whom something is known.
    pub accounts: BTreeMap<BareJid, Affiliation>,
    /// Lists that this account may not read.
    pub unreadable: Vec<Affiliation>,
}

/// What became of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AffiliationChange {
    /// Before.
    pub was: Affiliation,
    /// Now.
    pub is: Affiliation,
}

/// All lists, as far as this account may read them.
pub(super) async fn lists(
    server: &mut impl Server,
    room: &BareJid,
) -> Result<Lists, AdministrationError> {
    let mut lists = Lists::default();
    for affiliation in Affiliation::LISTED {
        match server.ask(room.clone().into(), list(affiliation)).await {
            Ok(answer) => {
                let query = answer.and_then(|query| AdminQuery::try_from(query).ok());
                let items = query.unwrap_or_default().items.into_iter();
                let listed = items.filter(|item| item.affiliation == Some(affiliation));
                let left = MAX_LISTED.saturating_sub(lists.accounts.len());
                let accounts = listed.filter_map(|item| item.jid).map(|jid| jid.to_bare());
                lists.accounts.extend(accounts.take(left).map(|jid| (jid, affiliation)));
            }
            Err(RequestFailure::Refused(_)) => lists.unreadable.push(affiliation),
            Err(failure) => {
                return Err(AdministrationError::failed("reading the room's lists", failure));
            }
        }
    }
    Ok(lists)
}

/// Makes an account a member unless it is more than that.
pub(super) async fn add(
    server: &mut impl Server,
    room: &BareJid,
    account: &BareJid,
) -> Result<AffiliationChange, AdministrationError> {
    configuration(server, room).await?;
    let was = affiliation_of(server, room, account).await?;
    let is = was.max(Affiliation::Member);
    change(server, room, account, AffiliationChange { was, is }).await
}

/// Takes an account's right away.
pub(super) async fn remove(
    server: &mut impl Server,
    room: &BareJid,
    account: &BareJid,
) -> Result<AffiliationChange, AdministrationError> {
    let is_members_only = configuration(server, room).await?.members_only;
    let was = affiliation_of(server, room, account).await?;
    if was >= Affiliation::Admin {
        let (account, affiliation) = (account.clone(), was);
        return Err(AdministrationError::Privileged { account, affiliation });
    }
    // Whoever is nobody comes into a room with a password, so there only a ban keeps an account out.
    let out = if is_members_only { Affiliation::None } else { Affiliation::Outcast };
    change(server, room, account, AffiliationChange { was, is: was.min(out) }).await
}

/// What an account is. Setting it to less than it is would be a demotion, so this must be known.
async fn affiliation_of(
    server: &mut impl Server,
    room: &BareJid,
    account: &BareJid,
) -> Result<Affiliation, AdministrationError> {
    let lists = lists(server, room).await?;
    if lists.unreadable.is_empty() {
        return Ok(lists.accounts.get(account).copied().unwrap_or_default());
    }
    let own = server.jid().to_bare();
    Err(AdministrationError::NotAdmin { room: room.clone(), account: own })
}

async fn change(
    server: &mut impl Server,
    room: &BareJid,
    account: &BareJid,
    change: AffiliationChange,
) -> Result<AffiliationChange, AdministrationError> {
    if change.was == change.is {
        return Ok(change);
    }
    let item = AdminItem { affiliation: Some(change.is), jid: Some(Jid::from(account.clone())) };
    let query = Ask::Set(AdminQuery { items: vec![item] }.into());
    let failure = match server.ask(room.clone().into(), query).await {
        Ok(_) => return Ok(change),
        Err(failure) => failure,
    };
    Err(match failure.condition() {
        Some(Condition::Forbidden | Condition::NotAllowed | Condition::NotAuthorized) => {
            let own = server.jid().to_bare();
            AdministrationError::NotAdmin { room: room.clone(), account: own }
        }
        _ => AdministrationError::failed("changing the room's list of members", failure),
    })
}
