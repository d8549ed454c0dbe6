//! Where random numbers come from: the system's generator in the program, a seed in a simulation.

use aws_lc_rs::{digest, rand};

use super::stun::TransactionId;

/// The characters of ufrag and pwd: `ice-char` of RFC 8839, 6 bits each.
const ICE_CHARACTERS: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A source of random numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entropy {
    /// The system's cryptographic generator.
    System,
    /// Reproducible, for simulations: the seed and how often it was asked.
    Seeded {
        /// The seed.
        seed: u64,
        /// Blocks given so far.
        drawn: u64,
    },
}

impl Entropy {
    /// A reproducible source.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded { seed, drawn: 0 }
    }

    /// A new transaction: all 96 bits random, which is what keeps strangers from answering.
    pub(super) fn transaction(&mut self) -> TransactionId {
        TransactionId(self.bytes())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    /// `LENGTH` characters of 6 random bits each.
    pub(super) fn ice_text<const LENGTH: usize>(&mut self) -> String {
        self.bytes::<LENGTH>()
            .iter()
            .map(|byte| char::from(ICE_CHARACTERS[usize::from(byte & 0x3f)]))
            .collect()
    }

    /// At most 32 bytes.
    fn bytes<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        const { assert!(LENGTH <= 32) };
        let mut bytes = [0; LENGTH];
        match self {
            Self::System => {
                // A failure would leave zeros, with which checks would fail rather than pass; the generator of
                // AWS-LC aborts before it comes to that.
                let _ = rand::fill(&mut bytes);
            }
            Self::Seeded { seed, drawn } => {
                *drawn += 1;
                let input = [seed.to_be_bytes(), drawn.to_be_bytes()].concat();
                let block = digest::digest(&digest::SHA256, &input);
                bytes.copy_from_slice(&block.as_ref()[..LENGTH]);
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_the_system_does_not() {
        let (mut one, mut two) = (Entropy::seeded(7), Entropy::seeded(7));
        assert_eq!(one.u64(), two.u64());
        assert_ne!(one.u64(), one.u64());
        assert_ne!(Entropy::System.ice_text::<22>(), Entropy::System.ice_text::<22>());
        assert_eq!(one.ice_text::<4>().len(), 4);
    }
}
