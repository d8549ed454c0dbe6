//! Whether the certificate that a server shows proves who it is.
//!
//! Three may vouch for it, and the first that does settles it. The authorities, the system's or those of the operator's file, by webpki's
//! rules. The operator's file itself: a certificate that stands there is good for its names. And pins (RFC 7469): hashes of keys that came
//! with the join token or from the operator, for servers that no authority vouches for.
//!
//! A pin on the server's own key stands for that key: names and dates of the certificate around it do not matter, since whoever has the key
//! could write others. A pin on the key of another certificate in the chain makes that one an authority for this server: the server's
//! certificate must be signed by it, directly or through others that the server shows, for the account's domain and at this time. That it
//! merely lies among the certificates proves nothing, everybody can show it. The dates of the pinned one do not matter.
//!
//! Whatever vouches for the certificate, TLS then has the server prove that it holds the certificate's key.

use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::{
    account::{Account, Authorities},
    failure::{Certificate, Failure, printable},
};
use crate::network::Pin;

/// Certificates read from one file.
const MAX_AUTHORITIES: usize = 4_096;

/// Who vouches for the server of one account.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` where there is no authority at all.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of the operator's file. Most self-signed ones are marked as an authority's, which webpki takes for no server.
    listed: Vec<CertificateDer<'static>>,
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

/// The certificate is nobody's who is known here.
#[derive(Debug, thiserror::Error)]
#[error("its key {key} is not known")]
struct UnknownKey {
    key: Pin,
}

/// The key of a certificate, hashed.
pub(super) fn pin_of(certificate: &CertificateDer<'_>) -> Option<Pin> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(Pin::of_spki(&parsed.subject_public_key_info()))
}

impl Verifier {
    pub(super) fn new(account: &Account, provider: &Arc<CryptoProvider>) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        let listed = match &account.authorities {
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
        if roots.is_empty() && account.pins.is_empty() {
            let why = "this system has no certificate authorities; install ca-certificates, or give the server's own";
            return Err(Failure::Settings(why.to_owned()));
        }
        let authorities = match roots.is_empty() {
            true => None,
            false => Some(
                by_webpki(roots, provider)
                    .map_err(|error| Failure::Settings(format!("TLS cannot be set up: {error}")))?,
            ),
        };
        let (pins, provider) = (account.pins.clone(), Arc::clone(provider));
        Ok(Self { authorities, listed, pins, provider })
    }

    /// The pin that another host knows this server by: of the certificate of the operator's file that the server shows, else of its own key.
    pub(super) fn pin_to_hand_on(&self, chain: &[CertificateDer<'_>]) -> Option<Pin> {
        let listed: Vec<Pin> = self.listed.iter().filter_map(pin_of).collect();
        let shown: Vec<Pin> = chain.iter().filter_map(pin_of).collect();
        shown.iter().find(|pin| listed.contains(pin)).or(shown.first()).copied()
    }

    fn known_by_authorities(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.listed.iter().any(|listed| listed == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let Some(authorities) = &self.authorities else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        authorities.verify_server_cert(end_entity, intermediates, server_name, &[], now)
    }

    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        pin_of(certificate).is_some_and(|pin| self.pins.contains(&pin))
    }

    /// `UnknownIssuer` says that no pin is about this chain.
    fn known_by_pins(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.is_pinned(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut roots = RootCertStore::empty();
        for pinned in intermediates.iter().filter(|certificate| self.is_pinned(certificate)) {
            // One that is no authority's is left out.
            let _ = roots.add(pinned.clone().into_owned());
        }
        let Ok(pinned) = by_webpki(roots, &self.provider) else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        pinned.verify_server_cert(end_entity, intermediates, server_name, &[], now)
    }

    /// What is wrong with a certificate, in the words of [`Failure`].
    pub(super) fn fault(&self, error: &CertificateError, domain: &str) -> Certificate {
        match error {
            CertificateError::Other(OtherError(other)) => {
                let key = other.downcast_ref::<UnknownKey>().map(|unknown| unknown.key);
                match (key, self.pins.is_empty()) {
                    (Some(key), true) => Certificate::UnknownAuthority { key },
                    (Some(key), false) => Certificate::NotPinned { key },
                    (None, _) => Certificate::Other(printable(&other.to_string())),
                }
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Certificate::OtherName { domain: domain.to_owned() }
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Certificate::Dates,
            other => Certificate::Other(printable(&other.to_string())),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let known = self.known_by_authorities(end_entity, intermediates, server_name, now);
        let known = match known {
            // The first fault stands unless a pin is about this chain.
            Err(fault) => match self.known_by_pins(end_entity, intermediates, server_name, now) {
                Err(of_pin) if is_of_nobody(&of_pin) => Err(fault),
                by_pin => by_pin,
            },
            known => known,
        };
        match (known, pin_of(end_entity)) {
            (Err(fault), Some(key)) if is_of_nobody(&fault) => {
                Err(CertificateError::Other(OtherError(Arc::new(UnknownKey { key }))).into())
            }
            (known, _) => known,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Webpki's rules with these authorities. Without any there is no such verifier.
fn by_webpki(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::client::VerifierBuilderError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build()
}

/// Whether the certificate might be good if only its issuer were known.
fn is_of_nobody(fault: &Error) -> bool {
    match fault {
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => true,
        // Webpki's word for a self-signed certificate that is marked as an authority's.
        Error::InvalidCertificate(other) => format!("{other:?}").contains("CaUsedAsEndEntity"),
        _ => false,
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
