//! What the owner of a room does to it: make it, add and remove accounts, look at it.
//!
//! Each command is a dialogue with the server over a [`Session`], a stream that lives for that command alone: one
//! question, its answer, the next question. `create` makes rooms and sets them right, `members` changes the lists,
//! `look` enters a room for a moment to see who is there; they know the stream only as a `Server`, so that tests put
//! a model of one in its place. What the server did counts, not what it was told: it is read back.
//!
//! Nothing here takes over a room. One that exists is left as it is, unless it belongs to this account and
//! [`Existing::Reconfigured`] says that it is meant.

mod create;
mod error;
mod look;
mod members;
mod session;
#[cfg(test)]
mod tests;

use std::future::Future;

use xmpp_parsers::{
    disco::DiscoInfoQuery,
    jid::{BareJid, FullJid, Jid},
    presence::Presence,
    stanza_error::DefinedCondition as Condition,
};

pub use self::{
    create::{Created, Existing, Wanted},
    error::{AdministrationError, EntryRefusal},
    look::Seen,
    members::{AffiliationChange, Lists},
    session::Session,
};
use super::{
    request::{Answer, Ask, RequestFailure},
    room::{Configuration, RoomPassword},
};

/// What an account may know of a room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomReport {
    /// What the room is.
    pub configuration: Configuration,
    /// The accounts in its lists.
    pub lists: Lists,
    /// Who is inside, or why this account may not look.
    pub inside: Result<Vec<Seen>, EntryRefusal>,
}

/// The server as the commands see it.
trait Server {
    /// The own address there.
    fn jid(&self) -> &FullJid;
    /// Asks, and waits for the answer.
    fn ask(&mut self, to: Jid, ask: Ask) -> impl Future<Output = Answer>;
    /// Sends.
    fn send(&mut self, presence: Presence);
    /// The next presence that comes; [`RequestFailure::TimedOut`] if none does in good time.
    fn presence(&mut self) -> impl Future<Output = Result<Presence, RequestFailure>>;
}

impl Session {
    /// Makes the room, or makes sure that it is as wanted.
    ///
    /// # Errors
    /// When there is none that is as wanted at the end.
    pub async fn create(
        &mut self,
        room: &BareJid,
        wanted: &Wanted,
        existing: Existing,
    ) -> Result<Created, AdministrationError> {
        create::create(self, room, wanted, existing).await
    }

    /// Makes `account` a member, or lifts its ban. Owners and admins stay what they are.
    ///
    /// # Errors
    /// When it does not have a right in the room at the end.
    pub async fn add(
        &mut self,
        room: &BareJid,
        account: &BareJid,
    ) -> Result<AffiliationChange, AdministrationError> {
        members::add(self, room, account).await
    }

    /// Takes the right of `account` away: in a members-only room it is nobody, in one with a password it is banned,
    /// since there everybody comes in who is nobody.
    ///
    /// # Errors
    /// When it still has a right at the end, as owners and admins do.
    pub async fn remove(
        &mut self,
        room: &BareJid,
        account: &BareJid,
    ) -> Result<AffiliationChange, AdministrationError> {
        members::remove(self, room, account).await
    }

    /// What the room is and who is there. To see that, this session enters it for a moment.
    ///
    /// # Errors
    /// When not even its configuration can be read.
    pub async fn show(
        &mut self,
        room: &BareJid,
        password: Option<&RoomPassword>,
    ) -> Result<RoomReport, AdministrationError> {
        let configuration = configuration(self, room).await?;
        let lists = members::lists(self, room).await?;
        let inside = look::look(self, room, password, configuration).await?;
        Ok(RoomReport { configuration, lists, inside })
    }

    /// What the room is, as everybody may know it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn configuration(
        &mut self,
        room: &BareJid,
    ) -> Result<Configuration, AdministrationError> {
        configuration(self, room).await
    }

    /// Who is in the room, or why this account may not look.
    ///
    /// # Errors
    /// When there is no such room, or the server does not answer.
    pub async fn look(
        &mut self,
        room: &BareJid,
        password: Option<&RoomPassword>,
    ) -> Result<Result<Vec<Seen>, EntryRefusal>, AdministrationError> {
        let known = configuration(self, room).await?;
        look::look(self, room, password, known).await
    }
}

async fn configuration(
    server: &mut impl Server,
    room: &BareJid,
) -> Result<Configuration, AdministrationError> {
    const DOING: &str = "reading the room's configuration";
    let query = Ask::Get(DiscoInfoQuery { node: None }.into());
    let answer = server.ask(room.clone().into(), query).await;
    let failure = match answer {
        Ok(answer) => {
            let read = answer.as_ref().and_then(Configuration::read);
            return read.ok_or(AdministrationError::Nonsense { doing: DOING });
        }
        Err(failure) => failure,
    };
    match failure.condition() {
        Some(Condition::Gone { .. }) => Err(AdministrationError::Gone(room.clone())),
        Some(_) => {
            // Whoever is asked for a room may not have rooms at all.
            create::check_service(server, room).await?;
            Err(match failure.condition() {
                Some(Condition::ItemNotFound) => AdministrationError::NoRoom(room.clone()),
                _ => AdministrationError::failed(DOING, failure),
            })
        }
        None => Err(AdministrationError::failed(DOING, failure)),
    }
}
