//! Certificates for the servers of the tests.

use std::{fs, ops::Range, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;

/// A certificate as `openssl req -x509` makes it: self-signed, and marked as an authority's.
pub(crate) struct SelfSigned {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

pub(crate) fn self_signed(names: &[&str]) -> SelfSigned {
    let key = KeyPair::generate().expect("key");
    let mut params = params(names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("certificate");
    SelfSigned { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

/// An authority of its own, and a server with a certificate of it.
pub(crate) struct Authority {
    _dir: TempDir,
    /// The authority's certificate.
    pub(crate) file: PathBuf,
    /// What the server shows.
    pub(crate) server: Arc<ServerConfig>,
}

pub(crate) fn authority(names: &[&str]) -> Authority {
    authority_for(params(names))
}

/// With a certificate that is good in these years alone.
pub(crate) fn authority_in(names: &[&str], years: Range<i32>) -> Authority {
    let mut params = params(names);
    params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
    authority_for(params)
}

fn authority_for(of_server: CertificateParams) -> Authority {
    let ca_key = KeyPair::generate().expect("key");
    let mut ca_params = params(&["authority"]);
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).expect("certificate");
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("authority.pem");
    fs::write(&file, ca.pem()).expect("written");

    let key = KeyPair::generate().expect("key");
    let issuer = Issuer::from_params(&ca_params, &ca_key);
    let certificate = of_server.signed_by(&key, &issuer).expect("certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("certificate");
    server.alpn_protocols = vec![b"xmpp-client".to_vec()];
    Authority { _dir: dir, file, server: Arc::new(server) }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .expect("names")
}
