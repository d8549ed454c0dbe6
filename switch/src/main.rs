//! ipop-switch: an Ethernet switch whose ports are TAP devices and QUIC tunnels.
#![forbid(unsafe_code)]

use std::process;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> process::ExitCode {
    ipop_switch::main()
}
