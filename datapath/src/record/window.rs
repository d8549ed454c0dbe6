//! Which frames of the recent past are done with, so that repeated and late records are known as such.

use super::Sequence;

/// Frames that are remembered. A packet that comes 128 packets late (QUIC's duplicate window) is as many frames late as
/// 128 packets hold: 2,560 of 60 bytes. A multiple of 64 that divides 2^32.
const WINDOW_LEN: u32 = 4_096;
const WORDS: usize = WINDOW_LEN as usize / 64;

/// How a sequence number stands to those seen before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Age {
    /// After every one seen so far.
    Ahead,
    /// Before the latest, and still wanted.
    Late,
    /// Delivered or given up.
    Finished,
    /// Too old to tell.
    Stale,
}

/// The sequence numbers before `next`, of which the last [`WINDOW_LEN`] are known one by one.
#[derive(Debug)]
pub(super) struct Window {
    next: Sequence,
    finished: [u64; WORDS],
}

impl Window {
    /// Before any frame: everything before sequence 0 is finished.
    pub(super) fn new() -> Self {
        Self { next: Sequence(0), finished: [u64::MAX; WORDS] }
    }

    #[inline]
    pub(super) fn age(&self, sequence: Sequence) -> Age {
        let ahead = sequence.distance_from(self.next);
        if ahead >= 0 {
            Age::Ahead
        } else if ahead < -WINDOW_LEN.cast_signed() {
            Age::Stale
        } else if self.finished[word(sequence)] & bit(sequence) != 0 {
            Age::Finished
        } else {
            Age::Late
        }
    }

    /// Moves on to a sequence number that is ahead; gives how many numbers that adds.
    #[inline]
    pub(super) fn advance_to(&mut self, sequence: Sequence) -> u32 {
        let steps = sequence.next().0.wrapping_sub(self.next.0);
        if steps == 1 {
            self.finished[word(sequence)] &= !bit(sequence);
        } else {
            self.forget(steps.min(WINDOW_LEN));
        }
        self.next = sequence.next();
        steps
    }

    /// Nothing more of this frame is wanted. Numbers outside the window are finished anyway.
    #[inline]
    pub(super) fn finish(&mut self, sequence: Sequence) {
        if self.age(sequence) == Age::Late {
            self.finished[word(sequence)] |= bit(sequence);
        }
    }

    /// Whether no later number was seen.
    #[inline]
    pub(super) fn is_latest(&self, sequence: Sequence) -> bool {
        sequence.next() == self.next
    }

    fn forget(&mut self, count: u32) {
        let (mut at, mut left) = (self.next, count);
        while left > 0 {
            let in_word = (64 - at.0 % 64).min(left);
            self.finished[word(at)] &= !(u64::MAX >> (64 - in_word) << (at.0 % 64));
            at = Sequence(at.0.wrapping_add(in_word));
            left -= in_word;
        }
    }
}

#[inline]
fn word(sequence: Sequence) -> usize {
    (sequence.0 / 64) as usize % WORDS
}

#[inline]
fn bit(sequence: Sequence) -> u64 {
    1 << (sequence.0 % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_before_the_first_frame_is_wanted() {
        let window = Window::new();
        assert_eq!(window.age(Sequence(0)), Age::Ahead);
        assert_eq!(window.age(Sequence(u32::MAX)), Age::Finished);
        assert_eq!(window.age(Sequence(u32::MAX - WINDOW_LEN)), Age::Stale);
    }

    proptest! {
        /// Against a set that never forgets, also where the numbers wrap.
        #[test]
        fn agrees_with_the_obvious_set(
            start in prop_oneof![Just(0), Just(u32::MAX - 300), any::<u32>()],
            steps in proptest::collection::vec((-300_i32..600, any::<bool>()), 1..200),
        ) {
            let mut window = Window { next: Sequence(start), finished: [u64::MAX; WORDS] };
            let (mut next, mut finished) = (0_i64, HashSet::new());
            for (step, finish) in steps {
                let number = next + i64::from(step);
                let sequence = Sequence(start.wrapping_add(number as u32));
                let expected = if number >= next {
                    Age::Ahead
                } else if number < next - i64::from(WINDOW_LEN) {
                    Age::Stale
                } else if number < 0 || finished.contains(&number) {
                    Age::Finished
                } else {
                    Age::Late
                };
                prop_assert_eq!(window.age(sequence), expected);
                if expected == Age::Ahead {
                    prop_assert_eq!(i64::from(window.advance_to(sequence)), number + 1 - next);
                    next = number + 1;
                }
                if finish && expected != Age::Stale {
                    window.finish(sequence);
                    finished.insert(number);
                }
            }
        }

        /// Bits from one round of the window are not taken for another's.
        #[test]
        fn long_jumps_forget(jump in 1_u32..3 * WINDOW_LEN) {
            let mut window = Window::new();
            for number in 0..WINDOW_LEN {
                window.advance_to(Sequence(number));
                window.finish(Sequence(number));
            }
            let last = WINDOW_LEN - 1 + jump;
            prop_assert_eq!(window.advance_to(Sequence(last)), jump);
            for number in last + 1 - jump.min(WINDOW_LEN)..=last {
                prop_assert_eq!(window.age(Sequence(number)), Age::Late);
            }
        }
    }
}
