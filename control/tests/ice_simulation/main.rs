//! Nodes with ICE on a simulated network with NATs of every kind, against a TURN server by another hand. Time is
//! virtual and everything random comes from seeds, which failures name.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

mod hostile;
mod network;
#[allow(dead_code, reason = "other simulations share it")]
#[path = "../common/rng.rs"]
mod rng;
mod scenarios;
#[allow(dead_code, reason = "other simulations share it")]
mod servers;
mod world;
