//! The way to peers: over a connection of this worker's, or by mail to a worker that has one.

use std::collections::{BTreeSet, HashMap};

use ipop_learning::PortId;
use quinn_proto::ConnectionHandle;

use super::{agenda::Agenda, deadlines::Deadlines};
use crate::{
    command::{ConnectionId, ConnectionStats, Lane},
    core::context::Context,
    counters::drops::{DropReason, Passed},
    forward::Peers,
    frame::{Frame, Scratch},
    io::Io,
    path::port_of_alias,
    tunnel::Tunnel,
};

/// The connections of a worker.
#[derive(Default)]
pub(super) struct Lanes {
    /// By [`ConnectionHandle`].
    pub(super) tunnels: Vec<Option<Box<Tunnel>>>,
    /// The connection that sends a port's frames, by port, as far as there is one.
    active: Vec<Option<ConnectionHandle>>,
    /// Those that have not ended, by the names that control knows.
    pub(super) by_id: HashMap<ConnectionId, ConnectionHandle>,
    /// Those whose remote address stands for the peer at a port.
    by_path: BTreeSet<(PortId, usize)>,
    pub(super) agenda: Agenda,
    pub(super) deadlines: Deadlines,
    pub(super) scratch: Scratch,
}

impl Lanes {
    /// The connection that sends a port's frames.
    #[inline]
    fn active(&self, PortId(port): PortId) -> Option<ConnectionHandle> {
        self.active.get(usize::from(port)).copied().flatten()
    }

    /// It does from now on.
    pub(super) fn activate(&mut self, PortId(port): PortId, handle: ConnectionHandle) {
        let index = usize::from(port);
        if self.active.len() <= index {
            self.active.resize(index + 1, None);
        }
        self.active[index] = Some(handle);
    }

    /// It does no longer; whether it did.
    pub(super) fn deactivate(&mut self, PortId(port): PortId, handle: ConnectionHandle) -> bool {
        let active = self.active.get_mut(usize::from(port));
        let was = active.and_then(|active| active.take_if(|active| *active == handle)).is_some();
        while self.active.pop_if(|last| last.is_none()).is_some() {}
        was
    }

    pub(super) fn insert(&mut self, tunnel: Tunnel) {
        let handle = tunnel.handle;
        self.by_id.insert(tunnel.id, handle);
        self.by_path.extend(port_of_alias(tunnel.remote).map(|port| (port, handle.0)));
        self.agenda.add(handle);
        if self.tunnels.len() <= handle.0 {
            self.tunnels.resize_with(handle.0 + 1, || None);
        }
        self.tunnels[handle.0] = Some(Box::new(tunnel));
    }

    /// Takes a connection out for good.
    pub(super) fn remove(&mut self, handle: ConnectionHandle) -> Option<Box<Tunnel>> {
        self.agenda.remove(handle);
        self.deadlines.remove(handle);
        let tunnel = self.tunnels[handle.0].take()?;
        if let Some(port) = port_of_alias(tunnel.remote) {
            self.by_path.remove(&(port, handle.0));
        }
        Some(tunnel)
    }

    /// The connections whose remote address stands for the peer at this port, and that have not ended.
    pub(super) fn over_path(&self, port: PortId) -> Vec<ConnectionHandle> {
        let handles = self.by_path.range((port, 0)..=(port, usize::MAX));
        let is_open = |tunnel: &Tunnel| !tunnel.is_ended();
        let handles = handles.map(|(_, index)| ConnectionHandle(*index));
        handles.filter(|handle| self.tunnels[handle.0].as_deref().is_some_and(is_open)).collect()
    }

    /// The connection of this name, unless it has ended.
    pub(super) fn named(&mut self, connection: ConnectionId) -> Option<&mut Tunnel> {
        let handle = self.by_id.get(&connection)?;
        self.tunnels[handle.0].as_deref_mut()
    }

    /// How the connections are that have not ended.
    pub(super) fn stats(&mut self) -> Vec<(ConnectionId, ConnectionStats)> {
        let tunnels = self.tunnels.iter_mut().flatten().filter(|tunnel| !tunnel.is_ended());
        tunnels.map(|tunnel| (tunnel.id, tunnel.stats())).collect()
    }

    /// Takes a frame for the peer at a port of which this worker carries a lane.
    pub(super) fn offer(&mut self, to: PortId, frame: Frame<'_>, cx: &Context) -> Passed {
        let handle = self.active(to).ok_or(DropReason::NoPort)?;
        let tunnel = self.tunnels[handle.0].as_mut().ok_or(DropReason::NoPort)?;
        // Also when the queue becomes full half-way: the segments before that are in it.
        self.agenda.add(handle);
        let (out, connection) = tunnel.sending().ok_or(DropReason::NotAdmitted)?;
        out.offer(connection, frame, &mut self.scratch, cx)
    }
}

impl Peers for Lanes {
    fn send(&mut self, to: PortId, frame: Frame<'_>, cx: &Context, io: &mut impl Io) -> Passed {
        if self.active(to).is_some() {
            return self.offer(to, frame, cx);
        }
        match cx.shared.ports.of(to).lane_for(frame.what.flow()) {
            Some(Lane(worker)) if worker != cx.worker => {
                io.mail(worker, to, frame)?;
                cx.counters.io.mailed_out_frames.add(1);
                Ok(())
            }
            _ => Err(DropReason::NoPort),
        }
    }
}
