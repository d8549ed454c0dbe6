//! Local ports.

use std::time::Instant;

use ipop_control::node::{PortRefused, PortSpec};

use super::super::{Switch, devices::OpenTap, report::kernel_tx_dropped};
use crate::{
    api::types::{
        AddPort, AddressParams, Done, NoParams, Port, PortKind, PortParams, Ports, Problem,
        ProblemCode,
    },
    settings::{Cidr, InterfaceName},
};

impl Switch {
    /// `ports.list`
    pub(crate) fn show_ports(&self, NoParams {}: NoParams) -> Result<Ports, Problem> {
        let mut ports: Vec<Port> = self.devices.taps.iter().map(|tap| self.port_of(tap)).collect();
        ports.sort_by_key(|port| port.port);
        Ok(Ports { ports })
    }

    /// `ports.add`
    pub(crate) fn add_port(&mut self, AddPort { kind, name }: AddPort) -> Result<Port, Problem> {
        let PortKind::Tap = kind;
        let tap: InterfaceName =
            name.parse().map_err(|why: String| Problem::bad_field("name", why))?;
        let spec = PortSpec::Tap(tap.as_str().to_owned());
        self.port_failed = None;
        self.node.add_port(spec.clone()).map_err(|why| refused(&spec, why))?;
        self.carry_out();
        let failed = self.port_failed.take().filter(|(failed, _)| *failed == spec);
        if let Some((_, why)) = failed {
            return Err(Problem::new(ProblemCode::Refused, why));
        }
        Ok(self.port_of(self.tap_named(&name)?))
    }

    /// `ports.remove`
    pub(crate) fn remove_port(&mut self, PortParams { name }: PortParams) -> Result<Done, Problem> {
        let spec = PortSpec::Tap(name);
        self.node.remove_port(&spec).map_err(|why| refused(&spec, why))?;
        self.carry_out();
        Ok(Done { count: 1 })
    }

    /// `ports.address`
    pub(crate) fn set_address(&mut self, params: AddressParams) -> Result<Done, Problem> {
        let address: Cidr =
            params.address.parse().map_err(|why: String| Problem::bad_field("address", why))?;
        self.tap_named(&params.name)?;
        let taps = self.devices.taps.iter_mut();
        for OpenTap { tap, .. } in taps.filter(|open| open.tap.name == params.name) {
            if let Some(bridge) = tap.bridge() {
                let text = format!("{} is in bridge {bridge}: give that the address", tap.name);
                return Err(Problem::new(ProblemCode::Refused, text));
            }
            tap.set_address(address.into())
                .map_err(|error| Problem::new(ProblemCode::Refused, error))?;
        }
        self.look_at_addresses(Instant::now());
        Ok(Done { count: 1 })
    }

    fn tap_named(&self, name: &str) -> Result<&OpenTap, Problem> {
        let mut taps = self.devices.taps.iter();
        taps.find(|open| open.tap.name == name && self.node.local_ports().is_open(open.port))
            .ok_or_else(|| {
                Problem::not_found(format_args!(
                    "there is no local port {name:?}; `ipop-switch ports` shows them"
                ))
            })
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

fn refused(spec: &PortSpec, why: PortRefused) -> Problem {
    let code = match why {
        PortRefused::NotThere => ProblemCode::NotFound,
        PortRefused::Taken | PortRefused::TooMany | PortRefused::Last => ProblemCode::Conflict,
    };
    Problem::new(code, format_args!("{spec}: {why}"))
}
