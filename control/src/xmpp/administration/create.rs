//! Making a room. A server makes one when somebody enters it, and may lock it until its owner has sent the form back
//! (XEP-0045 section 10.1). So whether it exists is asked first, and the server must say that it made it for this entry
//! (status 201): what somebody else made in between is theirs.
//!
//! The question is what the room is, which makes none on any server. The owner's form would not do: ejabberd makes a room
//! to have a form to show.

use xmpp_parsers::{
    disco::{DiscoInfoQuery, DiscoItemsQuery},
    jid::{BareJid, Jid},
    ns,
    stanza_error::DefinedCondition as Condition,
};

use super::{
    AdministrationError, Server, configuration,
    look::{Entered, enter, give_back, leave},
};
use crate::xmpp::{
    request::{Ask, RequestFailure, describe, printable},
    room::{
        Entry, RoomPassword,
        configuration::filled,
        wire::{DiscoInfo, DiscoItems, Form, OwnerQuery},
    },
};

/// Entities of the account's server that are asked whether they have rooms.
const MAX_SERVICES_ASKED: usize = 16;

/// How the room is to be: hidden, persistent, non-anonymous, and this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// What keeps strangers out.
    pub entry: Entry,
    /// With [`Entry::Password`].
    pub password: Option<RoomPassword>,
}

/// What to do with a room that is there, belongs to this account, and is not as wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// Leave it and say so.
    Refused,
    /// Set it right.
    Reconfigured,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// The room is new.
    New,
    /// It was there, and is as wanted now.
    Reconfigured,
    /// It was there as it is wanted.
    AsWanted,
}

/// The owner's form, or why there is none.
enum Offer {
    Form(Form),
    NotOurs,
    NoRoom,
}

pub(super) async fn create(
    server: &mut impl Server,
    room: &BareJid,
    wanted: &Wanted,
    existing: Existing,
) -> Result<Created, AdministrationError> {
    check_service(server, room).await?;
    match configuration(server, room).await {
        Err(AdministrationError::NoRoom(_)) => return make(server, room, wanted).await,
        known => known?,
    };
    match owners_form(server, room).await? {
        Offer::NoRoom => make(server, room, wanted).await,
        Offer::NotOurs => Err(not_owner(server, room)),
        Offer::Form(form) => {
            let differences = differences(&form, wanted);
            if differences.is_empty() {
                verify(server, room, wanted).await?;
                return Ok(Created::AsWanted);
            }
            if existing == Existing::Refused {
                let room = room.clone();
                return Err(AdministrationError::OtherSettings { room, differences });
            }
            submit(server, room, &form, wanted).await?;
            verify(server, room, wanted).await?;
            Ok(Created::Reconfigured)
        }
    }
}

async fn make(
    server: &mut impl Server,
    room: &BareJid,
    wanted: &Wanted,
) -> Result<Created, AdministrationError> {
    match enter(server, room, wanted.password.as_ref()).await? {
        Entered::Made => {}
        Entered::Found(_) => {
            leave(server, room);
            return Err(not_owner(server, room));
        }
        Entered::Refused(refusal, error) => {
            return Err(match error.defined_condition {
                Condition::NotAllowed | Condition::Forbidden => AdministrationError::NotAllowed {
                    account: server.jid().to_bare(),
                    said: describe(&error),
                },
                // It is somebody's by now.
                Condition::NotAuthorized
                | Condition::RegistrationRequired
                | Condition::Conflict
                | Condition::ItemNotFound => not_owner(server, room),
                _ => {
                    let why = refusal.to_string();
                    AdministrationError::Failed { doing: "making the room", why }
                }
            });
        }
    }
    let configured = configure(server, room, wanted).await;
    match &configured {
        Ok(_) => leave(server, room),
        Err(_) => give_back(server, room).await,
    }
    configured
}

/// Configures the room that was just made.
async fn configure(
    server: &mut impl Server,
    room: &BareJid,
    wanted: &Wanted,
) -> Result<Created, AdministrationError> {
    let Offer::Form(form) = owners_form(server, room).await? else {
        return Err(not_owner(server, room));
    };
    submit(server, room, &form, wanted).await?;
    verify(server, room, wanted).await?;
    Ok(Created::New)
}

async fn owners_form(
    server: &mut impl Server,
    room: &BareJid,
) -> Result<Offer, AdministrationError> {
    const DOING: &str = "asking for the room's form";
    let answer = server.ask(room.clone().into(), Ask::Get(OwnerQuery::default().into())).await;
    let failure = match answer {
        Ok(answer) => {
            let query = answer.and_then(|query| OwnerQuery::try_from(query).ok());
            let form = query.and_then(|query| query.form);
            return form.map(Offer::Form).ok_or(AdministrationError::Nonsense { doing: DOING });
        }
        Err(failure) => failure,
    };
    match failure.condition() {
        Some(Condition::ItemNotFound) => Ok(Offer::NoRoom),
        Some(Condition::Forbidden | Condition::NotAuthorized | Condition::NotAllowed) => {
            Ok(Offer::NotOurs)
        }
        Some(Condition::Gone { .. }) => Err(AdministrationError::Gone(room.clone())),
        _ => Err(AdministrationError::failed(DOING, failure)),
    }
}

async fn submit(
    server: &mut impl Server,
    room: &BareJid,
    offered: &Form,
    wanted: &Wanted,
) -> Result<(), AdministrationError> {
    let form = filled(offered, wanted.entry, password(wanted));
    let query = OwnerQuery { form: Some(form) };
    let answer = server.ask(room.clone().into(), Ask::Set(query.into())).await;
    answer.map(|_| ()).map_err(|why| AdministrationError::failed("configuring the room", why))
}

/// Reads back what the owner sees, and what everybody does.
async fn verify(
    server: &mut impl Server,
    room: &BareJid,
    wanted: &Wanted,
) -> Result<(), AdministrationError> {
    let configuration = configuration(server, room).await?;
    let faults = configuration.faults(wanted.entry).into_iter();
    let mut faults: Vec<String> = faults.map(str::to_owned).collect();
    if !configuration.persistent {
        faults.push("it is temporary (must be persistent)".into());
    }
    if let Offer::Form(form) = owners_form(server, room).await?
        && form.value("muc#roomconfig_roomsecret").is_some_and(|is| is != secret(wanted))
    {
        faults.push("its password is another one".into());
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(AdministrationError::NotAsWanted { room: room.clone(), faults }),
    }
}

/// What of an own room would have to change. The rest of the form is a matter of taste, and only set in new rooms.
fn differences(offered: &Form, wanted: &Wanted) -> Vec<String> {
    let members = wanted.entry == Entry::Members;
    let is = |var: &str| offered.value(var).map(|value| matches!(value, "1" | "true"));
    let mut differences = Vec::new();
    let mut differ = |differs: bool, text: &str| {
        if differs {
            differences.push(text.to_owned());
        }
    };
    differ(is("muc#roomconfig_persistentroom") == Some(false), "it is temporary");
    differ(is("muc#roomconfig_publicroom") == Some(true), "it is public");
    match is("muc#roomconfig_membersonly") {
        Some(true) => differ(!members, "it is for members only"),
        Some(false) => differ(members, "it is open to those who are not members"),
        None => {}
    }
    let whois = offered.value("muc#roomconfig_whois");
    differ(whois.is_some_and(|whois| whois != "anyone"), "it hides its occupants' JIDs");
    let has = offered.value("muc#roomconfig_roomsecret").unwrap_or_default();
    let has = if is("muc#roomconfig_passwordprotectedroom") == Some(false) { "" } else { has };
    differ(
        has != secret(wanted),
        match (has, secret(wanted)) {
            ("", _) => "it has no password",
            (_, "") => "it has a password",
            _ => "its password belongs to another network secret",
        },
    );
    differences
}

fn password(wanted: &Wanted) -> Option<&str> {
    wanted.password.as_ref().map(|password| password.0.as_str())
}

fn secret(wanted: &Wanted) -> &str {
    password(wanted).unwrap_or_default()
}

fn not_owner(server: &impl Server, room: &BareJid) -> AdministrationError {
    let account = server.jid().to_bare();
    AdministrationError::NotOwner { room: room.clone(), account }
}

/// Whether the room's domain has rooms at all. If not, where the account's server has them.
pub(super) async fn check_service(
    server: &mut impl Server,
    room: &BareJid,
) -> Result<(), AdministrationError> {
    let domain = room.domain().to_string();
    let Ok(service) = Jid::new(&domain) else {
        return Err(AdministrationError::Nonsense { doing: "reading the room's domain" });
    };
    let said = match has_rooms(server, service).await {
        Ok(true) => return Ok(()),
        Ok(false) => "it answers, but not as a service for rooms".to_owned(),
        Err(RequestFailure::Offline) => {
            let doing = "asking for the service that has rooms";
            return Err(AdministrationError::failed(doing, RequestFailure::Offline));
        }
        Err(failure) => failure.to_string(),
    };
    let offered = services_with_rooms(server).await;
    Err(AdministrationError::NoService { domain, said, offered })
}

async fn has_rooms(server: &mut impl Server, service: Jid) -> Result<bool, RequestFailure> {
    let answer = server.ask(service, Ask::Get(DiscoInfoQuery { node: None }.into())).await?;
    let disco = answer.and_then(|answer| DiscoInfo::try_from(answer).ok());
    Ok(disco.is_some_and(|disco| disco.features.iter().any(|feature| feature == ns::MUC)))
}

/// A hint for the operator, so whatever goes wrong here is passed over.
async fn services_with_rooms(server: &mut impl Server) -> Vec<String> {
    let Ok(own) = Jid::new(server.jid().domain().as_str()) else { return Vec::new() };
    let query = Ask::Get(DiscoItemsQuery { node: None, rsm: None }.into());
    let answer = server.ask(own, query).await.ok().flatten();
    let items = answer.and_then(|answer| DiscoItems::try_from(answer).ok()).unwrap_or_default();
    let mut found = Vec::new();
    for item in items.items.into_iter().take(MAX_SERVICES_ASKED) {
        if has_rooms(server, item.jid.clone()).await == Ok(true) {
            found.push(printable(item.jid.as_str()));
        }
    }
    found
}
