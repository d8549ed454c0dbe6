//! Every frame accounted for: what went into a switch came out of it, or was dropped for a reason.
//!
//! In a switch with one TAP and one peer a frame leaves through one port, so frames in = frames out + drops, where what was dropped before it counted as
//! received, or after it counted as sent, stands on one side only.

use serde::Serialize;
use serde_json::Value;

use crate::counters::{count, drops, ports};

/// Dropped since it came already: nothing is lost with it.
const REPEATED: &str = "repeated";

/// What a switch says that became of its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out; one that went out in segments is one.
    pub sent: u64,
    /// Frames dropped in between.
    pub dropped: u64,
    /// Frames that are known to be lost at any point, the kernel's drops at the TAP and gaps in the peer's numbers included.
    pub lost: u64,
}

impl Account {
    /// Out of the report that `ipop-switch` prints.
    pub fn of(report: &Value) -> Self {
        let total = |counter: &str| ports(report).map(|port| count(port, counter)).sum::<u64>();
        let dropped_for = |accept: fn(&str) -> bool| {
            let counted = ports(report).flat_map(drops).filter(|(reason, _)| accept(reason));
            counted.map(|(_, frames)| frames).sum::<u64>()
        };
        Self {
            received: total("received_frames"),
            sent: total("sent_frames") + total("segmented_frames") - total("segments"),
            dropped: dropped_for(|_| true) - total("dropped_before") - total("dropped_after"),
            lost: dropped_for(|reason| reason != REPEATED)
                + total("missing_frames")
                + total("kernel_tx_dropped"),
        }
    }

    /// Frames in, less those out and those dropped.
    pub fn unaccounted(&self) -> i64 {
        self.received as i64 - self.sent as i64 - self.dropped as i64
    }

    /// Whether it adds up.
    pub fn balances(&self) -> bool {
        self.unaccounted() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the frames sent to the peer two went in 5 segments.
    fn report(sent_to_peer: u64) -> Value {
        serde_json::json!({
            "taps": [{
                "received_frames": 100, "sent_frames": 48, "kernel_tx_dropped": 5,
                "dropped_after": 2, "drops": {"bad_source": 7, "tap_write": 2},
            }],
            "peers": [{
                "received_frames": 50, "sent_frames": sent_to_peer + 3, "missing_frames": 11,
                "segmented_frames": 2, "segments": 5, "dropped_before": 3,
                "drops": {"storm": 2, "incomplete": 3, "tunnel_queue_full": 1},
            }],
        })
    }

    #[test]
    fn frames_in_are_frames_out_and_drops_between() {
        let account = Account::of(&report(92));
        assert_eq!((account.received, account.sent, account.dropped), (150, 140, 10));
        assert_eq!(account.lost, 15 + 11 + 5);
        assert!(account.balances(), "{account:?}");
        assert_eq!(Account::of(&report(91)).unaccounted(), 1);
        assert!(!Account::of(&report(91)).balances() && !Account::of(&report(93)).balances());
    }
}
