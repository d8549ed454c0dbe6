//! Loss salvage: the runs of a TCP frame that arrived, each as a frame of its own.
//!
//! Any contiguous run of a TCP superframe's payload is a legal segment, so a lost piece costs the bytes in it and no
//! more. The headers (the template) arrive several times over; a run's headers are the template's with sequence
//! number, lengths, identification and flags of the run. The TCP checksum stays partial: the run is a superframe, or a
//! plain frame that needs its checksum, like what the kernel made.
//!
//! The IPv4 identification of a run is that of the segment in which it starts. A run that starts inside a segment
//! shares the number with it; the other part of that segment is lost or is in no other frame, and with DF set (RFC 6864,
//! Linux's default for TCP) the number means nothing. A frame that was no superframe keeps its number.

use super::{
    CheckedOffload, Gso, IpHeaders, Offload, Transport, check_offload,
    checksum::fold,
    headers::Fragment,
    rewrite::{Part, TCP_CHECKSUM, TCP_FLAGS, put_u16, rewrite_headers, tcp_flag},
};
use crate::drops::DropReason;

/// The headers of a TCP frame with holes.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    checked: CheckedOffload,
    ip: IpHeaders,
    headers: &'a [u8],
}

impl<'a> Template<'a> {
    /// Reads the template of a frame of `total_len` bytes: its bytes from the destination MAC to the end of the TCP
    /// header at least.
    ///
    /// # Errors
    /// [`DropReason::Incomplete`] if the frame cannot be cut: not TCP, its checksum not partial, a fragment, padded, or
    /// with SYN, RST or URG. [`check_offload`]'s errors if offload and headers contradict each other.
    pub fn new(offload: Offload, headers: &'a [u8], total_len: usize) -> Result<Self, DropReason> {
        let checked = check_offload(offload, headers, total_len)?;
        let ip = checked.headers().ip.ok_or(DropReason::Incomplete)?;
        let Transport::Tcp { .. } = ip.transport else { return Err(DropReason::Incomplete) };
        let headers =
            headers.get(..usize::from(checked.headers().end())).ok_or(DropReason::Incomplete)?;
        let flags = headers[usize::from(ip.l4_start) + TCP_FLAGS];
        let is_cuttable = offload.needs_csum
            && offload.csum_start == ip.l4_start
            && offload.csum_offset == TCP_CHECKSUM
            && ip.fragment == Fragment::Whole
            && ip.end as usize == total_len
            && flags & (tcp_flag::SYN | tcp_flag::RST | tcp_flag::URG) == 0;
        if !is_cuttable {
            return Err(DropReason::Incomplete);
        }
        Ok(Self { checked, ip, headers })
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
        let (headers_len, total_len) = (self.headers.len(), self.checked.total_len());
        if start < headers_len || start >= end || end > total_len {
            return Err(DropReason::Incomplete);
        }
        let whole = self.checked.offload();
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
        let pseudo = rewrite_headers(out, &self.checked, &self.ip, part);
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
