//! The addresses that this host has now. The wiring asks once a second, so that the sessions notice a move.

use std::{collections::BTreeSet, io, net::IpAddr};

/// The addresses of all interfaces, loopback and link-local ones included.
///
/// # Errors
/// What `getifaddrs` reports.
pub fn local_addresses() -> io::Result<BTreeSet<IpAddr>> {
    Ok(if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip).collect())
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
