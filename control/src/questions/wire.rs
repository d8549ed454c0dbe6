//! The messages in which nodes ask each other something, inside their tunnels (docs/WIRE.md, Questions and messages).
//!
//! ```text
//!  0        1        2                 6
//!  +--------+--------+--------+--------+--------+--------+--- ...
//!  | kind 2 | what   | token                             | body
//!  +--------+--------+--------+--------+--------+--------+--- ...
//! ```

use ipop_datapath::command::MAX_SIGNAL_LEN;
use ipop_learning::MacAddr;

use super::{Answer, Question, Verdict};

/// The first byte of these messages.
pub(crate) const KIND: u8 = 2;
const HEADER_LEN: usize = 6;
/// The longest body, bytes.
pub const MAX_BODY: usize = MAX_SIGNAL_LEN - HEADER_LEN;
/// The longest text of a verdict, bytes.
const MAX_TEXT: usize = 200;

mod what {
    pub(super) const PING: u8 = 1;
    pub(super) const PONG: u8 = 2;
    pub(super) const MESSAGE: u8 = 3;
    pub(super) const TAKEN: u8 = 4;
    pub(super) const TRACE: u8 = 5;
    pub(super) const TRACED: u8 = 6;
}

/// What a verdict's first byte says.
mod verdict {
    pub(super) const OUT: u8 = 0;
    pub(super) const FLOODED: u8 = 1;
    pub(super) const DROPPED: u8 = 2;
}

/// Names a question until it is answered; who asks chooses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u32);

/// What came from a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Question(Question),
    Answer(Answer),
}

fn message(what: u8, Token(token): Token, body: &[u8]) -> Vec<u8> {
    let mut message = vec![KIND, what];
    message.extend_from_slice(&token.to_be_bytes());
    message.extend_from_slice(&body[..body.len().min(MAX_BODY)]);
    message
}

pub(super) fn write_question(token: Token, question: &Question) -> Vec<u8> {
    match question {
        Question::Ping { len } => message(what::PING, token, &vec![0; usize::from(*len)]),
        Question::Message(bytes) => message(what::MESSAGE, token, bytes),
        Question::Trace { source, destination } => {
            message(what::TRACE, token, &[source.0, destination.0].concat())
        }
    }
}

pub(super) fn write_answer(token: Token, answer: &Answer) -> Vec<u8> {
    match answer {
        Answer::Pong => message(what::PONG, token, &[]),
        Answer::Taken => message(what::TAKEN, token, &[]),
        Answer::Traced(traced) => {
            let (byte, text) = match traced {
                Verdict::Out(port) => (verdict::OUT, port),
                Verdict::Flooded(ports) => (verdict::FLOODED, ports),
                Verdict::Dropped(reason) => (verdict::DROPPED, reason),
            };
            let end = text.floor_char_boundary(MAX_TEXT);
            message(what::TRACED, token, &[&[byte], &text.as_bytes()[..end]].concat())
        }
    }
}

/// What a message says; none if it makes no sense.
pub(super) fn read(bytes: &[u8]) -> Option<(Token, Said)> {
    let (header, body) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let [KIND, what, token @ ..] = *header else { return None };
    let question = |question| Some(Said::Question(question));
    let answer = |answer| Some(Said::Answer(answer));
    let said = match (what, body) {
        (what::PING, body) => question(Question::Ping { len: body.len() as u16 }),
        (what::PONG, []) => answer(Answer::Pong),
        (what::MESSAGE, body) => question(Question::Message(body.to_vec())),
        (what::TAKEN, []) => answer(Answer::Taken),
        (what::TRACE, &[a, b, c, d, e, f, g, h, i, j, k, l]) => question(Question::Trace {
            source: MacAddr([a, b, c, d, e, f]),
            destination: MacAddr([g, h, i, j, k, l]),
        }),
        (what::TRACED, [byte, text @ ..]) if text.len() <= MAX_TEXT => {
            let text = std::str::from_utf8(text).ok()?;
            if text.chars().any(char::is_control) {
                return None;
            }
            answer(Answer::Traced(match *byte {
                verdict::OUT => Verdict::Out(text.into()),
                verdict::FLOODED => Verdict::Flooded(text.into()),
                verdict::DROPPED => Verdict::Dropped(text.into()),
                _ => return None,
            }))
        }
        _ => None,
    };
    Some((Token(u32::from_be_bytes(token)), said?))
}

/// For fuzzing: what a peer says inside the tunnel.
///
/// # Panics
/// When something is not written as it was read.
#[cfg(feature = "testing")]
pub fn fuzz(bytes: &[u8]) {
    let Some((token, said)) = read(bytes) else { return };
    let written = match &said {
        Said::Question(question) => write_question(token, question),
        Said::Answer(answer) => write_answer(token, answer),
    };
    assert_eq!(read(&written), Some((token, said)));
}

/// Inputs to start from.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (token, mac) = (Token(7), MacAddr([2, 0, 0, 0, 0, 1]));
    vec![
        write_question(token, &Question::Ping { len: 3 }),
        write_question(token, &Question::Message(b"hello".to_vec())),
        write_question(token, &Question::Trace { source: mac, destination: mac }),
        write_answer(token, &Answer::Pong),
        write_answer(token, &Answer::Taken),
        write_answer(token, &Answer::Traced(Verdict::Out("ipop0".into()))),
        write_answer(token, &Answer::Traced(Verdict::Dropped("storm".into()))),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whatever_is_written_is_read() {
        for seed in seeds() {
            let (token, _) = read(&seed).unwrap();
            assert_eq!(token, Token(7));
            fuzz(&seed);
        }
        let long = Question::Message(vec![7; MAX_BODY + 100]);
        let written = write_question(Token(1), &long);
        assert_eq!(written.len(), MAX_SIGNAL_LEN);
        let text = "ü".repeat(MAX_TEXT);
        let written = write_answer(Token(1), &Answer::Traced(Verdict::Out(text)));
        assert!(read(&written).is_some(), "cut at a character");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = write_answer(Token(7), &Answer::Pong);
        for bad in [
            vec![],
            good[..5].to_vec(),
            [&good[..], &[1]].concat(),
            [&[KIND, 99][..], &good[2..]].concat(),
            [&[1][..], &good[1..]].concat(),
            [&[KIND, what::TRACE][..], &good[2..], &[0; 11]].concat(),
            [&[KIND, what::TRACED][..], &good[2..], &[9, b'x']].concat(),
            [&[KIND, what::TRACED][..], &good[2..], &[0, b'\n']].concat(),
            [&[KIND, what::TRACED][..], &good[2..], &[0, 0xff]].concat(),
        ] {
            assert_eq!(read(&bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
            fuzz(&[&[KIND][..], &bytes].concat());
        }
    }
}
