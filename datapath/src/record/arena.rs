//! Buffers that are cut into [`Bytes`] and used again once every cut is gone.
//!
//! A chunk is filled from its start; [`Arena::take`] cuts off what was written. A full chunk is
//! retired and comes back when nobody holds a cut of it any more: the newest such chunk first, since its lines are the
//! likeliest to be in the cache still. In steady state nothing is allocated: `bytes` keeps a chunk's reference count
//! for the chunk's life.

use bytes::{Bytes, BytesMut};

/// What to do when every chunk is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WhenFull {
    /// Refuse: the arena is the bound.
    Refuse,
    /// Give the oldest chunk up to its holders and allocate another: the holders are bounded elsewhere.
    Replace,
}

/// Every chunk is still held by someone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Exhausted;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Arena {
    current: BytesMut,
    /// Full chunks as empty handles, the oldest first.
    retired: Vec<BytesMut>,
    /// How many chunks are known to the arena: the current one and the retired ones.
    chunks: usize,
    chunk_len: usize,
    chunks_max: usize,
    when_full: WhenFull,
}

impl Arena {
    /// An arena of up to `chunks_max` chunks; the first is allocated when it is needed.
    pub(crate) fn new(chunk_len: usize, chunks_max: usize, when_full: WhenFull) -> Self {
        Self {
            current: BytesMut::new(),
            retired: Vec::with_capacity(chunks_max),
            chunks: 0,
            chunk_len,
            chunks_max,
            when_full,
        }
    }

    /// Sees to it that `len` bytes can be written in one piece; `len` is at most the chunk length, and nothing that
    /// was written may be waiting for [`Arena::take`].
    ///
    /// If nobody holds a cut of the current chunk, writing starts at its beginning again: a caller whose cuts are short-lived
    /// stays in a few cache lines.
    #[inline]
    pub(super) fn make_room(&mut self, len: usize) -> Result<(), Exhausted> {
        debug_assert!(self.current.is_empty() && len <= self.chunk_len);
        if self.current.try_reclaim(self.chunk_len) || self.current.capacity() >= len {
            return Ok(());
        }
        self.change_chunk()
    }

    /// Whether `len` more bytes can be written behind those that were not cut off yet.
    #[inline]
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.current.capacity() - self.current.len() >= len
    }

    /// What has been written and not cut off. Stays within the room that was made.
    #[inline]
    pub(super) fn open(&mut self) -> &mut BytesMut {
        &mut self.current
    }

    /// Bytes written and not cut off.
    #[inline]
    pub(super) fn open_len(&self) -> usize {
        self.current.len()
    }

    /// Cuts off the first `len` bytes of what has been written.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Bytes {
        self.current.split_to(len).freeze()
    }

    /// Copies into the arena.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Result<Bytes, Exhausted> {
        self.make_room(bytes.len())?;
        self.current.extend_from_slice(bytes);
        Ok(self.take(bytes.len()))
    }

    /// How many chunks there are, free ones included.
    #[cfg(test)]
    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    #[cold]
    fn change_chunk(&mut self) -> Result<(), Exhausted> {
        let chunk_len = self.chunk_len;
        if let Some(free) = self.retired.iter_mut().rposition(|chunk| chunk.try_reclaim(chunk_len))
        {
            // The retired list stays ordered by age: the current chunk is the youngest.
            let free = self.retired.remove(free);
            let full = std::mem::replace(&mut self.current, free);
            self.retired.push(full);
            return Ok(());
        }
        if self.chunks >= self.chunks_max {
            if self.when_full == WhenFull::Refuse {
                return Err(Exhausted);
            }
            // The current chunk is full as well, and the youngest: it takes the place of the oldest.
            if !self.retired.is_empty() {
                self.retired.remove(0);
            }
            self.chunks -= 1;
        }
        let full = std::mem::replace(&mut self.current, BytesMut::with_capacity(chunk_len));
        if self.chunks > 0 {
            self.retired.push(full);
        }
        self.chunks += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_that_are_dropped_at_once_stay_at_the_chunks_start() {
        let mut arena = Arena::new(1_000, 2, WhenFull::Refuse);
        let at = arena.copy(&[1; 600]).unwrap().as_ptr();
        for _ in 0..10 {
            assert_eq!(arena.copy(&[2; 600]).unwrap().as_ptr(), at);
        }
    }

    #[test]
    fn a_refusing_arena_is_a_bound_and_recovers() {
        let mut arena = Arena::new(1_000, 3, WhenFull::Refuse);
        let mut held: Vec<_> = (0..3).map(|n| arena.copy(&[n; 600]).unwrap()).collect();
        assert_eq!(arena.copy(&[9; 600]), Err(Exhausted));
        // The rest of the last chunk is still good for less.
        assert_eq!(arena.copy(&[9; 400]).unwrap(), [9; 400].as_slice());
        let freed = held.remove(1).as_ptr();
        assert_eq!(arena.copy(&[7; 600]).unwrap().as_ptr(), freed);
        assert!(held[0].iter().all(|byte| *byte == 0) && held[1].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn a_replacing_arena_never_refuses_nor_touches_what_is_held() {
        let mut arena = Arena::new(1_000, 2, WhenFull::Replace);
        let held: Vec<_> = (0..50_u8).map(|n| arena.copy(&[n; 600]).unwrap()).collect();
        for (n, bytes) in held.iter().enumerate() {
            assert!(bytes.iter().all(|byte| usize::from(*byte) == n));
        }
        assert!(arena.retired.len() < 2);
    }
}
