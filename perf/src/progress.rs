//! How far a measurement is, and how long it will still take.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Steps of about the same length, each told when it begins.
pub struct Progress<'a> {
    steps: u32,
    begun: u32,
    start: Instant,
    tell: &'a mut dyn FnMut(&str),
}

impl<'a> Progress<'a> {
    /// So many steps are to come.
    pub fn of(steps: u32, tell: &'a mut dyn FnMut(&str)) -> Self {
        Self { steps, begun: 0, start: Instant::now(), tell }
    }

    /// The next one begins.
    pub fn step(&mut self, what: &str) {
        let left = time_left(self.start.elapsed(), self.begun, self.steps);
        self.begun += 1;
        let (at, of) = (self.begun, self.steps.max(self.begun));
        (self.tell)(&format!("[{at}/{of}{}] {what}", left.map_or_else(String::new, clock)));
    }
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("steps", &self.steps).field("begun", &self.begun).finish()
    }
}

/// What the rest takes if it goes on as before; unknown before anything is done.
pub fn time_left(elapsed: Duration, done: u32, of: u32) -> Option<Duration> {
    (done > 0).then(|| elapsed.mul_f64(f64::from(of.saturating_sub(done)) / f64::from(done)))
}

/// `, M min SS s left`.
pub fn clock(left: Duration) -> String {
    format!(", {} min {:02} s left", left.as_secs() / 60, left.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_time_taken() {
        let minute = Duration::from_secs(60);
        assert_eq!(time_left(minute, 0, 4), None);
        assert_eq!(time_left(minute, 1, 4), Some(3 * minute));
        assert_eq!(time_left(minute, 5, 4), Some(Duration::ZERO));
        assert_eq!(clock(Duration::from_secs(125)), ", 2 min 05 s left");
        let mut told = Vec::new();
        let mut tell = |line: &str| told.push(line.to_owned());
        Progress::of(2, &mut tell).step("one");
        assert_eq!(told, ["[1/2] one"]);
    }
}
