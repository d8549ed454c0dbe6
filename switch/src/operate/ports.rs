//! `ports`: the local ones, and changing them.

use hyper::Method;

use super::{
    Screen,
    format::{bit_rate, bytes},
    peers::in_path,
    table,
};
use crate::{
    api::{
        Client,
        types::{AddPort, Done, NoParams, Port, PortKind, Ports},
    },
    cli::PortsCommand,
    exit::{ExitCode, Failure},
    settings::tap_of_port,
};

pub(super) fn run(
    client: &Client,
    screen: Screen,
    command: Option<&PortsCommand>,
) -> Result<(), Failure> {
    match command {
        None => show(client, screen),
        Some(PortsCommand::Add { port, .. }) => {
            let name = tap_of_port(port)
                .map_err(|why| Failure::new(ExitCode::Usage, anyhow::anyhow!("{why}")))?;
            let params = AddPort { kind: PortKind::Tap, name: name.as_str().to_owned() };
            let port: Port = client.send(Method::POST, "/v1/ports", &params)?;
            screen.show(&port, || format!("{} is open, {}\n", port.name, port.mac))
        }
        Some(PortsCommand::Remove { name, .. }) => {
            let path = format!("/v1/ports/{}", in_path(name));
            let done: Done = client.send(Method::DELETE, &path, &NoParams {})?;
            screen.show(&done, || format!("{name} is closed\n"))
        }
        Some(PortsCommand::Address { name, address, .. }) => {
            let path = format!("/v1/ports/{}/address", in_path(name));
            let body = serde_json::json!({ "address": address });
            let done: Done = client.send(Method::PUT, &path, &body)?;
            screen.show(&done, || format!("{name} has {address}\n"))
        }
    }
}

fn show(client: &Client, screen: Screen) -> Result<(), Failure> {
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
