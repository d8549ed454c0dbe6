//! Which frames belong together: a number per flow, for choosing a lane.
//!
//! Frames of one flow must not overtake one another, so what tells flows apart is only what all frames of a flow share:
//! IP addresses, and ports where every frame of the datagram has them. All fragments of a datagram, the first one too,
//! hash by addresses alone. Frames that are not IP hash by MAC addresses and type.

use super::{ETHERNET_HEADER_LEN, Fragment, Headers, IpVersion, Transport};

/// The flow's number, well mixed in all bits. Not keyed: whoever sends the frames can choose it.
#[inline]
pub fn flow_hash(headers: &Headers, head: &[u8]) -> u32 {
    hash_ip(headers, head).unwrap_or_else(|| {
        let word = |at: usize| head.get(at..).and_then(<[u8]>::first_chunk);
        // The Ethernet header, of which two bytes stand in both words.
        let words = [word(0), word(ETHERNET_HEADER_LEN - 8)];
        hash(0, &words.map(|word| word.map_or(0, |word| u64::from_be_bytes(*word))))
    })
}

#[inline]
fn hash_ip(headers: &Headers, head: &[u8]) -> Option<u32> {
    let ip = headers.ip?;
    let packet = head.get(usize::from(headers.l2_len)..)?;
    let has_ports = ip.fragment == Fragment::Whole && ip.transport != Transport::Other;
    let ports = if has_ports {
        // The protocol is left out: nothing but TCP and UDP has ports here.
        u32::from_be_bytes(*head.get(usize::from(ip.l4_start)..)?.first_chunk()?)
    } else {
        0
    };
    let word = |at: usize| Some(u64::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    match ip.version {
        IpVersion::V4 => Some(hash(ports, &[word(12)?])),
        IpVersion::V6 => Some(hash(ports, &[word(8)?, word(16)?, word(24)?, word(32)?])),
    }
}

/// An odd number with about as many ones as zeros, well spread (2^64 by the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

fn hash(seed: u32, words: &[u64]) -> u32 {
    let mix = |hash: u64, word: &u64| {
        let product = u128::from(hash ^ word) * u128::from(MULTIPLIER);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let hash = words.iter().fold(mix(u64::from(seed), &MULTIPLIER), mix);
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::frame::testing::{Family, Protocol, Recipe, recipe};

    fn flow_hash(frame: &[u8]) -> u32 {
        super::flow_hash(&Headers::parse(frame).unwrap(), frame)
    }

    fn plain(family: Family, protocol: Protocol) -> Vec<u8> {
        Recipe { family, protocol, ..Recipe::tcp4(100, 1_000) }.build().1
    }

    /// As fragment at this offset, in units of 8 bytes.
    fn fragment_v4(mut frame: Vec<u8>, offset: u16, more: u16) -> Vec<u8> {
        frame[20..22].copy_from_slice(&(offset | more << 13).to_be_bytes());
        frame
    }

    #[test]
    fn ports_and_addresses_tell_flows_apart() {
        for family in [Family::V4, Family::V6] {
            let frame = plain(family, Protocol::Tcp);
            let l4_start = Headers::parse(&frame).unwrap().ip.unwrap().l4_start;
            let mut seen = HashSet::from([flow_hash(&frame)]);
            for at in usize::from(l4_start) - 8..usize::from(l4_start) + 4 {
                let mut other = frame.clone();
                other[at] ^= 0x10;
                assert!(seen.insert(flow_hash(&other)), "byte {at}");
            }
        }
    }

    #[test]
    fn all_fragments_of_a_datagram_are_one_flow() {
        let first = fragment_v4(plain(Family::V4, Protocol::Udp), 0, 1);
        let mut later = fragment_v4(plain(Family::V4, Protocol::Udp), 8, 0);
        later[34..].fill(0x99);
        assert_eq!(flow_hash(&first), flow_hash(&later));

        let fragment_v6 = |offset: u16, fill: u8| {
            let mut frame = plain(Family::V6, Protocol::Udp);
            frame[20] = 44;
            frame[54..].fill(fill);
            frame[54..62].copy_from_slice(&[
                17,
                0,
                (offset >> 5) as u8,
                (offset << 3) as u8 | 1,
                0,
                0,
                0,
                9,
            ]);
            flow_hash(&frame)
        };
        assert_eq!(fragment_v6(0, 3), fragment_v6(8, 200));
    }

    #[test]
    fn frames_that_are_not_ip_go_by_mac() {
        let arp = |sender: u8| {
            let mut frame = [0; 60];
            frame[11] = sender;
            frame[12..14].copy_from_slice(&[8, 6]);
            flow_hash(&frame)
        };
        assert_eq!(arp(1), arp(1));
        assert_ne!(arp(1), arp(2));
    }

    #[test]
    fn flows_spread_over_lanes() {
        let mut lanes = [0; 4];
        for port in 0..4_000_u16 {
            let mut frame = plain(Family::V4, Protocol::Tcp);
            frame[36..38].copy_from_slice(&(32_768 + port).to_be_bytes());
            lanes[flow_hash(&frame) as usize % lanes.len()] += 1;
        }
        assert!(lanes.iter().all(|flows| (850..1_150).contains(flows)), "{lanes:?}");
    }

    proptest! {
        #[test]
        fn segments_stay_in_the_lane_of_their_superframe(recipe in recipe()) {
            let (offload, frame) = recipe.build();
            let what = crate::frame::describe(offload, &frame, frame.len()).unwrap();
            crate::frame::segment(&what, &frame, &mut Vec::new(), |segment| {
                let len = segment.len();
                let seen = crate::frame::describe(crate::frame::Offload::NONE, segment, len);
                assert_eq!(seen, Ok(what.of_segment(len)));
                assert_eq!(seen.unwrap().flow(), what.flow());
            })
            .unwrap();
        }
    }
}
