//! What the operator is told, once and not with every retry.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The same text is not told again for this long.
const QUIET: Duration = Duration::from_secs(600);
/// Texts that are remembered. A server that makes up new ones is told of at this many an interval at most.
const MAX_REMEMBERED: usize = 32;

/// Something is wrong with the room or in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What it is, and what to do.
    pub text: String,
    /// What this node does about it.
    pub outcome: Outcome,
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This node is not in the room, and tries again after about this time.
    RetriedIn(Duration),
    /// This node is in the room.
    Goes,
}

#[derive(Debug, Default)]
pub(super) struct Problems {
    told: VecDeque<(String, Instant)>,
}

impl Problems {
    /// The problem if it is to be told now.
    pub(super) fn tell(&mut self, now: Instant, text: String, outcome: Outcome) -> Option<Problem> {
        while self.told.front().is_some_and(|(_, at)| *at + QUIET <= now) {
            self.told.pop_front();
        }
        if self.told.len() >= MAX_REMEMBERED || self.told.iter().any(|(told, _)| *told == text) {
            return None;
        }
        self.told.push_back((text.clone(), now));
        Some(Problem { text, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_once_and_not_too_many() {
        let (mut problems, start) = (Problems::default(), Instant::now());
        let mut told =
            |at: Instant, text: &str| problems.tell(at, text.into(), Outcome::Goes).is_some();
        assert!(told(start, "full") && !told(start, "full"));
        assert_eq!((0..1_000).filter(|n| told(start, &n.to_string())).count(), MAX_REMEMBERED - 1);
        assert!(told(start + QUIET, "full"));
    }
}
