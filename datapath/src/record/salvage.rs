//! Loss salvage: an incomplete TCP frame's runs, each delivered as a segment of its own.
//!
//! How the headers of a run are made is [`Template`]'s business. Here the runs are found among the pieces, and the
//! headers in a piece that carried them, or at the start of the frame if that arrived. They are kept with the frame: more of it may come.

use bytes::{Buf, Bytes};

use crate::frame::{MAX_HEADERS_LEN, Offload, Template};

use super::{
    arena::Arena,
    partial::{Partial, gather_head},
};

/// Buffers that salvage uses again and again.
#[derive(Debug, Default)]
pub(super) struct Salvager {
    headers: Vec<u8>,
    run_headers: Vec<u8>,
    run: Vec<Bytes>,
}

impl Salvager {
    /// Delivers every run of the frame that was not yet delivered, in order; gives their number: 0 if the frame is not TCP or its
    /// headers have not come.
    pub(super) fn salvage(
        &mut self,
        partial: &mut Partial,
        heads: &mut Arena,
        mut deliver: impl FnMut(Offload, &mut Vec<Bytes>),
    ) -> u64 {
        let Some(shape) = partial.shape else { return 0 };
        self.find_headers(partial);
        let Ok(template) = Template::new(shape.offload, &self.headers, shape.total_len) else {
            return 0;
        };
        partial.keep_template(&self.headers[..template.headers_len()]);
        let mut runs = 0;
        let mut from = 0;
        while let Some(run) = partial.run(from) {
            from = run.pieces.end;
            let start = run.bytes.start.max(template.headers_len());
            let Ok(offload) = template.run(start, run.bytes.end, &mut self.run_headers) else {
                continue;
            };
            let Ok(headers) = heads.copy(&self.run_headers) else { continue };
            self.run.push(headers);
            let mut skip = start - run.bytes.start;
            for piece in run.pieces {
                let mut payload = partial.take(piece);
                let skipped = skip.min(payload.len());
                skip -= skipped;
                if skipped < payload.len() {
                    payload.advance(skipped);
                    self.run.push(payload);
                }
            }
            gather_head(&mut self.run, heads);
            deliver(offload, &mut self.run);
            self.run.clear();
            runs += 1;
        }
        runs
    }

    fn find_headers(&mut self, partial: &mut Partial) {
        self.headers.clear();
        self.headers.extend_from_slice(&partial.template);
        let Some(run) = partial.run(0).filter(|run| run.bytes.start == 0) else { return };
        if self.headers.is_empty() {
            for piece in &partial.pieces()[run.pieces] {
                let len = piece.len().min(MAX_HEADERS_LEN - self.headers.len());
                self.headers.extend_from_slice(&piece[..len]);
            }
        }
    }
}
