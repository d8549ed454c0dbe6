//! The conditions under which contenders are compared: one base point, and one thing changed at a time from it.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::contender::{Contender, Site};
use crate::{
    lab::{Host, Interface, Lab, LinkOptions},
    wire::{Impairments, Wire, WireOptions},
};

/// How much is measured under a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// Every [`super::measure::Measure`].
    Full,
    /// One TCP flow.
    OneFlow,
}

/// A condition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scenario {
    /// What it is called in reports.
    pub name: &'static str,
    /// MTU of the overlay.
    pub inner_mtu: u16,
    /// What the tunnel's packets cross.
    pub underlay: Underlay,
    /// What is measured.
    pub load: Load,
}

/// What the tunnel's packets cross.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Underlay {
    /// A veth pair that passes trains of segments whole.
    Veth {
        /// Its MTU, bytes.
        mtu: u32,
    },
    /// A veth pair on which each packet is alone.
    VethWithoutOffloads {
        /// Its MTU, bytes.
        mtu: u32,
    },
    /// The wire emulator.
    Wire {
        /// Packets lost in each direction, percent.
        loss_percent: f64,
        /// Delay in each direction, milliseconds.
        delay_ms: u32,
    },
}

const BASE: Scenario = Scenario {
    name: "base",
    inner_mtu: 1400,
    underlay: Underlay::Veth { mtu: 1500 },
    load: Load::Full,
};

const fn wire(name: &'static str, loss_percent: f64, delay_ms: u32) -> Scenario {
    let underlay = Underlay::Wire { loss_percent, delay_ms };
    Scenario { name, underlay, load: Load::OneFlow, ..BASE }
}

impl Scenario {
    /// The base point first.
    pub const ALL: [Self; 10] = [
        BASE,
        Self { name: "inner-1500", inner_mtu: 1500, load: Load::OneFlow, ..BASE },
        Self {
            name: "underlay-9000",
            underlay: Underlay::Veth { mtu: 9000 },
            load: Load::OneFlow,
            ..BASE
        },
        Self {
            name: "no-offloads",
            underlay: Underlay::VethWithoutOffloads { mtu: 1500 },
            load: Load::OneFlow,
            ..BASE
        },
        wire("wire", 0.0, 0),
        wire("wire-20ms", 0.0, 10),
        wire("wire-0.1-percent", 0.1, 0),
        wire("wire-0.1-percent-20ms", 0.1, 10),
        wire("wire-1-percent", 1.0, 0),
        wire("wire-1-percent-20ms", 1.0, 10),
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name == name)
    }

    /// For people.
    pub fn description(&self) -> String {
        let inner = self.inner_mtu;
        match self.underlay {
            Underlay::Veth { mtu } => {
                format!(
                    "inner MTU {inner}, underlay MTU {mtu}, trains of segments pass the underlay whole"
                )
            }
            Underlay::VethWithoutOffloads { mtu } => {
                format!(
                    "inner MTU {inner}, underlay MTU {mtu}, no offloads on the underlay: each packet is alone"
                )
            }
            Underlay::Wire { loss_percent, delay_ms } => format!(
                "inner MTU {inner}, over the wire emulator: {} ms of round trip, {loss_percent} % loss each way",
                2 * delay_ms
            ),
        }
    }

    /// Whether this contender can do it: these put a whole frame or packet into one of the underlay, and so need room there.
    pub fn suits(&self, contender: Contender) -> bool {
        use Contender::{Obvious, Quincy, Vxlan};
        self.inner_mtu <= 1400 || !matches!(contender, Obvious | Quincy | Vxlan)
    }
}

/// The hosts of a scenario.
pub(super) struct Stage {
    lab: Lab,
    a: Host,
    b: Host,
    interfaces: [Interface; 2],
    inner_mtu: u16,
    _wire: Option<Wire>,
}

impl Stage {
    /// Sets the stage.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn set(scenario: &Scenario, seed: u64) -> Result<Self> {
        let lab = Lab::new("compare")?;
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let (link, wire) = match scenario.underlay {
            Underlay::Veth { mtu } => (lab.link(&a, &b, LinkOptions::new().mtu(mtu))?, None),
            Underlay::VethWithoutOffloads { mtu } => {
                (lab.link(&a, &b, LinkOptions::new().mtu(mtu).without_offloads())?, None)
            }
            Underlay::Wire { loss_percent, delay_ms } => {
                let impairments = Impairments {
                    loss: loss_percent / 100.0,
                    delay: Duration::from_millis(delay_ms.into()),
                    ..Impairments::default()
                };
                let options = WireOptions::new(seed).impairments(impairments);
                let (wire, link) = lab.wire(&a, &b, &options)?;
                (link, Some(wire))
            }
        };
        let interfaces = [link.a, link.b];
        Ok(Self { lab, a, b, interfaces, inner_mtu: scenario.inner_mtu, _wire: wire })
    }

    pub(super) fn site(&self) -> Site<'_> {
        Site {
            lab: &self.lab,
            a: &self.a,
            b: &self.b,
            underlay_a: &self.interfaces[0],
            underlay_b: &self.interfaces[1],
            inner_mtu: self.inner_mtu,
        }
    }
}
