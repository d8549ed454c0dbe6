//! ChannelData messages of TURN over UDP (RFC 8656 section 12.4): a header of four bytes in front of what a relay carries to or from one peer.
//!
//! A train of packets that QUIC has built is wrapped in place: its segments move apart, the last one first, and a header goes before each, so
//! that the train stays one send with segments of four bytes more.

use std::ops::Range;

/// Channel number and length, two bytes each.
pub const HEADER_LEN: usize = 4;
/// The numbers that a channel may have (RFC 8656 section 12).
pub const CHANNELS: Range<u16> = 0x4000..0x5000;

/// Reads a UDP packet: its channel, and where its content lies. What follows the content is padding, which UDP does not need but may have.
///
/// `None` if it is something else, or cut short.
pub fn parse(packet: &[u8]) -> Option<(u16, Range<usize>)> {
    let ([channel_high, channel_low, len_high, len_low], rest) = packet.split_first_chunk()?;
    let channel = u16::from_be_bytes([*channel_high, *channel_low]);
    let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
    (CHANNELS.contains(&channel) && len <= rest.len())
        .then_some((channel, HEADER_LEN..HEADER_LEN + len))
}

/// Puts a header before each packet of a train; all but the last are `segment_len` long, and none longer than 65,535 bytes.
pub fn wrap(train: &mut Vec<u8>, segment_len: usize, channel: u16) {
    let len = train.len();
    let segment_len = segment_len.max(1);
    let segments = len.div_ceil(segment_len);
    train.resize(len + segments * HEADER_LEN, 0);
    for index in (0..segments).rev() {
        let from = index * segment_len;
        let to = from + (index + 1) * HEADER_LEN;
        let content_len = segment_len.min(len - from);
        train.copy_within(from..from + content_len, to);
        let header = &mut train[to - HEADER_LEN..to];
        header[..2].copy_from_slice(&channel.to_be_bytes());
        header[2..].copy_from_slice(&(content_len as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn padding_is_cut_and_other_packets_are_refused() {
        assert_eq!(parse(&[0x40, 1, 0, 3, 7, 8, 9, 0]), Some((0x4001, 4..7)));
        assert_eq!(parse(&[0x4f, 0xff, 0, 0]), Some((0x4fff, 4..4)));
        for other in [
            &[][..],
            &[0x40, 1, 0],
            &[0x40, 1, 0, 2, 7],
            &[0x50, 0, 0, 1, 7],
            &[0x3f, 0xff, 0, 1, 7],
            &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42],
        ] {
            assert_eq!(parse(other), None, "{other:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_train_comes_out_as_it_went_in(
            segment_len in 1_usize..1_500,
            segments in 0_usize..64,
            last_len in 0_usize..1_500,
            channel in CHANNELS,
            seed in any::<u8>(),
        ) {
            let len = segments * segment_len + last_len.min(segment_len);
            let train: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            let mut wrapped = train.clone();
            wrap(&mut wrapped, segment_len, channel);
            let parsed: Vec<&[u8]> = wrapped
                .chunks(segment_len + HEADER_LEN)
                .map(|packet| {
                    let (from, content) = parse(packet).expect("ChannelData");
                    assert_eq!((from, content.end), (channel, packet.len()));
                    &packet[content]
                })
                .collect();
            let packets: Vec<&[u8]> = train.chunks(segment_len).collect();
            prop_assert_eq!(parsed, packets);
        }
    }
}
