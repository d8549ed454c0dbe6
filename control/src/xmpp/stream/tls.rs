//! TLS towards the server. Its certificate has to be valid for the account's domain, whatever name or address led to
//! it (RFC 6120 section 13.7, RFC 7590), or nothing secret is sent.

use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error,
    ProtocolVersion, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
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
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Verifier::new(&account.authorities, &provider)?;
        let mut starttls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::Settings(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
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
            Some(Error::AlertReceived(AlertDescription::UnrecognisedName)) => {
                Failure::Certificate {
                    server,
                    fault: Certificate::OtherName { domain: self.domain.clone() },
                }
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
        // Webpki's word for a self-signed certificate that is marked as an authority's.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            Certificate::UnknownAuthority
        }
        other => Certificate::Other(super::failure::printable(&other.to_string())),
    }
}

/// Webpki's rules, and one more: a certificate that stands itself in the operator's file is good for its names. That
/// is how self-signed certificates are used, most of which are marked as an authority's, and webpki takes no authority
/// for a server. Dates do not matter for these, so that a wrong clock locks nobody out.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(authorities: &Authorities, provider: &Arc<CryptoProvider>) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        let pinned = match authorities {
            Authorities::System => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                Vec::new()
            }
            Authorities::File(path) => {
                let certificates = read_certificates(path)?;
                for certificate in &certificates {
                    roots.add(certificate.clone()).map_err(|error| bad_file(path, &error))?;
                }
                certificates
            }
        };
        if roots.is_empty() {
            let why = "this system has no certificate authorities; install ca-certificates, or give the server's own";
            return Err(Failure::Settings(why.to_owned()));
        }
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| Failure::Settings(format!("TLS cannot be set up: {error}")))?;
        Ok(Self { webpki, pinned })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let file = File::open(path).map_err(|error| bad_file(path, &error))?;
    let certificates: Vec<_> = CertificateDer::pem_reader_iter(BufReader::new(file))
        .take(MAX_AUTHORITIES)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_file(path, &error))?;
    match certificates.is_empty() {
        true => Err(bad_file(path, &"it holds no certificate")),
        false => Ok(certificates),
    }
}

fn bad_file(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::Settings(format!("{} is no usable PEM file of certificates: {why}", path.display()))
}
