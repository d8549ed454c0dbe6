//! What sees the frames in a worker.

use std::{
    cell::Cell,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ipop_datapath::{
    Observer, PortId,
    counters::drops::DropReason,
    frame::{FrameBytes, Offload},
};

use super::{Capture, Copied, Fate, filter::Head};

/// The number of the worker stands from this bit of a frame's id on.
const WORKER_SHIFT: u32 = 56;

/// Copies a worker's frames for all captures.
#[derive(Debug)]
pub(crate) struct Onlooker {
    captures: Vec<Arc<Capture>>,
    last_id: Cell<u64>,
    /// The frame that came in last: where its bytes begin, its port, its id.
    last_in: Cell<Option<(usize, PortId, u64)>>,
}

impl Onlooker {
    /// In this worker.
    pub(crate) fn new(captures: Vec<Arc<Capture>>, worker: usize) -> Self {
        let last_id = Cell::new((worker as u64) << WORKER_SHIFT);
        Self { captures, last_id, last_in: Cell::new(None) }
    }

    fn new_id(&self) -> u64 {
        self.last_id.update(|id| id + 1);
        self.last_id.get()
    }

    /// The port and the id of a frame that came in, if it is the last one that did: its bytes have not moved. Those of a frame that was joined or cut have,
    /// and what waited has left its place to another one.
    fn known(&self, frame: &FrameBytes<'_>) -> Option<(PortId, u64)> {
        let begin = frame.head().as_ptr().addr();
        self.last_in.get().filter(|last| last.0 == begin).map(|(_, port, id)| (port, id))
    }

    /// Copies a frame for those who want it.
    fn show(
        &self,
        (port, id): (Option<PortId>, u64),
        fate: Fate,
        frame: &FrameBytes<'_>,
        segment_len: u16,
    ) {
        let mut head = None;
        for capture in self.captures.iter().filter(|capture| !capture.is_over()) {
            let wanted = &capture.wanted;
            if wanted.port.is_some() && wanted.port != port {
                continue;
            }
            let head = head.get_or_insert_with(|| Head::of(frame.head()));
            if wanted.filter.as_ref().is_some_and(|filter| !filter.matches(head)) {
                continue;
            }
            let copied_len = frame.len().min(wanted.snap_len);
            if !capture.reserve(copied_len) {
                continue;
            }
            let mut bytes = Vec::with_capacity(copied_len);
            frame.put(0..copied_len, &mut bytes);
            let len = frame.len() as u32;
            capture.put(Copied { unix_ns: unix_ns(), port, fate, id, len, segment_len, bytes });
        }
    }
}

impl Observer for Onlooker {
    fn came_in(&self, port: PortId, frame: &FrameBytes<'_>, offload: Offload) {
        let id = self.new_id();
        self.last_in.set(Some((frame.head().as_ptr().addr(), port, id)));
        self.show((Some(port), id), Fate::CameIn, frame, offload.gso_size);
    }

    fn goes_out(&self, port: PortId, frame: &FrameBytes<'_>, offload: Offload) {
        let known = self.known(frame);
        let id = known.map_or_else(|| self.new_id(), |(_, id)| id);
        let from = known.map(|(from, _)| from);
        self.show((Some(port), id), Fate::GoesOut { from }, frame, offload.gso_size);
    }

    fn dropped(&self, port: Option<PortId>, reason: DropReason, frame: &FrameBytes<'_>) {
        let id = self.known(frame).map_or_else(|| self.new_id(), |(_, id)| id);
        self.show((port, id), Fate::Dropped(reason), frame, 0);
    }
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{MAX_BYTES, MAX_COPIES, Wanted},
        *,
    };

    const PORT: PortId = PortId(1);
    const OTHER: PortId = PortId(2);

    fn onlooker(port: Option<PortId>, filter: Option<&str>, snap_len: usize) -> Onlooker {
        let filter = filter.map(|text| text.parse().unwrap());
        let capture = Capture::new(Wanted { port, filter, snap_len });
        Onlooker::new(vec![Arc::new(capture)], 3)
    }

    fn copies(onlooker: &Onlooker) -> Vec<Copied> {
        std::iter::from_fn(|| onlooker.captures[0].take()).collect()
    }

    #[test]
    fn a_frame_keeps_its_id_until_the_next_one_comes() {
        let onlooker = onlooker(None, None, 100);
        let (one, two) = ([[0xff; 6], [2; 6], [3; 6]].concat(), [7; 20]);
        let (one, two) = (FrameBytes::Whole(&one), FrameBytes::Whole(&two));
        onlooker.came_in(PORT, &one, Offload { gso_size: 9, ..Offload::NONE });
        onlooker.goes_out(OTHER, &one, Offload::NONE);
        onlooker.goes_out(OTHER, &two, Offload::NONE);
        onlooker.came_in(PORT, &two, Offload::NONE);
        onlooker.dropped(Some(PORT), DropReason::Storm, &two);
        onlooker.dropped(None, DropReason::NotAdmitted, &one);
        let copies = copies(&onlooker);
        let id = |n: u64| 3 << 56 | n;
        let seen: Vec<_> = copies.iter().map(|it| (it.port, it.fate, it.id - id(0))).collect();
        let expected = [
            (Some(PORT), Fate::CameIn, 1),
            (Some(OTHER), Fate::GoesOut { from: Some(PORT) }, 1),
            (Some(OTHER), Fate::GoesOut { from: None }, 2),
            (Some(PORT), Fate::CameIn, 3),
            (Some(PORT), Fate::Dropped(DropReason::Storm), 3),
            (None, Fate::Dropped(DropReason::NotAdmitted), 4),
        ];
        assert_eq!(seen, expected);
        assert_eq!((copies[0].len, copies[0].segment_len, copies[1].segment_len), (18, 9, 0));
        assert!(copies[0].unix_ns > 1_700_000_000_000_000_000);
    }

    #[test]
    fn only_what_is_wanted_is_copied_and_only_so_much_of_it() {
        let frame = [&[0xff; 6][..], &[2; 8], &[5; 86]].concat();
        let mut pieces: Vec<_> = [&frame[..50], &frame[50..]].map(|it| it.to_vec().into()).into();
        let frame_in_pieces = FrameBytes::Pieces(&mut pieces);
        let onlooker_60 = onlooker(Some(PORT), Some("broadcast"), 60);
        onlooker_60.came_in(PORT, &frame_in_pieces, Offload::NONE);
        onlooker_60.came_in(OTHER, &frame_in_pieces, Offload::NONE);
        onlooker_60.dropped(None, DropReason::NotAdmitted, &frame_in_pieces);
        onlooker_60.came_in(PORT, &FrameBytes::Whole(&[2; 60]), Offload::NONE);
        let copies_60 = copies(&onlooker_60);
        assert_eq!(copies_60.len(), 1, "{copies_60:?}");
        assert_eq!((copies_60[0].len, &copies_60[0].bytes[..]), (100, &frame[..60]));
        onlooker_60.captures[0].end();
        onlooker_60.came_in(PORT, &frame_in_pieces, Offload::NONE);
        assert!(copies(&onlooker_60).is_empty());
    }

    #[test]
    fn when_too_many_wait_copies_are_left_out_and_counted() {
        let small = onlooker(None, None, 10);
        (0..MAX_COPIES + 5).for_each(|_| {
            small.came_in(PORT, &FrameBytes::Whole(&[2; 60]), Offload::NONE);
        });
        assert_eq!(small.captures[0].missed(), 5);
        assert_eq!(copies(&small).len(), MAX_COPIES);
        let (frame, large) = (vec![2; 60_000], onlooker(None, None, 60_000));
        let fit = MAX_BYTES / frame.len();
        for round in 1..3 {
            (0..fit + 3).for_each(|_| {
                large.came_in(PORT, &FrameBytes::Whole(&frame), Offload::NONE);
            });
            assert_eq!(large.captures[0].missed(), 3 * round);
            assert_eq!(copies(&large).len(), fit, "what was taken has made room");
        }
    }
}
