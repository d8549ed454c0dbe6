//! Keys and other bytes that follow from a seed.

use ipop_datapath::{node_id::NodeId, quic::TlsIdentity};
use rcgen::PublicKeyData as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::rng::Rng;

/// PKCS #8 of an Ed25519 key up to the 32 secret bytes (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A key that follows from the seed, so that the order of node ids, on which decisions depend, does as well.
pub(crate) fn identity(rng: &mut Rng) -> TlsIdentity {
    let mut key = PKCS8_PREFIX.to_vec();
    (0..4).for_each(|_| key.extend_from_slice(&rng.next().to_be_bytes()));
    let key = PrivatePkcs8KeyDer::from(key);
    let signer = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)
        .expect("any 32 bytes are an Ed25519 key");
    let certificate = rcgen::CertificateParams::default().self_signed(&signer);
    TlsIdentity {
        node: NodeId::of_spki(&signer.subject_public_key_info()),
        certificate: certificate.expect("the key can sign").der().clone(),
        key: PrivateKeyDer::Pkcs8(key),
        cid_secret: random_bytes(rng),
        reset_secret: random_bytes(rng),
    }
}

pub(crate) fn random_bytes<const N: usize>(rng: &mut Rng) -> [u8; N] {
    std::array::from_fn(|_| rng.next() as u8)
}
