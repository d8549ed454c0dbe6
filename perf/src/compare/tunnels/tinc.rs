//! tinc 1.0: a mesh VPN, here as a switch, a frame a packet.

use std::fs;

use anyhow::{Context, Result};

use super::{directory, set_up, write};
use crate::compare::contender::{Site, Tunnel, find};

const INTERFACE: &str = "tinc0";

pub(in crate::compare) fn start(site: &Site<'_>) -> Result<Tunnel> {
    let program = find("tincd")?;
    let dir = directory(site, "tinc")?;
    let ends = [(site.b, "b", site.underlay_b, None), (site.a, "a", site.underlay_a, Some("b"))];
    for (host, name, underlay, connect_to) in ends {
        let own = dir.join(name);
        let hosts = own.join("hosts");
        fs::create_dir_all(&hosts).with_context(|| format!("making {}", hosts.display()))?;
        let connect = connect_to.map(|to| format!("ConnectTo = {to}\n")).unwrap_or_default();
        write(
            &own.join("tinc.conf"),
            &format!(
                "Name = {name}\nAddressFamily = ipv4\nMode = switch\nDeviceType = tap\nInterface = {INTERFACE}\n{connect}"
            ),
        )?;
        let facts = format!("Address = {}\nCipher = aes-128-cbc\nDigest = sha1\n", underlay.ipv4);
        write(&hosts.join(name), &facts)?;
        // Makes the key pair, and appends the public key to the host's file.
        host.run(&program, ["-c".as_ref(), own.as_os_str(), "-K2048".as_ref()])?;
    }
    for (of, to) in [("a", "b"), ("b", "a")] {
        let file = |end: &str| dir.join(end).join("hosts").join(of);
        fs::copy(file(of), file(to)).context("handing over tinc's host files")?;
    }
    let mut processes = Vec::new();
    for (host, name, ..) in ends {
        let (own, pidfile) = (dir.join(name), dir.join(format!("{name}.pid")));
        let pidfile = format!("--pidfile={}", pidfile.display());
        processes.push(
            host.spawn(
                &program,
                ["-c".as_ref(), own.as_os_str(), "-D".as_ref(), pidfile.as_ref()],
            )?,
        );
    }
    set_up(site, &mut processes, INTERFACE)?;
    Ok(Tunnel::of_programs(processes, [INTERFACE.into(), INTERFACE.into()]))
}
