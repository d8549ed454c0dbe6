//! What the workers share: the forwarding database, the ports' lanes, counters. Read on the hot path, written rarely.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use ipop_learning::MacTable;

use crate::{
    counters::WorkerCounters,
    node_id::NodeId,
    port::{LocalPort, SharedPorts},
};

/// Shared by all workers and the control plane.
pub struct Shared {
    /// (VLAN, MAC) -> port.
    pub fdb: MacTable,
    /// The ports.
    pub ports: SharedPorts,
    /// Counters by worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Own tunnels as (local UDP port, remote address) and how many there are, for the own-packet guard.
    own_flows: RwLock<HashMap<(u16, SocketAddr), u32>>,
    epoch: Instant,
}

impl Shared {
    /// With these local ports from the start; time is counted from `epoch`.
    pub fn new(fdb: MacTable, local: &[LocalPort], workers: u8, epoch: Instant) -> Self {
        let ports = SharedPorts::default();
        local.iter().for_each(|local| ports.open(local.port));
        Self {
            fdb,
            ports,
            counters: (0..workers).map(|_| Arc::default()).collect(),
            own_flows: RwLock::default(),
            epoch,
        }
    }

    /// The coarse time that all workers share, whole seconds.
    pub fn now_s(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_secs() as u32
    }

    /// Remembers a tunnel, or a path of one, for the own-packet guard.
    pub fn add_own_flow(&self, local_port: u16, remote: SocketAddr) {
        let mut flows = self.own_flows.write().unwrap_or_else(PoisonError::into_inner);
        *flows.entry((local_port, remote)).or_default() += 1;
    }

    /// Forgets it; others to the same address stay.
    pub fn remove_own_flow(&self, local_port: u16, remote: SocketAddr) {
        let mut flows = self.own_flows.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = flows.get_mut(&(local_port, remote)) {
            *count -= 1;
            if *count == 0 {
                flows.remove(&(local_port, remote));
            }
        }
    }

    /// Whether a UDP packet from this local port to this address is one of the own tunnels'.
    pub fn is_own_flow(&self, local_port: u16, remote: SocketAddr) -> bool {
        self.own_flows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&(local_port, remote))
    }
}

/// Fixed facts about this node that all workers know.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Own id.
    pub node: NodeId,
    /// Random at each start.
    pub instance: [u8; 16],
    /// What own loop probes carry.
    pub probe_token: [u8; 16],
    /// For people.
    pub name: String,
    /// Inner MTU, bytes.
    pub inner_mtu: u16,
    /// Workers, and so lanes that this node serves.
    pub lanes: u8,
}
