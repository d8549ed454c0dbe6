//! Frames that wait for a tunnel, flow by flow (RFC 8290, without CoDel).
//!
//! A flow that fills a tunnel keeps megabytes waiting, and a ping or a query must not wait behind them. So frames wait here, as frames, before they are cut into
//! datagrams: each flow in a queue of its own, by a hash of its addresses and ports. Queues take turns by bytes (deficit round robin). One that
//! was empty gets its turn before those that have been waiting, so the frames of a sparse flow go out next. Within a flow the order stays.
//!
//! Long frames stay in the buffers that they were read into, short ones are copied: what a frame costs is what it pins. When the bound is reached, frames of
//! the flow with the most bytes go, the oldest first, so that its TCP hears of it soon and others do not suffer. CoDel is left out: a flow's own frames wait for
//! no longer than the bound takes, and its targets are for links a hundred times slower.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    frame::{Description, Frame, FrameBytes, MAX_FRAME_LEN},
    record::arena::{Arena, WhenFull},
};

/// What may wait, bytes: 5 ms at 7 Gbit/s.
pub(crate) const QUEUE_BYTES: usize = 4 << 20;
/// What that may pin, bytes.
const QUEUE_COST: usize = 2 * QUEUE_BYTES;
/// Frames from this length on stay in their buffers; shorter ones would pin more than four times their size. Bytes.
pub(crate) const KEEP_FROM: usize = 16 << 10;
/// Queues. With 30 flows that fill the tunnel a sparse one shares the queue of one of them in 3 % of all cases.
const FLOWS: usize = 1_024;
/// What a queue may send before the next one's turn: a superframe of the longest kind takes four turns. Bytes.
const QUANTUM: i32 = 16 << 10;
/// Bookkeeping of a frame, bytes.
const FRAME_COST: usize = 128;
/// No frame or flow.
const NONE: u32 = u32::MAX;

/// Copies of short frames: chunks for all that may wait.
const COPY_CHUNK_LEN: usize = 128 << 10;
const COPY_CHUNKS_MAX: usize = QUEUE_BYTES / COPY_CHUNK_LEN + 8;

/// A frame that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    what: Description,
    bytes: Bytes,
}

/// The frames that wait for one tunnel, by flow.
#[derive(Debug)]
pub(crate) struct FlowQueue {
    /// By the flow's hash; allocated when a frame waits for the first time.
    flows: Vec<Flow>,
    /// Waiting frames, and places for more.
    places: Vec<Place>,
    free: u32,
    /// Flows that were empty, in the order in which they came.
    new: VecDeque<u32>,
    /// Flows that have had their first turn.
    old: VecDeque<u32>,
    frames: usize,
    bytes: usize,
    cost: usize,
    copies: Arena,
    /// Of a frame that comes in pieces.
    joined: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    first: u32,
    last: u32,
    cost: usize,
    /// Bytes that it may send before another's turn.
    credit: i32,
    /// In one of the lists.
    is_listed: bool,
}

#[derive(Debug)]
struct Place {
    frame: Option<Waiting>,
    next: u32,
}

impl Waiting {
    /// What it takes of memory while it waits, bytes.
    fn cost(&self) -> usize {
        let len = self.bytes.len();
        FRAME_COST + if len < KEEP_FROM { len } else { MAX_FRAME_LEN }
    }

    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame { what: &self.what, bytes: FrameBytes::Shared(&self.bytes) }
    }
}

impl FlowQueue {
    pub(crate) fn new() -> Self {
        Self {
            flows: Vec::new(),
            places: Vec::new(),
            free: NONE,
            new: VecDeque::new(),
            old: VecDeque::new(),
            frames: 0,
            bytes: 0,
            cost: 0,
            copies: Arena::new(COPY_CHUNK_LEN, COPY_CHUNKS_MAX, WhenFull::Replace),
            joined: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        self.frames
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets a frame wait in the queue of its flow. What is too much then is to be taken out by [`FlowQueue::pop_excess`].
    pub(crate) fn push(&mut self, frame: Frame<'_>) {
        let bytes = match frame.bytes {
            FrameBytes::Shared(bytes) if bytes.len() >= KEEP_FROM => bytes.clone(),
            bytes => self.copy(&bytes),
        };
        let waiting = Waiting { what: *frame.what, bytes };
        if self.flows.is_empty() {
            let flow = Flow { first: NONE, last: NONE, cost: 0, credit: 0, is_listed: false };
            self.flows.resize(FLOWS, flow);
        }
        let index = frame.what.flow() % FLOWS as u32;
        self.append(index, waiting);
        let flow = &mut self.flows[index as usize];
        if !std::mem::replace(&mut flow.is_listed, true) {
            flow.credit = QUANTUM;
            self.new.push_back(index);
        }
    }

    /// The frame that goes since more waits than may: the oldest of the fattest flow.
    #[inline]
    pub(crate) fn pop_excess(&mut self) -> Option<Waiting> {
        let is_full = self.bytes > QUEUE_BYTES || self.cost > QUEUE_COST;
        if is_full { self.take_from_fattest() } else { None }
    }

    /// The frame whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        loop {
            let is_new = !self.new.is_empty();
            let list = if is_new { &mut self.new } else { &mut self.old };
            let index = *list.front()?;
            let flow = &mut self.flows[index as usize];
            if flow.credit <= 0 {
                flow.credit += QUANTUM;
                list.pop_front();
                self.old.push_back(index);
                continue;
            }
            if flow.first == NONE {
                list.pop_front();
                // A new flow goes through the list of the old ones first, or one that always comes back in time would starve them.
                if is_new && !self.old.is_empty() {
                    self.old.push_back(index);
                } else {
                    flow.is_listed = false;
                }
                continue;
            }
            let waiting = self.take_first(index)?;
            self.flows[index as usize].credit -= waiting.bytes.len() as i32;
            return Some(waiting);
        }
    }

    fn append(&mut self, index: u32, waiting: Waiting) {
        let (cost, len) = (waiting.cost(), waiting.bytes.len());
        let place = match self.places.get_mut(self.free as usize) {
            Some(place) => {
                let at = self.free;
                self.free = place.next;
                *place = Place { frame: Some(waiting), next: NONE };
                at
            }
            None => {
                self.places.push(Place { frame: Some(waiting), next: NONE });
                self.places.len() as u32 - 1
            }
        };
        let flow = &mut self.flows[index as usize];
        flow.cost += cost;
        match flow.last {
            NONE => flow.first = place,
            last => self.places[last as usize].next = place,
        }
        flow.last = place;
        self.frames += 1;
        self.bytes += len;
        self.cost += cost;
    }

    fn take_first(&mut self, index: u32) -> Option<Waiting> {
        let flow = &mut self.flows[index as usize];
        let at = flow.first;
        let place = self.places.get_mut(at as usize)?;
        let waiting = place.frame.take()?;
        flow.first = place.next;
        if flow.first == NONE {
            flow.last = NONE;
        }
        place.next = std::mem::replace(&mut self.free, at);
        let cost = waiting.cost();
        flow.cost -= cost;
        self.frames -= 1;
        self.bytes -= waiting.bytes.len();
        self.cost -= cost;
        Some(waiting)
    }

    #[cold]
    fn take_from_fattest(&mut self) -> Option<Waiting> {
        let fattest = (0..FLOWS).max_by_key(|index| self.flows[*index].cost)?;
        self.take_first(fattest as u32)
    }

    fn copy(&mut self, bytes: &FrameBytes<'_>) -> Bytes {
        let bytes = bytes.contiguous(&mut self.joined);
        // A replacing arena does not refuse what is no longer than its chunks.
        self.copies.copy(bytes).unwrap_or_else(|_| Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Offload;

    fn push(queue: &mut FlowQueue, flow: u32, number: u8, len: usize) -> u64 {
        let bytes = Bytes::from(vec![number; len]);
        let what = Description::for_test(Offload::NONE, 0, len, flow);
        queue.push(Frame { what: &what, bytes: FrameBytes::Shared(&bytes) });
        std::iter::from_fn(|| queue.pop_excess()).count() as u64
    }

    fn numbers(queue: &mut FlowQueue) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop()).map(|waiting| waiting.bytes[0]).collect()
    }

    #[test]
    fn a_sparse_flow_goes_before_one_that_waits_and_a_flow_keeps_its_order() {
        let mut queue = FlowQueue::new();
        for number in 0..4 {
            push(&mut queue, 7, number, 60_000);
        }
        assert_eq!(queue.pop().unwrap().bytes[0], 0);
        push(&mut queue, 8, 100, 60);
        push(&mut queue, 8, 101, 60);
        assert_eq!(numbers(&mut queue), [100, 101, 1, 2, 3]);
        assert!(queue.is_empty());
        assert_eq!((queue.len(), queue.bytes(), queue.cost), (0, 0, 0));
    }

    #[test]
    fn flows_share_by_bytes_whatever_the_length_of_their_frames() {
        let mut queue = FlowQueue::new();
        for _ in 0..40 {
            push(&mut queue, 1, 1, 40_000);
        }
        for _ in 0..1_000 {
            push(&mut queue, 2, 2, 1_500);
        }
        let mut bytes = [0; 3];
        while bytes.iter().sum::<usize>() < 1_000_000 {
            let waiting = queue.pop().unwrap();
            bytes[usize::from(waiting.bytes[0])] += waiting.bytes.len();
        }
        let [_, long, short] = bytes;
        assert!(long.abs_diff(short) < 100_000, "{long} {short}");
    }

    /// A flow that sends one frame each time that the last one has gone does not shut the others out.
    #[test]
    fn a_flow_that_always_comes_back_starves_nobody() {
        let mut queue = FlowQueue::new();
        for _ in 0..20 {
            push(&mut queue, 1, 1, 60_000);
        }
        push(&mut queue, 2, 2, 1_500);
        let mut seen = [0; 3];
        for _ in 0..400 {
            let number = queue.pop().unwrap().bytes[0];
            seen[usize::from(number)] += 1;
            if number == 2 {
                push(&mut queue, 2, 2, 1_500);
            }
        }
        assert!(seen[1] >= 8, "{seen:?}");
    }

    #[test]
    fn beyond_the_bound_the_fattest_flow_loses_its_oldest() {
        let mut queue = FlowQueue::new();
        push(&mut queue, 2, 200, 1_000);
        let mut dropped = 0;
        for number in 0..100 {
            dropped += push(&mut queue, 1, number, 60_000);
            assert!(queue.bytes() <= QUEUE_BYTES);
        }
        assert!((25..35).contains(&dropped), "{dropped}");
        let left = numbers(&mut queue);
        assert_eq!(left[0], 200);
        assert_eq!(left[1..], (dropped as u8..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_frames_pin_is_bounded_too() {
        let mut queue = FlowQueue::new();
        let dropped: u64 = (0..200).map(|_| push(&mut queue, 1, 0, KEEP_FROM)).sum();
        assert!((70..80).contains(&dropped), "{dropped}");
    }

    #[test]
    fn short_frames_pin_no_buffer() {
        let mut queue = FlowQueue::new();
        for (len, is_pinned) in [(KEEP_FROM - 1, false), (KEEP_FROM, true)] {
            let bytes = Bytes::from(vec![1; len]);
            let what = Description::for_test(Offload::NONE, 0, len, 0);
            queue.push(Frame { what: &what, bytes: FrameBytes::Shared(&bytes) });
            assert_eq!(!bytes.is_unique(), is_pinned);
        }
    }
}
