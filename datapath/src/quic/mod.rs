//! QUIC as the tunnel uses it: identities, connection ids, transport settings, congestion control.
//!
//! Everything here is configuration for `quinn-proto`; the connections themselves are driven in `tunnel`.

pub mod cid;
pub mod controller;
pub mod tls;
pub mod transport;

pub use cid::{CidKey, InitialKey};
pub use controller::{Congestion, TunnelHealth};
pub use tls::TlsIdentity;

pub use crate::tunnel::explain;
