//! Local ports that come and go: what is open is made what is configured, at SIGHUP and whenever a port has gone.
//!
//! What a port is and when its number can be another one's stands at the head of `ipop_datapath::port`. A TAP that cannot be opened leaves the others alone.

use std::time::Instant;

use anyhow::Context as _;
use ipop_datapath::{PortId, engine::Order};

use super::{
    Switch,
    devices::{OpenTap, describe},
};
use crate::settings::InterfaceName;

impl Switch {
    /// Closes the TAPs that are no longer configured, and opens those that are not there yet. One that is just being closed is opened again after that.
    pub(super) fn follow_ports(&mut self) {
        let wanted = self.settings.taps.clone();
        let is_wanted = |open: &OpenTap| wanted.iter().any(|name| name.as_str() == open.tap.name);
        let (open, is_open) = (&self.devices.taps, |open: &&OpenTap| open.closing.is_none());
        let unwanted = open.iter().filter(is_open).filter(|open| !is_wanted(open));
        for port in unwanted.map(|open| open.port).collect::<Vec<_>>() {
            self.close_port(port);
        }
        for name in &wanted {
            if self.devices.taps.iter().any(|open| open.tap.name == name.as_str()) {
                continue;
            }
            if let Err(error) = self.open_port(name) {
                tracing::error!("{error:#}; TAP {name} is left out; SIGHUP tries it again");
            }
        }
        self.look_at_addresses(Instant::now());
    }

    fn open_port(&mut self, name: &InterfaceName) -> anyhow::Result<()> {
        let trust = self.node.trust();
        let port = trust.open_local_port().context("there are as many local ports as may be")?;
        let (node, workers) = (self.facts.node, self.facts.lanes);
        let opened = OpenTap::open(port, name, &self.settings, node, workers).and_then(|open| {
            let queues: Result<Vec<_>, _> = (0..workers).map(|of| open.queue_of(of)).collect();
            Ok((open, queues?))
        });
        let (open, queues) = opened.inspect_err(|_| trust.release_local_port(port))?;
        tracing::info!("{}", describe(&open.tap, self.settings.mtu));
        self.shared.ports.open(port);
        for (worker, queue) in queues.into_iter().enumerate() {
            self.command(worker, Order::OpenPort(open.local_port(), queue));
        }
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
        let open = self.devices.taps.iter_mut().find(|open| open.port == port);
        open.into_iter().for_each(|open| open.closing = Some(self.workers.len()));
    }

    /// A worker has let go of a port. When all have, the TAP goes, and its number is free.
    pub(super) fn port_closed(&mut self, port: PortId) {
        let mut taps = self.devices.taps.iter_mut();
        let Some(at) = taps.position(|open| open.port == port) else { return };
        let left = self.devices.taps[at].closing.map_or(0, |workers| workers.saturating_sub(1));
        self.devices.taps[at].closing = Some(left);
        if left > 0 {
            return;
        }
        let OpenTap { tap, .. } = self.devices.taps.remove(at);
        let how = if tap.was_attached() { "left as it was found" } else { "gone" };
        tracing::info!("TAP {} is no longer configured: it is {how}", tap.name);
        drop(tap);
        // A worker may have learned a station there in the moment in which it was closed.
        self.shared.fdb.flush_port(port);
        self.shared.ports.free(port);
        self.node.trust().release_local_port(port);
        self.follow_ports();
    }
}
