//! What may pass: who is admitted ([`admission`]), how much of it ([`bucket`]), not the segment's own frames come round ([`loop_probe`]), and what stations that move between two places are told of.

pub mod admission;
pub mod bucket;
pub mod loop_probe;
pub(crate) mod moves;
