//! Who was refused, told to the operator, but not at every try: a node that is not admitted dials for ever.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The same refusal is told again after this.
const REPEAT: Duration = Duration::from_secs(300);
/// Different refusals told within [`REPEAT`]; keys are free to make, so a stranger could fill the log.
const MAX_TOLD: usize = 32;

/// The refusals that were told lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    told: HashMap<String, Instant>,
}

impl Refusals {
    /// Whether the operator should be told of a refusal with this reason now.
    pub(crate) fn is_news(&mut self, why: &str, now: Instant) -> bool {
        self.told.retain(|_, at| now.saturating_duration_since(*at) < REPEAT);
        if self.told.len() >= MAX_TOLD || self.told.contains_key(why) {
            return false;
        }
        self.told.insert(why.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_news_once_in_a_while() {
        let start = Instant::now();
        let mut refusals = Refusals::default();
        assert!(refusals.is_news("a", start) && refusals.is_news("b", start));
        assert!(!refusals.is_news("a", start + REPEAT / 2));
        assert!(refusals.is_news("a", start + REPEAT));
    }

    #[test]
    fn many_reasons_do_not_fill_the_log() {
        let start = Instant::now();
        let mut refusals = Refusals::default();
        let told = (0..1_000).filter(|n: &u32| refusals.is_news(&n.to_string(), start)).count();
        assert_eq!(told, MAX_TOLD);
        assert!(refusals.is_news("later", start + REPEAT));
    }
}
