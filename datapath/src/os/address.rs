//! IP addresses of an interface, through rtnetlink(7): the ioctl for IPv4 would replace the address that is there.

use std::net::{IpAddr, Ipv4Addr};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
        recv, sendto, socket_with,
    },
};

use super::interface::Cidr;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Add,
    Remove,
}

/// `struct nlmsghdr`, with an `int` after it in an acknowledgement.
const HEADER_LEN: usize = 16;

/// Changes one address of the interface with this index. Adding one that is there is EEXIST.
pub(super) fn change(index: i32, cidr: Cidr, change: Change) -> Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE.
        None,
    )?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &request(index, cidr, change), SendFlags::empty(), &kernel)?;
    let mut answer = [0; 256];
    let (len, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let code = answer[..len].get(HEADER_LEN..HEADER_LEN + 4).and_then(|code| code.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(-code)),
        None => Err(Errno::PROTO),
    }
}

/// A message to the kernel: `nlmsghdr`, `ifaddrmsg`, attributes. Everything in it is a multiple of 4 long.
fn request(index: i32, cidr: Cidr, change: Change) -> Vec<u8> {
    let add = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let (kind, more) = match change {
        Change::Add => (libc::RTM_NEWADDR, add),
        Change::Remove => (libc::RTM_DELADDR, 0),
    };
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | more;
    let family = if cidr.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut message = vec![0; 4];
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(flags as u16).to_ne_bytes());
    // Sequence and port, which one message on a socket of its own does not need.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family as u8, cidr.prefix_len, 0, libc::RT_SCOPE_UNIVERSE]);
    message.extend_from_slice(&index.to_ne_bytes());
    let mut attribute = |kind: u16, bytes: &[u8]| {
        message.extend_from_slice(&(4 + bytes.len() as u16).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(bytes);
    };
    match cidr.address {
        IpAddr::V4(address) => {
            attribute(libc::IFA_LOCAL, &address.octets());
            attribute(libc::IFA_ADDRESS, &address.octets());
            if change == Change::Add && cidr.prefix_len < 31 {
                attribute(libc::IFA_BROADCAST, &broadcast(address, cidr.prefix_len).octets());
            }
        }
        IpAddr::V6(address) => attribute(libc::IFA_ADDRESS, &address.octets()),
    }
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}

fn broadcast(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() | host_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let cidr = Cidr { address: [10, 9, 1, 2].into(), prefix_len: 20 };
        let message = request(7, cidr, Change::Add);
        assert_eq!(message.len(), HEADER_LEN + 8 + 3 * 8);
        assert_eq!(message[..4], (message.len() as u32).to_ne_bytes());
        assert_eq!(message[16..24], [[2, 20, 0, 0], 7_i32.to_ne_bytes()].concat());
        assert_eq!(message[28..32], [10, 9, 1, 2]);
        assert_eq!(message[44..], [10, 9, 15, 255]);

        let cidr = Cidr { address: "fd00::1".parse().unwrap(), prefix_len: 64 };
        let message = request(7, cidr, Change::Remove);
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
