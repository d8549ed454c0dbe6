//! This host's addresses on its segments, at the MAC addresses that they have now: the node makes them known there.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use ipop_control::{
    host::local_addresses::{self, interfaces},
    node::{Input, OwnAddress},
};
use ipop_datapath::{MacAddr, frame::HostOrRouter, os::interface::Interface};

use super::{Switch, devices::OpenTap};

/// Addresses that are announced, on each segment.
const MAX_ADDRESSES: usize = 16;

impl Switch {
    /// Looks at the addresses of this host on the segments of its TAPs.
    pub(super) fn look_at_own_addresses(&mut self, now: Instant) {
        let Ok(addresses) = interfaces() else { return };
        // Nobody may be told of an address that turns out to be another host's (RFC 4862 section 5.4).
        let unproved = unproved(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
        let mut looked_at = Vec::new();
        let mut own = Vec::new();
        let open =
            self.devices.taps.iter().filter(|open| self.node.local_ports().is_open(open.port));
        for OpenTap { port, tap, .. } in open {
            let name = tap.bridge().unwrap_or_else(|| tap.name.clone());
            if looked_at.contains(&name) {
                continue;
            }
            let Ok((mac, role)) = mac_and_role(&name) else { continue };
            let of_it = announced(&addresses, &unproved, &name);
            own.extend(of_it.map(|address| OwnAddress { tap: *port, mac, address, role }));
            looked_at.push(name);
        }
        self.node.handle(now, Input::OwnAddresses(own));
    }
}

/// The addresses of the interface of this name that others are told of.
fn announced(
    addresses: &[local_addresses::HostAddress],
    unproved: &[(String, IpAddr)],
    name: &str,
) -> impl Iterator<Item = IpAddr> {
    let of_it = addresses.iter().filter(move |found| found.name == name);
    let of_it = of_it.map(|found| found.address);
    of_it
        .filter(move |address| !unproved.contains(&(name.to_owned(), *address)))
        .take(MAX_ADDRESSES)
}

fn mac_and_role(name: &str) -> Result<(MacAddr, HostOrRouter), ipop_datapath::os::OsError> {
    let interface = Interface::named(name)?;
    let role = if interface.is_ipv6_router() { HostOrRouter::Router } else { HostOrRouter::Host };
    Ok((interface.mac()?, role))
}

/// The IPv6 addresses that are being looked for elsewhere, or were found there, by interface; of `/proc/net/if_inet6`.
fn unproved(table: &str) -> Vec<(String, IpAddr)> {
    const TENTATIVE: u32 = 0x40;
    const FAILED: u32 = 0x08;
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let name = fields.next()?.to_owned();
        let is_unproved = flags & (TENTATIVE | FAILED) != 0;
        is_unproved.then_some((name, Ipv6Addr::from_bits(address).into()))
    };
    table.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_may_be_another_hosts_are_told_from_those_that_are_own() {
        let line = |last: u8, flags: &str| {
            format!("fd0000000000000000000000000000{last:02x} 07 40 00 {flags}    ipop0\n")
        };
        let lines = [line(1, "80"), line(2, "c0"), line(3, "48"), line(4, "88")];
        let table = lines.concat() + "nonsense\n\n";
        let expected = ["fd00::2", "fd00::3", "fd00::4"];
        let expected = expected.map(|ip| ("ipop0".into(), ip.parse().unwrap()));
        assert_eq!(unproved(&table), expected);
    }
    #[test]
    fn of_an_interface_sixteen_addresses_are_announced_and_none_that_may_be_another_hosts() {
        let ip = |last: u8| IpAddr::from([10, 9, 0, last]);
        let at = |name: &str, last| local_addresses::HostAddress {
            name: name.into(),
            address: ip(last),
        };
        let addresses: Vec<_> = (0..40).flat_map(|n| [at("eth0", n), at("ipop0", n)]).collect();
        let unproved = [("eth0".into(), ip(0)), ("ipop0".into(), ip(1))];
        let told: Vec<IpAddr> = announced(&addresses, &unproved, "ipop0").collect();
        let expected: Vec<IpAddr> = [0].into_iter().chain(2..17).map(ip).collect();
        assert_eq!(told, expected);
    }
}
