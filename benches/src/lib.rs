//! What the benchmarks share.

pub mod no_crypto;
