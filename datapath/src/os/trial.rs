//! Whether the kernel takes superframes, tried at a TAP that is still down.
//!
//! What TUNSETOFFLOAD agrees to is about frames that the kernel hands over; what it takes is another matter, and there were kernels that
//! refused all superframes written to a TAP. The driver looks at a frame's vnet header before it looks whether the device is up: it
//! answers EINVAL to what it does not take, and EIO to what it would take, and nobody ever sees the frame.

use std::os::fd::AsFd;

use etherparse::{PacketBuilder, UdpHeader};
use rustix::io::{Errno, write};

use crate::port::VNET_HEADER_LEN;

const SEGMENT_LEN: u16 = 1_000;
/// Three segments, the last one shorter.
const PAYLOAD_LEN: usize = 2_500;
const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, and kinds of segmentation (VIRTIO 1.2, section 5.1.6).
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// What the kernel takes at a TAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    /// TCP superframes, of both families.
    pub(super) tso: bool,
    /// UDP superframes.
    pub(super) uso: bool,
}

/// Tries it at one queue of a TAP that is down.
pub(super) fn taken(queue: impl AsFd) -> Taken {
    // Other errors say nothing of the header; what is wrong then shows later.
    let takes = |superframe: Vec<u8>| write(&queue, &superframe) != Err(Errno::INVAL);
    let tcp = [superframe(GSO_TCPV4), superframe(GSO_TCPV6)];
    Taken { tso: tcp.into_iter().all(takes), uso: takes(superframe(GSO_UDP_L4)) }
}

/// A superframe from nobody to nobody, behind its vnet header, as it is written to a TAP.
fn superframe(gso: u8) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    // Addresses for documentation (RFC 5737, RFC 3849).
    let (ip, ip_len) = if gso == GSO_TCPV6 {
        let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        (ethernet.ipv6(address(1), address(2), 64), IPV6_LEN)
    } else {
        (ethernet.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64), IPV4_LEN)
    };
    let (mut bytes, payload) = (vec![0; VNET_HEADER_LEN], [0; PAYLOAD_LEN]);
    // Writing to memory fails only for packets that IP cannot carry.
    let (l4_len, csum_offset, _) = if gso == GSO_UDP_L4 {
        (UdpHeader::LEN, 6, ip.udp(9, 9).write(&mut bytes, &payload))
    } else {
        (TCP_LEN, 16, ip.tcp(9, 9, 0, 0).ack(0).write(&mut bytes, &payload))
    };
    let csum_start = ETHERNET_LEN + ip_len;
    (bytes[0], bytes[1]) = (NEEDS_CSUM, gso);
    let lens = [(csum_start + l4_len) as u16, SEGMENT_LEN, csum_start as u16, csum_offset];
    for (field, value) in bytes[2..].chunks_mut(2).zip(lens) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use rustix::event::epoll;

    use super::*;
    use crate::frame::{Gso, Offload, describe};

    #[test]
    fn the_superframes_are_what_they_say() {
        for (gso, said, headers_len) in [
            (GSO_TCPV4, Gso::Tcp4 { ecn: false }, 54),
            (GSO_TCPV6, Gso::Tcp6 { ecn: false }, 74),
            (GSO_UDP_L4, Gso::Udp, 42),
        ] {
            let bytes = superframe(gso);
            let (vnet, frame) = bytes.split_first_chunk().unwrap();
            let offload = Offload::from_tap(vnet).unwrap();
            assert_eq!((offload.gso, offload.needs_csum), (said, true));
            assert_eq!(frame.len(), headers_len + PAYLOAD_LEN);
            let checked = describe(offload, frame, frame.len()).expect("a valid superframe");
            assert_eq!(checked.offload(), offload);
            assert_eq!(checked.to_tap(), *vnet);
        }
    }

    #[test]
    fn einval_is_a_refusal_and_nothing_else_is() {
        // Nothing can be written to an epoll instance, everything to /dev/null, and nothing to a descriptor for reading (EBADF).
        let refusing = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        assert_eq!(taken(&refusing), Taken { tso: false, uso: false });
        let taking = OpenOptions::new().write(true).open("/dev/null").unwrap();
        assert_eq!(taken(&taking), Taken { tso: true, uso: true });
        let silent = OpenOptions::new().read(true).open("/dev/null").unwrap();
        assert_eq!(taken(&silent), Taken { tso: true, uso: true });
    }
}
