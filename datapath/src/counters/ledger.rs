//! The drop ledger: every frame that came in went out, was dropped for a reason, or waits.
//!
//! `received + copies = sent + dropped + waiting`, at any moment, in each worker. What stands in the counters is brought to that form here and nowhere else:
//!
//! * what was dropped before it counted as received (pieces, repeats, frames of far ends that are not admitted) counts as received and dropped;
//! * what was dropped after it counted as sent (the kernel refused it, the tunnel ended) counts as dropped and not as sent;
//! * a frame that leaves as more than one (flooded, or in segments) has copies: as many as leave, less the one that came in;
//! * a frame that is mailed to another worker goes out of one worker's ledger and into the other's; in the sum of all it waits meanwhile.

use std::ops::AddAssign;

use super::WorkerCounters;

/// What became of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// Frames that came in, and what was dropped before it was one.
    pub received: u64,
    /// Frames that left as more than one: how many more.
    pub copies: u64,
    /// Frames that went out and were not dropped after that.
    pub sent: u64,
    /// All that was dropped, for whatever reason.
    pub dropped: u64,
    /// Frames that wait for their tunnels.
    pub waiting: u64,
    /// Frames given to other workers.
    pub mailed_out: u64,
    /// Frames taken from other workers.
    pub mailed_in: u64,
}

impl Ledger {
    /// That of a worker for whose tunnels so many frames wait; only its own thread gets one that is exact.
    pub(crate) fn of(worker: &WorkerCounters, waiting: u64) -> Self {
        let nobodys = worker.io.drops.total();
        let mut ledger = Self {
            received: nobodys,
            dropped: nobodys,
            waiting,
            mailed_out: worker.io.mailed_out_frames.get(),
            mailed_in: worker.io.mailed_in_frames.get(),
            ..Self::default()
        };
        for port in worker.ports() {
            ledger.received += port.received_frames.get() + port.dropped_before.get();
            ledger.copies += port.copies.get() + port.segments.get() - port.segmented_frames.get();
            ledger.sent += port.sent_frames.get() - port.dropped_after.get();
            ledger.dropped += port.drops.total();
        }
        ledger
    }

    /// What does not add up; 0 unless the program is at fault.
    pub fn difference(&self) -> i64 {
        let into = self.received + self.copies + self.mailed_in;
        let out = self.sent + self.dropped + self.waiting + self.mailed_out;
        into.wrapping_sub(out) as i64
    }
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.copies += other.copies;
        self.sent += other.sent;
        self.dropped += other.dropped;
        self.waiting += other.waiting;
        self.mailed_out += other.mailed_out;
        self.mailed_in += other.mailed_in;
    }
}
