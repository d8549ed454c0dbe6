//! Whole-program measurements of ipop-switch, and the lab that they, the end-to-end tests and the demo run in.
//!
//! This library is the inside of the programs `ipop-perf` and `ipop-obvious` and of the tests under `tests/`; what it
//! reports is read by people, so its errors are `anyhow` chains that say what was being done.
//!
//! * [`lab`]: hosts out of network namespaces, links, tools, processes, all of it always cleaned up.
//! * [`wire`]: the Ethernet wire emulator.
//! * [`obvious`]: the obvious implementation, `ipop-obvious`.
//! * [`tunnel`]: the programs under test, started in the lab.
//! * [`tcp`], [`demo`]: the commands of `ipop-perf`.
//! * [`machine`]: what a measurement ran on.

pub mod chart;
pub mod compare;
pub mod demo;
pub mod flood;
pub mod lab;
pub mod machine;
pub mod obvious;
pub mod quiet;
pub mod tcp;
pub mod tunnel;
pub mod wire;
