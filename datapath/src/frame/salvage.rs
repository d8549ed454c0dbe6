//! Loss salvage: the runs of a TCP frame that arrived, each as a frame of its own.
//!
//! Any contiguous run of a TCP superframe's payload is a legal segment, so a lost piece costs the bytes in it and no
//! more. The headers (the template) arrive several times over; a run's headers are the template's with sequence
//! number, lengths, identification and flags of the run. The TCP checksum stays partial: the run is a superframe, or a
//! plain frame that needs its checksum, like what the kernel made.
//!
//! The IPv4 identification of a run is that of the segment in which it starts, by floor division, so a run aligned to
//! `gso_size` makes exactly the segments that the whole would have made, and no run leaves the superframe's range of
//! numbers. Runs that hold parts of one segment share its number; that matters only if a router fragments both, which
//! DF forbids (RFC 6864; Linux sets it for TCP). A frame that was no superframe keeps its number in all runs.

use super::{
    Description, Gso, IpHeaders, Offload, Transport,
    checksum::fold,
    describe,
    headers::Fragment,
    rewrite::{Part, TCP_CHECKSUM, TCP_FLAGS, put_u16, rewrite_headers, tcp_flag},
};
use crate::counters::drops::DropReason;

/// The headers of a TCP frame with holes.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    what: Description,
    ip: IpHeaders,
    headers: &'a [u8],
}

impl<'a> Template<'a> {
    /// Reads the template of a frame of `total_len` bytes: its bytes from the destination MAC to the end of the TCP
    /// header at least.
    ///
    /// # Errors
    /// [`DropReason::Incomplete`] if the frame cannot be cut: not TCP, its checksum not partial, a fragment, padded, or
    /// with SYN, RST or URG. [`describe`]'s errors if offload and headers contradict each other.
    pub fn new(offload: Offload, headers: &'a [u8], total_len: usize) -> Result<Self, DropReason> {
        let what = describe(offload, headers, total_len)?;
        let ip = what.headers().ip.ok_or(DropReason::Incomplete)?;
        let Transport::Tcp { .. } = ip.transport else { return Err(DropReason::Incomplete) };
        let headers =
            headers.get(..usize::from(what.headers().end())).ok_or(DropReason::Incomplete)?;
        let flags = headers[usize::from(ip.l4_start) + TCP_FLAGS];
        let is_cuttable = offload.needs_csum
            && offload.csum_start == ip.l4_start
            && offload.csum_offset == TCP_CHECKSUM
            && ip.fragment == Fragment::Whole
            && ip.packet_end as usize == total_len
            && flags & (tcp_flag::SYN | tcp_flag::RST | tcp_flag::URG) == 0;
        if !is_cuttable {
            return Err(DropReason::Incomplete);
        }
        Ok(Self { what, ip, headers })
    }

    /// Where the payload starts in the frame; runs lie between this and the frame's length.
    pub fn headers_len(&self) -> usize {
        self.headers.len()
    }

    /// Writes the headers of a frame that carries just the bytes `start..end` of the whole one into `out`, in place of
    /// what it held, and gives that frame's offload. The caller appends the bytes.
    ///
    /// # Errors
    /// [`DropReason::Incomplete`] for a run that is empty or does not lie within the payload.
    pub fn run(&self, start: usize, end: usize, out: &mut Vec<u8>) -> Result<Offload, DropReason> {
        let (headers_len, total_len) = (self.headers.len(), self.what.total_len());
        if start < headers_len || start >= end || end > total_len {
            return Err(DropReason::Incomplete);
        }
        let whole = self.what.offload();
        let gso_size = usize::from(whole.gso_size);
        let part_start = start - headers_len;
        let part = Part {
            start: part_start,
            len: end - start,
            payload_len: total_len - headers_len,
            index: part_start.checked_div(gso_size).unwrap_or(0) as u16,
        };
        out.clear();
        out.extend_from_slice(self.headers);
        let pseudo = rewrite_headers(out, &self.what, &self.ip, part);
        put_u16(out, usize::from(self.ip.l4_start + TCP_CHECKSUM), fold(pseudo));
        let gso = if part.len <= gso_size { Gso::None } else { gso_of_run(whole.gso, part) };
        let gso_size = if gso == Gso::None { 0 } else { whole.gso_size };
        Ok(Offload { gso, gso_size, ..whole })
    }
}

/// The ECN mark speaks of CWR, which only the run with the first byte keeps.
fn gso_of_run(whole: Gso, part: Part) -> Gso {
    match whole {
        Gso::Tcp4 { ecn } => Gso::Tcp4 { ecn: ecn && part.start == 0 },
        Gso::Tcp6 { ecn } => Gso::Tcp6 { ecn: ecn && part.start == 0 },
        Gso::None | Gso::Udp => Gso::None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;
    use crate::frame::{
        segment,
        testing::{ACK, CWR, FIN, PSH, Protocol, Recipe, SYN, URG, Wire, read_sound, recipe},
    };

    fn segments(offload: Offload, frame: &[u8]) -> Vec<Vec<u8>> {
        let checked = describe(offload, frame, frame.len()).unwrap();
        let mut segments = Vec::new();
        segment(&checked, frame, &mut Vec::new(), |frame| segments.push(frame.to_vec())).unwrap();
        segments
    }

    /// The run `start..end` of the payload as a frame.
    fn salvage(
        template: &Template<'_>,
        frame: &[u8],
        start: usize,
        end: usize,
    ) -> (Offload, Vec<u8>) {
        let headers_len = template.headers_len();
        let (start, end) = (headers_len + start, headers_len + end);
        let mut run = vec![0xee; 7];
        let offload = template.run(start, end, &mut run).unwrap();
        run.extend_from_slice(&frame[start..end]);
        (offload, run)
    }

    fn tcp() -> impl Strategy<Value = Recipe> {
        recipe().prop_map(|recipe| Recipe {
            protocol: Protocol::Tcp,
            flags: recipe.flags & (ACK | PSH | FIN | CWR),
            ..recipe
        })
    }

    #[test]
    fn a_run_of_one_segment_is_a_plain_frame() {
        let (offload, frame) = Recipe::tcp4(3_000, 1_000).build();
        let template = Template::new(offload, &frame, frame.len()).unwrap();
        let (run, _) = salvage(&template, &frame, 1_000, 2_000);
        assert_eq!(run, Offload { gso: Gso::None, gso_size: 0, ..offload });
        let (run, _) = salvage(&template, &frame, 1_000, 2_001);
        assert_eq!(run, offload);
    }

    #[test]
    fn congestion_window_reduced_stays_with_the_first_byte() {
        let recipe = Recipe { flags: ACK | CWR, ..Recipe::tcp4(4_000, 1_000) };
        let (offload, frame) = recipe.build();
        let template = Template::new(offload, &frame, frame.len()).unwrap();
        assert_eq!(salvage(&template, &frame, 0, 2_000).0.gso, Gso::Tcp4 { ecn: true });
        let (offload, run) = salvage(&template, &frame, 2_000, 4_000);
        assert_eq!(offload.gso, Gso::Tcp4 { ecn: false });
        assert!(segments(offload, &run).iter().all(|s| read_sound(s).flags & CWR == 0));
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let refused = |recipe: Recipe| {
            let (offload, frame) = recipe.build();
            // As a plain frame, since a superframe with SYN does not pass the check.
            let offload = Offload { gso: Gso::None, gso_size: 0, ..offload };
            Template::new(offload, &frame, frame.len()).err()
        };
        let tcp = Recipe::tcp4(3_000, 1_000);
        assert_eq!(refused(tcp.clone()), None);
        for flags in [ACK | URG, SYN, 0x04] {
            assert_eq!(refused(Recipe { flags, ..tcp.clone() }), Some(DropReason::Incomplete));
        }
        let udp = Recipe { protocol: Protocol::Udp, ..tcp.clone() };
        assert_eq!(refused(udp), Some(DropReason::Incomplete));
        let (_, frame) = tcp.build();
        let complete = Template::new(Offload::NONE, &frame, frame.len());
        assert_eq!(complete.err(), Some(DropReason::Incomplete));
        let (offload, frame) = tcp.build();
        let cut_short = Template::new(offload, &frame[..50], frame.len());
        assert_eq!(cut_short.err(), Some(DropReason::BadOffload));
    }

    #[test]
    fn runs_outside_the_payload_are_refused() {
        let (offload, frame) = Recipe::tcp4(3_000, 1_000).build();
        let template = Template::new(offload, &frame, frame.len()).unwrap();
        let (first, last) = (template.headers_len(), frame.len());
        let mut out = Vec::new();
        for (start, end) in [(first - 1, last), (first, last + 1), (last, last), (99, 98)] {
            assert_eq!(template.run(start, end, &mut out), Err(DropReason::Incomplete));
        }
        assert!(template.run(first, last, &mut out).is_ok());
    }

    proptest! {
        #[test]
        fn the_whole_as_one_run_is_the_superframe(recipe in tcp()) {
            let (offload, frame) = recipe.build();
            let template = Template::new(offload, &frame, frame.len()).unwrap();
            let (run_offload, run) = salvage(&template, &frame, 0, recipe.payload_len);
            prop_assert_eq!(&run, &frame);
            prop_assert_eq!(run_offload, template.what.offload());
        }

        /// The template alone, as it comes in a piece, is enough.
        #[test]
        fn aligned_runs_are_the_same_on_the_wire(
            recipe in tcp(), first in any::<Index>(), count in any::<Index>(),
        ) {
            let (offload, frame) = recipe.build();
            let whole = segments(offload, &frame);
            let first = first.index(whole.len());
            let end = first + 1 + count.index(whole.len() - first);
            let headers_len = frame.len() - recipe.payload_len;
            let template = Template::new(offload, &frame[..headers_len], frame.len()).unwrap();
            let gso_size = usize::from(recipe.gso_size);
            let (start_at, end_at) = (first * gso_size, (end * gso_size).min(recipe.payload_len));
            let (run_offload, run) = salvage(&template, &frame, start_at, end_at);
            prop_assert_eq!(&segments(run_offload, &run)[..], &whole[first..end]);
        }

        #[test]
        fn unaligned_runs_agree_with_the_stream(
            recipe in tcp(), a in any::<Index>(), b in any::<Index>(), plain in any::<bool>(),
        ) {
            let (mut offload, frame) = recipe.build();
            if plain {
                offload = Offload { gso: Gso::None, gso_size: 0, ..offload };
            }
            let template = Template::new(offload, &frame, frame.len()).unwrap();
            let (a, b) = (a.index(recipe.payload_len), b.index(recipe.payload_len));
            let (start, end) = (a.min(b), a.max(b) + 1);
            let (run_offload, run) = salvage(&template, &frame, start, end);
            let payload = recipe.payload();
            let mut at = start;
            for bytes in segments(run_offload, &run) {
                let Wire { sequence, flags, payload: carried, .. } = read_sound(&bytes);
                prop_assert_eq!(sequence, recipe.sequence.wrapping_add(at as u32));
                prop_assert_eq!(&carried[..], &payload[at..at + carried.len()]);
                let mut expected = recipe.flags;
                if at > 0 {
                    expected &= !CWR;
                }
                at += carried.len();
                if at < payload.len() {
                    expected &= !(FIN | PSH);
                }
                prop_assert_eq!(flags, expected);
            }
            prop_assert_eq!(at, end);
        }
    }
}
