//! The last part of a frame's way: to a local port as the port takes it, joined to others of its flow where that saves work, or to the peer's tunnel.

use bytes::Bytes;
use ipop_learning::PortId;

use super::Peers;
use crate::{
    core::context::Context,
    counters::drops::{DropReason, Passed},
    frame::{Description, Frame, FrameBytes, Gso, Joined, Scratch, UdpJoin, segment},
    io::Io,
    port::{LocalPort, PortKind, SharedPort, TapOffload},
    record::arena::{Arena, Exhausted, WhenFull},
};

/// Headers of joined frames live until the frame is written: a few hundred at once.
const JOIN_HEADS_CHUNK_LEN: usize = 16 * 1_024;
const JOIN_HEADS_CHUNKS_MAX: usize = 4;
/// A refused superframe may be the peer's fault; that many at one TAP are the kernel's.
const REFUSED_SUPERFRAMES: u32 = 16;

/// What goes out to the TAPs.
pub(crate) struct Egress {
    /// In the order of the context's local ports, which say what each takes.
    taps: Vec<Tap>,
    /// Headers of joined frames.
    join_heads: Arena,
    scratch: Scratch,
}

#[derive(Default)]
struct Tap {
    /// UDP frames on their way, written at the end of the train that they came in.
    join: UdpJoin,
    refused_superframes: u32,
}

impl Egress {
    pub(super) fn new() -> Self {
        Self {
            taps: Vec::new(),
            join_heads: Arena::new(JOIN_HEADS_CHUNK_LEN, JOIN_HEADS_CHUNKS_MAX, WhenFull::Replace),
            scratch: Scratch::default(),
        }
    }

    /// A local port is there from now on.
    pub(crate) fn open(&mut self, local: LocalPort, cx: &mut Context) {
        let index = cx.local.partition_point(|open| open.port < local.port);
        cx.local.insert(index, local);
        self.taps.insert(index, Tap::default());
    }

    /// It is not there any more. A train has ended, so nothing waits to be joined.
    pub(crate) fn close(&mut self, port: PortId, cx: &mut Context) {
        if let Some(index) = cx.index_of_local(port) {
            cx.local.remove(index);
            self.taps.remove(index);
        }
    }

    /// Sends a frame out of a port.
    pub(super) fn send(
        &mut self,
        (to, port): (PortId, &SharedPort),
        frame: Frame<'_>,
        peers: &mut impl Peers,
        cx: &Context,
        io: &mut impl Io,
    ) -> Passed {
        match port.kind() {
            PortKind::Tap if port.is_blocked() => Err(DropReason::Blocked),
            PortKind::Tap => self.write(to, frame, cx, io),
            PortKind::Peer => peers.send(to, frame, cx, io),
            PortKind::Closed => Err(DropReason::TapDown),
        }
    }

    /// Writes what was joined: ends a train.
    #[inline]
    pub(crate) fn end_of_train(&mut self, cx: &Context, io: &mut impl Io) {
        for index in 0..self.taps.len() {
            self.write_joined(index, cx, io);
        }
    }

    /// The kernel refused a superframe at this TAP. Once it has refused too many, the TAP gets plain frames, and whoever connects is promised no more; true then.
    pub(crate) fn superframe_refused(&mut self, tap: PortId, cx: &mut Context) -> bool {
        let Some(index) = cx.index_of_local(tap) else { return false };
        let refused = &mut self.taps[index].refused_superframes;
        *refused += 1;
        let is_enough = *refused == REFUSED_SUPERFRAMES;
        if is_enough {
            cx.local[index].takes = TapOffload::None;
        }
        is_enough
    }

    /// Writes a frame to a local TAP, finished in software where the TAP or its reader needs that.
    fn write(
        &mut self,
        tap: PortId,
        mut frame: Frame<'_>,
        cx: &Context,
        io: &mut impl Io,
    ) -> Passed {
        // Control has opened it, and this worker is about to hear of that.
        let index = cx.index_of_local(tap).ok_or(DropReason::TapDown)?;
        if self.join(index, &mut frame, cx, io) {
            return Ok(());
        }
        let what = frame.what;
        if !must_finish(cx.local[index].takes, what) {
            hand_over(tap, frame, 1, cx, io);
            return Ok(());
        }
        let mut segments = 0;
        let whole = frame.bytes.contiguous(&mut self.scratch.whole);
        let result = segment(what, whole, &mut self.scratch.segment, |segment| {
            segments += 1;
            let what = &what.of_segment(segment.len());
            hand_over(tap, Frame { what, bytes: FrameBytes::Whole(segment) }, 1, cx, io);
        });
        cx.is_segmented(tap, what, segments, result)
    }

    /// Takes a UDP frame that can be joined to others; writes those that it cannot be joined to.
    #[inline]
    fn join(
        &mut self,
        index: usize,
        frame: &mut Frame<'_>,
        cx: &Context,
        io: &mut impl Io,
    ) -> bool {
        let what = frame.what;
        if let FrameBytes::Pieces(pieces) = &mut frame.bytes
            && self.taps[index].join.append(what, pieces)
        {
            return true;
        }
        self.write_joined(index, cx, io);
        let takes = cx.local[index].takes;
        match &mut frame.bytes {
            FrameBytes::Pieces(pieces) if takes == TapOffload::Full => {
                !must_finish(takes, what) && self.taps[index].join.open(what, pieces)
            }
            _ => false,
        }
    }

    #[inline]
    fn write_joined(&mut self, index: usize, cx: &Context, io: &mut impl Io) {
        let join = &mut self.taps[index].join;
        if !join.is_open() {
            return;
        }
        let heads = &mut self.join_heads;
        let keep = |headers: &[u8]| {
            heads.copy(headers).unwrap_or_else(|Exhausted| Bytes::copy_from_slice(headers))
        };
        let Some(Joined { ref what, pieces, frames }) = join.close(keep) else { return };
        let tap = cx.local[index].port;
        hand_over(tap, Frame { what, bytes: FrameBytes::Pieces(pieces) }, frames, cx, io);
        pieces.clear();
    }
}

/// Writes what goes out of a port. Frames that were joined are counted as those that they were, as they were received.
fn hand_over(tap: PortId, mut frame: Frame<'_>, frames: u32, cx: &Context, io: &mut impl Io) {
    cx.goes_out(tap, &frame, frames);
    if let Err(reason) = io.write_tap(tap, frame.again(), frames) {
        cx.drop_after(tap, reason, u64::from(frames));
        cx.show_dropped(Some(tap), reason, &frame.bytes);
    }
}

/// Whether a frame must be finished before a TAP that takes this may have it.
fn must_finish(takes: TapOffload, what: &Description) -> bool {
    let offload = what.offload();
    if offload.is_none() {
        return false;
    }
    match takes {
        TapOffload::None => true,
        TapOffload::WithoutUso if offload.gso == Gso::Udp => true,
        TapOffload::WithoutUso | TapOffload::Full => what.is_dhcp(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Offload;

    #[test]
    fn a_tap_is_given_only_what_it_takes_as_it_is() {
        let superframe = |gso, csum_offset| Offload {
            gso,
            gso_size: 1_000,
            needs_csum: true,
            csum_start: 34,
            csum_offset,
        };
        let tcp = superframe(Gso::Tcp4 { ecn: false }, 16);
        let udp = superframe(Gso::Udp, 6);
        let finished = |offload| {
            let what = Description::for_test(offload, 0, 60, 0);
            [TapOffload::Full, TapOffload::WithoutUso, TapOffload::None]
                .map(|takes| must_finish(takes, &what))
        };
        assert_eq!(finished(tcp), [false, false, true]);
        assert_eq!(finished(udp), [false, true, true]);
    }
}
