//! Into a room for a moment: to see who is there, or to make it by entering.

use std::collections::BTreeMap;

use xmpp_parsers::{
    jid::{BareJid, FullJid, Jid},
    muc::muc::{History, Muc},
    ns,
    presence::{Presence, Type},
    stanza_error::{DefinedCondition as Condition, StanzaError},
};

use super::{AdministrationError, EntryRefusal, Server};
use crate::xmpp::{
    request::Ask,
    request::describe,
    room::{
        Affiliation, Card, Configuration, MAX_OCCUPANTS, RoomPassword,
        presence::muc_user,
        wire::{MucUser, OwnerQuery, code},
    },
};

const DOING: &str = "entering the room";
/// Presence of others that is passed over while the own one is waited for.
const MAX_FOREIGN: usize = 4_096;

/// Somebody in a room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The name there.
    pub nick: String,
    /// The real address, if the room tells it.
    pub jid: Option<FullJid>,
    /// The account's relation to the room.
    pub affiliation: Affiliation,
    /// What it says of itself; none if it is no node of a network.
    pub card: Option<Card>,
}

/// What entering led to.
pub(super) enum Entered {
    /// Into a room that was there.
    Found(Vec<Seen>),
    /// There was none, so the server made one; or so it says.
    Made,
    /// Not inside.
    Refused(EntryRefusal, Box<StanzaError>),
}

/// Who is in the room, which is known to be this. One that does not exist does not come about by looking.
pub(super) async fn look(
    server: &mut impl Server,
    room: &BareJid,
    password: Option<&RoomPassword>,
    known: Configuration,
) -> Result<Result<Vec<Seen>, EntryRefusal>, AdministrationError> {
    match enter(server, room, password).await? {
        Entered::Found(seen) => {
            leave(server, room);
            Ok(Ok(seen))
        }
        Entered::Refused(refusal, _) => Ok(Err(refusal)),
        // ejabberd says so of the first to enter a room that lasts, too.
        Entered::Made if known.persistent => {
            leave(server, room);
            Ok(Ok(Vec::new()))
        }
        Entered::Made => {
            give_back(server, room).await;
            Err(AdministrationError::NoRoom(room.clone()))
        }
    }
}

/// Enters, and waits until the server has listed everybody.
pub(super) async fn enter(
    server: &mut impl Server,
    room: &BareJid,
    password: Option<&RoomPassword>,
) -> Result<Entered, AdministrationError> {
    let mut muc = Muc::new().with_history(History::new().with_maxstanzas(0));
    muc.password = password.map(|password| password.0.clone());
    server.send(Presence::available().with_to(Jid::from(seat(server, room))).with_payload(muc));
    let mut seen = BTreeMap::new();
    for _ in 0..MAX_FOREIGN {
        let presence = server.presence().await;
        let presence = presence.map_err(|failure| AdministrationError::failed(DOING, failure))?;
        let Some(from) = presence.from.as_ref().filter(|from| from.to_bare() == *room) else {
            continue;
        };
        if presence.type_ == Type::Error {
            return refused(&presence);
        }
        let Some(x) = muc_user(&presence.payloads) else { continue };
        match presence.type_ {
            Type::None if x.has(code::SELF) && x.has(code::CREATED) => return Ok(Entered::Made),
            // The own presence ends the list.
            Type::None if x.has(code::SELF) => {
                return Ok(Entered::Found(seen.into_values().collect()));
            }
            Type::None if seen.len() < MAX_OCCUPANTS => {
                if let Some(nick) = from.resource() {
                    seen.insert(nick.to_string(), somebody(nick.to_string(), &presence, &x));
                }
            }
            Type::Unavailable => {
                seen.remove(from.resource().map_or("", |nick| nick.as_str()));
            }
            _ => {}
        }
    }
    Err(AdministrationError::Nonsense { doing: DOING })
}

/// Says good-bye to the room.
pub(super) fn leave(server: &mut impl Server, room: &BareJid) {
    let seat = seat(server, room);
    server.send(Presence::unavailable().with_to(Jid::from(seat)));
}

/// A room that was made and is not to stay: the form is declined, and nobody is left inside.
pub(super) async fn give_back(server: &mut impl Server, room: &BareJid) {
    let cancel = Ask::Set(OwnerQuery::cancel().into());
    // Whatever the answer is, an unconfigured room ends when the last one leaves it.
    let _ = server.ask(room.clone().into(), cancel).await;
    leave(server, room);
}

/// The own address in the room: the resource is unique to this session.
fn seat(server: &impl Server, room: &BareJid) -> FullJid {
    room.with_resource(server.jid().resource())
}

fn somebody(nick: String, presence: &Presence, x: &MucUser) -> Seen {
    let item = x.items.first().cloned().unwrap_or_default();
    let jid = item.jid.and_then(|jid| jid.try_into_full().ok());
    let affiliation = item.affiliation.unwrap_or_default();
    Seen { nick, jid, affiliation, card: Card::of(presence) }
}

/// XEP-0045 section 7.2.
fn refused(presence: &Presence) -> Result<Entered, AdministrationError> {
    let error = presence.payloads.iter().find(|payload| payload.is("error", ns::DEFAULT_NS));
    let error = error.and_then(|error| StanzaError::try_from(error.clone()).ok());
    let error = error.ok_or(AdministrationError::Nonsense { doing: DOING })?;
    let refusal = match error.defined_condition {
        Condition::NotAuthorized => EntryRefusal::Password,
        Condition::RegistrationRequired => EntryRefusal::NotAMember,
        Condition::Forbidden => EntryRefusal::Banned,
        Condition::ItemNotFound => EntryRefusal::Locked,
        _ => EntryRefusal::Other(describe(&error)),
    };
    Ok(Entered::Refused(refusal, Box::new(error)))
}
