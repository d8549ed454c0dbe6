//! What stands beside the state of a worker and is lent to it: facts, the tables that all workers share, counters, events for control.
//!
//! Every frame is counted here as it comes in, as it goes out, and when it is dropped. An [`Observer`], if there is one, sees the same frames, but not those
//! of which nothing is left when they are dropped.

use std::{fmt, sync::Arc};

use ipop_learning::PortId;

use crate::{
    command::Event,
    core::shared::{NodeFacts, Shared},
    counters::{
        WorkerCounters,
        drops::{DropReason, Passed},
    },
    forward::Ingoing,
    frame::{Description, Frame, FrameBytes, Gso, Offload},
    port::LocalPort,
};

/// Sees frames as they pass.
pub trait Observer: fmt::Debug + Send {
    /// A frame came in at a port, with this offload; [`Offload::NONE`] if that cannot be read.
    fn came_in(&self, port: PortId, frame: &FrameBytes<'_>, offload: Offload);
    /// A frame goes out of a port.
    fn goes_out(&self, port: PortId, frame: &FrameBytes<'_>, offload: Offload);
    /// A frame is dropped of which something is left. The port is the one that it came from, or the one that it was for if it had got so far; none if the far
    /// end was not admitted. What a queue or the kernel takes no more was seen to go out before, if it was counted as sent.
    fn dropped(&self, port: Option<PortId>, reason: DropReason, frame: &FrameBytes<'_>);
}

/// What a worker lends to whoever handles a frame: facts, shared tables, counters, events.
pub(crate) struct Context {
    pub(crate) worker: u8,
    pub(crate) facts: Arc<NodeFacts>,
    pub(crate) shared: Arc<Shared>,
    /// The local ports that this worker has, by number, as `Egress` opens and closes them.
    pub(crate) local: Vec<LocalPort>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) events: Vec<Event>,
    pub(crate) observer: Option<Box<dyn Observer>>,
}

impl Context {
    pub(crate) fn new(worker: u8, facts: Arc<NodeFacts>, shared: Arc<Shared>) -> Self {
        let counters = shared.counters[usize::from(worker)].clone();
        Self {
            worker,
            facts,
            shared,
            counters,
            local: Vec::new(),
            events: Vec::new(),
            observer: None,
        }
    }

    /// Where a local port stands among those of this worker. They are few, so they are looked at one by one.
    #[inline]
    pub(crate) fn index_of_local(&self, port: PortId) -> Option<usize> {
        self.local.iter().position(|local| local.port == port)
    }

    /// A frame came in.
    #[inline]
    pub(crate) fn came_in(&self, frame: &Ingoing<'_>) {
        let counters = self.counters.port(frame.port);
        counters.received_frames.add(1);
        counters.received_bytes.add(frame.bytes.len() as u64);
        if let Some(observer) = &self.observer {
            observer.came_in(frame.port, &frame.bytes, frame.offload.unwrap_or(Offload::NONE));
        }
    }

    /// A frame goes out, which may be several that were joined.
    #[inline]
    pub(crate) fn goes_out(&self, port: PortId, frame: &Frame<'_>, frames: u32) {
        let counters = self.counters.port(port);
        counters.sent_frames.add(u64::from(frames));
        counters.sent_bytes.add(frame.what.total_len() as u64);
        if let Some(observer) = &self.observer {
            observer.goes_out(port, &frame.bytes, frame.what.offload());
        }
    }

    /// A frame went out in so many segments. If only some of it went out, the frame is dropped for a reason beside that.
    pub(crate) fn is_segmented(
        &self,
        port: PortId,
        what: &Description,
        segments: u64,
        result: Passed,
    ) -> Passed {
        if what.offload().gso != Gso::None {
            let counters = self.counters.port(port);
            counters.segments.add(segments);
            counters.segmented_frames.add(u64::from(result.is_ok()));
        }
        result
    }

    /// Drops a frame that has come in and has not gone out.
    #[inline]
    pub(crate) fn drop(&self, port: PortId, reason: DropReason, frame: &FrameBytes<'_>) {
        self.counters.port(port).drops.add(reason, 1);
        self.show_dropped(Some(port), reason, frame);
    }

    /// Counts what is dropped and was not counted as received. That of far ends that were not admitted is no port's.
    #[inline]
    pub(crate) fn drop_before(&self, port: Option<PortId>, reason: DropReason, frames: u64) {
        let Some(port) = port else { return self.counters.io.drops.add(reason, frames) };
        let counters = self.counters.port(port);
        counters.drops.add(reason, frames);
        counters.dropped_before.add(frames);
    }

    /// Counts dropped frames that were counted as sent.
    #[inline]
    pub(crate) fn drop_after(&self, port: PortId, reason: DropReason, frames: u64) {
        let counters = self.counters.port(port);
        counters.drops.add(reason, frames);
        counters.dropped_after.add(frames);
    }

    /// Shows a dropped frame to the observer.
    #[inline]
    pub(crate) fn show_dropped(
        &self,
        port: Option<PortId>,
        reason: DropReason,
        frame: &FrameBytes<'_>,
    ) {
        if let Some(observer) = &self.observer {
            observer.dropped(port, reason, frame);
        }
    }
}
