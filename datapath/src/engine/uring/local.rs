//! What a kind of local port does in this engine.
//!
//! One value has all ports of its kind that the worker has, with the memory that their operations use. A completion names the kind ([`Op`](super::ring::Op)), and an
//! index says the rest. What brings frames may be a read that has completed, or a bell behind which several frames lie: so whoever is told that a
//! frame was switched ([`LocalPorts::done`]) gives the next one.

use std::time::Instant;

use ipop_learning::PortId;

use super::ring::Ring;
use crate::{counters::drops::Passed, engine::backend::NotWritten, frame::Frame};

/// What came of an operation that was to bring frames.
pub(super) enum Brought<F> {
    /// A frame. It lies in the port's memory until that is given back.
    Frame(F),
    /// The port was deleted while in use.
    Gone(PortId),
    /// No frame, or no more.
    Nothing,
}

/// The local ports of one kind.
pub(super) trait LocalPorts {
    /// What control hands over for a port.
    type Queue;
    /// A frame that came in, and the memory that it lies in.
    type Lent;

    /// A port is there.
    fn open(&mut self, port: PortId, queue: Self::Queue);

    /// Begins nothing more that brings frames, and cancels what waits for them.
    fn close(&mut self, port: PortId, ring: &mut Ring);

    /// Lets go of the ports that were closed and of which nothing is under way any more.
    fn let_go(&mut self, closed: impl FnMut(PortId));

    /// Begins what brings frames; true if some of it completes by itself, whether there are frames or not.
    fn begin(&mut self, ring: &mut Ring) -> bool;

    /// Whether more frames should be read before those at hand go out: a burst may have begun.
    fn is_pressing(&self) -> bool;

    /// Something that brings frames has completed.
    fn brought(&mut self, now: Instant, index: u32, result: i32) -> Brought<Self::Lent>;

    /// A frame was switched: its memory is the port's again. The next one, if the same completion has brought several.
    fn done(&mut self, frame: Self::Lent) -> Brought<Self::Lent>;

    /// Writes a frame, which is several if they were joined.
    ///
    /// # Errors
    /// [`TapWrite`](crate::counters::drops::DropReason::TapWrite): too many wait. [`TapDown`](crate::counters::drops::DropReason::TapDown): there is no
    /// such port of this kind.
    fn write(&mut self, ring: &mut Ring, port: PortId, frame: Frame<'_>, frames: u32) -> Passed;

    /// Has what was written since the last call on its way before this returns.
    fn start_writes(&mut self, ring: &mut Ring);

    /// A write has completed; what of it is lost.
    fn written(&mut self, index: u32, result: i32) -> Option<NotWritten>;
}
