//! How each contender is started: one file for each program, one function in it.

pub(super) mod fastd;
pub(super) mod kernel;
pub(super) mod n2n;
pub(super) mod openvpn;
pub(super) mod own;
pub(super) mod quincy;
pub(super) mod tinc;
pub(super) mod vpncloud;
pub(super) mod wireguard;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::contender::{ADDRESS_A, ADDRESS_B, Site};
use crate::lab::{Host, Process, wait_until};

/// A fresh directory for keys and configuration.
fn directory(site: &Site<'_>, of: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = site.lab.dir().join(format!("{of}-{number}"));
    fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// Writes a file that only root may read.
fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protecting {}", path.display()))
}

/// Waits for both programs' interfaces, gives them the MTU and, if they have none yet, the addresses of the overlay.
fn set_up(site: &Site<'_>, processes: &mut [Process], interface: &str) -> Result<()> {
    for (host, address) in [(site.a, ADDRESS_A), (site.b, ADDRESS_B)] {
        wait_for_interface(host, interface, processes)?;
        host.set_mtu(interface, site.inner_mtu.into())?;
        host.ip(&["link", "set", "up", "dev", interface])?;
        let cidr = format!("{address}/24");
        if !host.ip(&["-4", "addr", "show", "dev", interface])?.contains(&cidr) {
            host.add_address(interface, &cidr)?;
        }
    }
    Ok(())
}

fn wait_for_interface(host: &Host, interface: &str, processes: &mut [Process]) -> Result<()> {
    let mut ended = false;
    let there = wait_until(Duration::from_secs(10), || {
        ended = processes.iter_mut().any(|process| !process.is_running());
        ended || host.has_interface(interface)
    });
    let said = || processes.iter().map(|p| p.stdout() + &p.stderr()).collect::<String>();
    ensure!(there && !ended, "{} gets no {interface}:\n{}", host.name(), said());
    Ok(())
}
