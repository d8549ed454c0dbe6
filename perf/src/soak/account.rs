//! Every frame accounted for: what went into a switch came out of it, or was dropped for a reason.
//!
//! In a switch with one TAP and one peer a frame leaves through one port, so frames in = frames out + drops. Not every drop
//! stands between the two counters: a piece of a frame that never became one was not counted in, and a frame that was lost in
//! the tunnel's queue or at the kernel's refusal had been counted out.

use serde::Serialize;
use serde_json::Value;

use crate::counters::{count, drops, ports};

/// Reasons for which something is dropped before it counts as a received frame.
const BEFORE: [&str; 6] =
    ["incomplete", "bad_piece", "bad_record", "unknown_record", "reassembly_full", REPEATED];
/// Dropped since it came already: nothing is lost with it.
const REPEATED: &str = "repeated";
/// Reasons for which a frame is dropped that counts as sent.
const AFTER: [&str; 2] = ["tap_write", "tunnel_down"];

/// What a switch says that became of its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out; one that went out in segments is one.
    pub sent: u64,
    /// Frames dropped in between.
    pub dropped: u64,
    /// Frames of which the counters leave open whether they were counted in or out.
    pub open: u64,
    /// Frames that are known to be lost at any point, the kernel's drops at the TAP and gaps in the peer's numbers included.
    pub lost: u64,
}

impl Account {
    /// Out of the report that `ipop-switch` prints.
    pub fn of(report: &Value) -> Self {
        let total = |counter: &str| ports(report).map(|port| count(port, counter)).sum::<u64>();
        let dropped_for = |accept: &dyn Fn(&str) -> bool| {
            let counted = ports(report).flat_map(drops).filter(|(reason, _)| accept(reason));
            counted.map(|(_, frames)| frames).sum::<u64>()
        };
        let dropped = dropped_for(&|reason| !BEFORE.contains(&reason) && !AFTER.contains(&reason));
        // What comes over a connection that was closed is not counted in, frames to a peer that is not ready are.
        let open = dropped_for(&|reason| reason == "not_admitted");
        Self {
            received: total("received_frames"),
            sent: total("sent_frames") + total("segmented_frames") - total("segments"),
            dropped,
            open,
            lost: dropped_for(&|reason| reason != REPEATED)
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
        self.unaccounted() <= 0 && self.unaccounted().unsigned_abs() <= self.open
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
                "drops": {"bad_source": 7, "tap_write": 2},
            }],
            "peers": [{
                "received_frames": 50, "sent_frames": sent_to_peer + 3, "missing_frames": 11,
                "segmented_frames": 2, "segments": 5,
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

    #[test]
    fn what_the_counters_leave_open_may_be_missing_but_not_more() {
        let open = |sent: u64| {
            let drops = serde_json::json!({"not_admitted": 2});
            let tap = serde_json::json!({"received_frames": 10, "drops": drops});
            Account::of(&serde_json::json!({"taps": [tap], "peers": [{"sent_frames": sent}]}))
        };
        assert!(open(8).balances() && open(10).balances());
        assert!(!open(7).balances() && !open(11).balances());
    }
}
