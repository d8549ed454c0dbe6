//! The UDP port, the TAPs, the bridge and the address, each tried as far as that changes nothing: what a switch that runs
//! has open is left alone, and a TAP that does not exist yet is not made, as the trial device has shown that it can be.

use std::{fs, io, net::IpAddr};

use ipop_control::host::local_addresses::{self, Network};
use ipop_datapath::os::{
    OsError,
    interface::{Interface, Kind},
    tap,
};

use super::{
    Row,
    holders::{Holder, Holders},
};
use crate::{
    exit::ExitCode,
    run,
    settings::{Cidr, InterfaceName, Listen, Settings},
};

pub(super) const UDP_PORT: &str = "UDP port";
pub(super) const TAP: &str = "TAP";
const BRIDGE: &str = "bridge";
const ADDRESS: &str = "address";

/// What was found out about the devices, and the rows that tell of it.
pub(super) struct Devices {
    pub(super) rows: Vec<Row>,
    can_listen: bool,
}

impl Devices {
    /// `hindrance` is what keeps TAPs from being opened, if something does.
    pub(super) fn try_all(
        settings: &Settings,
        holders: &Holders,
        hindrance: Option<&'static str>,
    ) -> Self {
        let running = holders.running(settings);
        let port = udp_port(settings, holders, running);
        let can_listen = port.code().is_none_or(|code| code == ExitCode::Taken);
        let mut rows = vec![port];
        let taps = settings.taps.iter().zip(&holders.taps);
        rows.extend(taps.map(|(tap, holder)| tap_row(tap, holder.as_ref(), running, hindrance)));
        if settings.taps.is_empty() {
            rows.push(Row::not_tried(TAP, "none is named; give one with --tap NAME"));
        }
        rows.extend(settings.bridge.as_ref().map(bridge));
        if let (Some(cidr), Some(tap)) = (settings.address, settings.taps.first()) {
            rows.push(match local_addresses::networks() {
                Ok(networks) => address(cidr, tap, &networks, has_ipv6(tap)),
                Err(error) => {
                    Row::failed(ADDRESS, ExitCode::Failed, error.to_string(), "mount /proc")
                }
            });
        }
        Self { rows, can_listen }
    }

    /// Whether this host has the address to listen on, so that it can dial from it too.
    pub(super) fn can_listen(&self) -> bool {
        self.can_listen
    }
}

fn used_by_running(process: u32) -> String {
    format!("used by the switch that runs (process {process})")
}

fn udp_port(settings: &Settings, holders: &Holders, running: Option<u32>) -> Row {
    let named = match settings.listen {
        Listen::Any { port } => port.to_string(),
        Listen::At(address) => address.to_string(),
    };
    if let Some(process) = running {
        return Row::ok(UDP_PORT, format!("{named}: {}", used_by_running(process)));
    }
    let error = match run::listen(settings.listen, run::worker_count(settings.workers)) {
        Ok(ports) => {
            let free = ports.first().map_or(named, |port| port.local.to_string());
            return Row::ok(UDP_PORT, format!("{free} is free"));
        }
        Err(error) => error,
    };
    let code = ExitCode::of(error.cause.kind());
    let (found, cure) = match error.cause.kind() {
        io::ErrorKind::AddrInUse => {
            let whose = holder_or_unknown(holders.port.as_ref());
            (
                format!("{named} is in use by {whose}"),
                "end it, or choose another port with --listen",
            )
        }
        io::ErrorKind::AddrNotAvailable => (
            format!("no interface of this host has the address of {named}"),
            "give --listen an address that `ip address` shows, or leave it out to listen on all",
        ),
        io::ErrorKind::PermissionDenied => {
            (error.to_string(), "choose a port from 1024 on with --listen, or run as root")
        }
        _ => (error.to_string(), "choose another address or port with --listen"),
    };
    Row::failed(UDP_PORT, code, found, cure)
}

fn holder_or_unknown(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "a program that only root may see".to_owned(), Holder::to_string)
}

fn tap_row(
    name: &InterfaceName,
    holder: Option<&Holder>,
    running: Option<u32>,
    hindrance: Option<&'static str>,
) -> Row {
    let taken = |holder: Option<&Holder>| {
        let found = format!("{name} is in use by {}", holder_or_unknown(holder));
        Row::failed(TAP, ExitCode::Taken, found, "end it, or choose another name with --tap")
    };
    match holder {
        Some(holder) if running == Some(holder.process) => {
            return Row::ok(TAP, format!("{name}: {}", used_by_running(holder.process)));
        }
        Some(_) => return taken(holder),
        None => {}
    }
    if let Some(hindrance) = hindrance {
        return Row::not_tried(TAP, format!("{name}: needs {hindrance}"));
    }
    let kind = match Interface::named(name.as_str()) {
        Ok(interface) if !interface.exists() => {
            return Row::ok(TAP, format!("{name} will be made"));
        }
        Ok(interface) => interface.kind(),
        Err(error) => return refused(name, &error),
    };
    if matches!(kind, Kind::Bridge | Kind::Other) {
        let found = format!("{name} is there, and no TAP");
        let cure =
            format!("choose another name with --tap; `ip -d link show {name}` tells what it is");
        return Row::failed(TAP, ExitCode::Failed, found, cure);
    }
    match tap::try_attach(name.as_str()) {
        Ok(()) => {
            Row::ok(TAP, format!("{name} is there; it is attached, and left as it was found"))
        }
        Err(error) if error.cause.kind() == io::ErrorKind::ResourceBusy => taken(None),
        Err(error) => refused(name, &error),
    }
}

fn refused(name: &InterfaceName, error: &OsError) -> Row {
    let code = ExitCode::of(error.cause.kind());
    Row::failed(TAP, code, error.to_string(), format!("`ip -d link show {name}` tells more"))
}

fn bridge(name: &InterfaceName) -> Row {
    let failed = |found: String, cure: String| Row::failed(BRIDGE, ExitCode::Failed, found, cure);
    let interface = match Interface::named(name.as_str()) {
        Ok(interface) => interface,
        Err(error) => return failed(error.to_string(), "allow the system call socket".into()),
    };
    if !interface.exists() {
        let cure = format!("`ip link add {name} type bridge && ip link set {name} up`");
        return failed(format!("{name} does not exist"), cure);
    }
    if matches!(interface.kind(), Kind::Tap | Kind::Other) {
        let cure = "name a bridge with --bridge; `ip link show type bridge` lists them";
        return failed(format!("{name} is no bridge"), cure.into());
    }
    match interface.is_up() {
        Ok(true) => Row::ok(BRIDGE, format!("{name} takes the TAPs")),
        Ok(false) => {
            let cure = format!("`ip link set {name} up`");
            Row::limited(BRIDGE, format!("{name} is down: nothing crosses it"), cure)
        }
        Err(error) => failed(error.to_string(), format!("`ip link show {name}` tells more")),
    }
}

/// Whether a TAP of this name has IPv6, or will have.
fn has_ipv6(tap: &InterfaceName) -> bool {
    let disabled = |interface: &str| {
        fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6")).ok()
    };
    let disabled = disabled(tap.as_str()).or_else(|| disabled("default"));
    disabled.is_some_and(|disabled| disabled.trim() == "0")
}

/// Whether the address goes with those that the host has. The kernel takes it all the same, but two interfaces towards
/// one network keep each other from being used.
fn address(cidr: Cidr, tap: &InterfaceName, networks: &[Network], has_ipv6: bool) -> Row {
    let choose = "choose another with --address, or take the other one away";
    if cidr.address.is_ipv6() && !has_ipv6 {
        let cure =
            "`sysctl -w net.ipv6.conf.default.disable_ipv6=0`, or give --address an IPv4 address";
        return Row::failed(ADDRESS, ExitCode::Failed, format!("{cidr}: IPv6 is turned off"), cure);
    }
    let others = networks.iter().filter(|network| network.interface != tap.as_str());
    for Network { interface, address, prefix_len } in others {
        if *address == cidr.address {
            return Row::limited(ADDRESS, format!("{interface} has {address} too"), choose);
        }
        if is_within(*address, cidr.address, cidr.prefix_len.min(*prefix_len)) {
            let found = format!(
                "{cidr} and {address}/{prefix_len} of {interface} overlap: hosts of the one are looked for in the other"
            );
            return Row::limited(ADDRESS, found, choose);
        }
    }
    Row::ok(ADDRESS, format!("{cidr} for {tap}"))
}

/// Whether two addresses agree in this many bits.
fn is_within(a: IpAddr, b: IpAddr, prefix_len: u8) -> bool {
    let (differing, len) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ((a.to_bits() ^ b.to_bits()).leading_zeros(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => ((a.to_bits() ^ b.to_bits()).leading_zeros(), 128),
        _ => return false,
    };
    differing >= u32::from(prefix_len).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn addresses_that_get_in_each_others_way_are_told() {
        let tap: InterfaceName = "ipop0".parse().unwrap();
        let network = |interface: &str, cidr: &str| {
            let Cidr { address, prefix_len } = cidr.parse().unwrap();
            Network { interface: interface.into(), address, prefix_len }
        };
        let networks = [network("eth0", "192.0.2.7/24"), network("ipop0", "10.9.0.1/24")];
        let row = |cidr: &str| address(cidr.parse().unwrap(), &tap, &networks, false);
        assert_eq!(row("10.9.0.1/24").status, Status::Ok, "it is the TAP's own");
        assert_eq!(row("192.0.3.7/24").status, Status::Ok);
        for (cidr, word) in
            [("192.0.2.7/32", "too"), ("192.0.2.9/28", "overlap"), ("192.0.0.1/16", "overlap")]
        {
            let row = row(cidr);
            assert!(row.status == Status::Limited && row.found.contains(word), "{row:?}");
            assert!(row.found.contains("eth0"), "{row:?}");
        }
        let off = row("fd00::1/64");
        assert_eq!(off.status, Status::Failed(ExitCode::Failed));
        assert_eq!(
            address("fd00::1/64".parse().unwrap(), &tap, &networks, true).status,
            Status::Ok
        );
    }

    #[test]
    fn what_cannot_be_is_told_without_trying_the_rest() {
        let lo: InterfaceName = "lo".parse().unwrap();
        let none: InterfaceName = "ipopnone0".parse().unwrap();
        let holder = Holder { process: 7, name: "ipop-switch".into() };
        assert_eq!(tap_row(&none, None, None, Some("CAP_NET_ADMIN")).status, Status::NotTried);
        assert_eq!(tap_row(&none, None, None, None).status, Status::Ok);
        assert_eq!(tap_row(&lo, None, None, None).status, Status::Failed(ExitCode::Failed));
        assert_eq!(tap_row(&lo, Some(&holder), Some(7), None).status, Status::Ok);
        let other = tap_row(&lo, Some(&holder), Some(8), None);
        assert_eq!(other.status, Status::Failed(ExitCode::Taken));
        assert!(other.found.contains("another ipop-switch (process 7)"), "{other:?}");
        for (name, word) in [(&lo, "no bridge"), (&none, "does not exist")] {
            let row = bridge(name);
            assert!(row.code().is_some() && row.found.contains(word), "{row:?}");
        }
    }
}
