//! The addresses that this host has now. The wiring asks when the kernel says that something changed.

use std::{collections::BTreeSet, fs, io, net::IpAddr, path::Path};

/// The addresses of all interfaces, loopback and link-local ones included.
///
/// # Errors
/// What `getifaddrs` reports.
pub fn local_addresses() -> io::Result<BTreeSet<IpAddr>> {
    Ok(if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip).collect())
}

/// An address, and the interface that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostAddress {
    /// The interface's name.
    pub name: String,
    /// One of its addresses.
    pub address: IpAddr,
}

/// An address with its network, and the interface that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// The interface's name.
    pub interface: String,
    /// One of its addresses.
    pub address: IpAddr,
    /// Of the address, bits.
    pub prefix_len: u8,
}

/// The networks that this host is in, without loopback and link-local ones.
///
/// # Errors
/// What `getifaddrs` reports.
pub fn networks() -> io::Result<Vec<Network>> {
    let found = if_addrs::get_if_addrs()?.into_iter();
    let found = found.filter(|interface| !interface.is_loopback() && !interface.is_link_local());
    Ok(found
        .map(|interface| Network {
            address: interface.ip(),
            prefix_len: match &interface.addr {
                if_addrs::IfAddr::V4(v4) => v4.prefixlen,
                if_addrs::IfAddr::V6(v6) => v6.prefixlen,
            },
            interface: name_of(&interface.name),
        })
        .collect())
}

/// An address may have a label of its own: the interface's name, a colon, and anything.
fn name_of(label: &str) -> String {
    label.split(':').next().unwrap_or_default().to_owned()
}

/// The addresses of all interfaces that are up and have a carrier, with the interfaces' names, IPv4 first: it is what NATs
/// and relays mostly speak.
///
/// # Errors
/// What `getifaddrs` reports.
pub fn interfaces() -> io::Result<Vec<HostAddress>> {
    let found = if_addrs::get_if_addrs()?;
    let mut found: Vec<HostAddress> = found
        .into_iter()
        .filter(if_addrs::Interface::is_oper_up)
        .map(|interface| HostAddress { address: interface.ip(), name: name_of(&interface.name) })
        .collect();
    found.sort_by_key(|interface| interface.address.is_ipv6());
    Ok(found)
}

/// These interfaces, and those that are stacked on them: bridges that hold them, their VLANs, and what is stacked on
/// these in turn.
pub fn stacked_on<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut to_look_at: Vec<String> = names.into_iter().map(str::to_owned).collect();
    while let Some(name) = to_look_at.pop() {
        let entries = fs::read_dir(Path::new("/sys/class/net").join(&name));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let above = names.filter_map(|name| name.strip_prefix("upper_").map(str::to_owned));
        if found.insert(name) {
            to_look_at.extend(above);
        }
    }
    found
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

    #[test]
    fn nothing_is_stacked_on_what_is_not_there() {
        assert_eq!(
            stacked_on(["lo", "not/there"]).into_iter().collect::<Vec<_>>(),
            ["lo", "not/there"]
        );
    }
}
