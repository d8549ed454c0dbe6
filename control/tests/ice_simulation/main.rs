//! Nodes with ICE on a simulated network with NATs of every kind, against a TURN server by another hand. Time is
//! virtual and everything random comes from seeds, which failures name.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

mod hostile;
mod network;
mod rng;
mod scenarios;
mod servers;
mod world;
