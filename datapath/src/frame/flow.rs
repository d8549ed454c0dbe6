//! Which frames belong together: a number per flow, for choosing a lane.
//!
//! Frames of one flow must not overtake one another, so what tells flows apart is only what all frames of a flow share:
//! IP addresses, and ports where every frame of the datagram has them. All fragments of a datagram, the first one too,
//! hash by addresses alone. Frames that are not IP hash by MAC addresses and type.

use super::{ETHERNET_HEADER_LEN, Fragment, Headers, IpVersion, Transport};

/// The flow's number, well mixed in all bits. Runts give 0. Not keyed: whoever sends the frames can choose it.
pub fn flow_hash(frame: &[u8]) -> u32 {
    Headers::parse(frame).map_or(0, |headers| flow_hash_parsed(&headers, frame))
}

/// [`flow_hash`] of a frame whose headers are known.
pub fn flow_hash_parsed(headers: &Headers, frame: &[u8]) -> u32 {
    hash_ip(headers, frame)
        .unwrap_or_else(|| hash_bytes(0, &frame[..frame.len().min(ETHERNET_HEADER_LEN)]))
}

/// An odd number with about as many ones as zeros, well spread (2^64 by the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

fn hash_ip(headers: &Headers, frame: &[u8]) -> Option<u32> {
    let ip = headers.ip?;
    let addresses = match ip.version {
        IpVersion::V4 => 12..20,
        IpVersion::V6 => 8..40,
    };
    let addresses = frame.get(usize::from(headers.l2_len)..)?.get(addresses)?;
    let has_ports = ip.fragment == Fragment::Whole && ip.transport != Transport::Other;
    let seed = if has_ports {
        let ports: &[u8; 4] = frame.get(usize::from(ip.l4_start)..)?.first_chunk()?;
        // The protocol is left out: nothing but TCP and UDP has ports here.
        u64::from(u32::from_be_bytes(*ports))
    } else {
        0
    };
    Some(hash_bytes(seed, addresses))
}

fn hash_bytes(seed: u64, bytes: &[u8]) -> u32 {
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(MULTIPLIER);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut hash = mix(seed, MULTIPLIER);
    for word in words {
        hash = mix(hash, u64::from_be_bytes(*word));
    }
    hash = mix(hash, u64::from_be_bytes(last) ^ bytes.len() as u64);
    (hash >> 32) as u32
}
