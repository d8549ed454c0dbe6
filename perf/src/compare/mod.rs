//! `ipop-perf compare`: the same work for every way to connect two hosts, in one lab.
//!
//! * [`contender`]: what is compared, and its settings; `tunnels` starts each.

pub mod contender;
mod tunnels;
