//! pcapng (draft-ietf-opsawg-pcapng), as far as captures need it: written by the switch, cut at the ends of blocks by the command.
//!
//! Everything is little-endian. A block is its type, its length, a body of whole words, and the length again.

use super::{Copied, Fate};

/// What begins a file, a section header.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;

/// Options (section 3.5): those of all blocks, and of each kind of block.
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_PACKETID: u16 = 5;
const ISB_IFDROP: u16 = 5;

/// Of `EPB_FLAGS`: which way.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Type and length.
const BLOCK_HEAD_LEN: usize = 8;
/// Where the count stands in the blocks that [`missed`] writes.
const MISSED_AT: usize = BLOCK_HEAD_LEN + 12 + 4;
/// A block that says to be longer is none of this program's: a frame, its options, and some room.
const MAX_BLOCK_LEN: usize = 128 << 10;

/// Begins a file.
pub(crate) fn section_header(out: &mut Vec<u8>) {
    let program = concat!("ipop-switch ", env!("CARGO_PKG_VERSION"));
    block(out, SECTION_HEADER, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        // Version 1.0, a section of unknown length.
        out.extend([1, 0, 0, 0]);
        out.extend((-1_i64).to_le_bytes());
        option(out, SHB_USERAPPL, program.as_bytes());
        end_of_options(out);
    });
}

/// The next interface: a port of this name.
pub(crate) fn interface(out: &mut Vec<u8>, name: &str, snap_len: u32) {
    block(out, INTERFACE_DESCRIPTION, |out| {
        out.extend(LINKTYPE_ETHERNET.to_le_bytes());
        out.extend([0; 2]);
        out.extend(snap_len.to_le_bytes());
        option(out, IF_NAME, name.as_bytes());
        // Nanoseconds.
        option(out, IF_TSRESOL, &[9]);
        end_of_options(out);
    });
}

/// A frame, seen at an interface. `comment` says what became of it.
pub(crate) fn packet(out: &mut Vec<u8>, interface: u32, copied: &Copied, comment: &str) {
    let direction = match copied.fate {
        Fate::CameIn => INBOUND,
        Fate::GoesOut { .. } => OUTBOUND,
        Fate::Dropped(_) => 0,
    };
    block(out, ENHANCED_PACKET, |out| {
        out.extend(interface.to_le_bytes());
        timestamp(out, copied.unix_ns);
        out.extend((copied.bytes.len() as u32).to_le_bytes());
        out.extend(copied.len.to_le_bytes());
        out.extend_from_slice(&copied.bytes);
        pad(out, copied.bytes.len());
        option(out, OPT_COMMENT, comment.as_bytes());
        option(out, EPB_FLAGS, &direction.to_le_bytes());
        option(out, EPB_PACKETID, &copied.id.to_le_bytes());
        end_of_options(out);
    });
}

/// Says how many copies were left out by now, of all interfaces; it stands with the first one.
pub(crate) fn missed(out: &mut Vec<u8>, unix_ns: u64, copies: u64) {
    block(out, INTERFACE_STATISTICS, |out| {
        out.extend(0_u32.to_le_bytes());
        timestamp(out, unix_ns);
        option(out, ISB_IFDROP, &copies.to_le_bytes());
        end_of_options(out);
    });
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let len = ((out.len() - start + 4) as u32).to_le_bytes();
    out.extend(len);
    out[start + 4..start + BLOCK_HEAD_LEN].copy_from_slice(&len);
}

/// The upper half stands first.
fn timestamp(out: &mut Vec<u8>, unix_ns: u64) {
    out.extend(((unix_ns >> 32) as u32).to_le_bytes());
    out.extend((unix_ns as u32).to_le_bytes());
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out, value.len());
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

fn pad(out: &mut Vec<u8>, len: usize) {
    out.resize(out.len() + len.next_multiple_of(4) - len, 0);
}

/// Blocks as they come over a stream, whole ones only, and what they count.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    rest: Vec<u8>,
    /// Frames.
    pub(crate) frames: u64,
    /// Copies that were left out.
    pub(crate) missed: u64,
}

/// What came is no capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what the switch sent is no pcapng")]
pub(crate) struct NoBlock;

impl Blocks {
    /// What is whole with these further bytes.
    ///
    /// # Errors
    /// When they are no blocks.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, NoBlock> {
        self.rest.extend_from_slice(bytes);
        let mut whole = 0;
        while let Some(block) = first_block(&self.rest[whole..])? {
            match word(block, 0) {
                Some(ENHANCED_PACKET) => self.frames += 1,
                Some(INTERFACE_STATISTICS) => {
                    let count = block.get(MISSED_AT..).and_then(<[u8]>::first_chunk);
                    self.missed = count.map_or(self.missed, |count| u64::from_le_bytes(*count));
                }
                _ => {}
            }
            whole += block.len();
        }
        let rest = self.rest.split_off(whole);
        Ok(std::mem::replace(&mut self.rest, rest))
    }
}

fn first_block(bytes: &[u8]) -> Result<Option<&[u8]>, NoBlock> {
    let Some(len) = word(bytes, 4) else { return Ok(None) };
    let len = len as usize;
    if len < BLOCK_HEAD_LEN + 4 || !len.is_multiple_of(4) || len > MAX_BLOCK_LEN {
        return Err(NoBlock);
    }
    Ok(bytes.get(..len))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use ipop_datapath::{PortId, counters::drops::DropReason};

    use super::*;

    fn copied(fate: Fate) -> Copied {
        let (unix_ns, port) = (0x0102_0304_0506_0708, Some(PortId(1)));
        Copied { unix_ns, port, fate, id: 5, len: 9, segment_len: 0, bytes: vec![0xaa; 5] }
    }

    #[test]
    fn a_packet_has_the_bytes_of_the_standard() {
        let mut out = Vec::new();
        packet(&mut out, 2, &copied(Fate::CameIn), "hi!");
        let expected = [
            &[6, 0, 0, 0, 80, 0, 0, 0, 2, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5][..],
            &[5, 0, 0, 0, 9, 0, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0, 0, 0],
            &[1, 0, 3, 0, b'h', b'i', b'!', 0],
            &[2, 0, 4, 0, 1, 0, 0, 0],
            &[5, 0, 8, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 80, 0, 0, 0],
        ]
        .concat();
        assert_eq!(out.len(), 72);
        let expected: Vec<u8> =
            expected.iter().map(|byte| if *byte == 80 { 72 } else { *byte }).collect();
        assert_eq!(out, expected);
        let direction = |fate| {
            let mut out = Vec::new();
            packet(&mut out, 0, &copied(fate), "");
            word(&out, 44)
        };
        assert_eq!(direction(Fate::GoesOut { from: None }), Some(2));
        assert_eq!(direction(Fate::Dropped(DropReason::Storm)), Some(0));
    }

    #[test]
    fn blocks_are_put_together_whatever_pieces_they_come_in() {
        let mut file = Vec::new();
        section_header(&mut file);
        interface(&mut file, "ipop0", 65_535);
        packet(&mut file, 0, &copied(Fate::CameIn), "came in");
        missed(&mut file, 7, 3);
        packet(&mut file, 0, &copied(Fate::CameIn), "came in");
        missed(&mut file, 9, 12);
        for piece_len in [1, 7, 64, 1_000] {
            let (mut blocks, mut out) = (Blocks::default(), Vec::new());
            for piece in file.chunks(piece_len) {
                out.extend(blocks.take(piece).unwrap());
                assert!(out.is_empty() || word(&out, out.len() - 4).unwrap() >= 12, "whole");
            }
            assert_eq!((&out, blocks.frames, blocks.missed), (&file, 2, 12));
        }
        let mut cut = Blocks::default();
        let whole = cut.take(&file[..file.len() - 1]).unwrap();
        assert_eq!((whole.len(), cut.missed), (file.len() - 40, 3), "the last one is not whole");
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        for len in [0_u32, 11, 13, 1 << 20] {
            let bytes = [&6_u32.to_le_bytes()[..], &len.to_le_bytes(), &[0; 40]].concat();
            assert_eq!(Blocks::default().take(&bytes), Err(NoBlock), "{len}");
        }
        assert_eq!(Blocks::default().take(b"HTTP"), Ok(vec![]));
    }
}
