//! Stream management (XEP-0198): both ends count stanzas, so that what a cut connection lost is sent again when the
//! session is resumed on another.
//!
//! What was sent is kept, as bytes, until the server has acknowledged it. The queue is also where stanzas wait while
//! the connection is cut: resuming sends everything that the server has not seen, in order.

use std::collections::VecDeque;

use super::{Limits, failure::Failure};

/// The counters and the queue of one session.
#[derive(Debug, Default)]
pub(super) struct Management {
    support: Support,
    /// Not acknowledged yet, the oldest first.
    queue: VecDeque<Vec<u8>>,
    queue_bytes: usize,
    /// How many of the queue have been written to a connection.
    written: usize,
    /// The number of stanzas that the server has acknowledged, modulo 2^32.
    acknowledged: u32,
    /// The number of stanzas that have come, modulo 2^32.
    received: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Support {
    /// The server has none, or refused it: nothing is kept.
    #[default]
    None,
    /// Asked for. What is sent counts already.
    Asked,
    /// On, but the session cannot be resumed.
    Acknowledging,
    /// On.
    Resumable { id: String },
}

/// The session to ask for on a new connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Resumption {
    /// Its id.
    pub(super) id: String,
    /// How many stanzas have come in it.
    pub(super) received: u32,
}

/// The longest session id, in bytes.
const MAX_ID_LEN: usize = 4 * 1024;

impl Management {
    /// A new session in which `<enable/>` has just been written.
    pub(super) fn asked() -> Self {
        Self { support: Support::Asked, ..Self::default() }
    }

    /// `<enabled/>` came; with `id`, the session can be resumed.
    pub(super) fn enabled(&mut self, id: Option<&str>) -> Result<(), Failure> {
        if self.support != Support::Asked {
            return Err(Failure::Protocol("enables stream management unasked"));
        }
        self.received = 0;
        self.support = match id.filter(|id| !id.is_empty() && id.len() <= MAX_ID_LEN) {
            Some(id) => Support::Resumable { id: id.to_owned() },
            None => Support::Acknowledging,
        };
        Ok(())
    }

    /// `<failed/>` came in answer to `<enable/>`.
    pub(super) fn refused(&mut self) {
        *self = Self::default();
    }

    /// Whether what is sent is counted, so that acknowledgements can be asked for.
    pub(super) fn is_on(&self) -> bool {
        matches!(self.support, Support::Acknowledging | Support::Resumable { .. })
    }

    /// How to go on with this session on another connection, if that is possible.
    pub(super) fn resumption(&self) -> Option<Resumption> {
        match &self.support {
            Support::Resumable { id } => {
                Some(Resumption { id: id.clone(), received: self.received })
            }
            _ => None,
        }
    }

    /// Whether the queue takes another stanza.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.queue.len() < limits.queued_stanzas && self.queue_bytes < limits.queued_bytes
    }

    /// A stanza is written now.
    pub(super) fn sent(&mut self, stanza: Vec<u8>) {
        if self.support != Support::None {
            self.hold(stanza);
            self.written = self.queue.len();
        }
    }

    /// A stanza waits for the session to be resumed.
    pub(super) fn hold(&mut self, stanza: Vec<u8>) {
        self.queue_bytes += stanza.len();
        self.queue.push_back(stanza);
    }

    /// A stanza came.
    pub(super) fn received(&mut self) {
        self.received = self.received.wrapping_add(1);
    }

    /// The number to acknowledge.
    pub(super) fn count_received(&self) -> u32 {
        self.received
    }

    /// The server has seen `count` stanzas.
    pub(super) fn acknowledge(&mut self, count: u32) -> Result<(), Failure> {
        let news = count.wrapping_sub(self.acknowledged);
        if self.support == Support::None || news as usize > self.written {
            return Err(Failure::Protocol("acknowledges stanzas that were never sent"));
        }
        for stanza in self.queue.drain(..news as usize) {
            self.queue_bytes -= stanza.len();
        }
        self.written -= news as usize;
        self.acknowledged = count;
        Ok(())
    }

    /// Bytes that were written and are not acknowledged.
    pub(super) fn unacknowledged_bytes(&self) -> usize {
        self.queue.iter().take(self.written).map(Vec::len).sum()
    }

    /// The session goes on: `count` are with the server, the rest is written to `out` again.
    pub(super) fn resumed(&mut self, count: u32, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.acknowledge(count)?;
        self.queue.iter().for_each(|stanza| out.extend_from_slice(stanza));
        self.written = self.queue.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resumable() -> Management {
        let mut management = Management::asked();
        management.enabled(Some("id")).unwrap();
        management
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_order() {
        let mut management = resumable();
        for stanza in ["a", "b", "c"] {
            management.sent(stanza.into());
        }
        management.acknowledge(1).unwrap();
        management.hold("d".into());
        assert_eq!(management.unacknowledged_bytes(), 2);
        let mut out = Vec::new();
        management.resumed(2, &mut out).unwrap();
        assert_eq!(out, b"cd");
        management.acknowledge(4).unwrap();
        assert_eq!(management.unacknowledged_bytes(), 0);
    }

    #[test]
    fn more_than_was_sent_cannot_be_acknowledged() {
        let mut management = resumable();
        management.sent("a".into());
        management.hold("b".into());
        assert!(management.acknowledge(2).is_err());
        assert!(management.acknowledge(u32::MAX).is_err());
        assert!(Management::default().acknowledge(0).is_err());
    }

    #[test]
    fn what_is_sent_before_the_server_agrees_counts() {
        let mut management = Management::asked();
        management.sent("a".into());
        management.received();
        assert_eq!(management.resumption(), None);
        management.enabled(Some("id")).unwrap();
        assert_eq!(management.resumption(), Some(Resumption { id: "id".into(), received: 0 }));
        management.acknowledge(1).unwrap();
        assert!(management.enabled(Some("other")).is_err());
    }

    #[test]
    fn a_server_without_it_costs_nothing() {
        let mut management = Management::asked();
        management.sent("a".into());
        management.refused();
        management.sent("b".into());
        assert!(!management.is_on() && management.unacknowledged_bytes() == 0);
    }

    #[test]
    fn the_queue_is_bounded() {
        let limits = Limits { queued_stanzas: 2, queued_bytes: 100, ..Limits::default() };
        let mut management = resumable();
        management.sent(vec![0; 10]);
        assert!(management.has_room(&limits));
        management.sent(vec![0; 10]);
        assert!(!management.has_room(&limits));
        management.acknowledge(2).unwrap();
        management.sent(vec![0; 100]);
        assert!(!management.has_room(&limits));
    }

    proptest! {
        /// Whatever the server says, the counts stay together.
        #[test]
        fn counts_agree(steps in proptest::collection::vec((0..4u8, any::<u8>()), 0..200)) {
            let mut management = resumable();
            management.acknowledged = u32::MAX - 20;
            for (step, argument) in steps {
                match step {
                    0 => management.sent(vec![argument; usize::from(argument)]),
                    1 => management.hold(vec![argument]),
                    2 => {
                        let _ = management.acknowledge(management.acknowledged.wrapping_add(u32::from(argument % 8)));
                    }
                    _ => {
                        let _ = management.resumed(management.acknowledged, &mut Vec::new());
                    }
                }
                prop_assert!(management.written <= management.queue.len());
                prop_assert_eq!(management.queue_bytes, management.queue.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}
