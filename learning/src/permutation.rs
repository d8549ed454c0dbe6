//! A keyed permutation of the station keys, which says where in the table a station lives.
//!
//! The high bits of the permuted key choose the bucket; the other bits are what the bucket has to store, since a permutation
//! loses nothing: bucket and remainder together give the key back. That is what lets key and port share one atomic word.
//!
//! The secret is random for each table, so that nobody can pick addresses which fall into one bucket. The last step is a
//! multiplication by a random odd number of which the high bits are used: any two keys meet in a bucket with a probability of
//! at most 2 / buckets, whatever the earlier rounds do; they break up the progressions that such a hash alone would leave.
//! It is no cipher, and need not be: its output is never shown.

use std::hash::{BuildHasher, RandomState};

/// The bits of a (VLAN, MAC): 12 and 48. loom's models use small addresses, so that a table may have a single bucket.
pub(crate) const KEY_BITS: u32 = if cfg!(loom) { 16 } else { 60 };

/// The bits of a key.
pub(crate) const KEY_MASK: u64 = (1 << KEY_BITS) - 1;
/// Half the width or more makes `x ^ (x >> SHIFT)` its own inverse.
const SHIFT: u32 = KEY_BITS.div_ceil(2);

/// The permutation and, for listings, its inverse.
#[derive(Debug)]
pub(crate) struct Permutation {
    whitening: u64,
    multipliers: [u64; 3],
    inverses: [u64; 3],
}

impl Permutation {
    /// A permutation with a secret from the operating system; under loom, whose runs must repeat, always the same one.
    pub(crate) fn random() -> Self {
        if cfg!(loom) {
            return Self::new([0x5a5a, 0x9e37, 0x79b9, 0x7f4b]);
        }
        let source = RandomState::new();
        Self::new(std::array::from_fn(|index| source.hash_one(index)))
    }

    /// The permutation that belongs to this secret.
    pub(crate) fn new(secret: [u64; 4]) -> Self {
        let [whitening, multipliers @ ..] = secret;
        let multipliers = multipliers.map(|number| (number | 1) & KEY_MASK);
        let inverses = multipliers.map(inverse_of_odd);
        Self { whitening: whitening & KEY_MASK, multipliers, inverses }
    }

    /// Where `key`, of at most [`KEY_BITS`], is sent.
    #[inline]
    pub(crate) fn apply(&self, key: u64) -> u64 {
        let [first, second, third] = self.multipliers;
        let mut x = key ^ self.whitening;
        x = x.wrapping_mul(first) & KEY_MASK;
        x ^= x >> SHIFT;
        x = x.wrapping_mul(second) & KEY_MASK;
        x ^= x >> SHIFT;
        x.wrapping_mul(third) & KEY_MASK
    }

    /// The key that [`Self::apply`] sends to `image`.
    pub(crate) fn invert(&self, image: u64) -> u64 {
        let [first, second, third] = self.inverses;
        let mut x = image.wrapping_mul(third) & KEY_MASK;
        x ^= x >> SHIFT;
        x = x.wrapping_mul(second) & KEY_MASK;
        x ^= x >> SHIFT;
        x = x.wrapping_mul(first) & KEY_MASK;
        x ^ self.whitening
    }
}

/// The multiplicative inverse modulo 2^64, by Newton's iteration: each step doubles the bits that are right, from three.
fn inverse_of_odd(number: u64) -> u64 {
    let mut inverse = number;
    for _ in 0..5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(number.wrapping_mul(inverse)));
    }
    inverse
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn inverts(secret: [u64; 4], key in 0..=KEY_MASK) {
            let permutation = Permutation::new(secret);
            let image = permutation.apply(key);
            prop_assert!(image <= KEY_MASK);
            prop_assert_eq!(permutation.invert(image), key);
        }
    }

    /// The fullest of 1,024 buckets when these 4,096 keys are placed: 4 on average.
    fn fullest_bucket(permutation: &Permutation, key_of: impl Fn(u64) -> u64) -> usize {
        let mut load = [0usize; 1024];
        for number in 0..4096 {
            load[(permutation.apply(key_of(number)) >> (KEY_BITS - 10)) as usize] += 1;
        }
        load.into_iter().max().unwrap_or(0)
    }

    #[test]
    fn regular_addresses_spread() {
        for round in 0..32u64 {
            let secret = std::array::from_fn(|index| {
                (round * 4 + index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
            });
            let permutation = Permutation::new(secret);
            for step in [0, 8, 16, 24, 36, 48] {
                let fullest = fullest_bucket(&permutation, |number| (number << step) & KEY_MASK);
                assert!(fullest < 24, "step 2^{step}, round {round}: {fullest} in one bucket");
            }
        }
    }

    #[test]
    fn secrets_differ() {
        let (one, other) = (Permutation::random(), Permutation::random());
        assert!((0..64).any(|key| one.apply(key) != other.apply(key)));
    }
}
