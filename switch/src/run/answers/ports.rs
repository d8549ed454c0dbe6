//! Local ports.

use super::super::{Switch, devices::OpenTap, report::kernel_tx_dropped};
use crate::api::types::{NoParams, Port, PortKind, Ports, Problem};

impl Switch {
    /// `ports.list`
    pub(crate) fn show_ports(&self, NoParams {}: NoParams) -> Result<Ports, Problem> {
        let mut ports: Vec<Port> = self.devices.taps.iter().map(|tap| self.port_of(tap)).collect();
        ports.sort_by_key(|port| port.port);
        Ok(Ports { ports })
    }

    fn port_of(&self, open: &OpenTap) -> Port {
        let OpenTap { port, ref tap, .. } = *open;
        Port {
            name: tap.name.clone(),
            port: port.0,
            kind: PortKind::Tap,
            mac: tap.mac.to_string(),
            mtu_bytes: self.settings.mtu,
            queues: tap.queues.len(),
            attached: tap.was_attached(),
            blocked: self.shared.ports.of(port).is_blocked(),
            closing: !self.node.local_ports().is_open(port),
            stations: self.shared.fdb.len_of_port(port),
            traffic: self.traffic_of(port),
            rates: self.rates.of(port),
            drops: self.dropped_at(port),
            kernel_tx_dropped: kernel_tx_dropped(&tap.name),
        }
    }
}
