//! TLS towards the server. Its certificate has to be valid for the account's domain, whatever name or address led to
//! it (RFC 6120 section 13.7, RFC 7590), or nothing secret is sent.

use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, Error, ProtocolVersion, RootCertStore,
    client::WebPkiServerVerifier,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    account::{Account, Authorities, ServerAddress},
    failure::{Certificate, Failure},
    srv::Mode,
};

/// What TLS needs to know of an account. Holds the tickets of earlier connections too.
#[derive(Clone)]
pub(super) struct Tls {
    direct: Arc<ClientConfig>,
    starttls: Arc<ClientConfig>,
    domain: String,
}

/// XEP-0368: what tells XMPP from other protocols on a shared port.
const ALPN: &[u8] = b"xmpp-client";
/// Certificates read from one file.
const MAX_AUTHORITIES: usize = 4_096;

impl Tls {
    pub(super) fn new(account: &Account) -> Result<Self, Failure> {
        let roots = roots(&account.authorities)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let setting =
            |why: &dyn std::fmt::Display| Failure::Settings(format!("TLS cannot be set up: {why}"));
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| setting(&error))?;
        let mut starttls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| setting(&error))?
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        starttls.enable_early_data = false;
        let mut direct = starttls.clone();
        direct.alpn_protocols = vec![ALPN.to_vec()];
        let domain =
            account.jid.domain().as_str().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { direct: Arc::new(direct), starttls: Arc::new(starttls), domain })
    }

    /// The handshake, over an open connection to `server`.
    pub(super) async fn connect(
        &self,
        mode: Mode,
        server: &ServerAddress,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(self.domain.clone()).map_err(|_| {
            Failure::Settings(format!("no certificate can be for {:?}", self.domain))
        })?;
        let config = match mode {
            Mode::Direct => &self.direct,
            Mode::StartTls => &self.starttls,
        };
        let connected = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
        connected.map_err(|error| self.failure(server, &error))
    }

    fn failure(&self, server: &ServerAddress, error: &std::io::Error) -> Failure {
        let server = server.clone();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(Error::InvalidCertificate(fault)) => {
                Failure::Certificate { server, fault: certificate_fault(fault, &self.domain) }
            }
            Some(error) => Failure::Tls { server, why: error.to_string() },
            None => Failure::Tls { server, why: error.to_string() },
        }
    }
}

/// The key for channel binding (RFC 9266). Only of TLS 1.3, where it is unique without further conditions.
pub(super) fn exported_key(stream: &TlsStream<TcpStream>) -> Option<[u8; 32]> {
    let connection = stream.get_ref().1;
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).ok()
}

fn certificate_fault(error: &CertificateError, domain: &str) -> Certificate {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            Certificate::UnknownAuthority
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Certificate::OtherName { domain: domain.to_owned() }
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Certificate::Dates,
        other => Certificate::Other(super::failure::printable(&other.to_string())),
    }
}

fn roots(authorities: &Authorities) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Authorities::System => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = "this system has no certificate authorities; install ca-certificates, or give the server's own";
                return Err(Failure::Settings(why.to_owned()));
            }
        }
        Authorities::File(path) => {
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|error| bad_file(path, &error))?;
            }
            if roots.is_empty() {
                return Err(bad_file(path, &"it holds no certificate"));
            }
        }
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let file = File::open(path).map_err(|error| bad_file(path, &error))?;
    CertificateDer::pem_reader_iter(BufReader::new(file))
        .take(MAX_AUTHORITIES)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_file(path, &error))
}

fn bad_file(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::Settings(format!("{} is no usable PEM file of certificates: {why}", path.display()))
}
