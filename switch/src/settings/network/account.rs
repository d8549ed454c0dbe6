//! The account at the XMPP server: from flags, file, environment or, where somebody sits at a terminal, by asking.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use ipop_control::{
    host::private_file::{self, Readers},
    network::{JoinToken, MAX_PINS, Pin, ServerPins},
    trust::StateFile,
    xmpp::{
        bound::BoundAccounts,
        stream::{self, Authorities, ChannelBinding, PlainAuth},
    },
};

use super::{Layers, ServerAddress, SettingsError, in_file};
use crate::cli::Values;

/// A password of an account has at most this many bytes.
const MAX_PASSWORD_LEN: u64 = 1_024;
/// The name in systemd's `$CREDENTIALS_DIRECTORY`.
const PASSWORD_CREDENTIAL: &str = "xmpp.password";

/// An account at an XMPP server.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Account {
    pub(crate) jid: BareJid,
    pub(crate) password: Password,
    /// Instead of what DNS says.
    pub(crate) server: Option<ServerAddress>,
    /// PEM file of the CA that the server's certificate comes from; the system's roots if there is none.
    pub(crate) ca: Option<PathBuf>,
    /// By which keys the server is known if no authority vouches for it; at most [`MAX_PINS`].
    pub(crate) pins: Vec<Pin>,
    pub(crate) plain: PlainPassword,
    /// As far as the state directory knows, what its log-in must be.
    pub(crate) binding: ChannelBinding,
}

/// Whether the password may be sent as it is (SASL PLAIN) to a server that offers nothing better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum PlainPassword {
    #[default]
    Refused,
    Allowed,
}

/// A text that is not shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

/// `local@domain`, without a resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct BareJid(String);
/// What was asked for at the terminal, since it stood nowhere.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) jid: Option<BareJid>,
    pub(crate) password: Option<Password>,
}

/// What of an account stands nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Missing {
    /// Whose account it is, if that is known.
    pub(crate) jid: Option<BareJid>,
    /// Whether its password is not.
    pub(crate) password: bool,
}

impl Asked {
    /// Answers that are good in form, to see whether anything else is wrong.
    pub(crate) fn placeholder() -> Self {
        let (jid, password) = (BareJid("name@domain".into()), Password("password".into()));
        Self { jid: Some(jid), password: Some(password) }
    }
}

impl Layers<'_> {
    /// What of the account is to be asked for, if there is a room to join.
    pub(crate) fn missing_of_account(&self) -> Result<Option<Missing>, SettingsError> {
        let names_room = |values: &Values| values.network.room.is_some();
        let has_room = names_room(self.flags)
            || self.file.is_some_and(|file| names_room(&file.values))
            || self.join_token()?.is_some();
        let jid = self.jid()?;
        let password = self.configured_password()?.is_none();
        let missing = has_room && (jid.is_none() || password);
        Ok(missing.then_some(Missing { jid, password }))
    }

    /// Whose account it is.
    pub(super) fn jid(&self) -> Result<Option<BareJid>, SettingsError> {
        let configured =
            self.parsed("xmpp-jid", |values| values.network.account.xmpp_jid.as_ref())?;
        Ok(configured.or_else(|| self.environment.asked.jid.clone()))
    }

    pub(super) fn account(
        &self,
        jid: BareJid,
        token: Option<&JoinToken>,
    ) -> Result<Account, SettingsError> {
        let server: Option<ServerAddress> =
            self.parsed("xmpp-server", |values| values.network.account.xmpp_server.as_ref())?;
        let invited = token.and_then(|token| token.server.as_deref()).map(str::parse).transpose();
        let invited =
            invited.map_err(|why| SettingsError(format!("the join token's server: {why}")))?;
        let ca = self.pick("xmpp-ca", |values| values.network.account.xmpp_ca.as_ref());
        let pins = self.pins(&jid, token)?;
        let allowed = self.file.and_then(|file| file.beyond_flags.allow_plain).unwrap_or(false);
        let binding = self.binding_of(&jid)?;
        Ok(Account {
            jid,
            password: self.password()?,
            binding,
            server: server.or(invited),
            ca: ca.map(|(path, _)| path.clone()),
            pins,
            plain: if allowed { PlainPassword::Allowed } else { PlainPassword::Refused },
        })
    }

    /// Those that are configured, else the token's, if they are about the server of this account.
    fn pins(&self, jid: &BareJid, token: Option<&JoinToken>) -> Result<Vec<Pin>, SettingsError> {
        let picked = self.pick("xmpp-pin", |values| values.network.account.xmpp_pin.as_ref());
        let Some((texts, origin)) = picked else {
            let Some(ServerPins { domain, pins }) = token.and_then(|token| token.pins.as_ref())
            else {
                return Ok(Vec::new());
            };
            let is_of_domain = jid.to_jid()?.domain().as_str() == domain;
            return Ok(if is_of_domain { pins.clone() } else { Vec::new() });
        };
        if texts.len() > MAX_PINS {
            let count = texts.len();
            return Err(origin.error(format_args!("{count} pins are more than {MAX_PINS}")));
        }
        texts.iter().map(|text| text.parse().map_err(|error| origin.error(error))).collect()
    }

    /// Whoever may not read the state directory is no node, and knows of nothing.
    fn binding_of(&self, jid: &BareJid) -> Result<ChannelBinding, SettingsError> {
        let bound = match StateFile::<BoundAccounts>::in_directory(&self.state()).load() {
            Err(error) if error.is_permission() => BoundAccounts::default(),
            loaded => loaded.map_err(|error| SettingsError(error.to_string()))?,
        };
        Ok(bound.binding_of(&jid.to_jid()?))
    }

    fn password(&self) -> Result<Password, SettingsError> {
        let known = self.configured_password()?.or_else(|| self.environment.asked.password.clone());
        known.ok_or_else(|| {
            SettingsError(
                "the account has no password here; give it with --xmpp-password-file FILE, password_file in [xmpp], \
                 $IPOP_XMPP_PASSWORD, or systemd's LoadCredential=xmpp.password:FILE (at a terminal it is asked for)"
                    .into(),
            )
        })
    }

    fn configured_password(&self) -> Result<Option<Password>, SettingsError> {
        let of_flags = self.flags.network.account.xmpp_password_file.as_ref();
        if let Some(path) = of_flags {
            return Password::read(path).map(Some);
        }
        if let Some(text) = &self.environment.xmpp_password {
            let password = Password::new(text)
                .map_err(|why| SettingsError(format!("$IPOP_XMPP_PASSWORD {why}")));
            return password.map(Some);
        }
        let of_file = |values: &Values| values.network.account.xmpp_password_file.clone();
        if let Some(path) = self.file.and_then(|file| of_file(&file.values)) {
            return Password::read(&path).map(Some);
        }
        let inline = self.of_file::<Password>("password", |file| file.xmpp_password.as_ref())?;
        if inline.is_some() {
            return Ok(inline);
        }
        let credential = self.environment.credential(PASSWORD_CREDENTIAL, MAX_PASSWORD_LEN)?;
        let password = credential.map(|text| {
            Password::new(&text)
                .map_err(|why| SettingsError(format!("the credential {PASSWORD_CREDENTIAL} {why}")))
        });
        password.transpose()
    }
}

impl Account {
    /// For the stream; `resource` names this program's session.
    pub(crate) fn for_stream(&self, resource: String) -> Result<stream::Account, SettingsError> {
        let jid = self.jid.to_jid()?;
        let server = self
            .server
            .as_ref()
            .map(|server| stream::ServerAddress { host: server.host(), port: server.0.port });
        Ok(stream::Account {
            jid,
            password: stream::Password::new(self.password.reveal()),
            resource,
            server,
            authorities: self.ca.clone().map_or(Authorities::System, Authorities::File),
            pins: self.pins.clone(),
            plain: match self.plain {
                PlainPassword::Refused => PlainAuth::Never,
                PlainPassword::Allowed => PlainAuth::Allowed,
            },
            binding: self.binding,
        })
    }
}
impl Password {
    /// What it is, for whoever logs in with it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = private_file::read_text(path, MAX_PASSWORD_LEN, Readers::OwnerAlone)
            .map_err(|error| SettingsError::of_file(&error))?;
        Self::new(&text).map_err(|why| in_file(path, &format_args!("the password {why}")))
    }

    /// The line end that editors add does not belong to it.
    fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err("is empty");
        }
        if text.len() as u64 > MAX_PASSWORD_LEN {
            return Err("is too long");
        }
        if text.contains(['\r', '\n', '\0']) {
            return Err("has more than one line");
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Password {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|why| format!("the password {why}"))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl BareJid {
    /// As the XMPP library knows it, prepared as RFC 7622 wants.
    pub(crate) fn to_jid(&self) -> Result<ipop_control::xmpp::BareJid, SettingsError> {
        let parsed: Result<ipop_control::xmpp::BareJid, _> = self.0.parse();
        parsed.map_err(|error| SettingsError(format!("{:?} is no JID: {error}", self.0)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands after the @.
    pub(crate) fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or(&self.0, |(_, domain)| domain)
    }
}

impl BareJid {
    /// RFC 7622, as far as typing errors go; the server knows the rest. What is wrong is told with an example of its kind.
    fn read(text: &str, example: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} {why}; write NAME@DOMAIN, like {example}");
        let (local, domain) = text.split_once('@').ok_or_else(|| wrong("has no @"))?;
        if text.contains('/') {
            return Err(wrong("has a resource, which is chosen by the program"));
        }
        let odd = |c: char| c.is_whitespace() || c.is_control() || "\"&'/:<>@".contains(c);
        if !(1..=1_023).contains(&local.len()) || local.contains(odd) {
            return Err(wrong("has no usable name before the @"));
        }
        if !(1..=255).contains(&domain.len()) || domain.contains(odd) {
            return Err(wrong("has no usable domain after the @"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for BareJid {
    type Err = String;

    /// That of an account.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, "site-a@example.org")
    }
}

/// That of a room.
pub(super) struct RoomJid(pub(super) BareJid);

impl FromStr for RoomJid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        BareJid::read(text, "vmnet@muc.example.org").map(Self)
    }
}

impl fmt::Display for BareJid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
