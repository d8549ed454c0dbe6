//! The kernel's side: TAP devices, UDP sockets, control messages. The only modules, with the ring, that see file descriptors and hold `unsafe` code.

mod address;
mod bridge;
pub mod bridge_host;
pub mod interface;
pub mod neighbours;
mod netlink;
pub mod network;
pub mod peer_groups;
pub mod tap;
mod trial;
pub mod udp;

use std::{
    fmt, io,
    time::{Duration, Instant},
};

/// How long something may be in use by a program that is dead: the kernel lets go of what an io_uring had open a moment after its program has
/// ended, and notices within a second that nobody has a TAP open any more (its link watch).
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

/// A system call that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub struct OsError {
    /// What was tried, for the operator.
    pub action: String,
    /// The kernel's answer. It stands in the text, so it is not told as the source too.
    pub cause: io::Error,
    /// What to do about it; empty if nothing sensible can be said.
    pub hint: &'static str,
}

impl OsError {
    /// A system call that was made elsewhere.
    pub fn failed(action: &str, cause: io::Error) -> Self {
        Self::new(action, cause)
    }

    /// Whether the kernel lacks the address family.
    pub fn is_address_family(&self) -> bool {
        self.errno() == libc::EAFNOSUPPORT
    }

    pub(crate) fn new(action: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { action: action.into(), cause: cause.into(), hint: "" }
    }

    pub(crate) fn last(action: impl Into<String>) -> Self {
        Self::new(action, io::Error::last_os_error())
    }

    pub(crate) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    /// The kernel's number.
    pub fn errno(&self) -> i32 {
        self.cause.raw_os_error().unwrap_or(0)
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.action, self.cause)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " ({})", self.hint) }
    }
}

/// Repeats what is refused because something is in use, so that a switch may be started as soon as its predecessor was killed.
pub(crate) fn once_released<T>(
    mut attempt: impl FnMut() -> Result<T, OsError>,
) -> Result<T, OsError> {
    let deadline = Instant::now() + RELEASED_WITHIN;
    loop {
        match attempt() {
            Err(error)
                if matches!(error.errno(), libc::EBUSY | libc::EADDRINUSE)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(RELEASED_WITHIN / 100);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn the_kernels_answer_is_told_once() {
        let error = OsError::new("cannot use lo as a TAP device", io::ErrorKind::InvalidInput);
        let whole = error.hint("it is none");
        assert_eq!(
            whole.to_string(),
            "cannot use lo as a TAP device: invalid input parameter (it is none)"
        );
        assert!(whole.source().is_none());
    }
}
