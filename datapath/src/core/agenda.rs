//! The connections that are to be driven when the round ends.

use std::collections::{VecDeque, vec_deque};

use quinn_proto::ConnectionHandle;

/// The connections that something happened to in this round, each once.
#[derive(Default)]
pub(super) struct Agenda {
    /// Each once, in the order in which they were put down.
    handles: VecDeque<ConnectionHandle>,
    /// Whether it is among them, by [`ConnectionHandle`].
    is_listed: Vec<bool>,
}

impl Agenda {
    /// Puts a connection down, if it is not there already.
    pub(super) fn add(&mut self, handle: ConnectionHandle) {
        if self.is_listed.len() <= handle.0 {
            self.is_listed.resize(handle.0 + 1, false);
        }
        if !std::mem::replace(&mut self.is_listed[handle.0], true) {
            self.handles.push_back(handle);
        }
    }

    /// Takes the one that has been there for longest.
    pub(super) fn next(&mut self) -> Option<ConnectionHandle> {
        let handle = self.handles.pop_front()?;
        self.is_listed[handle.0] = false;
        Some(handle)
    }

    /// Strikes a connection that is gone.
    pub(super) fn remove(&mut self, handle: ConnectionHandle) {
        if self.is_listed.get_mut(handle.0).is_some_and(std::mem::take) {
            self.handles.retain(|listed| *listed != handle);
        }
    }

    /// All that are there.
    pub(super) fn iter(&self) -> vec_deque::Iter<'_, ConnectionHandle> {
        self.handles.iter()
    }
}
