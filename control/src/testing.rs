//! What the tests of several modules need.

use ipop_datapath::tunnel::hello::{Capabilities, Hello};

use crate::ice::{Entropy, IceConfig, Loopback, Timing};

/// ICE without chance.
pub(crate) fn ice(seed: u64) -> IceConfig {
    let (loopback, entropy) = (Loopback::Refused, Entropy::seeded(seed));
    IceConfig { listen_port: 5_800, loopback, entropy, timing: Timing::default() }
}

/// What a node of one lane says.
pub(crate) fn hello() -> Hello {
    Hello {
        capabilities: Capabilities::ALL,
        max_frame_len: 65_549,
        inner_mtu: 1_500,
        lanes: 1,
        lane: 0,
        name: "rack9".into(),
        instance: [1; 16],
        probe_token: None,
        agent: String::new(),
        proofs: Vec::new(),
    }
}
