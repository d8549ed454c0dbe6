//! Why a command did not succeed, by fault, in words that tell the operator what to do.

use std::fmt;

use xmpp_parsers::jid::BareJid;

use crate::xmpp::{
    request::RequestFailure,
    room::Affiliation,
    stream::{self},
};

/// Why a command did not succeed.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum AdministrationError {
    /// There is no stream to the account's server.
    #[error("{0}")]
    Stream(stream::Failure),
    /// The part behind the @ is no service that has rooms.
    #[error(
        "{domain} has no rooms ({said}); {}",
        services(.offered)
    )]
    NoService {
        /// The room's domain.
        domain: String,
        /// What it answered.
        said: String,
        /// Services of the account's server that have.
        offered: Vec<String>,
    },
    /// There is no such room.
    #[error(
        "room {0} does not exist, or is not configured yet; `ipop-switch room create {0}` makes it"
    )]
    NoRoom(BareJid),
    /// There was such a room.
    #[error(
        "room {0} was destroyed, and the server keeps its name for some time; choose another name"
    )]
    Gone(BareJid),
    /// The room is somebody else's.
    #[error(
        "room {room} exists, and account {account} does not own it; choose another name, or log in as its owner"
    )]
    NotOwner {
        /// Which room.
        room: BareJid,
        /// The account that is logged in.
        account: BareJid,
    },
    /// The room is ours, but not as wanted.
    #[error(
        "room {room} exists and belongs to this account, but {}; if this network is to use it, \
         `ipop-switch room create {room} --reconfigure` sets that right, else choose another name",
        .differences.join(", ")
    )]
    OtherSettings {
        /// Which room.
        room: BareJid,
        /// What would have to change.
        differences: Vec<String>,
    },
    /// The server lets others make rooms.
    #[error(
        "the server does not let account {account} make rooms ({said}); ask its administrator (Prosody: \
         restrict_room_creation; ejabberd: access_create)"
    )]
    NotAllowed {
        /// The account that is logged in.
        account: BareJid,
        /// By the server.
        said: String,
    },
    /// The server did something else than it was told.
    #[error("the server did not configure room {room} as it was told: {}", .faults.join(", "))]
    NotAsWanted {
        /// Which room.
        room: BareJid,
        /// What is different.
        faults: Vec<String>,
    },
    /// The lists are for owners and admins.
    #[error(
        "account {account} may not change who is a member of room {room}: only its owners and admins may"
    )]
    NotAdmin {
        /// Which room.
        room: BareJid,
        /// The account that is logged in.
        account: BareJid,
    },
    /// Owners and admins are not removed by mistake.
    #[error(
        "{account} is {} of the room; that is taken away with an XMPP client, by another owner",
        .affiliation.as_str()
    )]
    Privileged {
        /// Whose right it is.
        account: BareJid,
        /// The right.
        affiliation: Affiliation,
    },
    /// The server refused for another reason, or did not answer.
    #[error("{doing}: {why}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// What the server said.
        why: String,
    },
    /// The server's answer has another form than the protocol wants.
    #[error("{doing}: the server's answer makes no sense")]
    Nonsense {
        /// What was being done.
        doing: &'static str,
    },
}

impl AdministrationError {
    pub(super) fn failed(doing: &'static str, failure: RequestFailure) -> Self {
        Self::Failed { doing, why: failure.to_string() }
    }
}

fn services(offered: &[String]) -> String {
    match offered {
        [] => "rooms are at a service of the server, often NAME@conference.DOMAIN; if the server has none, enable it \
               (Prosody: Component \"muc.DOMAIN\" \"muc\")"
            .into(),
        offered => format!("the account's server has them at {}", offered.join(", ")),
    }
}

/// Why an account may not enter a room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryRefusal {
    /// Without the right password.
    Password,
    /// Only members may.
    NotAMember,
    /// It is banned.
    Banned,
    /// It is not configured yet.
    Locked,
    /// Another reason, by the server.
    Other(String),
}

impl fmt::Display for EntryRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password => f.write_str(
                "the room has another password: the network secret here is missing, or not the one that the room was made with",
            ),
            Self::NotAMember => f.write_str(
                "this account is not a member of the room; its owner adds it with `ipop-switch room add`",
            ),
            Self::Banned => f.write_str(
                "this account is banned from the room; an admin of it lifts that with `ipop-switch room add`",
            ),
            Self::Locked => f.write_str("the room is not configured yet; `ipop-switch room create` does that"),
            Self::Other(said) => write!(f, "the server says {said}"),
        }
    }
}
