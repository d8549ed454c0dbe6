//! wireguard-go: WireGuard in user space, IP packets only.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;

use super::{directory, wait_for_interface};
use crate::compare::contender::{ADDRESS_A, ADDRESS_B, Site, Tunnel, find};

const PORT: &str = "51820";

pub(in crate::compare) fn start(site: &Site<'_>) -> Result<Tunnel> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let program = find("wireguard-go")?;
    let dir = directory(site, "wireguard")?;
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let ends = [
        (site.b, site.underlay_a, ADDRESS_B, ADDRESS_A),
        (site.a, site.underlay_b, ADDRESS_A, ADDRESS_B),
    ];
    // The control sockets are named after the interfaces and lie in one directory for the whole machine.
    let name = |host: &str| format!("wg{:x}-{number:x}{host}", std::process::id());
    let key_file = |host: &str| dir.join(host);
    for (host, ..) in ends {
        let file = key_file(host.name());
        let make = format!("umask 077; wg genkey | tee {0} | wg pubkey > {0}.pub", file.display());
        host.run("sh", ["-c", &make])?;
    }
    let mut processes = Vec::new();
    for (host, ..) in ends {
        processes.push(host.spawn(&program, ["-f", &name(host.name())])?);
    }
    for (host, other, own_address, other_address) in ends {
        let interface = name(host.name());
        wait_for_interface(host, &interface, &mut processes)?;
        let other_host = if host.name() == site.a.name() { site.b } else { site.a };
        let set = format!(
            "wg set {interface} listen-port {PORT} private-key {} peer $(cat {}.pub) allowed-ips {other_address}/32 endpoint {}:{PORT}",
            key_file(host.name()).display(),
            key_file(other_host.name()).display(),
            other.ipv4,
        );
        host.run("sh", ["-c", &set])?;
        host.set_mtu(&interface, site.inner_mtu.into())?;
        host.add_address(&interface, &format!("{own_address}/24"))?;
        host.ip(&["link", "set", "up", "dev", &interface])?;
    }
    Ok(Tunnel::of_programs(processes, [name(site.a.name()), name(site.b.name())]))
}
