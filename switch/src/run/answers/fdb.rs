//! The forwarding database.

use std::{collections::HashMap, time::Instant};

use ipop_datapath::PortId;
use ipop_learning::{MacAddr, VlanId};

use super::super::Switch;
use crate::api::types::{Done, Fdb, FdbParams, Problem, Station};

/// Which stations are meant.
struct Wanted {
    mac: Option<MacAddr>,
    port: Option<PortId>,
}

impl Switch {
    /// `fdb.list`
    pub(crate) fn show_fdb(&self, params: FdbParams) -> Result<Fdb, Problem> {
        let wanted = self.wanted(&params)?;
        let mut names = HashMap::new();
        let mut stations = Vec::new();
        self.shared.fdb.for_each(self.shared.now_s(Instant::now()), |entry| {
            if wanted.mac.is_some_and(|mac| mac != entry.mac)
                || wanted.port.is_some_and(|port| port != entry.port)
            {
                return;
            }
            let name = || self.name_of_port(entry.port).unwrap_or_else(|| "?".into());
            let port: &String = names.entry(entry.port).or_insert_with(name);
            stations.push(Station {
                port: port.clone(),
                port_number: entry.port.0,
                mac: entry.mac.to_string(),
                vlan: None,
                age_s: entry.age_s,
            });
        });
        stations.sort_unstable();
        Ok(Fdb { stations })
    }

    /// `fdb.flush`
    pub(crate) fn flush_fdb(&mut self, params: FdbParams) -> Result<Done, Problem> {
        let Wanted { mac, port } = self.wanted(&params)?;
        let fdb = &self.shared.fdb;
        let count = match (mac, port) {
            (Some(mac), port) => usize::from(fdb.forget(VlanId(0), mac, port)),
            (None, Some(port)) => fdb.flush_port(port),
            (None, None) => fdb.flush(),
        };
        Ok(Done { count: count as u64 })
    }

    fn wanted(&self, params: &FdbParams) -> Result<Wanted, Problem> {
        let mac = params.mac.as_deref().map(|mac| mac_of("mac", mac)).transpose()?;
        let port = params.port.as_deref().map(|name| self.port_named(name)).transpose()?;
        Ok(Wanted { mac, port })
    }
}

/// A MAC address as people write it.
pub(super) fn mac_of(field: &str, text: &str) -> Result<MacAddr, Problem> {
    text.parse().map_err(|_| {
        Problem::bad_field(
            field,
            format_args!("{text:?} is no MAC address, like 52:54:00:12:34:56"),
        )
    })
}
