//! IP addresses of an interface, through rtnetlink(7): the ioctl for IPv4 would replace the address that is there.

use std::net::{IpAddr, Ipv4Addr};

use rustix::io::Errno;

use super::{interface::Cidr, netlink::Request};

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Add,
    Remove,
}

/// Changes one address of the interface with this index. Adding one that is there is EEXIST.
pub(super) fn change(index: i32, cidr: Cidr, change: Change) -> Result<(), Errno> {
    request(index, cidr, change).send()
}

/// `ifaddrmsg` and the address as attributes.
fn request(index: i32, cidr: Cidr, change: Change) -> Request {
    let (kind, flags) = match change {
        Change::Add => (libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
        Change::Remove => (libc::RTM_DELADDR, 0),
    };
    let family = if cidr.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fixed = [family as u8, cidr.prefix_len, 0, libc::RT_SCOPE_UNIVERSE];
    let request = Request::new(kind, flags, &[fixed, index.to_ne_bytes()].concat());
    match cidr.address {
        IpAddr::V4(address) => {
            let octets = address.octets();
            let request =
                request.attribute(libc::IFA_LOCAL, &octets).attribute(libc::IFA_ADDRESS, &octets);
            if change == Change::Add && cidr.prefix_len < 31 {
                let broadcast = broadcast(address, cidr.prefix_len);
                return request.attribute(libc::IFA_BROADCAST, &broadcast.octets());
            }
            request
        }
        IpAddr::V6(address) => request.attribute(libc::IFA_ADDRESS, &address.octets()),
    }
}

fn broadcast(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() | host_bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::netlink::HEADER_LEN;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let cidr = Cidr { address: [10, 9, 1, 2].into(), prefix_len: 20 };
        let message = request(7, cidr, Change::Add).finish();
        assert_eq!(message.len(), HEADER_LEN + 8 + 3 * 8);
        assert_eq!(message[..4], (message.len() as u32).to_ne_bytes());
        assert_eq!(message[16..24], [[2, 20, 0, 0], 7_i32.to_ne_bytes()].concat());
        assert_eq!(message[28..32], [10, 9, 1, 2]);
        assert_eq!(message[44..], [10, 9, 15, 255]);

        let cidr = Cidr { address: "fd00::1".parse().unwrap(), prefix_len: 64 };
        let message = request(7, cidr, Change::Remove).finish();
        assert_eq!(message.len(), HEADER_LEN + 8 + 20);
        assert_eq!(message[16..18], [libc::AF_INET6 as u8, 64]);
        assert_eq!(message.last(), Some(&1));
    }

    #[test]
    fn the_kernel_answers() {
        let cidr = Cidr { address: [127, 9, 9, 9].into(), prefix_len: 32 };
        // No interface has this index; without CAP_NET_ADMIN the kernel does not even look.
        let error = change(i32::MAX, cidr, Change::Remove).unwrap_err();
        assert!([Errno::NODEV, Errno::PERM].contains(&error), "{error}");
    }

    #[test]
    fn broadcast_addresses() {
        let address = Ipv4Addr::new(10, 9, 8, 7);
        assert_eq!(broadcast(address, 24), Ipv4Addr::new(10, 9, 8, 255));
        assert_eq!(broadcast(address, 0), Ipv4Addr::BROADCAST);
        assert_eq!(broadcast(address, 32), address);
    }
}
