//! TLS towards the server. Its certificate has to be valid for the account's domain, whatever name or address led to
//! it (RFC 6120 section 13.7, RFC 7590), or have a pinned key, or nothing secret is sent. `verifier` says which certificates are good.

use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig, Error, ProtocolVersion, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    account::{Account, ServerAddress},
    failure::{Certificate, Failure},
    srv::Mode,
    verifier::Verifier,
};
use crate::network::Pin;

/// What TLS needs to know of an account. Holds the tickets of earlier connections too.
#[derive(Clone)]
pub(super) struct Tls {
    direct: Arc<ClientConfig>,
    starttls: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
    domain: String,
}

/// XEP-0368: what tells XMPP from other protocols on a shared port.
const ALPN: &[u8] = b"xmpp-client";

impl Tls {
    pub(super) fn new(account: &Account) -> Result<Self, Failure> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(Verifier::new(account, &provider)?);
        let mut starttls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::Settings(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        starttls.enable_early_data = false;
        let mut direct = starttls.clone();
        direct.alpn_protocols = vec![ALPN.to_vec()];
        let domain =
            account.jid.domain().as_str().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { direct: Arc::new(direct), starttls: Arc::new(starttls), verifier, domain })
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

    /// The pin that another host knows the server of this connection by.
    pub(super) fn pin_to_hand_on(&self, stream: &TlsStream<TcpStream>) -> Option<Pin> {
        self.verifier.pin_to_hand_on(stream.get_ref().1.peer_certificates()?)
    }

    fn failure(&self, server: &ServerAddress, error: &std::io::Error) -> Failure {
        let server = server.clone();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(Error::InvalidCertificate(fault)) => {
                Failure::Certificate { server, fault: self.verifier.fault(fault, &self.domain) }
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
