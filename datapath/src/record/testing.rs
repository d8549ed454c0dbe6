//! Frames that tell where they belong, and a sink that remembers.

use bytes::Bytes;

use crate::{
    counters::drops::DropReason,
    frame::{Offload, testing::Recipe},
};

use super::{FrameSink, partial::HEAD_LEN};

/// Bytes of headers of the TCP superframes that [`tcp`] makes.
pub(super) const TCP_HEADERS_LEN: usize = 14 + 20 + 32;
/// Each frame's TCP sequence numbers start at its number shifted by this, so that a run tells where it belongs.
const SEQUENCE_SHIFT: u32 = 17;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) offload: Offload,
    pub(super) headers_len: u16,
    pub(super) bytes: Vec<u8>,
}

/// Of a type that carries its number.
pub(super) fn plain(number: usize, len: usize, offload: Offload) -> Frame {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 256 + number * 13) as u8).collect();
    for (byte, tag) in
        bytes.iter_mut().skip(12).zip([&[0x88, 0xb5], &number.to_be_bytes()[4..]].concat())
    {
        *byte = tag;
    }
    Frame { offload, headers_len: 0, bytes }
}

pub(super) fn tcp(number: usize, payload_len: usize) -> Frame {
    let recipe = Recipe {
        sequence: (number as u32) << SEQUENCE_SHIFT,
        seed: number as u8,
        ..Recipe::tcp4(payload_len, 1_000)
    };
    let (offload, bytes) = recipe.build();
    Frame { offload, headers_len: TCP_HEADERS_LEN as u16, bytes }
}

#[derive(Default)]
pub(super) struct Collector {
    pub(super) delivered: Vec<(Offload, Vec<u8>)>,
    pub(super) dropped: Vec<(DropReason, u64)>,
}

impl FrameSink for Collector {
    fn deliver(&mut self, offload: Offload, pieces: &mut Vec<Bytes>) {
        let bytes = pieces.concat();
        assert!(pieces[0].len() >= bytes.len().min(HEAD_LEN));
        self.delivered.push((offload, bytes));
    }

    fn dropped(&mut self, reason: DropReason, frames: u64) {
        self.dropped.push((reason, frames));
    }
}

impl Collector {
    pub(super) fn count(&self, reason: DropReason) -> u64 {
        self.dropped.iter().filter(|(found, _)| *found == reason).map(|(_, frames)| frames).sum()
    }
}

/// Which frame this is, and the place in its payload where a run begins.
pub(super) fn identify(bytes: &[u8]) -> (usize, usize) {
    if bytes[12..14] == [0x88, 0xb5] {
        return (u32::from_be_bytes(bytes[14..18].try_into().unwrap()) as usize, 0);
    }
    let sequence = u32::from_be_bytes(bytes[38..42].try_into().unwrap());
    ((sequence >> SEQUENCE_SHIFT) as usize, (sequence % (1 << SEQUENCE_SHIFT)) as usize)
}
