//! Clients of the real QUIC and TLS that know the listener's id, answer its Retry, acknowledge what it sends, and never finish a handshake.

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::BytesMut;
use ipop_datapath::{
    command::Lane,
    node_id::NodeId,
    quic::{CidKey, InitialKey, TlsIdentity, tls, transport::endpoint_config},
};
use quinn_proto::{
    ClientConfig, ConnectError, Connection, ConnectionHandle, ConnectionId, DatagramEvent,
    Endpoint, EndpointEvent, Side, TransportConfig, TransportError,
    crypto::{
        self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
        rustls::QuicClientConfig,
    },
    transport_parameters::TransportParameters,
};

use crate::siege::Packet;

pub(crate) struct Attackers {
    endpoint: Endpoint,
    crypto: Arc<NeverFinishes>,
    target: (NodeId, SocketAddr),
    connections: BTreeMap<usize, (Connection, SocketAddr)>,
    order: VecDeque<ConnectionHandle>,
    /// How many of the handshakes were answered by the listener's TLS.
    pub(crate) answered: Arc<AtomicUsize>,
}

impl Attackers {
    pub(crate) fn new(identity: &TlsIdentity, target: (NodeId, SocketAddr)) -> Self {
        let answered = Arc::new(AtomicUsize::new(0));
        let tls = tls::client_config(identity, target.0).expect("a sound identity");
        let config = endpoint_config(&CidKey::new(&[7; 32]), &[7; 32], 0);
        Self {
            endpoint: Endpoint::new(Arc::new(config), None, true, Some([7; 32])),
            crypto: Arc::new(NeverFinishes {
                tls,
                answered: answered.clone(),
                halves: AtomicBool::new(false),
            }),
            target,
            connections: BTreeMap::new(),
            order: VecDeque::new(),
            answered,
        }
    }

    /// Begins a handshake from this address, as somebody who knows the node id does.
    pub(crate) fn begin(&mut self, now: Instant, from: SocketAddr) {
        let key = InitialKey::of(self.target.0);
        self.begin_with(now, from, Arc::new(move || key.generate(Lane(0))));
    }

    /// The same, but the second half of its hello never comes.
    pub(crate) fn begin_half(&mut self, now: Instant, from: SocketAddr) {
        self.crypto.halves.store(true, Relaxed);
        self.begin(now, from);
        self.crypto.halves.store(false, Relaxed);
    }

    /// Begins one with a first destination id of its own choice.
    pub(crate) fn begin_with(
        &mut self,
        now: Instant,
        from: SocketAddr,
        id: Arc<dyn Fn() -> ConnectionId + Send + Sync>,
    ) {
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(None).mtu_discovery_config(None);
        let mut config = ClientConfig::new(self.crypto.clone());
        config.initial_dst_cid_provider(id).transport_config(Arc::new(transport));
        let begun = self.endpoint.connect(now, config, self.target.1, tls::SERVER_NAME);
        let (handle, connection) = begun.expect("a sound configuration");
        self.connections.insert(handle.0, (connection, from));
        self.order.push_back(handle);
    }

    /// Leaves off handshakes, the oldest first, but for so many.
    pub(crate) fn keep(&mut self, newest: usize) {
        while self.order.len() > newest
            && let Some(handle) = self.order.pop_front()
        {
            self.connections.remove(&handle.0);
            self.endpoint.handle_event(handle, EndpointEvent::drained());
        }
    }

    /// What arrives for any of them.
    pub(crate) fn receive(&mut self, now: Instant, packet: &[u8]) {
        let bytes = BytesMut::from(packet);
        let mut response = Vec::new();
        let event = self.endpoint.handle(now, self.target.1, None, None, bytes, &mut response);
        if let Some(DatagramEvent::ConnectionEvent(handle, event)) = event
            && let Some((connection, _)) = self.connections.get_mut(&handle.0)
        {
            connection.handle_event(event);
        }
    }

    /// What they have to send now.
    pub(crate) fn transmit(&mut self, now: Instant, mut send: impl FnMut(Packet)) {
        for (handle, (connection, from)) in &mut self.connections {
            if connection.poll_timeout().is_some_and(|at| at <= now) {
                connection.handle_timeout(now);
            }
            let mut bytes = Vec::new();
            while connection.poll_transmit(now, 1, &mut bytes).is_some() {
                let packet = std::mem::take(&mut bytes);
                send(Packet { from: *from, to: self.target.1, bytes: packet });
            }
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(ConnectionHandle(*handle), event) {
                    connection.handle_event(event);
                }
            }
            while connection.poll().is_some() {}
        }
    }
}

struct NeverFinishes {
    tls: Arc<QuicClientConfig>,
    answered: Arc<AtomicUsize>,
    halves: AtomicBool,
}

impl crypto::ClientConfig for NeverFinishes {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let tls = self.tls.clone().start_session(version, server_name, params)?;
        let answered = self.answered.clone();
        let is_half = self.halves.load(Relaxed);
        Ok(Box::new(Unfinished { tls, answered, is_half, has_hello: false, has_keys: false }))
    }
}

/// Sends a ClientHello, takes the keys to acknowledge what answers it, and says no more.
struct Unfinished {
    tls: Box<dyn Session>,
    answered: Arc<AtomicUsize>,
    is_half: bool,
    has_hello: bool,
    has_keys: bool,
}

impl Session for Unfinished {
    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        if self.has_keys {
            return None;
        }
        let len = buf.len();
        let keys = self.tls.write_handshake(buf);
        if std::mem::replace(&mut self.has_hello, true) {
            buf.truncate(len);
        } else if self.is_half {
            buf.truncate(len + (buf.len() - len) / 2);
        }
        self.has_keys = keys.is_some();
        self.answered.fetch_add(usize::from(self.has_keys), Relaxed);
        keys
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if !self.has_keys {
            self.tls.read_handshake(buf)?;
        }
        Ok(false)
    }

    fn is_handshaking(&self) -> bool {
        true
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.tls.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(None)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        None
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.tls.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.tls.export_keying_material(output, label, context)
    }
}
