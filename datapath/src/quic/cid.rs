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

/// What shows that a packet is meant for this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// A short header. Its id is looked up by `quinn-proto`, which drops it without an answer if it was not issued here.
    Short,
    /// A long header with an id that was issued here. Whoever is on the path has seen such ids.
    Issued,
    /// A long header with a keyed id: the sender knows the node id, or repeats an Initial of somebody who does.
    Keyed,
}

/// What a packet shows; `None` if it must not be seen by `quinn-proto` at all.
///
/// A short header with an unknown issued id elicits a stateless reset there. Long headers must be QUIC version 1, and their destination is a keyed or an issued id.
pub fn mark_of(packet: &[u8], initial: &InitialKey, issued: &CidKey) -> Option<Mark> {
    const LONG: u8 = 0x80;
    const FIXED: u8 = 0x40;
    const VERSION_1: [u8; 4] = [0, 0, 0, 1];
    let &first = packet.first()?;
    if first & FIXED == 0 {
        return None;
    }
    if first & LONG == 0 {
        return (packet.len() > CID_LEN).then_some(Mark::Short);
    }
    let (head, rest) = packet.split_first_chunk::<6>()?;
    if head[1..5] != VERSION_1 {
        return None;
    }
    let destination = rest.get(..usize::from(head[5]))?;
    match destination.len() {
        CID_LEN => issued.fits(destination).then_some(Mark::Issued),
        // Handshake and 0-RTT packets to a client's first id: only Initials use it once the listener's own id is known, and
        // coalesced packets follow the Initial that was checked.
        INITIAL_ID_LEN => initial.fits(destination).then_some(Mark::Keyed),
        _ => None,
    }
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
        let mark = |packet: &[u8]| mark_of(packet, &initial, &issued);
        let keyed = initial.generate(Lane(3));
        assert_eq!(keyed[0], 3);
        assert_eq!(mark(&long_header(0xc0, 1, &keyed)), Some(Mark::Keyed));
        assert_eq!(mark(&long_header(0xc0, 2, &keyed)), None, "another version is not answered");
        let of_another = InitialKey::of(NodeId([9; 32])).generate(Lane(0));
        assert_eq!(mark(&long_header(0xc0, 1, &of_another)), None);
        let own = issued.generator(1).generate_cid();
        assert_eq!(own[0], 1);
        assert_eq!(mark(&long_header(0xe0, 1, &own)), Some(Mark::Issued));
        assert_eq!(mark(&long_header(0xc0, 1, &[0; CID_LEN])), None);
        assert_eq!(mark(&long_header(0xc0, 1, &[])), None);
        for len in 0..30 {
            assert_eq!(mark(&long_header(0xc0, 1, &[7; 20])[..len]), None);
        }
        assert_eq!(mark(&[0x40; CID_LEN + 1]), Some(Mark::Short));
        assert_eq!(mark(&[0x40; CID_LEN]), None);
        assert_eq!(mark(&[0x3f; CID_LEN + 1]), None, "not QUIC: RFC 9000, 17.3.1");
        assert_eq!(mark(&long_header(0x80, 1, &keyed)), None, "not QUIC: RFC 9000, 17.2");
    }

    #[test]
    fn no_two_issued_ids_are_the_same() {
        let mut generator = CidKey::new(&[5; 32]).generator(0);
        let (one, other) = (generator.generate_cid(), generator.generate_cid());
        assert_ne!(one[1..CID_NONCE_LEN], other[1..CID_NONCE_LEN]);
        assert_eq!(generator.cid_len(), one.len());
        assert_eq!(generator.cid_lifetime(), None, "an id lives as long as its connection");
    }

    #[test]
    fn issued_ids_survive_a_restart_and_others_are_refused() {
        let before = CidKey::new(&[5; 32]).generator(0).generate_cid();
        let after = CidKey::new(&[5; 32]).generator(1);
        assert!(after.validate(&before).is_ok());
        assert!(CidKey::new(&[6; 32]).generator(0).validate(&before).is_err());
    }
}
