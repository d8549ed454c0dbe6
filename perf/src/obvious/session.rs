//! Connections to peers: dialling, being dialled, the hellos, and the task that receives.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::rand;
use ipop_datapath::{
    node_id::NodeId,
    tunnel::hello::{Capabilities, Hello, HelloError, MAX_HELLO_LEN},
};
use quinn::{ClientConfig, Connection, Endpoint, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::{
    net::lookup_host,
    time::{sleep, timeout},
};

use super::{bridge::Bridge, records::Reader, tls::node_id_of};

/// The close codes of `docs/WIRE.md` that this program uses.
pub(super) const CLOSE_SHUTDOWN: VarInt = VarInt::from_u32(0);
const CLOSE_REPLACED: VarInt = VarInt::from_u32(1);
const CLOSE_DUPLICATE: VarInt = VarInt::from_u32(2);
const CLOSE_VERSION: VarInt = VarInt::from_u32(3);
const CLOSE_BAD_HELLO: VarInt = VarInt::from_u32(4);
const CLOSE_SELF: VarInt = VarInt::from_u32(6);

const REDIAL: Duration = Duration::from_secs(1);
const DIAL_LIMIT: Duration = Duration::from_secs(5);
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Two connections in opposite directions that are no further apart come from both ends dialling at once.
const SIMULTANEOUS: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Dialled,
    Accepted,
}

/// A peer's connection, in use.
struct Session {
    connection: Connection,
    direction: Direction,
    since: Instant,
}

/// This node among its peers.
pub(super) struct Node {
    node_id: NodeId,
    hello: Vec<u8>,
    endpoint: Endpoint,
    bridge: Arc<Bridge>,
    sessions: Mutex<HashMap<NodeId, Session>>,
}

impl Node {
    pub(super) fn new(
        node_id: NodeId,
        inner_mtu: u16,
        endpoint: Endpoint,
        bridge: Arc<Bridge>,
    ) -> Result<Self> {
        let mut instance = [0; 16];
        rand::fill(&mut instance).map_err(|_| anyhow!("the system gives no random numbers"))?;
        let hello = Hello {
            capabilities: Capabilities::NONE,
            max_frame_len: bridge.max_frame_len() as u32,
            inner_mtu,
            lanes: 1,
            lane: 0,
            name: String::new(),
            instance,
            probe_token: None,
            agent: concat!("ipop-obvious ", env!("CARGO_PKG_VERSION")).into(),
            proofs: Vec::new(),
        };
        let sessions = Mutex::default();
        Ok(Self { node_id, hello: hello.encode(), endpoint, bridge, sessions })
    }

    /// Dials whenever there is no connection to this peer.
    pub(super) async fn keep_dialling(
        self: Arc<Self>,
        peer: NodeId,
        address: String,
        config: ClientConfig,
    ) {
        loop {
            let connected = self.session(peer);
            if let Some(connection) = connected {
                connection.closed().await;
            } else if let Err(error) = self.clone().dial(peer, &address, config.clone()).await {
                tracing::warn!(%peer, address, "dialling: {error:#}");
            }
            sleep(REDIAL).await;
        }
    }

    /// Answers those who dial.
    pub(super) async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            let node = self.clone();
            tokio::spawn(async move {
                let from = incoming.remote_address();
                let result = match incoming.await {
                    Ok(connection) => node.serve(connection, Direction::Accepted).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = result {
                    tracing::warn!(%from, "{error:#}");
                }
            });
        }
    }

    async fn dial(
        self: Arc<Self>,
        peer: NodeId,
        address: &str,
        config: ClientConfig,
    ) -> Result<()> {
        let remote = lookup_host(address)
            .await
            .with_context(|| format!("looking up {address}"))?
            .next()
            .with_context(|| format!("{address} has no address"))?;
        // The name in the certificate means nothing; the key is checked.
        let connecting = self.endpoint.connect_with(config, remote, "ipop-switch")?;
        let connection = timeout(DIAL_LIMIT, connecting).await.context("no answer")??;
        self.serve(connection, Direction::Dialled).await.with_context(|| format!("peer {peer}"))
    }

    /// Hellos, then frames, until the connection ends.
    async fn serve(self: Arc<Self>, connection: Connection, direction: Direction) -> Result<()> {
        let peer = peer_of(&connection)?;
        if peer == self.node_id {
            connection.close(CLOSE_SELF, b"dialled itself");
            bail!("dialled itself");
        }
        let hello = timeout(HELLO_LIMIT, self.exchange_hellos(&connection));
        let hello = hello.await.context("the peer says no hello")??;
        if !self.admit(peer, &connection, direction) {
            connection.close(CLOSE_DUPLICATE, b"both ends dialled at once");
            return Ok(());
        }
        self.bridge.plug(peer, connection.clone(), hello.max_frame_len as usize);
        tracing::info!(%peer, remote = %connection.remote_address(), agent = hello.agent, ?direction, "peer up");

        let mut reader = Reader::new(self.bridge.max_frame_len());
        let ended = loop {
            match connection.read_datagram().await {
                Ok(datagram) => reader.read(datagram, |frame| self.bridge.receive(peer, frame)),
                Err(error) => break error,
            }
        };
        self.bridge.unplug(peer, &connection);
        self.forget(peer, &connection);
        tracing::info!(%peer, reason = %ended, read = ?reader.counts(), "peer down");
        Ok(())
    }

    async fn exchange_hellos(&self, connection: &Connection) -> Result<Hello> {
        let say = async {
            let mut stream = connection.open_uni().await?;
            stream.write_all(&self.hello).await?;
            stream.finish()?;
            anyhow::Ok(())
        };
        let hear = async {
            let mut stream = connection.accept_uni().await?;
            anyhow::Ok(stream.read_to_end(MAX_HELLO_LEN).await?)
        };
        let drop_early = async {
            while connection.read_datagram().await.is_ok() {
                self.bridge.count_early();
            }
            // The other two see the error too, and report it.
            std::future::pending().await
        };
        let heard = tokio::select! {
            both = async { tokio::try_join!(say, hear) } => both?.1,
            never = drop_early => never,
        };
        Hello::decode(&heard).map_err(|error| {
            let code = match error {
                HelloError::Version(_) => CLOSE_VERSION,
                _ => CLOSE_BAD_HELLO,
            };
            connection.close(code, error.to_string().as_bytes());
            error.into()
        })
    }

    /// Makes this the peer's connection, and closes the one that it replaces; unless both ends dialled at once, when
    /// the one that the lower node id dialled stays.
    fn admit(&self, peer: NodeId, connection: &Connection, direction: Direction) -> bool {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = sessions.get(&peer) {
            let simultaneous = old.direction != direction && old.since.elapsed() < SIMULTANEOUS;
            let dialled_by_lower = (direction == Direction::Dialled) == (self.node_id < peer);
            if simultaneous && !dialled_by_lower {
                return false;
            }
            let (code, reason) = match simultaneous {
                true => (CLOSE_DUPLICATE, "both ends dialled at once"),
                false => (CLOSE_REPLACED, "replaced by a newer connection"),
            };
            old.connection.close(code, reason.as_bytes());
        }
        let session = Session { connection: connection.clone(), direction, since: Instant::now() };
        sessions.insert(peer, session);
        true
    }

    fn forget(&self, peer: NodeId, connection: &Connection) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&peer).is_some_and(|s| s.connection.stable_id() == connection.stable_id()) {
            sessions.remove(&peer);
        }
    }

    fn session(&self, peer: NodeId) -> Option<Connection> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&peer).map(|session| session.connection.clone())
    }
}

fn peer_of(connection: &Connection) -> Result<NodeId> {
    let identity = connection.peer_identity().context("the peer showed no certificate")?;
    let certificates = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| anyhow!("the peer's identity is no certificate"))?;
    Ok(node_id_of(certificates.first().context("the peer showed no certificate")?)?)
}
