//! The network in the running switch: the XMPP stream's thread, and what paths and rendezvous start with and ask for.
//!
//! The node decides; here are the channels, the names to be resolved, the files and the host's interfaces.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use crossbeam::channel::Sender;
use ipop_control::{
    host::{
        local_addresses::{HostAddress, interfaces, stacked_on},
        private_file::PrivateFileError,
    },
    ice::{Entropy, IceConfig, Loopback, Timing},
    identity::Identity,
    node::Input,
    rendezvous::{NetworkReport, RendezvousConfig, Servers, entry_by},
    trust::{Patience, SavedPeers, StateFile},
    xmpp::{
        BareJid,
        bound::{self, BoundAccounts},
        jingle::JingleConfig,
        room::{RoomConfig, RoomPassword},
        services::{Service, ServiceKind},
        stream::{self, Events, FromStream, Handle, IqError, Limits, QueueFull, ToStream},
    },
};
use ipop_datapath::node_id::NodeId;

use super::{Message, Switch, devices::Devices, random};
use crate::{
    exit::{ExitCode, Failure},
    settings::{self, Settings, SettingsError},
};

/// The stream to the XMPP server and what the node asks of it; names to look up, files to write.
pub(super) struct Network {
    stream: Handle,
    saved: StateFile<SavedPeers>,
    bound: StateFile<BoundAccounts>,
}

/// STUN and TURN servers, resolved.
pub(crate) struct ResolvedServers {
    found: Vec<(Service, SocketAddr)>,
    failed: Vec<String>,
}

impl Network {
    /// Starts the stream; `None` if no network is configured.
    pub(super) fn start(
        settings: &Settings,
        node: NodeId,
        messages: &Sender<Message>,
    ) -> Result<Option<Self>, Failure> {
        let Some(network) = &settings.network else { return Ok(None) };
        let account = network.account.for_stream(resource(node)).map_err(usage)?;
        let (stream, events) = stream::spawn(account, Limits::default())
            .context("cannot start the XMPP thread")
            .map_err(Failure::from)?;
        forward(events, messages.clone())?;
        let saved = StateFile::in_directory(&settings.state);
        let bound = StateFile::in_directory(&settings.state);
        Ok(Some(Self { stream, saved, bound }))
    }

    /// A log-in was bound to TLS: that is put down for the next start.
    fn remember_bound(&self, account: &BareJid) {
        if let Err(error) = bound::remember(&self.bound, account, Patience::GiveUp) {
            tracing::warn!(
                "that log-ins of {account} are bound to TLS is forgotten at the end: {error}"
            );
        }
    }
}

impl Switch {
    /// What operators see.
    pub(super) fn network_report(&self) -> Option<NetworkReport> {
        let (network, mut report) = self.network.as_ref().zip(self.node.network_report())?;
        let dropped = network.stream.counters().dropped();
        report.refused.extend(dropped.into_iter().filter(|(_, count)| *count > 0));
        Some(report)
    }

    /// The stream tells something.
    pub(super) fn take_from_stream(&mut self, now: Instant, event: FromStream) {
        if let (FromStream::Bound { account }, Some(network)) = (&event, &self.network) {
            network.remember_bound(account);
        }
        self.node.handle(now, Input::Stream(event));
    }

    /// Puts resolved servers into use.
    pub(super) fn servers_resolved(&mut self, now: Instant, servers: ResolvedServers) {
        let ResolvedServers { found, failed } = servers;
        for why in failed {
            tracing::warn!("{why}");
        }
        self.node.handle(now, Input::ServersResolved(found));
    }

    /// Whether paths to peers are looked for.
    pub(super) fn finds_paths(&self) -> bool {
        self.settings.finds_paths()
    }

    /// Looks up the STUN and TURN servers of the configuration.
    pub(super) fn resolve_configured_servers(&self) {
        let ice = &self.settings.ice;
        if self.finds_paths() && servers(ice) == Servers::Configured {
            resolve(configured_servers(ice), self.messages.clone());
        }
    }

    /// Looks at the host's interfaces. Those of the overlay are not offered, nor those that are to be ignored.
    pub(super) fn look_at_interfaces(&mut self, now: Instant) {
        if !self.settings.finds_paths() {
            return;
        }
        let Self { settings, devices, .. } = self;
        let taps = devices.taps.iter().map(|open| open.tap.name.as_str());
        let own = taps.chain(settings.bridge.as_ref().map(|bridge| bridge.as_str()));
        let own = stacked_on(own);
        let ignored = &settings.ice.ignore_interfaces;
        let offered = |interface: &HostAddress| {
            !own.contains(&interface.name)
                && !ignored.iter().any(|pattern| matches(pattern, &interface.name))
                && !is_special(interface.address)
        };
        let Ok(interfaces) = interfaces() else { return };
        let addresses: Vec<IpAddr> =
            interfaces.iter().filter(|interface| offered(interface)).map(|i| i.address).collect();
        if addresses != self.offered {
            self.offered.clone_from(&addresses);
            self.node.handle(now, Input::OfferedAddresses(addresses));
        }
    }

    /// A question that finds no room is answered by that, as every other one is answered.
    pub(super) fn tell_stream(&mut self, what: ToStream) {
        let Some(network) = &self.network else { return };
        let Err(QueueFull(what)) = network.stream.send(what) else { return };
        if let ToStream::Iq(question) = what {
            let (token, result) = (question.token, Err(IqError::TooMany));
            let answer = FromStream::IqAnswer { token, result };
            self.node.handle(Instant::now(), Input::Stream(answer));
        } else {
            tracing::warn!("the XMPP stream does not keep up: a stanza is dropped");
        }
    }

    pub(super) fn save(&self, saved: &SavedPeers) {
        if let Some(network) = &self.network
            && let Err(error) = network.saved.store(saved)
        {
            tracing::warn!("known peers cannot be saved: {error}");
        }
    }
}

/// What the paths start with.
pub(super) fn ice_config(devices: &Devices) -> IceConfig {
    IceConfig {
        listen_port: devices.listen_address().port(),
        loopback: Loopback::Refused,
        entropy: Entropy::System,
        timing: Timing::default(),
    }
}

/// What the rendezvous starts with; `None` if no network is configured.
pub(super) fn rendezvous(
    settings: &Settings,
    identity: &Identity,
    name: &str,
) -> Result<Option<RendezvousConfig>, Failure> {
    let Some(network) = &settings.network else { return Ok(None) };
    let saved = StateFile::<SavedPeers>::in_directory(&settings.state);
    Ok(Some(RendezvousConfig {
        room: room(settings, network, name)?,
        jingle: JingleConfig {
            fingerprint: Some(identity.certificate_fingerprint()),
            loopback: Loopback::Refused,
            seed: random(),
        },
        servers: servers(&settings.ice),
        saved: saved.load().map_err(of_file)?,
        unix_s: unix_s(),
    }))
}

fn servers(ice: &settings::Ice) -> Servers {
    if ice.stun.is_empty() && ice.turn.is_empty() { Servers::Offered } else { Servers::Configured }
}

fn room(
    settings: &Settings,
    network: &settings::Network,
    name: &str,
) -> Result<RoomConfig, Failure> {
    Ok(RoomConfig {
        room: network.room.to_jid().map_err(usage)?,
        entry: entry_by(&settings.policy),
        password: room_password(network).map(RoomPassword),
        name: name.to_owned(),
        seed: random(),
    })
}

/// The same at each start, so that a session that the server still keeps is replaced; another on each node.
pub(super) fn resource(node: NodeId) -> String {
    format!("ipop-{}", node.to_string().chars().take(12).collect::<String>())
}

/// The room's password, by the network's first secret.
pub(super) fn room_password(network: &settings::Network) -> Option<String> {
    network.secrets.as_ref().map(|secrets| secrets.first().room_password().to_owned())
}

fn configured_servers(ice: &settings::Ice) -> Vec<Service> {
    let stun = ice.stun.iter().map(|server| Service {
        kind: ServiceKind::Stun,
        host: server.host(),
        port: server.0.port,
        credentials: None,
    });
    let turn = ice.turn.iter().map(|turn| Service {
        kind: ServiceKind::Turn,
        host: turn.server.host(),
        port: turn.server.0.port,
        credentials: Some((turn.username.clone(), turn.password.reveal().to_owned())),
    });
    stun.chain(turn).collect()
}

/// Resolves the servers' names in a thread of their own, which may take long.
pub(super) fn resolve(offer: Vec<Service>, messages: Sender<Message>) {
    let run = move || {
        let mut servers = ResolvedServers { found: Vec::new(), failed: Vec::new() };
        for service in offer {
            let addresses = (service.host.as_str(), service.port).to_socket_addrs();
            match addresses.ok().and_then(|mut addresses| addresses.next()) {
                Some(address) => servers.found.push((service, address)),
                None => servers.failed.push(format!(
                    "{:?} server {}: its name cannot be resolved",
                    service.kind, service.host
                )),
            }
        }
        let _ = messages.send(Message::Servers(servers));
    };
    if let Err(error) = thread::Builder::new().name("resolve".into()).spawn(run) {
        tracing::warn!(
            "cannot start a thread to resolve the names of STUN and TURN servers: {error}"
        );
    }
}

/// The stream's events into the control thread's one channel.
fn forward(mut events: Events, messages: Sender<Message>) -> Result<(), Failure> {
    let run = move || {
        while let Some(event) = events.recv() {
            if messages.send(Message::Stream(Box::new(event))).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("xmpp-events".into())
        .spawn(run)
        .context("cannot start a thread")?;
    Ok(())
}

/// Where no peer can reach this host.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn usage(error: SettingsError) -> Failure {
    Failure::new(ExitCode::Usage, error)
}

fn of_file(error: PrivateFileError) -> Failure {
    Failure::new(ExitCode::Usage, error)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use ipop_control::xmpp::stream::ChannelBinding;

    use super::*;
    use crate::{
        cli::Cli,
        settings::{Environment, Layers},
    };

    /// The log-in itself cannot succeed: nobody listens where the account's server should be.
    #[test]
    fn that_a_log_in_was_bound_is_put_down_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let settings = |account: &str| {
            let line = format!(
                "ipop-switch --tap ipop0 --state {} --room r@muc.example.org --trust tofu \
                 --xmpp-jid {account} --xmpp-server 127.0.0.1:1",
                dir.path().join("state").display()
            );
            let flags = Cli::try_parse_from(line.split_whitespace()).unwrap().run.values;
            let xmpp_password = Some("sesame".to_owned());
            let environment = &Environment { xmpp_password, ..Environment::default() };
            Settings::from_layers(Layers { flags: &flags, file: None, environment }).unwrap()
        };
        let binding = |account: &str| {
            let account = settings(account).network.unwrap().account;
            account.for_stream("r".into()).unwrap().binding
        };
        let start = || {
            let (messages, _inbox) = crossbeam::channel::bounded(16);
            let identity = Identity::generate().unwrap();
            let settings = settings("a@example.org");
            Network::start(&settings, identity.node_id(), &messages).unwrap().unwrap()
        };
        let account: BareJid = "a@example.org".parse().unwrap();
        assert_eq!(binding("a@example.org"), ChannelBinding::IfNamed);
        start().remember_bound(&account);
        assert_eq!(binding("a@example.org"), ChannelBinding::Required);
        assert_eq!(binding("b@example.org"), ChannelBinding::IfNamed);
    }

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("docker*", "docker0") && matches("br0", "br0") && matches("*", "x"));
        assert!(!matches("docker*", "dock") && !matches("br0", "br01"));
    }
}
