//! Local ports that come and go: what is open is made what is wanted.
//!
//! A port has its number, of trust's one allocator, from when it is to be opened until no worker knows it any more
//! (`ipop_datapath::port` says at its head when that is). Whoever runs the node opens, closes and frees it as it is told ([`PortOrder`]),
//! and tells how opening went. One that cannot be opened leaves the others alone, and is tried again when others are wanted or when one has gone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use ipop_datapath::{PortId, port::MAX_LOCAL_PORTS};

use super::Action;
use crate::{notice::Notice, trust::Trust};

/// A local port, as it is wanted: its kind, and its name among those.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortSpec {
    /// The TAP of this name.
    Tap(String),
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(name) => write!(f, "TAP {name}"),
        }
    }
}

/// What is to be done about a local port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortOrder {
    /// Open it and hand it to the workers. To be answered with [`Opening`], always.
    Open(PortSpec),
    /// No worker takes a frame from it or sends one there any more. Each tells when it has let go of it.
    Close,
    /// All have: it goes, and so does what was learned there meanwhile. The number may be another's next.
    Free,
}

/// Why a local port does not come or go while the switch runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PortRefused {
    /// There is such a port already, or it is just being closed.
    #[error("there is such a port already, or it is just being closed")]
    Taken,
    /// No number is left.
    #[error("there are as many local ports as may be, {MAX_LOCAL_PORTS}")]
    TooMany,
    /// There is none.
    #[error("there is no such port")]
    NotThere,
    /// A switch without a local port has nothing to switch.
    #[error("it is the last local port: add another one first, or end the switch")]
    Last,
}

/// How opening a port went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// The workers have it.
    Done,
    /// It is not there, and nobody knows it.
    Failed,
}

#[derive(PartialEq, Eq, Debug)]
enum Life {
    Opening,
    Open,
    /// These workers have yet to let go of it.
    Closing(BTreeSet<u8>),
}

#[derive(Debug)]
struct LocalPort {
    spec: PortSpec,
    life: Life,
}

/// The local ports of a node.
#[derive(Debug)]
pub struct LocalPorts {
    trust: Arc<Trust>,
    workers: u8,
    /// By the configuration.
    wanted: Vec<PortSpec>,
    /// By whoever added them while the switch runs: reading the configuration leaves them alone.
    added: Vec<PortSpec>,
    ports: BTreeMap<PortId, LocalPort>,
    actions: VecDeque<Action>,
}

impl LocalPorts {
    /// These are there from the start, numbered in their order.
    pub(super) fn new(trust: Arc<Trust>, workers: u8, wanted: Vec<PortSpec>) -> Self {
        let (added, ports, actions) = Default::default();
        let mut local = Self { trust, workers, wanted, added, ports, actions };
        for spec in local.wanted.clone() {
            local.number(spec, Life::Open);
        }
        local
    }

    /// The ports that have a number, in the order of these.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &PortSpec)> {
        self.ports.iter().map(|(port, local)| (*port, &local.spec))
    }

    /// Whether there is a local port of this number, and it is to stay.
    pub fn is_open(&self, port: PortId) -> bool {
        self.ports.get(&port).is_some_and(|local| local.life == Life::Open)
    }

    /// Whether whoever runs the switch added it, beside the configuration.
    pub fn is_added(&self, spec: &PortSpec) -> bool {
        self.added.contains(spec)
    }

    /// This one is wanted besides, until it is removed. One that cannot be opened is not tried again.
    pub(super) fn add(&mut self, spec: PortSpec) -> Result<(), PortRefused> {
        if self.ports.values().any(|local| local.spec == spec) {
            return Err(PortRefused::Taken);
        }
        let port = self.number(spec.clone(), Life::Opening).ok_or(PortRefused::TooMany)?;
        self.added.push(spec.clone());
        self.order(port, PortOrder::Open(spec));
        Ok(())
    }

    /// This one is not wanted any more. If the configuration names it, it comes back when that is read again.
    pub(super) fn remove(&mut self, spec: &PortSpec) -> Result<(), PortRefused> {
        let mut open = self.ports.values().filter(|local| local.life == Life::Open);
        if !open.clone().any(|local| local.spec == *spec) {
            return Err(PortRefused::NotThere);
        }
        if open.all(|local| local.spec == *spec) {
            return Err(PortRefused::Last);
        }
        self.added.retain(|added| added != spec);
        self.wanted.retain(|wanted| wanted != spec);
        self.close_unwanted();
        Ok(())
    }

    /// These are wanted from now on, beside those that were added, and no others. One that is just being closed is opened again after that.
    pub(super) fn want(&mut self, wanted: Vec<PortSpec>) {
        self.wanted = wanted;
        self.close_unwanted();
        self.open_wanted();
    }

    /// A port that was to be opened is there, or is not.
    pub(super) fn opened(&mut self, port: PortId, opening: Opening) {
        let Some(local) = self.ports.get_mut(&port) else { return };
        match opening {
            Opening::Done => {
                local.life = Life::Open;
                // It may be unwanted by now.
                self.close_unwanted();
            }
            Opening::Failed => {
                self.added.retain(|added| *added != local.spec);
                self.release(port);
            }
        }
    }

    /// A worker has let go of a port. When all have, it goes.
    pub(super) fn closed(&mut self, port: PortId, worker: u8) {
        let life = self.ports.get_mut(&port).map(|local| &mut local.life);
        let Some(Life::Closing(left)) = life else { return };
        left.remove(&worker);
        if left.is_empty() {
            self.order(port, PortOrder::Free);
            self.release(port);
            self.open_wanted();
        }
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn close_unwanted(&mut self) {
        let is_wanted = |spec: &PortSpec| self.wanted.contains(spec) || self.added.contains(spec);
        let unwanted = self
            .ports
            .iter_mut()
            .filter(|(_, local)| local.life == Life::Open && !is_wanted(&local.spec));
        for (port, local) in unwanted {
            local.life = Life::Closing((0..self.workers).collect());
            self.actions.push_back(Action::Port { port: *port, order: PortOrder::Close });
        }
    }

    fn open_wanted(&mut self) {
        for spec in self.wanted.clone() {
            if self.ports.values().any(|local| local.spec == spec) {
                continue;
            }
            match self.number(spec.clone(), Life::Opening) {
                Some(port) => self.order(port, PortOrder::Open(spec)),
                None => self.actions.push_back(Action::Notice(Notice::PortLeftOut { spec })),
            }
        }
    }

    fn number(&mut self, spec: PortSpec, life: Life) -> Option<PortId> {
        let port = self.trust.open_local_port()?;
        self.ports.insert(port, LocalPort { spec, life });
        Some(port)
    }

    fn release(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.trust.release_local_port(port);
    }

    fn order(&mut self, port: PortId, order: PortOrder) {
        self.actions.push_back(Action::Port { port, order });
    }
}

#[cfg(test)]
mod tests {
    use ipop_datapath::node_id::NodeId;

    use super::*;
    use crate::trust::{Policy, TrustStore};

    fn tap(number: usize) -> PortSpec {
        PortSpec::Tap(format!("tap{number}"))
    }

    fn orders(local: &mut LocalPorts) -> Vec<(PortId, PortOrder)> {
        let orders = std::iter::from_fn(|| local.poll_action()).filter_map(|action| match action {
            Action::Port { port, order } => Some((port, order)),
            _ => None,
        });
        orders.collect()
    }

    fn ports(count: usize, workers: u8) -> LocalPorts {
        let trust = Trust::new(NodeId([1; 32]), Policy::default(), TrustStore::default());
        LocalPorts::new(Arc::new(trust), workers, (0..count).map(tap).collect())
    }

    #[test]
    fn a_port_that_was_added_stays_whatever_is_configured_until_it_is_removed() {
        let mut local = ports(1, 1);
        let second = PortId(1);
        assert_eq!(local.add(tap(0)), Err(PortRefused::Taken));
        assert_eq!(local.remove(&tap(0)), Err(PortRefused::Last));
        assert_eq!(local.add(tap(1)), Ok(()));
        assert_eq!(local.remove(&tap(0)), Err(PortRefused::Last), "the other one is not there yet");
        assert_eq!(local.remove(&tap(1)), Err(PortRefused::NotThere), "nor is it to be removed");
        assert_eq!(orders(&mut local), [(second, PortOrder::Open(tap(1)))]);
        local.opened(second, Opening::Done);
        local.want(vec![tap(0)]);
        assert_eq!(orders(&mut local), []);
        assert!(local.is_added(&tap(1)) && !local.is_added(&tap(0)));
        assert_eq!(local.remove(&tap(1)), Ok(()));
        assert_eq!(orders(&mut local), [(second, PortOrder::Close)]);
        assert_eq!(local.add(tap(1)), Err(PortRefused::Taken), "it is being closed");
        local.closed(second, 0);
        assert_eq!(orders(&mut local), [(second, PortOrder::Free)], "nobody wants it again");
    }

    #[test]
    fn a_configured_port_that_was_removed_comes_back_when_the_configuration_is_read() {
        let mut local = ports(2, 1);
        assert_eq!(local.remove(&tap(1)), Ok(()));
        local.closed(PortId(1), 0);
        let gone = [(PortId(1), PortOrder::Close), (PortId(1), PortOrder::Free)];
        assert_eq!(orders(&mut local), gone);
        local.want(vec![tap(0), tap(1)]);
        assert_eq!(orders(&mut local), [(PortId(2), PortOrder::Open(tap(1)))]);
    }

    #[test]
    fn one_that_cannot_be_added_is_not_tried_again() {
        let mut local = ports(1, 1);
        local.add(tap(1)).unwrap();
        local.opened(PortId(1), Opening::Failed);
        orders(&mut local);
        assert!(!local.is_added(&tap(1)));
        local.want(vec![tap(0)]);
        assert_eq!(orders(&mut local), []);
        let full = ports(MAX_LOCAL_PORTS, 1).add(tap(MAX_LOCAL_PORTS));
        assert_eq!(full, Err(PortRefused::TooMany));
    }

    #[test]
    fn a_port_that_finds_no_number_is_told_of_and_gets_the_next_one_that_is_free() {
        let trust = Trust::new(NodeId([1; 32]), Policy::default(), TrustStore::default());
        let all: Vec<PortSpec> = (0..MAX_LOCAL_PORTS).map(tap).collect();
        let mut local = LocalPorts::new(Arc::new(trust), 2, all.clone());
        assert!(
            local.iter().map(|(port, spec)| (usize::from(port.0), spec)).eq(all.iter().enumerate())
        );
        let (first, last) = (PortId(0), tap(MAX_LOCAL_PORTS));
        local.want(all[1..].iter().cloned().chain([last.clone()]).collect());
        let left_out = local.actions.iter().filter_map(|action| match action {
            Action::Notice(notice) => Some(notice.to_string()),
            _ => None,
        });
        let told =
            "there are as many local ports as may be; TAP tap64 is left out; SIGHUP tries it again";
        assert_eq!(left_out.collect::<Vec<_>>(), [told]);
        assert_eq!(orders(&mut local), [(first, PortOrder::Close)]);
        assert!(!local.is_open(first) && local.is_open(PortId(1)));
        // One worker says it twice.
        local.closed(first, 0);
        local.closed(first, 0);
        assert_eq!(orders(&mut local), []);
        local.closed(first, 1);
        let new = PortId(MAX_LOCAL_PORTS as u16);
        assert_eq!(orders(&mut local), [(first, PortOrder::Free), (new, PortOrder::Open(last))]);
    }
}
