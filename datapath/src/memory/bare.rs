//! Two bare `quinn-proto` connections with the tunnels' settings: what the library itself costs.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use ipop_learning::PortId;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, ServerConfig, crypto,
};

use super::{FIRST_HOP_MTU, MAX_SEGMENTS, ReceiveBuffers};
use crate::{
    command::{Direction, Lane},
    node_id::NodeId,
    policy::admission::{Admission, Proof, ProofBinding, Proved, Unproved, Verdict},
    quic::{
        CidKey, Congestion, TlsIdentity, TunnelHealth,
        tls::{self, Preference},
        transport::{endpoint_config, transport_config},
    },
};

/// A UDP send holds no more.
const MAX_TRAIN_BYTES: usize = 65_507;

/// Two connected ends of QUIC. The first end sends, the second receives.
pub struct BarePair {
    ends: [End; 2],
    now: Instant,
}

struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    address: SocketAddr,
    buffers: ReceiveBuffers,
    train: Vec<u8>,
    response: Vec<u8>,
}

/// The cryptography of a [`BarePair`].
pub struct BareCrypto {
    /// The end that dials.
    pub client: Arc<dyn crypto::ClientConfig>,
    /// The end that is dialled.
    pub server: Arc<dyn crypto::ServerConfig>,
}

impl BareCrypto {
    /// TLS as tunnels have it, with this offered first.
    ///
    /// # Panics
    /// If an identity's certificate and key do not belong together.
    pub fn of(identities: &[TlsIdentity; 2], first: Preference) -> Self {
        let [dialler, listener] = identities;
        let client = tls::client_config_preferring(dialler, listener.node, first);
        let server = tls::server_config(listener, Arc::new(Anyone));
        Self {
            client: client.expect("certificate and key belong together"),
            server: server.expect("certificate and key belong together"),
        }
    }
}

impl BarePair {
    /// Connects and lets path MTU discovery finish.
    ///
    /// # Panics
    /// If that fails: an identity's certificate and key do not belong together.
    pub fn connect(identities: &[TlsIdentity; 2]) -> Self {
        Self::connect_by(identities, BareCrypto::of(identities, Preference::default()))
    }

    /// The same with cryptography of the caller's.
    ///
    /// # Panics
    /// If that fails.
    pub fn connect_by(identities: &[TlsIdentity; 2], crypto: BareCrypto) -> Self {
        let mut pair = Self::shake_hands(identities, &crypto);
        for _ in 0..400 {
            pair.advance(Duration::from_millis(5));
        }
        assert!(pair.max_datagram_len() > 1_200, "connected, and the path MTU found");
        pair
    }

    /// Dials, and carries packets until both ends are silent: the handshake is done, discovery of the path MTU is not.
    ///
    /// # Panics
    /// If an identity's certificate and key do not belong together.
    pub fn shake_hands(identities: &[TlsIdentity; 2], crypto: &BareCrypto) -> Self {
        let now = Instant::now();
        let mut ends = [1, 2].map(|number: u8| {
            let identity = &identities[usize::from(number) - 1];
            let address = SocketAddr::from(([10, 0, 0, number], 5_800));
            End::new(identity, crypto.server.clone(), address, number)
        });
        let remote = ends[1].address;
        let mut config = ClientConfig::new(crypto.client.clone());
        config.transport_config(settings(remote));
        let dialled = ends[0].endpoint.connect(now, config, remote, tls::SERVER_NAME);
        ends[0].connection = Some(dialled.expect("the configuration is sound"));
        let mut pair = Self { ends, now };
        pair.exchange();
        pair
    }

    /// Whether both ends have the keys of their connection.
    pub fn has_keys(&self) -> bool {
        let is_done = |(_, connection): &(_, Connection)| !connection.is_handshaking();
        self.ends.iter().all(|end| end.connection.as_ref().is_some_and(is_done))
    }

    /// The largest datagram that fits a packet, bytes.
    ///
    /// # Panics
    /// If the connection was lost.
    pub fn max_datagram_len(&mut self) -> usize {
        self.sender().datagrams().max_size().expect("the far end takes datagrams")
    }

    /// Queues a datagram.
    ///
    /// # Panics
    /// If the queue is full or the datagram too large.
    pub fn send(&mut self, datagram: Bytes) {
        self.sender().datagrams().send(datagram, false).expect("there is room in the queue");
    }

    /// Carries trains until both ends are silent; how many bytes of datagrams arrived.
    pub fn exchange(&mut self) -> usize {
        let [a, b] = &mut self.ends;
        let mut received = 0;
        while a.carry(self.now, b, &mut received) | b.carry(self.now, a, &mut 0) {}
        received
    }

    /// Lets time pass, with whatever is due then, and goes on like [`BarePair::exchange`].
    pub fn advance(&mut self, by: Duration) -> usize {
        self.now += by;
        for end in &mut self.ends {
            if let Some((_, connection)) = &mut end.connection
                && connection.poll_timeout().is_some_and(|at| at <= self.now)
            {
                connection.handle_timeout(self.now);
            }
        }
        self.exchange()
    }

    fn sender(&mut self) -> &mut Connection {
        let [from, _] = &mut self.ends;
        &mut from.connection.as_mut().expect("connected").1
    }
}

impl End {
    fn new(
        identity: &TlsIdentity,
        crypto: Arc<dyn crypto::ServerConfig>,
        address: SocketAddr,
        number: u8,
    ) -> Self {
        let mut server = ServerConfig::with_crypto(crypto);
        server.transport_config(settings(address));
        let config = endpoint_config(&CidKey::new(&identity.cid_secret), &[number; 32], 0);
        let endpoint =
            Endpoint::new(Arc::new(config), Some(Arc::new(server)), true, Some([number; 32]));
        Self {
            endpoint,
            connection: None,
            address,
            buffers: ReceiveBuffers::default(),
            train: Vec::new(),
            response: Vec::new(),
        }
    }

    /// Sends what there is to send, and takes out what arrives of it; whether there was anything.
    fn carry(&mut self, now: Instant, to: &mut Self, received_bytes: &mut usize) -> bool {
        let Some((handle, connection)) = &mut self.connection else { return false };
        let mut carried = false;
        loop {
            let mtu = usize::from(connection.current_mtu());
            let segments = MAX_SEGMENTS.min(MAX_TRAIN_BYTES / mtu);
            self.train.clear();
            let Some(transmit) = connection.poll_transmit(now, segments, &mut self.train) else {
                break;
            };
            carried = true;
            let segment_len = transmit.segment_size.unwrap_or(transmit.size);
            let received = to.buffers.fill(self.train[..transmit.size].chunks(segment_len));
            to.receive(now, self.address, segment_len, received);
            *received_bytes += to.take_datagrams();
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while connection.poll().is_some() {}
        carried
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, segment_len: usize, mut train: BytesMut) {
        let Self { endpoint, response, connection, .. } = self;
        while !train.is_empty() {
            let packet = train.split_to(segment_len.min(train.len()));
            response.clear();
            match endpoint.handle(now, from, None, None, packet, response) {
                Some(DatagramEvent::ConnectionEvent(_, event)) => {
                    if let Some((_, connection)) = connection {
                        connection.handle_event(event);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    *connection = endpoint.accept(incoming, now, response, None).ok();
                }
                Some(DatagramEvent::Response(_)) | None => {}
            }
        }
    }

    fn take_datagrams(&mut self) -> usize {
        let Some((_, connection)) = &mut self.connection else { return 0 };
        let mut bytes = 0;
        while let Some(datagram) = connection.datagrams().recv() {
            bytes += datagram.len();
        }
        bytes
    }
}

fn settings(remote: SocketAddr) -> Arc<quinn_proto::TransportConfig> {
    let health = Arc::new(TunnelHealth::default());
    let first = (Lane(0), Direction::Dialled);
    transport_config(Congestion::Tunnel, first, health, &remote, FIRST_HOP_MTU)
}

struct Anyone;

impl Admission for Anyone {
    fn verdict(&self, _: NodeId) -> Verdict {
        Verdict::Admitted(PortId(1))
    }

    fn proofs(&self, _: NodeId, _: &ProofBinding) -> Vec<Proof> {
        Vec::new()
    }

    fn verify(&self, _: NodeId, _: &ProofBinding, _: &[Proof]) -> Result<Proved, Unproved> {
        Ok(Proved::KeyAlone)
    }
}
