//! Static peers: each that has an address is dialled with this node's key, from a port of its own, until it has shown that it
//! lets this node in. Then the connection is closed, before this node has introduced itself: for the peer nobody came, and tunnels
//! of a switch that runs with the same key stay as they are.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipop_control::{
    identity::Identity,
    notice::explain,
    peer::{PeerAddress, PeerSpec},
    trust::{Naming, Standing, Trust},
};
use ipop_datapath::{
    command::{CloseReason, Direction, Ended, Lane},
    node_id::NodeId,
    policy::admission::{Admission, EXPORTER_LABEL, ProofBinding},
    quic::{self, InitialKey, TlsIdentity, tls},
    tunnel::hello::{Hello, HelloError, MAX_HELLO_LEN},
};
use quinn::{ClientConfig, Connection, Endpoint, VarInt};
use tokio::{net::lookup_host, sync::Semaphore, time::timeout};

use super::{Row, state::State};
use crate::{
    exit::ExitCode,
    run,
    settings::{Listen, Settings},
};

pub(super) const PEER: &str = "peer";
/// For a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// For a peer to answer and introduce itself: lost packets are repeated several times within it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Peers that are dialled at a time, so that a thousand silent ones take a minute.
const AT_A_TIME: usize = 128;
/// Addresses of a name that are dialled.
const MAX_ADDRESSES: usize = 8;

/// One row for each peer, in their order.
pub(super) fn rows(settings: &Settings, state: &State, can_dial: bool) -> Vec<Row> {
    if settings.peers.is_empty() {
        return Vec::new();
    }
    if !can_dial {
        return vec![Row::not_tried(
            PEER,
            "needs the address to listen on, which they are dialled from",
        )];
    }
    if let Some(row) = state.identity.as_ref().and_then(|identity| wrong_peers(settings, identity))
    {
        return vec![row];
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(dial_all(settings, state)),
        Err(error) => {
            let cure = "allow the system calls epoll_create1 and eventfd2";
            vec![Row::failed(PEER, ExitCode::Failed, error.to_string(), cure)]
        }
    }
}

/// What `run` would not begin with.
fn wrong_peers(settings: &Settings, identity: &Identity) -> Option<Row> {
    let error = run::own_peer(&settings.peers, identity.node_id())?;
    Some(Row::failed(PEER, ExitCode::Usage, error.to_string(), "correct --peer"))
}

async fn dial_all(settings: &Settings, state: &State) -> Vec<Row> {
    let dialler =
        state.identity.as_ref().map(|identity| Arc::new(Dialler::new(settings, identity, state)));
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let attempts = settings.peers.iter().cloned().map(|peer| {
        let (dialler, turns) = (dialler.clone(), turns.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _turn = turns.acquire_owned().await;
            row(&peer, dialler.as_deref()).await
        })
    });
    let attempts: Vec<_> = attempts.collect();
    let mut rows = Vec::new();
    for attempt in attempts {
        rows.extend(attempt.await);
    }
    if let Some(dialler) = dialler {
        dialler.hang_up().await;
    }
    rows
}

async fn row(peer: &PeerSpec, dialler: Option<&Dialler>) -> Row {
    let failed = |found: String, cure: &str| Row::failed(PEER, ExitCode::Failed, found, cure);
    if let Some(why) = dialler.and_then(|dialler| dialler.refusal(peer.node)) {
        return failed(
            format!("{peer} {why}"),
            "take back what was decided, or take it out of --peer",
        );
    }
    let Some(address) = &peer.address else {
        return Row::not_tried(PEER, format!("{peer} has no address: it dials this node"));
    };
    let addresses = match resolve(address).await {
        Ok(addresses) => addresses,
        Err(why) => {
            return failed(
                format!("{peer}: {why}"),
                "correct the name in --peer, or this host's DNS",
            );
        }
    };
    let Some(dialler) = dialler else {
        return Row::not_tried(
            PEER,
            format!("{peer}: needs this node's key, which the first start makes"),
        );
    };
    let mut worst = Outcome::Silent;
    for remote in addresses {
        match dialler.dial(peer.node, remote).await {
            Outcome::LetsIn(hello) => return let_in(peer, remote, &hello, dialler.inner_mtu),
            Outcome::Silent => {}
            outcome => worst = outcome,
        }
    }
    match worst {
        Outcome::Failed(why) => failed(
            format!("{peer}: {why}"),
            "correct its id or address in --peer, or this host's routes",
        ),
        Outcome::Refuses(why) => failed(
            format!("{peer} answers, but does not let this node in: {why}"),
            "compare the --peer options, secrets and `ipop-switch trust list` of both hosts",
        ),
        Outcome::Silent | Outcome::LetsIn(_) => failed(
            format!("{peer} does not answer"),
            "start it; let its UDP port in at its firewall; compare the id with `ipop-switch identity` there: whoever \
             dials with a wrong one gets no answer",
        ),
    }
}

fn let_in(peer: &PeerSpec, remote: SocketAddr, hello: &Hello, inner_mtu: u16) -> Row {
    let found = format!("{peer} ({}) at {remote} answers and lets this node in", hello.name);
    if hello.inner_mtu == inner_mtu {
        return Row::ok(PEER, found);
    }
    let found = format!("{found}; its inner MTU is {}, here it is {inner_mtu}", hello.inner_mtu);
    Row::limited(PEER, found, "give all nodes the same --mtu")
}

async fn resolve(address: &PeerAddress) -> Result<Vec<SocketAddr>, String> {
    if let Some(literal) = address.literal() {
        return Ok(vec![literal]);
    }
    match timeout(LOOKUP_TIMEOUT, lookup_host(address.to_string())).await {
        Ok(Ok(found)) => dialled_of(found),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer from DNS".into()),
    }
}

/// Those of a name's addresses that are dialled.
fn dialled_of(found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<_> = found.take(MAX_ADDRESSES).collect();
    if found.is_empty() { Err("the name has no address".into()) } else { Ok(found) }
}

/// What came of dialling an address.
#[derive(Debug)]
enum Outcome {
    /// The node that is meant lets this one in.
    LetsIn(Box<Hello>),
    /// It answers, and does not.
    Refuses(String),
    Silent,
    /// Something is wrong here or there.
    Failed(String),
}

/// Dials with this node's key.
struct Dialler {
    identity: TlsIdentity,
    trust: Trust,
    inner_mtu: u16,
    /// The address to dial from, if it is not any.
    from: Option<IpAddr>,
    endpoints: Mutex<Vec<Endpoint>>,
}

impl Dialler {
    fn new(settings: &Settings, identity: &Identity, state: &State) -> Self {
        let (policy, store) = (settings.policy.clone(), state.store.clone());
        let trust = Trust::new(identity.node_id(), policy, store);
        for peer in &settings.peers {
            trust.name(peer.node, Naming::Configured(peer.address.clone()));
        }
        let from = match settings.listen {
            Listen::At(address) if !address.ip().is_unspecified() => Some(address.ip()),
            _ => None,
        };
        let (identity, endpoints) = (run::tls_identity(identity), Mutex::default());
        Self { identity, trust, inner_mtu: settings.mtu, from, endpoints }
    }

    /// Why this node does not let the peer in.
    fn refusal(&self, peer: NodeId) -> Option<String> {
        match self.trust.standing(peer) {
            Standing::Refused(refusal) => Some(refusal.to_string()),
            Standing::Admitted(_) | Standing::Pending => None,
        }
    }

    async fn dial(&self, node: NodeId, remote: SocketAddr) -> Outcome {
        let connection = match self.connect(node, remote) {
            Ok(connecting) => timeout(DIAL_TIMEOUT, connecting).await,
            Err(why) => return Outcome::Failed(why),
        };
        match connection {
            Ok(Ok(connection)) => {
                let outcome = timeout(DIAL_TIMEOUT, self.meet(node, &connection)).await;
                connection.close(VarInt::from_u32(CloseReason::Shutdown as u32), b"checked");
                outcome.unwrap_or(Outcome::Silent)
            }
            Ok(Err(error)) => self.outcome(error),
            Err(_) => Outcome::Silent,
        }
    }

    fn connect(&self, node: NodeId, remote: SocketAddr) -> Result<quinn::Connecting, String> {
        let crypto = tls::client_config(&self.identity, node).map_err(|error| error.to_string())?;
        let initial = InitialKey::of(node);
        let mut config = ClientConfig::new(crypto);
        config.initial_dst_cid_provider(Arc::new(move || initial.generate(Lane(0))));
        let endpoint = self.endpoint(remote).map_err(|error| error.to_string())?;
        endpoint.connect_with(config, remote, tls::SERVER_NAME).map_err(|error| error.to_string())
    }

    /// One for each family that is dialled.
    fn endpoint(&self, remote: SocketAddr) -> std::io::Result<Endpoint> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let is_v4 = |endpoint: &&Endpoint| {
            endpoint.local_addr().is_ok_and(|local| local.is_ipv4() == remote.is_ipv4())
        };
        if let Some(endpoint) = endpoints.iter().find(is_v4) {
            return Ok(endpoint.clone());
        }
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let from = self.from.filter(|from| from.is_ipv4() == remote.is_ipv4());
        let endpoint = Endpoint::client((from.unwrap_or(any), 0).into())?;
        endpoints.push(endpoint.clone());
        Ok(endpoint)
    }

    /// The handshake is done here, but there the key is judged only then: if it is good, a hello comes.
    async fn meet(&self, node: NodeId, connection: &Connection) -> Outcome {
        let mut stream = match connection.accept_uni().await {
            Ok(stream) => stream,
            Err(error) => return self.outcome(error),
        };
        let mut received = Vec::new();
        while received.len() < MAX_HELLO_LEN {
            match stream.read_chunk(MAX_HELLO_LEN - received.len(), true).await {
                Ok(Some(chunk)) => received.extend_from_slice(&chunk.bytes),
                Ok(None) => return Outcome::Failed("its hello is cut short".into()),
                Err(quinn::ReadError::ConnectionLost(error)) => return self.outcome(error),
                Err(error) => return Outcome::Failed(error.to_string()),
            }
            match Hello::decode(&received) {
                Ok(hello) => return self.judge(node, connection, hello),
                Err(HelloError::Incomplete) => {}
                Err(error) => return Outcome::Failed(error.to_string()),
            }
        }
        Outcome::Failed("its hello does not end".into())
    }

    /// Whether it knows the network's secret, if there is one.
    fn judge(&self, node: NodeId, connection: &Connection, hello: Hello) -> Outcome {
        let mut exported = [0; 32];
        if connection.export_keying_material(&mut exported, EXPORTER_LABEL, b"").is_err() {
            return Outcome::Failed("the TLS session has no exporter".into());
        }
        let binding = ProofBinding::new(self.identity.node, node, Direction::Dialled, exported);
        match self.trust.verify(node, &binding, &hello.proofs) {
            Ok(_) => Outcome::LetsIn(Box::new(hello)),
            Err(why) => Outcome::Refuses(why.to_string()),
        }
    }

    fn outcome(&self, error: quinn::ConnectionError) -> Outcome {
        // Whoever answered with another key is not who was meant.
        let is_refused_here = matches!(error, quinn::ConnectionError::TransportError(_));
        let why = quic::explain(error);
        let told = explain(&why, self.identity.node);
        match why {
            Ended::TimedOut => Outcome::Silent,
            Ended::ByPeer { .. } | Ended::Refused(_) if !is_refused_here => Outcome::Refuses(told),
            _ => Outcome::Failed(told),
        }
    }

    /// So that peers hear of the end before the program is gone.
    async fn hang_up(&self) {
        let endpoints =
            std::mem::take(&mut *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner));
        for endpoint in endpoints {
            let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_addresses_of_a_name_are_dialled_and_no_more() {
        let of = |count: u8| (0..count).map(|n| SocketAddr::from(([10, 0, 0, n], 5_800)));
        assert_eq!(dialled_of(of(20)), Ok(of(8).collect()));
        assert!(dialled_of(of(0)).unwrap_err().contains("no address"));
    }
}
