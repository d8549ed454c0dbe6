//! Waiting until nobody else uses the machine: a measurement beside a compiler measures the compiler.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::machine::CpuTime;

/// The machine is quiet when no more than this share of its processors is busy or stolen, percent.
const QUIET_PERCENT: f64 = 8.0;
/// Over so long.
const OVER: Duration = Duration::from_millis(500);

/// Waits until the machine is quiet, at most so long; gives back how busy it was at the last look, percent.
pub fn wait(limit: Duration) -> f64 {
    let until = Instant::now() + limit;
    loop {
        let Some(busy) = busy_percent() else { return 0.0 };
        if busy <= QUIET_PERCENT || Instant::now() >= until {
            return busy;
        }
    }
}

fn busy_percent() -> Option<f64> {
    let before = CpuTime::now().ok()?;
    thread::sleep(OVER);
    let after = CpuTime::now().ok()?;
    Some(after.others_percent_since(before, 0.0) + after.steal_percent_since(before))
}
