//! The atomics of the table: the standard library's, or modelled ones when the crate is built with `--cfg loom`.

#[cfg(loom)]
pub(crate) use modelled::{AtomicU32, AtomicU64, AtomicUsize};
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

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

/// loom's atomics, each with a companion that is touched before every access.
///
/// To know which schedules differ, loom 0.7 remembers only the last access to an atomic. A thread that loads and then stores
/// finds its own load there, not the other thread's before it, and loom concludes that the store races with nobody: most
/// schedules are then never tried. The companion's read-modify-writes depend on one another whoever makes them, so none is
/// overlooked; they are relaxed, so they order nothing that the code under test does not order itself.
#[cfg(loom)]
mod modelled {
    use super::Ordering;
    use loom::sync::atomic as plain;

    macro_rules! modelled {
        ($name:ident, $number:ty) => {
            #[derive(Default)]
            pub(crate) struct $name {
                turn: plain::AtomicU32,
                value: plain::$name,
            }

            #[allow(dead_code)]
            impl $name {
                pub(crate) fn new(number: $number) -> Self {
                    Self { turn: plain::AtomicU32::new(0), value: plain::$name::new(number) }
                }

                fn in_turn(&self) -> &plain::$name {
                    self.turn.fetch_add(1, Ordering::Relaxed);
                    &self.value
                }

                pub(crate) fn load(&self, order: Ordering) -> $number {
                    self.in_turn().load(order)
                }

                pub(crate) fn store(&self, number: $number, order: Ordering) {
                    self.in_turn().store(number, order);
                }

                pub(crate) fn fetch_add(&self, number: $number, order: Ordering) -> $number {
                    self.in_turn().fetch_add(number, order)
                }

                pub(crate) fn fetch_sub(&self, number: $number, order: Ordering) -> $number {
                    self.in_turn().fetch_sub(number, order)
                }

                pub(crate) fn fetch_max(&self, number: $number, order: Ordering) -> $number {
                    self.in_turn().fetch_max(number, order)
                }

                pub(crate) fn compare_exchange(
                    &self,
                    from: $number,
                    to: $number,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$number, $number> {
                    self.in_turn().compare_exchange(from, to, success, failure)
                }

                pub(crate) fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    update: impl Fn($number) -> Option<$number>,
                ) -> Result<$number, $number> {
                    let mut found = self.load(failure);
                    while let Some(next) = update(found) {
                        match self.compare_exchange(found, next, success, failure) {
                            Ok(previous) => return Ok(previous),
                            Err(other) => found = other,
                        }
                    }
                    Err(found)
                }
            }
        };
    }

    modelled!(AtomicU32, u32);
    modelled!(AtomicU64, u64);
    modelled!(AtomicUsize, usize);
}
