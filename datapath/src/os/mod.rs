//! The kernel's side: TAP devices, UDP sockets, control messages. The only modules, with the ring, that see file descriptors and hold `unsafe` code.

pub mod interface;
pub mod tap;
pub mod udp;

use std::{fmt, io};

/// A system call that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub struct OsError {
    /// What was tried, for the operator.
    pub action: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
    /// What to do about it; empty if nothing sensible can be said.
    pub hint: &'static str,
}

impl OsError {
    /// A system call that was made elsewhere.
    pub fn failed(action: &str, source: io::Error) -> Self {
        Self::new(action, source)
    }

    /// Whether the kernel lacks the address family.
    pub fn is_address_family(&self) -> bool {
        self.errno() == libc::EAFNOSUPPORT
    }

    pub(crate) fn new(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { action: action.into(), source: source.into(), hint: "" }
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
        self.source.raw_os_error().unwrap_or(0)
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.action, self.source)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " ({})", self.hint) }
    }
}
