//! n2n: edges that meet at a supernode and then talk directly, a frame a packet.

use anyhow::Result;

use super::set_up;
use crate::compare::contender::{ADDRESS_A, ADDRESS_B, Site, Tunnel, find};

const PORT: &str = "7654";
const INTERFACE: &str = "n2n0";

pub(in crate::compare) fn start(site: &Site<'_>) -> Result<Tunnel> {
    let (edge, supernode) = (find("edge")?, find("supernode")?);
    let at = format!("{}:{PORT}", site.underlay_a.ipv4);
    let mtu = site.inner_mtu.to_string();
    let mut processes = vec![site.a.spawn(&supernode, ["-l", PORT])?];
    for (host, address) in [(site.b, ADDRESS_B), (site.a, ADDRESS_A)] {
        let address = address.to_string();
        processes.push(host.spawn(
            &edge,
            [
                "-d",
                INTERFACE,
                "-a",
                &address,
                "-s",
                "255.255.255.0",
                "-c",
                "lab",
                "-k",
                "only for this measurement",
                "-l",
                &at,
                "-M",
                &mtu,
                "-r",
            ],
        )?);
    }
    set_up(site, &mut processes, INTERFACE)?;
    Ok(Tunnel::of_programs(processes, [INTERFACE.into(), INTERFACE.into()]))
}
