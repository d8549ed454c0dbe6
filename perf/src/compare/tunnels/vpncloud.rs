//! vpncloud 2: a peer-to-peer VPN over UDP, a frame a packet.

use anyhow::Result;

use super::set_up;
use crate::compare::contender::{ADDRESS_A, ADDRESS_B, Site, Tunnel, find};

const PORT: u16 = 3210;
const INTERFACE: &str = "vpncloud0";

pub(in crate::compare) fn start(site: &Site<'_>) -> Result<Tunnel> {
    let program = find("vpncloud")?;
    // It asks the kernel for its address towards the internet, and panics where there is no way there.
    site.a.ip(&["route", "replace", "default", "via", &site.underlay_b.ipv4.to_string()])?;
    site.b.ip(&["route", "replace", "default", "via", &site.underlay_a.ipv4.to_string()])?;
    let mut processes = Vec::new();
    for (host, own, other, address) in [
        (site.b, site.underlay_b, site.underlay_a, ADDRESS_B),
        (site.a, site.underlay_a, site.underlay_b, ADDRESS_A),
    ] {
        let listen = format!("{}:{PORT}", own.ipv4);
        let peer = format!("{}:{PORT}", other.ipv4);
        let ip = format!("{address}/24");
        processes.push(host.spawn(
            &program,
            [
                "--type",
                "tap",
                "--mode",
                "switch",
                "--device",
                INTERFACE,
                "--listen",
                &listen,
                "--peer",
                &peer,
                "--ip",
                &ip,
                "--password",
                "only for this measurement",
                "--algorithm",
                "aes128",
                "--no-port-forwarding",
                "--no-auto-claim",
                "--quiet",
            ],
        )?);
    }
    set_up(site, &mut processes, INTERFACE)?;
    Ok(Tunnel::of_programs(processes, [INTERFACE.into(), INTERFACE.into()]))
}
