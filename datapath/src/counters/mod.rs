//! Counters: written by one worker each, read by anyone.
//!
//! A worker owns its block, so an increment is a plain load and store; blocks of different ports sit on different cache lines.

pub mod drops;
pub mod ledger;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;
use ipop_learning::PortId;

use crate::{counters::drops::DropReason, port::PortTable};

/// A number that one thread adds to and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning thread may.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Adds what another one has, which begins anew.
    fn take(&self, other: &Self) {
        self.add(other.0.swap(0, Relaxed));
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $of_field:literal])+ $field:ident,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[doc = $of_field])+ pub $field: Counter,)+
            /// Frames dropped here.
            pub drops: Drops,
        }

        impl $name {
            /// Every counter but those of drops, under its name in reports and documents.
            pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field.get()),)+].into_iter()
            }

            /// Adds everything to another block and begins anew; only the thread that owns both may.
            pub fn move_to(&self, other: &Self) {
                $(other.$field.take(&self.$field);)+
                other.drops.0.iter().zip(&self.drops.0).for_each(|(to, from)| to.take(from));
            }

            /// Frames dropped for this reason.
            pub fn dropped(&self, reason: DropReason) -> u64 {
                self.drops.of(reason)
            }
        }
    };
}

counters! {
    /// What passed one port in one worker. "Received" is into the switch, "sent" out of it; dropped are frames that came in here, or were for here.
    PortCounters {
        /// Frames that came in.
        received_frames,
        /// Their bytes, from the destination MAC on.
        received_bytes,
        /// Frames that went out.
        sent_frames,
        /// Their bytes.
        sent_bytes,
        /// Superframes that went out in segments.
        segmented_frames,
        /// Those segments, each of which was sent as a frame.
        segments,
        /// Frames of a peer that never arrived whole: gaps in record sequence numbers.
        missing_frames,
        /// TCP superframes whose pieces were lost or late, so that they were delivered in parts.
        salvaged_frames,
        /// Those parts, each of which was received as a frame.
        salvaged_runs,
        /// Copies of frames that came in here and were flooded, beyond the first of each.
        copies,
        /// Of what was dropped here, pieces and frames that were not counted as received.
        dropped_before,
        /// Of the frames dropped here, those that were counted as sent.
        dropped_after,
    }
}

counters! {
    /// What one worker did. The frames dropped are no port's: of far ends that were not admitted.
    IoCounters {
        /// Waits for something to do.
        waits,
        /// UDP packets received, and the trains (GRO buffers) that they came in.
        received_packets,
        /// Buffers that the kernel filled.
        received_trains,
        /// Packets from strangers, dropped without an answer.
        strangers,
        /// Packets cut short or without room in the kernel's buffers.
        receive_errors,
        /// Times the receive ran out of buffers and was armed again.
        receive_rearms,
        /// Packets, or trains of them, that the kernel dropped since a socket's receive buffer was full.
        receive_overflows,
        /// UDP packets sent.
        sent_packets,
        /// Send calls.
        sent_trains,
        /// Times a socket's buffer was full.
        send_blocked,
        /// Sends that the kernel refused for any reason but size.
        send_errors,
        /// Of those, since it has no route to the host.
        send_unreachable,
        /// Of those, since it has no room for the packet.
        send_no_room,
        /// Packets that the kernel found too large for the interface.
        send_too_large,
        /// Full datagrams that QUIC did not take: the path MTU shrank within a burst.
        unqueued_datagrams,
        /// Datagrams that were queued when their path changed and too large for the next until its MTU is known, estimated from their bytes.
        oversized_datagrams,
        /// Times that control moved a peer from one path to another.
        path_changes,
        /// Packets to peers that had no path.
        pathless_packets,
        /// Packets of peers whose path control chooses, from elsewhere than the peer's sources.
        unmapped_packets,
        /// Initials of strangers, dropped since control said so.
        ignored_initials,
        /// First packets of dials that found no place, since as many handshakes were under way as may be.
        crowded_initials,
        /// Handshakes given up: not finished in time, or the oldest when another one came.
        unfinished_handshakes,
        /// STUN and TURN packets handed to control.
        received_control_packets,
        /// STUN and TURN packets sent for control.
        sent_control_packets,
        /// STUN and TURN packets, either way, beyond what is allowed or what the socket takes.
        dropped_control_packets,
        /// Signalling messages, either way, beyond what is allowed or to a peer that does not know them.
        dropped_signals,
        /// Frames given to other workers, which carry the peer's lanes.
        mailed_out_frames,
        /// Frames taken from other workers.
        mailed_in_frames,
    }
}

/// Frames dropped, by reason.
#[derive(Debug, Default)]
pub struct Drops([Counter; DropReason::ALL.len()]);

impl Drops {
    /// Counts frames.
    #[inline]
    pub(crate) fn add(&self, reason: DropReason, frames: u64) {
        self.0[reason as usize].add(frames);
    }

    /// Those dropped for this reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].get()
    }

    /// All.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}

/// All counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    ports: PortTable<PortCounters>,
    /// Of ports whose numbers are others' now.
    former: PortCounters,
    /// The worker's own.
    pub io: CachePadded<IoCounters>,
}

impl WorkerCounters {
    /// The counters of a port.
    #[inline]
    pub fn port(&self, port: PortId) -> &PortCounters {
        self.ports.of(port)
    }

    /// Those of all ports that frames passed, of some that none did, and of those that are gone.
    pub fn ports(&self) -> impl Iterator<Item = &PortCounters> {
        self.ports.iter().chain([&self.former])
    }

    /// A port is another's now, and begins anew; only the owning thread may.
    pub(crate) fn begin_anew(&self, port: PortId) {
        self.port(port).move_to(&self.former);
    }
}
