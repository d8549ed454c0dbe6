//! The network's secret: a line of text with at least 128 bits, and the keys that are derived from it (`docs/WIRE.md`).
//!
//! A file may hold up to four, one a line: the first is the network's, the others are still believed, or already, while the members
//! exchange an old one for a new one. Empty lines and lines that begin with `#` are skipped.

use std::{fmt, str::FromStr};

use aws_lc_rs::{hkdf, hmac, rand::SecureRandom};
use data_encoding::BASE32_NOPAD;
use ipop_datapath::{
    node_id::NodeId,
    policy::admission::{MAX_PROOFS, PROOF_LEN, Proof, ProofBinding, SecretId},
};

/// Fewer characters than this cannot hold 128 bits: base64 has 6 bits a character.
pub const MIN_LEN: usize = 22;
/// More than this is something else than a secret.
pub const MAX_LEN: usize = 256;
/// Different characters that a secret has at least. Of 22 random ones of any usual alphabet hardly ever fewer differ.
const MIN_DISTINCT: usize = 8;
/// Random bytes of a new secret: 160 bits, 32 characters of base32.
const NEW_LEN: usize = 20;
/// A file with four secrets and comments is no longer than this, in bytes.
pub const MAX_FILE_LEN: u64 = 8 * 1024;

/// One secret. Its text is shown to nobody but by [`Secret::reveal`].
#[derive(Clone)]
pub struct Secret {
    text: String,
    id: SecretId,
    proof_key: hmac::Key,
    room_password: String,
}

/// The secrets that are valid now, at most four, all different; the first is the one for what is new.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Secrets(Vec<Secret>);

/// The text is no secret. No message repeats it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretError {
    /// No line holds one.
    #[error("there is no network secret in it; make one with `ipop-switch secret new`")]
    None,
    /// Too few characters.
    #[error(
        "the network secret has {0} characters, and at least {MIN_LEN} are needed for 128 bits; make one with \
         `ipop-switch secret new`"
    )]
    Short(usize),
    /// Too many characters.
    #[error("the network secret has {0} bytes, more than {MAX_LEN}")]
    Long(usize),
    /// The same few characters again and again.
    #[error(
        "the network secret has only {0} different characters and could be guessed; make one with `ipop-switch secret new`"
    )]
    Monotonous(usize),
    /// White space or control characters inside of it.
    #[error(
        "the network secret contains white space or control characters; each line holds one secret"
    )]
    Spaces,
    /// More than four.
    #[error(
        "{0} network secrets are more than {MAX_PROOFS}; take out those that no node uses any more"
    )]
    Many(usize),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

impl Secret {
    /// A new random one.
    ///
    /// # Errors
    /// [`SecretError::NoRandom`].
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = [0; NEW_LEN];
        aws_lc_rs::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| SecretError::NoRandom)?;
        let text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        // One in some 10^9 has too few different characters: it is as good as any other.
        Ok(Self::of_text(text))
    }

    /// The text, for the operator's eyes and for join tokens.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// A name that tells nothing of the secret.
    pub fn id(&self) -> SecretId {
        self.id
    }

    /// The password of the network's room.
    pub fn room_password(&self) -> &str {
        &self.room_password
    }

    /// What `prover` shows at the other end of this connection.
    pub fn prove(&self, prover: NodeId, binding: &ProofBinding) -> Proof {
        let tag = hmac::sign(&self.proof_key, &statement(prover, binding));
        let mut proof = [0; PROOF_LEN];
        proof.copy_from_slice(tag.as_ref());
        proof
    }

    /// Whether `prover` has shown that it knows this secret; in constant time for each proof.
    pub fn is_proved_by(&self, prover: NodeId, binding: &ProofBinding, proofs: &[Proof]) -> bool {
        let statement = statement(prover, binding);
        let fits = |proof: &&Proof| hmac::verify(&self.proof_key, &statement, &proof[..]).is_ok();
        proofs.iter().filter(fits).count() > 0
    }

    fn of_text(text: String) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"ipop-switch").extract(text.as_bytes());
        let proof_key =
            hmac::Key::new(hmac::HMAC_SHA256, &derive::<32>(&root, b"ipop-switch proof 1"));
        let password = derive::<20>(&root, b"ipop-switch room password 1");
        Self {
            id: SecretId(derive(&root, b"ipop-switch secret id 1")),
            proof_key,
            room_password: BASE32_NOPAD.encode(&password).to_ascii_lowercase(),
            text,
        }
    }
}

/// Role, both ids, and what only the two ends of this connection know. A proof that is sent back does not fit.
fn statement(prover: NodeId, binding: &ProofBinding) -> [u8; 97] {
    let mut statement = [0; 97];
    statement[0] = if prover == binding.dialler { 1 } else { 2 };
    statement[1..33].copy_from_slice(&binding.dialler.0);
    statement[33..65].copy_from_slice(&binding.listener.0);
    statement[65..].copy_from_slice(&binding.exported);
    statement
}

fn derive<const LEN: usize>(root: &hkdf::Prk, info: &[u8]) -> [u8; LEN] {
    let mut key = [0; LEN];
    let infos = [info];
    let okm = root.expand(&infos, Length(LEN)).expect("HKDF-SHA-256 yields up to 8,160 bytes");
    okm.fill(&mut key).expect("the length is the one asked for");
    key
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SecretError::None);
        }
        if text.len() > MAX_LEN {
            return Err(SecretError::Long(text.len()));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(SecretError::Spaces);
        }
        let count = text.chars().count();
        if count < MIN_LEN {
            return Err(SecretError::Short(count));
        }
        let distinct = text.chars().collect::<std::collections::BTreeSet<_>>().len();
        if distinct < MIN_DISTINCT {
            return Err(SecretError::Monotonous(distinct));
        }
        Ok(Self::of_text(text.to_owned()))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").field(&self.id).finish()
    }
}

impl Secrets {
    /// These secrets, without repetitions.
    ///
    /// # Errors
    /// When there is none, or more than four.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Result<Self, SecretError> {
        let mut distinct: Vec<Secret> = Vec::new();
        for secret in secrets {
            if !distinct.contains(&secret) {
                distinct.push(secret);
            }
        }
        match distinct.len() {
            0 => Err(SecretError::None),
            1..=MAX_PROOFS => Ok(Self(distinct)),
            more => Err(SecretError::Many(more)),
        }
    }

    /// The one for what is new: the password that a room is made with.
    pub fn first(&self) -> &Secret {
        &self.0[0]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }

    /// Their names.
    pub fn ids(&self) -> Vec<SecretId> {
        self.iter().map(Secret::id).collect()
    }
}

impl FromStr for Secrets {
    type Err = SecretError;

    /// The content of a secret file.
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let secrets = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self::new(secrets.map(str::parse).collect::<Result<Vec<Secret>, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43u";

    fn binding() -> ProofBinding {
        ProofBinding { dialler: NodeId([1; 32]), listener: NodeId([2; 32]), exported: [3; 32] }
    }

    #[test]
    fn a_new_secret_is_one() {
        let secret = Secret::generate().unwrap();
        assert_eq!(secret.reveal().len(), 32);
        assert_eq!(secret.reveal().parse::<Secret>().unwrap(), secret);
        assert_ne!(Secret::generate().unwrap(), secret);
        assert_eq!(format!("{secret:?}"), format!("Secret({:?})", secret.id()), "not its text");
    }

    #[test]
    fn short_guessable_and_split_secrets_are_refused() {
        let parse = |text: &str| text.parse::<Secret>().unwrap_err();
        assert_eq!(parse(" \n"), SecretError::None);
        assert_eq!(parse("correct-horse-battery"), SecretError::Short(21));
        assert_eq!(parse(&"abcabcab".repeat(4)), SecretError::Monotonous(3));
        assert_eq!(parse("correct horse battery staple"), SecretError::Spaces);
        assert_eq!(parse(&TEXT.repeat(9)), SecretError::Long(288));
        assert!(parse("hunter2").to_string().contains("ipop-switch secret new"));
        assert!(!parse("hunter2").to_string().contains("hunter2"), "it ends up in logs");
    }

    #[test]
    fn secrets_of_the_least_and_the_most_length_are_taken() {
        let of_len = |len| "abcdefghij".chars().cycle().take(len).collect::<String>();
        for len in [MIN_LEN, MAX_LEN] {
            assert!(of_len(len).parse::<Secret>().is_ok(), "{len}");
        }
        assert_eq!(of_len(MAX_LEN + 1).parse::<Secret>(), Err(SecretError::Long(MAX_LEN + 1)));
        assert!("abcdefgh".repeat(3).parse::<Secret>().is_ok(), "{MIN_DISTINCT} different ones");
        assert_eq!("abcdefg".repeat(4).parse::<Secret>(), Err(SecretError::Monotonous(7)));
        let with_comments = MAX_PROOFS * 2 * (MAX_LEN + 1);
        assert!(MAX_FILE_LEN >= with_comments as u64, "four, each with a comment as long");
    }

    #[test]
    fn a_file_holds_up_to_four_and_white_space_does_not_matter() {
        let one: Secrets = format!("\u{feff}  {TEXT}\r\n\n").parse().unwrap();
        assert_eq!(one.ids(), [TEXT.parse::<Secret>().unwrap().id()]);
        let lines: Vec<String> = (0..5).map(|n| format!("{n}{TEXT}")).collect();
        let file = format!("# new\n{}\n# old\n{}\n{}\n", lines[0], lines[1], lines[0]);
        let two: Secrets = file.parse().unwrap();
        assert_eq!(two.first().reveal(), lines[0]);
        assert_eq!(two.iter().count(), 2);
        assert_eq!(lines.join("\n").parse::<Secrets>(), Err(SecretError::Many(5)));
        assert_eq!("# nothing\n".parse::<Secrets>(), Err(SecretError::None));
    }

    /// Other implementations must derive the same: these values are promised in `docs/WIRE.md`.
    #[test]
    fn what_is_derived_stays_the_same() {
        const ROOM_PASSWORD: &str = "ryp2mjbvdbbohwxzrqwtkzhkfxmp7uiv";
        const PROOF: &str = "26d0344944587a09313fb3133014d9101cc46ab8a47be5f3c20ad5cf1a7b8a22";
        let secret: Secret = TEXT.parse().unwrap();
        assert_eq!(secret.room_password(), ROOM_PASSWORD);
        let proof = secret.prove(NodeId([1; 32]), &binding());
        assert_eq!(data_encoding::HEXLOWER.encode(&proof), PROOF);
    }

    #[test]
    fn a_proof_fits_one_secret_one_role_and_one_connection() {
        let secret: Secret = TEXT.parse().unwrap();
        let (dialler, listener, binding) = (NodeId([1; 32]), NodeId([2; 32]), binding());
        let proof = secret.prove(dialler, &binding);
        assert!(secret.is_proved_by(dialler, &binding, &[[0; 32], proof]));
        assert!(!secret.is_proved_by(dialler, &binding, &[]));
        assert!(!secret.is_proved_by(listener, &binding, &[proof]), "reflected");
        let others = [
            ProofBinding { exported: [4; 32], ..binding },
            ProofBinding { listener: NodeId([9; 32]), ..binding },
            ProofBinding { dialler: listener, listener: dialler, ..binding },
        ];
        for other in others {
            assert!(!secret.is_proved_by(dialler, &other, &[proof]), "{other:?}");
        }
        let other: Secret = format!("x{TEXT}").parse().unwrap();
        assert!(!other.is_proved_by(dialler, &binding, &[proof]));
        assert_ne!(other.room_password(), secret.room_password());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in "\\PC{0,60}") {
            if let Ok(secret) = text.parse::<Secret>() {
                prop_assert_eq!(secret.reveal(), text.trim());
                prop_assert_eq!(secret.reveal().parse::<Secret>().unwrap(), secret);
            }
        }

        #[test]
        fn any_file_holds_one_to_four_or_is_refused(text in "[a-z0-9#\\n\\r\\t ]{0,400}") {
            if let Ok(secrets) = text.parse::<Secrets>() {
                prop_assert!((1..=MAX_PROOFS).contains(&secrets.iter().count()));
                prop_assert!(secrets.iter().all(|secret| text.contains(secret.reveal())));
            }
        }
    }
}
