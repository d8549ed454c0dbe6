//! How many lines the operator is told about the network. Servers and members can cause as many as they like; nobody reads more, and a disk
//! is only so large.

use std::time::Instant;

use ipop_datapath::policy::bucket::Bucket;

use crate::notice::{Level, Notice};

const LINES_PER_S: u32 = 2;
const LINES_AT_ONCE: u32 = 200;

/// What the operator was told lately.
#[derive(Debug)]
pub(super) struct Lines {
    bucket: Bucket,
    /// Lines that were left out since the last one.
    silent_for: u64,
    /// In all.
    left_out: u64,
}

impl Lines {
    pub(super) fn new(now: Instant) -> Self {
        let bucket = Bucket::new(now, LINES_PER_S, LINES_AT_ONCE);
        Self { bucket, silent_for: 0, left_out: 0 }
    }

    /// What is told when this is to be told: nothing if too much was told lately, and before the next line how many were left out.
    pub(super) fn told(&mut self, now: Instant, notice: Notice) -> [Option<Notice>; 2] {
        if notice.level() == Level::Debug {
            return [None, Some(notice)];
        }
        if !self.bucket.take(now, 1) {
            self.silent_for += 1;
            self.left_out += 1;
            return [None, None];
        }
        let lines = std::mem::take(&mut self.silent_for);
        [(lines > 0).then_some(Notice::LeftOut { lines }), Some(notice)]
    }

    /// Lines that were left out in all.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}
