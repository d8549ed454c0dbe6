//! Local ports that come and go, as the node wants them: TAPs are opened, handed to the workers, closed.
//!
//! What a port is and when its number can be another one's stands at the head of `ipop_datapath::port`.

use std::time::Instant;

use ipop_control::node::{Input, Opening, PortOrder, PortSpec};
use ipop_datapath::{PortId, engine::Order};

use super::{
    Switch,
    devices::{OpenTap, describe},
};
use crate::api::types::{EventKind, What};

impl Switch {
    /// Does what the node wants done about a local port.
    pub(super) fn follow_port(&mut self, port: PortId, order: PortOrder) {
        match order {
            PortOrder::Open(spec) => {
                let opening = match self.open_port(port, &spec) {
                    Ok(()) => Opening::Done,
                    Err(error) => {
                        let is_added = self.node.local_ports().is_added(&spec);
                        let again = if is_added { "" } else { "; SIGHUP tries it again" };
                        tracing::error!("{error:#}; {spec} is left out{again}");
                        self.port_failed = Some((spec, format!("{error:#}")));
                        Opening::Failed
                    }
                };
                self.node.handle(Instant::now(), Input::PortOpened { port, opening });
            }
            PortOrder::Close => self.close_port(port),
            PortOrder::Free => self.free_port(port),
        }
        self.look_at_addresses(Instant::now());
    }

    fn open_port(&mut self, port: PortId, spec: &PortSpec) -> anyhow::Result<()> {
        let PortSpec::Tap(name) = spec;
        let (node, workers) = (self.facts.node, self.facts.lanes);
        let open = OpenTap::open(port, name, &self.settings, node, workers)?;
        let queues: Vec<_> = (0..workers).map(|of| open.queue_of(of)).collect::<Result<_, _>>()?;
        tracing::info!("{}", describe(&open.tap, self.settings.mtu));
        self.shared.ports.open(port);
        for (worker, queue) in queues.into_iter().enumerate() {
            self.command(worker, Order::OpenPort(open.local_port(), queue));
        }
        let (text, port) = (format!("TAP {name} was opened"), name.to_string());
        self.tell_event(EventKind::Port, text, What::PortOpened { port });
        self.devices.taps.push(open);
        Ok(())
    }

    /// From now on no worker takes a frame from the port, or sends one there; each will say when it has let go of it.
    fn close_port(&mut self, port: PortId) {
        self.shared.ports.close(port);
        self.shared.fdb.flush_port(port);
        for worker in 0..self.workers.len() {
            self.command(worker, Order::ClosePort(port));
        }
    }

    /// No worker has it any more.
    fn free_port(&mut self, port: PortId) {
        let gone: Vec<OpenTap> =
            self.devices.taps.extract_if(.., |open| open.port == port).collect();
        for OpenTap { tap, .. } in gone {
            let how = if tap.was_attached() { "left as it was found" } else { "gone" };
            tracing::info!("TAP {} is closed: it is {how}", tap.name);
            let text = format!("TAP {} was closed", tap.name);
            self.tell_event(EventKind::Port, text, What::PortClosed { port: tap.name.clone() });
        }
        // A worker may have learned a station there in the moment in which it was closed.
        self.shared.fdb.flush_port(port);
        self.shared.ports.free(port);
    }
}
