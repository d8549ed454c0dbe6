//! Where each header of a frame sits.
//!
//! A switch forwards what it does not understand, so parsing never fails for a frame with an Ethernet header: what is
//! not IP, or contradicts itself, simply has no [`IpHeaders`]. Only the first [`MAX_HEADERS_LEN`] bytes are looked at,
//! so that a frame of which just the head has arrived parses the same as the whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice,
    TcpHeaderSlice, UdpHeaderSlice,
};
use ipop_learning::MacAddr;

use super::ETHERNET_HEADER_LEN;

/// Headers further into a frame than this are not looked for. Two VLAN tags, IPv6 and the longest TCP header leave
/// 134 bytes for IPv6 extension headers; IPv4 never needs more than 142 in all.
pub const MAX_HEADERS_LEN: usize = 256;

/// The headers of one frame. Offsets count from the destination MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Where the frame goes.
    pub destination: MacAddr,
    /// Who sent it.
    pub source: MacAddr,
    /// Bytes of the Ethernet header with up to two VLAN tags; the IP header starts here.
    pub l2_len: u16,
    /// The type of what follows the tags.
    pub ethertype: u16,
    /// `None` if the frame is not IP, or its IP header is cut short or contradicts itself.
    pub ip: Option<IpHeaders>,
}

/// The IP header, its extensions, and the transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpHeaders {
    /// Which family.
    pub version: IpVersion,
    /// Where the packet ends by its own length field. May lie beyond the frame, if the field lies; a frame may be
    /// longer (padding).
    pub packet_end: u32,
    /// Whether this is a piece of a larger packet.
    pub fragment: Fragment,
    /// Protocol number of what follows the IP header and the extension headers.
    pub protocol: u8,
    /// Where that starts.
    pub l4_start: u16,
    /// What it is.
    pub transport: Transport,
}

/// IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Place of a packet in a fragmented one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment, with the transport header; also an IPv6 packet whose fragment header says that it is whole.
    First,
    /// Any other.
    Later,
}

/// The transport header, as far as it is there, whole, and lies within the IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP with this many header bytes, 20 to 60.
    Tcp {
        /// By the data offset field.
        header_len: u16,
    },
    /// UDP, 8 header bytes.
    Udp,
    /// Another protocol; a header cut short; a later fragment; or TCP and UDP behind IPv6 extension headers that the
    /// plain pseudo-header does not cover (routing) or that forbid rewriting (authentication).
    Other,
}

/// Both ends of a UDP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpEndpoints {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
}

impl Headers {
    /// Reads a frame, or the first [`MAX_HEADERS_LEN`] bytes of a longer one. `None` for a runt.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let head = &head[..head.len().min(MAX_HEADERS_LEN)];
        // IEEE 802.3 section 3.2.
        let (destination, rest) = head.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        let mut ethertype = u16::from_be_bytes(*rest.first_chunk()?);
        let mut l2_len = ETHERNET_HEADER_LEN;
        for _ in 0..MAX_TAGS {
            let (TPID_CUSTOMER | TPID_SERVICE, Some(&[_, _, high, low])) =
                (ethertype, head.get(l2_len..).and_then(<[u8]>::first_chunk))
            else {
                break;
            };
            ethertype = u16::from_be_bytes([high, low]);
            l2_len += TAG_LEN;
        }
        let packet = &head[l2_len..];
        let ip = match ethertype {
            ETHERTYPE_IPV4 => IpHeaders::parse_v4(packet, l2_len),
            ETHERTYPE_IPV6 => IpHeaders::parse_v6(packet, l2_len),
            _ => None,
        };
        Some(Self {
            destination: MacAddr(*destination),
            source: MacAddr(*source),
            l2_len: l2_len as u16,
            ethertype,
            ip,
        })
    }

    /// Where the last header that was understood ends.
    pub fn end(&self) -> u16 {
        match self.ip {
            Some(ip) => ip.l4_start + ip.transport.header_len(),
            None => self.l2_len,
        }
    }
}

impl Transport {
    /// Bytes of the header; 0 if there is none that we know.
    pub fn header_len(self) -> u16 {
        match self {
            Self::Tcp { header_len } => header_len,
            Self::Udp => UDP_HEADER_LEN,
            Self::Other => 0,
        }
    }
}

/// Whether a frame belongs to DHCP (RFC 2131) or DHCPv6 (RFC 8415), in either direction. Old clients read it from
/// packet sockets and drop a checksum that is only partial.
pub fn is_dhcp(headers: &Headers, frame: &[u8]) -> bool {
    let Some(ip) = headers.ip else { return false };
    let Some((source, destination)) = udp_ports(&ip, frame) else { return false };
    let is_port = |port| match ip.version {
        IpVersion::V4 => matches!(port, 67 | 68),
        IpVersion::V6 => matches!(port, 546 | 547),
    };
    is_port(source) || is_port(destination)
}

/// Who sends a UDP packet to whom; `None` if the frame is none, or a later fragment of one.
pub fn udp_endpoints(headers: &Headers, frame: &[u8]) -> Option<UdpEndpoints> {
    let ip = headers.ip?;
    let (source_port, destination_port) = udp_ports(&ip, frame)?;
    let packet = frame.get(usize::from(headers.l2_len)..)?;
    let (source, destination) = match ip.version {
        IpVersion::V4 => {
            let source: &[u8; 4] = packet.get(12..)?.first_chunk()?;
            let destination: &[u8; 4] = packet.get(16..)?.first_chunk()?;
            (IpAddr::V4(Ipv4Addr::from(*source)), IpAddr::V4(Ipv4Addr::from(*destination)))
        }
        IpVersion::V6 => {
            let source: &[u8; 16] = packet.get(8..)?.first_chunk()?;
            let destination: &[u8; 16] = packet.get(24..)?.first_chunk()?;
            (IpAddr::V6(Ipv6Addr::from(*source)), IpAddr::V6(Ipv6Addr::from(*destination)))
        }
    };
    Some(UdpEndpoints {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TPID_CUSTOMER: u16 = 0x8100;
const TPID_SERVICE: u16 = 0x88a8;
const MAX_TAGS: usize = 2;
const TAG_LEN: usize = 4;
const UDP_HEADER_LEN: u16 = 8;

impl IpHeaders {
    fn parse_v4(packet: &[u8], l2_len: usize) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
        let header_len = header.slice().len();
        let total_len = usize::from(header.total_len());
        if total_len < header_len {
            return None;
        }
        let fragment = if header.fragments_offset().value() != 0 {
            Fragment::Later
        } else if header.more_fragments() {
            Fragment::First
        } else {
            Fragment::Whole
        };
        let protocol = header.protocol();
        let payload = &packet[header_len..packet.len().min(total_len).max(header_len)];
        Some(Self {
            version: IpVersion::V4,
            packet_end: (l2_len + total_len) as u32,
            fragment,
            protocol: protocol.0,
            l4_start: (l2_len + header_len) as u16,
            transport: transport(protocol, fragment, payload),
        })
    }

    fn parse_v6(packet: &[u8], l2_len: usize) -> Option<Self> {
        let header = Ipv6HeaderSlice::from_slice(packet).ok()?;
        let header_len = header.slice().len();
        let total_len = header_len + usize::from(header.payload_length());
        let payload = &packet[header_len..packet.len().min(total_len)];
        let chain = ExtensionChain::walk(header.next_header(), payload);
        let l4 = &payload[chain.len..];
        let transport = if chain.is_plain {
            transport(chain.protocol, chain.fragment, l4)
        } else {
            Transport::Other
        };
        Some(Self {
            version: IpVersion::V6,
            packet_end: (l2_len + total_len) as u32,
            fragment: chain.fragment,
            protocol: chain.protocol.0,
            l4_start: (l2_len + header_len + chain.len) as u16,
            transport,
        })
    }
}

/// The IPv6 extension headers of a packet (RFC 8200 section 4).
///
/// Walked header by header: etherparse's own chain does not stop at a later fragment, whose bytes are no headers, and
/// its iterator trusts the chain to be complete.
struct ExtensionChain {
    len: usize,
    protocol: IpNumber,
    fragment: Fragment,
    /// The pseudo-header is that of the IPv6 header's own addresses.
    is_plain: bool,
}

impl ExtensionChain {
    fn walk(first: IpNumber, payload: &[u8]) -> Self {
        let mut chain = Self { len: 0, protocol: first, fragment: Fragment::Whole, is_plain: true };
        while chain.fragment != Fragment::Later {
            let rest = &payload[chain.len..];
            match chain.protocol {
                IpNumber::IPV6_HEADER_HOP_BY_HOP
                | IpNumber::IPV6_DESTINATION_OPTIONS
                | IpNumber::IPV6_ROUTE_HEADER => {
                    let Ok(header) = Ipv6RawExtHeaderSlice::from_slice(rest) else { break };
                    chain.is_plain &= chain.protocol != IpNumber::IPV6_ROUTE_HEADER;
                    chain.len += header.slice().len();
                    chain.protocol = header.next_header();
                }
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    let Ok(header) = Ipv6FragmentHeaderSlice::from_slice(rest) else { break };
                    chain.fragment = if header.fragment_offset().value() == 0 {
                        Fragment::First
                    } else {
                        Fragment::Later
                    };
                    chain.len += header.slice().len();
                    chain.protocol = header.next_header();
                }
                _ => break,
            }
        }
        chain
    }
}

fn transport(protocol: IpNumber, fragment: Fragment, payload: &[u8]) -> Transport {
    if fragment == Fragment::Later {
        return Transport::Other;
    }
    match protocol {
        IpNumber::TCP => TcpHeaderSlice::from_slice(payload).map_or(Transport::Other, |tcp| {
            Transport::Tcp { header_len: tcp.slice().len() as u16 }
        }),
        IpNumber::UDP if UdpHeaderSlice::from_slice(payload).is_ok() => Transport::Udp,
        _ => Transport::Other,
    }
}

fn udp_ports(ip: &IpHeaders, frame: &[u8]) -> Option<(u16, u16)> {
    if ip.transport != Transport::Udp {
        return None;
    }
    let ports: &[u8; 4] = frame.get(usize::from(ip.l4_start)..)?.first_chunk()?;
    Some((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::testing::{Family, Protocol, Recipe, recipe};

    fn parse(frame: &[u8]) -> Headers {
        Headers::parse(frame).unwrap()
    }

    /// IPv6 UDP behind a chain of extension headers; `chain` holds their numbers, each header is 8 bytes.
    fn chained(chain: &[u8]) -> Vec<u8> {
        let recipe = Recipe { family: Family::V6, protocol: Protocol::Udp, ..Recipe::tcp4(40, 99) };
        let (_, frame) = recipe.build();
        let mut extensions = Vec::new();
        let numbers = [chain, &[17]].concat();
        for next in &numbers[1..] {
            extensions.extend_from_slice(&[*next, 0, 0, 0, 0, 0, 0, 0]);
        }
        let mut packet = [&frame[..54], &extensions, &frame[54..]].concat();
        packet[20] = numbers[0];
        packet[19] += extensions.len() as u8;
        packet
    }

    fn udp_frame(family: Family, source_port: u16, destination_port: u16) -> Vec<u8> {
        let (offload, mut frame) =
            Recipe { family, protocol: Protocol::Udp, ..Recipe::tcp4(40, 99) }.build();
        let l4_start = usize::from(offload.csum_start);
        frame[l4_start..l4_start + 2].copy_from_slice(&source_port.to_be_bytes());
        frame[l4_start + 2..l4_start + 4].copy_from_slice(&destination_port.to_be_bytes());
        frame
    }

    #[test]
    fn ethernet_fields() {
        let header = parse(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x86, 0xdd]);
        assert_eq!(header.destination, MacAddr([1, 2, 3, 4, 5, 6]));
        assert_eq!(header.source, MacAddr([7, 8, 9, 10, 11, 12]));
        assert_eq!(header.ethertype, 0x86dd);
        assert!(Headers::parse(&[0; 13]).is_none());
    }

    #[test]
    fn what_is_not_ip_or_contradicts_itself_has_no_ip_headers() {
        let (_, frame) = Recipe::tcp4(10, 100).build();
        let broken = |at: usize, value: u8| {
            let mut frame = frame.clone();
            frame[at] = value;
            parse(&frame).ip
        };
        assert!(broken(14, 0x45).is_some());
        assert_eq!(broken(13, 6), None);
        assert_eq!(broken(14, 0x65), None);
        assert_eq!(broken(14, 0x44), None);
        // Total length below the header's.
        assert_eq!(broken(17, 19), None);
        assert_eq!(parse(&frame[..33]).ip, None);
        let tagged = Recipe { tags: 1, ..Recipe::tcp4(10, 100) }.build().1;
        assert_eq!((parse(&tagged[..17]).l2_len, parse(&tagged[..17]).ethertype), (14, 0x8100));
    }

    #[test]
    fn a_transport_header_must_lie_within_the_packet() {
        let (_, frame) = Recipe::tcp4(100, 100).build();
        let mut short = frame.clone();
        short[17] = 20 + 31;
        let ip = parse(&short).ip.unwrap();
        assert_eq!((ip.transport, ip.packet_end), (Transport::Other, 14 + 51));
        let mut bad_offset = frame.clone();
        bad_offset[46] = 0x40;
        assert_eq!(parse(&bad_offset).ip.unwrap().transport, Transport::Other);
        assert_eq!(parse(&bad_offset).end(), 34);
    }

    #[test]
    fn extension_headers_are_walked() {
        let ip = |chain: &[u8]| parse(&chained(chain)).ip.unwrap();
        let plain = ip(&[0, 60]);
        assert_eq!((plain.transport, plain.l4_start), (Transport::Udp, 54 + 16));
        assert_eq!(plain.fragment, Fragment::Whole);
        let routed = ip(&[43, 60]);
        assert_eq!((routed.transport, routed.l4_start), (Transport::Other, 54 + 16));
        let atomic = ip(&[44]);
        assert_eq!((atomic.transport, atomic.fragment), (Transport::Udp, Fragment::First));
        let authenticated = ip(&[60, 51]);
        assert_eq!((authenticated.transport, authenticated.protocol), (Transport::Other, 51));
        // A chain that is cut off.
        let frame = chained(&[0, 60]);
        assert_eq!(parse(&frame[..65]).ip.unwrap().transport, Transport::Other);
    }

    #[test]
    fn the_bytes_of_a_later_fragment_are_no_headers() {
        let mut frame = chained(&[44, 60]);
        frame[54 + 3] = 8;
        let ip = parse(&frame).ip.unwrap();
        assert_eq!((ip.fragment, ip.transport), (Fragment::Later, Transport::Other));
        assert_eq!((ip.l4_start, ip.protocol), (62, 60));
        assert_eq!(udp_endpoints(&parse(&frame), &frame), None);
    }

    #[test]
    fn dhcp_in_either_direction() {
        for (family, source, destination, expected) in [
            (Family::V4, 68, 67, true),
            (Family::V4, 67, 68, true),
            (Family::V4, 546, 547, false),
            (Family::V6, 546, 547, true),
            (Family::V6, 547, 546, true),
            (Family::V6, 68, 67, false),
            (Family::V4, 53, 40_000, false),
        ] {
            let frame = udp_frame(family, source, destination);
            assert_eq!(is_dhcp(&parse(&frame), &frame), expected, "{family:?} {source}");
        }
        let (_, tcp) = Recipe::tcp4(10, 100).build();
        assert!(!is_dhcp(&parse(&tcp), &tcp));
    }

    #[test]
    fn endpoints_of_udp() {
        let endpoints = |frame: &[u8]| {
            let seen = udp_endpoints(&parse(frame), frame).unwrap();
            (seen.source.to_string(), seen.destination.to_string())
        };
        assert_eq!(
            endpoints(&udp_frame(Family::V4, 5_800, 9)),
            ("192.168.7.9:5800".into(), "10.250.0.77:9".into())
        );
        assert_eq!(
            endpoints(&udp_frame(Family::V6, 5_800, 9)),
            ("[fd12:304:506:708:90a:b0c:d0e:f10]:5800".into(), "[fd99::abcd:ef01]:9".into())
        );
        let (_, tcp) = Recipe::tcp4(10, 100).build();
        assert_eq!(udp_endpoints(&parse(&tcp), &tcp), None);
    }

    proptest! {
        #[test]
        fn headers_lie_where_they_were_put(recipe in recipe()) {
            let (offload, frame) = recipe.build();
            let headers = parse(&frame);
            let ip = headers.ip.unwrap();
            prop_assert_eq!(usize::from(headers.l2_len), 14 + 4 * recipe.tags);
            prop_assert_eq!(ip.packet_end as usize, frame.len());
            prop_assert_eq!(ip.l4_start, offload.csum_start);
            prop_assert_eq!(usize::from(headers.end()), frame.len() - recipe.payload_len);
        }
    }
}
