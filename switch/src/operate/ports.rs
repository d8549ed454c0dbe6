//! `ports`: the local ones.

use super::{
    Screen,
    format::{bit_rate, bytes},
    table,
};
use crate::{
    api::{
        Client,
        types::{Port, PortKind, Ports},
    },
    exit::Failure,
};

pub(super) fn show(client: &Client, screen: Screen) -> Result<(), Failure> {
    let ports: Ports = client.get("/v1/ports")?;
    let head = ["PORT", "KIND", "MAC", "STATIONS", "IN", "OUT", "IN NOW", "STATE"];
    screen.show(&ports, || table::of(head, ports.ports.iter().map(row)))
}

fn row(port: &Port) -> [String; 8] {
    let kind = match port.kind {
        PortKind::Tap => "tap",
    };
    let state = match (port.closing, port.blocked) {
        (true, _) => "closing",
        (false, true) => "blocked",
        (false, false) => "up",
    };
    [
        port.name.clone(),
        kind.into(),
        port.mac.clone(),
        port.stations.to_string(),
        bytes(port.traffic.received_bytes),
        bytes(port.traffic.sent_bytes),
        bit_rate(port.rates.over_10_s.received_bytes_per_s),
        state.into(),
    ]
}
