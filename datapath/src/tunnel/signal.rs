//! Messages between the control planes of two peers, in-band: a stream each way, of messages behind their length (`docs/WIRE.md`, Signalling).

use std::time::Instant;

use quinn_proto::{Connection, Dir, StreamId, VarInt, WriteError};

use crate::{
    command::{CloseReason, MAX_SIGNAL_LEN},
    policy::bucket::Bucket,
};

/// Length of a message, in front of it, bytes.
const LEN_BYTES: usize = 2;
/// What may wait for the stream, bytes; beyond that messages are dropped.
const QUEUE_BYTES: usize = 64 << 10;
/// Messages a second that a peer may send; beyond that they are dropped.
const RATE_MESSAGES: u32 = 50;
/// Messages at once.
const BURST_MESSAGES: u32 = 100;

/// The streams of one connection.
pub(crate) struct SignalStreams {
    queue: SignalQueue,
    reader: SignalReader,
    /// Opened with the first message.
    outgoing: Option<StreamId>,
    incoming: Option<StreamId>,
    /// Messages of this node that were not sent.
    unsent: u64,
}

impl SignalStreams {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            queue: SignalQueue::default(),
            reader: SignalReader::new(now),
            outgoing: None,
            incoming: None,
            unsent: 0,
        }
    }

    /// The peer opened a stream after that of its hello. Further ones are not read.
    pub(crate) fn opened(&mut self, stream: StreamId) {
        self.incoming.get_or_insert(stream);
    }

    /// Queues a message, or counts it as dropped.
    pub(crate) fn queue(&mut self, message: &[u8]) {
        if !self.queue.push(message) {
            self.drop_one();
        }
    }

    /// Counts a message that is not even queued.
    pub(crate) fn drop_one(&mut self) {
        self.unsent += 1;
    }

    /// Gives the stream as much of the queued messages as it takes.
    pub(crate) fn write(&mut self, connection: &mut Connection) {
        if self.queue.bytes.is_empty() {
            return;
        }
        if self.outgoing.is_none() {
            self.outgoing = connection.streams().open(Dir::Uni);
        }
        let Some(id) = self.outgoing else { return };
        match connection.send_stream(id).write(&self.queue.bytes) {
            Ok(written) => drop(self.queue.bytes.drain(..written)),
            Err(WriteError::Blocked) => {}
            // The peer does not want to hear more on this connection.
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                self.queue.bytes.clear();
                self.drop_one();
            }
        }
    }

    /// Shows each message that is complete. After a bad one the stream is not read any more.
    pub(crate) fn read(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        mut deliver: impl FnMut(&[u8]),
    ) {
        let Some(id) = self.incoming else { return };
        let mut stream = connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        let mut result = Ok(());
        while let (Ok(()), Ok(Some(chunk))) = (result, chunks.next(MAX_SIGNAL_LEN)) {
            result = self.reader.push(now, &chunk.bytes, &mut deliver);
        }
        let _ = chunks.finalize();
        if result == Err(BadSignal) {
            self.reader.dropped += 1;
            let _ = stream.stop(VarInt::from_u32(CloseReason::BadHello as u32));
        }
    }

    /// Messages dropped, either way, since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.unsent) + std::mem::take(&mut self.reader.dropped)
    }
}

/// What goes out.
#[derive(Default)]
pub(crate) struct SignalQueue {
    /// Framed, not yet taken by the stream.
    pub(crate) bytes: Vec<u8>,
}

impl SignalQueue {
    /// Queues a message; `false` if it is empty, too long or there is no room.
    pub(crate) fn push(&mut self, message: &[u8]) -> bool {
        let fits = (1..=MAX_SIGNAL_LEN).contains(&message.len())
            && self.bytes.len() + LEN_BYTES + message.len() <= QUEUE_BYTES;
        if fits {
            self.bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
            self.bytes.extend_from_slice(message);
        }
        fits
    }
}

/// The peer sent a message of no bytes, or of more than [`MAX_SIGNAL_LEN`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadSignal;

/// What comes in.
pub(crate) struct SignalReader {
    /// The message that is not complete yet, with its length.
    bytes: Vec<u8>,
    allowance: Bucket,
    /// Messages beyond the allowance.
    pub(crate) dropped: u64,
}

impl SignalReader {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            bytes: Vec::new(),
            allowance: Bucket::new(now, RATE_MESSAGES, BURST_MESSAGES),
            dropped: 0,
        }
    }

    /// Takes the next bytes of the stream and shows each message that is complete.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        mut bytes: &[u8],
        mut deliver: impl FnMut(&[u8]),
    ) -> Result<(), BadSignal> {
        while !bytes.is_empty() {
            let missing = match self.bytes.first_chunk::<LEN_BYTES>() {
                None => LEN_BYTES - self.bytes.len(),
                Some(len) => LEN_BYTES + message_len(*len)? - self.bytes.len(),
            };
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            self.bytes.extend_from_slice(taken);
            bytes = rest;
            if let Some((len, message)) = self.bytes.split_first_chunk::<LEN_BYTES>()
                && message.len() == message_len(*len)?
            {
                if self.allowance.take(now, 1) {
                    deliver(message);
                } else {
                    self.dropped += 1;
                }
                self.bytes.clear();
            }
        }
        Ok(())
    }
}

fn message_len(len: [u8; LEN_BYTES]) -> Result<usize, BadSignal> {
    let len = usize::from(u16::from_be_bytes(len));
    if (1..=MAX_SIGNAL_LEN).contains(&len) { Ok(len) } else { Err(BadSignal) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Result<(), BadSignal>) {
        let now = Instant::now();
        let mut reader = SignalReader::new(now);
        let mut messages = Vec::new();
        let result = chunks.iter().try_for_each(|chunk| {
            reader.push(now, chunk, |message| messages.push(message.to_vec()))
        });
        (messages, result)
    }

    #[test]
    fn lengths_out_of_bounds_end_it() {
        assert_eq!(read(&[&[0, 0]]), (vec![], Err(BadSignal)));
        assert_eq!(read(&[&[0x10], &[0x01]]), (vec![], Err(BadSignal)));
        assert_eq!(read(&[&[0, 1, 7, 0xff, 0xff]]), (vec![vec![7]], Err(BadSignal)));
        let mut queue = SignalQueue::default();
        assert!(!queue.push(&[]));
        assert!(!queue.push(&[0; MAX_SIGNAL_LEN + 1]));
        assert_eq!((0..100).filter(|_| queue.push(&[0; MAX_SIGNAL_LEN])).count(), 15);
        assert!(queue.bytes.len() <= QUEUE_BYTES);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let now = Instant::now();
        let mut reader = SignalReader::new(now);
        let mut delivered = 0;
        for _ in 0..300 {
            reader.push(now, &[0, 1, 9], |_| delivered += 1).unwrap();
        }
        assert_eq!((delivered, reader.dropped), (100, 200));
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 1..200), 0..20),
            cut in 1_usize..300,
        ) {
            let mut queue = SignalQueue::default();
            for message in &messages {
                prop_assert!(queue.push(message));
            }
            let chunks: Vec<&[u8]> = queue.bytes.chunks(cut).collect();
            prop_assert_eq!(read(&chunks), (messages, Ok(())));
        }

        #[test]
        fn any_bytes_do_not_panic(
            chunks in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..5_000), 0..4),
        ) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            for message in read(&chunks).0 {
                prop_assert!((1..=MAX_SIGNAL_LEN).contains(&message.len()));
            }
        }
    }
}
