//! Certificates for the servers of the tests.

use std::{fs, ops::Range, path::PathBuf, sync::Arc};

use ipop_control::network::Pin;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
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
    // Erlang's clock ends before the year that is there by default.
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
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

/// One certificate of a chain, with its key.
pub(crate) struct Link {
    params: CertificateParams,
    pub(crate) key: KeyPair,
    pub(crate) certificate: CertificateDer<'static>,
}

pub(crate) const NOW: Range<i32> = 2020..2120;
pub(crate) const PAST: Range<i32> = 2020..2021;

impl Link {
    /// An authority's, good in these years, signed by another or by itself.
    pub(crate) fn authority(name: &str, years: Range<i32>, issuer: Option<&Link>) -> Self {
        let mut params = params(&[name]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Told apart by name, or webpki takes one for the other.
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self::new(params, years, issuer)
    }

    /// A server's, likewise.
    pub(crate) fn server(name: &str, years: Range<i32>, issuer: &Link) -> Self {
        Self::new(params(&[name]), years, Some(issuer))
    }

    fn new(mut params: CertificateParams, years: Range<i32>, issuer: Option<&Link>) -> Self {
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let key = KeyPair::generate().expect("key");
        let certificate = match issuer {
            Some(issuer) => {
                params.signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key))
            }
            None => params.self_signed(&key),
        };
        let certificate = certificate.expect("certificate").der().clone();
        Self { params, key, certificate }
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin::of_spki(&self.key.subject_public_key_info())
    }

    /// In a file.
    pub(crate) fn pem(&self) -> String {
        let base64 = data_encoding::BASE64.encode(&self.certificate);
        format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A server that shows these certificates and signs with this key, whether they belong together or not. Clients trust `vouches`.
pub(crate) fn showing(
    chain: &[&Link],
    key: &KeyPair,
    vouches: &Link,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<Authority> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider.key_provider.load_private_key(der).expect("key");
    let chain = chain.iter().map(|link| link.certificate.clone()).collect();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(Arc::new(CertifiedKey::new(chain, key)))));
    server.alpn_protocols = vec![b"xmpp-client".to_vec()];
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("authority.pem");
    fs::write(&file, vouches.pem()).expect("written");
    Arc::new(Authority { _dir: dir, file, server: Arc::new(server) })
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .expect("names")
}
