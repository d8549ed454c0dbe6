//! Packets that the kernel of this host refused to send: why, for people, and of which addresses that is known.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
};

use rustix::io::Errno;

/// Addresses remembered; the oldest is forgotten for a new one.
const REMEMBERED_MAX: usize = 64;

/// Why the kernel refuses to send a packet, by its number, and what to do about it.
pub fn cause(errno: i32) -> String {
    let error = io::Error::from_raw_os_error(errno);
    let cure = match Errno::from_raw_os_error(errno) {
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => {
            "see `ip route get` for that address"
        }
        Errno::PERM | Errno::ACCESS => "a firewall or a route of this host forbids it",
        Errno::NOBUFS | Errno::NOMEM => {
            "an interface's queue is full, or memory is short: see `ip -s link`"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {cure}")
}

/// Whether the kernel refuses since it knows no way to an address, so that it depends on the address.
pub fn is_unreachable(errno: i32) -> bool {
    let errno = Errno::from_raw_os_error(errno);
    matches!(errno, Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NETDOWN)
}

/// Where the kernel refused to send to since the routes changed last.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedSends(VecDeque<(IpAddr, i32)>);

impl RefusedSends {
    pub(crate) fn note(&mut self, remote: SocketAddr, errno: i32) {
        let ip = remote.ip().to_canonical();
        self.0.retain(|(known, _)| *known != ip);
        if self.0.len() == REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((ip, errno));
    }

    /// What was refused before need not be any more.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    /// The same of one address: what is refused from now on counts.
    pub(crate) fn forget_at(&mut self, ip: IpAddr) {
        self.0.retain(|(known, _)| *known != ip.to_canonical());
    }

    /// Why, by its number, if it refused to send there.
    pub(crate) fn errno_at(&self, ip: IpAddr) -> Option<i32> {
        let refused = self.0.iter().find(|(known, _)| *known == ip.to_canonical())?;
        Some(refused.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 5_800))
    }

    #[test]
    fn the_latest_reason_of_an_address_counts_and_the_oldest_address_goes() {
        let mut refused = RefusedSends::default();
        let unreachable = Errno::NETUNREACH.raw_os_error();
        for number in 0..100 {
            refused.note(address(number), unreachable);
            refused.note(address(50), Errno::PERM.raw_os_error());
        }
        assert_eq!(refused.0.len(), REMEMBERED_MAX);
        let cause_at = |refused: &RefusedSends, ip: IpAddr| refused.errno_at(ip).map(cause);
        assert_eq!(cause_at(&refused, address(0).ip()), None);
        assert!(cause_at(&refused, address(99).ip()).unwrap().contains("ip route get"));
        let mapped = "::ffff:10.0.0.50".parse().unwrap();
        assert!(cause_at(&refused, mapped).unwrap().contains("firewall"));
        refused.forget();
        assert_eq!(cause_at(&refused, address(99).ip()), None);
    }

    #[test]
    fn a_reason_that_nobody_foresaw_is_told_as_the_kernel_tells_it() {
        assert!(cause(Errno::IO.raw_os_error()).contains("os error 5"));
        assert!(cause(Errno::NOBUFS.raw_os_error()).contains("queue is full"));
        assert!(is_unreachable(Errno::HOSTUNREACH.raw_os_error()));
        assert!(!is_unreachable(Errno::NOBUFS.raw_os_error()));
    }
}
