//! UDP frames of one flow, joined to the superframe that the kernel could have made of them.
//!
//! A TAP takes a superframe of dozens of datagrams for little more than the price of one, and the kernel cuts it again where a receiver wants
//! single datagrams. Only frames are joined whose checksums are partial: their sender's kernel vouches for them, and what is cut
//! off later gets a sum of its own, so that a wrong one cannot be made right on the way.
//!
//! Nothing waits and nothing overtakes: a frame either continues the one flow that is open, or closes it.

use bytes::{Buf as _, Bytes};

use super::{
    Description, Gso, Headers, IpHeaders, IpVersion, MAX_FRAME_LEN, Transport,
    checksum::fold,
    headers::Fragment,
    rewrite::{Part, UDP_CHECKSUM, UDP_LENGTH, put_u16, rewrite_headers, u16_at},
};

/// Datagrams in one superframe: Linux's `UDP_MAX_SEGMENTS` before 6.9.
pub(crate) const MAX_JOINED: u32 = 64;
/// Two VLAN tags, IPv6 and UDP are 70.
const MAX_JOINED_HEADERS_LEN: usize = 80;

/// The flow that is open, and its frames so far.
#[derive(Debug, Default)]
pub(crate) struct UdpJoin {
    flow: Option<Flow>,
    /// The first frame whole; of the others the payload.
    pieces: Vec<Bytes>,
    frames: u32,
    payload_len: usize,
    /// The last frame was shorter than the first: nothing may follow it.
    is_closed: bool,
}

/// What all frames of the superframe have in common.
#[derive(Clone, Copy, Debug)]
struct Flow {
    what: Description,
    ip: IpHeaders,
    headers: [u8; MAX_JOINED_HEADERS_LEN],
    headers_len: usize,
    /// Payload of each datagram but the last.
    segment_len: usize,
}

/// A frame, or several in one.
pub(crate) struct Joined<'a> {
    pub(crate) what: Description,
    pub(crate) pieces: &'a mut Vec<Bytes>,
    pub(crate) frames: u32,
}

impl UdpJoin {
    /// Whether frames wait in it.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.frames > 0
    }

    /// Opens a flow with its first frame, if that is one to which others may be joined; takes its pieces then. Nothing may be open.
    pub(crate) fn open(&mut self, what: &Description, pieces: &mut Vec<Bytes>) -> bool {
        debug_assert!(!self.is_open());
        let Some(flow) = Flow::of(what, pieces) else { return false };
        self.payload_len = flow.segment_len;
        self.flow = Some(flow);
        self.pieces.append(pieces);
        self.frames = 1;
        self.is_closed = false;
        true
    }

    /// Takes the pieces of a frame that continues the open flow.
    #[inline]
    pub(crate) fn append(&mut self, what: &Description, pieces: &mut Vec<Bytes>) -> bool {
        let Some(flow) = self.flow.as_ref().filter(|_| self.is_open() && !self.is_closed) else {
            return false;
        };
        let total_len = what.total_len();
        let Some(payload_len) = total_len.checked_sub(flow.headers_len).filter(|len| *len > 0)
        else {
            return false;
        };
        let fits = payload_len <= flow.segment_len
            && self.frames < MAX_JOINED
            && flow.headers_len + self.payload_len + payload_len <= MAX_FRAME_LEN.min(65_535);
        let head = pieces.first().and_then(|head| head.get(..flow.headers_len));
        let continues = head.is_some_and(|head| flow.continues(head, total_len, self.frames));
        if !fits || !continues || what.offload() != flow.what.offload() {
            return false;
        }
        pieces[0].advance(flow.headers_len);
        self.pieces.extend(pieces.drain(..).filter(|piece| !piece.is_empty()));
        self.payload_len += payload_len;
        self.frames += 1;
        self.is_closed = payload_len < flow.segment_len;
        true
    }

    /// Closes the flow and hands out what it holds. `keep` stores the headers of a superframe.
    pub(crate) fn close(&mut self, keep: impl FnOnce(&[u8]) -> Bytes) -> Option<Joined<'_>> {
        let flow = self.flow.take()?;
        let frames = std::mem::take(&mut self.frames);
        if frames == 1 {
            return Some(Joined { what: flow.what, pieces: &mut self.pieces, frames });
        }
        let mut headers = flow.headers;
        let headers = &mut headers[..flow.headers_len];
        let whole =
            Part { start: 0, len: self.payload_len, payload_len: self.payload_len, index: 0 };
        let pseudo = rewrite_headers(headers, &flow.what, &flow.ip, whole);
        put_u16(headers, usize::from(flow.ip.l4_start + UDP_CHECKSUM), fold(pseudo));
        self.pieces[0].advance(flow.headers_len);
        self.pieces.insert(0, keep(headers));
        let len = flow.headers_len + self.payload_len;
        let what = flow.what.of_joined(flow.segment_len as u16, len);
        Some(Joined { what, pieces: &mut self.pieces, frames })
    }
}

impl Flow {
    /// The flow of a whole UDP datagram without IP options, whose checksum is partial.
    fn of(what: &Description, pieces: &[Bytes]) -> Option<Self> {
        let offload = what.offload();
        if !offload.needs_csum || offload.gso != Gso::None || offload.csum_offset != UDP_CHECKSUM {
            return None;
        }
        let (head, total_len) = (pieces.first()?, what.total_len());
        let Headers { l2_len, ip: Some(ip), .. } = *what.headers() else { return None };
        let ip_header_len = match ip.version {
            IpVersion::V4 => 20,
            IpVersion::V6 => 40,
        };
        let headers_len = usize::from(what.headers().end());
        let is_plain = ip.transport == Transport::Udp
            && ip.fragment == Fragment::Whole
            && ip.l4_start == l2_len + ip_header_len
            && ip.l4_start == offload.csum_start
            && ip.packet_end as usize == total_len;
        let segment_len = total_len.checked_sub(headers_len)?;
        if !is_plain || segment_len == 0 || headers_len > MAX_JOINED_HEADERS_LEN {
            return None;
        }
        let mut headers = [0; MAX_JOINED_HEADERS_LEN];
        headers[..headers_len].copy_from_slice(head.get(..headers_len)?);
        let flow = Self { what: *what, ip, headers, headers_len, segment_len };
        (flow.l4_len(&headers[..headers_len]) == total_len - usize::from(ip.l4_start))
            .then_some(flow)
    }

    /// Whether a frame's headers are those of the flow but for lengths, checksums and an identification that counts on.
    #[inline]
    fn continues(&self, head: &[u8], total_len: usize, number: u32) -> bool {
        let (l2, l4) = (usize::from(self.what.headers().l2_len), usize::from(self.ip.l4_start));
        let same = |from: usize, to: usize| self.headers[from..to] == head[from..to];
        let l4_len = total_len - l4;
        let ip_continues = match self.ip.version {
            IpVersion::V4 => {
                const DONT_FRAGMENT: u8 = 0x40;
                let expected = u16_at(&self.headers, l2 + 4).wrapping_add(number as u16);
                same(l2, l2 + 2)
                    && usize::from(u16_at(head, l2 + 2)) == total_len - l2
                    // Without fragments the identification says nothing (RFC 6864).
                    && (head[l2 + 6] & DONT_FRAGMENT != 0 || u16_at(head, l2 + 4) == expected)
                    && same(l2 + 6, l2 + 10)
                    && same(l2 + 12, l4)
            }
            IpVersion::V6 => {
                same(l2, l2 + 4) && usize::from(u16_at(head, l2 + 4)) == l4_len && same(l2 + 6, l4)
            }
        };
        ip_continues && same(0, l2) && same(l4, l4 + UDP_LENGTH) && self.l4_len(head) == l4_len
    }

    /// What the UDP header says of its length.
    fn l4_len(&self, head: &[u8]) -> usize {
        usize::from(u16_at(head, usize::from(self.ip.l4_start) + UDP_LENGTH))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{
        Offload, complete_checksum, describe, segment,
        testing::{Family, Protocol, Recipe, recipe},
    };

    fn udp(payload_len: usize) -> Recipe {
        Recipe {
            protocol: Protocol::Udp,
            tcp_option_units: 0,
            flags: 0,
            gso_size: payload_len.max(1) as u16,
            identification: 0xfffe,
            ..Recipe::tcp4(payload_len, 1)
        }
    }

    /// A datagram as a frame of its own, as a TAP with checksum offload hands it over.
    fn single(recipe: &Recipe) -> (Offload, Vec<u8>) {
        let (offload, frame) = recipe.build();
        (Offload { gso: Gso::None, gso_size: 0, ..offload }, frame)
    }

    fn open(join: &mut UdpJoin, offload: Offload, pieces: &mut Vec<Bytes>) -> bool {
        join.open(&described(offload, pieces), pieces)
    }

    fn append(join: &mut UdpJoin, offload: Offload, pieces: &mut Vec<Bytes>) -> bool {
        join.append(&described(offload, pieces), pieces)
    }

    fn described(offload: Offload, pieces: &[Bytes]) -> Description {
        describe(offload, &pieces[0], pieces.iter().map(Bytes::len).sum()).unwrap()
    }

    fn pieces(frame: &[u8], cut: usize) -> Vec<Bytes> {
        let bytes = Bytes::copy_from_slice(frame);
        if cut >= frame.len() { vec![bytes] } else { vec![bytes.slice(..cut), bytes.slice(cut..)] }
    }

    fn completed(offload: Offload, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        complete_checksum(offload, &mut frame).unwrap();
        frame
    }

    fn segments(joined: &Joined<'_>) -> Vec<Vec<u8>> {
        let frame = joined.pieces.concat();
        assert_eq!(describe(joined.what.offload(), &frame, frame.len()), Ok(joined.what));
        let mut segments = Vec::new();
        segment(&joined.what, &frame, &mut Vec::new(), |frame| segments.push(frame.to_vec()))
            .unwrap();
        segments
    }

    proptest! {
        /// The segmenter, which is tested against Linux's rules by itself, makes of the superframe what went into it.
        #[test]
        fn a_joined_superframe_is_cut_into_the_frames_it_was_made_of(
            base in recipe(),
            len in 1_usize..1_400,
            last_len in 1_usize..1_400,
            count in 2_u16..20,
            cut in 300_usize..1_500,
        ) {
            let base = Recipe { protocol: Protocol::Udp, ip_option_units: 0, flags: 0, ..base };
            let mut join = UdpJoin::default();
            let mut sent = Vec::new();
            for number in 0..count {
                let payload_len = if number + 1 == count { last_len.min(len) } else { len };
                let identification = base.identification.wrapping_add(number);
                let seed = base.seed.wrapping_add(number as u8);
                let recipe = Recipe { payload_len, gso_size: len as u16, identification, seed, ..base.clone() };
                let (offload, frame) = single(&recipe);
                let mut pieces = pieces(&frame, cut);
                let taken = if number == 0 { open(&mut join, offload, &mut pieces) } else { append(&mut join, offload, &mut pieces) };
                prop_assert!(taken && pieces.is_empty());
                sent.push(completed(offload, &frame));
            }
            let joined = join.close(Bytes::copy_from_slice).unwrap();
            prop_assert_eq!(joined.frames, u32::from(count));
            prop_assert_eq!(joined.what.offload().gso, Gso::Udp);
            prop_assert_eq!(segments(&joined), sent);
            joined.pieces.clear();
            prop_assert!(!join.is_open());
        }
    }

    #[test]
    fn one_frame_stays_as_it_was() {
        let (offload, frame) = single(&udp(100));
        let mut join = UdpJoin::default();
        assert!(open(&mut join, offload, &mut pieces(&frame, 1_000)));
        let joined = join.close(|_| unreachable!("no headers are made")).unwrap();
        assert_eq!((joined.frames, joined.what.offload()), (1, offload));
        assert_eq!(joined.pieces.concat(), frame);
    }

    #[test]
    fn only_what_continues_the_flow_is_joined() {
        let first = udp(100);
        let next = Recipe { identification: 0xffff, ..udp(100) };
        let joins = |second: &dyn Fn(&mut Offload, &mut Vec<u8>), recipe: &Recipe| {
            let mut join = UdpJoin::default();
            let (offload, frame) = single(&first);
            assert!(open(&mut join, offload, &mut pieces(&frame, 1_000)));
            let (mut offload, mut frame) = single(recipe);
            second(&mut offload, &mut frame);
            append(&mut join, offload, &mut pieces(&frame, 1_000))
        };
        assert!(joins(&|_, _| {}, &next));
        assert!(joins(&|_, _| {}, &Recipe { payload_len: 99, ..next.clone() }), "the last one");
        assert!(!joins(&|_, _| {}, &Recipe { payload_len: 101, ..next.clone() }), "longer");
        assert!(!joins(&|_, _| {}, &Recipe { payload_len: 0, ..next.clone() }), "empty");
        assert!(joins(&|_, _| {}, &Recipe { identification: 3, ..next.clone() }), "not fragmented");
        assert!(!joins(&|_, _| {}, &Recipe { family: Family::V6, ..next.clone() }));
        assert!(!joins(&|offload, _| offload.needs_csum = false, &next), "a sum of its own");
        for (at, what) in [(3, "MAC"), (15, "TOS"), (22, "TTL"), (28, "source"), (35, "port")] {
            assert!(!joins(&|_, frame| frame[at] ^= 1, &next), "another {what}");
        }
        assert!(!joins(&|_, frame| frame[17] += 1, &next), "IP's length lies");
        assert!(!joins(&|_, frame| frame[39] += 1, &next), "UDP's length lies");
        assert!(!joins(&|_, frame| frame.push(0), &next), "padding");
    }

    #[test]
    fn what_may_be_fragmented_must_count_on() {
        for (identification, joins) in [(0xffff, true), (0xfffe, false), (0, false)] {
            let mut join = UdpJoin::default();
            let may_be_fragmented = |identification| {
                let (offload, mut frame) = single(&Recipe { identification, ..udp(100) });
                frame[20] = 0;
                (offload, pieces(&frame, 1_000))
            };
            let (offload, mut first) = may_be_fragmented(0xfffe);
            assert!(open(&mut join, offload, &mut first));
            let (offload, mut second) = may_be_fragmented(identification);
            assert_eq!(append(&mut join, offload, &mut second), joins, "{identification}");
        }
    }

    #[test]
    fn nothing_follows_a_shorter_one_and_the_number_is_bounded() {
        let mut join = UdpJoin::default();
        let add = |join: &mut UdpJoin, payload_len: usize, number: u32| {
            let identification = 0xfffe_u16.wrapping_add(number as u16);
            let (offload, frame) = single(&Recipe { identification, ..udp(payload_len) });
            let mut pieces = pieces(&frame, 1_000);
            if number == 0 {
                open(join, offload, &mut pieces)
            } else {
                append(join, offload, &mut pieces)
            }
        };
        assert!(add(&mut join, 50, 0) && add(&mut join, 40, 1) && !add(&mut join, 40, 2));
        join.close(Bytes::copy_from_slice).unwrap().pieces.clear();
        assert!((0..MAX_JOINED).all(|number| add(&mut join, 50, number)));
        assert!(!add(&mut join, 50, MAX_JOINED));
    }

    #[test]
    fn what_cannot_be_joined_opens_nothing() {
        let opens = |change: &dyn Fn(&mut Offload, &mut Vec<u8>), recipe: &Recipe| {
            let (mut offload, mut frame) = single(recipe);
            change(&mut offload, &mut frame);
            open(&mut UdpJoin::default(), offload, &mut pieces(&frame, 1_000))
        };
        assert!(opens(&|_, _| {}, &udp(100)));
        assert!(!opens(&|_, _| {}, &udp(0)));
        assert!(!opens(&|_, _| {}, &Recipe { ip_option_units: 1, ..udp(100) }));
        assert!(!opens(&|_, _| {}, &Recipe::tcp4(100, 100)));
        assert!(!opens(&|offload, _| *offload = Offload::NONE, &udp(100)));
        assert!(!opens(&|_, frame| frame[20] |= 0x20, &udp(100)), "a fragment");
        assert!(!opens(&|_, frame| frame.push(0), &udp(100)), "padding");
    }
}
