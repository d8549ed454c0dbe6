//! Between the TAP and the peers: where a frame goes, and who was behind it.

use std::{
    collections::HashMap,
    io,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use ipop_datapath::node_id::NodeId;
use tun_tap::{Iface, Mode};

use super::records::{WHOLE_HEADER_LEN, write_whole_header};

/// Frames are read into chunks of this size and stay there until QUIC has sent them.
const CHUNK_LEN: usize = 64 << 10;
/// Ethernet header and one VLAN tag.
const ETHERNET_OVERHEAD_LEN: usize = 18;
/// IEEE 802.1D's recommended ageing time.
const AGEING: Duration = Duration::from_secs(300);
const MAX_ADDRESSES: usize = 65_536;

/// The TAP, the peers that are connected, and the MAC table.
pub(super) struct Bridge {
    tap: Iface,
    max_frame_len: usize,
    ports: RwLock<HashMap<NodeId, Port>>,
    addresses: Mutex<HashMap<Mac, (NodeId, Instant)>>,
    counters: Counters,
}

type Mac = [u8; 6];

/// A connected peer as the TAP's reader sees it.
struct Port {
    connection: quinn::Connection,
    max_frame_len: usize,
    sequence: AtomicU32,
}

#[derive(Debug, Default)]
struct Counters {
    from_tap: AtomicU64,
    to_tap: AtomicU64,
    no_peer: AtomicU64,
    too_large: AtomicU64,
    refused_by_quic: AtomicU64,
    refused_by_tap: AtomicU64,
    runts: AtomicU64,
    before_hello: AtomicU64,
}

impl Bridge {
    pub(super) fn new(tap: &str, mtu: u16) -> Result<Self> {
        let tap = Iface::without_packet_info(tap, Mode::Tap)
            .with_context(|| format!("making the TAP {tap} (needs CAP_NET_ADMIN)"))?;
        Ok(Self {
            tap,
            max_frame_len: usize::from(mtu) + ETHERNET_OVERHEAD_LEN,
            ports: RwLock::default(),
            addresses: Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// The largest frame that the TAP takes.
    pub(super) fn max_frame_len(&self) -> usize {
        self.max_frame_len
    }

    /// What was counted, for people.
    pub(super) fn counters(&self) -> impl std::fmt::Debug {
        &self.counters
    }

    /// Sends frames for this node over this connection, from now on.
    pub(super) fn plug(&self, node: NodeId, connection: quinn::Connection, max_frame_len: usize) {
        let port = Port { connection, max_frame_len, sequence: AtomicU32::new(0) };
        self.ports.write().unwrap_or_else(PoisonError::into_inner).insert(node, port);
    }

    /// Ends that, unless another connection has taken over.
    pub(super) fn unplug(&self, node: NodeId, connection: &quinn::Connection) {
        let mut ports = self.ports.write().unwrap_or_else(PoisonError::into_inner);
        if ports.get(&node).is_some_and(|p| p.connection.stable_id() == connection.stable_id()) {
            ports.remove(&node);
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            addresses.retain(|_, (behind, _)| *behind != node);
        }
    }

    /// Reads frames and sends them, as long as the TAP is there; gives back why it no longer is.
    pub(super) fn read_tap(&self) -> io::Error {
        let slot_len = WHOLE_HEADER_LEN + self.max_frame_len;
        let mut chunk = BytesMut::new();
        loop {
            if chunk.len() < slot_len {
                chunk = BytesMut::zeroed(CHUNK_LEN.max(slot_len));
            }
            match self.tap.recv(&mut chunk[WHOLE_HEADER_LEN..slot_len]) {
                Ok(frame_len) => self.send(chunk.split_to(WHOLE_HEADER_LEN + frame_len)),
                Err(error) => return error,
            }
        }
    }

    /// A frame from a peer: learn, and give it to the TAP. Never to another peer: all are connected to all.
    pub(super) fn receive(&self, from: NodeId, frame: &[u8]) {
        let Some((_, source)) = macs(frame) else {
            bump(&self.counters.runts);
            return;
        };
        self.learn(source, from);
        match self.tap.send(frame) {
            Ok(_) => bump(&self.counters.to_tap),
            Err(_) => bump(&self.counters.refused_by_tap),
        }
    }

    /// A datagram came before the peer's hello.
    pub(super) fn count_early(&self) {
        bump(&self.counters.before_hello);
    }

    fn send(&self, record: BytesMut) {
        bump(&self.counters.from_tap);
        let Some((destination, _)) = macs(&record[WHOLE_HEADER_LEN..]) else {
            bump(&self.counters.runts);
            return;
        };
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        let behind = self.look_up(destination);
        match behind.and_then(|node| ports.get(&node)) {
            Some(port) => self.send_to(port, record),
            None if ports.is_empty() => bump(&self.counters.no_peer),
            None => ports.values().for_each(|port| self.send_to(port, record.clone())),
        }
    }

    fn send_to(&self, port: &Port, mut record: BytesMut) {
        let frame_len = record.len() - WHOLE_HEADER_LEN;
        if frame_len > port.max_frame_len {
            bump(&self.counters.too_large);
            return;
        }
        let sequence = port.sequence.fetch_add(1, Ordering::Relaxed);
        write_whole_header(&mut record[..WHOLE_HEADER_LEN], sequence, frame_len);
        let record: Bytes = record.freeze();
        match port.connection.send_datagram(record) {
            Ok(()) => {}
            Err(quinn::SendDatagramError::TooLarge) => bump(&self.counters.too_large),
            Err(_) => bump(&self.counters.refused_by_quic),
        }
    }

    fn look_up(&self, destination: Mac) -> Option<NodeId> {
        if is_group(destination) {
            return None;
        }
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let (node, seen) = addresses.get(&destination)?;
        (seen.elapsed() < AGEING).then_some(*node)
    }

    fn learn(&self, source: Mac, from: NodeId) {
        if is_group(source) {
            return;
        }
        let now = Instant::now();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= MAX_ADDRESSES && !addresses.contains_key(&source) {
            addresses.retain(|_, (_, seen)| now - *seen < AGEING);
            if addresses.len() >= MAX_ADDRESSES {
                return;
            }
        }
        addresses.insert(source, (from, now));
    }
}

fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    let (destination, rest) = frame.split_first_chunk()?;
    let (source, rest) = rest.split_first_chunk()?;
    (rest.len() >= 2).then_some((*destination, *source))
}

fn is_group(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
