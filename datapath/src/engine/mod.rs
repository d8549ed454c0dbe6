//! The io_uring engine: one thread a worker, one ring a thread.
//!
//! [`Worker`] feeds the pure [`crate::core::Core`] what its ring completes and carries out what the core asks for. Each file holds one kind of
//! operation: [`ring`] the ring itself, `receive` UDP in, `send` UDP out, `tap` frames to and from the TAPs, `mail` frames between workers.

mod mail;
mod receive;
pub mod ring;
mod send;
mod tap;
mod worker;

pub use mail::{Doorbell, Order, WorkerHandle};
pub use tap::TapQueue;
pub use worker::{Worker, WorkerConfig};
