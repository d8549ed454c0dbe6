//! Where datagrams from one station to another were lost: each stands in one counter, of the switches, of the kernel or of the receiver.
//!
//! Holds for one flow that is alone, from the TAP of one switch to that of another, once nothing is under way. In the order of the way:
//! the near TAP's ring; the near switch; between the two; the far switch; the far TAP. What the receiver's socket dropped is added by whoever owns it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::counters::{count, drops};

/// Losses by place, or the counters that they are read from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger(BTreeMap<String, u64>);

/// Dropped since it came already: nothing is lost with it.
const REPEATED: &str = "repeated";

impl Ledger {
    /// Since the switches started, out of what the near and the far one report.
    pub fn of(near: &Value, far: &Value) -> Self {
        let mut ledger = Self::default();
        for (site, report) in [("near", near), ("far", far)] {
            for (kind, port) in [("TAP", &report["taps"][0]), ("tunnel", &report["peers"][0])] {
                let place = |what: &str| format!("{site} {kind}: {what}");
                drops(port).for_each(|(reason, frames)| ledger.add(place(reason), frames));
                for counter in ["kernel_tx_dropped", "missing_frames"] {
                    ledger.add(place(counter), count(port, counter));
                }
            }
        }
        ledger
    }

    /// What was lost since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |place: &String| earlier.0.get(place).copied().unwrap_or(0);
        let lost = self.0.iter().map(|(place, frames)| (place.clone(), frames - before(place)));
        Self(lost.filter(|(_, frames)| *frames > 0).collect())
    }

    /// Adds what was lost at a place.
    pub fn add(&mut self, place: String, frames: u64) {
        if frames > 0 && !place.ends_with(REPEATED) {
            *self.0.entry(place).or_default() += frames;
        }
    }

    /// All of it.
    pub fn lost(&self) -> u64 {
        self.0.values().sum()
    }

    /// What was lost at places whose name ends so.
    pub fn lost_at(&self, what: &str) -> u64 {
        let at = self.0.iter().filter(|(place, _)| place.ends_with(what));
        at.map(|(_, frames)| frames).sum()
    }

    /// The places, and how many frames each lost.
    pub fn places(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(place, frames)| (place.as_str(), *frames))
    }
}
