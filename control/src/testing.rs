//! What the tests of several modules need.

use ipop_datapath::hello::{Capabilities, Hello};

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
