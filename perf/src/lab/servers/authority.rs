//! A certification authority of the lab.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// A certification authority, new each time.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// For as long as anybody looks.
    Long,
    /// Until some year in the past.
    Expired,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
}

impl Authority {
    /// With a key of its own.
    ///
    /// # Errors
    /// When the certificate can't be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, "Authority of the lab");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self(issuer))
    }

    /// Its own certificate: what a client is to trust.
    pub fn certificate_pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names (DNS names or IP addresses).
    pub(super) fn issue(&self, names: &[String], validity: Validity) -> Result<Issued> {
        let mut params = CertificateParams::new(names).context("names for a certificate")?;
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("", |n| n));
        match validity {
            // Erlang's clock, and ejabberd with it, ends before the year that is there by default.
            Validity::Long => params.not_after = date_time_ymd(2100, 1, 1),
            Validity::Expired => {
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2021, 1, 1);
            }
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}
