//! Whole-program measurements of ipop-switch, and the lab that they, the end-to-end tests and the demo run in.
//!
//! This library is the inside of the programs `ipop-perf`, `ipop-obvious` and `ipop-mutants` and of the tests under `tests/`; what it
//! reports is read by people, so its errors are `anyhow` chains that say what was being done.
//!
//! * [`lab`]: hosts out of network namespaces, links, tools, processes, all of it always cleaned up.
//! * [`wire`]: the Ethernet wire emulator.
//! * [`obvious`]: the obvious implementation, `ipop-obvious`.
//! * [`tunnel`]: the programs under test, started in the lab.
//! * [`compare`], [`switch`], [`overload`], [`soak`], [`discovery`], [`tcp`], [`demo`]: the commands of `ipop-perf`.
//! * [`batch`], [`stream`], [`flood`]: frames and datagrams in numbers, and what became of them.
//! * [`counters`]: what the switch says that it did.
//! * [`machine`], [`quiet`]: what a measurement ran on, and whether it was alone.
//! * [`mutants`]: whether tests notice when a guarding line is spoiled, `ipop-mutants`.
//! * [`folder`], [`chart`], [`progress`]: what a run leaves, and what it says on the way.

pub mod batch;
pub mod chart;
pub mod compare;
pub mod counters;
pub mod demo;
pub mod discovery;
pub mod flood;
pub mod folder;
pub mod lab;
pub mod machine;
pub mod mutants;
pub mod obvious;
pub mod operate;
pub mod overload;
pub mod progress;
pub mod quiet;
pub mod soak;
pub mod stream;
pub mod switch;
pub mod tcp;
pub mod tunnel;
pub mod wire;
