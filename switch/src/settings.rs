//! What the switch is told, checked: flags over configuration file over defaults.
//!
//! Whatever is in [`Settings`] is valid by itself. What only the host can say (does the bridge exist, is the port free) is
//! found out when the switch starts.

/// Implements `FromStr` for an enum whose values are words.
macro_rules! words {
    ($name:ident: $($word:literal => $variant:ident),+) => {
        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is none of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

mod api;
mod network;
mod ports;
mod reload;
mod shown;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU8,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipop_control::{
    peer::{DEFAULT_PORT, PeerSpec},
    sessions::MAX_PEERS,
    trust::Policy,
};
use ipop_datapath::{command::MAX_LANES, tunnel::hello::MAX_NAME_LEN};

pub(crate) use self::{
    api::ApiSettings,
    network::{
        Account, Asked, BareJid, Environment, Ice, Missing, Network, Password, RoomSettings,
        ServerAddress, stun_server,
    },
    ports::tap_of_port,
    reload::Reload,
};
use crate::{
    api::types::Configuration,
    cli::Values,
    config::{ConfigFile, key_of_flag},
};

/// The inner MTU unless told otherwise, bytes.
pub(crate) const DEFAULT_MTU: u16 = 1_500;
/// The least inner MTU: every IPv4 host accepts packets of this size (RFC 791).
pub(crate) const MIN_MTU: u16 = 576;
/// The largest that the kernel gives a TAP: 65,535 less the Ethernet header.
pub(crate) const MAX_MTU: u16 = 65_521;
/// A second without frames is no pause between two frames of one conversation any more.
pub(crate) const MAX_BUSY_POLL_US: u64 = 1_000_000;
/// Where keys are kept unless systemd or the user says otherwise.
const DEFAULT_STATE: &str = "/var/lib/ipop-switch";
const IDENTITY_FILE: &str = "identity.pem";

/// All that the switch is told.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Settings {
    /// All different, at most 64; for `run` at least one.
    pub(crate) taps: Vec<InterfaceName>,
    /// Holds every TAP.
    pub(crate) bridge: Option<InterfaceName>,
    /// For the only TAP, which is in no bridge.
    pub(crate) address: Option<Cidr>,
    pub(crate) listen: Listen,
    /// All of different nodes.
    pub(crate) peers: Vec<PeerSpec>,
    pub(crate) state: PathBuf,
    pub(crate) identity: PathBuf,
    /// Bytes, [`MIN_MTU`] to [`MAX_MTU`].
    pub(crate) mtu: u16,
    pub(crate) workers: Workers,
    pub(crate) congestion: Congestion,
    pub(crate) offload: Offload,
    pub(crate) busy_poll: BusyPoll,
    pub(crate) log: LogLevel,
    pub(crate) log_format: LogFormat,
    /// For people; the host name if there is none. At most 64 bytes.
    pub(crate) name: Option<String>,
    /// The room to join, if any.
    pub(crate) network: Option<Network>,
    /// Who may connect.
    pub(crate) policy: Policy,
    pub(crate) ice: Ice,
    pub(crate) controller: Controller,
    pub(crate) api: ApiSettings,
    /// All of it as it is shown.
    pub(crate) shown: Configuration,
}

/// The name of a network interface as the kernel allows it: 1 to 15 bytes, no white space, no slash.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct InterfaceName(String);

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cidr {
    pub(crate) address: IpAddr,
    /// Bits: at most 32 or 128.
    pub(crate) prefix_len: u8,
}

/// The UDP address of the tunnels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Listen {
    /// Any address, both families, or IPv4 alone where there is no IPv6.
    Any {
        /// UDP port.
        port: u16,
    },
    /// This one.
    At(SocketAddr),
}

/// How many workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Workers {
    /// By the processors that the program may use.
    Auto,
    /// 1 to [`MAX_LANES`].
    Count(NonZeroU8),
}

/// The congestion controller of the tunnels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Congestion {
    /// A large bounded window: the flows inside control congestion themselves.
    Tunnel,
    /// CUBIC, for paths shared with others.
    Cubic,
}

/// Whether offloads of the TAP are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offload {
    /// Those that the kernel offers.
    Auto,
    /// None.
    Off,
}

/// For how long an idle worker looks for frames before it sleeps, at most [`MAX_BUSY_POLL_US`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct BusyPoll(pub(crate) Duration);

/// The least severity that is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Who brings peers together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Controller {
    /// The room of the network, if there is one.
    Room,
    /// A program of its own, over the API.
    External,
}

/// The form of the log's lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object each, for programs.
    Json,
}

/// A value is wrong: where it stands and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SettingsError(String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

/// Where values come from, the first that has one wins. A list of flags replaces the file's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers<'a> {
    pub(crate) flags: &'a Values,
    pub(crate) file: Option<&'a ConfigFile>,
    pub(crate) environment: &'a Environment,
}

impl Settings {
    /// For `run`: at least one TAP is named.
    pub(crate) fn from_layers(layers: Layers<'_>) -> Result<Self, SettingsError> {
        let settings = Self::perhaps_tapless(layers)?;
        if settings.taps.is_empty() {
            return Err(SettingsError("no TAP is named; give one with --tap NAME".into()));
        }
        Ok(settings)
    }

    /// For `check`: there may be no TAP yet.
    pub(crate) fn perhaps_tapless(layers: Layers<'_>) -> Result<Self, SettingsError> {
        let parts = layers.network_parts()?;
        let settings = Self {
            taps: layers.taps()?,
            bridge: layers.parsed("bridge", |values| values.bridge.as_ref())?,
            address: layers.parsed("address", |values| values.address.as_ref())?,
            listen: layers
                .parsed("listen", |values| values.listen.as_ref())?
                .unwrap_or(Listen::Any { port: DEFAULT_PORT }),
            peers: layers.peers()?,
            state: layers.state(),
            identity: layers.identity(),
            mtu: layers
                .parsed("mtu", |values| values.mtu.as_ref())?
                .map_or(DEFAULT_MTU, |Mtu(mtu)| mtu),
            workers: layers
                .parsed("workers", |values| values.workers.as_ref())?
                .unwrap_or(Workers::Auto),
            congestion: layers
                .parsed("congestion", |values| values.congestion.as_ref())?
                .unwrap_or(Congestion::Tunnel),
            offload: layers
                .parsed("offload", |values| values.offload.as_ref())?
                .unwrap_or(Offload::Auto),
            busy_poll: layers
                .parsed("busy-poll", |values| values.busy_poll.as_ref())?
                .unwrap_or_default(),
            log: layers.parsed("log", |values| values.log.as_ref())?.unwrap_or(LogLevel::Info),
            log_format: layers
                .parsed("log-format", |values| values.log_format.as_ref())?
                .unwrap_or(LogFormat::Text),
            name: layers.name()?,
            network: parts.network,
            policy: parts.policy,
            ice: parts.ice,
            controller: layers
                .parsed("controller", |values| values.controller.as_ref())?
                .unwrap_or(Controller::Room),
            api: layers.api()?,
            shown: layers.shown(),
        };
        settings.check_address(layers)?;
        settings.check_controller(layers)?;
        Ok(settings)
    }

    /// Whether paths to peers are looked for, by ICE: for a network, or for a controller.
    pub(crate) fn finds_paths(&self) -> bool {
        self.network.is_some() || self.controller == Controller::External
    }

    fn check_controller(&self, layers: Layers<'_>) -> Result<(), SettingsError> {
        let controller = layers.pick("controller", |values| values.controller.as_ref());
        let (Controller::External, Some((_, origin))) = (self.controller, controller) else {
            return Ok(());
        };
        if self.network.is_some() {
            return Err(origin.error("an external controller takes the room's place: leave account, room and join token out"));
        }
        if self.api.socket().is_none() && self.api.tcp.is_none() {
            return Err(origin.error("an external controller needs the API: leave --api off out"));
        }
        Ok(())
    }

    fn check_address(&self, layers: Layers<'_>) -> Result<(), SettingsError> {
        let Some((_, origin)) = layers.pick("address", |values| values.address.as_ref()) else {
            return Ok(());
        };
        match &self.bridge {
            Some(bridge) => Err(origin.error(format_args!(
                "a TAP in a bridge has no address of its own; give it to the bridge: \
                 `ip address add CIDR dev {bridge}`"
            ))),
            None if self.taps.len() > 1 => Err(origin
                .error("with several TAPs it is not clear which is meant; use `ip address add`")),
            None => Ok(()),
        }
    }
}

impl<'a> Layers<'a> {
    /// The key file.
    pub(crate) fn identity(&self) -> PathBuf {
        match self.pick("identity", |values| values.identity.as_ref()) {
            Some((path, _)) => path.clone(),
            None => self.state().join(IDENTITY_FILE),
        }
    }

    /// The state directory. systemd separates several by colons; the first is ours.
    pub(crate) fn state(&self) -> PathBuf {
        if let Some((path, _)) = self.pick("state", |values| values.state.as_ref()) {
            return path.clone();
        }
        let list = self.environment.state_directory.as_deref();
        let from_systemd = list.and_then(|list| list.split(':').next());
        from_systemd.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_STATE).into()
    }

    fn name(&self) -> Result<Option<String>, SettingsError> {
        let Some((name, origin)) = self.pick("name", |values| values.network.name.as_ref()) else {
            return Ok(None);
        };
        if name.is_empty() || name.len() > MAX_NAME_LEN || name.chars().any(char::is_control) {
            return Err(origin.error(format_args!(
                "{name:?} is not 1 to {MAX_NAME_LEN} bytes of printable text"
            )));
        }
        Ok(Some(name.clone()))
    }

    fn peers(&self) -> Result<Vec<PeerSpec>, SettingsError> {
        let Some((texts, origin)) = self.pick("peer", |values| values.peer.as_ref()) else {
            return Ok(Vec::new());
        };
        let mut peers: Vec<PeerSpec> = Vec::with_capacity(texts.len());
        for text in texts {
            let peer: PeerSpec = text.parse().map_err(|error| origin.error(error))?;
            if peers.iter().any(|other| other.node == peer.node) {
                return Err(origin.error(format_args!("node {} is given twice", peer.node)));
            }
            peers.push(peer);
        }
        if peers.len() > MAX_PEERS {
            let count = peers.len();
            return Err(origin.error(format_args!(
                "{count} peers are more than this program supports ({MAX_PEERS})"
            )));
        }
        Ok(peers)
    }

    fn parsed<T>(
        &self,
        key: &'static str,
        get: impl Fn(&'a Values) -> Option<&'a String>,
    ) -> Result<Option<T>, SettingsError>
    where
        T: FromStr<Err = String>,
    {
        let Some((text, origin)) = self.pick(key, get) else { return Ok(None) };
        text.parse().map(Some).map_err(|why| origin.error(why))
    }

    fn pick<T>(
        &self,
        key: &'static str,
        get: impl Fn(&'a Values) -> Option<T>,
    ) -> Option<(T, KeyAt<'a>)> {
        if let Some(value) = get(self.flags) {
            return Some((value, KeyAt { key, file: None }));
        }
        let file = self.file?;
        get(&file.values).map(|value| (value, KeyAt { key, file: Some(&file.path) }))
    }
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct KeyAt<'a> {
    key: &'static str,
    file: Option<&'a Path>,
}

impl KeyAt<'_> {
    fn error(&self, why: impl fmt::Display) -> SettingsError {
        let key = self.key;
        SettingsError(match self.file {
            None => format!("--{key}: {why}"),
            Some(file) => format!("{} in {}: {why}", key_of_flag(key), file.display()),
        })
    }
}

impl InterfaceName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    /// The kernel refuses `.`, `..`, slashes, colons and white space; `%` would have it number the interface.
    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
        if (1..=15).contains(&text.len())
            && text.chars().all(allowed)
            && !matches!(text, "." | "..")
        {
            return Ok(Self(text.into()));
        }
        Err(format!(
            "{text:?} cannot be the name of an interface (1 to 15 characters, no white space, \
             none of / : %)"
        ))
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not ADDRESS/PREFIX, like 10.9.0.1/24 or fd00::1/64");
        let (address, prefix_len) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > longest || address.is_unspecified() || address.is_multicast() {
            return Err(wrong());
        }
        Ok(Self { address, prefix_len })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self::At).map_err(|_| {
            format!("{text:?} is not ADDR:PORT, like 0.0.0.0:{DEFAULT_PORT} or [::]:{DEFAULT_PORT}")
        })
    }
}

struct Mtu(u16);

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(mtu) if (MIN_MTU..=MAX_MTU).contains(&mtu) => Ok(Self(mtu)),
            _ => Err(format!("{text:?} is not a number of bytes from {MIN_MTU} to {MAX_MTU}")),
        }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse::<NonZeroU8>() {
            Ok(count) if usize::from(count.get()) <= MAX_LANES => Ok(Self::Count(count)),
            _ => Err(format!("{text:?} is neither auto nor a number from 1 to {MAX_LANES}")),
        }
    }
}

impl FromStr for BusyPoll {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(busy_poll_us) if busy_poll_us <= MAX_BUSY_POLL_US => {
                Ok(Self(Duration::from_micros(busy_poll_us)))
            }
            _ => Err(format!(
                "{text:?} is not a number of microseconds from 0 to {MAX_BUSY_POLL_US}"
            )),
        }
    }
}

words!(Congestion: "tunnel" => Tunnel, "cubic" => Cubic);
words!(Offload: "auto" => Auto, "off" => Off);
impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

words!(Controller: "room" => Room, "external" => External);
words!(LogFormat: "text" => Text, "json" => Json);
words!(LogLevel: "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace);

#[cfg(test)]
mod tests;
