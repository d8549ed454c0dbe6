//! The engine: one thread a worker.
//!
//! [`Worker`] goes round: it feeds the pure [`crate::core::Core`] what a [`Backend`] brings and has that carry out what the core asks for. `mail` is
//! what comes from other threads. [`Uring`] is the backend that there is: io_uring, one ring a thread.

mod backend;
mod mail;
mod round;
#[allow(unsafe_code, reason = "the kernel reads and writes buffers of its ring's operations")]
mod uring;

pub use self::{
    backend::{Backend, Completed, LocalQueue, NotWritten, Parts, TapQueue},
    mail::{Doorbell, Order, Outbox, WorkerHandle},
    round::{Worker, WorkerConfig},
    uring::Uring,
};
