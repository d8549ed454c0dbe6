//! Frames by which a host tells its segment that an address is at its MAC address: whoever had it elsewhere in its cache sends
//! here from then on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipop_learning::MacAddr;

use super::internet_checksum;

/// The shortest Ethernet frame without FCS, bytes (IEEE 802.3 clause 3.2.7).
const MIN_FRAME_LEN: usize = 60;
const BROADCAST: [u8; 6] = [0xff; 6];
/// IPv6 all nodes, and the group address that it maps to (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// What a host does with packets that are not for itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum HostOrRouter {
    /// It drops them.
    Host,
    /// It is an IPv6 router: one that says that it is none is not used as one any more (RFC 4861 section 7.2.5).
    Router,
}

/// That this address is at this MAC address: an ARP announcement (RFC 5227 section 2.3), or an unsolicited neighbour
/// advertisement that overrides what is known (RFC 4861 section 7.2.6).
pub fn announcement(mac: MacAddr, address: IpAddr, role: HostOrRouter) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(mac, address),
        IpAddr::V6(address) => neighbour_advertisement(mac, address, role),
    }
}

fn arp(MacAddr(mac): MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = [BROADCAST, mac].concat();
    // ARP; Ethernet, IPv4, lengths of their addresses, request.
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&address.octets());
    frame.resize(MIN_FRAME_LEN, 0);
    frame
}

fn neighbour_advertisement(
    MacAddr(mac): MacAddr,
    address: Ipv6Addr,
    role: HostOrRouter,
) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    const ROUTER: u8 = 0x80;
    let flags = OVERRIDE | if role == HostOrRouter::Router { ROUTER } else { 0 };
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend_from_slice(&mac);
    let len = [0, message.len() as u8];
    let pseudo_header =
        [&address.octets()[..], &ALL_NODES.octets(), &[0, 0], &len, &[0, 0, 0, ICMPV6]].concat();
    let checksum = internet_checksum(&[&pseudo_header[..], &message].concat());
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = [ALL_NODES_MAC, mac].concat();
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend_from_slice(&len);
    // Whoever is not on the segment could not have sent a hop limit of 255.
    frame.extend_from_slice(&[ICMPV6, 255]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    frame.extend_from_slice(&message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xfe, 1, 2, 3, 4, 5]);

    #[test]
    fn an_arp_announcement_asks_for_its_own_address() {
        let frame = announcement(MAC, [10, 9, 0, 1].into(), HostOrRouter::Host);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 1, 2, 3, 4, 5, 8, 6]);
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[22..28], MAC.0);
        assert_eq!((&frame[28..32], &frame[38..42]), (&[10, 9, 0, 1][..], &[10, 9, 0, 1][..]));
    }

    #[test]
    fn a_neighbour_advertisement_is_sound_and_says_whether_it_is_a_routers() {
        let address = "fd00::1".parse().unwrap();
        for (role, flags) in [(HostOrRouter::Host, 0x20), (HostOrRouter::Router, 0xa0)] {
            let frame = announcement(MAC, address, role);
            assert_eq!(frame.len(), 14 + 40 + 32);
            assert_eq!((frame[20], frame[21]), (58, 255));
            let message = &frame[54..];
            assert_eq!((message[0], message[4]), (136, flags));
            assert_eq!(message[24..], [&[2, 1][..], &MAC.0].concat());
            let pseudo_header = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
            assert_eq!(internet_checksum(&[&pseudo_header, message].concat()), 0);
        }
    }
}
