//! ipop-switch: an Ethernet switch whose ports are TAP devices and QUIC tunnels.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {}
