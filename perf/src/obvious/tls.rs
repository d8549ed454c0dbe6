//! QUIC's configuration: who is trusted, and how datagrams flow.
//!
//! Both ends show a certificate, of which only the key counts: its hash is the node id, and the node id must be one
//! that was named on the command line.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use aws_lc_rs::{digest, hmac, rand};
use ipop_datapath::node_id::NodeId;
use quinn::{
    ClientConfig, ConnectionId, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs::default_provider,
        verify_tls13_signature,
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use super::identity::Identity;

const ALPN: &[u8] = b"ipop-switch/1";

/// The largest UDP payload in an Ethernet packet of 1500 bytes over IPv4: an inner frame of 1,414 bytes needs 1,459.
const MAX_UDP_PAYLOAD: u16 = 1500 - 28;
/// Datagrams of about 10 ms at 4 Gbit/s: enough for a burst, not enough to add much delay.
const DATAGRAM_BUFFER_LEN: usize = 4 << 20;
/// A peer that is silent for so long is gone; the keep-alive gets four chances.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Makes the configurations of one node.
#[derive(Debug)]
pub(super) struct Configs {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    transport: Arc<TransportConfig>,
}

impl Configs {
    pub(super) fn new(identity: &Identity) -> Result<Self> {
        let (certificate, key) = identity.certificate()?;
        Ok(Self { certificate, key, transport: Arc::new(transport()?) })
    }

    /// Connection ids and reset tokens outlive the process, so that peers learn of a restart at once.
    pub(super) fn endpoint(identity: &Identity) -> Result<EndpointConfig> {
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &identity.secret("reset"));
        let [a, b, c, d, e, f, g, h, ..] = identity.secret("connection id");
        let cid_key = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
        endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
        endpoint.grease_quic_bit(false);
        endpoint.max_udp_payload_size(MAX_UDP_PAYLOAD)?;
        Ok(endpoint)
    }

    /// For being dialled by these nodes.
    pub(super) fn server(&self, peers: Vec<NodeId>) -> Result<ServerConfig> {
        let provider = Arc::new(default_provider());
        let pinned = Arc::new(Pinned::new(peers, &provider));
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(pinned)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        tls.alpn_protocols = vec![ALPN.into()];
        tls.send_tls13_tickets = 0;
        let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        server.transport_config(self.transport.clone());
        Ok(server)
    }

    /// For dialling this node.
    pub(super) fn client(&self, peer: NodeId) -> Result<ClientConfig> {
        let provider = Arc::new(default_provider());
        let pinned = Arc::new(Pinned::new(vec![peer], &provider));
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(pinned)
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        tls.alpn_protocols = vec![ALPN.into()];
        tls.resumption = Resumption::disabled();
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        client.transport_config(self.transport.clone());
        client.initial_dst_cid_provider(Arc::new(move || {
            let mut random = [0; 7];
            // Without randomness the handshake that follows fails, and says so.
            let _ = rand::fill(&mut random);
            ConnectionId::new(&keyed_initial_id(peer, 0, random))
        }));
        Ok(client)
    }
}

/// The node id of the certificate that the peer showed.
pub(super) fn node_id_of(certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(NodeId::of_spki(&key))
}

/// The connection id by which the listener knows that the dialler knows its node id (`docs/WIRE.md`).
fn keyed_initial_id(listener: NodeId, lane: u8, random: [u8; 7]) -> [u8; 20] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"ipop-switch initial 1");
    context.update(&listener.0);
    let key = hmac::Key::new(hmac::HMAC_SHA256, context.finish().as_ref());
    let mut id = [0; 20];
    id[0] = lane;
    id[1..8].copy_from_slice(&random);
    let mac = hmac::sign(&key, &id[..8]);
    id[8..].copy_from_slice(&mac.as_ref()[..12]);
    id
}

fn transport() -> Result<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_UDP_PAYLOAD);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(discovery))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_LEN)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_LEN))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into()?))
        .max_concurrent_bidi_streams(0_u32.into());
    Ok(transport)
}

/// Accepts the keys of these nodes, whatever else their certificates say.
#[derive(Debug)]
struct Pinned {
    nodes: Vec<NodeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(nodes: Vec<NodeId>, provider: &CryptoProvider) -> Self {
        Self { nodes, algorithms: provider.signature_verification_algorithms }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.nodes.contains(&node_id_of(certificate)?) {
            return Ok(());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// TLS 1.2 is never negotiated.
const NO_TLS12: Error = Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initial_id_is_keyed_to_the_listener() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let id = keyed_initial_id(a, 3, [9; 7]);
        assert_eq!(id[..8], [3, 9, 9, 9, 9, 9, 9, 9]);
        assert_ne!(id[8..], keyed_initial_id(b, 3, [9; 7])[8..]);
        assert_ne!(id[8..], keyed_initial_id(a, 2, [9; 7])[8..]);
    }

    #[test]
    fn only_pinned_keys_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let node = |name: &str| Identity::load_or_create(&dir.path().join(name)).unwrap();
        let (a, b) = (node("a"), node("b"));
        let pinned = Pinned::new(vec![a.node_id], &default_provider());
        assert_eq!(pinned.check(&a.certificate().unwrap().0), Ok(()));
        assert!(pinned.check(&b.certificate().unwrap().0).is_err());
        assert!(pinned.check(&CertificateDer::from(vec![0x30, 0])).is_err());
    }
}
