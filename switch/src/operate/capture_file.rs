//! Where a capture is written: by a thread of its own, so that a slow disk holds up the stream no more than it has to.
//!
//! A file is written with io_uring (tokio-uring) where the host allows that; a pipe, and a file elsewhere, plainly. What is handed over ends where a block
//! ends, and a file that cannot be written on is cut there, so that it can be read whatever happens.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::exit::{ExitCode, Failure};

/// Chunks of the stream that may wait.
const CHUNKS: usize = 64;

/// A capture that is being written.
pub(super) struct CaptureFile {
    name: PathBuf,
    chunks: Sender<Vec<u8>>,
    writer: JoinHandle<io::Result<()>>,
}

impl CaptureFile {
    /// A file; what is there is written over.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let made = File::create(path).and_then(|file| Ok((file.metadata()?.is_file(), file)));
        let (is_file, file) = made.map_err(|error| failure(path, error))?;
        Self::start(path, move |chunks| {
            if is_file { write_to_file(&file, chunks) } else { write_plainly(file, chunks) }
        })
    }

    /// Standard output.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn output() -> Result<Self, Failure> {
        let path = Path::new("standard output");
        Self::start(path, |chunks| write_plainly(io::stdout().lock(), chunks))
    }

    fn start(
        name: &Path,
        write: impl FnOnce(&Receiver<Vec<u8>>) -> io::Result<()> + Send + 'static,
    ) -> Result<Self, Failure> {
        let (chunks, waiting) = bounded(CHUNKS);
        let thread = thread::Builder::new().name("capture".into());
        let writer = thread.spawn(move || write(&waiting)).map_err(|error| failure(name, error))?;
        Ok(Self { name: name.into(), chunks, writer })
    }

    /// Adds whole blocks.
    ///
    /// # Errors
    /// When nothing can be written any more; [`Self::finish`] says why.
    pub(super) fn write(&self, blocks: Vec<u8>) -> Result<(), Failure> {
        let text = "the capture cannot be written on";
        let gone = |_| Failure::new(ExitCode::Failed, anyhow::anyhow!(text));
        self.chunks.send(blocks).map_err(gone)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When not all of it could be written.
    pub(super) fn finish(self) -> Result<(), Failure> {
        drop(self.chunks);
        let written = self.writer.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        written.map_err(|error| failure(&self.name, error))
    }
}

fn failure(name: &Path, error: io::Error) -> Failure {
    let code = ExitCode::of(error.kind());
    let text = format!("cannot write the capture to {}", name.display());
    Failure { code, error: anyhow::Error::new(error).context(text) }
}

fn write_to_file(file: &File, chunks: &Receiver<Vec<u8>>) -> io::Result<()> {
    match tokio_uring::Runtime::new(&tokio_uring::builder()) {
        Ok(runtime) => runtime.block_on(write_with_uring(file, chunks)),
        // This host does not let its users have io_uring.
        Err(_) => write_to_file_plainly(file, chunks),
    }
}

/// Nothing else runs on this thread: it may wait for a chunk.
async fn write_with_uring(file: &File, chunks: &Receiver<Vec<u8>>) -> io::Result<()> {
    let on_ring = tokio_uring::fs::File::from_std(file.try_clone()?);
    let mut position = 0;
    let mut written = Ok(());
    for chunk in chunks {
        let len = chunk.len() as u64;
        written = on_ring.write_all_at(chunk, position).await.0;
        if written.is_err() {
            break;
        }
        position += len;
    }
    on_ring.close().await?;
    cut(file, position, written)
}

fn write_to_file_plainly(mut file: &File, chunks: &Receiver<Vec<u8>>) -> io::Result<()> {
    let mut position = 0;
    for chunk in chunks {
        let written = file.write_all(&chunk);
        if written.is_err() {
            return cut(file, position, written);
        }
        position += chunk.len() as u64;
    }
    Ok(())
}

/// Leaves whole blocks alone in a file that could not be written on.
fn cut(file: &File, position: u64, written: io::Result<()>) -> io::Result<()> {
    written.inspect_err(|_| {
        // The first error is the one to tell of.
        let _ = file.set_len(position);
    })
}

fn write_plainly(mut out: impl Write, chunks: &Receiver<Vec<u8>>) -> io::Result<()> {
    for chunk in chunks {
        out.write_all(&chunk)?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: fn(&File, &Receiver<Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.pcapng");
        let (sender, chunks) = bounded(CHUNKS);
        let chunk = |n: u8| vec![n; 1_000 * usize::from(n)];
        (1..5).for_each(|n| sender.send(chunk(n)).unwrap());
        drop(sender);
        write(&File::create(&path).unwrap(), &chunks).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert_eq!(written, (1..5).flat_map(chunk).collect::<Vec<_>>());
        written
    }

    #[test]
    fn both_ways_of_writing_make_the_same_file() {
        assert_eq!(written(write_to_file), written(write_to_file_plainly));
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let error = CaptureFile::create("/nonexistent/it.pcapng".as_ref()).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/it.pcapng"), "{error}");
    }

    #[test]
    fn a_full_disk_is_an_error_that_says_so() {
        let file = CaptureFile::create("/dev/full".as_ref()).unwrap();
        let _ = file.write(vec![1; 10]);
        let error = file.finish().unwrap_err().to_string();
        assert!(error.contains("/dev/full") && error.contains("No space left"), "{error}");
    }
}
