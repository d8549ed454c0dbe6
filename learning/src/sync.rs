//! The atomics of the table: the standard library's, or loom's when the crate is built with `--cfg loom`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Waits for a lock: spins first, then lets the holder have the core.
#[derive(Default)]
pub(crate) struct Backoff {
    #[cfg(not(loom))]
    steps: crossbeam::utils::Backoff,
}

impl Backoff {
    /// Waits a little, longer each time.
    pub(crate) fn wait(&self) {
        #[cfg(not(loom))]
        self.steps.snooze();
        #[cfg(loom)]
        loom::thread::yield_now();
    }
}
