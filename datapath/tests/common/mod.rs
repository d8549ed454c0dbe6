//! What several of these tests need.

use ipop_datapath::{node_id::NodeId, quic::TlsIdentity};
use rcgen::PublicKeyData as _;

/// A new node.
pub(crate) fn identity() -> TlsIdentity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
    TlsIdentity {
        node: NodeId::of_spki(&key.subject_public_key_info()),
        certificate: certificate.der().clone(),
        key: key.serialize_der().try_into().expect("PKCS #8"),
        cid_secret: [1; 32],
        reset_secret: [2; 32],
    }
}
