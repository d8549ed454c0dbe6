//! The TAPs and sockets of the switch.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipop_datapath::{
    LocalPort, PortId, TapOffload,
    engine::{LocalQueue, TapQueue},
    io::{SocketKind, Sockets},
    node_id::NodeId,
    os::{
        OsError,
        bridge_host::QuietBridge,
        interface::{self, Interface},
        tap::{Tap, TapConfig, TapFeatures, stable_mac},
        udp::{self, UdpPort},
    },
};

use crate::settings::{Cidr, Listen, Offload, Settings};

/// What the switch has open: the TAPs, and the UDP sockets of each worker.
pub(super) struct Devices {
    /// By port.
    pub(super) taps: Vec<OpenTap>,
    /// What the bridge that holds them is kept from. It goes after them.
    _bridge: Option<QuietBridge>,
    /// By worker, until it takes them.
    sockets: VecDeque<(Sockets, Vec<UdpPort>)>,
    listen: SocketAddr,
    udp_ports: Vec<u16>,
}

/// A TAP and its port.
pub(super) struct OpenTap {
    pub(super) port: PortId,
    pub(super) tap: Tap,
}

impl Devices {
    /// Sockets first: if the port is taken, no device was touched. There are no TAPs yet.
    pub(super) fn open(settings: &Settings, workers: u8) -> Result<Self, OsError> {
        let sockets = open_sockets(settings, workers)?;
        let bridge = settings.bridge.as_ref().map(|bridge| Interface::named(bridge.as_str()));
        let bridge = bridge.transpose()?.map(QuietBridge::new);
        let mut opened = sockets.iter().flat_map(|(_, opened)| opened);
        let listen = opened.next().map_or_else(|| ([0; 4], 0).into(), |socket| socket.local);
        let udp_ports = sockets.iter().flat_map(|(table, _)| table.ports()).collect();
        Ok(Self { taps: Vec::new(), _bridge: bridge, sockets, listen, udp_ports })
    }

    /// The ports of all sockets.
    pub(super) fn udp_ports(&self) -> Vec<u16> {
        self.udp_ports.clone()
    }

    pub(super) fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// The TAP at a port, if there is one.
    pub(super) fn tap(&self, port: PortId) -> Option<&Tap> {
        self.taps.iter().find(|open| open.port == port).map(|open| &open.tap)
    }

    /// The local ports, as workers know them.
    pub(super) fn local_ports(&self) -> Vec<LocalPort> {
        self.taps.iter().map(OpenTap::local_port).collect()
    }

    /// The local ports, and one worker's part of each.
    pub(super) fn ports_of(&self, worker: u8) -> Result<Vec<(LocalPort, LocalQueue)>, OsError> {
        self.taps.iter().map(|open| Ok((open.local_port(), open.queue_of(worker)?))).collect()
    }

    /// The sockets of the next worker: their table, and what is open in the same order.
    pub(super) fn take_sockets(&mut self) -> Option<(Sockets, Vec<UdpPort>)> {
        self.sockets.pop_front()
    }
}

impl OpenTap {
    /// As the settings say.
    pub(super) fn open(
        port: PortId,
        name: &str,
        settings: &Settings,
        node: NodeId,
        workers: u8,
    ) -> Result<Self, OsError> {
        let tap = Tap::open(&TapConfig {
            name: name.to_owned(),
            queues: workers,
            mtu: u32::from(settings.mtu),
            mac: stable_mac(node, name),
            offload: match settings.offload {
                Offload::Auto => TapOffload::Full,
                Offload::Off => TapOffload::None,
            },
            bridge: settings.bridge.as_ref().map(|bridge| bridge.as_str().to_owned()),
            address: address_for(name, settings).map(Into::into),
        })?;
        Ok(Self { port, tap })
    }

    /// As workers know it. What the kernel refuses to hand over is not given to it either.
    pub(super) fn local_port(&self) -> LocalPort {
        let takes = match self.tap.features {
            TapFeatures { tso: false, .. } => TapOffload::None,
            TapFeatures { uso: false, .. } => TapOffload::WithoutUso,
            TapFeatures { .. } => TapOffload::Full,
        };
        LocalPort { port: self.port, takes, mac: self.tap.mac }
    }

    /// One worker's queue; a single-queue TAP is read by the first worker and written by all.
    pub(super) fn queue_of(&self, worker: u8) -> Result<LocalQueue, OsError> {
        let own = self.tap.queues.get(usize::from(worker));
        let queue = own.or(self.tap.queues.first()).map(std::os::fd::OwnedFd::try_clone);
        let queue = queue
            .unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into()))
            .map_err(|error| OsError::failed("cannot duplicate a descriptor", error))?;
        Ok(LocalQueue::Tap(TapQueue { queue, read: own.is_some() }))
    }
}

/// The settings' address is for the only TAP that they name.
fn address_for(name: &str, settings: &Settings) -> Option<Cidr> {
    settings.address.filter(|_| matches!(&*settings.taps, [only] if only.as_str() == name))
}

impl From<Cidr> for interface::Cidr {
    fn from(Cidr { address, prefix_len }: Cidr) -> Self {
        Self { address, prefix_len }
    }
}

/// By worker: the listening socket, and one to dial from for every lane but the first. If paths are looked for, the first worker speaks to TURN servers
/// from one more.
fn open_sockets(
    settings: &Settings,
    workers: u8,
) -> Result<VecDeque<(Sockets, Vec<UdpPort>)>, OsError> {
    let mut sockets = VecDeque::new();
    for (worker, listening) in listen(settings.listen, workers)?.into_iter().enumerate() {
        let local = listening.local;
        let (mut table, mut opened) = (Sockets::new(local.port()), vec![listening]);
        let dial = (worker > 0).then_some(SocketKind::Dial);
        let relay = (settings.finds_paths() && worker == 0).then_some(SocketKind::Relay);
        for kind in dial.into_iter().chain(relay) {
            let socket = udp::ephemeral(local)?;
            table = table.with(kind, socket.local.port());
            opened.push(socket);
        }
        sockets.push_back((table, opened));
    }
    Ok(sockets)
}

/// The sockets that the switch listens on, one for each worker.
pub(crate) fn listen(listen: Listen, workers: u8) -> Result<Vec<UdpPort>, OsError> {
    let address = match listen {
        Listen::At(address) => address,
        Listen::Any { port } => {
            match udp::listen((Ipv6Addr::UNSPECIFIED, port).into(), workers) {
                // A host without IPv6 says so in one of these ways.
                Err(error) if is_without_ipv6(&error) => (Ipv4Addr::UNSPECIFIED, port).into(),
                ports => return ports,
            }
        }
    };
    udp::listen(address, workers)
}

fn is_without_ipv6(error: &OsError) -> bool {
    use std::io::ErrorKind::{AddrNotAvailable, Unsupported};
    let kind = std::io::Error::from_raw_os_error(error.errno()).kind();
    matches!(kind, AddrNotAvailable | Unsupported) || error.is_address_family()
}

/// One line for the operator.
pub(super) fn describe(tap: &Tap, mtu: u16) -> String {
    let how = if tap.was_attached() { "attached, will be left as found" } else { "created" };
    let offloads = match (tap.features.tso, tap.features.uso) {
        (true, true) => "offloads TSO, USO and checksums",
        (true, false) => "offloads TSO and checksums",
        _ => "no offloads",
    };
    let queues = tap.queues.len();
    let single = if queues == 1 { "1 queue".to_owned() } else { format!("{queues} queues") };
    format!("TAP {} {how}, {}, MTU {mtu}, {single}, {offloads}", tap.name, tap.mac)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::Cli,
        settings::{Environment, Layers},
    };

    #[test]
    fn an_address_is_for_the_only_tap_that_is_configured_and_for_none_that_is_added() {
        let line = "ipop-switch --tap ipop0 --address 10.9.0.1/24";
        let flags = Cli::try_parse_from(line.split_whitespace()).unwrap().run.values;
        let environment = &Environment::default();
        let layers = Layers { flags: &flags, file: None, environment };
        let mut settings = Settings::from_layers(layers).unwrap();
        assert!(address_for("ipop0", &settings).is_some());
        assert_eq!(address_for("ipop1", &settings), None);
        settings.taps.push("ipop1".parse().unwrap());
        assert_eq!(address_for("ipop0", &settings), None);
    }
}
