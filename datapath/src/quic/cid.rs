//! Connection ids that authenticate themselves (`docs/WIRE.md`).
//!
//! A stranger's Initial must carry a MAC keyed to the listener's node id, and every id that a node issues carries a short MAC of its own, so that a packet
//! can be recognised as meant for this node before any QUIC state is looked at. The first byte of either steers the packet to a worker.

use std::sync::Arc;

use aws_lc_rs::{
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::{command::Lane, node_id::NodeId};

/// Length of the ids that a node issues, bytes.
pub const CID_LEN: usize = 8;
/// Length of a client's first destination id, bytes.
pub const INITIAL_ID_LEN: usize = 20;

const INITIAL_NONCE_LEN: usize = 8;
const CID_NONCE_LEN: usize = 5;

/// The key that Initials to one listener are marked with. Whoever knows the node id has it.
#[derive(Clone)]
pub struct InitialKey(hmac::Key);

impl InitialKey {
    /// The key of this listener.
    pub fn of(listener: NodeId) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"ipop-switch initial 1");
        context.update(&listener.0);
        Self(hmac::Key::new(hmac::HMAC_SHA256, context.finish().as_ref()))
    }

    /// A fresh first destination id for a connection on this lane.
    pub fn generate(&self, lane: Lane) -> ConnectionId {
        let mut id = [0; INITIAL_ID_LEN];
        id[0] = lane.0;
        fill_random(&mut id[1..INITIAL_NONCE_LEN]);
        let tag = hmac::sign(&self.0, &id[..INITIAL_NONCE_LEN]);
        id[INITIAL_NONCE_LEN..]
            .copy_from_slice(&tag.as_ref()[..INITIAL_ID_LEN - INITIAL_NONCE_LEN]);
        ConnectionId::new(&id)
    }

    /// Whether a first destination id was made for this listener.
    pub fn fits(&self, id: &[u8]) -> bool {
        id.len() == INITIAL_ID_LEN && tag_fits(&self.0, id, INITIAL_NONCE_LEN)
    }
}

/// The key behind the ids that this node issues, the same in all its workers and after a restart.
#[derive(Clone)]
pub struct CidKey(Arc<hmac::Key>);

impl CidKey {
    /// From 32 secret bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Whether this node issued the id, in this life or an earlier one.
    pub fn fits(&self, id: &[u8]) -> bool {
        id.len() == CID_LEN && tag_fits(&self.0, id, CID_NONCE_LEN)
    }

    /// The generator of one worker.
    pub fn generator(&self, worker: u8) -> Box<dyn ConnectionIdGenerator> {
        Box::new(CidGenerator { key: self.clone(), worker })
    }
}

struct CidGenerator {
    key: CidKey,
    worker: u8,
}

impl ConnectionIdGenerator for CidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CID_LEN];
        id[0] = self.worker;
        fill_random(&mut id[1..CID_NONCE_LEN]);
        let tag = hmac::sign(&self.key.0, &id[..CID_NONCE_LEN]);
        id[CID_NONCE_LEN..].copy_from_slice(&tag.as_ref()[..CID_LEN - CID_NONCE_LEN]);
        ConnectionId::new(&id)
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        if self.key.fits(cid) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Whether a packet may be shown to `quinn-proto` at all.
///
/// Short headers carry an issued id or are dropped there without an answer, except that an unknown issued id elicits a stateless
/// reset. Long headers must be QUIC version 1; their destination is an id that we issued or, in an Initial only, a keyed one.
pub fn admit_packet(packet: &[u8], initial: &InitialKey, issued: &CidKey) -> bool {
    const LONG: u8 = 0x80;
    const FIXED: u8 = 0x40;
    const VERSION_1: [u8; 4] = [0, 0, 0, 1];
    let Some(&first) = packet.first() else { return false };
    if first & FIXED == 0 {
        return false;
    }
    if first & LONG == 0 {
        return packet.len() > CID_LEN;
    }
    let Some((head, rest)) = packet.split_first_chunk::<6>() else { return false };
    if head[1..5] != VERSION_1 {
        return false;
    }
    let Some(destination) = rest.get(..usize::from(head[5])) else { return false };
    match destination.len() {
        CID_LEN => issued.fits(destination),
        // Handshake and 0-RTT packets to a client's first id: only Initials use it once the listener's own id is known, and
        // coalesced packets follow the Initial that was checked.
        INITIAL_ID_LEN => initial.fits(destination),
        _ => false,
    }
}

/// Whether an admitted packet is a client's first one, before any connection.
pub fn is_first_initial(packet: &[u8]) -> bool {
    const LONG: u8 = 0x80;
    const DESTINATION_LEN_AT: usize = 5;
    packet.first().is_some_and(|first| first & LONG != 0)
        && packet.get(DESTINATION_LEN_AT).is_some_and(|len| usize::from(*len) == INITIAL_ID_LEN)
}

/// Fills with random bytes from the operating system's generator.
pub fn fill_random(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the system's random generator works");
}

fn tag_fits(key: &hmac::Key, id: &[u8], nonce_len: usize) -> bool {
    let (nonce, tag) = id.split_at(nonce_len);
    let expected = hmac::sign(key, nonce);
    // Not secret against its sender: timing reveals nothing beyond what an accepted guess would.
    expected.as_ref().starts_with(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_header(first: u8, version: u32, destination: &[u8]) -> Vec<u8> {
        let mut packet = vec![first];
        packet.extend_from_slice(&version.to_be_bytes());
        packet.push(destination.len() as u8);
        packet.extend_from_slice(destination);
        packet.resize(1_200, 0);
        packet
    }

    #[test]
    fn only_marked_packets_are_admitted() {
        let node = NodeId([1; 32]);
        let (initial, issued) = (InitialKey::of(node), CidKey::new(&[2; 32]));
        let admits = |packet: &[u8]| admit_packet(packet, &initial, &issued);
        let keyed = initial.generate(Lane(3));
        assert_eq!(keyed[0], 3);
        assert!(admits(&long_header(0xc0, 1, &keyed)));
        assert!(!admits(&long_header(0xc0, 2, &keyed)), "another version is not answered");
        assert!(!admits(&long_header(0xc0, 1, &InitialKey::of(NodeId([9; 32])).generate(Lane(0)))));
        let own = issued.generator(1).generate_cid();
        assert_eq!(own[0], 1);
        assert!(admits(&long_header(0xe0, 1, &own)));
        assert!(!admits(&long_header(0xc0, 1, &[0; CID_LEN])));
        assert!(!admits(&long_header(0xc0, 1, &[])));
        for len in 0..30 {
            assert!(!admits(&long_header(0xc0, 1, &[7; 20])[..len]));
        }
    }

    #[test]
    fn issued_ids_survive_a_restart_and_others_are_refused() {
        let before = CidKey::new(&[5; 32]).generator(0).generate_cid();
        let after = CidKey::new(&[5; 32]).generator(1);
        assert!(after.validate(&before).is_ok());
        assert!(CidKey::new(&[6; 32]).generator(0).validate(&before).is_err());
    }
}
