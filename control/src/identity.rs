//! This node's identity: an Ed25519 key in a file.
//!
//! The key is the only thing that is stored. The TLS certificate is made from it in memory at each start, and the keys
//! that must survive a restart (connection ids, stateless resets) are derived from it. A new key is written to a
//! temporary file of the same directory and linked into place, which fails when the name exists: programs that start at
//! the same moment agree on the key of whoever linked first.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    hkdf,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use data_encoding::BASE64;
use ipop_datapath::node_id::NodeId;
use rcgen::PublicKeyData;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};

use crate::host::private_file::{self, PrivateFileError, Readers};

/// A node's private key, its id, and its self-signed certificate.
pub struct Identity {
    node_id: NodeId,
    private_key: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
    derivation: hkdf::Prk,
}

/// Why there is no identity. Each message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Others than the owner can read or write the key file.
    #[error(
        "the key file {path} is open to other users (mode {mode:04o}); run `chmod 600 {path}`, and if \
         someone may have read it, delete it and tell the peers the new node id", path = path.display()
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file is there but cannot be read.
    #[error("cannot read the key file {path}: {cause}; {owner}", path = path.display())]
    Unreadable {
        /// The key file.
        path: PathBuf,
        /// Who runs and who owns the file.
        owner: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// A new key could not be stored.
    #[error(
        "cannot create the key file {path}: {cause}; choose a directory that user {uid} may write \
         with --state DIR, or a file with --identity FILE", path = path.display(),
        uid = rustix::process::geteuid().as_raw()
    )]
    NotCreated {
        /// The key file.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// A key, but not an Ed25519 one.
    #[error(
        "{path} holds a key of another type; the identity must be an Ed25519 key in PKCS#8 PEM. Name \
         another file with --identity and one is made", path = path.display()
    )]
    OtherKeyType {
        /// The key file.
        path: PathBuf,
    },
    /// No key at all.
    #[error(
        "{path} does not hold a private key in PKCS#8 PEM ({why}); restore it from a backup, or move it \
         away and a new one is made (with a new node id)", path = path.display()
    )]
    Malformed {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The cryptographic library failed.
    #[error(
        "the cryptographic library could not {0}; the system's random generator may be missing"
    )]
    Crypto(&'static str),
}

impl IdentityError {
    /// Whether the kernel refused for lack of permission.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Unreadable { cause, .. } | Self::NotCreated { cause, .. } => {
                cause.kind() == io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }
}

/// A key file is a few hundred bytes; more than this is something else.
const MAX_KEY_FILE_LEN: u64 = 16 * 1024;

impl Identity {
    /// Reads the key file, or makes it (mode 0600, missing directories 0700) if there is none.
    ///
    /// # Errors
    /// Any [`IdentityError`].
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(found) = Self::load_if_there(path)? {
            return Ok(found);
        }
        let fresh = Self::generate()?;
        let not_created = |cause| IdentityError::NotCreated { path: path.into(), cause };
        match private_file::create_new(path, to_pem(&fresh.private_key).as_bytes()) {
            Ok(()) => Ok(fresh),
            // Another program was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::load_if_there(path)?.ok_or_else(|| not_created(error))
            }
            Err(cause) => Err(not_created(cause)),
        }
    }

    /// Reads the key file, if there is one; makes nothing.
    ///
    /// # Errors
    /// Any [`IdentityError`] but that it cannot be created.
    pub fn load_if_there(path: &Path) -> Result<Option<Self>, IdentityError> {
        match private_file::read(path, MAX_KEY_FILE_LEN, Readers::OwnerAlone) {
            Ok(pem) => Self::of_pem(path, &pem).map(Some),
            Err(why) if why.is_absent() => Ok(None),
            Err(why) => Err(of_file(why)),
        }
    }

    /// A new random identity that is stored nowhere.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn generate() -> Result<Self, IdentityError> {
        let key = Ed25519KeyPair::generate().map_err(|_| IdentityError::Crypto("make a key"))?;
        let der = key.to_pkcs8v1().map_err(|_| IdentityError::Crypto("encode the key"))?;
        Self::of_key(&key, PrivatePkcs8KeyDer::from(der.as_ref().to_vec()))
    }

    /// The hash of the public key, by which peers know this node.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// A self-signed certificate of the key, made at this start. Its names and dates carry no meaning.
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// SHA-256 of the certificate, as XEP-0320 wants it.
    pub fn certificate_fingerprint(&self) -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.certificate);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest.as_ref());
        fingerprint
    }

    /// The private key, PKCS#8.
    pub fn private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.private_key.clone_key())
    }

    /// A key for one purpose, named by the label: HKDF-SHA-256 (RFC 5869) of the private key, the label as info.
    /// The same at every start.
    pub fn derive_key(&self, label: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        self.derivation
            .expand(&[label], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .expect("HKDF-SHA-256 always yields 32 bytes");
        key
    }

    fn of_pem(path: &Path, pem: &[u8]) -> Result<Self, IdentityError> {
        let malformed = |why: &dyn fmt::Display| IdentityError::Malformed {
            path: path.into(),
            why: why.to_string(),
        };
        let der = match PrivateKeyDer::from_pem_slice(pem).map_err(|error| malformed(&error))? {
            PrivateKeyDer::Pkcs8(der) => der,
            _ => return Err(IdentityError::OtherKeyType { path: path.into() }),
        };
        match Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()) {
            Ok(key) => Self::of_key(&key, der),
            Err(_) if rcgen::KeyPair::try_from(&der).is_ok() => {
                Err(IdentityError::OtherKeyType { path: path.into() })
            }
            Err(error) => Err(malformed(&format_args!("not an Ed25519 key: {error}"))),
        }
    }

    fn of_key(
        key: &Ed25519KeyPair,
        private_key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        const NO_CERTIFICATE: IdentityError = IdentityError::Crypto("make a certificate");
        let signer =
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&private_key, &rcgen::PKCS_ED25519)
                .map_err(|_| NO_CERTIFICATE)?;
        let spki = signer.subject_public_key_info();
        debug_assert!(spki.ends_with(key.public_key().as_ref()));
        let node_id = NodeId::of_spki(&spki);
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, node_id.to_string());
        let certificate = params.self_signed(&signer).map_err(|_| NO_CERTIFICATE)?;
        let seed = key.seed().map_err(|_| IdentityError::Crypto("read the key"))?;
        let seed = aws_lc_rs::encoding::AsBigEndian::as_be_bytes(&seed)
            .map_err(|_| IdentityError::Crypto("read the key"))?;
        let derivation = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ipop-switch").extract(seed.as_ref());
        Ok(Self { node_id, private_key, certificate: certificate.der().clone(), derivation })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

fn of_file(why: PrivateFileError) -> IdentityError {
    match why {
        PrivateFileError::Exposed { path, mode } => IdentityError::Exposed { path, mode },
        PrivateFileError::Unusable { path, why } => IdentityError::Malformed { path, why },
        PrivateFileError::Unreadable { path, owner, cause } => {
            IdentityError::Unreadable { path, owner, cause }
        }
        PrivateFileError::NotWritten { path, cause } => IdentityError::NotCreated { path, cause },
    }
}

/// RFC 7468. The 48 bytes of an Ed25519 key are one line.
fn to_pem(key: &PrivatePkcs8KeyDer<'_>) -> String {
    let base64 = BASE64.encode(key.secret_pkcs8_der());
    format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    fn write(path: &Path, content: &str) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/deeper/identity.pem");
        assert!(
            Identity::load_if_there(&path).unwrap().is_none() && !dir.path().join("state").exists()
        );
        let made = Identity::load_or_create(&path).unwrap();
        let found = Identity::load_or_create(&path).unwrap();
        assert_eq!(made.node_id(), found.node_id());
        assert_eq!(made.derive_key(b"a"), found.derive_key(b"a"));
        assert_ne!(made.derive_key(b"a"), made.derive_key(b"b"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "a temporary file stayed: {names:?}");
    }

    #[test]
    fn the_id_is_the_hash_of_the_rfc_8410_key_in_the_certificate() {
        let identity = Identity::generate().unwrap();
        let key = Ed25519KeyPair::from_pkcs8(identity.private_key.secret_pkcs8_der()).unwrap();
        let mut spki = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        spki.extend_from_slice(key.public_key().as_ref());
        assert_eq!(identity.node_id(), NodeId::of_spki(&spki));
        let certificate = identity.certificate_der();
        assert!(certificate.windows(spki.len()).any(|window| window == spki));
        let verified = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&identity.private_key);
        assert!(verified.is_ok());
    }

    #[test]
    fn programs_that_start_together_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        let ids: Vec<NodeId> = std::thread::scope(|scope| {
            let start = || Identity::load_or_create(&path).unwrap().node_id();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        Identity::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o622] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Exposed { .. }), "{error}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())));
        }
    }

    #[test]
    fn other_keys_and_other_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        write(&path, &ecdsa.serialize_pem());
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::OtherKeyType { .. }), "{error}");

        let good = to_pem(&Identity::generate().unwrap().private_key);
        let cut = good.replace(&good[40..60], "");
        for bad in ["", "hello", &good[..60], &cut, &good.replace("PRIVATE", "PUBLIC")] {
            write(&path, bad);
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Malformed { .. }), "{bad:?}: {error}");
        }
        write(&path, &"x".repeat(MAX_KEY_FILE_LEN as usize + 1));
        assert!(Identity::load_or_create(&path).unwrap_err().to_string().contains("longer than"));
        let error = Identity::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
    }

    #[test]
    fn a_key_made_by_openssl_with_its_public_half_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        let key = Ed25519KeyPair::generate().unwrap();
        let v2 = PrivatePkcs8KeyDer::from(key.to_pkcs8().unwrap().as_ref().to_vec());
        write(&path, &to_pem(&v2));
        let identity = Identity::load_or_create(&path).unwrap();
        let v1 = PrivatePkcs8KeyDer::from(key.to_pkcs8v1().unwrap().as_ref().to_vec());
        assert_eq!(identity.node_id(), Identity::of_key(&key, v1).unwrap().node_id());
    }

    #[test]
    fn what_cannot_be_created_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Identity::load_or_create(&file.join("identity.pem")).unwrap_err();
        assert!(matches!(error, IdentityError::Unreadable { .. }), "{error}");
        let error = Identity::load_or_create(Path::new("/proc/none/identity.pem")).unwrap_err();
        assert!(error.to_string().contains("--state DIR"), "{error}");
    }
}
