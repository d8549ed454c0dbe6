//! TLS 1.3 between nodes: both ends prove an Ed25519 key, and the key alone says who they are.
//!
//! Certificates are self-signed wrappers of the key; names, dates and chains in them are ignored, so a wrong clock locks nobody out.

use std::{fmt, sync::Arc};

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, Error, NamedGroup, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, kx_group},
    },
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{
    node_id::NodeId,
    policy::admission::{Admission, Verdict},
};

const ALPN: &[u8] = b"ipop-switch/1";
/// DER of an Ed25519 SubjectPublicKeyInfo up to the 32 key bytes (RFC 8410).
const ED25519_SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// This node's certificate and key, and what was derived from the key.
pub struct TlsIdentity {
    /// Own id.
    pub node: NodeId,
    /// Self-signed X.509 certificate of the key.
    pub certificate: CertificateDer<'static>,
    /// PKCS #8 of the key.
    pub key: PrivateKeyDer<'static>,
    /// Secret behind the connection ids.
    pub cid_secret: [u8; 32],
    /// Secret behind the stateless-reset tokens.
    pub reset_secret: [u8; 32],
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The listening side: every admitted node may connect.
///
/// # Errors
/// If the certificate and the key do not belong together.
pub fn server_config(
    identity: &TlsIdentity,
    admission: Arc<dyn Admission>,
) -> Result<Arc<QuicServerConfig>, Error> {
    let config = listening(identity, admission, provider(Preference::default()))?;
    QuicServerConfig::try_from(config)
        .map(Arc::new)
        .map_err(|_| Error::General("AES-128-GCM is missing from the TLS library".into()))
}

/// The dialling side: this one node must answer.
///
/// # Errors
/// If the certificate and the key do not belong together.
pub fn client_config(
    identity: &TlsIdentity,
    expected: NodeId,
) -> Result<Arc<QuicClientConfig>, Error> {
    client_config_preferring(identity, expected, Preference::default())
}

/// The same with this offered first, which the listening side follows.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_preferring(
    identity: &TlsIdentity,
    expected: NodeId,
    first: Preference,
) -> Result<Arc<QuicClientConfig>, Error> {
    let config = dialling(identity, expected, provider(first))?;
    QuicClientConfig::try_from(config)
        .map(Arc::new)
        .map_err(|_| Error::General("AES-128-GCM is missing from the TLS library".into()))
}

fn listening(
    identity: &TlsIdentity,
    admission: Arc<dyn Admission>,
    provider: CryptoProvider,
) -> Result<rustls::ServerConfig, Error> {
    let provider = Arc::new(provider);
    let verifier = Arc::new(AdmittedPeers { admission, provider: provider.clone() });
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn dialling(
    identity: &TlsIdentity,
    expected: NodeId,
    provider: CryptoProvider,
) -> Result<rustls::ClientConfig, Error> {
    let provider = Arc::new(provider);
    let verifier = Arc::new(ExpectedPeer { expected, provider: provider.clone() });
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The name in the (unsent) SNI; rustls wants one.
pub const SERVER_NAME: &str = "ipop-switch";

/// The node that a connection's certificate chain proves.
pub fn node_of(chain: &[CertificateDer<'_>]) -> Option<NodeId> {
    node_of_certificate(chain.first()?).ok()
}

/// What an end offers first. The other choices follow: nodes without it connect all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preference {
    /// AES-128-GCM or ChaCha20-Poly1305.
    pub cipher: CipherSuite,
    /// X25519MLKEM768 or X25519.
    pub key_exchange: NamedGroup,
}

/// AES-128-GCM where the CPU has AES instructions, ChaCha20-Poly1305 where not; X25519 together with ML-KEM-768
/// (draft-ietf-tls-ecdhe-mlkem), so that who records traffic today cannot read it with a quantum computer later.
impl Default for Preference {
    fn default() -> Self {
        let cipher = if cpu_has_aes() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
        } else {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        };
        Self { cipher, key_exchange: NamedGroup::X25519MLKEM768 }
    }
}

fn provider(first: Preference) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        )
    });
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first.cipher);
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
    provider.kx_groups.sort_by_key(|group| group.name() != first.key_exchange);
    provider
}

/// Whether AES-GCM runs in hardware.
pub fn cpu_has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

fn node_of_certificate(certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let spki = parsed.subject_public_key_info();
    if !spki.starts_with(&ED25519_SPKI_PREFIX) || spki.len() != ED25519_SPKI_PREFIX.len() + 32 {
        return Err(Error::General("the peer's key is not an Ed25519 key".into()));
    }
    Ok(NodeId::of_spki(&spki))
}

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, Error> {
    if signature.scheme != SignatureScheme::ED25519 {
        return Err(Error::General("the peer's signature is not Ed25519".into()));
    }
    rustls::crypto::verify_tls13_signature(
        message,
        certificate,
        signature,
        &provider.signature_verification_algorithms,
    )
}

/// What rustls asks of the verifier of either end in the same words, but by two traits.
macro_rules! signatures_are_ed25519 {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("QUIC has no TLS 1.2".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_signature(message, certificate, signature, &self.provider)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

#[derive(Debug)]
struct ExpectedPeer {
    expected: NodeId,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ExpectedPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = node_of_certificate(end_entity)?;
        if found == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General(format!(
            "the host at this address is node {found}, not {}: check the id and the address in --peer",
            self.expected
        )))
    }

    signatures_are_ed25519!();
}

struct AdmittedPeers {
    admission: Arc<dyn Admission>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for AdmittedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdmittedPeers")
    }
}

impl ClientCertVerifier for AdmittedPeers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let found = node_of_certificate(end_entity)?;
        match self.admission.verdict(found) {
            Verdict::Admitted(_) => Ok(ClientCertVerified::assertion()),
            Verdict::Refused(why) => Err(Error::General(why)),
        }
    }

    signatures_are_ed25519!();
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::PublicKeyData as _;
    use rustls::quic::{ClientConnection, ServerConnection, Version};
    use rustls_pki_types::PrivatePkcs8KeyDer;

    use super::*;
    use crate::policy::admission::{Proof, ProofBinding, Proved, Unproved};

    struct Anybody;

    impl Admission for Anybody {
        fn verdict(&self, _: NodeId) -> Verdict {
            Verdict::Admitted(ipop_learning::PortId(1))
        }

        fn proofs(&self, _: NodeId, _: &ProofBinding) -> Vec<Proof> {
            Vec::new()
        }

        fn verify(&self, _: NodeId, _: &ProofBinding, _: &[Proof]) -> Result<Proved, Unproved> {
            Ok(Proved::KeyAlone)
        }
    }

    pub(crate) fn identity() -> TlsIdentity {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("signed");
        TlsIdentity {
            node: NodeId::of_spki(&key.subject_public_key_info()),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            cid_secret: [1; 32],
            reset_secret: [2; 32],
        }
    }

    /// With these groups alone, the first one first.
    fn with(groups: &[NamedGroup]) -> CryptoProvider {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups.retain(|group| groups.contains(&group.name()));
        let place = |name| groups.iter().position(|group| *group == name);
        provider.kx_groups.sort_by_key(|group| place(group.name()));
        provider
    }

    /// The group that the two agree on, and after how many messages of the dialler.
    fn agreed(dialler: CryptoProvider, listener: CryptoProvider) -> (Option<NamedGroup>, usize) {
        let [one, other] = [identity(), identity()];
        let client = dialling(&one, other.node, dialler).expect("sound");
        let server = listening(&other, Arc::new(Anybody), listener).expect("sound");
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let mut client =
            ClientConnection::new(Arc::new(client), Version::V1, name, vec![]).expect("begins");
        let mut server =
            ServerConnection::new(Arc::new(server), Version::V1, vec![]).expect("begins");
        let mut flights = 0;
        while client.is_handshaking() || server.is_handshaking() {
            flights += 1;
            // What is under other keys is shown by itself.
            let mut bytes = Vec::new();
            while client.write_hs(&mut bytes).is_some() || !bytes.is_empty() {
                server.read_hs(&bytes).expect("what the dialler says");
                bytes.clear();
            }
            while server.write_hs(&mut bytes).is_some() || !bytes.is_empty() {
                client.read_hs(&bytes).expect("what the listener says");
                bytes.clear();
            }
        }
        let (at_client, at_server) =
            (client.negotiated_key_exchange_group(), server.negotiated_key_exchange_group());
        assert_eq!(at_client.map(|group| group.name()), at_server.map(|group| group.name()));
        (at_client.map(|group| group.name()), flights)
    }

    #[test]
    fn keys_are_exchanged_against_quantum_computers_too_unless_an_older_node_cannot() {
        let ours = || provider(Preference::default());
        let (hybrid, x25519) = (NamedGroup::X25519MLKEM768, NamedGroup::X25519);
        assert_eq!(agreed(ours(), ours()), (Some(hybrid), 2));
        // Nodes of before, which offered it last, and those that do not have it.
        let before = || with(&[x25519, NamedGroup::secp256r1, NamedGroup::secp384r1, hybrid]);
        assert_eq!(agreed(ours(), before()), (Some(hybrid), 2));
        assert_eq!(agreed(before(), ours()), (Some(x25519), 2));
        assert_eq!(agreed(ours(), with(&[x25519])), (Some(x25519), 2), "no round trip more");
        assert_eq!(agreed(with(&[x25519]), ours()), (Some(x25519), 2));
    }

    /// A node's certificate, and its id.
    fn node() -> (CertificateDer<'static>, NodeId) {
        let TlsIdentity { certificate, node, .. } = identity();
        (certificate, node)
    }

    #[test]
    fn only_the_node_that_was_dialled_is_believed_whatever_stands_beside_its_key() {
        let ((certificate, expected), (other, _)) = (node(), node());
        let dialled =
            ExpectedPeer { expected, provider: Arc::new(provider(Preference::default())) };
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let long_ago = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
        let verify = |end_entity: &CertificateDer<'_>, chain: &[CertificateDer<'_>]| {
            dialled.verify_server_cert(end_entity, chain, &name, &[], long_ago).is_ok()
        };
        assert!(verify(&certificate, &[]));
        assert!(!verify(&other, &[]));
        assert!(!verify(&other, std::slice::from_ref(&certificate)), "the chain does not count");
        assert!(!verify(&CertificateDer::from(&b"no certificate"[..]), &[]));
    }
}
