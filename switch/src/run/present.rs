//! Who is up, in the state directory, for `ipop-switch trust list`: written when it changes, once a second at most.

use std::{fs, path::Path};

use ipop_control::{
    node::Node,
    trust::{PresentPeers, StateFile},
};

/// The file of the peers that are up, and what stands in it.
pub(super) struct Presence {
    file: StateFile<PresentPeers>,
    /// Says that the file holds, while this program lives.
    held: Option<fs::File>,
    written: Option<PresentPeers>,
}

impl Presence {
    pub(super) fn new(state: &Path) -> Self {
        Self { file: StateFile::in_directory(state), held: None, written: None }
    }

    /// Writes down who is up, if that is not what was written last.
    pub(super) fn follow(&mut self, node: &mut Node) {
        if self.held.is_none() {
            // Somebody may just ask whether it is held.
            self.held = self.file.hold().ok();
        }
        if self.held.is_none() {
            return;
        }
        let Some(present) = node.take_present() else { return };
        if self.written.as_ref() == Some(&present) {
            return;
        }
        if let Err(error) = self.file.store(&present) {
            tracing::debug!("`ipop-switch trust list` does not show who is up: {error}");
        }
        self.written = Some(present);
    }
}
