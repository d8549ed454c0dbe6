//! UDP sockets of the workers, and the control messages that ride on their packets.

use std::{
    mem::{offset_of, size_of},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};

use super::{OsError, once_released};

/// Socket buffers asked for, bytes: a train of 64 KiB for every 16 us at 4 Gbit/s, some milliseconds of scheduling.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Room for the control messages of one packet: packet info of either family, and a segment size.
pub(crate) const CONTROL_LEN: usize = 128;

/// A bound socket.
#[derive(Debug)]
pub struct UdpPort {
    /// The socket.
    pub fd: OwnedFd,
    /// Where it is bound.
    pub local: SocketAddr,
    /// Whether `UDP_GRO` is on.
    pub gro: bool,
    /// Whether `UDP_SEGMENT` may be used.
    pub gso: bool,
    /// What the kernel granted for receiving, bytes as it counts them: twice what was asked for.
    pub receive_buffer: usize,
    /// And for sending.
    pub send_buffer: usize,
}

/// Binds one listening socket for each worker, steered by the connection id's first byte.
///
/// # Errors
/// With what to do: the port is taken, the address is not this host's.
pub fn listen(address: SocketAddr, workers: u8) -> Result<Vec<UdpPort>, OsError> {
    if workers > 1 {
        // SO_REUSEPORT would let a second program of the same user in; without it the kernel says.
        drop(once_released(|| open(address, Sharing::Exclusive))?);
    }
    let sharing = if workers > 1 { Sharing::Workers } else { Sharing::Exclusive };
    let first = once_released(|| open(address, sharing))?;
    let bound = first.local;
    let mut ports = vec![first];
    for _ in 1..workers {
        ports.push(open(bound, sharing)?);
    }
    if workers > 1 {
        steer(&ports[0], workers)?;
    }
    Ok(ports)
}

/// A socket on a port of the kernel's choice: to dial from, or to speak to TURN servers from.
///
/// # Errors
/// If the kernel refuses.
pub fn ephemeral(listen: SocketAddr) -> Result<UdpPort, OsError> {
    open(SocketAddr::new(listen.ip(), 0), Sharing::Exclusive)
}

/// MTU of the interface towards an address, bytes of IP packet.
pub fn first_hop_mtu(remote: SocketAddr) -> Option<u16> {
    let local: SocketAddr = match remote {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).ok()?;
    socket.connect(remote).ok()?;
    let (level, name) = match remote {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mtu = get_option(&socket, level, name).ok()?;
    // The loopback's 65,536 is one more than fits.
    u16::try_from(mtu.min(i32::from(u16::MAX))).ok()
}

/// How often the kernel has dropped at a socket since that was opened, modulo 2^32: its receive buffer was full. A train that it had joined counts once.
pub fn receive_drops(socket: impl AsFd) -> Option<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut meminfo = [0_u32; DROPS + 1];
    let mut len = size_of_val(&meminfo) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into an array that lives for the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut meminfo).cast(),
            &raw mut len,
        )
    };
    (done == 0 && len as usize == size_of_val(&meminfo)).then_some(meminfo[DROPS])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Workers,
}

fn open(address: SocketAddr, sharing: Sharing) -> Result<UdpPort, OsError> {
    let refused = |action: &str, errno: rustix::io::Errno| {
        OsError::new(format!("cannot {action} UDP {address}"), errno)
    };
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::DGRAM, flags, None)
        .map_err(|errno| refused("open a socket for", errno))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, false).map_err(|errno| refused("share", errno))?;
    }
    if sharing == Sharing::Workers {
        sockopt::set_socket_reuseport(&fd, true).map_err(|errno| refused("share", errno))?;
    }
    bind(&fd, &address).map_err(|errno| match errno {
        rustix::io::Errno::ADDRINUSE => refused("listen on", errno).hint(
            "another program, perhaps another ipop-switch, has it: choose another --listen port",
        ),
        rustix::io::Errno::ADDRNOTAVAIL => {
            refused("listen on", errno).hint("no interface of this host has this address")
        }
        _ => refused("listen on", errno),
    })?;
    let local = getsockname(&fd).ok().and_then(|name| SocketAddr::try_from(name).ok());
    let local = local.unwrap_or(address);
    let mut port = UdpPort { fd, local, gro: false, gso: false, receive_buffer: 0, send_buffer: 0 };
    set_options(&mut port);
    Ok(port)
}

/// What the kernel refuses here makes the tunnel slower, or its path MTU smaller, but it works.
fn set_options(port: &mut UdpPort) {
    let fd = &port.fd;
    let v6 = port.local.is_ipv6();
    let _ = sockopt::set_socket_recv_buffer_size(fd, SOCKET_BUFFER_BYTES);
    let _ = sockopt::set_socket_send_buffer_size(fd, SOCKET_BUFFER_BYTES);
    port.receive_buffer = sockopt::socket_recv_buffer_size(fd).unwrap_or(0);
    port.send_buffer = sockopt::socket_send_buffer_size(fd).unwrap_or(0);
    let mut options = vec![
        // Dual-stack sockets need the IPv4 settings for mapped addresses.
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
    ];
    if v6 {
        options.push((libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE));
        options.push((libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1));
    }
    for (level, name, value) in options {
        if let Err(error) = set_option(fd, level, name, value) {
            tracing::debug!(level, name, %error, "socket option refused");
        }
    }
    port.gro = set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    port.gso = get_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
}

fn set_option(fd: impl AsFd, level: i32, name: i32, value: i32) -> std::io::Result<()> {
    // SAFETY: the value is an int that lives for the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn get_option(fd: impl AsFd, level: i32, name: i32) -> std::io::Result<i32> {
    let mut value = 0_i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into an int that lives for the call.
    let done = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
    };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(value) }
}

/// Steers packets among the sockets of a port: QUIC to the one whose number is the first byte of the destination connection id,
/// modulo their count (`docs/WIRE.md`), STUN to the first. Classic BPF, so that no privilege is needed.
fn steer(port: &UdpPort, workers: u8) -> Result<(), OsError> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load_byte = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let program = [
        op(load_byte, 0, 0, 0),
        // STUN (RFC 9443): the first worker, which all of ICE runs on.
        op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, 4),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        // A long header (top bit set) has its destination id behind version and length.
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, 0x80),
        op(load_byte, 0, 0, 6),
        op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        op(load_byte, 0, 0, 1),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, u32::from(workers)),
        op(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
    ];
    let filter =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the program, which lives for the call, and its length is right.
    let done = unsafe {
        libc::setsockopt(
            port.fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if done < 0 {
        return Err(
            OsError::last("cannot steer packets among the workers").hint("run with --workers 1")
        );
    }
    Ok(())
}

/// A socket address as the kernel reads and writes it.
pub(crate) type RawAddress = libc::sockaddr_in6;

/// The address for `sendmsg` on a socket of this family, and its length.
pub(crate) fn raw_address(remote: SocketAddr, v6_socket: bool) -> (RawAddress, u32) {
    let mapped = match remote {
        SocketAddr::V4(v4) if !v6_socket => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: all-zero is a valid `sockaddr_in6`.
            let mut raw: RawAddress = unsafe { std::mem::zeroed() };
            // SAFETY: `sockaddr_in6` is larger than `sockaddr_in` and at least as aligned.
            unsafe { (&raw mut raw).cast::<libc::sockaddr_in>().write(v4) };
            return (raw, size_of::<libc::sockaddr_in>() as u32);
        }
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0),
        SocketAddr::V6(v6) => v6,
    };
    let raw = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as u16,
        sin6_port: mapped.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: mapped.ip().octets() },
        sin6_scope_id: mapped.scope_id(),
    };
    (raw, size_of::<RawAddress>() as u32)
}

/// Reads the address of a received packet; mapped addresses become IPv4.
pub(crate) fn parse_address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes([*name.first()?, *name.get(1)?]);
    let port = u16::from_be_bytes([*name.get(2)?, *name.get(3)?]);
    match i32::from(family) {
        libc::AF_INET => {
            let at = offset_of!(libc::sockaddr_in, sin_addr);
            let octets: [u8; 4] = *name.get(at..)?.first_chunk()?;
            Some((octets, port).into())
        }
        libc::AF_INET6 => {
            let at = offset_of!(libc::sockaddr_in6, sin6_addr);
            let octets: [u8; 16] = *name.get(at..)?.first_chunk()?;
            let at = offset_of!(libc::sockaddr_in6, sin6_scope_id);
            let scope = u32::from_ne_bytes(*name.get(at..)?.first_chunk()?);
            Some(match Ipv6Addr::from(octets).to_canonical() {
                IpAddr::V4(v4) => (v4, port).into(),
                IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
            })
        }
        _ => None,
    }
}

/// What a received packet's control messages said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Received {
    /// Length of each packet of a train, 0 if there is only one.
    pub(crate) segment_len: usize,
    /// The local address that it was sent to.
    pub(crate) local_ip: Option<IpAddr>,
}

const HEADER_LEN: usize = size_of::<libc::cmsghdr>();

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// Reads control messages (cmsg(3)); what is cut short is ignored.
pub(crate) fn parse_control(mut control: &[u8]) -> Received {
    let mut received = Received::default();
    while control.len() >= HEADER_LEN {
        let field = |at: usize| control[at..at + 4].try_into().map_or(0, i32::from_ne_bytes);
        let len = control[..size_of::<usize>()].try_into().map_or(0, usize::from_ne_bytes);
        let level = field(offset_of!(libc::cmsghdr, cmsg_level));
        let kind = field(offset_of!(libc::cmsghdr, cmsg_type));
        let Some(content) = control.get(aligned(HEADER_LEN)..len) else { break };
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = content.first_chunk().map_or(0, |size| i32::from_ne_bytes(*size));
                received.segment_len = usize::try_from(size).unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let at = offset_of!(libc::in_pktinfo, ipi_addr);
                let octets = content.get(at..).and_then(<[u8]>::first_chunk::<4>);
                received.local_ip = octets.map(|octets| IpAddr::from(*octets));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets = content.first_chunk::<16>();
                received.local_ip = octets.map(|octets| Ipv6Addr::from(*octets).to_canonical());
            }
            _ => {}
        }
        control = control.get(aligned(len)..).unwrap_or(&[]);
    }
    received
}

/// The control messages of a send.
#[repr(C, align(8))]
pub(crate) struct Control {
    bytes: [u8; CONTROL_LEN],
    pub(crate) len: usize,
}

impl Control {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; CONTROL_LEN], len: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    /// Cut the buffer into packets of this length.
    pub(crate) fn put_segment_len(&mut self, segment_len: u16) {
        self.put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_len.to_ne_bytes());
    }

    /// Send from this address.
    pub(crate) fn put_source(&mut self, source: IpAddr, v6_socket: bool) {
        match source {
            IpAddr::V4(v4) if !v6_socket => {
                // in_pktinfo: interface index, address to send from, and one that only receivers look at.
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                let at = offset_of!(libc::in_pktinfo, ipi_spec_dst);
                info[at..at + 4].copy_from_slice(&v4.octets());
                self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            source => {
                let v6 = match source {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&v6.octets());
                self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    fn put(&mut self, level: i32, kind: i32, content: &[u8]) {
        let at = self.len;
        let len = aligned(HEADER_LEN) + content.len();
        let header = &mut self.bytes[at..at + aligned(len)];
        header[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        let level_at = offset_of!(libc::cmsghdr, cmsg_level);
        header[level_at..level_at + 4].copy_from_slice(&level.to_ne_bytes());
        let kind_at = offset_of!(libc::cmsghdr, cmsg_type);
        header[kind_at..kind_at + 4].copy_from_slice(&kind.to_ne_bytes());
        header[aligned(HEADER_LEN)..len].copy_from_slice(content);
        self.len += aligned(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_round_trip() {
        let mut control = Control::new();
        control.put_source("::ffff:192.0.2.7".parse().unwrap(), true);
        control.put(libc::SOL_UDP, libc::UDP_GRO, &1_452_i32.to_ne_bytes());
        let received = parse_control(&control.bytes[..control.len]);
        assert_eq!(received.local_ip, Some("192.0.2.7".parse().unwrap()));
        assert_eq!(received.segment_len, 1_452);
        for len in 0..control.len {
            parse_control(&control.bytes[..len]);
        }
    }

    #[test]
    fn packets_are_steered_to_their_worker_and_stun_to_the_first() {
        let ports = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        // First byte, and where the second one says that the packet belongs.
        let cases = [(0x00, 0), (0x01, 0), (0x03, 0), (0x04, 2), (0x40, 1), (0x40, 2), (0x7f, 5)];
        for (first, second) in cases {
            let packet = [first, second, 1, 1, 1, 1, 1, 1];
            sender.send_to(&packet, ports[0].local).unwrap();
            let expected = if first < 4 { 0 } else { usize::from(second) % 3 };
            let socket = UdpSocket::from(ports[expected].fd.try_clone().unwrap());
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            let mut received = [0; 100];
            let len = socket.recv(&mut received);
            assert_eq!(received[..len.unwrap_or(0)], packet, "{first:#x} {second}");
        }
    }

    #[test]
    fn what_a_full_socket_drops_is_counted() {
        let port = ephemeral("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(receive_drops(&port.fd), Some(0));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Each packet costs the buffer more than its bytes.
        let packets = port.receive_buffer / 1_000;
        for _ in 0..packets {
            sender.send_to(&[0x40; 1_000], port.local).unwrap();
        }
        let socket = UdpSocket::from(port.fd.try_clone().unwrap());
        let received = std::iter::from_fn(|| socket.recv(&mut [0; 1_000]).ok()).count();
        let dropped = receive_drops(&port.fd).unwrap() as usize;
        assert!(dropped > 0 && received + dropped == packets, "{received} {dropped} {packets}");
    }

    #[test]
    fn addresses_round_trip() {
        for (text, v6_socket) in
            [("192.0.2.1:5800", false), ("192.0.2.1:5800", true), ("[2001:db8::1]:9", true)]
        {
            let address: SocketAddr = text.parse().unwrap();
            let (raw, len) = raw_address(address, v6_socket);
            // SAFETY: a plain structure of integers, read as bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts((&raw const raw).cast::<u8>(), len as usize) };
            assert_eq!(parse_address(bytes), Some(address));
        }
        assert_eq!(parse_address(&[]), None);
    }
}
