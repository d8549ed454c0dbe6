//! Whether the kernel takes superframes, tried at a TAP that is still down.
//!
//! What TUNSETOFFLOAD agrees to is about frames that the kernel hands over; what it takes is another matter, and there were kernels that
//! refused all superframes written to a TAP. The driver looks at a frame's vnet header before it looks whether the device is up: it
//! answers EINVAL to what it does not take, and EIO to what it would take, and nobody ever sees the frame.

use std::os::fd::AsFd;

use etherparse::{PacketBuilder, UdpHeader};
use rustix::io::{Errno, write};

use crate::frame::{ETHERNET_HEADER_LEN, Gso, Offload};

const SEGMENT_LEN: u16 = 1_000;
/// Three segments, the last one shorter.
const PAYLOAD_LEN: usize = 2_500;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;

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
    let takes = |superframe: Superframe| {
        let bytes = superframe.bytes();
        // Other errors say nothing of the header; what is wrong then shows later.
        write(&queue, &bytes) != Err(Errno::INVAL)
    };
    let tcp = [Superframe::tcp4(), Superframe::tcp6()];
    Taken { tso: tcp.into_iter().all(takes), uso: takes(Superframe::udp4()) }
}

/// A superframe from nobody to nobody.
struct Superframe {
    offload: Offload,
    headers_len: usize,
    frame: Vec<u8>,
}

impl Superframe {
    fn tcp4() -> Self {
        Self::new(Gso::Tcp4 { ecn: false }, IPV4_LEN)
    }

    fn tcp6() -> Self {
        Self::new(Gso::Tcp6 { ecn: false }, IPV6_LEN)
    }

    fn udp4() -> Self {
        Self::new(Gso::Udp, IPV4_LEN)
    }

    fn new(gso: Gso, ip_len: usize) -> Self {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        // Addresses for documentation (RFC 5737, RFC 3849).
        let ip = if ip_len == IPV4_LEN {
            ethernet.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        } else {
            let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
            ethernet.ipv6(address(1), address(2), 64)
        };
        let payload = [0; PAYLOAD_LEN];
        let mut frame = Vec::new();
        // Writing to memory fails only for packets that IP cannot carry.
        let (l4_len, csum_offset, _) = if gso == Gso::Udp {
            (UdpHeader::LEN, 6, ip.udp(9, 9).write(&mut frame, &payload))
        } else {
            (TCP_LEN, 16, ip.tcp(9, 9, 0, 0).ack(0).write(&mut frame, &payload))
        };
        let csum_start = ETHERNET_HEADER_LEN + ip_len;
        let offload = Offload {
            gso,
            gso_size: SEGMENT_LEN,
            needs_csum: true,
            csum_start: csum_start as u16,
            csum_offset,
        };
        Self { offload, headers_len: csum_start + l4_len, frame }
    }

    /// As it is written to a TAP.
    fn bytes(&self) -> Vec<u8> {
        [&self.offload.to_tap(self.headers_len as u16)[..], &self.frame].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use rustix::event::epoll;

    use super::*;
    use crate::frame::describe;

    #[test]
    fn the_superframes_are_what_they_say() {
        for superframe in [Superframe::tcp4(), Superframe::tcp6(), Superframe::udp4()] {
            let Superframe { offload, headers_len, frame } = superframe;
            assert_eq!(frame.len(), headers_len + PAYLOAD_LEN);
            let checked = describe(offload, &frame, frame.len()).expect("a valid superframe");
            assert_eq!(checked.offload(), offload);
            assert_eq!(usize::from(checked.headers_len()), headers_len);
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
