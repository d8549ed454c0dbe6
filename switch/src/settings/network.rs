//! The network that the node joins: account (`account`), room, secrets, trust, and the servers that help through NATs.
//!
//! Passwords and secrets come from files that only their owner can read, or from systemd's credentials. Everything is read here, so that what
//! is wrong is said before any device is touched, and again by SIGHUP.

mod account;

use std::{
    env, fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use ipop_control::{
    host::private_file::{self, PrivateFileError, Readers},
    network::{JoinToken, Secret, Secrets, secret, token},
    peer::{Host, PeerAddress},
    trust::{NewNodes, Policy},
};
use ipop_datapath::node_id::NodeId;

use self::account::RoomJid;
pub(crate) use self::account::{Account, Asked, BareJid, Missing, Password};
use super::{KeyAt, Layers, SettingsError};
use crate::config::TurnEntry;

/// The names in systemd's `$CREDENTIALS_DIRECTORY`.
const SECRET_CREDENTIAL: &str = "network.secret";
const JOIN_CREDENTIAL: &str = "network.join";
/// Mail programs break lines, so that a token may come with white space.
const MAX_TOKEN_FILE_LEN: u64 = 2 * token::MAX_TOKEN_LEN as u64;
/// Servers of one kind that are asked at most.
const MAX_SERVERS: usize = 8;
/// STUN and TURN (RFC 8489, RFC 8656).
const STUN_PORT: u16 = 3_478;

/// What the surroundings say, apart from flags and file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// `$STATE_DIRECTORY`, which systemd sets.
    pub(crate) state_directory: Option<String>,
    /// `$CREDENTIALS_DIRECTORY`, which systemd sets.
    pub(crate) credentials_directory: Option<PathBuf>,
    /// `$IPOP_XMPP_PASSWORD`.
    pub(crate) xmpp_password: Option<String>,
    /// What somebody at the terminal said.
    pub(crate) asked: Asked,
}

/// A room and the account to join it with.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Network {
    pub(crate) account: Account,
    /// The room's bare JID.
    pub(crate) room: BareJid,
    /// The network's secrets: the room's password is derived from the first. With [`Policy::Secret`] they are proved in the tunnels too.
    pub(crate) secrets: Option<Secrets>,
}

/// What the commands of a room's owner are told.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RoomSettings {
    pub(crate) account: Account,
    /// The room's bare JID.
    pub(crate) room: BareJid,
    pub(crate) secrets: Option<Secrets>,
    /// The state directory, which need not be there.
    pub(crate) state: PathBuf,
}

/// A host with a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServerAddress(pub(crate) PeerAddress);

/// Servers that help through NATs, and interfaces that must not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ice {
    /// STUN servers; those that the XMPP server names if there are none.
    pub(crate) stun: Vec<ServerAddress>,
    /// TURN servers, likewise.
    pub(crate) turn: Vec<TurnServer>,
    /// Interfaces whose addresses are not offered to peers; `*` at the end stands for anything.
    pub(crate) ignore_interfaces: Vec<String>,
}

/// A TURN server over UDP with its long-term credential.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TurnServer {
    pub(crate) server: ServerAddress,
    pub(crate) username: String,
    pub(crate) password: Password,
}

/// How peers that a room names become trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TrustMode {
    Secret,
    Pinned,
    Tofu,
}

words!(TrustMode: "secret" => Secret, "pinned" => Pinned, "tofu" => Tofu);

struct NewNodesWord(NewNodes);

impl FromStr for NewNodesWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "wait" => Ok(Self(NewNodes::Wait)),
            "accept" => Ok(Self(NewNodes::Accept)),
            _ => Err(format!("{text:?} is none of wait, accept")),
        }
    }
}

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Self {
        Self {
            state_directory: env::var("STATE_DIRECTORY").ok(),
            credentials_directory: env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            xmpp_password: env::var("IPOP_XMPP_PASSWORD").ok(),
            asked: Asked::default(),
        }
    }

    /// A systemd credential, if it was given.
    pub(super) fn credential(
        &self,
        name: &str,
        max_len: u64,
    ) -> Result<Option<String>, SettingsError> {
        let Some(directory) = &self.credentials_directory else { return Ok(None) };
        match private_file::read_text(&directory.join(name), max_len, Readers::GroupToo) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(SettingsError::of_file(&error)),
        }
    }
}

/// What the layers say about the network, each part read once.
pub(super) struct Parts {
    pub(super) network: Option<Network>,
    pub(super) policy: Policy,
    pub(super) ice: Ice,
}

impl Layers<'_> {
    /// Network, policy and servers.
    pub(super) fn network_parts(&self) -> Result<Parts, SettingsError> {
        let token = self.join_token()?;
        let secrets = self.secrets(token.as_ref())?;
        let room = self.room(token.as_ref())?;
        let policy = self.policy(room.is_some(), secrets.as_ref())?;
        let network = match (room, self.jid()?) {
            (Some(room), Some(jid)) => {
                Some(Network { account: self.account(jid, token.as_ref())?, room, secrets })
            }
            (Some(_), None) => {
                return Err(SettingsError(
                    "a room is named but no account to join it with; give one with --xmpp-jid NAME@DOMAIN or jid in [xmpp], and \
                     its password with --xmpp-password-file FILE or password_file in [xmpp] (at a terminal both are asked for)"
                        .into(),
                ));
            }
            (None, Some(_)) => {
                return Err(SettingsError(
                    "an account is named but no room; give one with --room or --join, or room in [network]".into(),
                ));
            }
            (None, None) => None,
        };
        Ok(Parts { network, policy, ice: self.ice()? })
    }

    /// Account, room and secrets alone: whoever is let in does not matter to most commands of a room's owner.
    pub(crate) fn room_settings(&self) -> Result<RoomSettings, SettingsError> {
        let token = self.join_token()?;
        let jid = self.jid()?.ok_or_else(|| {
            SettingsError(
                "no account is named; give one with --xmpp-jid NAME@DOMAIN or jid in [xmpp], and its password with \
                 --xmpp-password-file FILE or password_file in [xmpp] (at a terminal both are asked for)"
                    .into(),
            )
        })?;
        let room = self.room(token.as_ref())?;
        let room = room.ok_or_else(|| SettingsError("no room is named".into()))?;
        let secrets = self.secrets(token.as_ref())?;
        let account = self.account(jid, token.as_ref())?;
        Ok(RoomSettings { account, room, secrets, state: self.state() })
    }

    /// Who may connect to the nodes that meet in the room.
    pub(crate) fn room_policy(&self, settings: &RoomSettings) -> Result<Policy, SettingsError> {
        self.policy(true, settings.secrets.as_ref())
    }

    fn join_token(&self) -> Result<Option<JoinToken>, SettingsError> {
        if let Some((text, origin)) = self.pick("join", |values| values.network.join.as_ref()) {
            return text.parse().map(Some).map_err(|error| origin.error(error));
        }
        let Some(text) = self.environment.credential(JOIN_CREDENTIAL, MAX_TOKEN_FILE_LEN)? else {
            return Ok(None);
        };
        let token: Result<JoinToken, _> = text.parse();
        token.map(Some).map_err(|error| in_file(Path::new(JOIN_CREDENTIAL), &error))
    }

    fn room(&self, token: Option<&JoinToken>) -> Result<Option<BareJid>, SettingsError> {
        let configured: Option<RoomJid> =
            self.parsed("room", |values| values.network.room.as_ref())?;
        let configured = configured.map(|RoomJid(room)| room);
        let Some(token) = token else { return Ok(configured) };
        let RoomJid(invited) = token
            .room
            .parse()
            .map_err(|why| SettingsError(format!("the join token's room: {why}")))?;
        match configured {
            Some(room) if room != invited => Err(SettingsError(format!(
                "the join token is for room {invited}, the configuration names {room}; leave one out"
            ))),
            _ => Ok(Some(invited)),
        }
    }

    /// Those of the file, else of systemd's credential, then the token's: a file holds what came after the token was made.
    fn secrets(&self, token: Option<&JoinToken>) -> Result<Option<Secrets>, SettingsError> {
        let mut found: Vec<Secret> = Vec::new();
        let picked = self.pick("network-secret-file", |values| {
            values.network.account.network_secret_file.as_ref()
        });
        if let Some((path, _)) = picked {
            let text = private_file::read_text(path, secret::MAX_FILE_LEN, Readers::OwnerAlone)
                .map_err(|error| SettingsError::of_file(&error))?;
            let secrets: Secrets = text.parse().map_err(|error| in_file(path, &error))?;
            found.extend(secrets.iter().cloned());
        } else if let Some(text) =
            self.environment.credential(SECRET_CREDENTIAL, secret::MAX_FILE_LEN)?
        {
            let name = Path::new(SECRET_CREDENTIAL);
            let secrets: Secrets = text.parse().map_err(|error| in_file(name, &error))?;
            found.extend(secrets.iter().cloned());
        }
        found.extend(token.map(|token| token.secret.clone()));
        if found.is_empty() {
            return Ok(None);
        }
        Secrets::new(found).map(Some).map_err(|error| SettingsError(error.to_string()))
    }

    fn policy(&self, has_room: bool, secrets: Option<&Secrets>) -> Result<Policy, SettingsError> {
        let mode: Option<TrustMode> =
            self.parsed("trust", |values| values.network.account.trust.as_ref())?;
        let new_nodes: Option<NewNodesWord> =
            self.of_file("new_nodes", |file| file.new_nodes.as_ref())?;
        match (mode, secrets) {
            (Some(TrustMode::Pinned), _) => Ok(Policy::Pinned(self.pinned()?)),
            (Some(TrustMode::Tofu), _) => {
                Ok(Policy::FirstSight(new_nodes.map_or(NewNodes::default(), |word| word.0)))
            }
            (Some(TrustMode::Secret) | None, Some(secrets)) => Ok(Policy::Secret(secrets.clone())),
            (Some(TrustMode::Secret), None) => Err(SettingsError(
                "trust = \"secret\" needs the network's secret; give it with --network-secret-file or --join".into(),
            )),
            (None, None) if has_room => Err(SettingsError(
                "a room is named but not who may join by it; give --network-secret-file FILE (recommended; make one with \
                 `ipop-switch secret new`), or choose --trust pinned or --trust tofu"
                    .into(),
            )),
            (None, None) => Ok(Policy::ConfiguredAlone),
        }
    }

    fn pinned(&self) -> Result<std::collections::BTreeSet<NodeId>, SettingsError> {
        let Some(file) = self.file else { return Ok(std::collections::BTreeSet::new()) };
        let origin = KeyAt { key: "pinned", file: Some(&file.path) };
        let nodes = file.beyond_flags.pinned.iter().flatten();
        nodes.map(|text| text.parse().map_err(|error| origin.error(error))).collect()
    }

    fn ice(&self) -> Result<Ice, SettingsError> {
        let Some(file) = self.file else { return Ok(Ice::default()) };
        let (beyond, path) = (&file.beyond_flags, Some(&*file.path));
        let stun_origin = KeyAt { key: "stun", file: path };
        let stun = beyond.stun.iter().flatten().map(|text| stun_server(text, "stun:"));
        let stun: Vec<_> = stun.collect::<Result<_, _>>().map_err(|why| stun_origin.error(why))?;
        let turn_origin = KeyAt { key: "turn", file: path };
        let turn = beyond.turn.iter().flatten().map(|entry| turn_server(entry, turn_origin));
        let turn: Vec<_> = turn.collect::<Result<_, _>>()?;
        for (count, origin) in [(stun.len(), stun_origin), (turn.len(), turn_origin)] {
            if count > MAX_SERVERS {
                return Err(
                    origin.error(format_args!("{count} servers are more than {MAX_SERVERS}"))
                );
            }
        }
        let ignore_interfaces = beyond.ignore_interfaces.clone().unwrap_or_default();
        Ok(Ice { stun, turn, ignore_interfaces })
    }

    /// A value that only the file can have.
    fn of_file<T: FromStr<Err = String>>(
        &self,
        key: &'static str,
        get: impl Fn(&crate::config::BeyondFlags) -> Option<&String>,
    ) -> Result<Option<T>, SettingsError> {
        let Some(file) = self.file else { return Ok(None) };
        let origin = KeyAt { key, file: Some(&file.path) };
        let parsed = get(&file.beyond_flags).map(|text| text.parse()).transpose();
        parsed.map_err(|why| origin.error(why))
    }
}

impl SettingsError {
    pub(super) fn of_file(error: &PrivateFileError) -> Self {
        Self(error.to_string())
    }
}

fn in_file(path: &Path, error: &dyn fmt::Display) -> SettingsError {
    SettingsError(format!("{}: {error}", path.display()))
}

/// `HOST[:PORT]`, with or without the scheme of RFC 7064 or RFC 7065 before it.
pub(crate) fn stun_server(text: &str, scheme: &str) -> Result<ServerAddress, String> {
    let address = text.strip_prefix(scheme).unwrap_or(text);
    with_port(address, Some(STUN_PORT))
}

fn turn_server(entry: &TurnEntry, origin: KeyAt<'_>) -> Result<TurnServer, SettingsError> {
    let server = stun_server(&entry.server, "turn:").map_err(|why| origin.error(why))?;
    let password = match (&entry.password, &entry.password_file) {
        (Some(text), None) => text.parse().map_err(|why: String| origin.error(why))?,
        (None, Some(path)) => Password::read(path)?,
        _ => {
            return Err(origin.error(format_args!(
                "server {} needs either password or password_file",
                entry.server
            )));
        }
    };
    Ok(TurnServer { server, username: entry.username.clone(), password })
}

/// The address; one without a port gets `default`, or is refused.
fn with_port(text: &str, default: Option<u16>) -> Result<ServerAddress, String> {
    let mut address: PeerAddress = text.parse()?;
    let has_port = text.ends_with(&format!(":{}", address.port)) && !text.ends_with(']');
    match default {
        _ if has_port => {}
        Some(port) => address.port = port,
        None => return Err(format!("{text:?} has no port; write HOST:PORT")),
    }
    Ok(ServerAddress(address))
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        with_port(text, None)
    }
}

impl ServerAddress {
    /// The name, or the address without brackets.
    pub(crate) fn host(&self) -> String {
        match &self.0.host {
            Host::Name(name) => name.clone(),
            Host::Ip(ip) => ip.to_string(),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
