//! What nodes ask each other inside their tunnels, for people and controllers: is the peer there and how far, a message for its controller, what
//! would become of a frame there.
//!
//! Each question has a token and gets one answer, or none within [`ANSWER_WITHIN`]. What a peer asks is answered at once and remembered nowhere; how much it may ask
//! the datapath bounds. An answer counts only from the peer that was asked.

mod wire;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;
use ipop_learning::MacAddr;

pub(crate) use self::wire::KIND;
#[cfg(feature = "testing")]
pub use self::wire::fuzz;
#[cfg(test)]
pub(crate) use self::wire::seeds;
pub use self::wire::{MAX_BODY, Token};
use self::wire::{Said, read, write_answer, write_question};

/// How long a peer has to answer: a few round-trip times of the slowest paths.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Questions that wait for an answer at most.
const MAX_WAITING: usize = 256;

/// What may be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// Are you there?
    Ping {
        /// Bytes that go with it, at most [`MAX_BODY`].
        len: u16,
    },
    /// This is for your controller: at most [`MAX_BODY`] bytes.
    Message(Vec<u8>),
    /// What would become of a frame that came from this node?
    Trace {
        /// Its source.
        source: MacAddr,
        /// Its destination.
        destination: MacAddr,
    },
}

/// The answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Question::Ping`].
    Pong,
    /// To [`Question::Message`]: it is among the peer's events.
    Taken,
    /// To [`Question::Trace`].
    Traced(Verdict),
}

/// What would become of a frame, in words of at most 200 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It would leave at this port.
    Out(String),
    /// It would be flooded to these ports.
    Flooded(String),
    /// It would be dropped, for this reason.
    Dropped(String),
}

/// Why a question is not asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAsked {
    /// There is no tunnel to the peer.
    #[error("the peer is not up")]
    Down,
    /// The peer knows no questions.
    #[error("the peer runs a version that answers no questions; update it")]
    OtherVersion,
    /// Too many wait for answers.
    #[error("too many questions wait for answers; try again")]
    TooMany,
}

/// A question that waits.
#[derive(Debug)]
struct Waiting {
    token: Token,
    peer: NodeId,
    asked: Instant,
}

/// A question has come to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// Which.
    pub token: Token,
    /// The answer and the time that it took; none if none came.
    pub answer: Option<(Answer, Duration)>,
}

/// What is to be done about what a peer said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Send it this.
    Reply(Vec<u8>),
    /// Its message is for the controller; then send this.
    Deliver(Vec<u8>, Vec<u8>),
    /// It wants to know what would become of a frame.
    Trace { token: Token, source: MacAddr, destination: MacAddr },
    /// A question of this node's has come to its end.
    Answered(Answered),
    /// It makes no sense, or nobody asked.
    Refused,
}

/// The questions of this node that wait, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    next: u32,
    waiting: VecDeque<Waiting>,
}

impl Questions {
    /// Asks a peer: what is to be sent.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        peer: NodeId,
        question: &Question,
    ) -> Result<(Token, Vec<u8>), NotAsked> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(NotAsked::TooMany);
        }
        let token = Token(self.next);
        self.next = self.next.wrapping_add(1);
        self.waiting.push_back(Waiting { token, peer, asked: now });
        Ok((token, write_question(token, question)))
    }

    /// What is to be done about a message of a peer.
    pub(crate) fn handle(&mut self, now: Instant, peer: NodeId, message: &[u8]) -> Step {
        match read(message) {
            Some((token, Said::Question(question))) => match question {
                Question::Ping { .. } => Step::Reply(write_answer(token, &Answer::Pong)),
                Question::Message(bytes) => {
                    Step::Deliver(bytes, write_answer(token, &Answer::Taken))
                }
                Question::Trace { source, destination } => {
                    Step::Trace { token, source, destination }
                }
            },
            Some((token, Said::Answer(answer))) => {
                let is_it = |waiting: &Waiting| waiting.token == token && waiting.peer == peer;
                let Some(at) = self.waiting.iter().position(is_it) else { return Step::Refused };
                let took = self
                    .waiting
                    .remove(at)
                    .map_or(Duration::ZERO, |waiting| now.saturating_duration_since(waiting.asked));
                Step::Answered(Answered { token, answer: Some((answer, took)) })
            }
            None => Step::Refused,
        }
    }

    /// The message that answers a [`Step::Trace`].
    pub(crate) fn traced(token: Token, verdict: Verdict) -> Vec<u8> {
        write_answer(token, &Answer::Traced(verdict))
    }

    /// When the oldest question has waited long enough.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.asked + ANSWER_WITHIN)
    }

    /// A question that has waited long enough.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<Answered> {
        if self.poll_timeout()? > now {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        Some(Answered { token: waiting.token, answer: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 32]);
    const OTHER: NodeId = NodeId([2; 32]);

    #[test]
    fn a_question_is_answered_once_and_by_whom_it_was_put_to() {
        let (mut here, mut there, now) =
            (Questions::default(), Questions::default(), Instant::now());
        let (token, ping) = here.ask(now, PEER, &Question::Ping { len: 56 }).unwrap();
        let Step::Reply(pong) = there.handle(now, OTHER, &ping) else { panic!("no reply") };
        let later = now + Duration::from_millis(5);
        assert_eq!(here.handle(later, OTHER, &pong), Step::Refused, "somebody else's word");
        let answer = Some((Answer::Pong, Duration::from_millis(5)));
        assert_eq!(here.handle(later, PEER, &pong), Step::Answered(Answered { token, answer }));
        assert_eq!(here.handle(later, PEER, &pong), Step::Refused, "once");
        assert_eq!(here.handle(later, PEER, b"\x02nonsense"), Step::Refused);
    }

    #[test]
    fn what_is_not_answered_ends_and_no_more_wait_than_may() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        let ping = Question::Ping { len: 0 };
        for _ in 0..MAX_WAITING {
            assert!(questions.ask(now, PEER, &ping).is_ok());
        }
        assert_eq!(questions.ask(now, PEER, &ping), Err(NotAsked::TooMany));
        assert_eq!(questions.expired(now), None);
        let due = questions.poll_timeout().unwrap();
        assert_eq!(due, now + ANSWER_WITHIN);
        let ended = std::iter::from_fn(|| questions.expired(due)).count();
        assert_eq!((ended, questions.poll_timeout()), (MAX_WAITING, None));
        assert!(questions.ask(due, PEER, &ping).is_ok());
    }
}
