//! Frames for tests, built and taken apart with etherparse alone, so that this crate's arithmetic is not its own judge.

use etherparse::{
    IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
    checksum::Sum16BitWords,
};
use proptest::prelude::*;

use super::{Gso, Offload};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const CWR: u8 = 0x80;

const SOURCE_V4: [u8; 4] = [192, 168, 7, 9];
const DESTINATION_V4: [u8; 4] = [10, 250, 0, 77];
const SOURCE_V6: [u8; 16] = [0xfd, 0x12, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const DESTINATION_V6: [u8; 16] = [0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd, 0xef, 1];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// What a superframe is made of.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) tags: usize,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    /// IPv4 options in units of 4 bytes, up to 10; IPv6 hop-by-hop options in units of 8.
    pub(crate) ip_option_units: usize,
    /// In units of 4 bytes, up to 10.
    pub(crate) tcp_option_units: usize,
    pub(crate) payload_len: usize,
    pub(crate) gso_size: u16,
    pub(crate) flags: u8,
    pub(crate) urgent: u16,
    pub(crate) sequence: u32,
    pub(crate) identification: u16,
    pub(crate) seed: u8,
}

impl Recipe {
    /// TCP over IPv4 without anything unusual.
    pub(crate) fn tcp4(payload_len: usize, gso_size: u16) -> Self {
        Self {
            tags: 0,
            family: Family::V4,
            protocol: Protocol::Tcp,
            ip_option_units: 0,
            tcp_option_units: 3,
            payload_len,
            gso_size,
            flags: ACK | PSH,
            urgent: 0,
            sequence: 0xffff_f000,
            identification: 0xfffe,
            seed: 1,
        }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        (0..self.payload_len)
            .map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ self.seed)
            .collect()
    }

    pub(crate) fn segments(&self) -> usize {
        self.payload_len.div_ceil(usize::from(self.gso_size))
    }

    /// The superframe as a TAP would hand it over.
    pub(crate) fn build(&self) -> (Offload, Vec<u8>) {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.tags {
            let tpid: u16 = if tag + 1 < self.tags { 0x88a8 } else { 0x8100 };
            frame.extend_from_slice(&tpid.to_be_bytes());
            frame.extend_from_slice(&[0x60, 7 + tag as u8]);
        }
        let l4_header_len = self.l4_header().len();
        self.push_ip(&mut frame, l4_header_len + self.payload_len);
        let csum_start = frame.len() as u16;
        frame.extend_from_slice(&self.l4_header());
        frame.extend_from_slice(&self.payload());
        let ecn = self.flags & CWR != 0;
        let gso = match (self.protocol, self.family) {
            (Protocol::Tcp, Family::V4) => Gso::Tcp4 { ecn },
            (Protocol::Tcp, Family::V6) => Gso::Tcp6 { ecn },
            (Protocol::Udp, _) => Gso::Udp,
        };
        let csum_offset = if self.protocol == Protocol::Tcp { 16 } else { 6 };
        let gso_size = self.gso_size;
        (Offload { needs_csum: true, gso, gso_size, csum_start, csum_offset }, frame)
    }

    fn number(&self) -> IpNumber {
        if self.protocol == Protocol::Tcp { IpNumber::TCP } else { IpNumber::UDP }
    }

    fn push_ip(&self, frame: &mut Vec<u8>, l4_len: usize) {
        match self.family {
            Family::V4 => {
                let mut ip =
                    Ipv4Header::new(0, 64, self.number(), SOURCE_V4, DESTINATION_V4).unwrap();
                ip.options = vec![1; self.ip_option_units * 4].as_slice().try_into().unwrap();
                ip.set_payload_len(l4_len).unwrap();
                ip.identification = self.identification;
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend_from_slice(&[0x08, 0]);
                frame.extend_from_slice(&ip.to_bytes());
            }
            Family::V6 => {
                let options_len = self.ip_option_units * 8;
                let ip = Ipv6Header {
                    payload_length: (options_len + l4_len) as u16,
                    next_header: if options_len > 0 { IpNumber(0) } else { self.number() },
                    hop_limit: 64,
                    source: SOURCE_V6,
                    destination: DESTINATION_V6,
                    ..Default::default()
                };
                frame.extend_from_slice(&[0x86, 0xdd]);
                frame.extend_from_slice(&ip.to_bytes());
                if options_len > 0 {
                    frame.extend_from_slice(&[self.number().0, (self.ip_option_units - 1) as u8]);
                    // One PadN option fills the rest.
                    frame.extend_from_slice(&[1, (options_len - 4) as u8]);
                    frame.extend(std::iter::repeat_n(0, options_len - 4));
                }
            }
        }
    }

    fn l4_header(&self) -> Vec<u8> {
        match self.protocol {
            Protocol::Tcp => {
                let mut tcp = TcpHeader::new(443, 50_123, self.sequence, 1_000);
                tcp.acknowledgment_number = 0x1234_5678;
                tcp.urgent_pointer = self.urgent;
                tcp.set_options_raw(&vec![1; self.tcp_option_units * 4]).unwrap();
                tcp.checksum = self.partial_sum(tcp.header_len() + self.payload_len);
                let mut bytes = tcp.to_bytes().to_vec();
                bytes[13] = self.flags;
                bytes
            }
            Protocol::Udp => {
                let len = 8 + self.payload_len;
                let checksum = self.partial_sum(len);
                UdpHeader { source_port: 68, destination_port: 67, length: len as u16, checksum }
                    .to_bytes()
                    .to_vec()
            }
        }
    }

    fn partial_sum(&self, l4_len: usize) -> u16 {
        let addresses = match self.family {
            Family::V4 => [SOURCE_V4, DESTINATION_V4].concat(),
            Family::V6 => [SOURCE_V6, DESTINATION_V6].concat(),
        };
        let sum = Sum16BitWords::new()
            .add_slice(&addresses)
            .add_2bytes([0, self.number().0])
            .add_4bytes((l4_len as u32).to_be_bytes());
        !sum.ones_complement().to_be()
    }
}

/// Superframes of all kinds, most of a few kilobytes.
pub(crate) fn recipe() -> impl Strategy<Value = Recipe> {
    let shape = (
        0..=2_usize,
        prop_oneof![Just(Family::V4), Just(Family::V6)],
        prop_oneof![2 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp)],
        0..=10_usize,
        0..=10_usize,
    );
    let sizes = (100..1_500_u16, prop_oneof![9 => 1..6_000_usize, 1 => 6_000..60_000_usize]);
    let fields = (any::<u8>(), any::<u16>(), any::<u32>(), any::<u16>(), any::<u8>());
    (shape, sizes, fields).prop_map(|(shape, (gso_size, payload_len), fields)| {
        let (tags, family, protocol, ip_option_units, tcp_option_units) = shape;
        let (flags, urgent, sequence, identification, seed) = fields;
        let payload_len = match protocol {
            Protocol::Tcp => payload_len,
            Protocol::Udp => payload_len.min(usize::from(gso_size) * 128),
        };
        Recipe {
            tags,
            family,
            protocol,
            ip_option_units,
            tcp_option_units,
            payload_len,
            gso_size,
            flags: flags & !SYN,
            urgent,
            sequence,
            identification,
            seed,
        }
    })
}

/// What one frame on the wire said; UDP leaves TCP's fields zero, IPv6 the identification.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wire {
    pub(crate) identification: u16,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    pub(crate) urgent: u16,
    pub(crate) payload: Vec<u8>,
}

/// Takes a frame apart and demands that its lengths and checksums are right.
pub(crate) fn read_sound(frame: &[u8]) -> Wire {
    let packet = SlicedPacket::from_ethernet(frame).expect("etherparse reads the frame");
    let mut wire = Wire::default();
    let ip_end = match packet.net.as_ref().expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let sound = header.to_header().calc_header_checksum();
            assert_eq!(header.header_checksum(), sound, "IPv4 header checksum");
            wire.identification = header.identification();
            header.slice().as_ptr() as usize + usize::from(header.total_len())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            header.slice().as_ptr() as usize + 40 + usize::from(header.payload_length())
        }
        NetSlice::Arp(_) => panic!("not IP"),
    };
    assert_eq!(ip_end, frame.as_ptr_range().end as usize, "the packet fills the frame");
    let is_v4 = matches!(packet.net, Some(NetSlice::Ipv4(_)));
    let (carried, sound) = match packet.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            wire.sequence = tcp.sequence_number();
            wire.flags = tcp.slice()[13];
            wire.urgent = tcp.urgent_pointer();
            wire.payload = tcp.payload().to_vec();
            let sound = if is_v4 {
                tcp.calc_checksum_ipv4(SOURCE_V4, DESTINATION_V4)
            } else {
                tcp.calc_checksum_ipv6(SOURCE_V6, DESTINATION_V6)
            };
            (tcp.checksum(), sound.unwrap())
        }
        TransportSlice::Udp(udp) => {
            wire.payload = udp.payload().to_vec();
            let header = udp.to_header();
            let sound = if is_v4 {
                header.calc_checksum_ipv4_raw(SOURCE_V4, DESTINATION_V4, udp.payload())
            } else {
                header.calc_checksum_ipv6_raw(SOURCE_V6, DESTINATION_V6, udp.payload())
            };
            assert_ne!(udp.checksum(), 0, "UDP's zero means none");
            (udp.checksum(), sound.unwrap())
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    };
    // 0 and 0xffff are one number in ones' complement.
    assert_eq!(carried % 0xffff, sound % 0xffff, "transport checksum");
    wire
}
