//! The node's key: a PKCS#8 PEM file that only its owner may read.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::hmac;
use ipop_datapath::node_id::NodeId;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// An Ed25519 key, and the id of the node that has it.
#[derive(Debug)]
pub struct Identity {
    key: KeyPair,
    /// The node's id.
    pub node_id: NodeId,
}

impl Identity {
    /// Reads the key from this file; makes both if there is no file.
    ///
    /// # Errors
    /// When others can read the file, or it holds something else.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        let shown = path.display();
        match fs::metadata(path) {
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o777;
                ensure!(
                    mode & 0o077 == 0,
                    "{shown} can be read by others (mode {mode:o}): chmod 600"
                );
                let pem = fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
                let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ED25519);
                Ok(Self::of(key.with_context(|| format!("{shown} holds no Ed25519 key"))?))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = KeyPair::generate_for(&PKCS_ED25519).context("making a key")?;
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .and_then(|mut file| file.write_all(key.serialize_pem().as_bytes()))
                    .with_context(|| format!("writing {shown}"))?;
                Ok(Self::of(key))
            }
            Err(error) => Err(error).with_context(|| format!("reading {shown}")),
        }
    }

    /// A self-signed certificate of the key, and the key, for TLS.
    ///
    /// # Errors
    /// When signing fails.
    pub fn certificate(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let parameters = CertificateParams::new(vec!["ipop-switch".into()])?;
        let certificate = parameters.self_signed(&self.key).context("signing a certificate")?;
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        Ok((certificate.der().clone(), key.into()))
    }

    /// A secret for this purpose, the same after a restart.
    pub(super) fn secret(&self, purpose: &str) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.serialized_der());
        let mut secret = [0; 32];
        secret.copy_from_slice(hmac::sign(&key, purpose.as_bytes()).as_ref());
        secret
    }

    fn of(key: KeyPair) -> Self {
        let node_id = NodeId::of_spki(&key.subject_public_key_info());
        Self { key, node_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        let made = Identity::load_or_create(&path).unwrap();
        assert_eq!(made.key.subject_public_key_info().len(), 44, "RFC 8410");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = Identity::load_or_create(&path).unwrap();
        assert_eq!((read.node_id, read.secret("a")), (made.node_id, made.secret("a")));
        assert_ne!(made.secret("a"), made.secret("b"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        fs::write(&path, "hello").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Identity::load_or_create(&path).unwrap_err().to_string().contains("no Ed25519"));
    }
}
