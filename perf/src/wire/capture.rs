//! A capture file of what a wire delivers (pcap with nanoseconds, both directions in one file).
//!
//! The wire must not wait for a disk: it collects packets in chunks and hands them over a bounded queue to a thread
//! that writes them with tokio-uring. When the queue is full, packets are left out of the file, and counted.

use std::{mem, path::Path, thread, time::Duration};

use anyhow::{Context, Result, anyhow};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Packets are handed over in chunks of about so many bytes; a quiet wire hands over what there is.
const CHUNK_LEN: usize = 256 << 10;
/// Chunks that may wait: 16 MiB in all.
const QUEUED_CHUNKS: usize = 64;

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const SNAP_LEN: u32 = 65_535;
const LINKTYPE_ETHERNET: u32 = 1;

/// The wire's end of a capture.
#[derive(Debug)]
pub(super) struct Capture {
    chunk: Vec<u8>,
    chunks: Option<mpsc::Sender<Vec<u8>>>,
    writer: Option<thread::JoinHandle<Result<()>>>,
    dropped: u64,
}

impl Capture {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let (chunks, queue) = mpsc::channel(QUEUED_CHUNKS);
        let path = path.to_owned();
        // Made here, so that a file that can't be made stops the wire from starting.
        std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let write = move || {
            write(&path, queue).with_context(|| format!("writing the capture {}", path.display()))
        };
        let writer = thread::Builder::new().name("capture".into()).spawn(write)?;
        let chunk = file_header();
        Ok(Self { chunk, chunks: Some(chunks), writer: Some(writer), dropped: 0 })
    }

    /// Adds a packet; `at` is since the epoch.
    pub(super) fn packet(&mut self, at: Duration, frame: &[u8]) {
        if self.chunk.len() >= CHUNK_LEN {
            self.hand_over();
        }
        if self.chunk.len() >= CHUNK_LEN {
            self.dropped += 1;
            return;
        }
        let captured = frame.len().min(SNAP_LEN as usize);
        let fields = [at.as_secs() as u32, at.subsec_nanos(), captured as u32, frame.len() as u32];
        fields.iter().for_each(|field| self.chunk.extend_from_slice(&field.to_le_bytes()));
        self.chunk.extend_from_slice(&frame[..captured]);
    }

    /// Lets the writer have what there is: to be called when the wire has nothing to do.
    pub(super) fn hand_over(&mut self) {
        let Some(chunks) = &self.chunks else { return };
        if self.chunk.is_empty() {
            return;
        }
        match chunks.try_send(mem::take(&mut self.chunk)) {
            Ok(()) => {}
            Err(TrySendError::Full(chunk)) => self.chunk = chunk,
            // The writer has failed; `finish` says how.
            Err(TrySendError::Closed(_)) => self.chunks = None,
        }
    }

    /// Packets that were left out.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes what is left and closes the file.
    pub(super) fn finish(mut self) -> Result<()> {
        if let Some(chunks) = self.chunks.take() {
            // Now there is time to wait. An error means that the writer is gone, and its result says why.
            let _ = chunks.blocking_send(mem::take(&mut self.chunk));
        }
        let Some(writer) = self.writer.take() else { return Ok(()) };
        writer.join().map_err(|_| anyhow!("the capture's writer panicked"))?
    }
}

fn write(path: &Path, mut queue: mpsc::Receiver<Vec<u8>>) -> Result<()> {
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .context("starting io_uring (see kernel.io_uring_disabled)")?;
    runtime.block_on(async {
        let file = tokio_uring::fs::File::create(path).await?;
        let mut position = 0;
        while let Some(chunk) = queue.recv().await {
            let len = chunk.len() as u64;
            file.write_all_at(chunk, position).await.0?;
            position += len;
        }
        Ok(file.close().await?)
    })
}

fn file_header() -> Vec<u8> {
    const VERSION: u32 = 2 | 4 << 16;
    let fields = [MAGIC_NANOSECONDS, VERSION, 0, 0, SNAP_LEN, LINKTYPE_ETHERNET];
    fields.iter().flat_map(|field| field.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_end_up_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wire.pcap");
        let mut capture = Capture::create(&path).unwrap();
        capture.packet(Duration::new(5, 6), b"first");
        capture.hand_over();
        capture.packet(Duration::new(7, 8), b"second!");
        assert_eq!(capture.dropped(), 0);
        capture.finish().unwrap();
        let file = std::fs::read(&path).unwrap();
        let packet = |at: [u8; 2], bytes: &[u8]| {
            let len = bytes.len() as u8;
            let head = [at[0], 0, 0, 0, at[1], 0, 0, 0, len, 0, 0, 0, len, 0, 0, 0];
            [&head[..], bytes].concat()
        };
        let expected =
            [file_header(), packet([5, 6], b"first"), packet([7, 8], b"second!")].concat();
        assert_eq!(file, expected);
        assert_eq!(file.len(), 24 + 16 + 5 + 16 + 7);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error_at_once() {
        let error = Capture::create(Path::new("/nonexistent/wire.pcap")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/wire.pcap"), "{error}");
    }
}
