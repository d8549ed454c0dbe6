//! The addresses that this host has now. The wiring asks once a second, so that the sessions notice a move.

use std::{collections::BTreeSet, io, net::IpAddr};

/// The addresses of all interfaces, loopback and link-local ones included.
///
/// # Errors
/// What `getifaddrs` reports.
pub fn local_addresses() -> io::Result<BTreeSet<IpAddr>> {
    Ok(if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip).collect())
}

/// An address, and the interface that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// The interface's name.
    pub name: String,
    /// One of its addresses.
    pub address: IpAddr,
}

/// The addresses of all interfaces with the interfaces' names, IPv4 first: it is what NATs and relays mostly speak.
///
/// # Errors
/// What `getifaddrs` reports.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let found = if_addrs::get_if_addrs()?;
    let mut found: Vec<Interface> = found
        .into_iter()
        .map(|interface| Interface { address: interface.ip(), name: interface.name })
        .collect();
    found.sort_by_key(|interface| interface.address.is_ipv6());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn loopback_is_among_them() {
        let addresses = local_addresses().unwrap();
        assert!(addresses.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{addresses:?}");
    }
}
