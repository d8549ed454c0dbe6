//! The control API: its socket and who may use it.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use ipop_control::host::private_file::{self, Readers};
use nix::unistd::Group;

use super::{Layers, SettingsError};
use crate::{
    api::{Groups, Token, socket_of},
    config::ConfigFile,
    exit::{ExitCode, Failure},
};

/// The name of a switch that is the only one on its host.
pub(crate) const DEFAULT_INSTANCE: &str = "ipop-switch";
/// A socket's path has room for 107 bytes (unix(7)), and the directory is ours.
const MAX_INSTANCE_LEN: usize = 64;
/// The name in systemd's `$CREDENTIALS_DIRECTORY`.
const TOKEN_CREDENTIAL: &str = "api.token";
const MAX_TOKEN_LEN: u64 = 1_024;

/// The control API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiSettings {
    /// This switch's name among those of the host.
    pub(crate) instance: String,
    socket: Socket,
    /// The TCP port that it is served at besides, if there is one.
    pub(crate) tcp: Option<ApiTcp>,
    /// Whether peers have metrics of their own.
    pub(crate) metrics_peers: bool,
    /// The group that may do everything.
    group: Option<String>,
    /// The group that may look.
    group_read: Option<String>,
}

/// A TCP port for the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiTcp {
    /// Of the loopback.
    pub(crate) address: SocketAddr,
    /// Whoever has it may do everything.
    pub(crate) token: Token,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Socket {
    /// None.
    Off,
    /// The instance's own.
    OfInstance,
    /// Somewhere else.
    At(PathBuf),
}

impl ApiSettings {
    /// Where it is served, if it is.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        match &self.socket {
            Socket::Off => None,
            Socket::OfInstance => Some(socket_of(&self.instance)),
            Socket::At(path) => Some(path.clone()),
        }
    }

    /// Where the switch of this configuration file is asked, or the only one of the host.
    pub(crate) fn socket_by(file: Option<&ConfigFile>) -> PathBuf {
        let values = file.map(|file| &file.values);
        let named = values.and_then(|values| values.api.clone());
        let instance = values.and_then(|values| values.instance.as_deref());
        let own = || socket_of(instance.unwrap_or(DEFAULT_INSTANCE));
        named.filter(|path| path.is_absolute()).unwrap_or_else(own)
    }

    /// Whether nobody has named the socket or the instance.
    pub(crate) fn is_default_socket(&self) -> bool {
        self.socket == Socket::OfInstance && self.instance == DEFAULT_INSTANCE
    }

    /// The groups, by number.
    ///
    /// # Errors
    /// When this host has no such group.
    pub(crate) fn groups(&self) -> Result<Groups, Failure> {
        let look_up = |key: &str, name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let group = Group::from_name(name).context("cannot look up a group")?;
            let group = group.ok_or_else(|| {
                let text = format!("{key}: this host has no group {name:?}; make it with `groupadd --system {name}`");
                Failure::new(ExitCode::Usage, anyhow::anyhow!(text))
            })?;
            Ok::<_, Failure>(Some((name.clone(), group.gid.as_raw())))
        };
        Ok(Groups {
            change: look_up("api_group", &self.group)?,
            read: look_up("api_group_read", &self.group_read)?,
        })
    }
}

impl Layers<'_> {
    pub(super) fn api(&self) -> Result<ApiSettings, SettingsError> {
        let socket = match self.pick("api", |values| values.api.as_ref()) {
            None => Socket::OfInstance,
            Some((path, _)) if path.as_os_str() == "off" => Socket::Off,
            Some((path, origin)) if !path.is_absolute() => {
                return Err(origin.error(format_args!(
                    "{:?} is neither off nor an absolute path, like /run/ipop-switch/a.sock",
                    path.display()
                )));
            }
            Some((path, _)) => Socket::At(path.clone()),
        };
        let beyond = self.file.map(|file| &file.beyond_flags);
        Ok(ApiSettings {
            instance: self.instance()?,
            socket,
            tcp: self.api_tcp()?,
            metrics_peers: beyond.and_then(|beyond| beyond.metrics_peers).unwrap_or(false),
            group: beyond.and_then(|beyond| beyond.api_group.clone()),
            group_read: beyond.and_then(|beyond| beyond.api_group_read.clone()),
        })
    }

    fn api_tcp(&self) -> Result<Option<ApiTcp>, SettingsError> {
        let Some((text, origin)) = self.pick("api-listen", |values| values.api_listen.as_ref())
        else {
            return Ok(None);
        };
        let address: SocketAddr = text.parse().map_err(|_| {
            origin.error(format_args!("{text:?} is not ADDR:PORT, like 127.0.0.1:5801"))
        })?;
        if !address.ip().is_loopback() {
            return Err(origin.error(format_args!(
                "{address} is no loopback address; from elsewhere the API is reached by ssh or a reverse proxy"
            )));
        }
        let token = match self.pick("api-token-file", |values| values.api_token_file.as_ref()) {
            Some((path, _)) => private_file::read_text(path, MAX_TOKEN_LEN, Readers::OwnerAlone)
                .map(Some)
                .map_err(|error| SettingsError::of_file(&error))?,
            None => self.environment.credential(TOKEN_CREDENTIAL, MAX_TOKEN_LEN)?,
        };
        let Some(token) = token else {
            return Err(origin.error(
                "over TCP the API takes a token: name a file of mode 0600 that holds one (--api-token-file FILE, \
                 or LoadCredential=api.token:FILE in the unit); `ipop-switch secret new` makes one",
            ));
        };
        let token = Token::of_file(&token).map_err(|why| origin.error(why))?;
        Ok(Some(ApiTcp { address, token }))
    }

    /// The switch's name among those of the host.
    pub(crate) fn instance(&self) -> Result<String, SettingsError> {
        let Some((name, origin)) = self.pick("instance", |values| values.instance.as_ref()) else {
            return Ok(DEFAULT_INSTANCE.into());
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_name = (1..=MAX_INSTANCE_LEN).contains(&name.len())
            && name.chars().all(allowed)
            && !name.starts_with('.');
        if !is_name {
            return Err(origin.error(format_args!(
                "{name:?} is not 1 to {MAX_INSTANCE_LEN} letters, digits, dots, dashes and underscores"
            )));
        }
        Ok(name.clone())
    }
}
