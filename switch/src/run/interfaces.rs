//! The host's addresses and routes: the kernel tells when they change, and then they are looked at.
//!
//! Addresses concern the sessions (a listener that moved) and the network (candidates, the stream to the server). Of a
//! route it is not known whom it concerns, so the paths in use and the stream are checked.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use crossbeam::channel::Sender;
use ipop_control::{host::local_addresses::local_addresses, node::Input};
use ipop_datapath::os::network::{Change, NetworkChanges};

use super::{Message, Switch, os_failure};
use crate::exit::Failure;

/// After a change the next one is told no sooner: what comes in between is told together.
const PAUSE: Duration = Duration::from_millis(10);
/// Routes that change all the time (a routing daemon, containers) must not have all paths checked all the time.
const ROUTES_EVERY: Duration = Duration::from_secs(1);

/// When the paths are to be checked since routes changed.
#[derive(Debug, Default)]
pub(super) struct Routes {
    checked_at: Option<Instant>,
    due: Option<Instant>,
}

impl Routes {
    fn changed(&mut self, now: Instant) {
        let next = self.checked_at.map_or(now, |at| now.max(at + ROUTES_EVERY));
        self.due.get_or_insert(next);
    }

    /// When [`Switch::look_at_routes`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// Brings word of changes into the control thread's channel.
pub(super) fn watch(messages: Sender<Message>) -> Result<(), Failure> {
    let mut changes = NetworkChanges::open().map_err(os_failure)?;
    let watch = move || {
        loop {
            match changes.wait() {
                Ok(change) => {
                    if messages.send(Message::Network(change)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("{error}: changes of addresses are not noticed any more");
                    return;
                }
            }
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new().name("network".into()).spawn(watch).context("cannot start a thread")?;
    Ok(())
}

impl Switch {
    /// Something changed.
    pub(super) fn network_changed(&mut self, now: Instant, change: Change) {
        match change {
            Change::Addresses => self.look_at_addresses(now),
            Change::Routes => self.routes.changed(now),
        }
    }

    /// Tells the node which addresses this host has.
    pub(super) fn look_at_addresses(&mut self, now: Instant) {
        match local_addresses() {
            Ok(addresses) => self.node.handle(now, Input::LocalAddresses(addresses)),
            Err(error) => tracing::debug!(%error, "cannot list this host's addresses"),
        }
        self.look_at_own_addresses(now);
        self.look_at_interfaces(now);
    }

    /// Has the paths checked, if routes changed and it is time.
    pub(super) fn look_at_routes(&mut self, now: Instant) {
        if self.routes.due.is_none_or(|due| due > now) {
            return;
        }
        self.routes = Routes { checked_at: Some(now), due: None };
        self.node.handle(now, Input::RoutesChanged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_looked_at_at_once_and_then_once_a_second() {
        let start = Instant::now();
        let mut routes = Routes::default();
        routes.changed(start);
        assert_eq!(routes.due(), Some(start));
        routes = Routes { checked_at: Some(start), due: None };
        for ms in [10, 20, 900] {
            routes.changed(start + Duration::from_millis(ms));
            assert_eq!(routes.due(), Some(start + ROUTES_EVERY));
        }
        routes = Routes { checked_at: Some(start), due: None };
        let later = start + 3 * ROUTES_EVERY;
        routes.changed(later);
        assert_eq!(routes.due(), Some(later));
    }
}
