//! `fdb`: where stations are.

use hyper::Method;

use super::{Screen, format::duration, peers::in_path, table};
use crate::{
    api::{
        Client,
        types::{Done, Fdb, NoParams, Station},
    },
    cli::FdbCommand,
    exit::Failure,
};

pub(super) fn run(client: &Client, screen: Screen, command: &FdbCommand) -> Result<(), Failure> {
    match command {
        FdbCommand::Show { mac, .. } => {
            let fdb: Fdb = client.get(&address(mac.as_deref(), None))?;
            let head = ["PORT", "VLAN", "MAC", "AGE"];
            screen.show(&fdb, || table::of(head, fdb.stations.iter().map(row)))
        }
        FdbCommand::Flush { mac, port, .. } => {
            let path = address(mac.as_deref(), port.as_deref());
            let done: Done = client.send(Method::DELETE, &path, &NoParams {})?;
            screen.show(&done, || format!("forgot {} stations\n", done.count))
        }
    }
}

fn address(mac: Option<&str>, port: Option<&str>) -> String {
    let mac = mac.map(|mac| format!("mac={}", in_path(mac)));
    let port = port.map(|port| format!("port={}", in_path(port)));
    let query: Vec<String> = mac.into_iter().chain(port).collect();
    format!("/v1/fdb?{}", query.join("&"))
}

fn row(station: &Station) -> [String; 4] {
    let vlan = station.vlan.map_or_else(|| "-".into(), |vlan| vlan.to_string());
    [station.port.clone(), vlan, station.mac.clone(), duration(f64::from(station.age_s))]
}
